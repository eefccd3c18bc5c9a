/*
 * codec_scalar_table.c - estimates from scalar codes, as every instruction set must give them.
 *
 * Pure.
 */
#include <string.h>

#include "common/codec_scalar_internal.h"
#include "common/cpu.h"

enum { GATHER_AHEAD = 16 };

/* <u, query> and <u, u - M> of a chunk of `bytes` bytes. */
ALWAYS_INLINE void add_chunk(const uint8_t *code, size_t bytes, const int8_t *query, int32_t bits,
                             int32_t *dot, int32_t *norm)
{
    const int32_t top = (1 << bits) - 1;
    const int32_t stride = CODEC_SCALAR_CHUNK / 8 * bits;
    for (int32_t shift = 0; shift < 8; shift += bits, query += stride) {
        for (size_t i = 0; i < bytes; i++) {
            int32_t u = code[i] >> shift & top;
            *dot += u * query[i];
            *norm += u * (u - top);
        }
    }
}

ALWAYS_INLINE float estimate(const struct codec_scalar_table *table, int32_t bits,
                             const uint8_t *code)
{
    const size_t chunk_bytes = codec_scalar_bytes(CODEC_SCALAR_CHUNK, (uint32_t)bits);
    const int8_t *query = table->query;
    int32_t dot = 0, norm = 0;
    for (uint32_t c = 0; c < table->chunks; c++) {
        add_chunk(code, chunk_bytes, query, bits, &dot, &norm);
        code += chunk_bytes;
        query += CODEC_SCALAR_CHUNK;
    }
    add_chunk(code, table->tail, query, bits, &dot, &norm);
    uint16_t half;
    float factor;
    memcpy(&half, code + table->tail, sizeof(half));
    element_to_f32(ELEMENT_F16, &half, 1, &factor);
    dot = 2 * dot + table->dot_base;
    norm = 4 * norm + table->norm_base;
    float distance = (table->base - table->linear * (factor * (float)dot)) +
                     table->square * ((factor * factor) * (float)norm);
    return (distance > 0 ? distance : 0) + table->offset;
}

ALWAYS_INLINE void gather(const struct codec_scalar_table *table, int32_t bits,
                          const uint8_t *codes, const uint32_t *ids, size_t count, float *out)
{
    const size_t bytes = table->code_bytes;
    for (size_t i = 0; i < count && i < GATHER_AHEAD; i++)
        codec_prefetch(codes + (size_t)ids[i] * bytes, bytes);
    for (size_t i = 0; i < count; i++) {
        if (i + GATHER_AHEAD < count)
            codec_prefetch(codes + (size_t)ids[i + GATHER_AHEAD] * bytes, bytes);
        out[i] = estimate(table, bits, codes + (size_t)ids[i] * bytes);
    }
}

#define DEFINE_GATHER(bits)                                                                        \
    static void gather_##bits(const struct codec_scalar_table *table, const uint8_t *codes,        \
                              const uint32_t *ids, size_t count, float *out)                       \
    {                                                                                              \
        gather(table, bits, codes, ids, count, out);                                               \
    }

DEFINE_GATHER(1)
DEFINE_GATHER(2)
DEFINE_GATHER(4)

static const struct codec_scalar_kernels kernels_scalar = {
    .gather = {[1] = gather_1, [2] = gather_2, [4] = gather_4},
};

/* AVX-512 without VNNI has no product of bytes that AVX2 lacks. */
const struct codec_scalar_kernels *codec_scalar_kernels_get(unsigned features)
{
#if defined(__x86_64__)
    const unsigned vnni = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI;
    if ((features & vnni) == vnni)
        return &codec_scalar_kernels_vnni;
    if (features & CPU_AVX2)
        return &codec_scalar_kernels_avx2;
#else
    (void)features;
#endif
    return &kernels_scalar;
}
