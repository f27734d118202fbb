/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads for the simulation: fibers, of which one runs at a time, and which
 * one is drawn from the seed.  The core's calls of GLib's threads, mutexes and
 * conditions end here (the linker's --wrap), so it runs unchanged.
 *
 * A fiber is left only where it waits, takes a mutex or makes a system call.
 */
#ifndef SIMULATION_FIBERS_H
#define SIMULATION_FIBERS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* --- Chance --------------------------------------------------------------- */

void random_seed(uint64_t seed);
uint64_t random_next(void);
/* 0 to `bound` - 1. */
uint64_t random_below(uint64_t bound);
/* True once in `n`; never for 0. */
bool random_once_in(uint64_t n);

/* --- Fibers --------------------------------------------------------------- */

/* Of how many points at which another fiber might go on one is taken. */
extern unsigned fiber_switch_once_in;

/* Let others run until `ready` says so. */
void fiber_wait(bool (*ready)(void *opaque), void *opaque);
/* Perhaps let others run. */
void fiber_point(void);
/* At so many of them the one that runs now lets others go first, as far as chance
 * has it. */
void fiber_hold_back(unsigned points);
/* Number of the running fiber; the first is 1. */
unsigned fiber_number(void);
/* Fibers that have not ended, beside the first. */
unsigned fiber_count(void);
/* Free those that have ended. */
void fibers_clean(void);

/* --- Given by others ------------------------------------------------------ */

/* Things that happen by themselves, such as the end of a transfer: how many
 * could happen now, and let one. */
unsigned events_pending(void);
void event_happen(void);
/* Nothing can ever happen again, or there is no end to it. */
G_NORETURN void simulation_stuck(const char *what);

#endif
