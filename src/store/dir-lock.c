/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dir store's locks: flock() is the truth, and dies with its holder.  What
 * the lock's file says is for people, and for the token.
 *
 * One writer (D15).  The file is never renamed or removed while the volume
 * exists; one that was removed between opening and locking is noticed by its
 * inode.  The two slots of struct dir_lock_slot are written in turn and synced
 * before use, so that the one in force survives a torn write of the other; a
 * torn one may have carried the next token, which is therefore left out.
 */
#include "store/dir-internal.h"

#include "base/crc32c.h"
#include "base/error.h"
#include "base/sys.h"
#include "store/dir-format.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define SLOT_COUNT 2
/* No count gets there: what says so is damaged, and the next token would
 * overflow. */
#define TOKEN_MAX (UINT64_C(1) << 62)

struct dir_lock {
    struct store_lock lock;
    struct id128 id;
    int fd;                     /* -1: a reader where nothing can be written */
    int exclusion_fd;           /* of `readers`, while they are kept out */
    enum store_lock_mode mode;
    int next_slot;
    struct store_owner owner;
};

/* What both slots together say. */
struct lock_record {
    struct store_owner owner;
    int next_slot;
    int torn_count;
};

/* --- Slots ---------------------------------------------------------------- */

static void encode(const struct store_owner *owner, struct dir_lock_slot *slot)
{
    *slot = (struct dir_lock_slot){
        .version = GUINT32_TO_BE(DIR_LOCK_VERSION),
        .flags = GUINT32_TO_BE(owner->open ? DIR_LOCK_OPEN : 0),
        .token = GUINT64_TO_BE(owner->token),
        .since_ns = GUINT64_TO_BE((uint64_t)owner->since_ns),
        .pid = GUINT64_TO_BE((uint64_t)owner->pid),
    };
    memcpy(slot->magic, DIR_LOCK_MAGIC, sizeof(slot->magic));
    g_strlcpy(slot->owner, owner->owner, sizeof(slot->owner));
    g_strlcpy(slot->host, owner->host, sizeof(slot->host));
    slot->crc = GUINT32_TO_BE(
        crc32c(0, slot, offsetof(struct dir_lock_slot, crc)));
}

static bool decode(const struct dir_lock_slot *slot, struct store_owner *owner)
{
    uint32_t crc = crc32c(0, slot, offsetof(struct dir_lock_slot, crc));

    if (crc != GUINT32_FROM_BE(slot->crc) ||
        memcmp(slot->magic, DIR_LOCK_MAGIC, sizeof(slot->magic)) != 0 ||
        GUINT32_FROM_BE(slot->version) != DIR_LOCK_VERSION ||
        slot->owner[sizeof(slot->owner) - 1] != '\0' ||
        slot->host[sizeof(slot->host) - 1] != '\0' ||
        GUINT64_FROM_BE(slot->token) > TOKEN_MAX) {
        return false;
    }
    *owner = (struct store_owner){
        .pid = (int64_t)GUINT64_FROM_BE(slot->pid),
        .since_ns = (int64_t)GUINT64_FROM_BE(slot->since_ns),
        .token = GUINT64_FROM_BE(slot->token),
        .open = GUINT32_FROM_BE(slot->flags) & DIR_LOCK_OPEN,
    };
    g_strlcpy(owner->owner, slot->owner, sizeof(owner->owner));
    g_strlcpy(owner->host, slot->host, sizeof(owner->host));
    return true;
}

static bool supersedes(const struct store_owner *a, const struct store_owner *b)
{
    return a->token > b->token ||
           (a->token == b->token && !a->open && b->open);
}

static bool is_unused(const struct dir_lock_slot *slot)
{
    static const struct dir_lock_slot unused;

    return memcmp(slot, &unused, sizeof(unused)) == 0;
}

static int read_record(int fd, struct lock_record *record)
{
    struct dir_lock_slot slots[SLOT_COUNT] = {0};
    int got = dir_read_all(fd, (uint8_t *)slots, sizeof(slots));

    if (got < 0) {
        return got;
    }
    *record = (struct lock_record){0};
    for (int i = 0; i < SLOT_COUNT; i++) {
        struct store_owner owner;

        if (!decode(&slots[i], &owner)) {
            record->torn_count += !is_unused(&slots[i]);
        } else if (supersedes(&owner, &record->owner)) {
            record->owner = owner;
            record->next_slot = !i;
        }
    }
    return record->torn_count == SLOT_COUNT ? -EUCLEAN : 0;
}

