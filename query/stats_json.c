/*
 * stats_json.c - see stats.h. Pure: no state.
 *
 * Counters become JSON numbers, exact up to 2^53; ids, which use all their bits, are hex text.
 */
#include "query/stats.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>

struct number {
    const char *name;
    uint64_t value;
};

/* Adds an object `name` of numbers to `parent`; NULL when out of memory. */
static cJSON *add_numbers(cJSON *parent, const char *name, const struct number *numbers,
                          size_t count)
{
    cJSON *object = cJSON_AddObjectToObject(parent, name);
    for (size_t i = 0; object && i < count; i++)
        if (!cJSON_AddNumberToObject(object, numbers[i].name, (double)numbers[i].value))
            return NULL;
    return object;
}

static bool add_columns(cJSON *index, const struct attributes *attributes)
{
    cJSON *columns = cJSON_AddArrayToObject(index, "columns");
    for (uint32_t i = 0; columns && attributes && i < attributes->column_count; i++) {
        const struct attribute_column *column = &attributes->columns[i];
        cJSON *object = cJSON_CreateObject();
        if (!cJSON_AddItemToArray(columns, object) ||
            !cJSON_AddStringToObject(object, "name", column->name) ||
            !cJSON_AddStringToObject(object, "type", attribute_kind_name(column->kind)))
            return false;
        if (column->kind == ATTRIBUTE_LABELS &&
            !cJSON_AddNumberToObject(object, "labels", column->label_count))
            return false;
    }
    return columns != NULL;
}

/* [search_list, ratio, recall, blocks a query] */
static bool add_points(cJSON *object, const struct manifest_curve *curve)
{
    cJSON *points = cJSON_AddArrayToObject(object, "points");
    for (uint32_t i = 0; points && i < curve->point_count; i++) {
        const struct manifest_point *point = &curve->points[i];
        const double numbers[4] = {point->search_list, point->search_ratio,
                                   (double)point->hits / ((double)curve->queries * curve->k),
                                   (double)point->reads / curve->queries};
        if (!cJSON_AddItemToArray(points, cJSON_CreateDoubleArray(numbers, 4)))
            return false;
    }
    return points != NULL;
}

static bool add_calibration(cJSON *index, const struct manifest *manifest)
{
    cJSON *curves = cJSON_AddArrayToObject(index, "calibration");
    for (uint32_t i = 0; curves && i < manifest->curve_count; i++) {
        const struct manifest_curve *curve = &manifest->curves[i];
        cJSON *object = cJSON_CreateObject();
        if (!cJSON_AddItemToArray(curves, object) ||
            !cJSON_AddNumberToObject(object, "k", curve->k) ||
            !cJSON_AddBoolToObject(object, "tuned", curve->tuned) || !add_points(object, curve))
            return false;
    }
    return curves && cJSON_AddNumberToObject(index, "lid", manifest->lid);
}

static bool add_index(cJSON *root, const struct stats *stats)
{
    const struct manifest *manifest = stats->manifest;
    char id[33];
    snprintf(id, sizeof(id), "%016" PRIx64 "%016" PRIx64, manifest->generation_id.high,
             manifest->generation_id.low);
    const struct number numbers[] = {
        {"vector_count", manifest->vector_count},
        {"dim", manifest->dim},
        {"block_bytes", manifest->geometry.block_bytes},
        {"block_count", manifest->block_count},
        {"code_bytes", manifest->code_bytes},
    };
    cJSON *index = add_numbers(root, "index", numbers, ARRAY_LENGTH(numbers));
    return index && cJSON_AddStringToObject(index, "generation", id) &&
           cJSON_AddStringToObject(index, "name", stats->name) &&
           cJSON_AddNumberToObject(index, "sample_recall", stats->proof.recall) &&
           cJSON_AddStringToObject(index, "type", element_name(manifest->query_type)) &&
           cJSON_AddStringToObject(index, "store", element_name(manifest->type)) &&
           cJSON_AddStringToObject(index, "metric", metric_name(manifest->metric)) &&
           add_columns(index, stats->attributes) && add_calibration(index, manifest);
}

static bool add_memory(cJSON *root, const struct index_memory *memory)
{
    const struct number numbers[] = {
        {"scalar_bits", memory->scalar_bits},
        {"code_bytes", memory->code_bytes},
        {"codes_bytes", memory->codes_bytes},
        {"navigation_bytes", memory->navigation_bytes},
        {"keys_bytes", memory->keys_bytes},
        {"lists_bytes", memory->lists_bytes},
        {"cache_bytes", memory->cache_bytes},
        {"cached_blocks", memory->cached_blocks},
        {"cached_nodes", memory->cached_nodes},
        {"hot_nodes", memory->hot_nodes},
        {"attributes_bytes", memory->attributes_bytes},
    };
    cJSON *object = add_numbers(root, "memory", numbers, ARRAY_LENGTH(numbers));
    return object && cJSON_AddBoolToObject(object, "resident", memory->resident);
}

/* Pairs of a bucket's least nanoseconds and its count, where there is one. */
static bool add_buckets(cJSON *parent, const struct histogram_counts *counts)
{
    cJSON *buckets = cJSON_AddArrayToObject(parent, "buckets");
    for (uint32_t i = 0; buckets && i < HISTOGRAM_BUCKETS; i++) {
        const double pair[2] = {(double)histogram_bucket_floor_ns(i), (double)counts->buckets[i]};
        if (counts->buckets[i] != 0 &&
            !cJSON_AddItemToArray(buckets, cJSON_CreateDoubleArray(pair, 2)))
            return false;
    }
    return buckets != NULL;
}

