/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lives: what is opened and made, the end, and what is found after it.
 *
 * A crash is the end of all system calls: from some call on each fails and
 * changes nothing, until the program has closed what it had, as if it were the
 * memory of a dead process.  Then the disk becomes what was left of it.
 */
#include "disk.h"
#include "fibers.h"
#include "world.h"

#include <errno.h>
#include <string.h>

/* --- Sizes ---------------------------------------------------------------- */

void size_log(struct volume *volume, uint64_t bytes)
{
    struct size size = { .bytes = bytes, .submitted = world.now,
                         .completed = LEDGER_NEVER };

    g_array_append_val(volume->sizes, size);
}

static void size_reset(struct volume *volume, uint64_t bytes)
{
    struct size size = { bytes, world.now, world.now, true, true };

    g_array_set_size(volume->sizes, 0);
    g_array_append_val(volume->sizes, size);
    volume->size = bytes;
}

void sizes_flushed(struct volume *volume, uint64_t submitted)
{
    for (guint i = 0; i < volume->sizes->len; i++) {
        struct size *size = &g_array_index(volume->sizes, struct size, i);

        size->durable |= size->ok && size->completed < submitted;
    }
}

void volume_cut(struct volume *volume)
{
    if (volume->shrunk_to) {
        ledger_cut(volume->ledger, volume->shrunk_to / SECTOR);
        volume->shrunk_to = 0;
    }
}

static bool size_is_possible(const struct volume *volume, uint64_t bytes)
{
    bool possible = false;

    for (guint i = 0; i < volume->sizes->len; i++) {
        const struct size *size = &g_array_index(volume->sizes, struct size,
                                                 i);

        if (size->durable) {
            possible = false;
        }
        possible |= size->bytes == bytes;
    }
    return possible;
}

static void check_size(struct volume *volume, bool settle)
{
    uint64_t found = archip_volume_size(volume->handle);

    if (!settle && found != volume->size) {
        broken(12, volume, 0, "closed with %" G_GUINT64_FORMAT
               " bytes, opened with %" G_GUINT64_FORMAT, volume->size, found);
    }
    if (settle && !size_is_possible(volume, found)) {
        broken(12, volume, 0, "it can't have %" G_GUINT64_FORMAT " bytes",
               found);
    }
}

/* --- Checking all of a volume --------------------------------------------- */

#define CHECK_SECTORS LEDGER_GROUP

static void check_sectors(struct volume *volume, uint64_t first,
                          const uint8_t *bytes, uint64_t count, bool settle)
{
    bool doubtful = disk.failed_syncs > 0;

    for (uint64_t i = 0; i < count; i++) {
        struct verdict verdict = { 0 };
        const uint8_t *sector = bytes + i * SECTOR;
        bool good = settle || ledger_check(volume->ledger, first + i, sector,
                                           0, SECTOR, world.now, world.now,
                                           &verdict);

        /* What a clean close left is as durable as after a crash (D18). */
        good = good && ledger_settle(volume->ledger, first + i, sector,
                                     doubtful, &verdict);

        if (!good) {
            broken(verdict.invariant, volume, first + i, "%s: %s",
                   settle ? "after the crash" : "after closing in good order",
                   verdict.text);
        }
    }
    world.checked += count;
}

/* False when it can't be read: only then when the process died. */
static bool check_range(struct volume *volume, uint64_t first, bool settle)
{
    static uint8_t bytes[CHECK_SECTORS * SECTOR];
    uint64_t sectors = volume->size / SECTOR, count;
    int result;

    if (first >= sectors) {
        return true;
    }
    count = MIN(sectors - first, CHECK_SECTORS);
    result = archip_read(volume->queues[0], bytes, count * SECTOR,
                         first * SECTOR);
    if (disk.dead) {
        return false;
    }
    if (result < 0 && world.has_rotted) {
        world.refused++;
        return true;
    }
    if (result < 0) {
        broken(result == -EUCLEAN ? 8 : 17, volume, first,
               "it can't be read: %s", archip_error());
    }
    check_sectors(volume, first, bytes, count, settle);
    return true;
}

