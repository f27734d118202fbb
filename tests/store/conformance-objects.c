/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Conformance: what each request does to an object. */
#include "conformance.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

static void check_content(struct fixture *fixture, struct store_object object,
                          uint64_t offset_bytes, const uint8_t *want,
                          size_t bytes)
{
    uint8_t *got = make_buffer(bytes, 99);

    g_assert_cmpint(do_read(fixture, object, offset_bytes, got, bytes), ==, 0);
    g_assert_cmpmem(got, bytes, want, bytes);
    free(got);
}

static void check_zeroes(struct fixture *fixture, struct store_object object,
                         uint64_t offset_bytes, size_t bytes)
{
    uint8_t *got = make_buffer(bytes, 99);

    g_assert_cmpint(do_read(fixture, object, offset_bytes, got, bytes), ==, 0);
    g_assert_true(is_all(got, 0, bytes));
    free(got);
}

static void test_write_read(struct fixture *fixture)
{
    uint8_t *data = make_buffer(64 * KIB, 1);

    g_assert_cmpint(do_write(fixture, block(fixture, 0), 8 * KIB, data,
                             64 * KIB, STORE_CREATE), ==, 0);
    check_content(fixture, block(fixture, 0), 8 * KIB, data, 64 * KIB);
    g_assert_cmpint(do_write(fixture, block(fixture, 0), 12 * KIB, data,
                             4 * KIB, 0), ==, 0);
    check_content(fixture, block(fixture, 0), 12 * KIB, data, 4 * KIB);
    check_content(fixture, block(fixture, 0), 16 * KIB, data + 8 * KIB,
                  4 * KIB);
    free(data);
}

static void test_unaligned(struct fixture *fixture)
{
    uint8_t *data = make_buffer(16 * KIB, 2);

    g_assert_cmpint(do_write(fixture, block(fixture, 0), 3, data + 1, 5000,
                             STORE_CREATE), ==, 0);
    g_assert_cmpint(do_write(fixture, block(fixture, 0), 8 * KIB, data, 1, 0),
                    ==, 0);
    check_content(fixture, block(fixture, 0), 3, data + 1, 5000);
    check_content(fixture, block(fixture, 0), 8 * KIB, data, 1);
    check_zeroes(fixture, block(fixture, 0), 0, 3);
    check_zeroes(fixture, block(fixture, 0), 5003, 8 * KIB - 5003);
    /* Aligned place, unaligned memory. */
    g_assert_cmpint(do_write(fixture, block(fixture, 0), 4 * KIB, data + 3,
                             4 * KIB, 0), ==, 0);
    check_content(fixture, block(fixture, 0), 4 * KIB, data + 3, 4 * KIB);
    free(data);
}

static void test_holes(struct fixture *fixture)
{
    uint8_t *data = make_buffer(4 * KIB, 3);

    g_assert_cmpint(do_write(fixture, block(fixture, 0), 1 * MIB, data,
                             4 * KIB, STORE_CREATE), ==, 0);
    check_zeroes(fixture, block(fixture, 0), 0, 1 * MIB);
    check_zeroes(fixture, block(fixture, 0), 1 * MIB + 4 * KIB, 64 * KIB);
    check_zeroes(fixture, block(fixture, 0), 30 * MIB, 64 * KIB);
    free(data);
}

/* A read that begins inside and ends past the end, which isn't aligned. */
static void test_past_end(struct fixture *fixture)
{
    struct store_object journal = {STORE_JOURNAL, fixture->layer, 5};
    struct iovec iov = {make_buffer(4 * KIB, 4), 700};
    struct store_request write = {
        .op = STORE_WRITE,
        .flags = STORE_CREATE,
        .object = journal,
        .length_bytes = 700,
        .iov = &iov,
        .iov_count = 1,
    };
    uint8_t *got = make_buffer(16 * KIB, 5);

    g_assert_cmpint(store_run(fixture->queue, &write), ==, 0);
    g_assert_cmpint(do_read(fixture, journal, 0, got, 16 * KIB), ==, 0);
    g_assert_cmpmem(got, 700, iov.iov_base, 700);
    g_assert_true(is_all(got + 700, 0, 16 * KIB - 700));
    memset(got, 1, 16 * KIB);
    g_assert_cmpint(do_read(fixture, journal, 8 * KIB, got, 16 * KIB), ==, 0);
    g_assert_true(is_all(got, 0, 16 * KIB));
    free(got);
    free(iov.iov_base);
}

