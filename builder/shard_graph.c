/*
 * shard_graph.c - see shard_graph.h. Building uses the caller's team; spilling is sequential, as
 * fast as the disk.
 */
#include "builder/shard_graph.h"

#include <stdlib.h>
#include <string.h>

#include "builder/graph_build.h"
#include "common/memory.h"
#include "common/random.h"

/* L of a borrowed row, of an own row's: a row finds the bulk of its neighbours where it is owned.
 */
#define BORROWED_LIST_SHARE 0.7

/* A shard's graph in RAM on its way to disk. */
struct spill {
    const struct shard_rows *rows;
    const struct graph_result *built;
    uint32_t
        *halo_of;   /* local id -> 1 + its place in the halo of the section at hand; 0: not in it */
    uint32_t *halo; /* local ids in the halo, in order of position */
    uint32_t halo_count;
};

/* ---- own lists, root, visits ---- */

static enum status own_write(const struct spill *spill, struct work_output *out, struct error *err)
{
    const struct graph *graph = &spill->built->graph;
    enum status status = STATUS_OK;
    for (uint32_t id = 0; status == STATUS_OK && id < spill->rows->own_count; id++) {
        uint32_t degree = graph_degree(graph, id);
        uint32_t head = list_head(degree, spill->built->kept[id]);
        status = work_output_append(out, &head, sizeof(head), err);
        if (status == STATUS_OK)
            status =
                work_output_append(out, graph_neighbors(graph, id), degree * sizeof(head), err);
    }
    return status;
}

static enum status root_write(const struct spill *spill, struct work_output *out, struct error *err)
{
    const struct vector_set *set = &spill->rows->set;
    uint32_t position = shard_position(spill->rows, spill->built->root);
    enum status status = work_output_append(out, &position, sizeof(position), err);
    if (status == STATUS_OK)
        status = work_output_append(out, vector_set_row(set, spill->built->root),
                                    element_vector_bytes(set->type, set->dim), err);
    return status;
}

static enum status visits_write(const struct spill *spill, const struct hot_visits *visits,
                                struct work_output *out, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t q = 0; status == STATUS_OK && q < visits->query_count; q++) {
        uint32_t *ids = visits->rows + (size_t)q * HOT_VISITS_MAX;
        for (uint32_t i = 0; i < visits->counts[q]; i++)
            ids[i] = shard_position(spill->rows, ids[i]);
        status = work_output_append(out, &visits->counts[q], sizeof(uint32_t), err);
        if (status == STATUS_OK)
            status = work_output_append(out, ids, visits->counts[q] * sizeof(uint32_t), err);
    }
    return status;
}

/* ---- lent lists ---- */

static bool owned_by(const struct shard_plan *plan, uint32_t owner, uint32_t position)
{
    return position >= plan->starts[owner] && position < plan->starts[owner + 1];
}

static int position_compare(const void *a, const void *b, void *context)
{
    uint32_t x = shard_position(context, *(const uint32_t *)a);
    uint32_t y = shard_position(context, *(const uint32_t *)b);
    return (x > y) - (x < y);
}

/* Collects what the lists of local ids [first, end), lent by `owner`, point to outside `owner`:
 * each list's nearest before any list's next, so that what does not fit is far. */
static void halo_collect(struct spill *spill, uint32_t owner, uint32_t first, uint32_t end)
{
    const struct shard_rows *rows = spill->rows;
    const struct graph *graph = &spill->built->graph;
    uint64_t most = (uint64_t)(end - first) * SHARD_GRAPH_HALO_PER_ROW;
    bool more = true;

    for (uint32_t i = 0; i < spill->halo_count; i++)
        spill->halo_of[spill->halo[i]] = 0;
    spill->halo_count = 0;
    for (uint32_t rank = 0; more && spill->halo_count < most; rank++) {
        more = false;
        for (uint32_t id = first; id < end && spill->halo_count < most; id++) {
            if (rank >= graph_degree(graph, id))
                continue;
            more = true;
            uint32_t target = graph_neighbors(graph, id)[rank];
            if (spill->halo_of[target] != 0 ||
                owned_by(rows->plan, owner, shard_position(rows, target)))
                continue;
            spill->halo[spill->halo_count++] = target;
            spill->halo_of[target] = 1;
        }
    }
    qsort_r(spill->halo, spill->halo_count, sizeof(*spill->halo), position_compare, (void *)rows);
    for (uint32_t i = 0; i < spill->halo_count; i++)
        spill->halo_of[spill->halo[i]] = i + 1;
}

static enum status halo_write(const struct spill *spill, uint32_t row_count,
                              struct work_output *out, struct error *err)
{
    const struct vector_set *set = &spill->rows->set;
    uint32_t counts[2] = {row_count, spill->halo_count};
    enum status status = work_output_append(out, counts, sizeof(counts), err);
    for (uint32_t i = 0; status == STATUS_OK && i < spill->halo_count; i++) {
        uint32_t position = shard_position(spill->rows, spill->halo[i]);
        status = work_output_append(out, &position, sizeof(position), err);
    }
    for (uint32_t i = 0; status == STATUS_OK && i < spill->halo_count; i++)
        status = work_output_append(out, vector_set_row(set, spill->halo[i]),
                                    element_vector_bytes(set->type, set->dim), err);
    return status;
}

