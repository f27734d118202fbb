/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What needn't be waited for: folding the journal into pages, and removing
 * objects whose discard is durable.  A thread does it while there is any.
 */
#include "volume/volume.h"

#include <errno.h>

/* --- Dropped objects --------------------------------------------------------- */

/* Those whose new entry is being committed go along: none is removed before
 * that is durable (D9).  Lock held. */
void drops_capture(archip_volume *volume)
{
    GHashTableIter iter;
    gpointer index, state;

    g_hash_table_iter_init(&iter, volume->drops);
    while (g_hash_table_iter_next(&iter, &index, &state)) {
        gpointer key = (gpointer)*(uint64_t *)index;

        if (GPOINTER_TO_INT(state) == DROP_NEW &&
            g_hash_table_contains(volume->map->committing, key)) {
            g_hash_table_iter_replace(&iter, GINT_TO_POINTER(DROP_CAPTURED));
        }
    }
}

void drops_commit(archip_volume *volume, bool success)
{
    enum drop_state next = success ? DROP_READY : DROP_NEW;
    GHashTableIter iter;
    gpointer state;

    g_hash_table_iter_init(&iter, volume->drops);
    while (g_hash_table_iter_next(&iter, NULL, &state)) {
        if (GPOINTER_TO_INT(state) == DROP_CAPTURED) {
            g_hash_table_iter_replace(&iter, GINT_TO_POINTER(next));
        }
    }
}

/* Indices whose objects may be removed now; NULL when there are none. */
static GArray *drops_ready_locked(archip_volume *volume)
{
    GArray *ready = NULL;
    GHashTableIter iter;
    gpointer index, state;

    g_hash_table_iter_init(&iter, volume->drops);
    while (g_hash_table_iter_next(&iter, &index, &state)) {
        if (GPOINTER_TO_INT(state) == DROP_READY) {
            if (!ready) {
                ready = g_array_new(false, false, sizeof(uint64_t));
            }
            g_array_append_vals(ready, index, 1);
        }
    }
    return ready;
}

static void drops_remove(archip_volume *volume, archip_queue *queue,
                         const GArray *ready)
{
    uint32_t object_bytes = volume->map->header.object_bytes;

    for (guint i = 0; i < ready->len; i++) {
        archip_request user = {
            .op = (archip_op)OP_FREE,
            .offset_bytes = g_array_index(ready, uint64_t, i) *
                            (uint64_t)object_bytes,
            .length_bytes = object_bytes,
        };

        /* What can't be removed now is tried again after the next flush. */
        request_run(queue, &user, true, NULL);
    }
}

/* --- The thread ------------------------------------------------------------------ */

/* Objects with unsynced data, each of which costs memory. */
#ifndef UNSYNCED_MAX
#define UNSYNCED_MAX 16384u
#endif

struct work {
    struct map_checkpoint *checkpoint;
    GArray *ready;
    bool garbage;               /* of the map */
    bool flush;
};

/* Take what there is to do; false when there is nothing more. */
static bool background_take(archip_volume *volume, struct work *work)
{
    struct background *background = &volume->background;
    bool any;

    g_mutex_lock(&volume->map->lock);
    *work = (struct work){
        .checkpoint = g_steal_pointer(&background->checkpoint),
        .ready = background->stuck ? NULL : drops_ready_locked(volume),
        .garbage = !background->stuck && volume->map->garbage->len,
        .flush = background->flush_due,
    };
    background->flush_due = false;
    background->checkpointing = work->checkpoint != NULL;
    any = work->checkpoint || work->ready || work->garbage || work->flush;
    if (!any) {
        background->running = false;
    }
    g_mutex_unlock(&volume->map->lock);
    return any;
}

static void background_free(archip_volume *volume, archip_queue *queue,
                            const GArray *ready)
{
    const struct store_driver *driver = volume->store->store->driver;
    bool left = false;

    if (driver->exclude_readers(volume->write_lock) < 0) {
        g_mutex_lock(&volume->map->lock);
        volume->background.stuck = true;        /* until the next flush */
        g_mutex_unlock(&volume->map->lock);
        return;
    }
    drops_remove(volume, queue, ready);
    driver->admit_readers(volume->write_lock);
    g_mutex_lock(&volume->map->lock);
    for (guint i = 0; i < ready->len; i++) {
        left |= g_hash_table_contains(volume->drops,
                                      &g_array_index(ready, uint64_t, i));
    }
    volume->background.stuck = left;
    g_mutex_unlock(&volume->map->lock);
}

