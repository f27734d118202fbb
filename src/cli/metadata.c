/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago metadata: headers and maps of a store to a file, and back.  The
 * file is written under a temporary name and renamed when it is durable; a pipe
 * that is read is put into a file without a name first.
 */
#include "common.h"
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct metadata {
    struct cli *cli;
    gboolean force, overwrite, dry_run;
    const char *file;
    const char *const *names;   /* or NULL */
    bool silent;                /* the metadata goes to stdout */
};

/* --- Telling ------------------------------------------------------------- */

static void tell_json(const archip_metadata_volume *volume)
{
    json_object_begin(NULL);
    json_string("name", volume->name);
    json_string("id", volume->id);
    json_string("error", volume->error);
    json_number("page_count", volume->page_count);
    json_number("missing_count", volume->missing_count);
    json_number("newer_count", volume->newer_count);
    json_object_end();
}

/* What isn't as it was when it was exported is worth a word. */
static void tell_trouble(const struct metadata *metadata,
                         const archip_metadata_volume *volume)
{
    if (volume->error) {
        cli_note(metadata->cli, "%s: left out: %s", volume->name,
                 volume->error);
        return;
    }
    if (volume->missing_count > 0) {
        cli_note(metadata->cli, "%s: %" G_GUINT64_FORMAT " objects are "
                 "missing: what was in them can't be read", volume->name,
                 volume->missing_count);
    }
    if (volume->newer_count > 0) {
        cli_note(metadata->cli, "%s: %" G_GUINT64_FORMAT " objects were "
                 "written after the export and aren't part of the volume any "
                 "more", volume->name, volume->newer_count);
    }
}

static int tell(const archip_metadata_volume *volume, void *opaque)
{
    struct metadata *metadata = opaque;

    tell_trouble(metadata, volume);
    if (metadata->cli->json && !metadata->silent) {
        tell_json(volume);
    } else if (metadata->dry_run && !volume->error) {
        printf("would bring back %s\n", volume->name);
    }
    return interrupt_signal() != 0;
}

static void json_begin(const struct metadata *metadata)
{
    if (metadata->cli->json && !metadata->silent) {
        json_object_begin(NULL);
        json_bool("dry_run", metadata->dry_run);
        json_array_begin("volumes");
    }
}

static void json_end(const struct metadata *metadata)
{
    if (metadata->cli->json && !metadata->silent) {
        json_array_end();
        json_object_end();
    }
}

/* --- Export -------------------------------------------------------------- */

static int fail_errno(const struct metadata *metadata, const char *what)
{
    int code = errno == ENOSPC || errno == EDQUOT ? CODE_SPACE
               : errno == EEXIST                  ? CODE_EXISTS
                                                  : CODE_FAILED;

    return cli_fail(metadata->cli, code, "%s: %s", what, g_strerror(errno));
}

static int sync_folder(const char *file)
{
    g_autofree char *folder = g_path_get_dirname(file);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = fd < 0 ? -1 : fsync(fd);

    if (fd >= 0) {
        close(fd);
    }
    return result;
}

/* The file is kept also when some volumes couldn't be read: the others are in
 * it. */
static int export_finish(struct metadata *metadata, int fd, const char *part,
                         int result)
{
    int code = result < 0 ? cli_fail_library(metadata->cli, result) : CODE_OK;

    if (result > 0 || lseek(fd, 0, SEEK_END) <= 0 || fsync(fd) < 0 ||
        rename(part, metadata->file) < 0 || sync_folder(metadata->file) < 0) {
        code = result > 0 ? CODE_FAILED : fail_errno(metadata, part);
        unlink(part);
    }
    return code;
}

static int export_file(struct metadata *metadata)
{
    g_autofree char *part = g_strdup_printf("%s.part-XXXXXX", metadata->file);
    int fd, code, result;

    if (!metadata->force && access(metadata->file, F_OK) == 0) {
        return cli_fail(metadata->cli, CODE_EXISTS,
                        "%s is there already; --force replaces it",
                        metadata->file);
    }
    fd = g_mkstemp_full(part, O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        return fail_errno(metadata, part);
    }
    result = archip_metadata_export(metadata->cli->store, fd, metadata->names,
                                    tell, metadata);
    code = export_finish(metadata, fd, part, result);
    close(fd);
    return code;
}

