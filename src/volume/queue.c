/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues: where requests come in and completions go out.
 *
 * The descriptor given to the caller is an epoll of two: the store queue's, and
 * an eventfd through which other threads announce tasks and the queue itself
 * completions that were not collected yet.
 */
#include "volume/volume.h"

#include "base/error.h"
#include "base/sys.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* How long to wait where not all can be watched that may end the wait. */
#define BLIND_WAIT_MS 5

static void event_raise(archip_queue *queue)
{
    uint64_t one = 1;
    ssize_t done;

    do {
        done = write(queue->event_fd, &one, sizeof(one));
    } while (done < 0 && errno == EINTR);
}

static void event_clear(archip_queue *queue)
{
    uint64_t count;
    ssize_t done;

    do {
        done = read(queue->event_fd, &count, sizeof(count));
    } while (done < 0 && errno == EINTR);
}

/* --- Tasks from other threads -------------------------------------------------- */

void queue_post(archip_queue *queue, struct task *task)
{
    bool was_empty;

    task->next = NULL;
    g_mutex_lock(&queue->inbox_lock);
    was_empty = !queue->inbox_head;
    *queue->inbox_tail = task;
    queue->inbox_tail = &task->next;
    if (was_empty) {
        event_raise(queue);
    }
    g_mutex_unlock(&queue->inbox_lock);
}

static void inbox_run(archip_queue *queue)
{
    struct task *task;

    g_mutex_lock(&queue->inbox_lock);
    task = queue->inbox_head;
    if (task || queue->signalled) {
        queue->inbox_head = NULL;
        queue->inbox_tail = &queue->inbox_head;
        queue->signalled = false;
        event_clear(queue);
    }
    g_mutex_unlock(&queue->inbox_lock);
    while (task) {
        struct task *next = task->next;

        task->run(task);
        task = next;
    }
}

/* From now on the calling thread's. */
static void queue_own(archip_queue *queue)
{
    __atomic_store_n(&queue->thread, sys.thread_number(), __ATOMIC_RELAXED);
}

/* What is there to be collected must show in the descriptor. */
static void queue_announce(archip_queue *queue)
{
    if (queue->completed.length && !queue->signalled && !queue->quiet) {
        queue->signalled = true;
        event_raise(queue);
    }
}

/* --- Opening and closing -------------------------------------------------------- */

/* Only from when on somebody may poll: a store needn't announce what is fetched
 * at once anyhow.  0 or -errno: the kernel limits what may be watched. */
static int queue_watch_store(archip_queue *queue)
{
    struct epoll_event event = { .events = EPOLLIN };

    if (queue->watches_store) {
        return 0;
    }
    if (epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD,
                  store_queue_fd(queue->store_queue), &event) < 0) {
        return -errno;
    }
    queue->watches_store = true;
    return 0;
}

static int queue_open_fds(archip_queue *queue, GError **error)
{
    struct epoll_event event = { .events = EPOLLIN };

    queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    queue->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (queue->event_fd < 0 || queue->epoll_fd < 0 ||
        epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, queue->event_fd, &event)) {
        return error_set_errno(error, errno, "can't open a queue");
    }
    return 0;
}

int queue_new(archip_volume *volume, unsigned flags, archip_queue **queue,
              GError **error)
{
    archip_queue *new_queue = g_new0(archip_queue, 1);
    unsigned store_flags =
        flags & ARCHIP_QUEUE_MAY_BLOCK ? STORE_QUEUE_MAY_BLOCK : 0;
    int rc;

    new_queue->volume = volume;
    new_queue->flags = flags;
    new_queue->event_fd = new_queue->epoll_fd = -1;
    new_queue->inbox_tail = &new_queue->inbox_head;
    new_queue->texts = g_ptr_array_new_with_free_func(g_free);
    g_queue_init(&new_queue->completed);
    g_mutex_init(&new_queue->inbox_lock);
    rc = store_queue_open(volume->store->store, store_flags,
                          &new_queue->store_queue, error);
    if (rc == 0) {
        rc = queue_open_fds(new_queue, error);
    }
    if (rc == 0 && !(flags & ARCHIP_QUEUE_MAY_BLOCK)) {
        rc = queue_watch_store(new_queue);
        if (rc < 0) {
            error_set_errno(error, -rc, "can't open a queue");
        }
    }
    if (rc < 0) {
        queue_free(new_queue);
        return rc;
    }
    *queue = new_queue;
    return 0;
}

