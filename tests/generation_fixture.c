/*
 * generation_fixture.c - see generation_fixture.h. Single-threaded; failures inside end the test.
 */
#include "tests/generation_fixture.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/codec.h"
#include "common/memory.h"
#include "common/random.h"
#include "layout/block.h"
#include "layout/keys.h"
#include "layout/navigation.h"
#include "layout/sample.h"
#include "tests/attributes_fixture.h"
#include "tests/directory_fixture.h"

int fixture_directory_setup(void **state)
{
    char *path = malloc(DIRECTORY_FIXTURE_BYTES);
    if (!path || directory_fixture_create(path) != 0) {
        free(path);
        return -1;
    }
    *state = path;
    return 0;
}

/* What fixture_path() gave out since the setup. */
struct path_entry {
    struct path_entry *next;
    char text[];
};
static struct path_entry *paths;

const char *fixture_path(const char *directory, const char *name)
{
    size_t bytes = strlen(directory) + strlen(name) + 2;
    struct path_entry *entry = malloc(sizeof(*entry) + bytes);
    assert_non_null(entry);
    snprintf(entry->text, bytes, "%s/%s", directory, name);
    entry->next = paths;
    paths = entry;
    return entry->text;
}

int fixture_directory_teardown(void **state)
{
    while (paths) {
        struct path_entry *entry = paths;
        paths = entry->next;
        free(entry);
    }
    int result = directory_fixture_remove(*state);
    free(*state);
    return result;
}

void fixture_manifest(uint64_t seed, struct manifest *manifest)
{
    *manifest = (struct manifest){
        .format_version = MANIFEST_FORMAT_VERSION,
        .input_digest = {random_at(seed, 0), random_at(seed, 1)},
        .tool_version = "test",
        .vector_count = FIXTURE_VECTORS,
        .dim = FIXTURE_DIM,
        .type = ELEMENT_U8,
        .query_type = ELEMENT_U8,
        .metric = METRIC_L2,
        .norm_max = 721.2489168102785,
        .geometry =
            {
                .block_bytes = BLOCK_PAGE_BYTES,
                .nodes_per_block = FIXTURE_NODES_PER_BLOCK,
                .vector_bytes = FIXTURE_DIM,
                .node_limit = FIXTURE_NODE_LIMIT,
                .adjacency = BLOCK_ADJACENCY_GAPS,
                .gap_width = {1, 3, 5, 7},
            },
        .block_count = FIXTURE_BLOCKS,
        .codec_kind = CODEC_PQ,
        .code_bytes = FIXTURE_CODE_BYTES,
        .degree = 8,
        .build_list = 20,
        .alpha = 1.2,
        .seed = seed,
        .navigation_share = 0.05,
        .shard_count = 1,
        .replication = 1.0,
        .mean_degree = 7.25,
        .block_mate_share = 1.0 / 3.0,
        .navigation_count = FIXTURE_NAVIGATION,
        .hot_count = FIXTURE_HOT,
        .sample_count = FIXTURE_SAMPLE,
        .sample_k = FIXTURE_SAMPLE_K,
        .lid = 3.25,
        .curve_count = 2,
        .curves =
            {{.k = 1,
              .queries = FIXTURE_SAMPLE,
              .point_count = 2,
              .points = {{4, 1.05, 1, 1, 6}, {8, 0, 3, 3, 9}}},
             {.k = 2, .queries = FIXTURE_SAMPLE, .point_count = 1, .points = {{8, 1.2, 5, 9, 12}}}},
    };
    manifest->generation_id = manifest_generation_id(manifest);
    manifest->geometry.generation_seed = manifest->generation_id.low;
}

