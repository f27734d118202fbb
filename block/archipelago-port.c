/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ports and accesses: see archipelago-port.h.
 *
 * A port's lock makes its queue belong to one thread at a time.  Memory of
 * ports is reused but never freed: another thread's loop may be about to call a
 * handler that was just removed, and then finds a port without a queue, or one
 * of another thread, both of which it leaves alone, or one of its own, whose
 * completions it may deliver.
 *
 * A handler wakes coroutines without the lock, and these submit more, which is
 * gathered and submitted in one go when the handler ends.  A coroutine may also
 * poll the same loop again (a drain): what the outer handler still has to do is
 * then done by the port's bottom half.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "compat.h"
#include "archipelago-port.h"

#define PORT_BATCH 64

struct ArchipelagoPort {
    QemuMutex lock;             /* guards all below, but for `link` */
    archip_queue *queue;        /* NULL: the port is on the free list */
    AioContext *ctx;
    QEMUBH *bh;
    unsigned handler_depth;     /* handlers that are waking coroutines */
    unsigned plug_depth;        /* bdrv_io_plug() of 7.2 */
    unsigned pending_count;
    int ready_count, ready_next;
    archip_request pending[PORT_BATCH];     /* not yet submitted */
    archip_completion ready[PORT_BATCH];    /* reaped, not yet delivered */
    QLIST_ENTRY(ArchipelagoPort) link;      /* of the node or the free list */
};

static QemuMutex free_lock;     /* guards `free_ports` */
static QLIST_HEAD(, ArchipelagoPort) free_ports =
    QLIST_HEAD_INITIALIZER(free_ports);

typedef struct Waiter {
    Coroutine *co;
    int64_t result;             /* -EINPROGRESS until it's there */
} Waiter;

static void port_submit_locked(ArchipelagoPort *port)
{
    unsigned count = port->pending_count;
    int ret;

    if (count == 0) {
        return;
    }
    port->pending_count = 0;
    ret = archip_submit(port->queue, port->pending, count);
    for (unsigned i = 0; ret < 0 && i < count; i++) {
        Waiter *waiter = port->pending[i].user;

        waiter->result = ret;
        aio_co_schedule(port->ctx, waiter->co);
    }
}

static void port_submit(void *opaque)
{
    ArchipelagoPort *port = opaque;

    QEMU_LOCK_GUARD(&port->lock);
    if (port->queue) {
        port_submit_locked(port);
    }
}

/* Is it in use, and the calling thread's? */
static bool port_is_ours_locked(const ArchipelagoPort *port)
{
    return port->queue && port->ctx == qemu_get_current_aio_context();
}

/* Collect once; more is signalled by the descriptor. */
static bool port_reap_locked(ArchipelagoPort *port)
{
    if (port->ready_next == port->ready_count) {
        port->ready_next = 0;
        port->ready_count = archip_queue_reap(port->queue, port->ready,
                                              PORT_BATCH, 0);
    }
    return port->ready_next < port->ready_count;
}

/* The handler of the descriptor and of the bottom half. */
static void port_run(void *opaque)
{
    ArchipelagoPort *port = opaque;

    qemu_mutex_lock(&port->lock);
    if (!port_is_ours_locked(port)) {
        qemu_mutex_unlock(&port->lock);
        return;
    }
    port_reap_locked(port);
    port->handler_depth++;
    while (port_is_ours_locked(port) && port->ready_next < port->ready_count) {
        archip_completion *ready = &port->ready[port->ready_next++];
        Waiter *waiter = ready->user;

        waiter->result = ready->result;
        if (port->ready_next < port->ready_count) {
            qemu_bh_schedule(port->bh);
        }
        qemu_mutex_unlock(&port->lock);
        aio_co_wake(waiter->co);
        qemu_mutex_lock(&port->lock);
    }
    port->handler_depth--;
    if (port_is_ours_locked(port)) {
        port_submit_locked(port);
        qemu_bh_cancel(port->bh);
    }
    qemu_mutex_unlock(&port->lock);
}

/* Busy polling of an iothread: whether port_run() has something to do.  It isn't
 * called if this handler was just removed: then the bottom half does it. */
static bool port_poll(void *opaque)
{
    ArchipelagoPort *port = opaque;

    QEMU_LOCK_GUARD(&port->lock);
    if (!port_is_ours_locked(port) || !port_reap_locked(port)) {
        return false;
    }
    qemu_bh_schedule(port->bh);
    return true;
}

static ArchipelagoPort *port_allocate(void)
{
    ArchipelagoPort *port;

    QEMU_LOCK_GUARD(&free_lock);
    port = QLIST_FIRST(&free_ports);
    if (port) {
        QLIST_REMOVE(port, link);
    } else {
        port = g_new0(ArchipelagoPort, 1);
        qemu_mutex_init(&port->lock);
    }
    return port;
}

