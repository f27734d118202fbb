/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The registry of the volumes that are being served; see shared.h.
 *
 * An entry lives as long as somebody refers to it, its volume is open as long
 * as there are connections.  Read-only connections have an entry of their own,
 * beside a writer's, since they open without its lock.
 *
 * Order of locks: a volume's `lock`, then `registry_lock`.
 */
#include "shared.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

struct shared_volume {
    char *key;                /* 'r' or 'w', then the name; constant */
    unsigned reference_count; /* guarded by registry_lock */

    GMutex lock; /* held over opening and closing; guards: */
    unsigned connection_count;
    archip_volume *volume; /* constant for who is connected */
    bool writable;         /* the same */

    GMutex idle_lock;       /* guards: */
    GPtrArray *idle_queues; /* archip_queue, the one used last at the end */
};

static GMutex registry_lock; /* guards: */
static GHashTable *registry; /* key -> struct shared_volume, not owned; NULL
                                when empty */

/* What NBD has a number for; nbdkit would turn the rest into EINVAL, which
 * blames the client. */
static int errno_for_client(int errno_value)
{
    switch (errno_value) {
    case EPERM:
    case EROFS:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOTSUP:
    case EOVERFLOW:
    case ESHUTDOWN:
        return errno_value;
    default:
        return EIO;
    }
}

int report(int result, const char *what)
{
    nbdkit_error("%s: %s", what, archip_error());
    nbdkit_set_error(errno_for_client(-result));
    return -1;
}

/* Find or make; the caller owns a reference. */
static struct shared_volume *shared_ref(const char *name, bool readonly)
{
    g_autofree char *key = g_strdup_printf("%c%s", readonly ? 'r' : 'w', name);
    struct shared_volume *shared;

    g_mutex_lock(&registry_lock);
    if (!registry) {
        registry = g_hash_table_new(g_str_hash, g_str_equal);
    }
    shared = g_hash_table_lookup(registry, key);
    if (!shared) {
        shared = g_new0(struct shared_volume, 1);
        shared->key = g_steal_pointer(&key);
        g_mutex_init(&shared->lock);
        g_mutex_init(&shared->idle_lock);
        shared->idle_queues = g_ptr_array_new();
        g_hash_table_insert(registry, shared->key, shared);
    }
    shared->reference_count++;
    g_mutex_unlock(&registry_lock);
    return shared;
}

static void shared_unref(struct shared_volume *shared)
{
    bool last;

    g_mutex_lock(&registry_lock);
    last = --shared->reference_count == 0;
    if (last) {
        g_hash_table_remove(registry, shared->key);
        if (g_hash_table_size(registry) == 0) {
            g_clear_pointer(&registry, g_hash_table_unref);
        }
    }
    g_mutex_unlock(&registry_lock);
    if (last) {
        g_ptr_array_unref(shared->idle_queues);
        g_mutex_clear(&shared->idle_lock);
        g_mutex_clear(&shared->lock);
        g_free(shared->key);
        g_free(shared);
    }
}

/* A volume that is marked read-only is served read-only, as `-r` does. */
static int shared_open_locked(struct shared_volume *shared, archip_store *store)
{
    const char *name = shared->key + 1;
    bool writable = shared->key[0] == 'w';
    int result = archip_volume_open(
        store, name, writable ? ARCHIP_OPEN_WRITE : 0, OWNER, &shared->volume);

    if (result == -EROFS && writable) {
        nbdkit_debug("%s; serving it read-only", archip_error());
        writable = false;
        result = archip_volume_open(store, name, 0, OWNER, &shared->volume);
    }
    if (result < 0) {
        report(result, "open");
        return result;
    }
    shared->writable = writable;
    return 0;
}

