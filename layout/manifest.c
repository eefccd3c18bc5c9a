/*
 * manifest.c - the manifest's rules and its generation id. The JSON text is manifest_json.c's.
 * Pure functions, thread-safe.
 */
#include "layout/manifest.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <xxhash.h>

#include "layout/attributes.h"
#include "layout/digest.h"
#include "layout/keys.h"
#include "layout/sample.h"

const char *const generation_file_names[GENERATION_FILE_COUNT] = {
    [GENERATION_NODES] = "nodes.blk",
    [GENERATION_CODES] = "codes.bin",
    [GENERATION_CODEC] = "codec.bin",
    [GENERATION_NAVIGATION] = "navigation.bin",
    [GENERATION_HOT] = "hot.bin",
    [GENERATION_SAMPLE] = "sample.bin",
    [GENERATION_ATTRIBUTES] = "attributes.bin",
    [GENERATION_KEYS] = "keys.bin",
};

/* ---- generation id ---- */

/* What the id is a hash of. Packed by hand: every field at a multiple of its size, no padding. */
struct generation_identity {
    uint64_t input_digest_low;
    uint64_t input_digest_high;
    uint64_t vector_count;
    uint64_t seed;
    double alpha;
    double navigation_share;
    uint32_t format_version;
    uint32_t dim;
    uint32_t type;
    uint32_t metric;
    uint32_t codec_kind;
    uint32_t code_bytes;
    uint32_t degree;
    uint32_t build_list;
    uint32_t block_bytes_asked;
    uint32_t shard_count;
    double replication;
};
_Static_assert(sizeof(struct generation_identity) == 96, "identity size");
_Static_assert(offsetof(struct generation_identity, input_digest_low) == 0, "identity layout");
_Static_assert(offsetof(struct generation_identity, input_digest_high) == 8, "identity layout");
_Static_assert(offsetof(struct generation_identity, vector_count) == 16, "identity layout");
_Static_assert(offsetof(struct generation_identity, seed) == 24, "identity layout");
_Static_assert(offsetof(struct generation_identity, alpha) == 32, "identity layout");
_Static_assert(offsetof(struct generation_identity, navigation_share) == 40, "identity layout");
_Static_assert(offsetof(struct generation_identity, format_version) == 48, "identity layout");
_Static_assert(offsetof(struct generation_identity, dim) == 52, "identity layout");
_Static_assert(offsetof(struct generation_identity, type) == 56, "identity layout");
_Static_assert(offsetof(struct generation_identity, metric) == 60, "identity layout");
_Static_assert(offsetof(struct generation_identity, codec_kind) == 64, "identity layout");
_Static_assert(offsetof(struct generation_identity, code_bytes) == 68, "identity layout");
_Static_assert(offsetof(struct generation_identity, degree) == 72, "identity layout");
_Static_assert(offsetof(struct generation_identity, build_list) == 76, "identity layout");
_Static_assert(offsetof(struct generation_identity, block_bytes_asked) == 80, "identity layout");
_Static_assert(offsetof(struct generation_identity, shard_count) == 84, "identity layout");
_Static_assert(offsetof(struct generation_identity, replication) == 88, "identity layout");

bool manifest_is_tuned(const struct manifest *manifest)
{
    return manifest->tune_digest.low != 0 || manifest->tune_digest.high != 0;
}

/* The input's type stands above that of what is stored, where they differ. */
static uint32_t type_identity(const struct manifest *manifest)
{
    const uint32_t type = (uint32_t)manifest->type;
    return manifest->query_type == manifest->type ? type
                                                  : (uint32_t)manifest->query_type << 8 | type;
}

struct digest128 manifest_generation_id(const struct manifest *manifest)
{
    struct generation_identity identity = {
        .input_digest_low = manifest->input_digest.low,
        .input_digest_high = manifest->input_digest.high,
        .vector_count = manifest->vector_count,
        .seed = manifest->seed,
        .alpha = manifest->alpha,
        .navigation_share = manifest->navigation_share,
        .format_version = manifest->format_version,
        .dim = manifest->dim,
        .type = type_identity(manifest),
        .metric = (uint32_t)manifest->metric,
        .codec_kind = (uint32_t)(manifest->codec_asked != CODEC_NONE ? manifest->codec_asked
                                                                     : manifest->codec_kind),
        .code_bytes = manifest->code_bytes,
        .degree = manifest->degree,
        .build_list = manifest->build_list,
        .block_bytes_asked = manifest->block_bytes_asked,
        .shard_count = manifest->shard_count,
        .replication = manifest->replication,
    };
    if (!manifest_is_tuned(manifest))
        return digest_of(XXH3_128bits(&identity, sizeof(identity)));
    /* Only then: the id of a build without them does not know that there could be some. */
    const struct {
        struct generation_identity identity;
        uint64_t tune_digest_low;
        uint64_t tune_digest_high;
    } tuned = {identity, manifest->tune_digest.low, manifest->tune_digest.high};
    _Static_assert(sizeof(tuned) == 112, "identity size");
    return digest_of(XXH3_128bits(&tuned, sizeof(tuned)));
}