static enum status lent_list_write(const struct spill *spill, uint32_t owner, uint32_t id,
                                   struct work_output *out, struct error *err)
{
    const struct shard_rows *rows = spill->rows;
    const uint32_t *ids = graph_neighbors(&spill->built->graph, id);
    uint32_t degree = graph_degree(&spill->built->graph, id);
    uint32_t start = rows->plan->starts[owner];
    uint32_t words[BLOCK_DEGREE_MAX + 2] = {shard_position(rows, id) - start};
    uint32_t count = 0;
    for (uint32_t i = 0; i < degree; i++) {
        uint32_t position = shard_position(rows, ids[i]);
        if (owned_by(rows->plan, owner, position))
            words[2 + count++] = position - start;
        else if (spill->halo_of[ids[i]] != 0)
            words[2 + count++] = (spill->halo_of[ids[i]] - 1) | SHARD_GRAPH_HALO;
    }
    words[1] = list_head(count, 0);
    return work_output_append(out, words, (2 + count) * sizeof(words[0]), err);
}

static enum status lent_write(struct spill *spill, struct work_output *out, struct error *err)
{
    const struct shard_rows *rows = spill->rows;
    uint32_t end_all = rows->own_count + rows->borrowed_count;
    uint32_t first = rows->own_count;
    enum status status = STATUS_OK;
    for (uint32_t owner = 0; status == STATUS_OK && owner < rows->plan->shard_count; owner++) {
        uint32_t end = first;
        while (end < end_all && owned_by(rows->plan, owner, shard_position(rows, end)))
            end++;
        if (owner > 0)
            work_output_section(out);
        if (end == first) /* nothing borrowed from it: an empty section */
            continue;
        halo_collect(spill, owner, first, end);
        status = halo_write(spill, end - first, out, err);
        for (uint32_t id = first; status == STATUS_OK && id < end; id++)
            status = lent_list_write(spill, owner, id, out, err);
        first = end;
    }
    return status;
}

/* ---- the whole ---- */

static enum status piece_write(const struct shard_rows *rows, const struct graph_result *built,
                               const struct hot_visits *visits, struct shard_graph_info *info,
                               struct build_stage_record *cost, struct error *err)
{
    enum { OWN, LENT, ROOT, VISITS, FILES };
    static const char *const parts[FILES] = {"own", "lent", "root", "visits"};
    struct work *work = rows->plan->work;
    struct work_piece piece = {BUILD_STAGE_GRAPH, rows->shard};
    struct work_output *outputs[FILES] = {NULL};
    size_t members = (size_t)rows->own_count + rows->borrowed_count;
    void *halo_of = NULL;
    void *halo = NULL;
    struct spill spill = {.rows = rows, .built = built};

    enum status status = bulk_alloc(members, sizeof(uint32_t), "halo", &halo_of, err);
    if (status == STATUS_OK)
        status = bulk_alloc(members, sizeof(uint32_t), "halo", &halo, err);
    spill.halo_of = halo_of;
    spill.halo = halo;
    for (int i = 0; status == STATUS_OK && i < FILES; i++)
        status = work_output_open(work, piece, parts[i], 0, &outputs[i], err);
    if (status == STATUS_OK)
        status = own_write(&spill, outputs[OWN], err);
    if (status == STATUS_OK)
        status = lent_write(&spill, outputs[LENT], err);
    if (status == STATUS_OK)
        status = root_write(&spill, outputs[ROOT], err);
    if (status == STATUS_OK)
        status = visits_write(&spill, visits, outputs[VISITS], err);
    bulk_free(halo_of, members, sizeof(uint32_t));
    bulk_free(halo, members, sizeof(uint32_t));
    if (status == STATUS_OK)
        return work_piece_commit(work, piece, outputs, FILES, info, sizeof(*info), cost, err);
    for (int i = 0; i < FILES; i++)
        work_output_abort(outputs[i]);
    return status;
}

static int on_progress(void *context, uint64_t done, uint64_t total)
{
    const struct build_monitor *monitor = context;

    (void)total;
    build_monitor_update(monitor, done);
    return build_monitor_cancelled(monitor);
}

uint32_t shard_query_count(const struct shard_plan *plan, uint32_t shard)
{
    uint64_t rows = plan->starts[plan->shard_count];
    uint64_t wanted = MIN(rows, (uint64_t)HOT_QUERIES_MAX);
    /* Shares of a running total: they add up to what is wanted. */
    return (uint32_t)(wanted * plan->starts[shard + 1] / rows -
                      wanted * plan->starts[shard] / rows);
}

