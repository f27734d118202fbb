/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a program does next, beside requests. */
#include "disk.h"
#include "fibers.h"
#include "world.h"

#include <errno.h>

/* --- Resizing, freezing, intruding ---------------------------------------- */

void crash_soon_once_in(unsigned n, unsigned calls)
{
    if (disk.crash_at && random_once_in(n)) {
        disk.crash_at = disk.calls + 1 + random_below(calls);
        disk.crash_in = draw_moment();
    }
}

/* Sizes, and how far the data reach, after a resize to `size` of a process that
 * goes on. */
static void resized(struct volume *volume, uint64_t size, bool ok,
                    bool durable, uint64_t submitted)
{
    uint64_t old = volume->size, now = ++world.now;
    struct size *logged = &g_array_index(volume->sizes, struct size,
                                         volume->sizes->len - 1);

    volume->size = archip_volume_size(volume->handle);
    logged->completed = now;
    logged->ok = volume->size == size;
    if (ok && volume->size != size) {
        broken(12, volume, 0, "its size isn't what it was changed to");
    }
    if (volume->size != size && volume->size != old) {
        broken(12, volume, 0, "a failed resize left %" G_GUINT64_FORMAT
               " bytes", volume->size);
    }
    if (ok || volume->size != old) {
        volume_cut(volume);     /* came first */
    }
    if (ok ? durable : volume->size < old) {
        /* A shrink, or all of it, is durable: or the old size was there. */
        ledger_flushed(volume->ledger, submitted);
        sizes_flushed(volume, now + 1);
    }
    if (volume->size < old) {
        volume->shrunk_to = size;
    }
    if (volume->size < old && ok) {
        volume_cut(volume);
    }
    if (volume->size != size) {
        size_log(volume, old);  /* durable again with the next flush */
        logged = &g_array_index(volume->sizes, struct size,
                                volume->sizes->len - 1);
        logged->completed = now;
        logged->ok = true;
    }
}

/* Where some request ends, best one that frees, or 0. */
static uint64_t draw_end(const struct volume *volume)
{
    uint64_t end = 0;

    for (guint i = 0; i < world.ops->len; i++) {
        const struct op *op = world.ops->pdata[i];

        if (op->volume == volume &&
            (op->kind == ARCHIP_DISCARD || !random_below(4))) {
            end = (op->offset + op->length) / SECTOR * SECTOR;
        }
    }
    return end;
}

static uint64_t draw_size(const struct volume *volume)
{
    uint64_t old = volume->size, less = random_below(3 * 128);
    uint64_t size, end;

    size = random_once_in(2)
               ? old + random_below(random_once_in(2) ? 40 : 6 * 128) * SECTOR
               : old - MIN(old / SECTOR / 2, less) * SECTOR;
    if (random_once_in(4)) {
        size = (size / volume->object_bytes + 1) * volume->object_bytes;
    }
    end = size < old && random_once_in(3) ? draw_end(volume) : 0;
    return end ? end : size;
}

/* Whether what is in flight stays clear of what a shrink to `size` cuts off. */
static bool stays_within(const struct volume *volume, uint64_t size)
{
    for (guint i = 0; i < world.ops->len; i++) {
        const struct op *op = world.ops->pdata[i];

        if ((op->volume == volume &&
             (op->flags & ARCHIP_GROW || op->offset + op->length > size)) ||
            (op->source == volume && op->source_offset + op->length > size)) {
            return false;
        }
    }
    return true;
}

static void step_resize(struct volume *volume)
{
    uint64_t old = volume->size, size = draw_size(volume), now;
    unsigned flags = 0;
    int result;

    if (size > 300 * (uint64_t)volume->object_bytes || size == old || !size) {
        return;
    }
    if (size > old || !stays_within(volume, size)) {
        volume_drain(volume);
    }
    if (disk.dead) {
        return;
    }
    flags = size < old ? ARCHIP_RESIZE_SHRINK
                       : random_once_in(2) * ARCHIP_RESIZE_VOLATILE;
    now = ++world.now;
    size_log(volume, size);
    crash_soon_once_in(world.habits.end_soon_once_in, 60);
    disk_note("resize %s from %#zx to %#zx%s", volume->name, (size_t)old,
              (size_t)size, flags & ARCHIP_RESIZE_VOLATILE ? ", volatile" : "");
    result = archip_volume_resize(volume->handle, size, flags);
    disk_note("resized: %d", result);
    excuse(12, volume, "resize", result, archip_error());
    if (!disk.dead) {
        resized(volume, size, result == 0, !(flags & ARCHIP_RESIZE_VOLATILE),
                now);
    }
}

