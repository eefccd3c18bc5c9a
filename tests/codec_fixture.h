/*
 * codec_fixture.h - what tests of every codec do with one. Results are malloc'd and the caller's; a
 * failure inside ends the test.
 */
#ifndef NIGHTJAR_TESTS_CODEC_FIXTURE_H
#define NIGHTJAR_TESTS_CODEC_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "common/codec.h"

uint8_t *codec_fixture_serialize(const struct codec *codec, size_t *length);
uint8_t *codec_fixture_encode(const struct codec *codec, const void *rows, size_t count);
/* A query's table. */
void *codec_fixture_table(const struct codec *codec, const void *query);

#endif
