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

struct aio_context {
    io_context_t context;
    int depth;
    pid_t pid;                  /* a child of fork() can't use its parent's */
};

static GMutex aio_lock;         /* guards the next */
static GArray *aio_idle;        /* struct aio_context[]; these end with the
                                   process */

static bool aio_take_idle(int depth, io_context_t *context)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&aio_lock);

    for (guint i = aio_idle ? aio_idle->len : 0; i-- > 0; ) {
        struct aio_context *idle = &g_array_index(aio_idle, struct aio_context,
                                                  i);

        if (idle->depth == depth && idle->pid == getpid()) {
            *context = idle->context;
            g_array_remove_index_fast(aio_idle, i);
            return true;
        }
    }
    return false;
}

static int real_aio_get(int depth, io_context_t *context)
{
    return aio_take_idle(depth, context) ? 0 : io_setup(depth, context);
}

static void real_aio_put(int depth, io_context_t context)
{
    struct aio_context idle = { context, depth, getpid() };
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&aio_lock);

    if (!aio_idle) {
        aio_idle = g_array_new(false, false, sizeof(idle));
    }
    g_array_append_val(aio_idle, idle);
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
