/*
 * key_index.c - see key_index.h.
 *
 * A run is sorted by ranks: keys are sorted by themselves (u64_sort.h), and each row's node goes to
 * the place where its key is found among them. That takes 12 bytes a row, where pairs sorted as
 * such would take 16 and a sort of their own.
 *
 * The merge is a heap of the runs by their next keys. Its one thread moves some 30 M keys a second
 * of three runs, which is a small part of what writing the blocks takes.
 */
#include "builder/key_index.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/memory.h"
#include "common/u64_sort.h"
#include "layout/digest.h"
#include "layout/keys.h"

enum {
    RUNS_BUFFER_BYTES = 64 << 20, /* of all runs together */
    RUN_BUFFER_BYTES_MIN = 64 << 10,
    RUN_BUFFER_BYTES_MAX = 1 << 20,
    PAGES_AT_A_TIME = 256, /* written with one call: 1 MiB */
};

/* ---- a shard's run ---- */

/* Place of `key` in sorted[count], where it is. */
static uint32_t rank_of(const uint64_t *sorted, uint32_t count, uint64_t key)
{
    uint32_t low = 0;
    uint32_t high = count - 1;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (sorted[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static enum status repeat_set(uint64_t key, struct error *err)
{
    return error_set(err, STATUS_INVALID, "key %" PRIu64 " is that of two rows", key);
}

static enum status run_append(const uint64_t *sorted, const uint32_t *nodes, uint32_t count,
                              struct work_output *out, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
        uint8_t record[KEY_INDEX_RECORD_BYTES];
        if (i > 0 && sorted[i] == sorted[i - 1])
            return repeat_set(sorted[i], err);
        memcpy(record, &sorted[i], sizeof(sorted[i]));
        memcpy(record + sizeof(sorted[i]), &nodes[i], sizeof(nodes[i]));
        status = work_output_append(out, record, sizeof(record), err);
    }
    return status;
}

enum status key_index_run_write(const uint64_t *keys, const uint32_t *nodes, uint32_t count,
                                struct work_output *out, struct error *err)
{
    void *sorted_keys = NULL;
    void *sorted_nodes = NULL;
    enum status status =
        bulk_alloc(count, sizeof(uint64_t), "keys of a shard in order", &sorted_keys, err);
    if (status == STATUS_OK)
        status =
            bulk_alloc(count, sizeof(uint32_t), "nodes of a shard in order", &sorted_nodes, err);
    if (status == STATUS_OK) {
        uint64_t *sorted = sorted_keys;
        uint32_t *to = sorted_nodes;
        memcpy(sorted, keys, count * sizeof(*keys));
        u64_sort(sorted, count);
#pragma omp parallel for schedule(static)
        for (uint32_t row = 0; row < count; row++)
            to[rank_of(sorted, count, keys[row])] = nodes[row];
        status = run_append(sorted, to, count, out, err);
    }
    bulk_free(sorted_nodes, count, sizeof(uint32_t));
    bulk_free(sorted_keys, count, sizeof(uint64_t));
    return status;
}

/* ---- the merge ---- */

/* A shard's run, at its next key. */
struct run {
    struct work_input *input;
    uint64_t key;
    uint32_t node;
};

struct merge {
    const struct key_index_params *params;
    struct keys_shape shape;
    struct run *runs; /* [shard_count] */
    struct run *heap[PARTITION_SHARDS_MAX];
    uint32_t heap_count;
    uint64_t *firsts;    /* [keys_pages()] */
    uint8_t *pages;      /* [PAGES_AT_A_TIME] */
    uint32_t page_count; /* of the file, so far, with those in `pages` */
    uint64_t last_key;   /* of those on pages */
    XXH3_state_t *hash;
};

static size_t run_buffer_bytes(uint32_t shards)
{
    const size_t share = RUNS_BUFFER_BYTES / shards;
    return MIN(MAX(share, (size_t)RUN_BUFFER_BYTES_MIN), (size_t)RUN_BUFFER_BYTES_MAX);
}

uint64_t key_index_memory_bytes(uint64_t rows, uint32_t shards)
{
    return (uint64_t)keys_pages(rows) * sizeof(uint64_t) + shards * run_buffer_bytes(shards) +
           shards * sizeof(struct run) + (uint64_t)PAGES_AT_A_TIME * KEYS_PAGE_BYTES;
}

/* Steps to the run's next key; *more is false at its end. That its bytes are those written is known
 * at its end only, so each is looked at before it is relied upon. */
static enum status run_next(const struct merge *m, struct run *run, bool first, bool *more,
                            struct error *err)
{
    uint8_t record[KEY_INDEX_RECORD_BYTES];
    const uint64_t before = run->key;
    *more = work_input_left(run->input) > 0;
    if (!*more)
        return work_input_end(run->input, err);
    enum status status = work_input_read(run->input, record, sizeof(record), err);
    if (status != STATUS_OK)
        return status;
    memcpy(&run->key, record, sizeof(run->key));
    memcpy(&run->node, record + sizeof(run->key), sizeof(run->node));
    if ((!first && run->key <= before) || run->node >= m->shape.node_limit)
        return work_input_discard(run->input, "is no run of keys", err);
    return STATUS_OK;
}

/* Lets heap[at] sink to its place. */
static void heap_sink(struct merge *m, uint32_t at)
{
    struct run *run = m->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= m->heap_count)
            break;
        if (child + 1 < m->heap_count && m->heap[child + 1]->key < m->heap[child]->key)
            child++;
        if (m->heap[child]->key >= run->key)
            break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = run;
}

static enum status runs_open(struct merge *m, struct error *err)
{
    const struct shard_plan *plan = m->params->plan;
    enum status status = STATUS_OK;
    for (uint32_t s = 0; status == STATUS_OK && s < plan->shard_count; s++) {
        struct run *run = &m->runs[s];
        bool more = false;
        status =
            work_input_open(plan->work, (struct work_piece){BUILD_STAGE_WRITE, s}, KEY_INDEX_PART,
                            0, run_buffer_bytes(plan->shard_count), &run->input, err);
        if (status == STATUS_OK && work_input_left(run->input) !=
                                       (uint64_t)shard_own_count(plan, s) * KEY_INDEX_RECORD_BYTES)
            status = work_input_discard(run->input, "has not the keys of all rows", err);
        if (status == STATUS_OK)
            status = run_next(m, run, true, &more, err);
        if (status == STATUS_OK && more)
            m->heap[m->heap_count++] = run;
    }
    for (uint32_t at = m->heap_count / 2; at-- > 0;)
        heap_sink(m, at);
    return status;
}

/* The next key of all, and the run after it moves on. */
static enum status heap_take(struct merge *m, uint64_t *key, uint32_t *node, struct error *err)
{
    struct run *run = m->heap[0];
    bool more = false;
    *key = run->key;
    *node = run->node;
    enum status status = run_next(m, run, false, &more, err);
    if (status != STATUS_OK)
        return status;
    if (!more)
        m->heap[0] = m->heap[--m->heap_count];
    if (m->heap_count > 0)
        heap_sink(m, 0);
    return STATUS_OK;
}

/* Writes the pages that are waiting. */
static enum status pages_flush(struct merge *m, struct error *err)
{
    const uint32_t waiting = m->page_count % PAGES_AT_A_TIME;
    const size_t bytes =
        (size_t)(waiting > 0 ? waiting : (uint32_t)PAGES_AT_A_TIME) * KEYS_PAGE_BYTES;
    (void)XXH3_128bits_update(m->hash, m->pages, bytes);
    return generation_writer_append(m->params->writer, GENERATION_KEYS, m->pages, bytes, err);
}

/* Where the next page of the file goes. */
static uint8_t *page_place(struct merge *m)
{
    return m->pages + (size_t)(m->page_count++ % PAGES_AT_A_TIME) * KEYS_PAGE_BYTES;
}

static enum status page_done(struct merge *m, struct error *err)
{
    return m->page_count % PAGES_AT_A_TIME == 0 ? pages_flush(m, err) : STATUS_OK;
}

static enum status key_page_write(struct merge *m, uint32_t page, struct error *err)
{
    uint64_t keys[KEYS_PAGE_KEYS];
    uint32_t nodes[KEYS_PAGE_KEYS];
    const uint32_t count = keys_page_count(&m->shape, page);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < count; i++) {
        status = heap_take(m, &keys[i], &nodes[i], err);
        if (status == STATUS_OK && page + i > 0 && keys[i] == m->last_key)
            status = repeat_set(keys[i], err);
        m->last_key = keys[i];
    }
    if (status != STATUS_OK)
        return status;
    m->firsts[page] = keys[0];
    keys_page_encode(&m->shape, page, keys, nodes, page_place(m));
    return page_done(m, err);
}