/* ---- rules ---- */

/* A whole number with the range it must lie in; `high_name` says where the bound comes from. */
struct range_rule {
    const char *name;
    uint64_t value;
    uint64_t low;
    uint64_t high;
};

static enum status ranges_check(const struct range_rule *rules, size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++)
        if (rules[i].value < rules[i].low || rules[i].value > rules[i].high)
            return error_set(err, STATUS_INVALID,
                             "%s is %" PRIu64 ", must be %" PRIu64 "..%" PRIu64, rules[i].name,
                             rules[i].value, rules[i].low, rules[i].high);
    return STATUS_OK;
}

/* A number that must be finite and lie in [low, high]. */
struct real_rule {
    const char *name;
    double value;
    double low;
    double high;
};

static enum status reals_check(const struct real_rule *rules, size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++)
        /* Written so that a NaN fails. */
        if (!(rules[i].value >= rules[i].low && rules[i].value <= rules[i].high))
            return error_set(err, STATUS_INVALID, "%s is %g, must be %g..%g", rules[i].name,
                             rules[i].value, rules[i].low, rules[i].high);
    return STATUS_OK;
}

static enum status tool_version_check(const struct manifest *manifest, struct error *err)
{
    const char *text = manifest->tool_version;
    size_t length = strnlen(text, sizeof(manifest->tool_version));
    bool good = length >= 1 && length < sizeof(manifest->tool_version);
    for (size_t i = 0; good && i < length; i++)
        good = text[i] >= ' ' && text[i] <= '~';
    if (good)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID, "tool_version is not 1..%zu printable characters",
                     sizeof(manifest->tool_version) - 1);
}

static enum status vectors_check(const struct manifest *manifest, struct error *err)
{
    const struct block_geometry *geometry = &manifest->geometry;
    if (!element_is_stored(manifest->type))
        return error_set(err, STATUS_INVALID, "type is %d, must be u8, i8, f16, f32, bf16 or i8s",
                         (int)manifest->type);
    if (!element_may_store(manifest->query_type, manifest->type))
        return error_set(err, STATUS_INVALID, "query_type is %s, of which no index stores %s",
                         element_name(manifest->query_type), element_name(manifest->type));
    if (manifest->metric != METRIC_L2 && manifest->metric != METRIC_IP &&
        manifest->metric != METRIC_COSINE)
        return error_set(err, STATUS_INVALID, "metric is %d, must be l2, ip or cosine",
                         (int)manifest->metric);
    const struct range_rule dim_rule[] = {{"dim", manifest->dim, 1, VECTOR_DIM_MAX}};
    enum status status = ranges_check(dim_rule, ARRAY_LENGTH(dim_rule), err);
    if (status != STATUS_OK)
        return status;
    uint64_t vector_bytes = element_vector_bytes(manifest->type, manifest->dim);
    if (geometry->vector_bytes != vector_bytes)
        return error_set(
            err, STATUS_INVALID, "vector_bytes is %u, a vector of %u %s takes %" PRIu64,
            geometry->vector_bytes, manifest->dim, element_name(manifest->type), vector_bytes);
    return STATUS_OK;
}

static enum status blocks_check(const struct manifest *manifest, struct error *err)
{
    const struct block_geometry *geometry = &manifest->geometry;
    enum status status = block_geometry_check(geometry, err);
    if (status != STATUS_OK)
        return status;
    /* Multiplying a count from disk could wrap, dividing cannot; the geometry's own check has made
     * node_limit a multiple of nodes_per_block. */
    if (manifest->block_count != geometry->node_limit / geometry->nodes_per_block)
        return error_set(err, STATUS_INVALID,
                         "node_limit is %u, %" PRIu64 " blocks of %u nodes make another number",
                         geometry->node_limit, manifest->block_count, geometry->nodes_per_block);
    if (geometry->generation_seed != manifest->generation_id.low)
        return error_set(err, STATUS_INVALID,
                         "block seed 0x%016" PRIx64
                         " is not the low half of the generation id, 0x%016" PRIx64,
                         geometry->generation_seed, manifest->generation_id.low);
    /* A block holds at least one record. */
    const struct range_rule rules[] = {
        {"vector_count", manifest->vector_count, manifest->block_count, geometry->node_limit},
    };
    return ranges_check(rules, ARRAY_LENGTH(rules), err);
}

