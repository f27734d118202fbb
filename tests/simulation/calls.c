/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors and system calls on the simulated disk: see disk.h.
 *
 * Each call begins with call_begin(): other fibers may run, the process may
 * die, an error may be injected.  After that it is one step.
 */
#include "disk.h"
#include "fibers.h"

#include "base/id.h"
#include "base/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <unistd.h>

#define FD_FIRST 100000
#define FDS_MAX 512
#define TRANSFERS_MAX 256
#define DEVICE 77

enum fd_kind { FD_FREE, FD_INODE, FD_EVENT, FD_EPOLL };

struct descriptor {
    enum fd_kind kind;
    struct inode *inode;
    bool shared, exclusive;
    unsigned known, known_any;  /* failures of the file, of the file system */
    uint64_t count;             /* FD_EVENT */
    int watched[4];             /* FD_EPOLL */
    unsigned watched_count;
};

static struct descriptor fds[FDS_MAX];

/* --- Descriptors ---------------------------------------------------------- */

static struct descriptor *fd_get(int fd)
{
    int at = fd - FD_FIRST;

    return at >= 0 && at < FDS_MAX && fds[at].kind != FD_FREE ? &fds[at]
                                                              : NULL;
}

static struct inode *fd_inode(int fd)
{
    struct descriptor *descriptor = fd_get(fd);

    g_assert(descriptor && descriptor->kind == FD_INODE);
    return descriptor->inode;
}

static int fd_new(enum fd_kind kind, struct inode *inode)
{
    for (int i = 0; i < FDS_MAX; i++) {
        if (fds[i].kind == FD_FREE) {
            fds[i] = (struct descriptor){ .kind = kind, .inode = inode };
            return FD_FIRST + i;
        }
    }
    g_error("more than %d descriptors are open", FDS_MAX);
}

unsigned calls_open_count(void)
{
    unsigned count = 0;

    for (int i = 0; i < FDS_MAX; i++) {
        count += fds[i].kind != FD_FREE;
    }
    return count;
}

static void unlock(struct descriptor *descriptor)
{
    if (descriptor->shared) {
        descriptor->inode->shared_count--;
    }
    if (descriptor->exclusive) {
        descriptor->inode->exclusive = false;
    }
    descriptor->shared = descriptor->exclusive = false;
}

static int sim_close(int fd)
{
    struct descriptor *descriptor = fd_get(fd);

    g_assert(descriptor);
    unlock(descriptor);
    descriptor->kind = FD_FREE;
    return 0;
}

/* --- The beginning of each call ------------------------------------------- */

static int fail(int error)
{
    errno = error;
    return -1;
}

/* Unasked: whoever syncs one of those files is told. */
static void write_back_failed(void)
{
    struct inode *inode =
        disk.inodes->pdata[random_below(disk.inodes->len)];

    if (!inode->is_folder && inode->changes->len) {
        disk.injected++;
        disk_note("write-back of %u fails", inode->number);
        file_sync_failed(inode, 0, UINT64_MAX);
    }
}

/* One more call of the process; true when it is dead. */
static bool call_begin(const char *name, uint64_t what, uint64_t where)
{
    fiber_point();
    if (!disk.dead && disk.crash_at && disk.calls >= disk.crash_at &&
        (!disk.crash_in_sync || strstr(name, "sync"))) {
        disk_note("*** the process dies (%s)",
                  disk.power_cut ? "power cut" : "killed");
        disk.dead = true;
        transfers_cut();
    }
    if (disk.dead) {
        errno = EIO;
        return true;
    }
    disk.calls++;
    if (random_once_in(16 * (uint64_t)disk.error_once_in)) {
        write_back_failed();
    }
    disk_hash((uint64_t)name[0] << 56 ^ (uint64_t)name[1] << 48 ^ what << 32 ^
              where);
    return false;
}

