/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is allocated: runs of holes from the map alone, runs inside objects by
 * asking the store, one after the other, joined where alike.
 */
#include "volume/volume.h"

#include <errno.h>

/* After so many questions to the store an answer is given as far as it goes. */
#define QUESTIONS_MAX 256u

/* Append a run; false when there is no room for one of another kind. */
static bool extent_add(struct request *request, uint64_t length_bytes,
                       uint32_t flags)
{
    archip_extent *extents = request->user.extents;
    size_t count = (size_t)request->result;

    length_bytes = MIN(length_bytes, request->end_bytes - request->next_bytes);
    if (count && extents[count - 1].flags == flags) {
        extents[count - 1].length_bytes += length_bytes;
    } else if (count < request->user.extent_count) {
        extents[count] = (archip_extent){ length_bytes, flags, 0 };
        request->result++;
    } else {
        return false;
    }
    request->next_bytes += length_bytes;
    return true;
}

static void extent_add_or_end(struct request *request, uint64_t length_bytes,
                              uint32_t flags)
{
    if (!extent_add(request, length_bytes, flags) ||
        ++request->questions >= QUESTIONS_MAX) {
        request->end_bytes = request->next_bytes;
    }
}

static void extents_done(struct piece *piece)
{
    struct map *map = piece->volume->map;
    const struct io *io = piece->ios;
    uint32_t flags = piece->shared ? ARCHIP_EXTENT_SHARED : 0;

    if (piece->result >= 0) {
        flags = io->request.extent.is_data ? flags | ARCHIP_EXTENT_DATA
                                           : ARCHIP_EXTENT_ZERO;
        extent_add_or_end(piece->request, io->request.extent.length_bytes,
                          flags);
    }
    g_mutex_lock(&map->lock);
    piece_release(piece);
    g_mutex_unlock(&map->lock);
    piece_finish(piece);
}

/* Objects that aren't there, up to the next that is. */
static enum piece_state hole_prepare(struct piece *piece)
{
    struct map *map = piece->volume->map;
    struct request *request = piece->request;
    uint64_t object_bytes = map->header.object_bytes, used;
    uint64_t end = (request->end_bytes + object_bytes - 1) / object_bytes;
    struct map_page *wanted = NULL;
    GError *error = NULL;
    int rc = map_next_used(map, piece->index, end, &used, &wanted, &error);

    if (rc < 0) {
        return piece_stuck(piece, rc, wanted, error);
    }
    extent_add_or_end(request, used * object_bytes - request->next_bytes,
                      ARCHIP_EXTENT_ZERO);
    return PIECE_DONE;
}

/* The end of the run of blocks, from the start on, in the same object. */
static uint32_t run_end(const struct piece *piece)
{
    uint32_t block = piece->volume->map->header.block_bytes;
    bool present = map_bit(&piece->bits, piece->start / block);
    uint32_t end = piece->start;

    if (!piece->entry.base) {
        return piece->end;
    }
    do {
        end = (end / block + 1) * block;
    } while (end < piece->end && map_bit(&piece->bits, end / block) == present);
    return MIN(end, piece->end);
}

enum piece_state extents_prepare(struct piece *piece)
{
    struct map *map = piece->volume->map;
    struct map_page *wanted = NULL;
    GError *error = NULL;
    struct id128 id;
    uint32_t layer;
    int rc = map_lookup(map, piece->index, &piece->entry, &piece->bits,
                        &wanted, &error);

    if (rc == 0 && !piece->entry.layer) {
        return hole_prepare(piece);
    }
    layer = piece->entry.layer;
    if (rc == 0 && piece->entry.base &&
        !map_bit(&piece->bits, piece->start / map->header.block_bytes)) {
        layer = piece->entry.base;
    }
    if (rc == 0) {
        rc = map_layer_id(map, layer, &id, &wanted, &error);
    }
    if (rc < 0) {
        return piece_stuck(piece, rc, wanted, error);
    }
    if (!piece_admit(piece, piece->start, piece->end, false)) {
        return PIECE_WAIT;
    }
    piece->shared = layer != map->header.current_layer;
    piece_add_io(piece, STORE_EXTENT, &id, piece->start, run_end(piece));
    piece->step = extents_done;
    return PIECE_GO;
}
