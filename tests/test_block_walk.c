/*
 * test_block_walk.c - reachability over blocks on disk: what a breadth-first search in memory
 * finds, at any team size, from files with damage and holes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <omp.h>

#include "common/random.h"
#include "layout/block_walk.h"
#include "tests/generation_fixture.h"

enum {
    SEED = 5,
    NODES_PER_BLOCK = 4,
    VECTOR_BYTES = 8,
    TEAM_MAX = 5,
};

/* ---- a file of blocks ---- */

struct world {
    const char *path;
    int fd;
    struct block_geometry geometry;
    uint64_t block_count;
};

static void world_open(struct world *world, const char *directory, uint64_t block_count,
                       uint32_t block_bytes, enum block_adjacency adjacency)
{
    *world = (struct world){
        .path = fixture_path(directory, "nodes.blk"),
        .geometry =
            {
                .block_bytes = block_bytes,
                .nodes_per_block = NODES_PER_BLOCK,
                .vector_bytes = VECTOR_BYTES,
                .node_limit = (uint32_t)(block_count * NODES_PER_BLOCK),
                .adjacency = (uint8_t)adjacency,
                .gap_width = {4, 9, 16, 32},
                .generation_seed = SEED,
            },
        .block_count = block_count,
    };
    struct error err = {0};
    if (block_geometry_check(&world->geometry, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    world->fd = open(world->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(world->fd >= 0);
    if (ftruncate(world->fd, (off_t)(block_count * block_bytes)) != 0) {
        print_message("this file system holds no file of %" PRIu64 " bytes\n",
                      block_count * block_bytes);
        close(world->fd);
        skip();
    }
}

static void world_put(const struct world *world, uint64_t block, const void *bytes)
{
    const uint32_t block_bytes = world->geometry.block_bytes;
    assert_int_equal(pwrite(world->fd, bytes, block_bytes, (off_t)(block * block_bytes)),
                     block_bytes);
}

static void world_get(const struct world *world, uint64_t block, void *bytes)
{
    const uint32_t block_bytes = world->geometry.block_bytes;
    assert_int_equal(pread(world->fd, bytes, block_bytes, (off_t)(block * block_bytes)),
                     block_bytes);
}

/* Writes a block whose last record alone has neighbours. */
static void world_block(const struct world *world, uint64_t block, const uint32_t *ids,
                        uint32_t degree)
{
    static const uint8_t vector[VECTOR_BYTES] = {1, 2, 3};
    struct block_record records[NODES_PER_BLOCK];
    for (uint32_t slot = 0; slot < NODES_PER_BLOCK; slot++)
        records[slot] = (struct block_record){block * NODES_PER_BLOCK + slot, vector, NULL, 0};
    records[NODES_PER_BLOCK - 1].ids = ids;
    records[NODES_PER_BLOCK - 1].degree = degree;
    uint8_t *bytes = malloc(world->geometry.block_bytes);
    block_encode(&world->geometry, block, records, NODES_PER_BLOCK, bytes);
    world_put(world, block, bytes);
    free(bytes);
}

/* A block that leads to one other; UINT64_MAX: to none. */
static void world_link(const struct world *world, uint64_t block, uint64_t to)
{
    const uint32_t id = (uint32_t)(to * NODES_PER_BLOCK + to % NODES_PER_BLOCK);
    world_block(world, block, &id, to == UINT64_MAX ? 0 : 1);
}

static void world_garbage(const struct world *world, uint64_t block)
{
    uint8_t *bytes = malloc(world->geometry.block_bytes);
    memset(bytes, 0xa5, world->geometry.block_bytes);
    world_put(world, block, bytes);
    free(bytes);
}

static void world_flip(const struct world *world, uint64_t block)
{
    uint8_t *bytes = malloc(world->geometry.block_bytes);
    world_get(world, block, bytes);
    bytes[world->geometry.block_bytes / 2] ^= 1;
    world_put(world, block, bytes);
    free(bytes);
}

/* ---- walking it ---- */

static struct block_walk_params world_params(const struct world *world, uint64_t entry_block)
{
    return (struct block_walk_params){
        .fd = world->fd,
        .path = world->path,
        .geometry = &world->geometry,
        .block_count = world->block_count,
        .entry = (uint32_t)(entry_block * NODES_PER_BLOCK + 1),
    };
}

/* Walks with `team` threads; the caller frees the bitmap. */
static struct block_walk_result walk_good(const struct world *world, uint64_t entry_block, int team,
                                          uint64_t **reached)
{
    struct block_walk_params params = world_params(world, entry_block);
    params.reached = malloc((size_t)block_walk_words(world->block_count) * sizeof(uint64_t));
    memset(params.reached, 0xff, (size_t)block_walk_words(world->block_count) * sizeof(uint64_t));
    struct block_walk_result result = {0};
    struct error err = {0};
    omp_set_num_threads(team);
    if (block_walk(&params, &result, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    *reached = params.reached;
    return result;
}

static bool bit_get(const uint64_t *bits, uint64_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static uint64_t bits_count(const uint64_t *bits, uint64_t words)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < words; i++)
        count += (uint64_t)__builtin_popcountll(bits[i]);
    return count;
}

static void expect_fault(const struct world *world, uint64_t entry_block, const char *words)
{
    for (int team = 1; team <= TEAM_MAX; team++) {
        const struct block_walk_params params = world_params(world, entry_block);
        struct block_walk_result result = {.reached_blocks = 77};
        struct error err = {0};
        omp_set_num_threads(team);
        assert_int_equal(block_walk(&params, &result, &err), STATUS_CORRUPT);
        assert_int_equal(err.status, STATUS_CORRUPT);
        if (!strstr(err.text, words) || !strstr(err.text, "nodes.blk: "))
            fail_msg("wanted \"%s\", got \"%s\"", words, err.text);
        assert_int_equal(result.reached_blocks, 77);
        assert_int_equal(block_walk(&params, &result, NULL), STATUS_CORRUPT);
    }
}

/* ---- shapes ---- */

static void lone_block_reaches_itself(void **state)
{
    struct world world;
    world_open(&world, *state, 3, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    world_link(&world, 1, UINT64_MAX);
    uint64_t *reached;
    struct block_walk_result result = walk_good(&world, 1, 1, &reached);
    assert_int_equal(result.reached_blocks, 1);
    assert_int_equal(result.passes, 1);
    assert_int_equal(reached[0], 2);
    free(reached);
    close(world.fd);
}

static void chain_is_followed_to_its_end_in_either_direction(void **state)
{
    enum { BLOCKS = 200 };
    struct world world;
    world_open(&world, *state, BLOCKS, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_PLAIN);
    for (uint64_t block = 0; block < BLOCKS; block++)
        world_link(&world, block, block + 1 < BLOCKS ? block + 1 : UINT64_MAX);
    uint64_t *reached;
    struct block_walk_result result = walk_good(&world, 150, 2, &reached);
    assert_int_equal(result.reached_blocks, 50);
    assert_int_equal(result.passes, 50); /* with one block to read each */
    for (uint64_t block = 0; block < BLOCKS; block++)
        assert_int_equal(bit_get(reached, block), block >= 150);
    free(reached);

    for (uint64_t block = 0; block < BLOCKS; block++)
        world_link(&world, block, block > 0 ? block - 1 : UINT64_MAX);
    result = walk_good(&world, 150, 2, &reached);
    assert_int_equal(result.reached_blocks, 151);
    for (uint64_t block = 0; block < BLOCKS; block++)
        assert_int_equal(bit_get(reached, block), block <= 150);
    free(reached);
    close(world.fd);
}

/* The buffer takes 67 such blocks here: 1 to 67 are one batch, 68 to 100 the next, in the same
 * pass.
 */
static void pass_expands_what_it_reached_ahead(void **state)
{
    enum { BLOCKS = 200, FAN = 100 };
    static const struct {
        uint64_t from, to, passes;
    } cases[] = {{1, 150, 2}, {67, 199, 2}, {68, 199, 3}, {FAN, 150, 3}};
    struct world world;
    world_open(&world, *state, BLOCKS, BLOCK_BYTES_MAX, BLOCK_ADJACENCY_GAPS);
    uint32_t ids[FAN];
    for (uint32_t i = 0; i < FAN; i++)
        ids[i] = (i + 1) * NODES_PER_BLOCK;
    world_block(&world, 0, ids, FAN);
    for (size_t c = 0; c < ARRAY_LENGTH(cases); c++) {
        for (uint64_t block = 1; block < BLOCKS; block++)
            world_link(&world, block, block == cases[c].from ? cases[c].to : UINT64_MAX);
        for (int team = 1; team <= 3; team++) {
            uint64_t *reached;
            struct block_walk_result result = walk_good(&world, 0, team, &reached);
            assert_int_equal(result.reached_blocks, FAN + 2);
            assert_int_equal(result.passes, cases[c].passes);
            free(reached);
        }
    }
    close(world.fd);
}

static void cycle_ends(void **state)
{
    enum { BLOCKS = 70 };
    struct world world;
    world_open(&world, *state, BLOCKS, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    for (uint64_t block = 0; block < BLOCKS; block++)
        world_link(&world, block, (block + 1) % BLOCKS);
    uint64_t *reached;
    struct block_walk_result result = walk_good(&world, 33, 2, &reached);
    assert_int_equal(result.reached_blocks, BLOCKS);
    free(reached);
    close(world.fd);
}

/* Every other block is garbage that nothing leads to: it is neither reached nor verified. */
static void what_nothing_leads_to_is_not_looked_at(void **state)
{
    enum { BLOCKS = 201 };
    static const uint32_t sizes[] = {BLOCK_PAGE_BYTES, BLOCK_BYTES_MAX};
    for (size_t s = 0; s < ARRAY_LENGTH(sizes); s++) {
        struct world world;
        world_open(&world, *state, BLOCKS, sizes[s], BLOCK_ADJACENCY_GAPS);
        for (uint64_t block = 0; block < BLOCKS; block += 2) {
            world_link(&world, block, (block + 20) % (BLOCKS + 1));
            if (block + 1 < BLOCKS)
                world_garbage(&world, block + 1);
        }
        /* From the entry to all even blocks at once, so that runs have gaps. */
        uint32_t ids[BLOCKS / 2];
        for (uint32_t i = 0; i < BLOCKS / 2; i++)
            ids[i] = (2 * i + 2) * NODES_PER_BLOCK;
        world_block(&world, 0, ids, BLOCKS / 2);
        uint64_t *reached;
        struct block_walk_result result = walk_good(&world, 0, 3, &reached);
        assert_int_equal(result.reached_blocks, BLOCKS / 2 + 1);
        for (uint64_t block = 0; block < BLOCKS; block++)
            assert_int_equal(bit_get(reached, block), block % 2 == 0);
        free(reached);
        close(world.fd);
    }
}

/* ---- random graphs ---- */

/* blocks[b * degree + i]: what block b leads to. */
static uint64_t bfs_in_memory(const uint32_t *blocks, uint64_t count, uint32_t degree,
                              uint64_t entry, uint8_t *seen)
{
    uint64_t *queue = malloc((size_t)count * sizeof(*queue));
    uint64_t head = 0, tail = 0;
    memset(seen, 0, (size_t)count);
    seen[entry] = 1;
    queue[tail++] = entry;
    while (head < tail) {
        const uint64_t block = queue[head++];
        for (uint32_t i = 0; i < degree; i++) {
            const uint32_t to = blocks[block * degree + i];
            if (seen[to])
                continue;
            seen[to] = 1;
            queue[tail++] = to;
        }
    }
    free(queue);
    return tail;
}

static int u32_compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Writes a random graph, where each edge of a block leaves from some record of it. */
static void random_world(const struct world *world, uint64_t seed, uint32_t degree,
                         uint32_t *blocks)
{
    static const uint8_t vector[VECTOR_BYTES];
    uint8_t *bytes = malloc(world->geometry.block_bytes);
    uint64_t draw = 0;
    for (uint64_t block = 0; block < world->block_count; block++) {
        uint32_t ids[NODES_PER_BLOCK][BLOCK_DEGREE_MAX];
        uint32_t degrees[NODES_PER_BLOCK] = {0};
        for (uint32_t i = 0; i < degree; i++) {
            const uint32_t node = (uint32_t)random_below(seed, draw++, world->geometry.node_limit);
            const uint32_t slot = (uint32_t)random_below(seed, draw++, NODES_PER_BLOCK);
            blocks[block * degree + i] = node / NODES_PER_BLOCK;
            if (node / NODES_PER_BLOCK == block)
                continue;
            ids[slot][degrees[slot]++] = node;
        }
        struct block_record records[NODES_PER_BLOCK];
        for (uint32_t slot = 0; slot < NODES_PER_BLOCK; slot++) {
            qsort(ids[slot], degrees[slot], sizeof(uint32_t), u32_compare);
            uint32_t distinct = 0;
            for (uint32_t i = 0; i < degrees[slot]; i++)
                if (i == 0 || ids[slot][i] != ids[slot][i - 1])
                    ids[slot][distinct++] = ids[slot][i];
            records[slot] = (struct block_record){block, vector, ids[slot], distinct};
        }
        block_encode(&world->geometry, block, records, NODES_PER_BLOCK, bytes);
        world_put(world, block, bytes);
    }
    free(bytes);
}

/* Blocks, bytes, edges: below, about and above the point where a random graph hangs together; the
 * large ones fill the buffer more than once. */
struct random_case {
    uint64_t block_count;
    uint32_t block_bytes;
    uint32_t degree;
    enum block_adjacency adjacency;
};

static void random_case_run(const struct random_case *c, const char *directory, uint64_t seed)
{
    struct world world;
    world_open(&world, directory, c->block_count, c->block_bytes, c->adjacency);
    uint32_t *blocks = malloc((size_t)c->block_count * c->degree * sizeof(*blocks));
    uint8_t *seen = malloc((size_t)c->block_count);
    random_world(&world, seed, c->degree, blocks);
    const uint64_t entry = random_below(seed + 1, 0, c->block_count);
    const uint64_t wanted = bfs_in_memory(blocks, c->block_count, c->degree, entry, seen);
    uint64_t passes = 0;
    for (int team = 1; team <= TEAM_MAX; team += 2) {
        uint64_t *reached;
        struct block_walk_result result = walk_good(&world, entry, team, &reached);
        assert_int_equal(result.reached_blocks, wanted);
        assert_int_equal(bits_count(reached, block_walk_words(c->block_count)), wanted);
        for (uint64_t block = 0; block < c->block_count; block++)
            if (bit_get(reached, block) != seen[block])
                fail_msg("block %" PRIu64 " of %" PRIu64 ", degree %u, team %d: %d, wanted %d",
                         block, c->block_count, c->degree, team, bit_get(reached, block),
                         seen[block]);
        if (team > 1)
            assert_int_equal(result.passes, passes);
        passes = result.passes;
        free(reached);
    }
    free(seen);
    free(blocks);
    close(world.fd);
}

static void random_graphs_agree_with_a_search_in_memory_at_any_team_size(void **state)
{
    static const struct random_case cases[] = {
        {1, BLOCK_PAGE_BYTES, 2, BLOCK_ADJACENCY_GAPS},
        {64, BLOCK_PAGE_BYTES, 1, BLOCK_ADJACENCY_GAPS},
        {65, BLOCK_PAGE_BYTES, 2, BLOCK_ADJACENCY_PLAIN},
        {500, BLOCK_PAGE_BYTES, 1, BLOCK_ADJACENCY_PLAIN},
        {500, 3 * BLOCK_PAGE_BYTES, 2, BLOCK_ADJACENCY_GAPS},
        {150, BLOCK_BYTES_MAX, 3, BLOCK_ADJACENCY_GAPS},
        {3000, BLOCK_PAGE_BYTES, 2, BLOCK_ADJACENCY_GAPS},
        {3000, BLOCK_PAGE_BYTES, 100, BLOCK_ADJACENCY_GAPS},
    };
    print_message("seed %d\n", SEED);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        for (uint64_t round = 0; round < 3; round++)
            random_case_run(&cases[i], *state, SEED + 100 * i + round);
}

/* ---- damage ---- */

static void damaged_block_is_named(void **state)
{
    enum { BLOCKS = 150 };
    struct world world;
    world_open(&world, *state, BLOCKS, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    uint32_t ids[BLOCKS - 1];
    for (uint32_t i = 1; i < BLOCKS; i++)
        ids[i - 1] = i * NODES_PER_BLOCK;
    world_block(&world, 0, ids, BLOCKS - 1);
    for (uint64_t block = 1; block < BLOCKS; block++)
        world_link(&world, block, 0);
    world_flip(&world, 17);
    expect_fault(&world, 0, ": block 17: checksum mismatch");
    world_flip(&world, 17);
    world_flip(&world, 0);
    expect_fault(&world, 0, ": block 0: checksum mismatch");
    world_flip(&world, 0);
    /* Of several in one batch, the lowest, whichever thread came to it first. */
    world_flip(&world, 149);
    world_flip(&world, 70);
    world_flip(&world, 131);
    expect_fault(&world, 0, ": block 70: checksum mismatch");
    world_link(&world, 70, 0);
    world_link(&world, 131, 0);
    /* A block in another's place. */
    uint8_t bytes[BLOCK_PAGE_BYTES];
    world_get(&world, 20, bytes);
    world_put(&world, 149, bytes);
    expect_fault(&world, 0, ": block 149: checksum mismatch");
    close(world.fd);
}

static void bad_list_is_named(void **state)
{
    struct world world;
    world_open(&world, *state, 10, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_PLAIN);
    world_link(&world, 0, 6);
    world_link(&world, 6, 0);
    uint8_t bytes[BLOCK_PAGE_BYTES];
    world_get(&world, 6, bytes);
    struct block_view view;
    assert_int_equal(block_open(&world.geometry, 6, bytes, &view), BLOCK_OK);
    uint16_t list;
    memcpy(&list, view.offsets + (NODES_PER_BLOCK - 1) * sizeof(list), sizeof(list));
    const uint32_t beyond = world.geometry.node_limit;
    memcpy(bytes + list, &beyond, sizeof(beyond));
    const uint64_t checksum = block_checksum(&world.geometry, 6, bytes);
    memcpy(bytes, &checksum, sizeof(checksum));
    world_put(&world, 6, bytes);
    expect_fault(&world, 0, ": block 6: bad neighbour list");
    close(world.fd);
}

static void file_that_ends_early_is_named(void **state)
{
    struct world world;
    world_open(&world, *state, 100, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    world_link(&world, 0, 90);
    world_link(&world, 90, UINT64_MAX);
    assert_int_equal(ftruncate(world.fd, 90 * BLOCK_PAGE_BYTES + 100), 0);
    expect_fault(&world, 0, "ends at offset 368740");
    close(world.fd);
}

static void unreadable_file_is_an_error(void **state)
{
    struct world world;
    world_open(&world, *state, 10, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    world_link(&world, 0, UINT64_MAX);
    struct block_walk_params params = world_params(&world, 0);
    params.fd = open(world.path, O_WRONLY | O_CLOEXEC);
    struct block_walk_result result;
    struct error err = {0};
    assert_int_equal(block_walk(&params, &result, &err), STATUS_IO);
    assert_non_null(strstr(err.text, strerror(EBADF)));
    close(params.fd);
    close(world.fd);
}

/* ---- large files ---- */

/* 5 GB of holes: one that were read would fail its checksum. */
static void holes_of_a_file_beyond_4_gib_are_not_reached(void **state)
{
    enum { BLOCKS = 1300000 };
    static const uint64_t chain[] = {1299999, 3, 1048576, 1048575, 700000, 1200000, 0};
    struct world world;
    world_open(&world, *state, BLOCKS, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    for (size_t i = 0; i < ARRAY_LENGTH(chain); i++)
        world_link(&world, chain[i], i + 1 < ARRAY_LENGTH(chain) ? chain[i + 1] : UINT64_MAX);
    /* Where 32 bits of an offset would lead: other blocks, sound but wrong. */
    world_link(&world, (chain[0] * BLOCK_PAGE_BYTES & UINT32_MAX) / BLOCK_PAGE_BYTES, 5);
    for (int team = 1; team <= 2; team++) {
        uint64_t *reached;
        struct block_walk_result result = walk_good(&world, chain[0], team, &reached);
        assert_int_equal(result.reached_blocks, ARRAY_LENGTH(chain));
        assert_int_equal(bits_count(reached, block_walk_words(BLOCKS)), ARRAY_LENGTH(chain));
        for (size_t i = 0; i < ARRAY_LENGTH(chain); i++)
            assert_true(bit_get(reached, chain[i]));
        free(reached);
    }
    world_flip(&world, 1200000);
    expect_fault(&world, chain[0], ": block 1200000: checksum mismatch");
    close(world.fd);
}

static void direct_reads_give_the_same(void **state)
{
    enum { BLOCKS = 2000, DEGREE = 3 };
    struct world world;
    world_open(&world, *state, BLOCKS, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    uint32_t *blocks = malloc(BLOCKS * DEGREE * sizeof(*blocks));
    random_world(&world, SEED, DEGREE, blocks);
    free(blocks);
    uint64_t *reached, *direct;
    struct block_walk_result wanted = walk_good(&world, 7, 1, &reached);
    close(world.fd);
    world.fd = open(world.path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (world.fd < 0) {
        free(reached);
        print_message("this file system has no O_DIRECT\n");
        skip();
        return;
    }
    struct block_walk_result result = walk_good(&world, 7, 2, &direct);
    assert_int_equal(result.reached_blocks, wanted.reached_blocks);
    assert_int_equal(result.passes, wanted.passes);
    assert_memory_equal(reached, direct, block_walk_words(BLOCKS) * sizeof(uint64_t));
    free(reached);
    free(direct);
    close(world.fd);
}

/* ---- progress and memory ---- */

struct watch {
    uint64_t calls;
    uint64_t last;
    uint64_t stop_at; /* call */
    bool ascending;
};

static enum status watch_progress(void *context, uint64_t blocks_read, struct error *err)
{
    struct watch *watch = context;
    watch->ascending = watch->ascending && blocks_read > watch->last;
    watch->last = blocks_read;
    if (++watch->calls == watch->stop_at)
        return error_set(err, STATUS_CANCELLED, "interrupted");
    return STATUS_OK;
}

static void walk_tells_how_far_it_is_and_can_be_stopped(void **state)
{
    enum { BLOCKS = 2500, DEGREE = 4 };
    struct world world;
    world_open(&world, *state, BLOCKS, BLOCK_PAGE_BYTES, BLOCK_ADJACENCY_GAPS);
    uint32_t *blocks = malloc(BLOCKS * DEGREE * sizeof(*blocks));
    random_world(&world, SEED, DEGREE, blocks);
    free(blocks);
    struct watch watch = {.ascending = true};
    struct block_walk_params params = world_params(&world, 0);
    params.on_progress = watch_progress;
    params.context = &watch;
    struct block_walk_result result = {0};
    struct error err = {0};
    omp_set_num_threads(2);
    assert_int_equal(block_walk(&params, &result, &err), STATUS_OK);
    assert_true(watch.ascending);
    assert_int_equal(watch.last, result.reached_blocks);
    assert_true(watch.calls >= BLOCKS / 1024);

    const uint64_t calls = watch.calls;
    uint64_t bits[BLOCKS / 64 + 1] = {0};
    params.reached = bits;
    for (uint64_t stop_at = 1; stop_at <= calls; stop_at++) {
        watch = (struct watch){.stop_at = stop_at};
        result.reached_blocks = 99;
        assert_int_equal(block_walk(&params, &result, &err), STATUS_CANCELLED);
        assert_string_equal(err.text, "interrupted");
        assert_int_equal(watch.calls, stop_at);
        assert_int_equal(result.reached_blocks, 99);
        assert_int_equal(bits_count(bits, ARRAY_LENGTH(bits)), 0);
    }
    close(world.fd);
}

static void memory_is_two_bits_a_block_and_a_buffer(void **state)
{
    (void)state;
    const uint64_t fixed = block_walk_memory_bytes(1);
    assert_true(fixed >= BLOCK_WALK_BUFFER_BYTES && fixed < BLOCK_WALK_BUFFER_BYTES + (1 << 20));
    const uint64_t count = UINT64_C(100000000);
    assert_true(block_walk_memory_bytes(count) >= BLOCK_WALK_BUFFER_BYTES + count / 4);
    assert_true(block_walk_memory_bytes(count) <= fixed + count / 4 + (16 << 10));
    assert_int_equal(block_walk_words(1), 1);
    assert_int_equal(block_walk_words(64), 1);
    assert_int_equal(block_walk_words(65), 2);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, fixture_directory_setup, fixture_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(lone_block_reaches_itself),
        CASE(chain_is_followed_to_its_end_in_either_direction),
        CASE(pass_expands_what_it_reached_ahead),
        CASE(cycle_ends),
        CASE(what_nothing_leads_to_is_not_looked_at),
        CASE(random_graphs_agree_with_a_search_in_memory_at_any_team_size),
        CASE(damaged_block_is_named),
        CASE(bad_list_is_named),
        CASE(file_that_ends_early_is_named),
        CASE(unreadable_file_is_an_error),
        CASE(holes_of_a_file_beyond_4_gib_are_not_reached),
        CASE(direct_reads_give_the_same),
        CASE(walk_tells_how_far_it_is_and_can_be_stopped),
        CASE(memory_is_two_bits_a_block_and_a_buffer),
    };
    return cmocka_run_group_tests_name("block_walk", tests, NULL, NULL);
}
