/*
 * build_size.c - the arithmetic of memory and disk. Pure and thread-safe.
 *
 * Products fit u64: at most 2^32 rows of a few 10^4 bytes each.
 */
#include "builder/build_size.h"

#include <math.h>
#include <string.h>

#include "builder/attribute_write.h"
#include "builder/encode.h"
#include "builder/hot_list.h"
#include "builder/key_index.h"
#include "builder/merge.h"
#include "builder/navigation_build.h"
#include "builder/query_sample.h"
#include "builder/scan.h"
#include "builder/shard_graph.h"
#include "builder/shard_write.h"
#include "common/codec_choose.h"
#include "common/memory.h"
#include "layout/block_walk.h"
#include "layout/keys.h"

enum {
    MIB = 1 << 20,
    /* The program with its libraries is 6 MiB; malloc keeps some of what was freed. */
    PROGRAM_BYTES = 16 * MIB,
    /* A thread's touched stack (f32 rows of 8192 elements) and its share of malloc's arenas. */
    THREAD_BYTES = MIB,
    SEEN_BYTES = 32 * 1024, /* a search's set of scored nodes */
    VISITED_PER_LIST = 8,   /* a search's room for expansions, in units of its list */
    CANDIDATE_BYTES = 8,
    PACK_BATCH_BYTES = MIB, /* pack_internal.h: the choices of a batch of rows */
    PQ_CENTROIDS = 256,
    SCALAR_FLOATS_PER_DIM = 5,             /* the mean, signs of four rounds */
    STREAMS_BYTES = 4 * WORK_BUFFER_BYTES, /* open pieces, read or written, and their records */
    SHARD_ROWS_MIN = 64,
    /* Of an engine that calibrates: BUILD_CALIBRATION_SLOTS slots a thread, with the frontier and
     * sets of a list of 1024; read buffers; a query's parameters and stack of answers. */
    CALIBRATION_SLOT_BYTES = 128 * 1024,
    CALIBRATION_BUFFERS = BUILD_CALIBRATION_SLOTS + 128,
    CALIBRATION_QUERY_BYTES = 512,
};

/* Room over the mean: what balancing leaves, and how uneven borders are. */
#define OWN_SLACK      1.1
#define BORROWED_SLACK 1.5

/* All a size depends on. */
struct size_input {
    uint64_t count;
    uint64_t dim;
    uint64_t packed_bytes; /* of a row */
    uint64_t stride_bytes; /* of a row in RAM, as vector_set.c has it, with its scalar */
    uint64_t record_bytes; /* of a row in a partition file */
    uint64_t navigation_count;
    uint64_t degree;
    uint64_t code_bytes;
    uint64_t block_bytes;
    uint64_t threads;
    const struct build_params *params;
    const struct vector_shape *shape;
};

/* Bytes of a code. */
static uint32_t code_bytes_of(const struct build_params *params, const struct vector_shape *shape)
{
    if (params->codec != CODEC_SCALAR)
        return MIN(params->code_bytes, shape->dim);
    return params->code_bytes != 0 ? params->code_bytes
                                   : codec_scalar_code_bytes(shape->dim, params->metric, 4);
}

enum status build_code_bytes_resolve(struct build_params *params, const struct vector_shape *shape,
                                     struct error *err)
{
    const struct codec_params codec = {
        /* What auto may take has pq's sizes. */
        .kind = params->codec == CODEC_AUTO ? CODEC_PQ : params->codec,
        .metric = params->metric,
        .type = shape->type,
        .dim = shape->dim,
        .code_bytes = code_bytes_of(params, shape),
    };
    params->code_bytes = codec.code_bytes;
    return codec_code_bytes_check(&codec, err);
}

