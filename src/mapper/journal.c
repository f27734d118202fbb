/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal: map changes, captured at one moment, as one record in one write.
 *
 * Rules that recovery stands on:
 *  - records have consecutive sequence numbers, also from one epoch to the next;
 *  - a record is written only after the one before it is durable, so only the
 *    last one of an epoch can be torn;
 *  - after a failed write nothing is appended to that epoch (D6): what it held
 *    is captured again, under the same sequence number, into a new epoch.
 *
 * So a record that can't be read is dropped only where nothing acknowledged can
 * follow it (D13); a good one after it is an error (D14).
 */
#include "mapper/map.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- Capturing -------------------------------------------------------------- */

/* How many indices surely fit into one record. */
static guint capture_max(const struct map *map)
{
    size_t each = 2 * sizeof(struct format_item) + map->bitmap_bytes;

    return (guint)((FORMAT_RECORD_BYTES_MAX - 2 * FORMAT_RECORD_ALIGN) / each);
}

/* Move what is dirty, or as much as fits, to what is being committed. */
static void capture_indices(struct map *map, struct map_commit *commit,
                            bool all)
{
    guint room = capture_max(map);
    GHashTableIter iter;
    gpointer index;

    g_assert(!g_hash_table_size(map->committing));
    if (all || g_hash_table_size(map->dirty) <= room) {
        GHashTable *empty = map->committing;

        map->committing = map->dirty;
        map->dirty = empty;
        return;
    }
    g_hash_table_iter_init(&iter, map->dirty);
    while (room-- && g_hash_table_iter_next(&iter, &index, NULL)) {
        g_hash_table_iter_remove(&iter);
        g_hash_table_add(map->committing, index);
    }
    commit->more = true;
}

static void item_append(GByteArray *items, enum format_item_type type,
                        uint64_t index, struct map_entry entry,
                        const void *extra, size_t extra_bytes)
{
    struct format_item item = {
        .type = (uint8_t)type,
        .bytes = GUINT16_TO_BE((uint16_t)(sizeof(item) + extra_bytes)),
        .layer = GUINT32_TO_BE(entry.layer),
        .index = GUINT64_TO_BE(index),
        .base = GUINT32_TO_BE(entry.base),
    };

    g_byte_array_append(items, (const void *)&item, sizeof(item));
    g_byte_array_append(items, extra, (guint)extra_bytes);
}

/* A dirty index has its pages in memory: dirty pages stay. */
static unsigned encode_index(struct map *map, uint64_t index,
                             GByteArray *items)
{
    struct map_page *wanted;
    struct map_entry entry;
    struct map_bits bits;
    int rc = map_lookup(map, index, &entry, &bits, &wanted, NULL);

    g_assert(rc == 0);
    item_append(items, FORMAT_ITEM_ENTRY, index, entry, NULL, 0);
    if (!entry.base) {
        return 1;
    }
    item_append(items, FORMAT_ITEM_PRESENT, index, (struct map_entry){ 0 },
                bits.bytes, map->bitmap_bytes);
    return 2;
}

static void record_seal(struct map *map, struct map_commit *commit,
                        const GByteArray *items, unsigned item_count)
{
    size_t bytes = sizeof(struct format_record) + items->len;
    struct format_record *record;
    void *memory;

    bytes = (bytes + FORMAT_RECORD_ALIGN - 1) / FORMAT_RECORD_ALIGN *
            FORMAT_RECORD_ALIGN;
    g_assert(bytes <= FORMAT_RECORD_BYTES_MAX);
    if (posix_memalign(&memory, FORMAT_RECORD_ALIGN, bytes)) {
        commit->lacks_memory = true;
        return;
    }
    memset(memory, 0, bytes);
    record = memory;
    *record = (struct format_record){
        .magic = GUINT32_TO_BE(FORMAT_RECORD_MAGIC),
        .version = GUINT16_TO_BE(FORMAT_VERSION),
        .bytes = GUINT32_TO_BE((uint32_t)bytes),
        .epoch = GUINT64_TO_BE(map->journal.epoch),
        .sequence = GUINT64_TO_BE(map->journal.sequence),
        .item_bytes = GUINT32_TO_BE(items->len),
        .item_count = GUINT32_TO_BE(item_count),
    };
    memcpy(record->id, map->header.id.bytes, sizeof(record->id));
    memcpy(record + 1, items->data, items->len);
    record->crc = GUINT32_TO_BE(
        format_crc(record, bytes, offsetof(struct format_record, crc)));
    commit->record = memory;
    commit->record_bytes = bytes;
}