static void queue_drain(archip_queue *queue)
{
    while (queue->in_flight) {
        queue_turn(queue, -1);
    }
}

void queue_free(archip_queue *queue)
{
    struct request *request;

    queue_drain(queue);
    while ((request = g_queue_pop_head(&queue->completed))) {
        request_free(request);
    }
    if (queue->store_queue) {
        store_queue_close(queue->store_queue);
    }
    if (queue->event_fd >= 0) {
        close(queue->event_fd);
    }
    if (queue->epoll_fd >= 0) {
        close(queue->epoll_fd);
    }
    g_ptr_array_unref(queue->texts);
    g_mutex_clear(&queue->inbox_lock);
    g_free(queue);
}

int archip_queue_open(archip_volume *volume, unsigned flags,
                      archip_queue **queue)
{
    GError *error = NULL;

    if (flags & ~ARCHIP_QUEUE_MAY_BLOCK) {
        return api_fail_text(EINVAL, "unknown queue flags 0x%x", flags);
    }
    if (queue_new(volume, flags, queue, &error) < 0) {
        return api_fail(error);
    }
    g_atomic_int_inc(&volume->queue_count);
    g_mutex_lock(&volume->store->queues_lock);
    g_ptr_array_add(volume->store->queues, *queue);
    g_mutex_unlock(&volume->store->queues_lock);
    return 0;
}

void archip_queue_close(archip_queue *queue)
{
    if (queue) {
        archip_volume *volume = queue->volume;
        archip_store *store = volume->store;

        queue_own(queue);
        queue_drain(queue);
        g_mutex_lock(&store->queues_lock);
        g_ptr_array_remove_fast(store->queues, queue);
        g_mutex_unlock(&store->queues_lock);
        queue_free(queue);
        g_atomic_int_add(&volume->queue_count, -1);
    }
}

int archip_queue_fd(archip_queue *queue)
{
    int rc = queue_watch_store(queue);

    return rc < 0 ? api_fail_text(-rc, "volume '%s': can't watch a queue: %s",
                                  queue->volume->name, g_strerror(-rc))
                  : queue->epoll_fd;
}

/* --- Turning ------------------------------------------------------------------------ */

static void queue_work(archip_queue *queue)
{
    inbox_run(queue);
    do {
        store_kick(queue->store_queue);
    } while (store_poll(queue->store_queue) > 0);
}

/* The queues of the store, but `queue`, that have something in flight and that
 * this thread used last: nobody else may touch them now.  In that order: who has
 * taken one over since makes it his own before anything is in flight. */
static GPtrArray *queue_siblings(archip_store *store,
                                 const archip_queue *queue)
{
    GPtrArray *siblings = g_ptr_array_new();

    g_mutex_lock(&store->queues_lock);
    for (guint i = 0; i < store->queues->len; i++) {
        archip_queue *other = g_ptr_array_index(store->queues, i);

        if (other != queue &&
            __atomic_load_n(&other->in_flight, __ATOMIC_ACQUIRE) &&
            __atomic_load_n(&other->thread, __ATOMIC_RELAXED) ==
                sys.thread_number()) {
            g_ptr_array_add(siblings, other);
        }
    }
    g_mutex_unlock(&store->queues_lock);
    return siblings;
}

/* Wait for `queue` (NULL: only so long) and for siblings, which do then what
 * there is to do. */
