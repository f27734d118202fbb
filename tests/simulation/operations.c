/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests: drawn, submitted, and what they brought held against the ledger. */
#include "disk.h"
#include "fibers.h"
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_SIZE (~0u)

/* --- Conflicts ------------------------------------------------------------ */

static bool overlaps(uint64_t a, uint64_t a_length, uint64_t b,
                     uint64_t b_length)
{
    return a / SECTOR < (b + b_length + SECTOR - 1) / SECTOR &&
           b / SECTOR < (a + a_length + SECTOR - 1) / SECTOR;
}

static bool changes(const struct op *op)
{
    return op->kind != ARCHIP_READ && op->kind != ARCHIP_EXTENTS &&
           op->kind != ARCHIP_FLUSH;
}

/* Whether the model could say what comes of both at once.  `alone`: what is
 * there must be known for certain, so nothing may be changing it. */
static bool conflicts(const struct volume *volume, uint64_t offset,
                      uint64_t length, bool alone, bool changing)
{
    for (guint i = 0; i < world.ops->len; i++) {
        const struct op *op = world.ops->pdata[i];

        if (op->volume == volume && changes(op) &&
            (alone || (changing && op->alone)) &&
            overlaps(op->offset, op->length, offset, length)) {
            return true;
        }
        if (op->source == volume && changing &&
            overlaps(op->source_offset, op->length, offset, length)) {
            return true;
        }
    }
    return false;
}

/* The bytes of whole sectors, if they are known for certain. */
static bool known_bytes(const struct volume *volume, uint64_t first,
                        uint64_t last, uint8_t *bytes)
{
    for (uint64_t at = first; at < last; at++) {
        const uint8_t *value;

        if (!ledger_value(volume->ledger, at, &value)) {
            return false;
        }
        memcpy(bytes + (at - first) * SECTOR, value, SECTOR);
    }
    return true;
}

/* --- Drawing -------------------------------------------------------------- */

static uint64_t draw_length(uint32_t object_bytes)
{
    if (random_once_in(world.habits.whole_once_in)) {
        return object_bytes;
    }
    switch (random_below(12)) {
    case 1:
        return (1 + random_below(4)) * BLOCK_SECTORS * SECTOR;
    case 2:
        return (1 + random_below(64)) * SECTOR;
    default:
        return (1 + random_below(12)) * SECTOR;
    }
}

static void draw_range(const struct volume *volume, struct op *op)
{
    uint32_t object = volume->object_bytes;
    uint64_t length = draw_length(object);
    uint64_t offset = volume->hot[random_below(world.habits.hot)] * object;

    if (length != object) {
        offset += random_below(3) ? random_below(24) * SECTOR
                                  : random_below(object / SECTOR) * SECTOR;
    }
    if (random_once_in(4)) {
        offset = offset / 4096 * 4096;
    }
    if (op->kind == ARCHIP_DISCARD || op->kind == ARCHIP_WRITE_ZEROES) {
        length *= random_once_in(8) ? 3 : 1;
    }
    if (random_once_in(5)) {        /* not on sectors */
        offset += random_below(SECTOR);
        length = MAX(length, SECTOR) - random_below(SECTOR);
    }
    if (offset >= volume->size) {
        offset = volume->size - MIN(volume->size, length);
    }
    op->offset = offset;
    op->length = MIN(length, volume->size - offset);
}

static void draw_memory(struct op *op)
{
    size_t skip = random_once_in(4) ? 8 : 0;
    uint64_t cut = op->length;

    if (posix_memalign((void **)&op->memory, 4096, op->length + 16)) {
        abort();
    }
    op->buffer = op->memory + skip;
    if (random_once_in(4) && op->length > SECTOR) {
        cut = random_once_in(2) ? random_below(op->length)
                                : random_below(op->length / SECTOR) * SECTOR;
    }
    op->iov[0] = (struct iovec){ op->buffer, cut };
    op->iov[1] = (struct iovec){ op->buffer + cut, op->length - cut };
    op->iov_count = cut < op->length ? 2 : 1;
}

