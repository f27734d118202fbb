/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors and system calls on the simulated disk: see disk.h.
 *
 * Each call begins with call_begin(): other fibers may run, the process may
 * die, an error may be injected.  After that it is one step.
 */
#include "calls.h"
#include "fibers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define FD_FIRST 100000
#define FDS_MAX 512

static struct descriptor fds[FDS_MAX];

/* --- Descriptors ---------------------------------------------------------- */

struct descriptor *fd_get(int fd)
{
    int at = fd - FD_FIRST;

    return at >= 0 && at < FDS_MAX && fds[at].kind != FD_FREE ? &fds[at]
                                                              : NULL;
}

struct inode *fd_inode(int fd)
{
    struct descriptor *descriptor = fd_get(fd);

    g_assert(descriptor && descriptor->kind == FD_INODE);
    return descriptor->inode;
}

int fd_new(enum fd_kind kind, struct inode *inode)
{
    for (int i = 0; i < FDS_MAX; i++) {
        if (fds[i].kind == FD_FREE) {
            fds[i] = (struct descriptor){ .kind = kind, .inode = inode };
            if (inode) {
                inode->opens++;
            }
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

void fd_unlock(struct descriptor *descriptor)
{
    if (descriptor->shared) {
        descriptor->inode->shared_count--;
    }
    if (descriptor->exclusive) {
        descriptor->inode->exclusive = false;
    }
    descriptor->shared = descriptor->exclusive = false;
}

int sim_close(int fd)
{
    struct descriptor *descriptor = fd_get(fd);

    g_assert(descriptor);
    fd_unlock(descriptor);
    descriptor->kind = FD_FREE;
    if (descriptor->inode) {
        descriptor->inode->opens--;
        inode_let_go(descriptor->inode);
    }
    return 0;
}

/* --- The beginning of each call ------------------------------------------- */

int call_fail(int error)
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

/* Whether one call of that name is where the process shall die. */
static bool is_the_moment(const char *name)
{
    switch (disk.crash_in) {
    case IN_SYNC:
        return strstr(name, "sync");
    case IN_FUA:
        return strstr(name, ",sync");
    case IN_NAMING:
        return strstr(name, "link") || strstr(name, "rename") ||
               strstr(name, "mkdir") || strcmp(name, "fsync") == 0;
    default:
        return true;
    }
}

void call_perhaps_die(const char *name)
{
    if (!disk.dead && disk.crash_at && disk.calls >= disk.crash_at &&
        is_the_moment(name)) {
        disk_note("*** the process dies (%s)",
                  disk.power_cut ? "power cut" : "killed");
        disk.dead = disk.dying = true;
        transfers_cut();
    }
}

/* One more call of the process; true when it is dead. */
bool call_begin(const char *name, uint64_t what, uint64_t where)
{
    fiber_point();
    disk.dying = false;
    call_perhaps_die(name);
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

enum moment draw_moment(void)
{
    return random_once_in(2) ? IN_ANY : (enum moment)(1 + random_below(3));
}

/* What an error left half done is best seen if the end comes soon. */
static void crash_soon(void)
{
    if (disk.crash_at > disk.calls && disk.errors_to_crash &&
        --disk.errors_to_crash == 0) {
        disk.crash_at = disk.calls + 1 +
                        random_below(UINT64_C(1) << random_below(9));
        disk.crash_in = draw_moment();
    }
}

bool inject_kind(enum fault fault, const char *name, int error)
{
    if ((disk.faults != FAULT_ANY && disk.faults != fault) ||
        !random_once_in(disk.error_once_in)) {
        return false;
    }
    disk.injected++;
    crash_soon();
    if (fault == FAULT_SYNC) {      /* what others do before they know? */
        fiber_hold_back((unsigned)random_below(8));
    }
    disk_note("%s fails: %s", name, g_strerror(error));
    disk_hash((uint64_t)error);
    errno = error;
    return true;
}

bool inject(const char *name, int error)
{
    return inject_kind(FAULT_ANY, name, error);
}

/* The disk is full, and that isn't a passing error. */
int call_fail_full(const char *name)
{
    disk.injected++;
    disk.full_answers++;
    disk_note("%s fails: no space (%u units are used)", name,
              (unsigned)disk.used);
    disk_hash(ENOSPC);
    return call_fail(ENOSPC);
}

/* Errors that only say "again" are not among `injected`. */
bool inject_interrupt(void)
{
    if (!random_once_in(disk.short_once_in)) {
        return false;
    }
    errno = EINTR;
    return true;
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
        return call_fail(ENOTDIR);
    }
    fd = fd_new(FD_INODE, inode);
    fd_get(fd)->direct = flags & O_DIRECT;
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
                   ? call_fail(EEXIST)
                   : open_inode(entry->inode, flags);
    }
    if (!(flags & O_CREAT)) {
        return call_fail(ENOENT);
    }
    if (folder->links == 0) {
        return call_fail(ENOENT);
    }
    if (inject_kind(FAULT_NAME, "creating", random_below(2) ? ENOSPC : EIO)) {
        return -1;
    }
    if (!disk_has_room()) {
        return call_fail_full("creating");
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
        return call_fail(EAGAIN);
    }
    if (inject_kind(FAULT_NAME, "openat2", random_below(4) ? EIO : EMFILE)) {
        return -1;
    }
    fd = open_at(fd_inode(folder_fd), path, (int)how->flags);
    disk_note("open %s%s: %d", path, how->flags & O_CREAT ? " (create)" : "",
              fd < 0 ? -errno : fd);
    return fd;
}

/* --- Reading and writing -------------------------------------------------- */

size_t iov_bytes(const struct iovec *iov, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

ssize_t fd_read(struct inode *inode, const struct iovec *iov, int count,
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

uint8_t *iov_gather(const struct iovec *iov, size_t length)
{
    uint8_t *bytes = g_malloc(MAX(length, 1));

    for (size_t at = 0; at < length; iov++) {
        size_t run = MIN(iov->iov_len, length - at);

        memcpy(bytes + at, iov->iov_base, run);
        at += run;
    }
    return bytes;
}

/* What a device says of what it could not write goes to whoever syncs.  Only
 * the page cache may find out so late that there is no room. */
static int sync_error(bool direct)
{
    static const int errors[] = { EIO, EIO, ENODATA, ENOSPC };

    return errors[random_below(G_N_ELEMENTS(errors) - direct)];
}

ssize_t fd_write(struct descriptor *descriptor, const struct iovec *iov,
                 uint64_t offset, size_t length, int flags)
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
    if (length && !(length = (size_t)file_room(inode, offset, length))) {
        return call_fail_full("write"), -ENOSPC;
    }
    file_write(inode, offset, bytes, length);
    if (flags & RWF_DSYNC) {
        if (inject_kind(FAULT_SYNC, "write's sync", EIO)) {
            /* Perhaps as part of a write-back that was under way. */
            bool all = random_once_in(2);

            file_sync_failed(inode, all ? 0 : offset,
                             all ? UINT64_MAX : offset + length);
        } else {
            file_sync_range(inode, offset, offset + length);
        }
        if (!descriptor->direct) {      /* it waits for the page cache */
            fiber_point();
        }
        if (disk.dead || tell(&inode->failures, &descriptor->known)) {
            return -sync_error(descriptor->direct);
        }
    }
    return (ssize_t)length;
}

/* What the kernel refuses. */
bool iov_is_misaligned(int fd, const struct iovec *iov, int count,
                       uint64_t offset)
{
    uint64_t bits = offset;

    for (int i = 0; i < count; i++) {
        bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
    }
    return fd_get(fd)->direct && bits % SECTOR;
}

/* A length that the kernel might stop at: no sector is torn by that. */
size_t cut_short(uint64_t offset, size_t length)
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
        return call_fail(EAGAIN);
    }
    if (inject_interrupt() || inject("read", EIO)) {
        return -1;
    }
    if (iov_is_misaligned(fd, iov, count, (uint64_t)offset)) {
        return call_fail(EINVAL);
    }
    disk_note("read %u: %#zx+%#zx", inode->number, (size_t)offset, length);
    return fd_read(inode, iov, count, (uint64_t)offset,
                   cut_short((uint64_t)offset, length));
}

/* The process dies in its midst, or has died. */
void write_torn(struct inode *inode, const struct iovec *iov, int count,
                uint64_t offset)
{
    size_t length = iov_bytes(iov, count);
    g_autofree uint8_t *bytes = NULL;

    if (disk.dying) {
        disk.dying = false;
        bytes = iov_gather(iov, length);
        file_write_torn(inode, offset, bytes, length);
    }
}

static ssize_t sim_pwritev2(int fd, const struct iovec *iov, int count,
                            off_t offset, int flags)
{
    struct inode *inode = fd_inode(fd);
    size_t length = iov_bytes(iov, count);
    ssize_t done;

    if (call_begin(flags & RWF_DSYNC ? "write,sync" : "pwritev2",
                   inode->number, (uint64_t)offset)) {
        write_torn(inode, iov, count, (uint64_t)offset);
        return -1;
    }
    if (inject_interrupt()) {
        return -1;
    }
    if (iov_is_misaligned(fd, iov, count, (uint64_t)offset)) {
        return call_fail(EINVAL);
    }
    length = cut_short((uint64_t)offset, length);
    disk_note("write%s %u: %#zx+%#zx", flags & RWF_DSYNC ? ",dsync" : "",
              inode->number, (size_t)offset, length);
    done = fd_write(fd_get(fd), iov, (uint64_t)offset, length, flags);
    return done < 0 ? call_fail((int)-done) : done;
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
        if (file_room(inode, (uint64_t)offset, (uint64_t)length) <
            (uint64_t)length) {
            return call_fail_full("fallocate");
        }
        disk_note("allocate %u: %#zx+%#zx", inode->number, (size_t)offset,
                  (size_t)length);
        file_allocate(inode, (uint64_t)offset, (uint64_t)length);
        file_resize(inode, MAX(inode->size_now, end));
        return 0;
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
        return call_fail(ENXIO);
    }
    while (at < inode->size_now &&
           file_is_data(inode, at) != (whence == SEEK_DATA)) {
        at = (at / 4096 + 1) * 4096;
    }
    if (at >= inode->size_now && whence == SEEK_DATA) {
        return call_fail(ENXIO);
    }
    return (off_t)MIN(at, inode->size_now);
}

