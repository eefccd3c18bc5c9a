/*
 * cmd_info.c - `nightjar info` and `verify`: what a generation is, and whether it is whole.
 */
#include <inttypes.h>

#include "layout/attributes.h"
#include "layout/generation.h"
#include "layout/keys_lookup.h"
#include "query/index_plan.h"
#include "tools/cmd.h"

static const char *adjacency_name(const struct manifest *manifest)
{
    return manifest->geometry.adjacency == BLOCK_ADJACENCY_GAPS ? "gaps" : "plain";
}

static const char *graph_name(const struct manifest *manifest)
{
    return manifest->build_list != 0 ? "vamana" : "pipnn";
}

static uint64_t total_bytes(const struct manifest *manifest)
{
    uint64_t total = 0;
    for (int f = 0; f < GENERATION_FILE_COUNT; f++)
        total += manifest->files[f].bytes;
    return total;
}

/* The command line of a command on one generation: parses the options of `spec` and the operand
 * GEN, and opens that. NULL: *outcome is what to return. */
static struct generation *open_operand(struct args_spec spec, int argc, char **argv,
                                       enum cmd_outcome *outcome, struct error *err)
{
    struct args_positionals rest;
    struct generation *generation;
    spec.positional_name = "GEN";
    spec.positional_min = 1;
    spec.positional_max = 1;
    if (!cmd_parse(&spec, argc, argv, &rest, outcome, err))
        return NULL;
    if (generation_open(rest.items[0], &generation, err) == STATUS_OK)
        return generation;
    *outcome = CMD_FAILED;
    return NULL;
}

/* ---- info ---- */

/* What a daemon would hold at which --memory. */
static void print_steps(const struct manifest *manifest)
{
    struct index_step steps[INDEX_STEPS_MAX];
    uint32_t count = index_plan_steps(manifest, steps);
    for (uint32_t i = 0; i < count; i++) {
        const struct index_plan *plan = &steps[i].plan;
        printf("%-17s %" PRIu64 " bytes (%.1f MiB): codes of %u bytes%s%s\n",
               i == 0 ? "--memory from" : "", steps[i].budget, (double)steps[i].budget / 0x1p20,
               plan->code_bytes, plan->lists ? ", lists of all vectors" : "",
               plan->resident ? ", all blocks: no reads" : "");
    }
}

/* The columns as the head of the file tells; none where the generation has no attributes. */
static enum status attributes_read(const struct generation *generation,
                                   struct attributes_shape *shape, struct error *err)
{
    const uint64_t bytes = generation_manifest(generation)->files[GENERATION_ATTRIBUTES].bytes;
    uint8_t head[ATTRIBUTES_HEAD_BYTES_MAX];
    struct error why;
    shape->column_count = 0;
    if (bytes == 0)
        return STATUS_OK;
    const size_t length = (size_t)MIN(bytes, (uint64_t)sizeof(head));
    enum status status = generation_read(generation, GENERATION_ATTRIBUTES, head, length, err);
    if (status != STATUS_OK)
        return status;
    status = attributes_head_decode(head, length, bytes, shape, &why);
    if (status != STATUS_OK)
        status = error_set(err, status, "%s/%s: %s", generation_path(generation),
                           generation_file_names[GENERATION_ATTRIBUTES], why.text);
    return status;
}

static void print_attributes(const struct attributes_shape *shape)
{
    for (uint32_t c = 0; c < shape->column_count; c++) {
        const struct attribute_shape *column = &shape->columns[c];
        printf("%-17s %s:%s, ", c == 0 ? "attributes" : "", column->name,
               attribute_kind_name(column->kind));
        if (column->kind == ATTRIBUTE_LABELS)
            printf("%u labels, %" PRIu64 " in all vectors, ", column->label_count,
                   column->memberships);
        printf("%" PRIu64 " bytes\n", attribute_bytes(shape, c));
    }
}

static void print_attributes_json(const struct attributes_shape *shape)
{
    printf("\"attributes\":[");
    for (uint32_t c = 0; c < shape->column_count; c++) {
        const struct attribute_shape *column = &shape->columns[c];
        printf("%s{\"name\":\"%s\",\"type\":\"%s\",", c > 0 ? "," : "", column->name,
               attribute_kind_name(column->kind));
        if (column->kind == ATTRIBUTE_LABELS)
            printf("\"labels\":%u,\"memberships\":%" PRIu64 ",", column->label_count,
                   column->memberships);
        printf("\"bytes\":%" PRIu64 "}", attribute_bytes(shape, c));
    }
    printf("],");
}

