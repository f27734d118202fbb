/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests, completions and queues: what is refused, what is exact, when a
 * descriptor is readable, that each request completes once. */
#include "fixture.h"

#include <poll.h>

#define SIZE (4 * MIB + 512)

struct rig {
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;
};

/* A volume "v" of SIZE bytes and 64 KiB objects, open for writing. */
static void rig_begin(struct rig *rig, const char *kind)
{
    fixture_begin(&rig->fixture, kind);
    fixture_create(&rig->fixture, "v", SIZE, 1 << 16);
    rig->queue = fixture_open_queue(&rig->fixture, "v", ARCHIP_OPEN_WRITE,
                                    &rig->volume);
}

static void rig_end(struct rig *rig)
{
    fixture_close(rig->volume, rig->queue);
    fixture_end(&rig->fixture);
}

/* --- What is refused ----------------------------------------------------- */

static void test_malformed(const void *kind)
{
    const archip_request bad[] = {
        {.op = 0}, {.op = 8}, {.op = -1}, {.op = 1000},
        {.op = ARCHIP_FLUSH, .flags = 0x100},
        {.op = ARCHIP_DISCARD, .flags = 0x80000000u},
    };
    archip_completion completion;
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        archip_request pair[2] = {bad[i], {.op = ARCHIP_FLUSH}};

        assert_fails(archip_submit(rig.queue, pair, 2), EINVAL, "");
        g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, -1), ==,
                        0);
    }
    rig_end(&rig);
}

/* The good one before a bad one is either not taken or answered. */
static void test_malformed_later(const void *kind)
{
    archip_request pair[2] = {{.op = ARCHIP_FLUSH}, {.op = 99}};
    archip_completion completion;
    struct rig rig;
    int result;

    rig_begin(&rig, kind);
    result = archip_submit(rig.queue, pair, 2);
    if (result) {
        g_assert_cmpint(result, ==, -EINVAL);
    } else {
        g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, -1), ==, 1);
        g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, -1), ==, 1);
    }
    g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, -1), ==, 0);
    rig_end(&rig);
}

static void expect_beyond(archip_queue *queue, archip_volume *source,
                          uint64_t offset, uint64_t length)
{
    uint8_t bytes[1024] = {0};
    struct iovec iov = {bytes, length};
    archip_extent extents[4];
    archip_request request = {
        .offset_bytes = offset, .length_bytes = length, .iov = &iov,
        .iov_count = 1, .extents = extents, .extent_count = 4,
        .source = source,
    };
    static const archip_op ops[] = {
        ARCHIP_READ, ARCHIP_WRITE, ARCHIP_DISCARD, ARCHIP_WRITE_ZEROES,
        ARCHIP_EXTENTS, ARCHIP_COPY_RANGE,
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        request.op = ops[i];
        g_assert_cmpint(fixture_run(queue, &request), ==, -EINVAL);
    }
    request.offset_bytes = 0;
    request.source_offset_bytes = offset;
    g_assert_cmpint(fixture_run(queue, &request), ==, -EINVAL);
}

static void test_beyond(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    fixture_fill(rig.queue, SIZE - 512, 512, 5);
    expect_beyond(rig.queue, rig.volume, SIZE, 1);
    expect_beyond(rig.queue, rig.volume, SIZE - 1, 2);
    expect_beyond(rig.queue, rig.volume, SIZE - 512, 1024);
    expect_beyond(rig.queue, rig.volume, UINT64_MAX, 1);
    expect_beyond(rig.queue, rig.volume, UINT64_MAX - 1, 2);
    expect_beyond(rig.queue, rig.volume, UINT64_MAX - 100, 1000);
    expect_beyond(rig.queue, rig.volume, (uint64_t)INT64_MAX - 10, 1000);
    assert_fails(archip_discard(rig.queue, 1, UINT64_MAX), EINVAL, "");
    assert_fails(archip_write_zeroes(rig.queue, 1, UINT64_MAX, 0), EINVAL, "");
    assert_fails(archip_write_zeroes(rig.queue, UINT64_MAX - 5, 10,
                                     ARCHIP_GROW), EFBIG, "");
    g_assert_cmpuint(archip_volume_size(rig.volume), ==, SIZE);
    fixture_expect(rig.queue, SIZE - 512, 512, 5);
    rig_end(&rig);
}

