/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The system calls that stores make, in a table that tests replace to make any
 * of them fail.  Each behaves as the C library's of the same name; those for
 * libaio return -errno.
 *
 * `sys` is set up statically.  Replace members only while no other thread is
 * at work, and put them back from `sys_real`.
 */
#ifndef ARCHIPELAGO_BASE_SYS_H
#define ARCHIPELAGO_BASE_SYS_H

#include <libaio.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>

struct sys_table {
    /* Files. */
    int (*openat)(int folder_fd, const char *path, int flags, mode_t mode);
    int (*openat2)(int folder_fd, const char *path, struct open_how *how,
                   size_t how_bytes);
    int (*close)(int fd);
    ssize_t (*preadv2)(int fd, const struct iovec *iov, int count,
                       off_t offset, int flags);
    ssize_t (*pwritev2)(int fd, const struct iovec *iov, int count,
                        off_t offset, int flags);
    int (*fallocate)(int fd, int mode, off_t offset, off_t length);
    int (*ftruncate)(int fd, off_t length);
    off_t (*lseek)(int fd, off_t offset, int whence);
    int (*fstat)(int fd, struct stat *status);
    int (*flock)(int fd, int operation);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*syncfs)(int fd);
    /* Folders. */
    int (*mkdirat)(int folder_fd, const char *path, mode_t mode);
    int (*unlinkat)(int folder_fd, const char *path, int flags);
    int (*linkat)(int from_fd, const char *from, int to_fd, const char *to,
                  int flags);
    int (*renameat2)(int from_fd, const char *from, int to_fd, const char *to,
                     unsigned flags);
    int (*fstatat)(int folder_fd, const char *path, struct stat *status,
                   int flags);
    /* The file system. */
    int (*fstatfs)(int fd, struct statfs *space);
    /* libaio.  A context for `depth` requests, of the few that were put back and
     * kept or a new one: the kernel takes tens of milliseconds to destroy one.
     * All of a context's requests must have ended when it's put back. */
    int (*aio_get)(int depth, io_context_t *context);
    void (*aio_put)(int depth, io_context_t context);
    int (*io_submit)(io_context_t context, long count, struct iocb **iocbs);
    /* Clocks. */
    int64_t (*realtime_ns)(void);
    /* Threads: the calling one's number, from 1; unlike its address it isn't
     * used again after its end. */
    unsigned (*thread_number)(void);
};

extern struct sys_table sys;
extern const struct sys_table sys_real;

#endif