static enum status pages_write(struct merge *m, const struct build_monitor *monitor,
                               struct error *err)
{
    const uint32_t pages = keys_pages(m->shape.count);
    const uint32_t directory_pages = keys_directory_pages(m->shape.count);
    enum status status = STATUS_OK;
    for (uint32_t page = 0; status == STATUS_OK && page < pages; page++) {
        status = key_page_write(m, page, err);
        if (status == STATUS_OK && page % PAGES_AT_A_TIME == 0) {
            build_monitor_update(monitor, (uint64_t)page * KEYS_PAGE_KEYS);
            status = build_monitor_check(monitor, err);
        }
    }
    for (uint32_t page = 0; status == STATUS_OK && page < directory_pages; page++) {
        keys_directory_encode(&m->shape, page, m->firsts + (size_t)page * KEYS_PAGE_FIRSTS,
                              page_place(m));
        status = page_done(m, err);
    }
    if (status == STATUS_OK && m->page_count % PAGES_AT_A_TIME != 0)
        status = pages_flush(m, err);
    return status;
}

static enum status merge_init(struct merge *m, const struct key_index_params *params,
                              struct error *err)
{
    const uint64_t rows = params->plan->shape.count;
    void *firsts = NULL;
    void *pages = NULL;
    *m = (struct merge){
        .params = params,
        .shape = {.count = rows,
                  .generation_seed = params->generation_seed,
                  .node_limit = params->node_limit},
        .runs = calloc(params->plan->shard_count, sizeof(*m->runs)),
        .hash = XXH3_createState(),
    };
    if (m->runs == NULL || m->hash == NULL || XXH3_128bits_reset(m->hash) != XXH_OK)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the merge of keys");
    enum status status =
        bulk_alloc(keys_pages(rows), sizeof(uint64_t), "first keys of pages", &firsts, err);
    if (status == STATUS_OK)
        status = bulk_alloc(PAGES_AT_A_TIME, KEYS_PAGE_BYTES, "pages of keys", &pages, err);
    m->firsts = firsts;
    m->pages = pages;
    return status;
}

