/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Create, write, read, close: C and C++ compile it against what was installed.
 *   install-client LOCATION */
#include <archipelago.h>

#include <stdio.h>
#include <string.h>

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, archip_error());
    }
    return result < 0;
}

int main(int argc, char **argv)
{
    archip_store *store = NULL;
    archip_volume *volume = NULL;
    archip_queue *queue = NULL;
    char out[] = "hello, world", in[sizeof(out)] = "";
    int bad;

    if (argc != 2) {
        return 2;
    }
    bad = check(archip_store_open(argv[1], ARCHIP_STORE_CREATE, &store),
                "store") ||
          check(archip_volume_create(store, "client", 1 << 20, NULL),
                "create") ||
          check(archip_volume_open(store, "client", ARCHIP_OPEN_WRITE, NULL,
                                   &volume), "open") ||
          check(archip_queue_open(volume, 0, &queue), "queue") ||
          check(archip_write(queue, out, sizeof(out), 777, ARCHIP_FUA),
                "write") ||
          check(archip_read(queue, in, sizeof(in), 777), "read");
    archip_queue_close(queue);
    bad = bad || check(archip_volume_close(volume), "close");
    archip_store_close(store);
    if (bad || strcmp(in, out) != 0) {
        return 1;
    }
    printf("%s from %s\n", in, archip_version());
    return 0;
}