static gint compare_groups(gconstpointer a, gconstpointer b)
{
    const gsize *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static GArray *group_numbers(const struct volume *volume)
{
    GArray *numbers = g_array_new(FALSE, FALSE, sizeof(gsize));
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, volume->ledger->groups);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        gsize number = GPOINTER_TO_SIZE(key);

        g_array_append_val(numbers, number);
    }
    g_array_sort(numbers, compare_groups);
    return numbers;
}

void volume_verify(struct volume *volume)
{
    g_autoptr(GArray) groups = group_numbers(volume);
    unsigned errors = disk.error_once_in;
    bool settle = !volume->settled, whole = true;

    disk.error_once_in = 0;
    check_size(volume, settle);
    volume->size = archip_volume_size(volume->handle);
    volume_cut(volume);
    world.now++;
    for (guint i = 0; i < groups->len && whole; i++) {
        whole = check_range(volume,
                            g_array_index(groups, gsize, i) * LEDGER_GROUP,
                            settle);
    }
    for (unsigned i = 0; i < 3 && whole; i++) {
        whole = check_range(volume, random_below(volume->size / SECTOR + 1),
                            settle);
    }
    disk.error_once_in = errors;
    if (whole && settle) {
        ledger_cut(volume->ledger, volume->size / SECTOR);
        size_reset(volume, volume->size);
        volume->settled = true;
    }
}

/* --- Opening and closing -------------------------------------------------- */

static void open_queues(struct volume *volume)
{
    volume->queue_count = 1 + (unsigned)random_below(QUEUES);
    for (unsigned i = 0; i < volume->queue_count; i++) {
        if (archip_queue_open(volume->handle,
                              random_once_in(4) ? ARCHIP_QUEUE_MAY_BLOCK : 0,
                              &volume->queues[i]) < 0) {
            broken(17, volume, 0, "no queue: %s", archip_error());
        }
    }
}

/* The number that says who may write only rises, also over crashes. */
static void check_token(struct volume *volume)
{
    archip_holder holder;
    int result = archip_volume_get_holder(world.stores[volume->store],
                                          volume->name, &holder);

    if (result < 0) {
        excuse(15, volume, "asking for the holder", result, archip_error());
        return;
    }
    if (!disk.dead && (!holder.held || holder.token <= volume->token)) {
        broken(15, volume, 0, "held %d, token %" G_GUINT64_FORMAT " after %"
               G_GUINT64_FORMAT, holder.held, holder.token, volume->token);
    }
    volume->token = holder.token;
}

static void volume_forget(struct volume *volume)
{
    volume->existence = GONE;
    ledger_free(g_steal_pointer(&volume->ledger));
    if (volume->sizes) {
        g_array_unref(g_steal_pointer(&volume->sizes));
    }
}

static int open_handle(struct volume *volume)
{
    disk_note("open %s", volume->name);
    volume->store = (unsigned)random_below(STORES);
    return archip_volume_open(world.stores[volume->store], volume->name,
                              ARCHIP_OPEN_WRITE, "simulation",
                              &volume->handle);
}

void volume_open(struct volume *volume)
{
    unsigned errors = disk.error_once_in;
    int result = open_handle(volume);

    /* Once errors end it must work, but for one more that tells of an earlier
     * write-back. */
    for (unsigned i = 0; i < 6 && result < 0 && !disk.dead &&
                         (disk.injected || disk.failed_syncs); i++) {
        disk.error_once_in = 0;
        disk.limit = 0;
        result = open_handle(volume);
    }
    disk.error_once_in = errors;
    if (disk.dead && result < 0) {
        return;
    }
    if (result == -ENOENT && volume->existence == UNSURE) {
        volume_forget(volume);
        return;
    }
    if (result < 0 && world.has_rotted) {
        world.refused++;
        return;
    }
    if (result < 0) {
        broken(result == -ENOENT ? 11 : 13, volume, 0, "it can't be opened: %s",
               archip_error());
    }
    volume->existence = THERE;
    open_queues(volume);
    check_token(volume);
    volume_verify(volume);
}

