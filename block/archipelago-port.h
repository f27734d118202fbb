/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A port joins a queue of a volume with an AioContext: the queue's descriptor
 * is watched there, completions are collected there and wake their coroutines.  A
 * node has a port for each context that does I/O on it, made at the latest by
 * the first request.
 *
 * An access is a volume that is open, read-only or, with its lock, for writing,
 * and its ports.  A node goes from one to the other by opening a second access,
 * which takes the place of the first: requests that are in flight end where
 * they began, and nobody has to wait for them.  The first one is retired, and
 * closed when its last user has gone.
 */
#ifndef BLOCK_ARCHIPELAGO_PORT_H
#define BLOCK_ARCHIPELAGO_PORT_H

#include "compat.h"

#include <archipelago.h>

typedef struct ArchipelagoPort ArchipelagoPort;

/* The ports of a volume that a node has open. */
typedef struct ArchipelagoPorts {
    QemuMutex lock;             /* guards `list`; taken before a port's lock */
    QLIST_HEAD(, ArchipelagoPort) list;
    archip_volume *volume;
} ArchipelagoPorts;

/* Once in a process, before all else. */
void archipelago_port_init(void);

void archipelago_ports_init(ArchipelagoPorts *ports, archip_volume *volume);
/* Every port is closed. */
void archipelago_ports_destroy(ArchipelagoPorts *ports);

/* Main thread.  0, or -errno with archip_error(). */
int archipelago_port_add(ArchipelagoPorts *ports, AioContext *ctx);
/* Main thread, with nothing in flight. */
void archipelago_ports_close(ArchipelagoPorts *ports);

/* Carry out a request through the port of the calling thread's context; the
 * result is as in archip_completion. */
int64_t coroutine_fn archipelago_port_request(ArchipelagoPorts *ports,
                                              archip_request *request);

/* Requests of the calling thread wait for the last unplug. */
void archipelago_port_plug(ArchipelagoPorts *ports);
void archipelago_port_unplug(ArchipelagoPorts *ports);
/* Main thread: requests that wait for an unplug don't any more, for that unplug
 * may go to other ports. */
void archipelago_ports_unplug(ArchipelagoPorts *ports);

/* --- Accesses ------------------------------------------------------------- */

typedef struct ArchipelagoAccess {
    archip_volume *volume;
    bool writable;
    unsigned user_count;        /* requests and calls; guarded by its node's
                                   `lock` below */
    ArchipelagoPorts ports;
    QLIST_ENTRY(ArchipelagoAccess) next;    /* of those that are retired */
} ArchipelagoAccess;

/* Those of a node.  Only the main thread changes which there are, but for
 * archipelago_access_replace() and _retire(). */
typedef struct ArchipelagoAccesses {
    QemuMutex lock;             /* guards all below; taken before ports' */
    ArchipelagoAccess *current; /* where requests go */
    QLIST_HEAD(, ArchipelagoAccess) retired;
    QEMUBH *collect_bh;
} ArchipelagoAccesses;

void archipelago_accesses_init(ArchipelagoAccesses *accesses);
/* Each is closed. */
void archipelago_accesses_destroy(ArchipelagoAccesses *accesses);

/* May block.  0, or -errno with archip_error(). */
int archipelago_access_open(archip_store *store, const char *volume,
                            bool writable, ArchipelagoAccess **access);
/* Main thread; nobody uses it.  An error is reported: what was flushed before
 * is safe in any case. */
void archipelago_access_close(ArchipelagoAccess *access);

/* The current one; it isn't closed before archipelago_access_put(). */
ArchipelagoAccess *archipelago_access_get(ArchipelagoAccesses *accesses);
void archipelago_access_put(ArchipelagoAccesses *accesses,
                            ArchipelagoAccess *access);

/* Requests go to `access` from now on; returns where they went. */
ArchipelagoAccess *archipelago_access_replace(ArchipelagoAccesses *accesses,
                                              ArchipelagoAccess *access);
/* Close one that was replaced: by the next archipelago_access_collect() after
 * its last user has gone, which comes by itself. */
void archipelago_access_retire(ArchipelagoAccesses *accesses,
                               ArchipelagoAccess *access);
/* Main thread. */
void archipelago_access_collect(ArchipelagoAccesses *accesses);
/* One that was retired and still has the lock: no longer retired; or NULL. */
ArchipelagoAccess *
archipelago_access_take_writer(ArchipelagoAccesses *accesses);

#endif
