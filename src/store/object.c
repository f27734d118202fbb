/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Objects' names: as keys, and as text. */
#include "store/object.h"

#include <inttypes.h>

/* Ids are random: any of their bits will do. */
guint store_object_hash(gconstpointer key)
{
    const struct store_object *object = key;
    uint64_t word;

    memcpy(&word, object->id.bytes, sizeof(word));
    word = (word ^ object->number) * UINT64_C(0x9E3779B97F4A7C15);
    return (guint)(word >> 32) + object->kind;
}

gboolean store_object_equal(gconstpointer a, gconstpointer b)
{
    const struct store_object *one = a, *other = b;

    return one->number == other->number && one->kind == other->kind &&
           id128_equal(&one->id, &other->id);
}

struct store_object *store_object_copy(const struct store_object *object)
{
    return g_memdup2(object, sizeof(*object));
}

char *store_object_text(const struct store_object *object)
{
    char id[ID128_TEXT_BYTES];

    id128_text(&object->id, id);
    switch (object->kind) {
    case STORE_BLOCK:
        return g_strdup_printf("block %" PRIu64 " of layer %s",
                               object->number, id);
    case STORE_PAGE:
        return g_strdup_printf("page %" PRIu64 " of map %s", object->number,
                               id);
    case STORE_JOURNAL:
        return g_strdup_printf("journal %016" PRIx64 " of map %s",
                               object->number, id);
    }
    g_assert_not_reached();
}
