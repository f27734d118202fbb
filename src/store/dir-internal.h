/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the dir store share, in sections named after them.
 *
 * Locks, none taken while another is held: dir_store.lock (files, folders and
 * what of them is unsynced), dir_pool.lock (waiting requests), dir_queue.lock
 * (requests that the pool finished).  No system call that may block is made
 * under any of them.
 */
#ifndef ARCHIPELAGO_STORE_DIR_INTERNAL_H
#define ARCHIPELAGO_STORE_DIR_INTERNAL_H

#include "store/store.h"

#include <assert.h>
#include <libaio.h>
#include <stdatomic.h>
#include <sys/vfs.h>

/* --- dir-sync.c: what isn't durable yet ----------------------------------- */

/*
 * Changes to one file or folder, and how far they are durable.  Syncs of the
 * same thing go one after the other; one that finds itself covered by the one
 * before makes no call.  Guarded by dir_store.lock.
 */
struct sync_point {
    uint64_t changed;           /* raised as a change completes */
    uint64_t synced;            /* changes up to this one are durable */
    unsigned failures;
    int last_error;             /* positive */
    bool running;
};

/* A folder whose entries aren't all durable. */
struct dir_folder {
    char *path;                 /* below the store */
    struct sync_point sync;
    int users;
    int makers;                 /* who are making folders in it: what they made
                                   is there before it is noted as a change */
};

struct dir_store;
struct dir_file;

/* Entries of the folder of that path came or went. */
void dir_folder_changed(struct dir_store *dir, const char *path);
/* Folders on the way to `path` are about to be made: syncs that begin from now
 * on don't take those above it for clean. */
void dir_folders_making(struct dir_store *dir, const char *path);
/* They were made, or were there: each folder from the top to `path` changed. */
void dir_folders_made(struct dir_store *dir, const char *path);
/* The file at `path` was made.  If it is the first that this process makes in
 * its folder, that and those above it may be there without being durable:
 * others made them, and perhaps never put anything into them (D7). */
void dir_file_made(struct dir_store *dir, const char *path);
/* Make durable what is known to have changed in all folders above `path`. */
int dir_folders_sync(struct dir_store *dir, const char *path);
/* Is there nothing to do for that? */
bool dir_folders_clean(struct dir_store *dir);

/* Something was written to the file, and completed. */
void dir_file_changed(struct dir_store *dir, struct dir_file *file);
/* fdatasync() if anything changed since the last one; joins one under way. */
int dir_file_sync(struct dir_store *dir, struct dir_file *file);
/* The same under dir_store.lock, which it drops during the call. */
int dir_file_sync_locked(struct dir_store *dir, struct dir_file *file);
/* Syncs of it that failed, since it was opened. */
unsigned dir_file_failures(struct dir_store *dir, struct dir_file *file);
bool dir_file_is_clean(struct dir_store *dir, struct dir_file *file);

/* --- dir-cache.c: open files ---------------------------------------------- */

/* An open object.  What stands before `detached` doesn't change; the rest is
 * under dir_store.lock.  Only a file without users is on the list of the idle. */
struct dir_file {
    struct store_object name;
    int fd;
    dev_t device;
    ino_t inode;
    bool read_only;
    bool detached;              /* removed from the table; closed by the last
                                   user */
    int users;
    uint64_t age;               /* the cache's when it surely was current, or 0
                                   */
    struct sync_point sync;
    struct dir_file *next;      /* in its bucket */
    struct dir_file *older, *newer;     /* idle ones, by last use */
};

struct dir_bucket {
    struct dir_file *first;
    uint64_t removals;          /* files that left by create or remove: one
                                   opened before may be of an earlier life */
};

struct dir_cache {
    struct dir_bucket *buckets;
    unsigned mask;
    unsigned count, limit;
    uint64_t age;               /* raised with each lock taken or let go; from 1
                                   */
    struct dir_file idle;       /* head of a ring: .newer is the oldest */
    GHashTable *failed;         /* struct store_object -> errno of a sync that
                                   nobody asked for */
};

