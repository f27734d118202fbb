/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* 128-bit random identifiers. */
#include "base/id.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/random.h>

struct id128 id128_random(void)
{
    struct id128 id;

    do {
        ssize_t got;

        do {
            got = getrandom(id.bytes, sizeof(id.bytes), 0);
        } while (got < 0 && errno == EINTR);
        g_assert(got == sizeof(id.bytes));
    } while (id128_is_zero(&id));
    return id;
}

bool id128_equal(const struct id128 *a, const struct id128 *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

bool id128_is_zero(const struct id128 *id)
{
    static const struct id128 zero;

    return id128_equal(id, &zero);
}

char *id128_text(const struct id128 *id, char text[ID128_TEXT_BYTES])
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < 16; i++) {
        text[2 * i] = digits[id->bytes[i] >> 4];
        text[2 * i + 1] = digits[id->bytes[i] & 15];
    }
    text[32] = '\0';
    return text;
}

bool id128_parse(const char *text, struct id128 *id)
{
    if (strspn(text, "0123456789abcdef") != 32 || text[32] != '\0') {
        return false;
    }
    for (int i = 0; i < 16; i++) {
        id->bytes[i] = (uint8_t)(g_ascii_xdigit_value(text[2 * i]) << 4 |
                                 g_ascii_xdigit_value(text[2 * i + 1]));
    }
    return true;
}