static int port_open_locked(ArchipelagoPorts *ports, AioContext *ctx,
                            ArchipelagoPort **result)
{
    archip_queue *queue;
    ArchipelagoPort *port;
    int ret = archip_queue_open(ports->volume, 0, &queue);

    if (ret < 0) {
        return ret;
    }
    port = port_allocate();
    aio_context_ref(ctx);
    WITH_QEMU_LOCK_GUARD(&port->lock) {
        port->queue = queue;
        port->ctx = ctx;
        port->bh = aio_bh_new(ctx, port_run, port);
        port->plug_depth = 0;
    }
    QLIST_INSERT_HEAD(&ports->list, port, link);
    compat_set_fd_handler(ctx, archip_queue_fd(queue), port_run, port_poll,
                          port);
    *result = port;
    return 0;
}

/* Nothing is in flight. */
static void port_close(ArchipelagoPort *port)
{
    archip_queue *queue;
    AioContext *ctx;
    QEMUBH *bh;

    compat_set_fd_handler(port->ctx, archip_queue_fd(port->queue), NULL, NULL,
                          NULL);
    WITH_QEMU_LOCK_GUARD(&port->lock) {
        assert(port->pending_count == 0);
        assert(port->ready_next == port->ready_count);
        queue = port->queue;
        ctx = port->ctx;
        bh = port->bh;
        port->queue = NULL;
    }
    qemu_bh_delete(bh);
    archip_queue_close(queue);
    aio_context_unref(ctx);
    WITH_QEMU_LOCK_GUARD(&free_lock) {
        QLIST_INSERT_HEAD(&free_ports, port, link);
    }
}

/* The port of the calling thread's context. */
static int port_get(ArchipelagoPorts *ports, AioContext *ctx,
                    ArchipelagoPort **result)
{
    ArchipelagoPort *port;

    QEMU_LOCK_GUARD(&ports->lock);
    QLIST_FOREACH(port, &ports->list, link) {
        if (port->ctx == ctx) {
            *result = port;
            return 0;
        }
    }
    return port_open_locked(ports, ctx, result);
}

static void port_take(ArchipelagoPort *port, const archip_request *request)
{
    WITH_QEMU_LOCK_GUARD(&port->lock) {
        if (port->pending_count == PORT_BATCH) {
            port_submit_locked(port);
        }
        port->pending[port->pending_count++] = *request;
        if (port->handler_depth > 0) {
            qemu_bh_schedule(port->bh);
            return;
        }
        if (port->plug_depth > 0) {
            return;
        }
    }
    compat_defer_call(port_submit, port);
}

/* --- What the driver calls ------------------------------------------------ */

void archipelago_ports_init(ArchipelagoPorts *ports, archip_volume *volume)
{
    qemu_mutex_init(&ports->lock);
    QLIST_INIT(&ports->list);
    ports->volume = volume;
}

void archipelago_ports_destroy(ArchipelagoPorts *ports)
{
    assert(QLIST_EMPTY(&ports->list));
    qemu_mutex_destroy(&ports->lock);
}

int archipelago_port_add(ArchipelagoPorts *ports, AioContext *ctx)
{
    ArchipelagoPort *port;

    return port_get(ports, ctx, &port);
}

void archipelago_ports_close(ArchipelagoPorts *ports)
{
    ArchipelagoPort *port, *next;

    QEMU_LOCK_GUARD(&ports->lock);
    QLIST_FOREACH_SAFE(port, &ports->list, link, next) {
        QLIST_REMOVE(port, link);
        port_close(port);
    }
}

/* By each port's own thread: with requests in flight a queue can't change
 * hands. */
void archipelago_ports_unplug(ArchipelagoPorts *ports)
{
    ArchipelagoPort *port;

    QEMU_LOCK_GUARD(&ports->lock);
    QLIST_FOREACH(port, &ports->list, link) {
        QEMU_LOCK_GUARD(&port->lock);
        port->plug_depth = 0;
        if (port->pending_count > 0) {
            qemu_bh_schedule(port->bh);
        }
    }
}

int64_t coroutine_fn archipelago_port_request(ArchipelagoPorts *ports,
                                              archip_request *request)
{
    Waiter waiter = {
        .co = qemu_coroutine_self(),
        .result = -EINPROGRESS,
    };
    ArchipelagoPort *port;
    int ret = port_get(ports, qemu_get_current_aio_context(), &port);

    if (ret < 0) {
        return ret;
    }
    request->user = &waiter;
    port_take(port, request);
    while (waiter.result == -EINPROGRESS) {
        qemu_coroutine_yield();
    }
    return waiter.result;
}