static enum status build_check(const struct manifest *manifest, struct error *err)
{
    const struct codec_params codec = {
        .kind = manifest->codec_kind,
        .metric = manifest->metric,
        .type = manifest->type,
        .dim = manifest->dim,
        .code_bytes = manifest->code_bytes,
    };
    enum status status = codec_code_bytes_check(&codec, err);
    if (status != STATUS_OK)
        return status;
    if (manifest->codec_asked != CODEC_NONE && manifest->codec_asked != CODEC_AUTO)
        return error_set(err, STATUS_INVALID, "codec asked for is %d, must be none or auto (%d)",
                         (int)manifest->codec_asked, CODEC_AUTO);
    const uint64_t count = manifest->vector_count;
    const struct range_rule ranges[] = {
        {"degree", manifest->degree, 1, BLOCK_DEGREE_MAX},
        {"build_list", manifest->build_list, 0, UINT32_MAX},
        {"block_bytes_asked", manifest->block_bytes_asked, 0, BLOCK_BYTES_MAX},
        {"trimmed_edges", manifest->trimmed_edges, 0, count * BLOCK_DEGREE_MAX},
        {"repaired_nodes", manifest->repaired_nodes, 0, count},
        {"duplicate_vectors", manifest->duplicate_vectors, 0, count - 1},
        {"navigation_count", manifest->navigation_count, 1, count},
        {"hot_count", manifest->hot_count, 0, count},
        {"sample_count", manifest->sample_count, 1, MIN(count, (uint64_t)SAMPLE_COUNT_MAX)},
        {"sample_k", manifest->sample_k, count > 1, MIN(count - 1, (uint64_t)SAMPLE_K_MAX)},
    };
    status = ranges_check(ranges, ARRAY_LENGTH(ranges), err);
    if (status != STATUS_OK)
        return status;
    const struct real_rule reals[] = {
        {"norm_max", manifest->norm_max, 0, HUGE_VAL},
        {"alpha", manifest->alpha, 1, 1e6},
        {"navigation_share", manifest->navigation_share, 0, 1},
        {"mean_degree", manifest->mean_degree, 0, BLOCK_DEGREE_MAX},
        {"block_mate_share", manifest->block_mate_share, 0, 1},
    };
    status = reals_check(reals, ARRAY_LENGTH(reals), err);
    if (status == STATUS_OK && !isfinite(manifest->norm_max))
        status = error_set(err, STATUS_INVALID, "norm_max is not finite");
    return status;
}

/* After blocks_check(): vector_count < 2^32, so that no product wraps. */
static enum status shards_check(const struct manifest *manifest, struct error *err)
{
    const struct range_rule shard_rule[] = {
        {"shard_count", manifest->shard_count, 1, MANIFEST_SHARDS_MAX},
    };
    enum status status = ranges_check(shard_rule, ARRAY_LENGTH(shard_rule), err);
    if (status != STATUS_OK)
        return status;
    const bool alone = manifest->shard_count == 1;
    const struct real_rule reals[] = {
        {"replication", manifest->replication, 1, alone ? 1 : MANIFEST_REPLICATION_MAX},
    };
    status = reals_check(reals, ARRAY_LENGTH(reals), err);
    if (status != STATUS_OK)
        return status;
    const struct range_rule facts[] = {
        {"borrowed_rows", manifest->borrowed_rows, 0,
         manifest->vector_count * (manifest->shard_count - 1)},
        {"entry_node", manifest->entry_node, 0, manifest->geometry.node_limit - 1},
    };
    return ranges_check(facts, ARRAY_LENGTH(facts), err);
}

static enum status file_bytes_check(const struct manifest *manifest, enum generation_file file,
                                    uint64_t wanted, struct error *err)
{
    if (manifest->files[file].bytes == wanted)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID,
                     "%s has %" PRIu64 " bytes, the other fields make it %" PRIu64,
                     generation_file_names[file], manifest->files[file].bytes, wanted);
}

/* None of the products wraps: node_limit < 2^32, block_bytes < 2^16, code_bytes <= 2^13. */
static enum status files_check(const struct manifest *manifest, struct error *err)
{
    enum status status = file_bytes_check(
        manifest, GENERATION_NODES, manifest->block_count * manifest->geometry.block_bytes, err);
    if (status == STATUS_OK)
        status =
            file_bytes_check(manifest, GENERATION_CODES,
                             (uint64_t)manifest->geometry.node_limit * manifest->code_bytes, err);
    if (status == STATUS_OK)
        status =
            file_bytes_check(manifest, GENERATION_HOT, manifest->hot_count * sizeof(uint32_t), err);
    if (status == STATUS_OK)
        status = file_bytes_check(manifest, GENERATION_SAMPLE,
                                  sample_bytes(manifest->sample_count, manifest->sample_k,
                                               manifest->geometry.vector_bytes),
                                  err);
    if (status == STATUS_OK)
        status =
            file_bytes_check(manifest, GENERATION_KEYS, keys_bytes(manifest->vector_count), err);
    if (status != STATUS_OK)
        return status;
    /* Their lengths also depend on what is in them; their readers compare. */
    const uint64_t attributes_bytes = manifest->files[GENERATION_ATTRIBUTES].bytes;
    const struct range_rule rules[] = {
        {"bytes of codec.bin", manifest->files[GENERATION_CODEC].bytes, 1, UINT32_MAX},
        {"bytes of navigation.bin", manifest->files[GENERATION_NAVIGATION].bytes, 1,
         UINT64_C(1) << 42},
        {"bytes of attributes.bin", attributes_bytes,
         attributes_bytes != 0 ? attributes_head_bytes(1) : 0, UINT64_C(1) << 52},
    };
    return ranges_check(rules, ARRAY_LENGTH(rules), err);
}

