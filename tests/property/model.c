/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model of a volume: see model.h for what it allows.
 *
 * Invariant: the changes in the log cut the volume into segments, inside which
 * each byte has the same candidates; all checking goes segment by segment, and
 * inside them by pieces of at most one chunk.
 */
#include "model.h"

#include <string.h>

#define CHUNK_BYTES 4096u

struct chunk {
    gint64 number;              /* first: the table's key */
    uint8_t bytes[CHUNK_BYTES];
};

struct model {
    size_t grain_bytes;         /* divides CHUNK_BYTES */
    GHashTable *chunks;         /* absent ones are zeroes */
    GArray *log;                /* struct change */
};

/* --- Patterns ------------------------------------------------------------ */

uint8_t pattern_byte(uint32_t step, uint64_t position)
{
    uint64_t x = position * UINT64_C(0x9e3779b97f4a7c15);

    x ^= (step + UINT64_C(1)) * UINT64_C(0xc2b2ae3d27d4eb4f);
    x ^= x >> 31;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    return (uint8_t)(1 + (x >> 40) % 255);
}

void pattern_fill(uint32_t step, uint64_t position, uint8_t *bytes,
                  size_t length_bytes)
{
    for (size_t i = 0; i < length_bytes; i++) {
        bytes[i] = pattern_byte(step, position + i);
    }
}

/* --- The certain bytes --------------------------------------------------- */

struct model *model_new(size_t grain_bytes)
{
    struct model *model = g_new0(struct model, 1);

    g_assert(CHUNK_BYTES % grain_bytes == 0);
    model->grain_bytes = grain_bytes;
    model->chunks =
        g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
    model->log = g_array_new(FALSE, FALSE, sizeof(struct change));
    return model;
}

void model_free(struct model *model)
{
    g_hash_table_unref(model->chunks);
    g_array_unref(model->log);
    g_free(model);
}

static struct chunk *chunk_find(const struct model *model, uint64_t offset)
{
    gint64 number = (gint64)(offset / CHUNK_BYTES);

    return g_hash_table_lookup(model->chunks, &number);
}

static struct chunk *chunk_make(struct model *model, uint64_t offset)
{
    struct chunk *chunk = chunk_find(model, offset);

    if (!chunk) {
        chunk = g_new0(struct chunk, 1);
        chunk->number = (gint64)(offset / CHUNK_BYTES);
        g_hash_table_add(model->chunks, chunk);
    }
    return chunk;
}

/* How much of `length` lies in the chunk of `offset`. */
static size_t piece_bytes(uint64_t offset, uint64_t length)
{
    return (size_t)MIN(length, CHUNK_BYTES - offset % CHUNK_BYTES);
}

void model_get(const struct model *model, uint64_t offset, uint8_t *bytes,
               size_t length)
{
    while (length) {
        size_t n = piece_bytes(offset, length);
        struct chunk *chunk = chunk_find(model, offset);

        if (chunk) {
            memcpy(bytes, chunk->bytes + offset % CHUNK_BYTES, n);
        } else {
            memset(bytes, 0, n);
        }
        offset += n;
        bytes += n;
        length -= n;
    }
}

void model_put(struct model *model, uint64_t offset, const uint8_t *bytes,
               size_t length)
{
    while (length) {
        size_t n = piece_bytes(offset, length);
        struct chunk *chunk = chunk_make(model, offset);

        memcpy(chunk->bytes + offset % CHUNK_BYTES, bytes, n);
        offset += n;
        bytes += n;
        length -= n;
    }
}

void model_zero(struct model *model, uint64_t start, uint64_t end)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, model->chunks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        struct chunk *chunk = value;
        uint64_t first = (uint64_t)chunk->number * CHUNK_BYTES;
        uint64_t from = MAX(first, start);
        uint64_t to = MIN(first + CHUNK_BYTES, end);

        if (from < to) {
            memset(chunk->bytes + (from - first), 0, to - from);
        }
    }
}

/* --- Segments and their candidates --------------------------------------- */

void model_log(struct model *model, const struct change *change)
{
    g_assert(change->submitted && change->submitted < change->completed);
    if (change->start_bytes < change->end_bytes) {
        g_array_append_val(model->log, *change);
    }
}

static const struct change *log_at(const struct model *model, guint i)
{
    return &g_array_index(model->log, struct change, i);
}

