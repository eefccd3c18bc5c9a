/*
 * vector_npy.c - the header of NumPy's .npy format, versions 1.0 to 3.0. Pure, any thread.
 *
 * The header is a Python dictionary literal. NumPy evaluates it; this reads just the three keys
 * that the format defines, in any order, each exactly once, and refuses everything else.
 */
#include "common/vector_format.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/file_io.h"

static const uint8_t npy_magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

enum status vector_npy_preamble(const char *path, const uint8_t *bytes, size_t *start,
                                size_t *length, struct error *err)
{
    if (memcmp(bytes, npy_magic, sizeof(npy_magic)) != 0)
        return error_set(err, STATUS_CORRUPT, "%s: does not begin with NumPy's magic",
                         file_label(path));
    unsigned major = bytes[6], minor = bytes[7];
    if (major < 1 || major > 3 || minor != 0)
        return error_set(err, STATUS_UNSUPPORTED, "%s: .npy version %u.%u, wanted 1.0, 2.0 or 3.0",
                         file_label(path), major, minor);
    *start = major == 1 ? 10 : 12;
    *length = bytes[8] | (size_t)bytes[9] << 8;
    if (major > 1)
        *length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (*length > VECTOR_NPY_HEADER_MAX)
        return error_set(err, STATUS_CORRUPT, "%s: .npy header of %zu bytes, wanted at most %d",
                         file_label(path), *length, VECTOR_NPY_HEADER_MAX);
    return STATUS_OK;
}

/* A position in the dictionary. Nothing is read at or past `end`. */
struct cursor {
    const char *p;
    const char *end;
};

/* A quoted word, without its quotes; length 0 and text NULL if there was none. */
struct word {
    const char *text;
    int length;
};

static void skip_space(struct cursor *cursor)
{
    while (cursor->p < cursor->end && (*cursor->p == ' ' || *cursor->p == '\t'))
        cursor->p++;
}

static bool take(struct cursor *cursor, char wanted)
{
    skip_space(cursor);
    if (cursor->p == cursor->end || *cursor->p != wanted)
        return false;
    cursor->p++;
    return true;
}

static bool take_name(struct cursor *cursor, const char *wanted)
{
    skip_space(cursor);
    size_t length = strlen(wanted);
    if ((size_t)(cursor->end - cursor->p) < length || memcmp(cursor->p, wanted, length) != 0)
        return false;
    cursor->p += length;
    return true;
}

/* Escapes are not interpreted: none of the words that matter has one. */
static struct word take_word(struct cursor *cursor)
{
    struct word word = {NULL, 0};
    skip_space(cursor);
    if (cursor->p == cursor->end || (*cursor->p != '\'' && *cursor->p != '"'))
        return word;
    const char *text = cursor->p + 1;
    const char *close = memchr(text, *cursor->p, (size_t)(cursor->end - text));
    if (!close || close - text > 64)
        return word;
    word = (struct word){text, (int)(close - text)};
    cursor->p = close + 1;
    return word;
}

static bool word_is(struct word word, const char *text)
{
    return word.text && (size_t)word.length == strlen(text) &&
           memcmp(word.text, text, (size_t)word.length) == 0;
}

static bool take_number(struct cursor *cursor, uint64_t *value)
{
    skip_space(cursor);
    const char *start = cursor->p;
    uint64_t number = 0;
    for (; cursor->p < cursor->end && *cursor->p >= '0' && *cursor->p <= '9'; cursor->p++)
        if (__builtin_mul_overflow(number, 10u, &number) ||
            __builtin_add_overflow(number, (unsigned)(*cursor->p - '0'), &number))
            return false;
    *value = number;
    return cursor->p > start;
}

static enum status broken(const char *path, const char *what, struct error *err)
{
    return error_set(err, STATUS_CORRUPT, "%s: bad .npy header: %s", file_label(path), what);
}

static enum status parse_descr(const char *path, struct cursor *cursor, enum element_type *type,
                               struct error *err)
{
    static const struct {
        const char *descr;
        enum element_type type;
    } types[] = {
        {"|u1", ELEMENT_U8},  {"|i1", ELEMENT_I8},  {"<u1", ELEMENT_U8},  {"<i1", ELEMENT_I8},
        {"<f2", ELEMENT_F16}, {"<f4", ELEMENT_F32}, {"<i4", ELEMENT_I32},
    };
    if (take(cursor, '['))
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: .npy of a structured type, wanted |u1, |i1, <f2, <f4 or <i4",
                         file_label(path));
    struct word word = take_word(cursor);
    if (!word.text)
        return broken(path, "'descr' is not a quoted type", err);
    for (size_t i = 0; i < ARRAY_LENGTH(types); i++) {
        if (word_is(word, types[i].descr)) {
            *type = types[i].type;
            return STATUS_OK;
        }
    }
    return error_set(err, STATUS_UNSUPPORTED,
                     "%s: .npy of type '%.*s', wanted |u1, |i1, <f2, <f4 or <i4", file_label(path),
                     word.length, word.text);
}

