/*
 * test_vector_file.c - vector files: round trips, and every refusal. Keys and ground truth have
 * test_vector_truth.c.
 *
 * pread() and preadv() are replaced by this program's own, which can be told to interrupt and to
 * cut reads, because no real file system does that on demand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "common/file_io.h"
#include "common/random.h"
#include "common/vector_file.h"
#include "tests/directory_fixture.h"
#include "tests/key_files.h"

/* ---- interrupted and short reads ---- */

static bool reads_are_bad;
static unsigned read_calls;

/* Every second call is interrupted; the others move at most this many bytes. */
enum { SHORT_READ_BYTES = 37 };

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    if (reads_are_bad && read_calls++ % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    if (reads_are_bad && bytes > SHORT_READ_BYTES)
        bytes = SHORT_READ_BYTES;
    return syscall(SYS_pread64, fd, buffer, bytes, offset);
}

ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset)
{
    if (reads_are_bad && read_calls++ % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    if (reads_are_bad && count > 5)
        count = 5; /* an odd number: cuts between a prefix and its row */
    return syscall(SYS_preadv, fd, parts, (long)count, (long)offset, 0L);
}

/* ---- fixture: a directory of its own ---- */

struct fixture {
    char directory[DIRECTORY_FIXTURE_BYTES];
    char path[4200];
    struct error err;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    if (!fixture)
        return -1;
    *state = fixture;
    reads_are_bad = false;
    return directory_fixture_create(fixture->directory);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    int result = directory_fixture_remove(fixture->directory);
    free(fixture);
    reads_are_bad = false;
    return result;
}

static const char *at(struct fixture *fixture, const char *name)
{
    snprintf(fixture->path, sizeof(fixture->path), "%s/%s", fixture->directory, name);
    return fixture->path;
}

static const char *put(struct fixture *fixture, const char *name, const void *bytes, size_t count)
{
    const char *path = at(fixture, name);
    directory_fixture_write(path, bytes, count);
    return path;
}

/* The error is one line, begins with the path and says `words`. */
static void assert_says(const struct fixture *fixture, const char *words)
{
    const char *text = fixture->err.text;
    const char *label = file_label(fixture->path);
    if (strncmp(text, label, strlen(label)) != 0 || strchr(text, '\n') || !strstr(text, words))
        fail_msg("\"%s\" does not begin with the path and say \"%s\"", text, words);
}

static void assert_refused(struct fixture *fixture, enum status wanted, const char *words)
{
    struct vector_file *file = NULL;
    enum status status = vector_file_open(fixture->path, &file, &fixture->err);
    if (status == STATUS_OK)
        fail_msg("%s was taken", fixture->path);
    assert_null(file);
    assert_says(fixture, words);
    assert_int_equal(status, wanted);
}

/* A .?bin header and rows of zeros, `bytes` in all. */
static void put_bin(struct fixture *fixture, const char *name, uint32_t count, uint32_t dim,
                    size_t bytes)
{
    uint8_t content[4096] = {0};
    assert_true(bytes <= sizeof(content));
    memcpy(content, &count, 4);
    memcpy(content + 4, &dim, 4);
    put(fixture, name, content, bytes);
}

/* ---- round trips ---- */

static const struct {
    const char *name;
    enum element_type type;
} written_formats[] = {
    {"a.u8bin", ELEMENT_U8},  {"a.i8bin", ELEMENT_I8},  {"a.f16bin", ELEMENT_F16},
    {"a.fbin", ELEMENT_F32},  {"a.ibin", ELEMENT_I32},  {"a.bvecs", ELEMENT_U8},
    {"a.fvecs", ELEMENT_F32}, {"a.ivecs", ELEMENT_I32}, {"u8.npy", ELEMENT_U8},
    {"i8.npy", ELEMENT_I8},   {"f16.npy", ELEMENT_F16}, {"f32.npy", ELEMENT_F32},
    {"i32.npy", ELEMENT_I32},
};

/* Writes random bytes as `shape` in uneven appends; returns them. */
static uint8_t *write_random(struct fixture *fixture, const char *name, struct vector_shape shape)
{
    size_t row = shape.dim * element_bytes(shape.type), bytes = shape.count * row;
    uint8_t *rows = malloc(bytes);
    assert_non_null(rows);
    for (size_t i = 0; i < bytes; i++)
        rows[i] = (uint8_t)random_at(shape.dim, i);
    struct vector_writer *writer;
    assert_int_equal(vector_writer_open(at(fixture, name), shape, &writer, &fixture->err),
                     STATUS_OK);
    uint64_t done = 0;
    for (uint64_t step = 1; done < shape.count; step = step * 3 % 1000) {
        uint64_t part = step < shape.count - done ? step : shape.count - done;
        assert_int_equal(vector_writer_append(writer, rows + done * row, part, NULL), STATUS_OK);
        done += part;
    }
    assert_int_equal(access(at(fixture, name), F_OK), -1); /* not before finish */
    assert_int_equal(vector_writer_finish(writer, &fixture->err), STATUS_OK);
    return rows;
}

static void check_reads(struct fixture *fixture, const char *name, struct vector_shape shape)
{
    uint8_t *rows = write_random(fixture, name, shape);
    size_t row = shape.dim * element_bytes(shape.type);
    struct vector_file *file;
    assert_int_equal(vector_file_open(at(fixture, name), &file, &fixture->err), STATUS_OK);
    struct vector_shape found = vector_file_shape(file);
    assert_int_equal(found.count, shape.count);
    assert_int_equal(found.dim, shape.dim);
    assert_int_equal(found.type, shape.type);
    assert_string_equal(vector_file_path(file), fixture->path);

    uint8_t *read = malloc(shape.count * row);
    assert_non_null(read);
    assert_int_equal(vector_file_read(file, 0, shape.count, read, NULL), STATUS_OK);
    assert_memory_equal(read, rows, shape.count * row);
    uint64_t first = shape.count / 3, count = shape.count - first;
    assert_int_equal(vector_file_read(file, first, count, read, NULL), STATUS_OK);
    assert_memory_equal(read, rows + first * row, count * row);
    assert_int_equal(vector_file_read(file, shape.count, 0, NULL, NULL), STATUS_OK);
    free(read);

    size_t stride = row + 13;
    uint8_t *strided = malloc(count * stride);
    assert_non_null(strided);
    memset(strided, 0xee, count * stride);
    assert_int_equal(vector_file_read_strided(file, first, count, strided, stride, NULL),
                     STATUS_OK);
    for (uint64_t i = 0; i < count; i++) {
        assert_memory_equal(strided + i * stride, rows + (first + i) * row, row);
        for (size_t gap = row; gap < stride; gap++)
            assert_int_equal(strided[i * stride + gap], 0);
    }
    free(strided);
    vector_file_close(file);
    free(rows);
}

static void every_format_round_trips(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t dims[] = {1, 3, 128};
    for (size_t i = 0; i < ARRAY_LENGTH(written_formats); i++) {
        for (size_t d = 0; d < ARRAY_LENGTH(dims); d++) {
            struct vector_shape shape = {1301, dims[d], written_formats[i].type};
            check_reads(fixture, written_formats[i].name, shape);
            assert_int_equal(unlink(at(fixture, written_formats[i].name)), 0);
        }
    }
    assert_int_equal(directory_fixture_entries(fixture->directory), 0);
}

static void interrupted_and_short_reads_are_completed(void **state)
{
    struct fixture *fixture = *state;
    reads_are_bad = true;
    for (size_t i = 0; i < ARRAY_LENGTH(written_formats); i++)
        check_reads(fixture, written_formats[i].name,
                    (struct vector_shape){50, 17, written_formats[i].type});
}

static void largest_dimensions_round_trip(void **state)
{
    struct fixture *fixture = *state;
    check_reads(fixture, "a.fvecs", (struct vector_shape){3, VECTOR_DIM_MAX, ELEMENT_F32});
    check_reads(fixture, "a.ibin", (struct vector_shape){2, 65536, ELEMENT_I32});
    check_reads(fixture, "a.ivecs", (struct vector_shape){2, 65536, ELEMENT_I32});
}

static void load_reads_all_and_keeps_to_its_limit(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape shape = {10, 4, ELEMENT_U8}, found = {0};
    uint8_t *rows = write_random(fixture, "a.bvecs", shape);
    void *read = NULL;
    assert_int_equal(vector_file_load(at(fixture, "a.bvecs"), 40, &found, &read, NULL), STATUS_OK);
    assert_memory_equal(read, rows, 40);
    assert_int_equal(found.count, 10);
    free(read);
    read = NULL;
    assert_int_equal(vector_file_load(fixture->path, 39, &found, &read, &fixture->err),
                     STATUS_INVALID);
    assert_says(fixture, "more than the 39 bytes allowed");
    assert_null(read);
    free(rows);
}

static void npy_written_is_what_numpy_writes(void **state)
{
    struct fixture *fixture = *state;
    uint8_t content[1024];
    free(write_random(fixture, "a.npy", (struct vector_shape){3, 2, ELEMENT_F32}));
    int fd = open(at(fixture, "a.npy"), O_RDONLY);
    assert_int_equal(read(fd, content, sizeof(content)), 128 + 24);
    close(fd);
    static const char head[] =
        "\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }  ";
    assert_memory_equal(content, head, sizeof(head) - 1);
    assert_int_equal(content[127], '\n');
}

/* ---- what is not a file to read ---- */

static void missing_and_foreign_names_are_refused(void **state)
{
    struct fixture *fixture = *state;
    at(fixture, "absent.fbin");
    assert_refused(fixture, STATUS_NOT_FOUND, "no such file");
    put(fixture, "a.txt", "hello", 5);
    assert_refused(fixture, STATUS_INVALID, "wanted .u8bin");
    put(fixture, ".fbin", "hello", 5);
    assert_refused(fixture, STATUS_INVALID, "wanted .u8bin");
    put(fixture, "afbin", "hello", 5);
    assert_refused(fixture, STATUS_INVALID, "wanted .u8bin");
    put(fixture, "a.u64bin", "hello", 5);
    assert_refused(fixture, STATUS_INVALID, "wanted .u8bin");
}

static void only_regular_files_are_opened(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(mkdir(at(fixture, "d.fbin"), 0700), 0);
    assert_refused(fixture, STATUS_INVALID, "is a directory");
    assert_int_equal(mkfifo(at(fixture, "f.npy"), 0600), 0);
    assert_refused(fixture, STATUS_INVALID, "is a FIFO");
    assert_int_equal(symlink("/dev/zero", at(fixture, "z.u8bin")), 0);
    assert_refused(fixture, STATUS_INVALID, "is a device");

    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (strlen(at(fixture, "s.fvecs")) < sizeof(address.sun_path)) {
        memcpy(address.sun_path, fixture->path, strlen(fixture->path));
        assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
        assert_refused(fixture, STATUS_INVALID, "socket");
    }
    close(fd);
}

static void empty_files_are_refused(void **state)
{
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(written_formats); i++) {
        put(fixture, written_formats[i].name, "", 0);
        assert_refused(fixture, STATUS_CORRUPT, "is empty");
    }
}

