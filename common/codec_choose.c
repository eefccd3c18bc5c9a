/*
 * codec_choose.c - measures codecs on a sample, and the names of kinds.
 *
 * Some sample rows are taken out as queries; their ten nearest among the other rows are found by
 * brute force and looked for among the nearest by code distance. Neighbours in a sample are farther
 * apart than among all rows, so that codes find more of them; therefore recall is counted at a
 * stricter cut than a search would make. On SIFT of 1 M rows, 10@10 of 16,000 orders pq and turn at
 * 16, 32, 48 and 64 bytes as 10@14 of all rows does, while 10@20 is 1.000 of either from 48 on.
 *
 * Threads: teams share queries; results depend on no team.
 */
#include "common/codec_choose.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec_opq_internal.h"
#include "common/cpu.h"
#include "common/distance.h"
#include "common/memory.h"

enum {
    ROWS_MIN = 1024, /* below, recall says little: 256 centroids know the rows by heart */
    QUERIES = 400,
    NEIGHBOURS = 10,
    CUT = 10, /* how many by code distance are looked through */
    ITERATIONS = 8,
    TRIALS = 1,
    BLOCK_ROWS = 1024, /* whose distances are held at a time */
};

/* Two standard deviations of the difference between two candidates' recall on the same queries. */
static const float noise = 0.01f;

static const struct {
    const char *name;
    uint32_t variant;
} candidates[CODEC_CHOICE_COUNT] = {
    [CODEC_CHOICE_PQ] = {"pq", 0},
    [CODEC_CHOICE_TURN] = {"opq turn", CODEC_OPQ_TURN},
    [CODEC_CHOICE_BYTE] = {"opq byte", CODEC_OPQ_CORRECT},
    [CODEC_CHOICE_TURN_BYTE] = {"opq turn+byte", CODEC_OPQ_TURN | CODEC_OPQ_CORRECT},
};

/* ---- names ---- */

const char *codec_candidate_name(uint32_t candidate)
{
    return candidate < CODEC_CHOICE_COUNT ? candidates[candidate].name : "unknown";
}

void codec_choice_describe(const struct codec_choice *choice, char text[CODEC_CHOICE_TEXT_BYTES])
{
    if (choice->queries == 0) {
        snprintf(text, CODEC_CHOICE_TEXT_BYTES, "%s",
                 codec_kind_name((enum codec_kind)choice->kind));
        return;
    }
    size_t length = (size_t)snprintf(
        text, CODEC_CHOICE_TEXT_BYTES,
        "%s; recall %d@%d of codes on %u sample rows:", codec_candidate_name(choice->candidate),
        NEIGHBOURS, CUT, choice->rows);
    for (uint32_t c = 0; c < CODEC_CHOICE_COUNT; c++)
        if (choice->recall[c] >= 0 && length < CODEC_CHOICE_TEXT_BYTES)
            length += (size_t)snprintf(text + length, CODEC_CHOICE_TEXT_BYTES - length,
                                       "%s %s %.3f", text[length - 1] == ':' ? "" : ",",
                                       candidates[c].name, (double)choice->recall[c]);
}

/* ---- measuring ---- */

struct trial {
    struct codec_params params;
    size_t row_bytes;
    uint8_t *rows; /* query_count queries, then row_count others, packed */
    size_t query_count, row_count;
    uint32_t *nearest; /* [query_count][NEIGHBOURS]: the true ones */
    uint8_t *codes;    /* [row_count] */
};

/* The ids of smallest distance so far, ascending by (distance, id). */
struct best {
    size_t count, limit;
    float distances[CUT];
    uint32_t ids[CUT];
};

static void best_add(struct best *best, float distance, uint32_t id)
{
    size_t at = best->count;
    if (at == best->limit) {
        if (!(distance < best->distances[at - 1]))
            return;
        at--;
    } else {
        best->count++;
    }
    for (; at > 0 && distance < best->distances[at - 1]; at--) {
        best->distances[at] = best->distances[at - 1];
        best->ids[at] = best->ids[at - 1];
    }
    best->distances[at] = distance;
    best->ids[at] = id;
}

static const uint8_t *trial_row(const struct trial *trial, size_t i)
{
    return trial->rows + (trial->query_count + i) * trial->row_bytes;
}

