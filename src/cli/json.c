/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A writer of JSON: what these few commands need, rather than one more package.
 * Strings are made valid UTF-8 and escaped; each level is indented; the newline
 * after the last end closes the document.
 */
#include "common.h"

#include <stdio.h>

static int depth;               /* of objects and arrays that are open */
static bool is_first = true;    /* nothing yet in the innermost */

static void escaped(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    putchar('"');
    for (const char *at = valid; *at; at++) {
        unsigned char c = (unsigned char)*at;

        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20 || c == 0x7f) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static void new_line(void)
{
    putchar('\n');
    for (int i = 0; i < depth; i++) {
        fputs("  ", stdout);
    }
}

/* What stands before a value. */
static void value_begin(const char *key)
{
    if (!is_first) {
        putchar(',');
    }
    if (depth > 0) {
        new_line();
    }
    if (key) {
        escaped(key);
        fputs(": ", stdout);
    }
    is_first = false;
}

static void open_level(const char *key, char bracket)
{
    value_begin(key);
    putchar(bracket);
    depth++;
    is_first = true;
}

static void close_level(char bracket)
{
    g_assert(depth > 0);
    depth--;
    if (!is_first) {
        new_line();
    }
    putchar(bracket);
    is_first = false;
    if (depth == 0) {
        putchar('\n');
        is_first = true;
    }
}

void json_object_begin(const char *key)
{
    open_level(key, '{');
}

void json_object_end(void)
{
    close_level('}');
}

void json_array_begin(const char *key)
{
    open_level(key, '[');
}

void json_array_end(void)
{
    close_level(']');
}

void json_string(const char *key, const char *value)
{
    value_begin(key);
    if (value) {
        escaped(value);
    } else {
        fputs("null", stdout);
    }
}

void json_number(const char *key, uint64_t value)
{
    value_begin(key);
    printf("%" G_GUINT64_FORMAT, value);
}

void json_bool(const char *key, bool value)
{
    value_begin(key);
    fputs(value ? "true" : "false", stdout);
}
