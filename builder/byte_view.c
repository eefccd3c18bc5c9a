/*
 * byte_view.c - see byte_view.h.
 */
#include "builder/byte_view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/cpu.h"
#include "common/memory.h"

enum {
    SAMPLE_ROWS = 2048, /* by which ranges are told */
    BYTE_MIDDLE = 128,
    BYTE_REACH = 127,
    JUDGE_ROWS = 4096,
    JUDGE_QUERIES = 128,
    JUDGE_TILE_ROWS = 512,
    JUDGE_STEP = 4,
};

/* How values become bytes. */
struct scale {
    float middle[VECTOR_DIM_MAX];
    float factor;
};

bool byte_view_exact(const struct vector_set *set)
{
    return set->metric == METRIC_L2 && (set->type == ELEMENT_U8 || set->type == ELEMENT_I8);
}

struct byte_rows byte_view_of_set(const struct vector_set *set)
{
    return (struct byte_rows){.rows = set->rows,
                              .stride_bytes = set->stride_bytes,
                              .dim = set->dim,
                              .flip = set->type == ELEMENT_I8 ? 0x80 : 0};
}

uint64_t byte_view_row_bytes(enum element_type type, enum metric metric, uint64_t dim)
{
    const struct vector_set set = {.type = type, .metric = metric};
    return byte_view_exact(&set) ? 0 : size_align(dim, 64);
}

static float inverse_length(const struct vector_set *set, uint32_t row)
{
    const void *vector = vector_set_row(set, row);
    float square = set->kernels->dot(vector, vector, set->dim);
    return square > 0.0f ? 1.0f / sqrtf(square) : 0.0f;
}

/* A row in the space whose squared distances are wanted. */
static void row_values(const struct vector_set *set, uint32_t row, float *values)
{
    element_vector_to_f32(set->type, vector_set_row(set, row), set->dim, values);
    if (set->metric == METRIC_L2)
        return;
    float scale = set->metric == METRIC_COSINE ? set->row_scalar[row] : inverse_length(set, row);
    for (uint32_t d = 0; d < set->dim; d++)
        values[d] *= scale;
}

/* A dimension's least two and largest two values. */
struct ends {
    float least, low, high, most;
};

static const struct ends no_values = {INFINITY, INFINITY, -INFINITY, -INFINITY};

static void ends_add(struct ends *ends, float value)
{
    ends->low = MIN(ends->low, MAX(ends->least, value));
    ends->least = MIN(ends->least, value);
    ends->high = MAX(ends->high, MIN(ends->most, value));
    ends->most = MAX(ends->most, value);
}

/* Of what lies between the outer two, so that no single value moves it. */
static float ends_middle(const struct ends *ends, uint32_t count)
{
    return count > 1 ? 0.5f * ends->low + 0.5f * ends->high : ends->least;
}

/* How far values go from the middle, but for the farthest, which is taken for an outlier. */
static float ends_reach(const struct ends *ends, float middle)
{
    return MIN(middle - ends->least, ends->most - middle);
}

/* Middle of each dimension, and the step, from rows spread evenly over the set. */
static enum status scale_find(const struct vector_set *set, struct scale *scale, struct error *err)
{
    uint32_t dim = set->dim;
    uint32_t sample = MIN(set->count, (uint32_t)SAMPLE_ROWS);
    float values[VECTOR_DIM_MAX];
    void *memory = NULL;
    enum status status = bulk_alloc(dim, sizeof(struct ends), "value ranges", &memory, err);
    if (status != STATUS_OK)
        return status;
    struct ends *ends = memory;
    for (uint32_t d = 0; d < dim; d++)
        ends[d] = no_values;
    for (uint32_t i = 0; i < sample; i++) {
        row_values(set, (uint32_t)((uint64_t)i * set->count / sample), values);
        for (uint32_t d = 0; d < dim; d++)
            ends_add(&ends[d], values[d]);
    }
    float widest = 0.0f;
    for (uint32_t d = 0; d < dim; d++) {
        scale->middle[d] = ends_middle(&ends[d], sample);
        widest = MAX(widest, ends_reach(&ends[d], scale->middle[d]));
    }
    scale->factor = widest > 0.0f ? BYTE_REACH / widest : 0.0f;
    bulk_free(memory, dim, sizeof(struct ends));
    return STATUS_OK;
}

static void row_convert(const struct vector_set *set, const struct scale *scale, uint32_t row,
                        uint8_t *bytes)
{
    uint32_t dim = set->dim;
    float values[VECTOR_DIM_MAX];
    row_values(set, row, values);
    for (uint32_t d = 0; d < dim; d++) {
        float steps = (values[d] - scale->middle[d]) * scale->factor;
        float held = MIN(MAX(steps, (float)-BYTE_REACH), (float)BYTE_REACH);
        bytes[d] = (uint8_t)(BYTE_MIDDLE + (int)lrintf(held));
    }
}

