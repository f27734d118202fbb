/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Locations of stores, "SCHEME:PATH[?KEY=VALUE[&KEY=VALUE]...]", and reading
 * the options in them.  Any thread. */
#ifndef ARCHIPELAGO_STORE_LOCATION_H
#define ARCHIPELAGO_STORE_LOCATION_H

#include <glib.h>
#include <stdint.h>

/* Split what follows "SCHEME:".  The caller frees both.  -EINVAL. */
int location_split(const char *rest, char **path, GHashTable **options,
                   GError **error);

/* -EINVAL when there is an option besides those in `known`, a list that ends
 * with NULL. */
int location_check_options(GHashTable *options, const char *driver,
                           const char *const *known, GError **error);

/* A number between `min` and `max`; `value` is left alone when the option
 * isn't given. */
int location_get_number(GHashTable *options, const char *key, uint64_t min,
                        uint64_t max, uint64_t *value, GError **error);

#endif
