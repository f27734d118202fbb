/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random requests, made to hurt: they gather around a few places, start and
 * end at object, block and sector boundaries or a byte beside them, and often
 * touch or overlap their predecessors.
 *
 * No mutation of a round touches its quiet range, so that what a copy reads
 * there is known; see model.h.
 */
#include "property.h"

#define RECENT 6

uint64_t random_below(GRand *random, uint64_t bound)
{
    uint64_t high = g_rand_int(random);

    return ((high << 32) | g_rand_int(random)) % MAX(bound, 1);
}

bool chance(GRand *random, unsigned percent)
{
    return g_rand_int_range(random, 0, 100) < (gint32)percent;
}

static uint64_t pick(GRand *random, const uint64_t *values, unsigned count)
{
    return values[random_below(random, count)];
}

void generate_focus(struct run *run)
{
    uint64_t objects = run->size_bytes / run->setup->object_bytes;

    run->focus[0] = 0;
    run->focus[1] = run->size_bytes;
    for (unsigned i = 2; i < FOCUS_COUNT; i++) {
        run->focus[i] = random_below(run->random, objects + 1) *
                        run->setup->object_bytes;
    }
}

/* Around `value` by up to `count` times `unit`, aligned to it. */
static uint64_t around(GRand *random, uint64_t value, uint64_t unit,
                       unsigned count)
{
    uint64_t up = random_below(random, 2 * count + 1) * unit;
    uint64_t down = count * unit;
    uint64_t base = value / unit * unit + up;

    return base > down ? base - down : 0;
}

/* A byte or a few beside a boundary, half the time. */
static uint64_t jitter(GRand *random, uint64_t value)
{
    static const uint64_t steps[] = {1, 1, 7, 16, 100, 511};
    uint64_t step = pick(random, steps, G_N_ELEMENTS(steps));

    if (chance(random, 55)) {
        return value;
    }
    return chance(random, 50) ? value + step : value - MIN(step, value);
}

static uint64_t place(struct run *run, const uint64_t *recent)
{
    GRand *random = run->random;
    uint64_t focus = pick(random, run->focus, FOCUS_COUNT);
    uint64_t object = run->setup->object_bytes;

    switch (random_below(random, 6)) {
    case 0:
        return jitter(random, around(random, focus, object, 1));
    case 1:
        return jitter(random, around(random, focus, run->block_bytes, 6));
    case 2:
        return jitter(random, around(random, focus, ARCHIP_SECTOR_BYTES, 12));
    case 3:
        return around(random, focus, 1, (unsigned)MIN(object, 65536));
    default:
        return jitter(random, pick(random, recent, RECENT));
    }
}

static uint64_t length(struct run *run)
{
    GRand *random = run->random;
    uint64_t block = run->block_bytes;
    uint64_t object = run->setup->object_bytes;

    switch (random_below(random, 10)) {
    case 0:
    case 1:
        return 1 + random_below(random, 40);
    case 2:
        return 1 + random_below(random, ARCHIP_SECTOR_BYTES);
    case 3:
        return ARCHIP_SECTOR_BYTES * (1 + random_below(random, 8));
    case 4:
    case 5:
        return block * (1 + random_below(random, 2));
    case 6:
        return block * (1 + random_below(random, 6));
    case 7:
        return 1 + random_below(random, 4 * block);
    case 8:
        return 1 + random_below(random, 2 * block);
    default:
        return 1 + random_below(random, MIN(2 * object, 300000));
    }
}

/* Set offset and length so that the request starts or ends at a chosen place,
 * inside [0, limit). */
static void choose_range(struct run *run, struct op *op, uint64_t limit,
                         uint64_t *recent)
{
    uint64_t at = place(run, recent), bytes = length(run);

    if (chance(run->random, 40)) {
        at -= MIN(at, bytes);
    }
    at = MIN(at, limit - 1);
    op->offset_bytes = at;
    op->length_bytes = MIN(bytes, limit - at);
    recent[random_below(run->random, RECENT)] =
        chance(run->random, 50) ? at : at + op->length_bytes;
}

static archip_op choose_kind(GRand *random)
{
    unsigned n = (unsigned)random_below(random, 100);

    return n < 28   ? ARCHIP_READ
           : n < 64 ? ARCHIP_WRITE
           : n < 72 ? ARCHIP_DISCARD
           : n < 83 ? ARCHIP_WRITE_ZEROES
           : n < 89 ? ARCHIP_COPY_RANGE
           : n < 95 ? ARCHIP_EXTENTS
                    : ARCHIP_FLUSH;
}

static unsigned choose_flags(GRand *random, archip_op kind)
{
    unsigned flags = 0;

    if (kind == ARCHIP_WRITE || kind == ARCHIP_WRITE_ZEROES ||
        kind == ARCHIP_COPY_RANGE) {
        flags |= chance(random, 15) ? ARCHIP_FUA : 0;
    }
    if (kind == ARCHIP_WRITE_ZEROES) {
        flags |= chance(random, 50) ? ARCHIP_MAY_UNMAP : 0;
    }
    if (kind == ARCHIP_WRITE_ZEROES || kind == ARCHIP_COPY_RANGE) {
        flags |= chance(random, 20) ? ARCHIP_NO_FALLBACK : 0;
    }
    if (kind == ARCHIP_WRITE || kind == ARCHIP_WRITE_ZEROES) {
        flags |= chance(random, 10) ? ARCHIP_GROW : 0;
    }
    return flags;
}