static int write_slot_once(struct dir_lock *lock, struct dir_lock_slot *slot)
{
    off_t at = (off_t)sizeof(*slot) * lock->next_slot;
    struct iovec iov = {slot, sizeof(*slot)};

    while (iov.iov_len > 0) {
        ssize_t put = sys.pwritev2(lock->fd, &iov, 1, at, 0);

        if (put == 0 || (put < 0 && errno != EINTR)) {
            return put < 0 ? -errno : -ENOSPC;
        }
        put = MAX(put, 0);
        iov.iov_base = (char *)iov.iov_base + put;
        iov.iov_len -= (size_t)put;
        at += put;
    }
    return TEMP_FAILURE_RETRY(sys.fdatasync(lock->fd)) < 0 ? -errno : 0;
}

/* A second try writes the same to the same slot: the other one stays good. */
static int write_slot(struct dir_lock *lock)
{
    struct dir_loan loan = {sizeof(struct dir_lock_slot)};
    struct dir_lock_slot slot;
    int result;

    encode(&lock->owner, &slot);
    do {
        result = write_slot_once(lock, &slot);
    } while (dir_reserve_lend(lock->lock.store->state, &loan, result));
    if (result == 0) {
        lock->next_slot = !lock->next_slot;
    }
    return result;
}

/* --- Files ---------------------------------------------------------------- */

static void lock_path(const struct id128 *id, const char *leaf,
                      char path[DIR_PATH_BYTES])
{
    dir_id_path(STORE_PAGE, id, path);
    strcat(path, leaf);
}

/* The file, made if need be, durably. */
static int open_lock_file(struct dir_store *dir, const char *path)
{
    char folder[DIR_PATH_BYTES];
    int fd = dir_open(dir, path, O_RDWR);
    int result;

    for (int tries = 0; fd == -ENOENT && tries < 8; tries++) {
        fd = dir_open(dir, path, O_RDWR | O_CREAT);
        if (fd == -ENOENT) {
            result = dir_make_parents(dir, path);
            if (result < 0) {
                return result;
            }
            continue;
        }
        if (fd < 0) {
            return fd;
        }
        g_strlcpy(folder, path, sizeof(folder));
        *strrchr(folder, '/') = '\0';
        dir_folder_changed(dir, folder);
        result = dir_folders_sync(dir, path);
        if (result < 0) {
            sys.close(fd);
            return result;
        }
    }
    return fd;
}

/* One that isn't ours to write, or on a mount that isn't, beside which there
 * may be another: a lock needs only a descriptor. */
static int open_to_read(struct dir_store *dir, const char *path)
{
    return dir_open(dir, path, O_RDONLY);
}

/* 1, 0 or -errno. */
static int is_still_there(struct dir_store *dir, int fd, const char *path)
{
    int now_fd = dir_open(dir, path, O_PATH);
    struct stat mine, now;
    int result;

    if (now_fd < 0) {
        return now_fd == -ENOENT ? 0 : now_fd;
    }
    if (sys.fstat(fd, &mine) < 0 || sys.fstat(now_fd, &now) < 0) {
        result = -errno;
    } else {
        result = mine.st_ino == now.st_ino && mine.st_dev == now.st_dev;
    }
    sys.close(now_fd);
    return result;
}

/* dir_holder() takes the lock for a moment to see whether it is free: being
 * refused counts only if it happens again. */
static int flock_patiently(int fd, int operation)
{
    int result = -EWOULDBLOCK;

    for (int tries = 0; tries < 5; tries++) {
        if (sys.flock(fd, operation | LOCK_NB) == 0) {
            return 0;
        }
        result = -errno;
        if (result != -EWOULDBLOCK && result != -EINTR) {
            break;
        }
        g_usleep(1000);
    }
    return result;
}

/* A descriptor that holds the lock, or -errno; -EWOULDBLOCK with `busy_fd` set
 * to the file of whoever holds it. */
static int take_file(struct dir_store *dir, const char *path,
                     int (*open_file)(struct dir_store *dir, const char *path),
                     int operation, int *busy_fd)
{
    for (int tries = 0; tries < 8; tries++) {
        struct dir_loan loan = {0};
        int fd, result;

        do {
            fd = open_file(dir, path);
        } while (dir_reserve_lend(dir, &loan, fd));
        if (fd < 0) {
            return fd;
        }
        result = flock_patiently(fd, operation);
        if (result == 0) {
            result = is_still_there(dir, fd, path);
        }
        if (result > 0) {
            return fd;
        }
        if (result == -EWOULDBLOCK && busy_fd) {
            *busy_fd = fd;
            return result;
        }
        sys.close(fd);
        if (result < 0) {
            return result;
        }
    }
    return -EAGAIN;
}

/* --- Writers -------------------------------------------------------------- */

/* For those who can't make it.  It has no content, nor has it to be durable. */
static void make_readers_file(struct dir_store *dir, const struct id128 *id)
{
    char path[DIR_PATH_BYTES];
    int fd;

    lock_path(id, "/readers", path);
    fd = dir_open(dir, path, O_RDWR | O_CREAT);
    if (fd >= 0) {
        sys.close(fd);
    }
}

