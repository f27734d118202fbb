/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes: opened, handed over, closed.
 *
 * An active volume has a map and a lock: the write lock of its map's id, or a
 * reader's, which keeps a writer elsewhere from removing what the reader's map
 * names.  An inactive one has neither and refuses all I/O.
 */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define READER_TRIES 5000       /* of a millisecond */

bool volume_is_writable(const archip_volume *volume)
{
    return volume->write_lock != NULL;
}

uint64_t archip_volume_size(archip_volume *volume)
{
    return __atomic_load_n(&volume->size_bytes, __ATOMIC_ACQUIRE);
}

/* Lock held, or the volume not yet shown to anybody. */
void volume_set_size(archip_volume *volume, uint64_t size_bytes)
{
    map_set_size(volume->map, size_bytes);
    __atomic_store_n(&volume->size_bytes, size_bytes, __ATOMIC_RELEASE);
}

uint64_t volume_reach(const archip_volume *volume)
{
    return MAX(volume->map->header.size_bytes, volume->kept_bytes);
}

/* --- Waking pieces that waited for a map page ------------------------------------ */

static void volume_wake(GSList *waiters, const GError *error)
{
    for (GSList *link = waiters; link; link = link->next) {
        struct piece *piece = link->data;

        if (error) {
            piece_fail(piece, -error->code, g_error_copy(error));
        }
        queue_post(piece->request->queue, &piece->task);
    }
    g_slist_free(waiters);
}

/* --- Locks and maps ------------------------------------------------------------------ */

static int volume_lock_write(archip_volume *volume, struct store_lock **lock,
                             GError **error)
{
    struct store *store = volume->store->store;
    struct store_owner me = { .pid = getpid(), .open = true }, holder = { 0 };

    g_strlcpy(me.owner, volume->owner, sizeof(me.owner));
    g_strlcpy(me.host, g_get_host_name(), sizeof(me.host));
    return store->driver->lock(store, &volume->id, STORE_LOCK_WRITE, &me, lock,
                               &holder, error);
}

/* A writer keeps readers out only for moments. */
static int volume_lock_read(archip_volume *volume, struct store_lock **lock,
                            GError **error)
{
    struct store *store = volume->store->store;
    struct store_owner me = { .pid = getpid() }, holder = { 0 };
    int rc = -EBUSY;

    for (int tries = READER_TRIES; rc == -EBUSY && tries; tries--) {
        g_clear_error(error);
        rc = store->driver->lock(store, &volume->id, STORE_LOCK_READ, &me,
                                 lock, &holder, error);
        if (rc == -EBUSY) {
            g_usleep(1000);
        }
    }
    return rc;
}

/* What is held while the volume is active. */
struct hold {
    struct store_lock *write_lock, *read_lock;
    struct map *map;
};

static void hold_release(archip_volume *volume, struct hold *hold)
{
    const struct store_driver *driver = volume->store->store->driver;

    map_free(hold->map);
    if (hold->read_lock) {
        driver->unlock(hold->read_lock);
    }
    if (hold->write_lock) {
        driver->unlock(hold->write_lock);
    }
}

/* The name may have been given to another volume before we had the lock. */
static int hold_check_name(archip_volume *volume, GError **error)
{
    struct id128 id;
    int rc = volume_find(volume->store, volume->name, &id, error);

    if (rc == 0 && !id128_equal(&id, &volume->id)) {
        return error_set(error, ESTALE, "it was replaced meanwhile: open it "
                                        "again");
    }
    return rc;
}

static int hold_take(archip_volume *volume, bool write, struct hold *hold,
                     GError **error)
{
    int rc;

    *hold = (struct hold){ 0 };
    rc = write ? volume_lock_write(volume, &hold->write_lock, error)
               : volume_lock_read(volume, &hold->read_lock, error);
    if (rc == 0) {
        rc = hold_check_name(volume, error);
    }
    if (rc == 0 && write) {
        rc = volume_confirm(volume->store, &volume->id, error);
    }
    if (rc == 0) {
        rc = map_open(volume->store->store, &volume->id, write,
                      hold->write_lock, &hold->map, error);
    }
    if (rc < 0) {
        hold_release(volume, hold);
        return rc;
    }
    hold->map->wake = volume_wake;
    return 0;
}

static void volume_adopt(archip_volume *volume, const struct hold *hold)
{
    volume->map = hold->map;
    volume->write_lock = hold->write_lock;
    volume->read_lock = hold->read_lock;
    __atomic_store_n(&volume->size_bytes, hold->map->header.size_bytes,
                     __ATOMIC_RELEASE);
    g_atomic_int_set(&volume->active, 1);
}

