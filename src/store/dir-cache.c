/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dir store's open files, shared by its queues, under a bound.
 *
 * A file in use is never closed, so the bound gives way to what is in flight
 * (which queues bound); the next open closes what is over it.  The one idle
 * for longest goes first, and is synced before if it has to be (D1): should
 * that fail, nobody is there to be told, and the next STORE_SYNC of the object
 * is (D6).
 *
 * Files are opened without the lock.  Two that opened the same one: the second
 * takes the first's.  One opened while an object left its bucket (created anew,
 * or removed) is opened again: it may be of the earlier life.
 *
 * Other processes create objects anew, remove them and set them aside, too, but
 * only while they hold a volume's lock.  So after each lock taken or let go a file
 * is opened again before it's used: if that is another one, the one that was
 * open is of an earlier life.
 */
#include "store/dir-internal.h"

#include "base/sys.h"
#include "store/object.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

/* --- The table and the ring of the idle ----------------------------------- */

static struct dir_bucket *bucket_of(struct dir_cache *cache,
                                    const struct store_object *name)
{
    return &cache->buckets[store_object_hash(name) & cache->mask];
}

static struct dir_file *find_locked(struct dir_bucket *bucket,
                                    const struct store_object *name)
{
    struct dir_file *file = bucket->first;

    while (file && !store_object_equal(&file->name, name)) {
        file = file->next;
    }
    return file;
}

static void idle_remove_locked(struct dir_file *file)
{
    file->older->newer = file->newer;
    file->newer->older = file->older;
}

static void idle_add_locked(struct dir_cache *cache, struct dir_file *file)
{
    struct dir_file *head = &cache->idle;

    file->newer = head;
    file->older = head->older;
    head->older->newer = file;
    head->older = file;
}

static void use_locked(struct dir_file *file)
{
    if (file->users++ == 0) {
        idle_remove_locked(file);
    }
}

static bool is_clean_locked(const struct dir_file *file)
{
    return file->sync.synced >= file->sync.changed;
}

static void file_free(struct dir_file *file)
{
    sys.close(file->fd);
    g_free(file);
}

static void free_all(struct dir_file *files)
{
    while (files) {
        struct dir_file *next = files->next;

        file_free(files);
        files = next;
    }
}

/* Take out of the table; if nobody uses it, onto the list `unused`. */
static void detach_locked(struct dir_cache *cache, struct dir_file *file,
                          struct dir_file **unused)
{
    struct dir_file **at = &bucket_of(cache, &file->name)->first;

    while (*at != file) {
        at = &(*at)->next;
    }
    *at = file->next;
    cache->count--;
    file->detached = true;
    if (file->users == 0) {
        idle_remove_locked(file);
        file->next = *unused;
        *unused = file;
    }
}

static void insert_locked(struct dir_cache *cache, struct dir_file *file)
{
    struct dir_bucket *bucket = bucket_of(cache, &file->name);

    file->users = 1;
    file->next = bucket->first;
    bucket->first = file;
    cache->count++;
}

/* `opened` has its name; `file` may have been opened when one could only read. */
static bool is_current(const struct dir_file *file,
                       const struct dir_file *opened)
{
    return file->device == opened->device && file->inode == opened->inode &&
           (opened->read_only || !file->read_only);
}

/* As find_locked(), but not what another process has replaced or removed (D10):
 * `opened` is what has the name now, or NULL if nothing has, as of `age`. */
static struct dir_file *find_current_locked(struct dir_cache *cache,
                                            const struct store_object *name,
                                            const struct dir_file *opened,
                                            uint64_t age,
                                            struct dir_file **unused)
{
    struct dir_file *file = find_locked(bucket_of(cache, name), name);

    if (!file || file->age >= age) {
        return file;
    }
    if (opened && is_current(file, opened)) {
        file->age = age;
        return file;
    }
    detach_locked(cache, file, unused);
    return NULL;
}

/* --- Making room ---------------------------------------------------------- */

/* Sync an idle file, which drops the lock meanwhile; but not between a failure
 * and the note of it, or the next sync would find all well. */
static void sync_idle_locked(struct dir_store *dir, struct dir_file *file,
                             struct dir_file **unused)
{
    int result;

    use_locked(file);
    result = dir_file_sync_locked(dir, file);
    if (result < 0 && !file->detached) {
        g_hash_table_replace(dir->cache.failed, store_object_copy(&file->name),
                             GINT_TO_POINTER(-result));
    }
    if (--file->users > 0) {
        return;
    }
    idle_add_locked(&dir->cache, file);
    if (file->detached) {
        idle_remove_locked(file);
        file->next = *unused;
        *unused = file;
    } else if (result < 0) {
        detach_locked(&dir->cache, file, unused);
    }
}

