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
#include <string.h>

#include "common/cpu.h"
#include "common/distance_internal.h"

/* A chunk's rows are still in the L1 when cosine reads them a second time, for their norms. */
enum { COSINE_CHUNK_ROWS = 64, COSINE_CHUNK_BYTES = 16384 };

/* Outside these, f32 sums of squares may overflow, or lose elements to underflow: cosine then takes
 * the slow road in double, where no f32 can do either. Only f32 vectors ever get there. */
static const float NORM_SQUARED_MIN = 1e-30f;
static const float NORM_SQUARED_MAX = 1e30f;
static const float SCALE_MIN = 1e-15f;
static const float SCALE_MAX = 1e15f;
static const double SCALE_LIMIT = 1e30; /* keeps the scale of subnormal queries a finite f32 */

/* A staircase: each better table within `features` replaces the last. VNNI code also uses the
 * AVX-512 it is an extension of. */
const struct distance_kernels *distance_kernels_get(enum element_type type, unsigned features)
{
    assert(type >= ELEMENT_U8 && type <= ELEMENT_F32);
    size_t slot = (size_t)type - ELEMENT_U8;
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

void distance_init(struct distance *self, enum element_type type, enum metric metric, uint32_t dim)
{
    assert(metric >= METRIC_L2 && metric <= METRIC_COSINE);
    *self = (struct distance){
        .kernels = distance_kernels_get(type, cpu_features()),
        .type = type,
        .metric = metric,
        .dim = dim,
    };
}

/* Sums over all elements of a * a, b * b and a * b of two f32 vectors. */
struct moments {
    double aa, bb, ab;
};

static struct moments moments_of(const void *a, const void *b, size_t dim)
{
    struct moments sums = {0};
    for (size_t i = 0; i < dim; i++) {
        float x, y; /* vectors need not be aligned */
        memcpy(&x, (const unsigned char *)a + i * sizeof(x), sizeof(x));
        memcpy(&y, (const unsigned char *)b + i * sizeof(y), sizeof(y));
        sums.aa += (double)x * (double)x;
        sums.bb += (double)y * (double)y;
        sums.ab += (double)x * (double)y;
    }
    return sums;
}

float distance_query_scale(const struct distance *self, const void *query)
{
    if (self->metric != METRIC_COSINE)
        return 0;
    float squared = self->kernels->dot(query, query, self->dim);
    if ((squared >= NORM_SQUARED_MIN && squared <= NORM_SQUARED_MAX) || self->type != ELEMENT_F32)
        return squared > 0 ? 1 / sqrtf(squared) : 0;
    double exact = moments_of(query, query, self->dim).aa;
    return exact > 0 ? (float)fmin(1 / sqrt(exact), SCALE_LIMIT) : 0;
}

static float cosine_distance(const struct distance *self, const void *query, float query_scale,
                             const void *row, float dot)
{
    float squared = self->kernels->dot(row, row, self->dim);
    bool query_is_plain = query_scale >= SCALE_MIN && query_scale <= SCALE_MAX;
    bool row_is_plain = squared >= NORM_SQUARED_MIN && squared <= NORM_SQUARED_MAX;
    if (LIKELY(query_is_plain && row_is_plain))
        return 1 - dot * query_scale / sqrtf(squared);
    if (query_scale == 0 || self->type != ELEMENT_F32)
        return 1;
    struct moments sums = moments_of(query, row, self->dim);
    if (sums.bb <= 0)
        return 1;
    return (float)(1 - sums.ab / sqrt(sums.aa) / sqrt(sums.bb));
}

static void cosine_rows(const struct distance *self, const void *query, float query_scale,
                        struct distance_batch batch)
{
    size_t fit = COSINE_CHUNK_BYTES / (self->dim * element_bytes(self->type) + 1);
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
