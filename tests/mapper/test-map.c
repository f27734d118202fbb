/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map from inside: trees that grow, pages under a bound, journals that
 * continue from one epoch to the next, and the two-object rule.
 */
#include "archipelago.h"
#include "base/crc32c.h"
#include "mapper/map.h"
#include "volume/volume.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define PIB (UINT64_C(1) << 50)
#define OBJECT 65536u
#define BLOCK 4096u

struct fixture {
    archip_store *store;
    archip_volume *volume;
    archip_queue *queue;
    uint8_t *buffer;
};

static void must(int rc)
{
    if (rc < 0) {
        g_error("%s", archip_error());
    }
}

static void open_volume(struct fixture *f)
{
    must(archip_volume_open(f->store, "v", ARCHIP_OPEN_WRITE, "test-map",
                            &f->volume));
    must(archip_queue_open(f->volume, 0, &f->queue));
}

static void close_volume(struct fixture *f)
{
    archip_queue_close(f->queue);
    must(archip_volume_close(f->volume));
}

static void setup(struct fixture *f, gconstpointer size)
{
    static unsigned count;
    g_autofree char *location = g_strdup_printf("memory:map-%u", count++);
    archip_create_options options = { .object_bytes = OBJECT };

    must(archip_store_open(location, ARCHIP_STORE_CREATE, &f->store));
    must(archip_volume_create(f->store, "v", *(const uint64_t *)size,
                              &options));
    f->buffer = g_malloc0(OBJECT);
    open_volume(f);
}

static void teardown(struct fixture *f, gconstpointer size)
{
    close_volume(f);
    archip_store_close(f->store);
    g_free(f->buffer);
}

static void put(struct fixture *f, uint64_t offset, size_t bytes, uint8_t value)
{
    memset(f->buffer, value, bytes);
    must(archip_write(f->queue, f->buffer, bytes, offset, 0));
}

static void expect(struct fixture *f, uint64_t offset, size_t bytes,
                   uint8_t value)
{
    memset(f->buffer, ~value, bytes);
    must(archip_read(f->queue, f->buffer, bytes, offset));
    for (size_t i = 0; i < bytes; i++) {
        g_assert_cmpuint(f->buffer[i], ==, value);
    }
}

static struct map_entry entry_of(struct fixture *f, uint64_t index,
                                 struct map_bits *bits)
{
    struct map_entry entry;
    struct map_page *wanted;

    memset(bits, 0, sizeof(*bits));
    g_mutex_lock(&f->volume->map->lock);
    g_assert_cmpint(map_lookup(f->volume->map, index, &entry, bits, &wanted,
                               NULL), ==, 0);
    g_mutex_unlock(&f->volume->map->lock);
    return entry;
}

static unsigned count_bits(const struct map_bits *bits)
{
    unsigned count = 0;

    for (unsigned i = 0; i < MAP_BLOCKS_MAX; i++) {
        count += map_bit(bits, i);
    }
    return count;
}

static void freeze(struct fixture *f)
{
    archip_queue_close(f->queue);
    must(volume_freeze(f->volume));
    must(archip_queue_open(f->volume, 0, &f->queue));
}

/* --- Trees ------------------------------------------------------------------ */

/* From the first page to the last of a petabyte, in an order that makes the
 * tree grow by more than one level at once. */
static void test_tree_grows(struct fixture *f, gconstpointer size)
{
    static const uint64_t indices[] = {
        0, 8175, 8176, UINT64_C(8176) * 2044 - 1, UINT64_C(8176) * 2044,
        PIB / OBJECT - 1,
    };

    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(indices); i++) {
            put(f, indices[i] * OBJECT, 512, (uint8_t)(i + 1 + round));
            close_volume(f);
            open_volume(f);
            for (unsigned j = 0; j <= i; j++) {
                expect(f, indices[j] * OBJECT, 512, (uint8_t)(j + 1 + round));
            }
        }
    }
    g_assert_cmpuint(f->volume->map->header.object_count, ==,
                     G_N_ELEMENTS(indices));
    g_assert_cmpuint(f->volume->map->header.entries.height, ==, 3);
}

