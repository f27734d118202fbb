/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU block driver for Archipelago volumes: a protocol driver over
 * libarchipelago, for QEMU 7.2 and 10.0 (compat.h has the difference).
 *
 * Requests go through ports (archipelago-port.h), which join the library's
 * queues with QEMU's event loops.
 *
 * Nothing (no thread, descriptor or lock) exists before the first node is
 * opened, so programs may fork until then.
 *
 * Blocking calls of the library go to QEMU's thread pool where the callback is
 * a coroutine, and are made in place, by the main thread, where it isn't.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-block-core.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qemu/units.h"
#include "compat.h"
#include "archipelago-lock.h"

#define PROTOCOL_PREFIX "archipelago:"
#define OPT_VOLUME "volume"
#define OPT_SNAPSHOT "snapshot"
#define OPT_STORE "store"

#define EXTENT_BATCH 64
#define FULL_CHUNK_BYTES (1 * MiB)

static QemuMutex stores_lock;   /* guards `stores` */
static QLIST_HEAD(, SharedStore) stores = QLIST_HEAD_INITIALIZER(stores);

/* --- Calls that may block ------------------------------------------------- */

/* A quota that is used up is a lack of room, for which a machine may be told to
 * wait. */
static int number_of(int64_t result)
{
    return result == -EDQUOT ? -ENOSPC : (int)result;
}

static int call_in_thread(void *opaque)
{
    Call *call = opaque;
    int ret = call->run(call);

    if (ret < 0 && !call->error) {
        call->error = g_strdup(archip_error());
    }
    return ret;
}

int archipelago_call_run(Call *call, Error **errp)
{
    int ret = number_of(compat_run_blocking(call_in_thread, call));

    if (ret < 0) {
        error_setg(errp, "%s", call->error);
        g_clear_pointer(&call->error, g_free);
    }
    return ret;
}

/* --- Stores --------------------------------------------------------------- */

static SharedStore *store_find_locked(const char *location)
{
    SharedStore *shared;

    QLIST_FOREACH(shared, &stores, next) {
        if (g_strcmp0(shared->location, location) == 0) {
            return shared;
        }
    }
    return NULL;
}

/* NULL: archip_error() has the text, *ret the number. */
static SharedStore *store_get(const char *location, unsigned flags, int *ret)
{
    SharedStore *shared;
    archip_store *store;

    QEMU_LOCK_GUARD(&stores_lock);
    shared = store_find_locked(location);
    if (!shared) {
        *ret = archip_store_open(location, flags, &store);
        if (*ret < 0) {
            return NULL;
        }
        shared = g_new0(SharedStore, 1);
        shared->location = g_strdup(location);
        shared->store = store;
        QLIST_INSERT_HEAD(&stores, shared, next);
    }
    shared->user_count++;
    return shared;
}

static void store_put(SharedStore *shared)
{
    QEMU_LOCK_GUARD(&stores_lock);
    if (--shared->user_count == 0) {
        QLIST_REMOVE(shared, next);
        archip_store_close(shared->store);
        g_free(shared->location);
        g_free(shared);
    }
}
/* --- Options -------------------------------------------------------------- */

static QemuOptsList archipelago_runtime_opts = {
    .name = "archipelago",
    .head = QTAILQ_HEAD_INITIALIZER(archipelago_runtime_opts.head),
    .desc = {
        {
            .name = OPT_VOLUME,
            .type = QEMU_OPT_STRING,
            .help = "Name of the volume",
        },
        {
            .name = OPT_SNAPSHOT,
            .type = QEMU_OPT_STRING,
            .help = "Name of a snapshot of the volume",
        },
        {
            .name = OPT_STORE,
            .type = QEMU_OPT_STRING,
            .help = "Where the volume is: dir:PATH or a name from "
                    "archipelago.conf (default: the default store)",
        },
        { /* end of list */ }
    },
};

/* No store: a format that is created on the volume opens it again by the file
 * name alone, in the default store, and would format another's volume there. */
