/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the first open after a crash costs, stage by stage.
 *
 *   bench-recover [OPTION...] steady|dense|clone
 *
 * A volume of 1 TiB of which every object is mapped, and a journal as full as
 * it gets before it is folded:
 *
 * steady  a change and a flush, over and over: records of 4 KiB
 * dense   as many changes as go into it, in a few large records
 * clone   a first write to object after object of a clone, each of which has a
 *         bitmap; so many pages change that these, not the journal, are what
 *         makes it fold: another fold was under way at the crash
 *
 * The map is changed as the composer does it, but without data: 262,144 objects
 * would take long to make, and opening looks at none of them.  A child process
 * does it and kills itself.  What it left is in the page cache and stays there.
 *
 * Each round prints a line of nanoseconds: total, and by stage: lock; reading
 * the journal; applying it; syncing what the dead left; new pages; header;
 * removing what was folded.
 */
#include "bench.h"

#include "archipelago.h"
#include "base/sys.h"
#include "mapper/map.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define VOLUME_BYTES (UINT64_C(1) << 40)
#define OBJECT_TOTAL (VOLUME_BYTES >> 22)

static int round_count = 10, journal_kib = 16384, dirty_mib;
static char *folder_name;

static const GOptionEntry entries[] = {
    {"rounds", 'r', 0, G_OPTION_ARG_INT, &round_count, "to measure", "N"},
    {"journal-kib", 'j', 0, G_OPTION_ARG_INT, &journal_kib,
     "of journal at the crash", "KIB"},
    {"dirty-mib", 'd', 0, G_OPTION_ARG_INT, &dirty_mib,
     "in the page cache at the crash", "MIB"},
    {"folder", 'f', 0, G_OPTION_ARG_FILENAME, &folder_name,
     "where; by default /var/tmp", "PATH"},
    {NULL},
};

static void must(int result, GError *error, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, error ? error->message
                                                : g_strerror(-result));
        exit(1);
    }
}

/* --- The life before the crash -------------------------------------------------- */

enum shape { STEADY, DENSE, CLONE };

static void change(struct map *map, uint64_t index, struct map_entry entry)
{
    struct map_cursor cursor = {0};
    struct map_bits bits = {0};
    struct map_page *wanted;
    GError *error = NULL;
    int result;

    g_mutex_lock(&map->lock);
    map_bit_set(&bits, (unsigned)index % map->blocks_per_object);
    while ((result = map_pin(map, index, &cursor, &wanted, &error)) ==
           -EAGAIN) {
        must(map_page_load(map, wanted, &error), error, "page");
    }
    must(result, error, "pin");
    map_set(map, &cursor, entry, &bits);
    map_unpin(&cursor);
    g_mutex_unlock(&map->lock);
}

/* A flush without data. */
static void commit(struct map *map, enum map_capture_mode mode)
{
    struct map_commit commit;
    struct store_request write = {.op = STORE_WRITE, .flags = STORE_FUA};
    struct iovec iov;
    int result = 0;

    g_mutex_lock(&map->lock);
    map_capture(map, mode, &commit);
    g_mutex_unlock(&map->lock);
    if (commit.record) {
        iov = (struct iovec){commit.record, commit.record_bytes};
        write.flags |= commit.offset_bytes ? 0 : STORE_CREATE;
        write.object = commit.journal;
        write.offset_bytes = commit.offset_bytes;
        write.length_bytes = commit.record_bytes;
        write.iov = &iov;
        write.iov_count = 1;
        result = store_run(map->queue, &write);
        must(result, NULL, "journal");
    }
    g_mutex_lock(&map->lock);
    map_commit_end(map, &commit, result);
    g_mutex_unlock(&map->lock);
}

/* Every object is mapped: whole ones, or those that a clone begins with. */
static void populate(struct map *map, enum shape shape)
{
    struct map_entry entry = {map->header.current_layer, 0};
    GError *error = NULL;

    for (uint64_t i = 0; i < OBJECT_TOTAL; i++) {
        change(map, i, entry);
    }
    must(shape == CLONE ? map_freeze(map, &error)
                        : map_fold(map, false, &error), error, "fold");
}

static bool journal_is_full(const struct map *map, size_t record_bytes)
{
    return map->journal.offset_bytes + record_bytes >
           (uint64_t)journal_kib << 10;
}