static void test_tree_far_first(struct fixture *f, gconstpointer size)
{
    put(f, PIB - 512, 512, 9);
    close_volume(f);
    open_volume(f);
    expect(f, PIB - 512, 512, 9);
    put(f, 0, 512, 8);
    close_volume(f);
    open_volume(f);
    expect(f, 0, 512, 8);
    expect(f, PIB - 512, 512, 9);
}

/* A tree all of whose entries are gone keeps no page. */
static void test_tree_empties(struct fixture *f, gconstpointer size)
{
    archip_usage usage;

    put(f, PIB / 2, OBJECT, 1);
    put(f, 0, OBJECT, 1);
    close_volume(f);
    open_volume(f);
    must(archip_discard(f->queue, 0, PIB));
    must(archip_flush(f->queue));
    close_volume(f);
    open_volume(f);
    g_assert_true(ref_is_null(&f->volume->map->header.entries.root));
    must(archip_volume_get_usage(f->volume, &usage));
    g_assert_cmpuint(usage.object_count, ==, 0);
    g_assert_cmpuint(usage.allocated_bytes, ==, 0);
    expect(f, PIB / 2, OBJECT, 0);
}

static void settle(struct fixture *f)
{
    must(volume_settle(f->volume, false, NULL));
}

static void test_cache_bound(struct fixture *f, gconstpointer size)
{
    const unsigned pages = 6 * MAP_CACHE_PAGES;
    guint length = 0;

    for (unsigned i = 0; i < pages; i++) {
        put(f, (uint64_t)i * 8176 * OBJECT, 512, (uint8_t)(i % 255 + 1));
        g_mutex_lock(&f->volume->map->lock);
        length = MAX(length, f->volume->map->lru.length);
        g_mutex_unlock(&f->volume->map->lock);
    }
    settle(f);
    for (unsigned i = 0; i < pages; i++) {
        expect(f, (uint64_t)i * 8176 * OBJECT, 512, (uint8_t)(i % 255 + 1));
    }
    /* What is dirty while it is being saved may come on top. */
    g_assert_cmpuint(length, <=, 4 * MAP_CACHE_PAGES);
    g_assert_cmpuint(f->volume->map->lru.length, <=, 2 * MAP_CACHE_PAGES);
}

/* --- Journal --------------------------------------------------------------------- */

/* Map, lock and all are left as a killed process leaves them. */
static void crash(struct fixture *f)
{
    struct map *map = f->volume->map;

    archip_queue_close(f->queue);
    background_wait(f->volume);
    f->volume->map = NULL;
    g_atomic_int_set(&f->volume->active, 0);
    map->store->driver->unlock(f->volume->write_lock);
    f->volume->write_lock = NULL;
    map_free(map);
    g_hash_table_remove_all(f->volume->objects);
    g_queue_init(&f->volume->unsynced);
    must(archip_volume_close(f->volume));
}

static void test_journal_replay(struct fixture *f, gconstpointer size)
{
    for (unsigned i = 0; i < 100; i++) {
        put(f, i * (uint64_t)OBJECT, 512, (uint8_t)(i + 1));
        must(archip_flush(f->queue));
    }
    g_assert_cmpuint(f->volume->map->journal.offset_bytes, ==,
                     100 * FORMAT_RECORD_ALIGN);
    crash(f);
    open_volume(f);
    for (unsigned i = 0; i < 100; i++) {
        expect(f, i * (uint64_t)OBJECT, 512, (uint8_t)(i + 1));
    }
    g_assert_cmpuint(f->volume->map->header.object_count, ==, 100);
}

static void test_journal_unflushed_is_forgotten(struct fixture *f,
                                                gconstpointer size)
{
    put(f, 0, 512, 1);
    must(archip_flush(f->queue));
    put(f, OBJECT, OBJECT, 2);
    crash(f);
    open_volume(f);
    expect(f, 0, 512, 1);
    expect(f, OBJECT, OBJECT, 0);
    /* The object is there, with its data; the name is used anew, empty. */
    put(f, OBJECT, 512, 3);
    expect(f, OBJECT + 512, OBJECT - 512, 0);
}

