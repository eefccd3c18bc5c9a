/*
 * block_walk.c - semi-external breadth of a graph: bits in memory, edges on disk.
 *
 * The file is gone through from start to end, again and again, until a pass finds nothing to read.
 * A pass reads only *pending* blocks: reached, but not expanded yet. One thread takes them, in
 * ascending order, until the buffer is full or the file ends; the team then reads and expands the
 * batch, in runs of blocks that lie close together; and the next batch is taken behind it. So what
 * a dense pass reaches ahead of itself it mostly expands too, and a graph of small diameter is done
 * in a few passes that are each one sequential read. A sparse pass is one batch of scattered reads
 * that the team has in flight together. There are at most block_count passes with something to
 * read, each expanding a block at least (a chain takes them all), and every pass looks at
 * block_count / 64 words of the bitmaps.
 *
 * Within a batch the only shared writes are bits of `reached`, which are only ever set. Nobody
 * looks at them for a decision before the team is done, so which blocks a batch holds does not
 * depend on the team, nor does the number of passes.
 */
#include "layout/block_walk.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>

#include "common/file_io.h"
#include "common/memory.h"

enum {
    WORD_BITS = 64,
    /* A run is one read, and the unit of work of a thread: large enough for sequential speed,
     * small enough that a full buffer keeps a team busy. */
    RUN_BYTES_MAX = 256 << 10,
    /* Blocks that nobody wants are read along where that costs less than another read. */
    RUN_GAP_BYTES = 32 << 10,
    RUNS_MAX = BLOCK_WALK_BUFFER_BYTES / BLOCK_PAGE_BYTES,
};

_Static_assert(RUN_BYTES_MAX / BLOCK_PAGE_BYTES <= WORD_BITS, "a run lies in one word");
_Static_assert((int)RUN_BYTES_MAX >= (int)BLOCK_BYTES_MAX, "a run holds a block");

/* Blocks of one word of the bitmaps. */
struct walk_run {
    uint64_t word;
    uint64_t wanted;  /* the bits that are to be expanded */
    uint32_t first;   /* lowest of them */
    uint32_t blocks;  /* from there to the highest */
    size_t buffer_at; /* bytes */
};

struct walk {
    const struct block_walk_params *params;
    uint64_t words;
    _Atomic uint64_t *reached;
    uint64_t *expanded; /* subset of reached; of the one thread that takes blocks */
    uint8_t *buffer;
    struct walk_run *runs;
    uint64_t blocks_read;
    /* The fault of the lowest block in the batch; guarded by critical(block_walk_fault) while a
     * team is at work. */
    uint64_t fault_block;
    struct error fault; /* STATUS_OK: none */
};

uint64_t block_walk_words(uint64_t block_count)
{
    return block_count / WORD_BITS + (block_count % WORD_BITS != 0);
}

uint64_t block_walk_memory_bytes(uint64_t block_count)
{
    const size_t bitmap = (size_t)block_walk_words(block_count) * sizeof(uint64_t);
    return 2 * MAX(size_align(bitmap, BLOCK_PAGE_BYTES), (size_t)BLOCK_PAGE_BYTES) +
           BLOCK_WALK_BUFFER_BYTES +
           size_align(RUNS_MAX * sizeof(struct walk_run), BLOCK_PAGE_BYTES);
}

/* ---- the team's part ---- */

static void fault_note(struct walk *walk, uint64_t block, const struct error *fault)
{
#pragma omp critical(block_walk_fault)
    if (block < walk->fault_block) {
        walk->fault_block = block;
        walk->fault = *fault;
    }
}

/* Relaxed: a bit carries no data, and whoever acts on it comes after the team's end. Most are set
 * already, and looking first leaves their cache line shared. */
static void reach(const struct walk *walk, uint64_t block)
{
    _Atomic uint64_t *word = &walk->reached[block / WORD_BITS];
    const uint64_t bit = UINT64_C(1) << (block % WORD_BITS);
    if (!(atomic_load_explicit(word, memory_order_relaxed) & bit))
        atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
}

/* Marks what the lists of a block name. */
static enum block_fault block_expand(const struct walk *walk, uint64_t block, const uint8_t *bytes)
{
    const struct block_geometry *geometry = walk->params->geometry;
    struct block_view view;
    enum block_fault fault = block_open(geometry, block, bytes, &view);
    if (fault != BLOCK_OK)
        return fault;
    uint32_t ids[BLOCK_DEGREE_MAX + 1];
    for (uint32_t slot = 0; slot < view.record_count; slot++) {
        const uint32_t degree = block_neighbors(&view, slot, ids, &fault);
        if (fault != BLOCK_OK)
            return fault;
        for (uint32_t i = 0; i < degree; i++)
            reach(walk, ids[i] / geometry->nodes_per_block);
    }
    return BLOCK_OK;
}

static void run_expand(struct walk *walk, const struct walk_run *run)
{
    const struct block_walk_params *params = walk->params;
    const uint64_t first = run->word * WORD_BITS + run->first;
    const uint32_t block_bytes = params->geometry->block_bytes;
    uint8_t *bytes = walk->buffer + run->buffer_at;
    struct error fault;
    if (file_read_at(params->fd, params->path, bytes, (size_t)run->blocks * block_bytes,
                     first * block_bytes, &fault) != STATUS_OK) {
        fault_note(walk, first, &fault);
        return;
    }
    for (uint64_t left = run->wanted >> run->first; left != 0; left &= left - 1) {
        const uint64_t at = (uint64_t)__builtin_ctzll(left);
        const enum block_fault kind = block_expand(walk, first + at, bytes + at * block_bytes);
        if (kind == BLOCK_OK)
            continue;
        error_set(&fault, STATUS_CORRUPT, "%s: block %" PRIu64 ": %s", file_label(params->path),
                  first + at, block_fault_name(kind));
        fault_note(walk, first + at, &fault);
        return;
    }
}

