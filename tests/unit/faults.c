/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault loop: the Nth operation on the store fails, for N = 1, 2, ... until
 * none does, once and then for good, in each phase of a volume's life.
 *
 * Whatever fails: no crash, no hang, no descriptor lost; the call says so or
 * isn't harmed; afterwards, without faults, the volume opens, all that was
 * flushed before is there, and each block is old or new.
 */
#include "fixture.h"

#include "store/fault.h"
#include "volume/volume.h"

#define SIZE (2 * MIB)
#define BLOCKS 5u
#define BLOCK 4096u
#define STEP 65536u         /* each block in an object of its own */
#define NTH_MAX 400u

struct rig {
    struct fixture fixture;
    struct store *fault;
};

static void rig_open_store(struct rig *rig)
{
    g_autofree char *location =
        g_strdup_printf("fault::%s", rig->fixture.location);

    archip_store_close(rig->fixture.store);
    assert_ok(archip_store_open(location, 0, &rig->fixture.store));
    rig->fault = rig->fixture.store->store;
}

static void fill_blocks(archip_queue *queue, uint8_t byte)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        fixture_fill(queue, i * STEP, BLOCK, byte);
    }
}

/* A volume "v" whose blocks hold 1, flushed and closed. */
static void rig_begin(struct rig *rig, const char *kind)
{
    archip_volume *volume;
    archip_queue *queue;

    fixture_begin(&rig->fixture, kind);
    fixture_create(&rig->fixture, "v", SIZE, 1 << 16);
    queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fill_blocks(queue, 1);
    fixture_close(volume, queue);
    rig_open_store(rig);
}

static void rig_end(struct rig *rig)
{
    fault_reset(rig->fault);
    fixture_end(&rig->fixture);
}

static void arm(struct rig *rig, enum fault_op op, unsigned nth, bool for_good,
                bool late)
{
    struct fault_rule rule = {.op = op, .nth = nth, .times = for_good ? 0 : 1,
                              .errno_value = EIO, .late = late};

    fault_reset(rig->fault);
    fault_arm(rig->fault, &rule);
}

/* --- The phases ---------------------------------------------------------- */

/* The byte that all blocks hold for certain, 0: none; the one that they may
 * hold besides. */
struct outcome {
    uint8_t sure, possible;
};

static void phase_create(struct rig *rig, struct outcome *outcome)
{
    if (archip_volume_create(rig->fixture.store, "w", MIB, NULL) < 0) {
        g_assert_cmpuint(strlen(archip_error()), >, 8);
    }
}

/* Write 2, flush, write 3, close. */
static void phase_write(struct rig *rig, struct outcome *outcome)
{
    archip_volume *volume = NULL;
    archip_queue *queue = NULL;
    uint8_t bytes[BLOCK];
    bool all = true;

    if (archip_volume_open(rig->fixture.store, "v", ARCHIP_OPEN_WRITE, NULL,
                           &volume) < 0 ||
        archip_queue_open(volume, 0, &queue) < 0) {
        archip_volume_close(volume);
        return;
    }
    memset(bytes, 2, sizeof(bytes));
    outcome->possible = 2;
    for (unsigned i = 0; i < BLOCKS; i++) {
        all &= archip_write(queue, bytes, BLOCK, i * STEP, 0) == 0;
    }
    if (archip_flush(queue) == 0 && all) {
        *outcome = (struct outcome){2, 2};
    }
    archip_queue_close(queue);
    if (archip_volume_close(volume) == 0 && all) {
        *outcome = (struct outcome){2, 2};
    }
}

static void phase_resize(struct rig *rig, struct outcome *outcome)
{
    archip_volume *volume = NULL;

    if (archip_volume_open(rig->fixture.store, "v", ARCHIP_OPEN_WRITE, NULL,
                           &volume) < 0) {
        return;
    }
    if (archip_volume_resize(volume, MIB, ARCHIP_RESIZE_SHRINK) == 0) {
        g_assert_cmpuint(archip_volume_size(volume), ==, MIB);
    }
    archip_volume_resize(volume, SIZE, 0);
    archip_volume_close(volume);
}