static void test_zero_length(const void *kind)
{
    static const archip_op ops[] = {ARCHIP_READ, ARCHIP_WRITE, ARCHIP_DISCARD,
                                    ARCHIP_WRITE_ZEROES, ARCHIP_COPY_RANGE};
    static const uint64_t offsets[] = {0, 1, 65536, SIZE};
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        for (unsigned j = 0; j < G_N_ELEMENTS(offsets); j++) {
            archip_request request = {.op = ops[i], .source = rig.volume,
                                      .offset_bytes = offsets[j]};

            g_assert_cmpint(fixture_run(rig.queue, &request), ==, 0);
        }
    }
    rig_end(&rig);
}

/* Refused by submit or by a completion; nothing is read or written. */
static void expect_mismatch(struct rig *rig, archip_op op, size_t iov_bytes,
                            uint64_t length)
{
    uint8_t bytes[8192];
    struct iovec iov[2] = {{bytes, iov_bytes / 2},
                           {bytes + iov_bytes / 2, iov_bytes - iov_bytes / 2}};
    archip_request request = {.op = op, .offset_bytes = 4096,
                              .length_bytes = length, .iov = iov,
                              .iov_count = 2};
    archip_completion completion;

    memset(bytes, 0x77, sizeof(bytes));
    if (archip_submit(rig->queue, &request, 1) != -EINVAL) {
        g_assert_cmpint(archip_queue_reap(rig->queue, &completion, 1, -1), ==,
                        1);
        g_assert_cmpint(completion.result, ==, -EINVAL);
        g_assert_nonnull(completion.error);
    }
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        g_assert_cmpuint(bytes[i], ==, 0x77);
    }
}

static void test_iov_mismatch(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    expect_mismatch(&rig, ARCHIP_READ, 4096, 4095);
    expect_mismatch(&rig, ARCHIP_READ, 4096, 8192);
    expect_mismatch(&rig, ARCHIP_WRITE, 4096, 1);
    expect_mismatch(&rig, ARCHIP_WRITE, 4096, 8192);
    expect_mismatch(&rig, ARCHIP_WRITE, 4096, 0);
    fixture_expect(rig.queue, 0, 65536, 0);
    rig_end(&rig);
}

/* Everything that would change a volume that is open read-only. */
static void test_read_only(const void *kind)
{
    static const archip_op ops[] = {ARCHIP_WRITE, ARCHIP_DISCARD,
                                    ARCHIP_WRITE_ZEROES, ARCHIP_COPY_RANGE};
    uint8_t bytes[512] = {1};
    struct iovec iov = {bytes, sizeof(bytes)};
    archip_volume *volume;
    archip_queue *queue;
    struct rig rig;

    rig_begin(&rig, kind);
    fixture_fill(rig.queue, 0, 1000, 4);
    assert_ok(archip_flush(rig.queue));
    fixture_close(rig.volume, rig.queue);
    queue = fixture_open_queue(&rig.fixture, "v", 0, &volume);
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        archip_request request = {
            .op = ops[i], .length_bytes = 512, .iov = &iov, .iov_count = 1,
            .source = volume, .source_offset_bytes = 4096};

        g_assert_cmpint(fixture_run(queue, &request), ==, -EROFS);
    }
    assert_fails(archip_write(queue, bytes, 512, 0, 0), EROFS, "v");
    assert_fails(archip_volume_resize(volume, 2 * SIZE, 0), EROFS, "");
    assert_ok(archip_flush(queue));
    fixture_expect(queue, 0, 1000, 4);
    fixture_close(volume, queue);
    fixture_end(&rig.fixture);
}

/* --- What is exact ------------------------------------------------------- */

/* 4000 pieces of 3 bytes, some of none; beyond what a system call takes. */
static void test_many_iovs(const void *kind)
{
    enum { COUNT = 4000, EACH = 3, BYTES = COUNT * EACH };
    g_autofree struct iovec *iov = g_new0(struct iovec, 2 * COUNT);
    g_autofree uint8_t *out = g_malloc(BYTES), *in = g_malloc0(BYTES);
    archip_request request = {.op = ARCHIP_WRITE, .offset_bytes = 65000,
                              .length_bytes = BYTES, .iov = iov,
                              .iov_count = 2 * COUNT};
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned i = 0; i < BYTES; i++) {
        out[i] = (uint8_t)(i * 7 + i / 256);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        iov[2 * i] = (struct iovec){out + i * EACH, EACH};
    }
    g_assert_cmpint(fixture_run(rig.queue, &request), ==, 0);
    for (unsigned i = 0; i < COUNT; i++) {
        iov[2 * i].iov_base = in + i * EACH;
    }
    request.op = ARCHIP_READ;
    g_assert_cmpint(fixture_run(rig.queue, &request), ==, 0);
    g_assert_cmpmem(in, BYTES, out, BYTES);
    fixture_expect(rig.queue, 0, 65000, 0);
    fixture_expect(rig.queue, 65000 + BYTES, 10000, 0);
    rig_end(&rig);
}