/* Give up what is held, without writing anything. */
static struct hold volume_surrender(archip_volume *volume)
{
    struct hold hold = { volume->write_lock, volume->read_lock, volume->map };

    g_atomic_int_set(&volume->active, 0);
    volume->map = NULL;
    volume->write_lock = volume->read_lock = NULL;
    return hold;
}

static void object_free(gpointer data)
{
    struct object *object = data;

    g_free(object->lost);
    g_free(object);
}

/* Forget what is known of objects, also that a sync of them failed. */
static void volume_forget_objects(archip_volume *volume)
{
    while (g_queue_pop_head_link(&volume->unsynced)) {
    }
    g_hash_table_remove_all(volume->objects);
    g_hash_table_remove_all(volume->drops);
    volume->lost_count = 0;
}

static void volume_let_go(archip_volume *volume)
{
    struct hold hold;

    background_wait(volume);
    volume->background = (struct background){ 0 };
    hold = volume_surrender(volume);
    volume_forget_objects(volume);
    hold_release(volume, &hold);
}

static int volume_activate(archip_volume *volume, bool write, GError **error)
{
    struct hold hold;
    int rc = hold_take(volume, write, &hold, error);

    if (rc < 0) {
        return rc;
    }
    volume_adopt(volume, &hold);
    if (write && volume->map->header.shrink_bytes) {
        rc = volume_finish_shrink(volume, error);
    }
    if (rc < 0) {
        volume_let_go(volume);
    }
    return rc;
}

/* --- Settling -------------------------------------------------------------------------- */

int volume_settle(archip_volume *volume, bool clean, GError **error)
{
    archip_request flush = { .op = ARCHIP_FLUSH };
    archip_queue *queue;
    int rc = queue_new(volume, 0, &queue, error);

    if (rc == 0) {
        rc = request_run(queue, &flush, false, error);
        queue_free(queue);
    }
    background_wait(volume);    /* in any case: it writes headers, too */
    if (rc < 0) {
        return rc;
    }
    rc = map_fold(volume->map, clean, error);
    if (rc < 0 && clean && map_mark_unclean(volume->map) < 0) {
        volume_let_go(volume);
        error_prefix(error, "it was let go, for its header can't be marked as "
                            "in use again: ");
    }
    return rc;
}

int volume_freeze(archip_volume *volume)
{
    GError *error = NULL;
    int rc;

    life_lock(volume);
    rc = volume_settle(volume, false, &error);
    if (rc == 0) {
        /* A dropped object that readers keep isn't the new layer's. */
        g_hash_table_remove_all(volume->drops);
        rc = map_freeze(volume->map, &error);
    }
    g_mutex_unlock(&volume->life);
    return rc < 0 ? api_fail(error) : 0;
}

/* --- Opening ------------------------------------------------------------------------------ */

static void volume_free(archip_volume *volume)
{
    volume_forget_objects(volume);
    g_hash_table_unref(volume->objects);
    g_hash_table_unref(volume->drops);
    g_mutex_clear(&volume->life);
    g_free(volume->name);
    g_free(volume->owner);
    g_free(volume);
}

static archip_volume *volume_new(archip_store *store, const char *name,
                                 unsigned flags, const char *owner)
{
    archip_volume *volume = g_new0(archip_volume, 1);
    const char *program = g_get_prgname();

    volume->store = store;
    volume->name = g_strdup(name);
    volume->flags = flags;
    volume->owner = g_strdup(owner ? owner : program ? program
                                                     : "an unnamed program");
    volume->objects = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL,
                                            object_free);
    volume->drops = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free,
                                          NULL);
    g_queue_init(&volume->unsynced);
    g_mutex_init(&volume->life);
    return volume;
}

/* Without lock and map: only the size is known. */
static int volume_peek(archip_volume *volume, GError **error)
{
    struct map_header header;
    int rc = map_read_header(volume->store->store, &volume->id, true, &header,
                             error);

    if (rc == 0) {
        volume->size_bytes = header.size_bytes;
        header_clear(&header);
    }
    return rc;
}

static int volume_open(archip_volume *volume, GError **error)
{
    unsigned flags = volume->flags;
    int rc;

    do {
        g_clear_error(error);
        rc = volume_find(volume->store, volume->name, &volume->id, error);
        if (rc == 0) {
            rc = flags & ARCHIP_OPEN_NO_LOCK
                     ? volume_peek(volume, error)
                     : volume_activate(volume, flags & ARCHIP_OPEN_WRITE,
                                       error);
        }
    } while (rc == -ESTALE);
    return rc;
}

