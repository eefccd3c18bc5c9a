/*
 * merge.c - see merge.h. Own rows go through in batches: one thread reads their lists, the team
 * prunes, one thread writes.
 *
 * Ids of the vector set: the shard's local ids, then the halo rows of each lender in turn, then the
 * roots of child shards. A row that two lenders lent has two halo rows; the first stands for both,
 * so that RobustPrune sees it once.
 */
#include "builder/merge.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "builder/build_report.h"
#include "builder/graph_internal.h"
#include "builder/shard_graph.h"
#include "common/memory.h"

enum {
    BATCH_ROWS = 4096,
    LISTS_MAX = PARTITION_BORROWERS_MAX + 1, /* of one row */
    LENDER_BUFFER_BYTES = 16 << 10,
};

/* What one shard lends to the one being merged: a section of its `lent`, read in step with own
 * rows.
 */
struct lender {
    struct work_input *input;
    uint32_t rows_left; /* lists not read yet */
    uint32_t next_row;  /* own index of the list that comes next, if rows_left > 0 */
    uint32_t first_halo;
    uint32_t halo_count;
};

struct halo_row {
    uint32_t position;
    uint32_t id; /* in the set */
};

/* The lists of one row of a batch. */
struct batch_row {
    uint32_t count; /* of lists; 1: nothing to prune */
    uint32_t kept;
    uint32_t degree[LISTS_MAX];
};

struct merge {
    const struct shard_plan *plan;
    uint32_t shard;
    const struct merge_params *params;
    struct shard_rows rows;
    uint32_t member_count; /* own and borrowed */
    uint32_t halo_count;
    uint32_t *positions; /* of ids member_count.. of the set: halo, then roots */
    uint32_t *canonical; /* [halo_count] id that stands for halo row i */
    struct lender *lenders;
    uint32_t *roots; /* child shards */
    uint32_t root_count;
    uint32_t *stitch_of_root; /* own row that points to the root */
    struct work_input *own;
    struct graph_scratch **scratch;
    int threads;
    struct batch_row *batch;
    uint32_t *batch_ids; /* [BATCH_ROWS * LISTS_MAX * degree] in ids of the set; then the outcome */
    struct merge_info info;
};

static uint32_t position_of(const struct merge *m, uint32_t id)
{
    return id < m->member_count ? shard_position(&m->rows, id) : m->positions[id - m->member_count];
}

/* ---- loading: halo and roots ---- */

static enum status lender_open(struct merge *m, uint32_t shard, struct error *err)
{
    struct lender *lender = &m->lenders[shard];
    uint32_t counts[2] = {0, 0};
    enum status status =
        work_input_open(m->plan->work, (struct work_piece){BUILD_STAGE_GRAPH, shard}, "lent",
                        m->shard, LENDER_BUFFER_BYTES, &lender->input, err);
    if (status != STATUS_OK || work_input_left(lender->input) == 0)
        return status;
    status = work_input_read(lender->input, counts, sizeof(counts), err);
    if (status == STATUS_OK &&
        (counts[0] > m->plan->borrowed_counts[shard] ||
         counts[1] > shard_own_count(m->plan, shard) + m->plan->borrowed_counts[shard]))
        return work_input_discard(lender->input, "lends more than there is", err);
    lender->rows_left = counts[0];
    lender->first_halo = m->halo_count;
    lender->halo_count = counts[1];
    m->halo_count += counts[1];
    return status;
}

static enum status lender_halo_read(struct merge *m, uint32_t shard, struct error *err)
{
    const struct lender *lender = &m->lenders[shard];
    if (lender->rows_left == 0)
        return STATUS_OK;
    const struct vector_set *set = &m->rows.set;
    uint8_t *to = set->rows + (m->member_count + (size_t)lender->first_halo) * set->stride_bytes;
    uint32_t *positions = m->positions + lender->first_halo;
    enum status status =
        work_input_read(lender->input, positions, lender->halo_count * sizeof(*positions), err);
    for (uint32_t i = 0; status == STATUS_OK && i < lender->halo_count; i++)
        if (positions[i] >= m->plan->starts[m->plan->shard_count])
            status = work_input_discard(lender->input, "names a row that is not there", err);
    for (uint32_t i = 0; status == STATUS_OK && i < lender->halo_count; i++)
        status = work_input_read(lender->input, to + i * set->stride_bytes,
                                 element_vector_bytes(set->type, set->dim), err);
    return status;
}

