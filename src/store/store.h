/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The contract between the mapper and composer above and the store drivers
 * below.  A driver knows objects by name and nothing of volumes.
 *
 * Two kinds of things are kept:
 *
 *  - *objects*, named (kind, id, number), of any size, read and written in
 *    ranges through a queue, asynchronously;
 *  - *records*, small values that are replaced as a whole, atomically and
 *    durably, by blocking calls.
 *
 * Everything about one id lies together and apart from every other id, so
 * that no directory of one volume is touched by another.
 *
 * Threads: a store's blocking calls may be made from any thread.  A queue and
 * its requests belong to one thread at a time.  `done` runs inside store_poll()
 * on that thread, exactly once a request, never inside store_submit().
 *
 * Errors: asynchronous results are 0 or -errno; blocking calls return 0 or
 * -errno and set a GError whose code is the positive errno (base/error.h).
 */
#ifndef ARCHIPELAGO_STORE_H
#define ARCHIPELAGO_STORE_H

#include "base/id.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/* --- Objects and their queue ---------------------------------------------- */

enum store_kind {
    STORE_BLOCK,    /* namespace blocks: (layer, index), the volume's data */
    STORE_PAGE,     /* namespace maps: (layer, number), immutable map pages */
    STORE_JOURNAL,  /* namespace maps: (map id, epoch) */
};

struct store_object {
    enum store_kind kind;
    struct id128 id;
    uint64_t number;
};

enum store_op {
    STORE_READ,     /* holes and what lies past the end read as zeroes;
                       -ENOENT when there is no such object */
    STORE_WRITE,    /* all bytes or an error; grows the object */
    STORE_ZERO,     /* zeroes that keep their space allocated (also where there
                       was none yet); -ENOTSUP when that would need writing
                       them and STORE_NO_FALLBACK is set */
    STORE_PUNCH,    /* zeroes whose space is given back; never grows the object.
                       -ENOTSUP where the file system can't: the caller writes
                       zeroes instead */
    STORE_SYNC,     /* all that completed before on this object through any
                       queue (data, size, creation, removal) is durable;
                       0 for an object that isn't there.  A failure that the
                       driver met on its own account (a descriptor synced
                       before it left the cache, write-back) is returned here
                       by the next STORE_SYNC of the object, at least once */
    STORE_REMOVE,   /* 0 also when there is none */
    STORE_EXTENT,   /* first run of one kind from offset_bytes, at most
                       length_bytes, into `extent` */
};

/* WRITE, ZERO: the object shall not exist yet; if an earlier life left one, it
 * is removed first, and the new one starts empty.  Without this flag a missing
 * object is -ENOENT.  The driver may use `create_bytes`, the object's full
 * size, to allocate at once. */
#define STORE_CREATE 0x1u
/* WRITE: these bytes are durable on completion, if the object's creation
 * already is; together with CREATE the creation too.  -ENOSPC and -EDQUOT
 * without `sync_failed` say that there was no room to write them; else it may be
 * the sync that failed, and with it that of what was written before. */
#define STORE_FUA 0x2u
#define STORE_NO_FALLBACK 0x4u

struct store_request {
    /* The caller's. */
    enum store_op op;
    unsigned flags;
    struct store_object object;
    uint64_t offset_bytes;
    uint64_t length_bytes;
    const struct iovec *iov;        /* READ, WRITE; must live until done */
    int iov_count;
    uint32_t create_bytes;
    void (*done)(struct store_request *request);
    void *opaque;
    /* The answer. */
    int result;
    bool sync_failed;               /* FUA: of the two steps the second */
    struct {
        uint64_t length_bytes;
        bool is_data;               /* else it reads as zeroes, unallocated */
    } extent;
    /* The driver's, while it has the request. */
    struct store_request *next;
    uint64_t driver[8];
};

struct store_queue;

/* The caller would wait anyhow: requests may be carried out by store_kick(),
 * and those submitted before one kick at the same time. */
#define STORE_QUEUE_MAY_BLOCK 0x1u

/* --- Records -------------------------------------------------------------- */

enum store_record_kind {
    STORE_HEADER,   /* by id: a map's header */
    STORE_NAME,     /* by text: a volume's name */
    STORE_INTENT,   /* by id: an operation under way, redone or undone later */
};

struct store_record {
    enum store_record_kind kind;
    struct id128 id;        /* HEADER, INTENT */
    const char *text;       /* NAME: a checked volume name */
};

#define STORE_RECORD_BYTES_MAX 65536u

/* --- Locks ---------------------------------------------------------------- */

