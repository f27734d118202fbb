/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of headers, map pages, journals and names, as docs/FORMAT.md
 * describes them: big-endian, packed, with a version and a CRC32C each.  These
 * structs are only laid over such bytes; in memory the mapper uses its own.
 */
#ifndef ARCHIPELAGO_MAPPER_FORMAT_H
#define ARCHIPELAGO_MAPPER_FORMAT_H

#include "base/id.h"

#include <assert.h>
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Big-endian; read and written through GUINTnn_FROM_BE and _TO_BE. */
typedef uint16_t be16;
typedef uint32_t be32;
typedef uint64_t be64;

#define FORMAT_VERSION 1

/* Limits that stand in #ifndef, here and elsewhere, are smaller in the
 * simulation (tests/simulation/small-limits.h), so that it meets them often. */

/* Page numbers, epochs and sequence numbers go up to here: none gets so far by
 * counting. */
#define FORMAT_NUMBER_MAX (UINT64_C(1) << 62)

/* --- Pages ----------------------------------------------------------------- */

#ifndef FORMAT_PAGE_BYTES
#define FORMAT_PAGE_BYTES 65536u
#endif
#define FORMAT_PAGE_HEAD_BYTES 128u
#define FORMAT_PAGE_BODY_BYTES (FORMAT_PAGE_BYTES - FORMAT_PAGE_HEAD_BYTES)
#define FORMAT_PAGE_MAGIC 0x41504745u /* "APGE" */

enum format_tree_kind {
    FORMAT_ENTRIES = 1,     /* object index -> entry */
    FORMAT_PRESENT = 2,     /* object index -> bitmap of present blocks */
    FORMAT_LAYERS = 3,      /* layer number -> layer record */
    FORMAT_DIGESTS = 4,     /* of a hashed layer: object index -> SHA-256 */
};

struct format_page_head {
    be32 magic;
    be32 crc;               /* of the page, with this field zero */
    be16 version;
    uint8_t tree;           /* enum format_tree_kind */
    uint8_t level;          /* 0: records; above: references to level - 1 */
    be32 reserved;
    uint8_t layer[16];      /* the page's own name: layer and number */
    be64 number;
    be64 position;          /* which page of its level, from 0 */
    uint8_t reserved2[80];
} __attribute__((packed));
static_assert(sizeof(struct format_page_head) == FORMAT_PAGE_HEAD_BYTES, "");

/* Names a page and what must be found there.  Number 0: no page, zeroes. */
struct format_ref {
    uint8_t layer[16];
    be64 number;
    be32 crc;
    be32 reserved;
} __attribute__((packed));
static_assert(sizeof(struct format_ref) == 32, "");

struct format_tree {
    struct format_ref root;
    be32 height;            /* levels; 0: an empty tree */
    be32 reserved;
} __attribute__((packed));
static_assert(sizeof(struct format_tree) == 40, "");

struct format_entry {
    be32 layer;
    be32 base;
} __attribute__((packed));
static_assert(sizeof(struct format_entry) == 8, "");

#define FORMAT_LAYER_HASHED 0x1u

struct format_layer {
    uint8_t id[16];
    be32 flags;
    be32 reserved;
    be64 frozen_ns;
    struct format_ref digests;  /* hashed: root of its tree of digests */
} __attribute__((packed));
static_assert(sizeof(struct format_layer) == 64, "");

#define FORMAT_REFS_PER_PAGE \
    (FORMAT_PAGE_BODY_BYTES / (uint32_t)sizeof(struct format_ref))
#define FORMAT_TREE_HEIGHT_MAX 6

/* --- Headers --------------------------------------------------------------- */

#define FORMAT_HEADER_MAGIC "ARCHIPMP"
#define FORMAT_HEADER_BYTES 640u
#define FORMAT_HEADER_BYTES_MAX 65536u

