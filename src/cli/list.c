/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago list: the volumes of a store.  A damaged one is listed as such
 * and makes the exit code, once all are listed.
 */
#include "common.h"

#include <fnmatch.h>
#include <stdio.h>

struct list {
    struct cli *cli;
    const char *pattern;
    bool names_only;
    struct table *table;
    int code;
};

static void list_json(const archip_volume_info *info, const char *error)
{
    json_object_begin(NULL);
    if (error) {
        json_string("name", info->name);
    } else {
        describe_json(info);
    }
    json_string("error", error);
    json_object_end();
}

static void list_row(struct list *list, const archip_volume_info *info,
                     const char *error)
{
    const char *state = info->flags & ARCHIP_VOLUME_CLEAN ? "" : "unclean";

    if (error) {
        table_row(list->table, g_strdup(info->name), g_strdup("?"),
                  g_strdup("?"), g_strdup("damaged"), g_strdup(""));
        return;
    }
    table_row(list->table, g_strdup(info->name),
              size_text(info->size_bytes, list->cli->bytes),
              time_text(info->created_ns),
              g_strdup(info->flags & ARCHIP_VOLUME_READONLY ? "read-only"
                                                            : state),
              printable(info->description));
}

static int each(const archip_volume_info *info, const char *error,
                void *opaque)
{
    struct list *list = opaque;

    if (list->pattern && fnmatch(list->pattern, info->name, 0) != 0) {
        return 0;
    }
    if (error) {
        list->code = cli_fail(list->cli, CODE_DAMAGED, "%s: %s", info->name,
                              error);
    }
    if (list->cli->json) {
        list_json(info, error);
    } else if (list->names_only) {
        puts(info->name);
    } else {
        list_row(list, info, error);
    }
    return 0;
}

static int list_volumes(struct list *list)
{
    struct cli *cli = list->cli;
    int result;

    if (cli->json) {
        json_object_begin(NULL);
        json_array_begin("volumes");
    } else if (!list->names_only) {
        list->table = table_new("NAME >SIZE CREATED STATE DESCRIPTION");
    }
    result = archip_volume_list(cli->store, each, list);
    if (result < 0) {
        list->code = cli_fail_library(cli, result);
    }
    if (cli->json) {
        json_array_end();
        json_object_end();
    } else if (!list->names_only) {
        table_print(list->table);
    }
    return list->code;
}

static int run(struct cli *cli)
{
    gboolean names_only = FALSE;
    const GOptionEntry entries[] = {
        {"names", 'n', 0, G_OPTION_ARG_NONE, &names_only,
         "Print names only, one a line", NULL},
        {NULL},
    };
    struct list list = {.cli = cli};
    int code = cli_parse(cli, entries, CLI_JSON | CLI_BYTES, 0, 1);

    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    if (code != CODE_OK) {
        return code;
    }
    list.pattern = cli->argc > 0 ? cli->argv[0] : NULL;
    list.names_only = names_only;
    return list_volumes(&list);
}

const struct command command_list = {
    "list", "[PATTERN]", "List volumes", run,
};
