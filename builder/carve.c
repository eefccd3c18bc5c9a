/*
 * carve.c - see carve.h.
 *
 * The first division is made by the whole team; each of its parts then belongs to one thread,
 * largest first, and is carved depth first. A part too large for that, or one that its leaders do
 * not divide (copies of one vector), is cut in slices of its order instead.
 */
#include "builder/carve.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/cpu.h"
#include "common/memory.h"
#include "common/random.h"

enum {
    LEADER_SHARE = 50, /* rows that a leader stands for, until there are CARVE_LEADERS_MAX */
    LEADERS_MIN = 4,
    FANOUT_FIRST = 10,
    FANOUT_SECOND = 3,
    BLOCK_ROWS = 4096,  /* of the first division: a thread's piece of work */
    PART_SHARE = 16,    /* most of the rows that go to one thread as one part: 1 / 16 */
    UNDIVIDED_SHARE = 4 /* a part that kept more than 3 / 4 was not divided */
};

/* One thread's. */
struct worker {
    struct tile leaders;
    int32_t *scores; /* of TILE_QUERIES_MAX rows to CARVE_LEADERS_MAX */
    uint64_t members;
};

struct carving {
    const struct byte_rows *rows;
    const struct carve_params *params;
    uint32_t count;
    struct worker *workers;
    int threads;
    uint64_t members_done; /* of the first division */
    uint64_t members_total;
    bool stopped;
    enum status status;
    struct error *err;
};

/* Rows divided among leaders: leader l has members[starts[l]] .. members[starts[l + 1]]. */
struct division {
    uint32_t leader_count;
    uint32_t fanout;
    uint32_t *leaders; /* rows */
    uint16_t *nearest; /* [count * fanout]: leaders of a row */
    uint32_t *starts;  /* [leader_count + 1] */
    uint32_t *members; /* [count * fanout] */
};

static void division_release(struct division *d)
{
    free(d->leaders);
    free(d->nearest);
    free(d->starts);
    free(d->members);
}

static uint32_t row_of(const uint32_t *ids, uint32_t i)
{
    return ids ? ids[i] : i;
}

/* Leaders at random, one in each of as many slices of ids[count] (NULL: 0..count-1). */
static enum status division_begin(struct division *d, const uint32_t *ids, uint32_t count,
                                  uint32_t fanout, uint64_t seed, struct error *err)
{
    uint32_t wanted = MAX(count / LEADER_SHARE, (uint32_t)LEADERS_MIN);
    d->leader_count = MIN(MIN(wanted, count), (uint32_t)CARVE_LEADERS_MAX);
    d->fanout = MIN(fanout, MAX(d->leader_count / 2, 1u));
    d->leaders = malloc(d->leader_count * sizeof(*d->leaders));
    d->nearest = malloc((size_t)count * d->fanout * sizeof(*d->nearest));
    d->starts = calloc(d->leader_count + 1, sizeof(*d->starts));
    d->members = malloc((size_t)count * d->fanout * sizeof(*d->members));
    if (!d->leaders || !d->nearest || !d->starts || !d->members)
        return error_set(err, STATUS_NO_MEMORY, "carving %u rows: out of memory", count);
    for (uint32_t l = 0; l < d->leader_count; l++) {
        uint32_t first = (uint32_t)((uint64_t)count * l / d->leader_count);
        uint32_t end = (uint32_t)((uint64_t)count * (l + 1) / d->leader_count);
        d->leaders[l] = row_of(ids, first + (uint32_t)random_below(seed, l, end - first));
    }
    return STATUS_OK;
}

/* The nearest leaders of ids[first .. end), by a worker whose tile has them. */
static void nearest_find(const struct carving *c, struct division *d, struct worker *w,
                         const uint32_t *ids, uint32_t first, uint32_t end)
{
    uint32_t width = tile_width(&w->leaders);
    for (uint32_t i = first; i < end; i += TILE_QUERIES_MAX) {
        uint32_t queries[TILE_QUERIES_MAX];
        uint32_t best[FANOUT_FIRST];
        uint32_t here = MIN(end - i, (uint32_t)TILE_QUERIES_MAX);
        for (uint32_t q = 0; q < here; q++)
            queries[q] = row_of(ids, i + q);
        for (uint32_t q = here; ids && q < 2 * here && i + q < end; q++)
            PREFETCH(c->rows->rows + ids[i + q] * c->rows->stride_bytes);
        tile_ask(&w->leaders, c->rows, queries, here);
        tile_scores(&w->leaders, here, w->scores);
        for (uint32_t q = 0; q < here; q++) {
            tile_select(&w->leaders, w->scores + (size_t)q * width, width, d->fanout, TILE_NONE,
                        best);
            for (uint32_t f = 0; f < d->fanout; f++)
                d->nearest[(size_t)(i + q) * d->fanout + f] = (uint16_t)best[f];
        }
    }
}