/* Who holds, or held, a lock; what the lock's file says. */
struct store_owner {
    char owner[64];         /* program and purpose */
    char host[64];
    int64_t pid;
    int64_t since_ns;
    uint64_t token;         /* raised at each acquisition, never 0 once held */
    bool open;              /* false: let go in good order */
};

enum store_lock_mode {
    STORE_LOCK_WRITE,       /* one holder: the volume's lock file */
    STORE_LOCK_READ,        /* many holders, beside a writer: a second file */
    STORE_LOCK_REPAIR,      /* one holder in the store: who repairs it, or puts
                               metadata back, by what it saw in it before */
};

struct store_lock;          /* ends with store_unlock() or the process */

/* --- Things, for check, backup and repair --------------------------------- */

enum store_thing_type {
    STORE_THING_OBJECT,     /* `object` */
    STORE_THING_SET,        /* all of (object.kind, object.id); of PAGE and
                               JOURNAL, all that shares their place */
    STORE_THING_RECORD,     /* `record` */
    STORE_THING_STRAY,      /* `stray`, as list_strays() has it */
};

struct store_thing {
    enum store_thing_type type;
    struct store_object object;
    struct store_record record;
    const char *stray;
};

/* --- The driver's table --------------------------------------------------- */

struct store;

struct store_status {
    char io[32];
    uint64_t total_bytes, free_bytes;
    uint64_t file_count, free_file_count;   /* 0, 0: no limit is known */
    /* Kept for metadata when all else is full, and how much that should be. */
    uint64_t reserve_bytes, reserve_wanted_bytes;
    /* Of space in use, from which people want to be told; 0: never. */
    unsigned warning_percent, critical_percent;
};

#define STORE_OPEN_CREATE 0x1u

struct store_driver {
    const char *name;       /* the scheme: "dir" */

    /* `path` is what follows "NAME:", `options` what follows '?' as pairs
     * (never NULL); an option that isn't known is -EINVAL.  Sets
     * store->alignment_bytes, store->memory_alignment_bytes and
     * store->full_size. */
    int (*open)(struct store *store, const char *path, GHashTable *options,
                unsigned flags, GError **error);
    void (*close)(struct store *store);
    int (*status)(struct store *store, struct store_status *status,
                  GError **error);

    int (*queue_open)(struct store *store, unsigned flags,
                      struct store_queue **queue, GError **error);
    void (*queue_close)(struct store_queue *queue);     /* nothing in flight */
    int (*queue_fd)(struct store_queue *queue);
    void (*submit)(struct store_queue *queue, struct store_request *request);
    void (*kick)(struct store_queue *queue);
    int (*poll)(struct store_queue *queue);

    /* 0 and the value (the caller's), or -ENOENT; that a name isn't there is
     * durable on return, also when somebody died removing it. */
    int (*get)(struct store *store, const struct store_record *record,
               GBytes **value, GError **error);
    /* Atomic: old or new.  Durable on return.  `exclusive`: -EEXIST if there
     * is one, decided by the store, not by looking first. */
    int (*put)(struct store *store, const struct store_record *record,
               const void *value, size_t bytes, bool exclusive,
               GError **error);
    /* Durable on return; 0 also when there is none. */
    int (*drop)(struct store *store, const struct store_record *record,
                GError **error);
    /* Each record of a kind, names sorted, until `each` returns non-zero,
     * which is returned.  Records that come or go meanwhile may be missed. */
    int (*list)(struct store *store, enum store_record_kind kind,
                int (*each)(const struct store_record *record, void *opaque),
                void *opaque, GError **error);

    /* Each object of (kind, id), in any order, with the bytes it takes. */
    int (*list_objects)(struct store *store, enum store_kind kind,
                        const struct id128 *id,
                        int (*each)(uint64_t number, uint64_t allocated_bytes,
                                    void *opaque),
                        void *opaque, GError **error);
    /* Bytes the object takes; -ENOENT. */
    int (*allocated)(struct store *store, const struct store_object *object,
                     uint64_t *bytes, GError **error);
    /* All objects of (kind, id), whoever wrote them and is perhaps dead, are
     * durable on return. */
    int (*sync_all)(struct store *store, enum store_kind kind,
                    const struct id128 *id, GError **error);
    /* Remove all objects of (kind, id); for PAGE and JOURNAL, which share a
     * place with the id's header and lock, all of that too. */
    int (*remove_all)(struct store *store, enum store_kind kind,
                      const struct id128 *id, GError **error);