/* More items than one record takes go in several, in one flush. */
static void test_journal_many_items(struct fixture *f, gconstpointer size)
{
    struct map *map = f->volume->map;
    const unsigned count = 200000;

    g_mutex_lock(&map->lock);
    for (uint64_t i = 0; i < count; i++) {
        struct map_cursor cursor = { 0 };
        struct map_page *wanted;

        g_assert_cmpint(map_pin(map, i, &cursor, &wanted, NULL), ==, 0);
        map_set(map, &cursor, (struct map_entry){ 1, 0 }, NULL);
        map_unpin(&cursor);
    }
    g_mutex_unlock(&map->lock);
    must(archip_flush(f->queue));
    g_assert_cmpuint(g_hash_table_size(map->dirty), ==, 0);
    g_assert_cmpuint(map->journal.offset_bytes, >, FORMAT_RECORD_BYTES_MAX / 2);
    crash(f);
    open_volume(f);
    g_assert_cmpuint(f->volume->map->header.object_count, ==, count);
}

static void test_journal_folds(struct fixture *f, gconstpointer size)
{
    for (unsigned i = 0; i < 3 * MAP_JOURNAL_BYTES / FORMAT_RECORD_ALIGN; i++) {
        put(f, i * (uint64_t)OBJECT, 512, (uint8_t)(i % 255 + 1));
        must(archip_flush(f->queue));
    }
    background_wait(f->volume);
    g_assert_cmpuint(f->volume->map->journal.oldest_epoch, >, 2);
    g_assert_cmpuint(f->volume->map->journal.offset_bytes, <=,
                     MAP_JOURNAL_BYTES + FORMAT_RECORD_ALIGN);
    crash(f);
    open_volume(f);
    for (unsigned i = 0; i < 3 * MAP_JOURNAL_BYTES / FORMAT_RECORD_ALIGN; i++) {
        expect(f, i * (uint64_t)OBJECT, 512, (uint8_t)(i % 255 + 1));
    }
}

/* --- The two-object rule -------------------------------------------------------------- */

static void test_cow_over_whole(struct fixture *f, gconstpointer size)
{
    struct map_entry entry;
    struct map_bits bits;

    put(f, 0, OBJECT, 1);
    freeze(f);
    put(f, 3 * BLOCK, BLOCK, 2);
    entry = entry_of(f, 0, &bits);
    g_assert_cmpuint(entry.layer, ==, 2);
    g_assert_cmpuint(entry.base, ==, 1);
    g_assert_cmpuint(count_bits(&bits), ==, 1);
    /* Less than a block copies the rest of it, and nothing else. */
    put(f, 5 * BLOCK + 100, 10, 3);
    entry_of(f, 0, &bits);
    g_assert_cmpuint(count_bits(&bits), ==, 2);
    expect(f, 0, 3 * BLOCK, 1);
    expect(f, 3 * BLOCK, BLOCK, 2);
    expect(f, 4 * BLOCK, BLOCK + 100, 1);
    expect(f, 5 * BLOCK + 100, 10, 3);
    expect(f, 5 * BLOCK + 110, OBJECT - 5 * BLOCK - 110, 1);
}

/* When every block was written, the object is whole. */
static void test_cow_becomes_whole(struct fixture *f, gconstpointer size)
{
    struct map_entry entry;
    struct map_bits bits;

    put(f, 0, OBJECT, 1);
    freeze(f);
    for (unsigned i = 0; i < OBJECT / BLOCK; i++) {
        put(f, i * (uint64_t)BLOCK, BLOCK, 2);
    }
    entry = entry_of(f, 0, &bits);
    g_assert_cmpuint(entry.layer, ==, 2);
    g_assert_cmpuint(entry.base, ==, 0);
    expect(f, 0, OBJECT, 2);
}

/* Over a frozen partial object at most half is copied, from whichever of its
 * two has fewer blocks to give, and chains never grow. */