static QemuOptsList archipelago_create_opts = {
    .name = "archipelago-create-opts",
    .head = QTAILQ_HEAD_INITIALIZER(archipelago_create_opts.head),
    .desc = {
        {
            .name = BLOCK_OPT_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Virtual disk size",
        },
        {
            .name = BLOCK_OPT_OBJECT_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Object size, a power of two from 64K to 64M "
                    "(default: 4M)",
        },
        { /* end of list */ }
    },
};

static const char *const archipelago_strong_runtime_opts[] = {
    OPT_VOLUME,
    OPT_SNAPSHOT,
    OPT_STORE,

    NULL
};

/* Does an option that was given say something else than the file name does? */
static bool contradicts(QDict *options, const char *option, const char *value)
{
    const char *given = qdict_get_try_str(options, option);

    return given && g_strcmp0(given, value);
}

/* archipelago:VOLUME[@SNAPSHOT].  Options that name another volume, such as
 * backing.file.volume= over an image whose header names its backing file, would
 * otherwise lose silently. */
static void archipelago_parse_filename(const char *filename, QDict *options,
                                       Error **errp)
{
    g_autofree char *volume = NULL;
    const char *rest, *at;

    if (!strstart(filename, PROTOCOL_PREFIX, &rest)) {
        error_setg(errp, "File name must start with '" PROTOCOL_PREFIX "'");
        return;
    }
    at = strchr(rest, '@');
    volume = at ? g_strndup(rest, at - rest) : g_strdup(rest);
    if (archip_name_check(volume) < 0) {
        error_setg(errp, "%s", archip_error());
        return;
    }
    if (at && archip_name_check(at + 1) < 0) {
        error_setg(errp, "Snapshot: %s", archip_error());
        return;
    }
    if (contradicts(options, OPT_VOLUME, volume) ||
        contradicts(options, OPT_SNAPSHOT, at ? at + 1 : NULL)) {
        error_setg(errp, "Options '" OPT_VOLUME "' and '" OPT_SNAPSHOT "' "
                   "contradict the file name '%s'", filename);
        return;
    }
    qdict_put_str(options, OPT_VOLUME, volume);
    if (at) {
        qdict_put_str(options, OPT_SNAPSHOT, at + 1);
    }
}

/* A short name has no place for a store: then QEMU makes a json: name. */
static void archipelago_refresh_filename(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    if (!s->location) {
        snprintf(bs->exact_filename, sizeof(bs->exact_filename),
                 PROTOCOL_PREFIX "%s", s->volume_name);
    }
}

static int refuse_snapshot(const char *volume, const char *snapshot,
                           Error **errp)
{
    error_setg(errp, "Can't open '%s@%s': this version of Archipelago has no "
               "snapshots", volume, snapshot);
    return -ENOTSUP;
}

/* --- Creating ------------------------------------------------------------- */

static int create_run(Call *call)
{
    archip_create_options options = { .object_bytes = call->object_bytes };
    SharedStore *shared;
    int ret;

    /* The default store needs no preparation. */
    shared = store_get(call->location,
                       call->location ? 0 : ARCHIP_STORE_CREATE, &ret);
    if (!shared) {
        return ret;
    }
    ret = archip_volume_create(shared->store, call->name, call->size_bytes,
                               &options);
    if (ret < 0) {
        g_autofree char *error = g_strdup(archip_error());

        store_put(shared);
        call->error = g_steal_pointer(&error);
        return ret;
    }
    store_put(shared);
    return 0;
}

static int coroutine_fn create_volume(const char *location, const char *volume,
                                      uint64_t size_bytes,
                                      uint64_t object_bytes, Error **errp)
{
    Call call = {
        .run = create_run,
        .location = location,
        .name = volume,
        .size_bytes = size_bytes,
        .object_bytes = object_bytes,
    };

    if (size_bytes > ARCHIP_SIZE_MAX) {
        error_setg(errp, "Size is above the maximum of 1 PiB");
        return -EINVAL;
    }
    if (object_bytes > ARCHIP_OBJECT_BYTES_MAX) {
        error_setg(errp, "Object size is above the maximum of 64 MiB");
        return -EINVAL;
    }
    call.size_bytes = ROUND_UP(size_bytes, ARCHIP_SECTOR_BYTES);
    return archipelago_call_run(&call, errp);
}

