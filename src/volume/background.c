/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What needn't be waited for: folding the journal into pages, and removing
 * objects whose discard is durable.  A thread does it while there is any.
 */
#include "volume/volume.h"

#include <errno.h>

/* --- Dropped objects --------------------------------------------------------- */

/* Those whose new entry is being committed go along.  Lock held. */
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

/* Take what there is to do; false when there is nothing more. */
static bool background_take(archip_volume *volume,
                            struct map_checkpoint **checkpoint, GArray **ready)
{
    struct background *background = &volume->background;

    g_mutex_lock(&volume->map->lock);
    *checkpoint = g_steal_pointer(&background->checkpoint);
    background->checkpointing = *checkpoint != NULL;
    *ready = background->stuck ? NULL : drops_ready_locked(volume);
    if (!*checkpoint && !*ready) {
        background->running = false;
    }
    g_mutex_unlock(&volume->map->lock);
    return *checkpoint || *ready;
}

static void background_free(archip_volume *volume, archip_queue *queue,
                            GArray *ready)
{
    const struct store_driver *driver = volume->store->store->driver;
    guint left;

    if (driver->exclude_readers(volume->write_lock) < 0) {
        volume->background.stuck = true;        /* until the next flush */
        return;
    }
    drops_remove(volume, queue, ready);
    driver->admit_readers(volume->write_lock);
    g_mutex_lock(&volume->map->lock);
    left = 0;
    for (guint i = 0; i < ready->len; i++) {
        left += g_hash_table_contains(volume->drops,
                                      &g_array_index(ready, uint64_t, i));
    }
    volume->background.stuck = left > 0;
    g_mutex_unlock(&volume->map->lock);
}

static gpointer background_main(gpointer opaque)
{
    archip_volume *volume = opaque;
    struct map_checkpoint *checkpoint;
    archip_queue *queue = NULL;
    GArray *ready;

    while (background_take(volume, &checkpoint, &ready)) {
        if (checkpoint) {
            /* On failure the journals stay; a later flush tries again. */
            checkpoint_run(volume->map, checkpoint, false, NULL);
        }
        if (ready) {
            if (queue ||
                queue_new(volume, ARCHIP_QUEUE_MAY_BLOCK, &queue, NULL) == 0) {
                background_free(volume, queue, ready);
            } else {
                volume->background.stuck = true;
            }
            g_array_unref(ready);
        }
    }
    if (queue) {
        queue_free(queue);
    }
    return NULL;
}

void background_kick(archip_volume *volume)
{
    struct background *background = &volume->background;
    GArray *ready = NULL;

    background->stuck = false;
    if (background->running ||
        (!background->checkpoint && !(ready = drops_ready_locked(volume)))) {
        return;
    }
    if (ready) {
        g_array_unref(ready);
    }
    if (background->thread) {
        g_thread_join(background->thread);      /* it has ended */
    }
    background->running = true;
    background->thread = g_thread_new("archip-background", background_main,
                                      volume);
}

void background_wait(archip_volume *volume)
{
    if (volume->background.thread) {
        g_thread_join(g_steal_pointer(&volume->background.thread));
    }
}
