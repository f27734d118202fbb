/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* hold-volume STORE NAME: keep a volume open for writing until stdin ends. */
#include <archipelago.h>

#include <stdio.h>

int main(int argc, char **argv)
{
    archip_store *store;
    archip_volume *volume;

    if (argc != 3) {
        fprintf(stderr, "usage: hold-volume STORE NAME\n");
        return 2;
    }
    if (archip_store_open(argv[1], 0, &store) < 0 ||
        archip_volume_open(store, argv[2], ARCHIP_OPEN_WRITE, "hold-volume",
                           &volume) < 0) {
        fprintf(stderr, "hold-volume: %s\n", archip_error());
        return 1;
    }
    puts("held");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    archip_volume_close(volume);
    archip_store_close(store);
    return 0;
}
