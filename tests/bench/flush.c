/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a flush costs, beside syncing plain files by hand.
 *
 *   bench-flush [OPTION...] overwrite|allocate|slow
 *
 * overwrite  each round writes a block into each of so many objects that are
 *            there in full: the map doesn't change
 * allocate   each round makes so many new objects: their folders are synced,
 *            too, and the journal is written
 * slow       as overwrite, on a disk where a sync takes 10 ms whatever else it
 *            does, and on which any number go on at once
 *
 * Only the flush is timed, not the writing before it.  The last lines say how
 * many syncs went on at once at most.
 */
#include "bench.h"

#include "archipelago.h"
#include "base/sys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VOLUME_BYTES (UINT64_C(1) << 40)
#define BLOCK_BYTES 4096u
#define SLOW_US 10000u
#define OBJECTS_PER_FAN 1024u

static int object_count = 1, round_count = 100, object_kib = 4096;
static gboolean may_block, buffered;
static char *way_name, *folder_name;

static const GOptionEntry entries[] = {
    {"objects", 'n', 0, G_OPTION_ARG_INT, &object_count, "touched", "N"},
    {"rounds", 'r', 0, G_OPTION_ARG_INT, &round_count, "to measure", "N"},
    {"object-kib", 'o', 0, G_OPTION_ARG_INT, &object_kib, "of an object",
     "KIB"},
    {"may-block", 'm', 0, G_OPTION_ARG_NONE, &may_block,
     "a queue whose caller waits", NULL},
    {"buffered", 'b', 0, G_OPTION_ARG_NONE, &buffered,
     "through the page cache", NULL},
    {"peer", 'p', 0, G_OPTION_ARG_STRING, &way_name,
     "how the peer syncs: serial, threads, aio", "WAY"},
    {"folder", 'f', 0, G_OPTION_ARG_FILENAME, &folder_name,
     "where; by default /var/tmp", "PATH"},
    {NULL},
};

/* --- Counting and slowing down ------------------------------------------------ */

static gint running, running_max;
static bool slow;

static int counted_fdatasync(int fd)
{
    gint now = g_atomic_int_add(&running, 1) + 1, seen;
    int result = 0;

    do {
        seen = g_atomic_int_get(&running_max);
    } while (now > seen &&
             !g_atomic_int_compare_and_exchange(&running_max, seen, now));
    if (slow) {
        g_usleep(SLOW_US);
    } else {
        result = sys_real.fdatasync(fd);
    }
    g_atomic_int_add(&running, -1);
    return result;
}

/* --- Both sides ------------------------------------------------------------------ */

struct ours {
    archip_store *store;
    archip_volume *volume;
    archip_queue *queue;
    gint running_max;
};

struct peers {
    struct peer *peer;
    gint running_max;
};

static bool allocates;
static void *block;
static uint64_t object_bytes;
/* The offset of this round within each object, the same on both sides. */
static uint64_t offsets[65536];

static void draw_offsets(unsigned round)
{
    static unsigned drawn = G_MAXUINT;

    if (drawn == round) {
        return;
    }
    drawn = round;
    for (int i = 0; i < object_count; i++) {
        offsets[i] = bench_random() % (object_bytes / BLOCK_BYTES) *
                     BLOCK_BYTES;
    }
}

/* The first object of a round that makes some. */
static uint64_t first_new(unsigned round)
{
    return (uint64_t)round * (uint64_t)object_count;
}

static void ours_prepare(void *opaque, unsigned round)
{
    struct ours *ours = opaque;
    g_autofree archip_request *requests = g_new0(archip_request, object_count);
    g_autofree archip_completion *done =
        g_new0(archip_completion, object_count);
    struct iovec iov = {block, BLOCK_BYTES};
    int left = object_count;

    draw_offsets(round);
    for (int i = 0; i < object_count; i++) {
        uint64_t index = allocates ? first_new(round) + (uint64_t)i
                                   : (uint64_t)i;

        requests[i] = (archip_request){
            .op = ARCHIP_WRITE,
            .offset_bytes = index * object_bytes +
                            (allocates ? 0 : offsets[i]),
            .length_bytes = BLOCK_BYTES,
            .iov = &iov,
            .iov_count = 1,
        };
    }
    bench_must_archip(archip_submit(ours->queue, requests,
                                    (size_t)object_count), "submit");
    while (left > 0) {
        int count = archip_queue_reap(ours->queue, done, (size_t)left, -1);

        for (int i = 0; i < count; i++) {
            bench_must_archip(done[i].result, "write");
        }
        left -= count;
    }
}

static void ours_run(void *opaque, unsigned round)
{
    struct ours *ours = opaque;

    g_atomic_int_set(&running_max, 0);
    bench_must_archip(archip_flush(ours->queue), "flush");
    ours->running_max = MAX(ours->running_max,
                            g_atomic_int_get(&running_max));
}

