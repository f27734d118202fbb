/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dir store's names on disk, and opening them.
 *
 * Nothing here leaves the store's folder or follows a symbolic link, whatever
 * somebody planted inside: by openat2() where the kernel has it, else folder by
 * folder with O_NOFOLLOW.
 */
#include "store/dir-internal.h"

#include "base/sys.h"
#include "store/dir-format.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* --- Names ---------------------------------------------------------------- */

void dir_id_path(enum store_kind kind, const struct id128 *id,
                 char path[DIR_PATH_BYTES])
{
    char text[ID128_TEXT_BYTES];

    id128_text(id, text);
    snprintf(path, DIR_PATH_BYTES, "%s/%.2s/%s",
             kind == STORE_BLOCK ? "blocks" : "maps", text, text);
}

void dir_object_path(const struct store_object *name,
                     char path[DIR_PATH_BYTES])
{
    size_t at;

    dir_id_path(name->kind, &name->id, path);
    at = strlen(path);
    if (name->kind == STORE_JOURNAL) {
        snprintf(path + at, DIR_PATH_BYTES - at, "/journal.%016" PRIx64,
                 name->number);
    } else {
        snprintf(path + at, DIR_PATH_BYTES - at, "%s/%03" PRIx64 "/%" PRIx64,
                 name->kind == STORE_PAGE ? "/pages" : "",
                 name->number >> DIR_FAN_BITS, name->number);
    }
}

bool dir_parse_number(const char *text, uint64_t *number)
{
    size_t length = strlen(text);

    if (length == 0 || length > 16 ||
        strspn(text, "0123456789abcdef") != length) {
        return false;
    }
    *number = g_ascii_strtoull(text, NULL, 16);
    return true;
}

/* --- Opening -------------------------------------------------------------- */

static atomic_bool openat2_missing;

static int open_walking(int root_fd, const char *path, int flags, mode_t mode)
{
    char part[DIR_PATH_BYTES];
    int folder_fd = root_fd;
    const char *slash;
    int fd;

    while ((slash = strchr(path, '/'))) {
        g_assert(slash - path < DIR_PATH_BYTES);
        memcpy(part, path, slash - path);
        part[slash - path] = '\0';
        fd = TEMP_FAILURE_RETRY(sys.openat(
            folder_fd, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0));
        if (fd < 0) {
            fd = -errno;
        }
        if (folder_fd != root_fd) {
            sys.close(folder_fd);
        }
        if (fd < 0) {
            return fd;
        }
        folder_fd = fd;
        path = slash + 1;
    }
    fd = TEMP_FAILURE_RETRY(
        sys.openat(folder_fd, path, flags | O_NOFOLLOW | O_CLOEXEC, mode));
    if (fd < 0) {
        fd = -errno;
    }
    if (folder_fd != root_fd) {
        sys.close(folder_fd);
    }
    return fd;
}

static int open_beneath(struct dir_store *dir, const char *path, int flags,
                        uint64_t resolve)
{
    struct open_how how = {
        .flags = (uint64_t)(flags | O_NOFOLLOW | O_CLOEXEC),
        .mode = flags & O_CREAT ? 0666 : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | resolve,
    };
    int fd;

    if (!atomic_load_explicit(&openat2_missing, memory_order_relaxed)) {
        do {
            fd = sys.openat2(dir->root_fd, path, &how, sizeof(how));
        } while (fd < 0 && errno == EINTR);
        if (fd >= 0) {
            return fd;
        }
        if (errno != ENOSYS && errno != EPERM) {
            return -errno;
        }
        if (errno == ENOSYS) {
            atomic_store(&openat2_missing, true);
        }
    }
    if (resolve) {
        return -EAGAIN;
    }
    return open_walking(dir->root_fd, path, flags, (mode_t)how.mode);
}

int dir_open(struct dir_store *dir, const char *path, int flags)
{
    return open_beneath(dir, path, flags, 0);
}

int dir_open_cached(struct dir_store *dir, const char *path, int flags)
{
    return open_beneath(dir, path, flags, RESOLVE_CACHED);
}

int dir_open_parent(struct dir_store *dir, const char *path, const char **leaf)
{
    const char *slash = strrchr(path, '/');
    char parent[DIR_PATH_BYTES] = ".";

    if (slash) {
        g_assert(slash - path < DIR_PATH_BYTES);
        memcpy(parent, path, slash - path);
        parent[slash - path] = '\0';
    }
    *leaf = slash ? slash + 1 : path;
    return dir_open(dir, parent, O_RDONLY | O_DIRECTORY);
}

int dir_unlink(struct dir_store *dir, const char *path)
{
    const char *leaf;
    int folder_fd = dir_open_parent(dir, path, &leaf);
    int result;

    if (folder_fd < 0) {
        return folder_fd;
    }
    result = sys.unlinkat(folder_fd, leaf, 0) < 0 ? -errno : 0;
    sys.close(folder_fd);
    return result;
}

static int make_folder(struct dir_store *dir, const char *path)
{
    const char *leaf;
    int folder_fd = dir_open_parent(dir, path, &leaf);
    int result;

    if (folder_fd < 0) {
        return folder_fd;
    }
    result = sys.mkdirat(folder_fd, leaf, 0777) < 0 ? -errno : 0;
    sys.close(folder_fd);
    return result;
}

static int make_parents(struct dir_store *dir, const char *path)
{
    char part[DIR_PATH_BYTES];

    for (const char *slash = strchr(path, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        int result;

        g_assert(slash - path < DIR_PATH_BYTES);
        memcpy(part, path, slash - path);
        part[slash - path] = '\0';
        result = make_folder(dir, part);
        if (result < 0 && result != -EEXIST) {
            return result;
        }
    }
    return 0;
}

/* Before anything is built in the store: that it is one must be durable, and who
 * made it may have died before (D7). */
static int sync_root_once(struct dir_store *dir)
{
    if (g_atomic_int_get(&dir->root_synced)) {
        return 0;
    }
    if (TEMP_FAILURE_RETRY(sys.fsync(dir->root_fd)) < 0) {
        return -errno;
    }
    g_atomic_int_set(&dir->root_synced, 1);
    return 0;
}

/* As soon as a folder is there another thread may put something into it, and
 * sync that (D8).  Those that were there already may not have been synced by
 * whoever made them (D7). */
int dir_make_parents(struct dir_store *dir, const char *path)
{
    int result = sync_root_once(dir);

    if (result < 0) {
        return result;
    }
    dir_folders_making(dir, path);
    result = make_parents(dir, path);
    dir_folders_made(dir, path);
    return result;
}