static enum status parse_order(const char *path, struct cursor *cursor, struct error *err)
{
    if (take_name(cursor, "False"))
        return STATUS_OK;
    if (take_name(cursor, "True"))
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: .npy in Fortran order, wanted C order (save "
                         "numpy.ascontiguousarray(x))",
                         file_label(path));
    return broken(path, "'fortran_order' is neither True nor False", err);
}

static enum status parse_shape(const char *path, struct cursor *cursor, struct vector_shape *shape,
                               struct error *err)
{
    enum { AXES_MAX = 32 };
    uint64_t sizes[2] = {0, 0}, size;
    int axes = 0;
    if (!take(cursor, '('))
        return broken(path, "'shape' is not a tuple", err);
    while (!take(cursor, ')')) {
        if (axes == AXES_MAX || !take_number(cursor, &size))
            return broken(path, "'shape' is not a tuple of 64-bit numbers", err);
        if (axes < 2)
            sizes[axes] = size;
        axes++;
        if (!take(cursor, ',')) {
            if (!take(cursor, ')'))
                return broken(path, "'shape' is not closed", err);
            break;
        }
    }
    if (axes != 2)
        return error_set(err, STATUS_INVALID,
                         "%s: .npy array of %d dimension%s, wanted 2 (rows, dimension)",
                         file_label(path), axes, axes == 1 ? "" : "s");
    if (sizes[1] > UINT32_MAX)
        return error_set(err, STATUS_INVALID, "%s: dimension %" PRIu64 ", wanted 1 to %d",
                         file_label(path), sizes[1], VECTOR_DIM_MAX);
    shape->count = sizes[0];
    shape->dim = (uint32_t)sizes[1];
    return STATUS_OK;
}

enum status vector_npy_parse(const char *path, const char *text, size_t length,
                             struct vector_shape *shape, struct error *err)
{
    enum { DESCR = 1, ORDER = 2, SHAPE = 4, ALL = 7 };
    struct cursor cursor = {text, text + length};
    unsigned seen = 0;
    if (!take(&cursor, '{'))
        return broken(path, "not a dictionary", err);
    while (!take(&cursor, '}')) {
        struct word key = take_word(&cursor);
        unsigned field = word_is(key, "descr")           ? DESCR
                         : word_is(key, "fortran_order") ? ORDER
                         : word_is(key, "shape")         ? SHAPE
                                                         : 0;
        if (field == 0 || (seen & field) || !take(&cursor, ':'))
            return broken(path, "wanted the keys 'descr', 'fortran_order' and 'shape', once each",
                          err);
        seen |= field;
        enum status status = field == DESCR   ? parse_descr(path, &cursor, &shape->type, err)
                             : field == ORDER ? parse_order(path, &cursor, err)
                                              : parse_shape(path, &cursor, shape, err);
        if (status != STATUS_OK)
            return status;
        if (!take(&cursor, ',')) {
            if (!take(&cursor, '}'))
                return broken(path, "the dictionary is not closed", err);
            break;
        }
    }
    if (seen != ALL)
        return broken(path, "'descr', 'fortran_order' or 'shape' is missing", err);
    skip_space(&cursor);
    if (cursor.p < cursor.end && *cursor.p == '\n')
        cursor.p++;
    if (cursor.p != cursor.end)
        return broken(path, "text after the dictionary", err);
    return STATUS_OK;
}

void vector_npy_format(const struct vector_shape *shape, uint8_t header[VECTOR_NPY_WRITTEN_BYTES])
{
    static const char *const descr[] = {
        [ELEMENT_NONE] = "",   [ELEMENT_U8] = "|u1",  [ELEMENT_I8] = "|i1",
        [ELEMENT_F16] = "<f2", [ELEMENT_F32] = "<f4", [ELEMENT_I32] = "<i4",
    };
    enum { PREAMBLE = 10, DICTIONARY = VECTOR_NPY_WRITTEN_BYTES - PREAMBLE };
    /* The longest dictionary is 86 characters, so the fixed length always suffices. */
    char text[DICTIONARY + 1];
    int used =
        snprintf(text, sizeof(text),
                 "{'descr': '%s', 'fortran_order': False, 'shape': (%" PRIu64 ", %" PRIu32 "), }",
                 descr[shape->type], shape->count, shape->dim);
    memset(text + used, ' ', (size_t)(DICTIONARY - used));
    text[DICTIONARY - 1] = '\n';
    memcpy(header, npy_magic, sizeof(npy_magic));
    header[6] = 1;
    header[7] = 0;
    header[8] = DICTIONARY;
    header[9] = 0;
    memcpy(header + PREAMBLE, text, DICTIONARY);
}
