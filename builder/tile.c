/*
 * tile.c - a tile's memory, and the kernels in plain C, which define the results.
 */
#include "builder/tile_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/cpu.h"
#include "common/memory.h"

enum { ALIGNMENT = 64, TRANSPOSED_CHUNKS = 16 /* that a kernel may write at once */ };

/* ---- plain C ---- */

static void fill(struct tile *tile, uint32_t panel, const uint8_t *const rows[TILE_PANEL_ROWS],
                 size_t stride_bytes, uint8_t flip)
{
    (void)stride_bytes;
    tile_fill_chunks(tile, panel, rows, flip, 0);
    const uint8_t *bytes = tile_panel(tile, panel);
    for (uint32_t r = 0; r < TILE_PANEL_ROWS; r++) {
        int32_t square = 0;
        int32_t sum = 0;
        for (uint32_t c = 0; c < tile->chunks; c++)
            for (uint32_t b = 0; b < TILE_CHUNK_BYTES; b++) {
                int32_t u = bytes[(size_t)c * TILE_COLUMN_BYTES + r * TILE_CHUNK_BYTES + b];
                square += u * u;
                sum += u;
            }
        tile->squares[panel * TILE_PANEL_ROWS + r] = square;
        tile->biases[panel * TILE_PANEL_ROWS + r] = square - 256 * sum;
    }
    tile_fill_far(tile, panel, rows);
}

static void ask(struct tile *tile, uint32_t slot, const uint8_t *row, uint8_t flip)
{
    uint8_t *query = tile_query(tile, slot);
    for (uint32_t i = 0; i < tile->chunks * TILE_CHUNK_BYTES; i++)
        query[i] = row[i] ^ flip ^ 0x80; /* read as signed: u - 128 */
}

/* Scores of a panel's rows. */
static void panel_scores(const struct tile *tile, uint32_t panel, const uint8_t *query,
                         int32_t *scores)
{
    const uint8_t *column = tile_panel(tile, panel);
    int32_t sums[TILE_PANEL_ROWS] = {0};
    for (uint32_t c = 0; c < tile->chunks; c++, column += TILE_COLUMN_BYTES)
        for (uint32_t r = 0; r < TILE_PANEL_ROWS; r++)
            for (uint32_t b = 0; b < TILE_CHUNK_BYTES; b++)
                sums[r] += column[r * TILE_CHUNK_BYTES + b] *
                           (int32_t)(int8_t)query[c * TILE_CHUNK_BYTES + b];
    for (uint32_t r = 0; r < TILE_PANEL_ROWS; r++)
        scores[r] = tile->biases[panel * TILE_PANEL_ROWS + r] - 2 * sums[r];
}

static void scores_compute(const struct tile *tile, uint32_t count, int32_t *scores)
{
    for (uint32_t panel = 0; panel < tile->panels; panel++)
        for (uint32_t q = 0; q < count; q++)
            panel_scores(tile, panel, tile_query(tile, q),
                         scores + (size_t)q * tile_width(tile) + panel * TILE_PANEL_ROWS);
}

static uint32_t occluded(const struct tile *tile, uint32_t panel, int32_t square, float alpha,
                         const float *limits)
{
    int32_t scores[TILE_PANEL_ROWS];
    uint32_t mask = 0;
    panel_scores(tile, panel, tile_query(tile, 0), scores);
    for (uint32_t r = 0; r < TILE_PANEL_ROWS; r++) {
        float scaled = alpha * (float)(square + scores[r]);
        mask |= (uint32_t)(scaled <= limits[r]) << r;
    }
    return mask;
}

static void lowest(const int32_t *scores, uint32_t width, int32_t *out)
{
    memcpy(out, scores, TILE_SELECT_LANES * sizeof(*out));
    for (uint32_t i = TILE_SELECT_LANES; i < width; i += TILE_SELECT_LANES)
        for (uint32_t l = 0; l < TILE_SELECT_LANES; l++)
            out[l] = MIN(out[l], scores[i + l]);
}

static uint32_t within(const int32_t *scores, int32_t most)
{
    uint32_t mask = 0;
    for (uint32_t l = 0; l < TILE_SELECT_LANES; l++)
        mask |= (uint32_t)(scores[l] <= most) << l;
    return mask;
}

static uint32_t select_best(const int32_t *scores, uint32_t width, uint32_t k, uint32_t skip,
                            uint32_t *best)
{
    return tile_select_with(lowest, within, scores, width, k, skip, best);
}

const struct tile_kernels tile_scalar_kernels = {
    .fill = fill,
    .ask = ask,
    .scores = scores_compute,
    .select = select_best,
    .occluded = occluded,
};

static const struct tile_kernels *kernels_choose(unsigned features)
{
#if defined(__x86_64__)
    if (features & CPU_AVX512_VNNI)
        return &tile_vnni_kernels;
    if (features & CPU_AVX2)
        return &tile_avx2_kernels;
#endif
    (void)features;
    return &tile_scalar_kernels;
}