static bool inject_kind(enum fault fault, const char *name, int error)
{
    if ((disk.faults != FAULT_ANY && disk.faults != fault) ||
        !random_once_in(disk.error_once_in)) {
        return false;
    }
    disk.injected++;
    disk_note("%s fails: %s", name, g_strerror(error));
    disk_hash((uint64_t)error);
    errno = error;
    return true;
}

static bool inject(const char *name, int error)
{
    return inject_kind(FAULT_ANY, name, error);
}

/* Errors that only say "again" are not among `injected`. */
static bool inject_interrupt(void)
{
    if (!random_once_in(disk.short_once_in)) {
        return false;
    }
    errno = EINTR;
    return true;
}

/* Is there no room for what of that range isn't there yet?  With errors off
 * there always is. */
static bool is_full(const struct inode *inode, uint64_t offset, uint64_t end)
{
    uint64_t needed = 0;

    if (!disk.capacity_chunks || !disk.error_once_in) {
        return false;
    }
    for (uint64_t at = offset; at < end; at = (at / CHUNK + 1) * CHUNK) {
        needed += !file_is_data(inode, at);
    }
    if (!needed || disk_used() + needed <= disk.capacity_chunks) {
        return false;
    }
    disk.injected++;
    disk_note("the disk is full");
    return true;
}

/* The same for a new file, folder or entry. */
static bool is_full_for_more(void)
{
    bool is = disk.capacity_chunks && disk.error_once_in &&
              disk_used() >= disk.capacity_chunks;

    disk.injected += is;
    return is;
}

/* --- Paths ---------------------------------------------------------------- */

/* The folder that the path's last part lies in, from `start` on; NULL with
 * errno set. */
static struct inode *walk(struct inode *start, const char *path,
                          char leaf[NAME_BYTES])
{
    const char *slash;

    while ((slash = strchr(path, '/'))) {
        char part[NAME_BYTES];
        struct entry *entry;

        g_strlcpy(part, path, MIN((size_t)(slash - path) + 1, sizeof(part)));
        entry = folder_find(start, part);
        if (!entry || !entry->inode->is_folder) {
            errno = entry ? ENOTDIR : ENOENT;
            return NULL;
        }
        start = entry->inode;
        path = slash + 1;
    }
    g_strlcpy(leaf, path, NAME_BYTES);
    return start;
}

static unsigned known_at_open(const struct failures *failures)
{
    return failures->told || !failures->count ? failures->count
                                              : failures->count - 1;
}

/* Whether a descriptor has to be told of a failure; it is. */
static bool tell(struct failures *failures, unsigned *known)
{
    bool new = *known != failures->count;

    failures->told |= new;
    *known = failures->count;
    return new;
}

static int open_inode(struct inode *inode, int flags)
{
    int fd;

    if ((flags & O_DIRECTORY) && !inode->is_folder) {
        return fail(ENOTDIR);
    }
    fd = fd_new(FD_INODE, inode);
    fd_get(fd)->known = known_at_open(&inode->failures);
    fd_get(fd)->known_any = known_at_open(&disk.failures);
    return fd;
}

static int open_at(struct inode *folder, const char *path, int flags)
{
    char leaf[NAME_BYTES];
    struct entry *entry;
    struct inode *inode;

    folder = walk(folder, path, leaf);
    if (!folder) {
        return -1;
    }
    if (strcmp(leaf, ".") == 0) {
        inode = (flags & O_TMPFILE) == O_TMPFILE ? inode_new(false) : folder;
        return open_inode(inode, flags & ~O_TMPFILE);
    }
    entry = folder_find(folder, leaf);
    if (entry) {
        return (flags & O_CREAT) && (flags & O_EXCL)
                   ? fail(EEXIST)
                   : open_inode(entry->inode, flags);
    }
    if (!(flags & O_CREAT)) {
        return fail(ENOENT);
    }
    if (folder->links == 0) {
        return fail(ENOENT);
    }
    if (inject("creating", random_below(2) ? ENOSPC : EIO)) {
        return -1;
    }
    if (is_full_for_more()) {
        return fail(ENOSPC);
    }
    inode = inode_new(false);
    folder_change(folder, NULL, leaf, inode);
    return open_inode(inode, flags);
}