static struct size_input input_make(const struct build_params *params,
                                    const struct vector_shape *shape)
{
    uint64_t packed = element_vector_bytes(shape->type, shape->dim);
    uint64_t scalar = params->metric == METRIC_L2 ? 0 : sizeof(float);

    return (struct size_input){
        .count = shape->count,
        .dim = shape->dim,
        .packed_bytes = packed,
        .stride_bytes = size_align(packed, packed >= 48 ? 64 : 16) + scalar,
        .record_bytes = partition_own_record_bytes(shape, params->keys != NULL),
        .navigation_count =
            navigation_sample_count((uint32_t)shape->count, params->navigation_share),
        .degree = params->degree,
        .code_bytes = code_bytes_of(params, shape),
        .block_bytes = params->block_bytes,
        .threads = params->threads,
        .params = params,
        .shape = shape,
    };
}

static bool may_be_opq(const struct size_input *in)
{
    return in->params->codec == CODEC_OPQ || in->params->codec == CODEC_AUTO;
}

/* A matrix of axes, where opq finds them. */
static uint64_t axes_values(const struct size_input *in)
{
    uint64_t dim = in->dim + 1;
    return may_be_opq(in) && in->dim <= CODEC_TURN_DIM_MAX ? dim * dim : 0;
}

/* What opq's training has beside pq's: the transformed sample, covariance and axes in f64 with the
 * rows they are summed from, the codec's axes twice; codes and rows of the trial. */
static uint64_t opq_train_bytes(const struct size_input *in, uint64_t sample)
{
    uint64_t values = MIN(sample * (in->dim + 1), (uint64_t)MAX(1u << 26, 4096 * (in->dim + 1)));
    uint64_t trial = MIN(sample, (uint64_t)CODEC_CHOICE_ROWS_MAX);
    return values * sizeof(float) + sample * sizeof(double) +
           axes_values(in) * 2 * (sizeof(double) + sizeof(float)) +
           2 * 1024 * (in->dim + 16) * sizeof(float) + trial * (in->packed_bytes + in->code_bytes);
}

/* The sample with its views. PQ: each thread's subspace of it as f32 with k-means' labels,
 * distances and trial sums; centroids and their working copies. Scalar: mean and signs. */
static uint64_t train_bytes(const struct size_input *in)
{
    uint64_t sample = encode_sample_rows((uint32_t)in->count);
    uint64_t sample_bytes = sample * (in->packed_bytes + 16 + 4);
    if (in->params->codec == CODEC_SCALAR)
        return sample_bytes + SCALAR_FLOATS_PER_DIM * sizeof(float) * (in->dim + 1);
    uint64_t subspace_dim = (in->dim + in->code_bytes - 1) / in->code_bytes;
    uint64_t subspaces = MIN(in->threads, in->code_bytes);
    uint64_t floats = in->dim * sizeof(float);

    return sample_bytes + subspaces * sample * (subspace_dim * sizeof(float) + 32) +
           4 * PQ_CENTROIDS * floats + (may_be_opq(in) ? opq_train_bytes(in, sample) : 0);
}

/* ---- shards ---- */

uint32_t build_shards_max(uint64_t rows)
{
    /* Every shard's root may be stitched to one shard (merge.h), each to a row of its own. */
    uint64_t by_stitches = (uint64_t)sqrt((double)rows / 4.0);
    uint64_t most = MIN(rows / SHARD_ROWS_MIN, by_stitches);
    return (uint32_t)MAX(MIN(most, (uint64_t)PARTITION_SHARDS_MAX), (uint64_t)1);
}

static void shares_compute(const struct size_input *in, struct build_size *size)
{
    uint64_t n = in->count;
    double mean = (double)n / size->shard_count;
    if (size->shard_count == 1) {
        size->replication = 1.0;
        size->own_min = n;
        size->own_max = n;
        return;
    }
    size->replication = in->params->replication;
    double borrowed = BORROWED_SLACK * (size->replication - 1.0) * mean;
    size->own_min = n / size->shard_count / 4;
    size->own_max = (uint64_t)ceil(OWN_SLACK * mean);
    size->borrowed_max = MIN((uint64_t)ceil(borrowed), n - n / size->shard_count);
    size->lent_max = size->borrowed_max;
}