static void test_missing(struct fixture *fixture)
{
    uint8_t *data = make_buffer(4 * KIB, 0);
    struct store_object object = block(fixture, 7);

    for (int round = 0; round < 2; round++) {
        g_assert_cmpint(do_read(fixture, object, 0, data, 4 * KIB), ==,
                        -ENOENT);
        g_assert_cmpint(do_write(fixture, object, 0, data, 4 * KIB, 0), ==,
                        -ENOENT);
        g_assert_cmpint(do_write(fixture, object, 0, data, 4 * KIB,
                                 STORE_FUA), ==, -ENOENT);
        g_assert_cmpint(do_op(fixture, STORE_ZERO, object, 0, 4 * KIB, 0), ==,
                        -ENOENT);
        g_assert_cmpint(do_op(fixture, STORE_PUNCH, object, 0, 4 * KIB, 0), ==,
                        -ENOENT);
        g_assert_cmpint(do_op(fixture, STORE_EXTENT, object, 0, 4 * KIB, 0),
                        ==, -ENOENT);
        g_assert_cmpint(do_op(fixture, STORE_SYNC, object, 0, 0, 0), ==, 0);
        g_assert_cmpint(do_op(fixture, STORE_REMOVE, object, 0, 0, 0), ==, 0);
        g_assert_cmpint(do_op(fixture, STORE_SYNC, object, 0, 0, 0), ==, 0);
        /* And where the folder is there, the object was, but is no more. */
        g_assert_cmpint(do_write(fixture, object, 0, data, 4 * KIB,
                                 STORE_CREATE), ==, 0);
        g_assert_cmpint(do_op(fixture, STORE_REMOVE, object, 0, 0, 0), ==, 0);
    }
    free(data);
}

static void test_create_over_leftover(struct fixture *fixture)
{
    uint8_t *old = make_buffer(256 * KIB, 6), *new = make_buffer(4 * KIB, 7);
    struct store_object object = block(fixture, 3);
    bool is_data;

    g_assert_cmpint(do_write(fixture, object, 0, old, 256 * KIB, STORE_CREATE),
                    ==, 0);
    g_assert_cmpint(do_write(fixture, object, 64 * KIB, new, 4 * KIB,
                             STORE_CREATE), ==, 0);
    check_zeroes(fixture, object, 0, 64 * KIB);
    check_content(fixture, object, 64 * KIB, new, 4 * KIB);
    check_zeroes(fixture, object, 68 * KIB, 188 * KIB);
    g_assert_cmpuint(do_extent(fixture, object, 0, 256 * KIB, &is_data), ==,
                     64 * KIB);
    g_assert_false(is_data);
    /* By another process, as it were: nothing is open. */
    fixture_reopen(fixture);
    g_assert_cmpint(do_write(fixture, object, 0, new, 4 * KIB,
                             STORE_CREATE | STORE_FUA), ==, 0);
    check_content(fixture, object, 0, new, 4 * KIB);
    check_zeroes(fixture, object, 64 * KIB, 4 * KIB);
    free(old);
    free(new);
}

static void test_reopen(struct fixture *fixture)
{
    uint8_t *data = make_buffer(32 * KIB, 8);

    for (unsigned i = 0; i < 12; i++) {
        g_assert_cmpint(do_write(fixture, block(fixture, i * 700), i * 4 * KIB,
                                 data + i * KIB, 16 * KIB, STORE_CREATE),
                        ==, 0);
    }
    fixture_reopen(fixture);
    for (unsigned i = 0; i < 12; i++) {
        check_content(fixture, block(fixture, i * 700), i * 4 * KIB,
                      data + i * KIB, 16 * KIB);
    }
    free(data);
}