static void close_handle(struct volume *volume)
{
    uint64_t now = ++world.now;
    int result;

    for (unsigned i = 0; i < volume->queue_count; i++) {
        archip_queue_close(volume->queues[i]);
    }
    volume->queue_count = 0;
    disk_note("close %s", volume->name);
    result = archip_volume_close(g_steal_pointer(&volume->handle));
    excuse(18, volume, "close", result, archip_error());
    if (result == 0) {
        ledger_flushed(volume->ledger, now);
        sizes_flushed(volume, now);
    } else {
        ledger_interrupt(volume->ledger, now);
        volume->settled = false;
    }
}

void volume_close(struct volume *volume)
{
    volume_drain(volume);
    close_handle(volume);
}

/* --- Making and removing -------------------------------------------------- */

static void volume_reset(struct volume *volume)
{
    volume_forget(volume);
    volume->number = ++world.last_number;
    volume->ledger = ledger_new(volume->number);
    volume->sizes = g_array_new(FALSE, FALSE, sizeof(struct size));
    volume->object_bytes = 1u << (16 + random_below(2));
    size_reset(volume, SECTOR * (1 + random_below(volume->object_bytes * 8 /
                                                  SECTOR)));
    if (random_once_in(2)) {
        volume->size += volume->object_bytes * random_below(150);
        size_reset(volume, volume->size);
    }
    for (unsigned i = 0; i < world.habits.hot; i++) {
        volume->hot[i] = random_below(volume->size / volume->object_bytes + 1);
    }
    volume->token = 0;
    volume->shrunk_to = 0;
    volume->settled = true;
    volume->existence = UNSURE;
}

void volume_create(struct volume *volume)
{
    archip_create_options options = { 0 };
    bool unsure = volume->existence == UNSURE;
    int result;

    if (unsure) {           /* of which only an open tells */
        volume_open(volume);
        return;
    }
    crash_soon_once_in(world.habits.end_soon_once_in, 70);
    volume_reset(volume);
    options.object_bytes = volume->object_bytes;
    disk_note("create %s as %u, %#zx", volume->name, volume->number,
              (size_t)volume->size);
    result = archip_volume_create(world.stores[random_below(STORES)],
                                  volume->name, volume->size, &options);
    excuse(11, volume, "create", result, archip_error());
    if (result == 0) {
        volume->existence = THERE;
    }
}

void volume_remove(struct volume *volume)
{
    int result;

    crash_soon_once_in(world.habits.end_soon_once_in, 70);
    disk_note("remove %s", volume->name);
    volume->existence = UNSURE;
    result = archip_volume_remove(world.stores[random_below(STORES)],
                                  volume->name);
    excuse(11, volume, "remove", result, archip_error());
    if (result == 0) {
        volume_forget(volume);
    }
}

/* --- Lives ---------------------------------------------------------------- */

static void open_stores(void)
{
    for (unsigned i = 0; i < STORES; i++) {
        unsigned errors = disk.error_once_in;
        int result = archip_store_open(world.location, ARCHIP_STORE_CREATE,
                                       &world.stores[i]);

        if (result < 0 && !disk.dead && disk.injected) {
            disk.error_once_in = 0;
            disk.limit = 0;
            result = archip_store_open(world.location, ARCHIP_STORE_CREATE,
                                       &world.stores[i]);
            disk.error_once_in = errors;
        }
        if (result < 0 && !disk.dead) {
            broken(13, NULL, 0, "the store can't be opened: %s",
                   archip_error());
        }
    }
}

/* Whoever lost the process says so here. */
static void close_all(void)
{
    for (unsigned i = 0; i < VOLUMES; i++) {
        if (world.volumes[i].handle) {
            volume_drain(&world.volumes[i]);
        }
    }
    for (unsigned i = 0; i < VOLUMES; i++) {
        if (world.volumes[i].handle) {
            close_handle(&world.volumes[i]);
        }
    }
    for (unsigned i = 0; i < STORES; i++) {
        archip_store_close(g_steal_pointer(&world.stores[i]));
    }
    fibers_clean();
    if (calls_open_count() || fiber_count()) {
        broken(17, NULL, 0, "%u descriptors and %u threads are left",
               calls_open_count(), fiber_count());
    }
}