static const char *curve_name(const struct manifest_curve *curve)
{
    return curve->tuned ? "tune" : "sample";
}

/* A line a point: which recall for how many reads, and the setting. */
static void print_curves(const struct manifest *manifest)
{
    if (manifest->lid > 0)
        printf("dimension         %.1f, of the sample's neighbourhoods\n", manifest->lid);
    for (uint32_t c = 0; c < manifest->curve_count; c++) {
        const struct manifest_curve *curve = &manifest->curves[c];
        printf("%-17s k %u, %u queries (%s): recall, blocks a query, list, ratio\n",
               c == 0 ? "recall" : "", curve->k, curve->queries, curve_name(curve));
        for (uint32_t p = 0; p < curve->point_count; p++) {
            const struct manifest_point *point = &curve->points[p];
            printf("%-17s   %.4f %8.1f %6u %7.3f\n", "",
                   (double)point->hits / ((double)curve->queries * curve->k),
                   (double)point->reads / curve->queries, point->search_list, point->search_ratio);
        }
    }
}

static void print_curves_json(const struct manifest *manifest)
{
    printf(",\"lid\":%.2f,\"calibration\":[", manifest->lid);
    for (uint32_t c = 0; c < manifest->curve_count; c++) {
        const struct manifest_curve *curve = &manifest->curves[c];
        printf("%s{\"from\":\"%s\",\"k\":%u,\"queries\":%u,\"points\":[", c > 0 ? "," : "",
               curve_name(curve), curve->k, curve->queries);
        for (uint32_t p = 0; p < curve->point_count; p++) {
            const struct manifest_point *point = &curve->points[p];
            printf("%s{\"search_list\":%u,\"search_ratio\":%g,\"recall\":%.6f,\"reads\":%.4f}",
                   p > 0 ? "," : "", point->search_list, point->search_ratio,
                   (double)point->hits / ((double)curve->queries * curve->k),
                   (double)point->reads / curve->queries);
        }
        printf("]}");
    }
    printf("]");
}

static void print_info(const char *path, const struct manifest *manifest,
                       const struct attributes_shape *attributes)
{
    char id[CMD_DIGEST_BYTES], input[CMD_DIGEST_BYTES];
    double count = (double)manifest->vector_count;
    cmd_digest_format(&manifest->generation_id, id);
    cmd_digest_format(&manifest->input_digest, input);
    printf("generation        %s\n", path);
    printf("id                %s\n", id);
    printf("input digest      %s\n", input);
    printf("format            %u, written by %s\n", manifest->format_version,
           manifest->tool_version);
    printf("vectors           %" PRIu64 " of %u %s, metric %s, largest norm %.6g\n",
           manifest->vector_count, manifest->dim, element_name(manifest->type),
           metric_name(manifest->metric), manifest->norm_max);
    printf("queries           %s%s\n", element_name(manifest->query_type),
           manifest->query_type == manifest->type ? "" : ", as the input was");
    printf("duplicates        %" PRIu64 "\n", manifest->duplicate_vectors);
    printf("build             %s, degree %u, list %u, alpha %g, seed %" PRIu64 "\n",
           graph_name(manifest), manifest->degree, manifest->build_list, manifest->alpha,
           manifest->seed);
    printf("shards            %u, replication at most %g, %" PRIu64 " rows borrowed\n",
           manifest->shard_count, manifest->replication, manifest->borrowed_rows);
    printf("codec             %s, %u bytes a vector\n", codec_kind_name(manifest->codec_kind),
           manifest->code_bytes);
    printf("blocks            %" PRIu64 " of %u bytes, %u vectors each, %s lists\n",
           manifest->block_count, manifest->geometry.block_bytes,
           manifest->geometry.nodes_per_block, adjacency_name(manifest));
    printf("mean degree       %.2f\n", manifest->mean_degree);
    printf("block-mate share  %.4f\n", manifest->block_mate_share);
    printf("trimmed edges     %" PRIu64 "\n", manifest->trimmed_edges);
    printf("repaired nodes    %" PRIu64 "\n", manifest->repaired_nodes);
    printf("entry node        %u\n", manifest->entry_node);
    printf("navigation        %u nodes\n", manifest->navigation_count);
    printf("hot list          %" PRIu64 " nodes\n", manifest->hot_count);
    printf("sample            %u queries, %u exact neighbours each\n", manifest->sample_count,
           manifest->sample_k);
    print_attributes(attributes);
    print_curves(manifest);
    for (int f = 0; f < GENERATION_FILE_COUNT; f++)
        if (manifest->files[f].bytes > 0 || !generation_file_optional((enum generation_file)f))
            printf("%-17s %" PRIu64 " bytes, %.1f a vector\n", generation_file_names[f],
                   manifest->files[f].bytes, (double)manifest->files[f].bytes / count);
    printf("total             %" PRIu64 " bytes, %.1f a vector\n", total_bytes(manifest),
           (double)total_bytes(manifest) / count);
    print_steps(manifest);
}

