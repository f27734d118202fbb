/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fault:RULES:LOCATION wraps another store and lets operations on it fail, or
 * take their time, as rules say.
 *
 * RULES are separated by ';' and made of parts separated by ',':
 *
 *   op=NAME       which operations: read write zero punch sync remove extent,
 *                 get put drop list list_objects allocated sync_all
 *                 remove_all lock holder exclude_readers list_ids
 *                 list_sizes list_strays trim set_aside take_back
 *                 reset_lock, or any (the default)
 *   nth=N         the first of them to fail, counted from 1 (the default)
 *   times=N       how many fail from there on: 1 by default, 0 for good
 *   errno=N       with what: 5 (EIO) by default
 *   late          they are carried out and fail nevertheless (only what
 *                 changes or syncs something; others fail at once)
 *   delay_ms=N    they wait that long; without errno= they don't fail then
 *   stop          with the first of them everything fails for good, as if
 *                 the machine had stopped
 *
 * "fault::LOCATION" has no rules: it only counts.  So
 * "fault:op=sync,nth=2;op=read,delay_ms=5,times=0:dir:/srv/a" fails the second
 * sync with EIO and slows every read.
 *
 * unlock always goes through: the process that holds the lock is alive.
 *
 * The functions are for tests, which arm rules while they run:  fail the Nth
 * operation for N = 1, 2, ... until fault_fired() says that none did.  Any
 * thread.  `store` is one opened as "fault:...".
 */
#ifndef ARCHIPELAGO_STORE_FAULT_H
#define ARCHIPELAGO_STORE_FAULT_H

#include "store/store.h"

/* The first are those of enum store_op. */
enum fault_op {
    FAULT_READ = STORE_READ,
    FAULT_WRITE,
    FAULT_ZERO,
    FAULT_PUNCH,
    FAULT_SYNC,
    FAULT_REMOVE,
    FAULT_EXTENT,
    FAULT_GET,
    FAULT_PUT,
    FAULT_DROP,
    FAULT_LIST,
    FAULT_LIST_OBJECTS,
    FAULT_ALLOCATED,
    FAULT_SYNC_ALL,
    FAULT_REMOVE_ALL,
    FAULT_LOCK,
    FAULT_HOLDER,
    FAULT_EXCLUDE_READERS,
    FAULT_LIST_IDS,
    FAULT_LIST_SIZES,
    FAULT_LIST_STRAYS,
    FAULT_TRIM,
    FAULT_SET_ASIDE,
    FAULT_TAKE_BACK,
    FAULT_RESET_LOCK,
    FAULT_ANY,
};

struct fault_rule {
    enum fault_op op;
    uint64_t nth;               /* counted from 1, from when it is armed */
    uint64_t times;             /* 0: for good */
    int errno_value;            /* 0: only the delay */
    bool late;
    bool stop;
    unsigned delay_ms;
};

/* One more rule. */
void fault_arm(struct store *store, const struct fault_rule *rule);
/* No rules, nothing counted; a stopped store goes on. */
void fault_reset(struct store *store);
/* Operations begun since, failed ones too. */
uint64_t fault_count(struct store *store, enum fault_op op);
/* How many of them a rule made fail. */
uint64_t fault_fired(struct store *store);
/* The store that is wrapped. */
struct store *fault_inner(struct store *store);

#endif
