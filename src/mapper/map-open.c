/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making a map, opening it with recovery, and forgetting it. */
#include "mapper/map.h"

#include "base/error.h"

#include <errno.h>

int map_create(struct store *store, const struct id128 *id,
               uint64_t size_bytes, uint32_t object_bytes,
               const char *description, GError **error)
{
    struct store_record record = { STORE_HEADER, *id, NULL };
    struct map_header header = {
        .flags = FORMAT_HEADER_CLEAN,
        .id = *id,
        .generation = 1,
        .size_bytes = size_bytes,
        .object_bytes = object_bytes,
        .block_bytes = MAX(object_bytes / MAP_BLOCKS_MAX, 4096u),
        .journal_epoch = 1,
        .journal_sequence = 1,
        .current_layer = 1,
        .next_layer = 2,
        .current_layer_id = id128_random(),
        .next_page = 1,
        .created_ns = g_get_real_time() * 1000,
    };
    g_autoptr(GBytes) value = NULL;

    if (description && *description) {
        header_add_tag(&header, "description", description);
    }
    value = header_encode(&header);
    header_clear(&header);
    return store->driver->put(store, &record, g_bytes_get_data(value, NULL),
                              g_bytes_get_size(value), true, error);
}

int map_read_header(struct store *store, const struct id128 *id,
                    bool for_write, struct map_header *header, GError **error)
{
    struct store_record record = { STORE_HEADER, *id, NULL };
    g_autoptr(GBytes) value = NULL;
    int rc = store->driver->get(store, &record, &value, error);

    if (rc == -ENOENT) {
        g_clear_error(error);
        return error_set(error, EUCLEAN, "its header is missing");
    }
    return rc < 0 ? rc : header_decode(value, id, for_write, header, error);
}

static struct map *map_new(struct store *store, struct map_header *header,
                           struct store_lock *lock)
{
    struct map *map = g_new0(struct map, 1);

    map->store = store;
    map->store_lock = lock;
    map->header = *header;
    map->stored = header_copy(header);
    map->blocks_per_object = header->object_bytes / header->block_bytes;
    map->bitmap_bytes = MAX(map->blocks_per_object / 8, 8u);
    map->bitmaps_per_page = FORMAT_PAGE_BODY_BYTES / map->bitmap_bytes;
    map->journal.epoch = header->journal_epoch;
    map->journal.oldest_epoch = header->journal_epoch;
    map->journal.sequence = header->journal_sequence;
    map->pages = g_hash_table_new(g_int64_hash, g_int64_equal);
    map->layer_ids = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    map->dirty = g_hash_table_new(NULL, NULL);
    map->committing = g_hash_table_new(NULL, NULL);
    map->journal.own_epoch = header->journal_epoch;
    map->found = g_array_new(false, false, sizeof(uint64_t));
    map->garbage = g_array_new(false, false, sizeof(struct store_object));
    g_queue_init(&map->lru);
    g_mutex_init(&map->io_lock);
    g_mutex_init(&map->lock);
    return map;
}

void map_free(struct map *map)
{
    if (!map) {
        return;
    }
    page_cache_free(map);
    store_queue_close(map->queue);
    g_hash_table_unref(map->pages);
    g_hash_table_unref(map->layer_ids);
    g_hash_table_unref(map->dirty);
    g_hash_table_unref(map->committing);
    g_array_unref(map->found);
    g_array_unref(map->garbage);
    header_clear(&map->header);
    header_clear(&map->stored);
    g_mutex_clear(&map->io_lock);
    g_mutex_clear(&map->lock);
    g_free(map);
}

/* Behind its end the volume's last object may hold what was written after a
 * growth that was lost: growing again must not show it (D4, D5).  So it is cut
 * off as what a shrink leaves behind. */
static void map_distrust_tail(struct map_header *header)
{
    uint64_t end = map_object_total(header) * header->object_bytes;

    if (end > header->size_bytes) {
        header->shrink_bytes = MAX(header->shrink_bytes, end);
    }
}

/* Bring a map into order for writing and mark it as in use (D18). */
static int map_recover(struct map *map, GError **error)
{
    if (!(map->header.flags & FORMAT_HEADER_CLEAN)) {
        /* D7: an earlier process may have died between write and sync, and what
         * is read from now on must stay. */
        int rc = map->store->driver->sync_all(map->store, STORE_BLOCK,
                                              &map->header.current_layer_id,
                                              error);

        if (rc < 0) {
            return rc;
        }
        map_distrust_tail(&map->header);
    }
    return map_fold(map, false, error);
}

int map_open(struct store *store, const struct id128 *id, bool for_write,
             struct store_lock *lock, struct map **map, GError **error)
{
    struct map_header header;
    struct map *new_map;
    int rc = map_read_header(store, id, for_write, &header, error);

    if (rc < 0) {
        return rc;
    }
    if (for_write && header.flags & FORMAT_HEADER_READONLY) {
        header_clear(&header);
        return error_set(error, EROFS, "it is marked read-only");
    }
    new_map = map_new(store, &header, lock);
    rc = store_queue_open(store, STORE_QUEUE_MAY_BLOCK, &new_map->queue,
                          error);
    if (rc == 0) {
        rc = map_replay(new_map, error);
    }
    if (rc == 0 && for_write) {
        rc = map_recover(new_map, error);
    }
    if (rc < 0) {
        map_free(new_map);
        return rc;
    }
    *map = new_map;
    return 0;
}