static int coroutine_fn archipelago_co_create_opts(BlockDriver *drv,
                                                   const char *filename,
                                                   QemuOpts *opts,
                                                   Error **errp)
{
    g_autoptr(QDict) options = qdict_new();
    Error *local_err = NULL;
    const char *volume;

    archipelago_parse_filename(filename, options, &local_err);
    if (local_err) {
        error_propagate(errp, local_err);
        return -EINVAL;
    }
    volume = qdict_get_str(options, OPT_VOLUME);
    if (qdict_haskey(options, OPT_SNAPSHOT)) {
        error_setg(errp, "A snapshot can't be created with data of its own");
        return -EINVAL;
    }
    return create_volume(NULL, volume,
                         qemu_opt_get_size(opts, BLOCK_OPT_SIZE, 0),
                         qemu_opt_get_size(opts, BLOCK_OPT_OBJECT_SIZE, 0),
                         errp);
}

#ifdef ARCHIPELAGO_IN_TREE
/* blockdev-create, which only a QEMU with our QAPI schema has. */
static int coroutine_fn archipelago_co_create(BlockdevCreateOptions *options,
                                              Error **errp)
{
    BlockdevCreateOptionsArchipelago *create = &options->u.archipelago;

    if (create->location->snapshot) {
        error_setg(errp, "A snapshot can't be created with data of its own");
        return -EINVAL;
    }
    return create_volume(create->location->store, create->location->volume,
                         create->size,
                         create->has_object_size ? create->object_size : 0,
                         errp);
}
#endif

/* --- Opening and closing -------------------------------------------------- */

/* What there is to know of the volume, and the first port. */
static int open_first_port(BlockDriverState *bs, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    archip_volume_info info;
    int ret = archip_volume_get_info(s->accesses.current->volume, &info);

    if (ret >= 0) {
        s->alignment_bytes = info.alignment_bytes;
        s->block_bytes = info.block_bytes;
        s->object_bytes = info.object_bytes;
        s->created_empty = info.object_count == 0;
        ret = archipelago_port_add(&s->accesses.current->ports,
                                   bdrv_get_aio_context(bs));
    }
    if (ret < 0) {
        error_setg(errp, "%s", archip_error());
        return ret;
    }
    if ((info.flags & ARCHIP_VOLUME_READONLY) &&
        (bs->open_flags & BDRV_O_RDWR)) {
        ret = bdrv_apply_auto_read_only(bs, "The volume is marked read-only",
                                        errp);
    }
    return ret;
}

/*
 * Whether QEMU's structures are laid out as the headers said, at a few places
 * that both sides can see: the last guard against a driver in the wrong build.
 */
static bool layout_fits(BlockDriverState *bs)
{
    BlockDriver *raw = bdrv_find_format("raw");

    return strcmp(bs->drv->format_name, "archipelago") == 0 &&
           bs->drv->instance_size == sizeof(BDRVArchipelagoState) &&
           bdrv_get_aio_context(bs) == bs->aio_context &&
           bdrv_get_node_name(bs) == bs->node_name &&
           (!raw || (raw->is_format && raw->strong_runtime_opts &&
                     strcmp(raw->strong_runtime_opts[0], "offset") == 0));
}

static void free_state(BDRVArchipelagoState *s)
{
    archipelago_accesses_destroy(&s->accesses);
    g_free(s->volume_name);
    g_free(s->location);
}