static void interrupt_all(void)
{
    for (unsigned i = 0; i < VOLUMES; i++) {
        struct volume *volume = &world.volumes[i];

        if (volume->ledger) {
            ledger_interrupt(volume->ledger, ++world.now);
            volume->settled = false;
        }
    }
}

/* When the next life ends: often in the middle of recovery. */
static uint64_t draw_crash(void)
{
    return random_once_in(4) ? 1 + random_below(150)
                             : 1 + random_below(UINT64_C(1)
                                                << (9 + random_below(6) +
                                                    world.habits.patience));
}

static void life_begin(bool quiet)
{
    disk.crash_at = quiet ? 0 : draw_crash();
    disk.crash_in = draw_moment();
    disk.power_cut = !random_once_in(3);
    world.may_err = !quiet && world.error_once_in && !random_once_in(3);
    disk.error_once_in = world.may_err ? world.error_once_in : 0;
    disk.errors_to_crash = (unsigned)random_below(8);
    disk.limit = 0;
    disk.short_once_in = random_below(3) ? 0 : 12;
    fiber_switch_once_in = 1u << random_below(7);
    open_stores();
    for (unsigned i = 0; i < VOLUMES && !disk.dead; i++) {
        if (world.volumes[i].existence != GONE &&
            (quiet || random_below(3))) {
            volume_open(&world.volumes[i]);
        }
    }
}

/* Returns whether it was a crash. */
static bool life_end(void)
{
    bool crash = disk.crash_at != 0;

    if (crash && !disk.dead) {
        disk.crash_at = MAX(disk.calls, 1);
        disk.crash_in = IN_ANY;
    }
    close_all();
    world.calls += disk.calls;
    world.errors += disk.injected;
    world.full_answers += disk.full_answers;
    disk.full_answers = 0;
    if (crash) {
        disk_hash(disk.calls);
        interrupt_all();
        disk_recover();
    }
    disk.injected = 0;
    disk.calls = 0;
    return crash;
}

static void life(unsigned number)
{
    unsigned first = world.step;
    unsigned steps = MIN(world.steps_max, world.habits.steps);
    bool quiet = random_once_in(12);

    world.life = number;
    disk_note("--- life %u", number);
    life_begin(quiet);
    world.nested += disk.dead;
    while (!disk.dead && world.step - first < steps) {
        world_step();
    }
    if (life_end()) {
        world.crashes++;
        world.power_cuts += disk.power_cut;
    }
}

/* The first steps of a store, which every life has behind it but the first. */
static void birth(unsigned number)
{
    struct volume *volume = &world.volumes[0];

    world.life = number;
    disk_note("--- birth %u", number);
    disk.crash_at = 1 + random_below(number ? 40 : 20);
    disk.crash_in = random_once_in(2) ? IN_NAMING : draw_moment();
    disk.power_cut = random_once_in(2);
    disk.error_once_in = disk.short_once_in = disk.errors_to_crash = 0;
    fiber_switch_once_in = 4;
    open_stores();
    while (!disk.dead) {
        if (volume->handle) {
            volume_close(volume);
        } else if (volume->existence == THERE) {
            volume_remove(volume);
        } else {
            volume_create(volume);
        }
    }
    life_end();
    world.births++;
}

/* --- Damage --------------------------------------------------------------- */

static bool is_named(const struct entry *entry, const char *name)
{
    return strcmp(entry->name, name) == 0;
}

/* Files of the maps, but no journals: of those a lost end can't be told from
 * one that was never there. */
static void collect_metadata(struct inode *folder, const char *name,
                             GPtrArray *files)
{
    for (guint i = 0; i < folder->entries_now->len; i++) {
        struct entry *entry = &g_array_index(folder->entries_now, struct entry,
                                             i);

        if (entry->inode->is_folder) {
            collect_metadata(entry->inode, entry->name, files);
        } else if (entry->inode->size_now &&
                   (is_named(entry, "header") ||
                    g_ascii_isxdigit(entry->name[0]))) {
            g_ptr_array_add(files, entry->inode);
        }
    }
}