static void a_size_off_by_one_byte_is_refused(void **state)
{
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(written_formats); i++) {
        struct vector_shape shape = {7, 5, written_formats[i].type};
        free(write_random(fixture, written_formats[i].name, shape));
        struct stat info;
        assert_int_equal(stat(fixture->path, &info), 0);
        assert_int_equal(truncate(fixture->path, info.st_size - 1), 0);
        assert_refused(fixture, STATUS_CORRUPT, "truncated");
        assert_int_equal(truncate(fixture->path, info.st_size + 1), 0);
        assert_refused(fixture, STATUS_CORRUPT,
                       strstr(fixture->path, "vecs") ? "whole number" : "too long");
    }
}

static void bin_headers_out_of_limits_are_refused(void **state)
{
    struct fixture *fixture = *state;
    put_bin(fixture, "a.fbin", 1, 1, 7);
    assert_refused(fixture, STATUS_CORRUPT, "7 bytes, wanted at least the header's 8");
    put_bin(fixture, "a.fbin", 0, 4, 8);
    assert_refused(fixture, STATUS_INVALID, "no rows");
    put_bin(fixture, "a.fbin", 4, 0, 8);
    assert_refused(fixture, STATUS_INVALID, "dimension 0, wanted 1 to 8192");
    put_bin(fixture, "a.u8bin", 1, 8193, 8);
    assert_refused(fixture, STATUS_INVALID, "dimension 8193, wanted 1 to 8192");
    put_bin(fixture, "a.ibin", 1, 65537, 8);
    assert_refused(fixture, STATUS_INVALID, "dimension 65537, wanted 1 to 65536");
    put_bin(fixture, "a.fbin", UINT32_MAX, UINT32_MAX, 8);
    assert_refused(fixture, STATUS_INVALID, "dimension 4294967295");
    put_bin(fixture, "a.fbin", UINT32_MAX, 8192, 8);
    assert_refused(fixture, STATUS_CORRUPT, "implies 140737488322568: truncated");
    /* A product that is the file's size modulo 2^32 must not pass. */
    put_bin(fixture, "a.fbin", 1u << 19, 1u << 13, 8);
    assert_refused(fixture, STATUS_CORRUPT, "truncated");
}

