/*
 * manifest_json.c - the manifest as JSON text, both ways. The only file that knows cJSON in layout.
 * Pure functions, thread-safe; text is malloc'd.
 *
 * Numbers are printed here, not by cJSON: it rounds doubles to 15 digits where that is "close", and
 * what is read back must be what was written, to the bit. Whole numbers that may exceed 2^53 are
 * hex strings, since JSON readers hold numbers as doubles.
 *
 * The text ends with a checksum of all that precedes it, so manifest_format() prints the object
 * with zeros in its place and fills them in. FORMAT.md has the rule.
 */
#include "layout/manifest.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define DIGEST_DIGITS 32
#define CHECKSUM_KEY  "checksum"
#define CHECKSUM_ZERO "00000000000000000000000000000000"
#define TEXT_END      "\"\n}\n"

static const char *adjacency_name(uint8_t adjacency)
{
    return adjacency == BLOCK_ADJACENCY_GAPS ? "gaps" : "plain";
}

static const char *curve_source(bool tuned)
{
    return tuned ? "tune" : "sample";
}

/* ---- writing ---- */

/* The object being filled; `failed` is set by the first allocation that fails. */
struct json_writer {
    cJSON *object;
    bool failed;
};

static void put_u64(struct json_writer *writer, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, value);
    writer->failed |= !cJSON_AddRawToObject(writer->object, key, text);
}

enum { DOUBLE_TEXT_BYTES = 32 };

static void double_format(double value, char text[DOUBLE_TEXT_BYTES])
{
    /* 17 digits always read back exactly; take fewer where they do too. */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, DOUBLE_TEXT_BYTES, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    for (char *c = text; *c; c++)
        if (*c == ',') /* the decimal point of a host program's locale */
            *c = '.';
}

static void put_double(struct json_writer *writer, const char *key, double value)
{
    char text[DOUBLE_TEXT_BYTES];
    double_format(value, text);
    writer->failed |= !cJSON_AddRawToObject(writer->object, key, text);
}

static void put_text(struct json_writer *writer, const char *key, const char *value)
{
    writer->failed |= !cJSON_AddStringToObject(writer->object, key, value);
}

static void put_hex(struct json_writer *writer, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "0x%016" PRIx64, value);
    put_text(writer, key, text);
}

static void put_digest(struct json_writer *writer, const char *key, struct digest128 digest)
{
    char text[DIGEST_DIGITS + 1];
    snprintf(text, sizeof(text), "%016" PRIx64 "%016" PRIx64, digest.high, digest.low);
    put_text(writer, key, text);
}

static struct json_writer put_object(struct json_writer *parent, const char *key)
{
    struct json_writer child = {.object = cJSON_AddObjectToObject(parent->object, key)};
    child.failed = !child.object;
    return child;
}

static void put_blocks(struct json_writer *root, const struct manifest *manifest)
{
    const struct block_geometry *geometry = &manifest->geometry;
    struct json_writer blocks = put_object(root, "blocks");
    put_u64(&blocks, "count", manifest->block_count);
    put_u64(&blocks, "block_bytes", geometry->block_bytes);
    put_u64(&blocks, "nodes_per_block", geometry->nodes_per_block);
    put_u64(&blocks, "node_limit", geometry->node_limit);
    put_u64(&blocks, "vector_bytes", geometry->vector_bytes);
    put_text(&blocks, "adjacency", adjacency_name(geometry->adjacency));
    if (geometry->adjacency == BLOCK_ADJACENCY_GAPS) {
        char text[32];
        snprintf(text, sizeof(text), "[%u, %u, %u, %u]", geometry->gap_width[0],
                 geometry->gap_width[1], geometry->gap_width[2], geometry->gap_width[3]);
        blocks.failed |= !cJSON_AddRawToObject(blocks.object, "gap_widths", text);
    }
    root->failed |= blocks.failed;
}

