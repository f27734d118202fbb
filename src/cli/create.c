/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archipelago create: a volume of zeroes, and the store if need be. */
#include "common.h"

#include <stdio.h>

static void note(const char *text, void *opaque)
{
    cli_note(opaque, "%s", text);
}

/* The volume is there, whatever these say. */
static void note_space(struct cli *cli, const struct space *space)
{
    g_autofree char *size = size_text(space->size_bytes, false);
    g_autofree char *total = size_text(space->store.total_bytes, false);

    if (space_is_overcommitted(space)) {
        cli_note(cli, "over-committed: the store's volumes have %s together, "
                 "and it can hold %s; once it is full, writes that need new "
                 "room fail", size, total);
    }
    space_each_warning(space, note, cli);
}

/* Show what was made, for programs. */
static int show(struct cli *cli, const char *name, const struct space *space)
{
    archip_volume *volume;
    archip_volume_info info = {0};
    int code = cli_open_volume(cli, name, 0, &volume);

    if (code != CODE_OK) {
        return code;
    }
    archip_volume_get_info(volume, &info);
    archip_volume_close(volume);
    json_object_begin(NULL);
    describe_json(&info);
    json_object_begin("store");
    json_string("location", space->store.location);
    space_json(space);
    json_object_end();
    json_object_end();
    return CODE_OK;
}

static int create(struct cli *cli, const char *name, uint64_t size_bytes,
                  const archip_create_options *options)
{
    int result = archip_name_check(name);
    struct space space;
    int code;

    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    code = cli_open_store(cli, ARCHIP_STORE_CREATE);
    if (code != CODE_OK) {
        return code;
    }
    result = archip_volume_create(cli->store, name, size_bytes, options);
    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    if (space_read(cli, &space) == 0) {
        note_space(cli, &space);
    }
    return cli->json ? show(cli, name, &space) : CODE_OK;
}

static int run(struct cli *cli)
{
    g_autofree char *object_size = NULL;
    g_autofree char *description = NULL;
    const GOptionEntry entries[] = {
        {"object-size", 'o', 0, G_OPTION_ARG_STRING, &object_size,
         "Size of the objects, a power of two from 64K to 64M (4M)", "SIZE"},
        {"description", 'd', 0, G_OPTION_ARG_STRING, &description,
         "What the volume is for", "TEXT"},
        {NULL},
    };
    archip_create_options options = {0};
    uint64_t size_bytes = 0;
    int code = cli_parse(cli, entries, CLI_JSON, 2, 2);

    if (code == CODE_OK) {
        code = cli_size(cli, cli->argv[1], &size_bytes);
    }
    if (code == CODE_OK) {
        code = cli_object_size(cli, object_size, &options.object_bytes);
    }
    if (code != CODE_OK) {
        return code;
    }
    options.description = description;
    return create(cli, cli->argv[0], size_bytes, &options);
}

const struct command command_create = {
    "create", "NAME SIZE", "Create a volume of zeroes", run,
};
