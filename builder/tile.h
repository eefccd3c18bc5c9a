/*
 * tile.h - squared distances from a few rows to many at once, in integers: the matrix product that
 * graphs are built from leaves with, and that a prune compares its candidates by.
 *
 * A row is taken as bytes u = 0..255 (signed bytes are moved up by 128). A tile holds up to some
 * hundreds of rows in panels of 32, column by column: four bytes of each of 32 rows, then the next
 * four. So one instruction compares a query with 16 or 8 rows, and nothing is summed across a
 * register. With s = u - 128 of the query,
 *
 *   |x - q|^2 = |q|^2 + score,   score = |x|^2 - 2 x q = (|x|^2 - 256 sum x) - 2 sum x s
 *
 * where the bracket is the row's bias, known when it is filled in. All results are exact integers,
 * the same at every instruction set.
 *
 * A tile belongs to one thread. Nothing here fails but tile_reserve().
 */
#ifndef NIGHTJAR_BUILDER_TILE_H
#define NIGHTJAR_BUILDER_TILE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
    TILE_PANEL_ROWS = 32,
    TILE_QUERIES_MAX = 8,
    TILE_NONE = 0xffffffff, /* no row */
    /* Score of the rows that fill up the last panel: beyond any distance. */
    TILE_FAR = 1 << 30,
};

/* Rows to be compared: at least align(dim, 4) bytes each; 64 bytes at a time are read of rows whose
 * stride is a multiple of 64. What is beyond `dim` has to be the same in all rows. */
struct byte_rows {
    const uint8_t *rows;
    size_t stride_bytes;
    uint32_t dim;
    uint8_t flip; /* 0x80: the bytes are signed; else 0 */
};

struct tile {
    const struct tile_kernels *kernels;
    uint32_t count;     /* rows filled in */
    uint32_t panels;    /* ceil(count / TILE_PANEL_ROWS) */
    uint32_t chunks;    /* of four bytes */
    size_t panel_bytes; /* of a panel, in `bytes` */
    uint8_t *bytes;     /* [panels][chunks][TILE_PANEL_ROWS][4] */
    int32_t *squares;   /* |x|^2 [panels * TILE_PANEL_ROWS] */
    int32_t *biases;    /* likewise */
    uint8_t *queries;   /* TILE_QUERIES_MAX prepared queries, as the kernels want them */
    size_t query_bytes;
    uint32_t capacity; /* rows */
    void *memory;
};

/* An empty tile for rows of `dim` bytes, by the kernels for `features` (cpu_features()). No room
 * yet; tile_destroy() releases what tile_reserve() takes. */
void tile_init(struct tile *tile, uint32_t dim, unsigned features);
void tile_destroy(struct tile *tile);

/* Bytes that a tile of `count` rows of `dim` bytes takes. */
size_t tile_bytes(uint32_t count, uint32_t dim);

/* Makes room for `count` rows; what the tile held is lost where it had less. */
NODISCARD enum status tile_reserve(struct tile *tile, uint32_t count, struct error *err);

/* Fills the tile with rows ids[count] of `rows`, in place of what it held. count >= 1, and there is
 * room for them. */
void tile_fill(struct tile *tile, const struct byte_rows *rows, const uint32_t *ids,
               uint32_t count);

/* Rows of scores that a query has: those of the tile, and what fills up its last panel. */
ALWAYS_INLINE uint32_t tile_width(const struct tile *tile)
{
    return tile->panels * TILE_PANEL_ROWS;
}

/* Prepares rows ids[count] as queries; 1 <= count <= TILE_QUERIES_MAX. */
void tile_ask(struct tile *tile, const struct byte_rows *rows, const uint32_t *ids, uint32_t count);

/* scores[q * tile_width() + i] = score of row i for prepared query q < count. `scores` is aligned
 * to 64 bytes. */
void tile_scores(const struct tile *tile, uint32_t count, int32_t *scores);

/* The `k` best of scores[width], a multiple of TILE_PANEL_ROWS, by score, then index; the row
 * `skip` and those that only fill up are left out. Writes their indices to best[k], in no certain
 * order, and returns how many. */
uint32_t tile_select(const struct tile *tile, const int32_t *scores, uint32_t width, uint32_t k,
                     uint32_t skip, uint32_t *best);

/* Bit i is set where alpha * |x - q|^2 <= limits[i], for the rows x of a panel and prepared query 0
 * with |q|^2 = square; distances and their product with alpha are rounded to f32. `limits` is
 * aligned to 64 bytes. */
uint32_t tile_occluded(const struct tile *tile, uint32_t panel, int32_t square, float alpha,
                       const float *limits);

#endif
