/*
 * label_table.c - see label_table.h. Open addressing with linear probing; a label's hash is kept,
 * so that growing reads no text and a probe compares text only where the hash agrees.
 */
#include "builder/label_table.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "layout/attributes.h"

enum { SLOTS_MIN = 64, LABELS_MIN = 32, TEXT_MIN = 4096 };

void label_table_fini(struct label_table *table)
{
    free(table->text);
    free(table->labels);
    free(table->slots);
    *table = (struct label_table){0};
}

uint64_t label_table_memory_bytes(uint64_t labels, uint64_t text_bytes)
{
    /* What doubles is there with its copy for a moment: three times what was needed before. */
    return 3 * (text_bytes + labels * (sizeof(struct label) + 2 * sizeof(uint32_t))) +
           labels * 3 * sizeof(uint32_t) + TEXT_MIN + SLOTS_MIN * 2 * sizeof(struct label);
}

static void slot_take(struct label_table *table, uint32_t number)
{
    uint32_t slot = (uint32_t)table->labels[number].hash & (table->slot_count - 1);
    while (table->slots[slot] != 0)
        slot = (slot + 1) & (table->slot_count - 1);
    table->slots[slot] = number + 1;
}

static enum status slots_grow(struct label_table *table, struct error *err)
{
    const uint32_t slot_count = MAX(table->slot_count * 2, (uint32_t)SLOTS_MIN);
    uint32_t *slots = calloc(slot_count, sizeof(*slots));
    if (slots == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %u labels", table->count);
    free(table->slots);
    table->slots = slots;
    table->slot_count = slot_count;
    for (uint32_t number = 0; number < table->count; number++)
        slot_take(table, number);
    return STATUS_OK;
}

/* Room for one more label. */
static enum status room_make(struct label_table *table, size_t length, struct error *err)
{
    if (table->count == ATTRIBUTE_LABELS_MAX)
        return error_set(err, STATUS_INVALID, "more than %d distinct labels", ATTRIBUTE_LABELS_MAX);
    if (table->count == table->capacity) {
        const uint32_t capacity = MAX(table->capacity * 2, (uint32_t)LABELS_MIN);
        struct label *labels = realloc(table->labels, capacity * sizeof(*labels));
        if (labels == NULL)
            return error_set(err, STATUS_NO_MEMORY, "no memory for %u labels", capacity);
        table->labels = labels;
        table->capacity = capacity;
    }
    if (table->text_bytes + length > table->text_capacity) {
        const size_t capacity = MAX(table->text_capacity * 2, (size_t)TEXT_MIN);
        char *text = realloc(table->text, capacity);
        if (text == NULL)
            return error_set(err, STATUS_NO_MEMORY, "no memory for %zu bytes of labels", capacity);
        table->text = text;
        table->text_capacity = capacity;
    }
    return table->count >= table->slot_count / 2 ? slots_grow(table, err) : STATUS_OK;
}

enum status label_table_number(struct label_table *table, const char *text, size_t length,
                               uint32_t *number, struct error *err)
{
    const uint64_t hash = XXH3_64bits(text, length);
    if (table->slot_count > 0) {
        const uint32_t mask = table->slot_count - 1;
        for (uint32_t slot = (uint32_t)hash & mask; table->slots[slot] != 0;
             slot = (slot + 1) & mask) {
            const struct label *label = &table->labels[table->slots[slot] - 1];
            if (label->hash == hash && label->length == length &&
                memcmp(table->text + label->at, text, length) == 0) {
                *number = table->slots[slot] - 1;
                return STATUS_OK;
            }
        }
    }
    enum status status = room_make(table, length, err);
    if (status != STATUS_OK)
        return status;
    table->labels[table->count] = (struct label){
        .hash = hash,
        .at = (uint32_t)table->text_bytes, /* 2^20 labels of 255 bytes are below 2^28 */
        .length = (uint32_t)length,
        .row = UINT32_MAX,
    };
    memcpy(table->text + table->text_bytes, text, length);
    table->text_bytes += length;
    slot_take(table, table->count);
    *number = table->count++;
    return STATUS_OK;
}

/* ---- sorting ---- */

static int number_compare(const void *a, const void *b, void *context)
{
    const struct label_table *table = context;
    const struct label *x = &table->labels[*(const uint32_t *)a];
    const struct label *y = &table->labels[*(const uint32_t *)b];
    const int sign = memcmp(table->text + x->at, table->text + y->at, MIN(x->length, y->length));
    return sign != 0 ? sign : (x->length > y->length) - (x->length < y->length);
}

enum status label_table_sort(const struct label_table *table, uint32_t **numbers, struct error *err)
{
    uint32_t *sorted = malloc(((size_t)table->count + 1) * sizeof(*sorted));
    if (sorted == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to sort %u labels", table->count);
    for (uint32_t i = 0; i < table->count; i++)
        sorted[i] = i;
    qsort_r(sorted, table->count, sizeof(*sorted), number_compare, (void *)table);
    *numbers = sorted;
    return STATUS_OK;
}