static void test_discard_edges(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    fixture_fill(rig.queue, 0, 131072, 6);
    assert_ok(archip_discard(rig.queue, 4097, 8190));
    fixture_expect(rig.queue, 0, 8192, 6);
    fixture_expect(rig.queue, 12288, 65536, 6);
    assert_ok(archip_discard(rig.queue, 4095, 8194));
    fixture_expect(rig.queue, 0, 4096, 6);
    fixture_expect(rig.queue, 4096, 8192, 0);
    fixture_expect(rig.queue, 12288, 131072 - 12288, 6);
    assert_ok(archip_discard(rig.queue, 65535, 4098));
    fixture_expect(rig.queue, 65536, 4096, 0);
    fixture_expect(rig.queue, 12288, 65536 - 12288, 6);
    fixture_expect(rig.queue, 65536 + 4096, 65536 - 4096, 6);
    rig_end(&rig);
}

static void test_zeroes_exact(const void *kind)
{
    static const unsigned flags[] = {0, ARCHIP_MAY_UNMAP, ARCHIP_FUA,
                                     ARCHIP_MAY_UNMAP | ARCHIP_FUA};
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++) {
        fixture_fill(rig.queue, 0, 200000, 6);
        assert_ok(archip_write_zeroes(rig.queue, 4095, 140001, flags[i]));
        fixture_expect(rig.queue, 0, 4095, 6);
        fixture_expect(rig.queue, 4095, 140001, 0);
        fixture_expect(rig.queue, 144096, 200000 - 144096, 6);
    }
    rig_end(&rig);
}

static void test_extents_kinds(const void *kind)
{
    archip_extent extents[16];
    uint64_t total = 0;
    struct rig rig;
    int count;

    rig_begin(&rig, kind);
    fixture_fill(rig.queue, 65536, 65536, 6);
    count = assert_ok(archip_extents(rig.queue, 0, SIZE, extents, 16));
    g_assert_cmpint(count, ==, 3);
    g_assert_cmpuint(extents[0].length_bytes, ==, 65536);
    g_assert_cmpuint(extents[0].flags & ARCHIP_EXTENT_DATA, ==, 0);
    g_assert_cmpuint(extents[1].length_bytes, ==, 65536);
    g_assert_cmpuint(extents[1].flags, ==, ARCHIP_EXTENT_DATA);
    g_assert_cmpuint(extents[2].flags & ARCHIP_EXTENT_DATA, ==, 0);
    for (int i = 0; i < count; i++) {
        total += extents[i].length_bytes;
    }
    g_assert_cmpuint(total, ==, SIZE);
    count = assert_ok(archip_extents(rig.queue, 70000, 100, extents, 1));
    g_assert_cmpint(count, ==, 1);
    g_assert_cmpuint(extents[0].length_bytes, ==, 100);
    g_assert_cmpuint(extents[0].flags, ==, ARCHIP_EXTENT_DATA);
    rig_end(&rig);
}

static void test_copy(const void *kind)
{
    archip_volume *source;
    archip_queue *queue;
    struct rig rig;

    rig_begin(&rig, kind);
    fixture_create(&rig.fixture, "source", MIB, 1 << 20);
    queue = fixture_open_queue(&rig.fixture, "source", ARCHIP_OPEN_WRITE,
                               &source);
    fixture_fill(queue, 1000, 100000, 8);
    fixture_fill(rig.queue, 0, 400000, 6);
    assert_ok(archip_copy_range(rig.queue, 5001, source, 0, 200000, 0));
    fixture_expect(rig.queue, 0, 5001, 6);
    fixture_expect(rig.queue, 5001, 1000, 0);
    fixture_expect(rig.queue, 6001, 100000, 8);
    fixture_expect(rig.queue, 106001, 99000, 0);
    fixture_expect(rig.queue, 205001, 400000 - 205001, 6);
    assert_ok(archip_copy_range(rig.queue, 300000, rig.volume, 6001, 50000,
                                ARCHIP_FUA));
    fixture_expect(rig.queue, 300000, 50000, 8);
    fixture_expect(rig.queue, 350000, 50000, 6);
    fixture_close(source, queue);
    rig_end(&rig);
}