/* ---- memory ---- */

/* graph_build() of `rows` rows. */
static uint64_t graph_bytes_of(const struct size_input *in, enum graph_kind kind, uint64_t rows,
                               uint64_t degree)
{
    const struct graph_size size = {
        .kind = kind,
        .type = in->shape->type,
        .metric = in->params->metric,
        .count = rows,
        .dim = in->dim,
        .degree = degree,
        .threads = in->threads,
    };
    return graph_build_bytes(&size);
}

/* Loading, building, sampling for the hot list and spilling one shard. */
static uint64_t graph_bytes(const struct size_input *in, const struct build_size *size)
{
    uint64_t members = size->own_max + size->borrowed_max;
    uint64_t queries = MIN(in->count, (uint64_t)HOT_QUERIES_MAX);
    uint64_t visits = queries * (HOT_VISITS_MAX + 1) * sizeof(uint32_t);
    uint64_t spill =
        members * 3 * sizeof(uint32_t); /* less than the round's arrays, gone by then */
    uint64_t loading = size->borrowed_max * 5 * sizeof(uint32_t);
    uint64_t finished =
        members * (graph_row_bytes(in->params->graph, in->degree) + 1) + visits + spill;
    uint64_t build = MAX(graph_bytes_of(in, in->params->graph, members, in->degree), finished);
    return members * in->stride_bytes + size->borrowed_max * sizeof(uint32_t) +
           MAX(build, loading) + STREAMS_BYTES;
}

static uint64_t merge_bytes(const struct size_input *in, const struct build_size *size)
{
    uint64_t halo = size->lent_max * SHARD_GRAPH_HALO_PER_ROW;
    uint64_t rows = size->own_max + size->borrowed_max + halo + size->shard_count;
    return rows * in->stride_bytes + size->borrowed_max * 5 * sizeof(uint32_t) +
           halo * 6 * sizeof(uint32_t) + merge_batch_bytes(in->params->degree) +
           size->shard_count * (uint64_t)MERGE_LENDER_BYTES + STREAMS_BYTES;
}

/* The fewest records that a block is taken to hold: those with untrimmed lists of whole ids. */
static uint64_t block_records_least(const struct size_input *in)
{
    uint64_t record =
        in->packed_bytes + sizeof(uint64_t) + (in->degree + 2) * sizeof(uint32_t) + in->degree / 4;
    uint64_t block = MAX((uint64_t)BLOCK_PAGE_BYTES, (uint64_t)in->block_bytes);
    return MAX((uint64_t)1, (block - BLOCK_HEADER_BYTES - BLOCK_TAIL_BYTES) / record);
}

/* What assignment has for each row or block with lists of `degree`: in-edges with weights and where
 * they start; block, load, weight inside and three words of scratch. */
static uint64_t assignment_bytes(uint64_t degree)
{
    uint64_t near = MIN(degree, (uint64_t)PACK_NEAR);
    return near * (sizeof(uint32_t) + sizeof(uint8_t)) + sizeof(uint64_t) + 6 * sizeof(uint32_t);
}

/* Ordering the blocks of `rows` rows: rows by block; a graph of blocks, its assignment and ranks;
 * the same of its groups, at most a sixteenth. */
static uint64_t block_order_bytes(const struct size_input *in, uint64_t rows)
{
    uint64_t blocks = rows / block_records_least(in) + 1;
    uint64_t list = (PACK_NEAR + 1) * sizeof(uint32_t);
    uint64_t block = list + assignment_bytes(PACK_NEAR) + 4 * sizeof(uint32_t);
    return rows * sizeof(uint32_t) + blocks * (block + block / 16) + 2 * PACK_BATCH_BYTES;
}

