/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room for metadata in a full file system.
 *
 * The file DIR_RESERVE holds preallocated space that nobody's data can take.
 * Where metadata finds no room, it is cut shorter, the same is tried again, and
 * what that didn't need is taken back at once.  Data never gets any of it; and
 * while it is short, new objects with data have to wait until it is filled up
 * again, so what was freed goes to it first.
 *
 * Nothing in the file counts but how many blocks it has, and whatever any
 * process does to it can be done again: to cut what was cut, to allocate what
 * is.  So there is no lock, neither for threads nor for processes or hosts, and
 * nothing of it is synced: after a crash it may be short, and is filled up by
 * the next who locks a volume for writing.
 *
 * Who tries again with what somebody else gave up wins, the other gives up
 * more; that is bounded by RESERVE_TRIES.
 */
#include "store/dir-internal.h"

#include "base/sys.h"
#include "store/dir-format.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>

#ifndef RESERVE_BYTES_MAX
#define RESERVE_BYTES_MAX (UINT64_C(64) << 20)
#define RESERVE_FLOOR_BYTES (UINT64_C(1) << 20)
#define RESERVE_UNIT_BYTES (UINT64_C(64) << 10)
#define RESERVE_STEP_BYTES (UINT64_C(1) << 20)
#endif
/* Less isn't worth taking back. */
#define RESERVE_LEAST_BYTES (UINT64_C(4) << 10)
#define RESERVE_TRIES 5u

/* What blocks are counted in. */
static uint64_t unit_bytes(const struct statfs *space)
{
    return (uint64_t)(space->f_frsize ? space->f_frsize : space->f_bsize);
}

uint64_t dir_total_bytes(const struct statfs *space)
{
    return (uint64_t)space->f_blocks * unit_bytes(space);
}

uint64_t dir_free_bytes(const struct statfs *space)
{
    return (uint64_t)space->f_bavail * unit_bytes(space);
}

bool dir_is_full(int result)
{
    return result == -ENOSPC || result == -EDQUOT;
}

/* 1/64 of the file system, where that is little a bit more; whole units.  One
 * in memory has better use for that. */
static uint64_t wanted_of(const struct statfs *space)
{
    uint64_t total_bytes = dir_total_bytes(space);
    uint64_t floor = MIN(RESERVE_FLOOR_BYTES, total_bytes / 16);
    uint64_t bytes = space->f_type == TMPFS_MAGIC
                         ? floor
                         : MAX(total_bytes / 64, floor);

    return MIN(bytes, RESERVE_BYTES_MAX) & ~(RESERVE_UNIT_BYTES - 1);
}

void dir_reserve_init(struct dir_store *dir)
{
    struct dir_reserve *reserve = &dir->reserve;
    struct statfs space;

    if (sys.fstatfs(dir->root_fd, &space) == 0) {
        reserve->wanted_bytes = wanted_of(&space);
    }
    atomic_store(&reserve->full_bytes, reserve->wanted_bytes);
    atomic_store(&reserve->impossible, reserve->wanted_bytes == 0);
}

/* --- How much there is ---------------------------------------------------- */

static uint64_t held_by(const struct stat *status)
{
    return (uint64_t)status->st_blocks * 512;
}

uint64_t dir_reserve_held(struct dir_store *dir)
{
    struct stat status;

    return sys.fstatat(dir->root_fd, DIR_RESERVE, &status,
                       AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode)
               ? held_by(&status)
               : 0;
}

uint64_t dir_reserve_wanted(struct dir_store *dir)
{
    return atomic_load(&dir->reserve.impossible) ? 0
                                                 : dir->reserve.wanted_bytes;
}

static bool is_short(struct dir_store *dir)
{
    struct dir_reserve *reserve = &dir->reserve;
    bool is;

    if (atomic_load(&reserve->impossible)) {
        return false;
    }
    is = dir_reserve_held(dir) < atomic_load(&reserve->full_bytes);
    if (is) {
        atomic_store(&reserve->is_short, true);
    }
    return is;
}

/* --- Filling it up -------------------------------------------------------- */

