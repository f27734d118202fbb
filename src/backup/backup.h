/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The metadata of a store in one file, and back: see docs/FORMAT.md, "A store's
 * metadata in a file".  Sections named after the files.
 *
 * Threads: one; the store may be used by others meanwhile.
 */
#ifndef ARCHIPELAGO_BACKUP_BACKUP_H
#define ARCHIPELAGO_BACKUP_BACKUP_H

#include "check/check.h"

/* --- stream.c: sections, and nothing of what they mean -------------------- */

#define STREAM_MAGIC 0x414d5458u /* "AMTX" */
#define STREAM_VERSION 1

enum stream_type {
    STREAM_START = 1,           /* `struct stream_start` */
    STREAM_VOLUME = 2,          /* `struct stream_volume` */
    STREAM_HEADER = 3,          /* as the record is */
    STREAM_PAGE = 4,            /* `struct stream_object`, then the page */
    STREAM_JOURNAL = 5,         /* the same, then good records */
    STREAM_VOLUME_END = 6,      /* nothing */
    STREAM_END = 7,             /* `struct stream_end` */
};

struct stream_head {
    be32 magic;
    be32 crc;                   /* of head and payload, with this field zero */
    be16 version;
    be16 type;
    be32 reserved;
    be64 number;                /* of the section, from 0 */
    be64 bytes;                 /* of the payload */
} __attribute__((packed));
static_assert(sizeof(struct stream_head) == 32, "");

struct stream_start {
    uint8_t magic[16];          /* STREAM_START_MAGIC, padded with NULs */
    uint8_t reserved[48];
} __attribute__((packed));
static_assert(sizeof(struct stream_start) == 64, "");

#define STREAM_START_MAGIC "ARCHIP-METADATA"

struct stream_volume {
    uint8_t id[16];
    char name[144];             /* padded with NULs */
    uint8_t reserved[32];
} __attribute__((packed));
static_assert(sizeof(struct stream_volume) == 192, "");

struct stream_object {
    uint8_t id[16];             /* the layer's, the volume's */
    be64 number;                /* the page's, the epoch */
    be64 reserved;
} __attribute__((packed));
static_assert(sizeof(struct stream_object) == 32, "");

struct stream_end {
    be64 volume_count;
    be64 left_out_count;        /* volumes that couldn't be read */
    be32 crc;                   /* of the CRCs of all sections before */
    be32 reserved;
} __attribute__((packed));
static_assert(sizeof(struct stream_end) == 24, "");

/* A journal that is folded at 16 MiB, with what may follow it. */
#define STREAM_BYTES_MAX (UINT64_C(1) << 30)

struct stream {
    int fd;
    uint64_t number;            /* of the next section */
    uint64_t at_bytes;
    uint32_t crcs;              /* CRC32C of the CRCs so far */
};

/* Two parts make one payload. */
int stream_write(struct stream *stream, enum stream_type type,
                 const void *part, size_t part_bytes, const void *rest,
                 size_t rest_bytes, GError **error);
/* The next section; -EUCLEAN when there is no sound one.  The caller frees the
 * payload. */
int stream_read(struct stream *stream, enum stream_type *type,
                uint8_t **payload, size_t *bytes, GError **error);

/* --- import.c: what is in the file ---------------------------------------- */

/* Where a page or journal stands. */
struct stored_object {
    struct store_object object;
    uint64_t at_bytes;          /* of its section */
    uint64_t number;            /* of its section */
};

struct stored_volume {
    struct id128 id;
    char *name;
    GBytes *header;
    GArray *objects;            /* struct stored_object */
};

/* Read the object's bytes; the caller frees() them. */
int stored_object_read(int fd, const struct stored_object *stored,
                       uint8_t **bytes, size_t *length, GError **error);

/* --- install.c: one volume into the store --------------------------------- */

struct install {
    struct check *check;        /* store and inventory */
    int fd;
    unsigned flags;             /* ARCHIP_IMPORT_... */
    const struct stored_volume *stored;
    uint64_t missing_count;     /* objects that the map names */
    uint64_t newer_count;       /* that it doesn't, in its current layer */
};

/* -EEXIST: it is there already; -ENODATA: objects are missing. */
int install_volume(struct install *install, GError **error);

#endif
