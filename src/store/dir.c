/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dir:PATH, a store in a directory of any file system: dir-format.h has the
 * layout, dir-internal.h the parts.
 *
 * Options:
 *   io=auto|direct|buffered   how data goes to the disk; auto finds out
 *   fds=N                     open files kept, 4 to 65536; by default 4096
 *                             or half of what the process may have
 *   threads=N                 for what may block, 1 to 256
 *   warning=N, critical=N     percent of space in use from which status says
 *                             so; 80 and 95
 */
#include "store/dir-internal.h"

#include "base/crc32c.h"
#include "base/error.h"
#include "base/sys.h"
#include "store/dir-format.h"
#include "store/location.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FDS_DEFAULT 4096
#define THREADS_DEFAULT 16
#define WARNING_DEFAULT 80
#define CRITICAL_DEFAULT 95

static const char *const store_folders[] = {"names", "intents", "maps",
                                            "blocks"};

/* --- Is it a store? ------------------------------------------------------- */

static int check_format(const char *path, GBytes *value, GError **error)
{
    const struct dir_format *format = g_bytes_get_data(value, NULL);
    uint32_t version;

    if (g_bytes_get_size(value) != sizeof(*format) ||
        memcmp(format->magic, DIR_FORMAT_MAGIC, sizeof(format->magic)) != 0) {
        return error_set(error, EUCLEAN,
                         "%s/" DIR_FORMAT_NAME " is damaged: it doesn't begin "
                         "as it should", path);
    }
    version = GUINT32_FROM_BE(format->version);
    if (version > DIR_FORMAT_VERSION) {
        return error_set(error, EOPNOTSUPP,
                         "%s was made by a newer version of Archipelago: it "
                         "has store format %u, this one knows %u", path,
                         version, DIR_FORMAT_VERSION);
    }
    if (crc32c(0, format, offsetof(struct dir_format, crc)) !=
        GUINT32_FROM_BE(format->crc)) {
        return error_set(error, EUCLEAN,
                         "%s/" DIR_FORMAT_NAME " is damaged: its checksum is "
                         "wrong", path);
    }
    if (format->incompatible != 0) {
        return error_set(error, EOPNOTSUPP,
                         "%s uses features that this version doesn't know "
                         "(bits %#" G_GINT64_MODIFIER "x)", path,
                         GUINT64_FROM_BE(format->incompatible));
    }
    return 0;
}

/* -ENOENT, without an error text, when there is no format file. */
static int read_format(struct dir_store *dir, const char *path, GError **error)
{
    g_autoptr(GBytes) value = NULL;
    int result = dir_get_file(dir, DIR_FORMAT_NAME, sizeof(struct dir_format),
                              &value);

    if (result == -ENOENT) {
        return result;
    }
    if (result == -EFBIG) {
        return error_set(error, EUCLEAN, "%s/" DIR_FORMAT_NAME " is damaged: "
                         "it is too long", path);
    }
    if (result < 0) {
        return error_set_errno(error, -result,
                               "cannot read %s/" DIR_FORMAT_NAME, path);
    }
    return check_format(path, value, error);
}

static int find_other(int folder_fd, const char *entry, void *allowed)
{
    return !g_str_has_prefix(entry, DIR_TEMPORARY) &&
           !g_strv_contains(allowed, entry);
}

/* 1: nothing in there but what `allowed` names. */
static int has_only(struct dir_store *dir, const char *path,
                    const char *const *allowed)
{
    int found = dir_walk(dir->root_fd, path, find_other, (void *)allowed);

    return found < 0 ? found : !found;
}

/* Empty, as mkfs leaves it, or as a creation that a crash ended. */
static int is_empty(struct dir_store *dir)
{
    static const char *const allowed[] = {"lost+found", "names",  "intents",
                                          "maps",       "blocks", DIR_RESERVE,
                                          NULL};
    static const char *const none[] = {NULL};
    int empty = has_only(dir, ".", allowed);

    for (size_t i = 0; i < G_N_ELEMENTS(store_folders) && empty == 1; i++) {
        empty = has_only(dir, store_folders[i], none);
    }
    return empty;
}