/* --- Submitting ----------------------------------------------------------- */

static const char *kind_text(const struct op *op)
{
    static const char *const texts[] = { "?", "read", "write", "flush",
                                         "discard", "zeroes", "extents",
                                         "copy" };

    if (op->kind == ARCHIP_WRITE) {
        return op->flags & ARCHIP_FUA    ? "write,fua"
               : op->flags & ARCHIP_GROW ? "write,grow"
                                         : "write";
    }
    return op->kind == ARCHIP_WRITE_ZEROES && op->flags & ARCHIP_MAY_UNMAP
               ? "zeroes,unmap"
               : texts[op->kind];
}

static void oldest_reader(struct volume *volume)
{
    uint64_t oldest = LEDGER_NEVER;

    for (guint i = 0; i < world.ops->len; i++) {
        const struct op *op = world.ops->pdata[i];

        if ((op->volume == volume || op->source == volume) &&
            op->kind != ARCHIP_FLUSH) {
            oldest = MIN(oldest, op->submitted);
        }
    }
    volume->ledger->oldest_reader = oldest;
}

static void op_free(struct op *op)
{
    free(op->memory);
    g_free(op);
}

static void op_submit(struct op *op)
{
    archip_request request = {
        .op = op->kind,
        .flags = op->flags,
        .offset_bytes = op->offset,
        .length_bytes = op->length,
        .iov = op->iov,
        .iov_count = op->iov_count,
        .user = op,
        .extents = op->extents,
        .extent_count = op->kind == ARCHIP_EXTENTS ? G_N_ELEMENTS(op->extents)
                                                   : 0,
        .source = op->source ? op->source->handle : NULL,
        .source_offset_bytes = op->source_offset,
    };
    struct volume *volume = op->volume;

    disk_note("step %u: %s of %s, %#" G_GINT64_MODIFIER "x+%#"
              G_GINT64_MODIFIER "x", op->step, kind_text(op), volume->name,
              op->offset, op->length);
    disk_hash((uint64_t)op->kind << 48 ^ op->offset ^ op->length << 24);
    g_ptr_array_add(world.ops, op);
    volume->in_flight++;
    world.operations++;
    oldest_reader(volume);
    if (op->source) {
        oldest_reader(op->source);
    }
    if (archip_submit(op->queue, &request, 1) < 0) {
        broken(17, volume, 0, "a sound request was refused: %s",
               archip_error());
    }
}

static struct op *op_new(struct volume *volume, archip_op kind)
{
    struct op *op = g_new0(struct op, 1);

    op->volume = volume;
    op->kind = kind;
    op->queue = volume->queues[random_below(volume->queue_count)];
    op->step = ++world.step;
    op->submitted = ++world.now;
    op->size_index = NO_SIZE;
    return op;
}

static uint64_t first_sector(const struct op *op)
{
    return op->offset / SECTOR;
}

static uint64_t last_sector(const struct op *op)
{
    return (op->offset + op->length + SECTOR - 1) / SECTOR;
}

/* Whole sectors of what the op makes of a range: its pattern, or zeroes, inside
 * what was there; NULL when that can't be known. */
static uint8_t *sectors_of(struct op *op, bool zero)
{
    uint64_t first = first_sector(op), last = last_sector(op);
    g_autofree uint8_t *bytes = g_malloc((last - first) * SECTOR);
    uint8_t sector[SECTOR] = { 0 };

    if (op->alone && !known_bytes(op->volume, first, last, bytes)) {
        return NULL;
    }
    for (uint64_t at = first; at < last; at++) {
        uint64_t from = MAX(at * SECTOR, op->offset);
        uint64_t to = MIN((at + 1) * SECTOR, op->offset + op->length);

        if (!zero) {
            pattern_fill(op->volume->number, op->step, at, sector);
        }
        memcpy(bytes + (from - first * SECTOR), sector + from % SECTOR,
               to - from);
    }
    return g_steal_pointer(&bytes);
}