static void print_info_json(const char *path, const struct manifest *manifest,
                            const struct attributes_shape *attributes)
{
    char id[CMD_DIGEST_BYTES], input[CMD_DIGEST_BYTES];
    cmd_digest_format(&manifest->generation_id, id);
    cmd_digest_format(&manifest->input_digest, input);
    printf("{\"path\":");
    cmd_json_string(stdout, path);
    printf(",\"id\":\"%s\",\"input_digest\":\"%s\",\"format_version\":%u,\"tool_version\":", id,
           input, manifest->format_version);
    cmd_json_string(stdout, manifest->tool_version);
    printf(",\"vector_count\":%" PRIu64 ",\"dim\":%u,\"type\":\"%s\",\"query_type\":\"%s\","
           "\"metric\":\"%s\",\"norm_max\":%.9g,\"duplicate_vectors\":%" PRIu64,
           manifest->vector_count, manifest->dim, element_name(manifest->type),
           element_name(manifest->query_type), metric_name(manifest->metric), manifest->norm_max,
           manifest->duplicate_vectors);
    printf(",\"graph\":\"%s\",\"degree\":%u,\"build_list\":%u,\"alpha\":%g,\"seed\":%" PRIu64
           ",\"codec\":\"%s\",\"code_bytes\":%u",
           graph_name(manifest), manifest->degree, manifest->build_list, manifest->alpha,
           manifest->seed, codec_kind_name(manifest->codec_kind), manifest->code_bytes);
    printf(",\"shard_count\":%u,\"replication\":%g,\"borrowed_rows\":%" PRIu64 ",\"entry_node\":%u",
           manifest->shard_count, manifest->replication, manifest->borrowed_rows,
           manifest->entry_node);
    printf(",\"block_bytes\":%u,\"nodes_per_block\":%u,\"block_count\":%" PRIu64
           ",\"adjacency\":\"%s\",\"mean_degree\":%.4f,\"block_mate_share\":%.6f,"
           "\"trimmed_edges\":%" PRIu64 ",\"repaired_nodes\":%" PRIu64,
           manifest->geometry.block_bytes, manifest->geometry.nodes_per_block,
           manifest->block_count, adjacency_name(manifest), manifest->mean_degree,
           manifest->block_mate_share, manifest->trimmed_edges, manifest->repaired_nodes);
    printf(",\"navigation_count\":%u,\"hot_count\":%" PRIu64 ",\"sample_count\":%u,\"sample_k\":%u",
           manifest->navigation_count, manifest->hot_count, manifest->sample_count,
           manifest->sample_k);
    print_curves_json(manifest);
    printf(",");
    print_attributes_json(attributes);
    printf("\"files\":{");
    for (int f = 0; f < GENERATION_FILE_COUNT; f++)
        if (manifest->files[f].bytes > 0 || !generation_file_optional((enum generation_file)f))
            printf("%s\"%s\":%" PRIu64, f > 0 ? "," : "", generation_file_names[f],
                   manifest->files[f].bytes);
    printf("},\"total_bytes\":%" PRIu64 ",\"bytes_per_vector\":%.3f,\"memory\":[",
           total_bytes(manifest), (double)total_bytes(manifest) / (double)manifest->vector_count);
    struct index_step steps[INDEX_STEPS_MAX];
    uint32_t count = index_plan_steps(manifest, steps);
    for (uint32_t i = 0; i < count; i++)
        printf("%s{\"budget\":%" PRIu64 ",\"code_bytes\":%u,\"lists\":%s,\"resident\":%s}",
               i > 0 ? "," : "", steps[i].budget, steps[i].plan.code_bytes,
               steps[i].plan.lists ? "true" : "false", steps[i].plan.resident ? "true" : "false");
    printf("]}\n");
}