static void merge_fini(struct merge *m)
{
    for (uint32_t s = 0; m->runs != NULL && s < m->params->plan->shard_count; s++)
        work_input_close(m->runs[s].input);
    bulk_free(m->pages, PAGES_AT_A_TIME, KEYS_PAGE_BYTES);
    bulk_free(m->firsts, keys_pages(m->shape.count), sizeof(uint64_t));
    XXH3_freeState(m->hash);
    free(m->runs);
}

enum status key_index_merge(const struct key_index_params *params,
                            const struct build_monitor *monitor, struct build_stage_record *cost,
                            struct error *err)
{
    static const struct work_piece piece = {BUILD_STAGE_KEYS, WORK_WHOLE};
    struct build_clock clock = build_clock_now();
    struct key_index_info info = {.bytes = keys_bytes(params->plan->shape.count)};
    struct merge merge;
    enum status status = merge_init(&merge, params, err);
    if (status == STATUS_OK)
        status = runs_open(&merge, err);
    if (status == STATUS_OK)
        status = pages_write(&merge, monitor, err);
    if (status == STATUS_OK)
        status = generation_writer_sync(params->writer, err);
    if (status == STATUS_OK) {
        info.digest = digest_of(XXH3_128bits_digest(merge.hash));
        build_clock_measure(&clock, cost);
        cost->written_bytes = info.bytes;
        status =
            work_piece_commit(params->plan->work, piece, NULL, 0, &info, sizeof(info), cost, err);
    }
    merge_fini(&merge);
    return status;
}
