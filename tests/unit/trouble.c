/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is promised when something goes wrong, or much happens at once: FUA,
 * syncs that fail, removals that fail, activating and reopening that fail, and
 * calls that wait while the same thread has requests in flight.
 */
#include "fixture.h"

#include "base/error.h"
#include "store/fault.h"
#include "volume/volume.h"

#include <unistd.h>

#define OBJECT 65536u
#define BLOCK 4096u
#define SIZE (4 * OBJECT)
#define TIB (MIB * MIB)

struct rig {
    struct fixture fixture;
    struct store *fault;
    archip_volume *volume;
    archip_queue *queue;
};

static void rig_open(struct rig *rig, unsigned flags)
{
    rig->queue = fixture_open_queue(&rig->fixture, "v", flags, &rig->volume);
}

static void rig_close(struct rig *rig)
{
    fixture_close(rig->volume, rig->queue);
}

/* An open volume "v" of four objects full of 1, flushed. */
static void rig_begin(struct rig *rig, const char *kind)
{
    g_autofree char *location = NULL;

    fixture_begin(&rig->fixture, kind);
    location = g_strdup_printf("fault::%s", rig->fixture.location);
    archip_store_close(rig->fixture.store);
    assert_ok(archip_store_open(location, ARCHIP_STORE_CREATE,
                                &rig->fixture.store));
    rig->fault = rig->fixture.store->store;
    fixture_create(&rig->fixture, "v", SIZE, OBJECT);
    rig_open(rig, ARCHIP_OPEN_WRITE);
    fixture_fill(rig->queue, 0, SIZE, 1);
    assert_ok(archip_flush(rig->queue));
    alarm(60);      /* a hang is a failure */
}

static void rig_end(struct rig *rig)
{
    fault_reset(rig->fault);
    fixture_end(&rig->fixture);
}

static void arm(struct rig *rig, struct fault_rule rule)
{
    fault_reset(rig->fault);
    fault_arm(rig->fault, &rule);
}

/* From here on nothing reaches the store; what did is found. */
static void rig_crash(struct rig *rig)
{
    arm(rig, (struct fault_rule){.op = FAULT_ANY, .nth = 1, .stop = true,
                                 .errno_value = EIO});
    archip_queue_close(rig->queue);
    g_assert_cmpint(archip_volume_close(rig->volume), <, 0);
    fault_reset(rig->fault);
}

static void submit(archip_queue *queue, archip_op op, void *buffer,
                   size_t bytes, uint64_t offset)
{
    struct iovec iov = {buffer, bytes};
    archip_request request = {.op = op, .offset_bytes = offset,
                              .length_bytes = bytes, .iov = &iov,
                              .iov_count = 1};

    assert_ok(archip_submit(queue, &request, 1));
}

static int64_t reap(archip_queue *queue)
{
    archip_completion completion;

    g_assert_cmpint(archip_queue_reap(queue, &completion, 1, -1), ==, 1);
    return completion.result;
}

/* --- FUA ------------------------------------------------------------------------ */

/* What is durable must also lie inside the volume after a crash. */
static void test_fua_after_growth(const void *kind)
{
    uint8_t bytes[BLOCK];
    struct rig rig;

    rig_begin(&rig, kind);
    assert_ok(archip_volume_resize(rig.volume, BLOCK, ARCHIP_RESIZE_SHRINK));
    assert_ok(archip_volume_resize(rig.volume, OBJECT,
                                   ARCHIP_RESIZE_VOLATILE));
    memset(bytes, 2, BLOCK);
    assert_ok(archip_write(rig.queue, bytes, BLOCK, 4 * BLOCK, ARCHIP_FUA));
    rig_crash(&rig);
    rig_open(&rig, ARCHIP_OPEN_WRITE);
    fixture_expect(rig.queue, 4 * BLOCK, BLOCK, 2);
    rig_close(&rig);
    rig_end(&rig);
}

