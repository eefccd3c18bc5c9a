/*
 * bench_kernels.c - what one squared L2 distance costs, in ns, for every element type, instruction
 * set and a few dimensions: consecutive rows and gathered rows, in the L2 cache and in memory.
 *
 * Rows are handed over BATCH at a time, as the search does with a node's neighbours. "memory" rows
 * are spread over far more bytes than caches hold, on 2 MB pages where the kernel gives them, so it
 * shows what prefetching hides. The best of several passes counts: noise only ever adds.
 * Single-threaded. A developer's tool: it asserts nothing and is not installed.
 */
#include <stdio.h>
#include <stdlib.h>

#include "common/args.h"
#include "common/clock.h"
#include "common/cpu.h"
#include "common/distance.h"
#include "common/memory.h"
#include "common/random.h"

enum {
    BATCH = 64,
    CACHE_BYTES = 256 << 10,
    CACHE_PASSES = 40,
    CACHE_BATCHES = 200,
    MEMORY_PASSES = 3,
    MEMORY_BATCHES = 5500, /* three passes over 128-byte rows then touch 128 MB */
};

enum {
    CACHE_IDS = CACHE_PASSES * CACHE_BATCHES * BATCH,
    MEMORY_IDS = MEMORY_PASSES * MEMORY_BATCHES * BATCH,
};

static const uint64_t SEED = 1;

struct options {
    struct args_u32_list dims;
    uint64_t memory_bytes;
};

/* Rows under test: `count` of them, back to back, and a random order to gather them in. Every pass
 * visits its own rows, lest a second one find them in a cache that the first one filled. */
struct field {
    const unsigned char *rows;
    size_t count;
    size_t stride_bytes;
    uint32_t *ids; /* passes * batches * BATCH */
    size_t batches;
    unsigned passes;
};

struct subject {
    const struct distance_kernels *kernels;
    const void *query;
    size_t dim;
};

/* External, so that no optimiser may think the results unused. */
extern float bench_kernels_sink[BATCH];
float bench_kernels_sink[BATCH];

static void pass_rows(const struct subject *subject, const struct field *field, unsigned pass)
{
    size_t first = pass * (field->count / field->passes);
    for (size_t b = 0; b < field->batches; b++) {
        if (first + BATCH > field->count)
            first = 0;
        subject->kernels->l2sq_rows(subject->query, field->rows + first * field->stride_bytes,
                                    field->stride_bytes, BATCH, subject->dim, bench_kernels_sink);
        first += BATCH;
    }
}

static void pass_gather(const struct subject *subject, const struct field *field, unsigned pass)
{
    const uint32_t *ids = field->ids + pass * field->batches * BATCH;
    for (size_t b = 0; b < field->batches; b++)
        subject->kernels->l2sq_gather(subject->query, field->rows, field->stride_bytes,
                                      ids + b * BATCH, BATCH, subject->dim, bench_kernels_sink);
}

static double best_ns_per_row(void (*run)(const struct subject *, const struct field *, unsigned),
                              const struct subject *subject, const struct field *field)
{
    uint64_t best_ns = UINT64_MAX;
    for (unsigned pass = 0; pass < field->passes; pass++) {
        uint64_t start_ns = clock_monotonic_ns();
        run(subject, field, pass);
        best_ns = MIN(best_ns, clock_monotonic_ns() - start_ns);
    }
    return (double)best_ns / (double)(field->batches * BATCH);
}

/* Rows of the first `bytes` of field->rows. */
static void field_divide(struct field *field, uint64_t bytes, size_t row_bytes)
{
    field->stride_bytes = row_bytes;
    field->count = bytes / row_bytes;
    field->batches = MIN(field->batches, MAX(field->count / BATCH, (size_t)1));
    for (size_t i = 0; i < field->passes * field->batches * BATCH; i++)
        field->ids[i] = (uint32_t)random_below(SEED, i, field->count);
}

/* What is compared: vectors of one type, or an f32 query and rows of another. */
struct contest {
    const char *name;
    bool from_f32;
    enum element_type row_type;
};

static const struct distance_kernels *kernels_of(const struct contest *contest, unsigned features)
{
    return contest->from_f32 ? distance_kernels_from_f32(contest->row_type, features)
                             : distance_kernels_get(contest->row_type, features);
}