static void vecs_headers_out_of_limits_are_refused(void **state)
{
    struct fixture *fixture = *state;
    put(fixture, "a.fvecs", "\x01\x00\x00", 3);
    assert_refused(fixture, STATUS_CORRUPT, "3 bytes, wanted at least the 4");
    put(fixture, "a.fvecs", "\x00\x00\x00\x00", 4);
    assert_refused(fixture, STATUS_INVALID, "dimension 0");
    put(fixture, "a.bvecs", "\xff\xff\xff\xff", 4);
    assert_refused(fixture, STATUS_INVALID, "dimension 4294967295");
    put(fixture, "a.bvecs", "\x02\x00\x00\x00x", 5);
    assert_refused(fixture, STATUS_CORRUPT, "whole number of 6-byte rows");
}

static void a_vecs_row_of_another_dimension_is_named(void **state)
{
    struct fixture *fixture = *state;
    uint32_t words[1000 * 3];
    for (uint32_t i = 0; i < 1000; i++)
        memcpy(&words[i * 3], (const uint32_t[]){2, i, i}, 12);
    words[777 * 3] = 3;
    struct vector_file *file;
    uint32_t rows[2000];
    assert_int_equal(vector_file_open(put(fixture, "a.ivecs", words, sizeof(words)), &file, NULL),
                     STATUS_OK);
    assert_int_equal(vector_file_read(file, 0, 777, rows, NULL), STATUS_OK);
    for (int bad = 0; bad <= 1; bad++) {
        reads_are_bad = bad;
        assert_int_equal(vector_file_read(file, 10, 900, rows, &fixture->err), STATUS_CORRUPT);
        assert_says(fixture, "row 777 has dimension 3, the first row has 2");
    }
    vector_file_close(file);
}

