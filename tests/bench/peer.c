/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The peer of a volume: files and folders of the same sizes and in the same
 * places, written and synced by hand.  Syncs go through `sys`, so that what
 * slows down ours slows down these.
 */
#include "bench.h"

#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Those of the dir store. */
#define THREADS 16
#define AIO_DEPTH 256

struct peer_file {
    int fd;
    int folder_fd;
};

struct peer {
    char *folder;
    enum peer_way way;
    bool direct;
    size_t object_bytes;
    GArray *files;              /* struct peer_file, in order of creation */
    GHashTable *fans;           /* number -> descriptor of the folder */
    GHashTable *touched_files;  /* descriptors */
    GHashTable *touched_folders;
    int journal_fd;
    off_t journal_bytes;
    io_context_t aio;
    GThreadPool *pool;
    GMutex lock;
    GCond done;
    guint outstanding;
};

static void sync_in_pool(gpointer fd, gpointer opaque)
{
    struct peer *peer = opaque;

    bench_must(sys.fdatasync(GPOINTER_TO_INT(fd)), "fdatasync");
    g_mutex_lock(&peer->lock);
    if (--peer->outstanding == 0) {
        g_cond_signal(&peer->done);
    }
    g_mutex_unlock(&peer->lock);
}

struct peer *peer_new(const char *folder, enum peer_way way, bool direct,
                      size_t object_bytes)
{
    struct peer *peer = g_new0(struct peer, 1);
    g_autofree char *journal = g_build_filename(folder, "journal", NULL);

    peer->folder = g_strdup(folder);
    peer->way = way;
    peer->direct = direct;
    peer->object_bytes = object_bytes;
    peer->files = g_array_new(false, false, sizeof(struct peer_file));
    peer->fans = g_hash_table_new(NULL, NULL);
    peer->touched_files = g_hash_table_new(NULL, NULL);
    peer->touched_folders = g_hash_table_new(NULL, NULL);
    g_mutex_init(&peer->lock);
    g_cond_init(&peer->done);
    peer->pool = g_thread_pool_new(sync_in_pool, peer, THREADS, true, NULL);
    errno = -sys.aio_get(AIO_DEPTH, &peer->aio);
    bench_must(errno ? -1 : 0, "io_setup");
    peer->journal_fd = open(journal, O_RDWR | O_CREAT |
                            (direct ? O_DIRECT : 0), 0666);
    bench_must(peer->journal_fd, journal);
    return peer;
}

void peer_close_files(struct peer *peer)
{
    for (guint i = 0; i < peer->files->len; i++) {
        close(g_array_index(peer->files, struct peer_file, i).fd);
    }
    g_array_set_size(peer->files, 0);
}

void peer_free(struct peer *peer)
{
    GHashTableIter iter;
    gpointer fd;

    g_thread_pool_free(peer->pool, false, true);
    peer_close_files(peer);
    g_hash_table_iter_init(&iter, peer->fans);
    while (g_hash_table_iter_next(&iter, NULL, &fd)) {
        close(GPOINTER_TO_INT(fd));
    }
    close(peer->journal_fd);
    sys.aio_put(AIO_DEPTH, peer->aio);
    g_array_unref(peer->files);
    g_hash_table_unref(peer->fans);
    g_hash_table_unref(peer->touched_files);
    g_hash_table_unref(peer->touched_folders);
    g_mutex_clear(&peer->lock);
    g_cond_clear(&peer->done);
    g_free(peer->folder);
    g_free(peer);
}

/* --- Writing ------------------------------------------------------------------ */

/* The folder of objects of that fan; a new one makes its parent touched. */
static int fan_get(struct peer *peer, unsigned fan)
{
    gpointer known = g_hash_table_lookup(peer->fans, GUINT_TO_POINTER(fan));
    g_autofree char *path = NULL;
    int fd, parent_fd;

    if (known) {
        return GPOINTER_TO_INT(known);
    }
    path = g_strdup_printf("%s/%03x", peer->folder, fan);
    bench_must(mkdir(path, 0777), path);
    fd = open(path, O_RDONLY | O_DIRECTORY);
    bench_must(fd, path);
    g_hash_table_insert(peer->fans, GUINT_TO_POINTER(fan),
                        GINT_TO_POINTER(fd));
    parent_fd = openat(fd, "..", O_RDONLY | O_DIRECTORY);
    bench_must(parent_fd, peer->folder);
    bench_must(fsync(parent_fd), peer->folder);
    close(parent_fd);
    return fd;
}