static int create_format(struct dir_store *dir)
{
    struct dir_format format = {
        .version = GUINT32_TO_BE(DIR_FORMAT_VERSION),
        .created_ns = GUINT64_TO_BE((uint64_t)sys.realtime_ns()),
    };
    struct id128 uuid = id128_random();

    memcpy(format.magic, DIR_FORMAT_MAGIC, sizeof(format.magic));
    memcpy(format.uuid, uuid.bytes, sizeof(format.uuid));
    format.crc = GUINT32_TO_BE(
        crc32c(0, &format, offsetof(struct dir_format, crc)));
    return dir_put_file(dir, DIR_FORMAT_NAME, &format, sizeof(format), true);
}

/* Folders first, then the format file, which syncs all of it.  Another process
 * may be doing the same. */
static int create_store(struct dir_store *dir, const char *path, GError **error)
{
    int result = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(store_folders) && result == 0; i++) {
        if (sys.mkdirat(dir->root_fd, store_folders[i], 0777) < 0 &&
            errno != EEXIST) {
            result = -errno;
        }
    }
    if (result == 0) {
        result = create_format(dir);
    }
    if (result < 0 && result != -EEXIST) {
        return error_set_errno(error, -result, "cannot make a store in %s",
                               path);
    }
    result = read_format(dir, path, error);
    if (result == 0) {
        dir_reserve_look(dir);
    }
    return result == -ENOENT ? error_set(error, ENOENT, "%s vanished", path)
                             : result;
}

static int find_store(struct dir_store *dir, const char *path, unsigned flags,
                      GError **error)
{
    int result = read_format(dir, path, error);
    int empty;

    if (result != -ENOENT) {
        return result;
    }
    empty = is_empty(dir);
    if (empty < 0) {
        return error_set_errno(error, -empty, "cannot read %s", path);
    }
    if (!empty) {
        /* Perhaps made by another process since we looked. */
        result = read_format(dir, path, error);
        if (result != -ENOENT) {
            return result;
        }
        return error_set(error, EINVAL,
                         "not an Archipelago store: %s has other things in it "
                         "and no " DIR_FORMAT_NAME "; name a store or an empty "
                         "directory", path);
    }
    if (!(flags & STORE_OPEN_CREATE)) {
        return error_set(error, ENOENT,
                         "%s is an empty directory; creating a volume there "
                         "makes it a store", path);
    }
    return create_store(dir, path, error);
}

/* --- How to do I/O -------------------------------------------------------- */

struct alignment {
    uint32_t offset_bytes, memory_bytes;
};

/* Can one unit be written and read back?  -ENOSPC: can't tell. */
static int try_alignment(int fd, const struct alignment *alignment)
{
    size_t bytes = alignment->offset_bytes;
    struct iovec iov = {NULL, bytes};
    bool works, full;

    if (posix_memalign(&iov.iov_base, MAX(alignment->memory_bytes, 64),
                       bytes)) {
        return -ENOMEM;
    }
    memset(iov.iov_base, 0x5a, bytes);
    works = TEMP_FAILURE_RETRY(sys.pwritev2(fd, &iov, 1, (off_t)bytes, 0)) ==
            (ssize_t)bytes;
    full = !works && dir_is_full(-errno);
    memset(iov.iov_base, 0, bytes);
    works = works &&
            TEMP_FAILURE_RETRY(sys.preadv2(fd, &iov, 1, (off_t)bytes, 0)) ==
                (ssize_t)bytes &&
            *(uint8_t *)iov.iov_base == 0x5a;
    free(iov.iov_base);
    return works ? 0 : full ? -ENOSPC : -EINVAL;
}

/* What the kernel says, if it does. */
static bool ask_alignment(int fd, struct alignment *alignment)
{
#ifdef STATX_DIOALIGN
    struct statx status;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) &&
        status.stx_dio_offset_align > 0) {
        alignment->offset_bytes = status.stx_dio_offset_align;
        alignment->memory_bytes = status.stx_dio_mem_align;
        return true;
    }
#endif
    return false;
}

/* In a full file system nothing can be tried: then what the kernel says is
 * believed, or what does anywhere. */
static bool find_alignment(int fd, struct alignment *alignment)
{
    static const uint32_t likely_bytes[] = {512, 4096};
    int result = -EINVAL;

    if (ask_alignment(fd, alignment)) {
        result = try_alignment(fd, alignment);
        return result == 0 || result == -ENOSPC;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(likely_bytes) && result != 0; i++) {
        *alignment = (struct alignment){likely_bytes[i], likely_bytes[i]};
        result = try_alignment(fd, alignment);
    }
    return result == 0 || result == -ENOSPC;
}

