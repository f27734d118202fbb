/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See disk.h for what is promised.  `now` is what every process sees, `safe`
 * what a power cut leaves; `changes` lead from the one to the other, in order.
 */
#include "disk.h"

#include "fibers.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CHUNK 4096u

struct disk disk;

/* --- What happened -------------------------------------------------------- */

void disk_hash(uint64_t value)
{
    disk.hash = (disk.hash ^ value) * UINT64_C(0x100000001b3);
    disk.hash ^= disk.hash >> 29;
}

void disk_note(const char *format, ...)
{
    va_list args;

    if (disk.trace) {
        fprintf(stderr, "    [%u] ", fiber_number());
        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        fputc('\n', stderr);
    }
}

/* --- Images --------------------------------------------------------------- */

static void image_clear(struct image *image)
{
    for (unsigned i = 0; i < image->count; i++) {
        g_free(image->chunks[i]);
    }
    g_free(image->chunks);
    *image = (struct image){ 0 };
}

static void image_extend(struct image *image, unsigned needed)
{
    if (needed > image->count) {
        image->chunks = g_renew(uint8_t *, image->chunks, needed);
        memset(image->chunks + image->count, 0,
               (needed - image->count) * sizeof(*image->chunks));
        image->count = needed;
    }
}

static void image_fill(struct image *image, unsigned chunk)
{
    if (!image->chunks[chunk]) {
        image->chunks[chunk] = g_malloc0(CHUNK);
        image->used++;
    }
}

static void image_copy(struct image *to, const struct image *from)
{
    image_clear(to);
    to->count = from->count;
    to->used = from->used;
    to->chunks = g_new0(uint8_t *, from->count);
    for (unsigned i = 0; i < from->count; i++) {
        to->chunks[i] = from->chunks[i] ? g_memdup2(from->chunks[i], CHUNK)
                                        : NULL;
    }
}

static void image_write(struct image *image, uint64_t start, uint64_t end,
                        const uint8_t *bytes)
{
    unsigned needed = (unsigned)((end + CHUNK - 1) / CHUNK);

    if (bytes) {
        image_extend(image, needed);
    }
    while (start < end) {
        unsigned chunk = (unsigned)(start / CHUNK), at = start % CHUNK;
        size_t length = MIN(end - start, CHUNK - at);

        if (bytes) {
            image_fill(image, chunk);
            memcpy(image->chunks[chunk] + at, bytes, length);
            bytes += length;
        } else if (chunk >= image->count) {
            return;
        } else if (length == CHUNK) {
            image->used -= image->chunks[chunk] != NULL;
            g_clear_pointer(&image->chunks[chunk], g_free);
        } else if (image->chunks[chunk]) {
            memset(image->chunks[chunk] + at, 0, length);
        }
        start += length;
    }
}

static void image_read(const struct image *image, uint64_t start,
                       uint8_t *bytes, size_t length)
{
    while (length) {
        unsigned chunk = (unsigned)(start / CHUNK), at = start % CHUNK;
        size_t run = MIN(length, CHUNK - at);

        if (chunk < image->count && image->chunks[chunk]) {
            memcpy(bytes, image->chunks[chunk] + at, run);
        } else {
            memset(bytes, 0, run);
        }
        start += run;
        bytes += run;
        length -= run;
    }
}

/* --- Inodes --------------------------------------------------------------- */

static void change_clear(gpointer change)
{
    g_free(((struct change *)change)->bytes);
}

struct inode *inode_new(bool is_folder)
{
    struct inode *inode = g_new0(struct inode, 1);

    disk.used++;
    inode->number = ++disk.last_inode;
    inode->is_folder = is_folder;
    if (is_folder) {
        inode->entries_now = g_array_new(FALSE, FALSE, sizeof(struct entry));
        inode->entries_safe = g_array_new(FALSE, FALSE, sizeof(struct entry));
        inode->entry_changes =
            g_array_new(FALSE, FALSE, sizeof(struct entry_change));
    } else {
        inode->changes = g_array_new(FALSE, FALSE, sizeof(struct change));
        g_array_set_clear_func(inode->changes, change_clear);
    }
    g_ptr_array_add(disk.inodes, inode);
    return inode;
}