static void truth_find(const struct trial *trial)
{
    struct distance distance;
    distance_init(&distance, trial->params.type, trial->params.metric, trial->params.dim);
#pragma omp parallel for schedule(dynamic, 4)
    for (size_t q = 0; q < trial->query_count; q++) {
        struct best best = {.limit = NEIGHBOURS};
        float out[BLOCK_ROWS];
        const uint8_t *query = trial->rows + q * trial->row_bytes;
        const float scale = distance_query_scale(&distance, query);
        for (size_t first = 0; first < trial->row_count; first += BLOCK_ROWS) {
            const size_t count = MIN((size_t)BLOCK_ROWS, trial->row_count - first);
            distance_rows(&distance, query, scale, trial_row(trial, first), trial->row_bytes, count,
                          out);
            for (size_t i = 0; i < count; i++)
                best_add(&best, out[i], (uint32_t)(first + i));
        }
        memcpy(trial->nearest + q * NEIGHBOURS, best.ids, sizeof(uint32_t) * NEIGHBOURS);
    }
}

/* How many of the query's true neighbours are among the CUT nearest by code distance. */
static uint32_t query_found(const struct trial *trial, const struct codec *codec, size_t q,
                            void *table)
{
    struct best best = {.limit = CUT};
    float out[BLOCK_ROWS];
    uint32_t ids[BLOCK_ROWS];
    uint32_t found = 0;
    codec_table_build(codec, trial->rows + q * trial->row_bytes, table);
    for (size_t first = 0; first < trial->row_count; first += BLOCK_ROWS) {
        const size_t count = MIN((size_t)BLOCK_ROWS, trial->row_count - first);
        for (size_t i = 0; i < count; i++)
            ids[i] = (uint32_t)(first + i);
        codec_table_gather(codec, table, trial->codes, ids, count, out);
        for (size_t i = 0; i < count; i++)
            best_add(&best, out[i], ids[i]);
    }
    for (size_t i = 0; i < NEIGHBOURS; i++)
        for (size_t j = 0; j < best.count; j++)
            found += trial->nearest[q * NEIGHBOURS + i] == best.ids[j];
    return found;
}

static enum status recall_measure(const struct trial *trial, const struct codec *codec,
                                  float *recall, struct error *err)
{
    const size_t table_bytes = size_align(codec_table_bytes(codec), 64);
    uint64_t found = 0;
    bool failed = false;
#pragma omp parallel reduction(+ : found) reduction(|| : failed)
    {
        void *table = aligned_alloc(64, table_bytes);
        failed = table == NULL;
#pragma omp for schedule(static)
        for (size_t first = 0; first < trial->row_count; first += CODEC_LANES)
            codec_encode(codec, trial_row(trial, first),
                         MIN((size_t)CODEC_LANES, trial->row_count - first),
                         trial->codes + first * trial->params.code_bytes);
#pragma omp for schedule(dynamic, 4)
        for (size_t q = 0; q < trial->query_count; q++)
            found += table ? query_found(trial, codec, q, table) : 0;
        free(table);
    }
    if (failed)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a codec's tables");
    *recall = (float)((double)found / ((double)trial->query_count * NEIGHBOURS));
    return STATUS_OK;
}

static enum status candidate_measure(const struct trial *trial, uint32_t candidate, float *recall,
                                     struct error *err)
{
    const struct codec_effort effort = {cpu_features(), ITERATIONS, TRIALS};
    struct codec_params params = trial->params;
    struct codec *codec = NULL;
    params.kind = candidate == CODEC_CHOICE_PQ ? CODEC_PQ : CODEC_OPQ;
    const uint8_t *rows = trial_row(trial, 0);
    enum status status = params.kind == CODEC_PQ
                             ? codec_pq_train(&params, &effort, rows, trial->row_count, &codec, err)
                             : codec_opq_train(&params, &effort, candidates[candidate].variant,
                                               rows, trial->row_count, &codec, err);
    if (status == STATUS_OK)
        status = recall_measure(trial, codec, recall, err);
    codec_destroy(codec);
    return status;
}

/* ---- choosing ---- */

