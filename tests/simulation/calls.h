/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files that simulate system calls (calls.c, folders.c, waits.c) have
 * in common: descriptors, and how each call begins. */
#ifndef SIMULATION_CALLS_H
#define SIMULATION_CALLS_H

#include "disk.h"

#include "base/sys.h"

enum fd_kind { FD_FREE, FD_INODE, FD_EVENT, FD_EPOLL };

struct descriptor {
    enum fd_kind kind;
    struct inode *inode;
    bool shared, exclusive;
    bool direct;               /* opened with O_DIRECT */
    unsigned known, known_any; /* failures of the file, of the file system */
    uint64_t count;            /* FD_EVENT */
    int watched[4];            /* FD_EPOLL */
    unsigned watched_count;
};

/* --- calls.c -------------------------------------------------------------- */

/* NULL: not one of the simulation. */
struct descriptor *fd_get(int fd);
struct inode *fd_inode(int fd);
int fd_new(enum fd_kind kind, struct inode *inode);
void fd_unlock(struct descriptor *descriptor);
int sim_close(int fd);
/* Sets errno; -1. */
int call_fail(int error);
/* Before a step that isn't a call of its own. */
void call_perhaps_die(const char *name);
/* One more call of the process; true, with errno set, when it is dead. */
bool call_begin(const char *name, uint64_t what, uint64_t where);
bool inject_kind(enum fault fault, const char *name, int error);
/* Whether an error is injected, with errno set. */
bool inject(const char *name, int error);
/* There is no space. */
int call_fail_full(const char *name);
/* Errors that only say "again". */
bool inject_interrupt(void);
size_t iov_bytes(const struct iovec *iov, int count);
ssize_t fd_read(struct inode *inode, const struct iovec *iov, int count,
                uint64_t offset, size_t length);
uint8_t *iov_gather(const struct iovec *iov, size_t length);
/* Bytes, or -errno. */
ssize_t fd_write(struct descriptor *descriptor, const struct iovec *iov,
                 uint64_t offset, size_t length, int flags);
/* So that O_DIRECT refuses it. */
bool iov_is_misaligned(int fd, const struct iovec *iov, int count,
                       uint64_t offset);
/* A length that the kernel might stop at. */
size_t cut_short(uint64_t offset, size_t length);
/* If the process died in this very call. */
void write_torn(struct inode *inode, const struct iovec *iov, int count,
                uint64_t offset);

/* --- folders.c ------------------------------------------------------------ */

int sim_fstat(int fd, struct stat *status);
int sim_fstatfs(int fd, struct statfs *space);
int sim_fstatat(int folder_fd, const char *path, struct stat *status,
                int flags);
int sim_flock(int fd, int operation);
int sim_mkdirat(int folder_fd, const char *path, mode_t mode);
int sim_unlinkat(int folder_fd, const char *path, int flags);
int sim_linkat(int from_fd, const char *from, int to_fd, const char *to,
               int flags);
int sim_renameat2(int from_fd, const char *from, int to_fd, const char *to,
                  unsigned flags);

/* --- waits.c -------------------------------------------------------------- */

int sim_aio_get(int depth, io_context_t *context);
void sim_aio_put(int depth, io_context_t context);
int sim_io_submit(io_context_t context, long count, struct iocb **iocbs);
int64_t sim_realtime_ns(void);

#endif