/* What recovery or a checkpoint left because there were readers. */
static void background_tidy(archip_volume *volume)
{
    struct map *map = volume->map;

    g_mutex_lock(&map->io_lock);
    map_remove_garbage(map);
    g_mutex_unlock(&map->io_lock);
    g_mutex_lock(&map->lock);
    volume->background.stuck |= map->garbage->len > 0;
    g_mutex_unlock(&map->lock);
}

/* Whoever waited for room looks again. */
static void background_wake(archip_volume *volume, bool failed)
{
    GSList *throttled;

    g_mutex_lock(&volume->map->lock);
    volume->background.failed = failed;
    throttled = g_steal_pointer(&volume->background.throttled);
    for (GSList *link = throttled; link; link = link->next) {
        struct piece *piece = link->data;

        queue_post(piece->request->queue, &piece->task);
    }
    g_mutex_unlock(&volume->map->lock);
    g_slist_free(throttled);
}

static void background_work(archip_volume *volume, archip_queue *queue,
                            struct work *work)
{
    static const archip_request flush = { .op = ARCHIP_FLUSH };

    int rc = 0;

    if (work->checkpoint) {
        /* On failure the journals stay; a later flush tries again. */
        rc = checkpoint_run(volume->map, work->checkpoint, false, NULL);
    }
    if (rc == 0 && work->flush) {
        /* What failed is due again: the next flush that is asked for says
         * so. */
        rc = request_run(queue, &flush, false, NULL);
    }
    background_wake(volume, rc < 0);
    if (work->ready) {
        background_free(volume, queue, work->ready);
        g_array_unref(work->ready);
    }
    if (work->garbage) {
        background_tidy(volume);
    }
}

static gpointer background_main(gpointer opaque)
{
    archip_queue *queue = opaque;
    struct work work;

    while (background_take(queue->volume, &work)) {
        background_work(queue->volume, queue, &work);
    }
    queue_free(queue);
    return NULL;
}

void background_kick(archip_volume *volume)
{
    struct background *background = &volume->background;
    g_autoptr(GArray) ready = drops_ready_locked(volume);
    archip_queue *queue;

    background->stuck = false;
    if (background->running ||
        !(background->checkpoint || background->flush_due || ready ||
          volume->map->garbage->len)) {
        return;
    }
    if (background->thread) {
        g_thread_join(background->thread);      /* it has ended */
        background->thread = NULL;
    }
    if (queue_new(volume, ARCHIP_QUEUE_MAY_BLOCK, &queue, NULL) == 0) {
        background->running = true;
        background->thread =
            g_thread_try_new("archip-background", background_main, queue, NULL);
        if (!background->thread) {
            background->running = false; /* tried again at the next kick */
            queue_free(queue);
        }
    }
}

void background_flush_if_due(archip_volume *volume)
{
    struct background *background = &volume->background;

    if (!background->running && !volume->flush.running &&
        (map_wants_checkpoint(volume->map) ||
         volume->unsynced.length >= UNSYNCED_MAX)) {
        background->flush_due = true;
        background_kick(volume);
    }
}

bool background_throttles(archip_volume *volume, struct piece *piece)
{
    struct background *background = &volume->background;

    if (!map_is_overfull(volume->map) || background->failed) {
        return false;
    }
    background->flush_due = true;
    background_kick(volume);
    if (!background->running) {
        return false;           /* no thread to be had */
    }
    background->throttled = g_slist_prepend(background->throttled, piece);
    return true;
}

/* Until nothing is left to be done: a flush may have brought more. */
void background_wait(archip_volume *volume)
{
    GThread *thread;

    for (;;) {
        g_mutex_lock(&volume->map->lock);
        thread = g_steal_pointer(&volume->background.thread);
        g_mutex_unlock(&volume->map->lock);
        if (!thread) {
            break;
        }
        g_thread_join(thread);
    }
    if (volume->background.checkpoint) {
        checkpoint_abandon(volume->map, volume->background.checkpoint);
        volume->background.checkpoint = NULL;
    }
}
