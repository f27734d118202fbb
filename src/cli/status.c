/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archipelago status: the store, its space, and who holds what. */
#include "common.h"

#include <stdio.h>

struct status {
    struct cli *cli;
    archip_store_status store;
    uint64_t volume_count, damaged_count, size_bytes;
    GPtrArray *names;           /* of volumes that can be read */
};

static int count_volume(const archip_volume_info *info, const char *error,
                        void *opaque)
{
    struct status *status = opaque;

    status->volume_count++;
    if (error) {
        status->damaged_count++;
        cli_note(status->cli, "%s: %s", info->name, error);
    } else {
        status->size_bytes += info->size_bytes;
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
    json_string("driver", status->store.driver);
    json_string("location", status->store.location);
    json_string("io", status->store.io);
    json_number("alignment_bytes", status->store.alignment_bytes);
    json_number("total_bytes", status->store.total_bytes);
    json_number("free_bytes", status->store.free_bytes);
    json_number("volume_count", status->volume_count);
    json_number("damaged_count", status->damaged_count);
    json_number("size_bytes", status->size_bytes);
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

static void show_space(struct status *status)
{
    bool exact = status->cli->bytes;
    g_autofree char *free_text = size_text(status->store.free_bytes, exact);
    g_autofree char *total_text = size_text(status->store.total_bytes, exact);

    if (status->store.total_bytes > 0) {
        printf("Space:     %s free of %s\n", free_text, total_text);
    } else {
        printf("Space:     unknown\n");
    }
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
    g_autofree char *size = size_text(status->size_bytes, status->cli->bytes);

    printf("Store:     %s\n", status->store.location);
    printf("Driver:    %s\n", status->store.driver);
    printf("I/O:       %s, aligned to %u bytes\n", status->store.io,
           status->store.alignment_bytes);
    show_space(status);
    printf("Volumes:   %" G_GUINT64_FORMAT ", of %s together\n",
           status->volume_count, size);
    if (status->damaged_count > 0) {
        printf("Damaged:   %" G_GUINT64_FORMAT "\n", status->damaged_count);
    }
    show_open(status);
}

static int report(struct cli *cli)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    struct status status = {.cli = cli, .names = names};
    int result = archip_store_get_status(cli->store, &status.store);

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
    return status.damaged_count > 0 ? CODE_DAMAGED : CODE_OK;
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