static bool is_unaligned(const struct op *op)
{
    return (op->offset | op->length) % SECTOR;
}

static void log_write(struct op *op, uint8_t *bytes)
{
    op->write = ledger_submit(op->volume->ledger, op->step, kind_text(op),
                              first_sector(op), last_sector(op), bytes,
                              op->submitted);
}

static bool submit_write(struct op *op)
{
    uint8_t *bytes;

    op->alone = is_unaligned(op);
    if (!op->length || conflicts(op->volume, op->offset, op->length, op->alone,
                                 true)) {
        return false;
    }
    bytes = sectors_of(op, false);
    if (!bytes) {
        return false;
    }
    op->flags |= random_once_in(world.habits.fua_once_in) ? ARCHIP_FUA : 0;
    draw_memory(op);
    memcpy(op->buffer, bytes + op->offset % SECTOR, op->length);
    log_write(op, bytes);
    op_submit(op);
    return true;
}

static bool submit_zeroes(struct op *op)
{
    uint8_t *bytes = NULL;

    op->alone = is_unaligned(op);
    if (!op->length || conflicts(op->volume, op->offset, op->length, op->alone,
                                 true)) {
        return false;
    }
    if (op->alone && !(bytes = sectors_of(op, true))) {
        return false;
    }
    op->flags |= random_once_in(world.habits.fua_once_in) ? ARCHIP_FUA : 0;
    op->flags |= random_once_in(2) ? ARCHIP_MAY_UNMAP : 0;
    log_write(op, bytes);
    op_submit(op);
    return true;
}

/* Whole blocks only; a block that the volume's end cuts may go or stay. */
static bool submit_discard(struct op *op)
{
    uint64_t block = BLOCK_SECTORS * SECTOR;
    uint64_t end = op->offset + op->length;
    uint64_t first = (op->offset + block - 1) / block * BLOCK_SECTORS;
    uint64_t last = end / block * BLOCK_SECTORS;

    if (!op->length ||
        conflicts(op->volume, op->offset, op->length, false, true)) {
        return false;
    }
    if (first < last) {
        op->write = ledger_submit(op->volume->ledger, op->step, "discard",
                                  first, last, NULL, op->submitted);
    }
    if (end == op->volume->size && end % block) {
        op->fringe = ledger_submit(op->volume->ledger, op->step,
                                   "discard of the end", MAX(first, last),
                                   end / SECTOR, NULL, op->submitted);
    }
    op_submit(op);
    return true;
}

static bool submit_copy(struct op *op)
{
    struct volume *source = &world.volumes[random_below(VOLUMES)];
    uint8_t *bytes;

    if (!source->handle || source->store != op->volume->store ||
        is_unaligned(op) || !op->length || source->size < op->length) {
        return false;
    }
    op->source_offset = source->hot[random_below(world.habits.hot)] *
                        source->object_bytes;
    op->source_offset = MIN(op->source_offset, source->size - op->length) /
                        SECTOR * SECTOR;
    if ((source == op->volume &&
         overlaps(op->source_offset, op->length, op->offset, op->length)) ||
        conflicts(op->volume, op->offset, op->length, false, true) ||
        conflicts(source, op->source_offset, op->length, true, false)) {
        return false;
    }
    bytes = g_malloc(op->length);
    if (!known_bytes(source, op->source_offset / SECTOR,
                     (op->source_offset + op->length) / SECTOR, bytes)) {
        g_free(bytes);
        return false;
    }
    op->source = source;
    op->flags |= random_once_in(world.habits.fua_once_in) ? ARCHIP_FUA : 0;
    log_write(op, bytes);
    op_submit(op);
    return true;
}

/* Nothing else is in flight, for where the volume ends decides what others
 * do. */
