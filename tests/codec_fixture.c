/*
 * codec_fixture.c - see codec_fixture.h.
 */
#include "tests/codec_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/memory.h"

uint8_t *codec_fixture_serialize(const struct codec *codec, size_t *length)
{
    uint8_t *bytes = NULL;
    struct error err;
    assert_int_equal(codec_serialize(codec, &bytes, length, &err), STATUS_OK);
    return bytes;
}

uint8_t *codec_fixture_encode(const struct codec *codec, const void *rows, size_t count)
{
    uint8_t *codes = malloc(count * codec_params_of(codec).code_bytes);
    assert_non_null(codes);
    codec_encode(codec, rows, count, codes);
    return codes;
}

void *codec_fixture_table(const struct codec *codec, const void *query)
{
    void *table = aligned_alloc(64, size_align(codec_table_bytes(codec), 64));
    assert_non_null(table);
    codec_table_build(codec, query, table);
    return table;
}
