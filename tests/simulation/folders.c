/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Simulated calls: what files are like, locks, folders. */
#include "calls.h"
#include "fibers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#define DEVICE 77

/* --- What is there, and locks --------------------------------------------- */

static void fill_status(const struct inode *inode, struct stat *status)
{
    uint64_t blocks = 0;

    for (unsigned i = 0; i < inode->now.count; i++) {
        blocks += inode->now.chunks[i] ? 8 : 0;
    }
    *status = (struct stat){
        .st_dev = DEVICE,
        .st_ino = inode->number,
        .st_nlink = inode->links,
        .st_mode = inode->is_folder ? S_IFDIR : S_IFREG,
        .st_size = (off_t)inode->size_now,
        .st_blocks = (blkcnt_t)blocks,
    };
}

int sim_fstat(int fd, struct stat *status)
{
    if (call_begin("fstat", 0, 0)) {
        return -1;
    }
    fill_status(fd_inode(fd), status);
    return 0;
}

int sim_fstatat(int folder_fd, const char *path, struct stat *status,
                 int flags)
{
    struct entry *entry;

    if (call_begin("statat", 0, 0) || inject("fstatat", EIO)) {
        return -1;
    }
    entry = folder_find(fd_inode(folder_fd), path);
    if (!entry) {
        return call_fail(ENOENT);
    }
    fill_status(entry->inode, status);
    return 0;
}

int sim_flock(int fd, int operation)
{
    struct descriptor *descriptor = fd_get(fd);
    struct inode *inode = fd_inode(fd);

    g_assert(operation & LOCK_NB);
    if (call_begin("lock", inode->number, (uint64_t)operation) ||
        inject("flock", EIO)) {
        return -1;
    }
    if ((operation & LOCK_EX) &&
        (inode->exclusive ||
         inode->shared_count > (descriptor->shared ? 1 : 0))) {
        return call_fail(EWOULDBLOCK);
    }
    if ((operation & LOCK_SH) && inode->exclusive) {
        return call_fail(EWOULDBLOCK);
    }
    fd_unlock(descriptor);
    if (operation & LOCK_EX) {
        inode->exclusive = descriptor->exclusive = true;
    } else {
        inode->shared_count++;
        descriptor->shared = true;
    }
    return 0;
}

int sim_fstatfs(int fd, struct statfs *space)
{
    uint64_t total = disk.limit ? disk.limit : disk.used + (1u << 20);

    if (call_begin("statfs", 0, 0) || inject("fstatfs", EIO)) {
        return -1;
    }
    g_assert(fd_inode(fd));
    *space = (struct statfs){ .f_bsize = 4096, .f_frsize = 4096,
                              .f_blocks = total };
    space->f_bfree = space->f_bavail = total - MIN(total, disk.used);
    return 0;
}

/* --- Folders -------------------------------------------------------------- */

int sim_mkdirat(int folder_fd, const char *path, mode_t mode)
{
    struct inode *folder = fd_inode(folder_fd);

    if (call_begin("mkdirat", folder->number, 0)) {
        return -1;
    }
    if (folder_find(folder, path)) {
        return call_fail(EEXIST);
    }
    if (folder->links == 0) {
        return call_fail(ENOENT);
    }
    if (inject_kind(FAULT_NAME, "mkdir", ENOSPC)) {
        return -1;
    }
    if (!disk_has_room()) {
        return call_fail_full("mkdir");
    }
    disk_note("mkdir %s", path);
    folder_change(folder, NULL, path, inode_new(true));
    return 0;
}

int sim_unlinkat(int folder_fd, const char *path, int flags)
{
    struct inode *folder = fd_inode(folder_fd);
    struct entry *entry;

    if (call_begin("unlinkat", folder->number, 0) ||
        inject_kind(FAULT_NAME, "unlink", EIO)) {
        return -1;
    }
    entry = folder_find(folder, path);
    if (!entry) {
        return call_fail(ENOENT);
    }
    if (entry->inode->is_folder && !(flags & AT_REMOVEDIR)) {
        return call_fail(EISDIR);
    }
    if (entry->inode->is_folder && entry->inode->entries_now->len) {
        return call_fail(ENOTEMPTY);
    }
    disk_note("unlink %s (%u) from %u", path, entry->inode->number,
              folder->number);
    folder_change(folder, path, NULL, NULL);
    return 0;
}

int sim_linkat(int from_fd, const char *from, int to_fd, const char *to,
               int flags)
{
    struct inode *folder = fd_inode(from_fd);
    struct entry *entry;

    g_assert(folder == fd_inode(to_fd));
    if (call_begin("linkat", folder->number, 0)) {
        return -1;
    }
    entry = folder_find(folder, from);
    if (!entry || folder_find(folder, to)) {
        return call_fail(entry ? EEXIST : ENOENT);
    }
    if (inject_kind(FAULT_NAME, "link", random_below(2) ? ENOSPC : EIO)) {
        return -1;
    }
    disk_note("link %s to %s", from, to);
    folder_change(folder, NULL, to, entry->inode);
    return 0;
}

int sim_renameat2(int from_fd, const char *from, int to_fd, const char *to,
                  unsigned flags)
{
    struct inode *folder = fd_inode(from_fd);
    struct entry *entry;

    g_assert(folder == fd_inode(to_fd) && flags == 0);
    if (call_begin("renameat", folder->number, 0)) {
        return -1;
    }
    entry = folder_find(folder, from);
    if (!entry) {
        return call_fail(ENOENT);
    }
    if (inject_kind(FAULT_NAME, "rename", random_below(2) ? ENOSPC : EIO)) {
        return -1;
    }
    disk_note("rename %s to %s (%u) in %u", from, to, entry->inode->number,
              folder->number);
    folder_change(folder, from, to, entry->inode);
    return 0;
}

/* What readdir() gives: the names of one moment. */
struct listing {
    int fd;
    GArray *names;              /* struct entry */
    guint at;
    struct dirent entry;
};

DIR *__wrap_fdopendir(int fd);
struct dirent *__wrap_readdir64(DIR *folder);
int __wrap_closedir(DIR *folder);
int __wrap_dirfd(DIR *folder);

DIR *__wrap_fdopendir(int fd)
{
    struct inode *inode = fd_inode(fd);
    struct listing *listing;

    if (call_begin("dir", inode->number, 0) || inject("fdopendir", ENOMEM)) {
        return NULL;
    }
    listing = g_new0(struct listing, 1);
    listing->fd = fd;
    listing->names = g_array_new(FALSE, FALSE, sizeof(struct entry));
    g_array_append_vals(listing->names, inode->entries_now->data,
                        inode->entries_now->len);
    return (DIR *)listing;
}

struct dirent *__wrap_readdir64(DIR *folder)
{
    struct listing *listing = (struct listing *)folder;

    if (call_begin("readdir", 0, 0) || inject("readdir", EIO) ||
        listing->at == listing->names->len) {
        return NULL;
    }
    g_strlcpy(listing->entry.d_name,
              g_array_index(listing->names, struct entry, listing->at++).name,
              sizeof(listing->entry.d_name));
    return &listing->entry;
}

int __wrap_closedir(DIR *folder)
{
    struct listing *listing = (struct listing *)folder;

    sim_close(listing->fd);
    g_array_unref(listing->names);
    g_free(listing);
    return 0;
}

int __wrap_dirfd(DIR *folder)
{
    return ((struct listing *)folder)->fd;
}
