/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A shrink that fails after it took a while: what others do meanwhile, within
 * the size that it was to have, harms nothing behind that (D12).
 */
#include "fixture.h"

#include "store/fault.h"
#include "volume/volume.h"

#define OBJECT UINT64_C(65536)
#define SIZE (4 * OBJECT)
#define LAST (3 * OBJECT)       /* the object in which the shrink ends */
#define BLOCK 4096u

struct rig {
    struct fixture fixture;
    struct store *fault;
    archip_volume *volume;
    archip_queue *queue;
    uint64_t shrunk;            /* the size to be */
};

static void rig_open(struct rig *rig)
{
    g_autofree char *location =
        g_strdup_printf("fault::%s", rig->fixture.location);

    archip_store_close(rig->fixture.store);
    assert_ok(archip_store_open(location, 0, &rig->fixture.store));
    rig->fault = rig->fixture.store->store;
    rig->queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE,
                                    &rig->volume);
}

/* A volume full of 1, flushed. */
static void rig_begin(struct rig *rig, const char *kind)
{
    fixture_begin(&rig->fixture, kind);
    fixture_create(&rig->fixture, "v", SIZE, OBJECT);
    rig_open(rig);
    fixture_fill(rig->queue, 0, SIZE, 1);
    assert_ok(archip_flush(rig->queue));
}

static void rig_end(struct rig *rig)
{
    fixture_close(rig->volume, rig->queue);
    fixture_end(&rig->fixture);
}

static void arm(struct rig *rig, struct fault_rule rule)
{
    rule.nth = rule.times = 1;
    fault_reset(rig->fault);
    fault_arm(rig->fault, &rule);
}

static void *shrink(void *opaque)
{
    struct rig *rig = opaque;

    return GINT_TO_POINTER(archip_volume_resize(rig->volume, rig->shrunk,
                                                ARCHIP_RESIZE_SHRINK));
}

/* Begin one whose sync of the first object takes its time, then says
 * `errno_value`; returns when requests see the new size. */
static GThread *shrink_begin(struct rig *rig, uint64_t shrunk, int errno_value)
{
    GThread *thread;

    fixture_fill(rig->queue, 0, BLOCK, 1);
    arm(rig, (struct fault_rule){.op = FAULT_SYNC, .errno_value = errno_value,
                                 .delay_ms = 500});
    rig->shrunk = shrunk;
    thread = g_thread_new("shrink", shrink, rig);
    while (archip_volume_size(rig->volume) != shrunk) {
        g_usleep(1000);
    }
    return thread;
}

static void shrink_fails(struct rig *rig, GThread *thread)
{
    g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(thread)), ==, -EIO);
    g_assert_cmpuint(archip_volume_size(rig->volume), ==, SIZE);
}

/* What was behind the end is there, now and later. */
static void expect_rest(struct rig *rig)
{
    fixture_expect(rig->queue, rig->shrunk, SIZE - rig->shrunk, 1);
    fixture_fill(rig->queue, 0, BLOCK, 1);      /* what was lost */
    assert_ok(archip_flush(rig->queue));
    fixture_close(rig->volume, rig->queue);
    rig_open(rig);
    fixture_expect(rig->queue, rig->shrunk, SIZE - rig->shrunk, 1);
}

static void clear_beside(const char *kind, archip_op op, uint64_t shrunk)
{
    archip_request clear = {.op = op, .offset_bytes = LAST,
                            .length_bytes = shrunk - LAST};
    struct rig rig;
    GThread *thread;

    rig_begin(&rig, kind);
    thread = shrink_begin(&rig, shrunk, EIO);
    assert_ok(fixture_run(rig.queue, &clear));
    shrink_fails(&rig, thread);
    fixture_expect(rig.queue, LAST, shrunk - LAST, 0);
    expect_rest(&rig);
    rig_end(&rig);
}

/* It reaches to the end, but the object isn't to be dropped. */
static void test_discard(const void *kind)
{
    clear_beside(kind, ARCHIP_DISCARD, LAST + OBJECT / 2);
}

/* Nor may the rest of a block be cleared with it. */
static void test_zeroes(const void *kind)
{
    clear_beside(kind, ARCHIP_WRITE_ZEROES, LAST + 512);
}

/* A block that can't be synced isn't whole again when it is written as far as
 * the smaller size. */
static void test_lost(const void *kind)
{
    struct rig rig;
    GThread *thread;

    rig_begin(&rig, kind);
    fixture_fill(rig.queue, LAST, BLOCK, 1);
    arm(&rig, (struct fault_rule){.op = FAULT_SYNC, .errno_value = EIO});
    assert_fails(archip_flush(rig.queue), EIO, "");
    thread = shrink_begin(&rig, LAST + 512, 0);
    fixture_fill(rig.queue, LAST, 512, 1);
    shrink_fails(&rig, thread);
    assert_fails(archip_flush(rig.queue), EIO, "");
    fixture_fill(rig.queue, LAST, BLOCK, 1);
    expect_rest(&rig);
    rig_end(&rig);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add("/shrink/discard-beside", test_discard);
    fixture_add("/shrink/zeroes-beside", test_zeroes);
    fixture_add("/shrink/write-to-lost-beside", test_lost);
    return g_test_run();
}
