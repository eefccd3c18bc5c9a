/*
 * build_fixture.c - see build_fixture.h. Single-threaded; failures inside end the test.
 */
#include "tests/build_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/random.h"
#include "layout/block.h"
#include "layout/keys.h"
#include "tests/directory_fixture.h"

enum { SEED = 20240607, CLUSTERS = 16 };

/* Replaces libc's. */
int fsync(int fd)
{
    (void)fd;
    return 0;
}

/* ---- directories ---- */

int build_fixture_setup(void **state)
{
    struct build_fixture *f = calloc(1, sizeof(*f));
    if (!f || fixture_directory_setup(&f->dir) != 0) {
        free(f);
        return -1;
    }
    snprintf(f->keys, sizeof(f->keys), "%s/keys.u64bin", (const char *)f->dir);
    snprintf(f->attributes, sizeof(f->attributes), "%s/attrs.csv", (const char *)f->dir);
    snprintf(f->output, sizeof(f->output), "%s/gen", (const char *)f->dir);
    snprintf(f->work, sizeof(f->work), "%s/gen.work", (const char *)f->dir);
    *state = f;
    return 0;
}

int build_fixture_teardown(void **state)
{
    struct build_fixture *f = *state;
    int result = fixture_directory_teardown(&f->dir);
    free(f);
    return result;
}

void build_fixture_clear(const struct build_fixture *f)
{
    directory_fixture_remove(f->output);
    directory_fixture_remove(f->work);
}

/* ---- inputs ---- */

/* Value d of row i: one of the clusters' centres and some noise. */
static double element_at(uint32_t row, uint32_t d)
{
    uint64_t cluster = random_below(SEED, row, CLUSTERS);
    double centre = 40.0 + 160.0 * random_unit(SEED + 1 + cluster, d);
    double noise = 40.0 * random_unit(SEED + 100 + row, d) - 20.0;
    return floor(centre + noise);
}

static const char *suffix_of(enum element_type type)
{
    switch (type) {
    case ELEMENT_U8:
        return "u8bin";
    case ELEMENT_I8:
        return "i8bin";
    case ELEMENT_F16:
        return "f16bin";
    case ELEMENT_I32:
        return "ibin";
    default:
        return "fbin";
    }
}

void build_fixture_write(struct build_fixture *f, struct vector_shape shape, const void *rows)
{
    struct vector_writer *writer = NULL;
    struct error err;
    snprintf(f->input, sizeof(f->input), "%s/base.%s", (const char *)f->dir, suffix_of(shape.type));
    fixture_must(vector_writer_open(f->input, shape, &writer, &err), &err);
    fixture_must(vector_writer_append(writer, rows, shape.count, &err), &err);
    fixture_must(vector_writer_finish(writer, &err), &err);
}

void *build_fixture_input(struct build_fixture *f, enum element_type type, uint32_t count,
                          uint32_t dim)
{
    const struct vector_shape shape = {.count = count, .dim = dim, .type = type};
    const size_t row_bytes = dim * element_bytes(type);
    uint8_t *rows = malloc(count * row_bytes);
    float *row = malloc(dim * sizeof(*row));
    assert_true(rows && row);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t d = 0; d < dim; d++) {
            const double value = element_at(i, d);
            row[d] = (float)(type != ELEMENT_I8 ? value
                             : value > 128.0    ? value - 128.0
                                                : value - 129.0);
        }
        element_from_f32(type, row, dim, rows + i * row_bytes);
    }
    free(row);
    build_fixture_write(f, shape, rows);
    return rows;
}

void build_fixture_write_keys(const struct build_fixture *f, const uint64_t *keys, uint32_t count)
{
    const uint32_t header[2] = {count, 1};
    FILE *out = fopen(f->keys, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(header, sizeof(header), 1, out), 1);
    assert_int_equal(fwrite(keys, sizeof(*keys), count, out), count);
    assert_int_equal(fclose(out), 0);
}

/* ---- builds ---- */

struct build_params build_fixture_params(const struct build_fixture *f)
{
    return (struct build_params){
        .input = f->input,
        .output = f->output,
        .metric = METRIC_L2,
        .degree = 24,
        .build_list = 40,
        .alpha = 1.2,
        .codec = CODEC_PQ,
        .code_bytes = 8,
        .replication = 1.2,
        .threads = 2,
        .seed = 1,
        .navigation_share = 0.05,
        .shard = WORK_WHOLE,
        .quiet = true,
    };
}