void dir_cache_init(struct dir_store *dir, unsigned limit);
/* Syncs and closes all; nothing is in use. */
void dir_cache_clear(struct dir_store *dir);

/* A lock was taken, or let go: other processes may have replaced objects before,
 * or may do so from now on. */
void dir_cache_age(struct dir_store *dir);

/* The object's file, opened if need be.  -EAGAIN when that might block and
 * `may_block` is false. */
int dir_file_get(struct dir_store *dir, const struct store_object *name,
                 bool may_block, struct dir_file **file);
/* Only if it is open already; else NULL. */
struct dir_file *dir_file_find(struct dir_store *dir,
                               const struct store_object *name);
/* Make the object anew, in place of what an earlier life left. */
int dir_file_create(struct dir_store *dir, const struct store_object *name,
                    uint64_t size_bytes, struct dir_file **file);
/* Give back; `changed`: something was written that isn't durable yet. */
void dir_file_put(struct dir_store *dir, struct dir_file *file, bool changed);
/* The object may be gone from the disk. */
void dir_file_doubt(struct dir_store *dir, const struct store_object *name);
/* The object is gone from the disk. */
void dir_file_removed(struct dir_store *dir, const struct store_object *name);
/* All objects of that kind and id are gone from the disk. */
void dir_files_removed(struct dir_store *dir, enum store_kind kind,
                       const struct id128 *id);
/* A failure that still has to be told, as -errno, or 0; forgets it. */
int dir_file_failure(struct dir_store *dir, const struct store_object *name);
/* The same for all objects of that kind and id, once; dir_file_failure() still
 * tells of each. */
int dir_files_failure(struct dir_store *dir, enum store_kind kind,
                      const struct id128 *id);

/* --- dir-path.c: names on disk -------------------------------------------- */

#define DIR_PATH_BYTES 160

/* Where things lie, below the store. */
void dir_object_path(const struct store_object *name,
                     char path[DIR_PATH_BYTES]);
/* The folder in which (kind, id) is alone. */
void dir_id_path(enum store_kind kind, const struct id128 *id,
                 char path[DIR_PATH_BYTES]);
/* The number in a file's name; false when it isn't one. */
bool dir_parse_number(const char *text, uint64_t *number);

/* Open what is at `path` below the store, without ever following a symbolic
 * link.  Returns a descriptor or -errno. */
int dir_open(struct dir_store *dir, const char *path, int flags);
/* -EAGAIN rather than waiting for a disk. */
int dir_open_cached(struct dir_store *dir, const char *path, int flags);
/* The folder that `path` lies in; `leaf` is set to the rest. */
int dir_open_parent(struct dir_store *dir, const char *path,
                    const char **leaf);
int dir_unlink(struct dir_store *dir, const char *path);
/* Make the folders above `path`; what is made isn't durable yet. */
int dir_make_parents(struct dir_store *dir, const char *path);

/* --- dir-reserve.c: room for metadata in a full file system ---------------- */

struct dir_reserve {
    uint64_t wanted_bytes;          /* fixed once open */
    _Atomic uint64_t full_bytes;    /* as its blocks are counted here */
    atomic_bool impossible;         /* none can be had here */
    atomic_bool is_short;           /* perhaps; seen or done by this process */
    atomic_uint loan_count;         /* under way */
};

/* One try after another at what needs room; begins with `bytes`, what it may
 * need, and nothing else:
 *
 *     do {
 *         result = ...;
 *     } while (dir_reserve_lend(dir, &loan, result));
 */
struct dir_loan {
    uint64_t bytes;
    unsigned tries;
};

/* True: there was no room, and now there is some more, try again.  False ends
 * the loan.  May block. */
bool dir_reserve_lend(struct dir_store *dir, struct dir_loan *loan,
                      int result);
/* Data is about to take room: 0, or -ENOSPC if that may only be had because the
 * reserve is short.  May block. */
int dir_reserve_guard(struct dir_store *dir);
/* Fill it up if this process knows it to be short; dir_reserve_look() finds out
 * before.  May block. */
