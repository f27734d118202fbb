/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes that change: the rules, what is cut off, what grows. */
#include "fixture.h"

struct rig {
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;
};

static void rig_begin(struct rig *rig, const char *kind, uint64_t size,
                      uint32_t object_bytes)
{
    fixture_begin(&rig->fixture, kind);
    fixture_create(&rig->fixture, "v", size, object_bytes);
    rig->queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE,
                                    &rig->volume);
}

static void rig_reopen(struct rig *rig)
{
    fixture_close(rig->volume, rig->queue);
    fixture_reopen(&rig->fixture);
    rig->queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE,
                                    &rig->volume);
}

static void rig_end(struct rig *rig)
{
    fixture_close(rig->volume, rig->queue);
    fixture_end(&rig->fixture);
}

static void test_rules(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, MIB, 1 << 16);
    assert_fails(archip_volume_resize(rig.volume, MIB - 512, 0), EINVAL, "");
    assert_fails(archip_volume_resize(rig.volume, MIB + 1, 0), EINVAL, "512");
    assert_fails(archip_volume_resize(rig.volume, PIB + 512, 0), EINVAL, "");
    assert_fails(archip_volume_resize(rig.volume, UINT64_MAX,
                                      ARCHIP_RESIZE_SHRINK), EINVAL, "");
    assert_fails(archip_volume_resize(rig.volume, 2 * MIB, 0x100), EINVAL, "");
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, MIB);
    assert_ok(archip_volume_resize(rig.volume, MIB, 0));
    assert_ok(archip_volume_resize(rig.volume, MIB, ARCHIP_RESIZE_SHRINK));
    assert_ok(archip_volume_resize(rig.volume, MIB + 512,
                                   ARCHIP_RESIZE_SHRINK));
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, MIB + 512);
    assert_ok(archip_volume_resize(rig.volume, PIB, 0));
    fixture_fill(rig.queue, PIB - 1000, 1000, 3);
    fixture_expect(rig.queue, PIB - 1000, 1000, 3);
    rig_end(&rig);
}

/* A shrink is never volatile: refused, or durable. */
static void test_volatile_shrink(const void *kind)
{
    struct rig rig;
    int result;

    rig_begin(&rig, kind, MIB, 1 << 16);
    result = archip_volume_resize(rig.volume, 512, ARCHIP_RESIZE_SHRINK |
                                                       ARCHIP_RESIZE_VOLATILE);
    g_assert_true(result == 0 || result == -EINVAL);
    rig_reopen(&rig);
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, result ? MIB : 512);
    rig_end(&rig);
}

static void test_persists(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, MIB, 1 << 16);
    assert_ok(archip_volume_resize(rig.volume, 3 * MIB + 512, 0));
    rig_reopen(&rig);
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 3 * MIB + 512);
    assert_ok(archip_volume_resize(rig.volume, 4 * MIB, ARCHIP_RESIZE_VOLATILE));
    assert_ok(archip_flush(rig.queue));
    rig_reopen(&rig);
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 4 * MIB);
    assert_ok(archip_volume_resize(rig.volume, 512, ARCHIP_RESIZE_SHRINK));
    rig_reopen(&rig);
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 512);
    rig_end(&rig);
}

/* Cut inside a block, at a block, at an object; with and without closing. */
static void expect_cut(struct rig *rig, uint64_t cut, bool reopen)
{
    fixture_fill(rig->queue, 0, 400000, 9);
    assert_ok(archip_volume_resize(rig->volume, cut, ARCHIP_RESIZE_SHRINK));
    if (reopen) {
        rig_reopen(rig);
    }
    fixture_expect(rig->queue, 0, cut, 9);
    assert_ok(archip_volume_resize(rig->volume, 2 * MIB, 0));
    fixture_expect(rig->queue, 0, cut, 9);
    fixture_expect(rig->queue, cut, 500000 - cut, 0);
    rig_reopen(rig);
    fixture_expect(rig->queue, 0, cut, 9);
    fixture_expect(rig->queue, cut, 500000 - cut, 0);
}

static void test_cut(const void *kind)
{
    static const uint64_t cuts[] = {512, 65536 * 3 + 512, 65536 * 3 + 4096,
                                    65536 * 3, 65536 * 3 + 4096 - 512};
    struct rig rig;

    rig_begin(&rig, kind, 2 * MIB, 1 << 16);
    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(cuts); i++) {
        expect_cut(&rig, cuts[i / 2], i % 2);
    }
    rig_end(&rig);
}

/* Shrinking gives space back; what read zero after a cut stays zero when the
 * object is written again beside it. */