/* Copies rows, evenly spaced, into the trial: every so many a query. */
static void rows_deal(struct trial *trial, const uint8_t *rows, size_t count)
{
    const size_t total = trial->query_count + trial->row_count;
    size_t queries = 0, others = 0;
    for (size_t i = 0; i < total; i++) {
        const uint8_t *row =
            rows + (size_t)((unsigned __int128)i * count / total) * trial->row_bytes;
        const bool query = (i + 1) * trial->query_count / total > queries;
        memcpy(trial->rows + (query ? queries++ : trial->query_count + others++) * trial->row_bytes,
               row, trial->row_bytes);
    }
}

static bool is_candidate(const struct codec_params *params, uint32_t candidate)
{
    const uint32_t variant = candidates[candidate].variant;
    if (candidate == CODEC_CHOICE_PQ)
        return params->kind == CODEC_AUTO;
    return (!(variant & CODEC_OPQ_CORRECT) || params->code_bytes > 1) &&
           (!(variant & CODEC_OPQ_TURN) || codec_view_dims(params) <= CODEC_TURN_DIM_MAX);
}

static enum status candidates_measure(const struct codec_params *params, const struct trial *trial,
                                      struct codec_choice *choice, struct error *err)
{
    enum status status = STATUS_OK;
    float best = -1;
    truth_find(trial);
    for (uint32_t c = 0; status == STATUS_OK && c < CODEC_CHOICE_COUNT; c++) {
        choice->recall[c] = -1;
        if (is_candidate(params, c))
            status = candidate_measure(trial, c, &choice->recall[c], err);
        best = MAX(best, choice->recall[c]);
    }
    for (uint32_t c = CODEC_CHOICE_COUNT; c-- > 0;)
        if (choice->recall[c] >= 0 && choice->recall[c] >= best - noise)
            choice->candidate = c;
    return status;
}

static enum status choose(const struct codec_params *params, const void *rows, size_t count,
                          struct codec_choice *choice, struct error *err)
{
    const size_t total = MIN(count, (size_t)CODEC_CHOICE_ROWS_MAX);
    struct trial trial = {
        .params = *params,
        .row_bytes = element_vector_bytes(params->type, params->dim),
        .query_count = MIN((size_t)QUERIES, total / 8),
    };
    trial.row_count = total - trial.query_count;
    void *memory = NULL;
    enum status status = bulk_alloc(total, trial.row_bytes, "codec trial", &memory, err);
    if (status != STATUS_OK)
        return status;
    trial.rows = memory;
    trial.nearest = malloc(trial.query_count * NEIGHBOURS * sizeof(uint32_t));
    trial.codes = malloc(trial.row_count * params->code_bytes);
    if (!trial.nearest || !trial.codes)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a codec trial");
    if (status == STATUS_OK) {
        rows_deal(&trial, rows, count);
        choice->rows = (uint32_t)trial.row_count;
        choice->queries = (uint32_t)trial.query_count;
        status = candidates_measure(params, &trial, choice, err);
    }
    free(trial.codes);
    free(trial.nearest);
    bulk_free(memory, total, trial.row_bytes);
    return status;
}

enum status codec_train_chosen(const struct codec_params *params, const void *rows, size_t count,
                               struct codec_choice *choice, struct codec **out, struct error *err)
{
    struct codec_params checked = *params;
    struct codec_choice made = {.kind = (uint32_t)params->kind};
    if (params->kind == CODEC_AUTO)
        checked.kind = CODEC_PQ;
    enum status status = codec_train_check(&checked, rows, count, err);
    if (status == STATUS_OK && count >= ROWS_MIN &&
        (params->kind == CODEC_AUTO || params->kind == CODEC_OPQ))
        status = choose(params, rows, count, &made, err);
    if (status == STATUS_OK && made.queries > 0 && made.candidate != CODEC_CHOICE_PQ) {
        const struct codec_effort effort = {.features = cpu_features()};
        checked.kind = CODEC_OPQ;
        status = codec_opq_train(&checked, &effort, candidates[made.candidate].variant, rows, count,
                                 out, err);
    } else if (status == STATUS_OK) {
        status = codec_train(&checked, rows, count, out, err);
    }
    made.kind = (uint32_t)checked.kind;
    if (status == STATUS_OK && choice)
        *choice = made;
    return status;
}
