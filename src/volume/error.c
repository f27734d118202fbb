/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The text of the last error, kept per thread, and names' rules. */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static GPrivate last_error = G_PRIVATE_INIT(g_free);

int api_fail(GError *error)
{
    int errno_value = error->domain == ARCHIP_ERROR ? error->code : EIO;

    g_private_replace(&last_error, g_strdup(error->message));
    g_error_free(error);
    return -errno_value;
}

int api_fail_text(int errno_value, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_private_replace(&last_error, g_strdup_vprintf(format, args));
    va_end(args);
    return -errno_value;
}

const char *archip_error(void)
{
    const char *text = g_private_get(&last_error);

    return text ? text : "no error";
}

const char *archip_version(void)
{
    return G_STRINGIFY(ARCHIP_VERSION_MAJOR) "." G_STRINGIFY(
        ARCHIP_VERSION_MINOR) "." G_STRINGIFY(ARCHIP_VERSION_PATCH);
}

static const char *name_find_fault(const char *name)
{
    size_t length = strlen(name);

    if (length < 1 || length > ARCHIP_NAME_MAX) {
        return "it must have 1 to " G_STRINGIFY(ARCHIP_NAME_MAX)
               " characters";
    }
    if (!g_ascii_isalnum(name[0]) && name[0] != '_') {
        return "it must begin with a letter, a digit or '_'";
    }
    for (const char *c = name; *c; c++) {
        if (!g_ascii_isalnum(*c) && !strchr("_.+-", *c)) {
            return "it may hold only A-Z a-z 0-9 _ . + -";
        }
    }
    return NULL;
}

int archip_name_check(const char *name)
{
    const char *fault = name ? name_find_fault(name) : "it is missing";

    if (!fault) {
        return 0;
    }
    return api_fail_text(EINVAL, "'%s' can't be the name of a volume: %s",
                         name ? name : "", fault);
}
