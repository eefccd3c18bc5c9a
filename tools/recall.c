/*
 * recall.c - owns the definition of recall@k that `nightjar bench` reports and tests gate on.
 *
 * Several rows may lie exactly as far as the k-th nearest; which of them a ground truth lists is
 * chance (ours: the lower row), so any of them counts as right. Distances are compared exactly:
 * both sides come from the same kernels.
 *
 * Thread rules: pure functions over caller storage.
 */
#include "tools/recall.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

enum status recall_answers_create(struct recall_answers *self, uint32_t query_count, uint32_t k,
                                  struct error *err)
{
    assert(k >= 1 && k <= RECALL_K_MAX);
    size_t hits, bytes;
    *self = (struct recall_answers){.query_count = query_count, .k = k};
    if (!size_mul(query_count, k, &hits) || !size_mul(hits, sizeof(uint64_t), &bytes))
        return error_set(err, STATUS_NO_MEMORY, "%u answers of %u hits exceed the address space",
                         query_count, k);
    self->counts = calloc(query_count, sizeof(uint32_t));
    self->keys = malloc(bytes);
    self->distances = malloc(hits * sizeof(float));
    if (self->counts == NULL || self->keys == NULL || self->distances == NULL) {
        recall_answers_destroy(self);
        return error_set(err, STATUS_NO_MEMORY, "no memory for %zu hits", hits);
    }
    return STATUS_OK;
}

void recall_answers_destroy(struct recall_answers *self)
{
    free(self->counts);
    free(self->keys);
    free(self->distances);
    *self = (struct recall_answers){0};
}

bool recall_answers_are_rows(const struct recall_answers *self, uint64_t vector_count)
{
    for (uint32_t q = 0; q < self->query_count; q++)
        for (uint32_t i = 0; i < self->counts[q]; i++)
            if (self->keys[(size_t)q * self->k + i] >= vector_count)
                return false;
    return true;
}

enum status recall_truth_check(const char *path, const struct ground_truth *truth,
                               const struct recall_answers *answers, uint64_t vector_count,
                               struct error *err)
{
    if (truth->query_count != answers->query_count)
        return error_set(err, STATUS_INVALID, "%s: neighbours of %u queries, wanted %u", path,
                         truth->query_count, answers->query_count);
    if (truth->k < answers->k)
        return error_set(err, STATUS_INVALID, "%s: %u neighbours a query, wanted at least k = %u",
                         path, truth->k, answers->k);
    size_t entries = (size_t)truth->query_count * truth->k;
    for (size_t i = 0; i < entries; i++)
        if (truth->ids[i] >= vector_count && truth->ids[i] != GROUND_TRUTH_ABSENT)
            return error_set(err, STATUS_INVALID,
                             "%s: query %zu has neighbour %u, but the index has %llu vectors", path,
                             i / truth->k, truth->ids[i], (unsigned long long)vector_count);
    return STATUS_OK;
}