void dir_reserve_tend(struct dir_store *dir);
void dir_reserve_look(struct dir_store *dir);
/* What it has, and should have; that is 0 where there can be none. */
uint64_t dir_reserve_held(struct dir_store *dir);
uint64_t dir_reserve_wanted(struct dir_store *dir);
/* At open, with root_fd set. */
void dir_reserve_init(struct dir_store *dir);
/* Is that a lack of room? */
bool dir_is_full(int result);
/* Of a file system. */
uint64_t dir_total_bytes(const struct statfs *space);
uint64_t dir_free_bytes(const struct statfs *space);

/* --- dir-objects.c: carrying out a request in this thread ----------------- */

/* Everything, waiting as long as it takes; returns the result. */
int dir_execute(struct dir_store *dir, struct store_request *request);
/* A read or write of which `done_bytes` are done, on an open file. */
int dir_transfer(struct dir_store *dir, struct dir_file *file,
                 struct store_request *request, uint64_t done_bytes);
/* Fill the request's buffers from that byte on with zeroes. */
void dir_fill_zeroes(struct store_request *request, uint64_t from_bytes);
/* The same, and metadata gets room for it. */
int dir_transfer_rest(struct dir_store *dir, struct dir_file *file,
                      struct store_request *request, uint64_t done_bytes);
/* Is the object one of data, or may it use the reserve? */
bool dir_is_metadata(const struct store_object *name);
/* Can the request go to the disk as it is? */
bool dir_is_aligned(const struct dir_store *dir,
                    const struct store_request *request);

/* --- dir-threads.c: requests that may block ------------------------------- */

struct dir_pool {
    GMutex lock;                /* guards all below */
    GCond work;
    struct store_request *first, **last;
    unsigned waiting_count, idle_count, thread_count, thread_limit;
    GThread **threads;
    bool stop;
};

void dir_pool_init(struct dir_pool *pool, unsigned thread_limit);
void dir_pool_clear(struct dir_pool *pool);
/* The request's dir_pooled must be set; it ends in dir_queue_finished(). */
void dir_pool_push(struct dir_store *dir, struct store_request *request);

/* --- dir-queue.c: queues, libaio ------------------------------------------ */

struct dir_queue;

/* What request->driver holds while the pool has the request.  (While libaio
 * has it, it holds the iocb, whose `data` is the file.) */
struct dir_pooled {
    struct dir_queue *queue;
    struct dir_file *file;      /* of one begun elsewhere, or NULL */
    uint64_t done_bytes;
};

static inline struct dir_pooled *dir_pooled(struct store_request *request)
{
    static_assert(sizeof(struct dir_pooled) <= sizeof(request->driver),
                  "fits");
    return (struct dir_pooled *)request->driver;
}

/* From a thread of the pool: the request has its result. */
void dir_queue_finished(struct dir_queue *queue, struct store_request *request);

int dir_queue_open(struct store *store, unsigned flags,
                   struct store_queue **queue, GError **error);
void dir_queue_close(struct store_queue *queue);
int dir_queue_fd(struct store_queue *queue);
void dir_queue_submit(struct store_queue *queue,
                      struct store_request *request);
void dir_queue_kick(struct store_queue *queue);
int dir_queue_poll(struct store_queue *queue);

/* --- dir-records.c -------------------------------------------------------- */

int dir_get(struct store *store, const struct store_record *record,
            GBytes **value, GError **error);
int dir_put(struct store *store, const struct store_record *record,
            const void *value, size_t bytes, bool exclusive, GError **error);
int dir_drop(struct store *store, const struct store_record *record,
             GError **error);
int dir_list(struct store *store, enum store_record_kind kind,
             int (*each)(const struct store_record *record, void *opaque),
             void *opaque, GError **error);
/* Replace the file at `path` as a whole, durably; 0 or -errno. */
int dir_put_file(struct dir_store *dir, const char *path, const void *value,
                 size_t bytes, bool exclusive);
/* Read from the file's beginning up to its end, however many calls that takes;
 * returns how much or -errno. */
