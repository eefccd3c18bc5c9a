/*
 * generate.c - owns the model of generate.h: drawing it, evaluating rows, and writing files.
 *
 * Every random number is random_at(seed of its purpose, position), so nothing is carried from one
 * row to the next. A row draws its cluster, then its normals, then its noise, from a seed of its
 * own.
 *
 * Thread rules: a generator is immutable after generator_create(); generate_file() starts an OpenMP
 * team over batches.
 */
#include "tools/generate.h"

#include <omp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"
#include "common/vector_file.h"

enum {
    MAPS = 32,   /* shared by all clusters, so that memory does not grow with their number */
    LATENT = 16, /* dimension of the sheet that centres lie on */
    HIDDEN = 32, /* squashed coordinates of a centre */
    BATCH_BYTES = 16 << 20,
    BATCH_ROWS_MAX = 1 << 16,
    CLUSTERS_FLOOR = 16,
};

/* Purposes of random numbers: each has a seed of its own. */
enum purpose {
    PURPOSE_CENTER_MAP = 1,
    PURPOSE_SHEET_MAP,
    PURPOSE_LATENT,
    PURPOSE_SPREAD,
    PURPOSE_MAP,
    PURPOSE_BASE,
    PURPOSE_QUERIES,
    PURPOSE_LENGTHS,
};

/* Standard deviations of an element's three parts, relative to one another. */
static const float CENTER_WEIGHT = 0.60f;
static const float SPREAD_WEIGHT = 1.0f;
static const float NOISE_WEIGHT = 0.40f;

struct generator {
    struct generate_params params;
    double *cumulative; /* clusters: share of the rows in clusters 0..i */
    float *hidden;      /* clusters * HIDDEN: where each centre is, before center_map */
    float *spread;      /* clusters: how wide each is */
    float *center_map;  /* HIDDEN columns of dim */
    float *maps;        /* MAPS * intrinsic_dim columns of dim */
};

/* Near-normal with mean 0 and variance 1: the sum of four 16-bit uniforms of one draw, exact in
 * binary32 but for the last scaling. Tails end at 3.5, which suits data of bounded range. */
static float normal_at(uint64_t seed, uint64_t i)
{
    uint64_t bits = random_at(seed, i);
    int32_t sum = (int32_t)(bits & 0xffff) + (int32_t)(bits >> 16 & 0xffff) +
                  (int32_t)(bits >> 32 & 0xffff) + (int32_t)(bits >> 48);
    return (float)(sum - 131070) * (1.0f / 37837.0f); /* 65536 * sqrt(4 / 12) */
}

static uint64_t purpose_seed(const struct generate_params *params, enum purpose purpose)
{
    return random_at(params->seed, purpose);
}

/* x / (1 + |x|), a sigmoid that needs no libm. */
static float squash(float x)
{
    return x / (1.0f + (x < 0.0f ? -x : x));
}

/* e^x for |x| <= 40: the series at x / 1024, squared ten times; relative error below 1e-12. */
static double exponential(double x)
{
    double sum = 1;
    for (int n = 8; n >= 1; n--)
        sum = 1 + x / 1024 / n * sum;
    for (int i = 0; i < 10; i++)
        sum *= sum;
    return sum;
}

/* Cluster c has a share proportional to (c + 1)^-3/4, and __builtin_sqrt is exactly rounded. */
static void draw_sizes(struct generator *self)
{
    double total = 0;
    for (uint32_t c = 0; c < self->params.clusters; c++) {
        double root = __builtin_sqrt((double)c + 1);
        total += 1 / (root * __builtin_sqrt(root));
        self->cumulative[c] = total;
    }
    for (uint32_t c = 0; c < self->params.clusters; c++)
        self->cumulative[c] /= total;
}

static void draw_centers(struct generator *self)
{
    uint64_t latent_seed = purpose_seed(&self->params, PURPOSE_LATENT);
    uint64_t sheet_seed = purpose_seed(&self->params, PURPOSE_SHEET_MAP);
    uint64_t spread_seed = purpose_seed(&self->params, PURPOSE_SPREAD);
    for (uint32_t c = 0; c < self->params.clusters; c++) {
        for (uint32_t h = 0; h < HIDDEN; h++) {
            float sum = 0;
            for (uint32_t l = 0; l < LATENT; l++)
                sum += normal_at(sheet_seed, h * LATENT + l) *
                       normal_at(latent_seed, (uint64_t)c * LATENT + l);
            /* sum has deviation 4 = sqrt(LATENT); bent well, but not into a corner */
            self->hidden[(size_t)c * HIDDEN + h] = 2.0f * squash(sum * 0.5f);
        }
        self->spread[c] = 0.6f + 0.8f * (float)random_unit(spread_seed, c);
    }
}