static int sim_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
    int fd;

    if (call_begin("openat", 0, 0)) {
        return -1;
    }
    if (inject("openat", random_below(4) ? EIO : EMFILE)) {
        return -1;
    }
    if (sscanf(path, "/proc/self/fd/%d", &fd) == 1) {
        return open_inode(fd_inode(fd), flags);
    }
    if (folder_fd == AT_FDCWD) {
        return open_inode(disk.root, flags);
    }
    fd = open_at(fd_inode(folder_fd), path, flags);
    disk_note("open %s: %d", path, fd < 0 ? -errno : fd);
    return fd;
}

static int sim_openat2(int folder_fd, const char *path, struct open_how *how,
                       size_t how_bytes)
{
    int fd;

    if (call_begin("openat2", 0, 0) || inject_interrupt()) {
        return -1;
    }
    if ((how->resolve & RESOLVE_CACHED) && random_once_in(3)) {
        return fail(EAGAIN);
    }
    if (inject("openat2", random_below(4) ? EIO : EMFILE)) {
        return -1;
    }
    fd = open_at(fd_inode(folder_fd), path, (int)how->flags);
    disk_note("open %s%s: %d", path, how->flags & O_CREAT ? " (create)" : "",
              fd < 0 ? -errno : fd);
    return fd;
}

/* --- Reading and writing -------------------------------------------------- */