static void test_cow_over_partial(struct fixture *f, gconstpointer size)
{
    static const unsigned written[] = { 1, 2, 7, 8, 9, 14, 15 };
    const unsigned total = OBJECT / BLOCK;

    for (unsigned n = 0; n < G_N_ELEMENTS(written); n++) {
        uint64_t offset = n * (uint64_t)OBJECT;
        unsigned count = written[n];
        struct map_entry entry;
        struct map_bits bits;

        put(f, offset, OBJECT, 1);
        freeze(f);
        put(f, offset, count * BLOCK, 2);
        freeze(f);
        put(f, offset + (total - 1) * BLOCK, BLOCK, 3);
        entry = entry_of(f, n, &bits);
        g_assert_cmpuint(entry.layer, ==,
                         f->volume->map->header.current_layer);
        g_assert_cmpuint(entry.base, !=, 0);
        g_assert_cmpuint(count_bits(&bits), <=, total / 2 + 1);
        expect(f, offset, count * BLOCK, 2);
        if (count < total - 1) {
            expect(f, offset + count * BLOCK, (total - 1 - count) * BLOCK, 1);
        }
        expect(f, offset + (total - 1) * BLOCK, BLOCK, 3);
    }
}

/* A discarded block of a partial object is present and a hole. */
static void test_cow_discard(struct fixture *f, gconstpointer size)
{
    struct map_entry entry;
    struct map_bits bits;

    put(f, 0, OBJECT, 1);
    freeze(f);
    must(archip_discard(f->queue, 2 * BLOCK, BLOCK));
    entry = entry_of(f, 0, &bits);
    g_assert_cmpuint(entry.base, ==, 1);
    g_assert_cmpuint(count_bits(&bits), ==, 1);
    expect(f, 0, 2 * BLOCK, 1);
    expect(f, 2 * BLOCK, BLOCK, 0);
    expect(f, 3 * BLOCK, OBJECT - 3 * BLOCK, 1);
    must(archip_discard(f->queue, 0, OBJECT));
    g_assert_cmpuint(entry_of(f, 0, &bits).layer, ==, 0);
    expect(f, 0, OBJECT, 0);
}

static void test_cow_many_layers(struct fixture *f, gconstpointer size)
{
    for (unsigned i = 0; i < 1200; i++) {
        put(f, i % 16 * (uint64_t)BLOCK, BLOCK, (uint8_t)(i % 255 + 1));
        freeze(f);
    }
    close_volume(f);
    open_volume(f);
    for (unsigned i = 1200 - 16; i < 1200; i++) {
        expect(f, i % 16 * (uint64_t)BLOCK, BLOCK, (uint8_t)(i % 255 + 1));
    }
}

/* --- Pages that change while they are out of sight ------------------------------------ */

/* An inner page that a fold emptied leads nowhere any more, also in memory. */
static void test_inner_page_empties(struct fixture *f, gconstpointer size)
{
    const uint64_t leaf = MAP_ENTRIES_PER_PAGE * (uint64_t)OBJECT;
    const uint64_t far = leaf * FORMAT_REFS_PER_PAGE;

    put(f, 0, BLOCK, 1);
    put(f, far, BLOCK, 2);
    settle(f);
    must(archip_discard(f->queue, far, OBJECT));
    settle(f);
    for (unsigned i = 1; i < 2 * MAP_CACHE_PAGES; i++) {
        put(f, i * leaf, BLOCK, 3);
        expect(f, far + leaf, BLOCK, 0);
        if (i % 32 == 0) {
            settle(f);
        }
    }
    expect(f, far, BLOCK, 0);
}

/* A page that a fold replaced while its old self was being read is the new
 * one. */
static void test_inner_page_replaced(struct fixture *f, gconstpointer size)
{
    const uint64_t leaf = MAP_ENTRIES_PER_PAGE * (uint64_t)OBJECT;
    struct page_data *data = page_data_new();
    struct map_page *page;
    struct map *map;

    put(f, 0, BLOCK, 1);
    put(f, leaf, BLOCK, 2);
    close_volume(f);
    open_volume(f);
    map = f->volume->map;
    g_mutex_lock(&map->lock);
    g_assert_cmpint(page_find(map, FORMAT_ENTRIES, 1, 0, &page, NULL), ==,
                    -EAGAIN);
    g_assert_true(map_page_claim(page));
    page_replace(map, page->key, data);
    g_assert_cmpint(store_run(map->queue, &page->request), ==, 0);
    g_assert_cmpint(map_page_loaded(map, page, NULL), ==, 0);
    g_assert_true(page->data == data);
    g_mutex_unlock(&map->lock);
    page_data_unref(data);
}

/* --- Bytes from outside --------------------------------------------------------------- */

