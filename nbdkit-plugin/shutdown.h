/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flushing as soon as nbdkit is asked to end.  It then waits for its clients to
 * go, without bound, and an impatient supervisor kills it: by then nothing that
 * they wrote shall hang on it.
 */
#ifndef ARCHIPELAGO_NBDKIT_SHUTDOWN_H
#define ARCHIPELAGO_NBDKIT_SHUTDOWN_H

/* Called once, after the fork. */
void shutdown_watch(void);

/* Lets pass being called without a watch. */
void shutdown_unwatch(void);

#endif
