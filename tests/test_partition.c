/*
 * test_partition.c - claims about builder/partition.c: whose every row is and who borrows it, read
 * back from the files of the piece.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "builder/partition_internal.h"
#include "builder/row_sample.h"
#include "common/cpu.h"
#include "common/memory.h"
#include "common/random.h"
#include "tests/directory_fixture.h"
#include "tests/key_files.h"

enum { SEED = 20250117, PATH_BYTES = 128 };

static const struct work_piece PIECE = {BUILD_STAGE_PARTITION, WORK_WHOLE};
static const struct build_monitor SILENT = {0};

/* ---- input ---- */

enum shape_of_data {
    CLUSTERS,   /* 12 that overlap, of unequal norms */
    NINETY,     /* 90 % of the rows in one of 8 clusters far apart */
    EQUAL,      /* all rows the same */
    FEW,        /* three distinct rows */
    APART,      /* as many clusters as shards, far apart: nothing is near a border */
    BY_CLUSTER, /* CLUSTERS, sorted by cluster */
    BETWEEN,    /* the second half is two clusters, the first lies between them */
};

struct input {
    enum shape_of_data data;
    enum element_type type;
    uint32_t count, dim;
    bool keys;
    uint8_t *rows; /* packed */
    size_t row_bytes;
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[PATH_BYTES];
    char keys_path[PATH_BYTES];
    struct vector_file *file;
};

static uint32_t cluster_of(const struct input *in, uint32_t row)
{
    switch (in->data) {
    case CLUSTERS:
        return (uint32_t)random_below(SEED, row, 12);
    case NINETY:
        return random_unit(SEED, row) < 0.9 ? 0 : 1 + row % 7;
    case FEW:
        return row % 3;
    case APART:
        return row % 5;
    case BY_CLUSTER:
        return (uint32_t)((uint64_t)row * 12 / in->count);
    case EQUAL:
    case BETWEEN:
        break;
    }
    return 0;
}

static void row_make(const struct input *in, uint32_t row, float *values)
{
    bool spread = in->data != EQUAL && in->data != FEW;
    bool far = in->data == NINETY || in->data == APART;
    double scale = in->type == ELEMENT_U8 || in->type == ELEMENT_I8 ? 60 : 1;
    double zero = in->type == ELEMENT_U8 ? 128 : 0;
    uint32_t cluster = cluster_of(in, row);

    for (uint32_t d = 0; d < in->dim; d++) {
        double center = 2 * random_unit(SEED + 1, (uint64_t)cluster * in->dim + d) - 1;
        double noise = 2 * random_unit(SEED + 2, (uint64_t)row * in->dim + d) - 1;
        double value = center + (spread ? (far ? 0.02 : 0.6) * noise : 0);
        if (in->data == BETWEEN) { /* all in a line */
            value = 0.1 * (2 * random_unit(SEED, row) - 1);
            value += row < in->count / 2 ? 0 : row % 2 * 2.0 - 1;
        }
        values[d] = (float)(zero + scale * value * (0.7 + 0.3 * random_unit(SEED + 3, cluster)));
    }
}

static uint64_t key_of(uint32_t row)
{
    return random_at(SEED + 4, row);
}

static void keys_make(struct input *in)
{
    struct error err;
    uint64_t *keys = malloc(in->count * sizeof(*keys));
    assert_non_null(keys);
    for (uint32_t row = 0; row < in->count; row++)
        keys[row] = key_of(row);
    assert_int_equal(key_file_write(in->keys_path, keys, in->count, &err), STATUS_OK);
    free(keys);
}