int archip_volume_open(archip_store *store, const char *name, unsigned flags,
                       const char *owner, archip_volume **volume)
{
    archip_volume *new_volume;
    GError *error = NULL;
    int rc = archip_name_check(name);

    if (rc < 0) {
        return rc;
    }
    if (flags & ~(ARCHIP_OPEN_WRITE | ARCHIP_OPEN_NO_LOCK) ||
        flags == ARCHIP_OPEN_NO_LOCK) {
        return api_fail_text(EINVAL, "open flags 0x%x aren't known or don't "
                                     "go together", flags);
    }
    new_volume = volume_new(store, name, flags, owner);
    rc = volume_open(new_volume, &error);
    if (rc < 0) {
        volume_free(new_volume);
        error_prefix(&error, "volume '%s': ", name);
        return api_fail(error);
    }
    *volume = new_volume;
    return 0;
}

/* --- Closing and handing over ------------------------------------------------------------- */

/* Make all durable and let go; on failure the volume stays active, unless its
 * header may say "clean" for good. */
static int volume_deactivate(archip_volume *volume, GError **error)
{
    int rc = 0;

    if (!g_atomic_int_get(&volume->active)) {
        return 0;
    }
    if (volume_is_writable(volume)) {
        rc = volume_settle(volume, true, error);
    }
    if (rc == 0) {
        volume_let_go(volume);
    }
    return rc;
}

int archip_volume_close(archip_volume *volume)
{
    GError *error = NULL;
    int rc;

    if (!volume) {
        return 0;
    }
    g_assert(g_atomic_int_get(&volume->queue_count) == 0);
    rc = volume_deactivate(volume, &error);
    if (rc < 0) {
        error_prefix(&error, "closing volume '%s': ", volume->name);
        api_fail(error);
    }
    if (g_atomic_int_get(&volume->active)) {
        volume_let_go(volume);
    }
    volume_free(volume);
    return rc;
}

/* Public calls that change a volume's life: one at a time, with its name before
 * their errors. */
static int life_end(archip_volume *volume, int rc, GError *error)
{
    g_mutex_unlock(&volume->life);
    if (rc < 0) {
        if (!g_str_has_prefix(error->message, "volume '")) {
            error_prefix(&error, "volume '%s': ", volume->name);
        }
        return api_fail(error);
    }
    return 0;
}

int archip_volume_deactivate(archip_volume *volume)
{
    GError *error = NULL;
    int rc;

    life_lock(volume);
    rc = volume_deactivate(volume, &error);
    return life_end(volume, rc, error);
}

int archip_volume_activate(archip_volume *volume)
{
    GError *error = NULL;
    int rc = 0;

    life_lock(volume);
    volume->flags &= ~ARCHIP_OPEN_NO_LOCK;
    if (!g_atomic_int_get(&volume->active)) {
        rc = volume_activate(volume, volume->flags & ARCHIP_OPEN_WRITE,
                             &error);
    }
    return life_end(volume, rc, error);
}

/* The new hold is taken before the old is given up: they don't exclude each
 * other, for only one of them is a writer's. */
static int volume_reopen(archip_volume *volume, bool write, GError **error)
{
    struct hold old, hold;
    int rc = 0;

    if (!g_atomic_int_get(&volume->active) ||
        write == volume_is_writable(volume)) {
        return 0;
    }
    if (!write) {
        rc = volume_settle(volume, false, error);
    }
    if (rc == 0) {
        rc = hold_take(volume, write, &hold, error);
    }
    if (rc < 0) {
        return rc;
    }
    if (!write && (rc = volume_settle(volume, true, error)) < 0) {
        hold_release(volume, &hold);
        return rc;
    }
    old = volume_surrender(volume);
    volume_forget_objects(volume);
    volume_adopt(volume, &hold);
    if (write && volume->map->header.shrink_bytes &&
        (rc = volume_finish_shrink(volume, error)) < 0) {
        volume_let_go(volume);
        volume_adopt(volume, &old);
        return rc;
    }
    hold_release(volume, &old);
    return 0;
}

int archip_volume_reopen(archip_volume *volume, unsigned flags)
{
    GError *error = NULL;
    int rc;

    if (flags & ~ARCHIP_OPEN_WRITE) {
        return api_fail_text(EINVAL, "flags 0x%x don't go with reopening",
                             flags);
    }
    life_lock(volume);
    rc = volume_reopen(volume, flags & ARCHIP_OPEN_WRITE, &error);
    if (rc == 0) {
        volume->flags &= ~ARCHIP_OPEN_WRITE;
        volume->flags |= flags;
    }
    return life_end(volume, rc, error);
}