static int archipelago_open(BlockDriverState *bs, QDict *options, int flags,
                            Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    QemuOpts *opts = qemu_opts_create(&archipelago_runtime_opts, NULL, 0,
                                      &error_abort);
    int ret = -EINVAL;

    if (!layout_fits(bs)) {
        error_setg(errp, "This driver was built for another QEMU");
        qemu_opts_del(opts);
        return -EINVAL;
    }
    archipelago_accesses_init(&s->accesses);
    if (!qemu_opts_absorb_qdict(opts, options, errp)) {
        goto out;
    }
    s->volume_name = g_strdup(qemu_opt_get(opts, OPT_VOLUME));
    s->location = g_strdup(qemu_opt_get(opts, OPT_STORE));
    if (!s->volume_name) {
        error_setg(errp, "Parameter '" OPT_VOLUME "' is missing");
        goto out;
    }
    if (qemu_opt_get(opts, OPT_SNAPSHOT)) {
        ret = refuse_snapshot(s->volume_name, qemu_opt_get(opts, OPT_SNAPSHOT),
                              errp);
        goto out;
    }
    s->store = store_get(s->location, 0, &ret);
    if (!s->store) {
        error_setg(errp, "%s", archip_error());
        goto out;
    }
    ret = archipelago_open_volume(bs, flags, errp);
    if (ret < 0) {
        goto out_store;
    }
    ret = open_first_port(bs, errp);
    if (ret < 0) {
        goto out_volume;
    }
    bs->supported_write_flags = BDRV_REQ_FUA;
    bs->supported_zero_flags = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                               BDRV_REQ_NO_FALLBACK;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    qemu_opts_del(opts);
    return 0;

out_volume:
    archipelago_access_close(s->accesses.current);
out_store:
    store_put(s->store);
out:
    free_state(s);
    qemu_opts_del(opts);
    return ret;
}

static void archipelago_close(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    archipelago_access_collect(&s->accesses);
    assert(!s->before);
    archipelago_access_close(s->accesses.current);
    store_put(s->store);
    free_state(s);
}

/* --- What the volume is like ---------------------------------------------- */

/*
 * Requests of any alignment are the library's own affair: it keeps overlapping
 * ones in order, where QEMU would stop all others meanwhile.  Aligned ones need
 * neither.
 */
static void archipelago_refresh_limits(BlockDriverState *bs, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;

    bs->bl.request_alignment = 1;
    bs->bl.pdiscard_alignment = s->block_bytes;
    bs->bl.opt_transfer = s->object_bytes;
    bs->bl.min_mem_alignment = MAX(s->alignment_bytes, 512);
    bs->bl.opt_mem_alignment = MAX(s->alignment_bytes,
                                   qemu_real_host_page_size());
}

static int64_t archipelago_getlength(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->accesses.lock);
    return (int64_t)archip_volume_size(s->accesses.current->volume);
}

static int usage_run(Call *call)
{
    return archip_volume_get_usage(call->volume, &call->usage);
}

static int64_t archipelago_get_allocated_file_size(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    ArchipelagoAccess *access = archipelago_access_get(&s->accesses);
    Call call = { .run = usage_run, .volume = access->volume };
    int ret = archipelago_call_run(&call, NULL);

    archipelago_access_put(&s->accesses, access);
    return ret < 0 ? ret : (int64_t)(call.usage.allocated_bytes +
                                     call.usage.metadata_bytes);
}

/* A cluster size would only make others work in such pieces (bitmaps, copy on
 * read, mirror), and no piece is too small or large for us. */
static int archipelago_get_info(BlockDriverState *bs, BlockDriverInfo *bdi)
{
    bdi->cluster_size = 0;
    bdi->is_dirty = false;
    return 0;
}

static int archipelago_has_zero_init(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    return s->created_empty;
}

/* --- Event loops ---------------------------------------------------------- */

static void archipelago_attach_aio_context(BlockDriverState *bs,
                                           AioContext *new_context)
{
    BDRVArchipelagoState *s = bs->opaque;

    /* Should it fail, the first request tries again and says so. */
    archipelago_port_add(&s->accesses.current->ports, new_context);
}

static void archipelago_detach_aio_context(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    archipelago_access_collect(&s->accesses);
    archipelago_ports_close(&s->accesses.current->ports);
}

#if !COMPAT_QEMU_10
static void archipelago_io_plug(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->accesses.lock);
    archipelago_port_plug(&s->accesses.current->ports);
}

