/*
 * index_fixture.c - see index_fixture.h. Single-threaded; failures inside end the test.
 */
#include "tests/index_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "builder/build.h"
#include "common/vector_file.h"
#include "query/index_plan.h"
#include "tests/generation_fixture.h"
#include "tests/key_files.h"
#include "tools/generate.h"

enum { SEED = 20240613 };

static void rows_generate(const struct collection_spec *spec, enum generate_stream stream,
                          uint32_t count, void *rows)
{
    const struct generate_params params = {.dim = spec->dim,
                                           .type = spec->type,
                                           .seed = SEED,
                                           .clusters = generate_default_clusters(spec->count),
                                           .intrinsic_dim = 12};
    struct generator *generator = NULL;
    struct error err;
    ASSERT_STATUS_OK(generator_create(&params, &generator, &err), err);
    generator_rows(generator, stream, 0, count, rows);
    generator_destroy(generator);
}

static float *rows_to_f32(const struct collection_spec *spec, const void *rows, uint32_t count)
{
    float *out = calloc((size_t)count * spec->dim, sizeof(*out));
    assert_non_null(out);
    element_to_f32(spec->type, rows, (size_t)count * spec->dim, out);
    return out;
}

/* What is left of rows in the type that stores them. */
static void rows_round(const struct collection_spec *spec, enum element_type store, float *rows)
{
    void *stored = malloc(element_vector_bytes(store, spec->dim));
    assert_non_null(stored);
    for (size_t i = 0; i < spec->count; i++, rows += spec->dim) {
        element_vector_from_f32(store, rows, spec->dim, stored);
        element_vector_to_f32(store, stored, spec->dim, rows);
    }
    free(stored);
}

static void generation_build(struct build_params *params, const struct collection_spec *spec,
                             const void *rows, const uint64_t *keys)
{
    struct vector_writer *writer = NULL;
    struct error err;
    const struct vector_shape shape = {spec->count, spec->dim, spec->type};
    ASSERT_STATUS_OK(vector_writer_open(params->input, shape, &writer, &err), err);
    ASSERT_STATUS_OK(vector_writer_append(writer, rows, spec->count, &err), err);
    ASSERT_STATUS_OK(vector_writer_finish(writer, &err), err);
    char key_path[PATH_MAX];
    snprintf(key_path, sizeof(key_path), "%s.u64bin", params->input);
    if (keys)
        ASSERT_STATUS_OK(key_file_write(key_path, keys, spec->count, &err), err);
    params->keys = keys ? key_path : NULL;
    params->metric = spec->metric;
    params->degree = 24;
    params->build_list = 48;
    params->alpha = 1.2;
    params->codec = CODEC_PQ;
    params->code_bytes = spec->code_bytes ? spec->code_bytes : 16;
    params->replication = 1.2;
    params->threads = 1;
    params->seed = 1;
    params->navigation_share = 0.02;
    params->quiet = true;
    ASSERT_STATUS_OK(build_attributes_look(params, &err), err);
    ASSERT_STATUS_OK(build_run(params, NULL, &err), err);
}

/* What a collection may have beside vectors. */
struct collection_extras {
    const char *attributes;
    const uint64_t *keys;
    enum element_type store;
};

static struct collection *collection_make(const char *directory, const char *name,
                                          const struct collection_spec *spec,
                                          struct collection_extras extras)
{
    struct collection *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    const size_t row_bytes = spec->dim * element_bytes(spec->type);
    void *generated = malloc(spec->count * row_bytes);
    c->spec = *spec;
    c->spec.rows = NULL;
    c->store = extras.store;
    c->queries = malloc(spec->query_count * row_bytes);
    assert_true(generated && c->queries);
    if (!spec->rows)
        rows_generate(spec, GENERATE_BASE, spec->count, generated);
    const void *rows = spec->rows ? spec->rows : generated;
    rows_generate(spec, GENERATE_QUERIES, spec->query_count, c->queries);
    c->rows_f32 = rows_to_f32(spec, rows, spec->count);
    if (extras.store != ELEMENT_NONE)
        rows_round(spec, extras.store, c->rows_f32);
    c->queries_f32 = rows_to_f32(spec, c->queries, spec->query_count);

    static const char *const suffixes[] = {[ELEMENT_U8] = "u8bin",
                                           [ELEMENT_I8] = "i8bin",
                                           [ELEMENT_F16] = "f16bin",
                                           [ELEMENT_F32] = "fbin"};
    char file_name[100];
    snprintf(file_name, sizeof(file_name), "%s.%s", name, suffixes[spec->type]);
    c->path = fixture_path(directory, name);
    struct build_params params = {.input = fixture_path(directory, file_name),
                                  .output = c->path,
                                  .attributes = extras.attributes,
                                  .store = extras.store};
    generation_build(&params, spec, rows, extras.keys);
    free(generated);
    return c;
}

struct collection *collection_create(const char *directory, const char *name,
                                     const struct collection_spec *spec)
{
    return collection_make(directory, name, spec, (struct collection_extras){0});
}

struct collection *collection_create_with(const char *directory, const char *name,
                                          const struct collection_spec *spec,
                                          const char *attributes)
{
    return collection_make(directory, name, spec,
                           (struct collection_extras){.attributes = attributes});
}

