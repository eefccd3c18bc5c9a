/*
 * tile_internal.h - what the files that make up tile.h share: the table of kernels, one an
 * instruction set, and the selection they all have.
 */
#ifndef NIGHTJAR_BUILDER_TILE_INTERNAL_H
#define NIGHTJAR_BUILDER_TILE_INTERNAL_H

#include <limits.h>
#include <stdbool.h>

#include "builder/tile.h"
#include "common/compiler.h"

enum {
    TILE_CHUNK_BYTES = 4,
    TILE_COLUMN_BYTES = TILE_PANEL_ROWS * TILE_CHUNK_BYTES, /* of a panel: a chunk of every row */
    TILE_QUERY_CHUNK_BYTES = 8, /* of a prepared query, at most, for each chunk */
    TILE_SELECT_LANES = 16,
};

struct tile_kernels {
    /* Turns 32 rows (NULL: none) into panel `panel`, with squares and biases. */
    void (*fill)(struct tile *tile, uint32_t panel, const uint8_t *const rows[TILE_PANEL_ROWS],
                 size_t stride_bytes, uint8_t flip);
    void (*ask)(struct tile *tile, uint32_t slot, const uint8_t *row, uint8_t flip);
    void (*scores)(const struct tile *tile, uint32_t count, int32_t *scores);
    uint32_t (*select)(const int32_t *scores, uint32_t width, uint32_t k, uint32_t skip,
                       uint32_t *best);
    uint32_t (*occluded)(const struct tile *tile, uint32_t panel, int32_t square, float alpha,
                         const float *limits);
};

extern const struct tile_kernels tile_scalar_kernels;
#if defined(__x86_64__)
extern const struct tile_kernels tile_avx2_kernels;
extern const struct tile_kernels tile_vnni_kernels;
#endif

ALWAYS_INLINE uint8_t *tile_panel(const struct tile *tile, uint32_t panel)
{
    return tile->bytes + panel * tile->panel_bytes;
}

ALWAYS_INLINE uint8_t *tile_query(const struct tile *tile, uint32_t slot)
{
    return tile->queries + slot * tile->query_bytes;
}

/* Copies chunks [first, chunks) of the rows: what a kernel does not transpose by itself. */
ALWAYS_INLINE void tile_fill_chunks(struct tile *tile, uint32_t panel,
                                    const uint8_t *const rows[TILE_PANEL_ROWS], uint8_t flip,
                                    uint32_t first)
{
    uint8_t *column = tile_panel(tile, panel) + (size_t)first * TILE_COLUMN_BYTES;
    for (uint32_t c = first; c < tile->chunks; c++, column += TILE_COLUMN_BYTES)
        for (uint32_t r = 0; r < TILE_PANEL_ROWS; r++)
            for (uint32_t b = 0; b < TILE_CHUNK_BYTES; b++)
                column[r * TILE_CHUNK_BYTES + b] =
                    rows[r] ? rows[r][(size_t)c * TILE_CHUNK_BYTES + b] ^ flip : 0;
}

/* Rows that only fill up are out of every search's reach. */
ALWAYS_INLINE void tile_fill_far(struct tile *tile, uint32_t panel,
                                 const uint8_t *const rows[TILE_PANEL_ROWS])
{
    for (uint32_t r = 0; r < TILE_PANEL_ROWS; r++)
        if (!rows[r])
            tile->biases[panel * TILE_PANEL_ROWS + r] = TILE_FAR;
}

/* A bit for each of TILE_SELECT_LANES scores that is at most `most`. */
typedef uint32_t (*tile_within_fn)(const int32_t *scores, int32_t most);
/* lowest[l] = least of the scores at l, l + TILE_SELECT_LANES, ... */
typedef void (*tile_lowest_fn)(const int32_t *scores, uint32_t width, int32_t *lowest);

/* The k-th least of the lanes' least scores: k rows are within it, and few more. */
ALWAYS_INLINE int32_t tile_select_bound(tile_lowest_fn lowest_of, const int32_t *scores,
                                        uint32_t width, uint32_t k)
{
    int32_t lowest[TILE_SELECT_LANES] ALIGNED(64);
    if (k > TILE_SELECT_LANES)
        return TILE_FAR - 1;
    lowest_of(scores, width, lowest);
    for (uint32_t i = 1; i < TILE_SELECT_LANES; i++) {
        int32_t moved = lowest[i];
        uint32_t j = i;
        for (; j > 0 && lowest[j - 1] > moved; j--)
            lowest[j] = lowest[j - 1];
        lowest[j] = moved;
    }
    return MIN(lowest[k - 1], TILE_FAR - 1);
}

/* Inlined with an instruction set's own functions. */
ALWAYS_INLINE uint32_t tile_select_with(tile_lowest_fn lowest_of, tile_within_fn within,
                                        const int32_t *scores, uint32_t width, uint32_t k,
                                        uint32_t skip, uint32_t *best)
{
    uint32_t found = 0;
    int32_t most = tile_select_bound(lowest_of, scores, width, k + (skip != TILE_NONE));

    for (uint32_t first = 0; first < width; first += TILE_SELECT_LANES)
        for (uint32_t mask = within(scores + first, most); mask != 0; mask &= mask - 1) {
            uint32_t row = first + (uint32_t)__builtin_ctz(mask);
            /* `most` may have become less since the mask was made. */
            if (row == skip || scores[row] > most)
                continue;
            uint32_t place = found < k ? found++ : k - 1;
            for (; place > 0 && scores[best[place - 1]] > scores[row]; place--)
                best[place] = best[place - 1];
            best[place] = row;
            if (found == k) /* an equal one that comes later loses */
                most = scores[best[k - 1]] - 1;
        }
    return found;
}

#endif
