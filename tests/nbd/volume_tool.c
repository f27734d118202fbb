/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the NBD tests need done to a store beside the server, through the
 * public API alone:
 *
 *   create LOCATION NAME SIZE OBJECT_BYTES DESCRIPTION
 *   resize LOCATION NAME SIZE
 *   remove LOCATION NAME
 *   hold   LOCATION NAME     says "held", keeps the lock until stdin ends
 *   state  LOCATION NAME     says "clean" or "unclean", then "held" or "free"
 */
#include "archipelago.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int result)
{
    if (result < 0) {
        fprintf(stderr, "volume_tool: %s\n", archip_error());
        exit(1);
    }
}

static uint64_t number(const char *text)
{
    return strtoull(text, NULL, 0);
}

static void create(archip_store *store, char **arguments)
{
    archip_create_options options = {.object_bytes =
                                         (uint32_t)number(arguments[2]),
                                     .description = arguments[3]};

    check(archip_volume_create(store, arguments[0], number(arguments[1]),
                               &options));
}

static void resize(archip_store *store, char **arguments)
{
    archip_volume *volume = NULL;

    check(archip_volume_open(store, arguments[0], ARCHIP_OPEN_WRITE, "resizer",
                             &volume));
    check(archip_volume_resize(volume, number(arguments[1]),
                               ARCHIP_RESIZE_SHRINK));
    check(archip_volume_close(volume));
}

static void remove_volume(archip_store *store, char **arguments)
{
    check(archip_volume_remove(store, arguments[0]));
}

static void hold(archip_store *store, char **arguments)
{
    archip_volume *volume = NULL;

    check(archip_volume_open(store, arguments[0], ARCHIP_OPEN_WRITE,
                             "the-other-one", &volume));
    puts("held");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    check(archip_volume_close(volume));
}

static int show_state(const archip_volume_info *info, const char *error,
                      void *name)
{
    if (!strcmp(info->name, name)) {
        puts(info->flags & ARCHIP_VOLUME_CLEAN ? "clean" : "unclean");
    }
    return 0;
}

static void state(archip_store *store, char **arguments)
{
    archip_holder holder = {0};

    check(archip_volume_list(store, show_state, arguments[0]));
    check(archip_volume_get_holder(store, arguments[0], &holder));
    puts(holder.held ? "held" : "free");
}

static const struct {
    const char *name;
    int argument_count;
    void (*run)(archip_store *store, char **arguments);
} commands[] = {
    {"create", 4, create}, {"resize", 2, resize}, {"remove", 1, remove_volume},
    {"hold", 1, hold},     {"state", 1, state},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        archip_store *store = NULL;

        if (argc < 3 || strcmp(argv[1], commands[i].name) ||
            argc != 3 + commands[i].argument_count) {
            continue;
        }
        check(archip_store_open(
            argv[2], strcmp(argv[1], "create") ? 0 : ARCHIP_STORE_CREATE,
            &store));
        commands[i].run(store, argv + 3);
        archip_store_close(store);
        return 0;
    }
    fprintf(stderr, "volume_tool: wrong arguments\n");
    return 2;
}
