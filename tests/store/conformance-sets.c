/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Conformance: all objects of an id at once. */
#include "conformance.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct seen {
    uint64_t count, number_sum, least_bytes;
    int stop_after;
};

static int note(uint64_t number, uint64_t allocated_bytes, void *opaque)
{
    struct seen *seen = opaque;

    seen->count++;
    seen->number_sum += number;
    seen->least_bytes = seen->count == 1
                            ? allocated_bytes
                            : MIN(seen->least_bytes, allocated_bytes);
    return seen->stop_after && (int)seen->count == seen->stop_after ? 5 : 0;
}

static struct seen list(struct fixture *fixture, enum store_kind kind,
                        const struct id128 *id)
{
    struct seen seen = {0};

    g_assert_cmpint(fixture->store->driver->list_objects(
                        fixture->store, kind, id, note, &seen, NULL), ==, 0);
    return seen;
}

static void make(struct fixture *fixture, enum store_kind kind,
                 struct id128 id, uint64_t number)
{
    struct store_object object = {kind, id, number};
    uint8_t *data = make_buffer(4096, 1);

    g_assert_cmpint(do_write(fixture, object, 0, data, 4096,
                             STORE_CREATE | STORE_FUA), ==, 0);
    free(data);
}

/* 3 objects of each kind. */
static void make_nine(struct fixture *fixture, struct id128 id)
{
    for (int kind = STORE_BLOCK; kind <= STORE_JOURNAL; kind++) {
        make(fixture, (enum store_kind)kind, id, (uint64_t)kind + 1);
        make(fixture, (enum store_kind)kind, id, (uint64_t)kind + 1000);
        make(fixture, (enum store_kind)kind, id, (uint64_t)kind + 1000000);
    }
}

static void test_list_objects(struct fixture *fixture)
{
    struct id128 nobody = id128_random();
    struct seen seen;

    make_nine(fixture, fixture->layer);
    for (int kind = STORE_BLOCK; kind <= STORE_JOURNAL; kind++) {
        seen = list(fixture, (enum store_kind)kind, &fixture->layer);
        g_assert_cmpuint(seen.count, ==, 3);
        g_assert_cmpuint(seen.number_sum, ==, 1001001 + 3 * (uint64_t)kind);
        g_assert_cmpuint(seen.least_bytes, >=, 4096);
        g_assert_cmpuint(list(fixture, (enum store_kind)kind, &nobody).count,
                         ==, 0);
    }
    seen = (struct seen){.stop_after = 2};
    g_assert_cmpint(fixture->store->driver->list_objects(
                        fixture->store, STORE_BLOCK, &fixture->layer, note,
                        &seen, NULL), ==, 5);
    g_assert_cmpuint(seen.count, ==, 2);
}

static void test_allocated(struct fixture *fixture)
{
    struct store_object object = block(fixture, 3);
    g_autoptr(GError) error = NULL;
    uint64_t bytes = 0;

    g_assert_cmpint(fixture->store->driver->allocated(fixture->store, &object,
                                                      &bytes, &error),
                    ==, -ENOENT);
    g_assert_cmpint(error->code, ==, ENOENT);
    make(fixture, STORE_BLOCK, fixture->layer, 3);
    g_assert_cmpint(fixture->store->driver->allocated(fixture->store, &object,
                                                      &bytes, NULL), ==, 0);
    g_assert_cmpuint(bytes, >=, 4096);
    g_assert_cmpuint(bytes, <=, 65536);
}

static void test_sync_all(struct fixture *fixture)
{
    struct id128 nobody = id128_random();
    uint8_t *data = make_buffer(65536, 2);

    g_assert_cmpint(do_write(fixture, block(fixture, 1), 0, data, 65536,
                             STORE_CREATE), ==, 0);
    g_assert_cmpint(fixture->store->driver->sync_all(
                        fixture->store, STORE_BLOCK, &fixture->layer, NULL),
                    ==, 0);
    g_assert_cmpint(fixture->store->driver->sync_all(
                        fixture->store, STORE_PAGE, &nobody, NULL), ==, 0);
    free(data);
}

