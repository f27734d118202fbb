/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The volume's lock: see archipelago-lock.h. */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "compat.h"
#include "archipelago-lock.h"

/* Who asks for one of these needs the volume's lock. */
#define WRITING (BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED | BLK_PERM_RESIZE)

bool archipelago_is_here(const BDRVArchipelagoState *s)
{
    return !s->incoming && !s->inactive;
}

/* --- Opening -------------------------------------------------------------- */

/* May block.  The volume of the name, and always the same: who could remove it
 * while it was handed over could give another one its name. */
static int access_open(BDRVArchipelagoState *s, bool writable,
                       ArchipelagoAccess **access, char **error)
{
    archip_volume_info info;
    int ret = archipelago_access_open(s->store->store, s->volume_name,
                                      writable, access);

    if (ret < 0) {
        *error = g_strdup(archip_error());
        return ret;
    }
    ret = archip_volume_get_info((*access)->volume, &info);
    if (ret < 0) {
        *error = g_strdup(archip_error());
    } else if (s->volume_id[0] && strcmp(s->volume_id, info.id) != 0) {
        *error = g_strdup_printf("volume '%s': it was replaced by another one "
                                 "of this name", s->volume_name);
        ret = -ESTALE;
    }
    if (ret < 0) {
        archipelago_access_close(*access);
        return ret;
    }
    pstrcpy(s->volume_id, sizeof(s->volume_id), info.id);
    return 0;
}

/*
 * Whether the node has to have the lock.  One that is writable takes it when
 * opened and keeps it, so that others are told in time; one that is so only if
 * need be (auto-read-only) has it while somebody wants to write.
 */
static bool needs_lock(int flags, uint64_t permissions)
{
    return (flags & BDRV_O_RDWR) &&
           (!(flags & BDRV_O_AUTO_RDONLY) || (permissions & WRITING));
}

/*
 * Before a migration came in the source has the lock: read-only until then,
 * which takes none, so that formats can read their headers.
 */
int archipelago_open_volume(BlockDriverState *bs, int flags, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    g_autofree char *error = NULL;
    int ret;

    s->incoming = flags & BDRV_O_INACTIVE;
    ret = access_open(s, needs_lock(flags, 0) && !s->incoming,
                      &s->accesses.current, &error);
    if (ret < 0) {
        error_setg(errp, "%s", error);
    }
    return ret;
}

/* --- The lock: taken and given back --------------------------------------- */

/* Requests go there from now on; where they went is closed. */
static void replace_access(BDRVArchipelagoState *s, ArchipelagoAccess *access)
{
    archipelago_access_retire(
        &s->accesses, archipelago_access_replace(&s->accesses, access));
}

/* Others may have written, or changed the size, since the node was opened. */
static void forget_content(BlockDriverState *bs, archip_volume *volume)
{
    BDRVArchipelagoState *s = bs->opaque;
    archip_volume_info info;

    if (archip_volume_get_info(volume, &info) < 0 || info.object_count > 0) {
        s->created_empty = false;
    }
    bs->total_sectors = (int64_t)(archip_volume_size(volume) /
                                  BDRV_SECTOR_SIZE);
    bdrv_bsc_invalidate_range(bs, 0, INT64_MAX);
}

static int take_lock(BlockDriverState *bs, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    ArchipelagoAccess *writer = archipelago_access_take_writer(&s->accesses);
    g_autofree char *error = NULL;
    int ret = writer ? 0 : access_open(s, true, &writer, &error);

    if (ret < 0) {
        error_setg(errp, "%s", error);
        return ret;
    }
    forget_content(bs, writer->volume);
    s->before = archipelago_access_replace(&s->accesses, writer);
    return 0;
}

/* All that was written becomes durable. */
static int flush_volume(archip_volume *volume, char **error)
{
    archip_queue *queue;
    int ret = archip_queue_open(volume, 0, &queue);

    if (ret < 0) {
        *error = g_strdup(archip_error());
        return ret;
    }
    ret = archip_flush(queue);
    if (ret < 0) {
        *error = g_strdup(archip_error());
    }
    archip_queue_close(queue);
    return ret;
}

/* The reader is opened when all is flushed, and sees it.  Should either fail,
 * the volume stays with us, and the next occasion tries again. */
