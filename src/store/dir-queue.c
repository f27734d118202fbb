/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Queues of the dir store.
 *
 * A request goes one of three ways: a read or write that needs nothing but the
 * disk goes to libaio (O_DIRECT), or is read from the page cache at once
 * (buffered); all else goes to the pool.  Whatever libaio leaves over (a short
 * transfer, something it wouldn't take) the pool finishes, so the caller sees
 * no difference.
 *
 * With STORE_QUEUE_MAY_BLOCK kick() itself carries out a request; of several
 * that wait for the disk the pool takes all but the last, so that they wait at
 * the same time.  All are done when it returns.
 *
 * Everything but `finished` belongs to the queue's thread.  The descriptor is
 * an eventfd which the pool, libaio and the queue itself raise.  On a queue
 * that carries out its own requests it is raised only once somebody asked for
 * it: one system call less for those who just call poll().
 *
 * Completed events are taken from libaio's ring, which the kernel shares with
 * us, without a system call; should its layout be another one, io_getevents()
 * does it.
 */
#include "store/dir-internal.h"

#include "base/error.h"
#include "base/sys.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#ifndef AIO_DEPTH
#define AIO_DEPTH 256
#endif
/* The kernel holds back what one io_submit() brings until it has seen all of
 * it: with sixteen at once the disk idles meanwhile.  Random reads of 4 KiB at
 * depth 16 reached 44k a second in whole batches, 56k in fours, 49k singly. */
#define AIO_SUBMIT_MAX 4u
#define AIO_RING_MAGIC 0xa10a10a1u

/* What io_context_t points to. */
struct aio_ring {
    unsigned id, slot_count;
    _Atomic unsigned head, tail;
    unsigned magic, compatible, incompatible, header_bytes;
    struct io_event events[];
};

struct request_list {
    struct store_request *first, **last;
    unsigned count;
};

struct dir_queue {
    struct store_queue queue;
    struct dir_store *dir;
    int event_fd;
    bool may_block;
    bool fd_wanted;             /* somebody may be polling the descriptor */
    bool raised;                /* by ourselves, since it was last drained */
    int64_t events_due;         /* events of what was collected, less those
                                   read: while there are any, the descriptor
                                   is readable, or will be, for nothing */
    bool no_wait_fails;         /* RWF_NOWAIT isn't known here */
    struct request_list submitted;
    struct request_list waiting;    /* for room in libaio */
    struct request_list done;       /* to be delivered */
    unsigned pooled_count;

    bool wants_aio;             /* from the first transfer on */
    io_context_t aio;           /* NULL: none */
    unsigned aio_count;         /* in flight there */
    struct iocb *batch[AIO_DEPTH];
    unsigned batch_count;

    GMutex lock;                /* guards: */
    struct request_list finished;
    unsigned finished_events;   /* raised for them */
    unsigned awaited_count;     /* so many finished ones are waited for: */
    GCond all_finished;
};

static_assert(sizeof(struct iocb) <=
                  sizeof(((struct store_request *)0)->driver),
              "an iocb fits into a request");

/* --- Lists ---------------------------------------------------------------- */

static void list_init(struct request_list *list)
{
    list->first = NULL;
    list->last = &list->first;
    list->count = 0;
}

static void list_push(struct request_list *list, struct store_request *request)
{
    request->next = NULL;
    *list->last = request;
    list->last = &request->next;
    list->count++;
}

static struct store_request *list_pop(struct request_list *list)
{
    struct store_request *request = list->first;

    if (request) {
        list->first = request->next;
        list->count--;
        if (!list->first) {
            list->last = &list->first;
        }
    }
    return request;
}

/* All of `from` to the end of `to`. */
static void list_move(struct request_list *to, struct request_list *from)
{
    if (from->first) {
        *to->last = from->first;
        to->last = from->last;
        to->count += from->count;
        list_init(from);
    }
}

/* --- Completing ----------------------------------------------------------- */

static void raise_event(struct dir_queue *queue)
{
    if (!queue->raised) {
        queue->raised = true;
        queue->events_due++;
        eventfd_write(queue->event_fd, 1);
    }
}

static void complete(struct dir_queue *queue, struct store_request *request,
                     int result)
{
    request->result = result;
    list_push(&queue->done, request);
}

/* The event is raised under the lock: when the request is seen to be finished,
 * no thread of the pool touches the queue any more. */
void dir_queue_finished(struct dir_queue *queue, struct store_request *request)
{
    g_mutex_lock(&queue->lock);
    list_push(&queue->finished, request);
    if (queue->may_block) {
        if (queue->finished.count == queue->awaited_count) {
            g_cond_signal(&queue->all_finished);
        }
    } else if (queue->finished.count == 1) {
        queue->finished_events++;
        eventfd_write(queue->event_fd, 1);
    }
    g_mutex_unlock(&queue->lock);
}

static void to_pool(struct dir_queue *queue, struct store_request *request,
                    struct dir_file *file, uint64_t done_bytes)
{
    *dir_pooled(request) = (struct dir_pooled){
        .queue = queue,
        .file = file,
        .done_bytes = done_bytes,
    };
    queue->pooled_count++;
    dir_pool_push(queue->dir, request);
}

/* --- libaio --------------------------------------------------------------- */

static struct iocb *iocb_of(struct store_request *request)
{
    return (struct iocb *)request->driver;
}

static struct store_request *request_of(struct iocb *iocb)
{
    return (struct store_request *)((char *)iocb -
                                    offsetof(struct store_request, driver));
}

static void prepare(struct dir_queue *queue, struct store_request *request,
                    struct dir_file *file)
{
    struct iocb *iocb = iocb_of(request);
    bool read = request->op == STORE_READ;

    if (request->iov_count == 1) {
        (read ? io_prep_pread : io_prep_pwrite)(
            iocb, file->fd, request->iov[0].iov_base, request->iov[0].iov_len,
            (long long)request->offset_bytes);
    } else {
        (read ? io_prep_preadv : io_prep_pwritev)(
            iocb, file->fd, request->iov, request->iov_count,
            (long long)request->offset_bytes);
    }
    io_set_eventfd(iocb, queue->event_fd);
    if (!read && request->flags & STORE_FUA) {
        iocb->aio_rw_flags = RWF_DSYNC;
    }
    iocb->data = file;
}

/* What was prepared, to the kernel.  What it doesn't take, the pool does. */
static void submit_batch(struct dir_queue *queue)
{
    unsigned at = 0;

    while (at < queue->batch_count) {
        unsigned count = MIN(queue->batch_count - at, AIO_SUBMIT_MAX);
        int taken = sys.io_submit(queue->aio, count, queue->batch + at);

        if (taken > 0) {
            at += (unsigned)taken;
            queue->aio_count += (unsigned)taken;
        } else if (taken != -EINTR) {
            struct iocb *iocb = queue->batch[at++];

            to_pool(queue, request_of(iocb), iocb->data, 0);
        }
    }
    queue->batch_count = 0;
}

static bool ends_here(struct dir_file *file, uint64_t offset_bytes)
{
    struct stat status;

    return sys.fstat(file->fd, &status) == 0 &&
           offset_bytes >= (uint64_t)status.st_size;
}

static void aio_done(struct dir_queue *queue, const struct io_event *event)
{
    struct store_request *request = request_of(event->obj);
    struct dir_file *file = event->data;
    int64_t got = (int64_t)event->res;
    bool read = request->op == STORE_READ;

    queue->aio_count--;
    queue->events_due++;
    if (got == (int64_t)request->length_bytes) {
        dir_file_put(queue->dir, file,
                     !read && !(request->flags & STORE_FUA));
        complete(queue, request, 0);
    } else if (read && got >= 0 &&
               ends_here(file, request->offset_bytes + (uint64_t)got)) {
        dir_fill_zeroes(request, (uint64_t)got);
        dir_file_put(queue->dir, file, false);
        complete(queue, request, 0);
    } else if (got >= 0 || got == -EINVAL || got == -EAGAIN ||
               (dir_is_full((int)got) && dir_is_metadata(&request->object))) {
        to_pool(queue, request, file, got < 0 ? 0 : (uint64_t)got);
    } else {
        dir_file_put(queue->dir, file, !read);
        complete(queue, request, (int)got);
    }
}

static bool ring_is_known(const struct aio_ring *ring)
{
    return ring->magic == AIO_RING_MAGIC && ring->incompatible == 0 &&
           ring->header_bytes == sizeof(struct aio_ring);
}

static void reap_slowly(struct dir_queue *queue)
{
    struct timespec no_wait = {0};
    struct io_event events[32];
    int count;

    do {
        count = io_getevents(queue->aio, 0, G_N_ELEMENTS(events), events,
                             &no_wait);
        for (int i = 0; i < count; i++) {
            aio_done(queue, &events[i]);
        }
    } while (count == G_N_ELEMENTS(events) || count == -EINTR);
}

static void reap(struct dir_queue *queue)
{
    struct aio_ring *ring = (struct aio_ring *)queue->aio;
    unsigned head, tail;

    if (queue->aio_count == 0) {
        return;
    }
    if (!ring_is_known(ring)) {
        reap_slowly(queue);
        return;
    }
    head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    while (head != tail) {
        struct io_event event = ring->events[head];

        head = head + 1 == ring->slot_count ? 0 : head + 1;
        atomic_store_explicit(&ring->head, head, memory_order_release);
        aio_done(queue, &event);
    }
}

/* --- Starting a request --------------------------------------------------- */

static bool is_transfer(const struct store_request *request)
{
    return (request->op == STORE_READ || request->op == STORE_WRITE) &&
           !(request->flags & STORE_CREATE) && request->length_bytes > 0 &&
           request->length_bytes <= INT32_MAX &&
           request->offset_bytes < (UINT64_C(1) << 62) &&
           request->iov_count <= 1024;
}

static bool has_room(const struct dir_queue *queue)
{
    return queue->aio_count + queue->batch_count < AIO_DEPTH;
}

static void start_direct(struct dir_queue *queue, struct store_request *request)
{
    struct dir_file *file;
    int result;

    result = dir_file_get(queue->dir, &request->object, false, &file);
    if (result == -EAGAIN) {
        to_pool(queue, request, NULL, 0);
    } else if (result < 0) {
        complete(queue, request, result);
    } else if ((request->op == STORE_WRITE && file->read_only) ||
               !dir_is_aligned(queue->dir, request)) {
        to_pool(queue, request, file, 0);
    } else {
        prepare(queue, request, file);
        queue->batch[queue->batch_count++] = iocb_of(request);
    }
}

/* From the page cache, or by the pool. */
static void start_buffered_read(struct dir_queue *queue,
                                struct store_request *request)
{
    struct dir_file *file;
    ssize_t got = 0;
    int result = dir_file_get(queue->dir, &request->object, false, &file);

    if (result < 0) {
        if (result == -EAGAIN) {
            to_pool(queue, request, NULL, 0);
        } else {
            complete(queue, request, result);
        }
        return;
    }
    if (!queue->no_wait_fails) {
        got = sys.preadv2(file->fd, request->iov, request->iov_count,
                          (off_t)request->offset_bytes, RWF_NOWAIT);
        queue->no_wait_fails = got < 0 && errno == EOPNOTSUPP;
        got = MAX(got, 0);
    }
    if (got == (ssize_t)request->length_bytes) {
        dir_file_put(queue->dir, file, false);
        complete(queue, request, 0);
    } else {
        to_pool(queue, request, file, (uint64_t)got);
    }
}

/* Is it done without a system call? */
static bool is_synced(struct dir_queue *queue, struct store_request *request)
{
    struct dir_store *dir = queue->dir;
    struct dir_file *file;
    bool clean;

    if (!dir_folders_clean(dir)) {
        return false;
    }
    file = dir_file_find(dir, &request->object);
    clean = !file || dir_file_is_clean(dir, file);
    if (file) {
        dir_file_put(dir, file, false);
    }
    return clean;
}

/* Without a context (there is a limit on the system) the pool does the work. */
static bool has_aio(struct dir_queue *queue)
{
    if (queue->aio || !queue->wants_aio) {
        return queue->aio != NULL;
    }
    if (sys.aio_get(AIO_DEPTH, &queue->aio) < 0) {
        queue->aio = NULL;
        queue->wants_aio = false;
    }
    return queue->aio != NULL;
}

static void start(struct dir_queue *queue, struct store_request *request)
{
    if (is_transfer(request) && has_aio(queue)) {
        if (has_room(queue) && !queue->waiting.first) {
            start_direct(queue, request);
        } else {
            list_push(&queue->waiting, request);
        }
    } else if (is_transfer(request) && request->op == STORE_READ &&
               !queue->dir->direct) {
        start_buffered_read(queue, request);
    } else if (request->op == STORE_SYNC && is_synced(queue, request)) {
        complete(queue, request,
                 dir_file_failure(queue->dir, &request->object));
    } else {
        to_pool(queue, request, NULL, 0);
    }
}

/* --- The driver's calls --------------------------------------------------- */

void dir_queue_submit(struct store_queue *base, struct store_request *request)
{
    list_push(&((struct dir_queue *)base)->submitted, request);
}

static void await_pool(struct dir_queue *queue)
{
    g_mutex_lock(&queue->lock);
    queue->awaited_count = queue->pooled_count;
    while (queue->finished.count < queue->awaited_count) {
        g_cond_wait(&queue->all_finished, &queue->lock);
    }
    list_move(&queue->done, &queue->finished);
    queue->awaited_count = queue->pooled_count = 0;
    g_mutex_unlock(&queue->lock);
}

/* What the page cache takes or gives isn't worth a change of threads. */
static bool waits_for_disk(struct dir_queue *queue,
                           struct store_request *request)
{
    switch (request->op) {
    case STORE_SYNC:
        return !is_synced(queue, request);
    case STORE_READ:
    case STORE_WRITE:
        return queue->dir->direct;
    default:
        return true;
    }
}

static void carry_out(struct dir_queue *queue)
{
    struct store_request *request;

    while ((request = list_pop(&queue->submitted))) {
        if (queue->submitted.first && waits_for_disk(queue, request)) {
            to_pool(queue, request, NULL, 0);
        } else {
            complete(queue, request, dir_execute(queue->dir, request));
        }
    }
    if (queue->pooled_count > 0) {
        await_pool(queue);
    }
}

void dir_queue_kick(struct store_queue *base)
{
    struct dir_queue *queue = (struct dir_queue *)base;
    struct store_request *request;

    if (queue->may_block) {
        carry_out(queue);
    }
    while ((request = list_pop(&queue->submitted))) {
        start(queue, request);
    }
    if (queue->batch_count > 0) {
        submit_batch(queue);
    }
    if (queue->done.first && queue->fd_wanted) {
        raise_event(queue);
    }
}

/* Put what was waiting for room to work. */
static void refill(struct dir_queue *queue)
{
    while (queue->waiting.first && has_room(queue)) {
        start_direct(queue, list_pop(&queue->waiting));
    }
    if (queue->batch_count > 0) {
        submit_batch(queue);
    }
}

/* An event may come after what it tells of was collected: read it later. */
static void collect(struct dir_queue *queue)
{
    eventfd_t drained;

    if (queue->aio_count > 0 || queue->pooled_count > 0 ||
        queue->events_due > 0) {
        if (eventfd_read(queue->event_fd, &drained) == 0) {
            queue->events_due -= (int64_t)drained;
        }
        queue->raised = false;
    }
    if (queue->pooled_count > 0) {
        g_mutex_lock(&queue->lock);
        queue->pooled_count -= queue->finished.count;
        list_move(&queue->done, &queue->finished);
        queue->events_due += queue->finished_events;
        queue->finished_events = 0;
        g_mutex_unlock(&queue->lock);
    }
    reap(queue);
}

/* `done` may submit and kick: what that completes stays for the next call. */
int dir_queue_poll(struct store_queue *base)
{
    struct dir_queue *queue = (struct dir_queue *)base;
    unsigned count;

    collect(queue);
    if (queue->waiting.first) {
        refill(queue);
    }
    count = queue->done.count;
    for (unsigned i = 0; i < count; i++) {
        struct store_request *request = list_pop(&queue->done);

        request->done(request);
    }
    if (queue->done.first && queue->fd_wanted) {
        raise_event(queue);
    }
    return (int)count;
}

int dir_queue_fd(struct store_queue *base)
{
    struct dir_queue *queue = (struct dir_queue *)base;

    queue->fd_wanted = true;
    if (queue->done.first) {
        raise_event(queue);
    }
    return queue->event_fd;
}

int dir_queue_open(struct store *store, unsigned flags,
                   struct store_queue **base, GError **error)
{
    struct dir_store *dir = store->state;
    struct dir_queue *queue = g_new0(struct dir_queue, 1);

    queue->queue.store = store;
    queue->dir = dir;
    queue->may_block = flags & STORE_QUEUE_MAY_BLOCK;
    queue->fd_wanted = !queue->may_block;
    queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->event_fd < 0) {
        int result = error_set_errno(error, errno, "cannot make a queue");

        g_free(queue);
        return result;
    }
    queue->wants_aio = dir->direct && !queue->may_block;
    list_init(&queue->submitted);
    list_init(&queue->waiting);
    list_init(&queue->done);
    list_init(&queue->finished);
    g_mutex_init(&queue->lock);
    g_cond_init(&queue->all_finished);
    *base = &queue->queue;
    return 0;
}

void dir_queue_close(struct store_queue *base)
{
    struct dir_queue *queue = (struct dir_queue *)base;

    /* The last thread of the pool may not have left the lock yet. */
    g_mutex_lock(&queue->lock);
    g_assert(queue->finished.count == 0);
    g_mutex_unlock(&queue->lock);
    g_assert(queue->submitted.count + queue->waiting.count + queue->done.count +
             queue->aio_count + queue->pooled_count == 0);
    if (queue->aio) {
        sys.aio_put(AIO_DEPTH, queue->aio);
    }
    close(queue->event_fd);
    g_mutex_clear(&queue->lock);
    g_cond_clear(&queue->all_finished);
    g_free(queue);
}