/* Groups the rows by leader, in order; `nearest` is released. */
static void division_group(struct division *d, const uint32_t *ids, uint32_t count)
{
    uint64_t total = (uint64_t)count * d->fanout;
    for (uint64_t i = 0; i < total; i++)
        d->starts[d->nearest[i] + 1]++;
    for (uint32_t l = 0; l < d->leader_count; l++)
        d->starts[l + 1] += d->starts[l];
    for (uint64_t i = 0; i < total; i++)
        d->members[d->starts[d->nearest[i]]++] = row_of(ids, (uint32_t)(i / d->fanout));
    for (uint32_t l = d->leader_count; l > 0; l--)
        d->starts[l] = d->starts[l - 1];
    d->starts[0] = 0;
    free(d->nearest);
    d->nearest = NULL;
}

static void leaf_give(struct carving *c, int thread, const uint32_t *ids, uint32_t count)
{
    c->workers[thread].members += count;
    c->params->leaf(c->params->context, thread, ids, count);
}

static void slices_give(struct carving *c, int thread, const uint32_t *ids, uint32_t count)
{
    uint32_t slices = (count + CARVE_LEAF_MAX - 1) / CARVE_LEAF_MAX;
    for (uint32_t s = 0; s < slices; s++) {
        uint32_t first = (uint32_t)((uint64_t)count * s / slices);
        uint32_t end = (uint32_t)((uint64_t)count * (s + 1) / slices);
        leaf_give(c, thread, ids + first, end - first);
    }
}

static enum status part_carve(struct carving *c, int thread, const uint32_t *ids, uint32_t count,
                              uint32_t depth, uint64_t seed, struct error *err)
{
    if (count == 0)
        return STATUS_OK;
    if (count <= CARVE_LEAF_MAX) {
        leaf_give(c, thread, ids, count);
        return STATUS_OK;
    }
    struct division d = {0};
    struct worker *w = &c->workers[thread];
    uint32_t fanout = depth == 1 ? FANOUT_SECOND : 1;
    enum status status = division_begin(&d, ids, count, fanout, seed, err);
    if (status == STATUS_OK) {
        tile_fill(&w->leaders, c->rows, d.leaders, d.leader_count);
        nearest_find(c, &d, w, ids, 0, count);
        division_group(&d, ids, count);
    }
    for (uint32_t l = 0; status == STATUS_OK && l < d.leader_count; l++) {
        const uint32_t *members = d.members + d.starts[l];
        uint32_t size = d.starts[l + 1] - d.starts[l];
        if (size > count - count / UNDIVIDED_SHARE)
            slices_give(c, thread, members, size);
        else
            status = part_carve(c, thread, members, size, depth + 1, random_at(seed, l), err);
    }
    division_release(&d);
    return status;
}

/* ---- the first division ---- */

/* A part of the first division: a leader's rows, or a slice of them. */
struct part {
    uint32_t first, count;
    uint64_t seed;
};

static int part_order(const void *a, const void *b)
{
    const struct part *x = a;
    const struct part *y = b;
    if (x->count != y->count)
        return x->count > y->count ? -1 : 1;
    return (x->first > y->first) - (x->first < y->first);
}

static uint32_t part_max(uint32_t count)
{
    return MAX(count / PART_SHARE, (uint32_t)CARVE_LEAF_MAX);
}

static uint32_t parts_list(const struct carving *c, const struct division *d, struct part *parts)
{
    uint32_t found = 0;
    for (uint32_t l = 0; l < d->leader_count; l++) {
        uint32_t size = d->starts[l + 1] - d->starts[l];
        uint32_t slices = (size + part_max(c->count) - 1) / part_max(c->count);
        for (uint32_t s = 0; s < slices; s++) {
            uint32_t first = (uint32_t)((uint64_t)size * s / slices);
            uint32_t end = (uint32_t)((uint64_t)size * (s + 1) / slices);
            parts[found++] = (struct part){.first = d->starts[l] + first,
                                           .count = end - first,
                                           .seed = random_at(c->params->seed, l + 1)};
        }
    }
    qsort(parts, found, sizeof(*parts), part_order);
    return found;
}

static void stop(struct carving *c, enum status status, const struct error *err)
{
#pragma omp critical(carve_stop)
    {
        if (c->status == STATUS_OK && status != STATUS_OK) {
            c->status = status;
            if (c->err && err)
                *c->err = *err;
        }
#pragma omp atomic write
        c->stopped = true;
    }
}

static void part_run(struct carving *c, const struct division *d, const struct part *part)
{
    struct error err;
    bool stopped;
    int thread = omp_get_thread_num();
#pragma omp atomic read
    stopped = c->stopped;
    if (stopped)
        return;
    enum status status =
        part_carve(c, thread, d->members + part->first, part->count, 1, part->seed, &err);
    if (status != STATUS_OK)
        stop(c, status, &err);
    uint64_t done;
#pragma omp atomic capture
    done = c->members_done += part->count;
    if (thread == 0 && c->params->progress &&
        !c->params->progress(c->params->context, (double)done / (double)c->members_total))
        stop(c, STATUS_OK, NULL);
}

