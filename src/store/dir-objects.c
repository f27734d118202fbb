/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Carrying out one request on the dir store, in this thread, waiting as long as
 * it takes: what threads of the pool do, and queues whose caller waits anyhow.
 *
 * With O_DIRECT, a request that isn't aligned as the file system wants goes
 * through a second, buffered descriptor; the kernel keeps both views the same.
 */
#include "store/dir-internal.h"

#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define ZERO_CHUNK_BYTES (UINT64_C(1) << 18)

/* --- Buffers -------------------------------------------------------------- */

bool dir_is_aligned(const struct dir_store *dir,
                    const struct store_request *request)
{
    uintptr_t memory = 0, lengths = request->offset_bytes;

    for (int i = 0; i < request->iov_count; i++) {
        memory |= (uintptr_t)request->iov[i].iov_base;
        lengths |= request->iov[i].iov_len;
    }
    return !(memory & (dir->store->memory_alignment_bytes - 1)) &&
           !(lengths & (dir->store->alignment_bytes - 1));
}

/* The iovecs that hold `from_bytes` and up; at most IOV_MAX.  The caller frees
 * them. */
static struct iovec *iov_rest(const struct store_request *request,
                              uint64_t from_bytes, int *count)
{
    const struct iovec *iov = request->iov;
    int left = request->iov_count;
    struct iovec *rest;

    while (left > 0 && from_bytes >= iov->iov_len) {
        from_bytes -= iov->iov_len;
        iov++;
        left--;
    }
    *count = MIN(left, IOV_MAX);
    rest = g_memdup2(iov, *count * sizeof(*iov));
    if (*count > 0) {
        rest[0].iov_base = (char *)rest[0].iov_base + from_bytes;
        rest[0].iov_len -= from_bytes;
    }
    return rest;
}

void dir_fill_zeroes(struct store_request *request, uint64_t from_bytes)
{
    uint64_t at = 0;

    for (int i = 0; i < request->iov_count; i++) {
        struct iovec iov = request->iov[i];
        uint64_t skip = from_bytes > at ? from_bytes - at : 0;

        if (skip < iov.iov_len) {
            memset((char *)iov.iov_base + skip, 0, iov.iov_len - skip);
        }
        at += iov.iov_len;
    }
}

/* --- Reading and writing -------------------------------------------------- */