static int refuse(struct store *store, int fd, struct store_owner *holder,
                  GError **error)
{
    struct lock_record record = {0};
    g_autoptr(GDateTime) since = NULL;
    g_autofree char *since_text = NULL;
    struct store_owner *by = &record.owner;
    int result = read_record(fd, &record);

    sys.close(fd);
    if (holder) {
        *holder = *by;
    }
    if (result < 0 || by->token == 0) {
        return error_set(error, EBUSY,
                         "in use by somebody who is just opening it; try "
                         "again");
    }
    since = g_date_time_new_from_unix_local(by->since_ns / 1000000000);
    since_text = since ? g_date_time_format(since, "%Y-%m-%d %H:%M:%S")
                       : g_strdup("long ago");
    return error_set(error, EBUSY,
                     "in use by %s on host %s, pid %" PRId64 ", since %s; "
                     "close it there or end that process, its lock ends with "
                     "it", by->owner, by->host, by->pid, since_text);
}

/* With the file locked: say that we are the owner. */
static int begin_ownership(struct dir_lock *lock, struct store_owner *me)
{
    struct lock_record record;
    int result = read_record(lock->fd, &record);

    if (result < 0) {
        return result;
    }
    lock->next_slot = record.next_slot;
    lock->owner = *me;
    lock->owner.token = record.owner.token + 1 + (uint64_t)record.torn_count;
    lock->owner.since_ns = sys.realtime_ns();
    lock->owner.open = true;
    if (lock->owner.token > TOKEN_MAX) {
        return -EUCLEAN;
    }
    result = write_slot(lock);
    if (result == 0) {
        *me = lock->owner;
    }
    return result;
}

static int lock_write(struct store *store, struct dir_lock *lock,
                      struct store_owner *me, struct store_owner *holder,
                      GError **error)
{
    struct dir_store *dir = store->state;
    char path[DIR_PATH_BYTES];
    int busy_fd = -1, result;

    lock_path(&lock->id, "/lock", path);
    lock->fd = take_file(dir, path, open_lock_file, LOCK_EX, &busy_fd);
    if (lock->fd == -EWOULDBLOCK) {
        return refuse(store, busy_fd, holder, error);
    }
    result = lock->fd < 0 ? lock->fd : begin_ownership(lock, me);
    if (result == 0) {
        make_readers_file(dir, &lock->id);
        lock_path(&lock->id, "", path);
        dir_clean_temporaries(dir, path);
        return 0;
    }
    if (lock->fd >= 0) {
        sys.close(lock->fd);
    }
    if (result == -EUCLEAN) {
        return error_set(error, EUCLEAN,
                         "%s/%s is damaged: neither of its slots can be read",
                         dir_path_of(store), path);
    }
    return error_set_errno(error, -result, "cannot lock %s/%s",
                           dir_path_of(store), path);
}

/* --- Readers -------------------------------------------------------------- */

static int lock_read(struct store *store, struct dir_lock *lock, GError **error)
{
    char path[DIR_PATH_BYTES];

    lock_path(&lock->id, "/readers", path);
    lock->fd = take_file(store->state, path, open_lock_file, LOCK_SH, NULL);
    if (lock->fd == -EACCES || lock->fd == -EROFS) {
        lock->fd = take_file(store->state, path, open_to_read, LOCK_SH, NULL);
    }
    if (lock->fd >= 0) {
        return 0;
    }
    if (lock->fd == -EROFS || lock->fd == -EACCES || lock->fd == -ENOENT) {
        /* Nobody made the file, or nobody lets us have it. */
        lock->fd = -1;
        return 0;
    }
    if (lock->fd == -EWOULDBLOCK) {
        return error_set(error, EBUSY,
                         "readers are kept out for a moment while it is being "
                         "changed; try again");
    }
    return error_set_errno(error, -lock->fd, "cannot lock %s/%s",
                           dir_path_of(store), path);
}

int dir_exclude_readers(struct store_lock *base)
{
    struct dir_lock *lock = (struct dir_lock *)base;
    char path[DIR_PATH_BYTES];
    int fd;

    g_assert(lock->mode == STORE_LOCK_WRITE);
    if (lock->exclusion_fd >= 0) {
        return 0;
    }
    lock_path(&lock->id, "/readers", path);
    fd = take_file(base->store->state, path, open_lock_file, LOCK_EX, NULL);
    if (fd < 0) {
        return fd == -EWOULDBLOCK ? -EBUSY : fd;
    }
    lock->exclusion_fd = fd;
    return 0;
}