static void inode_free(gpointer data)
{
    struct inode *inode = data;

    if (inode->is_folder) {
        g_array_unref(inode->entries_now);
        g_array_unref(inode->entries_safe);
        g_array_unref(inode->entry_changes);
    } else {
        g_array_unref(inode->changes);
        image_clear(&inode->now);
        image_clear(&inode->safe);
    }
    g_free(inode);
}

/* What it was like on the disk a power cut may bring back. */
void inode_let_go(struct inode *inode)
{
    if (!inode->links && !inode->opens && !inode->released) {
        inode->released = true;
        disk.used -= 1 + inode->now.used;
        image_clear(&inode->now);
    }
}

void disk_new(void)
{
    bool trace = disk.trace;

    disk = (struct disk){ .trace = trace, .clock_ns = 1000000000 };
    disk.inodes = g_ptr_array_new_with_free_func(inode_free);
    disk.root = inode_new(true);
    disk.root->links = 1;
}

void disk_free(void)
{
    g_ptr_array_unref(disk.inodes);
    disk.inodes = NULL;
}

/* --- Folders -------------------------------------------------------------- */

static struct entry *entries_find(GArray *entries, const char *name)
{
    for (guint i = 0; i < entries->len; i++) {
        struct entry *entry = &g_array_index(entries, struct entry, i);

        if (strcmp(entry->name, name) == 0) {
            return entry;
        }
    }
    return NULL;
}

struct entry *folder_find(const struct inode *folder, const char *name)
{
    return entries_find(folder->entries_now, name);
}

static void entries_remove(GArray *entries, const char *name)
{
    struct entry *entry = *name ? entries_find(entries, name) : NULL;

    if (entry) {
        g_array_remove_index(
            entries, (guint)(entry - (struct entry *)entries->data));
    }
}

static void entries_apply(GArray *entries, const struct entry_change *change)
{
    entries_remove(entries, change->remove);
    if (*change->add) {
        struct entry entry = { .inode = change->inode };

        g_strlcpy(entry.name, change->add, sizeof(entry.name));
        entries_remove(entries, change->add);
        g_array_append_val(entries, entry);
    }
}

void folder_change(struct inode *folder, const char *remove, const char *add,
                   struct inode *inode)
{
    struct entry_change change = { .inode = inode };
    struct entry *old;

    g_strlcpy(change.remove, remove ? remove : "", sizeof(change.remove));
    g_strlcpy(change.add, add ? add : "", sizeof(change.add));
    if (add) {
        inode->links++;
    }
    if (remove && (old = folder_find(folder, remove))) {
        old->inode->links--;
        inode_let_go(old->inode);
    }
    if (add && (old = folder_find(folder, add))) {
        old->inode->links--;
        inode_let_go(old->inode);
    }
    entries_apply(folder->entries_now, &change);
    g_array_append_val(folder->entry_changes, change);
}

void folder_sync(struct inode *folder)
{
    for (guint i = 0; i < folder->entry_changes->len; i++) {
        entries_apply(folder->entries_safe,
                      &g_array_index(folder->entry_changes,
                                     struct entry_change, i));
    }
    g_array_set_size(folder->entry_changes, 0);
}

/* --- Files ---------------------------------------------------------------- */

void file_read(const struct inode *inode, uint64_t offset, uint8_t *bytes,
               size_t length)
{
    image_read(&inode->now, offset, bytes, length);
}

void file_resize(struct inode *inode, uint64_t size)
{
    uint64_t cut = (size + CHUNK - 1) / CHUNK * CHUNK;

    if (size < inode->size_now) {
        file_write(inode, size, NULL, MAX(cut, inode->size_now) - size);
    }
    inode->size_now = size;
}

void file_allocate(struct inode *inode, uint64_t offset, uint64_t length)
{
    uint64_t end = (offset + length + CHUNK - 1) / CHUNK;

    image_extend(&inode->now, (unsigned)end);
    for (uint64_t chunk = offset / CHUNK; chunk < end; chunk++) {
        struct change change = { chunk * CHUNK, (chunk + 1) * CHUNK, NULL };

        if (!inode->now.chunks[chunk]) {
            image_fill(&inode->now, (unsigned)chunk);
            disk.used++;
            change.bytes = g_malloc0(CHUNK);
            g_array_append_val(inode->changes, change);
        }
    }
}