/* Lists in positions; then the assignment and the order of blocks, or lists in node ids. */
static uint64_t pack_bytes(const struct size_input *in, const struct build_size *size)
{
    uint64_t own = size->own_max;
    uint64_t list = (in->degree + 1) * sizeof(uint32_t) + 1;
    uint64_t assignment = own * assignment_bytes(in->degree) + block_order_bytes(in, own);
    uint64_t lists = own * (list + sizeof(uint32_t));
    return own * (list + 3 * sizeof(uint32_t)) + MAX(assignment + PACK_BATCH_BYTES, lists) +
           STREAMS_BYTES;
}

static uint64_t write_bytes(const struct size_input *in, const struct build_size *size)
{
    uint64_t own = size->own_max + BLOCK_NODES_MAX;
    uint64_t lists = own * ((in->degree + 1) * sizeof(uint32_t) + 1 + sizeof(uint32_t));
    uint64_t rows = own * (in->packed_bytes + sizeof(uint64_t));
    uint64_t codes = own * in->code_bytes + in->threads * 64 * in->packed_bytes;
    return lists + rows + MAX(codes, (uint64_t)2 * SHARD_WRITE_BUFFER_BYTES) + STREAMS_BYTES +
           own * sizeof(uint32_t);
}

static uint64_t navigation_bytes_max(const struct size_input *in)
{
    uint64_t sample = in->navigation_count + 1;
    uint64_t visits = (uint64_t)MIN(in->count, (uint64_t)HOT_QUERIES_MAX) * HOT_VISITS_MAX;
    uint64_t graph = sample * (in->stride_bytes + sizeof(uint32_t)) +
                     graph_bytes_of(in, GRAPH_VAMANA, sample, NAVIGATION_DEGREE) +
                     2 * sample * (NAVIGATION_DEGREE + 1) * sizeof(uint32_t);
    /* Visits; each as u64, twice while sorted; ranked entries and their ids. */
    uint64_t ranking = visits * (sizeof(uint32_t) + 2 * sizeof(uint64_t) + 9 * sizeof(uint32_t));
    return MAX(MAX(graph, ranking), 2 * query_sample_bytes(in->shape)) + STREAMS_BYTES;
}

/* What a search of the finished data has beside codes, which are the file's own pages, and cached
 * blocks, which take what the other stages leave: an engine's slots and read buffers for each
 * thread, queries with answers and their truth, the navigation graph. */
static uint64_t calibration_bytes(const struct size_input *in)
{
    if (in->params->calibrate == NULL)
        return 0;
    const uint64_t slot =
        CALIBRATION_SLOT_BYTES + (uint64_t)PQ_CENTROIDS * sizeof(float) * in->code_bytes;
    const uint64_t block = in->block_bytes != 0
                               ? in->block_bytes
                               : size_align(in->packed_bytes + BLOCK_PAGE_BYTES, BLOCK_PAGE_BYTES);
    const uint64_t tune = in->params->tune_count;
    const uint64_t queries = QUERY_SAMPLE_MAX + tune;
    return in->threads * (BUILD_CALIBRATION_SLOTS * slot + CALIBRATION_BUFFERS * block) +
           in->navigation_count * ((NAVIGATION_DEGREE + 1) * sizeof(uint32_t) + in->code_bytes) +
           query_sample_bytes(in->shape) +
           queries * (CALIBRATION_QUERY_BYTES + in->packed_bytes +
                      QUERY_SAMPLE_NEIGHBORS * (uint64_t)(16 + 12));
}

uint64_t build_size_stage_bytes(const struct build_size *size, enum build_stage stage,
                                uint32_t lanes)
{
    return size->fixed_bytes + size->shared_bytes[stage] + lanes * size->shard_bytes[stage];
}

