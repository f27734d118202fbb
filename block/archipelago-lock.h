/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node of the driver, and when it holds its volume's lock: from opening it,
 * while somebody wants to write, and across reopening and migration.
 */
#ifndef BLOCK_ARCHIPELAGO_LOCK_H
#define BLOCK_ARCHIPELAGO_LOCK_H

#include "archipelago-port.h"

/* A store that is open once in this process, whoever uses it. */
typedef struct SharedStore {
    char *location;             /* as given; NULL: the default store */
    archip_store *store;
    unsigned user_count;
    QLIST_ENTRY(SharedStore) next;
} SharedStore;

typedef struct BDRVArchipelagoState {
    SharedStore *store;
    char *volume_name;
    char volume_id[33];         /* empty: not yet opened */
    char *location;             /* NULL: the default store */
    uint32_t alignment_bytes, block_bytes, object_bytes;
    bool created_empty;         /* no object was there when it was opened */
    bool incoming;              /* opened before migration came in: read-only */
    bool inactive;              /* handed over: all I/O is refused */
    uint64_t permissions;       /* what the node's users may do together */
    BDRVReopenState *reopening; /* between reopen_prepare() and its end */
    ArchipelagoAccesses accesses;
    ArchipelagoAccess *before;  /* what check_perm() replaced, until its end */
} BDRVArchipelagoState;

/* The library keeps an error's text by thread, so each call brings it along. */
typedef struct Call {
    int (*run)(struct Call *call);
    archip_volume *volume;
    const char *location, *name;
    uint64_t size_bytes;
    uint64_t object_bytes;
    unsigned flags;
    archip_usage usage;
    BDRVArchipelagoState *state;
    ArchipelagoAccess *access;
    char *error;
} Call;

/* Coroutine, or the main thread.  0, or -errno and, unless NULL, `errp`. */
int archipelago_call_run(Call *call, Error **errp);

/* Main thread: the volume, with its lock where the node needs it. */
int archipelago_open_volume(BlockDriverState *bs, int flags, Error **errp);

/* It wasn't handed over, nor is it still to come in. */
bool archipelago_is_here(const BDRVArchipelagoState *s);

/* Callbacks of the driver. */
int archipelago_check_perm(BlockDriverState *bs, uint64_t perm,
                           uint64_t shared, Error **errp);
void archipelago_set_perm(BlockDriverState *bs, uint64_t perm,
                          uint64_t shared);
void archipelago_abort_perm_update(BlockDriverState *bs);
int archipelago_reopen_prepare(BDRVReopenState *state,
                               BlockReopenQueue *queue, Error **errp);
void archipelago_reopen_end(BDRVReopenState *state);
int archipelago_inactivate(BlockDriverState *bs);
void coroutine_fn archipelago_co_invalidate_cache(BlockDriverState *bs,
                                                  Error **errp);

#endif