static uint64_t units_left(void)
{
    return !disk.limit              ? UINT64_MAX
           : disk.used < disk.limit ? disk.limit - disk.used
                                    : 0;
}

bool disk_has_room(void)
{
    return units_left() > 0;
}

uint64_t file_room(const struct inode *inode, uint64_t offset, uint64_t length)
{
    uint64_t left = units_left(), end = offset + length, chunk;

    for (chunk = offset / CHUNK; left < UINT64_MAX && chunk * CHUNK < end;
         chunk++) {
        bool there = file_is_data(inode, chunk * CHUNK);

        if (!there && left == 0) {
            return MAX(chunk * CHUNK, offset) - offset;
        }
        left -= !there;
    }
    return length;
}

/* The change is of whole sectors, for a sector is never a mixture: what of them
 * wasn't written comes along. */
void file_write(struct inode *inode, uint64_t offset, const uint8_t *bytes,
                size_t length)
{
    struct change change = {
        .start = offset / SECTOR * SECTOR,
        .end = (offset + length + SECTOR - 1) / SECTOR * SECTOR,
    };
    bool whole = change.start == offset && change.end == offset + length;
    unsigned before = inode->now.used;

    image_write(&inode->now, offset, offset + length, bytes);
    disk.used += inode->now.used;
    disk.used -= before;
    if (bytes || !whole) {
        change.bytes = g_malloc(change.end - change.start);
        image_read(&inode->now, change.start, change.bytes,
                   change.end - change.start);
    }
    g_array_append_val(inode->changes, change);
    if (bytes) {
        inode->size_now = MAX(inode->size_now, offset + length);
    }
}

void file_write_torn(struct inode *inode, uint64_t offset,
                     const uint8_t *bytes, size_t length)
{
    unsigned kept_of_8 = (unsigned)random_below(9);

    for (size_t at = 0, run; at < length; at += run) {
        run = MIN(length - at, SECTOR - (offset + at) % SECTOR);
        if (random_below(8) < kept_of_8) {
            file_write(inode, offset + at, bytes ? bytes + at : NULL, run);
        }
    }
}

bool file_is_data(const struct inode *inode, uint64_t offset)
{
    uint64_t chunk = offset / CHUNK;

    return chunk < inode->now.count && inode->now.chunks[chunk];
}

/* Of a change the part inside [start, end) becomes durable if `keep` says so
 * of its sector. */
static void change_keep(struct inode *inode, const struct change *change,
                        uint64_t start, uint64_t end, unsigned kept_of_8)
{
    start = MAX(start, change->start);
    end = MIN(end, change->end);
    if (start >= end) {
        return;
    }
    if (kept_of_8 >= 8) {
        image_write(&inode->safe, start, end,
                    change->bytes ? change->bytes + (start - change->start)
                                  : NULL);
        return;
    }
    for (uint64_t at = start, next; at < end; at = next) {
        next = MIN(end, (at / SECTOR + 1) * SECTOR);
        if (random_below(8) < kept_of_8) {
            image_write(&inode->safe, at, next,
                        change->bytes ? change->bytes + (at - change->start)
                                      : NULL);
        }
    }
}

void file_sync(struct inode *inode)
{
    for (guint i = 0; i < inode->changes->len; i++) {
        change_keep(inode, &g_array_index(inode->changes, struct change, i),
                    0, UINT64_MAX, 8);
    }
    g_array_set_size(inode->changes, 0);
    inode->size_safe = inode->size_now;
}

static void remainder_add(GArray *rest, const struct change *change,
                          uint64_t start, uint64_t end)
{
    struct change part = { start, end, NULL };

    if (start < end) {
        part.bytes = change->bytes
                         ? g_memdup2(change->bytes + (start - change->start),
                                     end - start)
                         : NULL;
        g_array_append_val(rest, part);
    }
}

static void sync_range(struct inode *inode, uint64_t start, uint64_t end,
                       unsigned kept_of_8)
{
    GArray *rest = g_array_new(FALSE, FALSE, sizeof(struct change));

    g_array_set_clear_func(rest, change_clear);
    for (guint i = 0; i < inode->changes->len; i++) {
        const struct change *change =
            &g_array_index(inode->changes, struct change, i);

        change_keep(inode, change, start, end, kept_of_8);
        remainder_add(rest, change, change->start, MIN(change->end, start));
        remainder_add(rest, change, MAX(change->start, end), change->end);
    }
    g_array_unref(inode->changes);
    inode->changes = rest;
    inode->size_safe = inode->size_now;
}

