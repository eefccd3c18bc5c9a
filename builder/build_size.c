/*
 * build_size.c - the arithmetic of memory and disk. Pure and thread-safe.
 *
 * Products fit u64: at most 2^32 rows of a few 10^4 bytes each.
 */
#include "builder/build_size.h"

#include <string.h>

#include "builder/encode.h"
#include "builder/hot_list.h"
#include "builder/ingest.h"
#include "builder/navigation_build.h"
#include "builder/write_blocks.h"
#include "common/memory.h"

enum {
    MIB = 1 << 20,
    /* The program with its libraries is 6 MiB; malloc keeps some of what was freed. */
    PROGRAM_BYTES = 16 * MIB,
    /* A thread's touched stack (f32 rows of 8192 elements) and its share of malloc's arenas. */
    THREAD_BYTES = MIB,
    SEEN_BYTES = 32 * 1024, /* a search's set of scored nodes */
    VISITED_PER_LIST = 8,   /* a search's room for expansions, in units of its list */
    CANDIDATE_BYTES = 8,
    VAMANA_PIECES_BYTES = 64 * 1024 * 4,
    PACK_BATCH_BYTES = 2 * MIB, /* pack_assign.c: the choices of a batch of rows */
    PQ_CENTROIDS = 256,
};

/* All a size depends on. */
struct size_input {
    uint64_t count;
    uint64_t dim;
    uint64_t packed_bytes; /* of a row */
    uint64_t stride_bytes; /* of a row in RAM, as vector_set.c has it */
    uint64_t scalar_bytes; /* of a row beside its elements: norm, key */
    uint64_t navigation_count;
    uint64_t degree;
    uint64_t code_bytes;
    uint64_t build_list;
    uint64_t block_bytes;
    uint64_t threads;
};

static struct size_input input_make(const struct build_params *params,
                                    const struct vector_shape *shape)
{
    uint64_t packed = (uint64_t)shape->dim * element_bytes(shape->type);

    return (struct size_input){
        .count = shape->count,
        .dim = shape->dim,
        .packed_bytes = packed,
        .stride_bytes = size_align(packed, packed >= 48 ? 64 : 16),
        .scalar_bytes = (params->metric == METRIC_L2 ? 0 : sizeof(float)) +
                        (params->keys != NULL ? sizeof(uint64_t) : 0),
        .navigation_count =
            navigation_sample_count((uint32_t)shape->count, params->navigation_share),
        .degree = params->degree,
        .code_bytes = MIN(params->code_bytes, shape->dim),
        .build_list = params->build_list,
        .block_bytes = params->block_bytes,
        .threads = params->threads,
    };
}

/* A list's slots between prunes, as vamana.c has them, and its degree. */
static uint64_t graph_row_bytes(uint64_t degree)
{
    uint64_t capacity = MAX(degree + 1, (uint64_t)(1.3 * (double)degree));
    return (capacity + 1) * sizeof(uint32_t);
}

/* Vamana over `count` rows, less the rows: graph, insertion order, a round's reverse edges and
 * reachability. */
static uint64_t vamana_bytes(uint64_t count, uint64_t degree)
{
    uint64_t round = MAX((uint64_t)1, count / 50);
    uint64_t edges = round * degree * 2 * sizeof(uint32_t);
    return count * (graph_row_bytes(degree) + 3 * sizeof(uint32_t)) + edges + VAMANA_PIECES_BYTES;
}

/* The sample as stored, with views; each thread's subspace of it as f32 with k-means' labels,
 * distances and trial sums; centroids and their working copies. */
static uint64_t train_bytes(const struct size_input *in)
{
    uint64_t sample = encode_sample_rows((uint32_t)in->count);
    uint64_t subspace_dim = (in->dim + in->code_bytes - 1) / in->code_bytes;
    uint64_t subspaces = MIN(in->threads, in->code_bytes);
    uint64_t floats = in->dim * sizeof(float);

    return sample * (in->packed_bytes + 16 + 4) +
           subspaces * sample * (subspace_dim * sizeof(float) + 32) + 4 * PQ_CENTROIDS * floats;
}

