/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bounded pool of threads for requests that may block, shared by the queues
 * of a store.  Threads are started when there is work and none is idle, never
 * when a store is opened: callers may still fork.
 */
#include "store/dir-internal.h"

void dir_pool_init(struct dir_pool *pool, unsigned thread_limit)
{
    g_mutex_init(&pool->lock);
    g_cond_init(&pool->work);
    pool->last = &pool->first;
    pool->thread_limit = thread_limit;
    pool->threads = g_new0(GThread *, thread_limit);
}

void dir_pool_clear(struct dir_pool *pool)
{
    g_mutex_lock(&pool->lock);
    g_assert(!pool->first);
    pool->stop = true;
    g_cond_broadcast(&pool->work);
    g_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->thread_count; i++) {
        g_thread_join(pool->threads[i]);
    }
    g_free(pool->threads);
    g_cond_clear(&pool->work);
    g_mutex_clear(&pool->lock);
}

static void run_request(struct dir_store *dir, struct store_request *request)
{
    struct dir_pooled pooled = *dir_pooled(request);

    if (pooled.file) {
        request->result = dir_transfer_rest(dir, pooled.file, request,
                                            pooled.done_bytes);
        dir_file_put(dir, pooled.file, request->op == STORE_WRITE);
    } else {
        request->result = dir_execute(dir, request);
    }
    dir_queue_finished(pooled.queue, request);
}

/* The next request, or NULL to end. */
static struct store_request *take_request(struct dir_pool *pool)
{
    struct store_request *request;

    g_mutex_lock(&pool->lock);
    while (!pool->first && !pool->stop) {
        pool->idle_count++;
        g_cond_wait(&pool->work, &pool->lock);
        pool->idle_count--;
    }
    request = pool->first;
    if (request) {
        pool->first = request->next;
        pool->waiting_count--;
        if (!pool->first) {
            pool->last = &pool->first;
        }
    }
    g_mutex_unlock(&pool->lock);
    return request;
}

static gpointer pool_thread(gpointer opaque)
{
    struct dir_store *dir = opaque;
    struct store_request *request;

    while ((request = take_request(&dir->pool))) {
        run_request(dir, request);
    }
    return NULL;
}

/* One more thread; false when the system has none to give. */
static bool start_thread_locked(struct dir_store *dir)
{
    struct dir_pool *pool = &dir->pool;
    GThread *thread = g_thread_try_new("archip-dir", pool_thread, dir, NULL);

    if (thread) {
        pool->threads[pool->thread_count++] = thread;
    }
    return thread != NULL;
}

void dir_pool_push(struct dir_store *dir, struct store_request *request)
{
    struct dir_pool *pool = &dir->pool;
    bool served;

    g_mutex_lock(&pool->lock);
    request->next = NULL;
    *pool->last = request;
    pool->last = &request->next;
    pool->waiting_count++;
    if (pool->waiting_count > pool->idle_count &&
        pool->thread_count < pool->thread_limit) {
        start_thread_locked(dir);
    }
    g_cond_signal(&pool->work);
    served = pool->thread_count > 0;
    g_mutex_unlock(&pool->lock);
    if (!served) {
        run_request(dir, take_request(pool));
    }
}
