/*
 * bench_codec.c - what a codec costs, in ns, for every kind, code size, instruction set and a few
 * dimensions: a vector's encoding, a query's table, and an estimate from gathered codes, in the L2
 * cache and in memory.
 *
 * Codes are gathered BATCH at a time, as the search does with a node's neighbours. The best of
 * several passes counts: noise only ever adds. Vectors are uniform noise; no time depends on them.
 * Single-threaded. A developer's tool: it asserts nothing and is not installed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/args.h"
#include "common/clock.h"
#include "common/codec_internal.h"
#include "common/cpu.h"
#include "common/memory.h"
#include "common/random.h"

enum {
    BATCH = 64,
    ROWS = 512,
    TABLES = 16,
    CACHE_BYTES = 256 << 10,
    CACHE_PASSES = 40,
    CACHE_BATCHES = 200,
    MEMORY_PASSES = 3,
    MEMORY_BATCHES = 5500,
    IDS = MAX(CACHE_PASSES * CACHE_BATCHES, MEMORY_PASSES *MEMORY_BATCHES) * BATCH,
};

static const uint64_t SEED = 1;

struct options {
    struct args_u32_list dims;
    uint64_t memory_bytes;
};

struct buffers {
    uint8_t *codes;
    uint64_t code_bytes;
    uint32_t *ids;
    float *rows; /* ROWS of the largest dimension */
    void *table;
};

/* External, so that no optimiser may think the results unused. */
extern float bench_codec_sink[BATCH];
float bench_codec_sink[BATCH];

static double encode_ns(const struct codec *codec, const struct buffers *buffers)
{
    uint64_t best_ns = UINT64_MAX;
    for (unsigned pass = 0; pass < 3; pass++) {
        uint64_t start_ns = clock_monotonic_ns();
        codec_encode(codec, buffers->rows, ROWS, buffers->codes);
        best_ns = MIN(best_ns, clock_monotonic_ns() - start_ns);
    }
    return (double)best_ns / ROWS;
}

static double table_ns(const struct codec *codec, const struct buffers *buffers)
{
    const uint32_t dim = codec_params_of(codec).dim;
    uint64_t best_ns = UINT64_MAX;
    for (unsigned pass = 0; pass < 5; pass++) {
        uint64_t start_ns = clock_monotonic_ns();
        for (size_t i = 0; i < TABLES; i++)
            codec_table_build(codec, buffers->rows + i * dim, buffers->table);
        best_ns = MIN(best_ns, clock_monotonic_ns() - start_ns);
    }
    return (double)best_ns / TABLES;
}

/* Of codes in the first `bytes`. */
static double gather_ns(const struct codec *codec, const struct buffers *buffers, uint64_t bytes,
                        unsigned passes, size_t batches)
{
    const size_t count = bytes / codec_params_of(codec).code_bytes;
    uint64_t best_ns = UINT64_MAX;
    for (size_t i = 0; i < passes * batches * BATCH; i++)
        buffers->ids[i] = (uint32_t)random_below(SEED, i, count);
    for (unsigned pass = 0; pass < passes; pass++) {
        const uint32_t *ids = buffers->ids + pass * batches * BATCH;
        uint64_t start_ns = clock_monotonic_ns();
        for (size_t b = 0; b < batches; b++)
            codec_table_gather(codec, buffers->table, buffers->codes, ids + b * BATCH, BATCH,
                               bench_codec_sink);
        best_ns = MIN(best_ns, clock_monotonic_ns() - start_ns);
    }
    return (double)best_ns / (double)(batches * BATCH);
}

/* Codes of all rows, again and again. */
static void codes_fill(const struct codec *codec, const struct buffers *buffers)
{
    const uint64_t step = (uint64_t)ROWS * codec_params_of(codec).code_bytes;
    codec_encode(codec, buffers->rows, ROWS, buffers->codes);
    for (uint64_t at = step; at < buffers->code_bytes; at += step)
        memcpy(buffers->codes + at, buffers->codes, MIN(step, buffers->code_bytes - at));
}

