/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes and times, read and written.  Units are binary: 1K is 1024 bytes. */
#include "common.h"

#include <errno.h>
#include <string.h>

static const char unit_letters[] = "KMGTPE";

/* The shift of "", "B", "K", "KiB", "k", ...; -1 if it isn't a unit.  "KB" is
 * none: it means 1000 to some and 1024 to others. */
static int unit_shift(const char *unit)
{
    const char *letter;

    if (*unit == '\0' || g_str_equal(unit, "B")) {
        return 0;
    }
    letter = strchr(unit_letters, g_ascii_toupper(*unit));
    if (!letter || (unit[1] != '\0' && !g_str_equal(unit + 1, "iB"))) {
        return -1;
    }
    return 10 * (int)(letter - unit_letters + 1);
}

bool size_parse(const char *text, uint64_t *bytes)
{
    char *end;
    guint64 number;
    int shift;

    if (!g_ascii_isdigit(*text)) {
        return false;
    }
    errno = 0;
    number = g_ascii_strtoull(text, &end, 10);
    shift = unit_shift(end);
    if (errno != 0 || shift < 0 || number > (UINT64_MAX >> shift)) {
        return false;
    }
    *bytes = number << shift;
    return true;
}

char *size_text(uint64_t bytes, bool exact)
{
    double value = (double)bytes;
    int unit = -1;

    if (exact) {
        return g_strdup_printf("%" G_GUINT64_FORMAT, bytes);
    }
    /* 1023.95 and more would be shown as "1024.0". */
    while (value >= (unit < 0 ? 1024.0 : 1023.95)) {
        value /= 1024;
        unit++;
    }
    if (unit < 0) {
        return g_strdup_printf("%" G_GUINT64_FORMAT " B", bytes);
    }
    return g_strdup_printf("%.1f %ciB", value, unit_letters[unit]);
}

static char *time_format(GDateTime *time, const char *format)
{
    char *text = time ? g_date_time_format(time, format) : NULL;

    return text ? text : g_strdup("?");
}

char *time_text(int64_t ns_since_1970)
{
    g_autoptr(GDateTime) time =
        g_date_time_new_from_unix_local(ns_since_1970 / 1000000000);

    return time_format(time, "%Y-%m-%d %H:%M:%S");
}

char *time_iso(int64_t ns_since_1970)
{
    g_autoptr(GDateTime) time =
        g_date_time_new_from_unix_utc(ns_since_1970 / 1000000000);

    return time_format(time, "%Y-%m-%dT%H:%M:%SZ");
}

char *printable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *safe = g_string_new(NULL);

    for (const char *at = valid; *at; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);

        g_string_append_unichar(safe, g_unichar_iscntrl(c) ? '?' : c);
    }
    return g_string_free(safe, FALSE);
}
