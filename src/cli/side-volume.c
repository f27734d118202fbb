/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume as source or target of a copy.  Data goes through one queue,
 * asynchronously; the blocking calls have a queue of their own, because they
 * may not be mixed with what is in flight.
 */
#include "copy.h"

#include <errno.h>
#include <poll.h>

#define EXTENTS_AT_ONCE 256

struct side_volume {
    struct copy_side side;
    archip_volume *volume;
    archip_queue *queue, *blocking_queue;
    bool grow;
    unsigned in_flight;
    /* The last answer on extents, from `extents_at_bytes` on. */
    archip_extent extents[EXTENTS_AT_ONCE];
    int extent_count, extent_next;
    uint64_t extents_at_bytes;
};

/* Take the next run of what is cached, if that is where we are. */
static bool cached_run(struct side_volume *self, uint64_t offset_bytes,
                       uint64_t *run_bytes, bool *is_zero)
{
    while (self->extent_next < self->extent_count) {
        const archip_extent *extent = &self->extents[self->extent_next];
        uint64_t end = self->extents_at_bytes + extent->length_bytes;

        if (offset_bytes < self->extents_at_bytes) {
            return false;
        }
        if (offset_bytes < end) {
            *run_bytes = end - offset_bytes;
            *is_zero = extent->flags & ARCHIP_EXTENT_ZERO;
            return true;
        }
        self->extents_at_bytes = end;
        self->extent_next++;
    }
    return false;
}

static bool volume_extent(struct copy_side *side, uint64_t offset_bytes,
                          uint64_t length_bytes, uint64_t *run_bytes,
                          bool *is_zero, GError **error)
{
    struct side_volume *self = (struct side_volume *)side;

    if (!cached_run(self, offset_bytes, run_bytes, is_zero)) {
        int count = archip_extents(self->blocking_queue, offset_bytes,
                                   length_bytes, self->extents,
                                   EXTENTS_AT_ONCE);

        if (count < 0) {
            error_from_library(error, count);
            return false;
        }
        self->extent_count = count;
        self->extent_next = 0;
        self->extents_at_bytes = offset_bytes;
        if (!cached_run(self, offset_bytes, run_bytes, is_zero)) {
            g_assert_not_reached();
        }
    }
    *run_bytes = MIN(*run_bytes, length_bytes);
    return true;
}

static void submit(struct side_volume *self, struct copy_io *io, archip_op op,
                   unsigned flags)
{
    struct iovec iov = {io->buffer, io->length_bytes};
    archip_request request = {
        .op = op,
        .flags = flags,
        .offset_bytes = io->offset_bytes,
        .length_bytes = io->length_bytes,
        .iov = op == ARCHIP_WRITE_ZEROES ? NULL : &iov,
        .iov_count = op == ARCHIP_WRITE_ZEROES ? 0 : 1,
        .user = io,
    };
    int result = archip_submit(self->queue, &request, 1);

    if (result < 0) {
        error_from_library(&io->error, result);
        return;
    }
    io->busy = true;
    self->in_flight++;
}

static void volume_read(struct copy_side *side, struct copy_io *io)
{
    submit((struct side_volume *)side, io, ARCHIP_READ, 0);
}

/* Only a stream can be longer than was thought. */
static bool fits(struct side_volume *self, struct copy_io *io)
{
    uint64_t size = archip_volume_size(self->volume);

    if (!self->grow && io->offset_bytes + io->length_bytes > size) {
        g_set_error(&io->error, CLI_ERROR, CODE_FAILED,
                    "the source is longer than the volume's %" G_GUINT64_FORMAT
                    " bytes",
                    size);
        return false;
    }
    return true;
}

static void volume_write(struct copy_side *side, struct copy_io *io)
{
    struct side_volume *self = (struct side_volume *)side;

    if (fits(self, io)) {
        submit(self, io, ARCHIP_WRITE, self->grow ? ARCHIP_GROW : 0);
    }
}

static void volume_zero(struct copy_side *side, struct copy_io *io)
{
    struct side_volume *self = (struct side_volume *)side;

    if (fits(self, io)) {
        submit(self, io, ARCHIP_WRITE_ZEROES,
               ARCHIP_MAY_UNMAP | (self->grow ? ARCHIP_GROW : 0));
    }
}

static int volume_poll_fd(struct copy_side *side, short *events)
{
    *events = POLLIN;
    return archip_queue_fd(((struct side_volume *)side)->queue);
}

static void reap(struct side_volume *self, int timeout_ms)
{
    archip_completion completions[COPY_DEPTH];
    int count = archip_queue_reap(self->queue, completions, COPY_DEPTH,
                                  timeout_ms);

    for (int i = 0; i < count; i++) {
        struct copy_io *io = completions[i].user;
        int result = (int)completions[i].result;

        io->busy = false;
        self->in_flight--;
        if (result < 0) {
            g_set_error(&io->error, CLI_ERROR, code_of_result(result), "%s",
                        completions[i].error ? completions[i].error
                                             : g_strerror(-result));
        }
    }
}

static void volume_work(struct copy_side *side, short events)
{
    reap((struct side_volume *)side, 0);
}

static bool volume_flush(struct copy_side *side, GError **error)
{
    struct side_volume *self = (struct side_volume *)side;
    int result = archip_flush(self->blocking_queue);

    if (result < 0) {
        error_from_library(error, result);
    }
    return result >= 0;
}

static void volume_stop(struct copy_side *side)
{
    struct side_volume *self = (struct side_volume *)side;

    while (self->in_flight > 0) {
        reap(self, -1);
    }
}

static void volume_close(struct copy_side *side)
{
    struct side_volume *self = (struct side_volume *)side;

    archip_queue_close(self->queue);
    archip_queue_close(self->blocking_queue);
    g_free(self);
}

static const struct copy_ops volume_ops = {
    .extent = volume_extent,
    .read = volume_read,
    .write = volume_write,
    .zero = volume_zero,
    .poll_fd = volume_poll_fd,
    .work = volume_work,
    .flush = volume_flush,
    .stop = volume_stop,
    .close = volume_close,
};

struct copy_side *side_volume_new(archip_volume *volume, bool starts_zero,
                                  bool grow, GError **error)
{
    struct side_volume *self = g_new0(struct side_volume, 1);
    archip_volume_info info = {0};
    int result;

    self->side.ops = &volume_ops;
    self->side.starts_zero = starts_zero;
    self->volume = volume;
    self->grow = grow;
    result = archip_volume_get_info(volume, &info);
    if (result == 0) {
        result = archip_queue_open(volume, 0, &self->queue);
    }
    if (result == 0) {
        result = archip_queue_open(volume, ARCHIP_QUEUE_MAY_BLOCK,
                                   &self->blocking_queue);
    }
    if (result < 0) {
        error_from_library(error, result);
        volume_close(&self->side);
        return NULL;
    }
    self->side.size_bytes = info.size_bytes;
    self->side.alignment_bytes = info.alignment_bytes;
    return &self->side;
}
