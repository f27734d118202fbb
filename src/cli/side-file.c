/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A regular file or a block device.  Its I/O blocks: the page cache reads ahead
 * and writes behind, and the volume at the other side works meanwhile.
 */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZEROES_BYTES 65536

struct side_file {
    struct copy_side side;
    int fd;
    char *name;
};

/* Where a file system can't tell, all is data. */
static bool file_extent(struct copy_side *side, uint64_t offset_bytes,
                        uint64_t length_bytes, uint64_t *run_bytes,
                        bool *is_zero, GError **error)
{
    struct side_file *self = (struct side_file *)side;
    off_t offset = (off_t)offset_bytes;
    off_t data = lseek(self->fd, offset, SEEK_DATA);
    off_t hole;

    *is_zero = false;
    *run_bytes = length_bytes;
    if (data < 0) {
        /* ENXIO: nothing but a hole up to the end. */
        *is_zero = errno == ENXIO;
        return true;
    }
    if (data > offset) {
        *is_zero = true;
        *run_bytes = MIN(length_bytes, (uint64_t)(data - offset));
        return true;
    }
    hole = lseek(self->fd, offset, SEEK_HOLE);
    if (hole > offset) {
        *run_bytes = MIN(length_bytes, (uint64_t)(hole - offset));
    }
    return true;
}

static void file_read(struct copy_side *side, struct copy_io *io)
{
    struct side_file *self = (struct side_file *)side;
    uint64_t done = 0;

    while (done < io->length_bytes) {
        ssize_t got = pread(self->fd, (char *)io->buffer + done,
                            io->length_bytes - done,
                            (off_t)(io->offset_bytes + done));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            error_from_errno(&io->error, errno, "reading %s", self->name);
            return;
        }
        if (got == 0) {
            g_set_error(&io->error, CLI_ERROR, CODE_FAILED,
                        "%s became shorter while it was read", self->name);
            return;
        }
        done += (uint64_t)got;
    }
}

static bool write_all(struct side_file *self, const char *buffer,
                      uint64_t length_bytes, uint64_t offset_bytes,
                      GError **error)
{
    while (length_bytes > 0) {
        ssize_t put = pwrite(self->fd, buffer, length_bytes,
                             (off_t)offset_bytes);

        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            error_from_errno(error, put < 0 ? errno : EIO, "writing %s",
                             self->name);
            return false;
        }
        buffer += put;
        length_bytes -= (uint64_t)put;
        offset_bytes += (uint64_t)put;
    }
    return true;
}

static void file_write(struct copy_side *side, struct copy_io *io)
{
    write_all((struct side_file *)side, io->buffer, io->length_bytes,
              io->offset_bytes, &io->error);
}

/* A hole where one can be made, else zeroes. */
static void file_zero(struct copy_side *side, struct copy_io *io)
{
    static const char zeroes[ZEROES_BYTES];
    struct side_file *self = (struct side_file *)side;
    off_t offset = (off_t)io->offset_bytes;
    off_t length = (off_t)io->length_bytes;

    if (fallocate(self->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                  length) == 0 ||
        fallocate(self->fd, FALLOC_FL_ZERO_RANGE, offset, length) == 0) {
        return;
    }
    for (uint64_t done = 0; done < io->length_bytes && !interrupt_signal();) {
        uint64_t bytes = MIN(ZEROES_BYTES, io->length_bytes - done);

        if (!write_all(self, zeroes, bytes, io->offset_bytes + done,
                       &io->error)) {
            return;
        }
        done += bytes;
    }
}

static int file_poll_fd(struct copy_side *side, short *events)
{
    return -1;
}

static void file_work(struct copy_side *side, short events)
{
}

static bool file_flush(struct copy_side *side, GError **error)
{
    struct side_file *self = (struct side_file *)side;

    if (fsync(self->fd) < 0) {
        error_from_errno(error, errno, "syncing %s", self->name);
        return false;
    }
    return true;
}

static void file_stop(struct copy_side *side)
{
}

static void file_close(struct copy_side *side)
{
    struct side_file *self = (struct side_file *)side;

    close(self->fd);
    g_free(self->name);
    g_free(self);
}

static const struct copy_ops file_ops = {
    .extent = file_extent,
    .read = file_read,
    .write = file_write,
    .zero = file_zero,
    .poll_fd = file_poll_fd,
    .work = file_work,
    .flush = file_flush,
    .stop = file_stop,
    .close = file_close,
};

struct copy_side *side_file_new(int fd, const char *name, bool starts_zero,
                                GError **error)
{
    struct side_file *self = g_new0(struct side_file, 1);
    off_t size = lseek(fd, 0, SEEK_END);

    self->side.ops = &file_ops;
    self->side.starts_zero = starts_zero;
    self->side.alignment_bytes = 1;
    self->fd = fd;
    self->name = g_strdup(name);
    if (size < 0) {
        error_from_errno(error, errno, "size of %s", name);
        file_close(&self->side);
        return NULL;
    }
    self->side.size_bytes = (uint64_t)size;
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return &self->side;
}
