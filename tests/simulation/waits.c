/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Simulated calls: asynchronous transfers, events, waiting, time. */
#include "calls.h"
#include "fibers.h"

#include "base/id.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TRANSFERS_MAX 256

/* --- libaio --------------------------------------------------------------- */

/* As the kernel shares it. */
struct ring {
    unsigned id, slot_count, head, tail, magic, compatible, incompatible,
        header_bytes;
    struct io_event events[];
};

struct transfer {
    struct ring *ring;
    struct iocb *iocb;
    struct descriptor *descriptor;
    struct inode *inode;
};

static struct transfer transfers[TRANSFERS_MAX];
static unsigned transfer_count;

int sim_aio_get(int depth, io_context_t *context)
{
    unsigned slots = (unsigned)depth + 1;
    struct ring *ring;

    if (call_begin("o_setup", 0, 0) || inject("io_setup", EAGAIN)) {
        return -errno;
    }
    ring = g_malloc0(sizeof(*ring) + slots * sizeof(struct io_event));
    ring->slot_count = slots;
    ring->magic = 0xa10a10a1;
    ring->header_bytes = sizeof(*ring);
    *context = (io_context_t)ring;
    return 0;
}

void sim_aio_put(int depth, io_context_t context)
{
    g_free(context);
}

/* What an iocb moves; a single buffer's goes to `one`. */
static const struct iovec *iocb_iov(const struct iocb *iocb, struct iovec *one,
                                    int *count)
{
    if (iocb->aio_lio_opcode == IO_CMD_PREADV ||
        iocb->aio_lio_opcode == IO_CMD_PWRITEV) {
        *count = (int)iocb->u.c.nbytes;
        return iocb->u.c.buf;
    }
    *count = 1;
    *one = (struct iovec){ iocb->u.c.buf, iocb->u.c.nbytes };
    return one;
}

int sim_io_submit(io_context_t context, long count, struct iocb **iocbs)
{
    if (call_begin("osubmit", (uint64_t)count, 0) || inject_interrupt()) {
        return -errno;
    }
    if (inject("io_submit", EAGAIN)) {
        return -errno;
    }
    count = 1 + (long)random_below((uint64_t)count);
    for (long i = 0; i < count; i++) {
        struct iovec one;
        int iov_count;
        const struct iovec *iov = iocb_iov(iocbs[i], &one, &iov_count);

        if (iov_is_misaligned(iocbs[i]->aio_fildes, iov, iov_count,
                              (uint64_t)iocbs[i]->u.c.offset)) {
            return i ? (int)i : -EINVAL;
        }
        g_assert(transfer_count < TRANSFERS_MAX);
        transfers[transfer_count++] = (struct transfer){
            (struct ring *)context, iocbs[i], fd_get(iocbs[i]->aio_fildes),
            fd_inode(iocbs[i]->aio_fildes),
        };
    }
    return (int)count;
}

static bool iocb_reads(const struct iocb *iocb)
{
    return iocb->aio_lio_opcode == IO_CMD_PREAD ||
           iocb->aio_lio_opcode == IO_CMD_PREADV;
}

static ssize_t transfer_run(const struct transfer *transfer)
{
    const struct iocb *iocb = transfer->iocb;
    struct iovec one;
    int count;
    const struct iovec *iov = iocb_iov(iocb, &one, &count);
    uint64_t offset = (uint64_t)iocb->u.c.offset;
    size_t length = cut_short(offset, iov_bytes(iov, count));

    if (!disk.dead && !iocb_reads(iocb)) {
        call_perhaps_die(iocb->aio_rw_flags & RWF_DSYNC ? "write,sync"
                                                        : "write");
    }
    if (disk.dead) {
        return -EIO;
    }
    disk.calls++;
    disk_hash(transfer->inode->number ^ offset << 8);
    disk_note("aio %s%s %u: %#zx+%#zx", iocb_reads(iocb) ? "read" : "write",
              iocb->aio_rw_flags & RWF_DSYNC ? ",dsync" : "",
              transfer->inode->number, (size_t)offset, length);
    if (!iocb_reads(iocb)) {
        return fd_write(transfer->descriptor, iov, offset, length,
                        iocb->aio_rw_flags);
    }
    if (inject("aio read", EIO)) {
        return -EIO;
    }
    return fd_read(transfer->inode, iov, count, offset, length);
}

unsigned events_pending(void)
{
    return transfer_count;
}

static void event_add(int fd, uint64_t count)
{
    struct descriptor *descriptor = fd_get(fd);

    g_assert(descriptor && descriptor->kind == FD_EVENT);
    descriptor->count += count;
}

void event_happen(void)
{
    unsigned at = (unsigned)random_below(transfer_count);
    struct transfer transfer = transfers[at];
    struct ring *ring = transfer.ring;
    ssize_t result = transfer_run(&transfer);

    transfers[at] = transfers[--transfer_count];
    ring->events[ring->tail] = (struct io_event){
        .data = transfer.iocb->data,
        .obj = transfer.iocb,
        .res = (unsigned long)result,
    };
    ring->tail = (ring->tail + 1) % ring->slot_count;
    event_add((int)transfer.iocb->u.c.resfd, 1);
}