static void capture_record(struct map *map, struct map_commit *commit)
{
    g_autoptr(GByteArray) items = NULL;
    unsigned item_count = 0;
    GHashTableIter iter;
    gpointer index;

    if (!g_hash_table_size(map->committing) && !map->size_committing) {
        return;         /* most flushes */
    }
    items = g_byte_array_new();
    g_hash_table_iter_init(&iter, map->committing);
    while (g_hash_table_iter_next(&iter, &index, NULL)) {
        item_count += encode_index(map, (uint64_t)index, items);
    }
    if (map->size_committing && map->header.shrink_bytes) {
        /* The size before the shrink may never have been in a record (D12). */
        item_append(items, FORMAT_ITEM_SIZE, map->header.shrink_bytes,
                    (struct map_entry){ 0 }, NULL, 0);
        item_count++;
    }
    if (map->size_committing) {
        item_append(items, FORMAT_ITEM_SIZE, map->header.size_bytes,
                    (struct map_entry){ 0 }, NULL, 0);
        item_count++;
    }
    record_seal(map, commit, items, item_count);
}

static void journal_next_epoch(struct map *map)
{
    map->journal.epoch++;
    map->journal.offset_bytes = 0;
    map->journal.broken = false;
}

void map_capture(struct map *map, enum map_capture_mode mode,
                 struct map_commit *commit)
{
    *commit = (struct map_commit){ 0 };
    if (map->journal.broken) {
        journal_next_epoch(map);
    }
    capture_indices(map, commit, mode == MAP_CHECKPOINT);
    map->size_committing = map->size_dirty;
    map->size_dirty = false;
    if (mode != MAP_CHECKPOINT) {
        capture_record(map, commit);
    }
    commit->journal = (struct store_object){ STORE_JOURNAL, map->header.id,
                                             map->journal.epoch };
    commit->offset_bytes = map->journal.offset_bytes;
    if (mode != MAP_JOURNAL && !commit->more) {
        /* What follows goes to the next epoch; this record is its last. */
        if (commit->record) {
            map->journal.sequence++;
        }
        journal_next_epoch(map);
        commit->checkpoint = checkpoint_begin(map);
    }
}

static void commit_restore(struct map *map)
{
    GHashTableIter iter;
    gpointer index;

    g_hash_table_iter_init(&iter, map->committing);
    while (g_hash_table_iter_next(&iter, &index, NULL)) {
        g_hash_table_add(map->dirty, index);
    }
    map->size_dirty |= map->size_committing;
}

void map_commit_end(struct map *map, struct map_commit *commit, int result)
{
    bool rotated = commit->journal.number != map->journal.epoch;

    if (result < 0) {
        commit_restore(map);
        if (commit->record && rotated) {
            map->journal.sequence--;
        }
        map->journal.broken = true;
    } else if (commit->record && !rotated) {
        map->journal.sequence++;
        map->journal.offset_bytes += commit->record_bytes;
    }
    g_hash_table_remove_all(map->committing);
    map->size_committing = false;
    free(commit->record);
    commit->record = NULL;
}

bool map_wants_checkpoint(const struct map *map)
{
    return map->journal.offset_bytes >= MAP_JOURNAL_BYTES ||
           map->dirty_pages >= MAP_CACHE_PAGES / 2;
}