static int halo_row_compare(const void *a, const void *b)
{
    const struct halo_row *x = a;
    const struct halo_row *y = b;
    if (x->position != y->position)
        return x->position < y->position ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* One id for each halo position: a borrowed row's own local id, else its first halo row. */
static enum status canonical_fill(struct merge *m, struct error *err)
{
    void *memory = NULL;
    enum status status =
        bulk_alloc(m->halo_count, sizeof(struct halo_row), "halo order", &memory, err);
    if (status != STATUS_OK)
        return status;
    struct halo_row *sorted = memory;
    for (uint32_t i = 0; i < m->halo_count; i++)
        sorted[i] = (struct halo_row){m->positions[i], i};
    qsort(sorted, m->halo_count, sizeof(*sorted), halo_row_compare);
    uint32_t stands = 0;
    for (uint32_t i = 0; i < m->halo_count; i++) {
        if (i == 0 || sorted[i].position != sorted[i - 1].position) {
            uint32_t local = shard_local(&m->rows, sorted[i].position);
            stands = local != UINT32_MAX ? local : m->member_count + sorted[i].id;
        }
        m->canonical[sorted[i].id] = stands;
    }
    bulk_free(memory, m->halo_count, sizeof(struct halo_row));
    return STATUS_OK;
}

static enum status roots_read(struct merge *m, struct error *err)
{
    const struct vector_set *set = &m->rows.set;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < m->root_count; i++) {
        size_t id = (size_t)m->member_count + m->halo_count + i;
        status = shard_root_load(m->plan, m->roots[i], &m->positions[m->halo_count + i],
                                 set->rows + id * set->stride_bytes, err);
    }
    return status;
}

static void u32_free(uint32_t *array, size_t count)
{
    bulk_free(array, count, sizeof(uint32_t));
}

static enum status u32_alloc(size_t count, const char *what, uint32_t **out, struct error *err)
{
    void *memory = NULL;
    enum status status = bulk_alloc(count, sizeof(uint32_t), what, &memory, err);
    *out = memory;
    return status;
}

static enum status lists_open(struct merge *m, struct error *err)
{
    uint32_t shard_count = m->plan->shard_count;
    m->lenders = calloc(shard_count, sizeof(*m->lenders));
    m->roots = calloc(shard_count, sizeof(*m->roots));
    m->stitch_of_root = calloc(shard_count, sizeof(*m->stitch_of_root));
    if (m->lenders == NULL || m->roots == NULL || m->stitch_of_root == NULL)
        return error_set(err, STATUS_NO_MEMORY, "merging shard %u: out of memory", m->shard);
    enum status status = STATUS_OK;
    for (uint32_t s = 0; status == STATUS_OK && s < shard_count; s++) {
        if (s > 0 && m->plan->parents[s] == m->shard)
            m->roots[m->root_count++] = s;
        if (s != m->shard)
            status = lender_open(m, s, err);
    }
    if (status == STATUS_OK)
        status = work_input_open(m->plan->work, (struct work_piece){BUILD_STAGE_GRAPH, m->shard},
                                 "own", 0, 0, &m->own, err);
    return status;
}

static enum status rows_load(struct merge *m, struct error *err)
{
    uint32_t shard_count = m->plan->shard_count;
    enum status status =
        shard_rows_load(m->plan, m->shard, m->halo_count + m->root_count, &m->rows, err);
    if (status != STATUS_OK)
        return status;
    m->member_count = m->rows.own_count + m->rows.borrowed_count;
    status = u32_alloc((size_t)m->halo_count + m->root_count, "halo", &m->positions, err);
    if (status == STATUS_OK)
        status = u32_alloc(m->halo_count, "halo", &m->canonical, err);
    for (uint32_t s = 0; status == STATUS_OK && s < shard_count; s++)
        status = lender_halo_read(m, s, err);
    if (status == STATUS_OK)
        status = roots_read(m, err);
    if (status == STATUS_OK)
        status = vector_set_prepare(&m->rows.set, m->plan->norm_max, err);
    return status == STATUS_OK ? canonical_fill(m, err) : status;
}