static void give_lock_back(BDRVArchipelagoState *s)
{
    g_autofree char *error = NULL;
    ArchipelagoAccess *reader;

    if (flush_volume(s->accesses.current->volume, &error) < 0 ||
        access_open(s, false, &reader, &error) < 0) {
        error_report("archipelago: volume '%s' stays open for writing: %s",
                     s->volume_name, error);
        return;
    }
    replace_access(s, reader);
    archipelago_access_collect(&s->accesses);
}

/* By main thread.  Where nodes are reopened, with their new flags: this is the
 * part of it that can fail, and comes before anything is committed. */
int archipelago_check_perm(BlockDriverState *bs, uint64_t perm,
                                  uint64_t shared, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    int flags = s->reopening ? s->reopening->flags : bs->open_flags;

    if (archipelago_is_here(s) && !s->accesses.current->writable &&
        needs_lock(flags, perm)) {
        return take_lock(bs, errp);
    }
    return 0;
}

void archipelago_set_perm(BlockDriverState *bs, uint64_t perm,
                                 uint64_t shared)
{
    BDRVArchipelagoState *s = bs->opaque;

    s->permissions = perm;
    if (s->before) {
        archipelago_access_retire(&s->accesses, g_steal_pointer(&s->before));
        archipelago_access_collect(&s->accesses);
    }
    if (archipelago_is_here(s) && s->accesses.current->writable &&
        !needs_lock(bs->open_flags, perm)) {
        give_lock_back(s);
    }
}

/* Nothing was written meanwhile. */
void archipelago_abort_perm_update(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    if (s->before) {
        replace_access(s, g_steal_pointer(&s->before));
        forget_content(bs, s->accesses.current->volume);
        archipelago_access_collect(&s->accesses);
    }
}

/* --- Reopening ------------------------------------------------------------ */

/* Permissions are looked at as part of it, and with them the lock. */
int archipelago_reopen_prepare(BDRVReopenState *state,
                                      BlockReopenQueue *queue, Error **errp)
{
    BDRVArchipelagoState *s = state->bs->opaque;

    s->reopening = state;
    return 0;
}

void archipelago_reopen_end(BDRVReopenState *state)
{
    BDRVArchipelagoState *s = state->bs->opaque;

    s->reopening = NULL;
}

/* --- Migration ------------------------------------------------------------ */

/* QEMU asks those that use the node after us.  Were one to refuse then, QEMU
 * would go on with a node that has handed its volume over. */
static int users_inactivate(BlockDriverState *bs)
{
    uint64_t permissions, shared;
    BdrvChild *user;

    QLIST_FOREACH(user, &bs->parents, next_parent) {
        int ret = user->klass->inactivate ? user->klass->inactivate(user) : 0;

        if (ret < 0) {
            return ret;
        }
    }
    bdrv_get_cumulative_perm(bs, &permissions, &shared);
    return permissions & (BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED) ? -EPERM
                                                                     : 0;
}

static int hand_over(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    archip_volume *volume;
    int ret = users_inactivate(bs);

    if (ret < 0) {
        return ret;
    }
    archipelago_access_collect(&s->accesses);
    volume = s->accesses.current->volume;
    ret = archip_volume_deactivate(volume);
    if (ret == 0) {
        s->inactive = true;
        return 0;
    }
    error_report("archipelago: %s", archip_error());
    /* It may have been let go nevertheless, and QEMU won't ask for it. */
    if (archip_volume_activate(volume) < 0) {
        error_report("archipelago: %s; the node must be opened again",
                     archip_error());
    }
    forget_content(bs, volume);
    return ret;
}

/* Readers may go on while a machine stops, and none may be in flight. */
int archipelago_inactivate(BlockDriverState *bs)
{
    int ret = 0;

    if (archipelago_is_here(bs->opaque)) {
        bdrv_drained_begin(bs);
        ret = hand_over(bs);
        bdrv_drained_end(bs);
    }
    return ret;
}

/* What others wrote since it was opened or handed over must be seen. */
static int take_over_run(Call *call)
{
    return access_open(call->state, call->flags & ARCHIP_OPEN_WRITE,
                       &call->access, &call->error);
}

void coroutine_fn archipelago_co_invalidate_cache(BlockDriverState *bs,
                                                         Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    Call call = {
        .run = take_over_run,
        .state = s,
        .flags = needs_lock(bs->open_flags, s->permissions) ? ARCHIP_OPEN_WRITE
                                                            : 0,
    };

    if (archipelago_is_here(s) || archipelago_call_run(&call, errp) < 0) {
        return;
    }
    replace_access(s, call.access);
    s->incoming = false;
    s->inactive = false;
    s->created_empty = false;
}
