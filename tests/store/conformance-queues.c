/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Conformance: many requests, many queues, and when completions run. */
#include "conformance.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES 4096u
#define PIECES_PER_OBJECT 16u

struct flight {
    struct store_request request;
    struct iovec iov;
    unsigned *left;
    unsigned done_count;
};

static __thread bool delivering;   /* inside store_poll() */

static void flight_done(struct store_request *request)
{
    struct flight *flight = request->opaque;

    g_assert_true(delivering);
    g_assert_cmpuint(flight->done_count++, ==, 0);
    g_assert_cmpint(request->result, ==, 0);
    --*flight->left;
}

static void wait_all(struct store_queue *queue, const unsigned *left)
{
    delivering = true;
    wait_for_zero(queue, left);
    delivering = false;
}

static void launch(struct store_queue *queue, struct flight *flight,
                   enum store_op op, struct store_object object,
                   uint64_t offset_bytes, uint8_t *data, unsigned *left)
{
    *flight = (struct flight){.iov = {data, PIECE_BYTES}, .left = left};
    flight->request = (struct store_request){
        .op = op,
        .object = object,
        .offset_bytes = offset_bytes,
        .length_bytes = PIECE_BYTES,
        .iov = &flight->iov,
        .iov_count = 1,
        .done = flight_done,
        .opaque = flight,
    };
    ++*left;
    store_submit(queue, &flight->request);
}

static void make_objects(struct store_queue *queue, struct id128 layer,
                         unsigned count)
{
    uint8_t *data = make_buffer(PIECE_BYTES, 0);
    struct iovec iov = {data, PIECE_BYTES};

    for (unsigned i = 0; i < count; i++) {
        struct store_request request = {
            .op = STORE_WRITE,
            .flags = STORE_CREATE,
            .object = {STORE_BLOCK, layer, i},
            .length_bytes = PIECE_BYTES,
            .iov = &iov,
            .iov_count = 1,
            .create_bytes = PIECE_BYTES * PIECES_PER_OBJECT,
        };

        g_assert_cmpint(store_run(queue, &request), ==, 0);
    }
    free(data);
}

/* Every piece of `count` objects at once, in a mixed order. */
static void all_at_once(struct store_queue *queue, enum store_op op,
                        struct id128 layer, unsigned count, uint8_t *data)
{
    unsigned total = count * PIECES_PER_OBJECT, left = 0;
    struct flight *flights = g_new0(struct flight, total);

    for (unsigned i = 0; i < total; i++) {
        unsigned at = (unsigned)((uint64_t)i * 7919 % total);
        struct store_object object = {STORE_BLOCK, layer, at % count};

        launch(queue, &flights[i], op, object, at / count * PIECE_BYTES,
               data + (size_t)at * PIECE_BYTES, &left);
    }
    store_kick(queue);
    g_assert_cmpuint(left, ==, total);
    wait_all(queue, &left);
    g_free(flights);
}

static void test_many_in_flight(struct fixture *fixture)
{
    const unsigned count = 40;
    size_t bytes = (size_t)count * PIECES_PER_OBJECT * PIECE_BYTES;
    uint8_t *data = make_buffer(bytes, 21), *got = make_buffer(bytes, 22);

    make_objects(fixture->queue, fixture->layer, count);
    all_at_once(fixture->queue, STORE_WRITE, fixture->layer, count, data);
    all_at_once(fixture->queue, STORE_READ, fixture->layer, count, got);
    g_assert_cmpmem(got, bytes, data, bytes);
    free(data);
    free(got);
}

/* --- Several threads ------------------------------------------------------ */

struct worker {
    struct store *store;
    unsigned queue_flags, seed;
    struct id128 own, shared;
};

static gpointer work(gpointer opaque)
{
    struct worker *worker = opaque;
    const unsigned count = 12;
    size_t bytes = (size_t)count * PIECES_PER_OBJECT * PIECE_BYTES;
    uint8_t *data = make_buffer(bytes, worker->seed);
    uint8_t *got = make_buffer(bytes, 1);
    struct store_queue *queue;

    g_assert_cmpint(store_queue_open(worker->store, worker->queue_flags,
                                     &queue, NULL), ==, 0);
    make_objects(queue, worker->own, count);
    for (int round = 0; round < 3; round++) {
        struct store_request sync = {
            .op = STORE_SYNC,
            .object = {STORE_BLOCK, worker->own, (unsigned)round},
        };

        all_at_once(queue, STORE_WRITE, worker->own, count, data);
        g_assert_cmpint(store_run(queue, &sync), ==, 0);
        all_at_once(queue, STORE_READ, worker->shared, 4, got);
        g_assert_true(is_all(got, 0, 4 * PIECES_PER_OBJECT * PIECE_BYTES));
        all_at_once(queue, STORE_READ, worker->own, count, got);
        g_assert_cmpmem(got, bytes, data, bytes);
    }
    store_queue_close(queue);
    free(data);
    free(got);
    return NULL;
}

