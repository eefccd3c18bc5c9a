/*
 * codec_view.c - what every codec kind sees of a vector: the same under l2, of length 1 under
 * cosine, with one more coordinate under ip.
 *
 * Threads: codec_views_create() uses OpenMP; the rest is pure.
 */
#include <math.h>

#include "common/codec_internal.h"
#include "common/memory.h"

enum { TILE_DIMS = 256 }; /* dimensions converted at a time, which bounds the stack */

void codec_view_load(const struct codec_params *params, const void *row,
                     const struct codec_view *view, size_t first, size_t count, float *out)
{
    size_t stored = first < params->dim ? MIN(count, params->dim - first) : 0;
    const struct element_part part = {.dim = params->dim, .first = first, .count = stored};
    element_vector_part_to_f32(params->type, row, part, out);
    if (view->scale != 1.0) {
        for (size_t d = 0; d < stored; d++)
            out[d] = (float)((double)out[d] * view->scale);
    }
    if (stored < count)
        out[stored] = view->extra;
}

double codec_view_norm(const struct codec_params *params, const void *row)
{
    static const struct codec_view as_stored = {.scale = 1.0};
    float values[TILE_DIMS];
    double sum[4] = {0}; /* four, as one chain of additions is latency-bound */
    for (size_t first = 0; first < params->dim; first += TILE_DIMS) {
        size_t count = MIN((size_t)TILE_DIMS, params->dim - first);
        codec_view_load(params, row, &as_stored, first, count, values);
        for (size_t d = 0; d < count; d++)
            sum[d % 4] += (double)values[d] * (double)values[d];
    }
    return sqrt((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

struct codec_view codec_view_of_row(const struct codec_params *params, const void *row)
{
    struct codec_view view = {.scale = 1.0};
    if (params->metric == METRIC_COSINE) {
        double norm = codec_view_norm(params, row);
        view.scale = norm > 0 ? 1 / norm : 0;
    } else if (params->metric == METRIC_IP) {
        double norm = codec_view_norm(params, row);
        double room = (double)params->norm_max * (double)params->norm_max - norm * norm;
        view.extra = room > 0 ? (float)sqrt(room) : 0;
    }
    return view;
}

/* Under ip: raises norm_max to the largest of the sample. */
static void norm_max_raise(struct codec_params *params, const uint8_t *rows, size_t row_bytes,
                           size_t count)
{
    double largest = (double)params->norm_max;
#pragma omp parallel for schedule(static) reduction(max : largest)
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, codec_view_norm(params, rows + i * row_bytes));
    params->norm_max = (float)largest;
}

enum status codec_views_create(struct codec_params *params, const void *rows, size_t count,
                               struct codec_view **out, struct error *err)
{
    const size_t row_bytes = element_vector_bytes(params->type, params->dim);
    void *memory = NULL;
    enum status status =
        bulk_alloc(count, sizeof(struct codec_view), "codec training views", &memory, err);
    if (status != STATUS_OK)
        return status;
    if (params->metric == METRIC_IP)
        norm_max_raise(params, rows, row_bytes, count);
    else
        params->norm_max = 0;
    struct codec_view *views = memory;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < count; i++)
        views[i] = codec_view_of_row(params, (const uint8_t *)rows + i * row_bytes);
    *out = views;
    return STATUS_OK;
}

void codec_views_destroy(struct codec_view *views, size_t count)
{
    if (views)
        bulk_free(views, count, sizeof(*views));
}

/* Between unit vectors 1 - cos is half the squared distance; for ip see codec_internal.h. */
struct codec_query_view codec_view_of_query(const struct codec_params *params, const void *query)
{
    struct codec_query_view seen = {.view = {.scale = 1.0}, .scale = 1.0f};
    if (params->metric == METRIC_COSINE) {
        seen.view = codec_view_of_row(params, query);
        seen.scale = 0.5f;
    } else if (params->metric == METRIC_IP) {
        double norm = codec_view_norm(params, query);
        double norm_max = (double)params->norm_max;
        seen.view.scale = norm > 0 ? norm_max / norm : 0;
        seen.scale = norm_max > 0 ? (float)(0.5 * norm / norm_max) : 0;
        seen.offset = (float)(-norm_max * norm);
    }
    return seen;
}
