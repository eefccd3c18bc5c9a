/*
 * utf8.h - whether bytes are UTF-8.
 */
#ifndef NIGHTJAR_COMMON_UTF8_H
#define NIGHTJAR_COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed by Unicode's table 3-7: shortest forms only, no surrogates, nothing beyond U+10FFFF.
 * NUL is a character as any. Pure. */
bool utf8_valid(const char *text, size_t length);

#endif
