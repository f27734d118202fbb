/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago import: a volume out of a file, a device, an image, an NBD export
 * or standard input.
 *
 * A volume that was made here and isn't whole is removed again, whatever the
 * reason, unless the process is killed outright.  Success is only reported when
 * all is durable.
 */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct import {
    struct cli *cli;
    const char *source_name, *name;
    char *format, *size_given, *object_size, *description;
    gboolean existing, detect, no_detect, quiet;
    struct copy_side *source;
    uint64_t size_bytes;        /* of the volume; 0: as long as the source */
    bool created;               /* the volume is ours to remove */
    struct copy copy;
};

/* --- The source --------------------------------------------------------- */

static struct copy_side *open_descriptor(int fd, const char *name,
                                         GError **error)
{
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0) {
        error_from_errno(error, errno, "%s", name);
        return NULL;
    }
    if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode)) {
        return side_file_new(fd, name, false, error);
    }
    return side_stream_new(fd, name, true);
}

static struct copy_side *open_path(struct import *import, GError **error)
{
    const char *path = import->source_name;
    const char *format = import->format;
    struct stat status;

    if (stat(path, &status) < 0) {
        error_from_errno(error, errno, "%s", path);
        return NULL;
    }
    if (S_ISDIR(status.st_mode)) {
        error_from_errno(error, EISDIR, "%s", path);
        return NULL;
    }
    /* Only a file's own bytes may decide; a device is raw unless told. */
    if (S_ISREG(status.st_mode)) {
        format = image_format(path, import->format, error);
        if (!format) {
            return NULL;
        }
    }
    if (!image_is_raw(format)) {
        return image_open(path, format, false, error);
    }
    return open_descriptor(open(path, O_RDONLY | O_CLOEXEC), path, error);
}

static struct copy_side *open_source(struct import *import, GError **error)
{
    const char *name = import->source_name;

    if (is_nbd_uri(name) || g_str_equal(name, "-")) {
        if (!image_is_raw(import->format)) {
            g_set_error(error, CLI_ERROR, CODE_USAGE,
                        "--format %s needs a file: %s can only be raw",
                        import->format, name);
            return NULL;
        }
        /* A stream also where standard input is a file: it may be anywhere
         * in it. */
        return is_nbd_uri(name) ? side_nbd_uri(name, error)
                                : side_stream_new(dup(STDIN_FILENO),
                                                  "standard input", true);
    }
    return open_path(import, error);
}

/* --- The volume --------------------------------------------------------- */

static uint64_t round_up(uint64_t bytes)
{
    uint64_t rest = bytes % ARCHIP_SECTOR_BYTES;

    return rest ? bytes + ARCHIP_SECTOR_BYTES - rest : bytes;
}

static void note_padding(struct import *import, uint64_t source_bytes)
{
    uint64_t padded = round_up(source_bytes);

    if (padded != source_bytes && !import->size_given) {
        cli_note(import->cli,
                 "%s: padded with %" G_GUINT64_FORMAT " zero bytes to %"
                 G_GUINT64_FORMAT ", a multiple of %u",
                 import->name, padded - source_bytes, padded,
                 ARCHIP_SECTOR_BYTES);
    }
}

/* How large the volume shall be, before it is made or opened. */
static int decide_size(struct import *import)
{
    uint64_t source_bytes = import->source->size_bytes;
    int code = cli_size(import->cli, import->size_given, &import->size_bytes);

    if (code != CODE_OK || import->source->size_unknown) {
        return code;
    }
    if (!import->size_given) {
        import->size_bytes = round_up(source_bytes);
    } else if (import->size_bytes < source_bytes) {
        return cli_fail(import->cli, CODE_USAGE,
                        "--size %s is less than the %" G_GUINT64_FORMAT
                        " bytes of %s",
                        import->size_given, source_bytes, import->source_name);
    }
    return CODE_OK;
}

