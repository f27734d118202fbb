/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flushing: one round at a time for the whole volume, each for all that ask
 * before it begins.
 *
 * A round: the changes of the map are captured; then the objects written until
 * then are synced, all at once; then the captured changes are written to the
 * journal and synced, in one write (D1).  The order is what keeps the durable
 * map from saying more than the data (D8).  What was written without a change
 * to the map costs only its sync.
 *
 * A sync that failed is remembered by blocks: until each was rewritten, or the
 * volume reopened, every flush fails that was not begun after that (D6).
 */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

static void flush_begin(archip_volume *volume, archip_queue *queue);

void flush_request(struct request *request)
{
    archip_volume *volume = request->volume;
    struct flush *flush = &volume->flush;
    bool begin;

    if (!volume_is_writable(volume)) {
        request->complete(request);
        return;
    }
    g_mutex_lock(&volume->map->lock);
    flush->waiting = g_slist_prepend(flush->waiting, request);
    begin = !flush->running;
    flush->running = true;
    g_mutex_unlock(&volume->map->lock);
    if (begin) {
        flush_begin(volume, request->queue);
    }
}

/* --- Ending a round ----------------------------------------------------------- */

/* A request's completion belongs to the thread of its queue. */
struct flush_answer {
    struct task task;
    struct request *request;
};

static void answer_run(struct task *task)
{
    struct request *request = ((struct flush_answer *)task)->request;

    g_free(task);
    request->complete(request);
}

static void flush_answer(struct flush *flush, struct request *request,
                         int result, const char *error)
{
    struct flush_answer *answer;

    if (result < 0) {
        request_fail(request, result, g_strdup(error));
    }
    if (request->queue == flush->queue) {
        request->complete(request);
        return;
    }
    answer = g_new(struct flush_answer, 1);
    answer->task.run = answer_run;
    answer->request = request;
    queue_post(request->queue, &answer->task);
}

static void flush_start_task(struct task *task)
{
    struct flush *flush =
        (struct flush *)((char *)task - offsetof(struct flush, start));
    archip_volume *volume =
        (archip_volume *)((char *)flush - offsetof(archip_volume, flush));

    flush_begin(volume, flush->queue);
}

/* The next round runs on the queue of one who waits for it (D17).  Lock
 * held. */
static void flush_hand_on(struct flush *flush)
{
    struct request *next;

    if (!flush->waiting) {
        flush->running = false;
        return;
    }
    next = flush->waiting->data;
    flush->queue = next->queue;
    flush->start.run = flush_start_task;
    queue_post(next->queue, &flush->start);
}

static void flush_end(archip_volume *volume)
{
    struct flush *flush = &volume->flush;
    archip_queue *queue = flush->queue;
    GSList *requests = g_steal_pointer(&flush->current);
    int result = flush->result;
    g_autofree char *error = g_steal_pointer(&flush->error);

    g_mutex_lock(&volume->map->lock);
    if (result >= 0 && flush->commit.more) {
        /* The record was full: the same round goes on. */
        flush->waiting = g_slist_concat(requests, flush->waiting);
        g_mutex_unlock(&volume->map->lock);
        queue_let(queue);
        flush_begin(volume, queue);
        return;
    }
    background_kick(volume);
    for (GSList *link = requests; link; link = link->next) {
        flush_answer(flush, link->data, result, error);
    }
    flush_hand_on(flush);
    g_mutex_unlock(&volume->map->lock);
    queue_let(queue);
    g_slist_free(requests);
}

/* --- The journal ---------------------------------------------------------------- */

static void flush_fail(struct flush *flush, int result, char *error)
{
    if (flush->result >= 0) {
        flush->result = result;
        flush->error = error;
    } else {
        g_free(error);
    }
}

static void flush_commit(archip_volume *volume)
{
    struct flush *flush = &volume->flush;
    struct map_checkpoint *checkpoint = flush->commit.checkpoint;

    g_mutex_lock(&volume->map->lock);
    drops_commit(volume, flush->result >= 0);
    map_commit_end(volume->map, &flush->commit, flush->result);
    if (checkpoint && flush->result >= 0) {
        volume->background.checkpoint = checkpoint;
    } else if (checkpoint) {
        checkpoint_abandon(volume->map, checkpoint);
    }
    g_mutex_unlock(&volume->map->lock);
    flush_end(volume);
}

static void journal_written(struct store_request *request)
{
    archip_volume *volume = request->opaque;

    if (request->result < 0) {
        flush_fail(&volume->flush, request->result,
                   g_strdup_printf("can't write the journal: %s",
                                   g_strerror(-request->result)));
    }
    flush_commit(volume);
}

static void journal_write(archip_volume *volume)
{
    struct flush *flush = &volume->flush;
    struct map_commit *commit = &flush->commit;

    flush->journal_iov = (struct iovec){ commit->record,
                                         commit->record_bytes };
    flush->journal = (struct store_request){
        .op = STORE_WRITE,
        .flags = STORE_FUA | (commit->offset_bytes ? 0 : STORE_CREATE),
        .object = commit->journal,
        .offset_bytes = commit->offset_bytes,
        .length_bytes = commit->record_bytes,
        .iov = &flush->journal_iov,
        .iov_count = 1,
        .done = journal_written,
        .opaque = volume,
    };
    store_submit(flush->queue->store_queue, &flush->journal);
}

