/*
 * promising.c - see promising.h.
 *
 * Rows of a leaf point the same way, whatever their lengths. So where two of them are queries, much
 * the same long rows are answers, and only LONGEST need be looked at; by true inner products, since
 * the leaf's bytes know nothing of lengths. Rows longer still come from the graph of the longest
 * rows (pipnn.c).
 */
#include "builder/promising.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "builder/carve.h"
#include "common/memory.h"
#include "common/u64_sort.h"

/* With twice as many of both, recall at L 20 was 0.958 for 0.954 on 100 K rows of log-normal
 * lengths (one build of each, leaves by direction carved apart). */
enum {
    LONGEST = 16, /* rows of a leaf that the others are compared with */
    CHOSEN = 4,   /* of them, offered to a row */
};

enum {
    LOCKS = 1 << 14,
    KEY_LEVELS = 1 << 30,
};

/* Half of a list's places: on rows of like lengths the promising are near as well. */
static uint32_t promising_degree(uint32_t degree)
{
    return degree / 2;
}

enum status promising_create(struct promising *p, const struct vector_set *set, uint32_t degree,
                             struct error *err)
{
    *p = (struct promising){.set = set};
    if (set->metric != METRIC_IP)
        return STATUS_OK;
    p->locks = calloc(LOCKS, sizeof(*p->locks));
    if (!p->locks)
        return error_set(err, STATUS_NO_MEMORY, "promising rows: out of memory");
    for (uint32_t i = 0; i < LOCKS; i++)
        atomic_flag_clear(&p->locks[i]);
    return reservoirs_create(&p->reservoirs, set->count, promising_degree(degree), err);
}

void promising_destroy(struct promising *p)
{
    free(p->locks);
    graph_destroy(&p->reservoirs.graph);
    memset(p, 0, sizeof(*p));
}

/* The longest of ids[count], and the length of the first of them; returns how many. */
static uint32_t longest_find(const struct promising *p, const uint32_t *ids, uint32_t count,
                             uint32_t *longest)
{
    const struct vector_set *set = p->set;
    uint64_t keys[CARVE_LEAF_MAX];
    for (uint32_t i = 0; i < count; i++) {
        const void *row = vector_set_row(set, ids[i]);
        float square = set->kernels->dot(row, row, set->dim);
        uint32_t bits; /* never negative, so that it orders as its bits */
        memcpy(&bits, &square, sizeof(bits));
        keys[i] = (uint64_t)~bits << 32 | ids[i];
    }
    u64_sort(keys, count);
    uint32_t found = MIN(count, (uint32_t)LONGEST);
    for (uint32_t i = 0; i < found; i++)
        longest[i] = (uint32_t)keys[i];
    return found;
}

/* Ascends as the inner product falls from `most` to zero; of even precision in proportion. */
static uint16_t product_key(float product, float most)
{
    float share = MIN(product / most, 1.0f);
    return (uint16_t)(UINT16_MAX - reservoir_key((int32_t)(share * (float)KEY_LEVELS)));
}

static void row_offer(struct promising *p, uint32_t row, const uint32_t *longest, uint32_t count)
{
    const struct vector_set *set = p->set;
    const void *vector = vector_set_row(set, row);
    float most = set->norm_max * sqrtf(set->kernels->dot(vector, vector, set->dim));
    float products[LONGEST];
    uint64_t keys[LONGEST];
    uint32_t found = 0;
    set->kernels->dot_gather(vector, set->rows, set->stride_bytes, longest, count, set->dim,
                             products);
    for (uint32_t i = 0; i < count; i++)
        if (longest[i] != row && products[i] > 0.0f)
            keys[found++] = (uint64_t)product_key(products[i], most) << 32 | longest[i];
    u64_sort(keys, found);
    found = MIN(found, (uint32_t)CHOSEN);
    atomic_flag *lock = &p->locks[row % LOCKS];
    while (atomic_flag_test_and_set_explicit(lock, memory_order_acquire))
        ;
    for (uint32_t i = 0; i < found; i++)
        reservoir_offer(&p->reservoirs, row, (uint32_t)keys[i], (uint16_t)(keys[i] >> 32));
    atomic_flag_clear_explicit(lock, memory_order_release); /* pairs with the acquire above */
}

void promising_offer(struct promising *p, const uint32_t *ids, uint32_t count)
{
    uint32_t longest[LONGEST];
    if (p->reservoirs.capacity == 0)
        return;
    uint32_t found = longest_find(p, ids, count, longest);
    for (uint32_t i = 0; i < count; i++)
        row_offer(p, ids[i], longest, found);
}

uint32_t promising_take(struct promising *p, uint32_t row, uint32_t *ids)
{
    return p->reservoirs.capacity == 0 ? 0 : reservoir_take(&p->reservoirs, row, ids);
}

uint64_t promising_bytes(enum metric metric, uint64_t count, uint32_t degree)
{
    return metric == METRIC_IP ? count * reservoir_row_bytes(promising_degree(degree)) + LOCKS : 0;
}
