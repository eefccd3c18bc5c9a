/*
 * element.c - element types: names, sizes and conversions. Pure functions, any thread.
 *
 * binary16 is converted with integer operations and one exact float subtraction or addition (after
 * F. Giesen's "half to float done quick"), so the result is the IEEE one on any CPU, with denormals
 * flushed or not, and needs no F16C. Loops run over fixed chunks because that is what lets -O2
 * vectorise them. Rounding relies on the default rounding mode, which nothing here changes.
 */
#include "common/element.h"

#include <string.h>

enum { ELEMENT_CHUNK = 32 };

static const char *const element_names[] = {
    [ELEMENT_U8] = "u8",   [ELEMENT_I8] = "i8",     [ELEMENT_F16] = "f16", [ELEMENT_F32] = "f32",
    [ELEMENT_I32] = "i32", [ELEMENT_BF16] = "bf16", [ELEMENT_I8S] = "i8s",
};

static const char *const metric_names[] = {
    [METRIC_L2] = "l2",
    [METRIC_IP] = "ip",
    [METRIC_COSINE] = "cosine",
};

const char *element_name(enum element_type type)
{
    if ((unsigned)type >= ARRAY_LENGTH(element_names) || !element_names[type])
        return "unknown";
    return element_names[type];
}

const char *metric_name(enum metric metric)
{
    if ((unsigned)metric >= ARRAY_LENGTH(metric_names) || !metric_names[metric])
        return "unknown";
    return metric_names[metric];
}

enum element_type element_parse(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LENGTH(element_names); i++)
        if (element_names[i] && strcmp(name, element_names[i]) == 0)
            return (enum element_type)i;
    return ELEMENT_NONE;
}

enum metric metric_parse(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LENGTH(metric_names); i++)
        if (metric_names[i] && strcmp(name, metric_names[i]) == 0)
            return (enum metric)i;
    return METRIC_NONE;
}

size_t element_bytes(enum element_type type)
{
    switch (type) {
    case ELEMENT_U8:
    case ELEMENT_I8:
    case ELEMENT_I8S:
        return 1;
    case ELEMENT_F16:
    case ELEMENT_BF16:
        return 2;
    case ELEMENT_F32:
    case ELEMENT_I32:
        return 4;
    case ELEMENT_NONE:
        break;
    }
    return 0;
}

bool element_is_input(enum element_type type)
{
    return type == ELEMENT_U8 || type == ELEMENT_I8 || type == ELEMENT_F16 || type == ELEMENT_F32;
}

bool element_is_stored(enum element_type type)
{
    return element_is_input(type) || type == ELEMENT_BF16 || type == ELEMENT_I8S;
}

bool element_may_store(enum element_type from, enum element_type to)
{
    bool smaller = to == ELEMENT_BF16 || to == ELEMENT_I8S;
    if (from == to)
        return element_is_input(from);
    return (from == ELEMENT_F32 && (smaller || to == ELEMENT_F16)) ||
           (from == ELEMENT_F16 && smaller);
}

ALWAYS_INLINE uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

ALWAYS_INLINE float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* All bits set where `condition` holds. A mask and not a ternary, because the compiler turns this
 * form into vector selects. */
ALWAYS_INLINE uint32_t mask_of(bool condition)
{
    return 0u - (uint32_t)condition;
}

/* Signalling NaNs become quiet, as F16C makes them. */
ALWAYS_INLINE float f32_of_f16(uint16_t half)
{
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t subnormal = mask_of(magnitude < 1u << 23);
    uint32_t special = mask_of(magnitude >= 0x0f800000u); /* infinity, NaN */
    uint32_t nan = mask_of(magnitude > 0x0f800000u);
    uint32_t normal_bits = magnitude + (112u << 23) + (special & (112u << 23));
    normal_bits |= nan & 0x00400000u;
    /* Both operands are normal and the difference is exact. */
    float small = float_of(magnitude + (113u << 23)) - float_of(113u << 23);
    uint32_t bits = (normal_bits & ~subnormal) | (bits_of(small) & subnormal);
    return float_of(bits | (uint32_t)(half & 0x8000u) << 16);
}