/* The own row nearest to each child's root; a row takes one root only, as its tree edges leave room
 * for one. */
static void stitches_find(struct merge *m)
{
    for (uint32_t r = 0; r < m->root_count; r++) {
        uint32_t root = m->member_count + m->halo_count + r;
        struct candidate best = {0.0f, UINT32_MAX};
        for (uint32_t row = 0; row < m->rows.own_count; row++) {
            struct candidate c = {vector_set_pair(&m->rows.set, root, row), row};
            bool taken = false;
            for (uint32_t i = 0; i < r; i++)
                taken = taken || m->stitch_of_root[i] == row;
            if (!taken && (best.id == UINT32_MAX || candidate_less(c, best)))
                best = c;
        }
        m->stitch_of_root[r] = best.id;
    }
}

/* ---- batches ---- */

static uint32_t *lists_of(const struct merge *m, uint32_t place)
{
    return m->batch_ids + (size_t)place * LISTS_MAX * m->params->degree;
}

/* The lender's next list, in ids of the set. */
static enum status lent_list_read(struct merge *m, struct lender *lender, uint32_t *ids,
                                  uint32_t *degree, struct error *err)
{
    uint32_t kept;
    enum status status = shard_list_read(lender->input, ids, m->params->degree, degree, &kept, err);
    for (uint32_t i = 0; status == STATUS_OK && i < *degree; i++) {
        bool halo = (ids[i] & SHARD_GRAPH_HALO) != 0;
        uint32_t place = ids[i] & ~SHARD_GRAPH_HALO;
        if (place >= (halo ? lender->halo_count : m->rows.own_count))
            return work_input_discard(lender->input, "has a list that names no row", err);
        ids[i] = halo ? m->canonical[lender->first_halo + place] : place;
    }
    return status;
}

static enum status lender_next(struct lender *lender, struct error *err)
{
    return lender->rows_left == 0
               ? STATUS_OK
               : work_input_read(lender->input, &lender->next_row, sizeof(uint32_t), err);
}

static enum status row_read(struct merge *m, uint32_t row, uint32_t place, struct error *err)
{
    struct batch_row *b = &m->batch[place];
    uint32_t *ids = lists_of(m, place);
    *b = (struct batch_row){.count = 1};
    enum status status =
        shard_list_read(m->own, ids, m->params->degree, &b->degree[0], &b->kept, err);
    if (status == STATUS_OK && b->kept >= m->params->degree) /* no place for an edge to a root */
        status = work_input_discard(m->own, "has a list that keeps too many edges", err);
    for (uint32_t i = 0; status == STATUS_OK && i < b->degree[0]; i++)
        if (ids[i] >= m->member_count)
            status = work_input_discard(m->own, "has a list that names no row", err);
    for (uint32_t s = 0; status == STATUS_OK && s < m->plan->shard_count; s++) {
        struct lender *lender = &m->lenders[s];
        if (lender->rows_left == 0 || lender->next_row != row)
            continue;
        if (b->count == LISTS_MAX)
            return work_input_discard(lender->input, "lends a row too often", err);
        status = lent_list_read(m, lender, ids + b->count * m->params->degree, &b->degree[b->count],
                                err);
        b->count++;
        lender->rows_left--;
        if (status == STATUS_OK)
            status = lender_next(lender, err);
    }
    return status;
}

/* Kept edges first, then the pruned ones that are not among them, as many as fit. */
static void row_compose(const struct merge *m, struct batch_row *b, uint32_t *ids,
                        const uint32_t *pruned, uint32_t pruned_count)
{
    uint32_t degree = b->kept;
    for (uint32_t i = 0; i < pruned_count && degree < m->params->degree; i++) {
        bool there = false;
        for (uint32_t k = 0; k < b->kept; k++)
            there = there || ids[k] == pruned[i];
        if (!there)
            ids[degree++] = pruned[i];
    }
    b->degree[0] = degree;
}