static void live_steady(struct map *map)
{
    struct map_entry entry = {map->header.current_layer, 0};

    while (!journal_is_full(map, FORMAT_RECORD_ALIGN)) {
        change(map, bench_random() % OBJECT_TOTAL, entry);
        commit(map, MAP_JOURNAL);
    }
}

static void live_dense(struct map *map)
{
    struct map_entry entry = {map->header.current_layer, 0};
    size_t bytes = MIN(1u << 20, (size_t)journal_kib << 8);

    while (!journal_is_full(map, bytes)) {
        for (size_t n = bytes / sizeof(struct format_item) - 8; n; n--) {
            change(map, bench_random() % OBJECT_TOTAL, entry);
        }
        commit(map, MAP_JOURNAL);
    }
}

/* A guest's log or a copy: object after object.  At half of the memory a fold
 * begins, which the crash comes before; then the other half fills. */
static void live_clone(struct map *map)
{
    struct map_entry entry = {map->header.current_layer,
                              map->header.current_layer - 1};
    uint64_t index = 0;
    bool folding = false;

    while (map->dirty_pages < MAP_CACHE_PAGES - 1 || !folding) {
        for (unsigned n = 0; n < 64; n++) {
            change(map, index++ % OBJECT_TOTAL, entry);
        }
        if (map_wants_checkpoint(map) && !folding) {
            folding = true;
            commit(map, MAP_ROTATE);
        } else {
            commit(map, MAP_JOURNAL);
        }
        if (journal_is_full(map, 1 << 16)) {
            return;
        }
    }
}

/* In the objects of the current layer, of 4 MiB each, by way of the page cache
 * and not synced. */
static void dirty_objects(struct map *map)
{
    size_t bytes = 4u << 20;
    struct iovec iov = {bench_memory(bytes), bytes};

    for (int i = 0; i < dirty_mib / 4; i++) {
        struct store_request write = {
            .op = STORE_WRITE,
            .flags = STORE_CREATE,
            .object = {STORE_BLOCK, map->header.current_layer_id, (uint64_t)i},
            .length_bytes = bytes,
            .iov = &iov,
            .iov_count = 1,
            .create_bytes = (uint32_t)bytes,
        };

        must(store_run(map->queue, &write), NULL, "object");
    }
    free(iov.iov_base);
}

/* Done by a child, which doesn't return. */
static void live_and_die(const char *location, enum shape shape)
{
    struct store_owner me = {.owner = "bench", .host = "here", .pid = getpid(),
                             .open = true};
    struct store_owner holder;
    struct store_lock *lock;
    GError *error = NULL;
    archip_store *front;
    archip_volume_info info;
    archip_volume *volume;
    struct store *store;
    struct map *map;
    struct id128 id;

    bench_must_archip(archip_store_open(location, ARCHIP_STORE_CREATE, &front),
                      location);
    bench_must_archip(archip_volume_create(front, "bench", VOLUME_BYTES, NULL),
                      "create");
    bench_must_archip(archip_volume_open(front, "bench", 0, NULL, &volume),
                      "open");
    bench_must_archip(archip_volume_get_info(volume, &info), "info");
    archip_volume_close(volume);
    archip_store_close(front);
    g_assert(id128_parse(info.id, &id));
    must(store_open(location, 0, &store, &error), error, "store");
    must(store->driver->lock(store, &id, STORE_LOCK_WRITE, &me, &lock, &holder,
                             &error), error, "lock");
    must(map_open(store, &id, true, lock, &map, &error), error, "map");
    populate(map, shape);
    if (shape == STEADY) {
        live_steady(map);
    } else if (shape == DENSE) {
        live_dense(map);
    } else {
        live_clone(map);
    }
    sync();
    dirty_objects(map);
    kill(getpid(), SIGKILL);
}

/* --- The open after it ------------------------------------------------------------- */

enum stage {
    LOCK, READ, APPLY, SYNC, PAGES, HEADER, REMOVE, STAGES
};

static int64_t begins_ns[STAGES + 1];

static off_t seen_lseek(int fd, off_t offset, int whence)
{
    if (!begins_ns[READ]) {
        begins_ns[READ] = bench_now_ns();
    }
    return sys_real.lseek(fd, offset, whence);
}