static void draw_maps(struct generator *self)
{
    uint32_t dim = self->params.dim;
    uint64_t center_seed = purpose_seed(&self->params, PURPOSE_CENTER_MAP);
    float center_scale = CENTER_WEIGHT / (float)__builtin_sqrt(HIDDEN);
    for (size_t i = 0; i < (size_t)HIDDEN * dim; i++)
        self->center_map[i] = center_scale * normal_at(center_seed, i);

    uint32_t columns = self->params.intrinsic_dim;
    double squares = 0;
    for (uint32_t j = 0; j < columns; j++)
        squares += 1.0 / (1.0 + (double)j / 16);
    uint64_t map_seed = purpose_seed(&self->params, PURPOSE_MAP);
    size_t at = 0;
    for (uint32_t map = 0; map < MAPS; map++)
        for (uint32_t column = 0; column < columns; column++) {
            double weight = __builtin_sqrt(1.0 / (1.0 + (double)column / 16) / squares);
            for (uint32_t d = 0; d < dim; d++, at++)
                self->maps[at] = SPREAD_WEIGHT * (float)weight * normal_at(map_seed, at);
        }
}

uint32_t generate_default_clusters(uint64_t count)
{
    uint64_t root = (uint64_t)__builtin_sqrt((double)count);
    return (uint32_t)MIN(MAX(root, CLUSTERS_FLOOR), GENERATE_CLUSTERS_MAX);
}

static enum status params_check(const struct generate_params *params, struct error *err)
{
    if (params->dim < 1 || params->dim > VECTOR_DIM_MAX)
        return error_set(err, STATUS_INVALID, "dimension is %u, wanted 1 to %d", params->dim,
                         VECTOR_DIM_MAX);
    if (!element_is_input(params->type))
        return error_set(err, STATUS_INVALID, "element type is %s, wanted u8, i8, f16 or f32",
                         element_name(params->type));
    if (params->clusters < 1 || params->clusters > GENERATE_CLUSTERS_MAX)
        return error_set(err, STATUS_INVALID, "cluster count is %u, wanted 1 to %d",
                         params->clusters, GENERATE_CLUSTERS_MAX);
    if (params->intrinsic_dim < 1 || params->intrinsic_dim > GENERATE_INTRINSIC_DIM_MAX)
        return error_set(err, STATUS_INVALID, "intrinsic dimension is %u, wanted 1 to %d",
                         params->intrinsic_dim, GENERATE_INTRINSIC_DIM_MAX);
    if (!(params->lengths >= 0 && params->lengths <= GENERATE_LENGTHS_MAX))
        return error_set(err, STATUS_INVALID, "sigma of lengths is %g, wanted 0 to %d",
                         params->lengths, GENERATE_LENGTHS_MAX);
    if (params->lengths > 0 && params->type != ELEMENT_F32)
        return error_set(err, STATUS_INVALID, "sigma of lengths is %g of %s, wanted f32",
                         params->lengths, element_name(params->type));
    return STATUS_OK;
}

enum status generator_create(const struct generate_params *params, struct generator **out,
                             struct error *err)
{
    enum status status = params_check(params, err);
    if (status != STATUS_OK)
        return status;
    struct generator *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a generator");
    self->params = *params;
    self->params.intrinsic_dim = MIN(params->intrinsic_dim, params->dim);
    size_t map_entries = (size_t)MAPS * self->params.intrinsic_dim * params->dim;
    self->cumulative = malloc(params->clusters * sizeof(double));
    self->hidden = malloc((size_t)params->clusters * HIDDEN * sizeof(float));
    self->spread = malloc(params->clusters * sizeof(float));
    self->center_map = malloc((size_t)HIDDEN * params->dim * sizeof(float));
    self->maps = malloc(map_entries * sizeof(float));
    if (self->cumulative == NULL || self->hidden == NULL || self->spread == NULL ||
        self->center_map == NULL || self->maps == NULL) {
        generator_destroy(self);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a model of %u clusters",
                         params->clusters);
    }
    draw_sizes(self);
    draw_centers(self);
    draw_maps(self);
    *out = self;
    return STATUS_OK;
}

void generator_destroy(struct generator *generator)
{
    if (generator == NULL)
        return;
    free(generator->maps);
    free(generator->center_map);
    free(generator->spread);
    free(generator->hidden);
    free(generator->cumulative);
    free(generator);
}

