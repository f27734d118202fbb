/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the dir store itself keeps on disk, besides what its callers put there.
 * Big-endian, packed; `crc` is the CRC32C of all bytes before it.
 *
 *   STORE/archipelago-store         struct dir_format; written last when a
 *                                   store is made, so that there is none
 *                                   without it
 *   STORE/names/NAME                records STORE_NAME
 *   STORE/intents/ID                records STORE_INTENT
 *   STORE/maps/XX/ID/header         record STORE_HEADER
 *   STORE/maps/XX/ID/lock           two struct dir_lock_slot; flock()ed by
 *                                   the volume's writer
 *   STORE/maps/XX/ID/readers        empty; flock()ed by readers, shared
 *   STORE/maps/XX/ID/journal.EPOCH  objects STORE_JOURNAL
 *   STORE/maps/XX/ID/pages/FAN/N    objects STORE_PAGE
 *   STORE/blocks/XX/ID/FAN/N        objects STORE_BLOCK
 *   STORE/set-aside/...             what a repair took out of the way; made
 *                                   when first needed
 *   STORE/reserve                   room for metadata in a full file system;
 *                                   its blocks count, not its content
 *
 * ID is 32 hex digits, XX its first two, EPOCH 16 hex digits, N the number in
 * hex without leading zeroes, FAN the number / 1024 in at least 3 hex digits.
 * Names that begin with DIR_TEMPORARY belong to a put under way, whose process
 * has them flock()ed; one that isn't locked was left by a crash.
 */
#ifndef ARCHIPELAGO_STORE_DIR_FORMAT_H
#define ARCHIPELAGO_STORE_DIR_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define DIR_FORMAT_NAME "archipelago-store"
#define DIR_TEMPORARY ".new-"
#ifndef DIR_FAN_BITS            /* a simulation has its own */
#define DIR_FAN_BITS 10
#endif
#define DIR_ASIDE "set-aside"
#define DIR_ASIDE_SLASH '%'
#define DIR_RESERVE "reserve"

#define DIR_FORMAT_MAGIC "ARCHSTOR"
#define DIR_FORMAT_VERSION 1u

struct dir_format {
    uint8_t magic[8];
    uint32_t version;           /* a newer one is refused */
    uint32_t reserved;
    uint64_t compatible;        /* features; unknown ones don't matter, */
    uint64_t read_only;         /* allow reading, */
    uint64_t incompatible;      /* allow nothing */
    uint8_t uuid[16];
    uint64_t created_ns;        /* since 1970 */
    uint8_t reserved_bytes[444];
    uint32_t crc;
} __attribute__((packed));

static_assert(sizeof(struct dir_format) == 512, "on-disk size");

#define DIR_LOCK_MAGIC "ARCHLOCK"
#define DIR_LOCK_VERSION 1u
#define DIR_LOCK_OPEN 0x1u      /* held; without it: let go in good order */

/*
 * The slot with the higher token holds; among equals, the one without
 * DIR_LOCK_OPEN.  The other one is written next.  A slot of zeroes was never
 * used.
 */
struct dir_lock_slot {
    uint8_t magic[8];
    uint32_t version;
    uint32_t flags;
    uint64_t token;
    uint64_t since_ns;
    uint64_t pid;
    char owner[64];
    char host[64];
    uint8_t reserved[340];
    uint32_t crc;
} __attribute__((packed));

static_assert(sizeof(struct dir_lock_slot) == 512, "on-disk size");

#endif
