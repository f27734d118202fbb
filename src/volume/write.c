/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing, zeroing and discarding within one object.
 *
 * What an object's blocks are decides what happens (docs/FORMAT.md, entries):
 *
 *   in the current layer, whole      written in place
 *   in the current layer, partial    in place; blocks that come in whole or
 *                                    are completed from the base turn present
 *   nowhere                          a new object in the current layer
 *   frozen                           a new object in the current layer over a
 *                                    base: the frozen object if it is whole,
 *                                    else whichever of its two leaves fewer
 *                                    blocks to be copied (two-object rule)
 *
 * The steps: read what is needed to fill up blocks and sectors, write, write
 * the copied blocks, and only then tell the map.  A block is present in the
 * map only after it is complete in the object (D3), so a flush never makes a
 * map durable that says more than the data (D8).
 */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Blocks [start, end) bytes, to be copied from one layer's object to the new
 * one. */
struct block_copy {
    uint32_t layer;
    uint32_t start, end;
    uint8_t *memory;
};

static void block_copy_clear(gpointer copy)
{
    free(((struct block_copy *)copy)->memory);
}

static const struct map_header *piece_header(const struct piece *piece)
{
    return &piece->volume->map->header;
}

static bool piece_unmaps(const struct piece *piece)
{
    return piece->op == ARCHIP_DISCARD ||
           (piece->request->user.op == ARCHIP_WRITE_ZEROES &&
            piece->request->user.flags & ARCHIP_MAY_UNMAP);
}

/* The piece is zeroes for whole blocks, not data from a buffer. */
static bool piece_clears(const struct piece *piece)
{
    return piece->op != ARCHIP_WRITE;
}

static bool piece_covers_object(const struct piece *piece)
{
    const struct map_header *header = piece_header(piece);
    uint64_t end = piece->index * header->object_bytes + piece->end;

    return piece->start == 0 && (piece->end == header->object_bytes ||
                                 end >= volume_reach(piece->volume));
}

/* --- Where blocks are ----------------------------------------------------------- */

/* The number of the layer that has a block now; 0: none, zeroes. */
static uint32_t block_layer(const struct piece *piece, uint32_t offset)
{
    uint32_t block = offset / piece_header(piece)->block_bytes;

    if (!piece->entry.base || map_bit(&piece->bits, block)) {
        return piece->entry.layer;
    }
    return piece->entry.base;
}

static bool is_current(const struct piece *piece, uint32_t layer)
{
    return layer == piece_header(piece)->current_layer;
}

/* Widen the range to what can be written without losing a neighbour: sectors
 * of the store, or the block where it isn't in the current object yet. */
static void write_widen(struct piece *piece)
{
    uint32_t block = piece_header(piece)->block_bytes;
    uint32_t sector = piece->volume->store->store->alignment_bytes;
    uint32_t first = block_layer(piece, piece->start);
    uint32_t last = block_layer(piece, piece->end - 1);
    uint32_t grain;

    grain = first && !is_current(piece, first) ? block : sector;
    piece->write_start = piece->start / grain * grain;
    grain = last && !is_current(piece, last) ? block : sector;
    piece->write_end = (piece->end + grain - 1) / grain * grain;
}

static bool write_is_widened(const struct piece *piece)
{
    return piece->write_start < piece->start || piece->write_end > piece->end;
}

/* --- Reading what fills up ------------------------------------------------------- */

static int fill_add_read(struct piece *piece, uint32_t layer, uint32_t start,
                         uint32_t end, uint8_t *memory,
                         struct map_page **wanted, GError **error)
{
    struct id128 id;
    struct io *io;
    int rc;

    if (!layer) {
        return 0;       /* the memory is zeroes already */
    }
    rc = map_layer_id(piece->volume->map, layer, &id, wanted, error);
    if (rc < 0) {
        return rc;
    }
    io = piece_add_io(piece, STORE_READ, &id, start, end);
    io->iov[0] = (struct iovec){ memory, end - start };
    io->request.iov = io->iov;
    io->request.iov_count = 1;
    return 0;
}