void transfers_cut(void)
{
    for (unsigned i = 0; i < transfer_count; i++) {
        const struct iocb *iocb = transfers[i].iocb;
        struct iovec one;
        int count;
        const struct iovec *iov = iocb_iov(iocb, &one, &count);

        if (!iocb_reads(iocb)) {
            size_t length = iov_bytes(iov, count);
            g_autofree uint8_t *bytes = iov_gather(iov, length);

            file_write_torn(transfers[i].inode, (uint64_t)iocb->u.c.offset,
                            bytes, length);
        }
    }
}

/* --- Events, waiting, time ------------------------------------------------ */

int __wrap_eventfd(unsigned count, int flags);
int __wrap_eventfd_read(int fd, eventfd_t *value);
int __wrap_eventfd_write(int fd, eventfd_t value);
ssize_t __wrap_read(int fd, void *bytes, size_t length);
ssize_t __wrap_write(int fd, const void *bytes, size_t length);
int __wrap_close(int fd);
int __wrap_epoll_create1(int flags);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd,
                     struct epoll_event *event);
int __wrap_poll(struct pollfd *polled, nfds_t count, int timeout_ms);
void __wrap_g_usleep(gulong microseconds);
gint64 __wrap_g_get_real_time(void);
gint64 __wrap_g_get_monotonic_time(void);
pid_t __wrap_getpid(void);
struct id128 __wrap_id128_random(void);
ssize_t __real_read(int fd, void *bytes, size_t length);
ssize_t __real_write(int fd, const void *bytes, size_t length);
int __real_close(int fd);

int __wrap_eventfd(unsigned count, int flags)
{
    int fd = fd_new(FD_EVENT, NULL);

    fd_get(fd)->count = count;
    return fd;
}

int __wrap_eventfd_read(int fd, eventfd_t *value)
{
    struct descriptor *descriptor = fd_get(fd);

    if (!descriptor->count) {
        return call_fail(EAGAIN);
    }
    *value = descriptor->count;
    descriptor->count = 0;
    return 0;
}

int __wrap_eventfd_write(int fd, eventfd_t value)
{
    event_add(fd, value);
    return 0;
}

ssize_t __wrap_read(int fd, void *bytes, size_t length)
{
    if (!fd_get(fd)) {
        return __real_read(fd, bytes, length);
    }
    return __wrap_eventfd_read(fd, bytes) < 0 ? -1 : 8;
}

ssize_t __wrap_write(int fd, const void *bytes, size_t length)
{
    uint64_t value;

    if (!fd_get(fd)) {
        return __real_write(fd, bytes, length);
    }
    memcpy(&value, bytes, sizeof(value));
    event_add(fd, value);
    return 8;
}

int __wrap_close(int fd)
{
    return fd_get(fd) ? sim_close(fd) : __real_close(fd);
}

int __wrap_epoll_create1(int flags)
{
    return fd_new(FD_EPOLL, NULL);
}

int __wrap_epoll_ctl(int epoll_fd, int operation, int fd,
                     struct epoll_event *event)
{
    struct descriptor *descriptor = fd_get(epoll_fd);

    g_assert(descriptor && descriptor->kind == FD_EPOLL &&
             operation == EPOLL_CTL_ADD &&
             descriptor->watched_count < G_N_ELEMENTS(descriptor->watched));
    descriptor->watched[descriptor->watched_count++] = fd;
    return 0;
}

static bool is_readable(int fd)
{
    const struct descriptor *descriptor = fd_get(fd);

    g_assert(descriptor);
    if (descriptor->kind == FD_EVENT) {
        return descriptor->count > 0;
    }
    for (unsigned i = 0; i < descriptor->watched_count; i++) {
        if (is_readable(descriptor->watched[i])) {
            return true;
        }
    }
    return false;
}

struct polling {
    struct pollfd *fds;
    nfds_t count;
};

static int poll_ready(const struct polling *polling)
{
    int ready = 0;

    for (nfds_t i = 0; i < polling->count; i++) {
        struct pollfd *fd = &polling->fds[i];

        fd->revents = is_readable(fd->fd) ? POLLIN : 0;
        ready += fd->revents != 0;
    }
    return ready;
}

static bool poll_has_any(void *opaque)
{
    return poll_ready(opaque) > 0;
}

int __wrap_poll(struct pollfd *polled, nfds_t count, int timeout_ms)
{
    struct polling polling = { polled, count };

    fiber_point();
    if (timeout_ms != 0 && random_once_in(disk.short_once_in)) {
        return call_fail(EINTR);
    }
    if (timeout_ms < 0) {
        fiber_wait(poll_has_any, &polling);
    } else if (timeout_ms > 0) {
        disk.clock_ns += timeout_ms * INT64_C(1000000);
    }
    return poll_ready(&polling);
}

void __wrap_g_usleep(gulong microseconds)
{
    disk.clock_ns += (int64_t)microseconds * 1000;
    fiber_point();
}

int64_t sim_realtime_ns(void)
{
    return disk.clock_ns += 1000;
}

gint64 __wrap_g_get_real_time(void)
{
    return sim_realtime_ns() / 1000;
}

gint64 __wrap_g_get_monotonic_time(void)
{
    return sim_realtime_ns() / 1000;
}

pid_t __wrap_getpid(void)
{
    return 4711;
}

struct id128 __wrap_id128_random(void)
{
    uint64_t words[2] = { random_next(), random_next() | 1 };
    struct id128 id;

    memcpy(id.bytes, words, sizeof(id.bytes));
    return id;
}
