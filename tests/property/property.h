/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The property test's parts.
 *
 * A *run* has a seed and takes one volume through many *rounds*.  In a round
 * a fixed list of requests, made from the seed before any is submitted, goes
 * through several queues with many in flight; when all have completed, what
 * the reads returned is held against the model.  Between rounds the volume is
 * closed, opened, resized, handed over and so on.  What is submitted never
 * depends on timing, so a seed repeats its requests exactly.
 */
#ifndef PROPERTY_H
#define PROPERTY_H

#include "model.h"

#include <archipelago.h>
#include <glib.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>

#define QUEUES_MAX 8
#define FOCUS_COUNT 6
#define IOV_MAX_COUNT 6
#define EXTENT_ROOM 24

struct setup {
    guint32 seed;
    unsigned runs, rounds, ops;     /* ops: requests in a round */
    unsigned seconds;               /* no further round after that */
    char *store;                    /* "dir:" with no path: a temporary one */
    uint64_t size_bytes, size_max_bytes;
    uint32_t object_bytes;
    unsigned queues, depth;
    bool threads;                   /* one a queue; else one for all */
    bool quiet_resize;              /* only with nothing in flight */
};

/* One request and what became of it. */
struct op {
    archip_op kind;
    unsigned flags;
    uint64_t offset_bytes, length_bytes;
    uint32_t step;                  /* counted through the run */
    unsigned lane;
    bool from_other;                /* copy: from the other volume */
    uint64_t source_bytes;
    unsigned shape;                 /* random bits: memory and iovecs */
    /* While it runs. */
    uint8_t *memory, *bytes;        /* with guard bytes around */
    struct iovec iov[IOV_MAX_COUNT];
    int iov_count;
    archip_extent extents[EXTENT_ROOM];
    uint64_t submitted, completed;
    int64_t result;
};

struct round {
    GArray *ops;                    /* struct op, fixed once it runs */
    uint64_t limit_bytes;           /* no request but a growing one beyond */
    uint64_t quiet_start, quiet_end;    /* nothing changes here: copy sources */
    bool grows;
    uint64_t resize_bytes;          /* in the middle; 0: no */
};

struct run {
    const struct setup *setup;
    guint32 seed;
    GRand *random;
    char *scratch;                  /* temporary directory, or NULL */
    char *location;
    archip_store *store;
    archip_volume *volume, *other;
    archip_queue *queues[QUEUES_MAX];
    struct model *model, *other_model;
    uint64_t size_bytes;
    uint32_t block_bytes;
    uint64_t focus[FOCUS_COUNT];    /* where accesses gather */
    uint32_t step;
    unsigned round_number;
    const char *doing;              /* for the report of a failure */
    GArray *history;                /* struct op of all rounds */
    unsigned freezes;
    _Atomic uint64_t clock;         /* logical time */
};

/* --- generate.c: what to do, from the seed ------------------------------- */

#define OTHER_BYTES (UINT64_C(4) << 20)

uint64_t random_below(GRand *random, uint64_t bound);
/* True in `percent` of cases. */
bool chance(GRand *random, unsigned percent);
/* Choose where this run's accesses gather. */
void generate_focus(struct run *run);
struct round *generate_round(struct run *run);
void round_free(struct round *round);
/* A size to change to, near the present one or near a focus. */
uint64_t generate_size(struct run *run);

/* --- drive.c: doing it --------------------------------------------------- */

/* Carry out all requests; returns when each has completed. */
void drive_round(struct run *run, struct round *round);

/* --- verdict.c: what came out of it -------------------------------------- */

/* Check every answer of the round, then make it part of the model. */
void verdict_round(struct run *run, struct round *round);
/* Read all that was ever touched, and a little that wasn't. */
void verdict_everything(struct run *run);

/* Report and end the process with 1.  `offset` may be UINT64_MAX: no place. */
G_NORETURN void fail(struct run *run, uint32_t step, uint64_t offset,
                     const char *format, ...) G_GNUC_PRINTF(4, 5);

/* --- life.c: what happens to the volume between rounds ------------------- */

void life_begin(struct run *run);
void life_step(struct run *run);
void life_end(struct run *run);

/* --- freeze.c or thaw.c: with or without frozen layers ------------------- */

extern const bool can_freeze;
int freeze_volume(archip_volume *volume);

#endif