int dir_read_all(int fd, uint8_t *buffer, size_t bytes);
/* Read one of at most `bytes_max`; 0 or -errno, -EFBIG when it has more. */
int dir_get_file(struct dir_store *dir, const char *path, size_t bytes_max,
                 GBytes **value);
/* Remove what puts left that died in the folder. */
void dir_clean_temporaries(struct dir_store *dir, const char *path);
/* Where a record lies, below the store; -EINVAL when it has no name. */
int dir_record_path(const struct store_record *record,
                    char path[DIR_PATH_BYTES], GError **error);
/* Is it a name of a volume? */
bool dir_name_is_safe(const char *name);

/* --- dir-sets.c: all objects of an id ------------------------------------- */

/* Call `each` for every name in the folder `name` of `at_fd`, until it returns
 * non-zero, which is returned.  0 when there is no such folder. */
int dir_walk(int at_fd, const char *name,
             int (*each)(int folder_fd, const char *entry, void *opaque),
             void *opaque);

int dir_list_objects(struct store *store, enum store_kind kind,
                     const struct id128 *id,
                     int (*each)(uint64_t number, uint64_t allocated_bytes,
                                 void *opaque),
                     void *opaque, GError **error);
int dir_allocated(struct store *store, const struct store_object *object,
                  uint64_t *bytes, GError **error);
int dir_sync_all(struct store *store, enum store_kind kind,
                 const struct id128 *id, GError **error);
int dir_remove_all(struct store *store, enum store_kind kind,
                   const struct id128 *id, GError **error);

/* --- dir-strays.c: what is there, and putting it elsewhere ----------------- */

void dir_look(struct store *store, bool only);
int dir_list_ids(struct store *store, enum store_kind kind,
                 int (*each)(const struct id128 *id, void *opaque),
                 void *opaque, GError **error);
int dir_list_sizes(struct store *store, enum store_kind kind,
                   const struct id128 *id,
                   int (*each)(uint64_t number, uint64_t size_bytes,
                               void *opaque),
                   void *opaque, GError **error);
int dir_list_strays(struct store *store,
                    int (*each)(const char *stray, bool litter, void *opaque),
                    void *opaque, GError **error);
int dir_trim(struct store *store, const struct store_object *object,
             uint64_t size_bytes, GError **error);
int dir_set_aside(struct store *store, const struct store_thing *thing,
                  GError **error);
int dir_take_back(struct store *store, const struct store_thing *thing,
                  GError **error);

/* --- dir-lock.c ----------------------------------------------------------- */

int dir_lock(struct store *store, const struct id128 *id,
             enum store_lock_mode mode, struct store_owner *me,
             struct store_lock **lock, struct store_owner *holder,
             GError **error);
void dir_unlock(struct store_lock *lock);
int dir_holder(struct store *store, const struct id128 *id,
               struct store_owner *holder, bool *held, GError **error);
int dir_exclude_readers(struct store_lock *lock);
void dir_admit_readers(struct store_lock *lock);
int dir_reset_lock(struct store *store, const struct id128 *id,
                   GError **error);

/* --- dir.c: the store ----------------------------------------------------- */

struct dir_store {
    /* Fixed once open. */
    struct store *store;
    char *path;                 /* as given, for messages */
    int root_fd;
    bool direct;                /* O_DIRECT and libaio */
    gint look_only;             /* atomic: listing cleans nothing up */
    gint root_synced;           /* atomic: since we are here */
    struct dir_pool pool;
    struct dir_reserve reserve;
    unsigned warning_percent, critical_percent;     /* of space in use */

    GMutex lock;                /* guards all below */
    GCond synced;               /* some sync_point stopped running */
    unsigned sync_waiters;      /* for that */
    struct dir_cache cache;
    GHashTable *folders;        /* path -> struct dir_folder, if unsynced */
    GHashTable *known_folders;  /* paths; those above them aren't doubted */
};

/* The store's folder, for messages. */
static inline const char *dir_path_of(const struct store *store)
{
    return ((const struct dir_store *)store->state)->path;
}

#endif
