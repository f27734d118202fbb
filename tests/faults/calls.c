/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls that fail on demand: see calls.h. */
#include "calls.h"

#include "base/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <unistd.h>

#define LESS CALLS_LESS
#define WAYS(...) CALLS_WAYS(__VA_ARGS__)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct calls_rule rule;
static struct calls_report report;
static bool armed;

/* --- Deciding ------------------------------------------------------------- */

/* What comes again is retried for ever, and rightly so. */
static bool may_last(int way)
{
    return way != EINTR && way != EAGAIN && way != LESS;
}

static bool has_way(const int *ways, int way)
{
    for (; *ways; ways++) {
        if (*ways == way) {
            return true;
        }
    }
    return false;
}

static int decide_locked(const char *call, const int *ways)
{
    static int lasting;
    unsigned count = 0;

    if (++report.count > rule.nth) {
        bool again = rule.for_good && report.fired && has_way(ways, lasting);

        report.fired += again;
        return again ? lasting : 0;
    }
    if (report.count < rule.nth) {
        return 0;
    }
    while (ways[count]) {
        count++;
    }
    report.no_such_way = rule.way >= count;
    if (report.no_such_way || (rule.for_good && !may_last(ways[rule.way]))) {
        return 0;
    }
    lasting = ways[rule.way];
    report.call = call;
    report.errno_value = lasting == LESS ? 0 : lasting;
    report.fired = 1;
    return lasting;
}

int calls_way(enum calls_group group, const char *call, const int *ways)
{
    int way = 0, saved = errno;

    pthread_mutex_lock(&lock);
    if (armed && rule.groups & group) {
        way = decide_locked(call, ways);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return way;
}

void calls_arm(const struct calls_rule *new_rule)
{
    pthread_mutex_lock(&lock);
    rule = *new_rule;
    report = (struct calls_report){0};
    armed = true;
    pthread_mutex_unlock(&lock);
}

struct calls_report calls_so_far(void)
{
    struct calls_report copy;

    pthread_mutex_lock(&lock);
    copy = report;
    pthread_mutex_unlock(&lock);
    return copy;
}

struct calls_report calls_disarm(void)
{
    pthread_mutex_lock(&lock);
    armed = false;
    pthread_mutex_unlock(&lock);
    return calls_so_far();
}

bool calls_fail(enum calls_group group, const char *call, const int *ways)
{
    int way = calls_way(group, call, ways);

    if (way > 0) {
        errno = way;
    }
    return way > 0;
}

/* --- Files ---------------------------------------------------------------- */

static int fail_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
    const int *ways = flags & O_CREAT ? WAYS(EMFILE, EIO, ENOSPC, EINTR)
                                      : WAYS(EMFILE, EIO, EINTR);

    return calls_fail(CALLS_FILES, "openat", ways)
               ? -1
               : sys_real.openat(folder_fd, path, flags, mode);
}

static int fail_openat2(int folder_fd, const char *path, struct open_how *how,
                        size_t how_bytes)
{
    const int *ways = how->flags & O_CREAT ? WAYS(EMFILE, EIO, ENOSPC, EINTR)
                                           : WAYS(EMFILE, EIO, EINTR);

    return calls_fail(CALLS_FILES, "openat2", ways)
               ? -1
               : sys_real.openat2(folder_fd, path, how, how_bytes);
}

/* Linux closes it whatever it says. */
static int fail_close(int fd)
{
    int result = close(fd);

    return calls_fail(CALLS_FILES, "close", WAYS(EIO, EINTR)) ? -1 : result;
}

