/*
 * cpu.c - which instruction sets this CPU and OS offer, less what NIGHTJAR_CPU takes away.
 *
 * Detected once under pthread_once; thereafter a plain load. A word in NIGHTJAR_CPU that is none of
 * the four levels removes nothing: a kernel choice has no way to fail, and every level returns the
 * same bytes.
 */
#include "common/cpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/compiler.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum {
    LEVEL_SCALAR = 0,
    LEVEL_AVX2 = CPU_AVX2,
    LEVEL_AVX512 = CPU_AVX2 | CPU_AVX512,
    LEVEL_VNNI = CPU_AVX2 | CPU_AVX512 | CPU_AVX512_VNNI,
};

static const struct level {
    const char *word; /* in NIGHTJAR_CPU */
    unsigned features;
} levels[] = {
    {"scalar", LEVEL_SCALAR},
    {"avx2", LEVEL_AVX2},
    {"avx512", LEVEL_AVX512},
    {"vnni", LEVEL_VNNI},
};

#if defined(__x86_64__)
/* __builtin_cpu_supports() asks XGETBV too, so a feature whose registers the OS does not save is
 * absent. clang 14 knows no name for F16C, hence CPUID; its registers are AVX's. */
static unsigned detect(void)
{
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_F16C) ||
        !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return LEVEL_SCALAR;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return LEVEL_AVX2;
    return __builtin_cpu_supports("avx512vnni") ? LEVEL_VNNI : LEVEL_AVX512;
}
#else
static unsigned detect(void)
{
    return LEVEL_SCALAR;
}
#endif

/* Written inside once_control's callback only, which orders it before every return of
 * pthread_once(). */
static pthread_once_t once_control = PTHREAD_ONCE_INIT;
static unsigned usable;

static void detect_once(void)
{
    usable = detect();
    const char *word = getenv("NIGHTJAR_CPU");
    for (size_t i = 0; word && i < ARRAY_LENGTH(levels); i++)
        if (strcmp(word, levels[i].word) == 0)
            usable &= levels[i].features;
}

unsigned cpu_features(void)
{
    pthread_once(&once_control, detect_once);
    return usable;
}

const char *cpu_features_name(unsigned features)
{
    if ((features & CPU_AVX512_VNNI) && (features & CPU_AVX512))
        return "avx512-vnni";
    if (features & CPU_AVX512)
        return "avx512";
    return features & CPU_AVX2 ? "avx2" : "scalar";
}
