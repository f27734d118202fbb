/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A pipe, socket or terminal: it has no offsets, and as a source no size.
 * Reading waits in the engine's poll; writing blocks, and a signal ends it.
 */
#include "copy.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

struct side_stream {
    struct copy_side side;
    int fd;
    char *name;
    struct copy_io *reading;    /* waits for more */
    uint64_t got_bytes;         /* of it */
};

static void stream_read(struct copy_side *side, struct copy_io *io)
{
    struct side_stream *self = (struct side_stream *)side;

    g_assert(!self->reading);
    self->reading = io;
    self->got_bytes = 0;
    io->busy = true;
}

static void finish_read(struct side_stream *self)
{
    self->reading->length_bytes = self->got_bytes;
    self->reading->busy = false;
    self->reading = NULL;
}

static void stream_work(struct copy_side *side, short events)
{
    struct side_stream *self = (struct side_stream *)side;
    struct copy_io *io = self->reading;
    ssize_t got = read(self->fd, (char *)io->buffer + self->got_bytes,
                       io->length_bytes - self->got_bytes);

    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (got < 0) {
        error_from_errno(&io->error, errno, "reading %s", self->name);
    }
    self->got_bytes += got > 0 ? (uint64_t)got : 0;
    if (got <= 0 || self->got_bytes == io->length_bytes) {
        finish_read(self);
    }
}

static int stream_poll_fd(struct copy_side *side, short *events)
{
    struct side_stream *self = (struct side_stream *)side;

    *events = POLLIN;
    return self->reading ? self->fd : -1;
}

/* Somebody else may have made the descriptor non-blocking. */
static void wait_writable(const struct side_stream *self)
{
    struct pollfd fds[] = {
        {.fd = self->fd, .events = POLLOUT},
        {.fd = interrupt_fd(), .events = POLLIN},
    };

    (void)poll(fds, G_N_ELEMENTS(fds), -1);
}

static void write_failed(struct side_stream *self, struct copy_io *io)
{
    if (errno == EPIPE) {
        g_set_error(&io->error, CLI_ERROR, CODE_FAILED,
                    "writing %s: the reader went away", self->name);
    } else {
        error_from_errno(&io->error, errno, "writing %s", self->name);
    }
}

static void stream_write(struct copy_side *side, struct copy_io *io)
{
    struct side_stream *self = (struct side_stream *)side;
    uint64_t done = 0;

    while (done < io->length_bytes && interrupt_signal() == 0) {
        ssize_t put;

        wait_writable(self);
        put = write(self->fd, (char *)io->buffer + done,
                    io->length_bytes - done);
        if (put >= 0) {
            done += (uint64_t)put;
        } else if (errno != EINTR && errno != EAGAIN) {
            write_failed(self, io);
            return;
        }
    }
}

/* A pipe has nothing to sync; what redirection put there may have. */
static bool stream_flush(struct copy_side *side, GError **error)
{
    struct side_stream *self = (struct side_stream *)side;

    if (fsync(self->fd) < 0 && errno != EINVAL && errno != EROFS &&
        errno != ENOTSUP) {
        error_from_errno(error, errno, "syncing %s", self->name);
        return false;
    }
    return true;
}

static void stream_stop(struct copy_side *side)
{
    ((struct side_stream *)side)->reading = NULL;
}

static void stream_close(struct copy_side *side)
{
    struct side_stream *self = (struct side_stream *)side;

    close(self->fd);
    g_free(self->name);
    g_free(self);
}

static const struct copy_ops stream_ops = {
    .read = stream_read,
    .write = stream_write,
    .poll_fd = stream_poll_fd,
    .work = stream_work,
    .flush = stream_flush,
    .stop = stream_stop,
    .close = stream_close,
};

struct copy_side *side_stream_new(int fd, const char *name, bool is_source)
{
    struct side_stream *self = g_new0(struct side_stream, 1);

    self->side.ops = &stream_ops;
    self->side.alignment_bytes = 1;
    self->side.sequential = true;
    self->side.size_unknown = is_source;
    self->fd = fd;
    self->name = g_strdup(name);
    return &self->side;
}