/* The first half, in whole sectors if there are any. */
static int halve(const struct iovec *iov, int count, struct iovec *less)
{
    size_t bytes = 0, half;
    int used = 0;

    for (int i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    half = bytes > 512 ? (bytes / 2 + 511) / 512 * 512 : (bytes + 1) / 2;
    for (int i = 0; i < count && half > 0; i++) {
        less[used] = iov[i];
        less[used].iov_len = MIN(iov[i].iov_len, half);
        half -= less[used++].iov_len;
    }
    return used;
}

static ssize_t
transfer(ssize_t (*call)(int, const struct iovec *, int, off_t, int), int way,
         int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    struct iovec less[1024];

    if (way > 0) {
        errno = way;
        return -1;
    }
    if (way == LESS && count <= (int)G_N_ELEMENTS(less)) {
        count = halve(iov, count, less);
        iov = less;
    }
    return call(fd, iov, count, offset, flags);
}

static ssize_t fail_preadv2(int fd, const struct iovec *iov, int count,
                            off_t offset, int flags)
{
    return transfer(preadv2,
                    calls_way(CALLS_FILES, "preadv2", WAYS(EIO, EINTR, LESS)),
                    fd, iov, count, offset, flags);
}

static ssize_t fail_pwritev2(int fd, const struct iovec *iov, int count,
                             off_t offset, int flags)
{
    return transfer(
        pwritev2,
        calls_way(CALLS_FILES, "pwritev2", WAYS(EIO, ENOSPC, EINTR, LESS)), fd,
        iov, count, offset, flags);
}

static int fail_fallocate(int fd, int mode, off_t offset, off_t length)
{
    return calls_fail(CALLS_FILES, "fallocate",
                      WAYS(EIO, ENOSPC, EINTR, EOPNOTSUPP))
               ? -1
               : fallocate(fd, mode, offset, length);
}

static int fail_ftruncate(int fd, off_t length)
{
    return calls_fail(CALLS_FILES, "ftruncate", WAYS(EIO, ENOSPC, EINTR))
               ? -1
               : ftruncate(fd, length);
}

static off_t fail_lseek(int fd, off_t offset, int whence)
{
    return calls_fail(CALLS_FILES, "lseek", WAYS(EIO))
               ? -1
               : lseek(fd, offset, whence);
}

static int fail_fstat(int fd, struct stat *status)
{
    return calls_fail(CALLS_FILES, "fstat", WAYS(EIO)) ? -1 : fstat(fd, status);
}

static int fail_flock(int fd, int operation)
{
    return calls_fail(CALLS_FILES, "flock", WAYS(EIO, ENOLCK, EINTR))
               ? -1
               : flock(fd, operation);
}

static int fail_fdatasync(int fd)
{
    return calls_fail(CALLS_FILES, "fdatasync", WAYS(EIO, ENOSPC, EINTR))
               ? -1
               : fdatasync(fd);
}

static int fail_fsync(int fd)
{
    return calls_fail(CALLS_FILES, "fsync", WAYS(EIO, ENOSPC, EINTR))
               ? -1
               : fsync(fd);
}

/* Of its own file system: what others left there is not to be waited for. */
static int fail_syncfs(int fd)
{
    return calls_fail(CALLS_FILES, "syncfs", WAYS(EIO, ENOSPC)) ? -1 : 0;
}

static int fail_mkdirat(int folder_fd, const char *path, mode_t mode)
{
    return calls_fail(CALLS_FILES, "mkdirat", WAYS(EIO, ENOSPC))
               ? -1
               : mkdirat(folder_fd, path, mode);
}

static int fail_unlinkat(int folder_fd, const char *path, int flags)
{
    return calls_fail(CALLS_FILES, "unlinkat", WAYS(EIO))
               ? -1
               : unlinkat(folder_fd, path, flags);
}

static int fail_linkat(int from_fd, const char *from, int to_fd, const char *to,
                       int flags)
{
    return calls_fail(CALLS_FILES, "linkat", WAYS(EIO, ENOSPC))
               ? -1
               : linkat(from_fd, from, to_fd, to, flags);
}

static int fail_renameat2(int from_fd, const char *from, int to_fd,
                          const char *to, unsigned flags)
{
    return calls_fail(CALLS_FILES, "renameat2", WAYS(EIO, ENOSPC))
               ? -1
               : renameat2(from_fd, from, to_fd, to, flags);
}

static int fail_fstatat(int folder_fd, const char *path, struct stat *status,
                        int flags)
{
    return calls_fail(CALLS_FILES, "fstatat", WAYS(EIO))
               ? -1
               : fstatat(folder_fd, path, status, flags);
}

static int fail_fstatfs(int fd, struct statfs *space)
{
    return calls_fail(CALLS_FILES, "fstatfs", WAYS(EIO, ENOSYS))
               ? -1
               : fstatfs(fd, space);
}

/* --- libaio --------------------------------------------------------------- */

/* What io_context_t points to begins with: id, slots, head, tail, magic.  With
 * another magic the library asks io_getevents(), which is ours. */
static void mark_ring(io_context_t context, unsigned magic)
{
    ((unsigned *)context)[4] = magic;
}

static int fail_aio_get(int depth, io_context_t *context)
{
    int way = calls_way(CALLS_AIO, "io_setup", WAYS(EAGAIN, ENOMEM));
    int result = way ? -way : sys_real.aio_get(depth, context);

    if (result == 0 && armed && rule.groups & CALLS_AIO) {
        mark_ring(*context, 0);
    }
    return result;
}

static void unhide_aio_put(int depth, io_context_t context)
{
    mark_ring(context, 0xa10a10a1);
    sys_real.aio_put(depth, context);
}

static int fail_io_submit(io_context_t context, long count, struct iocb **iocbs)
{
    int way = calls_way(CALLS_AIO, "io_submit", WAYS(EAGAIN, EINTR, EIO, LESS));

    if (way > 0) {
        return -way;
    }
    return io_submit(context, way == LESS ? 1 : count, iocbs);
}

int __wrap_io_getevents(io_context_t context, long min, long max,
                        struct io_event *events, struct timespec *timeout);
int __real_io_getevents(io_context_t context, long min, long max,
                        struct io_event *events, struct timespec *timeout);

int __wrap_io_getevents(io_context_t context, long min, long max,
                        struct io_event *events, struct timespec *timeout)
{
    int count = __real_io_getevents(context, min, max, events, timeout);

    for (int i = 0; i < count; i++) {
        bool writes = events[i].obj->aio_lio_opcode == IO_CMD_PWRITE ||
                      events[i].obj->aio_lio_opcode == IO_CMD_PWRITEV;
        int way = calls_way(CALLS_AIO, "io_getevents",
                            writes ? WAYS(EIO, ENOSPC, EAGAIN, LESS)
                                   : WAYS(EIO, EAGAIN, LESS));

        if (way > 0) {
            events[i].res = (unsigned long)-way;
        } else if (way == LESS && (long)events[i].res >= 1024) {
            events[i].res = events[i].res / 1024 * 512;
        }
    }
    return count;
}

/* --- Memory and the like -------------------------------------------------- */

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
int __real_posix_memalign(void **memory, size_t alignment, size_t bytes);
gpointer __wrap_g_try_malloc(gsize bytes);
gpointer __real_g_try_malloc(gsize bytes);
gpointer __wrap_g_try_malloc_n(gsize count, gsize bytes);
gpointer __real_g_try_malloc_n(gsize count, gsize bytes);
gpointer __wrap_g_try_realloc(gpointer memory, gsize bytes);
gpointer __real_g_try_realloc(gpointer memory, gsize bytes);
GThread *__wrap_g_thread_try_new(const char *name, GThreadFunc run,
                                 gpointer opaque, GError **error);
GThread *__real_g_thread_try_new(const char *name, GThreadFunc run,
                                 gpointer opaque, GError **error);
GThread *__wrap_g_thread_new(const char *name, GThreadFunc run,
                             gpointer opaque);
GThread *__real_g_thread_new(const char *name, GThreadFunc run,
                             gpointer opaque);
int __wrap_eventfd(unsigned value, int flags);
int __real_eventfd(unsigned value, int flags);
int __wrap_epoll_create1(int flags);
int __real_epoll_create1(int flags);
int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event);
int __real_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
DIR *__wrap_fdopendir(int fd);
DIR *__real_fdopendir(int fd);
struct dirent64 *__wrap_readdir64(DIR *folder);
struct dirent64 *__real_readdir64(DIR *folder);
ssize_t __wrap_read(int fd, void *bytes, size_t count);
ssize_t __real_read(int fd, void *bytes, size_t count);
ssize_t __wrap_write(int fd, const void *bytes, size_t count);
ssize_t __real_write(int fd, const void *bytes, size_t count);
ssize_t __wrap_pread64(int fd, void *bytes, size_t count, off_t offset);
ssize_t __real_pread64(int fd, void *bytes, size_t count, off_t offset);

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    return calls_fail(CALLS_MEMORY, "posix_memalign", WAYS(ENOMEM))
               ? ENOMEM
               : __real_posix_memalign(memory, alignment, bytes);
}