/* ---- one thread's part ---- */

/* The lowest pending blocks of a word that one read gets. */
static struct walk_run run_choose(const struct walk *walk, uint64_t word, uint64_t pending)
{
    const uint32_t block_bytes = walk->params->geometry->block_bytes;
    const uint32_t gap_max = RUN_GAP_BYTES / block_bytes;
    const uint32_t blocks_max = RUN_BYTES_MAX / block_bytes;
    const uint32_t first = (uint32_t)__builtin_ctzll(pending);
    struct walk_run run = {.word = word, .first = first};
    uint32_t last = first;
    for (; pending != 0; pending &= pending - 1) {
        const uint32_t bit = (uint32_t)__builtin_ctzll(pending);
        if (bit - first >= blocks_max || bit - last > gap_max + 1)
            break;
        run.wanted |= UINT64_C(1) << bit;
        last = bit;
    }
    run.blocks = last - first + 1;
    return run;
}

/* Takes pending blocks from *word on until the buffer is full or the file ends; they count as
 * expanded from here on. Returns the number of runs. */
static uint32_t batch_take(struct walk *walk, uint64_t *word)
{
    const uint32_t block_bytes = walk->params->geometry->block_bytes;
    uint32_t count = 0;
    size_t used = 0;
    for (; *word < walk->words; (*word)++)
        for (;;) {
            /* Relaxed: the team that set bits has been joined. */
            const uint64_t pending =
                atomic_load_explicit(&walk->reached[*word], memory_order_relaxed) &
                ~walk->expanded[*word];
            if (pending == 0)
                break;
            struct walk_run run = run_choose(walk, *word, pending);
            const size_t bytes = (size_t)run.blocks * block_bytes;
            if (bytes > BLOCK_WALK_BUFFER_BYTES - used)
                return count;
            run.buffer_at = used;
            used += bytes;
            walk->expanded[*word] |= run.wanted;
            walk->blocks_read += (uint64_t)__builtin_popcountll(run.wanted);
            assert(count < RUNS_MAX);
            walk->runs[count++] = run;
        }
    return count;
}

/* One pass over the file; *found is false when nothing was pending. */
static enum status pass_run(struct walk *walk, bool *found, struct error *err)
{
    const struct block_walk_params *params = walk->params;
    *found = false;
    uint64_t word = 0;
    for (uint32_t count; (count = batch_take(walk, &word)) > 0; *found = true) {
#pragma omp parallel for schedule(dynamic, 1) if (count > 1)
        for (uint32_t i = 0; i < count; i++)
            run_expand(walk, &walk->runs[i]);
        if (walk->fault.status != STATUS_OK) {
            if (err)
                *err = walk->fault;
            return walk->fault.status;
        }
        if (params->on_progress) {
            enum status status = params->on_progress(params->context, walk->blocks_read, err);
            if (status != STATUS_OK)
                return status;
        }
    }
    return STATUS_OK;
}

/* Every reached block is expanded: the bitmaps are equal. */
static void result_fill(const struct walk *walk, struct block_walk_result *result)
{
    result->reached_blocks = walk->blocks_read;
    for (uint64_t i = 0; walk->params->reached && i < walk->words; i++)
        walk->params->reached[i] = walk->expanded[i];
}

enum status block_walk(const struct block_walk_params *params, struct block_walk_result *result,
                       struct error *err)
{
    const struct block_geometry *geometry = params->geometry;
    assert(params->entry < geometry->node_limit);
    assert((geometry->node_limit - 1) / geometry->nodes_per_block < params->block_count);
    struct walk walk = {
        .params = params,
        .words = block_walk_words(params->block_count),
        .fault_block = UINT64_MAX,
    };
    const size_t words = (size_t)walk.words;
    struct block_walk_result made = {0};
    void *reached = NULL, *expanded = NULL, *buffer = NULL, *runs = NULL;
    enum status status =
        bulk_alloc(words, sizeof(uint64_t), "bits of reached blocks", &reached, err);
    if (status == STATUS_OK)
        status = bulk_alloc(words, sizeof(uint64_t), "bits of expanded blocks", &expanded, err);
    if (status == STATUS_OK)
        status = bulk_alloc(BLOCK_WALK_BUFFER_BYTES, 1, "block buffer", &buffer, err);
    if (status == STATUS_OK)
        status = bulk_alloc(RUNS_MAX, sizeof(struct walk_run), "block runs", &runs, err);
    if (status != STATUS_OK)
        goto out;
    walk.reached = reached;
    walk.expanded = expanded;
    walk.buffer = buffer;
    walk.runs = runs;

    reach(&walk, params->entry / geometry->nodes_per_block);
    for (bool found = true; status == STATUS_OK && found; made.passes += found)
        status = pass_run(&walk, &found, err);
    if (status == STATUS_OK) {
        result_fill(&walk, &made);
        *result = made;
    }
out:
    bulk_free(runs, RUNS_MAX, sizeof(struct walk_run));
    bulk_free(buffer, BLOCK_WALK_BUFFER_BYTES, 1);
    bulk_free(expanded, words, sizeof(uint64_t));
    bulk_free(reached, words, sizeof(uint64_t));
    return status;
}
