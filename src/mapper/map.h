/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map of one volume: which object holds each piece of it.
 *
 * A map is a header and copy-on-write trees of 64 KiB pages (docs/FORMAT.md).
 * Pages are read when first needed and kept under a bound; changes are made to
 * the pages in memory, collected, and made durable in two steps: *captured*
 * into a journal record (journal.c), and from time to time folded into new
 * pages and a new header (checkpoint.c).
 *
 * Threads and locks: map->lock guards everything here that isn't marked
 * otherwise, and the composer's state of the same volume.  Functions are called
 * with it held unless they say "blocks": those are called without it and do
 * I/O on map->queue, one at a time.  No function that holds it does I/O.
 *
 * A function that needs a page which isn't in memory returns -EAGAIN and sets
 * `wanted`; the caller sees to it that it is read (map_page_claim()) and then
 * begins anew: until then nothing was changed.
 */
#ifndef ARCHIPELAGO_MAPPER_MAP_H
#define ARCHIPELAGO_MAPPER_MAP_H

#include "mapper/format.h"
#include "store/store.h"

#define MAP_ENTRIES_PER_PAGE \
    (FORMAT_PAGE_BODY_BYTES / (uint32_t)sizeof(struct format_entry))
#define MAP_LAYERS_PER_PAGE \
    (FORMAT_PAGE_BODY_BYTES / (uint32_t)sizeof(struct format_layer))

/* Pages kept in memory: 8 MiB. */
#ifndef MAP_CACHE_PAGES
#define MAP_CACHE_PAGES 128u
#endif
/* A journal of this size is folded into pages. */
#ifndef MAP_JOURNAL_BYTES
#define MAP_JOURNAL_BYTES (16u << 20)
#endif

/* Where an object's blocks are; layer 0: nowhere, zeroes.  With a base other
 * than 0, those present are in (layer, index), the others in (base, index). */
struct map_entry {
    uint32_t layer;
    uint32_t base;
};

/* One bit per block of an object: bit b is bit b % 8 of byte b / 8. */
#define MAP_BLOCKS_MAX 1024u
struct map_bits {
    uint8_t bytes[MAP_BLOCKS_MAX / 8];
};

static inline bool map_bit(const struct map_bits *bits, unsigned block)
{
    return bits->bytes[block / 8] >> (block % 8) & 1;
}

static inline void map_bit_set(struct map_bits *bits, unsigned block)
{
    bits->bytes[block / 8] |= (uint8_t)(1u << (block % 8));
}

/* A page's bytes, shared by the cache and a checkpoint that writes them. */
struct page_data {
    gint references;                /* atomic */
    uint8_t *bytes;                 /* FORMAT_PAGE_BYTES, aligned */
};

struct map_page {
    uint64_t key;                   /* tree, level, position: page_key() */
    struct page_data *data;         /* NULL while it is being read */
    struct page_data *incoming;     /* while somebody reads it: it stays */
    bool dirty;                     /* changed since it was last saved */
    bool saving;                    /* a checkpoint has its data */
    unsigned pins;
    GList link;                     /* in map->lru */
    struct map_ref ref;             /* what to read */
    GSList *waiters;                /* the composer's, in any order */
    struct store_request request;   /* to read it */
    struct iovec iov;
};

struct map_journal {
    uint64_t epoch;                 /* being written */
    uint64_t sequence;              /* of the next record */
    uint64_t offset_bytes;          /* where it goes; 0: create the journal */
    uint64_t oldest_epoch;          /* that the header in the store names */
    uint64_t own_epoch;             /* the first that this map may write; what
                                       was there before is in `found` */
    bool broken;                    /* a write failed: go to a new epoch */
    bool torn;                      /* a tail that can't be read was dropped */
};

struct map {
    GMutex io_lock;                 /* held by who uses `queue`; taken before: */
    GMutex lock;
    struct store *store;
    struct store_queue *queue;      /* of whoever blocks */
    struct store_lock *store_lock;  /* the composer's, while it has one */
    /* The composer's: go on with those who waited for a page (it frees the
     * list), or fail them with `error`. */
    void (*wake)(GSList *waiters, const GError *error);
    struct map_header header;       /* sizes and counts are of this moment;
                                       trees, epoch, next_page of the store's */
    struct map_header stored;       /* as it is in the store */
    bool may_be_clean;              /* a header that says so may be there */
    unsigned blocks_per_object;
    unsigned bitmap_bytes;          /* of one object */
    unsigned bitmaps_per_page;
    struct map_journal journal;
    GHashTable *pages;              /* key -> struct map_page */
    GQueue lru;                     /* head: used last */
    unsigned dirty_pages;
    GHashTable *layer_ids;          /* number -> struct id128, seen so far */
    GHashTable *dirty;              /* indices whose entry isn't durable and
                                       not yet captured */
    GHashTable *committing;         /* those of the commit under way */
    bool size_dirty, size_committing;
    GArray *found;                  /* uint64_t: epochs that were replayed */
    GArray *garbage;                /* struct store_object: pages and journals
                                       that nothing durable refers to */
};