static bool mutates(archip_op kind)
{
    return kind == ARCHIP_WRITE || kind == ARCHIP_DISCARD ||
           kind == ARCHIP_WRITE_ZEROES || kind == ARCHIP_COPY_RANGE;
}

/* Move a growing request so that it passes the end. */
static void stretch(struct run *run, struct op *op)
{
    uint64_t room = run->setup->size_max_bytes - run->size_bytes;
    uint64_t gap = random_below(run->random, 3 * run->block_bytes);

    if (chance(run->random, 50)) {
        op->offset_bytes = run->size_bytes - MIN(run->size_bytes, gap);
    } else {
        op->offset_bytes = run->size_bytes + MIN(gap, room);
    }
    op->length_bytes = MIN(op->length_bytes, run->setup->size_max_bytes -
                                                 op->offset_bytes);
}

/* A copy's source: the other volume, or the quiet range. */
static void choose_source(struct run *run, const struct round *round,
                          struct op *op)
{
    uint64_t quiet = round->quiet_end - round->quiet_start;

    op->from_other = !quiet || chance(run->random, 60);
    if (op->from_other) {
        op->length_bytes = MIN(op->length_bytes, OTHER_BYTES);
        op->source_bytes =
            random_below(run->random, OTHER_BYTES - op->length_bytes + 1);
    } else {
        op->length_bytes = MIN(op->length_bytes, quiet);
        op->source_bytes =
            round->quiet_start +
            random_below(run->random, quiet - op->length_bytes + 1);
    }
    if (chance(run->random, 50)) {  /* what could be shared, not copied */
        op->source_bytes -= op->source_bytes % ARCHIP_SECTOR_BYTES;
        op->source_bytes = MAX(op->source_bytes,
                               op->from_other ? 0 : round->quiet_start);
    }
}

static void generate_op(struct run *run, struct round *round, uint64_t *recent)
{
    struct op op = {.step = ++run->step};

    op.kind = choose_kind(run->random);
    op.flags = choose_flags(run->random, op.kind);
    op.lane = (unsigned)random_below(run->random, run->setup->queues);
    op.shape = g_rand_int(run->random);
    if (op.kind != ARCHIP_FLUSH) {
        choose_range(run, &op, round->limit_bytes, recent);
    }
    if ((op.flags & ARCHIP_GROW) && round->grows) {
        stretch(run, &op);
    }
    if (mutates(op.kind) && op.offset_bytes < round->quiet_end &&
        op.offset_bytes + op.length_bytes > round->quiet_start) {
        op.kind = ARCHIP_READ;
        op.flags = 0;
        op.length_bytes = MIN(op.length_bytes,
                              round->limit_bytes - op.offset_bytes);
    }
    if (op.kind == ARCHIP_COPY_RANGE) {
        choose_source(run, round, &op);
    }
    g_array_append_val(round->ops, op);
}

uint64_t generate_size(struct run *run)
{
    GRand *random = run->random;
    uint64_t units[] = {ARCHIP_SECTOR_BYTES, run->block_bytes,
                        run->setup->object_bytes};
    uint64_t size = around(random, run->size_bytes,
                           pick(random, units, G_N_ELEMENTS(units)), 5);

    if (run->size_bytes < run->setup->size_bytes / 2 && chance(random, 70)) {
        size = run->setup->size_bytes;
    } else if (chance(random, 15)) {
        size = pick(random, run->focus, FOCUS_COUNT) + ARCHIP_SECTOR_BYTES;
    }
    return CLAMP(size, ARCHIP_SECTOR_BYTES, run->setup->size_max_bytes) /
           ARCHIP_SECTOR_BYTES * ARCHIP_SECTOR_BYTES;
}

static void choose_quiet(struct run *run, struct round *round)
{
    uint64_t start = pick(run->random, run->focus, FOCUS_COUNT);
    uint64_t bytes = random_below(run->random, 5 * run->block_bytes);

    start = around(run->random, start, ARCHIP_SECTOR_BYTES, 100);
    round->quiet_start = MIN(start, round->limit_bytes);
    round->quiet_end = MIN(round->quiet_start + bytes, round->limit_bytes);
}

struct round *generate_round(struct run *run)
{
    struct round *round = g_new0(struct round, 1);
    uint64_t recent[RECENT];

    round->ops = g_array_new(FALSE, TRUE, sizeof(struct op));
    round->limit_bytes = run->size_bytes;
    if (chance(run->random, 15) && !run->setup->quiet_resize) {
        round->resize_bytes = generate_size(run);
        round->limit_bytes = MIN(run->size_bytes, round->resize_bytes);
    } else {
        round->grows = chance(run->random, 25);
    }
    choose_quiet(run, round);
    for (unsigned i = 0; i < RECENT; i++) {
        recent[i] = pick(run->random, run->focus, FOCUS_COUNT);
    }
    for (unsigned i = 0; i < run->setup->ops; i++) {
        generate_op(run, round, recent);
    }
    return round;
}

void round_free(struct round *round)
{
    for (guint i = 0; i < round->ops->len; i++) {
        g_free(g_array_index(round->ops, struct op, i).memory);
    }
    g_array_unref(round->ops);
    g_free(round);
}