static int compare_offsets(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Where the log cuts [start, end): sorted, both ends included. */
static GArray *segment_cuts(const struct model *model, uint64_t start,
                            uint64_t end)
{
    GArray *cuts = g_array_new(FALSE, FALSE, sizeof(uint64_t));

    g_array_append_val(cuts, start);
    g_array_append_val(cuts, end);
    for (guint i = 0; i < model->log->len; i++) {
        const struct change *change = log_at(model, i);

        if (change->start_bytes > start && change->start_bytes < end) {
            g_array_append_val(cuts, change->start_bytes);
        }
        if (change->end_bytes > start && change->end_bytes < end) {
            g_array_append_val(cuts, change->end_bytes);
        }
    }
    g_array_sort(cuts, compare_offsets);
    return cuts;
}

struct candidates {
    GPtrArray *changes;     /* const struct change, not owned */
    bool before;            /* what was there before the round */
};

/* A change of the segment that surely happened after `earlier` (0: after what
 * was there before) and before a read that began at `submitted`. */
static bool overwritten(GPtrArray *covering, uint64_t earlier,
                        uint64_t submitted)
{
    for (guint i = 0; i < covering->len; i++) {
        const struct change *change = covering->pdata[i];

        if (change->certain && change->submitted > earlier &&
            change->completed < submitted) {
            return true;
        }
    }
    return false;
}

static struct candidates candidates_of(const struct model *model,
                                       uint64_t start, uint64_t end,
                                       uint64_t submitted, uint64_t completed)
{
    g_autoptr(GPtrArray) covering = g_ptr_array_new();
    struct candidates found = {.changes = g_ptr_array_new()};

    for (guint i = 0; i < model->log->len; i++) {
        const struct change *change = log_at(model, i);

        if (change->start_bytes < end && change->end_bytes > start) {
            g_ptr_array_add(covering, (gpointer)change);
        }
    }
    found.before = !overwritten(covering, 0, submitted);
    for (guint i = 0; i < covering->len; i++) {
        const struct change *change = covering->pdata[i];

        if (change->submitted < completed &&
            !overwritten(covering, change->completed, submitted)) {
            g_ptr_array_add(found.changes, (gpointer)change);
        }
    }
    return found;
}

static void change_fill(const struct change *change, uint64_t offset,
                        uint8_t *bytes, size_t length)
{
    switch (change->kind) {
    case CHANGE_ZERO:
        memset(bytes, 0, length);
        break;
    case CHANGE_PATTERN:
        pattern_fill(change->step, offset, bytes, length);
        break;
    case CHANGE_COPY:
        model_get(change->from,
                  change->source_bytes + (offset - change->start_bytes),
                  bytes, length);
        break;
    }
}

/* --- Checking ------------------------------------------------------------ */

/* One line: each candidate with its step and its value at `offset`. */
static char *candidates_text(const struct model *model,
                             const struct candidates *candidates,
                             uint64_t offset)
{
    GString *text = g_string_new(NULL);
    uint8_t byte;

    if (candidates->before) {
        model_get(model, offset, &byte, 1);
        g_string_append_printf(text, " 0x%02x (from before the round)", byte);
    }
    for (guint i = 0; i < candidates->changes->len; i++) {
        const struct change *change = candidates->changes->pdata[i];

        change_fill(change, offset, &byte, 1);
        g_string_append_printf(text, " 0x%02x (step %u)", byte, change->step);
    }
    return g_string_free(text, FALSE);
}

static void mark_allowed(const struct model *model, uint8_t *allowed,
                         const uint8_t *candidate, const uint8_t *bytes,
                         size_t length)
{
    size_t grain = model->grain_bytes;

    for (size_t i = 0; i < length && grain == 1; i++) {
        allowed[i] |= candidate[i] == bytes[i];
    }
    for (size_t i = 0; i < length && grain > 1; i += grain) {
        size_t n = MIN(grain, length - i);

        if (memcmp(candidate + i, bytes + i, n) == 0) {
            memset(allowed + i, 1, n);
        }
    }
}

/* A piece of one segment, inside one chunk. */
static bool check_piece(const struct model *model,
                        const struct candidates *candidates, uint64_t offset,
                        const uint8_t *bytes, size_t length,
                        struct mismatch *mismatch)
{
    static const uint8_t zeroes[CHUNK_BYTES];
    uint8_t allowed[CHUNK_BYTES] = {0}, value[CHUNK_BYTES];
    const uint8_t *bad;

    bytes = bytes ? bytes : zeroes;
    if (candidates->before) {
        model_get(model, offset, value, length);
        mark_allowed(model, allowed, value, bytes, length);
    }
    for (guint i = 0; i < candidates->changes->len; i++) {
        change_fill(candidates->changes->pdata[i], offset, value, length);
        mark_allowed(model, allowed, value, bytes, length);
    }
    bad = memchr(allowed, 0, length);
    if (bad) {
        mismatch->offset_bytes = offset + (uint64_t)(bad - allowed);
        mismatch->found = bytes[bad - allowed];
        mismatch->allowed =
            candidates_text(model, candidates, mismatch->offset_bytes);
    }
    return !bad;
}

/* Zeroes over what may be a long range, of which this round touched nothing:
 * only what earlier rounds touched needs a look. */
static bool check_zeroes(const struct model *model,
                         const struct candidates *candidates, uint64_t start,
                         uint64_t end, struct mismatch *mismatch)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, model->chunks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        uint64_t first = (uint64_t)((struct chunk *)value)->number *
                         CHUNK_BYTES;
        uint64_t from = MAX(first, start);
        uint64_t to = MIN(first + CHUNK_BYTES, end);

        if (from < to && !check_piece(model, candidates, from, NULL, to - from,
                                      mismatch)) {
            return false;
        }
    }
    return true;
}

