/*
 * distance.c - chooses kernels for a CPU and makes metrics of them; see distance.h.
 *
 * Holds no state. Everything is deterministic: which kernel ran cannot be told from a result, and
 * the few operations added here are single IEEE ones, in a fixed order (compiled with
 * -ffp-contract=off).
 */
#include "common/distance.h"

#include <assert.h>
#include <math.h>

#include "common/cpu.h"
#include "common/distance_internal.h"

/* A chunk's rows are still in the L1 when cosine reads them a second time, for their norms. */
enum { COSINE_CHUNK_ROWS = 64, COSINE_CHUNK_BYTES = 16384 };

/* Outside these, f32 sums of squares may overflow, or lose elements to underflow: cosine then takes
 * the slow road in double, where no f32 can do either. Only types with the range of f32 ever get
 * there, and zero vectors. */
static const float NORM_SQUARED_MIN = 1e-30f;
static const float NORM_SQUARED_MAX = 1e30f;
static const float SCALE_MIN = 1e-15f;
static const float SCALE_MAX = 1e15f;
static const double SCALE_LIMIT = 1e30; /* keeps the scale of subnormal queries a finite f32 */

/* Elements that the slow road converts at a time. */
enum { SLOW_CHUNK = 64 };

/* A staircase: each better table within `features` replaces the last. VNNI code also uses the
 * AVX-512 it is an extension of. */
static const struct distance_kernels *kernels_of(enum distance_slot slot, unsigned features)
{
    const struct distance_kernels *kernels = &distance_scalar_kernels[slot];
#if defined(__x86_64__)
    const unsigned vnni = CPU_AVX512 | CPU_AVX512_VNNI;
    if (features & CPU_AVX2)
        kernels = &distance_avx2_kernels[slot];
    if (features & CPU_AVX512)
        kernels = &distance_avx512_kernels[slot];
    if ((features & vnni) == vnni && slot < DISTANCE_INTEGER_TYPES)
        kernels = &distance_vnni_kernels[slot];
#else
    (void)features;
#endif
    return kernels;
}

const struct distance_kernels *distance_kernels_get(enum element_type type, unsigned features)
{
    static const enum distance_slot slots[] = {
        [ELEMENT_U8] = DISTANCE_U8,   [ELEMENT_I8] = DISTANCE_I8,     [ELEMENT_F16] = DISTANCE_F16,
        [ELEMENT_F32] = DISTANCE_F32, [ELEMENT_BF16] = DISTANCE_BF16, [ELEMENT_I8S] = DISTANCE_I8S,
    };
    assert(element_is_stored(type));
    return kernels_of(slots[type], features);
}

const struct distance_kernels *distance_kernels_from_f32(enum element_type row_type,
                                                         unsigned features)
{
    static const enum distance_slot slots[] = {
        [ELEMENT_F16] = DISTANCE_F32_F16,
        [ELEMENT_F32] = DISTANCE_F32,
        [ELEMENT_BF16] = DISTANCE_F32_BF16,
        [ELEMENT_I8S] = DISTANCE_F32_I8S,
    };
    assert(element_is_stored(row_type) && row_type != ELEMENT_U8 && row_type != ELEMENT_I8);
    return kernels_of(slots[row_type], features);
}

void distance_init_query(struct distance *self, enum element_type given, enum element_type type,
                         enum metric metric, uint32_t dim)
{
    const unsigned features = cpu_features();
    assert(metric >= METRIC_L2 && metric <= METRIC_COSINE);
    *self = (struct distance){
        .row_kernels = distance_kernels_get(type, features),
        .query_type = element_compared_as(given, type),
        .type = type,
        .metric = metric,
        .dim = dim,
    };
    self->query_kernels = distance_kernels_get(self->query_type, features);
    self->kernels =
        self->query_type == type ? self->row_kernels : distance_kernels_from_f32(type, features);
}

void distance_init(struct distance *self, enum element_type type, enum metric metric, uint32_t dim)
{
    distance_init_query(self, type, type, metric, dim);
}

float distance_query_squared(const struct distance *self, const void *query)
{
    return self->query_kernels->dot(query, query, self->dim);
}