enum status byte_view_create(const struct vector_set *set, struct byte_view *view,
                             struct error *err)
{
    *view = (struct byte_view){.rows = byte_view_of_set(set)};
    if (byte_view_exact(set))
        return STATUS_OK;
    size_t stride = byte_view_row_bytes(set->type, set->metric, set->dim);
    void *bytes = NULL;
    void *scale = NULL;
    enum status status = bulk_alloc(set->count, stride, "vectors as bytes", &bytes, err);
    if (status == STATUS_OK)
        status = bulk_alloc(1, sizeof(struct scale), "value ranges", &scale, err);
    if (status == STATUS_OK)
        status = scale_find(set, scale, err);
    view->owned = bytes;
    view->count = set->count;
    view->rows = (struct byte_rows){.rows = bytes, .stride_bytes = stride, .dim = set->dim};
    if (status == STATUS_OK) {
#pragma omp parallel for schedule(static)
        for (uint32_t row = 0; row < set->count; row++)
            row_convert(set, scale, row, view->owned + row * stride);
    }
    bulk_free(scale, 1, sizeof(struct scale));
    if (status != STATUS_OK)
        byte_view_destroy(view);
    return status;
}

/* ---- whether the bytes tell enough ---- */

/* Squared distances from each query to its nearest in the small sample and in the whole one. */
struct nearest {
    const struct vector_set *set;
    uint32_t rows[JUDGE_QUERIES];
    int32_t small[JUDGE_QUERIES];
    int32_t whole[JUDGE_QUERIES];
};

static int i32_order(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a;
    int32_t y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static bool is_same(const struct vector_set *set, uint32_t a, uint32_t b)
{
    return a == b || vector_set_pair(set, a, b) == 0.0f;
}

/* Compares the queries with sample rows ids[count], of which every JUDGE_STEP-th is in the small
 * sample. The query itself and its copies do not count; what only its bytes are equal to does. */
static void nearest_update(struct tile *tile, const struct byte_rows *rows, const uint32_t *ids,
                           uint32_t count, struct nearest *nearest)
{
    int32_t scores[JUDGE_TILE_ROWS] ALIGNED(64);
    tile_fill(tile, rows, ids, count);
    for (uint32_t q = 0; q < JUDGE_QUERIES; q++) {
        int32_t square = 0;
        const uint8_t *row = rows->rows + nearest->rows[q] * rows->stride_bytes;
        for (uint32_t d = 0; d < rows->dim; d++)
            square += (row[d] ^ rows->flip) * (row[d] ^ rows->flip);
        tile_ask(tile, rows, &nearest->rows[q], 1);
        tile_scores(tile, 1, scores);
        for (uint32_t i = 0; i < count; i++) {
            int32_t distance = square + scores[i];
            if (distance == 0 && is_same(nearest->set, nearest->rows[q], ids[i]))
                continue;
            nearest->whole[q] = MIN(nearest->whole[q], distance);
            if (i % JUDGE_STEP == 0)
                nearest->small[q] = MIN(nearest->small[q], distance);
        }
    }
}

/* Twice as many rows bring the nearest nearer by a factor that depends on how many dimensions the
 * data really has; the two samples tell it. */
static bool judge(struct nearest *nearest, uint32_t sample, uint32_t count, uint32_t dim)
{
    qsort(nearest->small, JUDGE_QUERIES, sizeof(int32_t), i32_order);
    qsort(nearest->whole, JUDGE_QUERIES, sizeof(int32_t), i32_order);
    const uint32_t median = JUDGE_QUERIES / 2;
    double small = nearest->small[median];
    double whole = nearest->whole[median];
    if (whole == 0.0)
        return false;
    double slope = log(MAX(small / whole, 1.0)) / log(JUDGE_STEP);
    double expected = whole * pow((double)sample / count, slope);
    /* Rounding two rows adds dim / 6 on average. */
    return expected >= 16.0 + 8.0 * dim / 6.0;
}

enum status byte_view_judge(const struct vector_set *set, const struct byte_view *view,
                            bool *faithful, struct error *err)
{
    uint32_t sample = MIN(set->count, (uint32_t)JUDGE_ROWS);
    struct nearest nearest = {.set = set};
    struct tile tile;
    *faithful = true;
    if (view->owned == NULL || sample < JUDGE_QUERIES)
        return STATUS_OK;
    tile_init(&tile, view->rows.dim, cpu_features());
    enum status status = tile_reserve(&tile, JUDGE_TILE_ROWS, err);
    for (uint32_t q = 0; q < JUDGE_QUERIES; q++) {
        nearest.rows[q] = (uint32_t)(((uint64_t)q * 2 + 1) * set->count / (2 * JUDGE_QUERIES));
        nearest.small[q] = nearest.whole[q] = INT32_MAX;
    }
    for (uint32_t first = 0; status == STATUS_OK && first < sample; first += JUDGE_TILE_ROWS) {
        uint32_t ids[JUDGE_TILE_ROWS];
        uint32_t here = MIN(sample - first, (uint32_t)JUDGE_TILE_ROWS);
        for (uint32_t i = 0; i < here; i++)
            ids[i] = (uint32_t)((uint64_t)(first + i) * set->count / sample);
        nearest_update(&tile, &view->rows, ids, here, &nearest);
    }
    tile_destroy(&tile);
    if (status == STATUS_OK)
        *faithful = judge(&nearest, sample, set->count, view->rows.dim);
    return status;
}

void byte_view_destroy(struct byte_view *view)
{
    if (view->owned)
        bulk_free(view->owned, view->count, view->rows.stride_bytes);
    memset(view, 0, sizeof(*view));
}