static void test_cut_partial(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind, 8 * MIB, 0);
    fixture_fill(rig.queue, 4 * MIB, 100000, 9);
    assert_ok(archip_volume_resize(rig.volume, 4 * MIB + 512,
                                   ARCHIP_RESIZE_SHRINK));
    assert_ok(archip_volume_resize(rig.volume, 8 * MIB, 0));
    fixture_fill(rig.queue, 4 * MIB + 5000, 10, 7);
    fixture_expect(rig.queue, 4 * MIB, 512, 9);
    fixture_expect(rig.queue, 4 * MIB + 512, 5000 - 512, 0);
    fixture_expect(rig.queue, 4 * MIB + 5000, 10, 7);
    fixture_expect(rig.queue, 4 * MIB + 5010, MIB, 0);
    rig_end(&rig);
}

static void test_cut_frees(const void *kind)
{
    archip_usage usage;
    struct rig rig;

    rig_begin(&rig, kind, 2 * MIB, 1 << 16);
    fixture_fill(rig.queue, 0, 2 * MIB, 9);
    assert_ok(archip_volume_resize(rig.volume, 65536, ARCHIP_RESIZE_SHRINK));
    assert_ok(archip_flush(rig.queue));
    assert_ok(archip_volume_get_usage(rig.volume, &usage));
    g_assert_cmpuint(usage.object_count, ==, 1);
    g_assert_cmpuint(usage.allocated_bytes, <=, 65536 + 4096);
    for (unsigned i = 0; rig.fixture.scratch && i < 500 &&
                         scratch_allocated(rig.fixture.scratch) > 500000;
         i++) {
        g_usleep(10000);    /* it is done behind the caller's back */
    }
    if (rig.fixture.scratch) {
        g_assert_cmpuint(scratch_allocated(rig.fixture.scratch), <, 500000);
    }
    rig_end(&rig);
}

static void test_grow_write(const void *kind)
{
    struct rig rig;
    uint8_t bytes[1000];

    rig_begin(&rig, kind, 512, 1 << 16);
    memset(bytes, 5, sizeof(bytes));
    assert_fails(archip_write(rig.queue, bytes, 1000, 0, 0), EINVAL, "");
    assert_ok(archip_write(rig.queue, bytes, 1000, 100, ARCHIP_GROW));
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 1536);
    fixture_expect(rig.queue, 0, 100, 0);
    fixture_expect(rig.queue, 100, 1000, 5);
    fixture_expect(rig.queue, 1100, 1536 - 1100, 0);
    assert_ok(archip_write_zeroes(rig.queue, 200000, 1, ARCHIP_GROW));
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 200192);
    assert_ok(archip_write(rig.queue, bytes, 10, 0, ARCHIP_GROW));
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 200192);
    assert_ok(archip_flush(rig.queue));
    rig_reopen(&rig);
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 200192);
    assert_fails(archip_write(rig.queue, bytes, 512, PIB, ARCHIP_GROW), EFBIG,
                 "1 PiB");
    assert_fails(archip_write(rig.queue, bytes, 512, PIB - 1, ARCHIP_GROW),
                 EFBIG, "1 PiB");
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, 200192);
    rig_end(&rig);
}

/* In the middle of requests that it doesn't touch. */
static void test_in_flight(const void *kind)
{
    enum { COUNT = 40 };
    uint8_t bytes[4000];
    struct iovec iov = {bytes, sizeof(bytes)};
    archip_completion completion;
    struct rig rig;

    rig_begin(&rig, kind, 2 * MIB, 1 << 16);
    memset(bytes, 5, sizeof(bytes));
    for (unsigned i = 0; i < COUNT; i++) {
        archip_request request = {
            .op = ARCHIP_WRITE, .offset_bytes = i * sizeof(bytes),
            .length_bytes = sizeof(bytes), .iov = &iov, .iov_count = 1};

        assert_ok(archip_submit(rig.queue, &request, 1));
    }
    assert_ok(archip_volume_resize(rig.volume, 4 * MIB, 0));
    assert_ok(archip_volume_resize(rig.volume, MIB, ARCHIP_RESIZE_SHRINK));
    for (unsigned i = 0; i < COUNT; i++) {
        g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, 20000), ==,
                        1);
        g_assert_cmpint(completion.result, ==, 0);
    }
    fixture_expect(rig.queue, 0, COUNT * sizeof(bytes), 5);
    rig_end(&rig);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add("/resize/rules", test_rules);
    fixture_add("/resize/volatile-shrink", test_volatile_shrink);
    fixture_add("/resize/persists", test_persists);
    fixture_add("/resize/cut", test_cut);
    fixture_add("/resize/cut-partial", test_cut_partial);
    fixture_add("/resize/cut-frees", test_cut_frees);
    fixture_add("/resize/grow-write", test_grow_write);
    fixture_add("/resize/in-flight", test_in_flight);
    return g_test_run();
}
