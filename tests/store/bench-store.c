/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast a store carries out random reads or writes of whole blocks, with a
 * fixed number in flight.  Not a test: run it by hand, beside fio on one file
 * of the same size in the same file system:
 *
 *   bench-store --read --depth 16 dir:/var/tmp/bench?io=direct
 *   fio --name=x --filename=/var/tmp/f --size=1g --rw=randread --bs=4k \
 *       --ioengine=libaio --direct=1 --iodepth=16 --runtime=5 --time_based
 *
 * The store must exist or its directory be empty.  The objects are written in
 * full first and are removed at the end.
 */
#include "store/store.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECT_BYTES (4u << 20)

static int depth = 1, block_bytes = 4096, object_count = 256, seconds = 5;
static gboolean reading, may_block, thin;

static const GOptionEntry entries[] = {
    {"read", 'r', 0, G_OPTION_ARG_NONE, &reading, "read, not write", NULL},
    {"depth", 'd', 0, G_OPTION_ARG_INT, &depth, "requests in flight", "N"},
    {"block", 'b', 0, G_OPTION_ARG_INT, &block_bytes, "bytes each", "BYTES"},
    {"objects", 'o', 0, G_OPTION_ARG_INT, &object_count, "of 4 MiB", "N"},
    {"seconds", 's', 0, G_OPTION_ARG_INT, &seconds, "to run", "N"},
    {"may-block", 'm', 0, G_OPTION_ARG_NONE, &may_block,
     "a queue that carries out its requests itself", NULL},
    {"thin", 't', 0, G_OPTION_ARG_NONE, &thin,
     "into objects of which only one block was written", NULL},
    {NULL},
};

struct bench {
    struct store_queue *queue;
    struct id128 layer;
    uint64_t done_count;
    uint32_t random;
    int in_flight;
    bool stop;
};

struct slot {
    struct store_request request;
    struct iovec iov;
    struct bench *bench;
};

static uint32_t next_random(struct bench *bench)
{
    bench->random ^= bench->random << 13;
    bench->random ^= bench->random >> 17;
    bench->random ^= bench->random << 5;
    return bench->random;
}

static void launch(struct slot *slot)
{
    struct bench *bench = slot->bench;
    struct store_request *request = &slot->request;

    request->object.number = next_random(bench) % (uint32_t)object_count;
    request->offset_bytes = next_random(bench) %
                            (OBJECT_BYTES / (uint32_t)block_bytes) *
                            (uint64_t)block_bytes;
    bench->in_flight++;
    store_submit(bench->queue, request);
}

static void done(struct store_request *request)
{
    struct slot *slot = request->opaque;

    if (request->result < 0) {
        g_error("a request failed: %s", g_strerror(-request->result));
    }
    slot->bench->in_flight--;
    slot->bench->done_count++;
    if (!slot->bench->stop) {
        launch(slot);
    }
}

static void *memory(size_t bytes)
{
    void *data;

    if (posix_memalign(&data, 4096, bytes)) {
        abort();
    }
    memset(data, 0x5a, bytes);
    return data;
}

static void write_objects(struct bench *bench)
{
    struct iovec iov = {memory(OBJECT_BYTES), thin ? 4096 : OBJECT_BYTES};

    for (int i = 0; i < object_count; i++) {
        struct store_request request = {
            .op = STORE_WRITE,
            .flags = STORE_CREATE,
            .object = {STORE_BLOCK, bench->layer, (uint64_t)i},
            .length_bytes = iov.iov_len,
            .iov = &iov,
            .iov_count = 1,
            .create_bytes = OBJECT_BYTES,
        };

        if (store_run(bench->queue, &request) < 0) {
            g_error("cannot write: %s", g_strerror(-request.result));
        }
        request.op = STORE_SYNC;
        store_run(bench->queue, &request);
    }
    free(iov.iov_base);
}

/* A queue that may block has all done after kick(). */
static void wait_some(struct bench *bench)
{
    struct pollfd wait = {-1, POLLIN, 0};

    if (store_poll(bench->queue) == 0) {
        wait.fd = store_queue_fd(bench->queue);
        poll(&wait, 1, -1);
    }
}

static double run(struct bench *bench)
{
    struct slot *slots = g_new0(struct slot, depth);
    int64_t start_us = g_get_monotonic_time(), now_us = start_us;

    for (int i = 0; i < depth; i++) {
        slots[i].bench = bench;
        slots[i].iov = (struct iovec){memory((size_t)block_bytes),
                                      (size_t)block_bytes};
        slots[i].request = (struct store_request){
            .op = reading ? STORE_READ : STORE_WRITE,
            .object = {STORE_BLOCK, bench->layer, 0},
            .length_bytes = (uint64_t)block_bytes,
            .iov = &slots[i].iov,
            .iov_count = 1,
            .done = done,
            .opaque = &slots[i],
        };
        launch(&slots[i]);
    }
    while (bench->in_flight > 0) {
        store_kick(bench->queue);
        wait_some(bench);
        now_us = g_get_monotonic_time();
        bench->stop = now_us - start_us > seconds * INT64_C(1000000);
    }
    return (double)(now_us - start_us) / 1e6;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("LOCATION");
    struct bench bench = {.layer = id128_random(), .random = 2463534242u};
    g_autoptr(GError) error = NULL;
    struct store *store;
    double took;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2) {
        g_printerr("%s\n", error ? error->message : "give one LOCATION");
        return 2;
    }
    if (store_open(argv[1], STORE_OPEN_CREATE, &store, &error) < 0 ||
        store_queue_open(store, may_block ? STORE_QUEUE_MAY_BLOCK : 0,
                         &bench.queue, &error) < 0) {
        g_printerr("%s\n", error->message);
        return 1;
    }
    write_objects(&bench);
    took = run(&bench);
    printf("%s %s depth %d: %.0f IOPS\n", argv[1], reading ? "read" : "write",
           depth, (double)bench.done_count / took);
    store->driver->remove_all(store, STORE_BLOCK, &bench.layer, NULL);
    store_queue_close(bench.queue);
    store_close(store);
    return 0;
}