enum status recall_truth_complete(const char *path, const struct ground_truth *truth, uint32_t k,
                                  struct error *err)
{
    for (uint32_t q = 0; q < truth->query_count; q++)
        if (ground_truth_existing(truth, q, k) < k)
            return error_set(err, STATUS_INVALID,
                             "%s: query %u has %u neighbours, wanted %u: is it the truth of a "
                             "filter?",
                             path, q, ground_truth_existing(truth, q, k), k);
    return STATUS_OK;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool is_neighbor(const uint64_t *sorted_keys, uint32_t k, uint64_t key)
{
    return bsearch(&key, sorted_keys, k, sizeof(key), compare_u64) != NULL;
}

/* Distinct hits among true_keys[k], or as near as the last of them. */
static uint32_t count_right(const uint64_t *true_keys, const float *true_distances, uint32_t k,
                            const uint64_t *keys, const float *distances, uint32_t hit_count)
{
    uint64_t sorted_keys[RECALL_K_MAX];
    uint64_t right[RECALL_K_MAX];
    memcpy(sorted_keys, true_keys, k * sizeof(*sorted_keys));
    qsort(sorted_keys, k, sizeof(*sorted_keys), compare_u64);
    uint32_t found = 0;
    for (uint32_t i = 0; i < hit_count; i++) {
        bool tie = true_distances != NULL && distances[i] == true_distances[k - 1];
        if (tie || is_neighbor(sorted_keys, k, keys[i]))
            right[found++] = keys[i];
    }
    qsort(right, found, sizeof(*right), compare_u64);
    uint32_t distinct = 0;
    for (uint32_t i = 0; i < found; i++)
        distinct += i == 0 || right[i] != right[i - 1];
    return distinct;
}

uint32_t recall_count_keys(const uint64_t *true_keys, const float *true_distances, uint32_t k,
                           const uint64_t *keys, const float *distances, uint32_t hit_count)
{
    assert(k >= 1 && k <= RECALL_K_MAX && hit_count <= k);
    return count_right(true_keys, true_distances, k, keys, distances, hit_count);
}

uint32_t recall_count(const uint32_t *true_ids, const float *true_distances, uint32_t k,
                      const uint64_t *keys, const float *distances, uint32_t hit_count)
{
    uint64_t true_keys[RECALL_K_MAX];
    uint32_t existing = 0;
    assert(k >= 1 && k <= RECALL_K_MAX && hit_count <= k);
    while (existing < k && true_ids[existing] != GROUND_TRUTH_ABSENT) {
        true_keys[existing] = true_ids[existing];
        existing++;
    }
    if (existing == 0)
        return 0;
    /* All that there are are listed then, so that no other can be as good as the last. */
    if (existing < k)
        true_distances = NULL;
    return count_right(true_keys, true_distances, existing, keys, distances, hit_count);
}

double recall_measure(const struct recall_answers *answers, const struct ground_truth *truth)
{
    uint64_t right = 0, existing = 0;
    for (uint32_t q = 0; q < answers->query_count; q++) {
        size_t at = (size_t)q * answers->k;
        size_t true_at = (size_t)q * truth->k;
        const float *true_distances = truth->distances != NULL ? truth->distances + true_at : NULL;
        right += recall_count(truth->ids + true_at, true_distances, answers->k, answers->keys + at,
                              answers->distances + at, answers->counts[q]);
        existing += ground_truth_existing(truth, q, answers->k);
    }
    return existing == 0 ? 1 : (double)right / (double)existing;
}

enum status recall_range_check(const char *path, const struct range_truth *truth,
                               const struct recall_answers *answers, uint64_t vector_count,
                               struct error *err)
{
    if (truth->query_count != answers->query_count)
        return error_set(err, STATUS_INVALID, "%s: answers to %u queries, wanted %u", path,
                         truth->query_count, answers->query_count);
    for (uint32_t q = 0; q < truth->query_count; q++)
        for (uint64_t i = truth->at[q]; i < truth->at[q + 1]; i++)
            if (truth->ids[i] >= vector_count)
                return error_set(err, STATUS_INVALID,
                                 "%s: query %u has neighbour %u, but the index has %llu vectors",
                                 path, q, truth->ids[i], (unsigned long long)vector_count);
    return STATUS_OK;
}

double recall_measure_range(const struct recall_answers *answers, const struct range_truth *truth)
{
    uint64_t found = 0;
    for (uint32_t q = 0; q < answers->query_count; q++) {
        uint64_t sorted_keys[RECALL_K_MAX];
        uint32_t count = answers->counts[q];
        memcpy(sorted_keys, answers->keys + (size_t)q * answers->k, count * sizeof(*sorted_keys));
        qsort(sorted_keys, count, sizeof(*sorted_keys), compare_u64);
        for (uint64_t i = truth->at[q]; i < truth->at[q + 1]; i++)
            found += is_neighbor(sorted_keys, count, truth->ids[i]);
    }
    uint64_t existing = truth->at[truth->query_count];
    return existing == 0 ? 1 : (double)found / (double)existing;
}