gpointer __wrap_g_try_malloc(gsize bytes)
{
    return calls_fail(CALLS_MEMORY, "g_try_malloc", WAYS(ENOMEM))
               ? NULL
               : __real_g_try_malloc(bytes);
}

gpointer __wrap_g_try_malloc_n(gsize count, gsize bytes)
{
    return calls_fail(CALLS_MEMORY, "g_try_malloc_n", WAYS(ENOMEM))
               ? NULL
               : __real_g_try_malloc_n(count, bytes);
}

gpointer __wrap_g_try_realloc(gpointer memory, gsize bytes)
{
    return calls_fail(CALLS_MEMORY, "g_try_realloc", WAYS(ENOMEM))
               ? NULL
               : __real_g_try_realloc(memory, bytes);
}

GThread *__wrap_g_thread_try_new(const char *name, GThreadFunc run,
                                 gpointer opaque, GError **error)
{
    if (calls_fail(CALLS_MEMORY, "g_thread_try_new", WAYS(EAGAIN, ENOMEM))) {
        g_set_error(error, G_THREAD_ERROR, G_THREAD_ERROR_AGAIN,
                    "no thread: %s", strerror(errno));
        return NULL;
    }
    return __real_g_thread_try_new(name, run, opaque, error);
}

/* It ends the process when there is none: nothing of ours may use it. */
GThread *__wrap_g_thread_new(const char *name, GThreadFunc run, gpointer opaque)
{
    if (calls_fail(CALLS_MEMORY, "g_thread_new", WAYS(EAGAIN))) {
        g_error("no thread, and g_thread_new() can't say so");
    }
    return __real_g_thread_new(name, run, opaque);
}