/* Zeroes with FUA are durable also where a discard made the hole. */
static void test_fua_over_discard(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    assert_ok(archip_discard(rig.queue, 0, OBJECT));
    assert_ok(archip_write_zeroes(rig.queue, 0, OBJECT,
                                  ARCHIP_FUA | ARCHIP_MAY_UNMAP));
    rig_crash(&rig);
    rig_open(&rig, ARCHIP_OPEN_WRITE);
    fixture_expect(rig.queue, 0, OBJECT, 0);
    rig_close(&rig);
    rig_end(&rig);
}

/* --- Syncs that fail -------------------------------------------------------------- */

/* Start a flush whose first sync takes its time and fails. */
static void flush_slowly(struct rig *rig)
{
    arm(rig, (struct fault_rule){.op = FAULT_SYNC, .nth = 1, .times = 1,
                                 .errno_value = EIO, .delay_ms = 300});
    submit(rig->queue, ARCHIP_FLUSH, NULL, 0, 0);
}

/* A FUA write that fails may have used up the error of what was written before
 * it: that must be written again before a flush is believed. */
static void test_fua_fails(const void *kind)
{
    uint8_t bytes[BLOCK];
    struct rig rig;

    rig_begin(&rig, kind);
    memset(bytes, 2, BLOCK);
    assert_ok(archip_write(rig.queue, bytes, BLOCK, 0, 0));
    arm(&rig, (struct fault_rule){.op = FAULT_WRITE, .nth = 1, .times = 1,
                                  .errno_value = EIO});
    assert_fails(archip_write(rig.queue, bytes, BLOCK, BLOCK, ARCHIP_FUA), EIO,
                 "");
    assert_fails(archip_flush(rig.queue), EIO, "earlier");
    assert_fails(archip_flush(rig.queue), EIO, "earlier");
    assert_ok(archip_write(rig.queue, bytes, BLOCK, 0, 0));
    assert_ok(archip_flush(rig.queue));
    rig_close(&rig);
    rig_end(&rig);
}

/* What was written while the sync ran may be lost by it, too. */
static void test_sync_fails_beside_write(const void *kind)
{
    archip_queue *other;
    struct rig rig;

    rig_begin(&rig, kind);
    other = fixture_queue(rig.volume);
    fixture_fill(rig.queue, BLOCK, BLOCK, 2);
    flush_slowly(&rig);
    fixture_fill(other, 2 * BLOCK, BLOCK, 2);
    g_assert_cmpint(reap(rig.queue), ==, -EIO);
    fault_reset(rig.fault);
    fixture_fill(rig.queue, BLOCK, BLOCK, 3);
    assert_fails(archip_flush(rig.queue), EIO, "");
    fixture_fill(rig.queue, 2 * BLOCK, BLOCK, 3);
    assert_ok(archip_flush(rig.queue));
    archip_queue_close(other);
    rig_close(&rig);
    rig_end(&rig);
}

/* A volume may end within a block: who writes up to there has written all of
 * it. */
static void test_sync_fails_at_end(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    assert_ok(
        archip_volume_resize(rig.volume, SIZE - 3 * 512, ARCHIP_RESIZE_SHRINK));
    fixture_fill(rig.queue, SIZE - BLOCK, BLOCK - 3 * 512, 2);
    arm(&rig, (struct fault_rule){
                  .op = FAULT_SYNC, .nth = 1, .times = 1, .errno_value = EIO});
    assert_fails(archip_flush(rig.queue), EIO, "");
    fixture_fill(rig.queue, SIZE - BLOCK, BLOCK - 4 * 512, 3);
    assert_fails(archip_flush(rig.queue), EIO, "earlier");
    fixture_fill(rig.queue, SIZE - BLOCK, BLOCK - 3 * 512, 3);
    assert_ok(archip_flush(rig.queue));
    rig_close(&rig);
    rig_end(&rig);
}