static enum status bench_codec(const struct codec_params *params, const struct buffers *buffers,
                               struct error *err)
{
    const unsigned host = cpu_features();
    for (unsigned features = 0; (features & ~host) == 0; features = 2 * features + 1) {
        struct codec *codec = NULL;
        enum status status = codec_train_with(params, features, buffers->rows, ROWS, &codec, err);
        if (status != STATUS_OK)
            return status;
        double encode = encode_ns(codec, buffers), table = table_ns(codec, buffers);
        codes_fill(codec, buffers);
        printf("%-6s %5u %5u  %-11s %10.0f %10.0f %10.2f %10.2f\n", codec_kind_name(params->kind),
               params->dim, params->code_bytes, cpu_features_name(features), encode, table,
               gather_ns(codec, buffers, CACHE_BYTES, CACHE_PASSES, CACHE_BATCHES),
               gather_ns(codec, buffers, buffers->code_bytes, MEMORY_PASSES, MEMORY_BATCHES));
        fflush(stdout);
        codec_destroy(codec);
        if (features == host)
            break;
    }
    return STATUS_OK;
}

static enum status bench_dim(uint32_t dim, const struct buffers *buffers, struct error *err)
{
    struct codec_params params = {
        .kind = CODEC_PQ, .metric = METRIC_L2, .type = ELEMENT_F32, .dim = dim, .seed = SEED};
    enum status status = STATUS_OK;
    for (uint32_t bytes = 32; bytes <= 64 && status == STATUS_OK; bytes *= 2) {
        params.code_bytes = MIN(bytes, dim);
        status = bench_codec(&params, buffers, err);
    }
    params.kind = CODEC_SCALAR;
    for (uint32_t bits = 1; bits <= 4 && status == STATUS_OK; bits *= 2) {
        params.code_bytes = codec_scalar_code_bytes(dim, params.metric, bits);
        status = bench_codec(&params, buffers, err);
    }
    return status;
}

static enum status run(const struct options *options, struct error *err)
{
    uint32_t most = 0;
    for (uint32_t d = 0; d < options->dims.count; d++)
        most = MAX(most, options->dims.items[d]);
    const size_t values = (size_t)ROWS * most;
    /* PQ's at 64 bytes; a scalar one takes a byte a dimension. */
    const size_t table_bytes = 64 * CODEC_PQ_CENTROIDS * sizeof(float);
    void *codes = NULL, *ids = NULL, *rows = NULL, *table = NULL;
    enum status status = bulk_alloc(options->memory_bytes, 1, "codes", &codes, err);
    if (status == STATUS_OK)
        status = bulk_alloc(IDS, sizeof(uint32_t), "ids", &ids, err);
    if (status == STATUS_OK)
        status = bulk_alloc(values, sizeof(float), "rows", &rows, err);
    if (status == STATUS_OK)
        status = bulk_alloc(table_bytes, 1, "table", &table, err);
    const struct buffers buffers = {codes, options->memory_bytes, ids, rows, table};
    for (size_t i = 0; status == STATUS_OK && i < values; i++)
        buffers.rows[i] = (float)random_unit(SEED, i);
    printf("ns a vector, a query, an estimate; %d estimates a call, host %s\n", BATCH,
           cpu_features_name(cpu_features()));
    printf("%-6s %5s %5s  %-11s %10s %10s %10s %10s\n", "codec", "dim", "bytes", "isa", "encode",
           "table", "L2 gather", "mem gather");
    for (uint32_t d = 0; status == STATUS_OK && d < options->dims.count; d++)
        status = bench_dim(options->dims.items[d], &buffers, err);
    bulk_free(table, table_bytes, 1);
    bulk_free(rows, values, sizeof(float));
    bulk_free(ids, IDS, sizeof(uint32_t));
    bulk_free(codes, options->memory_bytes, 1);
    return status;
}

int main(int argc, char **argv)
{
    struct options options = {.dims = {{128, 1024}, 2}, .memory_bytes = 256u << 20};
    const struct args_option table[] = {
        {.name = "dims",
         .kind = ARGS_U32_LIST,
         .target = &options.dims,
         .value_name = "D,D,...",
         .help = "dimensions (default 128,1024)",
         .min = 1,
         .max = VECTOR_DIM_MAX},
        {.name = "memory",
         .kind = ARGS_MEMORY,
         .target = &options.memory_bytes,
         .help = "bytes of codes outside caches (default 256M)",
         .min = 64 << 20,
         .max = 1e12},
    };
    const struct args_spec spec = {.program = "bench_codec",
                                   .summary = "time of the codecs on this CPU",
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