static int create(struct import *import)
{
    struct cli *cli = import->cli;
    archip_create_options options = {.description = import->description};
    int code = cli_object_size(cli, import->object_size, &options.object_bytes);
    int result;

    if (code != CODE_OK) {
        return code;
    }
    result = archip_volume_create(cli->store, import->name, import->size_bytes,
                                  &options);
    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    import->created = true;
    return CODE_OK;
}

static void undo(struct import *import)
{
    int result;

    if (!import->created) {
        return;
    }
    result = archip_volume_remove(import->cli->store, import->name);
    if (result < 0) {
        cli_note(import->cli, "%s is incomplete and could not be removed: %s",
                 import->name, archip_error());
    }
}

/* --- Copying ------------------------------------------------------------ */

/* Zeroes from where the source ended to the end of a volume that had data. */
static int zero_rest(archip_volume *volume, uint64_t from_bytes)
{
    uint64_t size_bytes = archip_volume_size(volume);
    archip_queue *queue;
    int result;

    if (from_bytes >= size_bytes) {
        return 0;
    }
    result = archip_queue_open(volume, ARCHIP_QUEUE_MAY_BLOCK, &queue);
    if (result == 0) {
        result = archip_write_zeroes(queue, from_bytes, size_bytes - from_bytes,
                                     ARCHIP_MAY_UNMAP);
        archip_queue_close(queue);
    }
    return result;
}

/* A stream with no size given: the volume grows with it. */
static bool grows(const struct import *import)
{
    return import->source->size_unknown && !import->size_given &&
           !import->existing;
}

/* Make the volume's end right: what was written may stop short of it. */
static bool finish_end(struct import *import, archip_volume *volume,
                       GError **error)
{
    uint64_t copied_bytes = import->copy.position_bytes;
    int result = 0;

    if (grows(import)) {
        import->size_bytes = round_up(copied_bytes);
        result = archip_volume_resize(volume, import->size_bytes, 0);
    } else if (import->existing) {
        result = zero_rest(volume, copied_bytes);
    }
    if (result < 0) {
        error_from_library(error, result);
    }
    return result >= 0;
}

static bool copy(struct import *import, archip_volume *volume, GError **error)
{
    struct copy_side *target = side_volume_new(volume, import->created,
                                               grows(import), error);
    g_autofree char *label = g_strdup_printf("import %s", import->name);
    bool ok;

    if (!target) {
        return false;
    }
    import->copy.source = import->source;
    import->copy.target = target;
    import->copy.detect_zeroes =
        import->detect ||
        (import->source->sequential && !import->no_detect);
    import->copy.progress =
        import->quiet ? NULL
                      : progress_new(label, import->source->size_bytes);
    ok = copy_run(&import->copy, error);
    progress_free(import->copy.progress);
    copy_side_close(target);
    return ok && finish_end(import, volume, error);
}

/* The volume's size against the source's, where it was there before. */
static int check_existing(struct import *import, archip_volume *volume)
{
    uint64_t size_bytes = archip_volume_size(volume);

    if (import->existing && size_bytes < import->source->size_bytes) {
        return cli_fail(import->cli, CODE_FAILED,
                        "%s has %" G_GUINT64_FORMAT
                        " bytes, less than the %" G_GUINT64_FORMAT
                        " of %s; resize it first",
                        import->name, size_bytes, import->source->size_bytes,
                        import->source_name);
    }
    if (import->existing) {
        import->size_bytes = size_bytes;
    }
    return CODE_OK;
}

static int fill(struct import *import)
{
    g_autoptr(GError) error = NULL;
    archip_volume *volume;
    int code = cli_open_volume(import->cli, import->name, ARCHIP_OPEN_WRITE,
                               &volume);
    int result;

    if (code != CODE_OK) {
        return code;
    }
    code = check_existing(import, volume);
    if (code == CODE_OK && !copy(import, volume, &error)) {
        code = cli_fail_error(import->cli, error);
    }
    result = archip_volume_close(volume);
    if (code == CODE_OK && result < 0) {
        code = cli_fail_library(import->cli, result);
    }
    return code;
}

