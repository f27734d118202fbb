/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pieces of requests: their order within an object, their I/O, and the records
 * of objects that are in use or have something to be synced.
 *
 * A piece holds a range of its object, shared or exclusive.  Ranges that
 * overlap exclude each other unless both are shared: plain reads and writes
 * share (as on any disk, those that overlap have no order), whatever reads
 * before it writes, or creates the object, is alone (D16).  A piece that must
 * wait, for others or for a map page, has changed nothing and begins anew.
 */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_ALIGN 4096u

void *buffer_alloc(size_t bytes)
{
    void *memory;

    return posix_memalign(&memory, BUFFER_ALIGN, bytes) ? NULL : memory;
}

int buffer_fail(size_t bytes, GError **error)
{
    return error_set_errno(error, ENOMEM, "no buffer of %zu bytes", bytes);
}

/* --- Objects' records ------------------------------------------------------------- */

struct object *object_get(archip_volume *volume, uint64_t index)
{
    struct object *object = g_hash_table_lookup(volume->objects, &index);

    if (!object) {
        object = g_new0(struct object, 1);
        object->index = index;
        object->unsynced_link.data = object;
        g_hash_table_insert(volume->objects, &object->index, object);
    }
    return object;
}

void object_put(archip_volume *volume, struct object *object)
{
    if (!object->active.length && !object->waiting.length &&
        !object->is_unsynced && !object->is_syncing && !object->lost) {
        g_hash_table_remove(volume->objects, &object->index);   /* frees it */
    }
}

/* Blocks that were rewritten as a whole. */
static void object_regain(struct object *object, unsigned first, unsigned last)
{
    for (unsigned block = first; block < last; block++) {
        map_bit_set(&object->lost->mended, block);
    }
}

static bool bits_clear(struct map_bits *bits, const struct map_bits *cleared)
{
    uint8_t any = 0;

    for (size_t i = 0; i < sizeof(bits->bytes); i++) {
        bits->bytes[i] &= (uint8_t)~cleared->bytes[i];
        any |= bits->bytes[i];
    }
    return any;
}

void objects_mend(archip_volume *volume)
{
    g_autoptr(GPtrArray) mended = NULL;
    GHashTableIter iter;
    gpointer value;

    if (!volume->lost_count) {
        return;
    }
    mended = g_ptr_array_new();
    g_hash_table_iter_init(&iter, volume->objects);
    while (volume->lost_count &&
           g_hash_table_iter_next(&iter, NULL, &value)) {
        struct object *object = value;

        if (object->lost &&
            !bits_clear(&object->lost->bits, &object->lost->mended)) {
            g_clear_pointer(&object->lost, g_free);
            volume->lost_count--;
            g_ptr_array_add(mended, object);
        } else if (object->lost) {
            object->lost->mended = (struct map_bits){ 0 };
        }
    }
    for (guint i = 0; i < mended->len; i++) {
        object_put(volume, g_ptr_array_index(mended, i));
    }
}

static void object_lose_bits(archip_volume *volume, struct object *object,
                             const struct map_bits *bits)
{
    static const struct map_bits none;

    if (memcmp(bits, &none, sizeof(none)) == 0) {
        return;
    }
    if (!object->lost) {
        object->lost = g_new0(struct lost_blocks, 1);
        volume->lost_count++;
    }
    for (size_t i = 0; i < sizeof(bits->bytes); i++) {
        object->lost->bits.bytes[i] |= bits->bytes[i];
    }
    bits_clear(&object->lost->mended, bits);
}

void object_lose(archip_volume *volume, struct object *object)
{
    struct map_bits bits = object->syncing;

    for (size_t i = 0; i < sizeof(bits); i++) {
        bits.bytes[i] |= object->fresh.bytes[i];
    }
    object_lose_bits(volume, object, &bits);
    for (GList *link = object->active.head; link; link = link->next) {
        ((struct piece *)link->data)->doubtful = true;
    }
}