static bool check_bytes(const struct model *model,
                        const struct candidates *candidates, uint64_t start,
                        const uint8_t *bytes, uint64_t end,
                        struct mismatch *mismatch)
{
    bool good = true;

    while (good && start < end) {
        size_t n = piece_bytes(start, end - start);

        good = check_piece(model, candidates, start, bytes, n, mismatch);
        bytes = bytes ? bytes + n : NULL;
        start += n;
    }
    return good;
}

static bool check_segment(const struct model *model, uint64_t start,
                          const uint8_t *bytes, uint64_t end,
                          uint64_t submitted, uint64_t completed,
                          struct mismatch *mismatch)
{
    struct candidates candidates =
        candidates_of(model, start, end, submitted, completed);
    bool good;

    if (!bytes && candidates.before && !candidates.changes->len) {
        good = check_zeroes(model, &candidates, start, end, mismatch);
    } else {
        good = check_bytes(model, &candidates, start, bytes, end, mismatch);
    }
    g_ptr_array_unref(candidates.changes);
    return good;
}

bool model_check(const struct model *model, uint64_t offset,
                 const uint8_t *bytes, uint64_t length, uint64_t submitted,
                 uint64_t completed, struct mismatch *mismatch)
{
    g_autoptr(GArray) cuts = segment_cuts(model, offset, offset + length);

    for (guint i = 0; i + 1 < cuts->len; i++) {
        uint64_t start = g_array_index(cuts, uint64_t, i);
        uint64_t end = g_array_index(cuts, uint64_t, i + 1);

        if (!check_segment(model, start,
                           bytes ? bytes + (start - offset) : NULL, end,
                           submitted, completed, mismatch)) {
            return false;
        }
    }
    return true;
}

/* --- The end of a round -------------------------------------------------- */

static void apply(struct model *model, const struct change *change,
                  uint64_t start, uint64_t end)
{
    uint8_t value[CHUNK_BYTES];

    if (change->kind == CHANGE_ZERO) {
        model_zero(model, start, end);
        return;
    }
    while (start < end) {
        size_t n = piece_bytes(start, end - start);

        change_fill(change, start, value, n);
        model_put(model, start, value, n);
        start += n;
    }
}

/* Several values are possible: what is there is what is there. */
static bool settle(struct model *model, uint64_t start, uint64_t end,
                   model_reader reader, void *opaque,
                   struct mismatch *mismatch)
{
    uint8_t value[CHUNK_BYTES];

    while (start < end) {
        size_t n = piece_bytes(start, end - start);

        if (!reader(opaque, start, value, n)) {
            mismatch->offset_bytes = start;
            mismatch->allowed = NULL;
            return false;
        }
        if (!model_check(model, start, value, n, TIME_END, TIME_END,
                         mismatch)) {
            return false;
        }
        model_put(model, start, value, n);
        start += n;
    }
    return true;
}

static bool fold_segment(struct model *model, uint64_t start, uint64_t end,
                         model_reader reader, void *opaque,
                         struct mismatch *mismatch)
{
    struct candidates candidates =
        candidates_of(model, start, end, TIME_END, TIME_END);
    bool good = true;

    if (candidates.changes->len == 1 && !candidates.before) {
        apply(model, candidates.changes->pdata[0], start, end);
    } else if (candidates.changes->len) {
        good = settle(model, start, end, reader, opaque, mismatch);
    }
    g_ptr_array_unref(candidates.changes);
    return good;
}

bool model_fold(struct model *model, model_reader reader, void *opaque,
                struct mismatch *mismatch)
{
    g_autoptr(GArray) cuts = segment_cuts(model, 0, UINT64_MAX);

    for (guint i = 0; i + 1 < cuts->len; i++) {
        uint64_t start = g_array_index(cuts, uint64_t, i);
        uint64_t end = g_array_index(cuts, uint64_t, i + 1);

        if (start < end && !fold_segment(model, start, end, reader, opaque,
                                         mismatch)) {
            return false;
        }
    }
    g_array_set_size(model->log, 0);
    return true;
}

bool model_each(const struct model *model, size_t max_bytes,
                bool (*each)(void *opaque, uint64_t offset, size_t length),
                void *opaque)
{
    g_autoptr(GArray) starts = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    GHashTableIter iter;
    gpointer value;
    size_t length;

    g_hash_table_iter_init(&iter, model->chunks);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        uint64_t start = (uint64_t)((struct chunk *)value)->number *
                         CHUNK_BYTES;

        g_array_append_val(starts, start);
    }
    g_array_sort(starts, compare_offsets);
    for (guint i = 0; i < starts->len; i += (guint)(length / CHUNK_BYTES)) {
        uint64_t start = g_array_index(starts, uint64_t, i);

        length = CHUNK_BYTES;
        while (length < max_bytes && i + length / CHUNK_BYTES < starts->len &&
               g_array_index(starts, uint64_t, i + length / CHUNK_BYTES) ==
                   start + length) {
            length += CHUNK_BYTES;
        }
        if (!each(opaque, start, length)) {
            return false;
        }
    }
    return true;
}
