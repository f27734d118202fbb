/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archipelago status: the store, its space, and who holds what. */
#include "common.h"

#include <stdio.h>

struct status {
    struct cli *cli;
    struct space space;
    GPtrArray *names;           /* of volumes that can be read */
};

static int count_volume(const archip_volume_info *info, const char *error,
                        void *opaque)
{
    struct status *status = opaque;

    space_add(&status->space, info, error);
    if (error) {
        cli_note(status->cli, "%s: %s", info->name, error);
    } else {
        g_ptr_array_add(status->names, g_strdup(info->name));
    }
    return 0;
}

/* A volume that went meanwhile isn't held. */
static bool held(struct status *status, const char *name,
                 archip_holder *holder)
{
    *holder = (archip_holder){0};
    return archip_volume_get_holder(status->cli->store, name, holder) == 0 &&
           holder->held;
}

static void show_json(struct status *status)
{
    archip_holder holder;

    json_object_begin(NULL);
    json_string("driver", status->space.store.driver);
    json_string("location", status->space.store.location);
    json_string("io", status->space.store.io);
    json_number("alignment_bytes", status->space.store.alignment_bytes);
    space_json(&status->space);
    json_array_begin("open");
    for (guint i = 0; i < status->names->len; i++) {
        if (held(status, status->names->pdata[i], &holder)) {
            json_object_begin(NULL);
            json_string("name", status->names->pdata[i]);
            describe_holder_json(&holder);
            json_object_end();
        }
    }
    json_array_end();
    json_object_end();
}

static void show_open(struct status *status)
{
    struct table *table = table_new("OPEN >PROCESS HOST SINCE OWNER");
    archip_holder holder;
    guint count = 0;

    for (guint i = 0; i < status->names->len; i++) {
        if (held(status, status->names->pdata[i], &holder)) {
            count++;
            table_row(table, g_strdup(status->names->pdata[i]),
                      g_strdup_printf("%" G_GINT64_FORMAT, holder.pid),
                      printable(holder.host), time_text(holder.since_ns),
                      printable(holder.owner));
        }
    }
    if (count > 0) {
        putchar('\n');
        table_print(table);
    } else {
        printf("Open:      none\n");
        table_free(table);
    }
}

static void show(struct status *status)
{
    const archip_store_status *store = &status->space.store;

    printf("Store:     %s\n", store->location);
    printf("Driver:    %s\n", store->driver);
    printf("I/O:       %s, aligned to %u bytes\n", store->io,
           store->alignment_bytes);
    space_show(status->cli, 10, &status->space);
    if (status->space.damaged_count > 0) {
        printf("Damaged:   %" G_GUINT64_FORMAT "\n",
               status->space.damaged_count);
    }
    show_open(status);
}

static int report(struct cli *cli)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    struct status status = {.cli = cli, .names = names};
    int result = archip_store_get_status(cli->store,
                                         &status.space.store);

    if (result == 0) {
        result = archip_volume_list(cli->store, count_volume, &status);
    }
    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    if (cli->json) {
        show_json(&status);
    } else {
        show(&status);
    }
    return status.space.damaged_count > 0 ? CODE_DAMAGED : CODE_OK;
}

static int run(struct cli *cli)
{
    int code = cli_parse(cli, NULL, CLI_JSON | CLI_BYTES, 0, 0);

    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    return code == CODE_OK ? report(cli) : code;
}

const struct command command_status = {
    "status", "", "Show the store, its space, and who has what open", run,
};
