/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dir store's records: small files that are replaced as a whole.
 *
 * The new value goes to a temporary file beside, is synced (D8), and takes the
 * name by rename(), or by link() where it must be the first; then the folder is
 * synced.  The writer has its temporary file locked, so whoever cleans up knows
 * by trying the lock whether a crash left it.
 */
#include "store/dir-internal.h"

#include "base/error.h"
#include "base/sys.h"
#include "store/dir-format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

/* --- Names ---------------------------------------------------------------- */

/* The rule of archip_name_check(), again: what gets here becomes a path. */
bool dir_name_is_safe(const char *name)
{
    return name && (g_ascii_isalnum(name[0]) || name[0] == '_') &&
           strlen(name) <= 128 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz"
                        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-") ==
               strlen(name);
}

int dir_record_path(const struct store_record *record,
                    char path[DIR_PATH_BYTES], GError **error)
{
    char id[ID128_TEXT_BYTES];

    switch (record->kind) {
    case STORE_NAME:
        if (!dir_name_is_safe(record->text)) {
            return error_set(error, EINVAL, "\"%s\" is not a name",
                             record->text ? record->text : "");
        }
        snprintf(path, DIR_PATH_BYTES, "names/%s", record->text);
        return 0;
    case STORE_INTENT:
        snprintf(path, DIR_PATH_BYTES, "intents/%s",
                 id128_text(&record->id, id));
        return 0;
    case STORE_HEADER:
        dir_id_path(STORE_PAGE, &record->id, path);
        strcat(path, "/header");
        return 0;
    }
    g_assert_not_reached();
}