static int export_stdout(struct metadata *metadata)
{
    int result = archip_metadata_export(metadata->cli->store, STDOUT_FILENO,
                                        metadata->names, tell, metadata);

    return result < 0 ? cli_fail_library(metadata->cli, result) : CODE_OK;
}

static int run_export(struct metadata *metadata)
{
    int code;

    if (metadata->overwrite || metadata->dry_run) {
        return cli_fail(metadata->cli, CODE_USAGE,
                        "--overwrite and --dry-run are for import");
    }
    metadata->silent = g_str_equal(metadata->file, "-");
    json_begin(metadata);
    code = metadata->silent ? export_stdout(metadata) : export_file(metadata);
    json_end(metadata);
    return code;
}

/* --- Import -------------------------------------------------------------- */

/* What comes through a pipe, in a file without a name. */
static int spool(int from)
{
    FILE *file = tmpfile();
    char buffer[65536];
    ssize_t got;
    int fd;

    if (!file) {
        return -1;
    }
    while ((got = read(from, buffer, sizeof(buffer))) != 0) {
        if ((got < 0 && errno != EINTR) ||
            (got > 0 && fwrite(buffer, 1, (size_t)got, file) != (size_t)got)) {
            fclose(file);
            return -1;
        }
    }
    fd = fflush(file) == 0 ? dup(fileno(file)) : -1;
    fclose(file);
    return fd;
}

static int open_source(const struct metadata *metadata)
{
    int fd = g_str_equal(metadata->file, "-")
                 ? dup(STDIN_FILENO)
                 : open(metadata->file, O_RDONLY | O_CLOEXEC);
    int seekable;

    if (fd < 0 || lseek(fd, 0, SEEK_CUR) == 0) {
        return fd;
    }
    seekable = spool(fd);
    close(fd);
    return seekable;
}

static int run_import(struct metadata *metadata)
{
    unsigned flags = (metadata->force ? ARCHIP_IMPORT_FORCE : 0) |
                     (metadata->overwrite ? ARCHIP_IMPORT_OVERWRITE : 0) |
                     (metadata->dry_run ? ARCHIP_IMPORT_DRY_RUN : 0);
    int fd = open_source(metadata), result;

    if (fd < 0) {
        return errno == ENOENT
                   ? cli_fail(metadata->cli, CODE_MISSING,
                              "%s: there is no such file", metadata->file)
                   : fail_errno(metadata, metadata->file);
    }
    json_begin(metadata);
    result = archip_metadata_import(metadata->cli->store, fd, metadata->names,
                                    flags, tell, metadata);
    json_end(metadata);
    close(fd);
    if (result == -ENODATA) {
        return cli_fail(metadata->cli, CODE_DAMAGED,
                        "%s; --force goes on without them", archip_error());
    }
    return result < 0 ? cli_fail_library(metadata->cli, result) : CODE_OK;
}

static int run(struct cli *cli)
{
    struct metadata metadata = {.cli = cli};
    const GOptionEntry entries[] = {
        {"force", 0, 0, G_OPTION_ARG_NONE, &metadata.force,
         "Replace a file; import also with objects missing", NULL},
        {"overwrite", 0, 0, G_OPTION_ARG_NONE, &metadata.overwrite,
         "Import also over volumes that are there", NULL},
        {"dry-run", 0, 0, G_OPTION_ARG_NONE, &metadata.dry_run,
         "Only say what an import would do", NULL},
        {NULL},
    };
    int code = cli_parse(cli, entries, CLI_JSON, 2, -1);
    bool import;

    if (code != CODE_OK) {
        return code;
    }
    import = g_str_equal(cli->argv[0], "import");
    if (!import && !g_str_equal(cli->argv[0], "export")) {
        return cli_fail(cli, CODE_USAGE, "\"%s\" is neither export nor import",
                        cli->argv[0]);
    }
    metadata.file = cli->argv[1];
    metadata.names = cli->argc > 2 ? (const char *const *)cli->argv + 2 : NULL;
    code = cli_open_store(cli, 0);
    if (code != CODE_OK) {
        return code;
    }
    interrupt_watch();
    code = import ? run_import(&metadata) : run_export(&metadata);
    interrupt_die();
    return code;
}

const struct command command_metadata = {
    "metadata", "export|import FILE [NAME...]",
    "Save the volumes' headers and maps, or bring them back", run,
};
