/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago: volumes from the command line.  main() finds the subcommand and
 * makes sure that what was printed also arrived; the rest is in one file each.
 */
#include "common.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = {
    &command_create, &command_list,   &command_info,   &command_map,
    &command_du,     &command_resize, &command_remove, &command_import,
    &command_export, &command_status, &command_check,
    &command_metadata,
};

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(commands[i]->name, name)) {
            return commands[i];
        }
    }
    return NULL;
}

static void help(FILE *stream)
{
    fprintf(stream,
            "Usage: archipelago COMMAND [OPTION...] [ARGUMENT...]\n"
            "\n"
            "Block volumes made of objects in a store.\n"
            "\n"
            "Commands:\n");
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        fprintf(stream, "  %-8s  %s\n", commands[i]->name,
                commands[i]->summary);
    }
    fprintf(stream, "\n"
                    "Options:\n"
                    "  -h, --help     Show this, or with a command its own\n"
                    "  --version      Show the version\n"
                    "\n"
                    "\"archipelago COMMAND --help\" shows a command's "
                    "options.\n"
                    "The manual is archipelago(1): man archipelago\n");
}

/* Output that didn't arrive is a failure, unless there was one already. */
static int finish(int code)
{
    bool bad = ferror(stdout);

    if ((fclose(stdout) != 0 || bad) && code == CODE_OK) {
        fprintf(stderr, "archipelago: writing to standard output: %s\n",
                g_strerror(errno));
        return CODE_FAILED;
    }
    return code;
}

static int run(const struct command *command, int argc, char **argv)
{
    /* GOption moves within argv: keep the vector that frees the strings. */
    struct cli cli = {.command = command, .argc = argc, .argv = argv};
    int code = command->run(&cli);

    archip_store_close(cli.store);
    g_free(cli.location);
    return code;
}

int main(int argc, char **argv)
{
    const struct command *command;

    setlocale(LC_ALL, "");
    if (argc < 2) {
        help(stderr);
        return CODE_USAGE;
    }
    if (g_str_equal(argv[1], "--help") || g_str_equal(argv[1], "-h")) {
        help(stdout);
        return finish(CODE_OK);
    }
    if (g_str_equal(argv[1], "--version")) {
        printf("archipelago %s\n", archip_version());
        return finish(CODE_OK);
    }
    command = find(argv[1]);
    if (!command) {
        fprintf(stderr,
                "archipelago: \"%s\" is not a command; see archipelago "
                "--help\n",
                argv[1]);
        return CODE_USAGE;
    }
    return finish(run(command, argc - 1, argv + 1));
}
