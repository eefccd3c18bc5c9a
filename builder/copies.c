/*
 * copies.c - see copies.h.
 *
 * Hashes of the rows are sorted with the rows' numbers below them: 32 bits of hash tell all but a
 * few rows apart, and where some agree, the rows are compared.
 */
#include "builder/copies.h"

#include <string.h>
#include <xxhash.h>

#include "common/memory.h"
#include "common/u64_sort.h"

/* Rows of one hash that others are compared with. There is one, or two when hashes collide, but
 * where bytes do not tell rows apart: vectors of zeros under cosine, each at distance 1 from the
 * others, or rows between two steps of the bytes. */
enum { FIRSTS_MAX = 32 };

static bool is_copy(const struct vector_set *set, const struct byte_rows *rows, uint32_t a,
                    uint32_t b)
{
    return memcmp(rows->rows + a * rows->stride_bytes, rows->rows + b * rows->stride_bytes,
                  rows->dim) == 0 &&
           vector_set_pair(set, a, b) == 0.0f;
}

/* Chains each row of a run of one hash, ascending, to its copies; entries are (hash, row). Returns
 * how many rows are copies of an earlier one. */
static uint32_t run_chain(const struct vector_set *set, const struct byte_rows *rows,
                          uint64_t *entries, size_t count, uint32_t *next)
{
    uint32_t chained = 0;
    uint32_t firsts = 0;
    for (size_t i = 0; i < count && firsts < FIRSTS_MAX; i++) {
        uint32_t first = (uint32_t)entries[i];
        uint32_t last = first;
        if (next[first] != first) /* in an earlier row's chain */
            continue;
        firsts++;
        for (size_t j = i + 1; j < count; j++) {
            uint32_t row = (uint32_t)entries[j];
            if (next[row] != row || !is_copy(set, rows, first, row))
                continue;
            next[last] = row;
            next[row] = first;
            last = row;
            chained++;
        }
    }
    return chained;
}

static uint32_t chains_make(const struct vector_set *set, const struct byte_rows *rows,
                            uint64_t *entries, uint32_t *next)
{
    uint32_t chained = 0;
    for (uint32_t i = 0; i < set->count; i++)
        next[i] = i;
    for (size_t first = 0; first < set->count;) {
        size_t end = first + 1;
        while (end < set->count && entries[end] >> 32 == entries[first] >> 32)
            end++;
        if (end - first > 1)
            chained += run_chain(set, rows, entries + first, end - first, next);
        first = end;
    }
    return chained;
}

static enum status distinct_list(struct copies *copies, uint32_t distinct_count, struct error *err)
{
    void *distinct = NULL;
    enum status status =
        bulk_alloc(distinct_count, sizeof(uint32_t), "different rows", &distinct, err);
    if (status != STATUS_OK)
        return status;
    copies->distinct = distinct;
    copies->distinct_count = distinct_count;
    /* A chain ascends but for its last link, to the first. So a row is the first of its chain, or
     * alone, if the way into it comes from no lower row. */
    uint32_t found = 0;
    uint8_t *later = NULL;
    void *memory = NULL;
    status = bulk_alloc(copies->count, sizeof(uint8_t), "copies", &memory, err);
    if (status != STATUS_OK)
        return status;
    later = memory;
    for (uint32_t row = 0; row < copies->count; row++)
        if (copies->next[row] > row)
            later[copies->next[row]] = 1;
    for (uint32_t row = 0; row < copies->count; row++)
        if (!later[row])
            copies->distinct[found++] = row;
    bulk_free(memory, copies->count, sizeof(uint8_t));
    return STATUS_OK;
}

enum status copies_find(const struct vector_set *set, const struct byte_rows *rows,
                        struct copies *copies, struct error *err)
{
    void *memory = NULL;
    void *next = NULL;
    *copies = (struct copies){.count = set->count, .distinct_count = set->count};
    enum status status = bulk_alloc(set->count, sizeof(uint64_t), "hashes of rows", &memory, err);
    if (status != STATUS_OK)
        return status;
    uint64_t *entries = memory;
#pragma omp parallel for schedule(static)
    for (uint32_t row = 0; row < set->count; row++) {
        uint64_t hash = XXH3_64bits(rows->rows + row * rows->stride_bytes, rows->dim);
        entries[row] = hash >> 32 << 32 | row;
    }
    u64_sort(entries, set->count);
    status = bulk_alloc(set->count, sizeof(uint32_t), "copies", &next, err);
    copies->next = next;
    uint32_t chained = 0;
    if (status == STATUS_OK)
        chained = chains_make(set, rows, entries, copies->next);
    bulk_free(memory, set->count, sizeof(uint64_t));
    if (status == STATUS_OK && chained > 0)
        status = distinct_list(copies, set->count - chained, err);
    if (status != STATUS_OK) {
        copies_destroy(copies);
    } else if (chained == 0) {
        bulk_free(copies->next, copies->count, sizeof(uint32_t));
        copies->next = NULL;
    }
    return status;
}

void copies_destroy(struct copies *copies)
{
    bulk_free(copies->distinct, copies->distinct_count, sizeof(uint32_t));
    bulk_free(copies->next, copies->count, sizeof(uint32_t));
    memset(copies, 0, sizeof(*copies));
}

uint64_t copies_bytes(uint64_t count)
{
    return count * (2 * sizeof(uint32_t) + sizeof(uint8_t));
}