/* A file to try on, without a name if the file system can. */
static int open_trial(struct dir_store *dir)
{
    int flags = O_RDWR | O_DIRECT | O_CLOEXEC;
    int fd = TEMP_FAILURE_RETRY(
        sys.openat(dir->root_fd, ".", flags | O_TMPFILE, 0600));
    struct id128 random = id128_random();
    char name[64], text[ID128_TEXT_BYTES];

    if (fd >= 0) {
        return fd;
    }
    snprintf(name, sizeof(name), DIR_TEMPORARY "%s",
             id128_text(&random, text));
    fd = TEMP_FAILURE_RETRY(
        sys.openat(dir->root_fd, name, flags | O_CREAT | O_EXCL, 0600));
    if (fd >= 0) {
        sys.unlinkat(dir->root_fd, name, 0);
    }
    return fd;
}

/* Nothing can be made there, but does the system open files so? */
static bool full_opens_direct(struct dir_store *dir)
{
    int fd;

    if (!dir_is_full(-errno)) {
        return false;
    }
    fd = dir_open(dir, DIR_FORMAT_NAME, O_RDONLY | O_DIRECT);
    if (fd >= 0) {
        sys.close(fd);
    }
    return fd >= 0;
}

/* Does O_DIRECT work here?  Then sets the store's alignments. */
static bool probe_direct(struct dir_store *dir)
{
    struct alignment alignment = {4096, 4096};
    int fd = open_trial(dir);
    bool works;

    if (fd < 0) {
        works = full_opens_direct(dir);
    } else {
        works = find_alignment(fd, &alignment);
        sys.close(fd);
    }
    if (works) {
        dir->store->alignment_bytes = alignment.offset_bytes;
        dir->store->memory_alignment_bytes = MAX(alignment.memory_bytes, 1);
    }
    return works;
}

static int choose_io(struct dir_store *dir, const char *path,
                     GHashTable *options, GError **error)
{
    const char *io = g_hash_table_lookup(options, "io");

    if (!io || strcmp(io, "auto") == 0) {
        dir->direct = probe_direct(dir);
        return 0;
    }
    if (strcmp(io, "buffered") == 0) {
        return 0;
    }
    if (strcmp(io, "direct") != 0) {
        return error_set(error, EINVAL,
                         "option io=%s: it is auto, direct or buffered", io);
    }
    dir->direct = probe_direct(dir);
    return dir->direct ? 0
                       : error_set(error, EOPNOTSUPP,
                                   "option io=direct: O_DIRECT doesn't work "
                                   "in %s; io=buffered would", path);
}

/* --- Opening and closing -------------------------------------------------- */

static uint64_t default_fds(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 ||
        limit.rlim_cur == RLIM_INFINITY) {
        return FDS_DEFAULT;
    }
    return CLAMP(limit.rlim_cur / 2, 4, FDS_DEFAULT);
}

static int open_root(struct dir_store *dir, const char *path, GError **error)
{
    dir->root_fd = TEMP_FAILURE_RETRY(
        sys.openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
    if (dir->root_fd >= 0) {
        return 0;
    }
    if (errno == ENOENT) {
        return error_set(error, ENOENT,
                         "there is no directory \"%s\"; make it (mkdir -p) or "
                         "mount what should be there", path);
    }
    return error_set_errno(error, errno, "cannot open the directory \"%s\"",
                           path);
}

static void folder_free(gpointer data)
{
    struct dir_folder *folder = data;

    g_free(folder->path);
    g_free(folder);
}

static struct dir_store *dir_store_new(struct store *store, const char *path)
{
    struct dir_store *dir = g_new0(struct dir_store, 1);

    dir->store = store;
    dir->path = g_strdup(path);
    dir->root_fd = -1;
    g_mutex_init(&dir->lock);
    g_cond_init(&dir->synced);
    dir->folders = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                         folder_free);
    dir->known_folders = g_hash_table_new_full(g_str_hash, g_str_equal,
                                               g_free, NULL);
    return dir;
}

static void dir_store_free(struct dir_store *dir)
{
    if (dir->root_fd >= 0) {
        sys.close(dir->root_fd);
    }
    g_hash_table_unref(dir->folders);
    g_hash_table_unref(dir->known_folders);
    g_cond_clear(&dir->synced);
    g_mutex_clear(&dir->lock);
    g_free(dir->path);
    g_free(dir);
}