void peer_write(struct peer *peer, unsigned file, const void *data,
                size_t bytes, uint64_t offset_bytes)
{
    int fd = g_array_index(peer->files, struct peer_file, file).fd;

    bench_must(pwrite(fd, data, bytes, (off_t)offset_bytes), "pwrite");
    g_hash_table_add(peer->touched_files, GINT_TO_POINTER(fd));
}

void peer_create(struct peer *peer, unsigned fan, uint64_t number,
                 const void *data, size_t bytes)
{
    struct peer_file file = {.folder_fd = fan_get(peer, fan)};
    char name[32];

    snprintf(name, sizeof(name), "%" G_GINT64_MODIFIER "x", number);
    file.fd = openat(file.folder_fd, name, O_RDWR | O_CREAT | O_EXCL |
                     (peer->direct ? O_DIRECT : 0), 0666);
    bench_must(file.fd, name);
    bench_must(ftruncate(file.fd, (off_t)peer->object_bytes), "ftruncate");
    g_array_append_val(peer->files, file);
    g_hash_table_add(peer->touched_folders, GINT_TO_POINTER(file.folder_fd));
    peer_write(peer, peer->files->len - 1, data, bytes, 0);
}

void peer_append(struct peer *peer, const void *data, size_t bytes)
{
    struct iovec iov = {(void *)data, bytes};

    bench_must(sys.pwritev2(peer->journal_fd, &iov, 1, peer->journal_bytes,
                            RWF_DSYNC), "append");
    peer->journal_bytes += (off_t)bytes;
}

/* --- Syncing ------------------------------------------------------------------- */

static void sync_by_threads(struct peer *peer, GHashTable *fds)
{
    GHashTableIter iter;
    gpointer fd;

    g_mutex_lock(&peer->lock);
    peer->outstanding = g_hash_table_size(fds);
    g_hash_table_iter_init(&iter, fds);
    while (g_hash_table_iter_next(&iter, &fd, NULL)) {
        g_thread_pool_push(peer->pool, fd, NULL);
    }
    while (peer->outstanding > 0) {
        g_cond_wait(&peer->done, &peer->lock);
    }
    g_mutex_unlock(&peer->lock);
}

static void sync_by_aio(struct peer *peer, GHashTable *fds)
{
    guint count = g_hash_table_size(fds), at = 0;
    g_autofree struct iocb *iocbs = g_new0(struct iocb, count);
    g_autofree struct iocb **list = g_new0(struct iocb *, count);
    g_autofree struct io_event *events = g_new0(struct io_event, count);
    GHashTableIter iter;
    gpointer fd;

    g_hash_table_iter_init(&iter, fds);
    while (g_hash_table_iter_next(&iter, &fd, NULL)) {
        list[at] = &iocbs[at];
        io_prep_fdsync(list[at++], GPOINTER_TO_INT(fd));
    }
    if (sys.io_submit(peer->aio, count, list) != (int)count ||
        io_getevents(peer->aio, count, count, events, NULL) != (int)count) {
        bench_must(-1, "fdsync by libaio");
    }
}

static void sync_one_by_one(GHashTable *fds, int (*call)(int fd))
{
    GHashTableIter iter;
    gpointer fd;

    g_hash_table_iter_init(&iter, fds);
    while (g_hash_table_iter_next(&iter, &fd, NULL)) {
        bench_must(call(GPOINTER_TO_INT(fd)), "sync");
    }
}

void peer_sync(struct peer *peer)
{
    switch (peer->way) {
    case PEER_SERIAL:
        sync_one_by_one(peer->touched_files, sys.fdatasync);
        break;
    case PEER_THREADS:
        sync_by_threads(peer, peer->touched_files);
        break;
    case PEER_AIO:
        sync_by_aio(peer, peer->touched_files);
        break;
    }
    sync_one_by_one(peer->touched_folders, sys.fsync);
    g_hash_table_remove_all(peer->touched_files);
    g_hash_table_remove_all(peer->touched_folders);
}