static void test_header_refusals(void)
{
    struct id128 id = id128_random();
    struct map_header header = {
        .flags = FORMAT_HEADER_CLEAN, .id = id, .size_bytes = MIB,
        .object_bytes = OBJECT, .block_bytes = BLOCK, .journal_epoch = 1,
        .journal_sequence = 1, .current_layer = 1, .next_layer = 2,
        .current_layer_id = id, .next_page = 1,
    }, decoded;
    g_autoptr(GBytes) good = NULL;
    g_autofree char *tag = NULL;
    gsize size;
    const uint8_t *bytes;

    header_add_tag(&header, "description", "blue");
    good = header_encode(&header);
    bytes = g_bytes_get_data(good, &size);
    g_assert_cmpint(header_decode(good, &id, true, &decoded, NULL), ==, 0);
    tag = header_tag(&decoded, "description");
    g_assert_cmpstr(tag, ==, "blue");
    header_clear(&decoded);
    for (gsize i = 0; i < size; i++) {
        g_autofree uint8_t *bad = g_memdup2(bytes, size);
        g_autoptr(GBytes) value = NULL;
        g_autoptr(GError) error = NULL;

        bad[i] ^= 0x10;
        value = g_bytes_new(bad, size);
        g_assert_cmpint(header_decode(value, &id, true, &decoded, &error), ==,
                        -EUCLEAN);
        g_assert_nonnull(error);
    }
    header_clear(&header);
}

static int decode_with_features(uint64_t readonly, uint64_t incompatible,
                                bool for_write, char **text)
{
    struct id128 id = id128_random();
    struct map_header header = {
        .id = id, .object_bytes = OBJECT, .block_bytes = BLOCK,
        .journal_epoch = 1, .journal_sequence = 1, .current_layer = 1,
        .next_layer = 2, .current_layer_id = id, .next_page = 1,
        .features_readonly = readonly, .features_incompatible = incompatible,
    }, decoded;
    g_autoptr(GBytes) value = header_encode(&header);
    g_autoptr(GError) error = NULL;
    int rc = header_decode(value, &id, for_write, &decoded, &error);

    *text = g_strdup(error ? error->message : "");
    return rc;
}

static void test_header_features(void)
{
    g_autofree char *a = NULL, *b = NULL, *c = NULL;

    g_assert_cmpint(decode_with_features(0, 6, false, &a), ==, -EOPNOTSUPP);
    g_assert_nonnull(strstr(a, "0x6"));
    g_assert_cmpint(decode_with_features(4, 0, true, &b), ==, -EROFS);
    g_assert_nonnull(strstr(b, "0x4"));
    g_assert_cmpint(decode_with_features(4, 0, false, &c), ==, 0);
}

#define ADD(name, size, function) \
    g_test_add("/map/" name, struct fixture, size, setup, function, teardown)

int main(int argc, char **argv)
{
    static const uint64_t pib = PIB, gib = 1024 * MIB;

    g_test_init(&argc, &argv, NULL);
    ADD("tree/grows", &pib, test_tree_grows);
    ADD("tree/far-first", &pib, test_tree_far_first);
    ADD("tree/empties", &pib, test_tree_empties);
    ADD("cache/bound", &pib, test_cache_bound);
    ADD("journal/replay", &gib, test_journal_replay);
    ADD("journal/unflushed-is-forgotten", &gib,
        test_journal_unflushed_is_forgotten);
    ADD("journal/many-items", &pib, test_journal_many_items);
    ADD("journal/folds", &gib, test_journal_folds);
    ADD("pages/inner-empties", &pib, test_inner_page_empties);
    ADD("pages/inner-replaced", &pib, test_inner_page_replaced);
    ADD("cow/over-whole", &gib, test_cow_over_whole);
    ADD("cow/becomes-whole", &gib, test_cow_becomes_whole);
    ADD("cow/over-partial", &gib, test_cow_over_partial);
    ADD("cow/discard", &gib, test_cow_discard);
    ADD("cow/many-layers", &gib, test_cow_many_layers);
    g_test_add_func("/map/header/refusals", test_header_refusals);
    g_test_add_func("/map/header/features", test_header_features);
    return g_test_run();
}