bool map_is_overfull(const struct map *map)
{
    return map->dirty_pages >= MAP_CACHE_PAGES;
}

/* --- Replaying ---------------------------------------------------------------- */

/* A journal being read, all of it in memory. */
struct replay {
    struct map *map;
    uint64_t epoch;
    uint8_t *bytes;
    size_t size_bytes;
    bool started;           /* a record of this epoch was applied */
};

/* Length of the record at `at`, or 0 if there is no good one. */
static size_t record_check(const struct replay *replay, size_t at)
{
    const struct format_record *record = (const void *)(replay->bytes + at);
    size_t bytes, rest = replay->size_bytes - at;

    if (rest < sizeof(*record) ||
        GUINT32_FROM_BE(record->magic) != FORMAT_RECORD_MAGIC) {
        return 0;
    }
    bytes = GUINT32_FROM_BE(record->bytes);
    if (bytes < sizeof(*record) || bytes > rest ||
        bytes > FORMAT_RECORD_BYTES_MAX || bytes % FORMAT_RECORD_ALIGN ||
        GUINT32_FROM_BE(record->item_bytes) > bytes - sizeof(*record)) {
        return 0;
    }
    if (format_crc(record, bytes, offsetof(struct format_record, crc)) !=
        GUINT32_FROM_BE(record->crc)) {
        return 0;
    }
    return bytes;
}

/* A whole record, but not of this map and epoch: no crash leaves that. */
static bool record_is_foreign(const struct replay *replay, size_t at)
{
    const struct format_record *record = (const void *)(replay->bytes + at);

    return GUINT64_FROM_BE(record->epoch) != replay->epoch ||
           memcmp(record->id, replay->map->header.id.bytes,
                  sizeof(record->id)) != 0;
}

static int replay_fail(const struct replay *replay, size_t at, GError **error,
                       const char *what)
{
    return error_set(error, EUCLEAN,
                     "journal %" G_GUINT64_FORMAT " at byte %zu: %s",
                     replay->epoch, at, what);
}

/* Pin as `pin` does, reading what isn't in memory. */
static int replay_pin(struct map *map, uint64_t index,
                      int (*pin)(struct map *map, uint64_t index,
                                 struct map_cursor *cursor,
                                 struct map_page **wanted, GError **error),
                      struct map_cursor *cursor, GError **error)
{
    struct map_page *wanted;
    int rc;

    while ((rc = pin(map, index, cursor, &wanted, error)) == -EAGAIN) {
        rc = map_page_load(map, wanted, error);
        if (rc < 0) {
            return rc;
        }
    }
    return rc;
}

/* A journal may have hundreds of thousands of these, all over the volume: it
 * matters that they have no bitmap to be found. */
static int replay_whole(struct map *map, uint64_t index,
                        const struct map_entry *entry, GError **error)
{
    struct map_cursor cursor = { 0 };
    int rc = replay_pin(map, index, map_pin_entry, &cursor, error);

    if (rc == 0) {
        map_restore(map, &cursor, *entry, NULL);
        map_unpin(&cursor);
    }
    return rc;
}

static int replay_entry(struct map *map, uint64_t index,
                        const struct map_entry *entry,
                        const uint8_t *bitmap, GError **error)
{
    struct map_cursor cursor = { 0 };
    struct map_bits bits = { 0 };
    struct map_entry now;
    int rc = replay_pin(map, index, map_pin, &cursor, error);

    if (rc < 0) {
        return rc;
    }
    now = map_get(map, &cursor, &bits);
    if (bitmap) {
        memcpy(bits.bytes, bitmap, map->bitmap_bytes);
    }
    map_restore(map, &cursor, entry ? *entry : now, &bits);
    map_unpin(&cursor);
    return 0;
}

