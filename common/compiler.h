/*
 * compiler.h - the only place that spells GNU attributes and checks what we demand of the platform.
 */
#ifndef NIGHTJAR_COMMON_COMPILER_H
#define NIGHTJAR_COMMON_COMPILER_H

#include <stdbool.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error                                                                                             \
    "Nightjar's files and frames are little-endian and read in place: big-endian hosts are not supported"
#endif

#define NODISCARD         __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define ALWAYS_INLINE     static inline __attribute__((always_inline))
#define NOINLINE          __attribute__((noinline))
#define UNUSED            __attribute__((unused))
#define LIKELY(x)         __builtin_expect(!!(x), 1)
#define UNLIKELY(x)       __builtin_expect(!!(x), 0)
#define PREFETCH(p)       __builtin_prefetch((p), 0, 3)
#define ALIGNED(n)        __attribute__((aligned(n)))

/* Whether a sanitizer instruments memory accesses, whose shadow is resident then: gcc defines
 * macros, clang has features. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED true
#endif
#endif
#ifndef SANITIZED
#define SANITIZED false
#endif

#define ARRAY_LENGTH(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)       ((a) < (b) ? (a) : (b))
#define MAX(a, b)       ((a) > (b) ? (a) : (b))

#endif
