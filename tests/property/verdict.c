/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holds a round's answers against the model, and reports: the seed, the step,
 * the first differing byte with its object and block, what would have been
 * allowed there, what wrote the byte that was found, and the last requests that
 * touched it.
 */
#include "property.h"
#include "unit/scratch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VERIFY_BYTES (256u << 10)
#define HISTORY_SHOWN 12

/* --- The report ---------------------------------------------------------- */

static const char *kind_text(archip_op kind)
{
    static const char *const names[] = {
        [ARCHIP_READ] = "read", [ARCHIP_WRITE] = "write",
        [ARCHIP_FLUSH] = "flush", [ARCHIP_DISCARD] = "discard",
        [ARCHIP_WRITE_ZEROES] = "zeroes", [ARCHIP_EXTENTS] = "extents",
        [ARCHIP_COPY_RANGE] = "copy",
    };

    return names[kind];
}

static void print_op(const struct op *op)
{
    fprintf(stderr, "  step %u: %s", op->step, kind_text(op->kind));
    fprintf(stderr, "%s%s%s%s", op->flags & ARCHIP_FUA ? ",fua" : "",
            op->flags & ARCHIP_MAY_UNMAP ? ",may-unmap" : "",
            op->flags & ARCHIP_NO_FALLBACK ? ",no-fallback" : "",
            op->flags & ARCHIP_GROW ? ",grow" : "");
    fprintf(stderr, " 0x%" PRIx64 "+0x%" PRIx64 " queue %u", op->offset_bytes,
            op->length_bytes, op->lane);
    if (op->kind == ARCHIP_COPY_RANGE) {
        fprintf(stderr, " from %s 0x%" PRIx64,
                op->from_other ? "other" : "self", op->source_bytes);
    }
    fprintf(stderr, " time %" PRIu64 "-%" PRIu64 " result %" PRId64 "\n",
            op->submitted, op->completed, op->result);
}

static void print_history(struct run *run, uint64_t offset)
{
    unsigned shown = 0;

    fprintf(stderr, "last requests there, newest first:\n");
    for (guint i = run->history->len; i > 0 && shown < HISTORY_SHOWN; i--) {
        const struct op *op = &g_array_index(run->history, struct op, i - 1);

        if (op->kind != ARCHIP_READ && op->offset_bytes <= offset &&
            offset - op->offset_bytes < op->length_bytes) {
            print_op(op);
            shown++;
        }
    }
}

static void print_place(struct run *run, uint64_t offset)
{
    uint64_t object = run->setup->object_bytes;

    fprintf(stderr, "at 0x%" PRIx64 ": object %" PRIu64 ", block %" PRIu64
            " of it, byte %" PRIu64 " of the block; block %u, size %" PRIu64
            "\n", offset, offset / object, offset % object / run->block_bytes,
            offset % run->block_bytes, run->block_bytes, run->size_bytes);
}

void fail(struct run *run, uint32_t step, uint64_t offset, const char *format,
          ...)
{
    const struct setup *setup = run->setup;
    va_list args;

    fprintf(stderr, "\nFAILED (%s): ", run->doing);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nseed %u, round %u, step %u\n", run->seed,
            run->round_number, step);
    if (offset != UINT64_MAX) {
        print_place(run, offset);
        print_history(run, offset);
    }
    fprintf(stderr, "again: --seed %u --store '%s' --size %" PRIu64
            " --object-size %u --queues %u --depth %u --ops %u --rounds %u "
            "--seconds 0%s\n", run->seed, setup->store, setup->size_bytes,
            setup->object_bytes, setup->queues, setup->depth, setup->ops,
            run->round_number, setup->threads ? " --threads" : "");
    if (run->scratch && !g_getenv("ARCHIPELAGO_KEEP")) {
        scratch_remove(run->scratch);
    }
    fflush(stderr);
    _exit(1);
}

