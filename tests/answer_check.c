/*
 * answer_check.c - see answer_check.h. Owns what a right answer is.
 */
#include "tests/answer_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layout/generation.h"
#include "tests/key_files.h"
#include "tools/recall.h"

#define LOAD_BYTES_MAX (UINT64_C(64) << 30)

enum status answer_check_create(struct answer_check *self, const char *queries, uint32_t k,
                                struct error *err)
{
    *self = (struct answer_check){.k = k};
    if (k < 1 || k > ANSWER_K_MAX)
        return error_set(err, STATUS_INVALID, "k is %u, want 1..%d", k, ANSWER_K_MAX);
    void *rows = NULL;
    enum status status = vector_file_load(queries, LOAD_BYTES_MAX, &self->queries, &rows, err);
    if (status != STATUS_OK)
        return status;
    self->query_rows = rows;
    self->row_bytes = self->queries.dim * element_bytes(self->queries.type);
    return STATUS_OK;
}

void answer_check_destroy(struct answer_check *self)
{
    for (uint32_t g = 0; g < self->generation_count; g++) {
        struct answer_generation *generation = &self->generations[g];
        bool shared = false;
        for (uint32_t other = 0; other < g; other++)
            shared |= self->generations[other].rows == generation->rows;
        if (!shared)
            free(generation->rows);
        free(generation->keys);
        ground_truth_free(&generation->truth);
    }
    free(self->query_rows);
    *self = (struct answer_check){0};
}

const void *answer_check_query(const struct answer_check *self, uint64_t number)
{
    return self->query_rows + number % self->queries.count * self->row_bytes;
}

/* ---- a generation ---- */

static enum status read_manifest(struct answer_check *self, const char *path,
                                 struct answer_generation *out, struct error *err)
{
    struct generation *generation = NULL;
    enum status status = generation_open(path, &generation, err);
    if (status != STATUS_OK)
        return status;
    const struct manifest *manifest = generation_manifest(generation);
    out->id = manifest->generation_id;
    out->row_count = manifest->vector_count;
    if (manifest->dim != self->queries.dim || manifest->type != self->queries.type)
        status = error_set(err, STATUS_INVALID, "%s: %u %s, but the queries are %u %s", path,
                           manifest->dim, element_name(manifest->type), self->queries.dim,
                           element_name(self->queries.type));
    else if (self->generation_count > 0 && self->distance.metric != manifest->metric)
        status = error_set(err, STATUS_INVALID, "%s: another metric than the first has", path);
    distance_init(&self->distance, manifest->type, manifest->metric, manifest->dim);
    generation_close(generation);
    return status;
}

static enum status load_rows(struct answer_check *self, struct answer_generation *out,
                             struct error *err)
{
    for (uint32_t g = 0; g < self->generation_count; g++) {
        const struct answer_generation *other = &self->generations[g];
        if (other->base_path_bytes == out->base_path_bytes && other->row_count == out->row_count &&
            memcmp(other->base_path, out->base_path, out->base_path_bytes) == 0) {
            out->rows = other->rows;
            return STATUS_OK;
        }
    }
    char path[4096];
    struct vector_shape shape;
    void *rows = NULL;
    snprintf(path, sizeof(path), "%.*s", (int)out->base_path_bytes, out->base_path);
    enum status status = vector_file_load(path, LOAD_BYTES_MAX, &shape, &rows, err);
    if (status != STATUS_OK)
        return status;
    out->rows = rows;
    if (shape.count != out->row_count || shape.dim != self->queries.dim ||
        shape.type != self->queries.type)
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " rows of %u %s are not what %s was built of", path,
                         shape.count, shape.dim, element_name(shape.type), out->name);
    return STATUS_OK;
}

static int by_key(const void *a, const void *b)
{
    const struct answer_key *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

/* Keys that count up need no table. */
static enum status take_keys(struct answer_generation *out, const uint64_t *keys, struct error *err)
{
    bool counts_up = true;
    for (uint64_t r = 0; counts_up && r < out->row_count; r++)
        counts_up = keys[r] == keys[0] + r;
    if (counts_up) {
        out->first_key = keys[0];
        return STATUS_OK;
    }
    out->keys = malloc(out->row_count * sizeof(*out->keys));
    if (!out->keys)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %" PRIu64 " keys", out->row_count);
    for (uint64_t r = 0; r < out->row_count; r++)
        out->keys[r] = (struct answer_key){keys[r], (uint32_t)r};
    qsort(out->keys, out->row_count, sizeof(*out->keys), by_key);
    return STATUS_OK;
}

/* KEYS.u64bin or TRUTH. */
static enum status load_side_file(struct answer_check *self, const char *path,
                                  struct answer_generation *out, struct error *err)
{
    const char *dot = strrchr(path, '.');
    if (dot && strcmp(dot, ".u64bin") == 0) {
        uint64_t *keys = NULL;
        enum status status = key_file_read(path, out->row_count, &keys, err);
        if (status == STATUS_OK)
            status = take_keys(out, keys, err);
        free(keys);
        return status;
    }
    enum status status = ground_truth_read(path, &out->truth, err);
    if (status != STATUS_OK)
        return status;
    const struct recall_answers wanted = {.query_count = (uint32_t)self->queries.count,
                                          .k = self->k};
    return recall_truth_check(path, &out->truth, &wanted, out->row_count, err);
}

static enum status load_files(struct answer_check *self, const char *files,
                              struct answer_generation *out, struct error *err)
{
    out->base_path = files;
    out->base_path_bytes = strcspn(files, ",");
    enum status status = load_rows(self, out, err);
    const char *at = files + out->base_path_bytes;
    while (status == STATUS_OK && *at == ',') {
        char path[4096];
        size_t bytes = strcspn(++at, ",");
        snprintf(path, sizeof(path), "%.*s", (int)bytes, at);
        status = load_side_file(self, path, out, err);
        at += bytes;
    }
    return status;
}

enum status answer_check_add(struct answer_check *self, const char *text, struct error *err)
{
    char path[4096];
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof(path))
        return error_set(err, STATUS_INVALID, "'%s' is not DIR=BASE[,KEYS.u64bin][,TRUTH]", text);
    if (self->generation_count == ANSWER_GENERATIONS_MAX)
        return error_set(err, STATUS_INVALID, "more than %d generations", ANSWER_GENERATIONS_MAX);
    memcpy(path, text, (size_t)(equals - text));
    path[equals - text] = '\0';
    struct answer_generation *out = &self->generations[self->generation_count];
    const char *slash = strrchr(path, '/');
    *out = (struct answer_generation){.name = text + (slash ? slash + 1 - path : 0)};
    enum status status = read_manifest(self, path, out, err);
    if (status != STATUS_OK)
        return status;
    /* Counted from here on, so that destroy frees what was loaded. */
    status = load_files(self, equals + 1, out, err);
    self->generation_count++;
    return status;
}

