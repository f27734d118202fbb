/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The nbdkit plugin: volumes served over NBD.
 *
 * Life cycle.  nbdkit loads the plugin, hands over its parameters, perhaps
 * forks, and only then serves.  A lock belongs to the process that took it, so
 * this process opens nothing before archipelago_after_fork().  What is wrong
 * with store or volume shall nevertheless be said while somebody still reads
 * stderr: a child that ends again tries them (archipelago_get_ready()).
 *
 * Handles.  The NBD handle is the shared volume itself (shared.h); nothing is
 * kept for a connection.  Requests come on many threads, each of which waits
 * for its own.
 */
#include "shared.h"
#include "shutdown.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define BLOCK_BYTES_PREFERRED 4096u
#define BLOCK_BYTES_MAX (32u << 20)
#define EXTENT_BATCH 256
#define CACHE_STEP_BYTES (256u << 10)

/* Set while configuring, then constant. */
static const char *store_parameter; /* nbdkit's */
static const char *volume_name;     /* nbdkit's; NULL: the export chooses */
static int64_t create_bytes;        /* make the volume if there is none; or 0 */
static char *store_location;        /* NULL: the library's default */

/* Set after the fork, then constant. */
static archip_store *store;
static bool store_caches; /* reads go through the page cache */

/* --- Parameters ----------------------------------------------------------- */

static int set_once(const char **parameter, const char *key, const char *value)
{
    if (*parameter) {
        nbdkit_error("parameter %s was given twice", key);
        return -1;
    }
    if (!*value) {
        nbdkit_error("parameter %s must not be empty", key);
        return -1;
    }
    *parameter = value;
    return 0;
}

static int archipelago_config(const char *key, const char *value)
{
    if (!strcmp(key, "store")) {
        return set_once(&store_parameter, key, value);
    }
    if (!strcmp(key, "volume")) {
        return set_once(&volume_name, key, value);
    }
    if (!strcmp(key, "create")) {
        create_bytes = nbdkit_parse_size(value);
        return create_bytes < 0 ? -1 : 0;
    }
    nbdkit_error("unknown parameter '%s': there are store=, volume= and "
                 "create=", key);
    return -1;
}

/* nbdkit changes to "/" when it goes into the background, so a relative
 * directory is resolved while it still means what the user meant. */
static int resolve_location(const char *location)
{
    char *path;

    if (!g_str_has_prefix(location, "dir:") || location[4] == '/') {
        store_location = g_strdup(location);
        return 0;
    }
    path = nbdkit_absolute_path(location + 4);
    if (!path) {
        return -1;
    }
    store_location = g_strconcat("dir:", path, NULL);
    free(path);
    return 0;
}

static int archipelago_config_complete(void)
{
    const char *location = store_parameter;

    if (volume_name && archip_name_check(volume_name) < 0) {
        nbdkit_error("parameter volume: %s", archip_error());
        return -1;
    }
    if (create_bytes && !volume_name) {
        nbdkit_error("parameter create needs volume=NAME");
        return -1;
    }
    if (!location) {
        location = getenv("ARCHIPELAGO_STORE");
    }
    return location && *location ? resolve_location(location) : 0;
}

static void archipelago_dump_plugin(void)
{
    printf("archipelago_library_version=%s\n", archip_version());
    printf("archipelago_header_version=%d.%d.%d\n", ARCHIP_VERSION_MAJOR,
           ARCHIP_VERSION_MINOR, ARCHIP_VERSION_PATCH);
}

/* --- Start and end -------------------------------------------------------- */

/* Open the store; with create=, the volume is in it afterwards. */
static int open_store(archip_store **opened)
{
    int result = archip_store_open(
        store_location, create_bytes ? ARCHIP_STORE_CREATE : 0, opened);

    if (result == 0 && create_bytes) {
        result = archip_volume_create(*opened, volume_name, create_bytes, NULL);
    }
    return result == -EEXIST ? 0 : result;
}

/* In the child: open what the server will open, write what is wrong. */
static _Noreturn void probe(int fd)
{
    archip_store *probed = NULL;
    archip_volume *volume = NULL;
    int result = open_store(&probed);

    if (result == 0 && volume_name) {
        result = archip_volume_open(probed, volume_name, 0, OWNER, &volume);
    }
    if (result < 0) {
        dprintf(fd, "%s", archip_error());
    }
    _exit(result < 0);
}

