/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes that connections share.
 *
 * All connections to a volume have one archip_volume, hence one map, one lock
 * and one flush: that is what makes multi-conn true.  The first connection
 * opens it, the last one closes it, which frees the lock.
 *
 * A request borrows a queue from the volume, the one used last and so warm in
 * cache, or opens one: there are as many as requests were ever in flight at
 * once.
 *
 * Every function may be called from any thread; what takes a shared_volume,
 * only between the caller's connect and disconnect.
 */
#ifndef ARCHIPELAGO_NBDKIT_SHARED_H
#define ARCHIPELAGO_NBDKIT_SHARED_H

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "archipelago.h"

#include <stdbool.h>

#define OWNER "nbdkit" /* what a lock's holder is shown as */

struct shared_volume;

/* Report a failed call of the library, whose `result` it is, to nbdkit's log
 * and to the client; returns -1. */
int report(int result, const char *what);

/* Join the volume, opening it if this is its first connection.  One that is
 * marked read-only is opened so.  NULL with the error reported. */
struct shared_volume *shared_connect(archip_store *store, const char *name,
                                     bool readonly);
/* No request of the connection may be in flight. */
void shared_disconnect(struct shared_volume *shared);

/* Flush what is open for writing; failures are only logged. */
void shared_flush_all(void);

/* Close what is open.  Only when there are no connections any more: nbdkit
 * closes none of them once it is asked to end. */
void shared_close_all(void);

archip_volume *shared_get_volume(struct shared_volume *shared);
bool shared_is_writable(const struct shared_volume *shared);

/* A queue that is the caller's until it is returned; NULL with the error
 * reported. */
archip_queue *shared_borrow(struct shared_volume *shared);
void shared_return(struct shared_volume *shared, archip_queue *queue);

#endif
