/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options, errors, and opening what subcommands work on. */
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

G_DEFINE_QUARK(archipelago-cli-error, cli_error)

/* --- Errors ------------------------------------------------------------- */

int code_of_result(int result)
{
    switch (-result) {
    case EINVAL:
        return CODE_USAGE;
    case ENOENT:
        return CODE_MISSING;
    case EEXIST:
        return CODE_EXISTS;
    case EBUSY:
        return CODE_BUSY;
    case EUCLEAN:
        return CODE_DAMAGED;
    case ENOSPC:
    case EDQUOT:
        return CODE_SPACE;
    default:
        return CODE_FAILED;
    }
}

void error_from_library(GError **error, int result)
{
    g_set_error_literal(error, CLI_ERROR, code_of_result(result),
                        archip_error());
}

void error_from_errno(GError **error, int errno_value, const char *format, ...)
{
    bool full = errno_value == ENOSPC || errno_value == EDQUOT;
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, CLI_ERROR, full ? CODE_SPACE : CODE_FAILED, "%s: %s",
                text, g_strerror(errno_value));
}

static void say(struct cli *cli, const char *text)
{
    g_autofree char *safe = printable(text);

    fprintf(stderr, "archipelago %s: %s\n", cli->command->name, safe);
}

int cli_fail(struct cli *cli, int code, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    say(cli, text);
    return code;
}

int cli_fail_library(struct cli *cli, int result)
{
    return cli_fail(cli, code_of_result(result), "%s", archip_error());
}

int cli_fail_error(struct cli *cli, const GError *error)
{
    g_assert(error->domain == CLI_ERROR);
    return cli_fail(cli, error->code, "%s", error->message);
}

void cli_note(struct cli *cli, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    say(cli, text);
}

/* --- Options ------------------------------------------------------------ */

static void add_common(struct cli *cli, GOptionContext *context,
                       unsigned flags)
{
    const GOptionEntry store[] = {
        {"store", 's', 0, G_OPTION_ARG_STRING, &cli->location,
         "The store: dir:PATH, or a group of archipelago.conf", "STORE"},
        {NULL},
    };
    const GOptionEntry json[] = {
        {"json", 0, 0, G_OPTION_ARG_NONE, &cli->json, "Print JSON", NULL},
        {NULL},
    };
    const GOptionEntry bytes[] = {
        {"bytes", 'b', 0, G_OPTION_ARG_NONE, &cli->bytes,
         "Print exact numbers of bytes", NULL},
        {NULL},
    };

    g_option_context_add_main_entries(context, store, NULL);
    if (flags & CLI_JSON) {
        g_option_context_add_main_entries(context, json, NULL);
    }
    if (flags & CLI_BYTES) {
        g_option_context_add_main_entries(context, bytes, NULL);
    }
}

/* GOption leaves the "--" that ended the options where it was. */
static void drop_dashes(struct cli *cli)
{
    for (int i = 1; i < cli->argc; i++) {
        if (g_str_equal(cli->argv[i], "--")) {
            memmove(&cli->argv[i], &cli->argv[i + 1],
                    sizeof(char *) * (size_t)(cli->argc - i));
            cli->argc--;
            return;
        }
    }
}

static int usage(struct cli *cli, const char *text)
{
    cli_fail(cli, CODE_USAGE, "%s", text);
    fprintf(stderr, "Usage: archipelago %s [OPTION...] %s\n",
            cli->command->name, cli->command->arguments);
    return CODE_USAGE;
}

int cli_parse(struct cli *cli, const GOptionEntry *entries, unsigned flags,
              int min, int max)
{
    g_autoptr(GOptionContext) context =
        g_option_context_new(cli->command->arguments);
    g_autofree char *program =
        g_strdup_printf("archipelago %s", cli->command->name);
    g_autoptr(GError) error = NULL;

    g_set_prgname(program);
    g_option_context_set_summary(context, cli->command->summary);
    g_option_context_set_description(
        context, "The manual is archipelago(1): man archipelago");
    if (entries) {
        g_option_context_add_main_entries(context, entries, NULL);
    }
    add_common(cli, context, flags);
    if (!g_option_context_parse(context, &cli->argc, &cli->argv, &error)) {
        return usage(cli, error->message);
    }
    drop_dashes(cli);
    cli->argc--;
    cli->argv++;
    if (cli->argc < min) {
        return usage(cli, "too few arguments");
    }
    if (max >= 0 && cli->argc > max) {
        return usage(cli, "too many arguments");
    }
    return CODE_OK;
}

int cli_size(struct cli *cli, const char *text, uint64_t *bytes)
{
    if (text && !size_parse(text, bytes)) {
        return cli_fail(cli, CODE_USAGE,
                        "\"%s\" is not a size such as 512, 4M or 10G", text);
    }
    return CODE_OK;
}

int cli_object_size(struct cli *cli, const char *text, uint32_t *bytes)
{
    uint64_t wide = *bytes;
    int code = cli_size(cli, text, &wide);

    if (code == CODE_OK && text &&
        (wide < ARCHIP_OBJECT_BYTES_MIN || wide > ARCHIP_OBJECT_BYTES_MAX ||
         (wide & (wide - 1)) != 0)) {
        return cli_fail(cli, CODE_USAGE,
                        "object size \"%s\" is not a power of two from 64K "
                        "to 64M",
                        text);
    }
    *bytes = (uint32_t)wide;
    return code;
}

/* --- Opening ------------------------------------------------------------ */

int cli_open_store(struct cli *cli, unsigned flags)
{
    int result = archip_store_open(cli->location, flags, &cli->store);

    return result < 0 ? cli_fail_library(cli, result) : CODE_OK;
}

int cli_open_volume(struct cli *cli, const char *name, unsigned flags,
                    archip_volume **volume)
{
    g_autofree char *owner =
        g_strdup_printf("archipelago %s", cli->command->name);
    int result = archip_name_check(name);

    if (result == 0) {
        result = archip_volume_open(cli->store, name, flags, owner, volume);
    }
    return result < 0 ? cli_fail_library(cli, result) : CODE_OK;
}
