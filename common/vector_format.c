/*
 * vector_format.c - suffixes, limits and the u32 headers of .?bin and .?vecs files. Pure, any
 * thread. The .npy header has its own file, vector_npy.c.
 */
#include "common/vector_format.h"

#include <inttypes.h>

#include "common/file_io.h"
#include "common/load.h"

static const struct vector_format formats[] = {
    {".u8bin", VECTOR_BIN, ELEMENT_U8},   {".i8bin", VECTOR_BIN, ELEMENT_I8},
    {".f16bin", VECTOR_BIN, ELEMENT_F16}, {".fbin", VECTOR_BIN, ELEMENT_F32},
    {".ibin", VECTOR_BIN, ELEMENT_I32},   {".bvecs", VECTOR_VECS, ELEMENT_U8},
    {".fvecs", VECTOR_VECS, ELEMENT_F32}, {".ivecs", VECTOR_VECS, ELEMENT_I32},
    {".npy", VECTOR_NPY, ELEMENT_NONE},
};

enum status vector_format_of(const char *path, const struct vector_format **out, struct error *err)
{
    for (size_t i = 0; i < ARRAY_LENGTH(formats); i++) {
        if (file_has_suffix(path, formats[i].suffix)) {
            *out = &formats[i];
            return STATUS_OK;
        }
    }
    return error_set(err, STATUS_INVALID,
                     "%s: not a vector file by its name; wanted .u8bin, .i8bin, .f16bin, .fbin, "
                     ".ibin, .bvecs, .fvecs, .ivecs or .npy",
                     file_label(path));
}

bool vector_format_is_known(const char *path)
{
    const struct vector_format *format;
    struct error ignored;
    return vector_format_of(path, &format, &ignored) == STATUS_OK;
}

static uint32_t dim_max_of(enum element_type type)
{
    return type == ELEMENT_I32 ? VECTOR_IDS_DIM_MAX : VECTOR_DIM_MAX;
}

size_t vector_row_bytes(const struct vector_shape *shape)
{
    return element_vector_bytes(shape->type, shape->dim);
}

enum status vector_layout_check(const char *path, struct vector_layout *layout, struct error *err)
{
    const struct vector_shape *shape = &layout->shape;
    uint32_t dim_max = dim_max_of(shape->type);
    if (shape->dim == 0 || shape->dim > dim_max)
        return error_set(err, STATUS_INVALID, "%s: dimension %" PRIu32 ", wanted 1 to %" PRIu32,
                         file_label(path), shape->dim, dim_max);
    if (shape->count == 0)
        return error_set(err, STATUS_INVALID, "%s: has no rows, wanted at least one",
                         file_label(path));
    uint64_t stored = layout->prefix_bytes + vector_row_bytes(shape);
    uint64_t total;
    if (__builtin_mul_overflow(shape->count, stored, &total) ||
        __builtin_add_overflow(total, layout->data_offset, &total) || total > INT64_MAX)
        return error_set(err, STATUS_INVALID,
                         "%s: %" PRIu64 " rows of %" PRIu64 " bytes are more than a file can hold",
                         file_label(path), shape->count, stored);
    layout->file_bytes = total;
    return STATUS_OK;
}

enum status vector_bin_parse(const char *path, const struct vector_format *format,
                             const uint8_t *bytes, uint64_t file_bytes,
                             struct vector_layout *layout, struct error *err)
{
    if (file_bytes < 8)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " bytes, wanted at least the header's 8 (u32 rows, u32 "
                         "dimension)",
                         file_label(path), file_bytes);
    *layout = (struct vector_layout){
        .shape = {.count = load_u32(bytes), .dim = load_u32(bytes + 4), .type = format->type},
        .data_offset = 8,
    };
    return vector_layout_check(path, layout, err);
}

/* The number of rows follows from the file's size. That their own dimensions agree is checked as
 * they are read. */
enum status vector_vecs_parse(const char *path, const struct vector_format *format,
                              const uint8_t *bytes, uint64_t file_bytes,
                              struct vector_layout *layout, struct error *err)
{
    if (file_bytes < 4)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64
                         " bytes, wanted at least the 4 of the first row's dimension",
                         file_label(path), file_bytes);
    *layout = (struct vector_layout){
        .shape = {.count = 1, .dim = load_u32(bytes), .type = format->type},
        .prefix_bytes = 4,
    };
    enum status status = vector_layout_check(path, layout, err);
    if (status != STATUS_OK)
        return status;
    uint64_t stored = layout->file_bytes; /* of one row */
    if (file_bytes % stored != 0)
        return error_set(err, STATUS_CORRUPT,
                         "%s: %" PRIu64 " bytes are no whole number of %" PRIu64
                         "-byte rows (first row: dimension %" PRIu32 " of %s): truncated or not "
                         "this format",
                         file_label(path), file_bytes, stored, layout->shape.dim,
                         element_name(format->type));
    layout->shape.count = file_bytes / stored;
    return vector_layout_check(path, layout, err);
}