/* A column of each kind; the caller frees it. */
static uint8_t *fixture_attributes_image(size_t *bytes)
{
    static const char *const tags[] = {"red|blue", "", "green", NULL, "blue|gr\xc3\xbcn"};
    static const char *const kinds[] = {"a", "b|c"};
    uint64_t years[FIXTURE_NODE_LIMIT], deltas[FIXTURE_NODE_LIMIT];
    const char *labels[FIXTURE_NODE_LIMIT], *others[FIXTURE_NODE_LIMIT];
    bool exists[FIXTURE_NODE_LIMIT];
    for (uint64_t node = 0; node < FIXTURE_NODE_LIMIT; node++) {
        years[node] = 1900 + node * 37 % 130;
        deltas[node] = node * 100003 % 1000 - 500;
        labels[node] = tags[node % ARRAY_LENGTH(tags)];
        others[node] = kinds[node % 3 % ARRAY_LENGTH(kinds)];
        exists[node] = node < FIXTURE_VECTORS;
    }
    const struct attributes_fixture_column columns[] = {
        {"year", ATTRIBUTE_U64, years, NULL},
        {"tags", ATTRIBUTE_LABELS, NULL, labels},
        {"delta", ATTRIBUTE_I64, deltas, NULL},
        {"kind", ATTRIBUTE_LABELS, NULL, others},
    };
    return attributes_fixture_image(columns, ARRAY_LENGTH(columns), FIXTURE_NODE_LIMIT, exists,
                                    bytes);
}

void fixture_manifest_lengths(struct manifest *manifest)
{
    manifest->files[GENERATION_NODES].bytes = FIXTURE_BLOCKS * BLOCK_PAGE_BYTES;
    manifest->files[GENERATION_CODES].bytes = FIXTURE_NODE_LIMIT * FIXTURE_CODE_BYTES;
    manifest->files[GENERATION_CODEC].bytes = 64 + 1024 * FIXTURE_DIM;
    manifest->files[GENERATION_NAVIGATION].bytes = navigation_bytes(FIXTURE_NAVIGATION, 2);
    manifest->files[GENERATION_HOT].bytes = FIXTURE_HOT * sizeof(uint32_t);
    manifest->files[GENERATION_SAMPLE].bytes =
        sample_bytes(FIXTURE_SAMPLE, FIXTURE_SAMPLE_K, FIXTURE_DIM);
    size_t attributes_bytes;
    free(fixture_attributes_image(&attributes_bytes));
    manifest->files[GENERATION_ATTRIBUTES].bytes = attributes_bytes;
    manifest->files[GENERATION_KEYS].bytes = keys_bytes(manifest->vector_count);
}

static void fixture_vectors(uint8_t vectors[FIXTURE_VECTORS * FIXTURE_DIM])
{
    for (size_t i = 0; i < (size_t)FIXTURE_VECTORS * FIXTURE_DIM; i++)
        vectors[i] = (uint8_t)random_at(17, i);
}

/* Block `number`: a list names every eleventh node but those of the block. */
static void fixture_block(const struct block_geometry *geometry, uint32_t number,
                          const uint8_t *vectors, void *block)
{
    struct block_record records[FIXTURE_NODES_PER_BLOCK];
    uint32_t ids[FIXTURE_NODES_PER_BLOCK][FIXTURE_NODE_LIMIT];
    uint32_t count = 0;
    for (; count < FIXTURE_NODES_PER_BLOCK; count++) {
        uint32_t node = number * FIXTURE_NODES_PER_BLOCK + count, degree = 0;
        if (node >= FIXTURE_VECTORS)
            break;
        for (uint32_t id = node % 11; id < FIXTURE_VECTORS; id += 11)
            if (id / FIXTURE_NODES_PER_BLOCK != number)
                ids[count][degree++] = id;
        records[count] = (struct block_record){1000 + node, vectors + (size_t)node * FIXTURE_DIM,
                                               ids[count], degree};
    }
    block_encode(geometry, number, records, count, block);
}

static enum status fixture_nodes(struct generation_writer *writer, const struct manifest *manifest,
                                 const uint8_t *vectors, struct error *err)
{
    uint8_t *blocks = aligned_alloc(BLOCK_PAGE_BYTES, FIXTURE_BLOCKS * BLOCK_PAGE_BYTES);
    assert_non_null(blocks);
    for (uint32_t number = 0; number < FIXTURE_BLOCKS; number++)
        fixture_block(&manifest->geometry, number, vectors,
                      blocks + (size_t)number * BLOCK_PAGE_BYTES);
    /* Two appends, so that one fails half-way. */
    const size_t half = FIXTURE_BLOCKS / 2 * BLOCK_PAGE_BYTES;
    enum status status = generation_writer_append(writer, GENERATION_NODES, blocks, half, err);
    if (status == STATUS_OK)
        status = generation_writer_append(writer, GENERATION_NODES, blocks + half, half, err);
    free(blocks);
    return status;
}

