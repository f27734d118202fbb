/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens to the volume between rounds, with nothing in flight: closed and
 * opened in all ways, handed over, resized, discarded at large, frozen.  None
 * of it may change a byte that the model doesn't know of.
 */
#include "property.h"
#include "unit/scratch.h"

#include <errno.h>
#include <string.h>

#define NAME "property"
#define OTHER "other"

static void must(struct run *run, int result)
{
    if (result < 0) {
        fail(run, run->step, UINT64_MAX, "%d: %s", result, archip_error());
    }
}

/* --- Opening and closing ------------------------------------------------- */

static void open_queues(struct run *run)
{
    for (unsigned i = 0; i < run->setup->queues; i++) {
        unsigned flags = chance(run->random, 25) ? ARCHIP_QUEUE_MAY_BLOCK : 0;

        must(run, archip_queue_open(run->volume, flags, &run->queues[i]));
    }
}

static void close_queues(struct run *run)
{
    for (unsigned i = 0; i < run->setup->queues; i++) {
        archip_queue_close(run->queues[i]);
    }
}

static void open_volume(struct run *run, unsigned flags)
{
    must(run, archip_volume_open(run->store, NAME, flags, "property",
                                 &run->volume));
    open_queues(run);
}

static void close_volume(struct run *run)
{
    close_queues(run);
    must(run, archip_volume_close(run->volume));
}

static void check_refused(struct run *run, int error)
{
    uint8_t byte = 1;

    run->doing = "a request that must be refused";
    if (error == EROFS && archip_read(run->queues[0], &byte, 1, 0) < 0) {
        fail(run, run->step, 0, "read: %s", archip_error());
    }
    if (archip_write(run->queues[0], &byte, 1, 0, 0) != -error ||
        (error == EPERM && archip_read(run->queues[0], &byte, 1, 0) != -EPERM)) {
        fail(run, run->step, 0, "not -%d: %s", error, archip_error());
    }
}

/* --- What may happen ----------------------------------------------------- */

static void life_queues(struct run *run)
{
    run->doing = "new queues";
    close_queues(run);
    open_queues(run);
}

static void life_reopen(struct run *run)
{
    run->doing = "close and open";
    close_volume(run);
    open_volume(run, ARCHIP_OPEN_WRITE);
}

static void life_reopen_store(struct run *run)
{
    run->doing = "close and open the store";
    close_volume(run);
    must(run, archip_volume_close(run->other));
    if (run->scratch) {
        archip_store_close(run->store);
        must(run, archip_store_open(run->location, 0, &run->store));
    }
    must(run, archip_volume_open(run->store, OTHER, 0, NULL, &run->other));
    open_volume(run, ARCHIP_OPEN_WRITE);
}

static void life_read_only(struct run *run)
{
    run->doing = "read-only";
    close_volume(run);
    open_volume(run, 0);
    verdict_everything(run);
    check_refused(run, EROFS);
    run->doing = "after read-only";
    close_volume(run);
    open_volume(run, ARCHIP_OPEN_WRITE);
}

static void life_switch(struct run *run)
{
    run->doing = "reopen read-only, keeping queues";
    must(run, archip_volume_reopen(run->volume, 0));
    verdict_everything(run);
    check_refused(run, EROFS);
    run->doing = "reopen for writing, keeping queues";
    must(run, archip_volume_reopen(run->volume, ARCHIP_OPEN_WRITE));
}

static void life_hand_over(struct run *run)
{
    run->doing = "deactivate and activate";
    must(run, archip_volume_deactivate(run->volume));
    check_refused(run, EPERM);
    run->doing = "activate";
    must(run, archip_volume_activate(run->volume));
}

static void life_resize(struct run *run)
{
    uint64_t size = generate_size(run);
    unsigned flags = ARCHIP_RESIZE_SHRINK;

    run->doing = "resize";
    if (size >= run->size_bytes && chance(run->random, 50)) {
        flags = chance(run->random, 50) ? ARCHIP_RESIZE_VOLATILE : 0;
    }
    must(run, archip_volume_resize(run->volume, size, flags));
    run->size_bytes = size;
    model_zero(run->model, size, UINT64_MAX);
}

/* Cut off what was just written, anywhere, and grow again: zeroes. */
static void life_cut(struct run *run)
{
    uint64_t size = run->size_bytes;
    uint64_t length = MIN(size, 3 * run->block_bytes);
    uint64_t kept = random_below(run->random, length / 512) * 512;
    g_autofree uint8_t *bytes = g_malloc(length);

    run->doing = "shrink and grow";
    kept += size == length ? 512 : 0;
    pattern_fill(run->step, size - length, bytes, length);
    must(run, archip_write(run->queues[0], bytes, length, size - length, 0));
    model_put(run->model, size - length, bytes, length);
    must(run, archip_volume_resize(run->volume, size - length + kept,
                                   ARCHIP_RESIZE_SHRINK));
    model_zero(run->model, size - length + kept, UINT64_MAX);
    if (chance(run->random, 30)) {
        close_volume(run);
        open_volume(run, ARCHIP_OPEN_WRITE);
    }
    must(run, archip_volume_resize(run->volume, size, 0));
    verdict_everything(run);
}

