/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of the dir store's files and folders isn't durable yet, and making it
 * so.
 *
 * A change raises sync_point.changed after it completed.  A sync takes note of
 * that number, makes the system call, and only then says that changes up to
 * there are durable: so a change that completes during the call is never taken
 * for synced, and a sync that waited for another one goes on only if it is not
 * covered.  The kernel tells of a failed write-back once; whoever was waiting
 * when a sync failed gets the failure too (D6).
 */
#include "store/dir-internal.h"

#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* Make everything up to now durable by `call`, which is made unlocked. */
static int sync_point_run_locked(struct dir_store *dir,
                                 struct sync_point *point,
                                 int (*call)(struct dir_store *dir, void *what),
                                 void *what)
{
    uint64_t goal = point->changed, started;
    unsigned failures = point->failures;
    int result;

    while (point->running) {
        dir->sync_waiters++;
        g_cond_wait(&dir->synced, &dir->lock);
        dir->sync_waiters--;
        if (point->failures != failures) {
            return -point->last_error;
        }
    }
    if (point->synced >= goal) {
        return 0;
    }
    point->running = true;
    started = point->changed;
    g_mutex_unlock(&dir->lock);
    result = call(dir, what);
    g_mutex_lock(&dir->lock);
    point->running = false;
    if (result < 0) {
        point->failures++;
        point->last_error = -result;
    } else {
        point->synced = MAX(point->synced, started);
    }
    if (dir->sync_waiters > 0) {
        g_cond_broadcast(&dir->synced);
    }
    return result;
}

/* --- Files ---------------------------------------------------------------- */

static int sync_fd(struct dir_store *dir, void *what)
{
    struct dir_file *file = what;
    int result;

    do {
        result = sys.fdatasync(file->fd);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

void dir_file_changed(struct dir_store *dir, struct dir_file *file)
{
    g_mutex_lock(&dir->lock);
    file->sync.changed++;
    g_mutex_unlock(&dir->lock);
}

int dir_file_sync_locked(struct dir_store *dir, struct dir_file *file)
{
    return sync_point_run_locked(dir, &file->sync, sync_fd, file);
}

int dir_file_sync(struct dir_store *dir, struct dir_file *file)
{
    int result;

    g_mutex_lock(&dir->lock);
    result = dir_file_sync_locked(dir, file);
    g_mutex_unlock(&dir->lock);
    return result;
}

unsigned dir_file_failures(struct dir_store *dir, struct dir_file *file)
{
    unsigned failures;

    g_mutex_lock(&dir->lock);
    failures = file->sync.failures;
    g_mutex_unlock(&dir->lock);
    return failures;
}

bool dir_file_is_clean(struct dir_store *dir, struct dir_file *file)
{
    bool clean;

    g_mutex_lock(&dir->lock);
    clean = file->sync.synced >= file->sync.changed && !file->sync.running;
    g_mutex_unlock(&dir->lock);
    return clean;
}

/* --- Folders -------------------------------------------------------------- */

static int sync_folder(struct dir_store *dir, void *what)
{
    struct dir_folder *folder = what;
    int fd = dir_open(dir, folder->path, O_RDONLY | O_DIRECTORY);
    int result;

    if (fd < 0) {
        /* Removed: then what was in it needs no entry. */
        return fd == -ENOENT ? 0 : fd;
    }
    do {
        result = sys.fsync(fd);
    } while (result < 0 && errno == EINTR);
    result = result < 0 ? -errno : 0;
    sys.close(fd);
    return result;
}

static struct dir_folder *folder_get_locked(struct dir_store *dir,
                                            const char *path)
{
    struct dir_folder *folder = g_hash_table_lookup(dir->folders, path);

    if (!folder) {
        folder = g_new0(struct dir_folder, 1);
        folder->path = g_strdup(path);
        g_hash_table_insert(dir->folders, folder->path, folder);
    }
    return folder;
}

void dir_folder_changed(struct dir_store *dir, const char *path)
{
    g_mutex_lock(&dir->lock);
    folder_get_locked(dir, path)->sync.changed++;
    g_mutex_unlock(&dir->lock);
}

/* Call `each` for every folder above `path`, from the top, which is the store
 * itself: who made the folders in it may have died before it synced them. */
static int each_parent(struct dir_store *dir, const char *path,
                       int (*each)(struct dir_store *dir, const char *parent))
{
    char part[DIR_PATH_BYTES];
    int top = each(dir, ".");

    if (top < 0) {
        return top;
    }
    for (const char *slash = strchr(path, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        int result;

        g_assert(slash - path < DIR_PATH_BYTES);
        memcpy(part, path, slash - path);
        part[slash - path] = '\0';
        result = each(dir, part);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

static int making_in(struct dir_store *dir, const char *parent)
{
    g_mutex_lock(&dir->lock);
    folder_get_locked(dir, parent)->makers++;
    g_mutex_unlock(&dir->lock);
    return 0;
}

static int made_in(struct dir_store *dir, const char *parent)
{
    struct dir_folder *folder;

    g_mutex_lock(&dir->lock);
    folder = folder_get_locked(dir, parent);
    folder->makers--;
    folder->sync.changed++;
    g_mutex_unlock(&dir->lock);
    return 0;
}

void dir_folders_making(struct dir_store *dir, const char *path)
{
    each_parent(dir, path, making_in);
}

void dir_folders_made(struct dir_store *dir, const char *path)
{
    each_parent(dir, path, made_in);
}

static int doubt(struct dir_store *dir, const char *parent)
{
    dir_folder_changed(dir, parent);
    return 0;
}

void dir_file_made(struct dir_store *dir, const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    bool known;

    g_mutex_lock(&dir->lock);
    known = g_hash_table_contains(dir->known_folders, folder);
    g_mutex_unlock(&dir->lock);
    if (known) {
        dir_folder_changed(dir, folder);
        return;
    }
    each_parent(dir, path, doubt);
    g_mutex_lock(&dir->lock);
    g_hash_table_add(dir->known_folders, g_steal_pointer(&folder));
    g_mutex_unlock(&dir->lock);
}

static int sync_parent(struct dir_store *dir, const char *parent)
{
    struct dir_folder *folder;
    int result = 0;

    g_mutex_lock(&dir->lock);
    folder = g_hash_table_lookup(dir->folders, parent);
    if (folder) {
        folder->users++;
        folder->sync.changed += folder->makers > 0;
        result = sync_point_run_locked(dir, &folder->sync, sync_folder, folder);
        folder->users--;
        if (folder->users == 0 && folder->makers == 0 &&
            folder->sync.synced >= folder->sync.changed) {
            g_hash_table_remove(dir->folders, folder->path);
        }
    }
    g_mutex_unlock(&dir->lock);
    return result;
}

int dir_folders_sync(struct dir_store *dir, const char *path)
{
    return dir_folders_clean(dir) ? 0 : each_parent(dir, path, sync_parent);
}

bool dir_folders_clean(struct dir_store *dir)
{
    bool clean;

    g_mutex_lock(&dir->lock);
    clean = g_hash_table_size(dir->folders) == 0;
    g_mutex_unlock(&dir->lock);
    return clean;
}
