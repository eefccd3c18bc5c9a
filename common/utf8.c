/*
 * utf8.c - see utf8.h. Most text is ASCII, which is skipped eight bytes at a time.
 */
#include "common/utf8.h"

#include <stdint.h>
#include <string.h>

/* Bytes of the character at `text`, of which `left` are there; 0 if it is none. */
static size_t character_bytes(const uint8_t *text, size_t left)
{
    const uint8_t lead = text[0];
    size_t bytes;
    /* Of the second byte alone the range depends on the first: it tells long forms, surrogates and
     * what is beyond the last plane. */
    uint8_t low = 0x80;
    uint8_t high = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf) {
        bytes = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        bytes = 3;
        low = lead == 0xe0 ? 0xa0 : low;
        high = lead == 0xed ? 0x9f : high;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        bytes = 4;
        low = lead == 0xf0 ? 0x90 : low;
        high = lead == 0xf4 ? 0x8f : high;
    } else {
        return 0;
    }
    if (bytes > left || text[1] < low || text[1] > high)
        return 0;
    for (size_t i = 2; i < bytes; i++)
        if (text[i] < 0x80 || text[i] > 0xbf)
            return 0;
    return bytes;
}

static bool eight_are_ascii(const uint8_t *text)
{
    uint64_t word;
    memcpy(&word, text, sizeof(word));
    return (word & UINT64_C(0x8080808080808080)) == 0;
}

bool utf8_valid(const char *text, size_t length)
{
    const uint8_t *bytes = (const uint8_t *)text;
    size_t at = 0;
    while (at < length) {
        if (length - at >= sizeof(uint64_t) && eight_are_ascii(bytes + at)) {
            at += sizeof(uint64_t);
            continue;
        }
        const size_t character = character_bytes(bytes + at, length - at);
        if (character == 0)
            return false;
        at += character;
    }
    return true;
}