/* --- Queues -------------------------------------------------------------- */

enum { BURST = 400 };

static archip_request burst_request(struct rig *rig, unsigned i,
                                    struct iovec *iov, archip_extent *extent)
{
    static const archip_op ops[] = {
        ARCHIP_READ, ARCHIP_WRITE, ARCHIP_FLUSH, ARCHIP_DISCARD,
        ARCHIP_WRITE_ZEROES, ARCHIP_EXTENTS, ARCHIP_COPY_RANGE};

    return (archip_request){
        .op = ops[i % 7], .offset_bytes = i * 1001 % (2 * MIB),
        .length_bytes = i % 7 == 2 ? 0 : iov->iov_len, .iov = iov,
        .iov_count = 1, .extents = extent, .extent_count = 1,
        .source = rig->volume, .source_offset_bytes = 3 * MIB,
        .user = GUINT_TO_POINTER(i + 1)};
}

/* Many of all kinds, good and bad, in flight; reaped one by one. */
static void test_exactly_once(const void *kind)
{
    g_autofree uint8_t *memory = g_malloc0(BURST * 600);
    struct iovec iov[BURST];
    archip_extent extents[BURST];
    unsigned seen[BURST + 1] = {0};
    archip_completion completion;
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned i = 0; i < BURST; i++) {
        archip_request request;

        iov[i] = (struct iovec){memory + i * 600, 600};
        request = burst_request(&rig, i, &iov[i], &extents[i]);
        request.offset_bytes += i % 50 == 49 ? SIZE : 0;
        assert_ok(archip_submit(rig.queue, &request, 1));
    }
    for (unsigned i = 0; i < BURST; i++) {
        g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, -1), ==,
                        1);
        seen[GPOINTER_TO_UINT(completion.user)]++;
    }
    g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, 50), ==, 0);
    g_assert_cmpuint(seen[0], ==, 0);
    for (unsigned i = 1; i <= BURST; i++) {
        g_assert_cmpuint(seen[i], ==, 1);
    }
    rig_end(&rig);
}

static bool readable(archip_queue *queue, int timeout_ms)
{
    struct pollfd fd = {archip_queue_fd(queue), POLLIN, 0};

    return poll(&fd, 1, timeout_ms) == 1;
}

/* A completion that was already reaped may still wake once more; that ends
 * with a reap that finds nothing. */
static bool falls_silent(archip_queue *queue)
{
    archip_completion completion;

    for (unsigned i = 0; i < 3 && readable(queue, 5); i++) {
        g_assert_cmpint(archip_queue_reap(queue, &completion, 1, 0), ==, 0);
    }
    return !readable(queue, 5);
}

/* Readable while there is something to reap, and only then. */
static void test_descriptor(const void *kind)
{
    uint8_t bytes[8][512] = {{0}};
    struct iovec iov[8];
    archip_request requests[8] = {{0}};
    archip_completion completion;
    struct rig rig;
    int reaped = 0;

    rig_begin(&rig, kind);
    for (unsigned round = 0; round < 50; round++) {
        g_assert_true(falls_silent(rig.queue));
        for (unsigned i = 0; i < 8; i++) {
            iov[i] = (struct iovec){bytes[i], 512};
            requests[i] = (archip_request){
                .op = (round + i) % 2 ? ARCHIP_READ : ARCHIP_WRITE,
                .offset_bytes = i * 70000 + round, .length_bytes = 512,
                .iov = &iov[i], .iov_count = 1};
        }
        assert_ok(archip_submit(rig.queue, requests, 8));
        for (reaped = 0; reaped < 8;) {
            g_assert_true(readable(rig.queue, 10000));
            reaped += archip_queue_reap(rig.queue, &completion, 1, 0);
        }
    }
    g_assert_true(falls_silent(rig.queue));
    rig_end(&rig);
}