static ssize_t seen_preadv2(int fd, const struct iovec *iov, int count,
                            off_t offset, int flags)
{
    ssize_t result = sys_real.preadv2(fd, iov, count, offset, flags);

    if (!begins_ns[SYNC]) {
        begins_ns[APPLY] = bench_now_ns();
    }
    return result;
}

static int seen_syncfs(int fd)
{
    int result;

    begins_ns[SYNC] = begins_ns[SYNC] ? begins_ns[SYNC] : bench_now_ns();
    result = sys_real.syncfs(fd);
    begins_ns[PAGES] = begins_ns[PAGES] ? begins_ns[PAGES] : bench_now_ns();
    return result;
}

/* The header is the only thing that replaces another one. */
static int seen_renameat2(int from_fd, const char *from, int to_fd,
                          const char *to, unsigned flags)
{
    int result;

    begins_ns[HEADER] = bench_now_ns();
    result = sys_real.renameat2(from_fd, from, to_fd, to, flags);
    return result;
}

static int seen_unlinkat(int folder_fd, const char *path, int flags)
{
    if (begins_ns[HEADER] && !begins_ns[REMOVE]) {
        begins_ns[REMOVE] = bench_now_ns();
    }
    return sys_real.unlinkat(folder_fd, path, flags);
}

static void open_after(const char *location)
{
    archip_store *store;
    archip_volume *volume;

    bench_must_archip(archip_store_open(location, 0, &store), location);
    memset(begins_ns, 0, sizeof(begins_ns));
    begins_ns[LOCK] = bench_now_ns();
    bench_must_archip(archip_volume_open(store, "bench", ARCHIP_OPEN_WRITE,
                                         "bench", &volume), "open");
    begins_ns[STAGES] = bench_now_ns();
    printf("%" G_GINT64_FORMAT, begins_ns[STAGES] - begins_ns[LOCK]);
    for (int i = 0; i < STAGES; i++) {
        int64_t end_ns = 0;

        for (int next = i + 1; !end_ns; next++) {
            end_ns = begins_ns[next];
        }
        printf(" %" G_GINT64_FORMAT, begins_ns[i] ? end_ns - begins_ns[i] : 0);
    }
    printf("\n");
    fflush(stdout);
    bench_must_archip(archip_volume_close(volume), "close");
    archip_store_close(store);
}

static void measure(enum shape shape, const char *parent, int round)
{
    g_autofree char *folder = g_strdup_printf("%s/%d", parent, round);
    g_autofree char *location = g_strdup_printf(
        "dir:%s?io=%s", folder, dirty_mib ? "buffered" : "auto");
    int status;
    pid_t child;

    bench_must(mkdir(folder, 0777), folder);
    fflush(stdout);
    child = fork();
    bench_must(child, "fork");
    if (child == 0) {
        live_and_die(location, shape);
    }
    bench_must(waitpid(child, &status, 0), "wait");
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        exit(1);
    }
    open_after(location);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context =
        g_option_context_new("steady|dense|clone");
    static const char *const shapes[] = {"steady", "dense", "clone"};
    g_autoptr(GError) error = NULL;
    g_autofree char *folder = NULL;
    unsigned shape = 0;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2) {
        g_printerr("%s\n", error ? error->message : "which shape?");
        return 2;
    }
    while (shape < G_N_ELEMENTS(shapes) && strcmp(argv[1], shapes[shape])) {
        shape++;
    }
    if (shape == G_N_ELEMENTS(shapes)) {
        g_printerr("steady, dense or clone, not %s\n", argv[1]);
        return 2;
    }
    sys.lseek = seen_lseek;
    sys.preadv2 = seen_preadv2;
    sys.syncfs = seen_syncfs;
    sys.renameat2 = seen_renameat2;
    sys.unlinkat = seen_unlinkat;
    /* All are removed in the end: where files were removed, ext4 is slow to
     * make others for a minute and more. */
    folder = bench_folder_make(folder_name ? folder_name : "/var/tmp");
    for (int i = 0; i < round_count; i++) {
        measure((enum shape)shape, folder, i);
    }
    bench_folder_remove(folder);
    return 0;
}
