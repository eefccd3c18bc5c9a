/*
 * test_build_memory.c - what a build is planned to take is what it takes, or more: each stage runs
 * in a process of its own, whose peak resident set is compared with the bound for that stage.
 *
 * The program starts itself for that, with the stage's parameters as arguments; so nothing of the
 * tests' own memory, nor of another stage, is in the figure.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "builder/build.h"
#include "builder/build_size.h"
#include "common/compiler.h"
#include "common/memory.h"
#include "tests/build_fixture.h"

enum {
    COUNT = 5000,
    FAILED = 1, /* exit codes of the child */
    EXCEEDED = 2,
};

/* What a build is varied by. */
struct variant {
    uint32_t shards, threads;
    enum codec_kind codec;
    enum graph_kind graph;
    enum metric metric;
    const char *attributes; /* NULL: none */
};

static struct build_params params_of(const char *input, const char *output,
                                     const struct variant *variant)
{
    return (struct build_params){
        .input = input,
        .output = output,
        .attributes = variant->attributes,
        .metric = variant->metric,
        .graph = variant->graph,
        .degree = 32,
        .build_list = 16,
        .alpha = 1.2,
        .codec = variant->codec,
        .code_bytes = variant->codec == CODEC_SCALAR ? 0 : 8,
        .shards = variant->shards,
        .replication = 1.2,
        .threads = variant->threads,
        .seed = 1,
        .navigation_share = 0.02,
        .one_stage = true,
        .shard = WORK_WHOLE,
        .quiet = true,
    };
}

/* ---- the child ---- */

/* INPUT OUTPUT SHARDS THREADS STAGE CODEC GRAPH METRIC ATTRIBUTES, "" for none */
enum { CHILD_ARGUMENTS = 9 };

static int stage_main(char **argv)
{
    struct variant variant = {.shards = (uint32_t)atoi(argv[2]),
                              .threads = (uint32_t)atoi(argv[3]),
                              .codec = codec_kind_parse(argv[5]),
                              .metric = metric_parse(argv[7]),
                              .attributes = argv[8][0] != '\0' ? argv[8] : NULL};
    struct vector_file *file = NULL;
    struct build_size size;
    struct error err;
    if (!graph_kind_parse(argv[6], &variant.graph))
        return FAILED;
    struct build_params params = params_of(argv[0], argv[1], &variant);
    params.stage = (enum build_stage)atoi(argv[4]);
    if (vector_file_open(params.input, &file, &err) != STATUS_OK ||
        build_attributes_look(&params, &err) != STATUS_OK ||
        build_run(&params, NULL, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return FAILED;
    }
    const struct vector_shape shape = vector_file_shape(file);
    vector_file_close(file);
    build_size_compute(&params, &shape, params.shards, &size);
    const uint64_t planned = build_size_stage_bytes(&size, params.stage, 1);
    const uint64_t peak = memory_peak_rss();
    if (peak <= planned)
        return 0;
    fprintf(stderr, "stage %s of %u shards on %u threads, %s, %s, %s: peak %llu, planned %llu\n",
            build_stage_name(params.stage), params.shards, params.threads, argv[5], argv[6],
            argv[7], (unsigned long long)peak, (unsigned long long)planned);
    return EXCEEDED;
}

/* ---- the tests ---- */

static int stage_run(const struct build_fixture *f, const struct variant *variant, unsigned stage)
{
    char shards_text[16], threads_text[16], stage_text[16];
    snprintf(shards_text, sizeof(shards_text), "%u", variant->shards);
    snprintf(threads_text, sizeof(threads_text), "%u", variant->threads);
    snprintf(stage_text, sizeof(stage_text), "%u", stage);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_build_memory", f->input, f->output, shards_text, threads_text,
              stage_text, codec_kind_name(variant->codec), graph_kind_name(variant->graph),
              metric_name(variant->metric), variant->attributes != NULL ? variant->attributes : "",
              (char *)NULL);
        _exit(FAILED);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    return WEXITSTATUS(result);
}

static void build_takes_no_more_than_planned(struct build_fixture *f, const struct variant *variant)
{
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        assert_int_equal(stage_run(f, variant, stage), 0);
    (void)build_fixture_digest(f->output);
    build_fixture_clear(f);
}

