/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago resize: grow a volume, or cut it when that is asked for in so
 * many words.
 */
#include "common.h"

#include <errno.h>
#include <stdio.h>

struct resize {
    struct cli *cli;
    const char *name;
    gboolean allow_shrink, dry_run;
    uint64_t old_bytes, new_bytes;
};

/* "-1G" is a size and no option: let GOption see it after a "--". */
static char **hide_negative(struct cli *cli)
{
    char **argv = g_new0(char *, (gsize)cli->argc + 3);
    int count = 0;
    char *negative = NULL;

    for (int i = 0; i < cli->argc; i++) {
        const char *word = cli->argv[i];

        if (!negative && i > 0 && word[0] == '-' &&
            g_ascii_isdigit(word[1])) {
            negative = cli->argv[i];
        } else {
            argv[count++] = cli->argv[i];
        }
    }
    if (negative) {
        argv[count++] = (char *)"--";
        argv[count++] = negative;
    }
    cli->argc = count;
    return argv;
}

/* What "10G", "+1G" or "-1G" makes of `old_bytes`. */
static bool new_size(const char *text, uint64_t old_bytes, uint64_t *new_bytes)
{
    uint64_t bytes;
    bool relative = *text == '+' || *text == '-';

    if (!size_parse(text + (relative ? 1 : 0), &bytes)) {
        return false;
    }
    if (*text == '+') {
        return !__builtin_add_overflow(old_bytes, bytes, new_bytes);
    }
    if (*text == '-') {
        return !__builtin_sub_overflow(old_bytes, bytes, new_bytes);
    }
    *new_bytes = bytes;
    return true;
}

static void report(const struct resize *resize)
{
    g_autofree char *old_text = size_text(resize->old_bytes, false);
    g_autofree char *new_text = size_text(resize->new_bytes, false);

    if (resize->cli->json) {
        json_object_begin(NULL);
        json_string("name", resize->name);
        json_number("old_size_bytes", resize->old_bytes);
        json_number("size_bytes", resize->new_bytes);
        json_bool("dry_run", resize->dry_run);
        json_object_end();
    } else if (resize->dry_run) {
        printf("would resize %s from %s (%" G_GUINT64_FORMAT
               " bytes) to %s (%" G_GUINT64_FORMAT " bytes)\n",
               resize->name, old_text, resize->old_bytes, new_text,
               resize->new_bytes);
    }
}

/* The rules, also for a dry run, which doesn't ask the library. */
static int check(const struct resize *resize)
{
    if (resize->new_bytes % ARCHIP_SECTOR_BYTES != 0) {
        return cli_fail(resize->cli, CODE_USAGE,
                        "%" G_GUINT64_FORMAT
                        " bytes is not a multiple of %u",
                        resize->new_bytes, ARCHIP_SECTOR_BYTES);
    }
    if (resize->new_bytes > ARCHIP_SIZE_MAX) {
        return cli_fail(resize->cli, CODE_USAGE,
                        "%" G_GUINT64_FORMAT
                        " bytes is more than a volume can have, 1 PiB",
                        resize->new_bytes);
    }
    if (resize->new_bytes < resize->old_bytes && !resize->allow_shrink) {
        return cli_fail(resize->cli, CODE_USAGE,
                        "%s has %" G_GUINT64_FORMAT
                        " bytes; to lose what lies beyond %" G_GUINT64_FORMAT
                        " say --allow-shrink",
                        resize->name, resize->old_bytes, resize->new_bytes);
    }
    return CODE_OK;
}

static int resize_volume(struct resize *resize, archip_volume *volume,
                         const char *size)
{
    int code, result = 0;

    resize->old_bytes = archip_volume_size(volume);
    if (!new_size(size, resize->old_bytes, &resize->new_bytes)) {
        return cli_fail(resize->cli, CODE_USAGE,
                        "\"%s\" is not a size such as 10G, +1G or -1G that %s "
                        "can have",
                        size, resize->name);
    }
    code = check(resize);
    if (code != CODE_OK) {
        return code;
    }
    if (!resize->dry_run) {
        result = archip_volume_resize(
            volume, resize->new_bytes,
            resize->allow_shrink ? ARCHIP_RESIZE_SHRINK : 0);
    }
    if (result < 0) {
        return cli_fail_library(resize->cli, result);
    }
    return CODE_OK;
}

static int open_and_resize(struct resize *resize)
{
    archip_volume *volume;
    unsigned flags = resize->dry_run ? 0 : ARCHIP_OPEN_WRITE;
    int code = cli_open_volume(resize->cli, resize->name, flags, &volume);
    int result;

    if (code != CODE_OK) {
        return code;
    }
    code = resize_volume(resize, volume, resize->cli->argv[1]);
    result = archip_volume_close(volume);
    if (code == CODE_OK && result < 0) {
        code = cli_fail_library(resize->cli, result);
    }
    if (code == CODE_OK) {
        report(resize);
    }
    return code;
}

static int run(struct cli *cli)
{
    struct resize resize = {.cli = cli};
    const GOptionEntry entries[] = {
        {"allow-shrink", 0, 0, G_OPTION_ARG_NONE, &resize.allow_shrink,
         "Cut the volume, and lose what is cut off", NULL},
        {"dry-run", 0, 0, G_OPTION_ARG_NONE, &resize.dry_run,
         "Only say what would be done", NULL},
        {NULL},
    };
    g_autofree char **argv = hide_negative(cli);
    int code;

    cli->argv = argv;
    code = cli_parse(cli, entries, CLI_JSON, 2, 2);
    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    if (code == CODE_OK) {
        resize.name = cli->argv[0];
        code = open_and_resize(&resize);
    }
    return code;
}

const struct command command_resize = {
    "resize", "NAME [+|-]SIZE", "Change the size of a volume", run,
};