/* What the child wrote, and its end; returns false if it found a fault. */
static bool collect_probe(pid_t pid, int fd, GString *text)
{
    char buffer[512];
    ssize_t bytes;
    int status = -1;

    while ((bytes = read(fd, buffer, sizeof(buffer))) > 0) {
        g_string_append_len(text, buffer, bytes);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int archipelago_get_ready(void)
{
    g_autoptr(GString) text = g_string_new(NULL);
    int fds[2];
    pid_t pid;
    bool good;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        nbdkit_error("pipe: %m");
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        probe(fds[1]);
    }
    close(fds[1]);
    good = pid > 0 && collect_probe(pid, fds[0], text);
    close(fds[0]);
    if (!good) {
        nbdkit_error("%s", text->len ? text->str : "can't try the store");
        return -1;
    }
    return 0;
}

static int archipelago_after_fork(void)
{
    archip_store_status status = {0};
    int result = open_store(&store);

    if (result == 0) {
        result = archip_store_get_status(store, &status);
    }
    if (result < 0) {
        return report(result, "opening the store");
    }
    store_caches = strcmp(status.io, "direct") != 0;
    shutdown_watch();
    nbdkit_debug("store %s, I/O %s", status.location, status.io);
    return 0;
}

/* The connections have ended, but those that lasted until the shutdown were
 * never closed. */
static void archipelago_cleanup(void)
{
    shutdown_unwatch();
    shared_close_all();
    g_clear_pointer(&store, archip_store_close);
}

static void archipelago_unload(void)
{
    g_clear_pointer(&store_location, g_free);
}

/* --- Exports -------------------------------------------------------------- */

static char *size_text(uint64_t size_bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB",
                                        "GiB",   "TiB", "PiB"};
    double size = (double)size_bytes;
    size_t unit = 0;

    while (size >= 1024 && unit < G_N_ELEMENTS(units) - 1) {
        size /= 1024;
        unit++;
    }
    return g_strdup_printf("%.4g %s", size, units[unit]);
}

/* "1 GiB, read-only: what it is for"; the caller frees. */
static char *describe(const archip_volume_info *info)
{
    g_autofree char *size = size_text(info->size_bytes);
    g_autofree char *text = g_strconcat(
        size, info->flags & ARCHIP_VOLUME_READONLY ? ", read-only" : "",
        *info->description ? ": " : "", info->description, NULL);

    return g_utf8_make_valid(text, -1);
}

static int add_export(const archip_volume_info *info, const char *error,
                      void *opaque)
{
    g_autofree char *text =
        error ? g_utf8_make_valid(error, -1) : describe(info);

    return nbdkit_add_export(opaque, info->name, text);
}

/* The one volume that this server has, without reading every other header. */
static int add_only_export(struct nbdkit_exports *exports)
{
    archip_volume_info info = {0};
    archip_volume *volume = NULL;
    int result = archip_volume_open(store, volume_name, 0, OWNER, &volume);

    if (result == 0) {
        result = archip_volume_get_info(volume, &info);
    }
    g_strlcpy(info.name, volume_name, sizeof(info.name));
    result = add_export(&info, result < 0 ? archip_error() : NULL, exports);
    archip_volume_close(volume);
    return result;
}

static int archipelago_list_exports(int readonly, int is_tls,
                                    struct nbdkit_exports *exports)
{
    int result;

    if (volume_name) {
        return add_only_export(exports);
    }
    result = archip_volume_list(store, add_export, exports);
    if (result < -1) {
        return report(result, "listing volumes");
    }
    return result;
}

/* NULL refuses a client that names no export. */
static const char *archipelago_default_export(int readonly, int is_tls)
{
    return volume_name;
}

static void *archipelago_open(int readonly)
{
    const char *name = nbdkit_export_name();
    int result;

    if (!name) {
        return NULL;
    }
    if (volume_name && *name && strcmp(name, volume_name)) {
        nbdkit_error("export '%s' is not served here, only '%s' is", name,
                     volume_name);
        return NULL;
    }
    if (!*name) {
        name = volume_name;
    }
    if (!name) {
        nbdkit_error("the client must name a volume as its export");
        return NULL;
    }
    result = archip_name_check(name);
    if (result < 0) {
        report(result, "export");
        return NULL;
    }
    return shared_connect(store, name, readonly);
}

static void archipelago_close(void *handle)
{
    shared_disconnect(handle);
}

static const char *archipelago_export_description(void *handle)
{
    archip_volume_info info = {0};
    g_autofree char *text = NULL;

    if (archip_volume_get_info(shared_get_volume(handle), &info) < 0) {
        return NULL;
    }
    text = describe(&info);
    return nbdkit_strdup_intern(text);
}

/* --- What a connection is told -------------------------------------------- */

static int64_t archipelago_get_size(void *handle)
{
    return (int64_t)archip_volume_size(shared_get_volume(handle));
}