/* Which write could have put the byte there. */
static const char *origin_text(struct run *run, const struct mismatch *mismatch,
                               char text[64])
{
    for (guint i = run->history->len; i > 0 && mismatch->found; i--) {
        const struct op *op = &g_array_index(run->history, struct op, i - 1);
        uint64_t offset = mismatch->offset_bytes;

        if (op->kind == ARCHIP_WRITE && op->offset_bytes <= offset &&
            offset - op->offset_bytes < op->length_bytes &&
            pattern_byte(op->step, offset) == mismatch->found) {
            snprintf(text, 64, "perhaps of step %u", op->step);
            return text;
        }
    }
    return mismatch->found ? "of no write there" : "lost to zeroes";
}

static G_NORETURN void fail_mismatch(struct run *run, uint32_t step,
                                     const struct mismatch *mismatch)
{
    char origin[64];

    fail(run, step, mismatch->offset_bytes,
         "found 0x%02x (%s), allowed:%s", mismatch->found,
         origin_text(run, mismatch, origin),
         mismatch->allowed ? mismatch->allowed : " (can't be read)");
}

/* --- Changes ------------------------------------------------------------- */

/* Whole blocks inside the range.  The volume's last block may be cut short by
 * the volume's end: whether it counts as whole is left open. */
static void log_discard(struct run *run, const struct round *round,
                        const struct op *op, struct change change)
{
    uint64_t block = run->block_bytes;
    uint64_t start = (op->offset_bytes + block - 1) / block * block;
    uint64_t end = (op->offset_bytes + op->length_bytes) / block * block;

    change.kind = CHANGE_ZERO;
    change.start_bytes = start;
    change.end_bytes = end;
    model_log(run->model, &change);
    if (op->offset_bytes + op->length_bytes == round->limit_bytes) {
        change.certain = false;
        change.start_bytes = MAX(start, end);
        change.end_bytes = round->limit_bytes;
        model_log(run->model, &change);
    }
}

static void log_op(struct run *run, const struct round *round,
                   const struct op *op)
{
    struct change change = {
        .certain = op->result >= 0,
        .start_bytes = op->offset_bytes,
        .end_bytes = op->offset_bytes + op->length_bytes,
        .submitted = op->submitted,
        .completed = op->completed,
        .step = op->step,
        .from = op->from_other ? run->other_model : run->model,
        .source_bytes = op->source_bytes,
    };

    if (op->kind == ARCHIP_DISCARD) {
        log_discard(run, round, op, change);
        return;
    }
    change.kind = op->kind == ARCHIP_WRITE          ? CHANGE_PATTERN
                  : op->kind == ARCHIP_WRITE_ZEROES ? CHANGE_ZERO
                                                    : CHANGE_COPY;
    if (op->kind == ARCHIP_WRITE || op->kind == ARCHIP_WRITE_ZEROES ||
        op->kind == ARCHIP_COPY_RANGE) {
        model_log(run->model, &change);
    }
}

/* --- Answers ------------------------------------------------------------- */

static void check_result(struct run *run, const struct op *op)
{
    bool good = op->result == 0;

    if (op->kind == ARCHIP_EXTENTS) {
        good = op->result >= 1 && op->result <= 1 + op->shape % EXTENT_ROOM;
    } else if (op->flags & ARCHIP_NO_FALLBACK) {
        good = op->result == 0 || op->result == -ENOTSUP;
    }
    if (!good) {
        fail(run, op->step, op->offset_bytes, "%s 0x%" PRIx64 "+0x%" PRIx64
             ": result %" PRId64, kind_text(op->kind), op->offset_bytes,
             op->length_bytes, op->result);
    }
}