static void put_build(struct json_writer *root, const struct manifest *manifest)
{
    struct json_writer build = put_object(root, "build");
    put_u64(&build, "degree", manifest->degree);
    put_u64(&build, "build_list", manifest->build_list);
    put_double(&build, "alpha", manifest->alpha);
    put_hex(&build, "seed", manifest->seed);
    put_u64(&build, "block_bytes_asked", manifest->block_bytes_asked);
    put_double(&build, "navigation_share", manifest->navigation_share);
    put_u64(&build, "shard_count", manifest->shard_count);
    put_double(&build, "replication", manifest->replication);
    if (manifest_is_tuned(manifest))
        put_digest(&build, "tune_digest", manifest->tune_digest);

    struct json_writer facts = put_object(root, "facts");
    put_double(&facts, "mean_degree", manifest->mean_degree);
    put_double(&facts, "block_mate_share", manifest->block_mate_share);
    put_u64(&facts, "trimmed_edges", manifest->trimmed_edges);
    put_u64(&facts, "repaired_nodes", manifest->repaired_nodes);
    put_u64(&facts, "duplicate_vectors", manifest->duplicate_vectors);
    put_u64(&facts, "borrowed_rows", manifest->borrowed_rows);
    put_u64(&facts, "entry_node", manifest->entry_node);
    put_u64(&facts, "navigation_count", manifest->navigation_count);
    put_u64(&facts, "hot_count", manifest->hot_count);
    put_u64(&facts, "sample_count", manifest->sample_count);
    put_u64(&facts, "sample_k", manifest->sample_k);
    put_double(&facts, "lid", manifest->lid);
    root->failed |= build.failed | facts.failed;
}

/* Appends `item`, which may be NULL for want of memory. */
static void put_item(struct json_writer *writer, cJSON *array, cJSON *item)
{
    if (item == NULL || !cJSON_AddItemToArray(array, item)) {
        writer->failed = true;
        cJSON_Delete(item);
    }
}

/* [search_list, search_ratio, hits, squares, reads] */
static cJSON *point_item(const struct manifest_point *point)
{
    char ratio[DOUBLE_TEXT_BYTES], text[160];
    double_format(point->search_ratio, ratio);
    snprintf(text, sizeof(text), "[%u, %s, %" PRIu64 ", %" PRIu64 ", %" PRIu64 "]",
             point->search_list, ratio, point->hits, point->squares, point->reads);
    return cJSON_CreateRaw(text);
}

static void put_calibration(struct json_writer *root, const struct manifest *manifest)
{
    cJSON *curves = cJSON_AddArrayToObject(root->object, "calibration");
    root->failed |= curves == NULL;
    for (uint32_t c = 0; !root->failed && c < manifest->curve_count; c++) {
        const struct manifest_curve *curve = &manifest->curves[c];
        struct json_writer item = {.object = cJSON_CreateObject()};
        put_item(root, curves, item.object);
        if (root->failed)
            return;
        put_text(&item, "from", curve_source(curve->tuned));
        put_u64(&item, "k", curve->k);
        put_u64(&item, "queries", curve->queries);
        cJSON *points = cJSON_AddArrayToObject(item.object, "points");
        item.failed |= points == NULL;
        for (uint32_t p = 0; !item.failed && p < curve->point_count; p++)
            put_item(&item, points, point_item(&curve->points[p]));
        root->failed |= item.failed;
    }
}

static void put_files(struct json_writer *root, const struct manifest *manifest)
{
    struct json_writer files = put_object(root, "files");
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        if (generation_file_optional((enum generation_file)i) && manifest->files[i].bytes == 0)
            continue;
        struct json_writer file = put_object(&files, generation_file_names[i]);
        put_u64(&file, "bytes", manifest->files[i].bytes);
        put_digest(&file, "xxh3", manifest->files[i].xxh3);
        files.failed |= file.failed;
    }
    root->failed |= files.failed;
}

