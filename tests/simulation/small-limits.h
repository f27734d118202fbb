/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Included before every file of the simulated core: limits so small that a life
 * of a few hundred operations folds journals, splits pages, fills records,
 * makes folders and evicts pages and files many times.
 */
#ifndef SIMULATION_LIMITS_H
#define SIMULATION_LIMITS_H

#define FORMAT_PAGE_BYTES 1024u         /* 112 entries, 28 references */
#define FORMAT_RECORD_BYTES_MAX 10240u  /* 36 changes */
#define MAP_CACHE_PAGES 12u
#define MAP_JOURNAL_BYTES (24u << 10)
#define REPLAY_STEP_BYTES ((size_t)16 << 10)
#define AIO_DEPTH 6
#define UNSYNCED_MAX 24u
#define CHUNK_BYTES (UINT64_C(1) << 13)
#define DIR_FAN_BITS 3                  /* objects of a folder */
#define RESERVE_BYTES_MAX (UINT64_C(20) << 12)
#define RESERVE_FLOOR_BYTES (UINT64_C(20) << 12)
#define RESERVE_UNIT_BYTES (UINT64_C(1) << 12)
#define RESERVE_STEP_BYTES (UINT64_C(4) << 12)

#endif
