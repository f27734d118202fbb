/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of system calls: the real ones, unless a test put others in. */
#include "base/sys.h"

#include <fcntl.h>
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
        .io_setup = io_setup, .io_destroy = io_destroy,                        \
        .io_submit = io_submit, .realtime_ns = real_realtime_ns,               \
        .thread_number = real_thread_number,                                   \
    }

const struct sys_table sys_real = REAL_CALLS;
struct sys_table sys = REAL_CALLS;
