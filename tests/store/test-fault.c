/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fault store: that rules do what fault.h says. */
#include "harness.h"
#include "store/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint8_t data[4096];

static int write_block(struct fixture *fixture, uint64_t number)
{
    return do_write(fixture, block(fixture, number), 0, data, sizeof(data),
                    STORE_CREATE);
}

static int read_block(struct fixture *fixture, uint64_t number)
{
    return do_read(fixture, block(fixture, number), 0, data, sizeof(data));
}

static int put(struct fixture *fixture)
{
    struct store_record record = {.kind = STORE_NAME, .text = "a"};

    return fixture->store->driver->put(fixture->store, &record, "x", 1, false,
                                       NULL);
}

static bool has_name(struct fixture *fixture)
{
    struct store_record record = {.kind = STORE_NAME, .text = "a"};
    struct store *inner = fault_inner(fixture->store);
    g_autoptr(GBytes) value = NULL;

    return inner->driver->get(inner, &record, &value, NULL) == 0;
}

static void test_nth(void)
{
    struct fixture fixture;

    fixture_open(&fixture, "fault:op=write,nth=3,errno=28,times=2:memory:", 0);
    g_assert_cmpint(write_block(&fixture, 0), ==, 0);
    g_assert_cmpint(read_block(&fixture, 0), ==, 0);
    g_assert_cmpint(write_block(&fixture, 1), ==, 0);
    g_assert_cmpint(write_block(&fixture, 2), ==, -ENOSPC);
    g_assert_cmpint(write_block(&fixture, 2), ==, -ENOSPC);
    g_assert_cmpint(read_block(&fixture, 2), ==, -ENOENT);
    g_assert_cmpint(write_block(&fixture, 2), ==, 0);
    g_assert_cmpuint(fault_count(fixture.store, FAULT_WRITE), ==, 5);
    g_assert_cmpuint(fault_count(fixture.store, FAULT_ANY), ==, 7);
    g_assert_cmpuint(fault_fired(fixture.store), ==, 2);
    fixture_close(&fixture);
}

static void test_for_good(void)
{
    struct fixture fixture;

    fixture_open(&fixture, "fault:op=put,nth=2,times=0;op=read:memory:",
                 STORE_QUEUE_MAY_BLOCK);
    g_assert_cmpint(put(&fixture), ==, 0);
    for (int i = 0; i < 5; i++) {
        g_assert_cmpint(put(&fixture), ==, -EIO);
    }
    g_assert_cmpint(write_block(&fixture, 0), ==, 0);
    g_assert_cmpint(read_block(&fixture, 0), ==, -EIO);
    g_assert_cmpint(read_block(&fixture, 0), ==, 0);
    fault_reset(fixture.store);
    g_assert_cmpint(put(&fixture), ==, 0);
    fixture_close(&fixture);
}

static void test_stop(void)
{
    struct store_owner me = {.owner = "me"};
    struct store_lock *lock;
    struct fixture fixture;
    bool held;

    fixture_open(&fixture, "fault::memory:", 0);
    g_assert_cmpint(write_block(&fixture, 0), ==, 0);
    g_assert_cmpint(fixture.store->driver->lock(
                        fixture.store, &fixture.layer, STORE_LOCK_WRITE, &me,
                        &lock, NULL, NULL), ==, 0);
    fault_arm(fixture.store, &(struct fault_rule){
        .op = FAULT_ANY, .nth = 2, .errno_value = EIO, .stop = true});
    g_assert_cmpint(read_block(&fixture, 0), ==, 0);
    g_assert_cmpint(read_block(&fixture, 0), ==, -EIO);
    g_assert_cmpint(write_block(&fixture, 1), ==, -EIO);
    g_assert_cmpint(put(&fixture), ==, -EIO);
    g_assert_cmpint(lock->store->driver->exclude_readers(lock), ==, -EIO);
    g_assert_cmpint(fixture.store->driver->holder(
                        fixture.store, &fixture.layer, &me, &held, NULL), ==,
                    -EIO);
    g_assert_false(has_name(&fixture));
    lock->store->driver->unlock(lock);
    fault_reset(fixture.store);
    g_assert_cmpint(read_block(&fixture, 0), ==, 0);
    g_assert_cmpint(read_block(&fixture, 1), ==, -ENOENT);
    fixture_close(&fixture);
}

/* Done, but said to have failed. */
static void test_late(void)
{
    struct fixture fixture;

    fixture_open(&fixture,
                 "fault:op=write,late;op=put,late;op=get,late:memory:", 0);
    g_assert_cmpint(write_block(&fixture, 0), ==, -EIO);
    g_assert_cmpint(read_block(&fixture, 0), ==, 0);
    g_assert_cmpint(put(&fixture), ==, -EIO);
    g_assert_true(has_name(&fixture));
    fixture_close(&fixture);
}

static void test_delay(void)
{
    struct fixture fixture;
    int64_t before_us;

    fixture_open(&fixture, "fault:op=read,delay_ms=30,times=0;"
                           "op=put,delay_ms=20,errno=28:memory:", 0);
    g_assert_cmpint(write_block(&fixture, 0), ==, 0);
    for (int i = 0; i < 3; i++) {
        before_us = g_get_monotonic_time();
        g_assert_cmpint(read_block(&fixture, 0), ==, 0);
        g_assert_cmpint(g_get_monotonic_time() - before_us, >=, 30000);
    }
    before_us = g_get_monotonic_time();
    g_assert_cmpint(put(&fixture), ==, -ENOSPC);
    g_assert_cmpint(g_get_monotonic_time() - before_us, >=, 20000);
    fixture_close(&fixture);
}

static int three_steps(struct fixture *fixture)
{
    int result = write_block(fixture, 0);

    result = result < 0 ? result : do_op(fixture, STORE_SYNC,
                                         block(fixture, 0), 0, 0, 0);
    return result < 0 ? result : put(fixture);
}

/* The loop that tests of the layers above run. */
static void test_fault_loop(void)
{
    struct fixture fixture;
    uint64_t nth = 0;

    fixture_open(&fixture, "fault::memory:", 0);
    do {
        nth++;
        fault_reset(fixture.store);
        fault_arm(fixture.store, &(struct fault_rule){
            .op = FAULT_ANY, .nth = nth, .times = 1, .errno_value = EIO});
        g_assert_cmpint(three_steps(&fixture), ==,
                        fault_fired(fixture.store) ? -EIO : 0);
    } while (fault_fired(fixture.store) > 0);
    g_assert_cmpuint(nth, ==, 4);
    fixture_close(&fixture);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fault/nth", test_nth);
    g_test_add_func("/fault/for-good", test_for_good);
    g_test_add_func("/fault/stop", test_stop);
    g_test_add_func("/fault/late", test_late);
    g_test_add_func("/fault/delay", test_delay);
    g_test_add_func("/fault/fault-loop", test_fault_loop);
    return g_test_run();
}
