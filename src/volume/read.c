/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading: a piece is read from one object, or gathered from two where copy on
 * write left some blocks in one and some in the other.
 */
#include "volume/volume.h"

#include <stdlib.h>

static void read_done(struct piece *piece)
{
    struct map *map = piece->volume->map;

    for (struct io *io = piece->ios; io && piece->result >= 0; io = io->next) {
        if (io->bounce) {
            user_copy_out(piece->request,
                          piece->buffer_offset + io->copy_start - piece->start,
                          io->bounce +
                              (io->copy_start - io->request.offset_bytes),
                          io->copy_end - io->copy_start);
        }
    }
    g_mutex_lock(&map->lock);
    piece_release(piece);
    g_mutex_unlock(&map->lock);
    piece_finish(piece);
}

/* Read [start, end) straight into the caller's memory, or wider into ours. */
static int read_add_run(struct piece *piece, const struct id128 *layer,
                        uint32_t start, uint32_t end, GError **error)
{
    const struct store *store = piece->volume->store->store;
    uint32_t mask = store->alignment_bytes - 1;
    struct io *io;

    if (io_is_aligned(store, start, end)) {
        io = piece_add_io(piece, STORE_READ, layer, start, end);
        if (io_map_user(io, piece)) {
            return 0;
        }
    } else {
        io = piece_add_io(piece, STORE_READ, layer, start & ~mask,
                          (end + mask) & ~mask);
    }
    io->copy_start = start;
    io->copy_end = end;
    return io_set_bounce(io, error);
}

/* Runs of blocks that lie in the same object. */
static int read_add_runs(struct piece *piece, const struct id128 *layer,
                         const struct id128 *base, GError **error)
{
    uint32_t block = piece->volume->map->header.block_bytes;
    uint32_t start = piece->start;
    int rc = 0;

    while (rc == 0 && start < piece->end) {
        bool present = map_bit(&piece->bits, start / block);
        uint32_t end = start;

        do {
            end = (end / block + 1) * block;
        } while (end < piece->end &&
                 map_bit(&piece->bits, end / block) == present);
        end = MIN(end, piece->end);
        rc = read_add_run(piece, present ? layer : base, start, end, error);
        start = end;
    }
    return rc;
}

enum piece_state read_prepare(struct piece *piece)
{
    struct map *map = piece->volume->map;
    struct map_page *wanted = NULL;
    struct id128 layer, base;
    GError *error = NULL;
    int rc = map_lookup(map, piece->index, &piece->entry, &piece->bits,
                        &wanted, &error);

    if (rc == 0 && piece->entry.layer == 0) {
        user_zero(piece->request, piece->buffer_offset,
                  piece->end - piece->start);
        return PIECE_DONE;
    }
    if (rc == 0) {
        rc = map_layer_id(map, piece->entry.layer, &layer, &wanted, &error);
    }
    if (rc == 0 && piece->entry.base) {
        rc = map_layer_id(map, piece->entry.base, &base, &wanted, &error);
    }
    if (rc < 0) {
        return piece_stuck(piece, rc, wanted, error);
    }
    if (!piece_admit(piece, piece->start, piece->end, false)) {
        return PIECE_WAIT;
    }
    rc = piece->entry.base
             ? read_add_runs(piece, &layer, &base, &error)
             : read_add_run(piece, &layer, piece->start, piece->end, &error);
    if (rc < 0) {
        return piece_fail(piece, rc, error);
    }
    piece->step = read_done;
    return PIECE_GO;
}