void object_lose_range(archip_volume *volume, struct object *object,
                       uint32_t start, uint32_t end)
{
    uint32_t block = volume->map->header.block_bytes;
    struct map_bits bits = { 0 };

    for (unsigned i = start / block; i < (end + block - 1) / block; i++) {
        map_bit_set(&bits, i);
    }
    object_lose_bits(volume, object, &bits);
}

void object_forget_data(archip_volume *volume, struct object *object)
{
    memset(&object->fresh, 0, sizeof(object->fresh));
    memset(&object->syncing, 0, sizeof(object->syncing));
    if (object->lost) {
        memset(&object->lost->mended, 0xff, sizeof(object->lost->mended));
    }
}

void object_changed(archip_volume *volume, struct object *object,
                    uint32_t start, uint32_t end)
{
    uint32_t block = volume->map->header.block_bytes;

    for (unsigned i = start / block; i < (end + block - 1) / block; i++) {
        map_bit_set(&object->fresh, i);
    }
    if (!object->is_unsynced) {
        object->is_unsynced = true;
        g_queue_push_tail_link(&volume->unsynced, &object->unsynced_link);
    }
}

void object_written(archip_volume *volume, struct object *object,
                    uint32_t start, uint32_t end)
{
    uint32_t block = volume->map->header.block_bytes;
    unsigned last = (end + block - 1) / block;

    object_changed(volume, object, start, end);
    if (object->lost) {
        /* More of its last block than the volume has nobody can write. */
        bool whole = end % block == 0 ||
                     object->index * volume->map->header.object_bytes + end >=
                         volume_reach(volume);

        object_regain(object, (start + block - 1) / block, last - !whole);
    }
}

/* --- Order --------------------------------------------------------------------------- */

static bool piece_conflicts(const struct piece *piece,
                            const struct piece *other)
{
    return (piece->exclusive || other->exclusive) &&
           piece->lock_start < other->lock_end &&
           other->lock_start < piece->lock_end;
}

static bool conflicts_any(const struct piece *piece, const GQueue *others)
{
    for (const GList *link = others->head; link; link = link->next) {
        if (piece_conflicts(piece, link->data)) {
            return true;
        }
    }
    return false;
}

/* Who waits already goes first, or many that share could keep out one that
 * doesn't for good.  When the last active piece leaves, all who wait look
 * again, so that nobody waits for nobody. */
bool piece_admit(struct piece *piece, uint32_t start, uint32_t end,
                 bool exclusive)
{
    struct object *object = object_get(piece->volume, piece->index);

    piece->object = object;
    piece->lock_start = start;
    piece->lock_end = end;
    piece->exclusive = exclusive;
    if (conflicts_any(piece, &object->active) ||
        conflicts_any(piece, &object->waiting)) {
        g_queue_push_tail_link(&object->waiting, &piece->link);
        return false;
    }
    g_queue_push_tail_link(&object->active, &piece->link);
    piece->active = true;
    return true;
}

void piece_release(struct piece *piece)
{
    struct object *object = piece->object;
    GList *link;

    map_unpin(&piece->cursor);
    if (!object) {
        return;
    }
    piece->object = NULL;
    piece->active = false;
    g_queue_unlink(&object->active, &piece->link);
    if (piece->awaited) {
        flush_piece_done(piece->volume);
    }
    while ((link = g_queue_pop_head_link(&object->waiting))) {
        struct piece *waiter = link->data;

        waiter->object = NULL;
        queue_post(waiter->request->queue, &waiter->task);
    }
    object_put(piece->volume, object);
}

/* --- Beginning ------------------------------------------------------------------------ */

enum piece_state piece_fail(struct piece *piece, int rc, GError *error)
{
    if (piece->result >= 0) {
        piece->result = rc;
        piece->error = error ? g_strdup(error->message) : NULL;
    }
    g_clear_error(&error);
    return PIECE_DONE;
}

static enum piece_state piece_prepare(struct piece *piece)
{
    switch (piece->op) {
    case ARCHIP_READ:
        return read_prepare(piece);
    case OP_FREE:
        return free_prepare(piece);
    case ARCHIP_EXTENTS:
        return extents_prepare(piece);
    default:
        return write_prepare(piece);
    }
}