static void archipelago_io_unplug(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    QEMU_LOCK_GUARD(&s->accesses.lock);
    archipelago_port_unplug(&s->accesses.current->ports);
}
#endif

/* --- Input and output ----------------------------------------------------- */

static unsigned request_flags(BdrvRequestFlags flags)
{
    return (flags & BDRV_REQ_FUA ? ARCHIP_FUA : 0) |
           (flags & BDRV_REQ_MAY_UNMAP ? ARCHIP_MAY_UNMAP : 0) |
           (flags & BDRV_REQ_NO_FALLBACK ? ARCHIP_NO_FALLBACK : 0);
}

/* Carry out a request: its result, as in archip_completion; the extents that it
 * may count are few. */
static int coroutine_fn archipelago_co_request(BlockDriverState *bs,
                                               archip_request *request)
{
    BDRVArchipelagoState *s = bs->opaque;
    ArchipelagoAccess *access = archipelago_access_get(&s->accesses);
    int64_t result = archipelago_port_request(&access->ports, request);

    archipelago_access_put(&s->accesses, access);
    return number_of(result);
}

static int coroutine_fn archipelago_co_preadv(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              QEMUIOVector *qiov,
                                              BdrvRequestFlags flags)
{
    archip_request request = {
        .op = ARCHIP_READ,
        .offset_bytes = offset,
        .length_bytes = bytes,
        .iov = qiov->iov,
        .iov_count = qiov->niov,
    };

    return archipelago_co_request(bs, &request);
}

/* The block layer lets a write go past the end only where the node may grow. */
static int coroutine_fn archipelago_co_pwritev(BlockDriverState *bs,
                                               int64_t offset, int64_t bytes,
                                               QEMUIOVector *qiov,
                                               BdrvRequestFlags flags)
{
    archip_request request = {
        .op = ARCHIP_WRITE,
        .flags = request_flags(flags) | ARCHIP_GROW,
        .offset_bytes = offset,
        .length_bytes = bytes,
        .iov = qiov->iov,
        .iov_count = qiov->niov,
    };

    return archipelago_co_request(bs, &request);
}

static int coroutine_fn archipelago_co_pwrite_zeroes(BlockDriverState *bs,
                                                     int64_t offset,
                                                     int64_t bytes,
                                                     BdrvRequestFlags flags)
{
    archip_request request = {
        .op = ARCHIP_WRITE_ZEROES,
        .flags = request_flags(flags) | ARCHIP_GROW,
        .offset_bytes = offset,
        .length_bytes = bytes,
    };

    return archipelago_co_request(bs, &request);
}

static int coroutine_fn archipelago_co_pdiscard(BlockDriverState *bs,
                                                int64_t offset, int64_t bytes)
{
    archip_request request = {
        .op = ARCHIP_DISCARD,
        .offset_bytes = offset,
        .length_bytes = bytes,
    };

    return archipelago_co_request(bs, &request);
}

static int coroutine_fn archipelago_co_flush(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    archip_request request = { .op = ARCHIP_FLUSH };

    return archipelago_is_here(s) ? archipelago_co_request(bs, &request) : 0;
}

static int extent_status(uint32_t flags)
{
    return BDRV_BLOCK_OFFSET_VALID |
           (flags & ARCHIP_EXTENT_DATA ? BDRV_BLOCK_DATA : 0) |
           (flags & ARCHIP_EXTENT_ZERO ? BDRV_BLOCK_ZERO : 0);
}

static int coroutine_fn archipelago_co_block_status(BlockDriverState *bs,
                                                    bool want_zero,
                                                    int64_t offset,
                                                    int64_t bytes,
                                                    int64_t *pnum, int64_t *map,
                                                    BlockDriverState **file)
{
    archip_extent extents[EXTENT_BATCH];
    archip_request request = {
        .op = ARCHIP_EXTENTS,
        .offset_bytes = offset,
        .length_bytes = bytes,
        .extents = extents,
        .extent_count = EXTENT_BATCH,
    };
    int count = archipelago_co_request(bs, &request);
    int status;

    if (count < 0) {
        return count;
    }
    status = extent_status(extents[0].flags);
    *pnum = 0;
    for (int i = 0;
         i < count && extent_status(extents[i].flags) == status; i++) {
        *pnum += (int64_t)extents[i].length_bytes;
    }
    *map = offset;
    *file = bs;
    return status;
}