#define FORMAT_HEADER_CLEAN 0x1u
#define FORMAT_HEADER_READONLY 0x2u
#define FORMAT_HEADER_PROTECTED 0x4u
#define FORMAT_HEADER_SNAPSHOT 0x8u
#define FORMAT_HEADER_TRASHED 0x10u

struct format_header {
    uint8_t magic[8];
    be32 crc;               /* of `bytes` bytes, with this field zero */
    be32 bytes;             /* fixed part and fields */
    be16 version;
    be16 reserved;
    be32 flags;
    be64 features_compatible;
    be64 features_readonly; /* unknown ones: may be read, not written */
    be64 features_incompatible;
    uint8_t id[16];
    be64 generation;
    be64 size_bytes;
    be64 shrink_bytes;      /* not 0: the size before a shrink under way */
    be32 object_bytes;
    be32 block_bytes;
    be64 object_count;
    be64 journal_epoch;
    be64 journal_sequence;  /* of the first record of that epoch */
    be32 current_layer;
    be32 next_layer;        /* numbers from here on were never used */
    uint8_t current_layer_id[16];
    be64 next_page;         /* of the current layer */
    be64 created_ns;
    be64 trash_expiry_ns;
    struct format_tree entries, present, layers;
    be64 vmstate_bytes;     /* its objects have indices from 1 << 62 on */
    struct format_tree vmstate_entries, vmstate_present;
    uint8_t parent_volume[16];
    uint8_t parent_snapshot[16];
    uint8_t reserved2[232];
} __attribute__((packed));
static_assert(sizeof(struct format_header) == FORMAT_HEADER_BYTES, "");

#define FORMAT_VMSTATE_INDEX (UINT64_C(1) << 62)

/* After the fixed part, each padded with zeroes to a multiple of 8. */
enum format_field_type {
    FORMAT_FIELD_TAG = 1,   /* "key=value", UTF-8, no NUL */
};

struct format_field {
    be16 type;
    be16 flags;
    be32 bytes;             /* of the value that follows, without padding */
} __attribute__((packed));
static_assert(sizeof(struct format_field) == 8, "");

/* --- Journal ----------------------------------------------------------------- */

#define FORMAT_RECORD_MAGIC 0x414a524eu /* "AJRN" */
#define FORMAT_RECORD_ALIGN 4096u
#ifndef FORMAT_RECORD_BYTES_MAX
#define FORMAT_RECORD_BYTES_MAX (8u << 20)
#endif

struct format_record {
    be32 magic;
    be32 crc;               /* of `bytes` bytes, with this field zero */
    be16 version;
    be16 reserved;
    be32 bytes;             /* a multiple of FORMAT_RECORD_ALIGN */
    uint8_t id[16];         /* the map's */
    be64 epoch;
    be64 sequence;
    be32 item_bytes;
    be32 item_count;
    be64 reserved2;
} __attribute__((packed));
static_assert(sizeof(struct format_record) == 64, "");

enum format_item_type {
    FORMAT_ITEM_ENTRY = 1,      /* layer, index, base */
    FORMAT_ITEM_PRESENT = 2,    /* index, then the whole bitmap */
    FORMAT_ITEM_SIZE = 3,       /* index is the volume's size in bytes */
};

struct format_item {
    uint8_t type;
    uint8_t flags;
    be16 bytes;             /* of the item with what follows; a multiple of 8 */
    be32 layer;
    be64 index;
    be32 base;
    be32 reserved;
} __attribute__((packed));
static_assert(sizeof(struct format_item) == 24, "");

/* --- Names --------------------------------------------------------------------- */

#define FORMAT_NAME_MAGIC "ARCHIPNM"

struct format_name {
    uint8_t magic[8];
    be32 crc;               /* of this struct, with this field zero */
    be16 version;
    be16 reserved;
    uint8_t id[16];
    uint8_t reserved2[32];
} __attribute__((packed));
static_assert(sizeof(struct format_name) == 64, "");