/* Many objects at once, at block boundaries: an exact effect is known. */
static void life_discard(struct run *run)
{
    GRand *random = run->random;
    uint64_t block = run->block_bytes, size = run->size_bytes;
    uint64_t start = random_below(random, FOCUS_COUNT);
    uint64_t length = run->setup->object_bytes *
                      (1 + random_below(random, 40));

    start = MIN(run->focus[start], size) / block * block;
    if (chance(random, 20)) {   /* a large part of a large volume */
        length = MIN(size, UINT64_C(1) << 40);
    }
    length = MIN(length, size - start) / block * block;
    run->doing = "large discard";
    must(run, archip_discard(run->queues[0], start, length));
    model_zero(run->model, start, start + length);
}

static void life_zeroes(struct run *run)
{
    uint64_t start = random_below(run->random, FOCUS_COUNT);
    uint64_t length = run->setup->object_bytes *
                      (1 + random_below(run->random, 4));

    start = MIN(run->focus[start], run->size_bytes - 1) | 1;
    length = MIN(length, run->size_bytes - start);
    run->doing = "large zeroes";
    must(run, archip_write_zeroes(run->queues[0], start, length,
                                  ARCHIP_MAY_UNMAP));
    model_zero(run->model, start, start + length);
}

static void life_flush(struct run *run)
{
    run->doing = "flush";
    must(run, archip_flush(run->queues[0]));
}

static void life_freeze(struct run *run)
{
    if (can_freeze) {
        run->doing = "freeze";
        must(run, freeze_volume(run->volume));
        run->freezes++;
    }
}

static void life_verify(struct run *run)
{
    run->doing = "verification";
    verdict_everything(run);
}

static void life_nothing(struct run *run)
{
    run->doing = "nothing";
}

void life_step(struct run *run)
{
    static void (*const steps[])(struct run *run) = {
        life_nothing, life_nothing, life_verify, life_queues, life_reopen,
        life_reopen_store, life_read_only, life_switch, life_hand_over,
        life_resize, life_resize, life_cut, life_discard, life_zeroes, life_flush,
        life_freeze, life_freeze, life_freeze, life_freeze,
    };
    unsigned count = G_N_ELEMENTS(steps) - (can_freeze ? 0 : 4);

    steps[random_below(run->random, count)](run);
    if (chance(run->random, 20)) {
        life_verify(run);
    }
}

/* --- The beginning and the end ------------------------------------------- */

/* The other volume, a source of copies: half of it written, with holes. */
static void make_other(struct run *run)
{
    uint8_t bytes[20000];
    archip_volume *volume;
    archip_queue *queue;

    must(run, archip_volume_create(run->store, OTHER, OTHER_BYTES, NULL));
    must(run, archip_volume_open(run->store, OTHER, ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    must(run, archip_queue_open(volume, 0, &queue));
    for (uint64_t at = 0; at + sizeof(bytes) < OTHER_BYTES; at += 40001) {
        pattern_fill(0, at, bytes, sizeof(bytes));
        must(run, archip_write(queue, bytes, sizeof(bytes), at, 0));
        model_put(run->other_model, at, bytes, sizeof(bytes));
    }
    archip_queue_close(queue);
    must(run, archip_volume_close(volume));
    must(run, archip_volume_open(run->store, OTHER, 0, NULL, &run->other));
}

/* "dir:?io=buffered": the path of a new directory goes behind the colon. */
static void choose_location(struct run *run)
{
    const char *store = run->setup->store;

    if (g_str_has_prefix(store, "dir:") &&
        (store[4] == '\0' || store[4] == '?')) {
        run->scratch = scratch_new();
        run->location = g_strdup_printf("dir:%s%s", run->scratch, store + 4);
    } else {
        run->location = g_strdup(store);
    }
}

void life_begin(struct run *run)
{
    archip_create_options options = {.object_bytes = run->setup->object_bytes};
    archip_volume_info info;

    run->doing = "set up";
    choose_location(run);
    must(run, archip_store_open(run->location, ARCHIP_STORE_CREATE,
                                &run->store));
    must(run, archip_volume_create(run->store, NAME, run->size_bytes,
                                   &options));
    make_other(run);
    open_volume(run, ARCHIP_OPEN_WRITE);
    must(run, archip_volume_get_info(run->volume, &info));
    run->block_bytes = info.block_bytes;
    if (info.block_bytes != MAX(4096u, run->setup->object_bytes / 1024)) {
        fail(run, 0, UINT64_MAX, "block of %u bytes", info.block_bytes);
    }
}

void life_end(struct run *run)
{
    life_reopen(run);
    verdict_everything(run);
    run->doing = "tear down";
    close_volume(run);
    must(run, archip_volume_close(run->other));
    must(run, archip_volume_remove(run->store, NAME));
    must(run, archip_volume_remove(run->store, OTHER));
    archip_store_close(run->store);
    if (run->scratch) {
        scratch_remove(run->scratch);
    }
    g_free(run->scratch);
    g_free(run->location);
}
