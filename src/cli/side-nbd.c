/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD export, through libnbd: somebody's server, or one of QEMU's that is
 * started for an image and ends with the side.
 *
 * A connection with an error is dead for everything in flight on it; libnbd
 * then says so for each request that is still to come.
 */
#include "copy.h"

#include <errno.h>
#include <libnbd.h>
#include <poll.h>

#define STOP_US 1000000
#define RUNS_MAX 1024
#define STATUS_BYTES_MAX (UINT64_C(1) << 30)
#define ZERO_BYTES_MAX (UINT64_C(64) << 20)

struct run {
    uint64_t length_bytes;
    bool is_zero;
};

struct side_nbd {
    struct copy_side side;
    struct nbd_handle *nbd;
    bool has_status, can_flush, can_zero;
    /* The last answer on block status, from `runs_at_bytes` on. */
    struct run runs[RUNS_MAX];
    size_t run_count, run_next;
    uint64_t runs_at_bytes;
};

static void nbd_failed(GError **error)
{
    int code = nbd_get_errno() == ENOSPC ? CODE_SPACE : CODE_FAILED;

    g_set_error(error, CLI_ERROR, code, "NBD: %s", nbd_get_error());
}

/* --- Block status ------------------------------------------------------- */

/* LIBNBD_STATE_HOLE alone says nothing of what a read would give. */
static int note_runs(void *opaque, const char *context, uint64_t offset,
                     uint32_t *entries, size_t entry_count, int *error)
{
    struct side_nbd *self = opaque;

    if (!g_str_equal(context, LIBNBD_CONTEXT_BASE_ALLOCATION)) {
        return 0;
    }
    for (size_t i = 0; i + 1 < entry_count && self->run_count < RUNS_MAX;
         i += 2) {
        self->runs[self->run_count++] = (struct run){
            entries[i], (entries[i + 1] & LIBNBD_STATE_ZERO) != 0};
    }
    return 0;
}

static bool cached_run(struct side_nbd *self, uint64_t offset_bytes,
                       uint64_t *run_bytes, bool *is_zero)
{
    while (self->run_next < self->run_count) {
        const struct run *run = &self->runs[self->run_next];
        uint64_t end = self->runs_at_bytes + run->length_bytes;

        if (offset_bytes < self->runs_at_bytes) {
            return false;
        }
        if (offset_bytes < end) {
            *run_bytes = end - offset_bytes;
            *is_zero = run->is_zero;
            return true;
        }
        self->runs_at_bytes = end;
        self->run_next++;
    }
    return false;
}

static bool ask_status(struct side_nbd *self, uint64_t offset_bytes,
                       uint64_t length_bytes, GError **error)
{
    nbd_extent_callback callback = {.callback = note_runs, .user_data = self};

    self->run_count = 0;
    self->run_next = 0;
    self->runs_at_bytes = offset_bytes;
    if (nbd_block_status(self->nbd, MIN(length_bytes, STATUS_BYTES_MAX),
                         offset_bytes, callback, 0) < 0) {
        nbd_failed(error);
        return false;
    }
    return true;
}

static bool nbd_side_extent(struct copy_side *side, uint64_t offset_bytes,
                            uint64_t length_bytes, uint64_t *run_bytes,
                            bool *is_zero, GError **error)
{
    struct side_nbd *self = (struct side_nbd *)side;

    *run_bytes = length_bytes;
    *is_zero = false;
    if (!self->has_status ||
        cached_run(self, offset_bytes, run_bytes, is_zero)) {
        *run_bytes = MIN(*run_bytes, length_bytes);
        return true;
    }
    if (!ask_status(self, offset_bytes, length_bytes, error)) {
        return false;
    }
    if (!cached_run(self, offset_bytes, run_bytes, is_zero)) {
        g_set_error(error, CLI_ERROR, CODE_FAILED,
                    "NBD: the server says nothing of the block status at "
                    "offset %" G_GUINT64_FORMAT,
                    offset_bytes);
        return false;
    }
    *run_bytes = MIN(*run_bytes, length_bytes);
    return true;
}

