/*
 * fuzz_codec.c - codec_deserialize() on arbitrary bytes: it refuses them, or gives a codec that
 * works and serialises to the same bytes.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec.h"
#include "common/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct codec *codec)
{
    enum { ROWS = 3 };
    static const uint32_t ids[ROWS] = {2, 0, 1};
    struct codec_params params = codec_params_of(codec);
    const size_t row_bytes = element_vector_bytes(params.type, params.dim);
    uint8_t *rows = calloc(ROWS, row_bytes);
    uint8_t *codes = malloc((size_t)ROWS * params.code_bytes);
    size_t table_bytes = (codec_table_bytes(codec) + 63) & ~(size_t)63;
    void *table = aligned_alloc(64, table_bytes);
    float out[ROWS];
    assert(rows && codes && table);
    memset(rows, 1, row_bytes);
    codec_encode(codec, rows, ROWS, codes);
    codec_table_build(codec, rows, table);
    codec_table_gather(codec, table, codes, ids, ROWS, out);
    free(table);
    free(codes);
    free(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct codec *codec = NULL;
    struct error err;
    enum status status = codec_deserialize(data, size, &codec, &err);
    if (status != STATUS_OK) {
        assert(!codec && err.status == status && err.text[0] != '\0');
        return 0;
    }
    uint8_t *bytes = NULL;
    size_t length = 0;
    status = codec_serialize(codec, &bytes, &length, &err);
    assert(status == STATUS_OK && length == size && memcmp(bytes, data, size) == 0);
    free(bytes);
    use(codec);
    codec_destroy(codec);
    return 0;
}
