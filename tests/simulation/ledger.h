/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What each sector of a volume may hold: the property tests' model, by sector
 * rather than by byte and without rounds, since between two crashes nothing may
 * be settled by reading it.
 *
 * A sector has a *base*, what is durable for certain, and the writes since,
 * each with the logical times at which it was submitted and seen to be
 * complete.
 *
 *  - A read may find a write that was submitted before the read ended, unless a
 *    later one (submitted after that one completed) had completed well before
 *    the read began.
 *  - After a crash a sector may hold any write, unless a later one is durable.
 *
 * A write is durable when it completed with FUA, or before a flush was
 * submitted that succeeded.
 */
#ifndef SIMULATION_LEDGER_H
#define SIMULATION_LEDGER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define LEDGER_SECTOR 512u
#define LEDGER_GROUP 128u       /* sectors kept together */
#define LEDGER_NEVER UINT64_MAX

struct write {
    unsigned step;
    const char *what;
    uint64_t first, last;       /* sectors, `last` not included */
    uint8_t *bytes;             /* owned; NULL: zeroes */
    uint64_t submitted, completed;
    bool ok;                    /* completed well */
    bool durable, fua;
};

struct slot {
    struct write *base;         /* NULL: zeroes */
    struct write **more;
    unsigned count;
};

struct ledger {
    unsigned volume;            /* number that is in the patterns */
    GHashTable *groups;         /* number -> struct slot[LEDGER_GROUP] */
    GPtrArray *writes;          /* all, for messages */
    GPtrArray *active;          /* not complete */
    GPtrArray *due;             /* completed well, not durable */
    uint64_t oldest_reader;     /* when the oldest read under way was
                                   submitted; the caller's to set */
};

/* Why a sector is wrong. */
struct verdict {
    unsigned invariant;         /* its number in docs/DURABILITY.md */
    char text[240];
};

struct ledger *ledger_new(unsigned volume);
void ledger_free(struct ledger *ledger);

/* Bytes that tell by which step they were written where.  */
void pattern_fill(unsigned volume, unsigned step, uint64_t sector,
                  uint8_t *bytes);

struct write *ledger_submit(struct ledger *ledger, unsigned step,
                            const char *what, uint64_t first, uint64_t last,
                            uint8_t *bytes, uint64_t now);
void ledger_complete(struct ledger *ledger, struct write *write, bool ok,
                     bool durable, uint64_t now);
/* A flush that was submitted then has succeeded. */
void ledger_flushed(struct ledger *ledger, uint64_t submitted);
/* The process has ended: what was under way may have happened or not. */
void ledger_interrupt(struct ledger *ledger, uint64_t now);

/* The only value that a read may find now, or false. */
bool ledger_value(const struct ledger *ledger, uint64_t sector,
                  const uint8_t **bytes);
/* Bytes [from, to) of a sector as a read found them. */
bool ledger_check(const struct ledger *ledger, uint64_t sector,
                  const uint8_t *bytes, unsigned from, unsigned to,
                  uint64_t submitted, uint64_t completed,
                  struct verdict *verdict);
/*
 * After a crash: what is there is what is there from now on.  `doubtful`: a
 * sync failed, so what reads show now may be lost in a power cut yet.
 */
bool ledger_settle(struct ledger *ledger, uint64_t sector,
                   const uint8_t *bytes, bool doubtful,
                   struct verdict *verdict);
/* From that sector on there is nothing any more, durably: zeroes.  All that was
 * written there must have been flushed. */
void ledger_cut(struct ledger *ledger, uint64_t sector);
/* Whether all sectors of [first, last) may read as zeroes now. */
bool ledger_may_be_zero(const struct ledger *ledger, uint64_t sector,
                        uint64_t submitted, uint64_t completed);
/* What touched a sector, newest last, to stderr. */
void ledger_print(const struct ledger *ledger, uint64_t sector);

#endif
