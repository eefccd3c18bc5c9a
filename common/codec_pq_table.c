/*
 * codec_pq_table.c - query tables of product quantization, and the scalar kernels that are the
 * reference for the other instruction sets.
 *
 * A table holds code_bytes x 256 floats: entry [m][c] is the part that centroid c of subspace m
 * adds to a distance. An estimate is the sum of code_bytes entries.
 *
 * Threads: everything here is pure over its arguments.
 */
#include <math.h>
#include <string.h>

#include "common/codec_internal.h"
#include "common/cpu.h"

static void accumulate(const struct codec_pq_tile *tile)
{
    for (size_t j = 0; j < tile->count; j++) {
        const float *centroid = tile->centroids + j * tile->stride;
        float *out = tile->distances + j * CODEC_LANES;
        for (size_t lane = 0; lane < CODEC_LANES; lane++) {
            float sum = tile->fresh ? 0.0f : out[lane];
            for (size_t d = 0; d < tile->dims; d++) {
                float difference = tile->points[d * CODEC_LANES + lane] - centroid[d];
                sum = fmaf(difference, difference, sum);
            }
            out[lane] = sum;
        }
    }
}

static void argmin(const float *distances, size_t count, uint32_t first, float *best,
                   uint32_t *labels)
{
    for (size_t j = 0; j < count; j++) {
        for (size_t lane = 0; lane < CODEC_LANES; lane++) {
            float distance = distances[j * CODEC_LANES + lane];
            if (distance < best[lane]) {
                best[lane] = distance;
                labels[lane] = first + (uint32_t)j;
            }
        }
    }
}

static void group_l2(const float *vector, size_t dims, const float *points, size_t groups,
                     float scale, float *out)
{
    for (size_t g = 0; g < groups; g++) {
        const float *group = points + g * dims * CODEC_LANES;
        for (size_t lane = 0; lane < CODEC_LANES; lane++) {
            float sum = 0.0f;
            for (size_t d = 0; d < dims; d++) {
                float difference = group[d * CODEC_LANES + lane] - vector[d];
                sum = fmaf(difference, difference, sum);
            }
            out[g * CODEC_LANES + lane] = sum * scale;
        }
    }
}

static void seed(const float *vector, size_t dims, const float *points, size_t groups, bool update,
                 float *nearest, float *lane_sums)
{
    float distances[CODEC_LANES];
    for (size_t lane = 0; lane < CODEC_LANES; lane++)
        lane_sums[lane] = 0.0f;
    for (size_t g = 0; g < groups; g++) {
        group_l2(vector, dims, points + g * dims * CODEC_LANES, 1, 1.0f, distances);
        for (size_t lane = 0; lane < CODEC_LANES; lane++) {
            float *known = &nearest[g * CODEC_LANES + lane];
            float smaller = distances[lane] < *known ? distances[lane] : *known;
            lane_sums[lane] += smaller;
            if (update)
                *known = smaller;
        }
    }
}

/*
 * The gather. Measured on Zen 4, M = 32, codes in L2, gcc 12, ns a code: 8.5 (this), 10 (byte loads
 * of the code), 10 (8-byte loads), 15 (8- and 16-lane hardware gathers). The lookups are bound by
 * two float loads a cycle and the extraction of bytes by the width of the core; loading two code
 * bytes at once costs least of both. So every level uses this one.
 */

enum { GATHER_AHEAD = 16 }; /* 16 codes of 8 ns cover the latency of DRAM */

ALWAYS_INLINE uint32_t load_pair(const uint8_t *code)
{
    uint16_t pair;
    memcpy(&pair, code, sizeof(pair));
    return pair;
}

ALWAYS_INLINE float estimate(const float *table, size_t code_bytes, const uint8_t *code)
{
    enum { ROW = CODEC_PQ_CENTROIDS };
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    const float *row = table;
    const uint8_t *end = code + (code_bytes & ~(size_t)(CODEC_PQ_PARTIAL_SUMS - 1));
    for (; code < end; code += CODEC_PQ_PARTIAL_SUMS, row += CODEC_PQ_PARTIAL_SUMS * ROW) {
        uint32_t a = load_pair(code), b = load_pair(code + 2);
        uint32_t c = load_pair(code + 4), d = load_pair(code + 6);
        s0 += row[a & 255];
        s1 += row[1 * ROW + (a >> 8)];
        s2 += row[2 * ROW + (b & 255)];
        s3 += row[3 * ROW + (b >> 8)];
        s4 += row[4 * ROW + (c & 255)];
        s5 += row[5 * ROW + (c >> 8)];
        s6 += row[6 * ROW + (d & 255)];
        s7 += row[7 * ROW + (d >> 8)];
    }
    size_t rest = code_bytes % CODEC_PQ_PARTIAL_SUMS;
    s0 += rest > 0 ? row[code[0]] : 0;
    s1 += rest > 1 ? row[1 * ROW + code[1]] : 0;
    s2 += rest > 2 ? row[2 * ROW + code[2]] : 0;
    s3 += rest > 3 ? row[3 * ROW + code[3]] : 0;
    s4 += rest > 4 ? row[4 * ROW + code[4]] : 0;
    s5 += rest > 5 ? row[5 * ROW + code[5]] : 0;
    s6 += rest > 6 ? row[6 * ROW + code[6]] : 0;
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7));
}