struct collection *collection_create_keyed(const char *directory, const char *name,
                                           const struct collection_spec *spec, const uint64_t *keys)
{
    return collection_make(directory, name, spec, (struct collection_extras){.keys = keys});
}

struct collection *collection_create_stored(const char *directory, const char *name,
                                            const struct collection_spec *spec,
                                            enum element_type store)
{
    return collection_make(directory, name, spec, (struct collection_extras){.store = store});
}

void collection_destroy(struct collection *c)
{
    if (!c)
        return;
    free(c->queries);
    free(c->rows_f32);
    free(c->queries_f32);
    free(c);
}

const void *collection_query(const struct collection *c, uint32_t query)
{
    return (const uint8_t *)c->queries + (size_t)query * c->spec.dim * element_bytes(c->spec.type);
}

struct sums {
    double l2sq, dot, norm_product;
};

static struct sums sums_of(const struct collection *c, uint32_t query, uint32_t row)
{
    const float *a = c->queries_f32 + (size_t)query * c->spec.dim;
    const float *b = c->rows_f32 + (size_t)row * c->spec.dim;
    double l2sq = 0, dot = 0, a_norm = 0, b_norm = 0;
    for (uint32_t d = 0; d < c->spec.dim; d++) {
        double x = (double)a[d], y = (double)b[d];
        l2sq += (x - y) * (x - y);
        dot += x * y;
        a_norm += x * x;
        b_norm += y * y;
    }
    return (struct sums){l2sq, dot, sqrt(a_norm * b_norm)};
}

double collection_distance(const struct collection *c, uint32_t query, uint32_t row)
{
    const struct sums sums = sums_of(c, query, row);
    switch (c->spec.metric) {
    case METRIC_L2:
        return sums.l2sq;
    case METRIC_IP:
        return -sums.dot;
    default:
        return 1.0 - sums.dot / sums.norm_product;
    }
}

double collection_tolerance(const struct collection *c, uint32_t query, uint32_t row)
{
    const double relative = 1e-6;
    const struct sums sums = sums_of(c, query, row);
    const bool integer = c->spec.type == ELEMENT_U8 || c->spec.type == ELEMENT_I8;
    if (c->spec.metric == METRIC_COSINE)
        return relative;
    /* Integer sums below 2^24 are exact in binary32, and small collections stay there. */
    if (integer && sums.l2sq < 0x1p24 && fabs(sums.dot) < 0x1p24)
        return 0.0;
    return relative * (c->spec.metric == METRIC_L2 ? sums.l2sq : sums.norm_product);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double collection_kth_distance(const struct collection *c, uint32_t query, uint32_t k)
{
    double *distances = calloc(c->spec.count, sizeof(*distances));
    assert_non_null(distances);
    for (uint32_t row = 0; row < c->spec.count; row++)
        distances[row] = collection_distance(c, query, row);
    qsort(distances, c->spec.count, sizeof(*distances), compare_doubles);
    double kth = distances[k - 1];
    free(distances);
    return kth;
}

struct index *collection_open(const struct collection *c, uint64_t memory_bytes)
{
    const struct index_options options = {.memory_bytes = memory_bytes};
    struct index *index = NULL;
    struct error err;
    ASSERT_STATUS_OK(index_open(c->path, &options, &index, &err), err);
    return index;
}

uint64_t collection_budget(const struct collection *c, uint64_t blocks)
{
    struct index *index = collection_open(c, 0);
    const struct manifest *m = index_manifest(index);
    const struct index_memory memory = index_memory_of(index);
    uint64_t budget = memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes +
                      m->block_count * sizeof(uint32_t) + blocks * m->geometry.block_bytes;
    index_release(index);
    return budget;
}

uint64_t collection_budget_lists(const struct collection *c, uint64_t blocks)
{
    struct index *index = collection_open(c, 0);
    const struct manifest *m = index_manifest(index);
    const struct index_memory memory = index_memory_of(index);
    /* The most that does not make it resident buys everything but blocks first. */
    const uint64_t most = memory.codes_bytes + memory.navigation_bytes + memory.keys_bytes +
                          m->files[GENERATION_NODES].bytes - 1;
    struct index_plan plan;
    struct error err;
    ASSERT_STATUS_OK(index_plan_make(m, most, &plan, &err), err);
    assert_true(plan.lists && !plan.resident && plan.cached_blocks > blocks);
    const uint64_t table_bytes = blocks > 0 ? m->block_count * sizeof(uint32_t) : 0;
    const uint64_t budget = plan.codes_bytes + plan.navigation_bytes + plan.keys_bytes +
                            plan.lists_bytes + table_bytes + blocks * m->geometry.block_bytes;
    index_release(index);
    return budget;
}

uint8_t *collection_read_blocks(const struct collection *c, const struct manifest *m)
{
    const size_t bytes = m->files[GENERATION_NODES].bytes;
    uint8_t *blocks = malloc(bytes);
    assert_non_null(blocks);
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", c->path, generation_file_names[GENERATION_NODES]);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(blocks, 1, bytes, file), bytes);
    fclose(file);
    return blocks;
}