static enum status fixture_codes(struct generation_writer *writer, const uint8_t *vectors,
                                 struct error *err)
{
    /* Trained once: it takes longer than all else here. */
    static struct codec *codec;
    if (!codec) {
        const struct codec_params params = {CODEC_PQ,           METRIC_L2, ELEMENT_U8, FIXTURE_DIM,
                                            FIXTURE_CODE_BYTES, 1,         0};
        assert_int_equal(codec_train(&params, vectors, FIXTURE_VECTORS, &codec, NULL), STATUS_OK);
    }
    uint8_t codes[FIXTURE_NODE_LIMIT * FIXTURE_CODE_BYTES] = {0};
    codec_encode(codec, vectors, FIXTURE_VECTORS, codes);
    enum status status =
        generation_writer_append(writer, GENERATION_CODES, codes, sizeof(codes), err);
    if (status != STATUS_OK)
        return status;
    uint8_t *bytes;
    size_t length;
    assert_int_equal(codec_serialize(codec, &bytes, &length, NULL), STATUS_OK);
    status = generation_writer_append(writer, GENERATION_CODEC, bytes, length, err);
    free(bytes);
    return status;
}

static enum status fixture_lists(struct generation_writer *writer, struct error *err)
{
    static const uint32_t nodes[FIXTURE_NAVIGATION] = {3, 14, 15, 92, 65};
    static const uint32_t neighbors[FIXTURE_NAVIGATION * 2] = {
        1, 2, 0, NAVIGATION_NONE, 3, 4, NAVIGATION_NONE, NAVIGATION_NONE, 0, 4};
    const struct navigation navigation = {FIXTURE_NAVIGATION, 2, 0, nodes, neighbors};
    const size_t image_bytes = navigation_bytes(FIXTURE_NAVIGATION, 2);
    uint8_t *image = malloc(image_bytes);
    assert_non_null(image);
    navigation_encode(&navigation, image);
    enum status status =
        generation_writer_append(writer, GENERATION_NAVIGATION, image, image_bytes, err);
    free(image);
    if (status != STATUS_OK)
        return status;
    uint32_t hot[FIXTURE_HOT];
    for (uint32_t i = 0; i < FIXTURE_HOT; i++)
        hot[i] = i * 37 % FIXTURE_VECTORS;
    return generation_writer_append(writer, GENERATION_HOT, hot, sizeof(hot), err);
}

/* The nearest others of node `query`, ties by node. */
static void fixture_truth(const uint8_t *vectors, uint32_t query, uint64_t keys[FIXTURE_SAMPLE_K],
                          float distances[FIXTURE_SAMPLE_K])
{
    uint32_t found = 0;
    for (uint32_t node = 0; node < FIXTURE_VECTORS; node++) {
        float distance = 0;
        for (size_t d = 0; d < FIXTURE_DIM; d++) {
            const int difference =
                vectors[(size_t)node * FIXTURE_DIM + d] - vectors[(size_t)query * FIXTURE_DIM + d];
            distance += (float)(difference * difference);
        }
        if (node == query || (found == FIXTURE_SAMPLE_K && distances[found - 1] <= distance))
            continue;
        uint32_t place = found < FIXTURE_SAMPLE_K ? found++ : found - 1;
        for (; place > 0 && distances[place - 1] > distance; place--) {
            distances[place] = distances[place - 1];
            keys[place] = keys[place - 1];
        }
        distances[place] = distance;
        keys[place] = 1000 + node;
    }
}

