/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated run: a few volumes in one store, used by one program until it
 * dies, again and again.  A run is made of *lives*; each ends with a power cut,
 * with the process killed, or in good order.
 */
#ifndef SIMULATION_WORLD_H
#define SIMULATION_WORLD_H

#include "ledger.h"

#include "disk.h"

#include <archipelago.h>

#define VOLUMES 4
#define STORES 2                /* handles on the one store, as of two hosts */
#define QUEUES 3
#define HOT 48
#define DEPTH 8
#define BLOCK_SECTORS 8u

enum existence { GONE, THERE, UNSURE };

/* What a program does with a volume that it has open. */
enum action {
    DO_REQUEST, DO_REAP, DO_RESIZE, DO_FREEZE, DO_CLOSE, DO_INTRUDE, DO_DRAIN,
    DO_REST, ACTIONS
};

/*
 * What is drawn for a whole run: so that some runs do much of one thing, and
 * get to where a mean of everything never does.
 */
struct habits {
    unsigned weights[ACTIONS];
    unsigned hot;               /* objects that are used most, of HOT */
    unsigned flushes;           /* of 100 requests */
    unsigned flush_end_once_in; /* flushes that succeeded after which the life
                                   ends; more often when a sync failed */
    unsigned whole_once_in;     /* requests for whole objects */
    unsigned fua_once_in;       /* writes */
    unsigned grow_once_in;      /* writes that may lie behind the end */
    unsigned removals;          /* of 12 uses of a volume that isn't open */
    unsigned end_soon_once_in;  /* makings, removals, resizes after which the
                                   life ends soon */
    unsigned lives, steps;      /* at most */
    unsigned patience;          /* lives are longer by so many bits */
    unsigned births;            /* stores made before, by processes that soon
                                   die */
    unsigned full_once_in;      /* steps after which the disk is full for long;
                                   0: it never is */
    bool one_volume;
};

/* A size that the volume had, or may have had. */
struct size {
    uint64_t bytes;
    uint64_t submitted, completed;
    bool durable, ok;
};

struct volume {
    char name[8];
    unsigned number;            /* in the patterns; another one for each
                                   volume that had this name */
    enum existence existence;
    bool settled;               /* closed in good order, or verified */
    uint32_t object_bytes;
    uint64_t size;
    GArray *sizes;              /* struct size */
    uint64_t shrunk_to;         /* durable size of a shrink whose cut failed, or
                                   may have; or 0 */
    uint64_t token;             /* the highest seen */
    uint64_t hot[HOT];          /* objects that are used most */
    struct ledger *ledger;
    /* While it is open: */
    archip_volume *handle;
    unsigned store;
    archip_queue *queues[QUEUES];
    unsigned queue_count, in_flight;
};

/* A request. */
struct op {
    struct volume *volume, *source;
    archip_queue *queue;
    archip_op kind;
    unsigned step, flags;
    uint64_t offset, length, source_offset;
    bool alone;                 /* nothing else may touch its sectors */
    struct write *write, *fringe;
    guint size_index;           /* of a growing write, in `sizes`; or ~0 */
    uint64_t submitted;
    uint8_t *memory, *buffer;
    struct iovec iov[3];
    int iov_count;
    archip_extent extents[4];
};

struct world {
    const char *wanted_habits;  /* NULL: drawn */
    int wanted_faults;          /* enum fault; -1: drawn */
    uint64_t seed;
    unsigned run, life, step, steps_max;
    uint64_t now;               /* logical time */
    unsigned last_number;
    char location[96];
    archip_store *stores[STORES];
    struct volume volumes[VOLUMES];
    GPtrArray *ops;             /* struct op, in flight */
    struct habits habits;
    unsigned error_once_in;     /* while errors are on */
    bool may_err;               /* errors are injected in this life */
    bool has_rotted;            /* the disk was damaged */
    /* Counts, over all runs: */
    uint64_t runs, crashes, power_cuts, nested, operations, calls, checked,
        errors, rots, refused,  /* calls, after damage */
        births,                 /* ends of stores that were being made */
        full, full_answers;     /* times the disk was full, refusals then */
};

extern struct world world;

/* --- simulate.c ----------------------------------------------------------- */

/* Say which invariant is broken, where, and end. */
G_NORETURN void broken(unsigned invariant, const struct volume *volume,
                       uint64_t sector, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
/* A call failed that had no reason to, unless one was made. */
void excuse(unsigned invariant, const struct volume *volume, const char *what,
            int64_t result, const char *error);

/* --- operations.c --------------------------------------------------------- */

/* One is drawn, and submitted if the model could tell what comes of it. */
void volume_request(struct volume *volume);
/* Until nothing is in flight on the volume. */
void volume_drain(struct volume *volume);
void volume_reap(struct volume *volume, archip_queue *queue, int timeout_ms);

/* --- steps.c -------------------------------------------------------------- */

/* The end of this life comes soon, once in `n` times. */
void crash_soon_once_in(unsigned n, unsigned calls);
/* One thing, whatever it is. */
void world_step(void);

/* --- habits.c ------------------------------------------------------------- */

/* `faults`: of which calls some fail, if any do.  `wanted`: the habits' name;
 * NULL: they are drawn. */
void habits_draw(struct habits *habits, bool may_err, enum fault faults,
                 const char *wanted);
bool habits_are_known(const char *name);

/* --- lives.c -------------------------------------------------------------- */

void volume_open(struct volume *volume);
void volume_close(struct volume *volume);
void volume_verify(struct volume *volume);
void volume_create(struct volume *volume);
void volume_remove(struct volume *volume);
void size_log(struct volume *volume, uint64_t bytes);
void sizes_flushed(struct volume *volume, uint64_t submitted);
/* A shrink whose cut had failed is finished. */
void volume_cut(struct volume *volume);
/* From the first creation to the last check. */
void world_run(void);

#endif