/* ---- memory ---- */

void tile_init(struct tile *tile, uint32_t dim, unsigned features)
{
    uint32_t chunks = (dim + TILE_CHUNK_BYTES - 1) / TILE_CHUNK_BYTES;
    *tile = (struct tile){
        .kernels = kernels_choose(features),
        .chunks = chunks,
        .panel_bytes = size_align(chunks, TRANSPOSED_CHUNKS) * TILE_COLUMN_BYTES,
        .query_bytes = size_align((size_t)chunks * TILE_QUERY_CHUNK_BYTES, ALIGNMENT),
    };
}

void tile_destroy(struct tile *tile)
{
    free(tile->memory);
    memset(tile, 0, sizeof(*tile));
}

size_t tile_bytes(uint32_t count, uint32_t dim)
{
    struct tile tile;
    tile_init(&tile, dim, 0);
    size_t panels = (count + TILE_PANEL_ROWS - 1) / TILE_PANEL_ROWS;
    return panels * (tile.panel_bytes + 2 * TILE_PANEL_ROWS * sizeof(int32_t)) +
           TILE_QUERIES_MAX * tile.query_bytes;
}

enum status tile_reserve(struct tile *tile, uint32_t count, struct error *err)
{
    if (count <= tile->capacity)
        return STATUS_OK;
    size_t panels = (count + TILE_PANEL_ROWS - 1) / TILE_PANEL_ROWS;
    size_t words = panels * TILE_PANEL_ROWS * sizeof(int32_t);
    size_t bytes = panels * tile->panel_bytes + 2 * words + TILE_QUERIES_MAX * tile->query_bytes;
    free(tile->memory);
    tile->count = 0;
    tile->panels = 0;
    tile->capacity = 0;
    tile->memory = aligned_alloc(ALIGNMENT, bytes);
    if (!tile->memory)
        return error_set(err, STATUS_NO_MEMORY, "rows to compare: out of memory for %zu bytes",
                         bytes);
    tile->capacity = (uint32_t)(panels * TILE_PANEL_ROWS);
    tile->bytes = tile->memory;
    tile->squares = (void *)(tile->bytes + panels * tile->panel_bytes);
    tile->biases = (void *)(tile->bytes + panels * tile->panel_bytes + words);
    tile->queries = tile->bytes + panels * tile->panel_bytes + 2 * words;
    return STATUS_OK;
}

/* ---- the interface ---- */

/* Only the first lines: the rest of a long row is a stream that the hardware sees. */
static void row_prefetch(const uint8_t *row)
{
    PREFETCH(row);
    PREFETCH(row + 64);
}

void tile_fill(struct tile *tile, const struct byte_rows *rows, const uint32_t *ids, uint32_t count)
{
    const uint8_t *panel_rows[TILE_PANEL_ROWS];
    assert(count >= 1 && count <= tile->capacity);
    tile->count = count;
    tile->panels = (tile->count + TILE_PANEL_ROWS - 1) / TILE_PANEL_ROWS;
    for (uint32_t r = 0; r < MIN(count, (uint32_t)TILE_PANEL_ROWS); r++)
        row_prefetch(rows->rows + ids[r] * rows->stride_bytes);
    for (uint32_t panel = 0; panel < tile->panels; panel++) {
        for (uint32_t r = 0; r < TILE_PANEL_ROWS; r++) {
            uint32_t i = panel * TILE_PANEL_ROWS + r;
            panel_rows[r] = i < count ? rows->rows + ids[i] * rows->stride_bytes : NULL;
            if (i + TILE_PANEL_ROWS < count)
                row_prefetch(rows->rows + ids[i + TILE_PANEL_ROWS] * rows->stride_bytes);
        }
        tile->kernels->fill(tile, panel, panel_rows, rows->stride_bytes, rows->flip);
    }
}

void tile_ask(struct tile *tile, const struct byte_rows *rows, const uint32_t *ids, uint32_t count)
{
    for (uint32_t q = 0; q < count; q++)
        tile->kernels->ask(tile, q, rows->rows + ids[q] * rows->stride_bytes, rows->flip);
}

void tile_scores(const struct tile *tile, uint32_t count, int32_t *scores)
{
    tile->kernels->scores(tile, count, scores);
}

uint32_t tile_select(const struct tile *tile, const int32_t *scores, uint32_t width, uint32_t k,
                     uint32_t skip, uint32_t *best)
{
    return tile->kernels->select(scores, width, k, skip, best);
}

uint32_t tile_occluded(const struct tile *tile, uint32_t panel, int32_t square, float alpha,
                       const float *limits)
{
    return tile->kernels->occluded(tile, panel, square, alpha, limits);
}
