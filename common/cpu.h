/*
 * cpu.h - which instruction sets this process may use.
 *
 * Kernels are const tables, one file per instruction set; the table is chosen from cpu_features().
 * NIGHTJAR_CPU=scalar|avx2|avx512|vnni in the environment forces a lower level (never a higher
 * one); any other word changes nothing.
 */
#ifndef NIGHTJAR_COMMON_CPU_H
#define NIGHTJAR_COMMON_CPU_H

enum cpu_feature {
    CPU_AVX2 = 1u << 0,        /* AVX2 + FMA + F16C */
    CPU_AVX512 = 1u << 1,      /* AVX-512 F, BW, DQ, VL */
    CPU_AVX512_VNNI = 1u << 2, /* AVX-512 VNNI */
};

/* Features of this CPU and OS, less what NIGHTJAR_CPU removes. Detected once; thread-safe. */
unsigned cpu_features(void);

/* Human words for a feature set: "avx512-vnni", "avx512", "avx2" or "scalar". Static storage. */
const char *cpu_features_name(unsigned features);

#endif