/* Nothing of a discarded object is missed. */
static void test_sync_fails_beside_discard(const void *kind)
{
    archip_queue *other;
    struct rig rig;

    rig_begin(&rig, kind);
    other = fixture_queue(rig.volume);
    fixture_fill(rig.queue, BLOCK, BLOCK, 2);
    flush_slowly(&rig);
    assert_ok(archip_discard(other, 0, OBJECT));
    g_assert_cmpint(reap(rig.queue), ==, -EIO);
    fault_reset(rig.fault);
    assert_ok(archip_flush(rig.queue));
    fixture_expect(rig.queue, 0, OBJECT, 0);
    archip_queue_close(other);
    rig_close(&rig);
    rig_end(&rig);
}

/* --- Removals that fail ------------------------------------------------------------- */

/* The object is gone although removing it reported an error. */
static void test_reuse_after_late_removal(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    arm(&rig, (struct fault_rule){.op = FAULT_REMOVE, .nth = 1, .times = 0,
                                  .errno_value = EIO, .late = true});
    assert_ok(archip_discard(rig.queue, 0, OBJECT));
    assert_ok(archip_flush(rig.queue));
    background_wait(rig.volume);
    g_assert_cmpuint(fault_fired(rig.fault), >, 0);
    fixture_fill(rig.queue, BLOCK, 100, 2);
    fixture_expect(rig.queue, BLOCK, 100, 2);
    fixture_expect(rig.queue, BLOCK + 100, BLOCK, 0);
    fault_reset(rig.fault);
    rig_close(&rig);
    rig_open(&rig, ARCHIP_OPEN_WRITE);
    fixture_expect(rig.queue, 0, BLOCK, 0);
    fixture_expect(rig.queue, BLOCK, 100, 2);
    rig_close(&rig);
    rig_end(&rig);
}

/* --- Closing, activating and reopening that fail --------------------------------------- */

/* A store of which no more queues can be had while `lacks_queues`. */
static const struct store_driver *whole_driver;
static gint lacks_queues;           /* atomic */

static int queue_open_or_not(struct store *store, unsigned flags,
                             struct store_queue **queue, GError **error)
{
    return g_atomic_int_get(&lacks_queues)
               ? error_set_errno(error, EMFILE, "no queue")
               : whole_driver->queue_open(store, flags, queue, error);
}

/* So many pages change that a flush folds them in the background. */
static void change_pages(archip_queue *queue)
{
    for (unsigned i = 0; i < MAP_CACHE_PAGES / 2; i++) {
        fixture_fill(queue, (uint64_t)i * MAP_ENTRIES_PER_PAGE * OBJECT, BLOCK,
                     2);
    }
    assert_ok(archip_flush(queue));
}

/* Who can't even flush leaves the header alone which the background is about to
 * replace: else the old one comes to lie over the new one, and what it names is
 * gone. */
static void test_close_without_queue(const void *kind)
{
    struct store_driver driver;
    archip_volume *volume;
    archip_queue *queue;
    struct store *inner;
    struct rig rig;

    rig_begin(&rig, kind);
    inner = fault_inner(rig.fault);
    whole_driver = inner->driver;
    driver = *whole_driver;
    driver.queue_open = queue_open_or_not;
    inner->driver = &driver;
    fixture_create(&rig.fixture, "w", TIB, OBJECT);
    queue = fixture_open_queue(&rig.fixture, "w", ARCHIP_OPEN_WRITE, &volume);
    arm(&rig, (struct fault_rule){.op = FAULT_PUT, .nth = 1, .times = 1,
                                  .delay_ms = 200});
    fault_arm(rig.fault, &(struct fault_rule){.op = FAULT_PUT, .nth = 2,
                                              .times = 1, .delay_ms = 500});
    change_pages(queue);
    archip_queue_close(queue);
    while (!fault_count(rig.fault, FAULT_PUT)) {
        g_usleep(1000);
    }
    g_atomic_int_set(&lacks_queues, 1);
    assert_fails(archip_volume_close(volume), EMFILE, "no queue");
    g_atomic_int_set(&lacks_queues, 0);
    g_assert_cmpuint(fault_count(rig.fault, FAULT_PUT), ==, 1);
    fault_reset(rig.fault);
    queue = fixture_open_queue(&rig.fixture, "w", ARCHIP_OPEN_WRITE, &volume);
    fixture_expect(queue, 0, BLOCK, 2);
    fixture_expect(queue, (uint64_t)MAP_ENTRIES_PER_PAGE * OBJECT, BLOCK, 2);
    fixture_close(volume, queue);
    rig_close(&rig);
    inner->driver = whole_driver;
    rig_end(&rig);
}