static bool item_is_sound(const struct map *map,
                          const struct format_item *item, size_t bytes)
{
    uint64_t index = GUINT64_FROM_BE(item->index);
    uint64_t index_end = (UINT64_C(1) << 50) / map->header.object_bytes;
    uint32_t layer = GUINT32_FROM_BE(item->layer);
    uint32_t base = GUINT32_FROM_BE(item->base);

    switch (item->type) {
    case FORMAT_ITEM_ENTRY:
        return bytes == sizeof(*item) && index < index_end &&
               layer < map->header.next_layer &&
               base < map->header.next_layer &&
               (base == 0 || (layer != 0 && layer != base));
    case FORMAT_ITEM_PRESENT:
        return bytes == sizeof(*item) + map->bitmap_bytes &&
               index < index_end;
    case FORMAT_ITEM_SIZE:
        return bytes == sizeof(*item) && index % 512 == 0 &&
               index <= UINT64_C(1) << 50;
    default:
        return false;
    }
}

static int item_apply(struct map *map, const struct format_item *item,
                      GError **error)
{
    uint64_t index = GUINT64_FROM_BE(item->index);
    struct map_entry entry = {
        .layer = GUINT32_FROM_BE(item->layer),
        .base = GUINT32_FROM_BE(item->base),
    };

    switch (item->type) {
    case FORMAT_ITEM_ENTRY:
        return entry.base ? replay_entry(map, index, &entry, NULL, error)
                          : replay_whole(map, index, &entry, error);
    case FORMAT_ITEM_PRESENT:
        return replay_entry(map, index, NULL, (const uint8_t *)(item + 1),
                            error);
    default:
        map_set_size(map, index);
        return 0;
    }
}

static int record_apply(struct replay *replay, size_t at, GError **error)
{
    const struct format_record *record = (const void *)(replay->bytes + at);
    const uint8_t *items = (const uint8_t *)(record + 1);
    size_t size = GUINT32_FROM_BE(record->item_bytes), offset = 0;
    uint32_t count = GUINT32_FROM_BE(record->item_count);

    if (GUINT16_FROM_BE(record->version) != FORMAT_VERSION) {
        return replay_fail(replay, at, error, "newer format version");
    }
    for (; count && size - offset >= sizeof(struct format_item); count--) {
        const struct format_item *item = (const void *)(items + offset);
        size_t bytes = GUINT16_FROM_BE(item->bytes);
        int rc;

        if (bytes > size - offset || bytes % 8 ||
            !item_is_sound(replay->map, item, bytes)) {
            break;
        }
        rc = item_apply(replay->map, item, error);
        if (rc < 0) {
            return rc;
        }
        offset += bytes;
    }
    if (count || offset != size) {
        return replay_fail(replay, at, error, "a record has an impossible "
                                              "item");
    }
    return 0;
}

/* The record must be the next one; the first of a later epoch may repeat the
 * number of one whose write failed. */
static int record_order(struct replay *replay, size_t at, GError **error)
{
    const struct format_record *record = (const void *)(replay->bytes + at);
    uint64_t sequence = GUINT64_FROM_BE(record->sequence);
    struct map_journal *journal = &replay->map->journal;

    if (sequence != journal->sequence &&
        (replay->started || replay->epoch == journal->oldest_epoch ||
         sequence + 1 != journal->sequence)) {
        g_autofree char *what = g_strdup_printf(
            "record %" G_GUINT64_FORMAT " where %" G_GUINT64_FORMAT
            " must be: acknowledged changes are missing",
            sequence, journal->sequence);

        return replay_fail(replay, at, error, what);
    }
    journal->sequence = sequence + 1;
    replay->started = true;
    return 0;
}

/* After a bad record nothing good may come. */
static int replay_tail(struct replay *replay, size_t at, GError **error)
{
    for (size_t later = at + FORMAT_RECORD_ALIGN;
         later + FORMAT_RECORD_ALIGN <= replay->size_bytes;
         later += FORMAT_RECORD_ALIGN) {
        if (record_check(replay, later)) {
            return replay_fail(replay, at, error,
                               "a damaged record stands before a good one");
        }
    }
    while (at < replay->size_bytes && replay->bytes[at] == 0) {
        at++;
    }
    replay->map->journal.torn |= at < replay->size_bytes;
    return 0;
}