/* Leaders of all rows, by the team. */
static enum status leaders_assign(struct carving *c, struct division *d, uint32_t fanout,
                                  struct error *err)
{
    enum status status = division_begin(d, c->params->ids, c->count, fanout, c->params->seed, err);
    if (status != STATUS_OK)
        return status;
#pragma omp parallel
    {
        struct worker *w = &c->workers[omp_get_thread_num()];
        tile_fill(&w->leaders, c->rows, d->leaders, d->leader_count);
#pragma omp for schedule(dynamic, 1)
        for (uint32_t first = 0; first < c->count; first += BLOCK_ROWS)
            nearest_find(c, d, w, c->params->ids, first, MIN(c->count, first + BLOCK_ROWS));
    }
    return STATUS_OK;
}

static enum status whole_carve(struct carving *c, struct error *err)
{
    struct division d = {0};
    enum status status = leaders_assign(c, &d, FANOUT_FIRST, err);
    uint32_t most = d.leader_count + d.fanout * (PART_SHARE + 1);
    struct part *parts = calloc(most, sizeof(*parts));
    if (status == STATUS_OK && !parts)
        status = error_set(err, STATUS_NO_MEMORY, "carving: out of memory");
    if (status == STATUS_OK) {
        division_group(&d, c->params->ids, c->count);
        uint32_t part_count = parts_list(c, &d, parts);
        c->members_total = (uint64_t)c->count * d.fanout;
#pragma omp parallel for schedule(dynamic, 1)
        for (uint32_t p = 0; p < part_count; p++)
            part_run(c, &d, &parts[p]);
        status = c->status;
    }
    free(parts);
    division_release(&d);
    return status;
}

/* ---- the whole ---- */

static enum status workers_begin(struct carving *c, uint32_t dim, struct error *err)
{
    size_t scores = TILE_QUERIES_MAX * CARVE_LEADERS_MAX * sizeof(int32_t);
    c->threads = omp_get_max_threads();
    c->workers = calloc((size_t)c->threads, sizeof(*c->workers));
    if (!c->workers)
        return error_set(err, STATUS_NO_MEMORY, "carving: out of memory");
    for (int i = 0; i < c->threads; i++) {
        struct worker *w = &c->workers[i];
        tile_init(&w->leaders, dim, cpu_features());
        w->scores = aligned_alloc(64, scores);
        if (!w->scores)
            return error_set(err, STATUS_NO_MEMORY, "carving: out of memory");
        enum status status = tile_reserve(&w->leaders, CARVE_LEADERS_MAX, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static void workers_end(struct carving *c)
{
    for (int i = 0; c->workers && i < c->threads; i++) {
        tile_destroy(&c->workers[i].leaders);
        free(c->workers[i].scores);
    }
    free(c->workers);
}

enum status carve(const struct byte_rows *rows, const struct carve_params *params,
                  uint64_t *members, struct error *err)
{
    uint32_t count = params->count;
    struct carving c = {.rows = rows, .params = params, .count = count, .err = err};
    uint32_t ids[CARVE_LEAF_MAX];
    enum status status = workers_begin(&c, rows->dim, err);
    if (status == STATUS_OK && count > CARVE_LEAF_MAX) {
        status = whole_carve(&c, err);
    } else if (status == STATUS_OK) {
        for (uint32_t i = 0; i < count; i++)
            ids[i] = row_of(params->ids, i);
        leaf_give(&c, 0, ids, count);
    }
    if (status == STATUS_OK && c.stopped)
        status = error_set(err, STATUS_CANCELLED, "graph: stopped on request");
    *members = 0;
    for (int i = 0; c.workers && i < c.threads; i++)
        *members += c.workers[i].members;
    workers_end(&c);
    return status;
}

enum status carve_nearest(const struct byte_rows *rows, uint32_t count, uint64_t seed,
                          uint16_t *nearest, struct error *err)
{
    struct carve_params params = {.count = count, .seed = seed};
    struct carving c = {.rows = rows, .params = &params, .count = count, .err = err};
    struct division d = {0};
    enum status status = workers_begin(&c, rows->dim, err);
    if (status == STATUS_OK)
        status = leaders_assign(&c, &d, 1, err);
    if (status == STATUS_OK)
        memcpy(nearest, d.nearest, count * sizeof(*nearest));
    division_release(&d);
    workers_end(&c);
    return status;
}

uint64_t carve_bytes(uint64_t count, uint64_t dim, uint64_t threads)
{
    uint64_t first = count * FANOUT_FIRST * (sizeof(uint16_t) + sizeof(uint32_t));
    /* A part and, below it, what is at most 3 / 4 of the part above. */
    uint64_t part = MAX(count / PART_SHARE, (uint64_t)CARVE_LEAF_MAX);
    uint64_t below = part * (FANOUT_SECOND * (sizeof(uint16_t) + sizeof(uint32_t)) +
                             (UNDIVIDED_SHARE - 1) * sizeof(uint32_t));
    uint64_t scores = TILE_QUERIES_MAX * CARVE_LEADERS_MAX * sizeof(int32_t);
    return first + threads * (below + scores + tile_bytes(CARVE_LEADERS_MAX, (uint32_t)dim));
}
