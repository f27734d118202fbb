/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago remove: volumes and what only they use.  On a terminal it asks
 * first.  One volume that can't be removed doesn't keep the others.
 */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct removal {
    struct cli *cli;
    gboolean dry_run, yes;
    int code;                   /* of the first that failed */
};

/* What a dry run can find out: is it there, open, protected? */
static int check(struct cli *cli, const char *name, uint64_t *size_bytes)
{
    archip_volume_info info = {0};
    archip_holder holder = {0};
    archip_volume *volume;
    int code = cli_open_volume(cli, name, 0, &volume);

    if (code != CODE_OK) {
        return code;
    }
    archip_volume_get_info(volume, &info);
    archip_volume_close(volume);
    archip_volume_get_holder(cli->store, name, &holder);
    if (holder.held) {
        g_autofree char *who = describe_holder(&holder);

        return cli_fail(cli, CODE_BUSY, "%s is open by %s", name, who);
    }
    if (info.flags & ARCHIP_VOLUME_PROTECTED) {
        return cli_fail(cli, CODE_FAILED, "%s is protected", name);
    }
    *size_bytes = info.size_bytes;
    return CODE_OK;
}

static bool confirmed(struct removal *removal, const char *name)
{
    char answer[16] = "";

    if (removal->yes || !isatty(STDIN_FILENO)) {
        return true;
    }
    fprintf(stderr, "Remove volume %s and all its data? [y/N] ", name);
    if (!fgets(answer, sizeof(answer), stdin)) {
        return false;
    }
    return g_ascii_tolower(answer[0]) == 'y';
}

static void report(struct removal *removal, const char *name)
{
    if (removal->cli->json) {
        json_string(NULL, name);
    } else if (removal->dry_run) {
        printf("would remove %s\n", name);
    }
}

static int remove_one(struct removal *removal, const char *name)
{
    struct cli *cli = removal->cli;
    uint64_t size_bytes;
    int result = archip_name_check(name);

    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    if (removal->dry_run) {
        int code = check(cli, name, &size_bytes);

        if (code != CODE_OK) {
            return code;
        }
    } else {
        if (!confirmed(removal, name)) {
            return cli_fail(cli, CODE_FAILED, "%s: kept", name);
        }
        result = archip_volume_remove(cli->store, name);
        if (result < 0) {
            return cli_fail_library(cli, result);
        }
    }
    report(removal, name);
    return CODE_OK;
}

static int remove_all(struct removal *removal)
{
    struct cli *cli = removal->cli;

    if (cli->json) {
        json_object_begin(NULL);
        json_bool("dry_run", removal->dry_run);
        json_array_begin("removed");
    }
    for (int i = 0; i < cli->argc; i++) {
        int code = remove_one(removal, cli->argv[i]);

        removal->code = removal->code ? removal->code : code;
    }
    if (cli->json) {
        json_array_end();
        json_object_end();
    }
    return removal->code;
}

static int run(struct cli *cli)
{
    struct removal removal = {.cli = cli};
    const GOptionEntry entries[] = {
        {"dry-run", 0, 0, G_OPTION_ARG_NONE, &removal.dry_run,
         "Only say what would be done", NULL},
        {"yes", 'y', 0, G_OPTION_ARG_NONE, &removal.yes,
         "Don't ask, also on a terminal", NULL},
        {NULL},
    };
    int code = cli_parse(cli, entries, CLI_JSON, 1, -1);

    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    return code == CODE_OK ? remove_all(&removal) : code;
}

const struct command command_remove = {
    "remove", "NAME...", "Remove volumes", run,
};