static void test_reap_empty(const void *kind)
{
    archip_completion completion;
    gint64 start = g_get_monotonic_time();
    struct rig rig;

    rig_begin(&rig, kind);
    start = g_get_monotonic_time();
    g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, -1), ==, 0);
    g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, 60000), ==, 0);
    g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, 0), ==, 0);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 10000000);
    assert_ok(archip_submit(rig.queue, NULL, 0));
    g_assert_cmpint(archip_queue_reap(rig.queue, &completion, 1, -1), ==, 0);
    rig_end(&rig);
}

/* Requests in flight when their queue is closed have been carried out. */
static void test_close_in_flight(const void *kind)
{
    uint8_t bytes[30000];
    struct iovec iov = {bytes, sizeof(bytes)};
    struct rig rig;

    rig_begin(&rig, kind);
    memset(bytes, 0x42, sizeof(bytes));
    for (unsigned round = 0; round < 10; round++) {
        archip_queue *queue = fixture_queue(rig.volume);

        for (unsigned i = 0; i < 12; i++) {
            archip_request request = {
                .op = ARCHIP_WRITE, .offset_bytes = i * sizeof(bytes),
                .length_bytes = sizeof(bytes), .iov = &iov, .iov_count = 1};

            assert_ok(archip_submit(queue, &request, 1));
        }
        archip_queue_close(queue);
        fixture_expect(rig.queue, 0, 12 * sizeof(bytes), 0x42);
        assert_ok(archip_write_zeroes(rig.queue, 0, 12 * sizeof(bytes), 0));
    }
    archip_queue_close(NULL);
    rig_end(&rig);
}

/* Several queues, some of the kind that may block, see each other's writes. */
static void test_queues_share(const void *kind)
{
    archip_queue *queues[12];
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned i = 0; i < 12; i++) {
        assert_ok(archip_queue_open(rig.volume,
                                    i % 2 ? ARCHIP_QUEUE_MAY_BLOCK : 0,
                                    &queues[i]));
    }
    for (unsigned i = 0; i < 60; i++) {
        fixture_fill(queues[i % 12], i * 1000, 1500, (uint8_t)(i + 1));
        fixture_expect(queues[(i + 5) % 12], i * 1000, 1500, (uint8_t)(i + 1));
        assert_ok(archip_flush(queues[(i + 7) % 12]));
    }
    for (unsigned i = 0; i < 12; i++) {
        archip_queue_close(queues[i]);
    }
    rig_end(&rig);
}

static void test_queue_flags(const void *kind)
{
    archip_queue *queue = NULL;
    struct rig rig;

    rig_begin(&rig, kind);
    assert_fails(archip_queue_open(rig.volume, 0x80, &queue), EINVAL, "");
    g_assert_null(queue);
    rig_end(&rig);
}

/* Neighbours in one sector, written at once from many requests. */
static void test_neighbours(const void *kind)
{
    enum { COUNT = 256 };
    uint8_t bytes[COUNT], found[COUNT];
    struct iovec iov[COUNT];
    archip_completion completions[COUNT];
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned round = 0; round < 8; round++) {
        unsigned done = 0;

        for (unsigned i = 0; i < COUNT; i++) {
            archip_request request = {
                .op = ARCHIP_WRITE,
                .offset_bytes = 65536 - COUNT / 2 + (i * 37 + round) % COUNT,
                .length_bytes = 1, .iov = &iov[i], .iov_count = 1};

            bytes[i] = (uint8_t)((i * 37 + round) % COUNT + round);
            iov[i] = (struct iovec){&bytes[i], 1};
            assert_ok(archip_submit(rig.queue, &request, 1));
        }
        while (done < COUNT) {
            done += (unsigned)archip_queue_reap(rig.queue, completions, COUNT,
                                                -1);
        }
        assert_ok(archip_read(rig.queue, found, COUNT, 65536 - COUNT / 2));
        for (unsigned i = 0; i < COUNT; i++) {
            g_assert_cmpuint(found[i], ==, (uint8_t)(i + round));
        }
    }
    rig_end(&rig);
}

/* The last block is cleared up to the volume's end, wherever that was when the
 * request was made: what grows beyond it meanwhile stays. */