void file_sync_range(struct inode *inode, uint64_t start, uint64_t end)
{
    sync_range(inode, start / SECTOR * SECTOR,
               (end + SECTOR - 1) / SECTOR * SECTOR, 8);
}

void file_sync_failed(struct inode *inode, uint64_t start, uint64_t end)
{
    disk.failed_syncs++;
    inode->failures.count++;
    inode->failures.told = false;
    disk.failures.count++;
    disk.failures.told = false;
    if (end != UINT64_MAX) {
        end = (end + SECTOR - 1) / SECTOR * SECTOR;
    }
    sync_range(inode, start / SECTOR * SECTOR, end,
               (unsigned)random_below(8));
}

/* --- The power cut -------------------------------------------------------- */

static void file_cut(struct inode *inode, unsigned mode)
{
    unsigned whole = (unsigned)random_below(9), kept;

    for (guint i = 0; i < inode->changes->len; i++) {
        const struct change *change =
            &g_array_index(inode->changes, struct change, i);

        kept = mode == 0   ? 0
               : mode == 1 ? 8
               : mode == 2 ? (random_below(2) ? 8 : 0)
               : mode == 3 ? (whole < 4 ? 0 : 8)
                           : whole;
        change_keep(inode, change, 0, UINT64_MAX, kept);
    }
    g_array_set_size(inode->changes, 0);
    if (mode == 1 || (mode > 1 && random_below(2))) {
        inode->size_safe = inode->size_now;
    }
    image_write(&inode->safe, inode->size_safe,
                (uint64_t)inode->safe.count * CHUNK, NULL);
    image_copy(&inode->now, &inode->safe);
    inode->size_now = inode->size_safe;
}

static void folder_cut(struct inode *folder, unsigned mode)
{
    unsigned kept_of_8 = mode == 0 ? 0 : mode == 1 ? 8
                                       : (unsigned)random_below(9);

    for (guint i = 0; i < folder->entry_changes->len; i++) {
        if (random_below(8) < kept_of_8) {
            entries_apply(folder->entries_safe,
                          &g_array_index(folder->entry_changes,
                                         struct entry_change, i));
        }
    }
    g_array_set_size(folder->entry_changes, 0);
    g_array_set_size(folder->entries_now, 0);
    g_array_append_vals(folder->entries_now, folder->entries_safe->data,
                        folder->entries_safe->len);
}

static void reach(struct inode *inode)
{
    inode->links++;
    if (inode->reached) {
        return;
    }
    inode->reached = true;
    for (guint i = 0; inode->is_folder && i < inode->entries_now->len; i++) {
        reach(g_array_index(inode->entries_now, struct entry, i).inode);
    }
}

static void forget_unreached(void)
{
    disk.used = 0;
    for (guint i = 0; i < disk.inodes->len; i++) {
        struct inode *inode = disk.inodes->pdata[i];

        inode->links = 0;
        inode->reached = inode->released = false;
        inode->failures = (struct failures){ 0 };
    }
    reach(disk.root);
    for (guint i = disk.inodes->len; i-- > 0;) {
        if (!((struct inode *)disk.inodes->pdata[i])->reached) {
            g_ptr_array_remove_index_fast(disk.inodes, i);
        } else {
            disk.used += 1 + ((struct inode *)disk.inodes->pdata[i])->now.used;
        }
    }
}

void disk_recover(void)
{
    unsigned mode = (unsigned)random_below(6);

    if (disk.power_cut) {
        for (guint i = 0; i < disk.inodes->len; i++) {
            struct inode *inode = disk.inodes->pdata[i];

            if (inode->is_folder) {
                folder_cut(inode, mode);
            } else {
                file_cut(inode, mode);
            }
        }
        disk.failed_syncs = 0;
        disk.failures = (struct failures){ 0 };
        forget_unreached();
    }
    disk.dead = false;
    disk.calls = 0;
    disk.crash_at = 0;
    disk.injected = 0;
}
