/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago export: a volume into a file, a device, an image, an NBD export
 * or standard output.
 *
 * A file is written under a temporary name beside its own and renamed when it
 * is whole and durable: under its name there is never half of it, and one that
 * was there before stays until then.
 */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct export {
    struct cli *cli;
    const char *name, *target_name;
    char *format;
    gboolean force, detect, quiet;
    char *path;                 /* where the file shall be, links resolved */
    char *temporary;            /* where it is until then, or NULL */
    struct copy copy;
};

/* --- The target --------------------------------------------------------- */

static struct copy_side *open_stream(int fd, const char *name, GError **error)
{
    if (fd < 0) {
        error_from_errno(error, errno, "%s", name);
        return NULL;
    }
    return side_stream_new(fd, name, false);
}

static struct copy_side *open_device(struct export *export, GError **error)
{
    const char *path = export->target_name;
    int fd;

    if (!export->force) {
        g_set_error(error, CLI_ERROR, CODE_EXISTS,
                    "%s is a block device; to overwrite it say --force", path);
        return NULL;
    }
    /* O_EXCL: not while it is mounted. */
    fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
    if (fd < 0) {
        error_from_errno(error, errno, "%s", path);
        return NULL;
    }
    return side_file_new(fd, path, false, error);
}

/* An empty file beside the target, of its mode if there is one. */
static int make_temporary(struct export *export, mode_t mode, GError **error)
{
    g_autofree char *path = g_strdup_printf("%s.part-%08x", export->path,
                                            g_random_int());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

    if (fd < 0) {
        error_from_errno(error, errno, "%s", path);
        return -1;
    }
    export->temporary = g_steal_pointer(&path);
    if (mode != 0 && fchmod(fd, mode & 07777) < 0) {
        error_from_errno(error, errno, "mode of %s", export->temporary);
        close(fd);
        return -1;
    }
    return fd;
}

static struct copy_side *open_raw(struct export *export, int fd,
                                  uint64_t size_bytes, GError **error)
{
    if (ftruncate(fd, (off_t)size_bytes) < 0) {
        error_from_errno(error, errno, "%s", export->temporary);
        close(fd);
        return NULL;
    }
    return side_file_new(fd, export->target_name, true, error);
}

static struct copy_side *open_image(struct export *export, const char *format,
                                    uint64_t size_bytes, GError **error)
{
    if (!image_create(export->temporary, format, size_bytes, error)) {
        return NULL;
    }
    return image_open(export->temporary, format, true, error);
}

/* `old`: what is there, or NULL. */
static struct copy_side *open_file(struct export *export,
                                   const struct stat *old, uint64_t size_bytes,
                                   GError **error)
{
    const char *format =
        image_format_of_name(export->target_name, export->format);
    int fd;

    if (old && !export->force) {
        g_set_error(error, CLI_ERROR, CODE_EXISTS,
                    "%s exists already; to replace it say --force",
                    export->target_name);
        return NULL;
    }
    export->path = old ? realpath(export->target_name, NULL)
                       : g_strdup(export->target_name);
    if (!export->path) {
        error_from_errno(error, errno, "%s", export->target_name);
        return NULL;
    }
    fd = make_temporary(export, old ? old->st_mode : 0, error);
    if (fd < 0) {
        return NULL;
    }
    if (image_is_raw(format)) {
        return open_raw(export, fd, size_bytes, error);
    }
    close(fd);
    return open_image(export, format, size_bytes, error);
}

static struct copy_side *open_path(struct export *export, uint64_t size_bytes,
                                   GError **error)
{
    const char *path = export->target_name;
    struct stat status;

    if (stat(path, &status) < 0) {
        if (errno != ENOENT) {
            error_from_errno(error, errno, "%s", path);
            return NULL;
        }
        return open_file(export, NULL, size_bytes, error);
    }
    if (S_ISREG(status.st_mode)) {
        return open_file(export, &status, size_bytes, error);
    }
    if (S_ISDIR(status.st_mode)) {
        error_from_errno(error, EISDIR, "%s", path);
        return NULL;
    }
    if (!image_is_raw(export->format)) {
        g_set_error(error, CLI_ERROR, CODE_USAGE,
                    "--format %s needs a file: %s can only be raw",
                    export->format, path);
        return NULL;
    }
    if (S_ISBLK(status.st_mode)) {
        return open_device(export, error);
    }
    return open_stream(open(path, O_WRONLY | O_CLOEXEC), path, error);
}

static struct copy_side *open_target(struct export *export,
                                     uint64_t size_bytes, GError **error)
{
    const char *name = export->target_name;

    if (!is_nbd_uri(name) && !g_str_equal(name, "-")) {
        return open_path(export, size_bytes, error);
    }
    if (!image_is_raw(export->format)) {
        g_set_error(error, CLI_ERROR, CODE_USAGE,
                    "--format %s needs a file: %s can only be raw",
                    export->format, name);
        return NULL;
    }
    if (is_nbd_uri(name)) {
        return side_nbd_uri(name, error);
    }
    if (isatty(STDOUT_FILENO)) {
        g_set_error(error, CLI_ERROR, CODE_USAGE,
                    "standard output is a terminal: no place for a volume");
        return NULL;
    }
    return open_stream(dup(STDOUT_FILENO), "standard output", error);
}

/* --- The end of a file -------------------------------------------------- */