static int replay_records(struct replay *replay, GError **error)
{
    size_t at = 0, bytes;

    while (at < replay->size_bytes &&
           (bytes = record_check(replay, at)) > 0) {
        int rc = record_is_foreign(replay, at)
                     ? replay_fail(replay, at, error,
                                   "a record of another volume or epoch")
                     : record_order(replay, at, error);

        if (rc == 0) {
            rc = record_apply(replay, at, error);
        }
        if (rc < 0) {
            return rc;
        }
        at += bytes;
    }
    return replay_tail(replay, at, error);
}

/* More than this no journal can hold: it is folded when it exceeds
 * MAP_JOURNAL_BYTES, and then a few records may still be on their way. */
#define REPLAY_BYTES_MAX (MAP_JOURNAL_BYTES + 64 * (size_t)FORMAT_RECORD_BYTES_MAX)
/* So much is read by one request. */
#ifndef REPLAY_STEP_BYTES
#define REPLAY_STEP_BYTES ((size_t)1 << 20)
#endif

/* Room for so many bytes more, aligned for the store. */
static int replay_grow(struct replay *replay, size_t bytes)
{
    void *memory;

    if (posix_memalign(&memory, FORMAT_RECORD_ALIGN,
                       replay->size_bytes + bytes)) {
        return -ENOMEM;
    }
    if (replay->size_bytes) {
        memcpy(memory, replay->bytes, replay->size_bytes);
    }
    free(replay->bytes);
    replay->bytes = memory;
    return 0;
}

/* Read so many bytes more, all at once. */
static int journal_read_run(struct replay *replay,
                            const struct store_object *journal, size_t bytes)
{
    const size_t step = REPLAY_STEP_BYTES;
    unsigned count = (unsigned)((bytes + step - 1) / step);
    g_autofree struct store_request *requests =
        g_new0(struct store_request, count);
    g_autofree struct iovec *iov = g_new(struct iovec, count);
    int rc = replay_grow(replay, bytes);

    if (rc < 0) {
        return rc;
    }
    for (unsigned i = 0; i < count; i++) {
        size_t at = replay->size_bytes + i * step;

        iov[i] = (struct iovec){ replay->bytes + at,
                                 MIN(step, bytes - i * step) };
        requests[i] = (struct store_request){
            .op = STORE_READ,
            .object = *journal,
            .offset_bytes = at,
            .length_bytes = iov[i].iov_len,
            .iov = &iov[i],
            .iov_count = 1,
        };
    }
    rc = store_run_all(replay->map->queue, requests, count);
    if (rc == 0) {
        replay->size_bytes += bytes;
    }
    return rc;
}

/* Read the whole of a journal: its length isn't known, so until zeroes.  Beside
 * a writer what is read was all there before, whatever comes meanwhile. */
static int journal_read(struct replay *replay, GError **error)
{
    struct store_object journal = { STORE_JOURNAL, replay->map->header.id,
                                    replay->epoch };
    size_t run;
    int rc = 0;

    while (rc == 0 && replay->size_bytes < REPLAY_BYTES_MAX) {
        struct store_request request = {
            .op = STORE_EXTENT,
            .object = journal,
            .offset_bytes = replay->size_bytes,
            .length_bytes = REPLAY_BYTES_MAX,
        };

        rc = store_run(replay->map->queue, &request);
        if (rc < 0 || (!request.extent.is_data &&
                       request.extent.length_bytes >= REPLAY_BYTES_MAX)) {
            break;      /* nothing but a hole from here on */
        }
        run = MIN(request.extent.length_bytes,
                  REPLAY_BYTES_MAX - replay->size_bytes);
        run = MAX(run + FORMAT_RECORD_ALIGN - 1, FORMAT_RECORD_ALIGN) /
              FORMAT_RECORD_ALIGN * FORMAT_RECORD_ALIGN;
        rc = journal_read_run(replay, &journal, run);
    }
    if (rc == -ENOENT) {
        return 0;       /* vanished: a writer folded it */
    }
    if (rc == 0 && replay->size_bytes >= REPLAY_BYTES_MAX) {
        return replay_fail(replay, replay->size_bytes, error,
                           "it is longer than any can be");
    }
    return rc < 0 ? error_set_errno(error, -rc, "journal %" G_GUINT64_FORMAT,
                                    replay->epoch)
                  : 0;
}

