/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * 128-bit random identifiers of volumes and layers.  A layer's id is
 * unguessable and serves as a capability: never log it where other tenants
 * read.
 */
#ifndef ARCHIPELAGO_BASE_ID_H
#define ARCHIPELAGO_BASE_ID_H

#include <stdbool.h>
#include <stdint.h>

struct id128 {
    uint8_t bytes[16];
};

#define ID128_TEXT_BYTES 33     /* 32 hex digits and a NUL */

/* From the kernel's random source; never all zeroes.  Any thread. */
struct id128 id128_random(void);
bool id128_equal(const struct id128 *a, const struct id128 *b);
bool id128_is_zero(const struct id128 *id);
/* Lower-case hex into `text`, which is returned. */
char *id128_text(const struct id128 *id, char text[ID128_TEXT_BYTES]);
/* Strict: exactly 32 lower-case hex digits. */
bool id128_parse(const char *text, struct id128 *id);

#endif
