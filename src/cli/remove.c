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

/* A damaged volume has no flags that keep it from being removed. */
static int read_flags(struct cli *cli, const char *name, uint32_t *flags)
{
    archip_volume_info info = {0};
    archip_volume *volume;
    int result = archip_volume_open(cli->store, name, 0, NULL, &volume);

    if (result == 0) {
        result = archip_volume_get_info(volume, &info);
        archip_volume_close(volume);
    }
    *flags = info.flags;
    return result == -EUCLEAN ? 0 : result;
}

/* What a dry run can find out: is it there, open, protected? */
static int check(struct cli *cli, const char *name)
{
    archip_holder holder = {0};
    uint32_t flags;
    int result = read_flags(cli, name, &flags);

    if (result == 0) {
        result = archip_volume_get_holder(cli->store, name, &holder);
    }
    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    if (holder.held) {
        g_autofree char *who = describe_holder(&holder);

        return cli_fail(cli, CODE_BUSY, "%s is open by %s", name, who);
    }
    if (flags & ARCHIP_VOLUME_PROTECTED) {
        return cli_fail(cli, CODE_FAILED, "%s is protected", name);
    }
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
    int result = archip_name_check(name);

    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    if (removal->dry_run) {
        int code = check(cli, name);

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