static void bench_shape(const struct contest *contest, uint32_t dim, const unsigned char *memory,
                        const struct options *options, uint32_t *ids)
{
    size_t row_bytes = element_vector_bytes(contest->row_type, dim);
    struct field cache = {memory, 0, 0, ids, CACHE_BATCHES, CACHE_PASSES};
    struct field large = {memory, 0, 0, ids + CACHE_IDS, MEMORY_BATCHES, MEMORY_PASSES};
    field_divide(&cache, CACHE_BYTES, row_bytes);
    field_divide(&large, options->memory_bytes, row_bytes);
    const unsigned host = cpu_features();
    for (unsigned features = 0;; features = 2 * features + 1) {
        if (features & ~host)
            break;
        struct subject subject = {kernels_of(contest, features), memory, dim};
        bool repeats = features && subject.kernels == kernels_of(contest, features / 2);
        if (!repeats)
            printf("%-8s %5u  %-11s %10.2f %10.2f %10.2f %10.2f\n", contest->name, dim,
                   cpu_features_name(features), best_ns_per_row(pass_rows, &subject, &cache),
                   best_ns_per_row(pass_gather, &subject, &cache),
                   best_ns_per_row(pass_rows, &subject, &large),
                   best_ns_per_row(pass_gather, &subject, &large));
        fflush(stdout);
    }
}

/* Bytes that are small finite numbers in every type: f32 and f16 exponents stay near 1. */
static void fill(unsigned char *memory, uint64_t bytes)
{
    for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word = (random_at(SEED, i) & 0x03ff03ff03ff03ffu) | 0x3c003c003c003c00u;
        for (unsigned b = 0; b < 8; b++)
            memory[i + b] = (unsigned char)(word >> (8 * b));
    }
}

static enum status run(const struct options *options, struct error *err)
{
    static const struct contest contests[] = {
        {"u8", false, ELEMENT_U8},      {"i8", false, ELEMENT_I8},
        {"f16", false, ELEMENT_F16},    {"f32", false, ELEMENT_F32},
        {"bf16", false, ELEMENT_BF16},  {"i8s", false, ELEMENT_I8S},
        {"f32-f16", true, ELEMENT_F16}, {"f32-bf16", true, ELEMENT_BF16},
        {"f32-i8s", true, ELEMENT_I8S},
    };
    void *memory = NULL;
    void *ids = NULL;
    const size_t id_count = CACHE_IDS + MEMORY_IDS;
    enum status status = bulk_alloc(options->memory_bytes, 1, "rows", &memory, err);
    if (status != STATUS_OK)
        goto out;
    status = bulk_alloc(id_count, sizeof(uint32_t), "row ids", &ids, err);
    if (status != STATUS_OK)
        goto out;
    fill(memory, options->memory_bytes);
    printf("ns per squared L2 distance, %d rows a call, host %s\n", BATCH,
           cpu_features_name(cpu_features()));
    printf("%-8s %5s  %-11s %10s %10s %10s %10s\n", "type", "dim", "isa", "L2 rows", "L2 gather",
           "mem rows", "mem gather");
    for (size_t c = 0; c < ARRAY_LENGTH(contests); c++)
        for (uint32_t d = 0; d < options->dims.count; d++)
            bench_shape(&contests[c], options->dims.items[d], memory, options, ids);
out:
    bulk_free(ids, id_count, sizeof(uint32_t));
    bulk_free(memory, options->memory_bytes, 1);
    return status;
}

int main(int argc, char **argv)
{
    struct options options = {.dims = {{96, 128, 768}, 3}, .memory_bytes = 256u << 20};
    const struct args_option table[] = {
        {.name = "dims",
         .kind = ARGS_U32_LIST,
         .target = &options.dims,
         .value_name = "D,D,...",
         .help = "dimensions (default 96,128,768)",
         .min = 1,
         .max = 1024}, /* so that a batch of f32 rows fits CACHE_BYTES */
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &options.memory_bytes,
         .help = "bytes of rows outside caches (default 256M)",
         .min = 1 << 20,
         .max = 1e12},
    };
    const struct args_spec spec = {.program = "bench_kernels",
                                   .summary = "time of the distance kernels on this CPU",
                                   .options = table,
                                   .option_count = ARRAY_LENGTH(table)};
    struct error err;
    switch (args_parse(&spec, argc, argv, NULL, &err)) {
    case ARGS_RUN:
        break;
    case ARGS_DONE:
        return 0;
    case ARGS_USAGE:
        fprintf(stderr, "%s: %s\n", spec.program, err.text);
        return 2;
    }
    if (run(&options, &err) != STATUS_OK) {
        fprintf(stderr, "%s: %s\n", spec.program, err.text);
        return 1;
    }
    return 0;
}