static int sync_fd(int fd)
{
    int result;

    do {
        result = sys.fsync(fd);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

/* --- Reading -------------------------------------------------------------- */

int dir_read_all(int fd, uint8_t *buffer, size_t bytes)
{
    size_t at = 0;

    while (at < bytes) {
        struct iovec iov = {buffer + at, bytes - at};
        ssize_t got = sys.preadv2(fd, &iov, 1, (off_t)at, 0);

        if (got == 0) {
            break;
        }
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        at += got > 0 ? (size_t)got : 0;
    }
    return (int)at;
}

int dir_get_file(struct dir_store *dir, const char *path, size_t bytes_max,
                 GBytes **value)
{
    g_autofree uint8_t *buffer = g_malloc(bytes_max + 1);
    int fd = dir_open(dir, path, O_RDONLY | O_NONBLOCK);
    int got;

    if (fd < 0) {
        return fd;
    }
    got = dir_read_all(fd, buffer, bytes_max + 1);
    sys.close(fd);
    if (got < 0) {
        return got;
    }
    if ((size_t)got > bytes_max) {
        return -EFBIG;
    }
    *value = g_bytes_new(buffer, (gsize)got);
    return 0;
}

/* Whoever removed the name may have died before he made that durable (D11). */
static int confirm_absence(struct dir_store *dir)
{
    int fd = dir_open(dir, "names", O_RDONLY | O_DIRECTORY);
    int result;

    if (fd < 0) {
        return fd == -ENOENT ? 0 : fd;
    }
    result = sync_fd(fd);
    sys.close(fd);
    return result;
}

int dir_get(struct store *store, const struct store_record *record,
            GBytes **value, GError **error)
{
    char path[DIR_PATH_BYTES];
    int result = dir_record_path(record, path, error);

    if (result < 0) {
        return result;
    }
    result = dir_get_file(store->state, path, STORE_RECORD_BYTES_MAX, value);
    if (result == -EFBIG) {
        return error_set(error, EUCLEAN,
                         "%s/%s is damaged: it is larger than any record",
                         dir_path_of(store), path);
    }
    if (result == -ENOENT && record->kind == STORE_NAME) {
        result = confirm_absence(store->state);
        result = result < 0 ? result : -ENOENT;
    }
    if (result == -ENOENT) {
        /* Often just asked; the system's text would take a lock for it. */
        return error_set(error, ENOENT, "there is no %s/%s",
                         dir_path_of(store), path);
    }
    return result < 0 ? error_set_errno(error, -result, "cannot read %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}

/* --- Writing -------------------------------------------------------------- */

static int write_all(int fd, const uint8_t *value, size_t bytes)
{
    size_t at = 0;

    while (at < bytes) {
        struct iovec iov = {(void *)(value + at), bytes - at};
        ssize_t put = sys.pwritev2(fd, &iov, 1, (off_t)at, 0);

        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        if (put == 0) {
            return -ENOSPC;
        }
        at += put > 0 ? (size_t)put : 0;
    }
    return 0;
}

/* A locked, synced file of that content; `name` is set.  Returns its
 * descriptor. */
static int write_temporary(int folder_fd, char name[64], const void *value,
                           size_t bytes)
{
    struct id128 random = id128_random();
    char text[ID128_TEXT_BYTES];
    int fd, result;

    snprintf(name, 64, DIR_TEMPORARY "%s", id128_text(&random, text));
    fd = TEMP_FAILURE_RETRY(
        sys.openat(folder_fd, name,
                   O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (fd < 0) {
        return -errno;
    }
    result =
        TEMP_FAILURE_RETRY(sys.flock(fd, LOCK_EX | LOCK_NB)) < 0 ? -errno : 0;
    if (result == 0) {
        result = write_all(fd, value, bytes);
    }
    if (result == 0) {
        result = sync_fd(fd);
    }
    if (result < 0) {
        sys.unlinkat(folder_fd, name, 0);
        sys.close(fd);
        return result;
    }
    return fd;
}

static int take_name(int folder_fd, const char *temporary, const char *leaf,
                     bool exclusive)
{
    int result;

    if (!exclusive) {
        return sys.renameat2(folder_fd, temporary, folder_fd, leaf, 0) < 0
                   ? -errno
                   : 0;
    }
    result = sys.linkat(folder_fd, temporary, folder_fd, leaf, 0);
    if (result == 0) {
        sys.unlinkat(folder_fd, temporary, 0);
        return 0;
    }
    if (errno != EPERM && errno != EOPNOTSUPP) {
        return -errno;
    }
    /* No hard links here. */
    return sys.renameat2(folder_fd, temporary, folder_fd, leaf,
                         RENAME_NOREPLACE) < 0
               ? -errno
               : 0;
}

/* One try; returns the locked file's descriptor. */
static int put_name(int folder_fd, const char *leaf, const void *value,
                    size_t bytes, bool exclusive)
{
    char temporary[64];
    int fd = write_temporary(folder_fd, temporary, value, bytes);
    int result;

    if (fd < 0) {
        return fd;
    }
    result = take_name(folder_fd, temporary, leaf, exclusive);
    if (result < 0) {
        sys.unlinkat(folder_fd, temporary, 0);
        sys.close(fd);
        return result;
    }
    return fd;
}

/* -ENOENT when a cleaner took the temporary file before it was locked.  What
 * has its name isn't tried again. */
static int put_in_folder(struct dir_store *dir, int folder_fd, const char *leaf,
                         const void *value, size_t bytes, bool exclusive)
{
    struct dir_loan loan = {bytes};
    int fd, result;

    do {
        fd = put_name(folder_fd, leaf, value, bytes, exclusive);
    } while (dir_reserve_lend(dir, &loan, fd));
    if (fd < 0) {
        return fd;
    }
    result = sync_fd(folder_fd);
    sys.close(fd);
    return result;
}

static int make_folders(struct dir_store *dir, const char *path)
{
    struct dir_loan loan = {0};
    int result;

    do {
        result = dir_make_parents(dir, path);
    } while (dir_reserve_lend(dir, &loan, result));
    return result;
}

int dir_put_file(struct dir_store *dir, const char *path, const void *value,
                 size_t bytes, bool exclusive)
{
    int result = -ENOENT;

    for (int tries = 0; tries < 8 && (result == -ENOENT ||
                                      result == -EWOULDBLOCK); tries++) {
        const char *leaf;
        int folder_fd = dir_open_parent(dir, path, &leaf);

        if (folder_fd == -ENOENT) {
            result = make_folders(dir, path);
            if (result < 0) {
                return result;
            }
            folder_fd = dir_open_parent(dir, path, &leaf);
        }
        if (folder_fd < 0) {
            return folder_fd;
        }
        result = put_in_folder(dir, folder_fd, leaf, value, bytes,
                               exclusive);
        sys.close(folder_fd);
    }
    return result < 0 ? result : dir_folders_sync(dir, path);
}

int dir_put(struct store *store, const struct store_record *record,
            const void *value, size_t bytes, bool exclusive, GError **error)
{
    char path[DIR_PATH_BYTES];
    int result = dir_record_path(record, path, error);

    g_assert(bytes <= STORE_RECORD_BYTES_MAX);
    if (result < 0) {
        return result;
    }
    result = dir_put_file(store->state, path, value, bytes, exclusive);
    return result < 0 ? error_set_errno(error, -result, "cannot write %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}

/* --- Removing ------------------------------------------------------------- */

static int drop_file(struct dir_store *dir, const char *path)
{
    const char *leaf;
    int folder_fd = dir_open_parent(dir, path, &leaf);
    struct dir_loan loan = {0};
    int result;

    if (folder_fd < 0) {
        return folder_fd == -ENOENT ? 0 : folder_fd;
    }
    do {
        result = sys.unlinkat(folder_fd, leaf, 0) < 0 ? -errno : 0;
    } while (dir_reserve_lend(dir, &loan, result));
    if (result == 0 || result == -ENOENT) {
        result = sync_fd(folder_fd);
    }
    sys.close(folder_fd);
    return result;
}

int dir_drop(struct store *store, const struct store_record *record,
             GError **error)
{
    char path[DIR_PATH_BYTES];
    int result = dir_record_path(record, path, error);

    if (result < 0) {
        return result;
    }
    result = drop_file(store->state, path);
    dir_reserve_tend(store->state);
    return result < 0 ? error_set_errno(error, -result, "cannot remove %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}

static void clean_temporary(int folder_fd, const char *name)
{
    int fd = TEMP_FAILURE_RETRY(sys.openat(
        folder_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0));

    if (fd < 0) {
        return;
    }
    if (TEMP_FAILURE_RETRY(sys.flock(fd, LOCK_EX | LOCK_NB)) == 0) {
        sys.unlinkat(folder_fd, name, 0);
    }
    sys.close(fd);
}

void dir_clean_temporaries(struct dir_store *dir, const char *path)
{
    int fd = dir_open(dir, path, O_RDONLY | O_DIRECTORY);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    if (!folder) {
        if (fd >= 0) {
            sys.close(fd);
        }
        return;
    }
    while ((entry = readdir(folder))) {
        if (g_str_has_prefix(entry->d_name, DIR_TEMPORARY)) {
            clean_temporary(dirfd(folder), entry->d_name);
        }
    }
    closedir(folder);
}

/* --- Listing -------------------------------------------------------------- */

/* Names in a folder; temporary ones that a crash left are removed. */
static int add_names(struct dir_store *dir, const char *path, GPtrArray *names)
{
    int fd = dir_open(dir, path, O_RDONLY | O_DIRECTORY);
    struct dirent *entry;
    DIR *folder;
    int result;

    if (fd < 0) {
        return fd == -ENOENT ? 0 : fd;
    }
    folder = fdopendir(fd);
    if (!folder) {
        result = -errno;
        sys.close(fd);
        return result;
    }
    while (errno = 0, (entry = readdir(folder))) {
        if (g_str_has_prefix(entry->d_name, DIR_TEMPORARY)) {
            if (!g_atomic_int_get(&dir->look_only)) {
                clean_temporary(fd, entry->d_name);
            }
        } else if (entry->d_name[0] != '.') {
            g_ptr_array_add(names, g_strdup(entry->d_name));
        }
    }
    result = -errno;
    closedir(folder);
    return result;
}

/* Every id that has a header. */
static int add_headers(struct dir_store *dir, GPtrArray *ids)
{
    g_autoptr(GPtrArray) parts = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
    int result = add_names(dir, "maps", parts);

    for (guint i = 0; i < parts->len && result == 0; i++) {
        g_autofree char *path = g_strdup_printf("maps/%s",
                                                (char *)parts->pdata[i]);

        if (strlen(parts->pdata[i]) == 2) {
            result = add_names(dir, path, found);
        }
    }
    for (guint i = 0; i < found->len && result == 0; i++) {
        g_autofree char *path = NULL;
        struct id128 id;
        int fd;

        if (!id128_parse(found->pdata[i], &id)) {
            continue;
        }
        path = g_strdup_printf("maps/%.2s/%s/header",
                               (char *)found->pdata[i],
                               (char *)found->pdata[i]);
        fd = dir_open(dir, path, O_PATH);
        if (fd >= 0) {
            sys.close(fd);
            g_ptr_array_add(ids, g_strdup(found->pdata[i]));
        }
    }
    return result;
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What the name says; false when it isn't one of ours. */
static bool parse_name(enum store_record_kind kind, const char *name,
                       struct store_record *record)
{
    *record = (struct store_record){.kind = kind};
    if (kind == STORE_NAME) {
        record->text = name;
        return dir_name_is_safe(name);
    }
    return id128_parse(name, &record->id);
}

int dir_list(struct store *store, enum store_record_kind kind,
             int (*each)(const struct store_record *record, void *opaque),
             void *opaque, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    struct dir_store *dir = store->state;
    int result;

    if (kind == STORE_HEADER) {
        result = add_headers(dir, names);
    } else {
        result = add_names(dir, kind == STORE_NAME ? "names" : "intents",
                           names);
    }
    if (result < 0) {
        return error_set_errno(error, -result, "cannot list %s",
                               dir_path_of(store));
    }
    g_ptr_array_sort(names, compare_names);
    for (guint i = 0; i < names->len && result == 0; i++) {
        struct store_record record;

        if (parse_name(kind, names->pdata[i], &record)) {
            result = each(&record, opaque);
        }
    }
    return result;
}
