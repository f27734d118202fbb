/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Temporary directories and what tests want to know of files: see scratch.h. */
#include "scratch.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <sys/stat.h>

char *scratch_new(void)
{
    const char *parent = g_getenv("ARCHIPELAGO_SCRATCH");
    char *path = g_build_filename(parent ? parent : "/var/tmp",
                                  "archipelago-test-XXXXXX", NULL);

    if (!g_mkdtemp(path)) {
        g_error("%s: %s", path, g_strerror(errno));
    }
    return path;
}

static bool is_directory(const char *path)
{
    struct stat status;

    return !lstat(path, &status) && S_ISDIR(status.st_mode);
}

void scratch_remove(const char *path)
{
    g_autoptr(GDir) dir = is_directory(path) ? g_dir_open(path, 0, NULL) : NULL;
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *child = g_build_filename(path, name, NULL);

        scratch_remove(child);
    }
    g_remove(path);
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static GPtrArray *sorted_children(const char *path)
{
    GPtrArray *children = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_ptr_array_add(children, g_build_filename(path, name, NULL));
    }
    g_ptr_array_sort(children, compare_names);
    return children;
}

void scratch_each(const char *path,
                  void (*each)(const char *file, void *opaque), void *opaque)
{
    g_autoptr(GPtrArray) children = sorted_children(path);

    for (guint i = 0; i < children->len; i++) {
        const char *child = children->pdata[i];

        if (is_directory(child)) {
            scratch_each(child, each, opaque);
        } else {
            each(child, opaque);
        }
    }
}

/* Its size is the file system's, not the test's. */
static bool is_reserve(const char *file)
{
    return g_str_has_suffix(file, "/reserve");
}

static void add_to_checksum(const char *file, void *opaque)
{
    g_autofree char *bytes = NULL;
    gsize length = 0;

    if (g_str_has_suffix(file, "/lock") || is_reserve(file)) {
        return;
    }
    g_checksum_update(opaque, (const guchar *)file, -1);
    if (g_file_get_contents(file, &bytes, &length, NULL)) {
        g_checksum_update(opaque, (const guchar *)bytes, (gssize)length);
    }
}

char *scratch_checksum(const char *path)
{
    GChecksum *checksum = g_checksum_new(G_CHECKSUM_SHA256);
    char *text;

    scratch_each(path, add_to_checksum, checksum);
    text = g_strdup(g_checksum_get_string(checksum));
    g_checksum_free(checksum);
    return text;
}

uint64_t scratch_file_allocated(const char *file)
{
    struct stat status;

    return lstat(file, &status) ? 0 : (uint64_t)status.st_blocks * 512;
}

static void add_allocated(const char *file, void *opaque)
{
    *(uint64_t *)opaque += is_reserve(file) ? 0 : scratch_file_allocated(file);
}

uint64_t scratch_allocated(const char *path)
{
    uint64_t bytes = 0;

    scratch_each(path, add_allocated, &bytes);
    return bytes;
}

struct search {
    const char *pattern;
    char *found;
};

static void match_file(const char *file, void *opaque)
{
    struct search *search = opaque;

    if (!search->found && g_pattern_match_simple(search->pattern, file)) {
        search->found = g_strdup(file);
    }
}

char *scratch_find(const char *path, const char *pattern)
{
    struct search search = {.pattern = pattern};

    scratch_each(path, match_file, &search);
    return search.found;
}

unsigned scratch_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned count = 0;

    while (g_dir_read_name(dir)) {
        count++;
    }
    return count - 1;   /* the directory's own */
}