/* --- Syncing -------------------------------------------------------------- */

static int sync_one(int fd, const char *name)
{
    struct inode *inode = fd_inode(fd);
    enum fault fault = FAULT_SYNC;

    if (call_begin(name, inode->number, 0) || inject_interrupt()) {
        return -1;
    }
    disk_note("%s %u", name, inode->number);
    if (inode->is_folder && disk.faults == FAULT_NAME) {
        fault = FAULT_NAME;
    }
    if (inject_kind(fault, name, EIO)) {
        if (inode->is_folder) {
            return call_fail(sync_error(false));
        }
        file_sync_failed(inode, 0, UINT64_MAX);
    } else if (inode->is_folder) {
        folder_sync(inode);
    } else {
        file_sync(inode);
    }
    return tell(&inode->failures, &fd_get(fd)->known)
               ? call_fail(sync_error(false))
               : 0;
}

static int sim_fdatasync(int fd)
{
    return sync_one(fd, "fdatasync");
}

static int sim_fsync(int fd)
{
    return sync_one(fd, "fsync");
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
        return call_fail(EIO);
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
    return tell(&disk.failures, &fd_get(fd)->known_any) ? call_fail(EIO) : 0;
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
        .aio_get = sim_aio_get, .aio_put = sim_aio_put,
        .io_submit = sim_io_submit, .realtime_ns = sim_realtime_ns,
        .thread_number = fiber_number,
    };
}