/* The same id and number mean other objects in other namespaces. */
static void test_kinds(struct fixture *fixture)
{
    uint8_t *data = make_buffer(12 * KIB, 9);
    struct store_object objects[3];

    for (int i = 0; i < 3; i++) {
        objects[i] = (struct store_object){(enum store_kind)i, fixture->layer,
                                           1};
        g_assert_cmpint(do_write(fixture, objects[i], 0, data + i * 4 * KIB,
                                 4 * KIB, STORE_CREATE), ==, 0);
    }
    for (int i = 0; i < 3; i++) {
        check_content(fixture, objects[i], 0, data + i * 4 * KIB, 4 * KIB);
    }
    g_assert_cmpint(do_op(fixture, STORE_REMOVE, objects[0], 0, 0, 0), ==, 0);
    check_content(fixture, objects[1], 0, data + 4 * KIB, 4 * KIB);
    check_content(fixture, objects[2], 0, data + 8 * KIB, 4 * KIB);
    free(data);
}

static void test_numbers(struct fixture *fixture)
{
    static const uint64_t numbers[] = {0, 1023, 1024, UINT64_C(1) << 34,
                                       UINT64_MAX};

    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        for (int kind = STORE_BLOCK; kind <= STORE_JOURNAL; kind++) {
            struct store_object object = {(enum store_kind)kind,
                                          fixture->layer, numbers[i]};
            uint8_t *data = make_buffer(4 * KIB, (unsigned)i * 3 + kind + 1);

            g_assert_cmpint(do_write(fixture, object, 0, data, 4 * KIB,
                                     STORE_CREATE), ==, 0);
            check_content(fixture, object, 0, data, 4 * KIB);
            free(data);
        }
    }
}

static void test_bad_range(struct fixture *fixture)
{
    uint8_t *data = make_buffer(4 * KIB, 10);
    struct store_object object = block(fixture, 0);

    g_assert_cmpint(do_write(fixture, object, 0, data, 4 * KIB, STORE_CREATE),
                    ==, 0);
    g_assert_cmpint(do_read(fixture, object, UINT64_MAX - 4095, data, 4 * KIB),
                    ==, -EFBIG);
    g_assert_cmpint(do_write(fixture, object, UINT64_MAX - 4095, data, 4 * KIB,
                             0), ==, -EFBIG);
    g_assert_cmpint(do_write(fixture, object, INT64_MAX - 4095, data, 4 * KIB,
                             0), <, 0);
    g_assert_cmpint(do_op(fixture, STORE_PUNCH, object, UINT64_MAX, 4 * KIB,
                          0), ==, -EFBIG);
    free(data);
}

static void test_zero(struct fixture *fixture)
{
    uint8_t *data = make_buffer(64 * KIB, 11);
    struct store_object object = block(fixture, 0);
    uint64_t allocated_bytes = 0;

    g_assert_cmpint(do_write(fixture, object, 0, data, 64 * KIB, STORE_CREATE),
                    ==, 0);
    g_assert_cmpint(do_op(fixture, STORE_ZERO, object, 8 * KIB, 16 * KIB, 0),
                    ==, 0);
    check_zeroes(fixture, object, 8 * KIB, 16 * KIB);
    /* To the byte. */
    g_assert_cmpint(do_op(fixture, STORE_ZERO, object, 30001, 3333, 0), ==, 0);
    check_zeroes(fixture, object, 30001, 3333);
    check_content(fixture, object, 24 * KIB, data + 24 * KIB, 30001 - 24 * KIB);
    check_content(fixture, object, 33334, data + 33334, 64 * KIB - 33334);
    /* New, past the end, and allocated. */
    g_assert_cmpint(do_op(fixture, STORE_ZERO, block(fixture, 1), 4 * KIB,
                          128 * KIB, STORE_CREATE), ==, 0);
    check_zeroes(fixture, block(fixture, 1), 0, 256 * KIB);
    object = block(fixture, 1);
    g_assert_cmpint(fixture->store->driver->allocated(
                        fixture->store, &object, &allocated_bytes, NULL),
                    ==, 0);
    g_assert_cmpuint(allocated_bytes, >=, 128 * KIB);
    free(data);
}

static void test_zero_no_fallback(struct fixture *fixture)
{
    uint8_t *data = make_buffer(64 * KIB, 12);
    struct store_object object = block(fixture, 0);
    int result;

    g_assert_cmpint(do_write(fixture, object, 0, data, 64 * KIB, STORE_CREATE),
                    ==, 0);
    result = do_op(fixture, STORE_ZERO, object, 4 * KIB, 8 * KIB,
                   STORE_NO_FALLBACK);
    if (result == 0) {
        check_zeroes(fixture, object, 4 * KIB, 8 * KIB);
    } else {
        g_assert_cmpint(result, ==, -ENOTSUP);
        check_content(fixture, object, 4 * KIB, data + 4 * KIB, 8 * KIB);
    }
    free(data);
}