/* --- map-open.c: beginning and end ------------------------------------------- */

/* Write the header of a new, empty map.  Blocks. */
int map_create(struct store *store, const struct id128 *id,
               uint64_t size_bytes, uint32_t object_bytes,
               const char *description, GError **error);

/* Read and check the header alone; header_clear() it.  Blocks. */
int map_read_header(struct store *store, const struct id128 *id,
                    bool for_write, struct map_header *header, GError **error);

/*
 * Read header and journals.  For writing: after an unclean close first make
 * durable what the current layer holds, fold the journals, then mark the map
 * as in use.  `lock` (may be NULL) stays the caller's.  Blocks.
 */
int map_open(struct store *store, const struct id128 *id, bool for_write,
             struct store_lock *lock, struct map **map, GError **error);

/* Forget everything; nothing is written.  Blocks. */
void map_free(struct map *map);

/* --- map.c: looking up and changing -------------------------------------------- */

/* Fills `present` if the entry has a base.  -EAGAIN; -EUCLEAN when the entry
 * can't be. */
int map_lookup(struct map *map, uint64_t index, struct map_entry *entry,
               struct map_bits *present, struct map_page **wanted,
               GError **error);

/* The id of a layer number that an entry had.  -EAGAIN, -EUCLEAN. */
int map_layer_id(struct map *map, uint32_t number, struct id128 *id,
                 struct map_page **wanted, GError **error);

/* Holds the pages of one index in memory, so that map_set() can't miss. */
struct map_cursor {
    uint64_t index;
    struct map_page *entries, *present;     /* NULL: nothing is pinned */
};

int map_pin(struct map *map, uint64_t index, struct map_cursor *cursor,
            struct map_page **wanted, GError **error);
/* The same without the bitmap, for map_set() to an entry without a base. */
int map_pin_entry(struct map *map, uint64_t index, struct map_cursor *cursor,
                  struct map_page **wanted, GError **error);
void map_unpin(struct map_cursor *cursor);

/* Set entry and, with a base, bitmap of a pinned index; due to be durable with
 * the next capture. */
void map_set(struct map *map, const struct map_cursor *cursor,
             struct map_entry entry, const struct map_bits *present);

/* The same of what a journal says already. */
void map_restore(struct map *map, const struct map_cursor *cursor,
                 struct map_entry entry, const struct map_bits *present);

/* What map_lookup() gives for a pinned index. */
struct map_entry map_get(const struct map *map,
                         const struct map_cursor *cursor,
                         struct map_bits *present);

/* Whether the entry of `index`, and the size that says that it counts, are as
 * they would be found after a crash. */
bool map_is_durable(const struct map *map, uint64_t index);

/* A smaller size leaves header.shrink_bytes behind, also when it is replayed,
 * until what is cut off was dropped. */
void map_set_size(struct map *map, uint64_t size_bytes);

/* The first index from `index` on, below `end`, whose entry isn't zeroes; `end`
 * if there is none.  With -EAGAIN, too, all before `used` are zeroes. */
int map_next_used(struct map *map, uint64_t index, uint64_t end,
                  uint64_t *used, struct map_page **wanted, GError **error);

/* The same, loading what it needs, with the entry; without the lock.  Sets
 * `index`; `found` says on failure whether that entry is the damaged thing, or
 * the page that has it. */
int map_next_entry(struct map *map, uint64_t *index, uint64_t end,
                   struct map_entry *entry, bool *found, GError **error);

static inline uint64_t map_object_total(const struct map_header *header)
{
    return (header->size_bytes + header->object_bytes - 1) /
           header->object_bytes;
}

/* --- page.c: pages in memory ----------------------------------------------------- */

uint64_t page_key(enum format_tree_kind tree, unsigned level,
                  uint64_t position);
enum format_tree_kind page_key_tree(uint64_t key);
unsigned page_key_level(uint64_t key);
uint64_t page_key_position(uint64_t key);

struct map_tree *map_tree(struct map_header *header,
                          enum format_tree_kind tree);

/* The page, or NULL where the tree has none: zeroes.  -EAGAIN. */
int page_find(struct map *map, enum format_tree_kind tree, unsigned level,
              uint64_t position, struct map_page **page, GError **error);

/* Move `position` on to the next page of level 0 that the tree or the memory
 * has, at most to `end`.  With -EAGAIN, too, there is none before it. */