static int coroutine_fn GRAPH_RDLOCK
archipelago_co_copy_range_from(BlockDriverState *bs, BdrvChild *src,
                               int64_t src_offset, BdrvChild *dst,
                               int64_t dst_offset, int64_t bytes,
                               BdrvRequestFlags read_flags,
                               BdrvRequestFlags write_flags)
{
    return bdrv_co_copy_range_to(src, src_offset, dst, dst_offset, bytes,
                                 read_flags, write_flags);
}

static int coroutine_fn GRAPH_RDLOCK
archipelago_co_copy_range_to(BlockDriverState *bs, BdrvChild *src,
                             int64_t src_offset, BdrvChild *dst,
                             int64_t dst_offset, int64_t bytes,
                             BdrvRequestFlags read_flags,
                             BdrvRequestFlags write_flags)
{
    BDRVArchipelagoState *s = bs->opaque, *source;
    ArchipelagoAccess *access;
    int ret;
    archip_request request = {
        .op = ARCHIP_COPY_RANGE,
        .flags = request_flags(write_flags),
        .offset_bytes = dst_offset,
        .length_bytes = bytes,
        .source_offset_bytes = src_offset,
    };

    if (src->bs->drv != bs->drv) {
        return -ENOTSUP;
    }
    source = src->bs->opaque;
    if (source->store != s->store) {
        return -ENOTSUP;
    }
    access = archipelago_access_get(&source->accesses);
    request.source = access->volume;
    ret = archipelago_co_request(bs, &request);
    archipelago_access_put(&source->accesses, access);
    return ret;
}

/* --- Changing the size ---------------------------------------------------- */

static int resize_run(Call *call)
{
    return archip_volume_resize(call->volume, call->size_bytes, call->flags);
}

/* Real zeroes, where space shall not only be promised. */
static int coroutine_fn write_full(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes)
{
    int64_t chunk_bytes = MIN(bytes, FULL_CHUNK_BYTES);
    void *buffer = qemu_try_blockalign0(bs, chunk_bytes);
    QEMUIOVector qiov;
    int ret = buffer ? 0 : -ENOMEM;

    while (ret == 0 && bytes > 0) {
        chunk_bytes = MIN(bytes, chunk_bytes);
        qemu_iovec_init_buf(&qiov, buffer, chunk_bytes);
        ret = archipelago_co_pwritev(bs, offset, chunk_bytes, &qiov, 0);
        offset += chunk_bytes;
        bytes -= chunk_bytes;
    }
    qemu_vfree(buffer);
    return ret;
}

static int coroutine_fn preallocate(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, PreallocMode prealloc,
                                    Error **errp)
{
    int ret = 0;

    if (bytes <= 0) {
        return 0;
    }
    if (prealloc == PREALLOC_MODE_FALLOC) {
        ret = archipelago_co_pwrite_zeroes(bs, offset, bytes, 0);
    } else if (prealloc == PREALLOC_MODE_FULL) {
        ret = write_full(bs, offset, bytes);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not preallocate the new space");
    }
    return ret;
}

static int coroutine_fn resize(BlockDriverState *bs, archip_volume *volume,
                               int64_t offset, PreallocMode prealloc,
                               Error **errp)
{
    int64_t old_bytes = (int64_t)archip_volume_size(volume);
    Call call = { .run = resize_run, .volume = volume };
    int ret;

    call.size_bytes = ROUND_UP(offset, ARCHIP_SECTOR_BYTES);
    call.flags = (int64_t)call.size_bytes < old_bytes ? ARCHIP_RESIZE_SHRINK
                                                      : ARCHIP_RESIZE_VOLATILE;
    ret = archipelago_call_run(&call, errp);
    if (ret < 0) {
        return ret;
    }
    ret = preallocate(bs, old_bytes, (int64_t)call.size_bytes - old_bytes,
                      prealloc, errp);
    if (ret < 0) {
        call.size_bytes = old_bytes;
        call.flags = ARCHIP_RESIZE_SHRINK;
        archipelago_call_run(&call, NULL);
    }
    return ret;
}