static void rows_beyond_the_file_are_refused(void **state)
{
    struct fixture *fixture = *state;
    uint8_t rows[64];
    struct vector_file *file;
    put_bin(fixture, "a.u8bin", 4, 2, 16);
    assert_int_equal(vector_file_open(fixture->path, &file, NULL), STATUS_OK);
    assert_int_equal(vector_file_read(file, 3, 2, rows, &fixture->err), STATUS_INVALID);
    assert_says(fixture, "it has 4");
    assert_int_equal(vector_file_read(file, 5, 0, rows, NULL), STATUS_INVALID);
    assert_int_equal(vector_file_read(file, 2, UINT64_MAX, rows, NULL), STATUS_INVALID);
    assert_int_equal(vector_file_read_strided(file, 0, 2, rows, 1, NULL), STATUS_INVALID);
    vector_file_close(file);
    vector_file_close(NULL);
}

static void a_file_truncated_after_opening_ends_in_an_error(void **state)
{
    struct fixture *fixture = *state;
    for (size_t i = 0; i < ARRAY_LENGTH(written_formats); i++) {
        struct vector_file *file;
        struct vector_shape shape = {40, 6, written_formats[i].type};
        uint8_t rows[40 * 32];
        free(write_random(fixture, written_formats[i].name, shape));
        assert_int_equal(vector_file_open(fixture->path, &file, NULL), STATUS_OK);
        assert_int_equal(truncate(fixture->path, 141), 0);
        assert_int_equal(vector_file_read(file, 0, 40, rows, &fixture->err), STATUS_CORRUPT);
        assert_says(fixture, "truncated");
        assert_int_equal(vector_file_read_strided(file, 0, 40, rows, 32, NULL), STATUS_CORRUPT);
        assert_int_equal(truncate(fixture->path, 0), 0);
        assert_int_equal(vector_file_read(file, 0, 1, rows, NULL), STATUS_CORRUPT);
        vector_file_close(file);
    }
}