/* ---- an answer ---- */

static bool find_row(const struct answer_generation *generation, uint64_t key, uint32_t *row)
{
    if (!generation->keys) {
        *row = (uint32_t)(key - generation->first_key);
        return key - generation->first_key < generation->row_count;
    }
    const struct answer_key wanted = {.key = key};
    const struct answer_key *found =
        bsearch(&wanted, generation->keys, generation->row_count, sizeof(wanted), by_key);
    if (found)
        *row = found->row;
    return found != NULL;
}

static enum status find_generation(const struct answer_check *self,
                                   const struct answer_hits *answer, uint32_t *out,
                                   struct error *err)
{
    for (uint32_t g = 0; g < self->generation_count; g++)
        if (self->generations[g].id.low == answer->generation.low &&
            self->generations[g].id.high == answer->generation.high) {
            *out = g;
            return STATUS_OK;
        }
    *out = ANSWER_NO_GENERATION;
    return error_set(err, STATUS_CORRUPT, "generation %016" PRIx64 "%016" PRIx64 " was not given",
                     answer->generation.high, answer->generation.low);
}

/* The name ends where the directory does. */
static int name_bytes(const struct answer_generation *generation)
{
    return (int)strcspn(generation->name, "=");
}

static enum status check_order(const struct answer_hits *answer, struct error *err)
{
    for (uint32_t i = 1; i < answer->hit_count; i++) {
        if (answer->hits[i].distance < answer->hits[i - 1].distance)
            return error_set(err, STATUS_CORRUPT, "hit %u is nearer than the one before", i);
        for (uint32_t j = 0; j < i; j++)
            if (answer->hits[j].key == answer->hits[i].key)
                return error_set(err, STATUS_CORRUPT, "key %" PRIu64 " is hit %u and hit %u",
                                 answer->hits[i].key, j, i);
    }
    return STATUS_OK;
}

static uint32_t count_right(const struct answer_check *self,
                            const struct answer_generation *generation, uint64_t query,
                            const uint64_t *rows, const float *distances)
{
    const struct ground_truth *truth = &generation->truth;
    size_t at = (size_t)(query % self->queries.count) * truth->k;
    return recall_count(truth->ids + at, truth->distances ? truth->distances + at : NULL, self->k,
                        rows, distances, self->k);
}

enum status answer_check_hits(const struct answer_check *self, const struct answer_hits *answer,
                              struct answer_tally *tallies, uint32_t *generation, struct error *err)
{
    uint64_t rows[ANSWER_K_MAX];
    float distances[ANSWER_K_MAX];
    enum status status = find_generation(self, answer, generation, err);
    if (status != STATUS_OK)
        return status;
    const struct answer_generation *from = &self->generations[*generation];
    if (answer->hit_count != self->k)
        return error_set(err, STATUS_CORRUPT, "%u hits, want %u", answer->hit_count, self->k);
    status = check_order(answer, err);
    if (status != STATUS_OK)
        return status;
    const void *query = answer_check_query(self, answer->query);
    float scale = distance_query_scale(&self->distance, query);
    for (uint32_t i = 0; i < self->k; i++) {
        const struct client_hit *hit = &answer->hits[i];
        uint32_t row;
        if (!find_row(from, hit->key, &row))
            return error_set(err, STATUS_CORRUPT, "key %" PRIu64 " is not in %.*s", hit->key,
                             name_bytes(from), from->name);
        distance_rows(&self->distance, query, scale, from->rows + row * self->row_bytes,
                      self->row_bytes, 1, &distances[i]);
        /* Kernels of every instruction set agree to the bit. */
        if (distances[i] != hit->distance)
            return error_set(err, STATUS_CORRUPT,
                             "key %" PRIu64 " of %.*s is at distance %.9g, the answer says %.9g",
                             hit->key, name_bytes(from), from->name, (double)distances[i],
                             (double)hit->distance);
        rows[i] = row;
    }
    tallies[*generation].answers++;
    if (from->truth.k > 0)
        tallies[*generation].right += count_right(self, from, answer->query, rows, distances);
    return STATUS_OK;
}

double answer_check_recall(const struct answer_check *self, uint32_t generation,
                           const struct answer_tally *tally)
{
    if (self->generations[generation].truth.k == 0 || tally->answers == 0)
        return -1;
    return (double)tally->right / ((double)tally->answers * self->k);
}