/* Rows in a file of their own; the caller's to input_free(). */
static struct input input_make(enum shape_of_data data, enum element_type type, uint32_t count,
                               uint32_t dim, bool keys)
{
    static const char *const suffixes[] = {
        [ELEMENT_U8] = "u8bin",
        [ELEMENT_I8] = "i8bin",
        [ELEMENT_F16] = "f16bin",
        [ELEMENT_F32] = "fbin",
    };
    struct error err;
    struct vector_writer *writer;
    struct vector_shape shape = {.count = count, .dim = dim, .type = type};
    struct input made = {.data = data, .type = type, .count = count, .dim = dim, .keys = keys};
    struct input *in = &made;
    float *values = malloc(in->dim * sizeof(*values));

    in->row_bytes = in->dim * element_bytes(in->type);
    in->rows = malloc(in->count * in->row_bytes);
    assert_non_null(in->rows);
    assert_non_null(values);
    for (uint32_t row = 0; row < in->count; row++) {
        row_make(in, row, values);
        element_from_f32(in->type, values, in->dim, in->rows + row * in->row_bytes);
    }
    free(values);
    assert_int_equal(directory_fixture_create(in->directory), 0);
    (void)snprintf(in->path, sizeof(in->path), "%.96s/rows.%s", in->directory, suffixes[in->type]);
    (void)snprintf(in->keys_path, sizeof(in->keys_path), "%.96s/keys.u64bin", in->directory);
    assert_int_equal(vector_writer_open(in->path, shape, &writer, &err), STATUS_OK);
    assert_int_equal(vector_writer_append(writer, in->rows, in->count, &err), STATUS_OK);
    assert_int_equal(vector_writer_finish(writer, &err), STATUS_OK);
    assert_int_equal(vector_file_open(in->path, &in->file, &err), STATUS_OK);
    if (in->keys)
        keys_make(in);
    return made;
}

static void input_free(struct input *in)
{
    vector_file_close(in->file);
    (void)unlink(in->path);
    (void)unlink(in->keys_path);
    assert_int_equal(rmdir(in->directory), 0);
    free(in->rows);
}

static const uint8_t *input_row(const struct input *in, uint32_t row)
{
    return in->rows + row * in->row_bytes;
}

static struct work *work_make(const struct input *in, const char *name)
{
    struct error err;
    struct work *work;
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/%s", in->directory, name);
    assert_int_equal(work_open(path, "test partition\n", WORK_ALONE, &work, &err), STATUS_OK);
    return work;
}

static struct partition_params params_of(const struct input *in, uint32_t shard_count)
{
    return (struct partition_params){
        .metric = METRIC_L2,
        .keys = in->keys ? in->keys_path : NULL,
        .shard_count = shard_count,
        .own_max = in->count,
        .borrowed_max = in->count,
        .lent_max = UINT64_MAX,
        .replication = 1.4,
        .sample_count = MIN(in->count, 50U),
        .sample_seed = SEED + 5,
        .query_count = in->count / 2,
        .query_seed = SEED + 7,
        .seed = SEED + 6,
    };
}

/* ---- what comes out, every byte of it checked ---- */

struct outcome {
    struct partition_info info;
    uint64_t digest;      /* of all files */
    uint32_t *owners;     /* of each row */
    uint32_t *positions;  /* rows by position */
    uint8_t *lent_counts; /* shards that borrow each row */
    uint32_t *lent;       /* which, ascending: PARTITION_BORROWERS_MAX for each row */
    uint64_t starts[PARTITION_SHARDS_MAX + 1];
    uint64_t borrowed;
};

static void outcome_free(struct outcome *out)
{
    free(out->owners);
    free(out->positions);
    free(out->lent_counts);
    free(out->lent);
}

/* The next record of a file; false at its end. */
static bool record_read(struct work_input *file, uint8_t *record, size_t bytes, struct outcome *out)
{
    struct error err;
    if (work_input_left(file) == 0)
        return false;
    assert_int_equal(work_input_read(file, record, bytes, &err), STATUS_OK);
    out->digest = XXH3_64bits_withSeed(record, bytes, out->digest);
    return true;
}

static struct work_input *part_open(const struct work *work, const char *name, uint32_t shard)
{
    struct error err;
    struct work_input *file;
    char part[32];
    if (shard == PARTITION_NONE)
        (void)snprintf(part, sizeof(part), "%s", name);
    else
        (void)snprintf(part, sizeof(part), "%s-%u", name, (unsigned)shard);
    assert_int_equal(work_input_open(work, PIECE, part, 0, 0, &file, &err), STATUS_OK);
    return file;
}

