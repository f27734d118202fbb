/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking up and changing what the map says of an object.
 *
 * An entry that can't be right (a layer that never was, a base without a
 * layer) is an error that names it: nobody goes on from a guess (D14).
 */
#include "mapper/map.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

static_assert(sizeof(gpointer) >= sizeof(uint64_t),
              "indices are kept as pointers in hash tables");

static struct map_entry entry_read(const struct map_page *page, uint64_t index)
{
    const struct format_entry *entries = page_body(page);
    const struct format_entry *entry = &entries[index % MAP_ENTRIES_PER_PAGE];

    return (struct map_entry){
        .layer = GUINT32_FROM_BE(entry->layer),
        .base = GUINT32_FROM_BE(entry->base),
    };
}

static size_t bitmap_offset(const struct map *map, uint64_t index)
{
    return (size_t)(index % map->bitmaps_per_page) * map->bitmap_bytes;
}

static void bitmap_read(const struct map *map, const struct map_page *page,
                        uint64_t index, struct map_bits *bits)
{
    memset(bits, 0, sizeof(*bits));
    if (page) {
        const uint8_t *body = page_body(page);

        memcpy(bits->bytes, body + bitmap_offset(map, index),
               map->bitmap_bytes);
    }
}

static int entry_check(const struct map *map, uint64_t index,
                       struct map_entry entry, GError **error)
{
    if (entry.layer < map->header.next_layer &&
        entry.base < map->header.next_layer &&
        (entry.base == 0 ||
         (entry.layer != 0 && entry.layer != entry.base))) {
        return 0;
    }
    return error_set(error, EUCLEAN,
                     "map entry %" G_GUINT64_FORMAT
                     " names layer %u and base %u of %u layers",
                     index, entry.layer, entry.base,
                     map->header.next_layer - 1);
}

int map_lookup(struct map *map, uint64_t index, struct map_entry *entry,
               struct map_bits *present, struct map_page **wanted,
               GError **error)
{
    struct map_page *page;
    int rc;

    rc = page_find(map, FORMAT_ENTRIES, 0, index / MAP_ENTRIES_PER_PAGE, &page,
                   error);
    if (rc < 0) {
        *wanted = page;
        return rc;
    }
    *entry = page ? entry_read(page, index) : (struct map_entry){ 0 };
    rc = entry_check(map, index, *entry, error);
    if (rc < 0 || !entry->base) {
        return rc;
    }
    rc = page_find(map, FORMAT_PRESENT, 0, index / map->bitmaps_per_page,
                   &page, error);
    if (rc < 0) {
        *wanted = page;
        return rc;
    }
    bitmap_read(map, page, index, present);
    return 0;
}

static int layer_record(struct map *map, uint32_t number, struct id128 *id,
                        struct map_page **wanted, GError **error)
{
    const struct format_layer *layers;
    struct map_page *page;
    int rc;

    rc = page_find(map, FORMAT_LAYERS, 0, number / MAP_LAYERS_PER_PAGE, &page,
                   error);
    if (rc < 0) {
        *wanted = page;
        return rc;
    }
    if (page) {
        layers = page_body(page);
        memcpy(id->bytes, layers[number % MAP_LAYERS_PER_PAGE].id,
               sizeof(id->bytes));
    }
    if (!page || id128_is_zero(id)) {
        return error_set(error, EUCLEAN, "layer %u isn't in the layer table",
                         number);
    }
    return 0;
}

int map_layer_id(struct map *map, uint32_t number, struct id128 *id,
                 struct map_page **wanted, GError **error)
{
    struct id128 *known;
    int rc;

    if (number == map->header.current_layer) {
        *id = map->header.current_layer_id;
        return 0;
    }
    known = g_hash_table_lookup(map->layer_ids, GUINT_TO_POINTER(number));
    if (known) {
        *id = *known;
        return 0;
    }
    rc = layer_record(map, number, id, wanted, error);
    if (rc == 0) {
        g_hash_table_insert(map->layer_ids, GUINT_TO_POINTER(number),
                            g_memdup2(id, sizeof(*id)));
    }
    return rc;
}

/* --- Changing ------------------------------------------------------------------- */

int map_pin_entry(struct map *map, uint64_t index, struct map_cursor *cursor,
                  struct map_page **wanted, GError **error)
{
    struct map_page *entries;
    int rc;

    g_assert(!cursor->entries);
    rc = page_find_or_create(map, FORMAT_ENTRIES, index / MAP_ENTRIES_PER_PAGE,
                             &entries, error);
    if (rc < 0) {
        *wanted = entries;
        return rc;
    }
    entries->pins++;
    *cursor = (struct map_cursor){ index, entries, NULL };
    return 0;
}