static void put_manifest(struct json_writer *root, const struct manifest *manifest)
{
    put_u64(root, "format_version", manifest->format_version);
    root->failed |= !cJSON_AddArrayToObject(root->object, "required_features");
    put_digest(root, "generation_id", manifest->generation_id);
    put_digest(root, "input_digest", manifest->input_digest);
    put_text(root, "tool_version", manifest->tool_version);
    put_u64(root, "vector_count", manifest->vector_count);
    put_u64(root, "dim", manifest->dim);
    put_text(root, "type", element_name(manifest->type));
    if (manifest->query_type != manifest->type)
        put_text(root, "query_type", element_name(manifest->query_type));
    put_text(root, "metric", metric_name(manifest->metric));
    put_double(root, "norm_max", manifest->norm_max);
    put_blocks(root, manifest);
    struct json_writer codec = put_object(root, "codec");
    put_text(&codec, "kind", codec_kind_name(manifest->codec_kind));
    if (manifest->codec_asked != CODEC_NONE)
        put_text(&codec, "asked", codec_kind_name(manifest->codec_asked));
    put_u64(&codec, "code_bytes", manifest->code_bytes);
    root->failed |= codec.failed;
    put_build(root, manifest);
    put_calibration(root, manifest);
    put_files(root, manifest);
    put_text(root, CHECKSUM_KEY, CHECKSUM_ZERO);
}

/* Fills `digits` (DIGEST_DIGITS + 1) with the checksum of the text before the checksum's own
 * digits. */
static void checksum_digits(const char *text, size_t length, char *digits)
{
    XXH128_hash_t hash = XXH3_128bits(text, length);
    snprintf(digits, DIGEST_DIGITS + 1, "%016" PRIx64 "%016" PRIx64, hash.high64, hash.low64);
}

enum status manifest_format(const struct manifest *manifest, char **json, struct error *err)
{
    enum status status = manifest_check(manifest, err);
    if (status != STATUS_OK)
        return status;

    char *printed = NULL, *text = NULL;
    struct json_writer root = {.object = cJSON_CreateObject()};
    if (root.object) {
        put_manifest(&root, manifest);
        if (!root.failed)
            printed = cJSON_Print(root.object);
    }
    cJSON_Delete(root.object);
    size_t length = printed ? strlen(printed) : 0;
    if (printed)
        text = malloc(length + 2);
    if (!text) {
        cJSON_free(printed);
        return error_set(err, STATUS_NO_MEMORY, "manifest: out of memory");
    }
    memcpy(text, printed, length);
    memcpy(text + length, "\n", 2);
    cJSON_free(printed);

    size_t hashed = length + 1 - strlen(TEXT_END) - DIGEST_DIGITS;
    char digits[DIGEST_DIGITS + 1];
    checksum_digits(text, hashed, digits);
    memcpy(text + hashed, digits, DIGEST_DIGITS);
    *json = text;
    return STATUS_OK;
}

/* ---- reading ---- */

/* The object being read. The first fault is kept in `status` and *err; later gets do nothing. */
struct json_reader {
    const cJSON *object;
    const char *name; /* for messages: "blocks.", "" for the root */
    enum status status;
    struct error *err;
};

static const cJSON *get(struct json_reader *reader, const char *key)
{
    if (reader->status != STATUS_OK)
        return NULL;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(reader->object, key);
    if (!item)
        reader->status =
            error_set(reader->err, STATUS_CORRUPT, "%s%s is missing", reader->name, key);
    return item;
}

static void refuse(struct json_reader *reader, const char *key, const char *wanted)
{
    if (reader->status == STATUS_OK)
        reader->status =
            error_set(reader->err, STATUS_CORRUPT, "%s%s is not %s", reader->name, key, wanted);
}

static uint64_t get_u64(struct json_reader *reader, const char *key, uint64_t max)
{
    const double exact_limit = 9007199254740992.0; /* 2^53: doubles below it are whole exactly */
    const cJSON *item = get(reader, key);
    if (!item)
        return 0;
    double value = item->valuedouble;
    if (!cJSON_IsNumber(item) || !(value >= 0 && value < exact_limit) || value != floor(value) ||
        (uint64_t)value > max) {
        refuse(reader, key, "a whole number in range");
        return 0;
    }
    return (uint64_t)value;
}

