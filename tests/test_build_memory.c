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
#include "common/memory.h"
#include "tests/build_fixture.h"

/* A sanitizer's shadow is resident too. */
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

enum {
    COUNT = 5000,
    FAILED = 1, /* exit codes of the child */
    EXCEEDED = 2,
};

static struct build_params params_of(const char *input, const char *output, uint32_t shards,
                                     uint32_t threads, enum codec_kind codec)
{
    return (struct build_params){
        .input = input,
        .output = output,
        .metric = METRIC_L2,
        .degree = 32,
        .build_list = 16,
        .alpha = 1.2,
        .codec = codec,
        .code_bytes = codec == CODEC_SCALAR ? 0 : 8,
        .shards = shards,
        .replication = 1.2,
        .threads = threads,
        .seed = 1,
        .navigation_share = 0.02,
        .one_stage = true,
        .shard = WORK_WHOLE,
        .quiet = true,
    };
}

/* ---- the child ---- */

/* INPUT OUTPUT SHARDS THREADS STAGE CODEC */
static int stage_main(char **argv)
{
    struct build_params params = params_of(argv[0], argv[1], (uint32_t)atoi(argv[2]),
                                           (uint32_t)atoi(argv[3]), codec_kind_parse(argv[5]));
    struct vector_file *file = NULL;
    struct build_size size;
    struct error err;
    params.stage = (enum build_stage)atoi(argv[4]);
    if (vector_file_open(params.input, &file, &err) != STATUS_OK ||
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
    fprintf(stderr, "stage %s of %u shards on %u threads, %s: peak %llu, planned %llu\n",
            build_stage_name(params.stage), params.shards, params.threads, argv[5],
            (unsigned long long)peak, (unsigned long long)planned);
    return EXCEEDED;
}

/* ---- the tests ---- */

static int stage_run(const struct build_fixture *f, uint32_t shards, uint32_t threads,
                     enum codec_kind codec, unsigned stage)
{
    char shards_text[16], threads_text[16], stage_text[16];
    snprintf(shards_text, sizeof(shards_text), "%u", shards);
    snprintf(threads_text, sizeof(threads_text), "%u", threads);
    snprintf(stage_text, sizeof(stage_text), "%u", stage);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_build_memory", f->input, f->output, shards_text, threads_text,
              stage_text, codec_kind_name(codec), (char *)NULL);
        _exit(FAILED);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    return WEXITSTATUS(result);
}

static void build_takes_no_more_than_planned(struct build_fixture *f, uint32_t shards,
                                             uint32_t threads, enum codec_kind codec)
{
    for (unsigned stage = 0; stage < BUILD_STAGE_COUNT; stage++)
        assert_int_equal(stage_run(f, shards, threads, codec, stage), 0);
    (void)build_fixture_digest(f->output);
    build_fixture_clear(f);
}

static void stages_take_no_more_than_planned(struct build_fixture *f, enum element_type type,
                                             uint32_t dim)
{
    static const uint32_t shards[] = {1, 4};
    static const enum codec_kind others[] = {CODEC_OPQ, CODEC_AUTO, CODEC_SCALAR};
    if (SANITIZED)
        skip();
    free(build_fixture_input(f, type, COUNT, dim));
    for (size_t i = 0; i < ARRAY_LENGTH(shards); i++)
        for (uint32_t threads = 1; threads <= 2; threads++)
            build_takes_no_more_than_planned(f, shards[i], threads, CODEC_PQ);
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++)
        build_takes_no_more_than_planned(f, 4, 2, others[i]);
}

static void u8_stages_take_no_more_than_planned(void **state)
{
    stages_take_no_more_than_planned(*state, ELEMENT_U8, 128);
}

static void f32_stages_take_no_more_than_planned(void **state)
{
    stages_take_no_more_than_planned(*state, ELEMENT_F32, 48);
}

int main(int argc, char **argv)
{
#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, build_fixture_setup, build_fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(u8_stages_take_no_more_than_planned),
        CASE(f32_stages_take_no_more_than_planned),
    };
    return argc == 7 ? stage_main(argv + 1) : cmocka_run_group_tests(tests, NULL, NULL);
}