static void row_prune(struct merge *m, uint32_t row, uint32_t place, struct graph_scratch *s)
{
    struct batch_row *b = &m->batch[place];
    struct graph_params params = {.degree = m->params->degree, .alpha = m->params->alpha};
    uint32_t *ids = lists_of(m, place);
    uint32_t selected[BLOCK_DEGREE_MAX];
    uint32_t count = 0;
    for (uint32_t l = 0; l < b->count; l++) {
        const uint32_t *list = ids + l * m->params->degree;
        for (uint32_t i = 0; i < b->degree[l]; i++)
            if (list[i] != row)
                s->candidates[count++] =
                    (struct candidate){vector_set_pair(&m->rows.set, row, list[i]), list[i]};
    }
    uint32_t kept = robust_prune(&m->rows.set, &params, row, s->candidates, count, s, selected);
    row_compose(m, b, ids, selected, kept);
}

/* Puts an edge to root `id` first, in place of the last edge where the list is full. */
static void stitch_add(const struct merge *m, uint32_t place, uint32_t id)
{
    struct batch_row *b = &m->batch[place];
    uint32_t *ids = lists_of(m, place);
    uint32_t moved = MIN(b->degree[0], m->params->degree - 1);
    uint32_t position = position_of(m, id);
    for (uint32_t i = 0; i < moved; i++)
        if (position_of(m, ids[i]) == position) { /* borrowed, and a neighbour already */
            moved = i;
            memmove(ids + 1, ids, moved * sizeof(*ids));
            ids[0] = id;
            b->kept += moved >= b->kept;
            return;
        }
    memmove(ids + 1, ids, moved * sizeof(*ids));
    ids[0] = id;
    b->kept++;
    b->degree[0] = moved + 1;
}

static enum status batch_read(struct merge *m, uint32_t first, uint32_t count, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++)
        status = row_read(m, first + i, i, err);
    return status;
}

static void batch_prune(struct merge *m, uint32_t first, uint32_t count)
{
#pragma omp parallel for schedule(dynamic, 32)
    for (uint32_t i = 0; i < count; i++)
        if (m->batch[i].count > 1)
            row_prune(m, first + i, i, m->scratch[omp_get_thread_num()]);
    for (uint32_t r = 0; r < m->root_count; r++)
        if (m->stitch_of_root[r] - first < count)
            stitch_add(m, m->stitch_of_root[r] - first, m->member_count + m->halo_count + r);
}

static enum status batch_write(struct merge *m, uint32_t count, struct work_output *out,
                               struct error *err)
{
    uint32_t start = m->plan->starts[m->shard];
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
        const struct batch_row *b = &m->batch[i];
        const uint32_t *ids = lists_of(m, i);
        uint32_t words[BLOCK_DEGREE_MAX + 1] = {list_head(b->degree[0], b->kept)};
        for (uint32_t j = 0; j < b->degree[0]; j++) {
            words[1 + j] = position_of(m, ids[j]);
            m->info.inner_edges += words[1 + j] - start < m->rows.own_count;
        }
        m->info.edges += b->degree[0];
        m->info.pruned_rows += b->count > 1;
        m->info.degree_max = MAX(m->info.degree_max, b->degree[0]);
        status = work_output_append(out, words, (1 + (size_t)b->degree[0]) * sizeof(words[0]), err);
    }
    return status;
}