static uint32_t get_u32(struct json_reader *reader, const char *key)
{
    return (uint32_t)get_u64(reader, key, UINT32_MAX);
}

static double get_double(struct json_reader *reader, const char *key)
{
    const cJSON *item = get(reader, key);
    if (item && !cJSON_IsNumber(item))
        refuse(reader, key, "a number");
    return item && cJSON_IsNumber(item) ? item->valuedouble : 0;
}

/* Never NULL: "" after a fault. */
static const char *get_text(struct json_reader *reader, const char *key)
{
    const cJSON *item = get(reader, key);
    if (item && !cJSON_IsString(item))
        refuse(reader, key, "a string");
    return item && cJSON_IsString(item) ? item->valuestring : "";
}

/* Reads exactly 16 lower-case hex digits. */
static bool hex_u64(const char *digits, uint64_t *value)
{
    uint64_t sum = 0;
    for (int i = 0; i < 16; i++) {
        const char c = digits[i];
        uint64_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (uint64_t)(c - 'a') + 10;
        else
            return false;
        sum = sum << 4 | digit;
    }
    *value = sum;
    return true;
}

static uint64_t get_hex(struct json_reader *reader, const char *key)
{
    const char *text = get_text(reader, key);
    uint64_t value = 0;
    if (strlen(text) != 18 || memcmp(text, "0x", 2) != 0 || !hex_u64(text + 2, &value))
        refuse(reader, key, "0x and 16 lower-case hex digits");
    return value;
}

static struct digest128 get_digest(struct json_reader *reader, const char *key)
{
    const char *text = get_text(reader, key);
    struct digest128 digest = {0};
    if (strlen(text) != DIGEST_DIGITS || !hex_u64(text, &digest.high) ||
        !hex_u64(text + 16, &digest.low))
        refuse(reader, key, "32 lower-case hex digits");
    return digest;
}

/* The child object `key`; its reader carries this one's fault on. */
static struct json_reader get_object(struct json_reader *parent, const char *key, const char *name)
{
    const cJSON *item = get(parent, key);
    if (item && !cJSON_IsObject(item))
        refuse(parent, key, "an object");
    return (struct json_reader){item, name, parent->status, parent->err};
}

static void get_blocks(struct json_reader *root, struct manifest *manifest)
{
    struct block_geometry *geometry = &manifest->geometry;
    struct json_reader blocks = get_object(root, "blocks", "blocks.");
    manifest->block_count = get_u64(&blocks, "count", UINT32_MAX);
    geometry->block_bytes = get_u32(&blocks, "block_bytes");
    geometry->nodes_per_block = get_u32(&blocks, "nodes_per_block");
    geometry->node_limit = get_u32(&blocks, "node_limit");
    geometry->vector_bytes = get_u32(&blocks, "vector_bytes");
    const char *adjacency = get_text(&blocks, "adjacency");
    if (strcmp(adjacency, adjacency_name(BLOCK_ADJACENCY_GAPS)) == 0)
        geometry->adjacency = BLOCK_ADJACENCY_GAPS;
    else if (strcmp(adjacency, adjacency_name(BLOCK_ADJACENCY_PLAIN)) == 0)
        geometry->adjacency = BLOCK_ADJACENCY_PLAIN;
    else
        refuse(&blocks, "adjacency", "plain or gaps");
    if (geometry->adjacency == BLOCK_ADJACENCY_GAPS) {
        const cJSON *widths = get(&blocks, "gap_widths");
        if (widths && cJSON_GetArraySize(widths) != BLOCK_GAP_WIDTHS)
            refuse(&blocks, "gap_widths", "4 numbers");
        for (int i = 0; blocks.status == STATUS_OK && i < BLOCK_GAP_WIDTHS; i++) {
            const cJSON *width = cJSON_GetArrayItem(widths, i);
            if (cJSON_IsNumber(width) && width->valuedouble >= 1 && width->valuedouble <= 32 &&
                width->valuedouble == floor(width->valuedouble))
                geometry->gap_width[i] = (uint8_t)width->valuedouble;
            else
                refuse(&blocks, "gap_widths", "4 whole numbers of 1..32");
        }
    }
    root->status = blocks.status;
}