static void test_remove_all(struct fixture *fixture)
{
    struct store_record header = {.kind = STORE_HEADER, .id = fixture->layer};
    const struct store_driver *driver = fixture->store->driver;
    struct id128 other = id128_random();
    g_autoptr(GBytes) value = NULL;
    uint8_t *data = make_buffer(4096, 3);

    make_nine(fixture, fixture->layer);
    make_nine(fixture, other);
    g_assert_cmpint(driver->put(fixture->store, &header, "h", 1, false, NULL),
                    ==, 0);
    g_assert_cmpint(driver->remove_all(fixture->store, STORE_BLOCK,
                                       &fixture->layer, NULL), ==, 0);
    g_assert_cmpuint(list(fixture, STORE_BLOCK, &fixture->layer).count, ==, 0);
    g_assert_cmpuint(list(fixture, STORE_PAGE, &fixture->layer).count, ==, 3);
    g_assert_cmpint(do_read(fixture, block(fixture, 1), 0, data, 4096), ==,
                    -ENOENT);
    g_assert_cmpint(driver->remove_all(fixture->store, STORE_PAGE,
                                       &fixture->layer, NULL), ==, 0);
    g_assert_cmpuint(list(fixture, STORE_PAGE, &fixture->layer).count, ==, 0);
    g_assert_cmpuint(list(fixture, STORE_JOURNAL, &fixture->layer).count, ==,
                     0);
    g_assert_cmpint(driver->get(fixture->store, &header, &value, NULL), ==,
                    -ENOENT);
    /* Again, and with nothing there. */
    g_assert_cmpint(driver->remove_all(fixture->store, STORE_BLOCK,
                                       &fixture->layer, NULL), ==, 0);
    for (int kind = STORE_BLOCK; kind <= STORE_JOURNAL; kind++) {
        g_assert_cmpuint(list(fixture, (enum store_kind)kind, &other).count,
                         ==, 3);
    }
    /* The names can be used again. */
    make(fixture, STORE_BLOCK, fixture->layer, 1);
    g_assert_cmpint(do_read(fixture, block(fixture, 1), 0, data, 4096), ==, 0);
    free(data);
}

/* --- For check and repair ------------------------------------------------- */

static int find_id(const struct id128 *id, void *opaque)
{
    return id128_equal(id, opaque) ? 7 : 0;
}

static bool has_id(struct fixture *fixture, enum store_kind kind,
                   struct id128 id)
{
    return fixture->store->driver->list_ids(fixture->store, kind, find_id, &id,
                                            NULL) == 7;
}

static void test_list_ids(struct fixture *fixture)
{
    struct id128 only_blocks = id128_random(), only_header = id128_random();
    struct store_record header = {STORE_HEADER, only_header, NULL};

    make_nine(fixture, fixture->layer);
    make(fixture, STORE_BLOCK, only_blocks, 1);
    g_assert_cmpint(fixture->store->driver->put(fixture->store, &header, "h",
                                                1, false, NULL), ==, 0);
    for (int kind = STORE_BLOCK; kind <= STORE_JOURNAL; kind++) {
        bool map = kind != STORE_BLOCK;

        g_assert_true(has_id(fixture, (enum store_kind)kind, fixture->layer));
        g_assert_true(has_id(fixture, (enum store_kind)kind, only_blocks) !=
                      map);
        g_assert_true(has_id(fixture, (enum store_kind)kind, only_header) ==
                      map);
        g_assert_false(has_id(fixture, (enum store_kind)kind,
                              id128_random()));
    }
}

static struct seen list_sizes(struct fixture *fixture, enum store_kind kind)
{
    struct seen seen = {0};

    g_assert_cmpint(fixture->store->driver->list_sizes(
                        fixture->store, kind, &fixture->layer, note, &seen,
                        NULL), ==, 0);
    return seen;
}

static void test_list_sizes(struct fixture *fixture)
{
    uint8_t *data = make_buffer(8192, 1);
    struct seen seen;

    make_nine(fixture, fixture->layer);
    for (int kind = STORE_BLOCK; kind <= STORE_JOURNAL; kind++) {
        seen = list_sizes(fixture, (enum store_kind)kind);
        g_assert_cmpuint(seen.count, ==, 3);
        g_assert_cmpuint(seen.number_sum, ==, 1001001 + 3 * (uint64_t)kind);
        g_assert_cmpuint(seen.least_bytes, ==,
                         fixture->store->full_size ? 4u << 20 : 4096);
    }
    g_assert_cmpint(do_write(fixture, block(fixture, 2), 65536, data, 8192,
                             STORE_CREATE), ==, 0);
    seen = (struct seen){.stop_after = 4};
    g_assert_cmpint(fixture->store->driver->list_sizes(
                        fixture->store, STORE_BLOCK, &fixture->layer, note,
                        &seen, NULL), ==, 5);
    free(data);
}

static void test_trim(struct fixture *fixture)
{
    const struct store_driver *driver = fixture->store->driver;
    struct store_object object = block(fixture, 3), none = block(fixture, 4);
    uint8_t *data = make_buffer(65536, 1), *back = make_buffer(65536, 2);

    g_assert_cmpint(do_write(fixture, object, 0, data, 65536,
                             STORE_CREATE | STORE_FUA), ==, 0);
    g_assert_cmpint(driver->trim(fixture->store, &object, 16384, NULL), ==,
                    0);
    g_assert_cmpuint(list_sizes(fixture, STORE_BLOCK).least_bytes, ==, 16384);
    g_assert_cmpint(do_read(fixture, object, 0, back, 65536), ==, 0);
    g_assert_cmpint(memcmp(data, back, 16384), ==, 0);
    g_assert_true(is_all(back + 16384, 0, 65536 - 16384));
    g_assert_cmpint(driver->trim(fixture->store, &none, 16384, NULL), ==,
                    -ENOENT);
    free(data);
    free(back);
}

/* What was set aside is nowhere, and can come back, unless its place is
 * taken. */