int volume_freeze(archip_volume *volume);       /* the core's own */

static void step_freeze(struct volume *volume)
{
    uint64_t now;
    int result;

    volume_drain(volume);
    if (disk.dead) {
        return;
    }
    now = ++world.now;
    disk_note("freeze %s", volume->name);
    result = volume_freeze(volume->handle);
    excuse(1, volume, "freeze", result, archip_error());
    if (result == 0) {
        ledger_flushed(volume->ledger, now);
        sizes_flushed(volume, now);
    }
}

/* A second writer is refused. */
static void step_intrude(struct volume *volume)
{
    archip_volume *second = NULL;
    int result = archip_volume_open(world.stores[random_below(STORES)],
                                    volume->name, ARCHIP_OPEN_WRITE, "second",
                                    &second);

    if (result == 0 && !disk.dead) {
        broken(15, volume, 0, "a second writer got the lock");
    }
    archip_volume_close(second);
    if (result != -EBUSY) {
        excuse(15, volume, "the second open", result, archip_error());
    }
}

static enum action draw_action(void)
{
    const unsigned *weights = world.habits.weights;
    unsigned total = 0, at = 0;
    uint64_t choice;

    for (unsigned i = 0; i < ACTIONS; i++) {
        total += weights[i];
    }
    choice = random_below(total);
    while (choice >= weights[at]) {
        choice -= weights[at++];
    }
    return (enum action)at;
}

static void step_open_volume(struct volume *volume)
{
    switch (draw_action()) {
    case DO_REQUEST:
        volume_request(volume);
        break;
    case DO_REAP:
        volume_reap(volume, volume->queues[random_below(volume->queue_count)],
                    0);
        break;
    case DO_RESIZE:
        step_resize(volume);
        break;
    case DO_FREEZE:
        step_freeze(volume);
        break;
    case DO_CLOSE:
        volume_close(volume);
        break;
    case DO_INTRUDE:
        step_intrude(volume);
        break;
    case DO_DRAIN:
        volume_drain(volume);
        break;
    default:
        fiber_point();
        break;
    }
}

static void step_volume(struct volume *volume)
{
    if (volume->handle) {
        step_open_volume(volume);
    } else if (volume->existence != THERE) {
        volume_create(volume);
    } else if (random_below(12) < world.habits.removals) {
        volume_remove(volume);
    } else {
        volume_open(volume);
    }
}

/* --- A full disk ---------------------------------------------------------- */

/* Once there is room again, and nothing but its want had gone wrong, all must
 * be well again: at the second try, for the first may tell of what failed
 * before. */
static void check_after_full(struct volume *volume)
{
    int result;

    if (!volume->handle || disk.failed_syncs || world.error_once_in) {
        return;
    }
    volume_drain(volume);
    for (unsigned tries = 0; tries < 2 && !disk.dead; tries++) {
        uint64_t now = ++world.now;

        result = archip_flush(volume->queues[0]);
        if (result == 0) {
            ledger_flushed(volume->ledger, now);
            sizes_flushed(volume, now);
            return;
        }
    }
    if (!disk.dead) {
        broken(17, volume, 0, "there is room again, but flushes fail: %s",
               archip_error());
    }
}

static void disk_fill(void)
{
    disk.limit = disk.used + random_below(40);
    disk_note("--- the disk is full from %u units on", (unsigned)disk.limit);
    world.full++;
}

static void disk_make_room(void)
{
    disk.limit = 0;
    disk_note("--- there is room again");
    for (unsigned i = 0; i < VOLUMES; i++) {
        check_after_full(&world.volumes[i]);
    }
}

/* --- Any step ------------------------------------------------------------- */

void world_step(void)
{
    /* Few at a time, so that each gets far. */
    unsigned few = 2 + (unsigned)random_below(VOLUMES - 1);

    if (world.habits.one_volume) {
        few = 1;
    }
    if (!disk.limit && random_once_in(world.habits.full_once_in)) {
        disk_fill();
    } else if (disk.limit && random_once_in(world.habits.full_once_in)) {
        disk_make_room();
    }
    step_volume(&world.volumes[random_below(few)]);
}