static void memory_compute(const struct size_input *in, struct build_size *size)
{
    uint64_t *shared = size->shared_bytes;
    uint64_t *shard = size->shard_bytes;
    const struct attribute_extent *attributes = &in->params->attribute_extent;
    uint64_t list = MAX(in->params->build_list, (uint32_t)HOT_SEARCH_LIST);
    uint64_t scratch = SEEN_BYTES + 3 * VISITED_PER_LIST * list * CANDIDATE_BYTES;
    uint64_t nodes = in->count * sizeof(uint32_t);
    uint64_t axes = axes_values(in) * 3 * sizeof(float); /* of the codec, and its serialised form */

    size->fixed_bytes = PROGRAM_BYTES + in->threads * (THREAD_BYTES + scratch) +
                        in->params->tune_count * in->packed_bytes;
    /* Attributes first; what they leave is open during the scan. */
    shared[BUILD_STAGE_INGEST] =
        MAX(scan_memory_bytes(in->shape) + attribute_buffers_bytes(attributes),
            attribute_input_memory_bytes(attributes));
    shared[BUILD_STAGE_TRAIN] = train_bytes(in);
    shared[BUILD_STAGE_SAMPLE] =
        query_sample_memory_bytes(in->shape, in->params->metric, (uint32_t)in->threads,
                                  in->params->tune_count) +
        STREAMS_BYTES;
    shared[BUILD_STAGE_PARTITION] =
        partition_memory_bytes(in->shape, size->shard_count, (uint32_t)in->threads) +
        in->navigation_count * sizeof(uint32_t);
    shard[BUILD_STAGE_GRAPH] = graph_bytes(in, size);
    shard[BUILD_STAGE_MERGE] = merge_bytes(in, size);
    shared[BUILD_STAGE_GEOMETRY] = pack_bytes(in, size);
    shard[BUILD_STAGE_PACK] = pack_bytes(in, size);
    shared[BUILD_STAGE_NAVIGATION] =
        nodes +
        MAX(navigation_bytes_max(in) + axes,
            attribute_write_memory_bytes(
                attributes, in->count, in->count + (uint64_t)size->shard_count * BLOCK_NODES_MAX));
    shared[BUILD_STAGE_WRITE] = nodes + axes;
    shard[BUILD_STAGE_WRITE] = write_bytes(in, size);
    shared[BUILD_STAGE_KEYS] = key_index_memory_bytes(in->count, size->shard_count) + STREAMS_BYTES;
    shared[BUILD_STAGE_CHECK] =
        MAX(block_walk_memory_bytes(in->count), calibration_bytes(in)) + STREAMS_BYTES;
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        uint64_t bytes = build_size_stage_bytes(size, (enum build_stage)stage, 1);
        if (bytes > size->memory_bytes) {
            size->memory_bytes = bytes;
            size->memory_stage = (enum build_stage)stage;
        }
    }
}

/* ---- disk ---- */

/* A block, and nodes.blk, for lists of `degree` ids, gap-coded: the id range spread over the list
 * costs log2(n / degree) + 2 bits an id or so, plus the selectors. Most ids are of the row's own
 * shard.
 */
static uint64_t blocks_bytes(const struct size_input *in, struct build_size *size)
{
    uint64_t n = in->count;
    uint64_t spread = n / size->shard_count / in->degree;
    uint64_t bits = 4;
    while (spread > 1) {
        spread >>= 1;
        bits++;
    }
    uint64_t degree = MIN(in->degree, n - 1);
    uint64_t record =
        in->packed_bytes + sizeof(uint64_t) + sizeof(uint16_t) + 1 + degree * bits / 8;
    uint64_t block =
        in->block_bytes != 0
            ? in->block_bytes
            : size_align(BLOCK_HEADER_BYTES + BLOCK_TAIL_BYTES + 2 + record, BLOCK_PAGE_BYTES);
    uint64_t room = block - MIN(block, (uint64_t)(BLOCK_HEADER_BYTES + BLOCK_TAIL_BYTES + 2));
    uint64_t capacity = MAX((uint64_t)1, room / record);
    size->block_bytes = block;
    size->nodes_per_block = MIN(capacity, n);
    return (n + capacity - 1) / capacity * block;
}

