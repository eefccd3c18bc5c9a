/*
 * codec_rotation.c - signs and fast Walsh-Hadamard transforms; see codec_rotation.h.
 */
#include "common/codec_rotation.h"

#include <math.h>
#include <stdlib.h>

#include "common/random.h"

enum { ROUNDS_POWER = 3, ROUNDS_OTHER = 4 };

enum status codec_rotation_init(struct codec_rotation *rotation, uint32_t dims, uint64_t seed,
                                struct error *err)
{
    uint32_t power = 1;
    while (power <= dims / 2)
        power *= 2;
    const uint32_t rounds = power == dims ? ROUNDS_POWER : ROUNDS_OTHER;
    const size_t count = (size_t)rounds * power;
    float *signs = malloc(count * sizeof(*signs));
    if (!signs)
        return error_set(err, STATUS_NO_MEMORY, "codec: cannot allocate %zu signs", count);
    const float one = (float)(1 / sqrt((double)power));
    for (size_t i = 0; i < count; i++)
        signs[i] = random_at(seed, i / 64) >> (i % 64) & 1 ? -one : one;
    *rotation = (struct codec_rotation){dims, power, rounds, signs};
    return STATUS_OK;
}

void codec_rotation_fini(struct codec_rotation *rotation)
{
    free(rotation->signs);
}

/* Sums and differences of values `half` apart. */
static void butterflies(float *values, size_t count, size_t half)
{
    for (size_t first = 0; first < count; first += 2 * half) {
        float *low = values + first, *high = values + first + half;
        for (size_t i = 0; i < half; i++) {
            float a = low[i], b = high[i];
            low[i] = a + b;
            high[i] = a - b;
        }
    }
}

void codec_rotation_apply(const struct codec_rotation *rotation, float *values)
{
    const size_t power = rotation->power;
    for (size_t r = 0; r < rotation->rounds; r++) {
        float *part = values + (r % 2 ? rotation->dims - power : 0);
        const float *signs = rotation->signs + r * power;
        for (size_t i = 0; i < power; i++)
            part[i] *= signs[i];
        for (size_t half = 1; half < power; half *= 2)
            butterflies(part, power, half);
    }
}
