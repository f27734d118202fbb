/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clock, memory, folders and rounds of the benchmark programs. */
#include "bench.h"

#include "archipelago.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WARM_ROUNDS 3u

int64_t bench_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static G_NORETURN void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

void bench_must(int64_t result, const char *what)
{
    if (result < 0) {
        fail(what, strerror(errno));
    }
}

void bench_must_archip(int64_t result, const char *what)
{
    if (result < 0) {
        fail(what, archip_error());
    }
}

void *bench_memory(size_t bytes)
{
    void *memory;

    if (posix_memalign(&memory, 4096, bytes)) {
        fail("memory", "none left");
    }
    memset(memory, 0x5a, bytes);
    return memory;
}

uint32_t bench_random(void)
{
    static uint32_t state = 2463534242u;

    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

char *bench_folder_make(const char *path)
{
    char *folder = g_build_filename(path, "archipelago-bench-XXXXXX", NULL);

    if (!g_mkdtemp(folder)) {
        fail(folder, strerror(errno));
    }
    return folder;
}

static int remove_one(const char *path, const struct stat *status, int type,
                      struct FTW *place)
{
    return remove(path);
}

void bench_folder_remove(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int64_t side_run(const struct bench_side *side, unsigned round)
{
    int64_t start_ns;

    if (side->prepare) {
        side->prepare(side->opaque, round);
    }
    start_ns = bench_now_ns();
    side->run(side->opaque, round);
    return bench_now_ns() - start_ns;
}

void bench_compare(const struct bench_side *ours,
                   const struct bench_side *peer, unsigned rounds)
{
    for (unsigned round = 0; round < rounds + WARM_ROUNDS; round++) {
        int64_t ours_ns, peer_ns;

        if (round % 2) {
            ours_ns = side_run(ours, round);
            peer_ns = side_run(peer, round);
        } else {
            peer_ns = side_run(peer, round);
            ours_ns = side_run(ours, round);
        }
        if (round >= WARM_ROUNDS) {
            printf("%" G_GINT64_FORMAT " %" G_GINT64_FORMAT "\n", ours_ns,
                   peer_ns);
        }
    }
}
