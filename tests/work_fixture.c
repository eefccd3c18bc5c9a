/*
 * work_fixture.c - see work_fixture.h. Stateless; failures end the test, but where it says that
 * they do not.
 */
#include "tests/work_fixture.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/random.h"
#include "tests/directory_fixture.h"

enum { SEED = 5 };

const struct work_piece GRAPH_3 = {BUILD_STAGE_GRAPH, 3};
const struct work_piece GRAPH_4 = {BUILD_STAGE_GRAPH, 4};
const struct work_piece PACK = {BUILD_STAGE_PACK, WORK_WHOLE};

const struct part PARTS[PART_COUNT] = {
    {"lists", 4, {300, 0, 41, 64}},
    {"ids-7", 1, {5}},
};

const struct info INFO = {123456789012, 77};

const char *path_in(const struct work *work, const char *name)
{
    return fixture_path(work_path(work), name);
}

struct image load(const char *path)
{
    struct image image;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    ssize_t got = read(fd, image.bytes, sizeof(image.bytes));
    assert_true(got >= 0 && (size_t)got < sizeof(image.bytes));
    image.length = (size_t)got;
    close(fd);
    return image;
}

void save(const char *path, const struct image *image)
{
    directory_fixture_write(path, image->bytes, image->length);
}

struct work *open_work_as(const char *path, enum work_hold hold)
{
    struct work *work = NULL;
    struct error err = {0};
    if (work_open(path, JOB, hold, &work, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return work;
}

struct work *open_work(const char *directory)
{
    return open_work_as(fixture_path(directory, "work"), WORK_ALONE);
}

void expect_refusal(const char *path, const char *job, enum work_hold hold, const char *words)
{
    struct work *work = NULL;
    struct error err = {0};
    enum status status = work_open(path, job, hold, &work, &err);
    assert_null(work);
    if (status != STATUS_EXISTS || !strstr(err.text, words) || !strstr(err.text, path))
        fail_msg("wanted a refusal of %s with \"%s\", got %s: \"%s\"", path, words,
                 status_name(status), err.text);
}

void section_fill(struct work_piece piece, size_t part, uint32_t section, uint8_t data[BYTES_MAX])
{
    uint64_t stream = ((uint64_t)piece.shard * 10 + part) * 10 + section;
    for (size_t i = 0; i < BYTES_MAX; i++)
        data[i] = (uint8_t)random_at(SEED + stream, i);
}

static enum status part_write(struct work *work, struct work_piece piece, size_t part,
                              struct work_output **out, struct error *err)
{
    uint8_t data[BYTES_MAX];
    enum status status = work_output_open(work, piece, PARTS[part].name, BUFFER_BYTES, out, err);
    for (uint32_t s = 0; status == STATUS_OK && s < PARTS[part].section_count; s++) {
        section_fill(piece, part, s, data);
        if (s > 0)
            work_output_section(*out);
        /* A few bytes first, so that what follows does not begin with an empty buffer. */
        size_t first = PARTS[part].section_bytes[s] / 5;
        status = work_output_append(*out, data, first, err);
        if (status == STATUS_OK)
            status =
                work_output_append(*out, data + first, PARTS[part].section_bytes[s] - first, err);
    }
    return status;
}

enum status piece_write(struct work *work, struct work_piece piece, struct error *err)
{
    struct work_output *outputs[PART_COUNT] = {NULL};
    struct build_stage_record cost = {1.5, 2.5, 1000, 7};
    enum status status = STATUS_OK;
    for (size_t p = 0; status == STATUS_OK && p < PART_COUNT; p++)
        status = part_write(work, piece, p, &outputs[p], err);
    if (status == STATUS_OK)
        return work_piece_commit(work, piece, outputs, PART_COUNT, &INFO, sizeof(INFO), &cost, err);
    for (size_t p = 0; p < PART_COUNT; p++)
        work_output_abort(outputs[p]);
    return status;
}

void write_good(struct work *work, struct work_piece piece)
{
    struct error err = {0};
    if (piece_write(work, piece, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

enum status section_read(const struct work *work, struct work_piece piece, size_t part,
                         uint32_t section, size_t step, struct error *err)
{
    const size_t bytes = PARTS[part].section_bytes[section];
    uint8_t wanted[BYTES_MAX], got[BYTES_MAX] = {0};
    struct work_input *input = NULL;
    section_fill(piece, part, section, wanted);
    enum status status =
        work_input_open(work, piece, PARTS[part].name, section, BUFFER_BYTES, &input, err);
    if (status != STATUS_OK)
        return status;
    for (size_t done = 0; status == STATUS_OK && done < bytes; done += step) {
        if (work_input_left(input) != bytes - done)
            status = error_set(err, STATUS_INVALID, "left is wrong");
        else
            status = work_input_read(input, got + done, MIN(step, bytes - done), err);
    }
    if (status == STATUS_OK && work_input_left(input) != 0)
        status = error_set(err, STATUS_INVALID, "something is left");
    if (status == STATUS_OK && memcmp(wanted, got, bytes) != 0)
        status = error_set(err, STATUS_INVALID, "other bytes");
    work_input_close(input);
    return status;
}

enum status piece_read(const struct work *work, struct work_piece piece, struct error *err)
{
    enum status first = STATUS_OK;
    for (size_t p = 0; p < PART_COUNT; p++) {
        for (uint32_t s = 0; s < PARTS[p].section_count; s++) {
            /* All are read, even after a fault: none may hurt. */
            enum status status =
                section_read(work, piece, p, s, 7, first == STATUS_OK ? err : NULL);
            if (first == STATUS_OK)
                first = status;
        }
    }
    return first;
}

void expect_good(const struct work *work, struct work_piece piece)
{
    struct error err = {0};
    if (!work_piece_done(work, piece))
        fail_msg("the piece is not done");
    if (piece_read(work, piece, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

void expect_discarded(enum status status, const struct error *err, const char *file)
{
    if (status != STATUS_CORRUPT || !strstr(err->text, file) ||
        !strstr(err->text, "; the piece is discarded: run the same command again"))
        fail_msg("wanted %s to be discarded, got %s: \"%s\"", file, status_name(status), err->text);
}