static void memory_compute(const struct size_input *in, struct build_size *size)
{
    uint64_t n = in->count;
    uint64_t nodes = n + BLOCK_NODES_MAX; /* the last block's holes */
    uint64_t graph = n * graph_row_bytes(in->degree);
    uint64_t lists = nodes * (1 + in->degree) * sizeof(uint32_t);
    uint64_t numbering = (n + nodes) * sizeof(uint32_t);
    uint64_t visits =
        (uint64_t)MIN(n, (uint64_t)HOT_QUERIES_MAX) * (HOT_VISITS_MAX + 1) * sizeof(uint32_t);
    uint64_t sample = in->navigation_count;

    /* In-edges and their starts; order, block, load and (twice) member of each row; a batch. */
    uint64_t packing =
        n * (in->degree * sizeof(uint32_t) + sizeof(uint64_t) + 20) + PACK_BATCH_BYTES;
    uint64_t navigation = sample * (in->stride_bytes + 3 * sizeof(uint32_t)) +
                          vamana_bytes(sample, NAVIGATION_DEGREE) +
                          2 * sample * (NAVIGATION_DEGREE + 1) * sizeof(uint32_t);
    /* Counters of nodes and blocks; ranked entries and their ids, of nodes with a visit. */
    uint64_t visited = MIN(n, visits / sizeof(uint32_t));
    uint64_t ranking = nodes * 3 * sizeof(uint32_t) + visited * 5 * sizeof(uint32_t);
    uint64_t *stages = size->stage_memory_bytes;

    stages[BUILD_STAGE_INGEST] = ingest_scratch_bytes(n);
    stages[BUILD_STAGE_TRAIN] = train_bytes(in);
    stages[BUILD_STAGE_GRAPH] = vamana_bytes(n, in->degree);
    stages[BUILD_STAGE_VISITS] = graph + visits;
    stages[BUILD_STAGE_PACK] = graph + visits + packing + lists + numbering;
    stages[BUILD_STAGE_ENCODE] = visits + lists + numbering + nodes * in->code_bytes;
    stages[BUILD_STAGE_NAVIGATION] = visits + lists + numbering + MAX(navigation, ranking);
    stages[BUILD_STAGE_WRITE] = lists + numbering + 2 * WRITE_BLOCKS_BUFFER_BYTES;

    uint64_t list = MAX(in->build_list, (uint64_t)HOT_SEARCH_LIST);
    uint64_t scratch = SEEN_BYTES + 3 * VISITED_PER_LIST * list * CANDIDATE_BYTES +
                       64 * in->packed_bytes; /* encode.c's batch */
    size->rows_bytes = n * (in->stride_bytes + in->scalar_bytes);
    size->fixed_bytes = PROGRAM_BYTES + in->threads * (THREAD_BYTES + scratch);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++) {
        stages[stage] += size->rows_bytes + size->fixed_bytes;
        if (stages[stage] > size->memory_bytes) {
            size->memory_bytes = stages[stage];
            size->memory_stage = (enum build_stage)stage;
        }
    }
}

/* nodes.blk for lists of `degree` ids, gap-coded: the id range spread over the list costs
 * log2(n / degree) + 2 bits an id or so, plus the selectors. */
static uint64_t blocks_bytes(const struct size_input *in)
{
    uint64_t n = in->count;
    uint64_t spread = n / in->degree;
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
    return (n + capacity - 1) / capacity * block;
}

static void disk_compute(const struct size_input *in, struct build_size *size)
{
    uint64_t n = in->count;
    uint64_t codec = PQ_CENTROIDS * sizeof(float) * in->dim;
    uint64_t hot = MIN(n, (uint64_t)HOT_QUERIES_MAX * HOT_SEARCH_LIST) * sizeof(uint32_t);

    size->stage_disk_bytes[BUILD_STAGE_ENCODE] = n * in->code_bytes + codec;
    size->stage_disk_bytes[BUILD_STAGE_NAVIGATION] =
        in->navigation_count * (NAVIGATION_DEGREE + 1) * sizeof(uint32_t) + hot;
    size->stage_disk_bytes[BUILD_STAGE_WRITE] = blocks_bytes(in);
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        size->disk_bytes += size->stage_disk_bytes[stage];
    size->disk_least_bytes = n * (in->packed_bytes + sizeof(uint64_t) + in->code_bytes);
}

void build_size_compute(const struct build_params *params, const struct vector_shape *shape,
                        struct build_size *size)
{
    struct size_input input = input_make(params, shape);

    memset(size, 0, sizeof(*size));
    memory_compute(&input, size);
    disk_compute(&input, size);
}