static int page_max(uint64_t number, uint64_t allocated_bytes, void *opaque)
{
    *(uint64_t *)opaque = MAX(*(uint64_t *)opaque, number);
    return 0;
}

/* A header that was put back knows the names that were used since. */
static void test_close_fails_late(const void *kind)
{
    struct map_header header;
    struct id128 id;
    uint64_t used = 0;
    struct rig rig;

    rig_begin(&rig, kind);
    id = rig.volume->id;
    arm(&rig, (struct fault_rule){.op = FAULT_PUT, .nth = 1, .times = 1,
                                  .errno_value = EIO, .late = true});
    archip_queue_close(rig.queue);
    assert_fails(archip_volume_close(rig.volume), EIO, "");
    fault_reset(rig.fault);
    g_assert_cmpint(map_read_header(rig.fault, &id, true, &header, NULL), ==,
                    0);
    g_assert_cmpint(rig.fault->driver->list_objects(
                        rig.fault, STORE_PAGE, &header.current_layer_id,
                        page_max, &used, NULL), ==, 0);
    g_assert_cmpuint(used, >, 0);
    g_assert_cmpuint(header.next_page, >, used);
    header_clear(&header);
    rig_end(&rig);
}

static bool header_is_clean(struct rig *rig)
{
    struct map_header header;
    bool clean;

    g_assert_cmpint(map_read_header(rig->fault, &rig->volume->id, true,
                                    &header, NULL), ==, 0);
    clean = header.flags & FORMAT_HEADER_CLEAN;
    header_clear(&header);
    return clean;
}

static int reopen_to_read(archip_volume *volume)
{
    return archip_volume_reopen(volume, 0);
}

/* Where a header that says "clean", put in vain but there, can't be taken back,
 * nothing is written under it any more. */
static void let_go_of_clean(const char *kind, unsigned nth_put,
                            int (*leave)(archip_volume *volume))
{
    uint8_t bytes[BLOCK] = {0};
    struct rig rig;

    rig_begin(&rig, kind);
    arm(&rig, (struct fault_rule){.op = FAULT_PUT, .nth = nth_put, .times = 1,
                                  .errno_value = EIO, .late = true});
    fault_arm(rig.fault, &(struct fault_rule){.op = FAULT_PUT,
                                              .nth = nth_put + 1, .times = 1,
                                              .errno_value = EIO});
    assert_fails(leave(rig.volume), EIO, "let go");
    g_assert_cmpuint(fault_fired(rig.fault), ==, 2);
    fault_reset(rig.fault);
    g_assert_true(header_is_clean(&rig));
    assert_fails(archip_write(rig.queue, bytes, BLOCK, 0, 0), EPERM, "active");
    assert_ok(archip_volume_activate(rig.volume));
    g_assert_false(header_is_clean(&rig));
    fixture_expect(rig.queue, 0, SIZE, 1);
    fixture_fill(rig.queue, 0, BLOCK, 2);
    rig_close(&rig);
    rig_end(&rig);
}

static void test_clean_stays(const void *kind)
{
    let_go_of_clean(kind, 1, archip_volume_deactivate);
    let_go_of_clean(kind, 2, reopen_to_read);
}

