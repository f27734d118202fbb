/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the dir store does to all objects of an id at once. */
#include "store/dir-internal.h"

#include "base/error.h"
#include "base/sys.h"
#include "store/dir-format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* --- Walking folders ------------------------------------------------------ */

int dir_walk(int at_fd, const char *name,
             int (*each)(int folder_fd, const char *entry, void *opaque),
             void *opaque)
{
    int fd = TEMP_FAILURE_RETRY(sys.openat(
        at_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0));
    struct dirent *entry;
    int result = 0;
    DIR *folder;

    if (fd < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    folder = fdopendir(fd);
    if (!folder) {
        result = -errno;
        sys.close(fd);
        return result;
    }
    while (result == 0 && (errno = 0, entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") != 0 &&
            strcmp(entry->d_name, "..") != 0) {
            result = each(fd, entry->d_name, opaque);
        }
    }
    if (result == 0) {
        result = -errno;
    }
    closedir(folder);
    return result;
}

/* --- Listing -------------------------------------------------------------- */

struct listing {
    enum store_kind kind;
    int (*each)(uint64_t number, uint64_t allocated_bytes, void *opaque);
    void *opaque;
    int answer;                 /* non-zero: `each` ended it */
};

static int list_file(int folder_fd, const char *name, uint64_t number,
                     struct listing *listing)
{
    struct stat status;

    if (sys.fstatat(folder_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    if (!S_ISREG(status.st_mode)) {
        return 0;
    }
    listing->answer = listing->each(number, (uint64_t)status.st_blocks * 512,
                                    listing->opaque);
    return listing->answer != 0;
}

static int list_numbered(int folder_fd, const char *name, void *opaque)
{
    uint64_t number;

    return dir_parse_number(name, &number)
               ? list_file(folder_fd, name, number, opaque)
               : 0;
}

static int list_fan(int folder_fd, const char *name, void *opaque)
{
    uint64_t fan;

    return dir_parse_number(name, &fan)
               ? dir_walk(folder_fd, name, list_numbered, opaque)
               : 0;
}

static int list_journal(int folder_fd, const char *name, void *opaque)
{
    static const char prefix[] = "journal.";
    uint64_t epoch;

    return g_str_has_prefix(name, prefix) &&
                   dir_parse_number(name + strlen(prefix), &epoch)
               ? list_file(folder_fd, name, epoch, opaque)
               : 0;
}

static int open_id(struct dir_store *dir, enum store_kind kind,
                   const struct id128 *id)
{
    char path[DIR_PATH_BYTES];

    dir_id_path(kind, id, path);
    return dir_open(dir, path, O_RDONLY | O_DIRECTORY);
}

int dir_list_objects(struct store *store, enum store_kind kind,
                     const struct id128 *id,
                     int (*each)(uint64_t number, uint64_t allocated_bytes,
                                 void *opaque),
                     void *opaque, GError **error)
{
    struct listing listing = {kind, each, opaque, 0};
    int fd = open_id(store->state, kind, id);
    int result = fd;

    if (fd == -ENOENT) {
        return 0;
    }
    if (fd >= 0) {
        result = dir_walk(fd, kind == STORE_PAGE ? "pages" : ".",
                      kind == STORE_JOURNAL ? list_journal : list_fan,
                      &listing);
        sys.close(fd);
    }
    if (listing.answer != 0) {
        return listing.answer;
    }
    return result < 0 ? error_set_errno(error, -result,
                                        "cannot list the objects of a layer "
                                        "in %s", dir_path_of(store))
                      : 0;
}

int dir_allocated(struct store *store, const struct store_object *object,
                  uint64_t *bytes, GError **error)
{
    struct dir_store *dir = store->state;
    char path[DIR_PATH_BYTES];
    struct stat status;
    int fd, result = 0;

    dir_object_path(object, path);
    fd = dir_open(dir, path, O_PATH);
    if (fd < 0) {
        return error_set_errno(error, -fd, "%s/%s", dir_path_of(store), path);
    }
    if (sys.fstat(fd, &status) < 0) {
        result = error_set_errno(error, errno, "%s/%s", dir_path_of(store),
                                 path);
    } else {
        *bytes = (uint64_t)status.st_blocks * 512;
    }
    sys.close(fd);
    return result;
}

/* --- Syncing -------------------------------------------------------------- */

/* A fresh descriptor: it learns of write-back that failed and wasn't told to
 * anybody yet, such as that of a process that died. */
static int sync_file_system(struct dir_store *dir)
{
    int fd = dir_open(dir, ".", O_RDONLY | O_DIRECTORY);
    int result;

    if (fd < 0) {
        return fd;
    }
    do {
        result = sys.syncfs(fd);
    } while (result < 0 && errno == EINTR);
    result = result < 0 ? -errno : 0;
    sys.close(fd);
    return result;
}

int dir_sync_all(struct store *store, enum store_kind kind,
                 const struct id128 *id, GError **error)
{
    struct dir_store *dir = store->state;
    int result = sync_file_system(dir);

    if (result == 0) {      /* also of what others synced meanwhile */
        result = dir_files_failure(dir, kind, id);
    }
    return result < 0 ? error_set_errno(error, -result, "cannot sync %s",
                                        dir_path_of(store))
                      : 0;
}

/* --- Removing ------------------------------------------------------------- */

/* A file, or a folder with all in it; links are removed, not followed. */
static int remove_entry(int folder_fd, const char *name, void *opaque)
{
    int result;

    if (sys.unlinkat(folder_fd, name, 0) == 0 || errno == ENOENT) {
        return 0;
    }
    if (errno != EISDIR && errno != EPERM) {
        return -errno;
    }
    result = dir_walk(folder_fd, name, remove_entry, NULL);
    if (result < 0) {
        return result;
    }
    return sys.unlinkat(folder_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT
               ? 0
               : -errno;
}

/* Is the lock of the place somebody else's?  If not it's ours in `fd`, unless
 * it has none. */
static bool is_taken(struct dir_store *dir, const char *path, int *fd)
{
    g_autofree char *lock = g_strconcat(path, "/lock", NULL);

    *fd = dir_open(dir, lock, O_RDWR);
    return *fd >= 0 && sys.flock(*fd, LOCK_EX | LOCK_NB) < 0 &&
           errno == EWOULDBLOCK;
}

/* The place of an id.  Its lock goes with the rest, and whoever wants that may
 * make it again before the folder goes; who then has it, has the place. */
static int remove_place(struct dir_store *dir, const char *path, int folder_fd,
                        const char *leaf)
{
    int result = remove_entry(folder_fd, leaf, NULL);

    for (int tries = 0; result == -ENOTEMPTY && tries < 8; tries++) {
        int fd;

        result = is_taken(dir, path, &fd) ? 0
                                          : remove_entry(folder_fd, leaf, NULL);
        if (fd >= 0) {
            sys.close(fd);
        }
    }
    return result;
}

/* The header goes first: without it the rest means nothing. */
static int remove_id(struct dir_store *dir, const char *path)
{
    g_autofree char *header = g_strconcat(path, "/header", NULL);
    const char *leaf;
    int folder_fd = dir_open_parent(dir, path, &leaf);
    int result;

    if (folder_fd < 0) {
        return folder_fd == -ENOENT ? 0 : folder_fd;
    }
    result = dir_unlink(dir, header);
    if (result == 0 || result == -ENOENT) {
        result = remove_place(dir, path, folder_fd, leaf);
    }
    if (result == 0 && TEMP_FAILURE_RETRY(sys.fsync(folder_fd)) < 0) {
        result = -errno;
    }
    sys.close(folder_fd);
    return result;
}

int dir_remove_all(struct store *store, enum store_kind kind,
                   const struct id128 *id, GError **error)
{
    struct dir_store *dir = store->state;
    struct dir_loan loan = {0};
    char path[DIR_PATH_BYTES];
    int result;

    dir_id_path(kind, id, path);
    do {
        result = remove_id(dir, path);
    } while (dir_reserve_lend(dir, &loan, result));
    dir_files_removed(dir, kind, id);
    dir_reserve_look(dir);
    return result < 0 ? error_set_errno(error, -result, "cannot remove %s/%s",
                                        dir_path_of(store), path)
                      : 0;
}
