/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archipelago du: the space that volumes take, exactly. */
#include "common.h"

#include <stdio.h>

struct du {
    struct cli *cli;
    struct table *table;
    archip_usage total;
    guint count;
    int code;                   /* of the first that failed */
};

static void du_json(const char *name, const archip_usage *usage)
{
    json_object_begin(name ? NULL : "total");
    if (name) {
        json_string("name", name);
    }
    json_number("size_bytes", usage->apparent_bytes);
    json_number("allocated_bytes", usage->allocated_bytes);
    json_number("exclusive_bytes", usage->exclusive_bytes);
    json_number("metadata_bytes", usage->metadata_bytes);
    json_number("object_count", usage->object_count);
    json_object_end();
}

static void du_row(struct du *du, const char *name, const archip_usage *usage)
{
    bool exact = du->cli->bytes;

    table_row(du->table, g_strdup(name),
              size_text(usage->apparent_bytes, exact),
              size_text(usage->allocated_bytes, exact),
              size_text(usage->exclusive_bytes, exact),
              size_text(usage->metadata_bytes, exact),
              g_strdup_printf("%" G_GUINT64_FORMAT, usage->object_count));
}

static void du_add(struct du *du, const char *name, const archip_usage *usage)
{
    du->count++;
    du->total.apparent_bytes += usage->apparent_bytes;
    du->total.allocated_bytes += usage->allocated_bytes;
    du->total.exclusive_bytes += usage->exclusive_bytes;
    du->total.metadata_bytes += usage->metadata_bytes;
    du->total.object_count += usage->object_count;
    if (du->cli->json) {
        du_json(name, usage);
    } else {
        du_row(du, name, usage);
    }
}

/* One that fails doesn't keep the others from being counted. */
static void du_volume(struct du *du, const char *name)
{
    archip_usage usage = {0};
    archip_volume *volume;
    int code = cli_open_volume(du->cli, name, 0, &volume);

    if (code == CODE_OK) {
        int result = archip_volume_get_usage(volume, &usage);

        if (result < 0) {
            code = cli_fail_library(du->cli, result);
        } else {
            du_add(du, name, &usage);
        }
        archip_volume_close(volume);
    }
    du->code = du->code ? du->code : code;
}

static int collect(const archip_volume_info *info, const char *error,
                   void *opaque)
{
    g_ptr_array_add(opaque, g_strdup(info->name));
    return 0;
}

/* The names given, or all of the store. */
static int names_get(struct cli *cli, GPtrArray *names)
{
    int result;

    if (cli->argc == 0) {
        result = archip_volume_list(cli->store, collect, names);
        return result < 0 ? cli_fail_library(cli, result) : CODE_OK;
    }
    for (int i = 0; i < cli->argc; i++) {
        g_ptr_array_add(names, g_strdup(cli->argv[i]));
    }
    return CODE_OK;
}

static int report(struct cli *cli, GPtrArray *names)
{
    struct du du = {.cli = cli};

    if (cli->json) {
        json_object_begin(NULL);
        json_array_begin("volumes");
    } else {
        du.table =
            table_new("NAME >SIZE >ALLOCATED >EXCLUSIVE >METADATA >OBJECTS");
    }
    for (guint i = 0; i < names->len; i++) {
        du_volume(&du, names->pdata[i]);
    }
    if (cli->json) {
        json_array_end();
        du_json(NULL, &du.total);
        json_object_end();
    } else {
        if (du.count > 1) {
            du_row(&du, "total", &du.total);
        }
        table_print(du.table);
    }
    return du.code;
}

static int run(struct cli *cli)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    int code = cli_parse(cli, NULL, CLI_JSON | CLI_BYTES, 0, -1);

    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    if (code == CODE_OK) {
        code = names_get(cli, names);
    }
    return code == CODE_OK ? report(cli, names) : code;
}

const struct command command_du = {
    "du", "[NAME...]", "Show the space that volumes take", run,
};