/* --- Data --------------------------------------------------------------- */

static int completed(void *opaque, int *error)
{
    struct copy_io *io = opaque;

    io->busy = false;
    if (*error != 0) {
        error_from_errno(&io->error, *error,
                         "NBD: at offset %" G_GUINT64_FORMAT,
                         io->offset_bytes);
    }
    return 1;
}

/* `cookie`: what libnbd gave for the request; the callback may have run. */
static void submitted(struct copy_io *io, int64_t cookie)
{
    if (cookie < 0) {
        io->busy = false;
        if (!io->error) {
            nbd_failed(&io->error);
        }
    }
}

static nbd_completion_callback completion(struct copy_io *io)
{
    io->busy = true;
    return (nbd_completion_callback){.callback = completed, .user_data = io};
}

static void nbd_side_read(struct copy_side *side, struct copy_io *io)
{
    struct side_nbd *self = (struct side_nbd *)side;

    submitted(io, nbd_aio_pread(self->nbd, io->buffer, io->length_bytes,
                                io->offset_bytes, completion(io), 0));
}

static void nbd_side_write(struct copy_side *side, struct copy_io *io)
{
    struct side_nbd *self = (struct side_nbd *)side;

    submitted(io, nbd_aio_pwrite(self->nbd, io->buffer, io->length_bytes,
                                 io->offset_bytes, completion(io), 0));
}

/* Blocking writes for the few servers that know no zeroes. */
static void write_zeroes(struct side_nbd *self, struct copy_io *io)
{
    g_autofree char *zeroes = g_malloc0(COPY_CHUNK_BYTES);
    uint64_t done = 0;

    while (done < io->length_bytes && interrupt_signal() == 0) {
        uint64_t bytes = MIN(COPY_CHUNK_BYTES, io->length_bytes - done);

        if (nbd_pwrite(self->nbd, zeroes, bytes, io->offset_bytes + done, 0) <
            0) {
            nbd_failed(&io->error);
            return;
        }
        done += bytes;
    }
}

/* All but the last request wait: such long holes are rare. */
static void nbd_side_zero(struct copy_side *side, struct copy_io *io)
{
    struct side_nbd *self = (struct side_nbd *)side;
    uint64_t at = io->offset_bytes;
    uint64_t left = io->length_bytes;

    if (!self->can_zero) {
        write_zeroes(self, io);
        return;
    }
    for (; left > ZERO_BYTES_MAX; left -= ZERO_BYTES_MAX) {
        if (nbd_zero(self->nbd, ZERO_BYTES_MAX, at, 0) < 0) {
            nbd_failed(&io->error);
            return;
        }
        at += ZERO_BYTES_MAX;
    }
    submitted(io, nbd_aio_zero(self->nbd, left, at, completion(io), 0));
}

static int nbd_side_poll_fd(struct copy_side *side, short *events)
{
    struct side_nbd *self = (struct side_nbd *)side;
    unsigned direction = nbd_aio_get_direction(self->nbd);

    *events = 0;
    if (direction & LIBNBD_AIO_DIRECTION_READ) {
        *events |= POLLIN;
    }
    if (direction & LIBNBD_AIO_DIRECTION_WRITE) {
        *events |= POLLOUT;
    }
    return nbd_aio_get_fd(self->nbd);
}

/* A failure here ends the connection, and so every request, by its callback. */
static void nbd_side_work(struct copy_side *side, short events)
{
    struct side_nbd *self = (struct side_nbd *)side;
    unsigned direction = nbd_aio_get_direction(self->nbd);

    if ((events & (POLLIN | POLLHUP | POLLERR)) &&
        (direction & LIBNBD_AIO_DIRECTION_READ)) {
        nbd_aio_notify_read(self->nbd);
    } else if ((events & POLLOUT) &&
               (direction & LIBNBD_AIO_DIRECTION_WRITE)) {
        nbd_aio_notify_write(self->nbd);
    }
}