static void test_threads(struct fixture *fixture)
{
    struct worker workers[4];
    GThread *threads[4];

    make_objects(fixture->queue, fixture->layer, 4);
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){
            .store = fixture->store,
            .queue_flags = i % 2 ? fixture->queue_flags : 0,
            .seed = 30 + i,
            .own = id128_random(),
            .shared = fixture->layer,
        };
        threads[i] = g_thread_new("worker", work, &workers[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
}

/* --- Completions ---------------------------------------------------------- */

static bool is_readable(int fd, int timeout_ms)
{
    struct pollfd wait = {fd, POLLIN, 0};

    return poll(&wait, 1, timeout_ms) == 1;
}

/* The descriptor is readable from completion to delivery, and then no more. */
static void test_descriptor(struct fixture *fixture)
{
    uint8_t *data = make_buffer(PIECE_BYTES, 23);
    struct flight flight;
    int fd = store_queue_fd(fixture->queue);
    unsigned left = 0;

    make_objects(fixture->queue, fixture->layer, 1);
    for (int spurious = 0; is_readable(fd, 0); spurious++) {
        g_assert_cmpint(spurious, <, 4);
        store_poll(fixture->queue);
    }
    /* What takes a while, and what is done at once. */
    for (int round = 0; round < 4; round++) {
        launch(fixture->queue, &flight, round > 0 ? STORE_SYNC : STORE_WRITE,
               block(fixture, 0), 0, data, &left);
        store_kick(fixture->queue);
        g_assert_true(is_readable(fd, 10000));
        g_assert_cmpuint(left, ==, 1);
        wait_all(fixture->queue, &left);
        for (int spurious = 0; is_readable(fd, 0); spurious++) {
            g_assert_cmpint(spurious, <, 4);
            g_assert_cmpint(store_poll(fixture->queue), ==, 0);
        }
    }
    free(data);
}

struct chain {
    struct store_queue *queue;
    unsigned rounds, left;
};

static void chain_done(struct store_request *request)
{
    struct chain *chain = request->opaque;

    g_assert_cmpint(request->result, ==, 0);
    if (chain->rounds-- == 0) {
        chain->left = 0;
        return;
    }
    request->op = request->op == STORE_READ ? STORE_WRITE : STORE_READ;
    store_submit(chain->queue, request);
    store_kick(chain->queue);
}

/* A completion may use its request again, at once. */
static void test_submit_from_done(struct fixture *fixture)
{
    struct chain chain = {fixture->queue, 100, 1};
    struct iovec iov = {make_buffer(PIECE_BYTES, 24), PIECE_BYTES};
    struct store_request request = {
        .op = STORE_WRITE,
        .object = block(fixture, 0),
        .length_bytes = PIECE_BYTES,
        .iov = &iov,
        .iov_count = 1,
        .done = chain_done,
        .opaque = &chain,
    };

    make_objects(fixture->queue, fixture->layer, 1);
    store_submit(fixture->queue, &request);
    store_kick(fixture->queue);
    wait_for_zero(fixture->queue, &chain.left);
    free(iov.iov_base);
}

/* Several syncs of one object, beside writes to it. */
static void test_syncs_and_writes(struct fixture *fixture)
{
    uint8_t *data = make_buffer(64 * PIECE_BYTES, 25);
    struct flight flights[64];
    unsigned left = 0;

    make_objects(fixture->queue, fixture->layer, 2);
    for (unsigned i = 0; i < 64; i++) {
        launch(fixture->queue, &flights[i],
               i % 4 == 3 ? STORE_SYNC : STORE_WRITE, block(fixture, i % 2),
               i % PIECES_PER_OBJECT * PIECE_BYTES, data + i * PIECE_BYTES,
               &left);
    }
    store_kick(fixture->queue);
    wait_all(fixture->queue, &left);
    free(data);
}

void conformance_queues(void)
{
    conformance_add("/queues/many-in-flight", test_many_in_flight);
    conformance_add("/queues/threads", test_threads);
    conformance_add("/queues/descriptor", test_descriptor);
    conformance_add("/queues/submit-from-done", test_submit_from_done);
    conformance_add("/queues/syncs-and-writes", test_syncs_and_writes);
}
