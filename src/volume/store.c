/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stores as the public header shows them. */
#include "volume/volume.h"

#include "base/error.h"
#include "volume/config.h"

#include <errno.h>
#include <string.h>

/* With less free there is no room for one more object of the smallest size. */
#define SPACE_LEAST_BYTES 65536u

/* The default directory is made with its parents: nothing must be set up. */
static void default_make(const char *location)
{
    const char *path = location + strlen("dir:");

    if (g_str_has_prefix(location, "dir:")) {
        g_mkdir_with_parents(path, 0700);   /* store_open() says what failed */
    }
}

int archip_store_open(const char *location, unsigned flags,
                      archip_store **store)
{
    g_autofree char *resolved = NULL;
    struct store *opened;
    GError *error = NULL;
    bool is_default = false;
    int rc;

    if (flags & ~ARCHIP_STORE_CREATE) {
        return api_fail_text(EINVAL, "unknown store flags 0x%x", flags);
    }
    rc = config_resolve(location, &resolved, &is_default, &error);
    if (rc == 0) {
        if (is_default) {
            default_make(resolved);
        }
        rc = store_open(resolved,
                        flags || is_default ? STORE_OPEN_CREATE : 0, &opened,
                        &error);
    }
    if (rc < 0) {
        return api_fail(error);
    }
    *store = g_new0(archip_store, 1);
    (*store)->store = opened;
    g_mutex_init(&(*store)->queues_lock);
    (*store)->queues = g_ptr_array_new();
    return 0;
}

void archip_store_close(archip_store *store)
{
    if (store) {
        store_close(store->store);
        g_mutex_clear(&store->queues_lock);
        g_ptr_array_unref(store->queues);
        g_free(store);
    }
}

/* Is that much of it in use? */
static bool is_used(uint64_t free_count, uint64_t total, unsigned percent)
{
    return percent > 0 && total > 0 &&
           (double)(total - MIN(free_count, total)) * 100 >=
               (double)total * percent;
}

static bool is_past(const struct store_status *status, unsigned percent)
{
    return is_used(status->free_bytes, status->total_bytes, percent) ||
           is_used(status->free_file_count, status->file_count, percent);
}

/* Data gets nothing of what the reserve lacks. */
static archip_space space_level(const struct store_status *status)
{
    uint64_t lacking = status->reserve_wanted_bytes -
                       MIN(status->reserve_bytes, status->reserve_wanted_bytes);

    if (status->total_bytes == 0) {
        return ARCHIP_SPACE_UNKNOWN;
    }
    if (status->free_bytes < SPACE_LEAST_BYTES ||
        (lacking > 0 && status->free_bytes < lacking) ||
        (status->file_count > 0 && status->free_file_count == 0)) {
        return ARCHIP_SPACE_FULL;
    }
    return is_past(status, status->critical_percent)  ? ARCHIP_SPACE_CRITICAL
           : is_past(status, status->warning_percent) ? ARCHIP_SPACE_WARNING
                                                      : ARCHIP_SPACE_OK;
}

int archip_store_get_status(archip_store *store, archip_store_status *status)
{
    struct store_status own = { 0 };
    GError *error = NULL;

    if (store->store->driver->status(store->store, &own, &error) < 0) {
        return api_fail(error);
    }
    *status = (archip_store_status){
        .total_bytes = own.total_bytes,
        .free_bytes = own.free_bytes,
        .alignment_bytes = store->store->alignment_bytes,
        .space = space_level(&own),
        .reserve_bytes = own.reserve_bytes,
        .reserve_wanted_bytes = own.reserve_wanted_bytes,
        .file_count = own.file_count,
        .free_file_count = own.free_file_count,
        .warning_percent = own.warning_percent,
        .critical_percent = own.critical_percent,
    };
    g_strlcpy(status->driver, store->store->driver->name,
              sizeof(status->driver));
    g_strlcpy(status->location, store->store->location,
              sizeof(status->location));
    g_strlcpy(status->io, own.io, sizeof(status->io));
    return 0;
}
