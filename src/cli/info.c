/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archipelago info: one volume, who has it open for writing, and whether its
 * store has room for what it may yet need. */
#include "common.h"

#include <stdio.h>

static const char *state(const archip_volume_info *info)
{
    return info->flags & ARCHIP_VOLUME_CLEAN ? "clean"
                                             : "not closed properly; the next "
                                               "open brings it into order";
}

static void line(const char *label, const char *value)
{
    printf("%-13s %s\n", label, value);
}

static void line_size(struct cli *cli, const char *label, uint64_t bytes)
{
    g_autofree char *text = size_text(bytes, false);

    if (cli->bytes) {
        printf("%-13s %" G_GUINT64_FORMAT "\n", label, bytes);
    } else {
        printf("%-13s %s (%" G_GUINT64_FORMAT " bytes)\n", label, text, bytes);
    }
}

static void show_holder(const archip_holder *holder)
{
    g_autofree char *who = describe_holder(holder);
    g_autofree char *since = time_text(holder->since_ns);

    if (holder->held) {
        printf("%-13s %s, since %s\n", "Open by:", who, since);
    } else {
        line("Open by:", "nobody");
    }
}

static void show(struct cli *cli, const archip_volume_info *info,
                 const archip_holder *holder, const struct space *space)
{
    g_autofree char *created = time_text(info->created_ns);
    g_autofree char *description = printable(info->description);

    line("Name:", info->name);
    if (*description) {
        line("Description:", description);
    }
    line("Id:", info->id);
    line_size(cli, "Size:", info->size_bytes);
    line_size(cli, "Object size:", info->object_bytes);
    line_size(cli, "Block size:", info->block_bytes);
    printf("%-13s %" G_GUINT64_FORMAT "\n", "Objects:", info->object_count);
    line("Created:", created);
    line("State:", state(info));
    if (info->flags & ARCHIP_VOLUME_READONLY) {
        line("Read-only:", "yes");
    }
    if (info->flags & ARCHIP_VOLUME_PROTECTED) {
        line("Protected:", "yes");
    }
    show_holder(holder);
    printf("\n%-13s %s\n", "Store:", space->store.location);
    space_show(cli, 13, space);
}

static int report(struct cli *cli, const char *name, archip_volume *volume)
{
    archip_volume_info info = {0};
    archip_holder holder = {0};
    struct space space;
    int result = archip_volume_get_info(volume, &info);

    if (result == 0) {
        result = archip_volume_get_holder(cli->store, name, &holder);
    }
    if (result == 0) {
        result = space_read(cli, &space);
    }
    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    if (cli->json) {
        json_object_begin(NULL);
        describe_json(&info);
        describe_holder_json(&holder);
        json_object_begin("store");
        json_string("location", space.store.location);
        space_json(&space);
        json_object_end();
        json_object_end();
    } else {
        show(cli, &info, &holder, &space);
    }
    return CODE_OK;
}

static int run(struct cli *cli)
{
    archip_volume *volume;
    int code = cli_parse(cli, NULL, CLI_JSON | CLI_BYTES, 1, 1);

    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    if (code == CODE_OK) {
        code = cli_open_volume(cli, cli->argv[0], 0, &volume);
    }
    if (code == CODE_OK) {
        code = report(cli, cli->argv[0], volume);
        archip_volume_close(volume);
    }
    return code;
}

const struct command command_info = {
    "info", "NAME", "Show a volume, and who has it open", run,
};