enum status shard_graph_run(const struct shard_plan *plan, uint32_t shard,
                            const struct shard_graph_params *params,
                            const struct shard_graph_hooks *hooks,
                            const struct build_monitor *monitor, struct build_stage_record *cost,
                            struct error *err)
{
    struct build_clock clock = build_clock_now();
    struct build_monitor watched = *monitor;
    struct build_monitor silent = {.cancel = monitor->cancel};
    struct shard_rows rows = {0};
    struct graph_result built = {0};
    struct hot_visits visits = {0};
    struct shard_graph_info info = {.numa_node = UINT32_MAX};
    uint64_t seed = shard == 0 ? params->seed : random_at(params->seed, shard);
    struct graph_params graph = {
        .kind = params->kind,
        .degree = params->degree,
        .build_list = params->build_list,
        .alpha = params->alpha,
        .seed = seed,
        .own_count = shard_own_count(plan, shard),
        .borrowed_list = MAX(1u, (uint32_t)(BORROWED_LIST_SHARE * params->build_list)),
        .progress = on_progress,
        .progress_context = &watched,
    };

    enum status status = shard_rows_load(plan, shard, 0, &rows, err);
    if (status == STATUS_OK)
        status = vector_set_prepare(&rows.set, plan->norm_max, err);
    if (status == STATUS_OK)
        status = graph_build(&rows.set, &graph, &built, err);
    if (status == STATUS_OK) {
        struct hot_sample sample = {.own_count = rows.own_count,
                                    .query_count = shard_query_count(plan, shard),
                                    .entry = built.entry,
                                    .seed = seed};
        status = hot_visits_collect(&rows.set, &built.graph, &sample, &silent, &visits, err);
    }
    if (status == STATUS_OK) {
        info.root = shard_position(&rows, built.root);
        info.repaired_nodes = built.repaired_nodes;
        info.query_count = visits.query_count;
        if (hooks != NULL && hooks->placed != NULL)
            hooks->placed(hooks->context, &rows.set, &built.graph, &info);
        build_clock_measure(&clock, cost);
        status = piece_write(&rows, &built, &visits, &info, cost, err);
    }
    hot_visits_destroy(&visits);
    graph_result_destroy(&built);
    shard_rows_destroy(&rows);
    return status;
}

/* ---- reading back ---- */

static enum status visits_read(const struct shard_plan *plan, struct work_input *input,
                               uint32_t count, struct hot_visits *visits, struct error *err)
{
    uint32_t total = plan->starts[plan->shard_count];
    enum status status = STATUS_OK;
    for (uint32_t q = 0; status == STATUS_OK && q < count; q++) {
        uint32_t *visited = &visits->counts[visits->query_count];
        uint32_t *rows = visits->rows + (size_t)visits->query_count * HOT_VISITS_MAX;
        status = work_input_read(input, visited, sizeof(*visited), err);
        if (status == STATUS_OK && *visited > HOT_VISITS_MAX)
            status = work_input_discard(input, "has a query with too many visits", err);
        if (status == STATUS_OK)
            status = work_input_read(input, rows, *visited * sizeof(uint32_t), err);
        for (uint32_t i = 0; status == STATUS_OK && i < *visited; i++)
            if (rows[i] >= total)
                status = work_input_discard(input, "names a row that is not there", err);
        visits->query_count++;
    }
    return status == STATUS_OK ? work_input_end(input, err) : status;
}

enum status shard_visits_load(const struct shard_plan *plan, struct hot_visits *visits,
                              struct error *err)
{
    uint64_t total = 0;
    for (uint32_t s = 0; s < plan->shard_count; s++)
        total += shard_query_count(plan, s);
    struct hot_visits loaded = {.counts = calloc(total + 1, sizeof(uint32_t)),
                                .rows = calloc((total + 1) * HOT_VISITS_MAX, sizeof(uint32_t))};
    enum status status = STATUS_OK;
    if (loaded.counts == NULL || loaded.rows == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "no memory for the visits of %llu queries",
                           (unsigned long long)total);
    for (uint32_t s = 0; status == STATUS_OK && s < plan->shard_count; s++) {
        struct work_input *input = NULL;
        status = work_input_open(plan->work, (struct work_piece){BUILD_STAGE_GRAPH, s}, "visits", 0,
                                 0, &input, err);
        if (status == STATUS_OK)
            status = visits_read(plan, input, shard_query_count(plan, s), &loaded, err);
        work_input_close(input);
    }
    if (status != STATUS_OK)
        hot_visits_destroy(&loaded);
    *visits = loaded;
    return status;
}

enum status shard_root_load(const struct shard_plan *plan, uint32_t shard, uint32_t *position,
                            void *vector, struct error *err)
{
    struct work_input *input = NULL;
    enum status status = work_input_open(plan->work, (struct work_piece){BUILD_STAGE_GRAPH, shard},
                                         "root", 0, 0, &input, err);
    if (status == STATUS_OK)
        status = work_input_read(input, position, sizeof(*position), err);
    if (status == STATUS_OK)
        status = work_input_read(input, vector,
                                 element_vector_bytes(plan->shape.type, plan->shape.dim), err);
    if (status == STATUS_OK && !owned_by(plan, shard, *position))
        status = work_input_discard(input, "names a row of another shard", err);
    work_input_close(input);
    return status;
}