/* Whole and in shards. */
static void graphs_take_no_more_than_planned(struct build_fixture *f, enum graph_kind graph,
                                             enum metric metric, uint32_t threads)
{
    static const uint32_t shards[] = {1, 4};
    for (size_t i = 0; i < ARRAY_LENGTH(shards); i++)
        build_takes_no_more_than_planned(f, &(struct variant){.shards = shards[i],
                                                              .threads = threads,
                                                              .codec = CODEC_PQ,
                                                              .graph = graph,
                                                              .metric = metric});
}

static void codecs_take_no_more_than_planned(struct build_fixture *f)
{
    static const enum codec_kind others[] = {CODEC_OPQ, CODEC_AUTO, CODEC_SCALAR};
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++)
        build_takes_no_more_than_planned(f, &(struct variant){.shards = 4,
                                                              .threads = 2,
                                                              .codec = others[i],
                                                              .graph = GRAPH_PIPNN,
                                                              .metric = METRIC_L2});
}

static void stages_take_no_more_than_planned(struct build_fixture *f, enum element_type type,
                                             uint32_t dim)
{
    if (SANITIZED)
        skip();
    free(build_fixture_input(f, type, COUNT, dim));
    for (uint32_t threads = 1; threads <= 2; threads++)
        graphs_take_no_more_than_planned(f, GRAPH_PIPNN, METRIC_L2, threads);
    graphs_take_no_more_than_planned(f, GRAPH_VAMANA, METRIC_L2, 2);
    codecs_take_no_more_than_planned(f);
}

static void u8_stages_take_no_more_than_planned(void **state)
{
    stages_take_no_more_than_planned(*state, ELEMENT_U8, 128);
}

static void f32_stages_take_no_more_than_planned(void **state)
{
    stages_take_no_more_than_planned(*state, ELEMENT_F32, 48);
}

/* Rows as bytes have one dimension more then: a line more. */
static void inner_product_stages_take_no_more_than_planned(void **state)
{
    if (SANITIZED)
        skip();
    free(build_fixture_input(*state, ELEMENT_F32, COUNT, 64));
    for (unsigned graph = 0; graph < GRAPH_KIND_COUNT; graph++)
        graphs_take_no_more_than_planned(*state, (enum graph_kind)graph, METRIC_IP, 2);
}

/* Many labels of their own, and columns of numbers of all widths. */
static void attributes_write(const struct build_fixture *f)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    assert_non_null(out);
    fputs("a:u64,b:i64,t:labels,c:u64,u:labels\n", out);
    for (uint32_t row = 0; row < COUNT; row++) {
        fprintf(out, "%u,-%u,", row, row * 1000003u);
        for (uint32_t i = 0; i < 40; i++)
            fprintf(out, "%slabel %u of %u", i > 0 ? "|" : "", i, row);
        fprintf(out, ",%llu,x|y\n", (unsigned long long)row << 50);
    }
    assert_int_equal(fclose(out), 0);
    build_fixture_write_attributes(f, text, length);
    free(text);
}

static void attributes_take_no_more_than_planned(void **state)
{
    const struct build_fixture *f = *state;
    if (SANITIZED)
        skip();
    free(build_fixture_input(*state, ELEMENT_U8, COUNT, 16));
    attributes_write(f);
    for (uint32_t shards = 1; shards <= 4; shards += 3)
        build_takes_no_more_than_planned(*state, &(struct variant){.shards = shards,
                                                                   .threads = 2,
                                                                   .codec = CODEC_PQ,
                                                                   .graph = GRAPH_PIPNN,
                                                                   .metric = METRIC_L2,
                                                                   .attributes = f->attributes});
}

int main(int argc, char **argv)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(u8_stages_take_no_more_than_planned),
        CASE(f32_stages_take_no_more_than_planned),
        CASE(inner_product_stages_take_no_more_than_planned),
        CASE(attributes_take_no_more_than_planned),
    };
    return argc == 1 + CHILD_ARGUMENTS ? stage_main(argv + 1)
                                       : cmocka_run_group_tests(tests, NULL, NULL);
}
