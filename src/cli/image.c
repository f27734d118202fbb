/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image formats other than raw, by QEMU's tools: qemu-nbd serves the image to
 * us alone on a private socket, so that holes are seen and several requests
 * are in flight, which a pipe from qemu-img could not do.
 *
 * What is in a file decides its format only when its name doesn't, and only if
 * the image stands for itself.  A guest can write any bytes to a raw disk, also
 * the header of an image that names another file of this host as its backing.
 */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES 128
#define QCOW2_BACKING_AT 8          /* 64 bits; 0: none */
#define QCOW2_VERSION_AT 4          /* 32 bits */
#define QCOW2_INCOMPATIBLE_AT 72    /* 64 bits, from version 3 on */
#define QCOW2_DATA_FILE UINT64_C(4)

static const struct {
    const char *suffix, *format;
} suffixes[] = {
    {".qcow2", "qcow2"}, {".qcow", "qcow"}, {".qed", "qed"},
    {".vdi", "vdi"},     {".vmdk", "vmdk"}, {".vhdx", "vhdx"},
    {".vhd", "vpc"},     {".vpc", "vpc"},   {".raw", "raw"},
};

static const struct {
    const char *format;
    size_t offset;
    const char *magic;
    size_t bytes;
    bool alone;                     /* can't refer to another file */
} magics[] = {
    {"qcow2", 0, "QFI\xfb", 4, false},   {"qed", 0, "QED", 4, false},
    {"vdi", 64, "\x7f\x10\xda\xbe", 4, true},
    {"vmdk", 0, "KDMV", 4, false},       {"vmdk", 0, "# Disk Desc", 11, false},
    {"vhdx", 0, "vhdxfile", 8, true},    {"vpc", 0, "conectix", 8, false},
};

static const char *format_of_suffix(const char *path)
{
    g_autofree char *lower = g_ascii_strdown(path, -1);

    for (size_t i = 0; i < G_N_ELEMENTS(suffixes); i++) {
        if (g_str_has_suffix(lower, suffixes[i].suffix)) {
            return suffixes[i].format;
        }
    }
    return NULL;
}

const char *image_format_of_name(const char *path, const char *format)
{
    const char *found = format ? format : format_of_suffix(path);

    return found ? found : "raw";
}

bool image_is_raw(const char *format)
{
    return !format || g_str_equal(format, "raw");
}

/* --- What is in a file -------------------------------------------------- */

static uint64_t big_endian(const unsigned char *bytes, size_t count)
{
    uint64_t value = 0;

    for (size_t i = 0; i < count; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static bool qcow2_is_alone(const unsigned char *header)
{
    if (big_endian(header + QCOW2_BACKING_AT, 8) != 0) {
        return false;
    }
    return big_endian(header + QCOW2_VERSION_AT, 4) < 3 ||
           !(big_endian(header + QCOW2_INCOMPATIBLE_AT, 8) & QCOW2_DATA_FILE);
}

/* The index in `magics`, or -1. */
static int recognise(const unsigned char *header)
{
    for (size_t i = 0; i < G_N_ELEMENTS(magics); i++) {
        if (memcmp(header + magics[i].offset, magics[i].magic,
                   magics[i].bytes) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static bool read_header(const char *path, unsigned char *header, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : pread(fd, header, HEADER_BYTES, 0);

    if (got < 0) {
        error_from_errno(error, errno, "%s", path);
    }
    if (fd >= 0) {
        close(fd);
    }
    return got >= 0;
}

const char *image_format(const char *path, const char *format, GError **error)
{
    unsigned char header[HEADER_BYTES] = {0};
    int index;

    if (!format) {
        format = format_of_suffix(path);
    }
    if (format) {
        return format;
    }
    if (!read_header(path, header, error)) {
        return NULL;
    }
    index = recognise(header);
    if (index < 0) {
        return "raw";
    }
    if (magics[index].alone || (g_str_equal(magics[index].format, "qcow2") &&
                                qcow2_is_alone(header))) {
        return magics[index].format;
    }
    g_set_error(error, CLI_ERROR, CODE_USAGE,
                "%s looks like a %s image that may refer to other files; say "
                "--format %s if you trust it, or --format raw",
                path, magics[index].format, magics[index].format);
    return NULL;
}

/* --- QEMU's tools ------------------------------------------------------- */

static char *find_tool(const char *name, GError **error)
{
    char *path = g_find_program_in_path(name);

    if (!path) {
        g_set_error(error, CLI_ERROR, CODE_FAILED,
                    "%s is needed for this image format and isn't installed "
                    "(Debian: apt install qemu-utils)",
                    name);
    }
    return path;
}

/* Absolute, so that QEMU takes no colon in it for a protocol. */
static char *absolute(const char *path)
{
    return g_canonicalize_filename(path, NULL);
}

struct copy_side *image_open(const char *path, const char *format,
                             bool writable, GError **error)
{
    g_autofree char *tool = find_tool("qemu-nbd", error);
    g_autofree char *session = g_find_program_in_path("setsid");
    g_autofree char *file = absolute(path);
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);

    if (!tool) {
        return NULL;
    }
    /* Ctrl-C is meant for us: we end the server when we are done with it. */
    if (session) {
        g_ptr_array_add(argv, g_steal_pointer(&session));
    }
    g_ptr_array_add(argv, g_steal_pointer(&tool));
    g_ptr_array_add(argv, g_strdup_printf("--format=%s", format));
    g_ptr_array_add(argv, g_strdup(writable ? "--discard=unmap"
                                            : "--read-only"));
    g_ptr_array_add(argv, g_strdup("--cache=writeback"));
    g_ptr_array_add(argv, g_steal_pointer(&file));
    g_ptr_array_add(argv, NULL);
    return side_nbd_command((char **)argv->pdata, writable, error);
}

/* vpc rounds sizes to what a BIOS of 1996 could address unless told not to. */
static const char *format_options(const char *format)
{
    return g_str_equal(format, "vpc") ? "force_size=on" : NULL;
}

bool image_create(const char *path, const char *format, uint64_t size_bytes,
                  GError **error)
{
    g_autofree char *tool = find_tool("qemu-img", error);
    g_autofree char *file = absolute(path);
    g_autofree char *size =
        g_strdup_printf("%" G_GUINT64_FORMAT, size_bytes);
    const char *options = format_options(format);
    char *argv[] = {tool,          (char *)"create", (char *)"-q",
                    (char *)"-f",  (char *)format,   file,
                    size,          (char *)(options ? "-o" : NULL),
                    (char *)options, NULL};
    g_autoptr(GError) failure = NULL;
    int status;

    if (!tool) {
        return false;
    }
    if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, NULL,
                      NULL, &status, &failure) ||
        !g_spawn_check_wait_status(status, &failure)) {
        g_set_error(error, CLI_ERROR, CODE_FAILED, "qemu-img create: %s",
                    failure->message);
        return false;
    }
    return true;
}