void build_fixture_write_attributes(const struct build_fixture *f, const char *text, size_t length)
{
    FILE *file = fopen(f->attributes, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

void build_fixture_some_attributes(const struct build_fixture *f, uint32_t count)
{
    static const char *const tags[] = {"", "red", "blue|red", "green"};
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    assert_non_null(out);
    fputs("year:u64,delta:i64,tags:labels\n", out);
    for (uint32_t row = 0; row < count; row++)
        fprintf(out, "%u,%d,%s\n", 1900 + row * 37 % 130, (int)(row * 1009 % 5000) - 2500,
                tags[row % ARRAY_LENGTH(tags)]);
    assert_int_equal(fclose(out), 0);
    build_fixture_write_attributes(f, text, length);
    free(text);
}

void build_fixture_build(const struct build_params *params, struct build_summary *summary)
{
    struct error err = {0};
    struct build_summary unused;
    summary = summary ? summary : &unused;
    fixture_must(build_run(params, summary, &err), &err);
    assert_false(summary->kept);
    if (params->one_stage)
        return;
    assert_true(summary->finished);
    assert_int_equal(fixture_exists(summary->work_path), params->keep_work);
}

struct digest128 build_fixture_digest(const char *path)
{
    struct generation *generation = NULL;
    struct digest128 digest = {0};
    struct error err = {0};
    uint64_t blocks = 0;
    fixture_must(generation_open(path, &generation, &err), &err);
    fixture_must(generation_verify(generation, &blocks, &err), &err);
    assert_int_equal(blocks, generation_manifest(generation)->block_count);
    fixture_must(generation_digest(generation, &digest, &err), &err);
    generation_close(generation);
    return digest;
}

struct digest128 build_fixture_once(const struct build_fixture *f,
                                    const struct build_params *params,
                                    struct build_summary *summary)
{
    build_fixture_build(params, summary);
    struct digest128 digest = build_fixture_digest(f->output);
    build_fixture_clear(f);
    return digest;
}

bool build_fixture_same(struct digest128 a, struct digest128 b)
{
    return a.low == b.low && a.high == b.high;
}

void build_fixture_expect_same(struct digest128 found, struct digest128 wanted)
{
    assert_int_equal(found.low, wanted.low);
    assert_int_equal(found.high, wanted.high);
}

void build_fixture_expect_line(const struct error *err)
{
    assert_true(err->text[0] != '\0');
    assert_null(strchr(err->text, '\n'));
}

/* ---- blocks ---- */

/* All of nodes.blk, page-aligned; the caller frees it. */
static uint8_t *blocks_read(const struct generation *generation)
{
    char path[BUILD_FIXTURE_PATH_BYTES + 20];
    size_t bytes = 0;
    snprintf(path, sizeof(path), "%s/%s", generation_path(generation),
             generation_file_names[GENERATION_NODES]);
    uint8_t *blocks = fixture_read(path, &bytes);
    assert_int_equal(bytes, generation_manifest(generation)->files[GENERATION_NODES].bytes);
    return blocks;
}

static struct block_view block_at(const struct manifest *m, const uint8_t *blocks, uint64_t number)
{
    struct block_view view;
    assert_int_equal(
        block_open(&m->geometry, number, blocks + number * m->geometry.block_bytes, &view),
        BLOCK_OK);
    return view;
}

struct record_check {
    const uint8_t *rows;
    const uint64_t *keys; /* NULL: the row */
    uint8_t *seen;
    uint64_t count;
    size_t row_bytes;
};

static void record_is_its_row(const struct record_check *check, const struct block_view *view,
                              uint32_t slot)
{
    const uint64_t key = block_key(view, slot);
    uint64_t row = key;
    if (check->keys)
        for (row = 0; row < check->count && check->keys[row] != key; row++)
            ;
    assert_true(row < check->count);
    assert_int_equal(check->seen[row]++, 0);
    assert_memory_equal(block_vector(view, slot), check->rows + row * check->row_bytes,
                        check->row_bytes);
}

/* keys.bin names this very node. */
static void key_is_of_node(const struct manifest *m, const uint8_t *keys, uint64_t key,
                           uint32_t node)
{
    const struct keys_shape shape = keys_shape_of(m);
    uint64_t firsts[KEYS_PAGE_FIRSTS];
    struct keys_page page;
    uint32_t number;
    uint32_t found = UINT32_MAX;
    const uint32_t pages = keys_pages(shape.count);
    assert_int_equal(keys_directory_pages(shape.count), 1);
    assert_int_equal(keys_directory_open(&shape, 0, keys + (size_t)pages * KEYS_PAGE_BYTES, firsts),
                     KEYS_OK);
    assert_true(keys_find_page(firsts, pages, key, &number));
    assert_int_equal(keys_page_open(&shape, number, keys + (size_t)number * KEYS_PAGE_BYTES, &page),
                     KEYS_OK);
    assert_true(keys_page_find(&page, key, &found));
    assert_int_equal(found, node);
}

void build_fixture_expect_rows(const char *path, struct vector_shape shape, const void *rows,
                               const uint64_t *keys)
{
    struct generation *generation = NULL;
    struct error err;
    struct record_check check = {.rows = rows,
                                 .keys = keys,
                                 .seen = calloc(shape.count, 1),
                                 .count = shape.count,
                                 .row_bytes = element_vector_bytes(shape.type, shape.dim)};
    uint64_t records = 0;
    assert_non_null(check.seen);
    fixture_must(generation_open(path, &generation, &err), &err);
    const struct manifest *m = generation_manifest(generation);
    uint8_t *blocks = blocks_read(generation);
    size_t keys_length;
    uint8_t *pages =
        fixture_read(fixture_path(path, generation_file_names[GENERATION_KEYS]), &keys_length);
    for (uint64_t number = 0; number < m->block_count; number++) {
        struct block_view view = block_at(m, blocks, number);
        for (uint32_t slot = 0; slot < view.record_count; slot++, records++) {
            record_is_its_row(&check, &view, slot);
            key_is_of_node(m, pages, block_key(&view, slot), view.first_node + slot);
        }
    }
    assert_int_equal(records, shape.count);
    free(pages);
    free(check.seen);
    free(blocks);
    generation_close(generation);
}

uint32_t build_fixture_node_of(const char *path, uint64_t key)
{
    struct generation *generation = NULL;
    struct error err;
    uint32_t node = UINT32_MAX;
    fixture_must(generation_open(path, &generation, &err), &err);
    const struct manifest *m = generation_manifest(generation);
    uint8_t *blocks = blocks_read(generation);
    for (uint64_t number = 0; number < m->block_count; number++) {
        struct block_view view = block_at(m, blocks, number);
        for (uint32_t slot = 0; slot < view.record_count; slot++)
            if (block_key(&view, slot) == key)
                node = view.first_node + slot;
    }
    free(blocks);
    generation_close(generation);
    assert_int_not_equal(node, UINT32_MAX);
    return node;
}

uint32_t build_fixture_nodes(const char *path, uint64_t **keys, bool **exists)
{
    struct generation *generation = NULL;
    struct error err;
    fixture_must(generation_open(path, &generation, &err), &err);
    const struct manifest *m = generation_manifest(generation);
    const uint32_t limit = m->geometry.node_limit;
    uint8_t *blocks = blocks_read(generation);
    *keys = calloc(limit, sizeof(**keys));
    *exists = calloc(limit, sizeof(**exists));
    assert_non_null(*keys);
    assert_non_null(*exists);
    for (uint64_t number = 0; number < m->block_count; number++) {
        struct block_view view = block_at(m, blocks, number);
        for (uint32_t slot = 0; slot < view.record_count; slot++) {
            const uint64_t node = number * m->geometry.nodes_per_block + slot;
            (*keys)[node] = block_key(&view, slot);
            (*exists)[node] = true;
        }
    }
    free(blocks);
    generation_close(generation);
    return limit;
}

uint64_t build_fixture_reached(const char *path)
{
    struct generation *generation = NULL;
    struct error err;
    uint64_t records = 0;
    fixture_must(generation_open(path, &generation, &err), &err);
    const struct manifest *m = generation_manifest(generation);
    uint8_t *blocks = blocks_read(generation);
    uint8_t *seen = calloc(m->block_count, 1);
    uint64_t *stack = calloc(m->block_count, sizeof(*stack));
    assert_true(seen && stack);
    uint64_t depth = 0;
    stack[depth++] = m->entry_node / m->geometry.nodes_per_block;
    seen[stack[0]] = 1;
    while (depth > 0) {
        struct block_view view = block_at(m, blocks, stack[--depth]);
        records += view.record_count;
        for (uint32_t slot = 0; slot < view.record_count; slot++) {
            uint32_t ids[BLOCK_DEGREE_MAX + 1];
            enum block_fault fault = BLOCK_OK;
            uint32_t degree = block_neighbors(&view, slot, ids, &fault);
            assert_int_equal(fault, BLOCK_OK);
            for (uint32_t i = 0; i < degree; i++) {
                uint32_t block = ids[i] / m->geometry.nodes_per_block;
                if (!seen[block])
                    stack[depth++] = block;
                seen[block] = 1;
            }
        }
    }
    free(stack);
    free(seen);
    free(blocks);
    generation_close(generation);
    return records;
}