/* Where no such header was put, the volume stays active. */
static void test_deactivate_fails(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    arm(&rig, (struct fault_rule){.op = FAULT_WRITE, .nth = 1, .times = 1,
                                  .errno_value = EIO});
    fault_arm(rig.fault, &(struct fault_rule){.op = FAULT_PUT, .nth = 1,
                                              .times = 1,
                                              .errno_value = EIO});
    assert_fails(archip_volume_deactivate(rig.volume), EIO, "");
    g_assert_cmpuint(fault_fired(rig.fault), ==, 1);
    fault_reset(rig.fault);
    g_assert_false(header_is_clean(&rig));
    fixture_fill(rig.queue, 0, BLOCK, 2);
    assert_ok(archip_flush(rig.queue));
    rig_crash(&rig);
    rig_open(&rig, ARCHIP_OPEN_WRITE);
    fixture_expect(rig.queue, 0, BLOCK, 2);
    rig_close(&rig);
    rig_end(&rig);
}

/* A shrink of which only the new size is durable, to 1 1/2 objects. */
static void leave_shrink(struct rig *rig)
{
    g_mutex_lock(&rig->volume->map->lock);
    volume_set_size(rig->volume, OBJECT + OBJECT / 2 + 512);
    g_mutex_unlock(&rig->volume->map->lock);
    assert_ok(archip_flush(rig->queue));
    rig_crash(rig);
}

static void expect_shrunk(struct rig *rig)
{
    fault_reset(rig->fault);
    assert_ok(archip_volume_resize(rig->volume, SIZE, 0));
    fixture_expect(rig->queue, 0, OBJECT + OBJECT / 2 + 512, 1);
    fixture_expect(rig->queue, OBJECT + OBJECT / 2 + 512,
                   SIZE - OBJECT - OBJECT / 2 - 512, 0);
    assert_ok(archip_flush(rig->queue));
}

static void arm_nth(struct rig *rig, unsigned nth)
{
    arm(rig, (struct fault_rule){.op = FAULT_ANY, .nth = nth, .times = 1,
                                 .errno_value = EIO});
}

/* A volume that comes to be written, with a shrink to be finished on the way. */
struct change {
    unsigned flags;             /* it is opened with */
    int (*run)(archip_volume *volume);
    void (*failed)(struct rig *rig);
};

/* Activating that failed leaves nothing behind. */
static void activate_failed(struct rig *rig)
{
    g_assert_null(rig->volume->map);
    g_assert_cmpuint(rig->volume->lost_count, ==, 0);
    g_assert_cmpuint(g_hash_table_size(rig->volume->drops), ==, 0);
    g_assert_null(rig->volume->background.thread);
}

static const struct change activate = {
    ARCHIP_OPEN_WRITE | ARCHIP_OPEN_NO_LOCK, archip_volume_activate,
    activate_failed};

static int reopen_to_write(archip_volume *volume)
{
    return archip_volume_reopen(volume, ARCHIP_OPEN_WRITE);
}

/* Reopening that failed changed nothing. */
static void reopen_failed(struct rig *rig)
{
    uint8_t bytes[BLOCK] = {0};

    assert_fails(archip_write(rig->queue, bytes, BLOCK, 0, 0), EROFS, "");
    fixture_expect(rig->queue, 0, OBJECT, 1);
}

static const struct change reopen = {0, reopen_to_write, reopen_failed};

/* Returns whether a fault fired. */
static bool change_once(const char *kind, const struct change *change,
                        unsigned nth)
{
    struct rig rig;
    bool fired;
    int rc;

    rig_begin(&rig, kind);
    leave_shrink(&rig);
    rig_open(&rig, change->flags);
    arm_nth(&rig, nth);
    rc = change->run(rig.volume);
    fired = fault_fired(rig.fault) > 0;
    fault_reset(rig.fault);
    if (rc < 0) {
        change->failed(&rig);
        assert_ok(change->run(rig.volume));
    }
    expect_shrunk(&rig);
    rig_close(&rig);
    rig_end(&rig);
    return fired;
}