static void test_punch(struct fixture *fixture)
{
    uint8_t *data = make_buffer(256 * KIB, 13);
    struct store_object object = block(fixture, 0);
    uint64_t before_bytes, after_bytes;

    g_assert_cmpint(do_write(fixture, object, 0, data, 256 * KIB, STORE_CREATE),
                    ==, 0);
    g_assert_cmpint(do_op(fixture, STORE_SYNC, object, 0, 0, 0), ==, 0);
    fixture->store->driver->allocated(fixture->store, &object, &before_bytes,
                                      NULL);
    g_assert_cmpint(do_op(fixture, STORE_PUNCH, object, 64 * KIB, 128 * KIB,
                          0), ==, 0);
    fixture->store->driver->allocated(fixture->store, &object, &after_bytes,
                                      NULL);
    g_assert_cmpuint(after_bytes, ==, before_bytes - 128 * KIB);
    check_content(fixture, object, 0, data, 64 * KIB);
    check_zeroes(fixture, object, 64 * KIB, 128 * KIB);
    check_content(fixture, object, 192 * KIB, data + 192 * KIB, 64 * KIB);
    /* To the byte, and past the end. */
    g_assert_cmpint(do_op(fixture, STORE_PUNCH, object, 1, 4097, 0), ==, 0);
    check_content(fixture, object, 0, data, 1);
    check_zeroes(fixture, object, 1, 4097);
    check_content(fixture, object, 4098, data + 4098, 1000);
    g_assert_cmpint(do_op(fixture, STORE_PUNCH, object, 30 * MIB, 4 * KIB, 0),
                    ==, 0);
    free(data);
}

static void test_extent(struct fixture *fixture)
{
    uint8_t *data = make_buffer(128 * KIB, 14);
    struct store_object object = block(fixture, 0);
    bool is_data;

    g_assert_cmpint(do_write(fixture, object, 64 * KIB, data, 128 * KIB,
                             STORE_CREATE), ==, 0);
    g_assert_cmpuint(do_extent(fixture, object, 0, 4 * MIB, &is_data), ==,
                     64 * KIB);
    g_assert_false(is_data);
    g_assert_cmpuint(do_extent(fixture, object, 64 * KIB, 4 * MIB, &is_data),
                     ==, 128 * KIB);
    g_assert_true(is_data);
    g_assert_cmpuint(do_extent(fixture, object, 80 * KIB, 8 * KIB, &is_data),
                     ==, 8 * KIB);
    g_assert_true(is_data);
    /* A hole up to the end of the range, also past the object's. */
    g_assert_cmpuint(do_extent(fixture, object, 192 * KIB, 4 * MIB, &is_data),
                     ==, 4 * MIB);
    g_assert_false(is_data);
    g_assert_cmpuint(do_extent(fixture, object, 64 * MIB, 4 * KIB, &is_data),
                     ==, 4 * KIB);
    g_assert_false(is_data);
    free(data);
}

static int run_vectors(struct fixture *fixture, enum store_op op, uint8_t *data,
                       size_t piece_bytes, int count, unsigned flags)
{
    g_autofree struct iovec *iov = g_new(struct iovec, count);
    struct store_request request = {
        .op = op,
        .flags = flags,
        .object = block(fixture, 0),
        .offset_bytes = 4 * KIB,
        .length_bytes = piece_bytes * (size_t)count,
        .iov = iov,
        .iov_count = count,
    };

    /* From the last piece to the first, so that order matters. */
    for (int i = 0; i < count; i++) {
        iov[i] = (struct iovec){data + piece_bytes * (size_t)(count - 1 - i),
                                piece_bytes};
    }
    return store_run(fixture->queue, &request);
}