static ssize_t call_once(int fd, const struct store_request *request,
                         const struct iovec *iov, int count,
                         uint64_t done_bytes, int write_flags)
{
    off_t offset = (off_t)(request->offset_bytes + done_bytes);
    ssize_t got;

    do {
        if (request->op == STORE_READ) {
            got = sys.preadv2(fd, iov, count, offset, 0);
        } else {
            got = sys.pwritev2(fd, iov, count, offset, write_flags);
        }
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

/* One call's worth, from `done_bytes` on; returns how much is done then.  Reads
 * end at the end of the file. */
static int64_t transfer_step(int fd, struct store_request *request,
                             uint64_t done_bytes, int write_flags)
{
    g_autofree struct iovec *rest = NULL;
    const struct iovec *iov = request->iov;
    int count = request->iov_count;
    ssize_t got;

    if (done_bytes > 0 || count > IOV_MAX) {
        iov = rest = iov_rest(request, done_bytes, &count);
    }
    got = call_once(fd, request, iov, count, done_bytes, write_flags);
    if (got == 0 && request->op == STORE_WRITE) {
        return -ENOSPC;
    }
    if (got == 0) {
        dir_fill_zeroes(request, done_bytes);
        return (int64_t)request->length_bytes;
    }
    return got < 0 ? got : (int64_t)done_bytes + got;
}

/* The rest through a descriptor without O_DIRECT, of the very same file.  No
 * dirty page is left behind, whose write-back would undo a direct write beside
 * it. */
static int transfer_buffered(struct dir_file *file,
                             struct store_request *request, uint64_t done_bytes)
{
    int64_t done = (int64_t)done_bytes;
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
    fd = TEMP_FAILURE_RETRY(sys.openat(
        AT_FDCWD, path, (file->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC, 0));
    if (fd < 0) {
        return -errno;
    }
    while (done >= 0 && (uint64_t)done < request->length_bytes) {
        done = transfer_step(fd, request, (uint64_t)done, RWF_DSYNC);
    }
    sys.close(fd);
    return done < 0 ? (int)done : 0;
}

int dir_transfer(struct dir_store *dir, struct dir_file *file,
                 struct store_request *request, uint64_t done_bytes)
{
    uint64_t mask = dir->store->alignment_bytes - 1;
    bool direct = !dir->direct || dir_is_aligned(dir, request);
    int64_t done = (int64_t)done_bytes;

    if (request->op == STORE_WRITE && file->read_only) {
        return -EROFS;
    }
    while ((uint64_t)done < request->length_bytes) {
        if (!direct || ((uint64_t)done & mask)) {
            return transfer_buffered(file, request, (uint64_t)done);
        }
        done = transfer_step(file->fd, request, (uint64_t)done,
                             request->flags & STORE_FUA ? RWF_DSYNC : 0);
        if (done < 0) {
            return (int)done;
        }
    }
    return 0;
}

bool dir_is_metadata(const struct store_object *name)
{
    return name->kind != STORE_BLOCK;
}

/* A try that failed has lost nothing that the next one doesn't write again:
 * metadata is synced by its own write, or created by it (D6). */
int dir_transfer_rest(struct dir_store *dir, struct dir_file *file,
                      struct store_request *request, uint64_t done_bytes)
{
    struct dir_loan loan = {request->length_bytes};
    int result;

    do {
        result = dir_transfer(dir, file, request, done_bytes);
    } while (dir_is_metadata(&request->object) &&
             dir_reserve_lend(dir, &loan, result));
    return result;
}

static int do_read(struct dir_store *dir, struct store_request *request)
{
    struct dir_file *file;
    int result = dir_file_get(dir, &request->object, true, &file);

    if (result < 0) {
        return result;
    }
    result = dir_transfer(dir, file, request, 0);
    dir_file_put(dir, file, false);
    return result;
}

/* --- What changes objects ------------------------------------------------- */

static int call_fallocate(struct dir_file *file, int mode,
                          const struct store_request *request)
{
    int result;

    if (file->read_only) {
        return -EROFS;
    }
    if (request->length_bytes == 0) {
        return 0;
    }
    do {
        result = sys.fallocate(file->fd, mode, (off_t)request->offset_bytes,
                               (off_t)request->length_bytes);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

/* Zeroes written as data. */
static int write_zeroes(struct dir_store *dir, struct dir_file *file,
                        const struct store_request *request)
{
    g_autofree uint8_t *room = g_malloc0(ZERO_CHUNK_BYTES + 4096);
    uint8_t *zeroes = (uint8_t *)(((uintptr_t)room + 4095) & ~(uintptr_t)4095);
    uint64_t at = request->offset_bytes, end = at + request->length_bytes;

    while (at < end) {
        struct iovec iov = {zeroes, MIN(end - at, ZERO_CHUNK_BYTES)};
        struct store_request piece = {
            .op = STORE_WRITE,
            .offset_bytes = at,
            .length_bytes = iov.iov_len,
            .iov = &iov,
            .iov_count = 1,
        };
        int result = dir_transfer(dir, file, &piece, 0);

        if (result < 0) {
            return result;
        }
        at += iov.iov_len;
    }
    return 0;
}

static int zero(struct dir_store *dir, struct dir_file *file,
                const struct store_request *request)
{
    int result = call_fallocate(file, FALLOC_FL_ZERO_RANGE, request);

    if (result != -EOPNOTSUPP && result != -ENOSYS && result != -EINVAL) {
        return result;
    }
    return request->flags & STORE_NO_FALLBACK
               ? -ENOTSUP
               : write_zeroes(dir, file, request);
}

static int punch(struct dir_file *file, const struct store_request *request)
{
    int result = call_fallocate(
        file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, request);

    return result == -ENOSYS ? -ENOTSUP : result;
}

static int change(struct dir_store *dir, struct dir_file *file,
                  struct store_request *request)
{
    switch (request->op) {
    case STORE_WRITE:
        return dir_transfer(dir, file, request, 0);
    case STORE_ZERO:
        return zero(dir, file, request);
    case STORE_PUNCH:
        return punch(file, request);
    default:
        g_assert_not_reached();
    }
}

static int sync_object(struct dir_store *dir, struct dir_file *file,
                       const struct store_object *name)
{
    char path[DIR_PATH_BYTES];
    int result = file ? dir_file_sync(dir, file) : 0;

    if (dir_folders_clean(dir)) {
        return result;
    }
    dir_object_path(name, path);
    return result < 0 ? result : dir_folders_sync(dir, path);
}

/* The change, and what FUA wants.  A direct write to an object that was there is
 * durable by itself.  All else is synced after it, with the file's other
 * changes: the kernel tells a descriptor once of a write-back that failed, so
 * whoever hears of it must tell all whom it may concern (D2). */
static int change_durably(struct dir_store *dir, struct dir_file *file,
                          struct store_request *request)
{
    unsigned flags = request->flags, failures;
    int result;

    if (dir->direct && request->op == STORE_WRITE && !(flags & STORE_CREATE)) {
        return change(dir, file, request);
    }
    failures = dir_file_failures(dir, file);
    request->flags &= ~STORE_FUA;
    result = change(dir, file, request);
    request->flags = flags;
    if (result < 0) {
        return result;
    }
    dir_file_changed(dir, file);
    result = sync_object(dir, file, &request->object);
    if (result == 0 && dir_file_failures(dir, file) != failures) {
        result = -EIO;
    }
    request->sync_failed = result < 0;
    return result;
}

/* An object that there was no room for: what it got is needed elsewhere.  If
 * that fails, the next who makes it removes it. */
static void unmake(struct dir_store *dir, const struct store_object *name)
{
    char path[DIR_PATH_BYTES];

    dir_object_path(name, path);
    if (dir_unlink(dir, path) == 0) {
        dir_file_removed(dir, name);
        *strrchr(path, '/') = '\0';
        dir_folder_changed(dir, path);
    }
}

static int change_once(struct dir_store *dir, struct store_request *request)
{
    struct dir_file *file;
    int result;

    if (request->flags & STORE_CREATE) {
        result = dir_file_create(dir, &request->object, request->create_bytes,
                                 &file);
    } else {
        result = dir_file_get(dir, &request->object, true, &file);
    }
    if (result < 0) {
        return result;
    }
    if (request->flags & STORE_FUA) {
        result = change_durably(dir, file, request);
        dir_file_put(dir, file, result < 0);
    } else {
        result = change(dir, file, request);
        dir_file_put(dir, file, true);
    }
    if ((request->flags & STORE_CREATE) && dir_is_full(result)) {
        unmake(dir, &request->object);
    }
    return result;
}

/* May it use the reserve?  Data may not; but an empty object has none, and
 * punching gives room back. */
static bool may_borrow(const struct store_request *request)
{
    return dir_is_metadata(&request->object) || request->op == STORE_PUNCH ||
           request->length_bytes == 0;
}

/* A second try begins anew and does all of it (D6): it creates the object anew,
 * writes and syncs the same bytes. */
static int do_change(struct dir_store *dir, struct store_request *request)
{
    struct dir_loan loan = {request->length_bytes};
    int result;

    if (!may_borrow(request)) {
        result = request->flags & STORE_CREATE ? dir_reserve_guard(dir) : 0;
        return result < 0 ? result : change_once(dir, request);
    }
    do {
        result = change_once(dir, request);
    } while (dir_reserve_lend(dir, &loan, result));
    if (request->op == STORE_PUNCH) {
        dir_reserve_tend(dir);
    }
    return result;
}

/* A file that isn't open was synced when it was closed, or a failure to do so
 * was remembered. */
static int do_sync(struct dir_store *dir, struct store_request *request)
{
    struct dir_file *file = dir_file_find(dir, &request->object);
    int result = sync_object(dir, file, &request->object);
    int failure = dir_file_failure(dir, &request->object);

    if (file) {
        dir_file_put(dir, file, false);
    }
    return failure < 0 ? failure : result;
}

static int do_remove(struct dir_store *dir, struct store_request *request)
{
    char path[DIR_PATH_BYTES];
    struct dir_loan loan = {0};
    int result;

    dir_object_path(&request->object, path);
    do {
        result = dir_unlink(dir, path);
    } while (dir_reserve_lend(dir, &loan, result));
    if (result < 0 && result != -ENOENT) {
        dir_file_doubt(dir, &request->object);
        return result;
    }
    dir_file_removed(dir, &request->object);
    /* Also when it was gone: who removed it may not have synced that. */
    *strrchr(path, '/') = '\0';
    dir_folder_changed(dir, path);
    dir_reserve_tend(dir);
    return 0;
}

/* --- Extents -------------------------------------------------------------- */

/* Where the next data or hole begins, at most `end`. */
static int64_t seek(int fd, uint64_t at, uint64_t end, int whence)
{
    off_t found = sys.lseek(fd, (off_t)at, whence);

    if (found < 0) {
        return errno == ENXIO ? (int64_t)end : -errno;
    }
    return (int64_t)MIN((uint64_t)found, end);
}

/* Both questions are put one after the other: what changed in between must not
 * give a run of nothing. */
static int extent(struct dir_file *file, struct store_request *request)
{
    uint64_t at = request->offset_bytes, end = at + request->length_bytes;
    int64_t data = seek(file->fd, at, end, SEEK_DATA), hole = 0;

    request->extent.is_data = data == (int64_t)at && at < end;
    if (!request->extent.is_data) {
        hole = data;
    } else {
        hole = seek(file->fd, at, end, SEEK_HOLE);
        if (hole == (int64_t)at) {      /* punched meanwhile */
            hole = MIN(at + 512, end);
        }
    }
    if (hole < 0) {
        return (int)hole;
    }
    request->extent.length_bytes = (uint64_t)hole - at;
    return 0;
}

static int do_extent(struct dir_store *dir, struct store_request *request)
{
    struct dir_file *file;
    int result = dir_file_get(dir, &request->object, true, &file);

    if (result == 0) {
        result = extent(file, request);
        dir_file_put(dir, file, false);
    }
    return result;
}

/* --- All of them ---------------------------------------------------------- */

int dir_execute(struct dir_store *dir, struct store_request *request)
{
    uint64_t end;

    if (__builtin_add_overflow(request->offset_bytes, request->length_bytes,
                               &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    switch (request->op) {
    case STORE_READ:
        return do_read(dir, request);
    case STORE_WRITE:
    case STORE_ZERO:
    case STORE_PUNCH:
        return do_change(dir, request);
    case STORE_SYNC:
        return do_sync(dir, request);
    case STORE_REMOVE:
        return do_remove(dir, request);
    case STORE_EXTENT:
        return do_extent(dir, request);
    }
    g_assert_not_reached();
}
