/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of system calls: the real ones, unless a test put others in. */
#include "base/sys.h"

#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

static int real_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
    return openat(folder_fd, path, flags, mode);
}

static int real_openat2(int folder_fd, const char *path, struct open_how *how,
                        size_t how_bytes)
{
    return (int)syscall(SYS_openat2, folder_fd, path, how, how_bytes);
}

/* --- Contexts of libaio --------------------------------------------------- */

#define AIO_IDLE_MAX 8          /* the system has a limit for all processes */

/* Those put back; they end with the process. */
static struct {
    GMutex lock;                /* guards all below */
    struct {
        io_context_t context;
        int depth;
    } idle[AIO_IDLE_MAX];
    unsigned count;
    pid_t pid;                  /* whose they are: not a child's of fork() */
} contexts;

static bool aio_take_idle(int depth, io_context_t *context)
{
    bool mine, found = false;

    g_mutex_lock(&contexts.lock);
    mine = contexts.pid == getpid();
    for (unsigned i = 0; mine && !found && i < contexts.count; i++) {
        found = contexts.idle[i].depth == depth;
        if (found) {
            *context = contexts.idle[i].context;
            contexts.idle[i] = contexts.idle[--contexts.count];
        }
    }
    g_mutex_unlock(&contexts.lock);
    return found;
}

static bool aio_keep_idle(int depth, io_context_t context)
{
    bool kept;

    g_mutex_lock(&contexts.lock);
    if (contexts.pid != getpid()) {
        contexts.pid = getpid();
        contexts.count = 0;
    }
    kept = contexts.count < AIO_IDLE_MAX;
    if (kept) {
        contexts.idle[contexts.count].context = context;
        contexts.idle[contexts.count++].depth = depth;
    }
    g_mutex_unlock(&contexts.lock);
    return kept;
}

static int real_aio_get(int depth, io_context_t *context)
{
    return aio_take_idle(depth, context) ? 0 : io_setup(depth, context);
}

static void real_aio_put(int depth, io_context_t context)
{
    if (!aio_keep_idle(depth, context)) {
        io_destroy(context);
    }
}

/* --- Clocks and threads --------------------------------------------------- */

static int64_t real_realtime_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static unsigned real_thread_number(void)
{
    static _Thread_local unsigned number;
    static unsigned last;

    if (!number) {
        number = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    }
    return number;
}

#define REAL_CALLS                                                             \
    {                                                                          \
        .openat = real_openat, .openat2 = real_openat2, .close = close,        \
        .preadv2 = preadv2, .pwritev2 = pwritev2, .fallocate = fallocate,      \
        .ftruncate = ftruncate, .lseek = lseek, .fstat = fstat,                \
        .flock = flock, .fdatasync = fdatasync, .fsync = fsync,                \
        .syncfs = syncfs, .mkdirat = mkdirat, .unlinkat = unlinkat,            \
        .linkat = linkat, .renameat2 = renameat2, .fstatat = fstatat,          \
        .fstatfs = fstatfs,                                                    \
        .aio_get = real_aio_get, .aio_put = real_aio_put,                      \
        .io_submit = io_submit, .realtime_ns = real_realtime_ns,               \
        .thread_number = real_thread_number,                                   \
    }

const struct sys_table sys_real = REAL_CALLS;
struct sys_table sys = REAL_CALLS;
