/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the benchmark programs share.
 *
 * A program measures two sides in turn, ours and a peer's, round by round, so
 * that what else happens on the machine hits both; which is first changes from
 * round to round.  It prints a line for each round, "OURS PEER" in nanoseconds,
 * and after them lines "KEY: VALUE".  scripts/bench does the statistics.
 */
#ifndef ARCHIPELAGO_BENCH_H
#define ARCHIPELAGO_BENCH_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- bench.c ---------------------------------------------------------------- */

int64_t bench_now_ns(void);

/* Ends the program when `result` is negative: with errno's text, or the
 * library's. */
void bench_must(int64_t result, const char *what);
void bench_must_archip(int64_t result, const char *what);

/* Memory for O_DIRECT, filled with something. */
void *bench_memory(size_t bytes);

/* The same numbers in each run. */
uint32_t bench_random(void);

/* Make a folder below `path`, remove it with all that is in it. */
char *bench_folder_make(const char *path);
void bench_folder_remove(const char *path);

struct bench_side {
    void (*prepare)(void *opaque, unsigned round);  /* not timed */
    void (*run)(void *opaque, unsigned round);
    void *opaque;
};

/* Some rounds more than `rounds` come before, unprinted. */
void bench_compare(const struct bench_side *ours,
                   const struct bench_side *peer, unsigned rounds);

/* --- peer.c: plain files, by hand ---------------------------------------------- */

enum peer_way {
    PEER_SERIAL,        /* one sync after the other, in this thread */
    PEER_THREADS,       /* by threads, as many as a store has */
    PEER_AIO,           /* by libaio */
};

struct peer;

/* Objects of so many bytes below `folder`, opened as a store does. */
struct peer *peer_new(const char *folder, enum peer_way way, bool direct,
                      size_t object_bytes);
void peer_free(struct peer *peer);
/* Make the file of that number in `fan`, with its first bytes; it is open and
 * touched from then on.  `data` of `bytes`. */
void peer_create(struct peer *peer, unsigned fan, uint64_t number,
                 const void *data, size_t bytes);
/* Write to the file which was the Nth to be made. */
void peer_write(struct peer *peer, unsigned file, const void *data,
                size_t bytes, uint64_t offset_bytes);
/* Sync what was touched since the last time; the folders, too, where files were
 * made. */
void peer_sync(struct peer *peer);
/* Those made so far are done with. */
void peer_close_files(struct peer *peer);
/* Append to one more file, durably. */
void peer_append(struct peer *peer, const void *data, size_t bytes);

#endif