static bool sync_path(const char *path, int flags, GError **error)
{
    int fd = open(path, flags | O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (!ok) {
        error_from_errno(error, errno, "syncing %s", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/* Without --force, what came meanwhile under the name stays.  Where a file
 * system can't promise that, a link does. */
static int put_in_place(const struct export *export)
{
    if (export->force) {
        return rename(export->temporary, export->path);
    }
    if (renameat2(AT_FDCWD, export->temporary, AT_FDCWD, export->path,
                  RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -1;
    }
    if (link(export->temporary, export->path) < 0) {
        return -1;
    }
    return unlink(export->temporary);
}

static bool finish_file(struct export *export, GError **error)
{
    g_autofree char *directory = NULL;

    if (!export->temporary) {
        return true;
    }
    directory = g_path_get_dirname(export->path);
    if (!sync_path(export->temporary, 0, error)) {
        return false;
    }
    if (put_in_place(export) < 0) {
        if (errno == EEXIST) {
            g_set_error(error, CLI_ERROR, CODE_EXISTS,
                        "%s came into being meanwhile", export->path);
        } else {
            error_from_errno(error, errno, "renaming %s to %s",
                             export->temporary, export->path);
        }
        return false;
    }
    g_clear_pointer(&export->temporary, g_free);
    return sync_path(directory, O_DIRECTORY, error);
}

static void undo_file(struct export *export)
{
    if (export->temporary && unlink(export->temporary) < 0) {
        cli_note(export->cli, "%s could not be removed: %s", export->temporary,
                 g_strerror(errno));
    }
}

/* --- Copying ------------------------------------------------------------ */

static bool target_fits(struct export *export, GError **error)
{
    struct copy_side *target = export->copy.target;
    uint64_t size_bytes = export->copy.source->size_bytes;

    if (!target->sequential && target->size_bytes < size_bytes) {
        g_set_error(error, CLI_ERROR, CODE_SPACE,
                    "%s has %" G_GUINT64_FORMAT
                    " bytes, less than the %" G_GUINT64_FORMAT " of %s",
                    export->target_name, target->size_bytes, size_bytes,
                    export->name);
        return false;
    }
    return true;
}

static bool run_copy(struct export *export, GError **error)
{
    struct copy_side *source = export->copy.source;
    g_autofree char *label = g_strdup_printf("export %s", export->name);
    bool ok;

    export->copy.target = open_target(export, source->size_bytes, error);
    if (!export->copy.target) {
        return false;
    }
    export->copy.detect_zeroes = export->detect;
    export->copy.progress =
        export->quiet ? NULL : progress_new(label, source->size_bytes);
    ok = target_fits(export, error) && copy_run(&export->copy, error);
    progress_free(export->copy.progress);
    copy_side_close(export->copy.target);
    return ok && finish_file(export, error);
}

/* Standard output may be where the volume goes. */
static void report(const struct export *export)
{
    if (export->cli->json && !g_str_equal(export->target_name, "-")) {
        json_object_begin(NULL);
        json_string("name", export->name);
        json_number("size_bytes", export->copy.position_bytes);
        json_number("data_bytes", export->copy.data_bytes);
        json_object_end();
    }
}

static int export_volume(struct export *export, archip_volume *volume)
{
    g_autoptr(GError) error = NULL;
    bool ok;

    export->copy.source = side_volume_new(volume, false, false, &error);
    if (!export->copy.source) {
        return cli_fail_error(export->cli, error);
    }
    ok = run_copy(export, &error);
    copy_side_close(export->copy.source);
    if (!ok) {
        undo_file(export);
        return cli_fail_error(export->cli, error);
    }
    report(export);
    return CODE_OK;
}

static void warn_if_held(struct export *export)
{
    archip_holder holder = {0};

    if (archip_volume_get_holder(export->cli->store, export->name, &holder) ==
            0 &&
        holder.held) {
        g_autofree char *who = describe_holder(&holder);

        cli_note(export->cli,
                 "warning: %s is open for writing by %s: what is exported may "
                 "mix states of different moments",
                 export->name, who);
    }
}

/* --- The command -------------------------------------------------------- */

static int parse(struct export *export)
{
    const GOptionEntry entries[] = {
        {"format", 'f', 0, G_OPTION_ARG_STRING, &export->format,
         "Format of the target: raw, qcow2, ... (by its name)", "FORMAT"},
        {"force", 0, 0, G_OPTION_ARG_NONE, &export->force,
         "Replace a file, overwrite a device", NULL},
        {"detect-zeroes", 0, 0, G_OPTION_ARG_NONE, &export->detect,
         "Look for zeroes in the data and leave them out", NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &export->quiet,
         "Show no progress", NULL},
        {NULL},
    };

    return cli_parse(export->cli, entries, CLI_JSON, 2, 2);
}

static int open_and_export(struct export *export)
{
    struct cli *cli = export->cli;
    archip_volume *volume;
    int code = cli_open_store(cli, 0);

    if (code != CODE_OK) {
        return code;
    }
    code = cli_open_volume(cli, export->name, 0, &volume);
    if (code != CODE_OK) {
        return code;
    }
    warn_if_held(export);
    interrupt_watch();
    code = export_volume(export, volume);
    archip_volume_close(volume);
    return code;
}

static int run(struct cli *cli)
{
    struct export export = {.cli = cli};
    int code = parse(&export);

    if (code == CODE_OK) {
        export.name = cli->argv[0];
        export.target_name = cli->argv[1];
        code = open_and_export(&export);
        interrupt_die();
    }
    g_free(export.path);
    g_free(export.temporary);
    g_free(export.format);
    return code;
}

const struct command command_export = {
    "export", "NAME TARGET", "Copy a volume to a file, image, NBD export or -",
    run,
};