ALWAYS_INLINE void gather_codes(const float *table, size_t code_bytes, const uint8_t *codes,
                                const uint32_t *ids, size_t count, float *out)
{
    bool one_line = 64 % code_bytes == 0 && (uintptr_t)codes % code_bytes == 0;
    const size_t bytes = one_line ? 1 : code_bytes;
    for (size_t i = 0; i < count && i < GATHER_AHEAD; i++)
        codec_prefetch(codes + (size_t)ids[i] * code_bytes, bytes);
    for (size_t i = 0; i < count; i++) {
        if (i + GATHER_AHEAD < count)
            codec_prefetch(codes + (size_t)ids[i + GATHER_AHEAD] * code_bytes, bytes);
        out[i] = estimate(table, code_bytes, codes + (size_t)ids[i] * code_bytes);
    }
}

void codec_pq_gather(const float *table, size_t code_bytes, const uint8_t *codes,
                     const uint32_t *ids, size_t count, float *out)
{
    /* The mask tells the compiler what the test found, so that the rest of estimate() falls away.
     */
    const size_t whole = code_bytes & ~(size_t)(CODEC_PQ_PARTIAL_SUMS - 1);
    if (code_bytes == whole)
        gather_codes(table, whole, codes, ids, count, out);
    else
        gather_codes(table, code_bytes, codes, ids, count, out);
}

static const struct codec_pq_kernels kernels_scalar = {
    .accumulate = accumulate,
    .argmin = argmin,
    .group_l2 = group_l2,
    .seed = seed,
    .gather = codec_pq_gather,
};

const struct codec_pq_kernels *codec_pq_kernels_get(unsigned features)
{
    if (features & CPU_AVX512)
        return &codec_pq_kernels_avx512;
    if (features & CPU_AVX2)
        return &codec_pq_kernels_avx2;
    return &kernels_scalar;
}

size_t codec_pq_table_bytes(const struct codec *codec)
{
    return (size_t)codec->params.code_bytes * CODEC_PQ_CENTROIDS * sizeof(float);
}

void codec_pq_table_fill(const struct codec_pq *pq, const float *vector, float scale, float offset,
                         float *table)
{
    const struct codec_params *params = &pq->base.params;
    for (uint32_t m = 0; m < params->code_bytes; m++) {
        size_t first = codec_pq_first(params, m);
        pq->kernels->group_l2(
            vector + first, codec_pq_sub_dim(params, m), pq->lanes + first * CODEC_PQ_CENTROIDS,
            CODEC_PQ_CENTROIDS / CODEC_LANES, scale, table + (size_t)m * CODEC_PQ_CENTROIDS);
    }
    /* Every estimate has exactly one entry of the first subspace: the offset goes there. */
    if (offset != 0.0f)
        for (size_t j = 0; j < CODEC_PQ_CENTROIDS; j++)
            table[j] += offset;
}

void codec_pq_table_build(const struct codec *codec, const struct codec_params *as_given,
                          const void *query, void *table)
{
    const struct codec_query_view seen = codec_view_of_query(as_given, query);
    float vector[VECTOR_DIM_MAX + 1];
    codec_view_load(as_given, query, &seen.view, 0, codec_view_dims(as_given), vector);
    codec_pq_table_fill((const struct codec_pq *)codec, vector, seen.scale, seen.offset, table);
}

void codec_pq_table_gather(const struct codec *codec, const void *table, const uint8_t *codes,
                           const uint32_t *ids, size_t count, float *out)
{
    const struct codec_pq *pq = (const struct codec_pq *)codec;
    pq->kernels->gather(table, codec->params.code_bytes, codes, ids, count, out);
}
