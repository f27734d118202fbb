/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The composer's own header, in sections named after the files.
 *
 * A request on a queue is split into *pieces*, none of which crosses an object.
 * A piece looks up the map, takes its place among the other pieces of that
 * object, does its I/O in steps, changes the map, and is done; when the last
 * piece is done, so is the request.
 *
 * Locks, in the order in which they are taken:
 *   volume->life     opening, closing, resizing: one at a time
 *   map->lock        the map, and of the volume: objects, drops, flush,
 *                    background
 *   queue->inbox_lock   tasks that other threads gave to a queue
 *   store->queues_lock  which queues there are; nothing is taken under it
 * No I/O is done under map->lock.
 *
 * A queue, and each request and piece on it, is used only by the thread that
 * owns the queue; other threads hand it tasks (queue_post()).
 */
#ifndef ARCHIPELAGO_VOLUME_VOLUME_H
#define ARCHIPELAGO_VOLUME_VOLUME_H

#include "archipelago.h"
#include "mapper/map.h"
#include "store/store.h"

#include <glib.h>

/* --- error.c ------------------------------------------------------------------ */

/* Keep the text for archip_error(), free the error; returns -code. */
int api_fail(GError *error);
int api_fail_text(int errno_value, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

/* --- store.c ------------------------------------------------------------------- */

struct archip_store {
    struct store *store;
    GMutex queues_lock;         /* guards: */
    GPtrArray *queues;          /* archip_queue: the callers', of all its
                                   volumes */
};

/* --- queue.c -------------------------------------------------------------------- */

/* Something to be run by the thread that owns a queue. */
struct task {
    struct task *next;
    void (*run)(struct task *task);
};

struct archip_queue {
    archip_volume *volume;
    unsigned flags;
    struct store_queue *store_queue;
    int epoll_fd;               /* what the caller polls: the next, and the
                                   store queue's if `watches_store` */
    int event_fd;
    bool watches_store;
    unsigned thread;            /* atomic: number of that which used it last */
    bool quiet;                 /* the caller reaps at once: no need to wake */
    bool signalled;             /* by ourselves, through event_fd */
    unsigned requests;          /* the caller's, not completed */
    unsigned in_flight;         /* these and the volume's own, flushes, pages */
    GQueue completed;           /* struct request */
    GPtrArray *texts;           /* of the last reap's completions */
    GMutex inbox_lock;          /* guards: */
    struct task *inbox_head, **inbox_tail;
};

/* One more in flight, one less.  Only its thread does that, others look. */
static inline void queue_hold(archip_queue *queue)
{
    __atomic_store_n(&queue->in_flight, queue->in_flight + 1,
                     __ATOMIC_RELEASE);
}

static inline void queue_let(archip_queue *queue)
{
    __atomic_store_n(&queue->in_flight, queue->in_flight - 1,
                     __ATOMIC_RELEASE);
}

/* Any thread: run `task` on the queue's. */
void queue_post(archip_queue *queue, struct task *task);
/* Open without entering it in store->queues: for the volume's own work. */
int queue_new(archip_volume *volume, unsigned flags, archip_queue **queue,
              GError **error);
void queue_free(archip_queue *queue);
/*
 * Do what there is to do, waiting for an event before if `timeout_ms` isn't 0.
 * What one queue waits for may be under way on another (a flush, a page, a
 * neighbour's write; with copies also of another volume): a thread that waits
 * keeps all queues of the store going that it used last.
 */
void queue_turn(archip_queue *queue, int timeout_ms);
/* Lock volume->life, keeping those queues going: who has it may wait for a
 * flush that runs on one of them. */
void life_lock(archip_volume *volume);

/* --- request.c --------------------------------------------------------------------- */

#define REQUEST_PIECES_MAX 64u  /* of one request at a time */
#define OP_FREE 100             /* internal: remove a dropped object */

struct request {
    archip_queue *queue;
    archip_volume *volume;      /* the queue's, or a copy's source */
    archip_request user;        /* its iov is this struct's own */
    void (*complete)(struct request *request);
    void *opaque;               /* of `complete` */
    int64_t result;
    char *error;                /* text beside a negative result */
    uint64_t next_bytes;        /* up to here pieces were made */
    uint64_t end_bytes;
    unsigned pieces;            /* not done */
    unsigned questions;         /* extents: put to the store */
    bool advancing;
    bool beyond_end;            /* internal: the volume's end is no bound */
    bool needs_flush;           /* FUA that the store couldn't do alone */
    bool lacks_memory;          /* for its iovecs: it fails when started */
    struct iovec iov_inline[4];
};

/* Check what only a wrong program gets wrong. */
int request_check(const archip_request *user, GError **error);
struct request *request_new(archip_queue *queue, archip_volume *volume,
                            const archip_request *user,
                            void (*complete)(struct request *request),
                            void *opaque);
void request_free(struct request *request);
/* Start; completes through `complete`, perhaps before it returns. */
void request_start(struct request *request);
/* The first failure counts.  Takes `text`. */
void request_fail(struct request *request, int rc, char *text);
void request_finish(struct request *request);
/* Run one on a queue of the volume's own and wait. */
int request_run(archip_queue *queue, const archip_request *user,
                bool beyond_end, GError **error);

/* --- piece.c: the parts of a request and their order ---------------------------------- */

/* Blocks of an object whose sync failed (D6).  Those `mended` have been written
 * again or discarded since; they count until the next round has captured that,
 * for one under way doesn't make it durable. */
struct lost_blocks {
    struct map_bits bits, mended;
};

struct object {
    uint64_t index;
    GQueue active;              /* struct piece: in flight */
    GQueue waiting;             /* struct piece: until others are done */
    GList unsynced_link;        /* in volume->unsynced, if is_unsynced */
    bool is_unsynced;
    bool is_syncing;            /* `syncing` is at the store */
    struct map_bits fresh;      /* blocks written since the last capture */
    struct map_bits syncing;
    struct lost_blocks *lost;   /* NULL: none */
};

/* One request to the store, with what to do around it. */
struct io {
    struct store_request request;
    struct piece *piece;
    struct io *next;
    uint8_t *bounce;            /* aligned memory of the whole range, or NULL */
    uint32_t copy_start, copy_end;  /* read: what goes from `bounce` to the
                                       caller's buffer, in the object */
    struct iovec *iov;
    struct iovec iov_inline[2];
};

struct piece {
    struct task task;           /* to be begun anew on its queue */
    struct request *request;
    archip_volume *volume;
    int op;                     /* archip_op or OP_FREE */
    uint64_t index;
    uint32_t start, end;        /* in the object, bytes */
    uint64_t buffer_offset;     /* of `start` in the request's iovecs */
    bool zeroes;                /* write: there is no buffer */
    bool shared;                /* extents: it's a frozen layer's */
    /* Its place. */
    struct object *object;
    GList link;                 /* in object->active or ->waiting */
    uint32_t lock_start, lock_end;
    bool exclusive;
    bool active;
    bool doubtful;              /* a sync of the object failed meanwhile */
    bool awaited;               /* by a round of flush */
    /* Its plan. */
    struct map_cursor cursor;
    struct map_entry entry, new_entry;
    struct map_bits bits, new_bits;
    bool creates;               /* the object of the current layer is new */
    bool reuses;                /* ... and takes the place of a dropped one */
    bool changes_map;
    uint32_t write_start, write_end;    /* widened to what can be written */
    uint8_t *buffer;            /* the widened range, or NULL */
    GArray *copies;             /* struct block_copy */
    /* Its I/O. */
    struct io *ios;             /* to be submitted, then in flight */
    unsigned outstanding;
    int result;                 /* first failure of a step */
    char *error;
    void (*step)(struct piece *piece);
};

/* What a prepare function found. */
enum piece_state {
    PIECE_GO,                   /* submit its ios, then piece->step */
    PIECE_WAIT,                 /* begun anew later, by somebody else */
    PIECE_DONE,                 /* nothing to do, or failed: finish */
};

void piece_start(struct piece *piece);
void piece_begin(struct task *task);
/* Sets result and text; PIECE_DONE. */
enum piece_state piece_fail(struct piece *piece, int rc, GError *error);
/* A function of the map returned rc < 0: wait for the page, or fail. */
enum piece_state piece_stuck(struct piece *piece, int rc,
                             struct map_page *wanted, GError *error);
/* Take a place among the object's pieces; false: waits. */
bool piece_admit(struct piece *piece, uint32_t start, uint32_t end,
                 bool exclusive);
/* Leave it, and wake who waits.  Lock held. */
void piece_release(struct piece *piece);
struct io *piece_add_io(struct piece *piece, enum store_op op,
                        const struct id128 *layer, uint32_t start,
                        uint32_t end);
/* Submit the ios; when all are done, `step` runs. */
void piece_submit(struct piece *piece, void (*step)(struct piece *piece));
void piece_free_ios(struct piece *piece);
/* Done: free it and tell the request. */
void piece_finish(struct piece *piece);

/* Aligned for any store; free().  NULL: there is no memory, of which
 * buffer_fail() tells. */
void *buffer_alloc(size_t bytes);
int buffer_fail(size_t bytes, GError **error);
bool io_is_aligned(const struct store *store, uint32_t start, uint32_t end);
/* Point the io at the caller's buffer; false if its memory isn't aligned. */
bool io_map_user(struct io *io, const struct piece *piece);
int io_set_bounce(struct io *io, GError **error);
/* Copy between the request's iovecs, from `offset`, and `memory`. */
void user_copy_out(const struct request *request, uint64_t offset,
                   const void *memory, size_t bytes);
void user_copy_in(const struct request *request, uint64_t offset,
                  void *memory, size_t bytes);
void user_zero(const struct request *request, uint64_t offset, size_t bytes);

/* An object's record; made when there is none. */
struct object *object_get(archip_volume *volume, uint64_t index);
/* Forget it if nothing is known of it any more. */
void object_put(archip_volume *volume, struct object *object);
/* A sync of it failed: what was written since the one before, also while it ran,
 * may be lost without the next sync's saying so; also of writes that are still
 * under way. */
void object_lose(archip_volume *volume, struct object *object);
/* Such a write is done. */
void object_lose_range(archip_volume *volume, struct object *object,
                       uint32_t start, uint32_t end);
/* It was discarded: nobody will miss what can't be synced of it. */
void object_forget_data(archip_volume *volume, struct object *object);
/* A round captures what mends lost blocks: they are lost no more, unless its
 * syncs fail. */
void objects_mend(archip_volume *volume);
/* What lies in [start, end) may be other than before, and has to be synced. */
void object_changed(archip_volume *volume, struct object *object,
                    uint32_t start, uint32_t end);
/* It was written: blocks in it that were lost are so no more. */
void object_written(archip_volume *volume, struct object *object,
                    uint32_t start, uint32_t end);

/* --- read.c, write.c, extents.c, copy.c ------------------------------------------------- */

enum piece_state read_prepare(struct piece *piece);
enum piece_state write_prepare(struct piece *piece);    /* zeroes, discard too */
enum piece_state free_prepare(struct piece *piece);
enum piece_state extents_prepare(struct piece *piece);
void copy_start(struct request *request);

/* --- flush.c ------------------------------------------------------------------------------ */

struct flush {
    bool running;
    GSList *waiting;            /* struct request: of the next round */
    GSList *current;            /* of the round that runs */
    struct task start;          /* posted to the queue of the next round */
    archip_queue *queue;
    struct map_commit commit;
    GPtrArray *objects;         /* struct object, being synced */
    struct store_request *syncs;
    unsigned outstanding;
    bool has_awaited;           /* pieces, in this round */
    int result;
    char *error;
    struct store_request journal;
    struct iovec journal_iov;
};

void flush_request(struct request *request);
/* Lock held.  A piece that a round waits for has left its object. */
void flush_piece_done(archip_volume *volume);

/* --- background.c ---------------------------------------------------------------------------- */

/* An object that was discarded as a whole: it is removed once that is durable;
 * until then its name may be used again only by punching it. */
enum drop_state { DROP_NEW = 1, DROP_CAPTURED, DROP_READY };

struct background {
    GThread *thread;            /* to be joined, or NULL */
    bool running;
    struct map_checkpoint *checkpoint;      /* to be run, or NULL */
    bool checkpointing;         /* one is being run */
    bool flush_due;             /* much has collected */
    bool failed;                /* the last checkpoint: don't wait for one */
    GSList *throttled;          /* struct piece */
    bool stuck;                 /* removing must wait for the next flush */
};

/* Lock held.  Start the thread if there is work. */
void background_kick(archip_volume *volume);
/* Lock held.  Flush without being asked when much has collected, so that memory
 * is bounded. */
void background_flush_if_due(archip_volume *volume);
/* Lock held.  Whether the piece must wait, begun anew later, until pages were
 * saved. */
bool background_throttles(archip_volume *volume, struct piece *piece);
/* Wait until it is idle. */
void background_wait(archip_volume *volume);
void drops_capture(archip_volume *volume);
void drops_commit(archip_volume *volume, bool success);

/* --- volume.c, lifecycle.c, resize.c ---------------------------------------------------------- */

struct archip_volume {
    archip_store *store;
    char *name;
    char *owner;
    struct id128 id;
    unsigned flags;             /* ARCHIP_OPEN_... */
    GMutex life;
    gint queue_count;           /* atomic: the callers' queues */
    gint active;                /* atomic: map and, for writing, lock are held */
    gsize size_bytes;           /* atomic copy of the header's */
    uint64_t kept_bytes;        /* the size before a shrink that isn't durable
                                   yet, else 0 */
    struct store_lock *write_lock, *read_lock;
    struct map *map;            /* while active */
    GHashTable *objects;        /* index -> struct object */
    GQueue unsynced;            /* struct object */
    unsigned lost_count;        /* objects with a failed sync */
    GHashTable *drops;          /* index -> enum drop_state */
    struct flush flush;
    struct background background;
};

bool volume_is_writable(const archip_volume *volume);
/* Freeze the current layer; nothing may be in flight.  What a snapshot does. */
int volume_freeze(archip_volume *volume);
/* Flush and fold on a queue of its own; nothing may be in flight.  `clean`: so
 * that the header says that; if it fails, the header doesn't, or the volume is
 * inactive (D18). */
int volume_settle(archip_volume *volume, bool clean, GError **error);
/* Cut off what a shrink that was begun leaves behind. */
int volume_finish_shrink(archip_volume *volume, GError **error);
void volume_set_size(archip_volume *volume, uint64_t size_bytes);
/* How far there are data that may not be lost.  Lock held. */
uint64_t volume_reach(const archip_volume *volume);

int volume_find(archip_store *store, const char *name, struct id128 *id,
                GError **error);
/* Finish what the intent record of that volume says, if whoever wrote it is
 * dead: else, or if it can't be told, nothing is done. */
int volume_finish_intent(archip_store *store, const struct id128 *id,
                         GError **error);

/* With the volume's lock, before its first use: if who made it died in doing
 * so, make durable what is there of it (D7). */
int volume_confirm(archip_store *store, const struct id128 *id,
                   GError **error);
void info_fill(archip_volume_info *info, const char *name,
               const struct map_header *header, const struct store *store);

#endif