static void a_very_long_path_leaves_room_for_the_reason(void **state)
{
    struct fixture *fixture = *state;
    char name[4000];
    memset(name, 'x', sizeof(name));
    for (size_t i = 200; i < sizeof(name) - 10; i += 200)
        name[i] = '/';
    memcpy(name + sizeof(name) - 6, ".fbin", 6);
    at(fixture, name);
    assert_refused(fixture, STATUS_NOT_FOUND, "no such file");
}

/* ---- .npy ---- */

/* `dictionary` under a version 1.0 preamble, then `data_bytes` zeros. */
static void put_npy(struct fixture *fixture, const char *dictionary, size_t data_bytes)
{
    uint8_t content[2048] = "\x93NUMPY\x01";
    size_t length = strlen(dictionary);
    assert_true(10 + length + data_bytes <= sizeof(content));
    content[8] = (uint8_t)(length & 0xff);
    content[9] = (uint8_t)(length >> 8);
    memcpy(content + 10, dictionary, length);
    put(fixture, "a.npy", content, 10 + length + data_bytes);
}

static void npy_dictionaries_of_any_order_and_quotes_are_taken(void **state)
{
    struct fixture *fixture = *state;
    static const char *const good[] = {
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n",
        "{'shape': (3, 2), 'descr': '<f4', 'fortran_order': False}",
        "{\"fortran_order\":False,\"shape\":(3,2,),\"descr\":\"<f4\"}      \n",
        " { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 3 , 2 ) , } \n",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        struct vector_file *file;
        put_npy(fixture, good[i], 24);
        if (vector_file_open(fixture->path, &file, &fixture->err) != STATUS_OK)
            fail_msg("%s: %s", good[i], fixture->err.text);
        assert_int_equal(vector_file_shape(file).count, 3);
        assert_int_equal(vector_file_shape(file).dim, 2);
        assert_int_equal(vector_file_shape(file).type, ELEMENT_F32);
        vector_file_close(file);
    }
}

static void npy_versions_2_and_3_are_taken(void **state)
{
    struct fixture *fixture = *state;
    static const char dictionary[] = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4)}\n";
    uint8_t content[256] = "\x93NUMPY\x02";
    content[8] = sizeof(dictionary) - 1;
    memcpy(content + 12, dictionary, sizeof(dictionary) - 1);
    for (uint8_t version = 2; version <= 3; version++) {
        struct vector_file *file;
        uint8_t row[4];
        content[6] = version;
        memcpy(content + 12 + sizeof(dictionary) - 1, "abcd", 4);
        put(fixture, "a.npy", content, 12 + sizeof(dictionary) - 1 + 4);
        assert_int_equal(vector_file_open(fixture->path, &file, NULL), STATUS_OK);
        assert_int_equal(vector_file_read(file, 0, 1, row, NULL), STATUS_OK);
        assert_memory_equal(row, "abcd", 4);
        vector_file_close(file);
    }
    content[6] = 4;
    put(fixture, "a.npy", content, 200);
    assert_refused(fixture, STATUS_UNSUPPORTED, "version 4.0, wanted 1.0");
    content[6] = 2;
    content[11] = 1;
    put(fixture, "a.npy", content, 200);
    assert_refused(fixture, STATUS_CORRUPT, "wanted at most 65536");
}

static void npy_arrays_of_other_kinds_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *dictionary;
        enum status status;
        const char *words;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2)}", STATUS_UNSUPPORTED,
         "Fortran order"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2)}", STATUS_UNSUPPORTED,
         "type '<f8', wanted |u1"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (3, 2)}", STATUS_UNSUPPORTED,
         "type '>f4'"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 2)}", STATUS_UNSUPPORTED,
         "structured"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", STATUS_INVALID,
         "array of 1 dimension, wanted 2"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': ()}", STATUS_INVALID,
         "array of 0 dimensions"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2, 1)}", STATUS_INVALID,
         "array of 3 dimensions"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2)}", STATUS_INVALID, "no rows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0)}", STATUS_INVALID,
         "dimension 0"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 8193)}", STATUS_INVALID,
         "dimension 8193"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4294967298)}", STATUS_INVALID,
         "dimension 4294967298"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
         STATUS_INVALID, "more than a file can hold"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616, 2)}",
         STATUS_CORRUPT, "64-bit"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1)}", STATUS_CORRUPT, "too long"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2)}", STATUS_CORRUPT, "truncated"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        put_npy(fixture, cases[i].dictionary, 24);
        assert_refused(fixture, cases[i].status, cases[i].words);
    }
}