/* One of them gets a wrong bit, or all of another one: an answer may be an
 * error from now on, never wrong. */
static void rot(void)
{
    g_autoptr(GPtrArray) files = g_ptr_array_new();
    struct entry *maps = folder_find(disk.root, "maps");
    struct inode *victim, *other = NULL;
    uint8_t bytes[4096];
    uint64_t at;

    if (maps) {
        collect_metadata(maps->inode, "maps", files);
    }
    if (!files->len) {
        return;
    }
    victim = files->pdata[random_below(files->len)];
    for (unsigned tries = 16; tries; tries--) {     /* one of its kind */
        other = files->pdata[random_below(files->len)];
        if (other != victim && other->size_now == victim->size_now) {
            break;
        }
    }
    if (random_once_in(2)) {        /* all of another one, sound in itself */
        memset(bytes, 0, sizeof(bytes));
        file_read(other, 0, bytes, MIN(sizeof(bytes), other->size_now));
        file_write(victim, 0, bytes, victim->size_now);
    } else {
        unsigned tries = 64;
        uint8_t byte;

        do {            /* one that says something */
            at = random_below(victim->size_now);
            file_read(victim, at, &byte, 1);
        } while (!byte && --tries);
        byte ^= (uint8_t)(1u << random_below(8));
        file_write(victim, at, &byte, 1);
    }
    world.has_rotted = true;
    world.rots++;
}

static void life_of_rot(void)
{
    rot();
    disk_note("--- damage");
    life_begin(true);
    close_all();
}

/* --- A run ---------------------------------------------------------------- */

static void volumes_name(void)
{
    for (unsigned i = 0; i < VOLUMES; i++) {
        g_snprintf(world.volumes[i].name, sizeof(world.volumes[i].name), "%c",
                   'a' + i);
    }
}

static void world_begin(void)
{
    static const char *const io[] = { "direct", "buffered" };

    volumes_name();
    g_snprintf(world.location, sizeof(world.location),
               "dir:/disk?io=%s&fds=%u&threads=%u", io[random_below(2)],
               4 + (unsigned)random_below(12), 1 + (unsigned)random_below(4));
    disk.faults = (enum fault)random_below(FAULT_KINDS);
    if (world.wanted_faults >= 0) {
        disk.faults = (enum fault)world.wanted_faults;
    }
    world.error_once_in = random_once_in(2) && world.wanted_faults < 0 ? 0
                          : disk.faults   ? 1u << (3 + random_below(5))
                                          : 1u << (5 + random_below(7));
    world.has_rotted = false;
    habits_draw(&world.habits, world.error_once_in > 0, disk.faults,
                world.wanted_habits);
    world.last_number = world.step = 0;
    world.now = 1;
    world.ops = g_ptr_array_new();
}

static void volumes_forget(void)
{
    for (unsigned i = 0; i < VOLUMES; i++) {
        volume_forget(&world.volumes[i]);
        world.volumes[i] = (struct volume){ 0 };
    }
}

/* A store of its own, and then a new disk. */
static void births(void)
{
    enum fault faults = disk.faults;
    uint64_t hash = disk.hash;

    for (unsigned i = 0; i < 4; i++) {
        birth(i);
    }
    life_begin(true);
    close_all();
    volumes_forget();
    volumes_name();
    hash ^= disk.hash;
    disk_free();
    disk_new();
    disk.faults = faults;
    disk.hash = hash;
}

static void world_end(void)
{
    volumes_forget();
    g_ptr_array_unref(world.ops);
}

void world_run(void)
{
    unsigned lives, number = 0;

    disk_new();
    world_begin();
    for (unsigned i = 0; i < world.habits.births; i++) {
        births();
    }
    lives = 2 + (unsigned)random_below(world.habits.lives - 1);
    while (lives--) {
        life(number++);
    }
    /* After all of it everything must be in order. */
    life_begin(true);
    close_all();
    if (random_once_in(2)) {
        life_of_rot();
    }
    disk_free();
    world_end();
    world.runs++;
}