struct numbers {
    uint64_t fds, threads, warning, critical;
};

static int get_numbers(GHashTable *options, struct numbers *numbers,
                       GError **error)
{
    const struct {
        const char *key;
        uint64_t min, max, *value;
    } all[] = {
        {"fds", 4, 65536, &numbers->fds},
        {"threads", 1, 256, &numbers->threads},
        {"warning", 1, 100, &numbers->warning},
        {"critical", 1, 100, &numbers->critical},
    };
    int result = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(all) && result == 0; i++) {
        result = location_get_number(options, all[i].key, all[i].min,
                                     all[i].max, all[i].value, error);
    }
    return result;
}

static int dir_store_open(struct store *store, const char *path,
                          GHashTable *options, unsigned flags, GError **error)
{
    static const char *const known[] = {"io", "fds", "threads", "warning",
                                        "critical", NULL};
    struct numbers numbers = {default_fds(), THREADS_DEFAULT, WARNING_DEFAULT,
                              CRITICAL_DEFAULT};
    struct dir_store *dir;
    int result = location_check_options(options, "dir", known, error);

    if (result == 0) {
        result = get_numbers(options, &numbers, error);
    }
    if (result < 0) {
        return result;
    }
    dir = dir_store_new(store, path);
    dir->warning_percent = (unsigned)numbers.warning;
    dir->critical_percent = (unsigned)numbers.critical;
    result = open_root(dir, path, error);
    if (result == 0) {
        dir_reserve_init(dir);
        result = find_store(dir, path, flags, error);
    }
    if (result == 0) {
        result = choose_io(dir, path, options, error);
    }
    if (result < 0) {
        dir_store_free(dir);
        return result;
    }
    dir_cache_init(dir, (unsigned)numbers.fds);
    dir_pool_init(&dir->pool, (unsigned)numbers.threads);
    store->full_size = true;
    store->state = dir;
    return 0;
}

static void dir_store_close(struct store *store)
{
    struct dir_store *dir = store->state;

    dir_pool_clear(&dir->pool);
    dir_cache_clear(dir);
    dir_reserve_tend(dir);
    dir_store_free(dir);
}

static int dir_status(struct store *store, struct store_status *status,
                      GError **error)
{
    struct dir_store *dir = store->state;
    struct statfs space;

    if (sys.fstatfs(dir->root_fd, &space) < 0) {
        return error_set_errno(error, errno, "cannot ask for the space in %s",
                               dir->path);
    }
    *status = (struct store_status){
        .total_bytes = dir_total_bytes(&space),
        .free_bytes = dir_free_bytes(&space),
        .file_count = space.f_files,
        .free_file_count = space.f_ffree,
        .reserve_bytes = dir_reserve_held(dir),
        .reserve_wanted_bytes = dir_reserve_wanted(dir),
        .warning_percent = dir->warning_percent,
        .critical_percent = dir->critical_percent,
    };
    g_strlcpy(status->io,
              dir->direct ? "direct (libaio)" : "buffered (threads)",
              sizeof(status->io));
    return 0;
}

const struct store_driver store_dir = {
    .name = "dir",
    .open = dir_store_open,
    .close = dir_store_close,
    .status = dir_status,
    .queue_open = dir_queue_open,
    .queue_close = dir_queue_close,
    .queue_fd = dir_queue_fd,
    .submit = dir_queue_submit,
    .kick = dir_queue_kick,
    .poll = dir_queue_poll,
    .get = dir_get,
    .put = dir_put,
    .drop = dir_drop,
    .list = dir_list,
    .list_objects = dir_list_objects,
    .allocated = dir_allocated,
    .sync_all = dir_sync_all,
    .remove_all = dir_remove_all,
    .lock = dir_lock,
    .unlock = dir_unlock,
    .holder = dir_holder,
    .exclude_readers = dir_exclude_readers,
    .admit_readers = dir_admit_readers,
    .look = dir_look,
    .list_ids = dir_list_ids,
    .list_sizes = dir_list_sizes,
    .list_strays = dir_list_strays,
    .trim = dir_trim,
    .set_aside = dir_set_aside,
    .take_back = dir_take_back,
    .reset_lock = dir_reset_lock,
};