static void broken_npy_headers_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const char *const bad[] = {
        "",
        "{",
        "}",
        "{}",
        "[]",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (3, 2)}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'shape': (3, 2)}",
        "{'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)}\n\n",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr' '<f4', 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': f4, 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (3, 2)}",
        "{'descr': '<f4",
        "{'shape': (3,",
        "{'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct vector_file *file;
        put_npy(fixture, bad[i], 24);
        if (vector_file_open(fixture->path, &file, &fixture->err) == STATUS_OK)
            fail_msg("taken: %s", bad[i]);
        assert_says(fixture, ".npy");
    }
    put(fixture, "a.npy", "\x93NUMPY\x01\x00\x10", 9);
    assert_refused(fixture, STATUS_CORRUPT, "too short for an .npy header");
    put(fixture, "a.npy", "\x93NUMPY\x01\x00\xff\x00{}", 12);
    assert_refused(fixture, STATUS_CORRUPT, "claims 265: truncated");
    put(fixture, "a.npy", "not NumPy at all", 16);
    assert_refused(fixture, STATUS_CORRUPT, "NumPy's magic");
}

/* ---- values ---- */

static void special_values_are_named_by_row_and_dimension(void **state)
{
    struct fixture *fixture = *state;
    float rows[3 * 8] = {0}; /* dim 5, stride of 8: what lies between is not looked at */
    const uint32_t nan = 0x7fc00000, infinity = 0xff800000;
    struct vector_shape shape = {100, 5, ELEMENT_F32};
    at(fixture, "x.fbin");
    memcpy(&rows[7], &nan, 4);
    assert_int_equal(vector_rows_check(fixture->path, &shape, METRIC_L2, 40, 3, rows, 32, NULL),
                     STATUS_OK);
    memcpy(&rows[2 * 8 + 4], &nan, 4);
    assert_int_equal(
        vector_rows_check(fixture->path, &shape, METRIC_L2, 40, 3, rows, 32, &fixture->err),
        STATUS_INVALID);
    assert_says(fixture, ": row 42 has a NaN at dimension 4");
    memcpy(&rows[8], &infinity, 4);
    assert_int_equal(
        vector_rows_check(fixture->path, &shape, METRIC_IP, 40, 3, rows, 32, &fixture->err),
        STATUS_INVALID);
    assert_says(fixture, ": row 41 has an infinity at dimension 0");
    const uint16_t halves[4] = {0x3c00, 0x7e00, 0x7c00, 0};
    shape = (struct vector_shape){2, 2, ELEMENT_F16};
    assert_int_equal(
        vector_rows_check(fixture->path, &shape, METRIC_L2, 0, 2, halves, 4, &fixture->err),
        STATUS_INVALID);
    assert_says(fixture, ": row 0 has a NaN at dimension 1");
}

static void zero_rows_have_no_direction_under_cosine(void **state)
{
    struct fixture *fixture = *state;
    const float floats[4] = {0x1p-149f, 0, -0.0f, 0};
    const uint16_t halves[4] = {0x8000, 0x8001, 0, 0x8000};
    const uint8_t bytes[4] = {0, 128, 0, 0};
    const struct {
        enum element_type type;
        const void *rows;
    } cases[] = {
        {ELEMENT_F32, floats}, {ELEMENT_F16, halves}, {ELEMENT_U8, bytes}, {ELEMENT_I8, bytes}};
    at(fixture, "x.fbin");
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct vector_shape shape = {2, 2, cases[i].type};
        size_t stride = 2 * element_bytes(cases[i].type);
        assert_int_equal(vector_rows_check(fixture->path, &shape, METRIC_COSINE, 8, 2,
                                           cases[i].rows, stride, &fixture->err),
                         STATUS_INVALID);
        assert_says(fixture, ": row 9 is a zero vector, which has no direction under cosine");
        assert_int_equal(
            vector_rows_check(fixture->path, &shape, METRIC_L2, 8, 2, cases[i].rows, stride, NULL),
            STATUS_OK);
    }
}

/* ---- writers ---- */