void archipelago_port_plug(ArchipelagoPorts *ports)
{
    ArchipelagoPort *port;

    if (port_get(ports, qemu_get_current_aio_context(), &port) == 0) {
        QEMU_LOCK_GUARD(&port->lock);
        port->plug_depth++;
    }
}

void archipelago_port_unplug(ArchipelagoPorts *ports)
{
    ArchipelagoPort *port;

    if (port_get(ports, qemu_get_current_aio_context(), &port) == 0) {
        QEMU_LOCK_GUARD(&port->lock);
        if (port->plug_depth > 0 && --port->plug_depth == 0) {
            port_submit_locked(port);
        }
    }
}

void archipelago_port_init(void)
{
    qemu_mutex_init(&free_lock);
}

/* --- Accesses ------------------------------------------------------------- */

static void collect_bh(void *opaque)
{
    archipelago_access_collect(opaque);
}

void archipelago_accesses_init(ArchipelagoAccesses *accesses)
{
    qemu_mutex_init(&accesses->lock);
    QLIST_INIT(&accesses->retired);
    accesses->collect_bh = aio_bh_new(qemu_get_aio_context(), collect_bh,
                                      accesses);
}

void archipelago_accesses_destroy(ArchipelagoAccesses *accesses)
{
    assert(QLIST_EMPTY(&accesses->retired));
    qemu_bh_delete(accesses->collect_bh);
    qemu_mutex_destroy(&accesses->lock);
}

int archipelago_access_open(archip_store *store, const char *volume,
                            bool writable, ArchipelagoAccess **result)
{
    ArchipelagoAccess *access = g_new0(ArchipelagoAccess, 1);
    int ret = archip_volume_open(store, volume,
                                 writable ? ARCHIP_OPEN_WRITE : 0, NULL,
                                 &access->volume);

    if (ret < 0) {
        g_free(access);
        return ret;
    }
    access->writable = writable;
    archipelago_ports_init(&access->ports, access->volume);
    *result = access;
    return 0;
}

void archipelago_access_close(ArchipelagoAccess *access)
{
    assert(access->user_count == 0);
    archipelago_ports_close(&access->ports);
    archipelago_ports_destroy(&access->ports);
    if (archip_volume_close(access->volume) < 0) {
        error_report("archipelago: %s", archip_error());
    }
    g_free(access);
}

ArchipelagoAccess *archipelago_access_get(ArchipelagoAccesses *accesses)
{
    QEMU_LOCK_GUARD(&accesses->lock);
    accesses->current->user_count++;
    return accesses->current;
}

void archipelago_access_put(ArchipelagoAccesses *accesses,
                            ArchipelagoAccess *access)
{
    QEMU_LOCK_GUARD(&accesses->lock);
    if (--access->user_count == 0 && access != accesses->current) {
        qemu_bh_schedule(accesses->collect_bh);
    }
}

ArchipelagoAccess *archipelago_access_replace(ArchipelagoAccesses *accesses,
                                              ArchipelagoAccess *access)
{
    ArchipelagoAccess *old;

    QEMU_LOCK_GUARD(&accesses->lock);
    old = accesses->current;
    accesses->current = access;
    archipelago_ports_unplug(&old->ports);
    return old;
}

void archipelago_access_retire(ArchipelagoAccesses *accesses,
                               ArchipelagoAccess *access)
{
    QEMU_LOCK_GUARD(&accesses->lock);
    QLIST_INSERT_HEAD(&accesses->retired, access, next);
    qemu_bh_schedule(accesses->collect_bh);
}

typedef bool AccessFilter(const ArchipelagoAccess *access);

static bool access_is_unused(const ArchipelagoAccess *access)
{
    return access->user_count == 0;
}

static bool access_is_writable(const ArchipelagoAccess *access)
{
    return access->writable;
}

/* Take one off the list; NULL when there is none of the kind. */
static ArchipelagoAccess *take_retired(ArchipelagoAccesses *accesses,
                                       AccessFilter *fits)
{
    ArchipelagoAccess *access;

    QEMU_LOCK_GUARD(&accesses->lock);
    QLIST_FOREACH(access, &accesses->retired, next) {
        if (fits(access)) {
            QLIST_REMOVE(access, next);
            return access;
        }
    }
    return NULL;
}

void archipelago_access_collect(ArchipelagoAccesses *accesses)
{
    ArchipelagoAccess *access;

    while ((access = take_retired(accesses, access_is_unused))) {
        archipelago_access_close(access);
    }
}

ArchipelagoAccess *
archipelago_access_take_writer(ArchipelagoAccesses *accesses)
{
    return take_retired(accesses, access_is_writable);
}
