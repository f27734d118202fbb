/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests: checked, split into pieces, joined again.
 *
 * Pieces are made as others finish, so that a discard of a petabyte costs no
 * more memory than one of a megabyte.  A discard leaves the parts of blocks at
 * its ends alone; zeroes write them.
 */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_ALL \
    (ARCHIP_FUA | ARCHIP_MAY_UNMAP | ARCHIP_NO_FALLBACK | ARCHIP_GROW)

static unsigned flags_allowed(archip_op op)
{
    switch (op) {
    case ARCHIP_WRITE:
        return ARCHIP_FUA | ARCHIP_GROW;
    case ARCHIP_WRITE_ZEROES:
        return FLAGS_ALL;
    case ARCHIP_COPY_RANGE:
        return ARCHIP_FUA | ARCHIP_NO_FALLBACK;
    default:
        return 0;
    }
}

static uint64_t iov_bytes(const struct iovec *iov, int count)
{
    uint64_t bytes = 0;

    for (int i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

int request_check(const archip_request *user, GError **error)
{
    if (user->op < ARCHIP_READ || user->op > ARCHIP_COPY_RANGE) {
        return error_set(error, EINVAL, "unknown operation %d", user->op);
    }
    if (user->flags & ~flags_allowed(user->op)) {
        return error_set(error, EINVAL, "flags 0x%x don't go with operation %d",
                         user->flags, user->op);
    }
    if (user->op <= ARCHIP_WRITE &&
        (user->iov_count < 0 ||
         iov_bytes(user->iov, user->iov_count) != user->length_bytes)) {
        return error_set(error, EINVAL,
                         "the buffers don't add up to %" G_GUINT64_FORMAT
                         " bytes", user->length_bytes);
    }
    if (user->op == ARCHIP_EXTENTS && (!user->extents || !user->extent_count)) {
        return error_set(error, EINVAL, "extents need room for at least one");
    }
    if (user->op == ARCHIP_COPY_RANGE && !user->source) {
        return error_set(error, EINVAL, "a copy needs a source");
    }
    return 0;
}

struct request *request_new(archip_queue *queue, archip_volume *volume,
                            const archip_request *user,
                            void (*complete)(struct request *request),
                            void *opaque)
{
    struct request *request = g_new0(struct request, 1);
    struct iovec *iov = request->iov_inline;

    request->queue = queue;
    request->volume = volume;
    request->user = *user;
    request->complete = complete;
    request->opaque = opaque;
    if (user->op == ARCHIP_READ || user->op == ARCHIP_WRITE) {
        size_t count = (size_t)user->iov_count;

        if (count > G_N_ELEMENTS(request->iov_inline)) {
            iov = g_try_new(struct iovec, count);
            request->lacks_memory = !iov;
        }
        if (count && iov) {
            memcpy(iov, user->iov, count * sizeof(*iov));
        }
        request->user.iov = iov;
    }
    return request;
}

void request_free(struct request *request)
{
    if (request->user.iov != request->iov_inline &&
        (request->user.op == ARCHIP_READ || request->user.op == ARCHIP_WRITE)) {
        g_free((struct iovec *)request->user.iov);
    }
    g_free(request->error);
    g_free(request);
}

void request_fail(struct request *request, int rc, char *text)
{
    g_autofree char *own = text;

    if (request->result >= 0) {
        request->result = rc;
        request->error = g_strdup_printf(
            "volume '%s': %s", request->volume->name,
            own ? own : g_strerror(-rc));
    }
}

void request_finish(struct request *request)
{
    if (request->needs_flush && request->result >= 0) {
        request->needs_flush = false;
        flush_request(request);
        return;
    }
    request->complete(request);
}

/* --- Splitting -------------------------------------------------------------------- */

static struct piece *piece_new(struct request *request, int op, uint64_t start,
                               uint64_t end)
{
    uint32_t object_bytes = request->volume->map->header.object_bytes;
    struct piece *piece = g_new0(struct piece, 1);

    piece->task.run = piece_begin;
    piece->link.data = piece;
    piece->request = request;
    piece->volume = request->volume;
    piece->op = op;
    piece->index = start / object_bytes;
    piece->start = (uint32_t)(start % object_bytes);
    piece->end = piece->start + (uint32_t)(end - start);
    piece->buffer_offset = start - request->user.offset_bytes;
    return piece;
}

/* Where the next piece of a read or write ends: with its object. */
static uint64_t piece_end(const struct request *request)
{
    uint32_t object_bytes = request->volume->map->header.object_bytes;
    uint64_t object_end =
        (request->next_bytes / object_bytes + 1) * object_bytes;

    return MIN(object_end, request->end_bytes);
}

/* Zeroes go block by block, apart from what of a block stands at the ends. */
static struct piece *piece_next_zeroes(struct request *request)
{
    uint32_t block = request->volume->map->header.block_bytes;
    uint64_t start = request->next_bytes, end = piece_end(request);
    uint64_t whole_start = (start + block - 1) / block * block;
    uint64_t whole_end = end / block * block;
    struct piece *piece;

    /* The last block may be cut by the volume's end. */
    if (end == archip_volume_size(request->volume)) {
        whole_end = (end + block - 1) / block * block;
    }
    if (start == whole_start && whole_end > start) {
        request->next_bytes = MIN(whole_end, end);
        return piece_new(request, request->user.op, start, whole_end);
    }
    request->next_bytes = MIN(whole_start > start ? whole_start : end, end);
    if (request->user.op == ARCHIP_DISCARD) {
        return NULL;
    }
    piece = piece_new(request, ARCHIP_WRITE, start, request->next_bytes);
    piece->zeroes = true;
    return piece;
}

static bool request_unmaps(const struct request *request)
{
    return request->user.op == ARCHIP_DISCARD ||
           (request->user.op == ARCHIP_WRITE_ZEROES &&
            request->user.flags & ARCHIP_MAY_UNMAP);
}

/* Nothing has to be done for objects that aren't there. */
static void request_skip_holes(struct request *request)
{
    struct map *map = request->volume->map;
    uint32_t object_bytes = map->header.object_bytes;
    uint64_t index = request->next_bytes / object_bytes;
    uint64_t end = (request->end_bytes + object_bytes - 1) / object_bytes;
    uint64_t used;
    struct map_page *wanted;

    /* Where a page must be read first, the piece that comes to it waits. */
    g_mutex_lock(&map->lock);
    map_next_used(map, index, end, &used, &wanted, NULL);
    g_mutex_unlock(&map->lock);
    if (used > index) {
        /* What made the hole need not be durable yet. */
        request->needs_flush |= (request->user.flags & ARCHIP_FUA) != 0;
        request->next_bytes = MIN(used * object_bytes, request->end_bytes);
    }
}

static struct piece *piece_next(struct request *request)
{
    uint64_t start = request->next_bytes, end;

    switch ((int)request->user.op) {
    case ARCHIP_WRITE_ZEROES:
    case ARCHIP_DISCARD:
        return piece_next_zeroes(request);
    case ARCHIP_EXTENTS:    /* goes on from where the answer ends */
        return piece_new(request, ARCHIP_EXTENTS, start, piece_end(request));
    default:
        end = piece_end(request);
        request->next_bytes = end;
        return piece_new(request, (int)request->user.op, start, end);
    }
}

static void request_advance(struct request *request)
{
    unsigned pieces_max =
        request->user.op == ARCHIP_EXTENTS ? 1 : REQUEST_PIECES_MAX;

    if (request->advancing) {
        return;
    }
    request->advancing = true;
    while (request->next_bytes < request->end_bytes &&
           request->pieces < pieces_max && request->result >= 0) {
        struct piece *piece;

        if (request_unmaps(request)) {
            request_skip_holes(request);
            if (request->next_bytes >= request->end_bytes) {
                break;
            }
        }
        piece = piece_next(request);
        if (piece) {
            request->pieces++;
            piece_start(piece);
        }
    }
    request->advancing = false;
    if (!request->pieces && (request->next_bytes >= request->end_bytes ||
                             request->result < 0)) {
        request_finish(request);
    }
}

void piece_finish(struct piece *piece)
{
    struct request *request = piece->request;

    g_assert(!piece->object && !piece->cursor.entries);
    piece_free_ios(piece);
    free(piece->buffer);
    if (piece->copies) {
        g_array_unref(piece->copies);
    }
    if (piece->result < 0) {
        request_fail(request, piece->result, piece->error);
    }
    g_free(piece);
    request->pieces--;
    request_advance(request);
}

/* --- Starting ---------------------------------------------------------------------- */

static bool request_modifies(const struct request *request)
{
    return request->user.op == ARCHIP_WRITE ||
           request->user.op == ARCHIP_DISCARD ||
           request->user.op == ARCHIP_WRITE_ZEROES ||
           request->user.op == ARCHIP_COPY_RANGE;
}

/* A growing write makes room first; sizes are multiples of sectors. */
static int request_grow(struct request *request, uint64_t end_bytes,
                        GError **error)
{
    archip_volume *volume = request->volume;
    uint64_t size_bytes;

    if (end_bytes > ARCHIP_SIZE_MAX) {
        return error_set(error, EFBIG, "it can't grow beyond 1 PiB");
    }
    size_bytes = (end_bytes + 511) / 512 * 512;
    g_mutex_lock(&volume->map->lock);
    if (volume->map->header.shrink_bytes) {
        g_mutex_unlock(&volume->map->lock);
        return error_set(error, EBUSY, "it is being shrunk");
    }
    if (size_bytes > volume->map->header.size_bytes) {
        volume_set_size(volume, size_bytes);
    }
    g_mutex_unlock(&volume->map->lock);
    request->needs_flush = (request->user.flags & ARCHIP_FUA) != 0;
    return 0;
}

static int request_check_range(struct request *request, GError **error)
{
    const archip_request *user = &request->user;
    uint64_t size_bytes = archip_volume_size(request->volume);
    uint64_t end_bytes;

    if (__builtin_add_overflow(user->offset_bytes, user->length_bytes,
                               &end_bytes)) {
        end_bytes = UINT64_MAX;
    }
    if (end_bytes <= size_bytes || request->beyond_end) {
        return 0;
    }
    if (user->flags & ARCHIP_GROW) {
        return request_grow(request, end_bytes, error);
    }
    return error_set(error, EINVAL,
                     "%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT
                     " go past its end, %" G_GUINT64_FORMAT,
                     user->length_bytes, user->offset_bytes, size_bytes);
}

static int request_check_state(struct request *request, GError **error)
{
    archip_volume *volume = request->volume;

    if (request->lacks_memory) {
        return buffer_fail(
            (size_t)request->user.iov_count * sizeof(struct iovec), error);
    }
    if (!g_atomic_int_get(&volume->active)) {
        return error_set(error, EPERM, "it isn't active: its lock was handed "
                                       "over; activate it first");
    }
    if (request_modifies(request) && !volume_is_writable(volume)) {
        return error_set(error, EROFS, "it is open read-only");
    }
    return request->user.op == ARCHIP_FLUSH
               ? 0
               : request_check_range(request, error);
}

void request_start(struct request *request)
{
    g_autoptr(GError) error = NULL;
    int rc = request_check_state(request, &error);

    if (rc < 0) {
        request_fail(request, rc, g_strdup(error->message));
        request_finish(request);
        return;
    }
    request->next_bytes = request->user.offset_bytes;
    request->end_bytes = request->next_bytes + request->user.length_bytes;
    switch (request->user.op) {
    case ARCHIP_FLUSH:
        flush_request(request);
        break;
    case ARCHIP_COPY_RANGE:
        copy_start(request);
        break;
    default:
        request_advance(request);
    }
}

/* --- The volume's own requests ------------------------------------------------------- */

static void run_complete(struct request *request)
{
    queue_let(request->queue);
    *(bool *)request->opaque = true;
}

int request_run(archip_queue *queue, const archip_request *user,
                bool beyond_end, GError **error)
{
    bool done = false;
    struct request *request = request_new(queue, queue->volume, user,
                                          run_complete, &done);
    int rc;

    request->beyond_end = beyond_end;
    queue_hold(queue);
    request_start(request);
    queue_turn(queue, 0);
    while (!done) {
        queue_turn(queue, -1);
    }
    rc = (int)request->result;
    if (rc < 0) {
        error_set(error, -rc, "%s", request->error);
    }
    request_free(request);
    return rc;
}