/* --- Intents ------------------------------------------------------------------- */

#define FORMAT_INTENT_MAGIC "ARCHIPIN"

/* A volume is being made or removed.  Whoever finds this and gets the volume's
 * lock decides by the name: it stays if the name leads to it, else it goes. */
struct format_intent {
    uint8_t magic[8];
    be32 crc;               /* of this struct, with this field zero */
    be16 version;
    be16 reserved;
    uint8_t id[16];
    uint8_t layer[16];      /* current layer of a volume that goes; or zeroes */
    char name[144];         /* padded with NULs */
} __attribute__((packed));
static_assert(sizeof(struct format_intent) == 192, "");

/* --- format.c ------------------------------------------------------------------- */

/* In memory: a reference and a tree. */
struct map_ref {
    struct id128 layer;
    uint64_t number;
    uint32_t crc;
};

struct map_tree {
    struct map_ref root;
    uint32_t height;
};

/* In memory: a header. */
struct map_header {
    uint32_t flags;                 /* FORMAT_HEADER_... */
    uint64_t features_compatible, features_readonly, features_incompatible;
    struct id128 id;
    uint64_t generation;
    uint64_t size_bytes;
    uint64_t shrink_bytes;
    uint32_t object_bytes, block_bytes;
    uint64_t object_count;
    uint64_t journal_epoch, journal_sequence;
    uint32_t current_layer, next_layer;
    struct id128 current_layer_id;
    uint64_t next_page;
    int64_t created_ns;
    uint64_t trash_expiry_ns;
    struct map_tree entries, present, layers;
    uint64_t vmstate_bytes;
    struct map_tree vmstate_entries, vmstate_present;
    struct id128 parent_volume, parent_snapshot;
    GBytes *fields;                 /* as they stand in the file; or NULL */
};

void header_clear(struct map_header *header);
/* A copy with its own reference to the fields; header_clear() it. */
struct map_header header_copy(const struct map_header *header);
GBytes *header_encode(const struct map_header *header);
/*
 * -EUCLEAN: not a header, or damaged, or not of the map `id`;
 * -EOPNOTSUPP: a newer format, or incompatible features, by name;
 * -EROFS: `for_write`, and features that only allow reading, by name.
 */
int header_decode(GBytes *value, const struct id128 *id, bool for_write,
                  struct map_header *header, GError **error);
/* The value of the tag `key`; NULL if there is none.  The caller frees it. */
char *header_tag(const struct map_header *header, const char *key);
/* Add a tag; one with the same key must not be there. */
void header_add_tag(struct map_header *header, const char *key,
                    const char *value);

/* CRC32C of `bytes` bytes at `data`, the 4 at `crc_offset` taken as zero. */
uint32_t format_crc(const void *data, size_t bytes, size_t crc_offset);

void ref_encode(struct format_ref *bytes, const struct map_ref *ref);
struct map_ref ref_decode(const struct format_ref *bytes);
bool ref_is_null(const struct map_ref *ref);

/* Fill in the head of `page` (FORMAT_PAGE_BYTES); returns its CRC. */
uint32_t page_seal(void *page, enum format_tree_kind tree, unsigned level,
                   uint64_t position, const struct id128 *layer,
                   uint64_t number);
/* -EUCLEAN, saying in what `page` isn't the one that `ref` names there. */
int page_check(const void *page, enum format_tree_kind tree, unsigned level,
               uint64_t position, const struct map_ref *ref, GError **error);

GBytes *name_encode(const struct id128 *id);
int name_decode(GBytes *value, const char *name, struct id128 *id,
                GError **error);

GBytes *intent_encode(const struct id128 *id, const struct id128 *layer,
                      const char *name);
/* `name` gets what the caller frees. */
int intent_decode(GBytes *value, struct id128 *id, struct id128 *layer,
                  char **name, GError **error);

#endif