static size_t iov_bytes(const struct iovec *iov, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

static ssize_t do_read(struct inode *inode, const struct iovec *iov, int count,
                       uint64_t offset, size_t length)
{
    uint64_t left = offset < inode->size_now ? inode->size_now - offset : 0;

    length = (size_t)MIN(length, left);
    for (size_t at = 0; at < length; iov++) {
        size_t run = MIN(iov->iov_len, length - at);

        file_read(inode, offset + at, iov->iov_base, run);
        at += run;
    }
    return (ssize_t)length;
}

static uint8_t *iov_gather(const struct iovec *iov, size_t length)
{
    uint8_t *bytes = g_malloc(MAX(length, 1));

    for (size_t at = 0; at < length; iov++) {
        size_t run = MIN(iov->iov_len, length - at);

        memcpy(bytes + at, iov->iov_base, run);
        at += run;
    }
    return bytes;
}

static ssize_t do_write(struct descriptor *descriptor,
                        const struct iovec *iov, uint64_t offset,
                        size_t length, int flags)
{
    struct inode *inode = descriptor->inode;
    g_autofree uint8_t *bytes = iov_gather(iov, length);

    if (inject_kind(FAULT_WRITE, "write", random_below(3) ? EIO : ENOSPC)) {
        int error = errno;

        if (error == EIO) {
            file_write_torn(inode, offset, bytes, length);
            if (flags & RWF_DSYNC) {
                file_sync_failed(inode, offset, offset + length);
                tell(&inode->failures, &descriptor->known);
            }
        }
        return -error;
    }
    if (is_full(inode, offset, offset + length)) {
        return -ENOSPC;
    }
    file_write(inode, offset, bytes, length);
    if (flags & RWF_DSYNC) {
        if (inject_kind(FAULT_SYNC, "write's sync", EIO)) {
            file_sync_failed(inode, offset, offset + length);
        } else {
            file_sync_range(inode, offset, offset + length);
        }
        if (tell(&inode->failures, &descriptor->known)) {
            return -EIO;
        }
    }
    return (ssize_t)length;
}

/* A length that the kernel might stop at: no sector is torn by that. */
static size_t cut_short(uint64_t offset, size_t length)
{
    uint64_t first = offset / SECTOR + 1, last = (offset + length) / SECTOR;

    if (first < last && random_once_in(disk.short_once_in)) {
        length = (size_t)((first + random_below(last - first)) * SECTOR -
                          offset);
    }
    return length;
}

static ssize_t sim_preadv2(int fd, const struct iovec *iov, int count,
                           off_t offset, int flags)
{
    struct inode *inode = fd_inode(fd);
    size_t length = iov_bytes(iov, count);

    if (call_begin("preadv2", inode->number, (uint64_t)offset)) {
        return -1;
    }
    if ((flags & RWF_NOWAIT) && random_once_in(3)) {
        return fail(EAGAIN);
    }
    if (inject_interrupt() || inject("read", EIO)) {
        return -1;
    }
    disk_note("read %u: %#zx+%#zx", inode->number, (size_t)offset, length);
    return do_read(inode, iov, count, (uint64_t)offset,
                   cut_short((uint64_t)offset, length));
}

static ssize_t sim_pwritev2(int fd, const struct iovec *iov, int count,
                            off_t offset, int flags)
{
    struct inode *inode = fd_inode(fd);
    size_t length = iov_bytes(iov, count);
    ssize_t done;

    if (call_begin(flags & RWF_DSYNC ? "write,sync" : "pwritev2",
                   inode->number, (uint64_t)offset) ||
        inject_interrupt()) {
        return -1;
    }
    length = cut_short((uint64_t)offset, length);
    disk_note("write%s %u: %#zx+%#zx", flags & RWF_DSYNC ? ",dsync" : "",
              inode->number, (size_t)offset, length);
    done = do_write(fd_get(fd), iov, (uint64_t)offset, length, flags);
    return done < 0 ? fail((int)-done) : done;
}

/* What isn't there yet, as zeroes that take their room. */
static int allocate(struct inode *inode, uint64_t offset, uint64_t end)
{
    static const uint8_t zeroes[CHUNK];

    disk_note("allocate %u: %#zx+%#zx", inode->number, (size_t)offset,
              (size_t)(end - offset));
    if (is_full(inode, offset, end)) {
        return fail(ENOSPC);
    }
    for (uint64_t at = offset; at < end; at = (at / CHUNK + 1) * CHUNK) {
        if (!file_is_data(inode, at)) {
            file_write(inode, at, zeroes, MIN(end, (at / CHUNK + 1) * CHUNK) -
                                              at);
        }
    }
    return 0;
}

static int sim_fallocate(int fd, int mode, off_t offset, off_t length)
{
    struct inode *inode = fd_inode(fd);
    uint64_t end = (uint64_t)(offset + length);

    if (call_begin("fallocate", inode->number, (uint64_t)offset) ||
        inject_interrupt()) {
        return -1;
    }
    if (inject("fallocate", random_below(2) ? ENOSPC : EIO)) {
        return -1;
    }
    if (mode == 0) {
        return allocate(inode, (uint64_t)offset, end);
    }
    disk_note("%s %u: %#zx+%#zx",
              mode & FALLOC_FL_PUNCH_HOLE ? "punch" : "zero", inode->number,
              (size_t)offset, (size_t)length);
    if (mode & FALLOC_FL_KEEP_SIZE) {
        end = MIN(end, inode->size_now);
    }
    if ((uint64_t)offset < end) {
        file_write(inode, (uint64_t)offset, NULL, end - (uint64_t)offset);
    }
    if (!(mode & FALLOC_FL_KEEP_SIZE) && end > inode->size_now) {
        file_resize(inode, end);
    }
    return 0;
}

static int sim_ftruncate(int fd, off_t length)
{
    struct inode *inode = fd_inode(fd);

    if (call_begin("ftruncate", inode->number, (uint64_t)length) ||
        inject("ftruncate", EIO)) {
        return -1;
    }
    file_resize(inode, (uint64_t)length);
    return 0;
}

static off_t sim_lseek(int fd, off_t offset, int whence)
{
    struct inode *inode = fd_inode(fd);
    uint64_t at = (uint64_t)offset;

    if (call_begin("lseek", inode->number, at) || inject("lseek", EIO)) {
        return -1;
    }
    if (at >= inode->size_now) {
        return fail(ENXIO);
    }
    while (at < inode->size_now &&
           file_is_data(inode, at) != (whence == SEEK_DATA)) {
        at = (at / 4096 + 1) * 4096;
    }
    if (at >= inode->size_now && whence == SEEK_DATA) {
        return fail(ENXIO);
    }
    return (off_t)MIN(at, inode->size_now);
}

/* --- Syncing -------------------------------------------------------------- */

static int sync_one(int fd, const char *name)
{
    struct inode *inode = fd_inode(fd);

    if (call_begin(name, inode->number, 0) || inject_interrupt()) {
        return -1;
    }
    disk_note("%s %u", name, inode->number);
    if (inject_kind(FAULT_SYNC, name, EIO)) {
        if (inode->is_folder) {
            return fail(EIO);
        }
        file_sync_failed(inode, 0, UINT64_MAX);
    } else if (inode->is_folder) {
        folder_sync(inode);
    } else {
        file_sync(inode);
    }
    return tell(&inode->failures, &fd_get(fd)->known) ? fail(EIO) : 0;
}

static int sim_fdatasync(int fd)
{
    return sync_one(fd, "fdatasync");
}

static int sim_fsync(int fd)
{
    return sync_one(fd, "sync");
}

static void syncfs_failed(void)
{
    for (guint i = 0; i < disk.inodes->len; i++) {
        struct inode *inode = disk.inodes->pdata[i];

        if (!inode->is_folder) {
            file_sync_failed(inode, 0, UINT64_MAX);
        }
    }
}

static int sim_syncfs(int fd)
{
    if (call_begin("fs,sync", 0, 0) || inject_interrupt()) {
        return -1;
    }
    if (inject_kind(FAULT_SYNC, "syncfs", EIO)) {
        syncfs_failed();
        tell(&disk.failures, &fd_get(fd)->known_any);
        return fail(EIO);
    }
    disk_note("syncfs");
    for (guint i = 0; i < disk.inodes->len; i++) {
        struct inode *inode = disk.inodes->pdata[i];

        if (inode->is_folder) {
            folder_sync(inode);
        } else {
            file_sync(inode);
        }
    }
    return tell(&disk.failures, &fd_get(fd)->known_any) ? fail(EIO) : 0;
}

/* --- What is there, and locks --------------------------------------------- */

static void fill_status(const struct inode *inode, struct stat *status)
{
    uint64_t blocks = 0;

    for (unsigned i = 0; i < inode->now.count; i++) {
        blocks += inode->now.chunks[i] ? 8 : 0;
    }
    *status = (struct stat){
        .st_dev = DEVICE,
        .st_ino = inode->number,
        .st_nlink = inode->links,
        .st_mode = inode->is_folder ? S_IFDIR : S_IFREG,
        .st_size = (off_t)inode->size_now,
        .st_blocks = (blkcnt_t)blocks,
    };
}

static int sim_fstat(int fd, struct stat *status)
{
    if (call_begin("fstat", 0, 0)) {
        return -1;
    }
    fill_status(fd_inode(fd), status);
    return 0;
}

static int sim_fstatat(int folder_fd, const char *path, struct stat *status,
                       int flags)
{
    struct entry *entry;

    if (call_begin("statat", 0, 0) || inject("fstatat", EIO)) {
        return -1;
    }
    entry = folder_find(fd_inode(folder_fd), path);
    if (!entry) {
        return fail(ENOENT);
    }
    fill_status(entry->inode, status);
    return 0;
}

static int sim_fstatfs(int fd, struct statfs *space)
{
    uint64_t used;

    if (call_begin("fstatfs", 0, 0)) {
        return -1;
    }
    *space = (struct statfs){
        .f_bsize = CHUNK,
        .f_blocks = 1u << 20,
        .f_bavail = 1u << 20,
    };
    if (disk.capacity_chunks && disk.error_once_in) {
        used = MIN(disk_used(), disk.capacity_chunks);
        space->f_bavail = disk.capacity_chunks - used;
    }
    return 0;
}

static int sim_flock(int fd, int operation)
{
    struct descriptor *descriptor = fd_get(fd);
    struct inode *inode = fd_inode(fd);

    g_assert(operation & LOCK_NB);
    if (call_begin("lock", inode->number, (uint64_t)operation) ||
        inject("flock", EIO)) {
        return -1;
    }
    if ((operation & LOCK_EX) &&
        (inode->exclusive ||
         inode->shared_count > (descriptor->shared ? 1 : 0))) {
        return fail(EWOULDBLOCK);
    }
    if ((operation & LOCK_SH) && inode->exclusive) {
        return fail(EWOULDBLOCK);
    }
    unlock(descriptor);
    if (operation & LOCK_EX) {
        inode->exclusive = descriptor->exclusive = true;
    } else {
        inode->shared_count++;
        descriptor->shared = true;
    }
    return 0;
}

/* --- Folders -------------------------------------------------------------- */

static int sim_mkdirat(int folder_fd, const char *path, mode_t mode)
{
    struct inode *folder = fd_inode(folder_fd);

    if (call_begin("mkdirat", folder->number, 0)) {
        return -1;
    }
    if (folder_find(folder, path)) {
        return fail(EEXIST);
    }
    if (folder->links == 0) {
        return fail(ENOENT);
    }
    if (inject("mkdir", ENOSPC)) {
        return -1;
    }
    if (is_full_for_more()) {
        return fail(ENOSPC);
    }
    disk_note("mkdir %s", path);
    folder_change(folder, NULL, path, inode_new(true));
    return 0;
}

static int sim_unlinkat(int folder_fd, const char *path, int flags)
{
    struct inode *folder = fd_inode(folder_fd);
    struct entry *entry;

    if (call_begin("unlinkat", folder->number, 0) ||
        inject("unlink", EIO)) {
        return -1;
    }
    entry = folder_find(folder, path);
    if (!entry) {
        return fail(ENOENT);
    }
    if (entry->inode->is_folder && !(flags & AT_REMOVEDIR)) {
        return fail(EISDIR);
    }
    if (entry->inode->is_folder && entry->inode->entries_now->len) {
        return fail(ENOTEMPTY);
    }
    disk_note("unlink %s (%u) from %u", path, entry->inode->number,
              folder->number);
    folder_change(folder, path, NULL, NULL);
    return 0;
}

static int sim_linkat(int from_fd, const char *from, int to_fd, const char *to,
                      int flags)
{
    struct inode *folder = fd_inode(from_fd);
    struct entry *entry;

    g_assert(folder == fd_inode(to_fd));
    if (call_begin("inkat", folder->number, 0)) {
        return -1;
    }
    entry = folder_find(folder, from);
    if (!entry || folder_find(folder, to)) {
        return fail(entry ? EEXIST : ENOENT);
    }
    if (inject("link", random_below(2) ? ENOSPC : EIO)) {
        return -1;
    }
    disk_note("link %s to %s", from, to);
    folder_change(folder, NULL, to, entry->inode);
    return 0;
}

static int sim_renameat2(int from_fd, const char *from, int to_fd,
                         const char *to, unsigned flags)
{
    struct inode *folder = fd_inode(from_fd);
    struct entry *entry;

    g_assert(folder == fd_inode(to_fd) && flags == 0);
    if (call_begin("renameat", folder->number, 0)) {
        return -1;
    }
    entry = folder_find(folder, from);
    if (!entry) {
        return fail(ENOENT);
    }
    if (inject("rename", random_below(2) ? ENOSPC : EIO)) {
        return -1;
    }
    disk_note("rename %s to %s (%u) in %u", from, to, entry->inode->number,
              folder->number);
    folder_change(folder, from, to, entry->inode);
    return 0;
}

/* What readdir() gives: the names of one moment. */
struct listing {
    int fd;
    GArray *names;              /* struct entry */
    guint at;
    struct dirent entry;
};

DIR *__wrap_fdopendir(int fd);
struct dirent *__wrap_readdir64(DIR *folder);
int __wrap_closedir(DIR *folder);
int __wrap_dirfd(DIR *folder);

DIR *__wrap_fdopendir(int fd)
{
    struct inode *inode = fd_inode(fd);
    struct listing *listing;

    if (call_begin("dir", inode->number, 0) || inject("fdopendir", ENOMEM)) {
        return NULL;
    }
    listing = g_new0(struct listing, 1);
    listing->fd = fd;
    listing->names = g_array_new(FALSE, FALSE, sizeof(struct entry));
    g_array_append_vals(listing->names, inode->entries_now->data,
                        inode->entries_now->len);
    return (DIR *)listing;
}

struct dirent *__wrap_readdir64(DIR *folder)
{
    struct listing *listing = (struct listing *)folder;

    if (call_begin("readdir", 0, 0) || inject("readdir", EIO) ||
        listing->at == listing->names->len) {
        return NULL;
    }
    g_strlcpy(listing->entry.d_name,
              g_array_index(listing->names, struct entry, listing->at++).name,
              sizeof(listing->entry.d_name));
    return &listing->entry;
}

int __wrap_closedir(DIR *folder)
{
    struct listing *listing = (struct listing *)folder;

    sim_close(listing->fd);
    g_array_unref(listing->names);
    g_free(listing);
    return 0;
}

int __wrap_dirfd(DIR *folder)
{
    return ((struct listing *)folder)->fd;
}

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

static int sim_io_setup(int depth, io_context_t *context)
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

static int sim_io_destroy(io_context_t context)
{
    g_free(context);
    return 0;
}

static int sim_io_submit(io_context_t context, long count, struct iocb **iocbs)
{
    if (call_begin("osubmit", (uint64_t)count, 0) || inject_interrupt()) {
        return -errno;
    }
    if (inject("io_submit", EAGAIN)) {
        return -errno;
    }
    count = 1 + (long)random_below((uint64_t)count);
    for (long i = 0; i < count; i++) {
        g_assert(transfer_count < TRANSFERS_MAX);
        transfers[transfer_count++] = (struct transfer){
            (struct ring *)context, iocbs[i], fd_get(iocbs[i]->aio_fildes),
            fd_inode(iocbs[i]->aio_fildes),
        };
    }
    return (int)count;
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

    if (disk.dead) {
        return -EIO;
    }
    disk_hash(transfer->inode->number ^ offset << 8);
    disk_note("aio %s%s %u: %#zx+%#zx", iocb_reads(iocb) ? "read" : "write",
              iocb->aio_rw_flags & RWF_DSYNC ? ",dsync" : "",
              transfer->inode->number, (size_t)offset, length);
    if (!iocb_reads(iocb)) {
        return do_write(transfer->descriptor, iov, offset, length,
                        iocb->aio_rw_flags);
    }
    if (inject("aio read", EIO)) {
        return -EIO;
    }
    return do_read(transfer->inode, iov, count, offset, length);
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
        return fail(EAGAIN);
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
        return fail(EINTR);
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

static int64_t sim_realtime_ns(void)
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

/* --- The table ------------------------------------------------------------ */

void calls_install(void)
{
    sys = (struct sys_table){
        .openat = sim_openat, .openat2 = sim_openat2, .close = sim_close,
        .preadv2 = sim_preadv2, .pwritev2 = sim_pwritev2,
        .fallocate = sim_fallocate, .ftruncate = sim_ftruncate,
        .lseek = sim_lseek, .fstat = sim_fstat, .flock = sim_flock,
        .fdatasync = sim_fdatasync, .fsync = sim_fsync,
        .syncfs = sim_syncfs, .mkdirat = sim_mkdirat,
        .unlinkat = sim_unlinkat, .linkat = sim_linkat,
        .renameat2 = sim_renameat2, .fstatat = sim_fstatat,
        .fstatfs = sim_fstatfs,
        .io_setup = sim_io_setup, .io_destroy = sim_io_destroy,
        .io_submit = sim_io_submit, .realtime_ns = sim_realtime_ns,
        .thread_number = fiber_number,
    };
}