static void phase_read(struct rig *rig, struct outcome *outcome)
{
    archip_volume *volume = NULL;
    archip_queue *queue = NULL;
    uint8_t bytes[BLOCK];

    if (archip_volume_open(rig->fixture.store, "v", 0, NULL, &volume) < 0 ||
        archip_queue_open(volume, 0, &queue) < 0) {
        archip_volume_close(volume);
        return;
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (archip_read(queue, bytes, BLOCK, i * STEP) == 0) {
            g_assert_cmpuint(bytes[0], ==, 1);
            g_assert_cmpuint(bytes[BLOCK - 1], ==, 1);
        }
    }
    archip_queue_close(queue);
    archip_volume_close(volume);
}

/* --- The loop ------------------------------------------------------------ */

/* Without faults: the volume opens, and each block is what it may be. */
static void expect_outcome(struct rig *rig, const struct outcome *outcome)
{
    archip_volume *volume;
    archip_queue *queue;
    uint8_t bytes[BLOCK];

    fault_reset(rig->fault);
    queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    for (unsigned i = 0; i < BLOCKS; i++) {
        assert_ok(archip_read(queue, bytes, BLOCK, i * STEP));
        for (unsigned j = 0; j < BLOCK; j++) {
            g_assert_true(bytes[j] == outcome->sure ||
                          bytes[j] == outcome->possible);
        }
    }
    assert_ok(archip_flush(queue));
    fixture_close(volume, queue);
}

/* Returns whether a fault fired. */
static bool loop_once(const char *kind, enum fault_op op, unsigned nth,
                      bool for_good, bool late,
                      void (*phase)(struct rig *rig, struct outcome *outcome))
{
    struct outcome outcome = {1, 1};
    struct rig rig;
    bool fired;

    rig_begin(&rig, kind);
    arm(&rig, op, nth, for_good, late);
    phase(&rig, &outcome);
    fired = fault_fired(rig.fault) > 0;
    expect_outcome(&rig, &outcome);
    rig_end(&rig);
    return fired;
}

static void loop(const char *kind,
                 void (*phase)(struct rig *rig, struct outcome *outcome))
{
    unsigned before;

    loop_once(kind, FAULT_ANY, NTH_MAX, false, false, phase);
    before = scratch_descriptors();
    for (unsigned way = 0; way < 3; way++) {
        unsigned nth = 1;

        while (nth < NTH_MAX && loop_once(kind, FAULT_ANY, nth, way == 1,
                                          way == 2, phase)) {
            nth++;
        }
        g_assert_cmpuint(nth, >, 1);
        g_assert_cmpuint(nth, <, NTH_MAX);
    }
    g_assert_cmpuint(scratch_descriptors(), ==, before);
}

static void test_create(const void *kind)
{
    loop(kind, phase_create);
}

static void test_write(const void *kind)
{
    loop(kind, phase_write);
}

static void test_resize(const void *kind)
{
    loop(kind, phase_resize);
}

static void test_read(const void *kind)
{
    loop(kind, phase_read);
}

/* --- A sync that failed -------------------------------------------------- */