ALWAYS_INLINE uint16_t f16_of_f32(float value)
{
    const uint32_t magic = 126u << 23; /* 0.5: its last bit weighs 2^-24, as f16 subnormals' does */
    uint32_t bits = bits_of(value);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t overflow = mask_of(magnitude >= 143u << 23); /* 65536 and up, infinity, NaN */
    uint32_t nan = mask_of(magnitude > 0x7f800000u);
    uint32_t subnormal = mask_of(magnitude < 113u << 23);
    /* Adding `magic` makes the FPU round to the last f16 bit. */
    uint32_t small = bits_of(float_of(magnitude & subnormal) + float_of(magic)) - magic;
    /* Adding just under half of f16's last bit, and one more when it is odd, rounds to even; a
     * carry runs into the exponent, up to infinity. */
    uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    uint32_t special = 0x7c00u | (nan & (0x200u | ((magnitude >> 13) & 0x3ffu)));
    uint32_t half = (special & overflow) | (small & subnormal) | (normal & ~overflow & ~subnormal);
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

ALWAYS_INLINE float f32_of_bf16(uint16_t upper)
{
    return float_of((uint32_t)upper << 16);
}

/* A carry runs into the exponent, up to infinity; a NaN keeps its sign and becomes quiet. */
ALWAYS_INLINE uint16_t bf16_of_f32(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t nan = mask_of((bits & 0x7fffffffu) > 0x7f800000u);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((rounded & ~nan) | ((bits >> 16 | 0x40u) & nan));
}

/* Rounds to nearest even by pushing the fraction out of the mantissa; `value` within +-2^22. */
ALWAYS_INLINE uint32_t rounded_bits(float value)
{
    return bits_of(value + 0x1.8p23f);
}

ALWAYS_INLINE float clamp(float value, float low, float high)
{
    value = value == value ? value : 0.0f; /* a NaN has no nearest integer: 0 */
    value = value > low ? value : low;
    return value < high ? value : high;
}

ALWAYS_INLINE uint8_t u8_of_f32(float value)
{
    return (uint8_t)(rounded_bits(clamp(value, 0.0f, 255.0f)) & 0xffu);
}

ALWAYS_INLINE int8_t i8_of_f32(float value)
{
    return (int8_t)(uint8_t)(rounded_bits(clamp(value, -128.0f, 127.0f)) & 0xffu);
}

ALWAYS_INLINE int32_t i32_of_f32(float value)
{
    if (!(value < 0x1p31f))
        return value >= 0x1p31f ? INT32_MAX : 0;
    if (value <= -0x1p31f)
        return INT32_MIN;
    double shifted = (double)value + 0x1.8p52;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    return (int32_t)(uint32_t)(bits & 0xffffffffu);
}

ALWAYS_INLINE float f32_of_u8(uint8_t value)
{
    return (float)value;
}

ALWAYS_INLINE float f32_of_i8(int8_t value)
{
    return (float)value;
}

ALWAYS_INLINE float f32_of_i32(int32_t value)
{
    return (float)value;
}

ALWAYS_INLINE float f32_of_f32(float value)
{
    return value;
}

/* Chunks go through aligned locals: src may be unaligned, and a constant trip count vectorises. */
#define DEFINE_CONVERSION(name, from, to, convert)                                                 \
    static void name(const uint8_t *src, size_t count, uint8_t *dst)                               \
    {                                                                                              \
        from in[ELEMENT_CHUNK];                                                                    \
        to out[ELEMENT_CHUNK];                                                                     \
        for (; count >= ELEMENT_CHUNK; count -= ELEMENT_CHUNK) {                                   \
            memcpy(in, src, sizeof(in));                                                           \
            for (int i = 0; i < ELEMENT_CHUNK; i++)                                                \
                out[i] = convert(in[i]);                                                           \
            memcpy(dst, out, sizeof(out));                                                         \
            src += sizeof(in);                                                                     \
            dst += sizeof(out);                                                                    \
        }                                                                                          \
        for (; count > 0; count--) {                                                               \
            memcpy(in, src, sizeof(in[0]));                                                        \
            out[0] = convert(in[0]);                                                               \
            memcpy(dst, out, sizeof(out[0]));                                                      \
            src += sizeof(in[0]);                                                                  \
            dst += sizeof(out[0]);                                                                 \
        }                                                                                          \
    }

DEFINE_CONVERSION(convert_u8_f32, uint8_t, float, f32_of_u8)
DEFINE_CONVERSION(convert_i8_f32, int8_t, float, f32_of_i8)
DEFINE_CONVERSION(convert_f16_f32, uint16_t, float, f32_of_f16)
DEFINE_CONVERSION(convert_bf16_f32, uint16_t, float, f32_of_bf16)
DEFINE_CONVERSION(convert_i32_f32, int32_t, float, f32_of_i32)
DEFINE_CONVERSION(convert_f32_f32, float, float, f32_of_f32)
DEFINE_CONVERSION(convert_f32_u8, float, uint8_t, u8_of_f32)
DEFINE_CONVERSION(convert_f32_i8, float, int8_t, i8_of_f32)
DEFINE_CONVERSION(convert_f32_f16, float, uint16_t, f16_of_f32)
DEFINE_CONVERSION(convert_f32_bf16, float, uint16_t, bf16_of_f32)
DEFINE_CONVERSION(convert_f32_i32, float, int32_t, i32_of_f32)

void element_to_f32(enum element_type type, const void *src, size_t count, float *dst)
{
    uint8_t *out = (uint8_t *)dst;
    switch (type) {
    case ELEMENT_U8:
        convert_u8_f32(src, count, out);
        break;
    case ELEMENT_I8:
    case ELEMENT_I8S:
        convert_i8_f32(src, count, out);
        break;
    case ELEMENT_BF16:
        convert_bf16_f32(src, count, out);
        break;
    case ELEMENT_F16:
        convert_f16_f32(src, count, out);
        break;
    case ELEMENT_F32:
        convert_f32_f32(src, count, out);
        break;
    case ELEMENT_I32:
        convert_i32_f32(src, count, out);
        break;
    case ELEMENT_NONE:
        break;
    }
}

void element_from_f32(enum element_type type, const float *src, size_t count, void *dst)
{
    const uint8_t *in = (const uint8_t *)src;
    switch (type) {
    case ELEMENT_U8:
        convert_f32_u8(in, count, dst);
        break;
    case ELEMENT_I8:
    case ELEMENT_I8S:
        convert_f32_i8(in, count, dst);
        break;
    case ELEMENT_BF16:
        convert_f32_bf16(in, count, dst);
        break;
    case ELEMENT_F16:
        convert_f32_f16(in, count, dst);
        break;
    case ELEMENT_F32:
        convert_f32_f32(in, count, dst);
        break;
    case ELEMENT_I32:
        convert_f32_i32(in, count, dst);
        break;
    case ELEMENT_NONE:
        break;
    }
}

/* One pass that only answers yes or no over chunks; the element is looked for once it says no. */
#define DEFINE_FIND_SPECIAL(name, word, exponent)                                                  \
    static size_t name(const uint8_t *src, size_t count)                                           \
    {                                                                                              \
        word in[ELEMENT_CHUNK];                                                                    \
        size_t start = 0;                                                                          \
        for (; count - start >= ELEMENT_CHUNK; start += ELEMENT_CHUNK) {                           \
            word special = 0;                                                                      \
            memcpy(in, src + start * sizeof(word), sizeof(in));                                    \
            for (int i = 0; i < ELEMENT_CHUNK; i++)                                                \
                special |= (in[i] & (exponent)) == (exponent);                                     \
            if (special)                                                                           \
                break;                                                                             \
        }                                                                                          \
        for (; start < count; start++) {                                                           \
            memcpy(in, src + start * sizeof(word), sizeof(word));                                  \
            if ((in[0] & (exponent)) == (exponent))                                                \
                break;                                                                             \
        }                                                                                          \
        return start;                                                                              \
    }

DEFINE_FIND_SPECIAL(find_special_f16, uint16_t, 0x7c00u)
DEFINE_FIND_SPECIAL(find_special_bf16, uint16_t, 0x7f80u)
DEFINE_FIND_SPECIAL(find_special_f32, uint32_t, 0x7f800000u)

bool element_all_finite(enum element_type type, const void *src, size_t count, size_t *bad)
{
    size_t first = count;
    if (type == ELEMENT_F16)
        first = find_special_f16(src, count);
    else if (type == ELEMENT_BF16)
        first = find_special_bf16(src, count);
    else if (type == ELEMENT_F32)
        first = find_special_f32(src, count);
    if (first == count)
        return true;
    if (bad)
        *bad = first;
    return false;
}

/* ---- vectors ---- */

size_t element_vector_bytes(enum element_type type, size_t dim)
{
    return dim * element_bytes(type) + (type == ELEMENT_I8S ? sizeof(float) : 0);
}

/* The scale behind the elements of an i8s vector. */
static float scale_of(const void *vector, size_t dim)
{
    float scale;
    memcpy(&scale, (const uint8_t *)vector + dim, sizeof(scale));
    return scale;
}

void element_vector_part_to_f32(enum element_type type, const void *vector,
                                struct element_part part, float *dst)
{
    const uint8_t *src = (const uint8_t *)vector + part.first * element_bytes(type);
    element_to_f32(type, src, part.count, dst);
    if (type != ELEMENT_I8S)
        return;
    float scale = scale_of(vector, part.dim);
    for (size_t i = 0; i < part.count; i++)
        dst[i] *= scale;
}

void element_vector_to_f32(enum element_type type, const void *vector, size_t dim, float *dst)
{
    element_vector_part_to_f32(type, vector, (struct element_part){.dim = dim, .count = dim}, dst);
}

/* Of a scale so small that it is subnormal a coordinate may be more than 127 times. */
static void i8s_from_f32(const float *src, size_t dim, uint8_t *vector)
{
    float most = 0;
    for (size_t i = 0; i < dim; i++) {
        float magnitude = float_of(bits_of(src[i]) & 0x7fffffffu);
        most = magnitude > most ? magnitude : most;
    }
    float scale = most / 127;
    for (size_t i = 0; i < dim; i++) {
        float steps = scale > 0 ? clamp(src[i] / scale, -127.0f, 127.0f) : 0;
        vector[i] = (uint8_t)i8_of_f32(steps);
    }
    memcpy(vector + dim, &scale, sizeof(scale));
}

void element_vector_from_f32(enum element_type type, const float *src, size_t dim, void *vector)
{
    if (type == ELEMENT_I8S)
        i8s_from_f32(src, dim, vector);
    else
        element_from_f32(type, src, dim, vector);
}

bool element_vector_all_finite(enum element_type type, const void *vector, size_t dim, size_t *bad)
{
    if (type != ELEMENT_I8S)
        return element_all_finite(type, vector, dim, bad);
    const uint8_t *elements = vector;
    float scale = scale_of(vector, dim);
    for (size_t i = 0; i < dim; i++) {
        float value = (float)(int8_t)elements[i] * scale;
        if (value - value == 0)
            continue;
        if (bad)
            *bad = i;
        return false;
    }
    return true;
}