static uint32_t cluster_pick(const struct generator *self, double where)
{
    uint32_t low = 0, high = self->params.clusters - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (self->cumulative[middle] > where)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void column_add(float *row, const float *column, uint32_t dim, float factor)
{
    for (uint32_t d = 0; d < dim; d++)
        row[d] += factor * column[d];
}

/* One row of the model with elements of standard deviation about 1.3 around 0. */
static void row_clustered(const struct generator *self, uint64_t seed, float *row)
{
    uint32_t dim = self->params.dim;
    uint32_t columns = self->params.intrinsic_dim;
    uint32_t cluster = cluster_pick(self, random_unit(seed, 0));
    const float *hidden = self->hidden + (size_t)cluster * HIDDEN;
    const float *map = self->maps + (size_t)(cluster % MAPS) * columns * dim;
    for (uint32_t d = 0; d < dim; d++)
        row[d] = NOISE_WEIGHT * normal_at(seed, 1 + columns + (uint64_t)d);
    for (uint32_t h = 0; h < HIDDEN; h++)
        column_add(row, self->center_map + (size_t)h * dim, dim, hidden[h]);
    for (uint32_t j = 0; j < columns; j++)
        column_add(row, map + (size_t)j * dim, dim,
                   self->spread[cluster] * normal_at(seed, 1 + (uint64_t)j));
}

/* One row with elements uniform in [-1, 1). */
static void row_uniform(const struct generator *self, uint64_t seed, float *row)
{
    for (uint32_t d = 0; d < self->params.dim; d++)
        row[d] = (float)(int32_t)(random_at(seed, d) >> 40) * 0x1.0p-23f - 1.0f;
}

/* Base row `number` gets its length. */
static void row_stretch(const struct generator *self, uint64_t number, float *row)
{
    float normal = normal_at(purpose_seed(&self->params, PURPOSE_LENGTHS), number);
    float factor = (float)exponential(self->params.lengths * (double)normal);
    for (uint32_t d = 0; d < self->params.dim; d++)
        row[d] *= factor;
}

/* Scales into the range of the type: integers use most of it and clip the tails; floats stay. */
static void row_store(const struct generator *self, float *row, void *out)
{
    enum element_type type = self->params.type;
    bool uniform = self->params.distribution == GENERATE_UNIFORM;
    uint32_t dim = self->params.dim;
    if (type == ELEMENT_U8 || type == ELEMENT_I8) {
        float scale = uniform ? 127.5f : 36.0f;
        float middle = type == ELEMENT_U8 ? 127.5f : -0.5f;
        for (uint32_t d = 0; d < dim; d++)
            row[d] = row[d] * scale + middle;
    }
    element_from_f32(type, row, dim, out);
}

void generator_rows(const struct generator *generator, enum generate_stream stream, uint64_t first,
                    uint64_t count, void *rows)
{
    const struct generate_params *params = &generator->params;
    uint64_t stream_seed =
        purpose_seed(params, stream == GENERATE_QUERIES ? PURPOSE_QUERIES : PURPOSE_BASE);
    size_t row_bytes = element_vector_bytes(params->type, params->dim);
    bool stretched = stream == GENERATE_BASE && params->lengths > 0;
    float row[VECTOR_DIM_MAX];
    for (uint64_t i = 0; i < count; i++) {
        uint64_t seed = random_at(stream_seed, first + i);
        if (params->distribution == GENERATE_UNIFORM)
            row_uniform(generator, seed, row);
        else
            row_clustered(generator, seed, row);
        if (stretched)
            row_stretch(generator, first + i, row);
        row_store(generator, row, (uint8_t *)rows + i * row_bytes);
    }
}

enum status generate_file(const struct generator *generator, const struct generate_output *output,
                          struct error *err)
{
    const struct generate_params *params = &generator->params;
    struct vector_shape shape = {output->count, params->dim, params->type};
    size_t row_bytes = element_vector_bytes(params->type, params->dim);
    uint64_t batch = MIN(BATCH_ROWS_MAX, MIN(output->count, BATCH_BYTES / row_bytes));
    int threads = output->threads != 0 ? (int)output->threads : omp_get_max_threads();
    struct vector_writer *writer = NULL;
    void *rows = NULL;
    enum status status = vector_writer_open(output->path, shape, &writer, err);
    if (status == STATUS_OK)
        status = bulk_alloc(batch, row_bytes, "generated rows", &rows, err);
    progress_begin(output->progress, "generate", output->count, "rows");
    for (uint64_t first = 0; status == STATUS_OK && first < output->count; first += batch) {
        uint64_t count = MIN(batch, output->count - first);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (uint64_t i = 0; i < count; i++)
            generator_rows(generator, output->stream, first + i, 1,
                           (uint8_t *)rows + i * row_bytes);
        status = vector_writer_append(writer, rows, count, err);
        progress_update(output->progress, first + count);
    }
    progress_end(output->progress);
    if (rows != NULL)
        bulk_free(rows, batch, row_bytes);
    if (writer == NULL)
        return status;
    if (status != STATUS_OK) {
        vector_writer_abort(writer);
        return status;
    }
    return vector_writer_finish(writer, err);
}
