/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A port joins a queue of a volume with an AioContext: the queue's descriptor
 * is watched there, completions are collected there and wake their coroutines.  A
 * node has a port for each context that does I/O on it, made at the latest by
 * the first request.
 */
#ifndef BLOCK_ARCHIPELAGO_PORT_H
#define BLOCK_ARCHIPELAGO_PORT_H

#include "compat.h"

#include <archipelago.h>

typedef struct ArchipelagoPort ArchipelagoPort;

/* The ports of a node. */
typedef struct ArchipelagoPorts {
    QemuMutex lock;             /* guards `list`; taken before a port's lock */
    QLIST_HEAD(, ArchipelagoPort) list;
    archip_volume **volume;     /* the node's, when a port is made */
} ArchipelagoPorts;

/* Once in a process, before all else. */
void archipelago_port_init(void);

void archipelago_ports_init(ArchipelagoPorts *ports, archip_volume **volume);
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

#endif