static int coroutine_fn archipelago_co_truncate(BlockDriverState *bs,
                                                int64_t offset, bool exact,
                                                PreallocMode prealloc,
                                                BdrvRequestFlags flags,
                                                Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    ArchipelagoAccess *access;
    int ret;

    if (prealloc == PREALLOC_MODE_METADATA) {
        error_setg(errp, "Unsupported preallocation mode 'metadata'");
        return -ENOTSUP;
    }
    if (exact && !QEMU_IS_ALIGNED(offset, ARCHIP_SECTOR_BYTES)) {
        error_setg(errp, "The size must be a multiple of 512");
        return -EINVAL;
    }
    access = archipelago_access_get(&s->accesses);
    ret = resize(bs, access->volume, offset, prealloc, errp);
    archipelago_access_put(&s->accesses, access);
    return ret;
}

/* --- The table ------------------------------------------------------------ */

static BlockDriver bdrv_archipelago = {
    .format_name            = "archipelago",
    .protocol_name          = "archipelago",
    .instance_size          = sizeof(BDRVArchipelagoState),
    .create_opts            = &archipelago_create_opts,
    .strong_runtime_opts    = archipelago_strong_runtime_opts,

    .bdrv_parse_filename    = archipelago_parse_filename,
    .bdrv_refresh_filename  = archipelago_refresh_filename,
    .bdrv_co_create_opts    = archipelago_co_create_opts,
#ifdef ARCHIPELAGO_IN_TREE
    .bdrv_co_create         = archipelago_co_create,
#endif

    .COMPAT_BDRV_OPEN       = archipelago_open,
    .bdrv_close             = archipelago_close,
    .bdrv_reopen_prepare    = archipelago_reopen_prepare,
    .bdrv_reopen_commit     = archipelago_reopen_end,
    .bdrv_reopen_abort      = archipelago_reopen_end,
    .bdrv_check_perm        = archipelago_check_perm,
    .bdrv_set_perm          = archipelago_set_perm,
    .bdrv_abort_perm_update = archipelago_abort_perm_update,
    .bdrv_inactivate        = archipelago_inactivate,
    .bdrv_co_invalidate_cache = archipelago_co_invalidate_cache,

    .bdrv_refresh_limits    = archipelago_refresh_limits,
    .COMPAT_BDRV_GETLENGTH  = archipelago_getlength,
    .COMPAT_BDRV_ALLOCATED  = archipelago_get_allocated_file_size,
    .COMPAT_BDRV_GET_INFO   = archipelago_get_info,
    .bdrv_has_zero_init     = archipelago_has_zero_init,
    .bdrv_co_truncate       = archipelago_co_truncate,

    .bdrv_co_preadv         = archipelago_co_preadv,
    .bdrv_co_pwritev        = archipelago_co_pwritev,
    .bdrv_co_pwrite_zeroes  = archipelago_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = archipelago_co_pdiscard,
    .bdrv_co_flush_to_disk  = archipelago_co_flush,
    .bdrv_co_block_status   = archipelago_co_block_status,
    .bdrv_co_copy_range_from = archipelago_co_copy_range_from,
    .bdrv_co_copy_range_to  = archipelago_co_copy_range_to,

    .bdrv_attach_aio_context = archipelago_attach_aio_context,
    .bdrv_detach_aio_context = archipelago_detach_aio_context,
#if !COMPAT_QEMU_10
    .bdrv_io_plug           = archipelago_io_plug,
    .bdrv_io_unplug         = archipelago_io_unplug,
#endif
};

static void bdrv_archipelago_init(void)
{
    qemu_mutex_init(&stores_lock);
    archipelago_port_init();
    bdrv_register(&bdrv_archipelago);
}

block_init(bdrv_archipelago_init);