static bool nbd_side_flush(struct copy_side *side, GError **error)
{
    struct side_nbd *self = (struct side_nbd *)side;

    if ((self->can_flush && nbd_flush(self->nbd, 0) < 0) ||
        nbd_shutdown(self->nbd, 0) < 0) {
        nbd_failed(error);
        return false;
    }
    return true;
}

static void nbd_side_disconnect(struct side_nbd *self)
{
    if (self->nbd && nbd_aio_is_ready(self->nbd) == 1 &&
        nbd_aio_in_flight(self->nbd) == 0) {
        nbd_shutdown(self->nbd, 0);
    }
    g_clear_pointer(&self->nbd, nbd_close);
}

/* A server is not left with replies that nobody takes, unless it is slow: what
 * is in flight then ends with the handle, without its callbacks. */
static void nbd_side_stop(struct copy_side *side)
{
    struct side_nbd *self = (struct side_nbd *)side;
    gint64 until_us = g_get_monotonic_time() + STOP_US;

    while (nbd_aio_in_flight(self->nbd) > 0 &&
           g_get_monotonic_time() < until_us) {
        if (nbd_poll(self->nbd, STOP_US / 1000) < 0) {
            break;
        }
    }
    nbd_side_disconnect(self);
}

/* Waits for the server, if it is ours. */
static void nbd_side_close(struct copy_side *side)
{
    nbd_side_disconnect((struct side_nbd *)side);
    g_free(side);
}

static const struct copy_ops nbd_ops = {
    .extent = nbd_side_extent,
    .read = nbd_side_read,
    .write = nbd_side_write,
    .zero = nbd_side_zero,
    .poll_fd = nbd_side_poll_fd,
    .work = nbd_side_work,
    .flush = nbd_side_flush,
    .stop = nbd_side_stop,
    .close = nbd_side_close,
};

/* --- Connecting --------------------------------------------------------- */

static struct side_nbd *nbd_side_new(GError **error)
{
    struct side_nbd *self = g_new0(struct side_nbd, 1);

    self->side.ops = &nbd_ops;
    self->nbd = nbd_create();
    if (!self->nbd ||
        nbd_add_meta_context(self->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0) {
        nbd_failed(error);
        nbd_side_close(&self->side);
        return NULL;
    }
    return self;
}

/* What the connection can do.  Closes the side when that fails. */
static struct copy_side *nbd_side_ready(struct side_nbd *self, GError **error)
{
    int64_t size = nbd_get_size(self->nbd);
    int64_t block = nbd_get_block_size(self->nbd, LIBNBD_SIZE_MINIMUM);

    if (size < 0) {
        nbd_failed(error);
        nbd_side_close(&self->side);
        return NULL;
    }
    self->side.size_bytes = (uint64_t)size;
    self->side.alignment_bytes = block > 0 ? (uint32_t)block : 1;
    self->has_status =
        nbd_can_meta_context(self->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    self->can_flush = nbd_can_flush(self->nbd) == 1;
    self->can_zero = nbd_can_zero(self->nbd) == 1;
    return &self->side;
}

struct copy_side *side_nbd_uri(const char *uri, GError **error)
{
    struct side_nbd *self = nbd_side_new(error);

    if (!self) {
        return NULL;
    }
    nbd_set_uri_allow_local_file(self->nbd, true);
    if (nbd_connect_uri(self->nbd, uri) < 0) {
        nbd_failed(error);
        nbd_side_close(&self->side);
        return NULL;
    }
    return nbd_side_ready(self, error);
}

struct copy_side *side_nbd_command(char **argv, bool starts_zero,
                                   GError **error)
{
    struct side_nbd *self = nbd_side_new(error);

    if (!self) {
        return NULL;
    }
    self->side.starts_zero = starts_zero;
    if (nbd_connect_systemd_socket_activation(self->nbd, argv) < 0) {
        nbd_failed(error);
        nbd_side_close(&self->side);
        return NULL;
    }
    return nbd_side_ready(self, error);
}