void dir_admit_readers(struct store_lock *base)
{
    struct dir_lock *lock = (struct dir_lock *)base;

    if (lock->exclusion_fd >= 0) {
        sys.close(lock->exclusion_fd);
        lock->exclusion_fd = -1;
    }
}

/* --- Repairs -------------------------------------------------------------- */

static int lock_repair(struct store *store, struct dir_lock *lock,
                       GError **error)
{
    int fd = dir_open(store->state, DIR_FORMAT_NAME, O_RDWR);
    int result = fd < 0 ? fd : flock_patiently(fd, LOCK_EX);

    if (result == 0) {
        lock->fd = fd;
        return 0;
    }
    if (fd >= 0) {
        sys.close(fd);
    }
    if (result == -EWOULDBLOCK) {
        return error_set(error, EBUSY,
                         "somebody is repairing it or importing metadata into "
                         "it; try again when that has ended");
    }
    return error_set_errno(error, -result, "cannot lock %s/" DIR_FORMAT_NAME,
                           dir_path_of(store));
}

/* --- Mending -------------------------------------------------------------- */

/* Both slots are torn: the token goes on from the clock in nanoseconds, which
 * no count of acquisitions has reached. */
static int mend_record(struct store *store, int fd)
{
    struct dir_lock lock = {.lock.store = store, .fd = fd};
    struct lock_record record;
    int result = read_record(fd, &record);

    if (result != -EUCLEAN) {
        return result;
    }
    lock.owner.token = (uint64_t)sys.realtime_ns();
    lock.owner.since_ns = sys.realtime_ns();
    g_strlcpy(lock.owner.owner, "check", sizeof(lock.owner.owner));
    return write_slot(&lock);
}

int dir_reset_lock(struct store *store, const struct id128 *id,
                   GError **error)
{
    char path[DIR_PATH_BYTES];
    int busy_fd = -1, fd, result;

    lock_path(id, "/lock", path);
    fd = take_file(store->state, path, open_lock_file, LOCK_EX, &busy_fd);
    if (fd == -EWOULDBLOCK) {
        sys.close(busy_fd);
        return error_set(error, EBUSY, "somebody holds it");
    }
    result = fd < 0 ? fd : mend_record(store, fd);
    if (fd >= 0) {
        sys.close(fd);
    }
    return result < 0 ? error_set_errno(error, -result, "cannot mend %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}

/* --- The driver's calls --------------------------------------------------- */

int dir_lock(struct store *store, const struct id128 *id,
             enum store_lock_mode mode, struct store_owner *me,
             struct store_lock **result_lock, struct store_owner *holder,
             GError **error)
{
    struct dir_lock *lock = g_new0(struct dir_lock, 1);
    int result;

    lock->lock.store = store;
    lock->mode = mode;
    lock->exclusion_fd = -1;
    if (id) {
        lock->id = *id;
    }
    result = mode == STORE_LOCK_WRITE  ? lock_write(store, lock, me, holder,
                                                    error)
             : mode == STORE_LOCK_READ ? lock_read(store, lock, error)
                                       : lock_repair(store, lock, error);
    if (result < 0) {
        g_free(lock);
        return result;
    }
    dir_cache_age(store->state);
    if (mode == STORE_LOCK_WRITE) {
        dir_reserve_look(store->state);
    }
    *result_lock = &lock->lock;
    return 0;
}

void dir_unlock(struct store_lock *base)
{
    struct dir_lock *lock = (struct dir_lock *)base;

    dir_admit_readers(base);
    if (lock->mode == STORE_LOCK_WRITE) {
        lock->owner.open = false;
        /* If that fails, the record says what it would after a crash. */
        write_slot(lock);
        dir_reserve_tend(base->store->state);
    }
    if (lock->fd >= 0) {
        sys.close(lock->fd);
    }
    dir_cache_age(base->store->state);
    g_free(lock);
}

int dir_holder(struct store *store, const struct id128 *id,
               struct store_owner *holder, bool *held, GError **error)
{
    struct lock_record record = {0};
    char path[DIR_PATH_BYTES];
    int fd, result;

    lock_path(id, "/lock", path);
    *holder = (struct store_owner){0};
    *held = false;
    fd = dir_open(store->state, path, O_RDONLY);
    if (fd == -ENOENT) {
        return 0;
    }
    result = fd < 0 ? fd : read_record(fd, &record);
    if (result == 0 &&
        TEMP_FAILURE_RETRY(sys.flock(fd, LOCK_SH | LOCK_NB)) < 0) {
        *held = errno == EWOULDBLOCK;
        result = *held ? read_record(fd, &record) : -errno;
    }
    if (fd >= 0) {
        sys.close(fd);
    }
    *holder = record.owner;
    return result < 0 ? error_set_errno(error, -result, "cannot read %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}