static void change_loop(const char *kind, const struct change *change)
{
    unsigned nth = 1;

    while (change_once(kind, change, nth)) {
        nth++;
    }
    g_assert_cmpuint(nth, >, 10);
}

static void test_activate_fails(const void *kind)
{
    change_loop(kind, &activate);
}

static void test_reopen_fails(const void *kind)
{
    change_loop(kind, &reopen);
}

/* Who may not write a volume doesn't. */
static void test_read_only_is_left_alone(const void *kind)
{
    struct store_record record = {.kind = STORE_HEADER};
    g_autoptr(GBytes) value = NULL, after = NULL;
    struct map_header header;
    archip_volume *volume;
    struct rig rig;

    rig_begin(&rig, kind);
    record.id = rig.volume->id;
    rig_close(&rig);
    g_assert_cmpint(map_read_header(rig.fault, &record.id, true, &header,
                                    NULL), ==, 0);
    header.flags |= FORMAT_HEADER_READONLY;
    value = header_encode(&header);
    header_clear(&header);
    g_assert_cmpint(rig.fault->driver->put(
                        rig.fault, &record, g_bytes_get_data(value, NULL),
                        g_bytes_get_size(value), false, NULL), ==, 0);
    assert_fails(archip_volume_open(rig.fixture.store, "v", ARCHIP_OPEN_WRITE,
                                    NULL, &volume), EROFS, "read-only");
    g_assert_cmpint(rig.fault->driver->get(rig.fault, &record, &after, NULL),
                    ==, 0);
    g_assert_true(g_bytes_equal(value, after));
    rig_end(&rig);
}

/* --- Waiting with requests in flight ----------------------------------------------------- */

/* The page that a call needs is on its way to a request of the same thread. */
static void test_usage_beside_read(const void *kind)
{
    uint8_t bytes[BLOCK];
    archip_usage usage;
    struct rig rig;

    rig_begin(&rig, kind);
    rig_close(&rig);
    rig_open(&rig, ARCHIP_OPEN_WRITE);
    submit(rig.queue, ARCHIP_READ, bytes, BLOCK, 0);
    assert_ok(archip_volume_get_usage(rig.volume, &usage));
    g_assert_cmpuint(usage.object_count, ==, 4);
    g_assert_cmpint(reap(rig.queue), ==, 0);
    g_assert_cmpuint(bytes[0], ==, 1);
    rig_close(&rig);
    rig_end(&rig);
}

static gpointer deactivate_main(gpointer volume)
{
    assert_ok(archip_volume_deactivate(volume));
    return NULL;
}

/* The volume is handed over while another thread asks. */
static void test_usage_beside_deactivate(const void *kind)
{
    archip_usage usage;
    GThread *thread;
    struct rig rig;

    rig_begin(&rig, kind);
    arm(&rig, (struct fault_rule){.op = FAULT_PUT, .nth = 1, .times = 0,
                                  .delay_ms = 300});
    thread = g_thread_new("deactivate", deactivate_main, rig.volume);
    while (fault_count(rig.fault, FAULT_PUT) == 0) {
        g_usleep(1000);
    }
    assert_fails(archip_volume_get_usage(rig.volume, &usage), EPERM, "active");
    g_thread_join(thread);
    rig_close(&rig);
    rig_end(&rig);
}

static gpointer grow_main(gpointer volume)
{
    assert_ok(archip_volume_resize(volume, 2 * SIZE, 0));
    return NULL;
}

static int call_get_info(archip_volume *volume)
{
    archip_volume_info info;

    return archip_volume_get_info(volume, &info);
}

static int call_get_usage(archip_volume *volume)
{
    archip_usage usage;

    return archip_volume_get_usage(volume, &usage);
}

static int call_resize(archip_volume *volume)
{
    return archip_volume_resize(volume, 3 * SIZE, 0);
}

