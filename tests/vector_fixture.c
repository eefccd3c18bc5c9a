/*
 * vector_fixture.c - see vector_fixture.h. Each value is a function of (seed, row, dimension), so
 * tests may make any row again.
 */
#include "tests/vector_fixture.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/random.h"

enum { STREAM_CLUSTER = 1, STREAM_CENTER, STREAM_OFFSET, STREAM_LENGTH };

static double centered(uint64_t seed, uint64_t i)
{
    return 2.0 * random_unit(seed, i) - 1.0;
}

void vector_fixture_row(const struct vector_fixture *fixture, uint64_t index, void *row)
{
    float values[VECTOR_FIXTURE_DIM_MAX];
    uint64_t stream = fixture->seed * 16;
    uint64_t cluster = random_below(stream + STREAM_CLUSTER, index, fixture->clusters);
    double length = 0.6 + 0.4 * random_unit(stream + STREAM_LENGTH, index);
    double scale = fixture->type == ELEMENT_U8 || fixture->type == ELEMENT_I8 ? 70.0 : 1.0;
    double zero = fixture->type == ELEMENT_U8 ? 128.0 : 0.0;
    assert(fixture->dim <= VECTOR_FIXTURE_DIM_MAX);
    for (uint32_t d = 0; d < fixture->dim; d++) {
        double center = centered(stream + STREAM_CENTER, cluster * fixture->dim + d);
        double offset = centered(stream + STREAM_OFFSET, index * fixture->dim + d);
        values[d] = (float)(zero + scale * length * (center + 0.7 * offset));
    }
    element_from_f32(fixture->type, values, fixture->dim, row);
}

void *vector_fixture_slot(const struct vector_set *set, uint32_t row)
{
    return set->rows + (size_t)row * set->stride_bytes;
}

void vector_fixture_fill(const struct vector_fixture *fixture, struct vector_set *set)
{
    struct error err;
    enum status status =
        vector_set_create(set, fixture->count, fixture->dim, fixture->type, fixture->metric, &err);
    assert(status == STATUS_OK);
    for (uint32_t row = 0; row < fixture->count; row++)
        vector_fixture_row(fixture, row, vector_fixture_slot(set, row));
}

void vector_fixture_create(const struct vector_fixture *fixture, struct vector_set *set)
{
    struct error err;
    vector_fixture_fill(fixture, set);
    enum status status = vector_set_prepare(set, 0.0f, &err);
    assert(status == STATUS_OK);
}

void vector_fixture_line(uint32_t count, struct vector_set *set)
{
    struct error err;
    enum status status = vector_set_create(set, count, 1, ELEMENT_F32, METRIC_L2, &err);
    assert(status == STATUS_OK);
    for (uint32_t row = 0; row < count; row++) {
        float value = (float)row;
        memcpy(vector_fixture_slot(set, row), &value, sizeof(value));
    }
    status = vector_set_prepare(set, 0.0f, &err);
    assert(status == STATUS_OK);
}

uint32_t graph_fixture_reached(const struct graph *graph, uint32_t entry)
{
    uint8_t *reached = calloc(graph->count, 1);
    uint32_t *stack = malloc((size_t)graph->count * sizeof(*stack));
    uint32_t depth = 0;
    uint32_t count = 1;
    assert(reached != NULL && stack != NULL);
    stack[depth++] = entry;
    reached[entry] = 1;
    while (depth > 0) {
        uint32_t node = stack[--depth];
        const uint32_t *ids = graph_neighbors(graph, node);
        for (uint32_t i = 0; i < graph_degree(graph, node); i++)
            if (!reached[ids[i]]) {
                reached[ids[i]] = 1;
                stack[depth++] = ids[i];
                count++;
            }
    }
    free(reached);
    free(stack);
    return count;
}

uint64_t graph_fixture_digest(const struct graph *graph)
{
    uint64_t digest = graph->count;
    for (uint32_t node = 0; node < graph->count; node++)
        digest = XXH3_64bits_withSeed(graph_neighbors(graph, node) - 1,
                                      (graph_degree(graph, node) + 1u) * sizeof(uint32_t), digest);
    return digest;
}

static double length(const struct vector_set *set, uint32_t row)
{
    const void *vector = vector_set_row(set, row);
    return sqrt((double)set->kernels->dot(vector, vector, set->dim));
}

bool vector_fixture_may_occlude(const struct vector_set *set, uint32_t selected, uint32_t candidate)
{
    return set->metric != METRIC_IP || length(set, selected) >= 0.9 * length(set, candidate);
}