static void get_build(struct json_reader *root, struct manifest *manifest)
{
    struct json_reader build = get_object(root, "build", "build.");
    manifest->degree = get_u32(&build, "degree");
    manifest->build_list = get_u32(&build, "build_list");
    manifest->alpha = get_double(&build, "alpha");
    manifest->seed = get_hex(&build, "seed");
    manifest->block_bytes_asked = get_u32(&build, "block_bytes_asked");
    manifest->navigation_share = get_double(&build, "navigation_share");
    manifest->shard_count = get_u32(&build, "shard_count");
    manifest->replication = get_double(&build, "replication");
    if (build.object != NULL && cJSON_HasObjectItem(build.object, "tune_digest")) {
        manifest->tune_digest = get_digest(&build, "tune_digest");
        if (build.status == STATUS_OK && !manifest_is_tuned(manifest))
            refuse(&build, "tune_digest", "other than zero");
    }
    root->status = build.status;

    struct json_reader facts = get_object(root, "facts", "facts.");
    manifest->mean_degree = get_double(&facts, "mean_degree");
    manifest->block_mate_share = get_double(&facts, "block_mate_share");
    manifest->trimmed_edges = get_u64(&facts, "trimmed_edges", UINT64_MAX);
    manifest->repaired_nodes = get_u64(&facts, "repaired_nodes", UINT64_MAX);
    manifest->duplicate_vectors = get_u64(&facts, "duplicate_vectors", UINT64_MAX);
    manifest->borrowed_rows = get_u64(&facts, "borrowed_rows", UINT64_MAX);
    manifest->entry_node = get_u32(&facts, "entry_node");
    manifest->navigation_count = get_u32(&facts, "navigation_count");
    manifest->hot_count = get_u64(&facts, "hot_count", UINT64_MAX);
    manifest->sample_count = get_u32(&facts, "sample_count");
    manifest->sample_k = get_u32(&facts, "sample_k");
    manifest->lid = get_double(&facts, "lid");
    root->status = facts.status;
}

/* Whole number i of an array; a fault otherwise. */
static uint64_t item_u64(struct json_reader *reader, const cJSON *array, int i)
{
    const cJSON *item = cJSON_GetArrayItem(array, i);
    const double exact_limit = 9007199254740992.0;
    if (cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < exact_limit &&
        item->valuedouble == floor(item->valuedouble))
        return (uint64_t)item->valuedouble;
    refuse(reader, "points", "lists of whole numbers");
    return 0;
}

static void get_point(struct json_reader *reader, const cJSON *item, struct manifest_point *point)
{
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 5) {
        refuse(reader, "points", "lists of 5 numbers");
        return;
    }
    const uint64_t search_list = item_u64(reader, item, 0);
    const cJSON *ratio = cJSON_GetArrayItem(item, 1);
    if (search_list > UINT32_MAX || !cJSON_IsNumber(ratio))
        refuse(reader, "points", "lists of numbers in range");
    point->search_list = (uint32_t)search_list;
    point->search_ratio = ratio->valuedouble;
    point->hits = item_u64(reader, item, 2);
    point->squares = item_u64(reader, item, 3);
    point->reads = item_u64(reader, item, 4);
}