static void assert_writer_refused(struct fixture *fixture, struct vector_shape shape,
                                  enum status wanted, const char *words)
{
    struct vector_writer *writer = NULL;
    assert_int_equal(vector_writer_open(fixture->path, shape, &writer, &fixture->err), wanted);
    assert_null(writer);
    assert_says(fixture, words);
}

static void writers_refuse_what_a_format_cannot_hold(void **state)
{
    struct fixture *fixture = *state;
    at(fixture, "a.fbin");
    assert_writer_refused(fixture, (struct vector_shape){1, 1, ELEMENT_U8}, STATUS_INVALID,
                          ".fbin holds f32, the rows are u8");
    assert_writer_refused(fixture, (struct vector_shape){0, 1, ELEMENT_F32}, STATUS_INVALID,
                          "no rows");
    assert_writer_refused(fixture, (struct vector_shape){1, 8193, ELEMENT_F32}, STATUS_INVALID,
                          "dimension 8193");
    assert_writer_refused(fixture, (struct vector_shape){1ull << 32, 1, ELEMENT_F32},
                          STATUS_INVALID, "at most 4294967295");
    at(fixture, "a.npy");
    assert_writer_refused(fixture, (struct vector_shape){1, 1, ELEMENT_NONE}, STATUS_INVALID,
                          "no element type");
    at(fixture, "a.xyz");
    assert_writer_refused(fixture, (struct vector_shape){1, 1, ELEMENT_U8}, STATUS_INVALID,
                          "wanted .u8bin");
    at(fixture, "absent/a.fbin");
    assert_writer_refused(fixture, (struct vector_shape){1, 1, ELEMENT_F32}, STATUS_IO,
                          "cannot create: No such file or directory");
    assert_int_equal(mkdir(at(fixture, "d.fbin"), 0700), 0);
    assert_writer_refused(fixture, (struct vector_shape){1, 1, ELEMENT_F32}, STATUS_EXISTS,
                          "exists and is a directory");
    assert_int_equal(directory_fixture_entries(fixture->directory), 1);
}

static void an_aborted_writer_leaves_the_old_file(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape shape = {4, 2, ELEMENT_U8};
    struct vector_writer *writer;
    put(fixture, "a.u8bin", "old", 3);
    assert_int_equal(vector_writer_open(fixture->path, shape, &writer, NULL), STATUS_OK);
    assert_int_equal(vector_writer_append(writer, "abcd", 2, NULL), STATUS_OK);
    vector_writer_abort(writer);
    vector_writer_abort(NULL);
    assert_int_equal(directory_fixture_entries(fixture->directory), 1);
    struct stat info;
    assert_int_equal(stat(fixture->path, &info), 0);
    assert_int_equal(info.st_size, 3);
}

static void the_announced_number_of_rows_is_held_to(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape shape = {4, 2, ELEMENT_U8};
    struct vector_writer *writer;
    assert_int_equal(vector_writer_open(at(fixture, "a.u8bin"), shape, &writer, NULL), STATUS_OK);
    assert_int_equal(vector_writer_append(writer, "abcdef", 3, NULL), STATUS_OK);
    assert_int_equal(vector_writer_append(writer, "abcdef", 2, &fixture->err), STATUS_INVALID);
    assert_says(fixture, "more than the 4 rows announced");
    assert_int_equal(vector_writer_finish(writer, &fixture->err), STATUS_INVALID);
    assert_says(fixture, "3 rows written, 4 announced");
    assert_int_equal(directory_fixture_entries(fixture->directory), 0);
}

/* A directory that came to stand where the file is to be: the last step of all fails. */
static void a_file_that_cannot_be_finished_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct vector_shape shape = {4, 2, ELEMENT_U8};
    struct vector_writer *writer;
    struct key_writer *keys;
    const uint64_t key = 7;
    assert_int_equal(vector_writer_open(at(fixture, "a.u8bin"), shape, &writer, NULL), STATUS_OK);
    assert_int_equal(vector_writer_append(writer, "abcdefgh", 4, NULL), STATUS_OK);
    assert_int_equal(mkdir(fixture->path, 0700), 0);
    assert_int_equal(vector_writer_finish(writer, &fixture->err), STATUS_IO);
    assert_says(fixture, "cannot rename the finished file");
    assert_int_equal(directory_fixture_entries(fixture->directory), 1);
    assert_int_equal(key_writer_open(at(fixture, "a.u64bin"), 1, &keys, NULL), STATUS_OK);
    assert_int_equal(key_writer_append(keys, &key, 1, NULL), STATUS_OK);
    assert_int_equal(mkdir(fixture->path, 0700), 0);
    assert_int_equal(key_writer_finish(keys, &fixture->err), STATUS_IO);
    assert_int_equal(directory_fixture_entries(fixture->directory), 2);
}

