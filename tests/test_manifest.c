/*
 * test_manifest.c - manifests: text out and in, the id, and every contradiction named.
 */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <xxhash.h>

#include "common/random.h"
#include "layout/manifest.h"
#include "layout/sample.h"
#include "tests/generation_fixture.h"
#include "tests/golden_file.h"

enum { SEED = 5 };

static void manifest_good(struct manifest *manifest)
{
    fixture_manifest(SEED, manifest);
    fixture_manifest_lengths(manifest);
    manifest->shard_count = 3;
    manifest->replication = 1.25;
    manifest->borrowed_rows = 20;
    manifest->entry_node = 42;
    manifest->generation_id = manifest_generation_id(manifest);
    manifest->geometry.generation_seed = manifest->generation_id.low;
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        manifest->files[i].xxh3 = (struct digest128){random_at(1, (uint64_t)i), (uint64_t)i};
}

static char *format_good(void)
{
    struct manifest manifest;
    manifest_good(&manifest);
    char *json = NULL;
    struct error err = {0};
    if (manifest_format(&manifest, &json, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return json;
}

static enum status parse(const char *json, struct error *err)
{
    struct manifest manifest;
    return manifest_parse(json, strlen(json), &manifest, err);
}

/* Replaces `from` (found once or more, first taken) in a good manifest and gives it a new checksum.
 */
static char *edited(const char *from, const char *to)
{
    char *json = format_good();
    char *at = strstr(json, from);
    if (!at)
        fail_msg("no \"%s\" in the manifest", from);
    char *text = NULL;
    int length = asprintf(&text, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    assert_true(length > 36);
    free(json);
    size_t hashed = (size_t)length - 36;
    XXH128_hash_t hash = XXH3_128bits(text, hashed);
    char digits[33];
    snprintf(digits, sizeof(digits), "%016" PRIx64 "%016" PRIx64, hash.high64, hash.low64);
    memcpy(text + hashed, digits, 32);
    return text;
}

static void expect_refused(const char *from, const char *to, enum status status, const char *words)
{
    char *json = edited(from, to);
    struct error err = {0};
    enum status got = parse(json, &err);
    if (got != status || !strstr(err.text, words))
        fail_msg("%s -> %s: %s: \"%s\", wanted %s with \"%s\"", from, to, status_name(got),
                 err.text, status_name(status), words);
    assert_int_equal(err.status, status);
    free(json);
}

/* ---- text ---- */

/* Field by field: padding is nobody's. */
static void assert_geometry_equal(const struct block_geometry *a, const struct block_geometry *b)
{
    assert_int_equal(a->block_bytes, b->block_bytes);
    assert_int_equal(a->nodes_per_block, b->nodes_per_block);
    assert_int_equal(a->vector_bytes, b->vector_bytes);
    assert_int_equal(a->node_limit, b->node_limit);
    assert_int_equal(a->adjacency, b->adjacency);
    assert_memory_equal(a->gap_width, b->gap_width, sizeof(a->gap_width));
    assert_true(a->generation_seed == b->generation_seed);
}

static void manifest_round_trips(void **state)
{
    (void)state;
    struct manifest manifest, parsed;
    for (uint64_t round = 0; round < 50; round++) {
        manifest_good(&manifest);
        manifest.seed = random_at(round, 0); /* beyond 2^53 */
        manifest.alpha = 1 + random_unit(round, 1);
        manifest.norm_max = round == 0 ? DBL_MAX : random_unit(round, 2) * 1e-300;
        manifest.mean_degree = 255 * random_unit(round, 3);
        manifest.block_mate_share = nextafter(random_unit(round, 4), 1);
        manifest.shard_count = 2 + (uint32_t)(random_at(round, 5) % (MANIFEST_SHARDS_MAX - 1));
        manifest.replication = 1 + 3 * random_unit(round, 6);
        manifest.borrowed_rows = random_at(round, 7) % FIXTURE_VECTORS;
        manifest.entry_node = (uint32_t)(random_at(round, 8) % FIXTURE_NODE_LIMIT);
        manifest.generation_id = manifest_generation_id(&manifest);
        manifest.geometry.generation_seed = manifest.generation_id.low;
        char *json, *again;
        struct error err = {0};
        assert_int_equal(manifest_format(&manifest, &json, &err), STATUS_OK);
        memset(&parsed, 0xee, sizeof(parsed));
        if (manifest_parse(json, strlen(json), &parsed, &err) != STATUS_OK)
            fail_msg("%s", err.text);
        assert_true(parsed.seed == manifest.seed);
        assert_true(parsed.alpha == manifest.alpha && parsed.norm_max == manifest.norm_max);
        assert_true(parsed.mean_degree == manifest.mean_degree);
        assert_true(parsed.block_mate_share == manifest.block_mate_share);
        assert_int_equal(parsed.shard_count, manifest.shard_count);
        assert_true(parsed.replication == manifest.replication);
        assert_true(parsed.borrowed_rows == manifest.borrowed_rows);
        assert_int_equal(parsed.entry_node, manifest.entry_node);
        assert_geometry_equal(&parsed.geometry, &manifest.geometry);
        assert_memory_equal(parsed.files, manifest.files, sizeof(parsed.files));
        assert_string_equal(parsed.tool_version, manifest.tool_version);
        assert_int_equal(manifest_format(&parsed, &again, &err), STATUS_OK);
        assert_string_equal(json, again);
        free(json);
        free(again);
    }
}

static void manifest_round_trips_plain_lists_and_every_type(void **state)
{
    (void)state;
    static const enum element_type types[] = {ELEMENT_U8, ELEMENT_I8, ELEMENT_F16, ELEMENT_F32};
    static const enum metric metrics[] = {METRIC_L2, METRIC_IP, METRIC_COSINE};
    for (size_t t = 0; t < ARRAY_LENGTH(types); t++)
        for (size_t m = 0; m < ARRAY_LENGTH(metrics); m++) {
            struct manifest manifest, parsed = {0};
            manifest_good(&manifest);
            manifest.type = manifest.query_type = types[t];
            manifest.metric = metrics[m];
            manifest.geometry.vector_bytes = FIXTURE_DIM * (uint32_t)element_bytes(types[t]);
            manifest.files[GENERATION_SAMPLE].bytes =
                sample_bytes(FIXTURE_SAMPLE, FIXTURE_SAMPLE_K, manifest.geometry.vector_bytes);
            manifest.geometry.adjacency = BLOCK_ADJACENCY_PLAIN;
            char *json = NULL;
            struct error err = {0};
            if (manifest_format(&manifest, &json, &err) != STATUS_OK ||
                manifest_parse(json, strlen(json), &parsed, &err) != STATUS_OK)
                fail_msg("%s", err.text);
            assert_int_equal(parsed.type, types[t]);
            assert_int_equal(parsed.metric, metrics[m]);
            assert_int_equal(parsed.geometry.adjacency, BLOCK_ADJACENCY_PLAIN);
            free(json);
        }
}

static void manifest_matches_its_golden_file(void **state)
{
    (void)state;
    char *json = format_good();
    golden_file_compare("manifest.json", json, strlen(json));
    assert_int_equal(parse(json, NULL), STATUS_OK);
    free(json);
}

static void manifest_rejects_every_flipped_bit(void **state)
{
    (void)state;
    char *json = format_good();
    size_t length = strlen(json);
    struct manifest manifest;
    for (size_t bit = 0; bit < length * 8; bit++) {
        struct error err = {0};
        json[bit / 8] = (char)(json[bit / 8] ^ (1 << (bit % 8)));
        if (manifest_parse(json, length, &manifest, &err) == STATUS_OK)
            fail_msg("bit %zu of byte %zu flipped, and nobody noticed", bit % 8, bit / 8);
        assert_true(strlen(err.text) > 0);
        json[bit / 8] = (char)(json[bit / 8] ^ (1 << (bit % 8)));
    }
    free(json);
}

static void manifest_rejects_every_truncation(void **state)
{
    (void)state;
    char *json = format_good();
    size_t length = strlen(json);
    struct manifest manifest;
    for (size_t cut = 0; cut < length; cut++) {
        char *exact = malloc(cut ? cut : 1); /* so that ASan sees a read past it */
        memcpy(exact, json, cut);
        assert_int_equal(manifest_parse(exact, cut, &manifest, NULL), STATUS_CORRUPT);
        free(exact);
    }
    free(json);
}

static void manifest_rejects_text_before_or_after_it(void **state)
{
    (void)state;
    char *json = format_good(), *more = NULL;
    assert_true(asprintf(&more, "%s%s", json, json) > 0);
    assert_int_equal(parse(more, NULL), STATUS_CORRUPT);
    free(more);
    assert_true(asprintf(&more, "%s\n", json) > 0);
    assert_int_equal(parse(more, NULL), STATUS_CORRUPT);
    free(more);
    free(json);
}

static void manifest_of_another_version_is_named(void **state)
{
    (void)state;
    expect_refused("\"format_version\":\t5", "\"format_version\":\t4", STATUS_UNSUPPORTED,
                   "format_version 4, this build reads 5");
    struct error err;
    assert_int_equal(parse("{\"format_version\": 7}", &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "format_version 7, this build reads 5"));
    expect_refused("\"required_features\":\t[]", "\"required_features\":\t[\"x\"]",
                   STATUS_UNSUPPORTED, "required feature \"x\"");
}

static void manifest_survives_hostile_json(void **state)
{
    (void)state;
    struct error err;
    static const char *const texts[] = {
        "",
        "{",
        "}",
        "[]",
        "null",
        "1",
        "\"",
        "{}",
        "{\"format_version\":}",
        "{\"format_version\":-1}",
        "{\"format_version\":1e999}",
        "{\"format_version\":2.5}",
        "{\"format_version\":\"5\"}",
        "{\"format_version\":5}",
        "{\"format_version\":5,\"required_features\":{}}",
        "{\"format_version\":5,\"required_features\":[]}",
        "{\"format_version\":5,\"required_features\":[],\"checksum\":\"\"}",
        "\xff\xfe",
        "{\"\\u0000",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        assert_int_equal(parse(texts[i], &err), STATUS_CORRUPT);
        assert_true(strlen(err.text) > 0);
    }
    const size_t huge = MANIFEST_BYTES_MAX + 1;
    char *deep = malloc(huge);
    struct manifest manifest;
    memset(deep, '[', huge);
    assert_int_equal(manifest_parse(deep, huge, &manifest, &err), STATUS_CORRUPT);
    assert_int_equal(manifest_parse(deep, huge - 1, &manifest, &err), STATUS_CORRUPT);
    for (size_t i = 0; i + 5 <= huge; i += 5)
        memcpy(deep + i, "{\"a\":", 5);
    assert_int_equal(manifest_parse(deep, huge - 1, &manifest, &err), STATUS_CORRUPT);
    free(deep);
}

static void manifest_ignores_members_it_does_not_know(void **state)
{
    (void)state;
    char *json = edited("\"input_digest\"", "\"later\":\t{\"x\": [1, 2]},\n\t\"input_digest\"");
    struct error err = {0};
    if (parse(json, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    free(json);
}

static void manifest_tells_kinds_of_codec_and_who_chose(void **state)
{
    (void)state;
    struct error err = {0};
    struct manifest manifest, read;
    manifest_good(&manifest);
    const struct digest128 pq = manifest_generation_id(&manifest);
    manifest.codec_kind = CODEC_OPQ;
    const struct digest128 opq = manifest_generation_id(&manifest);
    manifest.codec_asked = CODEC_AUTO;
    const struct digest128 chosen = manifest_generation_id(&manifest);
    manifest.codec_kind = CODEC_PQ;
    const struct digest128 other = manifest_generation_id(&manifest);
    assert_true(pq.low != opq.low && pq.low != chosen.low && opq.low != chosen.low);
    /* What auto comes to is not known when a build begins. */
    assert_true(other.low == chosen.low && other.high == chosen.high);

    manifest.codec_kind = CODEC_OPQ;
    char *json = NULL;
    assert_int_equal(manifest_format(&manifest, &json, &err), STATUS_OK);
    assert_non_null(strstr(json, "\"opq\""));
    assert_non_null(strstr(json, "\"auto\""));
    assert_int_equal(manifest_parse(json, strlen(json), &read, &err), STATUS_OK);
    assert_int_equal(read.codec_kind, CODEC_OPQ);
    assert_int_equal(read.codec_asked, CODEC_AUTO);
    free(json);
    expect_refused("\"kind\":\t\"pq\"", "\"kind\":\t\"auto\"", STATUS_UNSUPPORTED, "codec.kind");
    expect_refused("\"kind\":\t\"pq\"", "\"kind\":\t\"pq\",\n\t\t\"asked\":\t\"pq\"",
                   STATUS_CORRUPT, "asked");
}

static void manifest_rejects_missing_and_mistyped_members(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "required_features",
        "generation_id",
        "input_digest",
        "tool_version",
        "vector_count",
        "dim",
        "type",
        "metric",
        "norm_max",
        "blocks",
        "count",
        "block_bytes",
        "nodes_per_block",
        "node_limit",
        "vector_bytes",
        "adjacency",
        "gap_widths",
        "codec",
        "kind",
        "code_bytes",
        "build",
        "degree",
        "build_list",
        "alpha",
        "seed",
        "block_bytes_asked",
        "navigation_share",
        "shard_count",
        "replication",
        "facts",
        "mean_degree",
        "block_mate_share",
        "trimmed_edges",
        "repaired_nodes",
        "duplicate_vectors",
        "borrowed_rows",
        "entry_node",
        "navigation_count",
        "hot_count",
        "sample_count",
        "sample_k",
        "lid",
        "calibration",
        "from",
        "k",
        "queries",
        "points",
        "files",
        "nodes.blk",
        "codes.bin",
        "codec.bin",
        "navigation.bin",
        "hot.bin",
        "sample.bin",
        "keys.bin",
        "bytes",
        "xxh3",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
        char from[64], to[64];
        snprintf(from, sizeof(from), "\"%s\":\t", keys[i]);
        snprintf(to, sizeof(to), "\"-%s\":\t", keys[i]);
        expect_refused(from, to, STATUS_CORRUPT, "missing");
        snprintf(to, sizeof(to), "\"%s\":\tnull, \"-\":\t", keys[i]);
        expect_refused(from, to, STATUS_CORRUPT, keys[i]);
    }
    expect_refused("\"dim\":\t8", "\"dim\":\t8.5", STATUS_CORRUPT, "dim");
    expect_refused("\"dim\":\t8", "\"dim\":\t-8", STATUS_CORRUPT, "dim");
    expect_refused("\"dim\":\t8", "\"dim\":\t4294967304", STATUS_CORRUPT, "dim");
    expect_refused("\"dim\":\t8", "\"dim\":\t1e400", STATUS_CORRUPT, "dim");
    expect_refused("\"shard_count\":\t3", "\"shard_count\":\t4294967299", STATUS_CORRUPT,
                   "build.shard_count");
    expect_refused("\"entry_node\":\t42", "\"entry_node\":\t4294967338", STATUS_CORRUPT,
                   "facts.entry_node");
    expect_refused("\"replication\":\t1.25", "\"replication\":\t4.25", STATUS_CORRUPT,
                   "replication is 4.25");
    expect_refused("\"seed\":\t\"0x", "\"seed\":\t\"0X", STATUS_CORRUPT, "build.seed");
    expect_refused("\"metric\":\t\"l2\"", "\"metric\":\t\"l3\"", STATUS_CORRUPT, "metric");
    expect_refused("\"type\":\t\"u8\"", "\"type\":\t\"i32\"", STATUS_CORRUPT, "type");
    expect_refused("[1, 3, 5, 7]", "[1, 3, 5]", STATUS_CORRUPT, "gap_widths");
    expect_refused("[1, 3, 5, 7]", "[1, 3, 5, 257]", STATUS_CORRUPT, "gap_widths");
    expect_refused("[1, 3, 5, 7]", "[1, 3, 5, 6]", STATUS_CORRUPT, "7 bits");
    expect_refused("\"kind\":\t\"pq\"", "\"kind\":\t\"rabitq\"", STATUS_UNSUPPORTED, "rabitq");
    expect_refused("\"from\":\t\"sample\"", "\"from\":\t\"sampled\"", STATUS_CORRUPT,
                   "sample or tune");
    expect_refused("\"from\":\t\"sample\"", "\"from\":\t\"tune\"", STATUS_CORRUPT, "no digest");
    expect_refused("[4, 1.05, 1, 1, 6]", "[4, 1.05, 1, 6]", STATUS_CORRUPT, "5 numbers");
    expect_refused("[4, 1.05, 1, 1, 6]", "4", STATUS_CORRUPT, "5 numbers");
    expect_refused("[4, 1.05, 1, 1, 6]", "[4.5, 1.05, 1, 1, 6]", STATUS_CORRUPT, "whole numbers");
    expect_refused("[4, 1.05, 1, 1, 6]", "[4, \"1\", 1, 1, 6]", STATUS_CORRUPT, "in range");
    expect_refused("[4, 1.05, 1, 1, 6]", "[4294967300, 1, 1, 1, 6]", STATUS_CORRUPT, "in range");
    expect_refused("\"replication\":\t1.25",
                   "\"replication\":\t1.25, \"tune_digest\":\t"
                   "\"00000000000000000000000000000000\"",
                   STATUS_CORRUPT, "other than zero");
}

/* `json` with as many times `item` as it has room for, and once more. */
static void manifest_rejects_more_curves_and_points_than_there_is_room_for(void **state)
{
    (void)state;
    static const char curve[] = "{\"from\":\"sample\",\"k\":1,\"queries\":1,\"points\":[]},";
    static const char point[] = "[4, 1, 1, 1, 6],";
    char text[2048] = "\"calibration\":\t[";
    for (int i = 0; i < MANIFEST_CURVES_MAX; i++)
        strcat(text, curve);
    expect_refused("\"calibration\":\t[", text, STATUS_CORRUPT, "few curves");
    strcpy(text, "\"points\":\t[");
    for (int i = 0; i < MANIFEST_POINTS_MAX; i++)
        strcat(text, point);
    expect_refused("\"points\":\t[", text, STATUS_CORRUPT, "few points");
}

static void manifest_keeps_curves_that_were_tuned(void **state)
{
    (void)state;
    struct manifest manifest, read;
    struct error err = {0};
    char *json = NULL;
    manifest_good(&manifest);
    const struct digest128 plain = manifest_generation_id(&manifest);
    manifest.tune_digest = (struct digest128){5, 0};
    const struct digest128 tuned = manifest_generation_id(&manifest);
    assert_true(tuned.low != plain.low);
    manifest.tune_digest = (struct digest128){0, 5};
    assert_true(manifest_generation_id(&manifest).low != tuned.low);
    manifest.generation_id = manifest_generation_id(&manifest);
    manifest.geometry.generation_seed = manifest.generation_id.low;
    manifest.curves[manifest.curve_count++] =
        (struct manifest_curve){.tuned = true,
                                .k = 1,
                                .queries = 1000,
                                .point_count = 1,
                                .points = {{1, 1.0 / 3, 900, 900, 1000000000}}};
    assert_int_equal(manifest_format(&manifest, &json, &err), STATUS_OK);
    assert_int_equal(manifest_parse(json, strlen(json), &read, &err), STATUS_OK);
    assert_int_equal(read.curve_count, 3);
    for (uint32_t c = 0; c < 3; c++) {
        const struct manifest_curve *found = &read.curves[c], *wanted = &manifest.curves[c];
        assert_true(found->tuned == wanted->tuned && found->k == wanted->k);
        assert_int_equal(found->queries, wanted->queries);
        assert_int_equal(found->point_count, wanted->point_count);
        for (uint32_t p = 0; p < wanted->point_count; p++) {
            assert_int_equal(found->points[p].search_list, wanted->points[p].search_list);
            assert_true(found->points[p].search_ratio == wanted->points[p].search_ratio);
            assert_int_equal(found->points[p].hits, wanted->points[p].hits);
            assert_int_equal(found->points[p].squares, wanted->points[p].squares);
            assert_int_equal(found->points[p].reads, wanted->points[p].reads);
        }
    }
    assert_memory_equal(&read.tune_digest, &manifest.tune_digest, sizeof(read.tune_digest));
    assert_true(read.lid == manifest.lid);
    free(json);
}

/* ---- rules ---- */

static void check_refuses(void (*change)(struct manifest *), const char *words)
{
    struct manifest manifest;
    struct error err = {0};
    manifest_good(&manifest);
    assert_int_equal(manifest_check(&manifest, &err), STATUS_OK);
    change(&manifest);
    if (manifest_check(&manifest, &err) == STATUS_OK || !strstr(err.text, words))
        fail_msg("wanted \"%s\", got \"%s\"", words, err.text);
    char *json;
    assert_int_not_equal(manifest_format(&manifest, &json, &err), STATUS_OK);
}

#define CHANGE(name, statement)                                                                    \
    static void change_##name(struct manifest *m)                                                  \
    {                                                                                              \
        statement;                                                                                 \
    }
CHANGE(version, m->format_version = 9)
CHANGE(tool_empty, m->tool_version[0] = '\0')
CHANGE(tool_long, memset(m->tool_version, 'x', sizeof(m->tool_version)))
CHANGE(tool_newline, m->tool_version[1] = '\n')
CHANGE(type, m->type = ELEMENT_I32)
CHANGE(metric, m->metric = METRIC_NONE)
CHANGE(dim_zero, m->dim = 0)
CHANGE(dim_large, m->dim = VECTOR_DIM_MAX + 1)
CHANGE(vector_bytes, m->geometry.vector_bytes = 9)
CHANGE(vectors_none, m->vector_count = 0)
CHANGE(vectors_few, m->vector_count = FIXTURE_BLOCKS - 1)
CHANGE(vectors_many, m->vector_count = FIXTURE_NODE_LIMIT + 1)
CHANGE(block_count, m->block_count++)
CHANGE(block_count_wraps, m->block_count += UINT64_C(1) << 60)
CHANGE(node_limit, m->geometry.node_limit += 10)
CHANGE(block_bytes, m->geometry.block_bytes = 5000)
CHANGE(seed, m->geometry.generation_seed++)
CHANGE(codec, m->codec_kind = CODEC_NONE)
CHANGE(codec_asked, m->codec_asked = CODEC_PQ)
CHANGE(code_bytes, m->code_bytes = FIXTURE_DIM + 1)
CHANGE(code_bytes_scalar, (m->codec_kind = CODEC_SCALAR, m->code_bytes = 5))
CHANGE(degree, m->degree = BLOCK_DEGREE_MAX + 1)
CHANGE(degree_zero, m->degree = 0)
CHANGE(alpha, m->alpha = 0.99)
CHANGE(alpha_nan, m->alpha = (double)NAN)
CHANGE(share, m->block_mate_share = 1.01)
CHANGE(navigation_share, m->navigation_share = -0.5)
CHANGE(norm_negative, m->norm_max = -1)
CHANGE(norm_infinite, m->norm_max = HUGE_VAL)
CHANGE(shards_none, m->shard_count = 0)
CHANGE(shards_many, m->shard_count = MANIFEST_SHARDS_MAX + 1)
CHANGE(replication_low, m->replication = 0.99)
CHANGE(replication_high, m->replication = 4.01)
CHANGE(replication_nan, m->replication = (double)NAN)
CHANGE(replication_alone, (m->shard_count = 1, m->borrowed_rows = 0))
CHANGE(borrowed_many, m->borrowed_rows = 2 * FIXTURE_VECTORS + 1)
CHANGE(borrowed_alone, (m->shard_count = 1, m->replication = 1, m->borrowed_rows = 1))
CHANGE(entry_node, m->entry_node = FIXTURE_NODE_LIMIT)
CHANGE(duplicates, m->duplicate_vectors = FIXTURE_VECTORS)
CHANGE(navigation_none, m->navigation_count = 0)
CHANGE(navigation_many, m->navigation_count = FIXTURE_VECTORS + 1)
CHANGE(hot, m->hot_count = FIXTURE_VECTORS + 1)
CHANGE(sample_none, m->sample_count = 0)
CHANGE(sample_many, m->sample_count = FIXTURE_VECTORS + 1)
CHANGE(sample_k_none, m->sample_k = 0)
CHANGE(sample_k_many, m->sample_k = FIXTURE_VECTORS)
CHANGE(sample_wraps, m->sample_count = UINT32_MAX)
CHANGE(nodes_bytes, m->files[GENERATION_NODES].bytes -= 4096)
CHANGE(codes_bytes, m->files[GENERATION_CODES].bytes--)
CHANGE(codec_bytes, m->files[GENERATION_CODEC].bytes = 0)
CHANGE(navigation_bytes, m->files[GENERATION_NAVIGATION].bytes = 0)
CHANGE(hot_bytes, m->files[GENERATION_HOT].bytes += 4)
CHANGE(sample_bytes, m->files[GENERATION_SAMPLE].bytes--)
CHANGE(keys_bytes, m->files[GENERATION_KEYS].bytes -= 4096)

CHANGE(lid_negative, m->lid = -1)
CHANGE(lid_nan, m->lid = (double)NAN)
CHANGE(curves_many, m->curve_count = MANIFEST_CURVES_MAX + 1)
CHANGE(curve_k, m->curves[1].k = FIXTURE_SAMPLE_K + 1)
CHANGE(curve_k_order, m->curves[1].k = 1)
CHANGE(curve_queries, m->curves[0].queries = FIXTURE_SAMPLE + 1)
CHANGE(curve_queries_none, m->curves[0].queries = 0)
CHANGE(curve_points_none, m->curves[0].point_count = 0)
CHANGE(curve_points_many, m->curves[0].point_count = MANIFEST_POINTS_MAX + 1)
CHANGE(curve_tuned, m->curves[1].tuned = true)
CHANGE(curve_sources, (m->tune_digest.low = 1, m->curves[0].tuned = true))
CHANGE(point_list, m->curves[1].points[0].search_list = 1)
CHANGE(point_list_long, m->curves[0].points[1].search_list = MANIFEST_SEARCH_LIST_MAX + 1)
CHANGE(point_ratio, m->curves[0].points[1].search_ratio = -0.5)
CHANGE(point_ratio_nan, m->curves[0].points[1].search_ratio = (double)NAN)
CHANGE(point_hits, m->curves[0].points[1].hits = 4)
CHANGE(point_hits_order, m->curves[0].points[1].hits = 1)
CHANGE(point_squares, m->curves[1].points[0].squares = 11)
CHANGE(point_squares_few, m->curves[1].points[0].squares = 4)
CHANGE(point_reads_order, m->curves[0].points[1].reads = 6)
CHANGE(point_reads, m->curves[0].points[1].reads = UINT64_MAX)
CHANGE(attributes_short, m->files[GENERATION_ATTRIBUTES].bytes = 191)
CHANGE(attributes_long, m->files[GENERATION_ATTRIBUTES].bytes = UINT64_MAX)

static void manifest_check_names_each_contradiction(void **state)
{
    (void)state;
    static const struct {
        void (*change)(struct manifest *);
        const char *words;
    } cases[] = {
        {change_version, "format_version 9"},
        {change_tool_empty, "tool_version"},
        {change_tool_long, "tool_version"},
        {change_tool_newline, "tool_version"},
        {change_type, "type"},
        {change_metric, "metric"},
        {change_dim_zero, "dim is 0"},
        {change_dim_large, "dim is 8193"},
        {change_vector_bytes, "vector_bytes is 9"},
        {change_vectors_none, "vector_count is 0"},
        {change_vectors_few, "vector_count is 9"},
        {change_vectors_many, "vector_count is 101"},
        {change_block_count, "node_limit is 100"},
        {change_block_count_wraps, "node_limit is 100"},
        {change_node_limit, "node_limit is 110"},
        {change_block_bytes, "block_bytes is 5000"},
        {change_seed, "block seed"},
        {change_codec, "codec kind"},
        {change_codec_asked, "codec asked"},
        {change_code_bytes, "code_bytes is 9"},
        {change_code_bytes_scalar, "scalar takes 3, 4 or 6"},
        {change_degree, "degree is 256"},
        {change_degree_zero, "degree is 0"},
        {change_alpha, "alpha is 0.99"},
        {change_alpha_nan, "alpha is"},
        {change_share, "block_mate_share"},
        {change_navigation_share, "navigation_share"},
        {change_norm_negative, "norm_max"},
        {change_norm_infinite, "norm_max"},
        {change_shards_none, "shard_count is 0"},
        {change_shards_many, "shard_count is 1001, must be 1..1000"},
        {change_replication_low, "replication is 0.99, must be 1..4"},
        {change_replication_high, "replication is 4.01, must be 1..4"},
        {change_replication_nan, "replication is"},
        {change_replication_alone, "replication is 1.25, must be 1..1"},
        {change_borrowed_many, "borrowed_rows is 195, must be 0..194"},
        {change_borrowed_alone, "borrowed_rows is 1, must be 0..0"},
        {change_entry_node, "entry_node is 100, must be 0..99"},
        {change_duplicates, "duplicate_vectors"},
        {change_navigation_none, "navigation_count"},
        {change_navigation_many, "navigation_count"},
        {change_hot, "hot_count"},
        {change_nodes_bytes, "nodes.blk has 36864 bytes"},
        {change_codes_bytes, "codes.bin has 399 bytes"},
        {change_codec_bytes, "codec.bin"},
        {change_navigation_bytes, "navigation.bin"},
        {change_hot_bytes, "hot.bin has 84 bytes"},
        {change_sample_bytes, "sample.bin has 199 bytes, the other fields make it 200"},
        {change_keys_bytes, "keys.bin has 4096 bytes, the other fields make it 8192"},
        {change_attributes_short, "bytes of attributes.bin is 191"},
        {change_attributes_long, "bytes of attributes.bin"},
        {change_sample_none, "sample_count is 0"},
        {change_sample_many, "sample_count is 98"},
        {change_sample_k_none, "sample_k is 0, must be 1..96"},
        {change_sample_k_many, "sample_k is 97, must be 1..96"},
        {change_sample_wraps, "sample_count"},
        {change_lid_negative, "lid is -1"},
        {change_lid_nan, "lid is"},
        {change_curves_many, "number of recall curves is 7, must be 0..6"},
        {change_curve_k, "k of a recall curve is 3, must be 2..2"},
        {change_curve_k_order, "k of a recall curve is 1, must be 2..2"},
        {change_curve_queries, "queries of a recall curve is 4, must be 1..3"},
        {change_curve_queries_none, "queries of a recall curve is 0"},
        {change_curve_points_none, "points of a recall curve is 0"},
        {change_curve_points_many, "points of a recall curve is 33"},
        {change_curve_tuned, "no digest"},
        {change_curve_sources, "behind one of other queries"},
        {change_point_list, "search_list of a recall curve is 1, must be 2..1024"},
        {change_point_list_long, "search_list of a recall curve is 1025"},
        {change_point_ratio, "search_ratio of a recall curve is -0.5"},
        {change_point_ratio_nan, "search_ratio of a recall curve is"},
        {change_point_hits, "hits of a recall curve is 4, must be 2..3"},
        {change_point_hits_order, "hits of a recall curve is 1, must be 2..3"},
        {change_point_squares, "squares of a recall curve is 11, must be 5..10"},
        {change_point_squares_few, "squares of a recall curve is 4, must be 5..10"},
        {change_point_reads_order, "reads of a recall curve is 6, must be 7.."},
        {change_point_reads, "reads of a recall curve is"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        check_refuses(cases[i].change, cases[i].words);
}

static void manifest_without_attributes_has_no_member_for_them(void **state)
{
    (void)state;
    struct manifest manifest, parsed;
    struct error err = {0};
    char *json = NULL;
    manifest_good(&manifest);
    manifest.files[GENERATION_ATTRIBUTES] = (struct manifest_file){0};
    fixture_must(manifest_format(&manifest, &json, &err), &err);
    assert_null(strstr(json, "attributes"));
    fixture_must(manifest_parse(json, strlen(json), &parsed, &err), &err);
    assert_int_equal(parsed.files[GENERATION_ATTRIBUTES].bytes, 0);
    assert_int_equal(parsed.files[GENERATION_SAMPLE].bytes,
                     manifest.files[GENERATION_SAMPLE].bytes);
    free(json);
    /* One that is there is not empty. */
    manifest_good(&manifest);
    char from[64];
    snprintf(from, sizeof(from), "\"bytes\":\t%llu",
             (unsigned long long)manifest.files[GENERATION_ATTRIBUTES].bytes);
    expect_refused(from, "\"bytes\":\t0", STATUS_CORRUPT, "files.attributes.bin.bytes");
}

static void manifest_check_takes_the_bounds_of_its_ranges(void **state)
{
    (void)state;
    struct manifest manifest;
    struct error err = {0};
    manifest_good(&manifest);
    manifest.shard_count = MANIFEST_SHARDS_MAX;
    manifest.replication = MANIFEST_REPLICATION_MAX;
    manifest.borrowed_rows = FIXTURE_VECTORS * (MANIFEST_SHARDS_MAX - 1);
    manifest.entry_node = FIXTURE_NODE_LIMIT - 1;
    if (manifest_check(&manifest, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    manifest.replication = 1;
    manifest.borrowed_rows = 0;
    manifest.entry_node = 0;
    if (manifest_check(&manifest, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    manifest.shard_count = 1;
    if (manifest_check(&manifest, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

/* ---- id ---- */

static void generation_id_depends_on_input_and_parameters_only(void **state)
{
    (void)state;
    struct manifest base, other;
    manifest_good(&base);
    const struct digest128 id = manifest_generation_id(&base);
    /* Pinned: a change of what goes in, or in which order, is a change of format. */
    if (id.low != UINT64_C(0x0875a8b6771a3e3e))
        fail_msg("id 0x%016" PRIx64, id.low);

    other = base;
    other.block_count = 1;
    other.geometry.nodes_per_block = 3;
    other.geometry.generation_seed = 99;
    other.mean_degree = 1;
    other.hot_count = 1;
    other.sample_count = 1;
    other.sample_k = 1;
    other.lid = 1;
    other.curve_count = 0;
    other.borrowed_rows = 1;
    other.entry_node = 1;
    other.tool_version[0] = 'T';
    other.generation_id.low = 0;
    struct digest128 same = manifest_generation_id(&other);
    assert_memory_equal(&same, &id, sizeof(id));

    for (int field = 0; field < 15; field++) {
        other = base;
        switch (field) {
        case 0:
            other.input_digest.high ^= 1;
            break;
        case 1:
            other.format_version++;
            break;
        case 2:
            other.dim++;
            break;
        case 3:
            other.type = other.query_type = ELEMENT_I8;
            break;
        case 4:
            other.metric = METRIC_IP;
            break;
        case 5:
            other.code_bytes--;
            break;
        case 6:
            other.degree++;
            break;
        case 7:
            other.build_list++;
            break;
        case 8:
            other.alpha = nextafter(other.alpha, 2);
            break;
        case 9:
            other.seed++;
            break;
        case 10:
            other.block_bytes_asked = 8192;
            break;
        case 11:
            other.navigation_share = 0.02;
            break;
        case 12:
            other.shard_count++;
            break;
        case 13:
            other.replication = nextafter(other.replication, 2);
            break;
        default:
            other.vector_count--;
            break;
        }
        struct digest128 changed = manifest_generation_id(&other);
        assert_memory_not_equal(&changed, &id, sizeof(id));
    }
}

/* A good manifest of vectors that were given as one type and are stored as another. */
static void manifest_stored(enum element_type given, enum element_type stored,
                            struct manifest *manifest)
{
    manifest_good(manifest);
    manifest->query_type = given;
    manifest->type = stored;
    manifest->geometry.vector_bytes = (uint32_t)element_vector_bytes(stored, FIXTURE_DIM);
    manifest->files[GENERATION_SAMPLE].bytes =
        sample_bytes(FIXTURE_SAMPLE, FIXTURE_SAMPLE_K, manifest->geometry.vector_bytes);
}

static void manifest_tells_what_queries_are_where_vectors_are_stored_as_another_type(void **state)
{
    (void)state;
    for (int given = ELEMENT_NONE; given <= ELEMENT_I8S; given++)
        for (int stored = ELEMENT_U8; stored <= ELEMENT_I8S; stored++) {
            struct manifest manifest, parsed = {0};
            char *json = NULL;
            struct error err = {0};
            manifest_stored((enum element_type)given, (enum element_type)stored, &manifest);
            if (!element_may_store(manifest.query_type, manifest.type)) {
                assert_int_equal(manifest_format(&manifest, &json, &err), STATUS_INVALID);
                assert_non_null(strstr(err.text, "type"));
                continue;
            }
            if (manifest_format(&manifest, &json, &err) != STATUS_OK ||
                manifest_parse(json, strlen(json), &parsed, &err) != STATUS_OK)
                fail_msg("%s", err.text);
            assert_int_equal(parsed.type, stored);
            assert_int_equal(parsed.query_type, given);
            assert_int_equal(strstr(json, "query_type") != NULL, given != stored);
            free(json);
        }
    expect_refused("\"type\":\t\"u8\"", "\"type\":\t\"u8\",\n\t\"query_type\":\t\"u8\"",
                   STATUS_CORRUPT, "query_type");
    expect_refused("\"type\":\t\"u8\"", "\"type\":\t\"u8\",\n\t\"query_type\":\t\"f32\"",
                   STATUS_CORRUPT, "query_type");
}

static void generation_id_depends_on_the_type_given_and_the_type_stored(void **state)
{
    (void)state;
    static const enum element_type pairs[][2] = {
        {ELEMENT_F32, ELEMENT_F32},  {ELEMENT_F16, ELEMENT_F16}, {ELEMENT_F32, ELEMENT_F16},
        {ELEMENT_F32, ELEMENT_BF16}, {ELEMENT_F32, ELEMENT_I8S}, {ELEMENT_F16, ELEMENT_BF16},
        {ELEMENT_F16, ELEMENT_I8S},
    };
    struct digest128 ids[ARRAY_LENGTH(pairs)];
    for (size_t i = 0; i < ARRAY_LENGTH(pairs); i++) {
        struct manifest manifest;
        manifest_stored(pairs[i][0], pairs[i][1], &manifest);
        ids[i] = manifest_generation_id(&manifest);
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(&ids[i], &ids[j], sizeof(ids[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(manifest_round_trips),
        cmocka_unit_test(manifest_round_trips_plain_lists_and_every_type),
        cmocka_unit_test(manifest_matches_its_golden_file),
        cmocka_unit_test(manifest_rejects_every_flipped_bit),
        cmocka_unit_test(manifest_rejects_every_truncation),
        cmocka_unit_test(manifest_rejects_text_before_or_after_it),
        cmocka_unit_test(manifest_of_another_version_is_named),
        cmocka_unit_test(manifest_survives_hostile_json),
        cmocka_unit_test(manifest_ignores_members_it_does_not_know),
        cmocka_unit_test(manifest_tells_kinds_of_codec_and_who_chose),
        cmocka_unit_test(manifest_rejects_missing_and_mistyped_members),
        cmocka_unit_test(manifest_rejects_more_curves_and_points_than_there_is_room_for),
        cmocka_unit_test(manifest_keeps_curves_that_were_tuned),
        cmocka_unit_test(manifest_check_names_each_contradiction),
        cmocka_unit_test(manifest_without_attributes_has_no_member_for_them),
        cmocka_unit_test(manifest_check_takes_the_bounds_of_its_ranges),
        cmocka_unit_test(generation_id_depends_on_input_and_parameters_only),
        cmocka_unit_test(manifest_tells_what_queries_are_where_vectors_are_stored_as_another_type),
        cmocka_unit_test(generation_id_depends_on_the_type_given_and_the_type_stored),
    };
    return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