static void get_curve(struct json_reader *reader, struct manifest_curve *curve)
{
    const char *from = get_text(reader, "from");
    curve->tuned = strcmp(from, curve_source(true)) == 0;
    if (!curve->tuned && strcmp(from, curve_source(false)) != 0)
        refuse(reader, "from", "sample or tune");
    curve->k = get_u32(reader, "k");
    curve->queries = get_u32(reader, "queries");
    const cJSON *points = get(reader, "points");
    if (points != NULL &&
        (!cJSON_IsArray(points) || cJSON_GetArraySize(points) > MANIFEST_POINTS_MAX))
        refuse(reader, "points", "an array of few points");
    if (reader->status != STATUS_OK)
        return;
    for (const cJSON *item = points->child; item != NULL; item = item->next)
        get_point(reader, item, &curve->points[curve->point_count++]);
}

static void get_calibration(struct json_reader *root, struct manifest *manifest)
{
    const cJSON *curves = get(root, "calibration");
    if (curves != NULL &&
        (!cJSON_IsArray(curves) || cJSON_GetArraySize(curves) > MANIFEST_CURVES_MAX))
        refuse(root, "calibration", "an array of few curves");
    if (root->status != STATUS_OK)
        return;
    for (const cJSON *item = curves->child; item != NULL; item = item->next) {
        struct json_reader curve = {item, "calibration.", root->status, root->err};
        if (!cJSON_IsObject(item))
            refuse(root, "calibration", "an array of objects");
        else
            get_curve(&curve, &manifest->curves[manifest->curve_count++]);
        if (root->status == STATUS_OK)
            root->status = curve.status;
        if (root->status != STATUS_OK)
            return;
    }
}

static void get_files(struct json_reader *root, struct manifest *manifest)
{
    struct json_reader files = get_object(root, "files", "files.");
    for (int i = 0; i < GENERATION_FILE_COUNT; i++) {
        const char *name = generation_file_names[i];
        const bool optional = generation_file_optional((enum generation_file)i);
        if (optional && files.object != NULL &&
            cJSON_GetObjectItemCaseSensitive(files.object, name) == NULL)
            continue;
        struct json_reader file = get_object(&files, name, name);
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "files.%s.", name);
        file.name = prefix;
        manifest->files[i].bytes = get_u64(&file, "bytes", UINT64_MAX);
        manifest->files[i].xxh3 = get_digest(&file, "xxh3");
        if (optional && manifest->files[i].bytes == 0)
            refuse(&file, "bytes", "the length of a file that is there");
        files.status = file.status;
    }
    root->status = files.status;
}

static void get_manifest(struct json_reader *root, struct manifest *manifest)
{
    manifest->generation_id = get_digest(root, "generation_id");
    manifest->geometry.generation_seed = manifest->generation_id.low;
    manifest->input_digest = get_digest(root, "input_digest");
    const char *tool_version = get_text(root, "tool_version");
    if (strlen(tool_version) < sizeof(manifest->tool_version))
        strcpy(manifest->tool_version, tool_version);
    else
        refuse(root, "tool_version", "short enough");
    manifest->vector_count = get_u64(root, "vector_count", UINT64_MAX);
    manifest->dim = get_u32(root, "dim");
    manifest->type = element_parse(get_text(root, "type"));
    manifest->query_type = manifest->type;
    if (root->status == STATUS_OK && cJSON_HasObjectItem(root->object, "query_type")) {
        manifest->query_type = element_parse(get_text(root, "query_type"));
        if (manifest->query_type == manifest->type)
            refuse(root, "query_type", "another than type");
    }
    manifest->metric = metric_parse(get_text(root, "metric"));
    manifest->norm_max = get_double(root, "norm_max");
    get_blocks(root, manifest);
    struct json_reader codec = get_object(root, "codec", "codec.");
    const char *kind = get_text(&codec, "kind");
    manifest->codec_kind = codec_kind_parse(kind);
    if (codec.status == STATUS_OK &&
        (manifest->codec_kind == CODEC_NONE || manifest->codec_kind == CODEC_AUTO))
        codec.status = error_set(root->err, STATUS_UNSUPPORTED,
                                 "codec.kind is \"%.32s\", which this build does not know", kind);
    if (codec.object != NULL && cJSON_HasObjectItem(codec.object, "asked")) {
        const char *asked = get_text(&codec, "asked");
        manifest->codec_asked = codec_kind_parse(asked);
        if (codec.status == STATUS_OK && manifest->codec_asked != CODEC_AUTO)
            refuse(&codec, "asked", "\"auto\"");
    }
    manifest->code_bytes = get_u32(&codec, "code_bytes");
    root->status = codec.status;
    get_build(root, manifest);
    get_calibration(root, manifest);
    get_files(root, manifest);
}