static void check_extents(struct run *run, const struct op *op)
{
    uint64_t at = op->offset_bytes, end = at + op->length_bytes;
    struct mismatch mismatch = {0};
    const unsigned known = ARCHIP_EXTENT_DATA | ARCHIP_EXTENT_ZERO |
                           ARCHIP_EXTENT_SHARED;

    for (int64_t i = 0; i < op->result; i++) {
        const archip_extent *extent = &op->extents[i];
        bool zero = (extent->flags & ARCHIP_EXTENT_ZERO) ||
                    !(extent->flags & ARCHIP_EXTENT_DATA);

        if (!extent->length_bytes || extent->length_bytes > end - at ||
            (extent->flags & ~known) ||
            (!run->freezes && (extent->flags & ARCHIP_EXTENT_SHARED))) {
            fail(run, op->step, at, "extent %" PRId64 " of 0x%" PRIx64
                 " bytes with flags 0x%x", i, extent->length_bytes,
                 extent->flags);
        }
        if (zero && !model_check(run->model, at, NULL, extent->length_bytes,
                                 op->submitted, op->completed, &mismatch)) {
            run->doing = "extents call it zero";
            fail_mismatch(run, op->step, &mismatch);
        }
        at += extent->length_bytes;
    }
}

static void check_answer(struct run *run, const struct op *op)
{
    struct mismatch mismatch = {0};

    check_result(run, op);
    if (op->kind == ARCHIP_EXTENTS) {
        check_extents(run, op);
    }
    if (op->kind == ARCHIP_READ &&
        !model_check(run->model, op->offset_bytes, op->bytes, op->length_bytes,
                     op->submitted, op->completed, &mismatch)) {
        fail_mismatch(run, op->step, &mismatch);
    }
}

static bool read_volume(void *opaque, uint64_t offset, uint8_t *bytes,
                        size_t length)
{
    struct run *run = opaque;

    return archip_read(run->queues[0], bytes, length, offset) == 0;
}

static void check_size(struct run *run)
{
    uint64_t size = archip_volume_size(run->volume);

    if (size != run->size_bytes) {
        fail(run, run->step, UINT64_MAX, "the size is %" PRIu64 " instead of %"
             PRIu64, size, run->size_bytes);
    }
}

/* What the round's growing requests or its resize made of the size. */
static void follow_size(struct run *run, const struct round *round)
{
    for (guint i = 0; i < round->ops->len; i++) {
        const struct op *op = &g_array_index(round->ops, struct op, i);
        uint64_t end = op->offset_bytes + op->length_bytes;

        if ((op->flags & ARCHIP_GROW) && op->result == 0) {
            end = (end + 511) / 512 * 512;
            run->size_bytes = MAX(run->size_bytes, end);
        }
    }
    if (round->resize_bytes) {
        run->size_bytes = round->resize_bytes;
        model_zero(run->model, run->size_bytes, UINT64_MAX);
    }
}

void verdict_round(struct run *run, struct round *round)
{
    struct mismatch mismatch = {0};

    g_array_append_vals(run->history, round->ops->data, round->ops->len);
    for (guint i = 0; i < round->ops->len; i++) {
        log_op(run, round, &g_array_index(round->ops, struct op, i));
    }
    for (guint i = 0; i < round->ops->len; i++) {
        check_answer(run, &g_array_index(round->ops, struct op, i));
    }
    follow_size(run, round);
    check_size(run);
    run->doing = "settling";
    if (!model_fold(run->model, read_volume, run, &mismatch)) {
        fail_mismatch(run, run->step, &mismatch);
    }
}

/* --- Everything ---------------------------------------------------------- */

static bool verify_run(void *opaque, uint64_t offset, size_t length)
{
    struct run *run = opaque;
    g_autofree uint8_t *bytes = NULL;
    struct mismatch mismatch = {0};

    if (offset >= run->size_bytes) {
        return true;
    }
    length = (size_t)MIN(length, run->size_bytes - offset);
    bytes = g_malloc(length);
    if (!read_volume(run, offset, bytes, length)) {
        fail(run, run->step, offset, "read: %s", archip_error());
    }
    if (!model_check(run->model, offset, bytes, length, TIME_END, TIME_END,
                     &mismatch)) {
        fail_mismatch(run, run->step, &mismatch);
    }
    return true;
}

void verdict_everything(struct run *run)
{
    check_size(run);
    model_each(run->model, VERIFY_BYTES, verify_run, run);
    for (unsigned i = 0; i < 8; i++) {
        verify_run(run, random_below(run->random, run->size_bytes), 5000);
    }
}
