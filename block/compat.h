/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs between QEMU 7.2 and QEMU 10.0 for a block driver, so that
 * archipelago.c reads as if there were one QEMU.  It speaks the newer one's
 * language; nothing here knows of volumes.
 */
#ifndef BLOCK_ARCHIPELAGO_COMPAT_H
#define BLOCK_ARCHIPELAGO_COMPAT_H

#if __has_include("qobject/qdict.h")
#define COMPAT_QEMU_10 1
#include "qobject/qdict.h"
#include "qobject/qstring.h"
#include "qemu/defer-call.h"
#else
#define COMPAT_QEMU_10 0
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qstring.h"
#endif
#include "block/aio.h"
#include "block/block_int.h"
#include "block/block-io.h"
#include "block/thread-pool.h"

/* The table's fields that were renamed; what they point to kept its type. */
#if COMPAT_QEMU_10
#define COMPAT_BDRV_OPEN bdrv_open
#define COMPAT_BDRV_GETLENGTH bdrv_co_getlength
#define COMPAT_BDRV_ALLOCATED bdrv_co_get_allocated_file_size
#define COMPAT_BDRV_GET_INFO bdrv_co_get_info
#else
#define COMPAT_BDRV_OPEN bdrv_file_open
#define COMPAT_BDRV_GETLENGTH bdrv_getlength
#define COMPAT_BDRV_ALLOCATED bdrv_get_allocated_file_size
#define COMPAT_BDRV_GET_INFO bdrv_get_info
#define GRAPH_RDLOCK
#endif

/* Watch `fd` for reading in `ctx`; with `io_read` NULL no longer. */
static inline void compat_set_fd_handler(AioContext *ctx, int fd,
                                         IOHandler *io_read,
                                         AioPollFn *io_poll, void *opaque)
{
#if COMPAT_QEMU_10
    aio_set_fd_handler(ctx, fd, io_read, NULL, io_poll, io_read, opaque);
#else
    aio_set_fd_handler(ctx, fd, false, io_read, NULL, io_poll, io_read, opaque);
#endif
}

/* Run `func` in QEMU's thread pool, or here when that isn't a coroutine. */
static inline int compat_run_blocking(ThreadPoolFunc *func, void *opaque)
{
    if (!qemu_in_coroutine()) {
        return func(opaque);
    }
#if COMPAT_QEMU_10
    return thread_pool_submit_co(func, opaque);
#else
    AioContext *ctx = qemu_get_current_aio_context();

    return thread_pool_submit_co(aio_get_thread_pool(ctx), func, opaque);
#endif
}

/* Call `func` when the caller's caller has submitted all it has.  7.2 tells the
 * driver by bdrv_io_plug() and bdrv_io_unplug() instead. */
static inline void compat_defer_call(void (*func)(void *), void *opaque)
{
#if COMPAT_QEMU_10
    defer_call(func, opaque);
#else
    func(opaque);
#endif
}

#endif