static void test_vectors(struct fixture *fixture)
{
    static const struct {
        size_t piece_bytes;
        int count;
    } cases[] = {{4096, 7}, {512, 1024}, {512, 3000}, {77, 1500}};

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        size_t bytes = cases[i].piece_bytes * (size_t)cases[i].count;
        uint8_t *data = make_buffer(bytes, 15), *got = make_buffer(bytes, 16);

        g_assert_cmpint(run_vectors(fixture, STORE_WRITE, data,
                                    cases[i].piece_bytes, cases[i].count,
                                    STORE_CREATE), ==, 0);
        g_assert_cmpint(run_vectors(fixture, STORE_READ, got,
                                    cases[i].piece_bytes, cases[i].count, 0),
                        ==, 0);
        g_assert_cmpmem(got, bytes, data, bytes);
        /* The last piece of memory came first. */
        check_content(fixture, block(fixture, 0), 4 * KIB,
                      data + bytes - cases[i].piece_bytes,
                      cases[i].piece_bytes);
        free(data);
        free(got);
    }
}

static void test_fua(struct fixture *fixture)
{
    uint8_t *data = make_buffer(8 * KIB, 17);
    struct store_object object = block(fixture, 9);

    g_assert_cmpint(do_write(fixture, object, 0, data, 8 * KIB,
                             STORE_CREATE | STORE_FUA), ==, 0);
    g_assert_cmpint(do_write(fixture, object, 4 * KIB, data, 4 * KIB,
                             STORE_FUA), ==, 0);
    g_assert_cmpint(do_write(fixture, object, 100, data, 10, STORE_FUA), ==, 0);
    check_content(fixture, object, 4 * KIB, data, 4 * KIB);
    check_content(fixture, object, 100, data, 10);
    g_assert_cmpint(do_op(fixture, STORE_SYNC, object, 0, 0, 0), ==, 0);
    free(data);
}

static void test_sync(struct fixture *fixture)
{
    uint8_t *data = make_buffer(4 * KIB, 18);

    for (unsigned i = 0; i < 10; i++) {
        g_assert_cmpint(do_write(fixture, block(fixture, i), 0, data, 4 * KIB,
                                 STORE_CREATE), ==, 0);
    }
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpint(do_op(fixture, STORE_SYNC, block(fixture, i % 10), 0, 0,
                              0), ==, 0);
    }
    g_assert_cmpint(do_op(fixture, STORE_REMOVE, block(fixture, 1), 0, 0, 0),
                    ==, 0);
    g_assert_cmpint(do_op(fixture, STORE_SYNC, block(fixture, 1), 0, 0, 0), ==,
                    0);
    free(data);
}

static void test_empty_transfer(struct fixture *fixture)
{
    struct store_object object = block(fixture, 0);

    g_assert_cmpint(do_read(fixture, object, 0, NULL, 0), ==, -ENOENT);
    g_assert_cmpint(do_write(fixture, object, 0, NULL, 0, STORE_CREATE), ==, 0);
    g_assert_cmpint(do_read(fixture, object, 0, NULL, 0), ==, 0);
    g_assert_cmpint(do_op(fixture, STORE_ZERO, object, 0, 0, 0), ==, 0);
    g_assert_cmpint(do_op(fixture, STORE_PUNCH, object, 0, 0, 0), ==, 0);
    check_zeroes(fixture, object, 0, 4 * KIB);
}

void conformance_objects(void)
{
    conformance_add("/objects/write-read", test_write_read);
    conformance_add("/objects/unaligned", test_unaligned);
    conformance_add("/objects/holes", test_holes);
    conformance_add("/objects/past-end", test_past_end);
    conformance_add("/objects/missing", test_missing);
    conformance_add("/objects/create-over-leftover",
                    test_create_over_leftover);
    conformance_add("/objects/reopen", test_reopen);
    conformance_add("/objects/kinds", test_kinds);
    conformance_add("/objects/numbers", test_numbers);
    conformance_add("/objects/bad-range", test_bad_range);
    conformance_add("/objects/zero", test_zero);
    conformance_add("/objects/zero-no-fallback", test_zero_no_fallback);
    conformance_add("/objects/punch", test_punch);
    conformance_add("/objects/extent", test_extent);
    conformance_add("/objects/vectors", test_vectors);
    conformance_add("/objects/fua", test_fua);
    conformance_add("/objects/sync", test_sync);
    conformance_add("/objects/empty-transfer", test_empty_transfer);
}