void piece_start(struct piece *piece)
{
    struct map *map = piece->volume->map;
    enum piece_state state = PIECE_DONE;

    g_mutex_lock(&map->lock);
    if (piece->result >= 0) {
        state = piece_prepare(piece);
    }
    if (state == PIECE_DONE) {
        piece_release(piece);
    }
    g_mutex_unlock(&map->lock);
    if (state == PIECE_GO) {
        piece_submit(piece, piece->step);
    } else if (state == PIECE_DONE) {
        piece_finish(piece);
    }
}

void piece_begin(struct task *task)
{
    piece_start((struct piece *)task);
}

/* --- Map pages --------------------------------------------------------------------------- */

/* Who needs a page first reads it, on his own queue. */
struct page_read {
    archip_volume *volume;
    archip_queue *queue;
    struct map_page *page;
};

static void page_read_done(struct store_request *request)
{
    struct page_read *read = request->opaque;
    struct map *map = read->volume->map;
    archip_queue *queue = read->queue;

    g_mutex_lock(&map->lock);
    map_page_loaded(map, read->page, NULL);
    g_mutex_unlock(&map->lock);
    queue_let(queue);
    g_free(read);
}

enum piece_state piece_stuck(struct piece *piece, int rc,
                             struct map_page *wanted, GError *error)
{
    archip_queue *queue = piece->request->queue;
    struct page_read *read;

    if (rc != -EAGAIN) {
        return piece_fail(piece, rc, error);
    }
    wanted->waiters = g_slist_prepend(wanted->waiters, piece);
    if (map_page_claim(wanted)) {
        read = g_new(struct page_read, 1);
        *read = (struct page_read){ piece->volume, queue, wanted };
        wanted->request.done = page_read_done;
        wanted->request.opaque = read;
        queue_hold(queue);
        store_submit(queue->store_queue, &wanted->request);
    }
    return PIECE_WAIT;
}

/* --- I/O --------------------------------------------------------------------------------- */

bool io_is_aligned(const struct store *store, uint32_t start, uint32_t end)
{
    return ((start | end) & (store->alignment_bytes - 1)) == 0;
}

struct io *piece_add_io(struct piece *piece, enum store_op op,
                        const struct id128 *layer, uint32_t start,
                        uint32_t end)
{
    struct io *io = g_new0(struct io, 1);

    io->piece = piece;
    io->request = (struct store_request){
        .op = op,
        .object = { STORE_BLOCK, *layer, piece->index },
        .offset_bytes = start,
        .length_bytes = end - start,
        .create_bytes = piece->volume->map->header.object_bytes,
    };
    io->iov = io->iov_inline;
    io->next = piece->ios;
    piece->ios = io;
    return io;
}

static void io_free(struct io *io)
{
    if (io->iov != io->iov_inline) {
        g_free(io->iov);
    }
    free(io->bounce);
    g_free(io);
}

void piece_free_ios(struct piece *piece)
{
    struct io *io;

    while ((io = piece->ios)) {
        piece->ios = io->next;
        io_free(io);
    }
}

static void piece_io_done(struct store_request *request)
{
    struct piece *piece = ((struct io *)request->opaque)->piece;

    if (request->result < 0 && piece->result >= 0) {
        g_autofree char *object = store_object_text(&request->object);
        bool missing = request->result == -ENOENT;

        piece->result = missing ? -EUCLEAN : request->result;
        piece->error = g_strdup_printf(
            "%s: %s", object, missing ? "the map names it, but it is missing"
                                      : g_strerror(-request->result));
    }
    if (--piece->outstanding == 0) {
        piece->step(piece);
    }
}

void piece_submit(struct piece *piece, void (*step)(struct piece *piece))
{
    struct store_queue *queue = piece->request->queue->store_queue;
    unsigned count = 0;

    piece->step = step;
    for (struct io *io = piece->ios; io; io = io->next) {
        io->request.done = piece_io_done;
        io->request.opaque = io;
        count++;
    }
    piece->outstanding = count;
    if (!count) {
        step(piece);
        return;
    }
    for (struct io *io = piece->ios; io; io = io->next) {
        store_submit(queue, &io->request);
    }
}