static uint32_t u32_at(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

static void own_check(const struct input *in, const struct work *work, uint32_t shard,
                      struct outcome *out)
{
    struct vector_shape shape = vector_file_shape(in->file);
    size_t bytes = partition_own_record_bytes(&shape, in->keys);
    assert_int_equal(bytes, in->row_bytes + (in->keys ? 12 : 4));
    uint8_t *record = malloc(bytes);
    struct work_input *file = part_open(work, "own", shard);
    uint64_t position = out->starts[shard];
    while (record_read(file, record, bytes, out)) {
        uint32_t row = u32_at(record);
        uint64_t key = key_of(row);
        assert_true(row < in->count && position < in->count);
        assert_true(position == out->starts[shard] || row > out->positions[position - 1]);
        assert_int_equal(out->owners[row], PARTITION_NONE);
        out->owners[row] = shard;
        out->positions[position++] = row;
        if (in->keys)
            assert_memory_equal(record + 4, &key, sizeof(key));
        assert_memory_equal(record + bytes - in->row_bytes, input_row(in, row), in->row_bytes);
    }
    assert_int_equal(position - out->starts[shard], out->info.own_counts[shard]);
    work_input_close(file);
    free(record);
}

/* The row that a borrowed or sample record is of. */
static uint32_t place_check(const struct input *in, const uint8_t *record,
                            const struct outcome *out)
{
    uint32_t owner = u32_at(record), index = u32_at(record + 4);
    assert_true(owner < out->info.shard_count);
    assert_true(index < out->info.own_counts[owner]);
    uint32_t row = out->positions[out->starts[owner] + index];
    assert_memory_equal(record + 8, input_row(in, row), in->row_bytes);
    return row;
}

static void borrowed_check(const struct input *in, const struct work *work, uint32_t shard,
                           struct outcome *out)
{
    struct vector_shape shape = vector_file_shape(in->file);
    size_t bytes = partition_borrowed_record_bytes(&shape);
    assert_int_equal(bytes, 8 + in->row_bytes);
    uint8_t *record = malloc(bytes);
    struct work_input *file = part_open(work, "borrowed", shard);
    uint64_t count = 0;
    int64_t before = -1;
    while (record_read(file, record, bytes, out)) {
        uint32_t row = place_check(in, record, out);
        assert_true(row > before); /* so none twice */
        assert_int_not_equal(out->owners[row], shard);
        assert_true(out->lent_counts[row] < PARTITION_BORROWERS_MAX);
        out->lent[row * PARTITION_BORROWERS_MAX + out->lent_counts[row]++] = shard;
        before = row;
        count++;
    }
    assert_int_equal(count, out->info.borrowed_counts[shard]);
    out->borrowed += count;
    work_input_close(file);
    free(record);
}

static void sample_check(const struct input *in, const struct partition_params *params,
                         const struct work *work, struct outcome *out)
{
    size_t bytes = 8 + in->row_bytes;
    uint8_t *record = malloc(bytes);
    uint32_t *rows = malloc((params->sample_count + 1) * sizeof(*rows));
    struct work_input *file = part_open(work, "sample", PARTITION_NONE);
    row_sample(params->sample_seed, in->count, params->sample_count, rows);
    for (uint32_t i = 0; i < params->sample_count; i++) {
        assert_true(record_read(file, record, bytes, out));
        assert_int_equal(place_check(in, record, out), rows[i]);
    }
    assert_int_equal(work_input_left(file), 0);
    work_input_close(file);
    free(rows);
    free(record);
}

static void queries_check(const struct input *in, const struct partition_params *params,
                          const struct work *work, struct outcome *out)
{
    uint32_t *rows = malloc((params->query_count + 1) * sizeof(*rows));
    struct work_input *file = part_open(work, "queries", PARTITION_NONE);
    row_sample(params->query_seed, in->count, params->query_count, rows);
    for (uint32_t i = 0; i < params->query_count; i++) {
        uint8_t place[8];
        assert_true(record_read(file, place, sizeof(place), out));
        const uint32_t owner = u32_at(place), index = u32_at(place + 4);
        assert_true(owner < out->info.shard_count && index < out->info.own_counts[owner]);
        assert_int_equal(out->positions[out->starts[owner] + index], rows[i]);
    }
    assert_int_equal(work_input_left(file), 0);
    work_input_close(file);
    free(rows);
}

static void info_check(const struct input *in, const struct partition_params *params,
                       struct outcome *out)
{
    const struct partition_info *info = &out->info;
    uint64_t total = 0;
    assert_int_equal(info->shard_count, params->shard_count);
    assert_int_equal(info->reserved, 0);
    assert_int_equal(info->row_count, in->count);
    for (uint32_t shard = 0; shard < PARTITION_SHARDS_MAX; shard++) {
        out->starts[shard] = total;
        total += info->own_counts[shard];
        assert_true(info->own_counts[shard] <= params->own_max);
        assert_true(info->borrowed_counts[shard] <= params->borrowed_max);
        assert_true(info->lent_counts[shard] <= params->lent_max);
        assert_true(shard == 0 ? info->parents[0] == 0 : info->parents[shard] <= shard - 1);
        if (shard >= params->shard_count)
            assert_true(info->own_counts[shard] + info->borrowed_counts[shard] +
                            info->lent_counts[shard] ==
                        0);
        else
            assert_true(info->own_counts[shard] >= params->own_min);
    }
    out->starts[PARTITION_SHARDS_MAX] = total;
    assert_int_equal(total, in->count);
}

/* Reads the piece back: every claim of partition.h about its files. */
static void piece_check(const struct input *in, const struct partition_params *params,
                        const struct work *work, struct outcome *out)
{
    struct partition_info again;
    struct error err;
    assert_int_equal(work_piece_read(work, PIECE, &again, sizeof(again), NULL, &err), STATUS_OK);
    assert_memory_equal(&again, &out->info, sizeof(again));
    out->owners = malloc(in->count * sizeof(*out->owners));
    out->positions = malloc(in->count * sizeof(*out->positions));
    out->lent_counts = calloc(in->count, 1);
    out->lent = calloc(in->count * PARTITION_BORROWERS_MAX, sizeof(*out->lent));
    memset(out->owners, 0xff, in->count * sizeof(*out->owners));
    info_check(in, params, out);
    for (uint32_t shard = 0; shard < params->shard_count; shard++)
        own_check(in, work, shard, out);
    for (uint32_t shard = 0; shard < params->shard_count; shard++)
        borrowed_check(in, work, shard, out);
    sample_check(in, params, work, out);
    queries_check(in, params, work, out);
    assert_true((double)(in->count + out->borrowed) <= params->replication * in->count);
    for (uint32_t row = 0; row < in->count; row++)
        out->info.lent_counts[out->owners[row]] -= out->lent_counts[row];
    for (uint32_t shard = 0; shard < params->shard_count; shard++)
        assert_int_equal(out->info.lent_counts[shard], 0);
    out->info = again;
}

static struct outcome partition(const struct input *in, const struct partition_params *params)
{
    struct error err = {0};
    struct outcome out = {0};
    struct build_stage_record cost = {.written_bytes = 5};
    struct work *work = work_make(in, "work");
    enum status status = partition_run(in->file, params, work, &SILENT, &out.info, &cost, &err);
    if (status != STATUS_OK)
        print_error("%s\n", err.text);
    assert_int_equal(status, STATUS_OK);
    piece_check(in, params, work, &out);
    struct vector_shape shape = vector_file_shape(in->file);
    assert_int_equal(cost.written_bytes,
                     5 + in->count * partition_own_record_bytes(&shape, in->keys) +
                         (out.borrowed + params->sample_count) *
                             partition_borrowed_record_bytes(&shape) +
                         params->query_count * UINT64_C(8));
    assert_true(cost.wall_s > 0);
    work_remove(work);
    return out;
}

static uint64_t most_owned(const struct outcome *out)
{
    uint64_t most = 0;
    for (uint32_t shard = 0; shard < out->info.shard_count; shard++)
        most = MAX(most, out->info.own_counts[shard]);
    return most;
}

/* ---- the pass ---- */

static void partition_owns_every_row_once_whatever_metric_and_type(void **state)
{
    (void)state;
    for (enum element_type type = ELEMENT_U8; type <= ELEMENT_F32; type++) {
        struct input in = input_make(CLUSTERS, type, 700, 9, type == ELEMENT_I8);
        for (enum metric metric = METRIC_L2; metric <= METRIC_COSINE; metric++) {
            struct partition_params params = params_of(&in, 5);
            params.metric = metric;
            struct outcome out = partition(&in, &params);
            assert_true((double)most_owned(&out) <= 1.09 * 700 / 5); /* the sample is all rows */
            assert_true(out.borrowed > 0);
            outcome_free(&out);
        }
        input_free(&in);
    }
}

static void partition_keys_and_sample_go_with_their_rows(void **state)
{
    (void)state;
    struct input in = input_make(CLUSTERS, ELEMENT_F32, 900, 6, true);
    struct partition_params params = params_of(&in, 3);
    static const uint32_t counts[] = {0, 1, 899, 900};
    for (size_t i = 0; i < ARRAY_LENGTH(counts); i++) {
        params.sample_count = counts[i];
        params.query_count = counts[ARRAY_LENGTH(counts) - 1 - i];
        struct outcome out = partition(&in, &params);
        outcome_free(&out);
    }
    input_free(&in);
}

static void partition_keeps_to_the_room_of_shards(void **state)
{
    (void)state;
    enum { COUNT = 3001, SHARDS = 7 };
    static const uint64_t borrowed_max[] = {0, 1, 30};
    struct input in = input_make(CLUSTERS, ELEMENT_F32, COUNT, 8, false);
    struct partition_params params = params_of(&in, SHARDS);
    params.own_max = (COUNT + SHARDS - 1) / SHARDS;
    params.replication = 2.0;
    for (size_t i = 0; i < ARRAY_LENGTH(borrowed_max); i++) {
        params.borrowed_max = borrowed_max[i];
        struct outcome out = partition(&in, &params);
        assert_int_equal(out.borrowed, SHARDS * borrowed_max[i]); /* all room is used */
        outcome_free(&out);
    }
    input_free(&in);
}

static void partition_gives_shards_their_least(void **state)
{
    (void)state;
    enum { COUNT = 3001, SHARDS = 7 };
    for (int data = CLUSTERS; data <= FEW; data++) {
        struct input in = input_make((enum shape_of_data)data, ELEMENT_F32, COUNT, 8, false);
        struct partition_params params = params_of(&in, SHARDS);
        params.own_min = COUNT / SHARDS;
        struct outcome out = partition(&in, &params);
        outcome_free(&out);
        params.own_min = 1;
        out = partition(&in, &params);
        outcome_free(&out);
        input_free(&in);
    }
}

static void partition_lends_no_more_of_a_shard_than_it_may(void **state)
{
    (void)state;
    enum { COUNT = 2000, SHARDS = 4 };
    struct input in = input_make(CLUSTERS, ELEMENT_F32, COUNT, 8, false);
    for (uint64_t lent_max = 0; lent_max <= 40; lent_max += 20) {
        struct partition_params params = params_of(&in, SHARDS);
        params.lent_max = lent_max;
        struct outcome out = partition(&in, &params);
        assert_int_equal(out.borrowed, SHARDS * lent_max); /* all is used */
        outcome_free(&out);
    }
    input_free(&in);
}

static void partition_comes_near_the_replication_it_may_reach(void **state)
{
    (void)state;
    enum { COUNT = 6000 };
    static const double replications[] = {1.0, 1.1, 2.5};
    struct input in = input_make(CLUSTERS, ELEMENT_U8, COUNT, 12, false);
    for (size_t i = 0; i < ARRAY_LENGTH(replications); i++) {
        struct partition_params params = params_of(&in, 6);
        params.replication = replications[i];
        struct outcome out = partition(&in, &params);
        double share = (double)out.borrowed / COUNT;
        assert_true(share >= 0.97 * (replications[i] - 1) - 1.0 / COUNT);
        assert_true(share <= replications[i] - 1);
        assert_true(i == 0 || out.info.closure_distance > 0);
        outcome_free(&out);
    }
    input_free(&in);
}

/* Rows near borders come first: they must not take all that is due to the file. */
static void partition_spreads_borrowing_over_the_file(void **state)
{
    (void)state;
    enum { COUNT = 12000 };
    struct input in = input_make(BETWEEN, ELEMENT_F32, COUNT, 4, false);
    struct partition_params params = params_of(&in, 2);
    struct outcome out = partition(&in, &params);
    uint64_t sum = 0;
    for (uint32_t row = 0; row < COUNT; row++) {
        sum += out.lent_counts[row];
        assert_true((double)sum <= 0.4 * (row + 1) + 1024);
        assert_true(row + 1 != COUNT / 2 || (double)sum > 0.99 * (0.2 * COUNT + 1024));
    }
    outcome_free(&out);
    input_free(&in);
}

static void partition_does_not_depend_on_the_team(void **state)
{
    (void)state;
    enum { COUNT = 9000, SHARDS = 5 }; /* of 2 KiB: three chunks */
    int team = omp_get_max_threads();
    struct input in = input_make(CLUSTERS, ELEMENT_F32, COUNT, 512, true);
    for (unsigned tight = 0; tight <= 1; tight++) {
        struct partition_params params = params_of(&in, SHARDS);
        struct outcome outs[2];
        params.metric = tight ? METRIC_IP : METRIC_COSINE;
        if (tight) {
            params.own_max = COUNT / SHARDS;
            params.borrowed_max = 333;
        }
        for (unsigned i = 0; i < 2; i++) {
            omp_set_num_threads(i == 0 ? 1 : 3);
            outs[i] = partition(&in, &params);
        }
        omp_set_num_threads(team);
        assert_int_equal(outs[0].digest, outs[1].digest);
        assert_memory_equal(&outs[0].info, &outs[1].info, sizeof(outs[0].info));
        outcome_free(&outs[0]);
        outcome_free(&outs[1]);
    }
    input_free(&in);
}

static void partition_of_one_shard_keeps_the_order_of_rows(void **state)
{
    (void)state;
    struct input in = input_make(CLUSTERS, ELEMENT_F16, 800, 5, true);
    struct partition_params params = params_of(&in, 1);
    struct outcome out = partition(&in, &params);
    for (uint32_t row = 0; row < in.count; row++)
        assert_int_equal(out.positions[row], row);
    assert_int_equal(out.borrowed, 0);
    outcome_free(&out);
    input_free(&in);
}

static void partition_spreads_rows_that_no_border_separates(void **state)
{
    (void)state;
    enum { COUNT = 1000, SHARDS = 8 };
    for (int data = EQUAL; data <= FEW; data++) {
        struct input in = input_make((enum shape_of_data)data, ELEMENT_F32, COUNT, 4, false);
        for (enum metric metric = METRIC_L2; metric <= METRIC_COSINE; metric++) {
            struct partition_params params = params_of(&in, SHARDS);
            params.metric = metric;
            params.own_max = COUNT / SHARDS;
            params.borrowed_max = 100;
            struct outcome out = partition(&in, &params);
            assert_int_equal(most_owned(&out), COUNT / SHARDS);
            assert_true(isfinite(out.info.closure_distance));
            outcome_free(&out);
        }
        input_free(&in);
    }
}

static void partition_with_a_shard_for_each_row_works(void **state)
{
    (void)state;
    for (int data = CLUSTERS; data <= EQUAL; data += EQUAL - CLUSTERS) {
        struct input in = input_make((enum shape_of_data)data, ELEMENT_F32, 40, 3, false);
        struct partition_params params = params_of(&in, 40);
        params.own_max = 1;
        params.replication = 4.0;
        struct outcome out = partition(&in, &params);
        assert_int_equal(out.borrowed, 3 * 40);
        outcome_free(&out);
        input_free(&in);
    }
}

static void partition_balances_rows_that_are_mostly_in_one_cluster(void **state)
{
    (void)state;
    enum { COUNT = 8000, SHARDS = 8 };
    struct input in = input_make(NINETY, ELEMENT_F32, COUNT, 16, false);
    struct partition_params params = params_of(&in, SHARDS);
    struct outcome out = partition(&in, &params);
    assert_true((double)most_owned(&out) <= 1.08 * COUNT / SHARDS);
    outcome_free(&out);
    input_free(&in);
}

/* Rows in order of cluster, so long that but two thirds of them fit the sample. */
static void partition_samples_all_of_the_file(void **state)
{
    (void)state;
    enum { COUNT = 3072 };
    struct input in = input_make(BY_CLUSTER, ELEMENT_U8, COUNT, VECTOR_DIM_MAX, false);
    struct partition_params params = params_of(&in, 2);
    struct outcome out = partition(&in, &params);
    assert_true((double)most_owned(&out) <= 1.15 * COUNT / 2);
    assert_true((double)out.borrowed > 0.3 * COUNT);
    outcome_free(&out);
    input_free(&in);
}

/* Clusters far apart: the distance that lends the wanted number of rows is a wide one. */
static void partition_borrows_across_wide_gaps_too(void **state)
{
    (void)state;
    struct input in = input_make(APART, ELEMENT_F32, 3000, 6, false);
    struct partition_params params = params_of(&in, 5);
    struct outcome out = partition(&in, &params);
    for (uint32_t row = 5; row < in.count; row++)
        assert_int_equal(out.owners[row], out.owners[row % 5]);
    assert_true((double)out.borrowed > 0.97 * 0.4 * in.count);
    outcome_free(&out);
    input_free(&in);
}

static bool lends(const struct outcome *out, uint32_t row, uint32_t shard)
{
    bool found = false;
    for (uint32_t i = 0; i < out->lent_counts[row]; i++)
        found |= out->lent[row * PARTITION_BORROWERS_MAX + i] == shard;
    return found;
}

/* With room for all, owners and borrowers are what the trained cells say, row by row. */
static void partition_follows_the_cells_it_trained(void **state)
{
    (void)state;
    enum { COUNT = 2000, SHARDS = 6 };
    struct input in = input_make(CLUSTERS, ELEMENT_F32, COUNT, 7, false);
    for (enum metric metric = METRIC_L2; metric <= METRIC_COSINE; metric++) {
        struct partition_params params = params_of(&in, SHARDS);
        struct vector_shape shape = vector_file_shape(in.file);
        struct partition_cells cells;
        struct error err;
        double closure = -1;
        params.metric = metric;
        struct outcome out = partition(&in, &params);
        assert_int_equal(partition_cells_init(&cells, &shape, &params, &err), STATUS_OK);
        assert_int_equal(partition_train(in.file, &params, &SILENT, &cells, &closure, &err),
                         STATUS_OK);
        assert_true(closure == out.info.closure_distance && closure > 0);
        uint64_t wanted = 0;
        for (uint32_t row = 0; row < COUNT; row++) {
            float vector[8], distances[SHARDS];
            struct partition_choice choice;
            partition_vector(&cells, input_row(&in, row), vector);
            partition_choose(&cells, vector, NULL, distances, &choice);
            assert_int_equal(out.owners[row], choice.near[0]);
            uint32_t due = 0; /* nearest first, where not all may */
            for (uint32_t i = 1; i < PARTITION_NEAR; i++) {
                if ((double)choice.scores[i] > closure)
                    continue;
                assert_int_equal(lends(&out, row, choice.near[i]), due < out.lent_counts[row]);
                due++;
            }
            assert_true(out.lent_counts[row] <= due);
            wanted += due;
        }
        assert_int_equal(wanted, out.borrowed); /* the sample was all rows */
        for (uint32_t shard = 1; shard < SHARDS; shard++)
            for (uint32_t other = 0; other < shard; other++)
                assert_true(partition_gap(&cells, shard, out.info.parents[shard]) <=
                            partition_gap(&cells, shard, other));
        partition_cells_fini(&cells);
        outcome_free(&out);
    }
    input_free(&in);
}

/* ---- failures ---- */

/* Files of the work directory beside "job" and "lock". */
static unsigned files_left(const struct work *work)
{
    unsigned count = 0;
    DIR *directory = opendir(work_path(work));
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.' && strcmp(entry->d_name, "job") != 0 &&
                 strcmp(entry->d_name, "lock") != 0;
    closedir(directory);
    return count;
}

/* Runs and expects `wanted`, with nothing done. */
static void partition_fails(const struct input *in, const struct partition_params *params,
                            const struct build_monitor *monitor, enum status wanted,
                            struct error *err)
{
    struct partition_info info, untouched;
    struct build_stage_record cost = {0};
    struct work *work = work_make(in, "work");
    memset(&info, 0x5a, sizeof(info));
    untouched = info;
    assert_int_equal(partition_run(in->file, params, work, monitor, &info, &cost, err), wanted);
    assert_memory_equal(&info, &untouched, sizeof(info));
    assert_false(work_piece_done(work, PIECE));
    assert_int_equal(files_left(work), 0);
    work_remove(work);
}

static void partition_that_is_stopped_leaves_nothing(void **state)
{
    (void)state;
    struct input in = input_make(CLUSTERS, ELEMENT_F32, 500, 4, false);
    atomic_int cancel = 1;
    struct build_monitor monitor = {.cancel = &cancel};
    struct error err;
    for (uint32_t shards = 1; shards <= 4; shards += 3) { /* in the pass; in training */
        struct partition_params params = params_of(&in, shards);
        partition_fails(&in, &params, &monitor, STATUS_CANCELLED, &err);
    }
    input_free(&in);
}

static void partition_reports_rows_that_cannot_be_read(void **state)
{
    (void)state;
    struct error err;
    for (uint32_t shards = 1; shards <= 4; shards += 3) {
        struct input in = input_make(CLUSTERS, ELEMENT_F32, 3000, 40, false);
        struct partition_params params = params_of(&in, shards);
        assert_int_equal(truncate(in.path, 8 + 160 * 1000), 0);
        partition_fails(&in, &params, &SILENT, STATUS_CORRUPT, &err);
        assert_non_null(strstr(err.text, in.path));
        input_free(&in);
    }
}

static void training_reports_rows_that_cannot_be_read(void **state)
{
    (void)state;
    struct input in = input_make(CLUSTERS, ELEMENT_F32, 3000, 40, false);
    struct partition_params params = params_of(&in, 4);
    struct vector_shape shape = vector_file_shape(in.file);
    struct partition_cells cells;
    struct error err;
    double closure;
    assert_int_equal(partition_cells_init(&cells, &shape, &params, &err), STATUS_OK);
    assert_int_equal(truncate(in.path, 8 + 160 * 1000), 0);
    assert_int_equal(partition_train(in.file, &params, &SILENT, &cells, &closure, &err),
                     STATUS_CORRUPT);
    partition_cells_fini(&cells);
    input_free(&in);
}

static void partition_refuses_a_key_file_of_another_length(void **state)
{
    (void)state;
    struct input in = input_make(CLUSTERS, ELEMENT_F32, 300, 4, true);
    struct error err;
    uint64_t key = 1;
    struct partition_params params = params_of(&in, 2);
    assert_int_equal(key_file_write(in.keys_path, &key, 1, &err), STATUS_OK);
    partition_fails(&in, &params, &SILENT, STATUS_INVALID, &err);
    assert_non_null(strstr(err.text, in.keys_path));
    input_free(&in);
}

static void partition_memory_does_not_grow_with_the_input(void **state)
{
    (void)state;
    struct vector_shape few = {1000000, 128, ELEMENT_U8};
    struct vector_shape many = {4000000000, 128, ELEMENT_U8};
    static const uint32_t shards[] = {1, 10, 1000};
    for (size_t i = 0; i < ARRAY_LENGTH(shards); i++) {
        uint64_t bytes = partition_memory_bytes(&few, shards[i], 64);
        assert_int_equal(bytes, partition_memory_bytes(&many, shards[i], 64));
        assert_in_range(bytes, 16 << 20, 600 << 20);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(partition_owns_every_row_once_whatever_metric_and_type),
        cmocka_unit_test(partition_keys_and_sample_go_with_their_rows),
        cmocka_unit_test(partition_keeps_to_the_room_of_shards),
        cmocka_unit_test(partition_gives_shards_their_least),
        cmocka_unit_test(partition_lends_no_more_of_a_shard_than_it_may),
        cmocka_unit_test(partition_comes_near_the_replication_it_may_reach),
        cmocka_unit_test(partition_spreads_borrowing_over_the_file),
        cmocka_unit_test(partition_does_not_depend_on_the_team),
        cmocka_unit_test(partition_of_one_shard_keeps_the_order_of_rows),
        cmocka_unit_test(partition_spreads_rows_that_no_border_separates),
        cmocka_unit_test(partition_with_a_shard_for_each_row_works),
        cmocka_unit_test(partition_balances_rows_that_are_mostly_in_one_cluster),
        cmocka_unit_test(partition_samples_all_of_the_file),
        cmocka_unit_test(partition_borrows_across_wide_gaps_too),
        cmocka_unit_test(partition_follows_the_cells_it_trained),
        cmocka_unit_test(partition_that_is_stopped_leaves_nothing),
        cmocka_unit_test(partition_reports_rows_that_cannot_be_read),
        cmocka_unit_test(training_reports_rows_that_cannot_be_read),
        cmocka_unit_test(partition_refuses_a_key_file_of_another_length),
        cmocka_unit_test(partition_memory_does_not_grow_with_the_input),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