static void queue_wait(archip_queue *queue, const GPtrArray *siblings,
                       int timeout_ms)
{
    g_autofree struct pollfd *fds = g_new(struct pollfd, siblings->len + 1);
    bool blind = !queue || queue_watch_store(queue) < 0;
    nfds_t count = 0;

    for (guint i = 0; i < siblings->len; i++) {
        archip_queue *other = g_ptr_array_index(siblings, i);

        blind |= queue_watch_store(other) < 0;
        fds[count++] = (struct pollfd){ other->epoll_fd, POLLIN, 0 };
    }
    if (queue) {
        fds[count++] = (struct pollfd){ queue->epoll_fd, POLLIN, 0 };
    }
    if (blind && (timeout_ms < 0 || timeout_ms > BLIND_WAIT_MS)) {
        timeout_ms = BLIND_WAIT_MS;
    }
    poll(fds, count, timeout_ms);
    for (guint i = 0; i < siblings->len; i++) {
        archip_queue *other = g_ptr_array_index(siblings, i);

        queue_work(other);
        queue_announce(other);
    }
}

void queue_turn(archip_queue *queue, int timeout_ms)
{
    if (timeout_ms != 0) {
        g_autoptr(GPtrArray) siblings =
            queue_siblings(queue->volume->store, queue);

        queue_wait(queue, siblings, timeout_ms);
    }
    queue_work(queue);
}

void life_lock(archip_volume *volume)
{
    while (!g_mutex_trylock(&volume->life)) {
        g_autoptr(GPtrArray) queues = queue_siblings(volume->store, NULL);

        if (!queues->len) {
            g_mutex_lock(&volume->life);
            return;
        }
        queue_wait(NULL, queues, -1);
    }
}

static void queue_completed(struct request *request)
{
    archip_queue *queue = request->queue;

    queue_let(queue);
    queue->requests--;
    g_queue_push_tail(&queue->completed, request);
}

int archip_submit(archip_queue *queue, const archip_request *requests,
                  size_t count)
{
    GError *error = NULL;

    for (size_t i = 0; i < count; i++) {
        if (request_check(&requests[i], &error) < 0) {
            return api_fail(error);
        }
    }
    queue_own(queue);
    for (size_t i = 0; i < count; i++) {
        queue_hold(queue);
        queue->requests++;
        request_start(request_new(queue, queue->volume, &requests[i],
                                  queue_completed, NULL));
    }
    store_kick(queue->store_queue);
    queue_announce(queue);
    return 0;
}

static size_t queue_collect(archip_queue *queue,
                            archip_completion *completions, size_t max)
{
    size_t count = 0;
    struct request *request;

    while (count < max && (request = g_queue_pop_head(&queue->completed))) {
        completions[count++] = (archip_completion){
            .user = request->user.user,
            .result = request->result,
            .error = request->error,
        };
        if (request->error) {
            g_ptr_array_add(queue->texts, g_steal_pointer(&request->error));
        }
        request_free(request);
    }
    return count;
}

int archip_queue_reap(archip_queue *queue, archip_completion *completions,
                      size_t max, int timeout_ms)
{
    gint64 end_us = g_get_monotonic_time() + timeout_ms * G_GINT64_CONSTANT(1000);

    max = MIN(max, (size_t)G_MAXINT);
    queue_own(queue);
    g_ptr_array_set_size(queue->texts, 0);
    if (!queue->completed.length || queue->signalled) {
        queue_turn(queue, 0);
    }
    while (!queue->completed.length && queue->requests && timeout_ms != 0) {
        int rest_ms = timeout_ms;

        if (timeout_ms > 0) {
            gint64 rest_us = end_us - g_get_monotonic_time();

            if (rest_us <= 0) {
                break;
            }
            rest_ms = (int)((rest_us + 999) / 1000);
        }
        queue_turn(queue, rest_ms);
    }
    max = queue_collect(queue, completions, max);
    queue_announce(queue);
    return (int)max;
}