static void report(const struct import *import)
{
    if (import->cli->json) {
        json_object_begin(NULL);
        json_string("name", import->name);
        json_number("size_bytes", import->size_bytes);
        json_number("source_bytes", import->copy.position_bytes);
        json_number("data_bytes", import->copy.data_bytes);
        json_object_end();
    }
}

/* --- The command -------------------------------------------------------- */

static int import_source(struct import *import)
{
    int code = decide_size(import);

    if (code == CODE_OK && !import->existing) {
        code = create(import);
    }
    if (code == CODE_OK) {
        code = fill(import);
    }
    if (code == CODE_OK && interrupt_signal() != 0) {
        code = cli_fail(import->cli, CODE_FAILED, "interrupted");
    }
    if (code != CODE_OK) {
        undo(import);
        return code;
    }
    note_padding(import, import->copy.position_bytes);
    report(import);
    return CODE_OK;
}

static int open_and_import(struct import *import)
{
    struct cli *cli = import->cli;
    g_autoptr(GError) error = NULL;
    int result = archip_name_check(import->name);
    int code;

    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    code = cli_open_store(cli, import->existing ? 0 : ARCHIP_STORE_CREATE);
    if (code != CODE_OK) {
        return code;
    }
    interrupt_watch();
    import->source = open_source(import, &error);
    if (!import->source) {
        return cli_fail_error(cli, error);
    }
    code = import_source(import);
    copy_side_close(import->source);
    return code;
}

static int check_options(const struct import *import)
{
    if (import->existing && (import->size_given || import->object_size ||
                             import->description)) {
        return cli_fail(import->cli, CODE_USAGE,
                        "--existing leaves the volume as it is: no --size, "
                        "--object-size or --description with it");
    }
    if (import->detect && import->no_detect) {
        return cli_fail(import->cli, CODE_USAGE,
                        "--detect-zeroes or --no-detect-zeroes, not both");
    }
    return CODE_OK;
}

static int parse(struct import *import)
{
    const GOptionEntry entries[] = {
        {"format", 'f', 0, G_OPTION_ARG_STRING, &import->format,
         "Format of the source: raw, qcow2, ... (found out)", "FORMAT"},
        {"size", 0, 0, G_OPTION_ARG_STRING, &import->size_given,
         "Size of the volume, if more than the source's", "SIZE"},
        {"object-size", 'o', 0, G_OPTION_ARG_STRING, &import->object_size,
         "Size of the objects, a power of two from 64K to 64M (4M)", "SIZE"},
        {"description", 'd', 0, G_OPTION_ARG_STRING, &import->description,
         "What the volume is for", "TEXT"},
        {"existing", 0, 0, G_OPTION_ARG_NONE, &import->existing,
         "Overwrite a volume that is there", NULL},
        {"detect-zeroes", 0, 0, G_OPTION_ARG_NONE, &import->detect,
         "Look for zeroes in the data and leave them out", NULL},
        {"no-detect-zeroes", 0, 0, G_OPTION_ARG_NONE, &import->no_detect,
         "Don't, also not from a stream", NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &import->quiet,
         "Show no progress", NULL},
        {NULL},
    };

    return cli_parse(import->cli, entries, CLI_JSON, 2, 2);
}

static int run(struct cli *cli)
{
    struct import import = {.cli = cli};
    int code = parse(&import);

    if (code == CODE_OK) {
        code = check_options(&import);
    }
    if (code == CODE_OK) {
        import.source_name = cli->argv[0];
        import.name = cli->argv[1];
        code = open_and_import(&import);
        interrupt_die();
    }
    g_free(import.format);
    g_free(import.size_given);
    g_free(import.object_size);
    g_free(import.description);
    return code;
}

const struct command command_import = {
    "import", "SOURCE NAME", "Make a volume of a file, image, NBD export or -",
    run,
};