static void disk_compute(const struct size_input *in, struct build_size *size)
{
    uint64_t n = in->count;
    uint64_t floats_per_dim = in->params->codec == CODEC_SCALAR ? 1 : PQ_CENTROIDS;
    uint64_t codec = (floats_per_dim * in->dim + axes_values(in)) * sizeof(float);
    uint64_t hot = MIN(n, (uint64_t)HOT_QUERIES_MAX * HOT_SEARCH_LIST) * sizeof(uint32_t);
    uint64_t borrowed = (uint64_t)((size->replication - 1.0) * (double)n);
    uint64_t list = (in->degree + 1) * sizeof(uint32_t);

    size->stage_disk_bytes[BUILD_STAGE_NAVIGATION] =
        in->navigation_count * (NAVIGATION_DEGREE + 1) * sizeof(uint32_t) + hot + codec +
        query_sample_bytes(in->shape) +
        attribute_write_disk_bytes(&in->params->attribute_extent, n);
    size->stage_disk_bytes[BUILD_STAGE_WRITE] = n * in->code_bytes + blocks_bytes(in, size);
    size->stage_disk_bytes[BUILD_STAGE_KEYS] = keys_bytes(n);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        size->disk_bytes += size->stage_disk_bytes[stage];
    size->disk_least_bytes =
        n * (in->packed_bytes + sizeof(uint64_t) + in->code_bytes) + keys_bytes(n);
    size->scratch_bytes =
        (n + borrowed) * (in->record_bytes + sizeof(uint32_t) + list) +
        n * (list + 4 + KEY_INDEX_RECORD_BYTES) +
        borrowed * SHARD_GRAPH_HALO_PER_ROW * (in->packed_bytes + sizeof(uint32_t)) +
        in->navigation_count * in->record_bytes + query_sample_bytes(in->shape) +
        attribute_input_disk_bytes(&in->params->attribute_extent, n);
}

void build_size_compute(const struct build_params *params, const struct vector_shape *shape,
                        uint32_t shards, struct build_size *size)
{
    struct size_input input = input_make(params, shape);

    memset(size, 0, sizeof(*size));
    size->shard_count = shards;
    shares_compute(&input, size);
    memory_compute(&input, size);
    disk_compute(&input, size);
}

uint64_t build_size_peak_bytes(const struct build_size *size, uint32_t lanes)
{
    uint64_t peak = 0;
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        peak = MAX(peak, build_size_stage_bytes(size, (enum build_stage)stage, lanes));
    return peak;
}

bool build_size_choose(const struct build_params *params, const struct vector_shape *shape,
                       uint64_t limit_bytes, uint32_t lanes, struct build_size *size)
{
    uint32_t most = build_shards_max(shape->count);
    struct build_size tried;
    for (uint32_t shards = 1; shards <= most; shards++) {
        build_size_compute(params, shape, shards, &tried);
        if (shards == 1 || tried.memory_bytes < size->memory_bytes)
            *size = tried;
        if (build_size_peak_bytes(&tried, MIN(MAX(lanes, 1u), shards)) <= limit_bytes) {
            *size = tried;
            return true;
        }
    }
    /* One shard at a time, if all lanes are too much. */
    return lanes > 1 && build_size_choose(params, shape, limit_bytes, 1, size);
}

enum status build_shards_check(const struct build_params *params, const struct vector_shape *shape,
                               struct error *err)
{
    uint32_t most = build_shards_max(shape->count);
    const char *input = params->input;
    if (params->shards <= most)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID, "%s%s%llu vectors can be cut into at most %u shards",
                     input != NULL ? input : "", input != NULL ? ": " : "",
                     (unsigned long long)shape->count, most);
}

bool build_size_settle(const struct build_params *params, const struct vector_shape *shape,
                       const struct build_size_request *request, struct build_size *size)
{
    uint32_t shards = params->shards != 0 ? params->shards : request->earlier;
    if (shards >= 1 && shards <= build_shards_max(shape->count)) {
        build_size_compute(params, shape, shards, size);
        if (size->memory_bytes <= request->limit_bytes)
            return true;
    }
    return params->shards == 0 &&
           build_size_choose(params, shape, request->limit_bytes, request->lanes, size);
}