/* Get under the bound by one, as far as files are idle.  -EAGAIN when one has
 * to be synced first and `may_block` is false. */
static int make_room_locked(struct dir_store *dir, bool may_block,
                            struct dir_file **unused)
{
    struct dir_cache *cache = &dir->cache;

    while (cache->count >= cache->limit) {
        struct dir_file *oldest = cache->idle.newer;

        if (oldest == &cache->idle) {
            return 0;
        }
        if (is_clean_locked(oldest)) {
            detach_locked(cache, oldest, unused);
        } else if (may_block) {
            sync_idle_locked(dir, oldest, unused);
        } else {
            return -EAGAIN;
        }
    }
    return 0;
}

static void detach_idle_locked(struct dir_cache *cache,
                               struct dir_file **unused)
{
    struct dir_file *file, *newer;

    for (file = cache->idle.newer; file != &cache->idle; file = newer) {
        newer = file->newer;
        if (is_clean_locked(file)) {
            detach_locked(cache, file, unused);
        }
    }
}

/* Out of descriptors: close every idle file that is clean. */
static void close_idle(struct dir_store *dir)
{
    struct dir_file *unused = NULL;

    g_mutex_lock(&dir->lock);
    detach_idle_locked(&dir->cache, &unused);
    g_mutex_unlock(&dir->lock);
    free_all(unused);
}

/* Those that are idle would be opened again anyway.  Left open they take the room
 * of what others remove meanwhile, and tell of write-back that failed in others'
 * hands, and was mended. */
void dir_cache_age(struct dir_store *dir)
{
    struct dir_file *unused = NULL;

    g_mutex_lock(&dir->lock);
    dir->cache.age++;
    g_hash_table_remove_all(dir->known_folders);
    detach_idle_locked(&dir->cache, &unused);
    g_mutex_unlock(&dir->lock);
    free_all(unused);
}

/* --- Opening -------------------------------------------------------------- */

static int open_flags(const struct dir_store *dir)
{
    return O_RDWR | (dir->direct ? O_DIRECT : 0);
}

/* Without blocking only what is plain to see is an answer; older kernels don't
 * even know how to say that it isn't. */
static int open_fd(struct dir_store *dir, const char *path, int flags,
                   bool may_block)
{
    int fd;

    if (!may_block) {
        fd = dir_open_cached(dir, path, flags);
        return fd < 0 && fd != -ENOENT ? -EAGAIN : fd;
    }
    fd = dir_open(dir, path, flags);
    if (fd == -EMFILE || fd == -ENFILE) {
        close_idle(dir);
        fd = dir_open(dir, path, flags);
    }
    return fd;
}

/* A file not in the table; it takes the descriptor.  NULL: see errno. */
static struct dir_file *file_new(const struct store_object *name, int fd,
                                 bool read_only)
{
    struct dir_file *file;
    struct stat status;

    if (sys.fstat(fd, &status) < 0) {
        int error = errno;

        sys.close(fd);
        errno = error;
        return NULL;
    }
    file = g_new0(struct dir_file, 1);
    file->name = *name;
    file->fd = fd;
    file->device = status.st_dev;
    file->inode = status.st_ino;
    file->read_only = read_only;
    return file;
}

/* A file of this object, not in the table. */
static int open_file(struct dir_store *dir, const struct store_object *name,
                     bool may_block, struct dir_file **file)
{
    bool read_only = false;
    char path[DIR_PATH_BYTES];
    int fd;

    dir_object_path(name, path);
    /* Nobody asks when an object was read, but only its owner may say so. */
    fd = open_fd(dir, path, open_flags(dir) | O_NOATIME, may_block);
    if (fd == -EPERM) {
        fd = open_fd(dir, path, open_flags(dir), may_block);
    }
    if (fd == -EACCES || fd == -EROFS) {
        read_only = true;
        fd = open_fd(dir, path, (open_flags(dir) & ~O_ACCMODE) | O_RDONLY,
                     may_block);
    }
    if (fd < 0) {
        return fd;
    }
    *file = file_new(name, fd, read_only);
    return *file ? 0 : -errno;
}

/* The state of bucket and cache in which a file was looked for. */
struct moment {
    uint64_t removals;
    uint64_t age;
};

/* Put a file opened after that moment into the table, or find the one that is
 * there.  NULL: open it again; but if `opened` is NULL, which means that nothing
 * has the name, there is none. */