/* Sums over all elements of a * a, b * b and a * b. */
struct moments {
    double aa, bb, ab;
};

/* Of a query and a row. */
static struct moments moments_of(const struct distance *self, const void *query, const void *row)
{
    struct moments sums = {0};
    for (size_t first = 0; first < self->dim; first += SLOW_CHUNK) {
        float x[SLOW_CHUNK], y[SLOW_CHUNK];
        struct element_part part = {self->dim, first, MIN(self->dim - first, (size_t)SLOW_CHUNK)};
        element_vector_part_to_f32(self->query_type, query, part, x);
        element_vector_part_to_f32(self->type, row, part, y);
        for (size_t i = 0; i < part.count; i++) {
            sums.aa += (double)x[i] * (double)x[i];
            sums.bb += (double)y[i] * (double)y[i];
            sums.ab += (double)x[i] * (double)y[i];
        }
    }
    return sums;
}

/* |query|^2 where f32 does not hold it. */
static double query_squared_slow(const struct distance *self, const void *query)
{
    struct distance of_queries = *self;
    of_queries.type = self->query_type;
    return moments_of(&of_queries, query, query).aa;
}

float distance_query_scale(const struct distance *self, const void *query)
{
    if (self->metric != METRIC_COSINE)
        return 0;
    float squared = distance_query_squared(self, query);
    if (squared >= NORM_SQUARED_MIN && squared <= NORM_SQUARED_MAX)
        return 1 / sqrtf(squared);
    double exact = query_squared_slow(self, query);
    return exact > 0 ? (float)fmin(1 / sqrt(exact), SCALE_LIMIT) : 0;
}

static float cosine_distance(const struct distance *self, const void *query, float query_scale,
                             const void *row, float dot)
{
    float squared = self->row_kernels->dot(row, row, self->dim);
    bool query_is_plain = query_scale >= SCALE_MIN && query_scale <= SCALE_MAX;
    bool row_is_plain = squared >= NORM_SQUARED_MIN && squared <= NORM_SQUARED_MAX;
    if (LIKELY(query_is_plain && row_is_plain))
        return 1 - dot * query_scale / sqrtf(squared);
    if (query_scale == 0)
        return 1;
    struct moments sums = moments_of(self, query, row);
    if (sums.bb <= 0)
        return 1;
    return (float)(1 - sums.ab / sqrt(sums.aa) / sqrt(sums.bb));
}

static void cosine_rows(const struct distance *self, const void *query, float query_scale,
                        struct distance_batch batch)
{
    size_t fit = COSINE_CHUNK_BYTES / (element_vector_bytes(self->type, self->dim) + 1);
    size_t chunk =
        MIN(MAX(fit / DISTANCE_GROUP, (size_t)1) * DISTANCE_GROUP, (size_t)COSINE_CHUNK_ROWS);
    float dots[COSINE_CHUNK_ROWS];
    for (size_t first = 0; first < batch.count; first += chunk) {
        size_t count = MIN(chunk, batch.count - first);
        const unsigned char *rows = batch.base + first * batch.stride_bytes;
        self->kernels->dot_rows(query, rows, batch.stride_bytes, count, self->dim, dots);
        for (size_t i = 0; i < count; i++)
            batch.out[first + i] =
                cosine_distance(self, query, query_scale, rows + i * batch.stride_bytes, dots[i]);
    }
}

void distance_rows(const struct distance *self, const void *query, float query_scale,
                   const void *rows, size_t stride_bytes, size_t count, float *out)
{
    switch (self->metric) {
    case METRIC_L2:
        self->kernels->l2sq_rows(query, rows, stride_bytes, count, self->dim, out);
        break;
    case METRIC_IP:
        self->kernels->dot_rows(query, rows, stride_bytes, count, self->dim, out);
        for (size_t i = 0; i < count; i++)
            out[i] = 0 - out[i]; /* not -out[i], which makes -0 of 0 */
        break;
    case METRIC_COSINE:
        cosine_rows(self, query, query_scale,
                    (struct distance_batch){
                        .base = rows, .stride_bytes = stride_bytes, .count = count, .out = out});
        break;
    case METRIC_NONE:
        assert(false); /* distance_init() refuses it */
        break;
    }
}
