/*
 * index_plan.c - see index_plan.h.
 *
 * Measured on 1 M x 128 u8 (17 nodes a block, recall@10 0.95): 34 MB for codes of 4 bits a
 * dimension instead of a PQ of 32 bytes save 30 % of the reads, as cached blocks 17 %. Lists of all
 * nodes, 90 MB, save 16 % more, the same as cached blocks more than 35 %: so lists come before
 * blocks only where vectors are large.
 */
#include "query/index_plan.h"

#include "common/codec.h"
#include "common/compiler.h"
#include "layout/keys.h"

enum {
    /* Lists go to memory when they take less than one part in so many of the blocks. */
    LISTS_SHARE = 4,
};

static uint64_t saturating_sub(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* ---- codes ---- */

/* Codes of all nodes, and of the navigation graph's once more. */
static uint64_t codes_total(const struct manifest *m, uint32_t code_bytes)
{
    return ((uint64_t)m->geometry.node_limit + m->navigation_count) * code_bytes;
}

static void codes_set(const struct manifest *m, uint32_t bits, uint32_t code_bytes,
                      struct index_plan *plan)
{
    plan->scalar_bits = bits;
    plan->code_bytes = code_bytes;
    plan->codes_bytes =
        (uint64_t)m->geometry.node_limit * code_bytes + m->files[GENERATION_CODEC].bytes;
    plan->navigation_bytes =
        m->files[GENERATION_NAVIGATION].bytes + (uint64_t)m->navigation_count * code_bytes;
}

/* The finest codes within `budget` that are worth having; else those there are. They must be well
 * longer to rank better than PQ. In a resident index those of 4 bits need not be, as they are
 * estimated ten times as fast. */
static void codes_choose(const struct manifest *m, uint64_t budget, struct index_plan *plan)
{
    static const uint32_t bits_tried[] = {4, 2, 1};
    codes_set(m, 0, m->code_bytes, plan);
    if (m->codec_kind == CODEC_SCALAR)
        return;
    for (size_t i = 0; i < ARRAY_LENGTH(bits_tried); i++) {
        uint32_t bytes = codec_scalar_code_bytes(m->dim, m->metric, bits_tried[i]);
        bool fast = plan->resident && bits_tried[i] == 4;
        if (bytes < m->code_bytes + (fast ? 0 : m->code_bytes / 2))
            return;
        uint64_t more = codes_total(m, bytes) - codes_total(m, m->code_bytes);
        if (plan->codes_bytes + plan->navigation_bytes + plan->attributes_bytes + plan->keys_bytes +
                more >
            budget)
            continue;
        codes_set(m, bits_tried[i], bytes, plan);
        return;
    }
}

/* ---- lists ---- */

/* No list takes more than its degree in full ids; what there is beside vectors and keys bounds all
 * of them as well. */
static uint64_t lists_bound(const struct manifest *m)
{
    const struct block_geometry *g = &m->geometry;
    uint64_t by_degree = (uint64_t)((double)m->vector_count * (m->mean_degree * 4.0 + 4.0));
    uint64_t by_room =
        saturating_sub(m->block_count * g->block_bytes,
                       m->vector_count * ((uint64_t)g->vector_bytes + sizeof(uint64_t)));
    uint64_t a_block = sizeof(void *) + BLOCK_LISTS_EXTRA_BYTES;
    return MIN(by_degree, by_room) + m->block_count * a_block;
}

/* ---- the plan ---- */

static uint64_t spent(const struct index_plan *plan)
{
    return plan->codes_bytes + plan->navigation_bytes + plan->attributes_bytes + plan->keys_bytes +
           plan->lists_bytes + plan->cache_bytes;
}

static void resident_set(const struct manifest *m, uint64_t budget, struct index_plan *plan)
{
    plan->resident = true;
    plan->cached_blocks = m->block_count;
    plan->cache_bytes = m->files[GENERATION_NODES].bytes;
    codes_choose(m, budget - plan->cache_bytes, plan);
}

static void cache_set(const struct manifest *m, uint64_t room, struct index_plan *plan)
{
    uint64_t table_bytes = m->block_count * sizeof(uint32_t);
    if (room < table_bytes + m->geometry.block_bytes)
        return;
    plan->cached_blocks = MIN((room - table_bytes) / m->geometry.block_bytes, m->block_count);
    plan->cache_bytes = table_bytes + plan->cached_blocks * m->geometry.block_bytes;
}

/* Fills *plan; returns the least budget that does. With a lower one, but for 0, the plan is that of
 * 0. */
static uint64_t plan_fill(const struct manifest *m, uint64_t budget, struct index_plan *plan)
{
    *plan = (struct index_plan){
        .attributes_bytes = m->files[GENERATION_ATTRIBUTES].bytes,
        .keys_bytes = keys_pages(m->vector_count) * (uint64_t)sizeof(uint64_t),
    };
    codes_set(m, 0, m->code_bytes, plan);
    uint64_t least = spent(plan);
    uint64_t nodes_bytes = m->files[GENERATION_NODES].bytes;
    if (budget < least)
        return least;
    uint64_t lists = lists_bound(m);
    if (lists >= nodes_bytes / LISTS_SHARE || lists > budget - least)
        lists = 0;
    codes_choose(m, budget - lists, plan);
    if (budget - spent(plan) >= nodes_bytes) {
        resident_set(m, budget, plan);
        return least;
    }
    plan->lists = lists > 0;
    plan->lists_bytes = lists;
    cache_set(m, budget - spent(plan), plan);
    return least;
}

enum status index_plan_make(const struct manifest *m, uint64_t budget, struct index_plan *out,
                            struct error *err)
{
    struct index_plan plan;
    uint64_t least = plan_fill(m, budget, &plan);
    if (budget != 0 && budget < least)
        return error_set(err, STATUS_NO_MEMORY,
                         "memory budget of %llu bytes is below the %llu that codes, navigation%s "
                         "and first keys take",
                         (unsigned long long)budget, (unsigned long long)least,
                         plan.attributes_bytes != 0 ? ", attributes" : "");
    *out = plan;
    return STATUS_OK;
}

void index_plan_make_plain(const struct manifest *m, uint64_t budget, struct index_plan *out)
{
    *out = (struct index_plan){0};
    codes_set(m, 0, m->code_bytes, out);
    cache_set(m, saturating_sub(budget, spent(out)), out);
}

/* ---- steps ---- */

/* Grows with what a plan holds beside cached blocks. */
static uint32_t rank(const struct index_plan *plan)
{
    return (plan->resident ? 64u : 0u) + (plan->lists ? 32u : 0u) + plan->scalar_bits;
}

static uint32_t rank_at(const struct manifest *m, uint64_t budget)
{
    struct index_plan plan;
    (void)plan_fill(m, budget, &plan);
    return rank(&plan);
}

/* The least budget in (low, high] whose plan holds more than that of `low`; high if none does. */
static uint64_t next_step(const struct manifest *m, uint64_t low, uint64_t high)
{
    uint32_t before = rank_at(m, low);
    while (low + 1 < high) {
        uint64_t middle = low + (high - low) / 2;
        if (rank_at(m, middle) > before)
            high = middle;
        else
            low = middle;
    }
    return high;
}

uint32_t index_plan_steps(const struct manifest *m, struct index_step steps[INDEX_STEPS_MAX])
{
    struct index_plan least;
    uint64_t budget = plan_fill(m, 0, &least);
    /* Enough for everything, whatever codes are chosen. */
    uint64_t most = budget + m->files[GENERATION_NODES].bytes +
                    codes_total(m, codec_scalar_code_bytes(m->dim, m->metric, 4));
    uint32_t count = 0;
    for (;;) {
        steps[count].budget = budget;
        (void)plan_fill(m, budget, &steps[count].plan);
        count++;
        if (count == INDEX_STEPS_MAX || rank_at(m, budget) == rank_at(m, most))
            return count;
        budget = next_step(m, budget, most);
    }
}
