/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Carries a round's requests out: one lane a queue, driven by one thread for
 * all of them, which sleeps in poll() on the queues' descriptors, or by one
 * thread each.
 *
 * A request's logical times enclose its life: `submitted` is taken before
 * archip_submit() and `completed` after the reap.
 */
#include "property.h"

#include <poll.h>
#include <string.h>

#define GUARD_BYTES 64
#define GUARD 0xa5
#define HANG_MS 30000
#define BATCH 4
#define REAP_MAX 16

struct lane {
    struct run *run;
    struct round *round;
    archip_queue *queue;
    GPtrArray *ops;             /* struct op, in order */
    guint next, in_flight;
    GRand *random;              /* timing only */
};

static uint64_t tick(struct run *run)
{
    return atomic_fetch_add(&run->clock, 1) + 1;
}

/* --- Requests ------------------------------------------------------------ */

static bool has_buffer(const struct op *op)
{
    return op->kind == ARCHIP_READ || op->kind == ARCHIP_WRITE;
}

/* Memory with guard bytes, aligned or not as the shape says, cut in iovecs. */
static void op_prepare(struct op *op)
{
    unsigned cuts = op->shape % IOV_MAX_COUNT;
    size_t skew = op->shape & 0x100 ? 0 : (op->shape >> 9) % 511;
    size_t done = 0;

    op->memory = g_malloc(op->length_bytes + 2 * GUARD_BYTES + 8192);
    op->bytes = (uint8_t *)(((uintptr_t)op->memory + GUARD_BYTES + 4095) /
                            4096 * 4096) + skew;
    memset(op->bytes - GUARD_BYTES, GUARD, op->length_bytes + 2 * GUARD_BYTES);
    if (op->kind == ARCHIP_WRITE) {
        pattern_fill(op->step, op->offset_bytes, op->bytes, op->length_bytes);
    }
    for (unsigned i = 0; i <= cuts; i++) {
        size_t left = op->length_bytes - done;
        size_t n = i == cuts ? left : (op->shape * (i + 7u) / 64) % (left + 1);

        op->iov[i] = (struct iovec){op->bytes + done, n};
        done += n;
    }
    op->iov_count = (int)cuts + 1;
}

static void check_memory(struct run *run, const struct op *op)
{
    const uint8_t *end = op->bytes + op->length_bytes;

    for (unsigned i = 0; i < GUARD_BYTES; i++) {
        if (op->bytes[-1 - (int)i] != GUARD || end[i] != GUARD) {
            fail(run, op->step, op->offset_bytes, "memory beside the buffer "
                 "was written");
        }
    }
    for (uint64_t i = 0; op->kind == ARCHIP_WRITE && i < op->length_bytes;
         i++) {
        if (op->bytes[i] != pattern_byte(op->step, op->offset_bytes + i)) {
            fail(run, op->step, op->offset_bytes + i,
                 "a write changed its caller's buffer");
        }
    }
}

static archip_request op_request(struct run *run, struct op *op)
{
    archip_request request = {
        .op = op->kind, .flags = op->flags, .offset_bytes = op->offset_bytes,
        .length_bytes = op->length_bytes, .user = op,
    };

    if (has_buffer(op)) {
        op_prepare(op);
        request.iov = op->iov;
        request.iov_count = op->iov_count;
    } else if (op->kind == ARCHIP_EXTENTS) {
        request.extents = op->extents;
        request.extent_count = 1 + op->shape % EXTENT_ROOM;
    } else if (op->kind == ARCHIP_COPY_RANGE) {
        request.source = op->from_other ? run->other : run->volume;
        request.source_offset_bytes = op->source_bytes;
    }
    return request;
}

/* --- A lane -------------------------------------------------------------- */

static bool lane_done(const struct lane *lane)
{
    return lane->next == lane->ops->len && !lane->in_flight;
}

static void lane_submit(struct lane *lane)
{
    archip_request requests[BATCH];
    guint room = lane->run->setup->depth - lane->in_flight;
    guint left = lane->ops->len - lane->next;
    guint batch = 1 + (guint)random_below(lane->random, BATCH);
    int result;

    batch = MIN(batch, MIN(room, left));
    if (!batch) {
        return;
    }
    for (guint i = 0; i < batch; i++) {
        struct op *op = lane->ops->pdata[lane->next + i];

        requests[i] = op_request(lane->run, op);
        op->submitted = tick(lane->run);
    }
    result = archip_submit(lane->queue, requests, batch);
    if (result) {
        struct op *op = lane->ops->pdata[lane->next];

        fail(lane->run, op->step, op->offset_bytes, "submit: %d: %s", result,
             archip_error());
    }
    memset(requests, 0xee, sizeof(requests));   /* they were copied */
    lane->next += batch;
    lane->in_flight += batch;
}

static void op_complete(struct lane *lane, const archip_completion *completion,
                        uint64_t now)
{
    struct op *op = completion->user;
    struct op *first = (struct op *)lane->round->ops->data;

    if (op < first || op >= first + lane->round->ops->len ||
        !op->submitted || op->completed) {
        fail(lane->run, lane->run->step, UINT64_MAX,
             "a completion for no request in flight (%p)", (void *)op);
    }
    op->completed = now;
    op->result = completion->result;
    if ((op->result < 0) != (completion->error != NULL) ||
        (completion->error && !*completion->error)) {
        fail(lane->run, op->step, op->offset_bytes,
             "result %" G_GINT64_FORMAT " with the text \"%s\"", op->result,
             completion->error ? completion->error : "(null)");
    }
    if (has_buffer(op)) {
        check_memory(lane->run, op);
    }
}

