/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* GErrors that carry errno values. */
#include "base/error.h"

#include <stdarg.h>

G_DEFINE_QUARK(archip-error-quark, archip_error)

int error_set(GError **error, int errno_value, const char *format, ...)
{
    va_list args;

    g_assert(errno_value > 0);
    if (error) {
        va_start(args, format);
        *error = g_error_new_valist(ARCHIP_ERROR, errno_value, format, args);
        va_end(args);
    }
    return -errno_value;
}

int error_set_errno(GError **error, int errno_value, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    return error_set(error, errno_value, "%s: %s", text,
                     g_strerror(errno_value));
}

int error_prefix(GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    g_assert(error && *error);
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_prefix_error(error, "%s", text);
    return -(*error)->code;
}