static int allocate(int fd, uint64_t at, uint64_t bytes)
{
    int result;

    do {
        result = sys.fallocate(fd, 0, (off_t)at, (off_t)bytes);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

/* As far as it goes.  What is allocated already costs nothing. */
static int allocate_pieces(int fd, uint64_t wanted_bytes)
{
    uint64_t at = 0, step = RESERVE_STEP_BYTES;

    while (at < wanted_bytes) {
        int result = allocate(fd, at, MIN(step, wanted_bytes - at));

        if (result == 0) {
            at += step;
        } else if (dir_is_full(result) && step > RESERVE_LEAST_BYTES) {
            step /= 2;
        } else {
            return result;
        }
    }
    return 0;
}

static uint64_t free_bytes(struct dir_store *dir)
{
    struct statfs space;

    return sys.fstatfs(dir->root_fd, &space) == 0
               ? dir_free_bytes(&space)
               : UINT64_MAX;
}

static int fill_fd(struct dir_store *dir, int fd)
{
    struct dir_reserve *reserve = &dir->reserve;
    uint64_t room = free_bytes(dir), held;
    struct stat status, later;
    int result;

    if (sys.fstat(fd, &status) < 0) {
        return -errno;
    }
    held = held_by(&status);
    if (held >= atomic_load(&reserve->full_bytes)) {
        return 0;
    }
    if (room < RESERVE_LEAST_BYTES) {
        return -ENOSPC;
    }
    result = held + room < reserve->wanted_bytes
                 ? -ENOSPC
                 : allocate(fd, 0, reserve->wanted_bytes);
    if (dir_is_full(result)) {
        return allocate_pieces(fd, reserve->wanted_bytes);
    }
    /* Some file systems count blocks in a way of their own: learnt from what
     * was allocated at once and nobody, of any process, has cut since.  For the
     * size it is asked again: that is the first that a cut changes. */
    if (result == 0 && sys.fstat(fd, &status) == 0 &&
        sys.fstat(fd, &later) == 0 &&
        (uint64_t)later.st_size >= reserve->wanted_bytes) {
        atomic_store(&reserve->full_bytes,
                     MIN(held_by(&status), reserve->wanted_bytes));
    }
    return result;
}

/* 0: it was full, or there can be none.  What is cut meanwhile makes it short
 * again. */
static int fill(struct dir_store *dir)
{
    struct dir_reserve *reserve = &dir->reserve;
    int fd, result;

    if (atomic_load(&reserve->impossible)) {
        return 0;
    }
    atomic_store(&reserve->is_short, false);
    fd = result = dir_open(dir, DIR_RESERVE, O_RDWR | O_CREAT | O_NONBLOCK);
    if (fd >= 0) {
        result = fill_fd(dir, fd);
        sys.close(fd);
    }
    switch (-result) {
    case 0:
        return 0;
    case EOPNOTSUPP:
    case ENOSYS:
    case EACCES:
    case EPERM:
    case EROFS:
        atomic_store(&reserve->impossible, true);
        return 0;
    default:
        atomic_store(&reserve->is_short, true);
        return result;
    }
}

void dir_reserve_look(struct dir_store *dir)
{
    if (is_short(dir)) {
        dir_reserve_tend(dir);
    }
}

void dir_reserve_tend(struct dir_store *dir)
{
    if (atomic_load(&dir->reserve.is_short) &&
        atomic_load(&dir->reserve.loan_count) == 0) {
        fill(dir);
    }
}

int dir_reserve_guard(struct dir_store *dir)
{
    int result;

    if (!is_short(dir)) {
        return 0;
    }
    if (atomic_load(&dir->reserve.loan_count) > 0) {
        return -ENOSPC;
    }
    result = fill(dir);
    return dir_is_full(result) ? -ENOSPC : 0;
}

/* --- Giving it up --------------------------------------------------------- */

/* Cut that much off its end, if there is anything. */
static bool give(struct dir_store *dir, uint64_t bytes)
{
    int fd = dir_open(dir, DIR_RESERVE, O_RDWR | O_NONBLOCK);
    struct stat status;
    bool gave = false;

    if (fd < 0) {
        return false;
    }
    if (sys.fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        status.st_size > 0) {
        uint64_t kept = (uint64_t)status.st_size;

        kept = held_by(&status) > 0 ? MIN(kept, held_by(&status)) : kept;
        kept = kept > bytes ? (kept - bytes) & ~(RESERVE_LEAST_BYTES - 1) : 0;
        gave = sys.ftruncate(fd, (off_t)kept) == 0;
        atomic_store(&dir->reserve.is_short, true);
    }
    sys.close(fd);
    return gave;
}

static void settle(struct dir_store *dir, const struct dir_loan *loan)
{
    if (loan->tries > 0 &&
        atomic_fetch_sub(&dir->reserve.loan_count, 1) == 1) {
        dir_reserve_tend(dir);
    }
}

bool dir_reserve_lend(struct dir_store *dir, struct dir_loan *loan, int result)
{
    uint64_t bytes = loan->bytes + 2 * RESERVE_UNIT_BYTES;

    if (!dir_is_full(result) || loan->tries == RESERVE_TRIES) {
        settle(dir, loan);
        return false;
    }
    if (loan->tries++ == 0) {
        atomic_fetch_add(&dir->reserve.loan_count, 1);
    } else {
        g_usleep(1000u << loan->tries);
    }
    if (!give(dir, bytes << (loan->tries - 1))) {
        settle(dir, loan);
        return false;
    }
    return true;
}
