/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Objects' names as keys of hash tables, for the drivers.  Any thread. */
#ifndef ARCHIPELAGO_STORE_OBJECT_H
#define ARCHIPELAGO_STORE_OBJECT_H

#include "store/store.h"

#include <string.h>

/* For GHashTable: both take const struct store_object *. */
guint store_object_hash(gconstpointer key);
gboolean store_object_equal(gconstpointer a, gconstpointer b);
struct store_object *store_object_copy(const struct store_object *object);

#endif