/* ---- recall curves ---- */

static enum status point_check(const struct manifest_curve *curve, uint32_t number,
                               struct error *err)
{
    const struct manifest_point *point = &curve->points[number];
    const struct manifest_point *before = number > 0 ? point - 1 : NULL;
    const uint64_t all = (uint64_t)curve->queries * curve->k;
    /* A search reads at most some blocks for each entry of its list. */
    const uint64_t reads_max = (uint64_t)curve->queries << 20;
    const struct range_rule rules[] = {
        {"search_list of a recall curve", point->search_list, curve->k, MANIFEST_SEARCH_LIST_MAX},
        {"hits of a recall curve", point->hits, before != NULL ? before->hits + 1 : 0, all},
        {"squares of a recall curve", point->squares, point->hits, point->hits * curve->k},
        {"reads of a recall curve", point->reads, before != NULL ? before->reads + 1 : 0,
         reads_max},
    };
    const struct real_rule ratio[] = {
        {"search_ratio of a recall curve", point->search_ratio, 0, MANIFEST_RATIO_MAX},
    };
    enum status status = ranges_check(rules, ARRAY_LENGTH(rules), err);
    return status == STATUS_OK ? reals_check(ratio, ARRAY_LENGTH(ratio), err) : status;
}

static enum status curve_check(const struct manifest *manifest, uint32_t number, struct error *err)
{
    const struct manifest_curve *curve = &manifest->curves[number];
    /* The first curve is its own. */
    const struct manifest_curve *before = &manifest->curves[number > 0 ? number - 1 : 0];
    const bool follows = number > 0 && before->tuned == curve->tuned;
    if (before->tuned && !curve->tuned)
        return error_set(err, STATUS_INVALID,
                         "a recall curve of the sample is behind one of other queries");
    if (curve->tuned && !manifest_is_tuned(manifest))
        return error_set(err, STATUS_INVALID, "a recall curve of queries that have no digest");
    const uint64_t queries_max = curve->tuned ? SAMPLE_COUNT_MAX : manifest->sample_count;
    const uint64_t k_max =
        curve->tuned ? MIN(manifest->vector_count, (uint64_t)SAMPLE_K_MAX) : manifest->sample_k;
    const struct range_rule rules[] = {
        {"k of a recall curve", curve->k, follows ? before->k + 1 : 1, k_max},
        {"queries of a recall curve", curve->queries, 1, queries_max},
        {"points of a recall curve", curve->point_count, 1, MANIFEST_POINTS_MAX},
    };
    enum status status = ranges_check(rules, ARRAY_LENGTH(rules), err);
    for (uint32_t i = 0; status == STATUS_OK && i < curve->point_count; i++)
        status = point_check(curve, i, err);
    return status;
}

static enum status curves_check(const struct manifest *manifest, struct error *err)
{
    const struct real_rule lid[] = {{"lid", manifest->lid, 0, MANIFEST_LID_MAX}};
    const struct range_rule count[] = {
        {"number of recall curves", manifest->curve_count, 0, MANIFEST_CURVES_MAX},
    };
    enum status status = reals_check(lid, ARRAY_LENGTH(lid), err);
    if (status == STATUS_OK)
        status = ranges_check(count, ARRAY_LENGTH(count), err);
    for (uint32_t i = 0; status == STATUS_OK && i < manifest->curve_count; i++)
        status = curve_check(manifest, i, err);
    return status;
}

enum status manifest_check(const struct manifest *manifest, struct error *err)
{
    if (manifest->format_version != MANIFEST_FORMAT_VERSION)
        return error_set(err, STATUS_UNSUPPORTED, "format_version %u, this build reads %d",
                         manifest->format_version, MANIFEST_FORMAT_VERSION);
    static enum status (*const checks[])(const struct manifest *, struct error *) = {
        tool_version_check, vectors_check, blocks_check, build_check,
        shards_check,       files_check,   curves_check,
    };
    for (size_t i = 0; i < ARRAY_LENGTH(checks); i++) {
        enum status status = checks[i](manifest, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}