static int epoch_collect(uint64_t number, uint64_t allocated_bytes,
                         void *opaque)
{
    g_array_append_val((GArray *)opaque, number);
    return 0;
}

static gint epoch_compare(gconstpointer a, gconstpointer b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static int replay_epoch(struct map *map, uint64_t epoch, GError **error)
{
    struct replay replay = { .map = map, .epoch = epoch };
    int rc = journal_read(&replay, error);

    if (rc == 0) {
        g_mutex_lock(&map->lock);
        rc = replay_records(&replay, error);
        g_mutex_unlock(&map->lock);
    }
    free(replay.bytes);
    return rc;
}

int map_replay(struct map *map, GError **error)
{
    g_autoptr(GArray) epochs = g_array_new(false, false, sizeof(uint64_t));
    int rc = map->store->driver->list_objects(
        map->store, STORE_JOURNAL, &map->header.id, epoch_collect, epochs,
        error);

    g_array_sort(epochs, epoch_compare);
    for (guint i = 0; rc == 0 && i < epochs->len; i++) {
        uint64_t epoch = g_array_index(epochs, uint64_t, i);

        if (epoch > FORMAT_NUMBER_MAX) {
            rc = error_set(error, EUCLEAN, "there is a journal %"
                           G_GUINT64_FORMAT ", which no map can have counted "
                           "to: move it away", epoch);
        } else if (epoch >= map->journal.oldest_epoch) {
            rc = replay_epoch(map, epoch, error);
            map->journal.epoch = MAX(map->journal.epoch, epoch);
            map->journal.broken = true;     /* never append to an old one */
            map->journal.own_epoch = map->journal.epoch + 1;
            g_array_append_val(map->found, epoch);
        } else {
            struct store_object stale = { STORE_JOURNAL, map->header.id,
                                          epoch };

            g_array_append_val(map->garbage, stale);
        }
    }
    return rc;
}

static int epoch_copy(struct map *map, uint64_t epoch,
                      int (*each)(uint64_t epoch, const void *records,
                                  size_t bytes, void *opaque),
                      void *opaque, GError **error)
{
    struct replay replay = { .map = map, .epoch = epoch };
    int rc = journal_read(&replay, error);
    size_t at = 0, bytes;

    while (rc == 0 && at < replay.size_bytes &&
           (bytes = record_check(&replay, at)) > 0) {
        at += bytes;
    }
    if (rc == 0 && at > 0) {
        rc = each(epoch, replay.bytes, at, opaque);
    }
    free(replay.bytes);
    return rc;
}

int map_journals(struct map *map,
                 int (*each)(uint64_t epoch, const void *records,
                             size_t bytes, void *opaque),
                 void *opaque, GError **error)
{
    g_autoptr(GArray) epochs = g_array_new(false, false, sizeof(uint64_t));
    int rc = map->store->driver->list_objects(
        map->store, STORE_JOURNAL, &map->header.id, epoch_collect, epochs,
        error);

    g_array_sort(epochs, epoch_compare);
    for (guint i = epochs->len; rc == 0 && i-- > 0;) {
        uint64_t epoch = g_array_index(epochs, uint64_t, i);

        if (epoch >= map->stored.journal_epoch) {
            rc = epoch_copy(map, epoch, each, opaque, error);
        }
    }
    return rc;
}