static int fill_add_edges(struct piece *piece, struct map_page **wanted,
                          GError **error)
{
    uint32_t sector = piece->volume->store->store->alignment_bytes;
    uint32_t start = piece->write_start, end = piece->write_end;
    uint32_t head_end = (piece->start + sector - 1) / sector * sector;
    uint32_t tail_start = piece->end / sector * sector;
    uint32_t first = block_layer(piece, piece->start);
    uint32_t last = block_layer(piece, piece->end - 1);
    int rc = 0;

    if (head_end > tail_start) {    /* all in one sector, so in one block */
        return fill_add_read(piece, first, start, end, piece->buffer, wanted,
                             error);
    }
    if (start < piece->start) {
        rc = fill_add_read(piece, first, start, head_end, piece->buffer,
                           wanted, error);
    }
    if (rc == 0 && end > piece->end) {
        rc = fill_add_read(piece, last, tail_start, end,
                           piece->buffer + (tail_start - start), wanted,
                           error);
    }
    return rc;
}

static int fill_add_copies(struct piece *piece, struct map_page **wanted,
                           GError **error)
{
    for (guint i = 0; piece->copies && i < piece->copies->len; i++) {
        struct block_copy *copy =
            &g_array_index(piece->copies, struct block_copy, i);
        int rc;

        copy->memory = buffer_alloc(copy->end - copy->start);
        if (!copy->memory) {
            return buffer_fail(copy->end - copy->start, error);
        }
        rc = fill_add_read(piece, copy->layer, copy->start, copy->end,
                           copy->memory, wanted, error);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* --- Planning a new object over a frozen one --------------------------------------- */

static bool is_overwritten(const struct piece *piece, uint32_t block)
{
    uint32_t bytes = piece_header(piece)->block_bytes;

    return block * bytes >= piece->write_start &&
           (block + 1) * bytes <= piece->write_end;
}

/* How many blocks would have to be copied if `base` were the base. */
static unsigned count_copies(const struct piece *piece, uint32_t base)
{
    uint32_t bytes = piece_header(piece)->block_bytes;
    unsigned count = 0;

    for (unsigned i = 0; i < piece->volume->map->blocks_per_object; i++) {
        count += block_layer(piece, i * bytes) != base &&
                 !is_overwritten(piece, i);
    }
    return count;
}

static void plan_copies(struct piece *piece, uint32_t base)
{
    unsigned total = piece->volume->map->blocks_per_object;
    uint32_t bytes = piece_header(piece)->block_bytes;

    piece->copies = g_array_new(false, false, sizeof(struct block_copy));
    g_array_set_clear_func(piece->copies, block_copy_clear);
    for (unsigned i = 0; i < total; i++) {
        uint32_t layer = block_layer(piece, i * bytes);
        struct block_copy copy = { layer, i * bytes, 0, NULL };

        if (layer == base || is_overwritten(piece, i)) {
            continue;
        }
        for (; i < total && block_layer(piece, i * bytes) == layer &&
               !is_overwritten(piece, i); i++) {
            map_bit_set(&piece->new_bits, i);
        }
        copy.end = i * bytes;
        g_array_append_val(piece->copies, copy);
        i--;
    }
}

static void plan_over_frozen(struct piece *piece)
{
    uint32_t base = piece->entry.layer;

    if (piece->entry.base) {
        unsigned over_layer = count_copies(piece, piece->entry.layer);
        unsigned over_base = count_copies(piece, piece->entry.base);

        base = over_layer <= over_base ? piece->entry.layer
                                       : piece->entry.base;
        plan_copies(piece, base);
    }
    piece->new_entry.base = base;
}

/* What the map shall say when the data is there. */
static void plan_map(struct piece *piece)
{
    const struct map_header *header = piece_header(piece);
    unsigned first = (piece->write_start + header->block_bytes - 1) /
                     header->block_bytes;
    unsigned last = piece->write_end / header->block_bytes;

    memset(&piece->new_bits, 0, sizeof(piece->new_bits));
    piece->new_entry = (struct map_entry){ header->current_layer, 0 };
    piece->creates = !is_current(piece, piece->entry.layer);
    piece->reuses = piece->creates &&
                    g_hash_table_contains(piece->volume->drops,
                                          &piece->index);
    piece->changes_map = piece->creates;
    for (unsigned i = first; i < last; i++) {
        piece->changes_map |= piece->entry.base && !map_bit(&piece->bits, i);
        map_bit_set(&piece->new_bits, i);
    }
    if (piece->creates && piece->entry.layer) {
        plan_over_frozen(piece);
    }
}

/* --- Finishing -------------------------------------------------------------------------- */

static bool bits_are_full(const struct map_bits *bits, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (!map_bit(bits, i)) {
            return false;
        }
    }
    return true;
}

/* Enter what was written; others may have changed other blocks meanwhile. */
static void write_publish(struct piece *piece)
{
    struct map *map = piece->volume->map;
    struct map_bits bits = { 0 };
    struct map_entry entry = map_get(map, &piece->cursor, &bits);

    if (piece->creates) {
        entry = piece->new_entry;
        memset(&bits, 0, sizeof(bits));
    }
    for (unsigned i = 0; entry.base && i < map->bitmap_bytes; i++) {
        bits.bytes[i] |= piece->new_bits.bytes[i];
    }
    if (entry.base && bits_are_full(&bits, map->blocks_per_object)) {
        entry.base = 0;
    }
    map_set(map, &piece->cursor, entry, &bits);
    if (piece->reuses) {
        g_hash_table_remove(piece->volume->drops, &piece->index);
    }
}

/* With FUA it was a sync, too, unless there was no room: what that took down
 * nobody says again (D6).  Some of the write may be there and be read: it is to
 * be synced like any (D18). */
static void write_failed(struct piece *piece, bool fua)
{
    bool full = piece->result == -ENOSPC || piece->result == -EDQUOT;

    if (fua && (!full || piece->ios->request.sync_failed)) {
        object_lose(piece->volume, piece->object);
    }
    if (!piece->creates) {
        object_changed(piece->volume, piece->object, piece->write_start,
                       piece->write_end);
    }
}

static void write_done(struct piece *piece)
{
    struct map *map = piece->volume->map;
    bool fua = piece->ios && piece->ios->request.flags & STORE_FUA;
    uint32_t start = piece->creates ? 0 : piece->write_start;
    uint32_t end = piece->creates ? map->header.object_bytes
                                  : piece->write_end;

    g_mutex_lock(&map->lock);
    if (piece->result < 0) {
        write_failed(piece, fua);
    } else {
        if (piece->changes_map) {
            write_publish(piece);
        }
        if (!fua || piece->object->lost) {
            object_written(piece->volume, piece->object, start, end);
        }
        if (!fua) {
            piece->request->needs_flush |=
                (piece->request->user.flags & ARCHIP_FUA) != 0;
        }
    }
    if (!fua && piece->doubtful) {
        object_lose_range(piece->volume, piece->object, start, end);
    }
    piece_release(piece);
    if (piece->changes_map) {
        background_flush_if_due(piece->volume);
    }
    g_mutex_unlock(&map->lock);
    piece_finish(piece);
}

static void write_copies(struct piece *piece)
{
    const struct id128 *layer = &piece_header(piece)->current_layer_id;

    if (piece->result < 0 || !piece->copies) {
        write_done(piece);
        return;
    }
    piece_free_ios(piece);
    for (guint i = 0; i < piece->copies->len; i++) {
        struct block_copy *copy =
            &g_array_index(piece->copies, struct block_copy, i);
        struct io *io = piece_add_io(piece, STORE_WRITE, layer, copy->start,
                                     copy->end);

        io->iov[0] = (struct iovec){ copy->memory, copy->end - copy->start };
        io->request.iov = io->iov;
        io->request.iov_count = 1;
    }
    piece_submit(piece, write_done);
}

/* --- The write itself ---------------------------------------------------------------------- */

/* FUA alone will do only where the map needs no change (D2). */
static unsigned write_flags(const struct piece *piece)
{
    bool fua = piece->op == ARCHIP_WRITE && !piece->changes_map &&
               piece->request->user.flags & ARCHIP_FUA;
    unsigned flags = piece->creates && !piece->reuses ? STORE_CREATE : 0;

    if (fua) {
        struct map *map = piece->volume->map;

        g_mutex_lock(&map->lock);
        flags |= map_is_durable(map, piece->index) ? STORE_FUA : 0;
        g_mutex_unlock(&map->lock);
    }
    return flags;
}

/* Data: from our buffer, or straight from the caller's. */
static void write_data(struct piece *piece)
{
    GError *error = NULL;
    struct io *io;

    piece_free_ios(piece);
    io = piece_add_io(piece, STORE_WRITE,
                      &piece_header(piece)->current_layer_id,
                      piece->write_start, piece->write_end);
    io->request.flags = write_flags(piece);
    if (!piece->buffer && !io_map_user(io, piece)) {
        int rc = io_set_bounce(io, &error);

        if (rc < 0) {
            piece_free_ios(piece);
            piece_fail(piece, rc, error);
            write_done(piece);
            return;
        }
        user_copy_in(piece->request, piece->buffer_offset, io->bounce,
                     piece->end - piece->start);
    } else if (piece->buffer) {
        io->iov[0] = (struct iovec){ piece->buffer,
                                     piece->write_end - piece->write_start };
        io->request.iov = io->iov;
        io->request.iov_count = 1;
    }
    piece_submit(piece, write_copies);
}

/* The store can't punch: zeroes do as well. */
static void clear_punched(struct piece *piece)
{
    if (piece->result == -ENOTSUP && piece->ios->request.op == STORE_PUNCH &&
        !(piece->request->user.flags & ARCHIP_NO_FALLBACK)) {
        piece->result = 0;
        g_clear_pointer(&piece->error, g_free);
        piece->ios->request.op = STORE_ZERO;
        piece_submit(piece, write_copies);
        return;
    }
    write_copies(piece);
}

/* Zeroes of whole blocks: punched, or kept allocated. */
static void write_clear(struct piece *piece)
{
    bool unmap = piece_unmaps(piece);
    unsigned flags = write_flags(piece);
    struct io *io;

    piece_free_ios(piece);
    io = piece_add_io(piece, unmap ? STORE_PUNCH : STORE_ZERO,
                      &piece_header(piece)->current_layer_id,
                      piece->write_start, piece->write_end);
    io->request.flags = flags;
    if (piece->request->user.flags & ARCHIP_NO_FALLBACK) {
        io->request.flags |= STORE_NO_FALLBACK;
    }
    if (unmap && flags & STORE_CREATE) {
        /* An empty object has nothing to be punched. */
        io->request.op = STORE_WRITE;
        io->request.length_bytes = 0;
    }
    piece_submit(piece, clear_punched);
}

static void write_main(struct piece *piece)
{
    if (piece->result < 0) {
        write_done(piece);
    } else if (piece_clears(piece)) {
        write_clear(piece);
    } else {
        write_data(piece);
    }
}

/* A dropped object that is still there is emptied rather than removed: the
 * durable map may name it.  It isn't there if its removal reported an error and
 * happened nevertheless. */
static void reuse_done(struct piece *piece)
{
    if (piece->ios->request.result == -ENOENT) {
        piece->result = 0;
        g_clear_pointer(&piece->error, g_free);
        piece->reuses = false;
        g_mutex_lock(&piece->volume->map->lock);
        g_hash_table_remove(piece->volume->drops, &piece->index);
        g_mutex_unlock(&piece->volume->map->lock);
    }
    if (piece->result == -ENOTSUP && piece->ios->request.op == STORE_PUNCH) {
        piece->result = 0;
        g_clear_pointer(&piece->error, g_free);
        piece->ios->request.op = STORE_ZERO;
        piece_submit(piece, reuse_done);
        return;
    }
    write_main(piece);
}

/* What was read to fill up is there: put the caller's data over it. */
static void fill_done(struct piece *piece)
{
    if (piece->result >= 0 && piece->buffer && !piece->zeroes) {
        user_copy_in(piece->request, piece->buffer_offset,
                     piece->buffer + (piece->start - piece->write_start),
                     piece->end - piece->start);
    } else if (piece->result >= 0 && piece->buffer) {
        memset(piece->buffer + (piece->start - piece->write_start), 0,
               piece->end - piece->start);
    }
    if (piece->result >= 0 && piece->reuses) {
        piece_free_ios(piece);
        piece_add_io(piece, STORE_PUNCH,
                     &piece_header(piece)->current_layer_id, 0,
                     piece_header(piece)->object_bytes);
        piece_submit(piece, reuse_done);
        return;
    }
    write_main(piece);
}

/* --- Preparing -------------------------------------------------------------------------------- */

/* Drop the whole object: only the map changes now, the object goes when that
 * is durable (D9). */
static enum piece_state drop_prepare(struct piece *piece)
{
    archip_volume *volume = piece->volume;
    struct map *map = volume->map;
    struct map_page *wanted = NULL;
    GError *error = NULL;
    int rc = map_pin(map, piece->index, &piece->cursor, &wanted, &error);

    if (rc < 0) {
        return piece_stuck(piece, rc, wanted, error);
    }
    if (background_throttles(volume, piece) ||
        !piece_admit(piece, 0, map->header.object_bytes, true)) {
        map_unpin(&piece->cursor);
        return PIECE_WAIT;
    }
    map_set(map, &piece->cursor, (struct map_entry){ 0 }, NULL);
    if (is_current(piece, piece->entry.layer)) {
        gint64 *key = g_memdup2(&piece->index, sizeof(piece->index));

        g_hash_table_insert(volume->drops, key, GINT_TO_POINTER(DROP_NEW));
        object_forget_data(volume, piece->object);
    }
    piece->request->needs_flush |=
        (piece->request->user.flags & ARCHIP_FUA) != 0;
    return PIECE_DONE;
}

/* Whether the sectors or blocks at the ends hold bytes that must stay. */
static bool write_must_read(const struct piece *piece)
{
    return piece->op == ARCHIP_WRITE &&
           ((piece->write_start < piece->start &&
             block_layer(piece, piece->start)) ||
            (piece->write_end > piece->end &&
             block_layer(piece, piece->end - 1)));
}

/* How far a piece of zeroes goes past its request, to the end of the volume's
 * last block. */
static uint64_t piece_excess(const struct piece *piece)
{
    uint64_t end = piece->index * piece_header(piece)->object_bytes +
                   piece->end;

    return piece_clears(piece) && end > piece->request->end_bytes
               ? end - piece->request->end_bytes
               : 0;
}

/* The volume grew, so what was the rest of its last block may be another's data
 * now: keep to the request. */
static void piece_trim(struct piece *piece)
{
    uint32_t block = piece_header(piece)->block_bytes;
    uint64_t excess = piece_excess(piece);

    if (!excess ||
        volume_reach(piece->volume) <= piece->request->end_bytes) {
        return;
    }
    piece->end -= (uint32_t)excess;
    if (piece->op == ARCHIP_DISCARD) {
        piece->end = piece->end / block * block;
    } else {
        piece->op = ARCHIP_WRITE;
        piece->zeroes = true;
    }
}

static bool write_admit(struct piece *piece)
{
    if (piece->creates) {
        return piece_admit(piece, 0, piece_header(piece)->object_bytes, true);
    }
    return piece_admit(piece, piece->write_start, piece->write_end,
                       write_must_read(piece) || piece_excess(piece));
}

/* Everything that may have to wait for a page is done before the piece takes
 * its place; undo it if it must wait. */
static enum piece_state write_unplan(struct piece *piece)
{
    map_unpin(&piece->cursor);
    piece_free_ios(piece);
    g_clear_pointer(&piece->copies, g_array_unref);
    free(piece->buffer);
    piece->buffer = NULL;
    return PIECE_WAIT;
}

static int write_plan(struct piece *piece, struct map_page **wanted,
                      GError **error)
{
    struct map *map = piece->volume->map;
    int rc = 0;

    write_widen(piece);
    plan_map(piece);
    if (piece->changes_map) {
        rc = map_pin(map, piece->index, &piece->cursor, wanted, error);
    }
    if (rc == 0 && piece->op == ARCHIP_WRITE &&
        (piece->zeroes || write_is_widened(piece))) {
        size_t bytes = piece->write_end - piece->write_start;

        piece->buffer = buffer_alloc(bytes);
        if (!piece->buffer) {
            return buffer_fail(bytes, error);
        }
        memset(piece->buffer, 0, bytes);
        if (write_is_widened(piece)) {
            rc = fill_add_edges(piece, wanted, error);
        }
    }
    return rc == 0 ? fill_add_copies(piece, wanted, error) : rc;
}

enum piece_state write_prepare(struct piece *piece)
{
    struct map *map = piece->volume->map;
    struct map_page *wanted = NULL;
    GError *error = NULL;
    int rc = map_lookup(map, piece->index, &piece->entry, &piece->bits,
                        &wanted, &error);

    if (rc < 0) {
        return piece_stuck(piece, rc, wanted, error);
    }
    piece_trim(piece);
    if (piece->start >= piece->end) {
        return PIECE_DONE;
    }
    if (piece_unmaps(piece) && piece->entry.layer == 0) {
        piece->request->needs_flush |=
            (piece->request->user.flags & ARCHIP_FUA) != 0;
        return PIECE_DONE;
    }
    if (piece_unmaps(piece) && piece_clears(piece) &&
        piece_covers_object(piece)) {
        return drop_prepare(piece);
    }
    rc = write_plan(piece, &wanted, &error);
    if (rc == 0 && piece->changes_map &&
        background_throttles(piece->volume, piece)) {
        return write_unplan(piece);
    }
    if (rc < 0) {
        write_unplan(piece);
        return piece_stuck(piece, rc, wanted, error);
    }
    if (!write_admit(piece)) {
        return write_unplan(piece);
    }
    piece->step = fill_done;
    return PIECE_GO;
}

/* --- Removing a dropped object -------------------------------------------------------------------- */

static void free_done(struct piece *piece)
{
    archip_volume *volume = piece->volume;
    struct object *object = piece->object;

    g_mutex_lock(&volume->map->lock);
    if (piece->result >= 0) {
        g_hash_table_remove(volume->drops, &piece->index);
        if (object->is_unsynced) {
            object->is_unsynced = false;
            memset(&object->fresh, 0, sizeof(object->fresh));
            g_queue_unlink(&volume->unsynced, &object->unsynced_link);
        }
    }
    piece_release(piece);
    g_mutex_unlock(&volume->map->lock);
    piece_finish(piece);
}

enum piece_state free_prepare(struct piece *piece)
{
    archip_volume *volume = piece->volume;
    struct map *map = volume->map;
    gpointer state = g_hash_table_lookup(volume->drops, &piece->index);

    if (GPOINTER_TO_INT(state) != DROP_READY) {
        return PIECE_DONE;      /* its name was used again */
    }
    if (!piece_admit(piece, 0, map->header.object_bytes, true)) {
        return PIECE_WAIT;
    }
    piece_add_io(piece, STORE_REMOVE, &map->header.current_layer_id, 0, 0);
    piece->step = free_done;
    return PIECE_GO;
}