    /* Never waits.  -EBUSY: held; then `holder` says by whom.  `me->token` and
     * `me->since_ns` are set on success, durable.  READ and REPAIR fill nothing;
     * REPAIR takes NULL for `id`, `me` and `holder`. */
    int (*lock)(struct store *store, const struct id128 *id,
                enum store_lock_mode mode, struct store_owner *me,
                struct store_lock **lock, struct store_owner *holder,
                GError **error);
    /* Records the good order and lets go; frees the lock. */
    void (*unlock)(struct store_lock *lock);
    /* Who holds the WRITE lock, or held it last (`held` false). */
    int (*holder)(struct store *store, const struct id128 *id,
                  struct store_owner *holder, bool *held, GError **error);
    /* With the WRITE lock: keep readers out while things that they may use are
     * removed.  -EBUSY: there are readers; don't remove now.
     * store_exclude_readers() says what it was. */
    int (*exclude_readers)(struct store_lock *lock);
    void (*admit_readers)(struct store_lock *lock);

    /* --- For check and repair: these see also what nothing else names --- */

    /* What other processes may have replaced is looked at anew.  `only`: until
     * the next such call, listing changes nothing, not even what the driver
     * itself left behind. */
    void (*look)(struct store *store, bool only);
    /* Each id that has a place for objects of `kind`, be it empty.  PAGE and
     * JOURNAL share theirs with headers and locks: they list the same. */
    int (*list_ids)(struct store *store, enum store_kind kind,
                    int (*each)(const struct id128 *id, void *opaque),
                    void *opaque, GError **error);
    /* Each object of (kind, id), in any order, with how far it reaches. */
    int (*list_sizes)(struct store *store, enum store_kind kind,
                      const struct id128 *id,
                      int (*each)(uint64_t number, uint64_t size_bytes,
                                  void *opaque),
                      void *opaque, GError **error);
    /* Each thing that no other call can name.  `litter`: the driver knows it
     * for its own, left by a crash. */
    int (*list_strays)(struct store *store,
                       int (*each)(const char *stray, bool litter,
                                   void *opaque),
                       void *opaque, GError **error);
    /* Cut off what lies behind that size; durable on return.  -ENOENT. */
    int (*trim)(struct store *store, const struct store_object *object,
                uint64_t size_bytes, GError **error);
    /* Move a thing to where no call finds it any more, but a person or
     * take_back() does.  Atomic, durable on return; 0 also when it isn't
     * there.  What was set aside before under that name stays, too. */
    int (*set_aside)(struct store *store, const struct store_thing *thing,
                     GError **error);
    /* Move an object or a set back.  -ENOENT: it isn't there, -EEXIST: its
     * place is taken. */
    int (*take_back)(struct store *store, const struct store_thing *thing,
                     GError **error);
    /* A WRITE lock whose record can't be read gets a new one, with a token
     * above any that was ever given.  -EBUSY: it is held. */
    int (*reset_lock)(struct store *store, const struct id128 *id,
                      GError **error);
};

struct store {
    const struct store_driver *driver;
    char *location;                     /* as given, without surprises */
    uint32_t alignment_bytes;           /* of offsets and lengths; 1: any */
    uint32_t memory_alignment_bytes;    /* of buffers; 1: any */
    bool full_size;                     /* an object has its `create_bytes`
                                           from the beginning */
    void *state;                        /* the driver's */
};

struct store_queue {
    struct store *store;                /* drivers embed this first */
};

struct store_lock {
    struct store *store;                /* drivers embed this first */
};

/* --- store.c: opening, and what is the same for every driver -------------- */

/*
 * Open by "SCHEME:PATH[?KEY=VALUE[&KEY=VALUE]...]".  The caller closes it.
 * "fault:RULES:LOCATION" wraps another one (fault.c).
 */
int store_open(const char *location, unsigned flags, struct store **store,
               GError **error);
void store_close(struct store *store);

extern const struct store_driver store_dir, store_memory, store_fault;

int store_queue_open(struct store *store, unsigned flags,
                     struct store_queue **queue, GError **error);
void store_queue_close(struct store_queue *queue);
/* Readable while store_poll() has something to deliver. */
int store_queue_fd(struct store_queue *queue);
/* Take a request; it starts at the latest with the next store_kick(). */
void store_submit(struct store_queue *queue, struct store_request *request);
void store_kick(struct store_queue *queue);
/* Deliver what completed; returns how many.  Doesn't wait. */
int store_poll(struct store_queue *queue);
/* Submit one request and wait for it; `done` is not used.  Only on a queue that
 * has nothing else in flight. */
int store_run(struct store_queue *queue, struct store_request *request);
/* The same for several at once; the first failure, after all of them ended. */
int store_run_all(struct store_queue *queue, struct store_request *requests,
                  unsigned count);
/* exclude_readers(), with a text for people when it fails. */
int store_exclude_readers(struct store_lock *lock, GError **error);

/* "block 12 of layer 3f..", for messages; the caller frees. */
char *store_object_text(const struct store_object *object);

#endif