static void test_set_aside(struct fixture *fixture)
{
    const struct store_driver *driver = fixture->store->driver;
    struct store_thing thing = {.type = STORE_THING_OBJECT,
                                .object = block(fixture, 3)};
    uint8_t *data = make_buffer(4096, 1), *back = make_buffer(4096, 2);

    g_assert_cmpint(driver->set_aside(fixture->store, &thing, NULL), ==, 0);
    g_assert_cmpint(driver->take_back(fixture->store, &thing, NULL), ==,
                    -ENOENT);
    g_assert_cmpint(do_write(fixture, thing.object, 0, data, 4096,
                             STORE_CREATE | STORE_FUA), ==, 0);
    g_assert_cmpint(driver->set_aside(fixture->store, &thing, NULL), ==, 0);
    g_assert_cmpint(do_read(fixture, thing.object, 0, back, 4096), ==,
                    -ENOENT);
    g_assert_cmpint(do_write(fixture, thing.object, 0, back, 4096,
                             STORE_CREATE | STORE_FUA), ==, 0);
    g_assert_cmpint(driver->take_back(fixture->store, &thing, NULL), ==,
                    -EEXIST);
    g_assert_cmpint(do_op(fixture, STORE_REMOVE, thing.object, 0, 0, 0), ==,
                    0);
    g_assert_cmpint(driver->take_back(fixture->store, &thing, NULL), ==, 0);
    g_assert_cmpint(do_read(fixture, thing.object, 0, back, 4096), ==, 0);
    g_assert_cmpint(memcmp(data, back, 4096), ==, 0);
    free(data);
    free(back);
}

static void test_set_aside_set(struct fixture *fixture)
{
    const struct store_driver *driver = fixture->store->driver;
    struct store_thing thing = {.type = STORE_THING_SET,
                                .object = {STORE_BLOCK, fixture->layer, 0}};

    make_nine(fixture, fixture->layer);
    g_assert_cmpint(driver->set_aside(fixture->store, &thing, NULL), ==, 0);
    g_assert_false(has_id(fixture, STORE_BLOCK, fixture->layer));
    g_assert_true(has_id(fixture, STORE_PAGE, fixture->layer));
    g_assert_cmpuint(list(fixture, STORE_BLOCK, &fixture->layer).count, ==, 0);
    g_assert_cmpint(driver->take_back(fixture->store, &thing, NULL), ==, 0);
    g_assert_cmpuint(list(fixture, STORE_BLOCK, &fixture->layer).count, ==, 3);
    thing.object.kind = STORE_PAGE;
    g_assert_cmpint(driver->set_aside(fixture->store, &thing, NULL), ==, 0);
    g_assert_cmpuint(list(fixture, STORE_PAGE, &fixture->layer).count, ==, 0);
    g_assert_cmpuint(list(fixture, STORE_JOURNAL, &fixture->layer).count, ==,
                     0);
    g_assert_cmpuint(list(fixture, STORE_BLOCK, &fixture->layer).count, ==, 3);
}

static void test_set_aside_record(struct fixture *fixture)
{
    const struct store_driver *driver = fixture->store->driver;
    struct store_thing thing = {.type = STORE_THING_RECORD,
                                .record = {.kind = STORE_NAME, .text = "a"}};
    g_autoptr(GBytes) value = NULL;

    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(driver->put(fixture->store, &thing.record, "x", 1,
                                    true, NULL), ==, 0);
        g_assert_cmpint(driver->set_aside(fixture->store, &thing, NULL), ==,
                        0);
        g_assert_cmpint(driver->get(fixture->store, &thing.record, &value,
                                    NULL), ==, -ENOENT);
    }
}

static void test_reset_lock(struct fixture *fixture)
{
    const struct store_driver *driver = fixture->store->driver;
    struct store_owner me = {.owner = "test"};
    struct store_lock *lock;

    g_assert_cmpint(driver->lock(fixture->store, &fixture->layer,
                                 STORE_LOCK_WRITE, &me, &lock, NULL, NULL),
                    ==, 0);
    g_assert_cmpint(driver->reset_lock(fixture->store, &fixture->layer, NULL),
                    ==, -EBUSY);
    driver->unlock(lock);
    g_assert_cmpint(driver->reset_lock(fixture->store, &fixture->layer, NULL),
                    ==, 0);
}

void conformance_sets(void)
{
    conformance_add_once("/sets/list-ids", test_list_ids);
    conformance_add_once("/sets/list-sizes", test_list_sizes);
    conformance_add("/sets/trim", test_trim);
    conformance_add("/sets/set-aside", test_set_aside);
    conformance_add_once("/sets/set-aside-set", test_set_aside_set);
    conformance_add_once("/sets/set-aside-record", test_set_aside_record);
    conformance_add_once("/sets/reset-lock", test_reset_lock);
    conformance_add_once("/sets/list-objects", test_list_objects);
    conformance_add_once("/sets/allocated", test_allocated);
    conformance_add("/sets/sync-all", test_sync_all);
    conformance_add("/sets/remove-all", test_remove_all);
}