/* Anything is served; what isn't whole blocks costs reading or copying them. */
static int archipelago_block_size(void *handle, uint32_t *minimum,
                                  uint32_t *preferred, uint32_t *maximum)
{
    archip_volume_info info = {0};
    int result = archip_volume_get_info(shared_get_volume(handle), &info);

    if (result < 0) {
        return report(result, "block size");
    }
    *minimum = 1;
    *preferred =
        MAX(BLOCK_BYTES_PREFERRED, MAX(info.block_bytes, info.alignment_bytes));
    *maximum = BLOCK_BYTES_MAX;
    return 0;
}

/* Also for flush, trim and zero, which go with it. */
static int archipelago_can_write(void *handle)
{
    return shared_is_writable(handle);
}

static int archipelago_can_fua(void *handle)
{
    return archipelago_can_write(handle) ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
}

static int archipelago_can_cache(void *handle)
{
    return NBDKIT_CACHE_NATIVE;
}

static int archipelago_true(void *handle)
{
    return 1;
}

/* --- Requests ------------------------------------------------------------- */

static int archipelago_pread(void *handle, void *buffer, uint32_t count,
                             uint64_t offset, uint32_t flags)
{
    archip_queue *queue = shared_borrow(handle);
    int result;

    if (!queue) {
        return -1;
    }
    result = archip_read(queue, buffer, count, offset);
    shared_return(handle, queue);
    return result < 0 ? report(result, "read") : 0;
}

static int archipelago_pwrite(void *handle, const void *buffer, uint32_t count,
                              uint64_t offset, uint32_t flags)
{
    archip_queue *queue = shared_borrow(handle);
    int result;

    if (!queue) {
        return -1;
    }
    result = archip_write(queue, buffer, count, offset,
                          flags & NBDKIT_FLAG_FUA ? ARCHIP_FUA : 0);
    shared_return(handle, queue);
    return result < 0 ? report(result, "write") : 0;
}

static int archipelago_flush(void *handle, uint32_t flags)
{
    archip_queue *queue = shared_borrow(handle);
    int result;

    if (!queue) {
        return -1;
    }
    result = archip_flush(queue);
    shared_return(handle, queue);
    return result < 0 ? report(result, "flush") : 0;
}

/* A discard has no FUA of its own. */
static int archipelago_trim(void *handle, uint32_t count, uint64_t offset,
                            uint32_t flags)
{
    archip_queue *queue = shared_borrow(handle);
    int result;

    if (!queue) {
        return -1;
    }
    result = archip_discard(queue, offset, count);
    if (result == 0 && flags & NBDKIT_FLAG_FUA) {
        result = archip_flush(queue);
    }
    shared_return(handle, queue);
    return result < 0 ? report(result, "trim") : 0;
}

static unsigned zero_flags(uint32_t flags)
{
    return (flags & NBDKIT_FLAG_MAY_TRIM ? ARCHIP_MAY_UNMAP : 0) |
           (flags & NBDKIT_FLAG_FUA ? ARCHIP_FUA : 0) |
           (flags & NBDKIT_FLAG_FAST_ZERO ? ARCHIP_NO_FALLBACK : 0);
}

/* A fast zero that would be slow is an answer, not an error to be logged. */
static int archipelago_zero(void *handle, uint32_t count, uint64_t offset,
                            uint32_t flags)
{
    archip_queue *queue = shared_borrow(handle);
    int result;

    if (!queue) {
        return -1;
    }
    result = archip_write_zeroes(queue, offset, count, zero_flags(flags));
    shared_return(handle, queue);
    if (result == -ENOTSUP) {
        nbdkit_set_error(ENOTSUP);
        return -1;
    }
    return result < 0 ? report(result, "zero") : 0;
}

/* --- Extents and cache ---------------------------------------------------- */

static uint32_t extent_type(const archip_extent *extent)
{
    if (!(extent->flags & ARCHIP_EXTENT_DATA)) {
        return NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
    }
    return extent->flags & ARCHIP_EXTENT_ZERO ? NBDKIT_EXTENT_ZERO : 0;
}

/* A walk over the extents of a range. */
struct extent_walk {
    archip_queue *queue;
    uint64_t offset_bytes; /* of the next extent */
    uint64_t end_bytes;
    /* Returns 0, 1 to end the walk, or -1 with the error reported. */
    int (*each)(struct extent_walk *walk, const archip_extent *extent);
    void *opaque;
    uint32_t flags;      /* the request's */
    uint32_t first_type; /* of the extent that the walk began with */
    bool begun;
};

