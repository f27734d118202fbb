/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking a store, in order: see check.h. */
#include "check/check.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

bool check_wants(const struct check *check, const char *name)
{
    const char *const *volumes = check->options->volumes;

    return !volumes || g_strv_contains(volumes, name);
}

/* Which are meant; -ENOENT for a name that there isn't. */
static int check_choose(struct check *check, GError **error)
{
    const char *const *volumes = check->options->volumes;
    struct inventory *inventory = check->inventory;

    for (guint i = 0; i < inventory->order->len; i++) {
        struct volume *volume = inventory->order->pdata[i];

        volume->wanted = !volumes;
    }
    for (; volumes && *volumes; volumes++) {
        const struct id128 *id =
            g_hash_table_lookup(inventory->names, *volumes);
        struct volume *volume = id ? inventory_find(inventory, id) : NULL;

        if (volume) {
            volume->wanted = true;
        } else if (!id && !g_hash_table_contains(inventory->bad_names,
                                                 *volumes)) {
            return error_set(error, ENOENT, "there is no volume '%s' in %s",
                             *volumes, check->store->location);
        }
    }
    return 0;
}

static int check_progress(struct check *check, uint64_t done, uint64_t total)
{
    const archip_check_options *options = check->options;

    if (check->stopped == 0 && options->progress) {
        check->stopped = options->progress(done, total, options->opaque);
    }
    return check->stopped;
}

static int check_volumes(struct check *check, GError **error)
{
    const GPtrArray *order = check->inventory->order;
    int rc = 0;

    for (guint i = 0; rc == 0 && i < order->len; i++) {
        struct volume *volume = order->pdata[i];

        if (check_progress(check, i, order->len) != 0) {
            return 0;
        }
        /* What is half made or removed isn't looked at. */
        if (volume->wanted && !volume->pending) {
            rc = check_volume(check, volume, error);
        }
    }
    check_progress(check, order->len, order->len);
    return rc;
}

/* After something was repaired that the inventory has wrong. */
static int inventory_renew(struct check *check, uint64_t repaired_before,
                           GError **error)
{
    struct inventory *inventory;
    int rc;

    if (check->summary.repaired_count == repaired_before) {
        return 0;
    }
    rc = inventory_take(check, &inventory, error);
    if (rc == 0) {
        inventory_free(check->inventory);
        check->inventory = inventory;
    }
    return rc;
}

static int check_run(struct check *check, GError **error)
{
    static int (*const before[])(struct check *check, GError **error) = {
        check_locks, check_intents, check_strays, check_names };
    bool whole = !check->options->volumes;
    int rc = inventory_take(check, &check->inventory, error);

    if (rc == 0) {
        rc = check_choose(check, error);
    }
    for (unsigned i = 0; rc == 0 && i < G_N_ELEMENTS(before); i++) {
        uint64_t repaired = check->summary.repaired_count;

        if (check->stopped == 0 && (whole || before[i] == check_names ||
                                    before[i] == check_locks)) {
            rc = before[i](check, error);
        }
        if (rc == 0) {
            rc = inventory_renew(check, repaired, error);
        }
    }
    if (rc == 0) {
        rc = check_choose(check, error);
        /* A name that was set aside isn't missed. */
        if (rc == -ENOENT) {
            g_clear_error(error);
            rc = 0;
        }
    }
    if (rc == 0 && check->stopped == 0) {
        rc = check_volumes(check, error);
    }
    if (rc == 0 && check->stopped == 0 && whole) {
        rc = check_unclaimed(check, error);
    }
    return rc;
}

/* What a repair removes is what it found unused: nobody else who makes or moves
 * such things without a name may be at it (a metadata import, another repair). */
static int check_run_alone(struct check *check, GError **error)
{
    struct store *store = check->store;
    struct store_lock *lock;
    int rc;

    if (!check->repair) {
        return check_run(check, error);
    }
    rc = store->driver->lock(store, NULL, STORE_LOCK_REPAIR, NULL, &lock, NULL,
                             error);
    if (rc == 0) {
        rc = check_run(check, error);
        store->driver->unlock(lock);
    }
    return rc;
}

static int check_begin(struct check *check, archip_store *store,
                       const archip_check_options *options, GError **error)
{
    *check = (struct check){
        .api = store,
        .store = store->store,
        .options = options,
        .repair = options->flags & ARCHIP_CHECK_REPAIR,
    };
    return store_queue_open(store->store, STORE_QUEUE_MAY_BLOCK,
                            &check->queue, error);
}

static int check_end(struct check *check, int rc, GError *error)
{
    check->store->driver->look(check->store, false);
    inventory_free(check->inventory);
    store_queue_close(check->queue);
    if (rc < 0) {
        error_prefix(&error, "can't check %s: ", check->store->location);
        rc = api_fail(error);
    } else if (check->stopped) {
        rc = check->stopped;
    } else if (check->hindered) {
        rc = api_fail_text(-check->hindered, "not everything could be "
                           "checked: %s", check->hindrance);
    }
    g_free(check->hindrance);
    return rc;
}

int archip_check(archip_store *store, const archip_check_options *options,
                 archip_check_summary *summary)
{
    struct check check;
    GError *error = NULL;
    int rc;

    if (options->flags & ~ARCHIP_CHECK_REPAIR) {
        return api_fail_text(EINVAL, "unknown check flags 0x%x",
                             options->flags);
    }
    for (unsigned i = 0; options->volumes && options->volumes[i]; i++) {
        rc = archip_name_check(options->volumes[i]);
        if (rc < 0) {
            return rc;
        }
    }
    rc = check_begin(&check, store, options, &error);
    if (rc < 0) {
        return api_fail(error);
    }
    rc = check_run_alone(&check, &error);
    if (summary) {
        *summary = check.summary;
    }
    return check_end(&check, rc, error);
}