/* Never forgotten: flushes fail until the data is written again. */
static void test_sync_failed(const void *kind)
{
    archip_volume *volume;
    archip_queue *queue;
    struct rig rig;

    rig_begin(&rig, kind);
    queue = fixture_open_queue(&rig.fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fill_blocks(queue, 2);
    arm(&rig, FAULT_SYNC, 1, false, false);
    assert_fails(archip_flush(queue), EIO, "");
    fault_reset(rig.fault);
    for (unsigned i = 0; i < 3; i++) {
        assert_fails(archip_flush(queue), EIO, "");
    }
    fill_blocks(queue, 3);
    assert_ok(archip_flush(queue));
    assert_ok(archip_flush(queue));
    fixture_close(volume, queue);
    expect_outcome(&rig, &(struct outcome){3, 3});
    rig_end(&rig);
}

/* Or until it is opened anew; closing tells of it. */
static void test_sync_failed_reopened(const void *kind)
{
    archip_volume *volume;
    archip_queue *queue;
    struct rig rig;

    rig_begin(&rig, kind);
    queue = fixture_open_queue(&rig.fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fill_blocks(queue, 2);
    arm(&rig, FAULT_SYNC, 1, false, false);
    assert_fails(archip_flush(queue), EIO, "");
    fault_reset(rig.fault);
    archip_queue_close(queue);
    assert_fails(archip_volume_close(volume), EIO, "");
    queue = fixture_open_queue(&rig.fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    assert_ok(archip_flush(queue));
    fixture_close(volume, queue);
    expect_outcome(&rig, &(struct outcome){1, 2});
    rig_end(&rig);
}

/* A write that failed is told, and the next one works. */
static void test_write_failed(const void *kind)
{
    archip_volume *volume;
    archip_queue *queue;
    uint8_t bytes[100] = {7};
    struct rig rig;

    rig_begin(&rig, kind);
    queue = fixture_open_queue(&rig.fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    arm(&rig, FAULT_WRITE, 1, false, false);
    assert_fails(archip_write(queue, bytes, 100, 9 * STEP + 50, 0), EIO, "");
    fault_reset(rig.fault);
    fixture_expect(queue, 9 * STEP, BLOCK, 0);
    assert_ok(archip_write(queue, bytes, 100, 9 * STEP + 50, 0));
    fixture_expect(queue, 9 * STEP + 50, 1, 7);
    assert_ok(archip_flush(queue));
    fixture_close(volume, queue);
    rig_end(&rig);
}

/* Some of what failed may be there: the next flush syncs it, too (D18). */
static void test_failed_write_synced(const void *kind)
{
    archip_volume *volume;
    archip_queue *queue;
    uint8_t bytes[BLOCK] = {7};
    struct rig rig;

    rig_begin(&rig, kind);
    queue = fixture_open_queue(&rig.fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    arm(&rig, FAULT_WRITE, 1, false, true);
    assert_fails(archip_write(queue, bytes, BLOCK, STEP, 0), EIO, "");
    fault_reset(rig.fault);
    assert_ok(archip_flush(queue));
    g_assert_cmpuint(fault_count(rig.fault, FAULT_SYNC), ==, 1);
    assert_ok(archip_flush(queue));
    g_assert_cmpuint(fault_count(rig.fault, FAULT_SYNC), ==, 1);
    fixture_close(volume, queue);
    rig_end(&rig);
}

/* --- Removal ------------------------------------------------------------- */

static int count_volume(const archip_volume_info *info, const char *error,
                        void *opaque)
{
    g_assert_null(error);
    ++*(unsigned *)opaque;
    return 0;
}

/* There or gone: after faults ended it can be used, or created anew. */
static bool remove_once(struct rig *rig)
{
    unsigned count = 0;
    int result = archip_volume_remove(rig->fixture.store, "v");
    bool fired = fault_fired(rig->fault) > 0;

    fault_reset(rig->fault);
    assert_ok(archip_volume_list(rig->fixture.store, count_volume, &count));
    g_assert_cmpuint(count, <=, 1);
    if (result == 0) {
        g_assert_cmpuint(count, ==, 0);
    }
    if (count) {
        assert_ok(archip_volume_remove(rig->fixture.store, "v"));
    }
    fixture_create(&rig->fixture, "v", SIZE, 0);
    return fired;
}

static void test_remove(const void *kind)
{
    for (unsigned way = 0; way < 3; way++) {
        bool fired = true;

        for (unsigned nth = 1; fired; nth++) {
            struct rig rig;

            rig_begin(&rig, kind);
            arm(&rig, FAULT_ANY, nth, way == 1, way == 2);
            fired = remove_once(&rig);
            rig_end(&rig);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add_quick("/fault/create", test_create);
    fixture_add_quick("/fault/write", test_write);
    fixture_add_quick("/fault/resize", test_resize);
    fixture_add_quick("/fault/read", test_read);
    fixture_add_quick("/fault/remove", test_remove);
    fixture_add("/fault/sync-failed", test_sync_failed);
    fixture_add("/fault/sync-failed-reopened", test_sync_failed_reopened);
    fixture_add("/fault/write-failed", test_write_failed);
    fixture_add("/fault/failed-write-synced", test_failed_write_synced);
    return g_test_run();
}
