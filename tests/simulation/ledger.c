/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See ledger.h. */
#include "ledger.h"

#include <stdio.h>
#include <string.h>

#define TAG UINT64_C(0xa5d1000000000000)

static const uint8_t zeroes[LEDGER_SECTOR];
/* What was there before anything was written, where it has to be listed. */
static struct write before = { .what = "nothing", .ok = true };

/* --- Patterns ------------------------------------------------------------- */

static uint64_t pattern_tag(unsigned volume, unsigned step)
{
    return TAG | (uint64_t)(volume & 0xffff) << 32 | step;
}

static uint64_t pattern_word(uint64_t tag, uint64_t sector, unsigned i)
{
    return (tag ^ sector << 20) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

void pattern_fill(unsigned volume, unsigned step, uint64_t sector,
                  uint8_t *bytes)
{
    uint64_t words[LEDGER_SECTOR / 8];
    uint64_t tag = pattern_tag(volume, step);

    words[0] = tag;
    for (unsigned i = 1; i < G_N_ELEMENTS(words); i++) {
        words[i] = pattern_word(tag, sector, i);
    }
    memcpy(bytes, words, sizeof(words));
}

/* --- Beginning and end ---------------------------------------------------- */

static void write_free(gpointer data)
{
    struct write *write = data;

    g_free(write->bytes);
    g_free(write);
}

static void group_free(gpointer data)
{
    struct slot *slots = data;

    for (unsigned i = 0; i < LEDGER_GROUP; i++) {
        g_free(slots[i].more);
    }
    g_free(slots);
}

struct ledger *ledger_new(unsigned volume)
{
    struct ledger *ledger = g_new0(struct ledger, 1);

    ledger->volume = volume;
    ledger->oldest_reader = LEDGER_NEVER;
    ledger->groups = g_hash_table_new_full(NULL, NULL, NULL, group_free);
    ledger->writes = g_ptr_array_new_with_free_func(write_free);
    ledger->due = g_ptr_array_new();
    ledger->active = g_ptr_array_new();
    return ledger;
}

void ledger_free(struct ledger *ledger)
{
    if (ledger) {
        g_hash_table_unref(ledger->groups);
        g_ptr_array_unref(ledger->writes);
        g_ptr_array_unref(ledger->due);
        g_ptr_array_unref(ledger->active);
        g_free(ledger);
    }
}

/* --- Slots ---------------------------------------------------------------- */

static struct slot *slot_find(const struct ledger *ledger, uint64_t sector)
{
    struct slot *slots = g_hash_table_lookup(
        ledger->groups, GSIZE_TO_POINTER(sector / LEDGER_GROUP));

    return slots ? &slots[sector % LEDGER_GROUP] : NULL;
}

static void slot_add(struct slot *slot, struct write *write)
{
    slot->more = g_renew(struct write *, slot->more, slot->count + 1);
    slot->more[slot->count++] = write;
}

static void slots_add_zeroes(struct slot *slots, uint64_t first,
                             const GPtrArray *writes)
{
    for (guint i = 0; i < writes->len; i++) {
        struct write *write = writes->pdata[i];

        for (unsigned at = 0; !write->bytes && at < LEDGER_GROUP; at++) {
            if (write->first <= first + at && first + at < write->last) {
                slot_add(&slots[at], write);
            }
        }
    }
}

/* Zeroes make no groups, for they are zeroes already: those under way or not
 * durable yet are entered when a group is made. */
static void group_make(struct ledger *ledger, uint64_t group)
{
    struct slot *slots = g_new0(struct slot, LEDGER_GROUP);

    g_hash_table_insert(ledger->groups, GSIZE_TO_POINTER(group), slots);
    slots_add_zeroes(slots, group * LEDGER_GROUP, ledger->active);
    slots_add_zeroes(slots, group * LEDGER_GROUP, ledger->due);
}

static struct slot *slot_make(struct ledger *ledger, uint64_t sector)
{
    struct slot *slot = slot_find(ledger, sector);

    if (!slot) {
        group_make(ledger, sector / LEDGER_GROUP);
        slot = slot_find(ledger, sector);
    }
    return slot;
}

static void slot_set(struct slot *slot, struct write *base)
{
    slot->base = base;
    slot->count = 0;
}

static const uint8_t *write_bytes(const struct write *write, uint64_t sector)
{
    return write && write->bytes
               ? write->bytes + (sector - write->first) * LEDGER_SECTOR
               : zeroes;
}

/* A write became durable: what it surely came after can't be there after a
 * crash, and matters only to reads that are under way. */
static void slot_prune(struct slot *slot, struct write *durable,
                       bool has_readers)
{
    struct write *old = slot->base ? slot->base : &before;
    unsigned kept = 0;

    if (old != durable && old->completed < durable->submitted) {
        slot->base = durable;
        if (has_readers) {
            slot_add(slot, old);
        }
    }
    for (unsigned i = 0; i < slot->count; i++) {
        struct write *write = slot->more[i];

        if (write != slot->base &&
            (has_readers || write == durable ||
             write->completed >= durable->submitted)) {
            slot->more[kept++] = write;
        }
    }
    slot->count = kept;
}

static void write_make_durable(struct ledger *ledger, struct write *write)
{
    write->durable = true;
    for (uint64_t at = write->first; at < write->last; at++) {
        struct slot *slot = slot_find(ledger, at);

        if (slot) {
            slot_prune(slot, write,
                       write->completed >= ledger->oldest_reader);
        }
    }
}

/* --- Writes --------------------------------------------------------------- */

struct write *ledger_submit(struct ledger *ledger, unsigned step,
                            const char *what, uint64_t first, uint64_t last,
                            uint8_t *bytes, uint64_t now)
{
    struct write *write = g_new0(struct write, 1);

    *write = (struct write){ .step = step, .what = what, .first = first,
                             .last = last, .bytes = bytes, .submitted = now,
                             .completed = LEDGER_NEVER };
    g_ptr_array_add(ledger->writes, write);
    for (uint64_t at = first; at < last; at++) {
        struct slot *slot = bytes ? slot_make(ledger, at)
                                  : slot_find(ledger, at);

        if (slot) {
            slot_add(slot, write);
        }
    }
    g_ptr_array_add(ledger->active, write);
    return write;
}

void ledger_complete(struct ledger *ledger, struct write *write, bool ok,
                     bool durable, uint64_t now)
{
    g_ptr_array_remove_fast(ledger->active, write);
    write->completed = now;
    write->ok = ok;
    write->fua = durable;
    if (ok && durable) {
        write_make_durable(ledger, write);
    } else if (ok) {
        g_ptr_array_add(ledger->due, write);
    }
}

void ledger_flushed(struct ledger *ledger, uint64_t submitted)
{
    for (guint i = ledger->due->len; i-- > 0;) {
        struct write *write = ledger->due->pdata[i];

        if (write->completed < submitted) {
            g_ptr_array_remove_index_fast(ledger->due, i);
            write_make_durable(ledger, write);
        }
    }
}

void ledger_interrupt(struct ledger *ledger, uint64_t now)
{
    for (guint i = 0; i < ledger->writes->len; i++) {
        struct write *write = ledger->writes->pdata[i];

        if (!write->durable) {
            write->completed = MIN(write->completed, now);
            write->ok = false;
        }
    }
    g_ptr_array_set_size(ledger->due, 0);
    g_ptr_array_set_size(ledger->active, 0);
}

/* --- What may be there ---------------------------------------------------- */

static uint64_t completed_of(const struct write *write)
{
    return write ? write->completed : 0;
}

/* Some write surely came after `write` and before a read that began then. */
static bool is_covered(const struct slot *slot, const struct write *write,
                       uint64_t submitted)
{
    for (unsigned i = 0; i <= slot->count; i++) {
        const struct write *later = i ? slot->more[i - 1] : slot->base;

        if (later && later->ok && later->completed < submitted &&
            completed_of(write) < later->submitted) {
            return true;
        }
    }
    return false;
}

static bool can_be_read(const struct slot *slot, const struct write *write,
                        uint64_t submitted, uint64_t completed)
{
    return (!write || write->submitted < completed) &&
           !is_covered(slot, write, submitted);
}

bool ledger_value(const struct ledger *ledger, uint64_t sector,
                  const uint8_t **bytes)
{
    const struct slot *slot = slot_find(ledger, sector);
    unsigned found = 0;

    *bytes = zeroes;
    if (!slot) {
        return true;
    }
    for (unsigned i = 0; i <= slot->count; i++) {
        const struct write *write = i ? slot->more[i - 1] : slot->base;

        if (can_be_read(slot, write, LEDGER_NEVER, LEDGER_NEVER)) {
            *bytes = write_bytes(write, sector);
            found++;
        }
        if (write && write->completed == LEDGER_NEVER) {
            return false;
        }
    }
    return found == 1;
}

/* --- Verdicts ------------------------------------------------------------- */

static const struct write *find_writer(const struct ledger *ledger,
                                       uint64_t sector, const uint8_t *bytes)
{
    for (guint i = ledger->writes->len; i-- > 0;) {
        const struct write *write = ledger->writes->pdata[i];

        if (write->first <= sector && sector < write->last &&
            memcmp(write_bytes(write, sector), bytes, LEDGER_SECTOR) == 0) {
            return write;
        }
    }
    return NULL;
}

static void judge_foreign(const struct ledger *ledger, uint64_t sector,
                          const uint8_t *bytes, struct verdict *verdict)
{
    uint64_t tag;

    memcpy(&tag, bytes, sizeof(tag));
    if ((tag & TAG) == TAG && (tag >> 32 & 0xffff) != ledger->volume) {
        verdict->invariant = 10;
        g_snprintf(verdict->text, sizeof(verdict->text),
                   "bytes of volume %u, step %u",
                   (unsigned)(tag >> 32 & 0xffff), (unsigned)tag);
    } else {
        verdict->invariant = 3;
        g_snprintf(verdict->text, sizeof(verdict->text),
                   "a mixture or bytes of another place (tag %016"
                   G_GINT64_MODIFIER "x)", tag);
    }
}

/* Why `bytes` can't be there, when nothing that may be is. */
static void judge(const struct ledger *ledger, const struct slot *slot,
                  uint64_t sector, const uint8_t *bytes, bool crashed,
                  struct verdict *verdict)
{
    const struct write *writer = find_writer(ledger, sector, bytes);
    bool zero = memcmp(bytes, zeroes, LEDGER_SECTOR) == 0;
    const struct write *base = slot ? slot->base : NULL;

    if (!writer && !zero) {
        judge_foreign(ledger, sector, bytes, verdict);
        return;
    }
    g_snprintf(verdict->text, sizeof(verdict->text),
               "%s%s of step %u instead of step %u's",
               zero ? "zeroes" : "bytes", writer ? "" : " from before",
               writer ? writer->step : 0, base ? base->step : 0);
    if (!crashed) {
        verdict->invariant = 16;
    } else if (writer && !zero && completed_of(writer) > completed_of(base)) {
        verdict->invariant = 5;         /* once lost, now there */
    } else if (!base) {
        verdict->invariant = 4;
    } else if (!writer || completed_of(writer) < base->submitted) {
        verdict->invariant = base->fua ? 2 : 1;
    } else {
        verdict->invariant = 5;
    }
}

bool ledger_check(const struct ledger *ledger, uint64_t sector,
                  const uint8_t *bytes, unsigned from, unsigned to,
                  uint64_t submitted, uint64_t completed,
                  struct verdict *verdict)
{
    static const struct slot none;
    const struct slot *slot = slot_find(ledger, sector);

    slot = slot ? slot : &none;
    for (unsigned i = 0; i <= slot->count; i++) {
        const struct write *write = i ? slot->more[i - 1] : slot->base;

        if (can_be_read(slot, write, submitted, completed) &&
            memcmp(write_bytes(write, sector) + from, bytes, to - from) == 0) {
            return true;
        }
    }
    if (verdict && from == 0 && to == LEDGER_SECTOR) {
        judge(ledger, slot, sector, bytes, false, verdict);
    } else if (verdict) {
        verdict->invariant = 16;
        g_strlcpy(verdict->text, "a part of a sector is wrong",
                  sizeof(verdict->text));
    }
    return false;
}

bool ledger_may_be_zero(const struct ledger *ledger, uint64_t sector,
                        uint64_t submitted, uint64_t completed)
{
    return ledger_check(ledger, sector, zeroes, 0, LEDGER_SECTOR, submitted,
                        completed, NULL);
}

/* Something durable surely came after it. */
static bool is_gone(const struct slot *slot, const struct write *write)
{
    for (unsigned i = 0; i <= slot->count; i++) {
        const struct write *later = i ? slot->more[i - 1] : slot->base;

        if (later && later->durable &&
            completed_of(write) < later->submitted) {
            return true;
        }
    }
    return false;
}

bool ledger_settle(struct ledger *ledger, uint64_t sector,
                   const uint8_t *bytes, bool doubtful,
                   struct verdict *verdict)
{
    struct slot *slot = slot_find(ledger, sector);
    struct write *found = NULL;
    bool any = false;

    if (!slot) {
        any = memcmp(bytes, zeroes, LEDGER_SECTOR) == 0;
        if (!any) {
            judge(ledger, NULL, sector, bytes, true, verdict);
        }
        return any;
    }
    for (unsigned i = 0; i <= slot->count && !any; i++) {
        struct write *write = i ? slot->more[i - 1] : slot->base;

        if (is_gone(slot, write)) {
            continue;
        }
        if (memcmp(write_bytes(write, sector), bytes, LEDGER_SECTOR) == 0) {
            any = true;
            found = write;
        }
    }
    if (!any) {
        judge(ledger, slot, sector, bytes, true, verdict);
    } else if (!doubtful) {
        slot_set(slot, found == &before ? NULL : found);
    }
    return any;
}

void ledger_cut(struct ledger *ledger, uint64_t sector)
{
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, ledger->groups);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        struct slot *slots = value;
        uint64_t first = (uint64_t)GPOINTER_TO_SIZE(key) * LEDGER_GROUP;

        for (unsigned i = 0; i < LEDGER_GROUP; i++) {
            if (first + i >= sector) {
                slot_set(&slots[i], NULL);
            }
        }
    }
}

void ledger_print(const struct ledger *ledger, uint64_t sector)
{
    for (guint i = 0; i < ledger->writes->len; i++) {
        const struct write *write = ledger->writes->pdata[i];

        if (write->first <= sector && sector < write->last) {
            fprintf(stderr,
                    "  step %u: %s, sectors %" G_GUINT64_FORMAT " to %"
                    G_GUINT64_FORMAT ", from %" G_GUINT64_FORMAT " to %"
                    G_GUINT64_FORMAT "%s%s%s\n",
                    write->step, write->what, write->first, write->last,
                    write->submitted,
                    write->completed == LEDGER_NEVER ? 0 : write->completed,
                    write->ok ? ", ok" : ", failed or interrupted",
                    write->durable ? ", durable" : "",
                    write->fua ? " by FUA" : "");
        }
    }
}