/* Returns 0 or -1 with the error reported. */
static int extent_walk_run(struct extent_walk *walk)
{
    archip_extent extents[EXTENT_BATCH];
    int count, result;

    while (walk->offset_bytes < walk->end_bytes) {
        count = archip_extents(walk->queue, walk->offset_bytes,
                               walk->end_bytes - walk->offset_bytes, extents,
                               EXTENT_BATCH);
        if (count < 0) {
            return report(count, "extents");
        }
        for (int i = 0; i < count; i++) {
            result = walk->each(walk, &extents[i]);
            if (result != 0) {
                return MIN(result, 0);
            }
            walk->offset_bytes += extents[i].length_bytes;
        }
    }
    return 0;
}

/* A client that wants one extent gets all of that one, which may have come in
 * pieces. */
static int extent_report(struct extent_walk *walk, const archip_extent *extent)
{
    uint32_t type = extent_type(extent);

    if (walk->begun && walk->flags & NBDKIT_FLAG_REQ_ONE &&
        type != walk->first_type) {
        return 1;
    }
    if (!walk->begun) {
        walk->first_type = type;
        walk->begun = true;
    }
    return nbdkit_add_extent(walk->opaque, walk->offset_bytes,
                             extent->length_bytes, type);
}

static int archipelago_extents(void *handle, uint32_t count, uint64_t offset,
                               uint32_t flags, struct nbdkit_extents *extents)
{
    struct extent_walk walk = {.queue = shared_borrow(handle),
                               .offset_bytes = offset,
                               .end_bytes = offset + count,
                               .each = extent_report,
                               .opaque = extents,
                               .flags = flags};
    int result;

    if (!walk.queue) {
        return -1;
    }
    result = extent_walk_run(&walk);
    shared_return(handle, walk.queue);
    return result;
}

/* The walk itself brings the map into memory.  Reading the data too is of use
 * only where it passes through the page cache. */
static int extent_cache(struct extent_walk *walk, const archip_extent *extent)
{
    uint64_t done_bytes = 0;

    if (!store_caches || extent_type(extent) != 0) {
        return 0;
    }
    while (done_bytes < extent->length_bytes) {
        size_t step = MIN(CACHE_STEP_BYTES, extent->length_bytes - done_bytes);
        int result = archip_read(walk->queue, walk->opaque, step,
                                 walk->offset_bytes + done_bytes);

        if (result < 0) {
            return report(result, "cache");
        }
        done_bytes += step;
    }
    return 0;
}

static int archipelago_cache(void *handle, uint32_t count, uint64_t offset,
                             uint32_t flags)
{
    g_autofree void *buffer = g_malloc(CACHE_STEP_BYTES);
    struct extent_walk walk = {.queue = shared_borrow(handle),
                               .offset_bytes = offset,
                               .end_bytes = offset + count,
                               .each = extent_cache,
                               .opaque = buffer};
    int result;

    if (!walk.queue) {
        return -1;
    }
    result = extent_walk_run(&walk);
    shared_return(handle, walk.queue);
    return result;
}

/* --- The table ------------------------------------------------------------ */

static struct nbdkit_plugin plugin = {
    .name = "archipelago",
    .longname = "nbdkit archipelago plugin",
    .version = PLUGIN_VERSION,
    .description = "Serves Archipelago volumes, which keep their data in "
                   "objects of a store.",
    .unload = archipelago_unload,
    .config = archipelago_config,
    .config_complete = archipelago_config_complete,
    .config_help =
        "store=LOCATION    The store; default: $ARCHIPELAGO_STORE, else the\n"
        "                  one that archipelago.conf names, else the user's.\n"
        "[volume=]NAME     The volume; default: the one that the client names\n"
        "                  as its export.\n"
        "create=SIZE       Make the volume when there is none of its name.",
    .magic_config_key = "volume",
    .dump_plugin = archipelago_dump_plugin,
    .get_ready = archipelago_get_ready,
    .after_fork = archipelago_after_fork,
    .cleanup = archipelago_cleanup,
    .list_exports = archipelago_list_exports,
    .default_export = archipelago_default_export,
    .open = archipelago_open,
    .close = archipelago_close,
    .export_description = archipelago_export_description,
    .get_size = archipelago_get_size,
    .block_size = archipelago_block_size,
    .can_write = archipelago_can_write,
    .can_flush = archipelago_can_write,
    .can_trim = archipelago_can_write,
    .can_zero = archipelago_can_write,
    .can_fast_zero = archipelago_can_write,
    .can_extents = archipelago_true,
    .can_fua = archipelago_can_fua,
    .can_multi_conn = archipelago_true,
    .can_cache = archipelago_can_cache,
    .pread = archipelago_pread,
    .pwrite = archipelago_pwrite,
    .flush = archipelago_flush,
    .trim = archipelago_trim,
    .zero = archipelago_zero,
    .extents = archipelago_extents,
    .cache = archipelago_cache,
    .errno_is_preserved = 1,
};

struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
