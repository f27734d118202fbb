/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the subcommands of `archipelago` share.  They use the public API alone.
 *
 * Errors: a subcommand returns an exit code.  Whoever finds the error prints
 * it, once, with cli_fail() or one of its kin, which give the code back; deeper
 * code hands up a GError of CLI_ERROR, whose code is the exit code.
 *
 * Threads: one.
 */
#ifndef ARCHIPELAGO_CLI_COMMON_H
#define ARCHIPELAGO_CLI_COMMON_H

#include <archipelago.h>

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* --- Exit codes (common.c): part of the interface, see the man page ----- */

enum {
    CODE_OK = 0,
    CODE_FAILED = 1,        /* anything without a code of its own */
    CODE_USAGE = 2,         /* arguments that can't mean anything */
    CODE_MISSING = 3,       /* no such volume or store */
    CODE_EXISTS = 4,        /* the volume or target exists already */
    CODE_BUSY = 5,          /* the volume is open elsewhere */
    CODE_DAMAGED = 6,       /* the volume or store is corrupt */
    CODE_SPACE = 7,         /* no space left */
    CODE_LEAKS = 8,         /* check: no damage, but things left over */
    CODE_REPAIRED = 9,      /* check: all that was wrong was mended */
};

#define CLI_ERROR (cli_error_quark())
GQuark cli_error_quark(void);

/* The exit code for a result (-errno) of the library. */
int code_of_result(int result);

/* Set `error` from the library's last failure, or from an errno. */
void error_from_library(GError **error, int result);
void error_from_errno(GError **error, int errno_value, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* --- Subcommands (main.c, common.c) ------------------------------------- */

struct cli;

struct command {
    const char *name;
    const char *arguments;      /* "NAME SIZE", for help */
    const char *summary;        /* one line */
    int (*run)(struct cli *cli);
};

extern const struct command command_create, command_list, command_info,
    command_map, command_du, command_resize, command_remove, command_import,
    command_export, command_status, command_check,
    command_metadata;

/* One run of a subcommand. */
struct cli {
    const struct command *command;
    int argc;                   /* after cli_parse(): the plain arguments */
    char **argv;
    char *location;             /* --store */
    gboolean json, bytes;
    archip_store *store;
};

#define CLI_JSON 0x1u           /* the subcommand has --json */
#define CLI_BYTES 0x2u          /* and --bytes */

/*
 * Parse options: `entries` beside those that all have.  Then there must be
 * `min` to `max` plain arguments (max -1: any number).  Returns 0 or
 * CODE_USAGE; --help doesn't return.
 */
int cli_parse(struct cli *cli, const GOptionEntry *entries, unsigned flags,
              int min, int max);

/* Open cli->store; `flags` as for archip_store_open(). */
int cli_open_store(struct cli *cli, unsigned flags);
/* Open a volume and store it in `*volume`; a bad name is CODE_USAGE. */
int cli_open_volume(struct cli *cli, const char *name, unsigned flags,
                    archip_volume **volume);

/* A size in `text` or usage; NULL leaves `*bytes` as it is. */
int cli_size(struct cli *cli, const char *text, uint64_t *bytes);
/* The same for the size of objects, which must be one of those possible. */
int cli_object_size(struct cli *cli, const char *text, uint32_t *bytes);

/* Print "archipelago COMMAND: ..." on stderr and return `code`. */
int cli_fail(struct cli *cli, int code, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* Print what the library says of its last failure; its exit code. */
int cli_fail_library(struct cli *cli, int result);
int cli_fail_error(struct cli *cli, const GError *error);
/* The same for what is worth knowing and no failure. */
void cli_note(struct cli *cli, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* --- Sizes and times (units.c) ------------------------------------------ */

/* "512", "4M", "10G", "1TiB": bytes; false if it isn't a size. */
bool size_parse(const char *text, uint64_t *bytes);
/* "4.0 MiB", or the plain number when `exact`.  The caller frees. */
char *size_text(uint64_t bytes, bool exact);
/* Local time for people, UTC in ISO 8601 for programs.  The caller frees. */
char *time_text(int64_t ns_since_1970);
char *time_iso(int64_t ns_since_1970);
/* The text without what a terminal might take for a command. */
char *printable(const char *text);

/* --- Tables (table.c) --------------------------------------------------- */

struct table;

/* A column a word of `headings`; with a '>' before it, set to the right. */
struct table *table_new(const char *headings);
/* Takes over one string a column. */
void table_row(struct table *table, ...);
/* Print and free. */
void table_print(struct table *table);
void table_free(struct table *table);

/* --- JSON (json.c) ------------------------------------------------------ */

/*
 * Writes to stdout what is right by construction, except that begins and ends
 * must match.  `key` is NULL in arrays and at the top.
 */
void json_object_begin(const char *key);
void json_object_end(void);
void json_array_begin(const char *key);
void json_array_end(void);
void json_string(const char *key, const char *value);   /* NULL: null */
void json_number(const char *key, uint64_t value);
void json_bool(const char *key, bool value);

/* --- The store's room (space.c) ------------------------------------------ */

struct space {
    archip_store_status store;
    uint64_t volume_count, damaged_count;
    uint64_t size_bytes;        /* of all volumes together */
};

/* Asks the store, and each volume for its size; 0 or the library's -errno. */
int space_read(struct cli *cli, struct space *space);
/* One volume, as archip_volume_list() has it. */
void space_add(struct space *space, const archip_volume_info *info,
               const char *error);
/* Were the volumes promised more than there is, used or not? */
bool space_is_overcommitted(const struct space *space);
/* Lines whose labels have that width; warnings among them. */
void space_show(struct cli *cli, int width, const struct space *space);
void space_each_warning(const struct space *space,
                        void (*each)(const char *text, void *opaque),
                        void *opaque);
/* Fields in an open object. */
void space_json(const struct space *space);

/* --- Shared by several subcommands (describe.c) ------------------------- */

/* What info, list and create tell of a volume: its fields in an open object. */
void describe_json(const archip_volume_info *info);
/* "holder": an object or null. */
void describe_holder_json(const archip_holder *holder);
/* "qemu-img on host, process 12"; the caller frees. */
char *describe_holder(const archip_holder *holder);

#endif