static enum status batches_run(struct merge *m, const struct build_monitor *monitor,
                               struct work_output *out, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t s = 0; status == STATUS_OK && s < m->plan->shard_count; s++)
        status = lender_next(&m->lenders[s], err);
    for (uint32_t first = 0; status == STATUS_OK && first < m->rows.own_count;
         first += BATCH_ROWS) {
        uint32_t count = MIN((uint32_t)BATCH_ROWS, m->rows.own_count - first);
        status = batch_read(m, first, count, err);
        if (status != STATUS_OK)
            break;
        batch_prune(m, first, count);
        status = batch_write(m, count, out, err);
        build_monitor_update(monitor, first + count);
        if (status == STATUS_OK)
            status = build_monitor_check(monitor, err);
    }
    /* A lender whose lists are out of order has some left. */
    for (uint32_t s = 0; status == STATUS_OK && s < m->plan->shard_count; s++)
        if (s != m->shard)
            status = work_input_end(m->lenders[s].input, err);
    return status == STATUS_OK ? work_input_end(m->own, err) : status;
}

/* ---- the whole ---- */

uint64_t merge_batch_bytes(uint32_t degree)
{
    return BATCH_ROWS * (LISTS_MAX * degree * sizeof(uint32_t) + sizeof(struct batch_row));
}

static enum status work_init(struct merge *m, struct error *err)
{
    uint32_t degree = m->params->degree;
    m->threads = omp_get_max_threads();
    m->scratch = calloc((size_t)m->threads, sizeof(struct graph_scratch *));
    m->batch = calloc(BATCH_ROWS, sizeof(*m->batch));
    m->batch_ids = calloc((size_t)BATCH_ROWS * LISTS_MAX * degree, sizeof(*m->batch_ids));
    if (m->scratch == NULL || m->batch == NULL || m->batch_ids == NULL)
        return error_set(err, STATUS_NO_MEMORY, "merging shard %u: out of memory", m->shard);
    enum status status = STATUS_OK;
    for (int i = 0; status == STATUS_OK && i < m->threads; i++) {
        status = graph_scratch_create(&m->rows.set, 1, degree, &m->scratch[i], err);
        if (status == STATUS_OK)
            status = graph_scratch_reserve(m->scratch[i], (size_t)LISTS_MAX * degree, err);
    }
    return status;
}

static void merge_release(struct merge *m)
{
    for (uint32_t s = 0; m->lenders != NULL && s < m->plan->shard_count; s++)
        work_input_close(m->lenders[s].input);
    for (int i = 0; m->scratch != NULL && i < m->threads; i++)
        graph_scratch_destroy(m->scratch[i]);
    work_input_close(m->own);
    u32_free(m->positions, (size_t)m->halo_count + m->root_count);
    u32_free(m->canonical, m->halo_count);
    free(m->lenders);
    free(m->roots);
    free(m->stitch_of_root);
    free(m->scratch);
    free(m->batch);
    free(m->batch_ids);
    shard_rows_destroy(&m->rows);
}

enum status merge_run(const struct shard_plan *plan, uint32_t shard,
                      const struct merge_params *params, const struct build_monitor *monitor,
                      struct build_stage_record *cost, struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct work_piece piece = {BUILD_STAGE_MERGE, shard};
    struct work_output *out = NULL;
    struct merge m = {.plan = plan, .shard = shard, .params = params};

    enum status status = lists_open(&m, err);
    if (status == STATUS_OK)
        status = rows_load(&m, err);
    if (status == STATUS_OK)
        status = work_init(&m, err);
    if (status == STATUS_OK)
        status = work_output_open(plan->work, piece, "lists", 0, &out, err);
    if (status == STATUS_OK) {
        stitches_find(&m);
        status = batches_run(&m, monitor, out, err);
    }
    merge_release(&m);
    if (status != STATUS_OK) {
        work_output_abort(out);
        return status;
    }
    build_clock_measure(&clock, cost);
    return work_piece_commit(plan->work, piece, &out, 1, &m.info, sizeof(m.info), cost, err);
}

enum status merge_list_read(const struct shard_plan *plan, struct work_input *input, uint32_t *ids,
                            uint32_t capacity, uint32_t *degree, uint32_t *kept, struct error *err)
{
    enum status status = shard_list_read(input, ids, capacity, degree, kept, err);
    for (uint32_t i = 0; status == STATUS_OK && i < *degree; i++)
        if (ids[i] >= plan->starts[plan->shard_count])
            status = work_input_discard(input, "has a list that names no row", err);
    return status;
}
