/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What can be said of a volume: its header, its holder, its use of space. */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>

void info_fill(archip_volume_info *info, const char *name,
               const struct map_header *header, const struct store *store)
{
    g_autofree char *description = header_tag(header, "description");

    *info = (archip_volume_info){
        .size_bytes = header->size_bytes,
        .object_bytes = header->object_bytes,
        .block_bytes = header->block_bytes,
        .flags = header->flags & (ARCHIP_VOLUME_CLEAN | ARCHIP_VOLUME_READONLY |
                                  ARCHIP_VOLUME_PROTECTED),
        .alignment_bytes = store->alignment_bytes,
        .object_count = header->object_count,
        .generation = header->generation,
        .created_ns = header->created_ns,
    };
    g_strlcpy(info->name, name, sizeof(info->name));
    id128_text(&header->id, info->id);
    g_strlcpy(info->description, description ? description : "",
              sizeof(info->description));
}

int archip_volume_get_info(archip_volume *volume, archip_volume_info *info)
{
    struct store *store = volume->store->store;
    struct map_header header;
    GError *error = NULL;
    int rc = 0;

    life_lock(volume);
    if (volume->map) {
        g_mutex_lock(&volume->map->lock);
        info_fill(info, volume->name, &volume->map->header, store);
        g_mutex_unlock(&volume->map->lock);
        info->flags |= volume_is_writable(volume) ? ARCHIP_VOLUME_CLEAN : 0;
    } else {
        rc = map_read_header(store, &volume->id, false, &header, &error);
        if (rc == 0) {
            info_fill(info, volume->name, &header, store);
            header_clear(&header);
        }
    }
    g_mutex_unlock(&volume->life);
    if (rc < 0) {
        error_prefix(&error, "volume '%s': ", volume->name);
        return api_fail(error);
    }
    return 0;
}

int archip_volume_get_holder(archip_store *store, const char *name,
                             archip_holder *holder)
{
    struct store_owner owner = { 0 };
    GError *error = NULL;
    struct id128 id;
    bool held = false;
    int rc = archip_name_check(name);

    if (rc < 0) {
        return rc;
    }
    rc = volume_find(store, name, &id, &error);
    if (rc == 0) {
        rc = store->store->driver->holder(store->store, &id, &owner, &held,
                                          &error);
    }
    if (rc < 0) {
        error_prefix(&error, "volume '%s': ", name);
        return api_fail(error);
    }
    *holder = (archip_holder){
        .held = held,
        .pid = owner.pid,
        .since_ns = owner.since_ns,
        .token = owner.token,
    };
    g_strlcpy(holder->owner, owner.owner, sizeof(holder->owner));
    g_strlcpy(holder->host, owner.host, sizeof(holder->host));
    return 0;
}

/* --- Usage --------------------------------------------------------------------------- */

static int usage_object(struct map *map, uint32_t layer, uint64_t index,
                        archip_usage *usage, GError **error)
{
    struct store_object object = { .kind = STORE_BLOCK, .number = index };
    struct map_page *wanted;
    uint64_t bytes = 0;
    int rc;

    g_mutex_lock(&map->lock);
    while ((rc = map_layer_id(map, layer, &object.id, &wanted, error)) ==
               -EAGAIN &&
           (rc = map_page_load(map, wanted, error)) == 0) {
    }
    g_mutex_unlock(&map->lock);
    if (rc == 0) {
        rc = map->store->driver->allocated(map->store, &object, &bytes, error);
    }
    usage->allocated_bytes += bytes;
    usage->exclusive_bytes +=
        layer == map->header.current_layer ? bytes : 0;
    return rc;
}

static int usage_metadata(uint64_t number, uint64_t allocated_bytes,
                          void *opaque)
{
    ((archip_usage *)opaque)->metadata_bytes += allocated_bytes;
    return 0;
}

static int usage_objects(struct map *map, archip_usage *usage, GError **error)
{
    uint64_t end = map_object_total(&map->header);
    struct map_entry entry;
    bool found;
    int rc = 0;

    for (uint64_t index = 0; rc == 0 && index < end; index++) {
        rc = map_next_entry(map, &index, end, &entry, &found, error);
        if (rc < 0 || !found) {
            break;
        }
        usage->object_count++;
        rc = usage_object(map, entry.layer, index, usage, error);
        if (rc == 0 && entry.base) {
            rc = usage_object(map, entry.base, index, usage, error);
        }
        if (rc == -ENOENT) {    /* dropped while we looked: no space */
            g_clear_error(error);
            rc = 0;
        }
    }
    return rc;
}

int archip_volume_get_usage(archip_volume *volume, archip_usage *usage)
{
    const struct store_driver *driver = volume->store->store->driver;
    struct map *map;
    GError *error = NULL;
    int rc;

    life_lock(volume);
    map = volume->map;
    if (!map) {
        g_mutex_unlock(&volume->life);
        return api_fail_text(EPERM, "volume '%s' isn't active", volume->name);
    }
    *usage = (archip_usage){ .apparent_bytes = archip_volume_size(volume) };
    g_mutex_lock(&map->io_lock);
    rc = usage_objects(map, usage, &error);
    if (rc == 0) {
        rc = driver->list_objects(map->store, STORE_PAGE,
                                  &map->header.current_layer_id,
                                  usage_metadata, usage, &error);
    }
    if (rc == 0) {
        rc = driver->list_objects(map->store, STORE_JOURNAL, &map->header.id,
                                  usage_metadata, usage, &error);
    }
    g_mutex_unlock(&map->io_lock);
    g_mutex_unlock(&volume->life);
    if (rc < 0) {
        error_prefix(&error, "volume '%s': ", volume->name);
        return api_fail(error);
    }
    return 0;
}