/* --- The objects -------------------------------------------------------------------- */

static void flush_take_syncs(archip_volume *volume)
{
    struct flush *flush = &volume->flush;

    for (guint i = 0; i < flush->objects->len; i++) {
        struct object *object = g_ptr_array_index(flush->objects, i);
        int rc = flush->syncs[i].result;

        if (rc < 0) {
            object_lose(volume, object);
            flush_fail(flush, rc,
                       g_strdup_printf("can't sync object %" G_GUINT64_FORMAT
                                       ": %s", object->index,
                                       g_strerror(-rc)));
        }
        object->is_syncing = false;
        memset(&object->syncing, 0, sizeof(object->syncing));
        object_put(volume, object);
    }
    if (volume->lost_count) {
        flush_fail(flush, -EIO,
                   g_strdup_printf("an earlier sync of %u objects failed: what "
                                   "was written to them since the flush before "
                                   "may be lost until it is written again",
                                   volume->lost_count));
    }
}

/* A FUA write is a sync of its own.  If it fails the kernel has told of that,
 * and a sync beside it may find nothing wrong any more: what came of it must be
 * known before a round is judged (D6).  Those that begin now come too late to
 * do harm. */
static bool flush_awaits_pieces(archip_volume *volume)
{
    struct flush *flush = &volume->flush;

    if (flush->has_awaited) {
        return false;
    }
    flush->has_awaited = true;
    for (guint i = 0; i < flush->objects->len; i++) {
        const struct object *object = g_ptr_array_index(flush->objects, i);

        for (GList *link = object->active.head; link; link = link->next) {
            struct piece *piece = link->data;

            if (piece->op == ARCHIP_WRITE &&
                piece->request->user.flags & ARCHIP_FUA) {
                piece->awaited = true;
                flush->outstanding++;
            }
        }
    }
    return flush->outstanding > 0;
}

static void flush_synced(archip_volume *volume)
{
    struct flush *flush = &volume->flush;

    g_mutex_lock(&volume->map->lock);
    if (flush_awaits_pieces(volume)) {
        g_mutex_unlock(&volume->map->lock);
        return;
    }
    flush_take_syncs(volume);
    g_mutex_unlock(&volume->map->lock);
    g_clear_pointer(&flush->objects, g_ptr_array_unref);
    g_clear_pointer(&flush->syncs, g_free);
    if (flush->result >= 0 && flush->commit.record) {
        journal_write(volume);
    } else {
        flush_commit(volume);
    }
}

static void flush_synced_task(struct task *task)
{
    struct flush *flush =
        (struct flush *)((char *)task - offsetof(struct flush, start));

    flush_synced((archip_volume *)((char *)flush -
                                   offsetof(archip_volume, flush)));
}

void flush_piece_done(archip_volume *volume)
{
    struct flush *flush = &volume->flush;

    if (--flush->outstanding == 0) {
        flush->start.run = flush_synced_task;
        queue_post(flush->queue, &flush->start);
    }
}

static void sync_done(struct store_request *request)
{
    archip_volume *volume = request->opaque;

    if (--volume->flush.outstanding == 0) {
        flush_synced(volume);
    }
}

/* Take every object that was written since the last round.  Lock held. */
static void flush_capture_objects(archip_volume *volume)
{
    struct flush *flush = &volume->flush;
    GList *link;

    flush->objects = g_ptr_array_new();
    while ((link = g_queue_pop_head_link(&volume->unsynced))) {
        struct object *object = link->data;

        object->is_unsynced = false;
        object->is_syncing = true;
        object->syncing = object->fresh;
        memset(&object->fresh, 0, sizeof(object->fresh));
        g_ptr_array_add(flush->objects, object);
    }
    flush->syncs = g_new0(struct store_request, flush->objects->len);
    for (guint i = 0; i < flush->objects->len; i++) {
        const struct object *object = g_ptr_array_index(flush->objects, i);

        flush->syncs[i] = (struct store_request){
            .op = STORE_SYNC,
            .object = { STORE_BLOCK, volume->map->header.current_layer_id,
                        object->index },
            .done = sync_done,
            .opaque = volume,
        };
    }
}

static void flush_begin(archip_volume *volume, archip_queue *queue)
{
    struct flush *flush = &volume->flush;
    struct map *map = volume->map;
    bool fold;
    guint count;

    g_mutex_lock(&map->lock);
    flush->queue = queue;
    flush->has_awaited = false;
    flush->result = 0;
    flush->current = g_steal_pointer(&flush->waiting);
    queue_hold(queue);
    fold = map_wants_checkpoint(map) && !volume->background.checkpoint &&
           !volume->background.checkpointing;
    map_capture(map, fold ? MAP_ROTATE : MAP_JOURNAL, &flush->commit);
    drops_capture(volume);
    objects_mend(volume);
    flush_capture_objects(volume);
    if (flush->commit.lacks_memory) {
        flush_fail(
            flush, -ENOMEM,
            g_strdup_printf("can't write the journal: %s", g_strerror(ENOMEM)));
    }
    count = flush->outstanding = flush->objects->len;
    g_mutex_unlock(&map->lock);
    if (!count) {
        flush_synced(volume);
        return;
    }
    for (guint i = 0; i < count; i++) {
        store_submit(queue->store_queue, &flush->syncs[i]);
    }
}
