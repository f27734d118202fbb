/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * show-store [next] STORE: write all volumes to stdout, each as a line "NAME
 * BYTES" and then its data, as a reader sees them.  With "next", make a volume
 * and remove it afterwards.
 */
#include <archipelago.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "show-store: %s: %s\n", what, archip_error());
        exit(1);
    }
}

static void show(archip_store *store, const char *name)
{
    archip_volume *volume;
    archip_queue *queue;
    uint64_t size_bytes;
    char *bytes;

    must(archip_volume_open(store, name, 0, "show-store", &volume), name);
    must(archip_queue_open(volume, 0, &queue), name);
    size_bytes = archip_volume_size(volume);
    bytes = malloc(size_bytes);
    must(bytes ? archip_read(queue, bytes, size_bytes, 0) : -1, name);
    printf("%s %" PRIu64 "\n", name, size_bytes);
    if (fwrite(bytes, 1, size_bytes, stdout) != size_bytes) {
        exit(1);
    }
    free(bytes);
    archip_queue_close(queue);
    must(archip_volume_close(volume), name);
}

static int show_one(const archip_volume_info *info, const char *error,
                    void *opaque)
{
    if (error) {
        fprintf(stderr, "show-store: %s: %s\n", info->name, error);
        exit(1);
    }
    show(opaque, info->name);
    return 0;
}

int main(int argc, char **argv)
{
    archip_store *store;

    if (argc < 2) {
        return 2;
    }
    must(archip_store_open(argv[argc - 1], 0, &store), "store");
    must(archip_volume_list(store, show_one, store), "list");
    if (argc > 2 && !strcmp(argv[1], "next")) {
        must(archip_volume_create(store, "next", 65536, NULL), "create");
        must(archip_volume_remove(store, "next"), "remove");
    }
    archip_store_close(store);
    return 0;
}
