/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The copying engine: a ring of slots, each of which reads one chunk and then
 * writes what is in it.
 *
 * A slot goes FREE -> READING -> WRITING -> FREE; a hole begins at WRITING.
 * Completions only mark a slot's io as no longer busy; all decisions are made
 * in slot_step(), from one place, so nothing is re-entered.  A chunk in which
 * zeroes are looked for is written in several parts, one after another.  To a
 * sequential target slots write in the order of their offsets.
 */
#include "copy.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

/* What one request for zeroes covers: enough to be few, and still to be
 * interrupted. */
#define ZERO_BYTES_MAX (UINT64_C(256) << 20)

enum slot_state { SLOT_FREE, SLOT_READING, SLOT_WRITING };

struct slot {
    enum slot_state state;
    bool is_zero;               /* the range has no data */
    void *memory;
    uint64_t offset_bytes, length_bytes;
    uint64_t written_bytes;     /* of that, or under way */
    struct copy_io io;
};

struct engine {
    struct copy *copy;
    struct copy_side *source, *target;
    struct slot slots[COPY_DEPTH];
    uint64_t grain_bytes;
    uint64_t end_bytes;         /* UINT64_MAX until the source ends */
    uint64_t turn_bytes;        /* a sequential target's next offset */
    /* The run of the source that `position` is in. */
    uint64_t run_end_bytes;
    bool run_is_zero;
    GError *error;
};

/* --- Zeroes ------------------------------------------------------------- */

static bool is_zero(const char *buffer, uint64_t bytes)
{
    return bytes == 0 ||
           (buffer[0] == 0 && memcmp(buffer, buffer + 1, bytes - 1) == 0);
}

/* How much from `from` on is of one kind, by whole grains. */
static uint64_t run_in(const struct slot *slot, uint64_t from, bool *zero)
{
    const char *memory = slot->memory;
    uint64_t at = from;

    while (at < slot->length_bytes) {
        uint64_t bytes = MIN(COPY_GRAIN_BYTES, slot->length_bytes - at);
        bool this_zero = is_zero(memory + at, bytes);

        if (at > from && this_zero != *zero) {
            break;
        }
        *zero = this_zero;
        at += bytes;
    }
    return at - from;
}

/* --- Writing a slot ----------------------------------------------------- */

/* The next part of the slot: its length, and whether it is zeroes. */
static uint64_t next_part(const struct engine *engine, const struct slot *slot,
                          bool *zero)
{
    if (slot->is_zero || !engine->copy->detect_zeroes ||
        engine->target->sequential) {
        *zero = slot->is_zero;
        return slot->length_bytes - slot->written_bytes;
    }
    return run_in(slot, slot->written_bytes, zero);
}

static void write_part(struct engine *engine, struct slot *slot)
{
    struct copy_side *target = engine->target;
    bool zero = false;
    uint64_t bytes = next_part(engine, slot, &zero);

    slot->io.offset_bytes = slot->offset_bytes + slot->written_bytes;
    slot->io.buffer = (char *)slot->memory + slot->written_bytes;
    slot->io.length_bytes = bytes;
    slot->written_bytes += bytes;
    if (!zero) {
        engine->copy->data_bytes += bytes;
        target->ops->write(target, &slot->io);
    } else if (!target->starts_zero) {
        target->ops->zero(target, &slot->io);
    }
}

/* The source may have ended inside this slot. */
static void read_done(struct engine *engine, struct slot *slot)
{
    if (slot->io.length_bytes < slot->length_bytes) {
        slot->length_bytes = slot->io.length_bytes;
        engine->copy->position_bytes = slot->offset_bytes + slot->length_bytes;
        engine->end_bytes = engine->copy->position_bytes;
    }
    slot->state = SLOT_WRITING;
}

static bool its_turn(const struct engine *engine, const struct slot *slot)
{
    return !engine->target->sequential ||
           slot->offset_bytes == engine->turn_bytes;
}

/* Bring a slot as far as it goes without waiting.  True: it moved. */
static bool slot_step(struct engine *engine, struct slot *slot)
{
    bool moved = false;

    while (!slot->io.busy && slot->state != SLOT_FREE) {
        if (slot->io.error) {
            engine->error = g_steal_pointer(&slot->io.error);
            return false;
        }
        if (slot->state == SLOT_READING) {
            read_done(engine, slot);
        } else if (slot->written_bytes == slot->length_bytes) {
            engine->turn_bytes += slot->length_bytes;
            slot->state = SLOT_FREE;
        } else if (its_turn(engine, slot)) {
            write_part(engine, slot);
        } else {
            return moved;
        }
        moved = true;
    }
    return moved;
}

/* --- Filling slots ------------------------------------------------------ */

static bool find_run(struct engine *engine)
{
    struct copy_side *source = engine->source;
    uint64_t at = engine->copy->position_bytes;
    uint64_t grain = engine->grain_bytes;
    uint64_t run = engine->end_bytes - at;

    engine->run_is_zero = false;
    if (source->ops->extent &&
        !source->ops->extent(source, at, engine->end_bytes - at, &run,
                             &engine->run_is_zero, &engine->error)) {
        return false;
    }
    if (at + run < engine->end_bytes && run % grain != 0) {
        /* A grain that is partly data is data. */
        if (run < grain) {
            engine->run_is_zero = false;
        }
        run = engine->run_is_zero ? run / grain * grain
                                  : (run / grain + 1) * grain;
    }
    engine->run_end_bytes = MIN(at + run, engine->end_bytes);
    return true;
}

