/*
 * reservoir.c - see reservoir.h.
 *
 * A row: count (u16) and place of the worst (u16), then the ids, then their keys (u16). Unsorted:
 * a newcomer takes the place of the worst, and the next worst is looked for. Most offers to a full
 * reservoir end at one comparison.
 */
#include "builder/reservoir.h"

#include <string.h>

#include "common/memory.h"

enum {
    LINE_BYTES = 64,
    CAPACITY_MIN = 16,
    HEAD_BYTES = 4,
    ENTRY_BYTES = sizeof(uint32_t) + sizeof(uint16_t),
    EXPONENT_BIAS = 127,
    MANTISSA_BITS = 23,
    KEPT_MANTISSA_BITS = 11,
};

struct head {
    uint16_t count;
    uint16_t worst; /* once full */
};
_Static_assert(sizeof(struct head) == HEAD_BYTES, "the head takes the place of a degree");

/* A row's parts. */
struct view {
    struct head *head;
    uint32_t *ids;
    uint16_t *keys;
};

static struct view view_of(const struct reservoirs *reservoirs, uint32_t row)
{
    const struct graph *graph = &reservoirs->graph;
    uint32_t *slots = graph->slots + (size_t)row * graph->stride;
    return (struct view){
        .head = (void *)slots,
        .ids = slots + 1,
        .keys = (void *)(slots + 1 + reservoirs->capacity),
    };
}

size_t reservoir_row_bytes(uint32_t degree)
{
    size_t wanted = (size_t)degree * 7 / 5 + CAPACITY_MIN;
    return size_align(HEAD_BYTES + wanted * ENTRY_BYTES, LINE_BYTES);
}

uint32_t reservoir_capacity(uint32_t degree)
{
    return (uint32_t)((reservoir_row_bytes(degree) - HEAD_BYTES) / ENTRY_BYTES);
}

enum status reservoirs_create(struct reservoirs *reservoirs, uint32_t count, uint32_t degree,
                              struct error *err)
{
    reservoirs->capacity = reservoir_capacity(degree);
    uint32_t slots = (uint32_t)(reservoir_row_bytes(degree) / sizeof(uint32_t));
    return graph_create(&reservoirs->graph, count, slots - 1, err);
}

uint16_t reservoir_key(int32_t distance)
{
    float value = (float)distance;
    uint32_t bits;
    if (distance < 1)
        return 0;
    memcpy(&bits, &value, sizeof(bits));
    bits -= (uint32_t)EXPONENT_BIAS << MANTISSA_BITS;
    return (uint16_t)(bits >> (MANTISSA_BITS - KEPT_MANTISSA_BITS));
}

static bool worse(const struct view *view, uint32_t a, uint32_t b)
{
    return view->keys[a] > view->keys[b] ||
           (view->keys[a] == view->keys[b] && view->ids[a] > view->ids[b]);
}

static uint16_t worst_find(const struct view *view, uint32_t count)
{
    uint32_t worst = 0;
    uint16_t most = 0;
    for (uint32_t i = 0; i < count; i++)
        most = MAX(most, view->keys[i]);
    while (view->keys[worst] != most)
        worst++;
    for (uint32_t i = worst + 1; i < count; i++)
        if (view->keys[i] == most && worse(view, i, worst))
            worst = i;
    return (uint16_t)worst;
}

static bool holds(const struct view *view, uint32_t count, uint32_t id)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++)
        found |= view->ids[i] == id;
    return found != 0;
}

void reservoir_offer(struct reservoirs *reservoirs, uint32_t row, uint32_t id, uint16_t key)
{
    struct view view = view_of(reservoirs, row);
    uint32_t count = view.head->count;
    uint32_t place = count;
    if (count == reservoirs->capacity) {
        place = view.head->worst;
        if (key > view.keys[place] || (key == view.keys[place] && id >= view.ids[place]))
            return;
    }
    if (holds(&view, count, id))
        return;
    view.ids[place] = id;
    view.keys[place] = key;
    if (place == count)
        view.head->count = (uint16_t)++count;
    if (count == reservoirs->capacity)
        view.head->worst = worst_find(&view, count);
}

uint32_t reservoir_take(struct reservoirs *reservoirs, uint32_t row, uint32_t *ids)
{
    struct view view = view_of(reservoirs, row);
    uint32_t count = view.head->count;
    memcpy(ids, view.ids, count * sizeof(*ids));
    graph_set_degree(&reservoirs->graph, row, 0);
    return count;
}

void reservoir_prefetch(const struct reservoirs *reservoirs, uint32_t row)
{
    const uint8_t *slots =
        (const uint8_t *)(reservoirs->graph.slots + (size_t)row * reservoirs->graph.stride);
    for (size_t at = 0; at < reservoirs->graph.stride * sizeof(uint32_t); at += LINE_BYTES)
        __builtin_prefetch(slots + at, 1, 3);
}
