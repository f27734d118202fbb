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

void conformance_sets(void)
{
    conformance_add_once("/sets/list-objects", test_list_objects);
    conformance_add_once("/sets/allocated", test_allocated);
    conformance_add("/sets/sync-all", test_sync_all);
    conformance_add("/sets/remove-all", test_remove_all);
}