/* The next round of flush is asked for. */
static bool flush_waits(archip_volume *volume)
{
    bool waits;

    g_mutex_lock(&volume->map->lock);
    waits = volume->flush.waiting != NULL;
    g_mutex_unlock(&volume->map->lock);
    return waits;
}

static void call_beside_resize(const char *kind,
                               int (*call)(archip_volume *volume))
{
    GThread *thread;
    struct rig rig;

    rig_begin(&rig, kind);
    fixture_fill(rig.queue, 0, BLOCK, 2);
    arm(&rig, (struct fault_rule){.op = FAULT_SYNC, .nth = 1, .times = 1,
                                  .delay_ms = 10});
    submit(rig.queue, ARCHIP_FLUSH, NULL, 0, 0);
    thread = g_thread_new("resize", grow_main, rig.volume);
    while (!flush_waits(rig.volume)) {
        g_usleep(1000);
    }
    assert_ok(call(rig.volume));
    g_thread_join(thread);
    g_assert_cmpint(reap(rig.queue), ==, 0);
    rig_close(&rig);
    rig_end(&rig);
}

/* Another thread resizes, and waits for a flush that this one has begun: it goes
 * on while this one waits for the other in a call. */
static void test_calls_beside_resize(const void *kind)
{
    call_beside_resize(kind, call_get_info);
    call_beside_resize(kind, call_get_usage);
    call_beside_resize(kind, call_resize);
}

/* The copy needs what a write to its source is at, on a queue of the same
 * thread. */
static void test_copy_beside_write(const void *kind)
{
    archip_volume *target;
    archip_queue *queue;
    uint8_t bytes[100];
    struct rig rig;

    rig_begin(&rig, kind);
    fixture_create(&rig.fixture, "w", SIZE, OBJECT);
    queue = fixture_open_queue(&rig.fixture, "w", ARCHIP_OPEN_WRITE, &target);
    memset(bytes, 2, sizeof(bytes));
    assert_ok(archip_discard(rig.queue, 0, OBJECT));
    submit(rig.queue, ARCHIP_WRITE, bytes, sizeof(bytes), 50);
    assert_ok(archip_copy_range(queue, 0, rig.volume, 0, SIZE, 0));
    g_assert_cmpint(reap(rig.queue), ==, 0);
    fixture_expect(queue, OBJECT, OBJECT, 1);
    fixture_close(target, queue);
    rig_close(&rig);
    rig_end(&rig);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add("/trouble/fua-after-growth", test_fua_after_growth);
    fixture_add("/trouble/fua-over-discard", test_fua_over_discard);
    fixture_add("/trouble/fua-fails", test_fua_fails);
    fixture_add("/trouble/sync-fails-beside-write",
                test_sync_fails_beside_write);
    fixture_add("/trouble/sync-fails-at-end", test_sync_fails_at_end);
    fixture_add("/trouble/sync-fails-beside-discard",
                test_sync_fails_beside_discard);
    fixture_add("/trouble/reuse-after-late-removal",
                test_reuse_after_late_removal);
    fixture_add("/trouble/close-fails-late", test_close_fails_late);
    fixture_add("/trouble/close-without-queue", test_close_without_queue);
    fixture_add("/trouble/clean-stays", test_clean_stays);
    fixture_add("/trouble/deactivate-fails", test_deactivate_fails);
    fixture_add("/trouble/activate-fails", test_activate_fails);
    fixture_add("/trouble/reopen-fails", test_reopen_fails);
    fixture_add("/trouble/read-only-is-left-alone",
                test_read_only_is_left_alone);
    fixture_add("/trouble/usage-beside-read", test_usage_beside_read);
    fixture_add("/trouble/usage-beside-deactivate",
                test_usage_beside_deactivate);
    fixture_add("/trouble/calls-beside-resize", test_calls_beside_resize);
    fixture_add("/trouble/copy-beside-write", test_copy_beside_write);
    return g_test_run();
}
