/*
 * work_fixture.h - work directories and pieces with known bytes, for tests.
 */
#ifndef NIGHTJAR_TESTS_WORK_FIXTURE_H
#define NIGHTJAR_TESTS_WORK_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "builder/work.h"
#include "tests/generation_fixture.h"

#define JOB "input base.u8bin\ndegree 32\nseed 1\n"

enum {
    CALLS_MAX = 60, /* disk calls of one commit, with room */
    BUFFER_BYTES = 64,
    BYTES_MAX = 400, /* of a section */
    PART_COUNT = 2,
};

extern const struct work_piece GRAPH_3, GRAPH_4, PACK;

/* What every test piece consists of. */
struct part {
    const char *name;
    uint32_t section_count;
    size_t section_bytes[4];
};
extern const struct part PARTS[PART_COUNT];

struct info {
    uint64_t rows;
    uint32_t entry;
};
extern const struct info INFO;

/* ---- files ---- */

/* WORK/NAME; valid until the teardown. */
const char *path_in(const struct work *work, const char *name);

/* A file in memory. */
struct image {
    uint8_t bytes[1024];
    size_t length;
};

struct image load(const char *path);
void save(const char *path, const struct image *image);

/* ---- directories ---- */

struct work *open_work_as(const char *path, enum work_hold hold);
/* DIRECTORY/work, held alone. */
struct work *open_work(const char *directory);

/* STATUS_EXISTS with `words` in the error. */
void expect_refusal(const char *path, const char *job, enum work_hold hold, const char *words);

/* ---- pieces ---- */

/* The bytes of a section. */
void section_fill(struct work_piece piece, size_t part, uint32_t section, uint8_t data[BYTES_MAX]);

/* Makes the whole piece. Fails no test, so that threads and children may call it. */
NODISCARD enum status piece_write(struct work *work, struct work_piece piece, struct error *err);
void write_good(struct work *work, struct work_piece piece);

/* Reads one section in steps of `step` bytes; STATUS_INVALID when it has other bytes. */
NODISCARD enum status section_read(const struct work *work, struct work_piece piece, size_t part,
                                   uint32_t section, size_t step, struct error *err);

/* Reads all sections; the first one's fault. */
NODISCARD enum status piece_read(const struct work *work, struct work_piece piece,
                                 struct error *err);
void expect_good(const struct work *work, struct work_piece piece);

/* STATUS_CORRUPT, naming the file and saying what to do. */
void expect_discarded(enum status status, const struct error *err, const char *file);

#endif
