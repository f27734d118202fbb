/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors inside the library: a GError whose code is a positive errno travels
 * beside the -errno that is returned, up to the top, which alone shows it.
 */
#ifndef ARCHIPELAGO_BASE_ERROR_H
#define ARCHIPELAGO_BASE_ERROR_H

#include <glib.h>

#define ARCHIP_ERROR (archip_error_quark())
GQuark archip_error_quark(void);

/* Set `error` (may be NULL) and return -errno_value. */
int error_set(GError **error, int errno_value, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* As error_set(), with ": " and the system's text for errno_value appended. */
int error_set_errno(GError **error, int errno_value, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* Put text before what `error` already says; returns -code. */
int error_prefix(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

#endif