int map_pin(struct map *map, uint64_t index, struct map_cursor *cursor,
            struct map_page **wanted, GError **error)
{
    struct map_page *present;
    int rc = map_pin_entry(map, index, cursor, wanted, error);

    if (rc < 0) {
        return rc;
    }
    rc = page_find_or_create(map, FORMAT_PRESENT,
                             index / map->bitmaps_per_page, &present, error);
    if (rc < 0) {
        map_unpin(cursor);
        *wanted = present;
        return rc;
    }
    present->pins++;
    cursor->present = present;
    return 0;
}

void map_unpin(struct map_cursor *cursor)
{
    if (cursor->entries) {
        cursor->entries->pins--;
        if (cursor->present) {
            cursor->present->pins--;
        }
        *cursor = (struct map_cursor){ 0 };
    }
}

struct map_entry map_get(const struct map *map,
                         const struct map_cursor *cursor,
                         struct map_bits *present)
{
    struct map_entry entry = entry_read(cursor->entries, cursor->index);

    if (entry.base) {
        bitmap_read(map, cursor->present, cursor->index, present);
    }
    return entry;
}

void map_restore(struct map *map, const struct map_cursor *cursor,
                 struct map_entry entry, const struct map_bits *present)
{
    struct map_entry old = entry_read(cursor->entries, cursor->index);
    uint64_t slot = cursor->index % MAP_ENTRIES_PER_PAGE;
    struct format_entry *entries = page_modify(map, cursor->entries);

    entries[slot].layer = GUINT32_TO_BE(entry.layer);
    entries[slot].base = GUINT32_TO_BE(entry.base);
    if (entry.base) {
        uint8_t *body = page_modify(map, cursor->present);

        memcpy(body + bitmap_offset(map, cursor->index), present->bytes,
               map->bitmap_bytes);
    }
    map->header.object_count += (entry.layer != 0) - (old.layer != 0);
}

void map_set(struct map *map, const struct map_cursor *cursor,
             struct map_entry entry, const struct map_bits *present)
{
    map_restore(map, cursor, entry, present);
    g_hash_table_add(map->dirty, (gpointer)cursor->index);
}

bool map_is_durable(const struct map *map, uint64_t index)
{
    return !map->size_dirty && !map->size_committing &&
           !g_hash_table_contains(map->dirty, (gpointer)index) &&
           !g_hash_table_contains(map->committing, (gpointer)index);
}

void map_set_size(struct map *map, uint64_t size_bytes)
{
    struct map_header *header = &map->header;

    if (size_bytes < header->size_bytes) {
        header->shrink_bytes = MAX(header->shrink_bytes, header->size_bytes);
    }
    header->size_bytes = size_bytes;
    map->size_dirty = true;
}

int map_next_used(struct map *map, uint64_t index, uint64_t end,
                  uint64_t *used, struct map_page **wanted, GError **error)
{
    uint64_t last_page = (end + MAP_ENTRIES_PER_PAGE - 1) /
                         MAP_ENTRIES_PER_PAGE;
    struct map_page *page;

    for (*used = index; *used < end;) {
        uint64_t position = *used / MAP_ENTRIES_PER_PAGE, page_end;
        int rc = page_next(map, FORMAT_ENTRIES, last_page, &position, wanted,
                           error);

        *used = MIN(MAX(*used, position * MAP_ENTRIES_PER_PAGE), end);
        if (rc < 0 || *used == end) {
            return rc;
        }
        rc = page_find(map, FORMAT_ENTRIES, 0, position, &page, error);
        if (rc < 0) {
            *wanted = page;
            return rc;
        }
        page_end = MIN((position + 1) * MAP_ENTRIES_PER_PAGE, end);
        for (; page && *used < page_end; ++*used) {
            if (entry_read(page, *used).layer) {
                return 0;
            }
        }
        *used = page_end;
    }
    return 0;
}

int map_next_entry(struct map *map, uint64_t *index, uint64_t end,
                   struct map_entry *entry, bool *found, GError **error)
{
    struct map_page *wanted;
    struct map_bits bits;
    int rc;

    g_mutex_lock(&map->lock);
    do {
        *found = false;
        rc = map_next_used(map, *index, end, index, &wanted, error);
        if (rc == 0 && *index < end) {
            *found = true;
            rc = map_lookup(map, *index, entry, &bits, &wanted, error);
        }
        if (rc == -EAGAIN) {
            int loaded = map_page_load(map, wanted, error);

            rc = loaded < 0 ? loaded : rc;
        }
    } while (rc == -EAGAIN);
    g_mutex_unlock(&map->lock);
    return rc;
}