static bool submit_growing(struct op *op)
{
    struct volume *volume = op->volume;
    uint64_t end, back;

    volume_drain(volume);
    if (disk.dead || volume->shrunk_to ||
        volume->size > 300 * (uint64_t)volume->object_bytes) {
        return false;
    }
    op->submitted = ++world.now;
    back = random_below(9) * SECTOR;
    op->offset = volume->size - MIN(volume->size, back) +
                 random_below(24) * SECTOR;
    op->length = draw_length(volume->object_bytes);
    end = op->offset + op->length;
    op->flags |= ARCHIP_GROW;
    if (end > volume->size) {
        op->size_index = volume->sizes->len;
        size_log(volume, end);
        volume->size = end;
    }
    if (!submit_write(op)) {
        abort();
    }
    return true;
}

static bool submit_reading(struct op *op)
{
    if (!op->length) {
        return false;
    }
    if (op->kind == ARCHIP_READ) {
        draw_memory(op);
        memset(op->buffer, 0xee, op->length);
    }
    op_submit(op);
    return true;
}

static bool op_begin(struct op *op)
{
    switch ((int)op->kind) {
    case ARCHIP_WRITE:
        return submit_write(op);
    case ARCHIP_WRITE_ZEROES:
        return submit_zeroes(op);
    case ARCHIP_DISCARD:
        return submit_discard(op);
    case ARCHIP_COPY_RANGE:
        return submit_copy(op);
    case ARCHIP_FLUSH:
        op->offset = op->length = 0;
        op_submit(op);
        return true;
    default:
        return submit_reading(op);
    }
}

/* --- What came of it ------------------------------------------------------ */

static void check_read(const struct op *op, uint64_t now)
{
    struct verdict verdict = { 0 };

    for (uint64_t at = first_sector(op); at < last_sector(op); at++) {
        uint64_t from = MAX(at * SECTOR, op->offset);
        uint64_t to = MIN((at + 1) * SECTOR, op->offset + op->length);

        world.checked++;
        if (!ledger_check(op->volume->ledger, at,
                          op->buffer + (from - op->offset),
                          (unsigned)(from % SECTOR),
                          (unsigned)(from % SECTOR + (to - from)),
                          op->submitted, now, &verdict)) {
            broken(verdict.invariant, op->volume, at, "read of step %u: %s",
                   op->step, verdict.text);
        }
    }
}

static void check_extents(const struct op *op, int64_t count, uint64_t now)
{
    uint64_t at = op->offset, end = op->offset + op->length;

    for (int64_t i = 0; i < count; i++) {
        const archip_extent *extent = &op->extents[i];
        uint64_t stop = at + extent->length_bytes;

        if (!extent->length_bytes || stop > end) {
            broken(16, op->volume, at / SECTOR, "an extent of %"
                   G_GUINT64_FORMAT " bytes", extent->length_bytes);
        }
        for (uint64_t sector = (at + SECTOR - 1) / SECTOR;
             (extent->flags & ARCHIP_EXTENT_ZERO) && sector < stop / SECTOR;
             sector++) {
            if (!ledger_may_be_zero(op->volume->ledger, sector, op->submitted,
                                    now)) {
                broken(16, op->volume, sector,
                       "extents of step %u call it zeroes", op->step);
            }
        }
        at = stop;
    }
}

/* Right after a flush said that all is well is when to see whether it is, above
 * all when a sync had failed before. */
static void perhaps_crash(void)
{
    if (!disk.dead && disk.crash_at &&
        random_once_in(disk.failed_syncs
                           ? MIN(3, world.habits.flush_end_once_in)
                           : world.habits.flush_end_once_in)) {
        disk.crash_at = MAX(disk.calls, 1);
        disk.crash_in = IN_ANY;
        disk.power_cut = true;
    }
}