/* Returns how many completed. */
static int lane_reap(struct lane *lane, int timeout_ms)
{
    archip_completion completions[REAP_MAX];
    size_t max = 1 + random_below(lane->random, REAP_MAX);
    int count = archip_queue_reap(lane->queue, completions, max, timeout_ms);
    uint64_t now = tick(lane->run);

    if (count < 0 || (size_t)count > max || (guint)count > lane->in_flight) {
        fail(lane->run, lane->run->step, UINT64_MAX,
             "reap of up to %zu with %u in flight: %d", max, lane->in_flight,
             count);
    }
    for (int i = 0; i < count; i++) {
        op_complete(lane, &completions[i], now);
    }
    lane->in_flight -= (guint)count;
    return count;
}

static G_NORETURN void fail_hang(struct lane *lane)
{
    struct op *ops = (struct op *)lane->round->ops->data;

    for (guint i = 0; i < lane->round->ops->len; i++) {
        if (ops[i].submitted && !ops[i].completed) {
            fail(lane->run, ops[i].step, ops[i].offset_bytes,
                 "no completion in %d ms", HANG_MS);
        }
    }
    fail(lane->run, lane->run->step, UINT64_MAX, "hang");
}

/* --- One thread for all, or one each ------------------------------------- */

static void resize_now(struct run *run, const struct round *round)
{
    int result = archip_volume_resize(run->volume, round->resize_bytes,
                                      ARCHIP_RESIZE_SHRINK);

    if (result) {
        fail(run, run->step, round->resize_bytes, "resize: %d: %s", result,
             archip_error());
    }
}

static void lanes_wait(struct lane *lanes, unsigned count)
{
    struct pollfd fds[QUEUES_MAX];
    unsigned used = 0;

    for (unsigned i = 0; i < count; i++) {
        if (lanes[i].in_flight) {
            fds[used++] = (struct pollfd){archip_queue_fd(lanes[i].queue),
                                          POLLIN, 0};
        }
    }
    if (used && poll(fds, used, HANG_MS) == 0) {
        for (unsigned i = 0; i < count; i++) {
            if (lanes[i].in_flight) {
                fail_hang(&lanes[i]);
            }
        }
    }
}

static void drive_together(struct lane *lanes, unsigned count)
{
    struct run *run = lanes->run;
    bool resized = !lanes->round->resize_bytes, busy = true;

    while (busy) {
        int reaped = 0;
        bool full = true;

        busy = false;
        for (unsigned i = 0; i < count; i++) {
            lane_submit(&lanes[i]);
            reaped += lanes[i].in_flight ? lane_reap(&lanes[i], 0) : 0;
            busy |= !lane_done(&lanes[i]);
            full &= lanes[i].next == lanes[i].ops->len ||
                    lanes[i].in_flight == run->setup->depth;
        }
        if (!resized && lanes[0].next >= lanes[0].ops->len / 2) {
            resize_now(run, lanes->round);
            resized = true;
        }
        if (!reaped && full) {
            lanes_wait(lanes, count);
        }
    }
}

static gpointer drive_lane(gpointer data)
{
    struct lane *lane = data;

    while (!lane_done(lane)) {
        bool wait;

        lane_submit(lane);
        wait = lane->next == lane->ops->len ||
               lane->in_flight == lane->run->setup->depth ||
               chance(lane->random, 20);
        if (lane->in_flight && !lane_reap(lane, wait ? HANG_MS : 0) && wait) {
            fail_hang(lane);
        }
    }
    return NULL;
}

static void drive_threads(struct lane *lanes, unsigned count)
{
    GThread *threads[QUEUES_MAX];

    for (unsigned i = 0; i < count; i++) {
        threads[i] = g_thread_new("lane", drive_lane, &lanes[i]);
    }
    if (lanes->round->resize_bytes) {
        resize_now(lanes->run, lanes->round);
    }
    for (unsigned i = 0; i < count; i++) {
        g_thread_join(threads[i]);
    }
}

void drive_round(struct run *run, struct round *round)
{
    unsigned count = run->setup->queues;
    struct lane lanes[QUEUES_MAX] = {0};

    for (unsigned i = 0; i < count; i++) {
        lanes[i] = (struct lane){
            .run = run, .round = round, .queue = run->queues[i],
            .ops = g_ptr_array_new(),
            .random = g_rand_new_with_seed(run->seed + run->round_number * 97 +
                                           i),
        };
    }
    for (guint i = 0; i < round->ops->len; i++) {
        struct op *op = &g_array_index(round->ops, struct op, i);

        g_ptr_array_add(lanes[op->lane].ops, op);
    }
    if (run->setup->threads) {
        drive_threads(lanes, count);
    } else {
        drive_together(lanes, count);
    }
    for (unsigned i = 0; i < count; i++) {
        g_ptr_array_unref(lanes[i].ops);
        g_rand_free(lanes[i].random);
    }
}