static void shared_close_locked(struct shared_volume *shared)
{
    int result;

    if (!shared->volume) {
        return;
    }
    for (guint i = 0; i < shared->idle_queues->len; i++) {
        archip_queue_close(g_ptr_array_index(shared->idle_queues, i));
    }
    g_ptr_array_set_size(shared->idle_queues, 0);
    result = archip_volume_close(g_steal_pointer(&shared->volume));
    if (result < 0) {
        report(result, "close");
    }
}

/* Who closes the volume holds `lock` meanwhile, so that the next connection
 * never meets our own lock on it. */
struct shared_volume *shared_connect(archip_store *store, const char *name,
                                     bool readonly)
{
    struct shared_volume *shared = shared_ref(name, readonly);
    int result = 0;

    g_mutex_lock(&shared->lock);
    if (shared->connection_count == 0) {
        result = shared_open_locked(shared, store);
    }
    if (result == 0) {
        shared->connection_count++;
    }
    g_mutex_unlock(&shared->lock);
    if (result < 0) {
        shared_unref(shared);
        return NULL;
    }
    return shared;
}

void shared_disconnect(struct shared_volume *shared)
{
    g_mutex_lock(&shared->lock);
    if (--shared->connection_count == 0) {
        shared_close_locked(shared);
    }
    g_mutex_unlock(&shared->lock);
    shared_unref(shared);
}

/* References to all; the caller owns array and references. */
static GPtrArray *shared_ref_all(void)
{
    GPtrArray *all = g_ptr_array_new();
    GHashTableIter iter;
    gpointer shared;

    g_mutex_lock(&registry_lock);
    if (registry) {
        g_hash_table_iter_init(&iter, registry);
        while (g_hash_table_iter_next(&iter, NULL, &shared)) {
            ((struct shared_volume *)shared)->reference_count++;
            g_ptr_array_add(all, shared);
        }
    }
    g_mutex_unlock(&registry_lock);
    return all;
}

static void shared_flush_locked(struct shared_volume *shared)
{
    archip_queue *queue;
    int result;

    if (shared->connection_count == 0 || !shared->writable) {
        return;
    }
    queue = shared_borrow(shared);
    if (queue) {
        result = archip_flush(queue);
        if (result < 0) {
            report(result, "flush");
        } else {
            nbdkit_debug("%s: flushed", shared->key + 1);
        }
        shared_return(shared, queue);
    }
}

static void shared_for_all(void (*locked)(struct shared_volume *shared))
{
    g_autoptr(GPtrArray) all = shared_ref_all();

    for (guint i = 0; i < all->len; i++) {
        struct shared_volume *shared = g_ptr_array_index(all, i);

        g_mutex_lock(&shared->lock);
        locked(shared);
        g_mutex_unlock(&shared->lock);
        shared_unref(shared);
    }
}

void shared_flush_all(void)
{
    shared_for_all(shared_flush_locked);
}

void shared_close_all(void)
{
    shared_for_all(shared_close_locked);
}

archip_volume *shared_get_volume(struct shared_volume *shared)
{
    return shared->volume;
}

bool shared_is_writable(const struct shared_volume *shared)
{
    return shared->writable;
}

archip_queue *shared_borrow(struct shared_volume *shared)
{
    GPtrArray *idle = shared->idle_queues;
    archip_queue *queue = NULL;
    int result;

    g_mutex_lock(&shared->idle_lock);
    if (idle->len > 0) {
        queue = g_ptr_array_steal_index_fast(idle, idle->len - 1);
    }
    g_mutex_unlock(&shared->idle_lock);
    if (queue) {
        return queue;
    }
    result = archip_queue_open(shared->volume, ARCHIP_QUEUE_MAY_BLOCK, &queue);
    if (result < 0) {
        report(result, "opening a queue");
        return NULL;
    }
    return queue;
}

void shared_return(struct shared_volume *shared, archip_queue *queue)
{
    g_mutex_lock(&shared->idle_lock);
    g_ptr_array_add(shared->idle_queues, queue);
    g_mutex_unlock(&shared->idle_lock);
}