static void op_end(struct op *op, int64_t result, const char *error)
{
    struct volume *volume = op->volume;
    uint64_t now = ++world.now;
    bool ok = result >= 0, fua = op->flags & ARCHIP_FUA;

    disk_note("step %u ends: %d", op->step, (int)result);
    disk_hash((uint64_t)result ^ (uint64_t)op->step << 32);
    excuse(17, volume, kind_text(op), result, error);
    if (result == -ENOSPC && !changes(op) && op->kind != ARCHIP_FLUSH) {
        broken(17, volume, 0, "a %s needs no space: %s", kind_text(op), error);
    }
    if (op->write) {
        ledger_complete(volume->ledger, op->write, ok, fua, now);
    }
    if (op->fringe) {
        ledger_complete(volume->ledger, op->fringe, false, false, now);
    }
    if (op->size_index != NO_SIZE) {
        struct size *size = &g_array_index(volume->sizes, struct size,
                                           op->size_index);

        size->completed = now;
        size->ok = ok;
        size->durable = ok && fua;
    }
    if (ok && op->kind == ARCHIP_FLUSH) {
        ledger_flushed(volume->ledger, op->submitted);
        sizes_flushed(volume, op->submitted);
        perhaps_crash();
    } else if (ok && op->kind == ARCHIP_READ) {
        check_read(op, now);
    } else if (ok && op->kind == ARCHIP_EXTENTS) {
        check_extents(op, result, now);
    }
    g_ptr_array_remove_fast(world.ops, op);
    volume->in_flight--;
    oldest_reader(volume);
    if (op->source) {
        oldest_reader(op->source);
    }
    op_free(op);
}

void volume_reap(struct volume *volume, archip_queue *queue, int timeout_ms)
{
    archip_completion completions[4];
    int count = archip_queue_reap(queue, completions,
                                  1 + random_below(G_N_ELEMENTS(completions)),
                                  timeout_ms);

    for (int i = 0; i < count; i++) {
        op_end(completions[i].user, completions[i].result,
               completions[i].error);
    }
}

static bool queue_is_used(const archip_queue *queue)
{
    for (guint i = 0; i < world.ops->len; i++) {
        if (((struct op *)world.ops->pdata[i])->queue == queue) {
            return true;
        }
    }
    return false;
}

/* Some request that needs the volume, as its own or as a copy's source. */
static struct op *find_user(const struct volume *volume)
{
    for (guint i = 0; i < world.ops->len; i++) {
        struct op *op = world.ops->pdata[i];

        if (op->volume == volume || op->source == volume) {
            return op;
        }
    }
    return NULL;
}

void volume_drain(struct volume *volume)
{
    struct op *op;

    while ((op = find_user(volume))) {
        volume_reap(op->volume, op->queue, -1);
    }
}

/* --- One request ---------------------------------------------------------- */

static archip_op draw_kind(void)
{
    static const uint8_t kinds[] = {
        ARCHIP_WRITE, ARCHIP_WRITE, ARCHIP_WRITE, ARCHIP_WRITE, ARCHIP_WRITE,
        ARCHIP_WRITE, ARCHIP_WRITE, ARCHIP_WRITE, ARCHIP_READ, ARCHIP_READ,
        ARCHIP_WRITE_ZEROES, ARCHIP_DISCARD, ARCHIP_DISCARD,
        ARCHIP_COPY_RANGE, ARCHIP_EXTENTS,
    };

    if (random_below(100) < world.habits.flushes) {
        return ARCHIP_FLUSH;
    }
    return kinds[random_below(G_N_ELEMENTS(kinds))];
}

void volume_request(struct volume *volume)
{
    struct op *op = op_new(volume, draw_kind());
    bool begun;

    if (volume->in_flight >= DEPTH) {
        volume_reap(volume, op->queue, queue_is_used(op->queue) ? -1 : 0);
    }
    op->submitted = ++world.now;
    if (op->kind == ARCHIP_WRITE && random_once_in(world.habits.grow_once_in)) {
        begun = submit_growing(op);
    } else {
        draw_range(volume, op);
        begun = op_begin(op);
    }
    if (!begun) {
        op_free(op);
    }
}