static void slot_begin(struct engine *engine, struct slot *slot)
{
    uint64_t at = engine->copy->position_bytes;
    bool zero = engine->run_is_zero;
    bool as_data = !zero || engine->target->sequential;
    uint64_t most = as_data ? COPY_CHUNK_BYTES - at % COPY_CHUNK_BYTES
                            : ZERO_BYTES_MAX;

    slot->offset_bytes = at;
    slot->length_bytes = MIN(engine->run_end_bytes - at, most);
    slot->written_bytes = 0;
    slot->is_zero = zero && !as_data;
    slot->state = zero ? SLOT_WRITING : SLOT_READING;
    engine->copy->position_bytes += slot->length_bytes;
    slot->io.offset_bytes = at;
    slot->io.length_bytes = slot->length_bytes;
    slot->io.buffer = slot->memory;
    if (!zero) {
        engine->source->ops->read(engine->source, &slot->io);
    } else if (as_data) {
        memset(slot->memory, 0, slot->length_bytes);
    }
}

static bool is_reading(const struct engine *engine)
{
    for (int i = 0; i < COPY_DEPTH; i++) {
        if (engine->slots[i].state == SLOT_READING) {
            return true;
        }
    }
    return false;
}

/* Use a free slot, if there is more to copy.  True: something was done. */
static bool slot_fill(struct engine *engine, struct slot *slot)
{
    struct copy *copy = engine->copy;

    if (copy->position_bytes >= engine->end_bytes ||
        (engine->source->sequential && is_reading(engine))) {
        return false;
    }
    if (copy->position_bytes >= engine->run_end_bytes && !find_run(engine)) {
        return false;
    }
    if (engine->run_is_zero && engine->target->starts_zero) {
        copy->position_bytes = engine->run_end_bytes;
    } else {
        slot_begin(engine, slot);
    }
    return true;
}

/* --- The loop ----------------------------------------------------------- */

/* Do all that can be done without waiting. */
static void advance(struct engine *engine)
{
    bool moved;

    do {
        moved = false;
        for (int i = 0; i < COPY_DEPTH && !engine->error; i++) {
            struct slot *slot = &engine->slots[i];

            if (slot->state == SLOT_FREE) {
                moved |= slot_fill(engine, slot);
            }
            if (!engine->error) {
                moved |= slot_step(engine, slot);
            }
        }
        progress_update(engine->copy->progress, engine->copy->position_bytes);
    } while (moved && !engine->error && interrupt_signal() == 0);
}

static bool is_idle(const struct engine *engine)
{
    for (int i = 0; i < COPY_DEPTH; i++) {
        if (engine->slots[i].state != SLOT_FREE) {
            return false;
        }
    }
    return engine->copy->position_bytes >= engine->end_bytes;
}

static void wait_and_work(struct engine *engine)
{
    struct copy_side *sides[] = {engine->source, engine->target};
    struct pollfd fds[3] = {{.fd = interrupt_fd(), .events = POLLIN}};

    for (int i = 0; i < 2; i++) {
        fds[1 + i].fd = sides[i]->ops->poll_fd(sides[i], &fds[1 + i].events);
    }
    if (poll(fds, G_N_ELEMENTS(fds), -1) < 0) {
        g_assert(errno == EINTR);
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (fds[1 + i].revents != 0) {
            sides[i]->ops->work(sides[i], fds[1 + i].revents);
        }
    }
}

static bool slots_new(struct engine *engine)
{
    for (int i = 0; i < COPY_DEPTH; i++) {
        if (posix_memalign(&engine->slots[i].memory, 4096,
                           COPY_CHUNK_BYTES) != 0) {
            g_set_error(&engine->error, CLI_ERROR, CODE_FAILED,
                        "no buffers for the copy: %s", g_strerror(ENOMEM));
            return false;
        }
    }
    return true;
}

static void slots_free(struct engine *engine)
{
    for (int i = 0; i < COPY_DEPTH; i++) {
        free(engine->slots[i].memory);
        g_clear_error(&engine->slots[i].io.error);
    }
}

static void engine_run(struct engine *engine)
{
    if (!slots_new(engine)) {
        return;
    }
    advance(engine);
    while (!engine->error && interrupt_signal() == 0 && !is_idle(engine)) {
        wait_and_work(engine);
        advance(engine);
    }
    if (!engine->error && interrupt_signal() == 0) {
        engine->target->ops->flush(engine->target, &engine->error);
    }
}

bool copy_run(struct copy *copy, GError **error)
{
    struct engine engine = {
        .copy = copy,
        .source = copy->source,
        .target = copy->target,
        .grain_bytes = MAX(COPY_GRAIN_BYTES,
                           MAX(copy->source->alignment_bytes,
                               copy->target->alignment_bytes)),
        .end_bytes = copy->source->size_unknown ? UINT64_MAX
                                                : copy->source->size_bytes,
    };
    int signal_number;

    engine_run(&engine);
    signal_number = interrupt_signal();
    if (engine.error || signal_number != 0) {
        copy->source->ops->stop(copy->source);
        copy->target->ops->stop(copy->target);
    }
    slots_free(&engine);
    if (signal_number != 0) {
        g_clear_error(&engine.error);
        g_set_error(&engine.error, CLI_ERROR, CODE_FAILED, "interrupted (%s)",
                    g_strsignal(signal_number));
    }
    if (engine.error) {
        g_propagate_error(error, engine.error);
        return false;
    }
    return true;
}

void copy_side_close(struct copy_side *side)
{
    if (side) {
        side->ops->close(side);
    }
}

bool is_nbd_uri(const char *name)
{
    static const char *const schemes[] = {"nbd:", "nbds:", "nbd+", "nbds+"};

    for (size_t i = 0; i < G_N_ELEMENTS(schemes); i++) {
        if (g_str_has_prefix(name, schemes[i])) {
            return true;
        }
    }
    return false;
}