int page_next(struct map *map, enum format_tree_kind tree, uint64_t end,
              uint64_t *position, struct map_page **wanted, GError **error);

/* As page_find(), making an empty page where there is none. */
int page_find_or_create(struct map *map, enum format_tree_kind tree,
                        uint64_t position, struct map_page **page,
                        GError **error);

/* The body, to be changed: private to the cache and marked dirty. */
void *page_modify(struct map *map, struct map_page *page);
const void *page_body(const struct map_page *page);

/* The first who needs a page that isn't there claims it and submits
 * page->request, `done` and `opaque` set by him; false: somebody did. */
bool map_page_claim(struct map_page *page);

/* The request is done: check the page, wake who waits for it.  On failure the
 * page is forgotten. */
int map_page_loaded(struct map *map, struct map_page *page, GError **error);

/* Read a wanted page on map->queue; then the caller looks again.  The lock is
 * let go meanwhile. */
int map_page_load(struct map *map, struct map_page *page, GError **error);

struct page_data *page_data_new(void);
struct page_data *page_data_copy(const struct page_data *data);
struct page_data *page_data_ref(struct page_data *data);
void page_data_unref(struct page_data *data);
/* Put new data of an inner page, made by a checkpoint, in place. */
void page_replace(struct map *map, uint64_t key, struct page_data *data);
void page_saved(struct map *map, uint64_t key, bool success);
void page_cache_free(struct map *map);

/* --- journal.c: making changes durable --------------------------------------------- */

enum map_capture_mode {
    MAP_JOURNAL,        /* append to the journal */
    MAP_ROTATE,         /* and begin a checkpoint with what is captured */
    MAP_CHECKPOINT,     /* only the checkpoint, nothing in the journal */
};

/* Changes captured at one moment, on their way to being durable. */
struct map_commit {
    bool more;                      /* not all fit: capture again afterwards */
    struct store_object journal;
    uint64_t offset_bytes;
    uint8_t *record;                /* NULL: nothing to write */
    bool lacks_memory;              /* for a record: the commit must fail */
    size_t record_bytes;
    struct map_checkpoint *checkpoint;  /* or NULL */
};

/* Capture what changed.  One commit is under way at a time. */
void map_capture(struct map *map, enum map_capture_mode mode,
                 struct map_commit *commit);

/* The record was written and synced (0), or that failed, or something before
 * it did: then everything is due again.  Frees the commit's parts, but leaves
 * `checkpoint` to the caller. */
void map_commit_end(struct map *map, struct map_commit *commit, int result);

/* Whether the next capture should rotate. */
bool map_wants_checkpoint(const struct map *map);
/* Whether changes should wait for a checkpoint: memory is bounded. */
bool map_is_overfull(const struct map *map);

/* Apply the journals of the header's epoch and later.  Blocks. */
int map_replay(struct map *map, GError **error);

/*
 * Call `each`, from the last epoch to the first, with the good records of each
 * journal that belongs to the stored header.  With a reader's lock, taken before
 * the map was opened, they make one state together, even beside a writer: an
 * epoch that isn't the last any more is complete.  Blocks.
 */
int map_journals(struct map *map,
                 int (*each)(uint64_t epoch, const void *records,
                             size_t bytes, void *opaque),
                 void *opaque, GError **error);

/* --- checkpoint.c: folding into pages ------------------------------------------------ */

struct map_checkpoint;

/* Of everything that is dirty now; the journal has gone to its next epoch. */
struct map_checkpoint *checkpoint_begin(struct map *map);

/*
 * Write pages and header, forget the old ones; frees the checkpoint.
 * `clean`: the header says that the map was closed.  On failure the pages are
 * dirty again and the journals stay.  Blocks.
 */
int checkpoint_run(struct map *map, struct map_checkpoint *checkpoint,
                   bool clean, GError **error);
void checkpoint_abandon(struct map *map, struct map_checkpoint *checkpoint);

/* Capture and checkpoint at once, data being synced already.  Blocks. */
int map_fold(struct map *map, bool clean, GError **error);

/* A fold that should have said "clean" failed: if that was perhaps after it
 * replaced the header, put the one from before back, which says "not clean".
 * On failure nothing may be written to the volume any more.  Nobody else may be
 * using the map.  Blocks. */
int map_mark_unclean(struct map *map);

/* Freeze the current layer: what is written from now on goes to a new one.
 * Everything must be durable and nothing in flight.  Blocks. */
int map_freeze(struct map *map, GError **error);

/* Remove pages and journals that nothing refers to, unless there are readers.
 * Blocks. */
void map_remove_garbage(struct map *map);

#endif