static struct dir_file *enter(struct dir_store *dir,
                              const struct store_object *name,
                              struct dir_file *opened,
                              const struct moment *moment)
{
    struct dir_file *file = NULL, *unused = NULL;

    g_mutex_lock(&dir->lock);
    if (bucket_of(&dir->cache, name)->removals == moment->removals) {
        file = find_current_locked(&dir->cache, name, opened, moment->age,
                                   &unused);
        if (file) {
            use_locked(file);
        } else if (opened) {
            opened->age = moment->age;
            insert_locked(&dir->cache, opened);
            file = opened;
        }
    }
    g_mutex_unlock(&dir->lock);
    if (opened && file != opened) {
        file_free(opened);
    }
    free_all(unused);
    return file;
}

/* The file if it is open and surely current, else NULL with room made for it. */
static struct dir_file *find_or_make_room(struct dir_store *dir,
                                          const struct store_object *name,
                                          bool may_block,
                                          struct moment *moment, int *result)
{
    struct dir_bucket *bucket = bucket_of(&dir->cache, name);
    struct dir_file *unused = NULL, *file;

    g_mutex_lock(&dir->lock);
    *result = 0;
    file = find_locked(bucket, name);
    if (!file) {
        *result = make_room_locked(dir, may_block, &unused);
        file = find_locked(bucket, name);
    }
    *moment = (struct moment){bucket->removals, dir->cache.age};
    if (file && file->age < moment->age) {
        file = NULL;
    }
    if (file) {
        use_locked(file);
        *result = 0;
    }
    g_mutex_unlock(&dir->lock);
    free_all(unused);
    return file;
}

int dir_file_get(struct dir_store *dir, const struct store_object *name,
                 bool may_block, struct dir_file **file)
{
    struct moment moment;
    int result;

    for (;;) {
        struct dir_file *opened = NULL;

        *file = find_or_make_room(dir, name, may_block, &moment, &result);
        if (*file) {
            return 0;
        }
        if (result == 0) {
            result = open_file(dir, name, may_block, &opened);
        }
        if (result < 0 && result != -ENOENT) {
            return result;
        }
        *file = enter(dir, name, opened, &moment);
        if (*file || result < 0) {
            return *file ? 0 : result;
        }
    }
}

struct dir_file *dir_file_find(struct dir_store *dir,
                               const struct store_object *name)
{
    struct dir_file *file;

    g_mutex_lock(&dir->lock);
    file = find_locked(bucket_of(&dir->cache, name), name);
    if (file) {
        use_locked(file);
    }
    g_mutex_unlock(&dir->lock);
    return file;
}

void dir_file_put(struct dir_store *dir, struct dir_file *file, bool changed)
{
    bool last;

    g_mutex_lock(&dir->lock);
    file->sync.changed += changed;
    last = --file->users == 0;
    if (last && !file->detached) {
        idle_add_locked(&dir->cache, file);
        last = false;
    }
    g_mutex_unlock(&dir->lock);
    if (last) {
        file_free(file);
    }
}

/* --- Creating and removing ------------------------------------------------ */

/* Forget what an earlier life left: file, failure. */
static void forget_locked(struct dir_store *dir,
                          const struct store_object *name,
                          struct dir_file **unused)
{
    struct dir_bucket *bucket = bucket_of(&dir->cache, name);
    struct dir_file *file = find_locked(bucket, name);

    bucket->removals++;
    if (file) {
        detach_locked(&dir->cache, file, unused);
    }
    g_hash_table_remove(dir->cache.failed, name);
}

/* Returns a descriptor of a new, empty file or -errno: nothing of an earlier
 * life shows (D4, D5). */
static int create_fd(struct dir_store *dir, const char *path)
{
    int flags = open_flags(dir) | O_CREAT | O_EXCL;
    int fd = open_fd(dir, path, flags, true);

    for (int tries = 0; fd < 0 && tries < 8; tries++) {
        int result = fd;

        if (fd == -ENOENT) {
            result = dir_make_parents(dir, path);
        } else if (fd == -EEXIST) {
            result = dir_unlink(dir, path);
        }
        if (result < 0 && result != -ENOENT) {
            return result;
        }
        fd = open_fd(dir, path, flags, true);
    }
    return fd;
}

/* As errno says. */
static int create_failed(struct dir_store *dir, const char *path)
{
    int result = -errno;

    dir_unlink(dir, path);
    return result;
}