static void a_file_size_limit_is_told_before_the_work(void **state)
{
    struct fixture *fixture = *state;
    struct rlimit old;
    at(fixture, "a.u8bin");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit low = {.rlim_cur = 1000, .rlim_max = old.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    struct vector_writer *writer = NULL;
    enum status status = vector_writer_open(
        fixture->path, (struct vector_shape){4000, 2, ELEMENT_U8}, &writer, &fixture->err);
    if (status == STATUS_OK) { /* a file system that cannot reserve: told while writing */
        uint8_t *rows = calloc(4000, 2);
        status = vector_writer_append(writer, rows, 4000, &fixture->err);
        free(rows);
        if (status == STATUS_OK)
            status = vector_writer_finish(writer, &fixture->err);
        else
            vector_writer_abort(writer);
    }
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, STATUS_IO);
    assert_says(fixture, "File too large");
    assert_int_equal(directory_fixture_entries(fixture->directory), 0);
}

enum { CHILD_PASSED = 0, CHILD_FAILED = 1, CHILD_SKIPPED = 77 };

/* Runs in a child with mounts of its own; exit status says how it went. */
static int fill_small_tmpfs(struct fixture *fixture)
{
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return CHILD_SKIPPED;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", fixture->directory, "tmpfs", 0, "size=64k") != 0)
        return CHILD_SKIPPED;
    struct vector_writer *writer = NULL;
    struct vector_shape shape = {1000, 128, ELEMENT_U8};
    enum status status = vector_writer_open(at(fixture, "a.u8bin"), shape, &writer, &fixture->err);
    if (status != STATUS_IO || !strstr(fixture->err.text, "No space left on device"))
        return CHILD_FAILED;
    uint64_t *keys = calloc(10000, sizeof(*keys));
    status = key_file_write(at(fixture, "a.u64bin"), keys, 10000, &fixture->err);
    free(keys);
    if (status != STATUS_IO || !strstr(fixture->err.text, "No space left on device"))
        return CHILD_FAILED;
    return directory_fixture_entries(fixture->directory) == 0 ? CHILD_PASSED : CHILD_FAILED;
}

static void a_full_disk_gives_one_line_and_leaves_nothing(void **state)
{
    struct fixture *fixture = *state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(fill_small_tmpfs(fixture));
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    if (WEXITSTATUS(result) == CHILD_SKIPPED)
        skip(); /* no right to mount */
    assert_int_equal(WEXITSTATUS(result), CHILD_PASSED);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_format_round_trips),
        T(interrupted_and_short_reads_are_completed),
        T(largest_dimensions_round_trip),
        T(load_reads_all_and_keeps_to_its_limit),
        T(npy_written_is_what_numpy_writes),
        T(missing_and_foreign_names_are_refused),
        T(only_regular_files_are_opened),
        T(empty_files_are_refused),
        T(a_size_off_by_one_byte_is_refused),
        T(bin_headers_out_of_limits_are_refused),
        T(vecs_headers_out_of_limits_are_refused),
        T(a_vecs_row_of_another_dimension_is_named),
        T(rows_beyond_the_file_are_refused),
        T(a_file_truncated_after_opening_ends_in_an_error),
        T(a_very_long_path_leaves_room_for_the_reason),
        T(npy_dictionaries_of_any_order_and_quotes_are_taken),
        T(npy_versions_2_and_3_are_taken),
        T(npy_arrays_of_other_kinds_are_refused),
        T(broken_npy_headers_are_refused),
        T(special_values_are_named_by_row_and_dimension),
        T(zero_rows_have_no_direction_under_cosine),
        T(writers_refuse_what_a_format_cannot_hold),
        T(an_aborted_writer_leaves_the_old_file),
        T(the_announced_number_of_rows_is_held_to),
        T(a_file_that_cannot_be_finished_leaves_nothing),
        T(a_file_size_limit_is_told_before_the_work),
        T(a_full_disk_gives_one_line_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