static void peer_prepare(void *opaque, unsigned round)
{
    struct peers *peers = opaque;

    draw_offsets(round);
    if (allocates) {
        peer_close_files(peers->peer);
    }
    for (int i = 0; i < object_count; i++) {
        uint64_t number = first_new(round) + (uint64_t)i;

        if (allocates) {
            peer_create(peers->peer, (unsigned)(number / OBJECTS_PER_FAN),
                        number, block, BLOCK_BYTES);
        } else {
            peer_write(peers->peer, (unsigned)i, block, BLOCK_BYTES,
                       offsets[i]);
        }
    }
}

static void peer_run(void *opaque, unsigned round)
{
    struct peers *peers = opaque;

    g_atomic_int_set(&running_max, 0);
    peer_sync(peers->peer);
    if (allocates) {
        peer_append(peers->peer, block, BLOCK_BYTES);
    }
    peers->running_max = MAX(peers->running_max,
                             g_atomic_int_get(&running_max));
}

/* --- Setting up -------------------------------------------------------------------- */

/* All that is overwritten lies there in full: no allocation in any file. */
static void ours_fill(struct ours *ours, const void *object)
{
    for (int i = 0; i < object_count; i++) {
        bench_must_archip(archip_write(ours->queue, object, object_bytes,
                                       (uint64_t)i * object_bytes, 0),
                          "fill");
    }
    bench_must_archip(archip_flush(ours->queue), "flush");
}

static void peer_fill(struct peers *peers, const void *object)
{
    for (int i = 0; i < object_count; i++) {
        peer_create(peers->peer, 0, (uint64_t)i, object, object_bytes);
    }
    peer_sync(peers->peer);
}

static void ours_open(struct ours *ours, const char *folder)
{
    g_autofree char *location = g_strdup_printf(
        "dir:%s?io=%s", folder, buffered ? "buffered" : "direct");
    archip_create_options options = {.object_bytes = (uint32_t)object_bytes};

    bench_must_archip(archip_store_open(location, ARCHIP_STORE_CREATE,
                                        &ours->store), folder);
    bench_must_archip(archip_volume_create(ours->store, "bench", VOLUME_BYTES,
                                           &options), "create");
    bench_must_archip(archip_volume_open(ours->store, "bench",
                                         ARCHIP_OPEN_WRITE, "bench",
                                         &ours->volume), "open");
    bench_must_archip(archip_queue_open(ours->volume,
                                        may_block ? ARCHIP_QUEUE_MAY_BLOCK : 0,
                                        &ours->queue), "queue");
}

static void ours_close(struct ours *ours)
{
    archip_queue_close(ours->queue);
    bench_must_archip(archip_volume_close(ours->volume), "close");
    archip_store_close(ours->store);
}

static enum peer_way parse_way(void)
{
    static const char *const names[] = {"serial", "threads", "aio", NULL};

    for (unsigned i = 0; way_name && names[i]; i++) {
        if (strcmp(way_name, names[i]) == 0) {
            return (enum peer_way)i;
        }
    }
    if (way_name) {
        g_printerr("--peer is serial, threads or aio, not %s\n", way_name);
        exit(2);
    }
    return PEER_SERIAL;
}

static void compare(const char *folder, bool slowed)
{
    g_autofree char *store = g_build_filename(folder, "store", NULL);
    g_autofree char *files = g_build_filename(folder, "files", NULL);
    void *object = bench_memory(object_bytes);
    struct peers peers = {0};
    struct ours ours = {0};

    block = bench_memory(BLOCK_BYTES);
    bench_must(mkdir(store, 0777), store);
    bench_must(mkdir(files, 0777), files);
    ours_open(&ours, store);
    peers.peer = peer_new(files, parse_way(), !buffered, object_bytes);
    if (!allocates) {
        ours_fill(&ours, object);
        peer_fill(&peers, object);
        sync();
    }
    slow = slowed;
    bench_compare(
        &(struct bench_side){ours_prepare, ours_run, &ours},
        &(struct bench_side){peer_prepare, peer_run, &peers},
        (unsigned)round_count);
    slow = false;
    printf("running ours: %d\nrunning peer: %d\n", ours.running_max,
           peers.running_max);
    peer_free(peers.peer);
    ours_close(&ours);
    free(object);
    free(block);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context =
        g_option_context_new("overwrite|allocate|slow");
    g_autoptr(GError) error = NULL;
    g_autofree char *folder = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc != 2 ||
        object_count < 1 || object_count > (int)G_N_ELEMENTS(offsets)) {
        g_printerr("%s\n", error ? error->message : "what is to be measured?");
        return 2;
    }
    allocates = strcmp(argv[1], "allocate") == 0;
    object_bytes = (uint64_t)object_kib << 10;
    sys.fdatasync = counted_fdatasync;
    folder = bench_folder_make(folder_name ? folder_name : "/var/tmp");
    compare(folder, strcmp(argv[1], "slow") == 0);
    bench_folder_remove(folder);
    return 0;
}