int __wrap_eventfd(unsigned value, int flags)
{
    return calls_fail(CALLS_MEMORY, "eventfd", WAYS(EMFILE, ENOMEM))
               ? -1
               : __real_eventfd(value, flags);
}

int __wrap_epoll_create1(int flags)
{
    return calls_fail(CALLS_MEMORY, "epoll_create1", WAYS(EMFILE, ENOMEM))
               ? -1
               : __real_epoll_create1(flags);
}

int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    return calls_fail(CALLS_MEMORY, "epoll_ctl", WAYS(ENOMEM, ENOSPC))
               ? -1
               : __real_epoll_ctl(epoll, op, fd, event);
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    return calls_fail(CALLS_MEMORY, "poll", WAYS(EINTR))
               ? -1
               : __real_poll(fds, count, timeout_ms);
}

DIR *__wrap_fdopendir(int fd)
{
    return calls_fail(CALLS_FILES, "fdopendir", WAYS(ENOMEM, EMFILE))
               ? NULL
               : __real_fdopendir(fd);
}

struct dirent64 *__wrap_readdir64(DIR *folder)
{
    return calls_fail(CALLS_FILES, "readdir", WAYS(EIO))
               ? NULL
               : __real_readdir64(folder);
}

/* Of the library: backups, and its own descriptors. */
ssize_t __wrap_read(int fd, void *bytes, size_t count)
{
    return calls_fail(CALLS_FILES, "read", WAYS(EINTR))
               ? -1
               : __real_read(fd, bytes, count);
}

static bool is_eventfd(int fd, size_t count)
{
    struct stat status;

    return count == sizeof(uint64_t) && fstat(fd, &status) == 0 &&
           !S_ISREG(status.st_mode);
}

ssize_t __wrap_write(int fd, const void *bytes, size_t count)
{
    const int *ways =
        is_eventfd(fd, count) ? WAYS(EINTR) : WAYS(EIO, ENOSPC, EINTR, LESS);
    int way = calls_way(CALLS_FILES, "write", ways);

    if (way > 0) {
        errno = way;
        return -1;
    }
    return __real_write(fd, bytes, way == LESS ? (count + 1) / 2 : count);
}

ssize_t __wrap_pread64(int fd, void *bytes, size_t count, off_t offset)
{
    int way = calls_way(CALLS_FILES, "pread", WAYS(EIO, EINTR, LESS));

    if (way > 0) {
        errno = way;
        return -1;
    }
    return __real_pread64(fd, bytes, way == LESS ? (count + 1) / 2 : count,
                          offset);
}

void calls_install(void)
{
    sys = (struct sys_table){
        .openat = fail_openat,
        .openat2 = fail_openat2,
        .close = fail_close,
        .preadv2 = fail_preadv2,
        .pwritev2 = fail_pwritev2,
        .fallocate = fail_fallocate,
        .ftruncate = fail_ftruncate,
        .lseek = fail_lseek,
        .fstat = fail_fstat,
        .flock = fail_flock,
        .fdatasync = fail_fdatasync,
        .fsync = fail_fsync,
        .syncfs = fail_syncfs,
        .mkdirat = fail_mkdirat,
        .unlinkat = fail_unlinkat,
        .linkat = fail_linkat,
        .renameat2 = fail_renameat2,
        .fstatat = fail_fstatat,
        .fstatfs = fail_fstatfs,
        .aio_get = fail_aio_get,
        .aio_put = unhide_aio_put,
        .io_submit = fail_io_submit,
        .realtime_ns = sys_real.realtime_ns,
        .thread_number = sys_real.thread_number,
    };
}