int dir_file_create(struct dir_store *dir, const struct store_object *name,
                    uint64_t size_bytes, struct dir_file **file)
{
    struct dir_file *made, *unused = NULL;
    char path[DIR_PATH_BYTES];
    int fd;

    dir_object_path(name, path);
    fd = create_fd(dir, path);
    if (fd < 0) {
        return fd;
    }
    made = file_new(name, fd, false);
    if (!made) {
        return create_failed(dir, path);
    }
    if (size_bytes > 0 &&
        TEMP_FAILURE_RETRY(sys.ftruncate(fd, (off_t)size_bytes)) < 0) {
        int result = create_failed(dir, path);

        file_free(made);
        return result;
    }
    dir_file_made(dir, path);
    made->sync.changed = 1;
    g_mutex_lock(&dir->lock);
    forget_locked(dir, name, &unused);
    make_room_locked(dir, true, &unused);
    forget_locked(dir, name, &unused);
    made->age = dir->cache.age;
    insert_locked(&dir->cache, made);
    g_mutex_unlock(&dir->lock);
    free_all(unused);
    *file = made;
    return 0;
}

void dir_file_doubt(struct dir_store *dir, const struct store_object *name)
{
    struct dir_file *file;

    g_mutex_lock(&dir->lock);
    file = find_locked(bucket_of(&dir->cache, name), name);
    if (file) {
        file->age = 0;
    }
    g_mutex_unlock(&dir->lock);
}

void dir_file_removed(struct dir_store *dir, const struct store_object *name)
{
    struct dir_file *unused = NULL;

    g_mutex_lock(&dir->lock);
    forget_locked(dir, name, &unused);
    g_mutex_unlock(&dir->lock);
    free_all(unused);
}

static bool is_of(const struct store_object *name, enum store_kind kind,
                  const struct id128 *id)
{
    return (name->kind == STORE_BLOCK) == (kind == STORE_BLOCK) &&
           id128_equal(&name->id, id);
}

void dir_files_removed(struct dir_store *dir, enum store_kind kind,
                       const struct id128 *id)
{
    struct dir_cache *cache = &dir->cache;
    struct dir_file *unused = NULL, *file, *next;
    GHashTableIter iter;
    void *name;

    g_mutex_lock(&dir->lock);
    for (unsigned i = 0; i <= cache->mask; i++) {
        cache->buckets[i].removals++;
        for (file = cache->buckets[i].first; file; file = next) {
            next = file->next;
            if (is_of(&file->name, kind, id)) {
                detach_locked(cache, file, &unused);
            }
        }
    }
    g_hash_table_iter_init(&iter, cache->failed);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (is_of(name, kind, id)) {
            g_hash_table_iter_remove(&iter);
        }
    }
    g_mutex_unlock(&dir->lock);
    free_all(unused);
}

/* --- Failures ------------------------------------------------------------- */

int dir_file_failure(struct dir_store *dir, const struct store_object *name)
{
    int failure;

    g_mutex_lock(&dir->lock);
    failure = GPOINTER_TO_INT(g_hash_table_lookup(dir->cache.failed, name));
    if (failure) {
        g_hash_table_remove(dir->cache.failed, name);
    }
    g_mutex_unlock(&dir->lock);
    return -ABS(failure);
}

/* Told ones are negative. */
int dir_files_failure(struct dir_store *dir, enum store_kind kind,
                      const struct id128 *id)
{
    GHashTableIter iter;
    void *name, *failure;
    int result = 0;

    g_mutex_lock(&dir->lock);
    g_hash_table_iter_init(&iter, dir->cache.failed);
    while (g_hash_table_iter_next(&iter, &name, &failure)) {
        if (is_of(name, kind, id) && GPOINTER_TO_INT(failure) > 0) {
            result = -GPOINTER_TO_INT(failure);
            g_hash_table_iter_replace(&iter, GINT_TO_POINTER(result));
        }
    }
    g_mutex_unlock(&dir->lock);
    return result;
}

/* --- Beginning and end ---------------------------------------------------- */

void dir_cache_init(struct dir_store *dir, unsigned limit)
{
    struct dir_cache *cache = &dir->cache;

    cache->age = 1;
    cache->limit = limit;
    cache->mask = 15;
    while (cache->mask < 2 * limit) {
        cache->mask = 2 * cache->mask + 1;
    }
    cache->buckets = g_new0(struct dir_bucket, cache->mask + 1);
    cache->idle.newer = cache->idle.older = &cache->idle;
    cache->failed = g_hash_table_new_full(store_object_hash,
                                          store_object_equal, g_free, NULL);
}

void dir_cache_clear(struct dir_store *dir)
{
    struct dir_cache *cache = &dir->cache;
    struct dir_file *unused = NULL;

    g_mutex_lock(&dir->lock);
    cache->limit = 1;
    while (cache->count > 0) {
        g_assert(cache->idle.newer != &cache->idle);
        make_room_locked(dir, true, &unused);
    }
    g_mutex_unlock(&dir->lock);
    free_all(unused);
    g_hash_table_unref(cache->failed);
    g_free(cache->buckets);
}