static enum status fixture_sample(struct generation_writer *writer, const uint8_t *vectors,
                                  struct error *err)
{
    static const uint32_t nodes[FIXTURE_SAMPLE] = {11, 50, 96};
    uint64_t own_keys[FIXTURE_SAMPLE];
    uint64_t keys[FIXTURE_SAMPLE * FIXTURE_SAMPLE_K];
    float distances[FIXTURE_SAMPLE * FIXTURE_SAMPLE_K];
    uint8_t queries[FIXTURE_SAMPLE * FIXTURE_DIM];
    for (size_t i = 0; i < FIXTURE_SAMPLE; i++) {
        own_keys[i] = 1000 + nodes[i];
        memcpy(queries + i * FIXTURE_DIM, vectors + (size_t)nodes[i] * FIXTURE_DIM, FIXTURE_DIM);
        fixture_truth(vectors, nodes[i], keys + i * FIXTURE_SAMPLE_K,
                      distances + i * FIXTURE_SAMPLE_K);
    }
    const struct sample sample = {FIXTURE_SAMPLE, FIXTURE_SAMPLE_K, FIXTURE_DIM, ELEMENT_U8,
                                  METRIC_L2,      own_keys,         nodes,       keys,
                                  distances,      queries};
    const size_t image_bytes = sample_bytes(FIXTURE_SAMPLE, FIXTURE_SAMPLE_K, FIXTURE_DIM);
    uint8_t *image = malloc(image_bytes);
    assert_non_null(image);
    sample_encode(&sample, image);
    enum status status =
        generation_writer_append(writer, GENERATION_SAMPLE, image, image_bytes, err);
    free(image);
    return status;
}

static enum status fixture_attributes(struct generation_writer *writer, struct error *err)
{
    size_t bytes;
    uint8_t *image = fixture_attributes_image(&bytes);
    enum status status = generation_writer_append(writer, GENERATION_ATTRIBUTES, image, bytes, err);
    free(image);
    return status;
}

static enum status fixture_keys(struct generation_writer *writer, const struct manifest *manifest,
                                struct error *err)
{
    const struct keys_shape shape = keys_shape_of(manifest);
    uint64_t keys[FIXTURE_VECTORS];
    uint32_t nodes[FIXTURE_VECTORS];
    for (uint32_t node = 0; node < FIXTURE_VECTORS; node++) {
        keys[node] = 1000 + node;
        nodes[node] = node;
    }
    _Alignas(uint64_t) uint8_t pages[2 * KEYS_PAGE_BYTES];
    keys_page_encode(&shape, 0, keys, nodes, pages);
    keys_directory_encode(&shape, 0, keys, pages + KEYS_PAGE_BYTES);
    return generation_writer_append(writer, GENERATION_KEYS, pages, sizeof(pages), err);
}

enum status fixture_write(const char *path, uint64_t seed, struct error *err)
{
    struct manifest manifest;
    fixture_manifest(seed, &manifest);
    uint8_t vectors[FIXTURE_VECTORS * FIXTURE_DIM];
    fixture_vectors(vectors);
    struct generation_writer *writer;
    enum status status = generation_writer_open(path, GENERATION_CREATE, &writer, err);
    if (status != STATUS_OK)
        return status;
    status = fixture_nodes(writer, &manifest, vectors, err);
    if (status == STATUS_OK)
        status = fixture_codes(writer, vectors, err);
    if (status == STATUS_OK)
        status = fixture_lists(writer, err);
    if (status == STATUS_OK)
        status = fixture_sample(writer, vectors, err);
    if (status == STATUS_OK)
        status = fixture_attributes(writer, err);
    if (status == STATUS_OK)
        status = fixture_keys(writer, &manifest, err);
    if (status == STATUS_OK)
        status = generation_writer_finish(writer, &manifest, NULL, err);
    if (status != STATUS_OK)
        generation_writer_abort(writer);
    return status;
}

void fixture_must(enum status status, const struct error *err)
{
    if (status != STATUS_OK)
        fail_msg("%s", err->text);
}

void fixture_must_write(const char *path, uint64_t seed)
{
    struct error err = {0};
    fixture_must(fixture_write(path, seed, &err), &err);
}

struct generation_writer *fixture_open(const char *path, enum generation_open_mode mode)
{
    struct generation_writer *writer = NULL;
    struct error err = {0};
    fixture_must(generation_writer_open(path, mode, &writer, &err), &err);
    return writer;
}

