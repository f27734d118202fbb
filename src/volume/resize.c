/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Resizing.  Growing is a number in the map.  Shrinking must not leave anything
 * that growing again would show, and a crash must leave the one or the other:
 * the smaller size is made durable first, and with it, by the same record, how
 * far the volume once reached (header.shrink_bytes); then what lies between is
 * dropped, here or, after a crash, at the next open (D12).  Nothing is dropped
 * before: if the smaller size can't be made durable, the volume keeps the old.
 */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>

static int resize_flush(archip_queue *queue, GError **error)
{
    archip_request flush = { .op = ARCHIP_FLUSH };

    return request_run(queue, &flush, false, error);
}

static int shrink_cut(archip_queue *queue, GError **error)
{
    archip_volume *volume = queue->volume;
    struct map *map = volume->map;
    archip_request cut = {
        .op = ARCHIP_WRITE_ZEROES,
        .flags = ARCHIP_MAY_UNMAP,
    };
    uint64_t object_bytes = map->header.object_bytes, end;
    int rc = 0;

    g_mutex_lock(&map->lock);
    cut.offset_bytes = map->header.size_bytes;
    end = (map->header.shrink_bytes + object_bytes - 1) / object_bytes *
          object_bytes;
    g_mutex_unlock(&map->lock);
    if (end > cut.offset_bytes) {
        cut.length_bytes = end - cut.offset_bytes;
        rc = request_run(queue, &cut, true, error);
    }
    if (rc == 0) {
        rc = resize_flush(queue, error);
    }
    if (rc == 0) {
        g_mutex_lock(&map->lock);
        map->header.shrink_bytes = 0;
        g_mutex_unlock(&map->lock);
    }
    return rc;
}

/* Unless the smaller size is known to be durable the old one is set again, which
 * the next flush makes so. */
static void shrink_decide(archip_volume *volume, bool durable)
{
    struct map *map = volume->map;

    g_mutex_lock(&map->lock);
    if (!durable) {
        volume_set_size(volume, volume->kept_bytes);
        map->header.shrink_bytes = 0;
    }
    volume->kept_bytes = 0;
    g_mutex_unlock(&map->lock);
}

int volume_finish_shrink(archip_volume *volume, GError **error)
{
    archip_queue *queue;
    int rc = queue_new(volume, 0, &queue, error);

    if (rc == 0) {
        rc = shrink_cut(queue, error);
        queue_free(queue);
    }
    return rc;
}

static int resize_check(archip_volume *volume, uint64_t size_bytes,
                        unsigned flags, GError **error)
{
    if (flags & ~(ARCHIP_RESIZE_SHRINK | ARCHIP_RESIZE_VOLATILE)) {
        return error_set(error, EINVAL, "unknown resize flags 0x%x", flags);
    }
    if (size_bytes % ARCHIP_SECTOR_BYTES || size_bytes > ARCHIP_SIZE_MAX) {
        return error_set(error, EINVAL,
                         "%" G_GUINT64_FORMAT " bytes can't be its size: it "
                         "must be a multiple of 512, at most 1 PiB",
                         size_bytes);
    }
    if (!g_atomic_int_get(&volume->active)) {
        return error_set(error, EPERM, "it isn't active");
    }
    if (!volume_is_writable(volume)) {
        return error_set(error, EROFS, "it is open read-only");
    }
    if (size_bytes < archip_volume_size(volume) &&
        !(flags & ARCHIP_RESIZE_SHRINK)) {
        return error_set(error, EINVAL,
                         "shrinking it from %" G_GUINT64_FORMAT " to %"
                         G_GUINT64_FORMAT " bytes loses what is cut off: that "
                         "must be allowed explicitly",
                         archip_volume_size(volume), size_bytes);
    }
    return 0;
}

static int resize_run(archip_volume *volume, archip_queue *queue,
                      uint64_t size_bytes, unsigned flags, GError **error)
{
    struct map *map = volume->map;
    bool shrink;
    int rc = 0;

    if (map->header.shrink_bytes) {
        rc = shrink_cut(queue, error);      /* one that failed before */
    }
    if (rc < 0) {
        return rc;
    }
    g_mutex_lock(&map->lock);
    shrink = size_bytes < map->header.size_bytes;
    volume->kept_bytes = shrink ? map->header.size_bytes : 0;
    volume_set_size(volume, size_bytes);
    g_mutex_unlock(&map->lock);
    if (shrink || !(flags & ARCHIP_RESIZE_VOLATILE)) {
        rc = resize_flush(queue, error);
    }
    if (shrink) {
        shrink_decide(volume, rc == 0);
    }
    return rc == 0 && shrink ? shrink_cut(queue, error) : rc;
}

int archip_volume_resize(archip_volume *volume, uint64_t size_bytes,
                         unsigned flags)
{
    GError *error = NULL;
    archip_queue *queue;
    int rc;

    life_lock(volume);
    rc = resize_check(volume, size_bytes, flags, &error);
    if (rc == 0) {
        rc = queue_new(volume, 0, &queue, &error);
    }
    if (rc == 0) {
        rc = resize_run(volume, queue, size_bytes, flags, &error);
        queue_free(queue);
    }
    g_mutex_unlock(&volume->life);
    if (rc < 0 && !g_str_has_prefix(error->message, "volume '")) {
        error_prefix(&error, "volume '%s': ", volume->name);
    }
    return rc < 0 ? api_fail(error) : 0;
}