/* Version and features come before the checksum: a later format may well move or change that. */
static void check_version(struct json_reader *root)
{
    uint32_t version = get_u32(root, "format_version");
    if (root->status == STATUS_OK && version != MANIFEST_FORMAT_VERSION)
        root->status =
            error_set(root->err, STATUS_UNSUPPORTED, "format_version %u, this build reads %d",
                      version, MANIFEST_FORMAT_VERSION);
    const cJSON *features = get(root, "required_features");
    if (!features)
        return;
    if (!cJSON_IsArray(features))
        refuse(root, "required_features", "an array");
    const cJSON *first = features->child;
    if (root->status == STATUS_OK && first)
        root->status = error_set(root->err, STATUS_UNSUPPORTED,
                                 "required feature \"%.64s\" is unknown to this build",
                                 cJSON_IsString(first) ? first->valuestring : "?");
}

static void check_checksum(struct json_reader *root, const char *json, size_t length)
{
    const size_t end_bytes = strlen(TEXT_END);
    const char *stored = get_text(root, CHECKSUM_KEY);
    if (root->status != STATUS_OK)
        return;
    if (length < end_bytes + DIGEST_DIGITS ||
        memcmp(json + length - end_bytes, TEXT_END, end_bytes) != 0) {
        refuse(root, CHECKSUM_KEY, "the last member, followed by '\"', newline, '}', newline");
        return;
    }
    size_t hashed = length - end_bytes - DIGEST_DIGITS;
    char digits[DIGEST_DIGITS + 1];
    checksum_digits(json, hashed, digits);
    if (memcmp(json + hashed, digits, DIGEST_DIGITS) != 0 || strcmp(stored, digits) != 0)
        root->status =
            error_set(root->err, STATUS_CORRUPT,
                      "checksum mismatch: the text has %s, it says %.32s", digits, stored);
}

enum status manifest_parse(const char *json, size_t length, struct manifest *out, struct error *err)
{
    if (length > MANIFEST_BYTES_MAX)
        return error_set(err, STATUS_CORRUPT, "%zu bytes of manifest, at most %d are read", length,
                         MANIFEST_BYTES_MAX);
    /* cJSON refuses to nest deeper than 1000 levels, so text of any shape is safe to parse. */
    const char *end = NULL;
    cJSON *parsed = cJSON_ParseWithLengthOpts(json, length, &end, false);
    if (!parsed)
        return error_set(err, STATUS_CORRUPT, "not JSON at byte %td", end ? end - json : 0);

    struct manifest manifest = {.format_version = MANIFEST_FORMAT_VERSION};
    struct json_reader root = {parsed, "", STATUS_OK, err};
    if (!cJSON_IsObject(parsed))
        root.status = error_set(err, STATUS_CORRUPT, "not a JSON object");
    check_version(&root);
    check_checksum(&root, json, length);
    if (root.status == STATUS_OK && end != json + length - 1) /* the last byte is a newline */
        root.status =
            error_set(err, STATUS_CORRUPT, "more follows the JSON object at byte %td", end - json);
    get_manifest(&root, &manifest);
    cJSON_Delete(parsed);
    if (root.status != STATUS_OK)
        return root.status;

    enum status status = manifest_check(&manifest, err);
    /* What is the caller's mistake in a manifest to write is damage in one that was read. */
    if (status == STATUS_INVALID) {
        status = STATUS_CORRUPT;
        if (err)
            err->status = status;
    }
    if (status == STATUS_OK)
        *out = manifest;
    return status;
}