enum status fixture_finish(struct generation_writer *writer, uint64_t seed, struct error *err)
{
    struct manifest manifest;
    fixture_manifest(seed, &manifest);
    return generation_writer_finish(writer, &manifest, NULL, err);
}

void fixture_must_finish(struct generation_writer *writer, uint64_t seed)
{
    struct error err = {0};
    fixture_must(fixture_finish(writer, seed, &err), &err);
}

/* ---- what is on disk ---- */

bool fixture_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

uint64_t fixture_length(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return (uint64_t)info.st_size;
}

uint8_t *fixture_read(const char *path, size_t *bytes)
{
    *bytes = (size_t)fixture_length(path);
    uint8_t *data = aligned_alloc(BLOCK_PAGE_BYTES, size_align(*bytes + 1, BLOCK_PAGE_BYTES));
    assert_non_null(data);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, data, *bytes), *bytes);
    close(fd);
    return data;
}

void fixture_touch(const char *path, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
}

void fixture_flip_bit(const char *path, uint64_t bit)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
    byte ^= (uint8_t)(1u << (bit % 8));
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
    close(fd);
}

enum status fixture_verify(const char *path, struct error *err)
{
    struct generation *generation = NULL;
    enum status status = generation_open(path, &generation, err);
    if (status == STATUS_OK)
        status = generation_verify(generation, NULL, err);
    generation_close(generation);
    return status;
}

void fixture_expect_fault(const char *path, const char *words)
{
    struct error err = {0};
    enum status status = fixture_verify(path, &err);
    if (status == STATUS_OK || !strstr(err.text, words) || strchr(err.text, '\n'))
        fail_msg("wanted a fault with \"%s\", got %s: \"%s\"", words, status_name(status),
                 err.text);
    assert_int_equal(err.status, status);
}

/* ---- writing the same bytes in other ways ---- */

void fixture_image_load(struct fixture_image *image, const char *directory, uint64_t seed)
{
    const char *path = fixture_path(directory, "reference");
    fixture_must_write(path, seed);
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        image->data[i] =
            fixture_read(fixture_path(path, generation_file_names[i]), &image->bytes[i]);
}

void fixture_image_free(struct fixture_image *image)
{
    for (int i = 0; i < GENERATION_FILE_COUNT; i++)
        free(image->data[i]);
}

enum status fixture_image_put(const struct fixture_image *image, struct generation_writer *writer,
                              enum generation_file file, size_t from, size_t to)
{
    return generation_writer_write(writer, file, from, image->data[file] + from, to - from, NULL);
}

void fixture_must_put(const struct fixture_image *image, struct generation_writer *writer,
                      enum generation_file file, size_t from, size_t to)
{
    assert_int_equal(fixture_image_put(image, writer, file, from, to), STATUS_OK);
}

enum status fixture_image_put_all(const struct fixture_image *image,
                                  struct generation_writer *writer, struct error *err)
{
    enum status status = STATUS_OK;
    for (int i = GENERATION_FILE_COUNT - 1; status == STATUS_OK && i >= 0; i--)
        status = generation_writer_write(writer, (enum generation_file)i, 0, image->data[i],
                                         image->bytes[i], err);
    return status;
}

void fixture_expect_reference(const char *path, const char *directory)
{
    struct digest128 digests[2];
    const char *const both[] = {path, fixture_path(directory, "reference")};
    for (int i = 0; i < 2; i++) {
        struct error err = {0};
        struct generation *generation = NULL;
        if (fixture_verify(both[i], &err) != STATUS_OK ||
            generation_open(both[i], &generation, &err) != STATUS_OK ||
            generation_digest(generation, &digests[i], &err) != STATUS_OK)
            fail_msg("%s", err.text);
        generation_close(generation);
    }
    assert_memory_equal(&digests[0], &digests[1], sizeof(digests[0]));
    assert_int_equal(directory_fixture_entries(path), directory_fixture_entries(both[1]));
}

/* ---- failing calls ---- */

int fixture_fail_nth(void *context, enum store_call call)
{
    struct fixture_nth_call *nth = context;
    if (nth->writes_only && call != STORE_CALL_WRITE)
        return 0;
    return ++nth->calls == nth->fail_at ? nth->outcome : 0;
}