/* Where the vector of a key is. */
static enum status print_key(const struct generation *generation, uint64_t key, bool json,
                             struct error *err)
{
    uint32_t node;
    bool found;
    enum status status = keys_lookup(generation, key, &node, &found, err);
    if (status != STATUS_OK)
        return status;
    if (!found)
        return error_set(err, STATUS_NOT_FOUND, "%s: no key %" PRIu64, generation_path(generation),
                         key);
    const uint32_t capacity = generation_manifest(generation)->geometry.nodes_per_block;
    printf(json ? "{\"key\":%" PRIu64 ",\"node\":%u,\"block\":%u,\"slot\":%u}\n"
                : "key %" PRIu64 ": node %u, block %u, slot %u\n",
           key, node, node / capacity, node % capacity);
    return STATUS_OK;
}

enum cmd_outcome cmd_info(int argc, char **argv, struct error *err)
{
    bool json = false;
    bool one_key = false;
    uint64_t key = 0;
    const struct args_option table[] = {
        {.name = "json", .kind = ARGS_FLAG, .target = &json, .help = "one object"},
        {.name = "key",
         .kind = ARGS_U64,
         .target = &key,
         .given = &one_key,
         .value_name = "KEY",
         .help = "only show where the vector of this key is"},
    };
    const struct args_spec spec = {
        .program = "nightjar info",
        .summary = "Show what a generation is: its vectors, parameters, geometry and size.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
    };
    enum cmd_outcome outcome;
    struct generation *generation = open_operand(spec, argc, argv, &outcome, err);
    if (generation == NULL)
        return outcome;
    struct attributes_shape attributes;
    enum status status = attributes_read(generation, &attributes, err);
    if (status == STATUS_OK && one_key)
        status = print_key(generation, key, json, err);
    else if (status == STATUS_OK && json)
        print_info_json(generation_path(generation), generation_manifest(generation), &attributes);
    else if (status == STATUS_OK)
        print_info(generation_path(generation), generation_manifest(generation), &attributes);
    generation_close(generation);
    return cmd_outcome_of(status);
}

/* ---- verify ---- */

static enum status verify_run(const struct generation *generation, struct error *err)
{
    uint64_t blocks;
    enum status status = generation_verify(generation, &blocks, err);
    if (status == STATUS_OK)
        printf("%s: whole: %" PRIu64 " blocks and %" PRIu64 " bytes checked\n",
               generation_path(generation), blocks, total_bytes(generation_manifest(generation)));
    return status;
}

static enum status digest_run(const struct generation *generation, struct error *err)
{
    struct digest128 digest;
    char text[CMD_DIGEST_BYTES];
    enum status status = generation_digest(generation, &digest, err);
    if (status != STATUS_OK)
        return status;
    cmd_digest_format(&digest, text);
    printf("%s\n", text);
    return STATUS_OK;
}

enum cmd_outcome cmd_verify(int argc, char **argv, struct error *err)
{
    bool digest = false;
    const struct args_option table[] = {
        {.name = "digest",
         .kind = ARGS_FLAG,
         .target = &digest,
         .help = "only print the XXH3-128 of all files: equal digests, equal generations"},
    };
    const struct args_spec spec = {
        .program = "nightjar verify",
        .summary = "Check every byte of a generation against its checksums and formats.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
    };
    enum cmd_outcome outcome;
    struct generation *generation = open_operand(spec, argc, argv, &outcome, err);
    if (generation == NULL)
        return outcome;
    enum status status = digest ? digest_run(generation, err) : verify_run(generation, err);
    generation_close(generation);
    return cmd_outcome_of(status);
}