/* --- Callers' buffers ---------------------------------------------------------------------- */

/* Where `offset` bytes into the iovecs is; NULL past the end. */
static const struct iovec *iov_seek(const struct request *request,
                                    uint64_t offset, size_t *skip)
{
    const struct iovec *iov = request->user.iov;
    const struct iovec *end = iov + request->user.iov_count;

    for (; iov < end; iov++) {
        if (offset < iov->iov_len) {
            *skip = (size_t)offset;
            return iov;
        }
        offset -= iov->iov_len;
    }
    return NULL;
}

/* Call `each` for the runs of memory that make up a range of the buffers. */
static void user_walk(const struct request *request, uint64_t offset,
                      size_t bytes,
                      void (*each)(void *user, size_t bytes, void **opaque),
                      void *opaque)
{
    size_t skip = 0;
    const struct iovec *iov = bytes ? iov_seek(request, offset, &skip) : NULL;

    for (; bytes; iov++, skip = 0) {
        size_t run = MIN(bytes, iov->iov_len - skip);

        if (run) {      /* an empty one may have no address */
            each((char *)iov->iov_base + skip, run, &opaque);
        }
        bytes -= run;
    }
}

static void walk_copy_out(void *user, size_t bytes, void **opaque)
{
    memcpy(user, *opaque, bytes);
    *opaque = (char *)*opaque + bytes;
}

static void walk_copy_in(void *user, size_t bytes, void **opaque)
{
    memcpy(*opaque, user, bytes);
    *opaque = (char *)*opaque + bytes;
}

static void walk_zero(void *user, size_t bytes, void **opaque)
{
    memset(user, 0, bytes);
}

void user_copy_out(const struct request *request, uint64_t offset,
                   const void *memory, size_t bytes)
{
    user_walk(request, offset, bytes, walk_copy_out, (void *)memory);
}

void user_copy_in(const struct request *request, uint64_t offset,
                  void *memory, size_t bytes)
{
    user_walk(request, offset, bytes, walk_copy_in, memory);
}

void user_zero(const struct request *request, uint64_t offset, size_t bytes)
{
    user_walk(request, offset, bytes, walk_zero, NULL);
}

static bool memory_is_aligned(const struct store *store, const void *memory,
                              size_t bytes)
{
    return (((uintptr_t)memory & (store->memory_alignment_bytes - 1)) |
            (bytes & (store->alignment_bytes - 1))) == 0;
}

bool io_map_user(struct io *io, const struct piece *piece)
{
    const struct request *request = piece->request;
    const struct store *store = piece->volume->store->store;
    uint64_t offset = piece->buffer_offset +
                      (io->request.offset_bytes - piece->start);
    size_t bytes = io->request.length_bytes, skip = 0;
    const struct iovec *first = iov_seek(request, offset, &skip);
    const struct iovec *iov = first;
    int count = 0;

    for (size_t rest = bytes, at = skip; rest; iov++, at = 0) {
        size_t run = MIN(rest, iov->iov_len - at);

        if (!memory_is_aligned(store, (char *)iov->iov_base + at, run)) {
            return false;
        }
        count += run > 0;
        rest -= run;
    }
    if (count > IOV_MAX) {
        return false;
    }
    if (count > (int)G_N_ELEMENTS(io->iov_inline)) {
        io->iov = g_new(struct iovec, (size_t)count);
    }
    io->request.iov = io->iov;
    io->request.iov_count = count;
    iov = first;
    for (struct iovec *to = io->iov; bytes; iov++, skip = 0) {
        size_t run = MIN(bytes, iov->iov_len - skip);

        if (run) {
            *to++ = (struct iovec){ (char *)iov->iov_base + skip, run };
        }
        bytes -= run;
    }
    return true;
}

int io_set_bounce(struct io *io, GError **error)
{
    io->bounce = buffer_alloc(io->request.length_bytes);
    if (!io->bounce) {
        return buffer_fail(io->request.length_bytes, error);
    }
    io->iov[0] = (struct iovec){ io->bounce, io->request.length_bytes };
    io->request.iov = io->iov;
    io->request.iov_count = 1;
    return 0;
}