static void tail_round(struct rig *rig, unsigned round)
{
    uint8_t byte = (uint8_t)(1 + round % 255), old = 9;
    struct iovec iov = {&byte, 1}, old_iov = {&old, 1};
    uint64_t at = 600 + round * 37 % 3400;
    archip_request requests[] = {
        {.op = ARCHIP_WRITE, .offset_bytes = 7, .length_bytes = 1,
         .iov = &old_iov, .iov_count = 1},
        {.op = round % 2 ? ARCHIP_DISCARD : ARCHIP_WRITE_ZEROES,
         .flags = round % 2 ? 0 : ARCHIP_MAY_UNMAP, .length_bytes = 512},
        {.op = ARCHIP_WRITE, .flags = ARCHIP_GROW, .offset_bytes = at,
         .length_bytes = 1, .iov = &iov, .iov_count = 1},
    };
    archip_completion completion;

    assert_ok(archip_volume_resize(rig->volume, 512, ARCHIP_RESIZE_SHRINK));
    if (round % 3) {
        fixture_fill(rig->queue, 0, 512, 3);
    }
    assert_ok(archip_submit(rig->queue, requests, 3));
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpint(archip_queue_reap(rig->queue, &completion, 1, -1), ==,
                        1);
        g_assert_cmpint(completion.result, ==, 0);
    }
    fixture_expect(rig->queue, at, 1, byte);
    fixture_expect(rig->queue, 512, at - 512, 0);
}

static void test_tail_and_growth(const void *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned round = 0; round < 60; round++) {
        tail_round(&rig, round);
    }
    rig_end(&rig);
}

/* --- Descriptors --------------------------------------------------------- */

static void use_all(const char *kind)
{
    struct rig rig;

    rig_begin(&rig, kind);
    for (unsigned i = 0; i < 60; i++) {
        fixture_fill(rig.queue, i * 65536, 5000, 1);
    }
    assert_ok(archip_flush(rig.queue));
    fixture_expect(rig.queue, 65536 * 9, 5000, 1);
    rig_end(&rig);
}

static void test_no_leak(const void *kind)
{
    unsigned before;

    use_all(kind);
    before = scratch_descriptors();
    for (unsigned i = 0; i < 5; i++) {
        use_all(kind);
    }
    g_assert_cmpuint(scratch_descriptors(), ==, before);
}

static void test_many_volumes(const void *kind)
{
    enum { COUNT = 60 };
    archip_volume *volumes[COUNT];
    archip_queue *queues[COUNT];
    struct fixture fixture;
    unsigned before = scratch_descriptors();

    fixture_begin(&fixture, kind);
    for (unsigned i = 0; i < COUNT; i++) {
        g_autofree char *name = g_strdup_printf("v%u", i);

        fixture_create(&fixture, name, MIB, 1 << 16);
        queues[i] = fixture_open_queue(&fixture, name, ARCHIP_OPEN_WRITE,
                                       &volumes[i]);
        fixture_fill(queues[i], i, 100000, (uint8_t)(i + 1));
    }
    for (unsigned i = 0; i < COUNT; i++) {
        fixture_expect(queues[i], i, 100000, (uint8_t)(i + 1));
    }
    for (unsigned i = 0; i < COUNT; i++) {
        fixture_close(volumes[i], queues[i]);
    }
    fixture_end(&fixture);
    g_assert_cmpuint(scratch_descriptors(), ==, before);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add("/request/malformed", test_malformed);
    fixture_add("/request/malformed-later", test_malformed_later);
    fixture_add("/request/beyond", test_beyond);
    fixture_add("/request/zero-length", test_zero_length);
    fixture_add("/request/iov-mismatch", test_iov_mismatch);
    fixture_add("/request/read-only", test_read_only);
    fixture_add("/request/many-iovs", test_many_iovs);
    fixture_add("/request/discard-edges", test_discard_edges);
    fixture_add("/request/zeroes-exact", test_zeroes_exact);
    fixture_add("/request/extents", test_extents_kinds);
    fixture_add("/request/copy", test_copy);
    fixture_add("/queue/exactly-once", test_exactly_once);
    fixture_add("/queue/descriptor", test_descriptor);
    fixture_add("/queue/reap-empty", test_reap_empty);
    fixture_add("/queue/close-in-flight", test_close_in_flight);
    fixture_add("/queue/share", test_queues_share);
    fixture_add("/queue/flags", test_queue_flags);
    fixture_add("/queue/neighbours", test_neighbours);
    fixture_add("/request/tail-and-growth", test_tail_and_growth);
    fixture_add("/library/descriptors", test_no_leak);
    fixture_add("/library/many-volumes", test_many_volumes);
    return g_test_run();
}