/* Quantiles and the mean, in microseconds, of what is counted in nanoseconds. */
static bool add_latency(cJSON *parent, const char *name, const struct histogram_counts *counts)
{
    static const struct {
        const char *name;
        double share;
    } quantiles[] = {{"p50_us", 0.5}, {"p90_us", 0.9}, {"p99_us", 0.99}, {"p999_us", 0.999}};
    cJSON *object = cJSON_AddObjectToObject(parent, name);
    if (!object || !cJSON_AddNumberToObject(object, "count", (double)counts->count))
        return false;
    if (!cJSON_AddNumberToObject(object, "mean_us", (double)histogram_mean_ns(counts) / 1000))
        return false;
    for (size_t i = 0; i < ARRAY_LENGTH(quantiles); i++)
        if (!cJSON_AddNumberToObject(object, quantiles[i].name,
                                     (double)histogram_percentile_ns(counts, quantiles[i].share) /
                                         1000))
            return false;
    return add_buckets(object, counts);
}

static bool add_engine(cJSON *root, const struct engine_stats *engine)
{
    const struct number numbers[] = {
        {"queries", engine->queries},
        {"fetches", engine->fetches},
        {"busy", engine->busy},
        {"timeouts", engine->timeouts},
        {"degraded", engine->degraded},
        {"reads", engine->reads},
        {"shared_reads", engine->shared_reads},
        {"read_retries", engine->read_retries},
        {"read_timeouts", engine->read_timeouts},
        {"failed_blocks", engine->failed_blocks},
        {"cache_hits", engine->cache_hits},
        {"code_distances", engine->code_distances},
        {"exact_distances", engine->exact_distances},
        {"busy_ns", engine->busy_ns},
        {"queued", engine->queued},
        {"in_flight", engine->in_flight},
        {"reads_in_flight", engine->reads_in_flight},
        {"threads", engine->threads},
    };
    cJSON *object = add_numbers(root, "engine", numbers, ARRAY_LENGTH(numbers));
    return object && cJSON_AddStringToObject(object, "io", engine->io) &&
           add_latency(object, "latency", &engine->latency) &&
           add_latency(object, "read_latency", &engine->read_latency);
}

static bool add_swap(cJSON *root, const struct serving_stats *serving)
{
    const struct number numbers[] = {
        {"swaps", serving->swaps},
        {"refused", serving->refused},
        {"load_ms", serving->load_ns / 1000000},
        {"live_ms", serving->live_ns / 1000000},
        {"memory_bytes", serving->memory_bytes},
    };
    cJSON *object = add_numbers(root, "swap", numbers, ARRAY_LENGTH(numbers));
    const char *mode = serving->fixed ? "fixed" : serving_swap_name(serving->swap);
    return object && cJSON_AddStringToObject(object, "mode", mode) &&
           cJSON_AddBoolToObject(object, "loading", serving->loading) &&
           cJSON_AddBoolToObject(object, "fallback", serving->fallback) &&
           cJSON_AddStringToObject(object, "refused_name", serving->refused_name) &&
           cJSON_AddStringToObject(object, "refused_reason", serving->refused_reason);
}

static bool add_server(cJSON *root, const struct server_stats *server)
{
    const struct number numbers[] = {
        {"uptime_ms", server->uptime_ns / 1000000},
        {"connections", server->connections},
        {"requests_in_flight", server->requests_in_flight},
        {"connections_accepted", server->connections_accepted},
        {"connections_refused", server->connections_refused},
        {"connections_denied", server->connections_denied},
        {"connections_broken", server->connections_broken},
        {"accept_failures", server->accept_failures},
        {"requests", server->requests},
        {"queries", server->queries},
        {"pauses", server->pauses},
        {"bytes_in", server->bytes_in},
        {"bytes_out", server->bytes_out},
        {"output_bytes", server->output_bytes},
    };
    struct number errors[SERVER_STATUS_COUNT - 1];
    for (size_t i = 0; i < ARRAY_LENGTH(errors); i++)
        errors[i] = (struct number){status_name((enum status)(i + 1)), server->errors[i + 1]};
    cJSON *object = add_numbers(root, "server", numbers, ARRAY_LENGTH(numbers));
    return object && add_numbers(object, "errors", errors, ARRAY_LENGTH(errors));
}

static bool add_http(cJSON *root, const struct http_stats *http)
{
    const struct number numbers[] = {{"requests", http->requests}, {"errors", http->errors}};
    return add_numbers(root, "http", numbers, ARRAY_LENGTH(numbers));
}

static bool add_process(cJSON *root, const struct stats *stats)
{
    const struct number numbers[] = {
        {"resident_bytes", stats->resident_bytes},
        {"peak_resident_bytes", stats->peak_resident_bytes},
    };
    return add_numbers(root, "process", numbers, ARRAY_LENGTH(numbers));
}

enum status stats_json_format(const struct stats *stats, char **text, struct error *err)
{
    cJSON *root = cJSON_CreateObject();
    char *line = NULL;
    if (root && add_index(root, stats) && add_memory(root, &stats->memory) &&
        add_swap(root, &stats->serving) && add_engine(root, &stats->serving.engine) &&
        add_server(root, &stats->server) && add_http(root, &stats->http) &&
        add_process(root, stats))
        line = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (!line)
        return error_set(err, STATUS_NO_MEMORY, "no memory for statistics");
    *text = line;
    return STATUS_OK;
}
