/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making, removing and listing volumes.
 *
 * The name record is what makes a volume exist: it is written last and removed
 * first.  Around that stands an intent record, under the volume's lock.  Who
 * finds one later and gets the lock knows that its maker died, and finishes:
 * a volume that its name leads to stays, any other goes (D11).
 */
#include "volume/volume.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int volume_find(archip_store *store, const char *name, struct id128 *id,
                GError **error)
{
    struct store_record record = { .kind = STORE_NAME, .text = name };
    g_autoptr(GBytes) value = NULL;
    int rc = store->store->driver->get(store->store, &record, &value, error);

    if (rc == -ENOENT) {
        g_clear_error(error);
        return error_set(error, ENOENT, "there is no such volume in %s",
                         store->store->location);
    }
    return rc < 0 ? rc : name_decode(value, name, id, error);
}

/* --- Intents ----------------------------------------------------------------------- */

struct intent {
    struct store *store;
    struct store_record record;
    struct store_lock *lock;
};

static int intent_lock(struct intent *intent, const char *owner,
                       GError **error)
{
    struct store_owner me = { .pid = getpid(), .open = true }, holder = { 0 };

    g_strlcpy(me.owner, owner, sizeof(me.owner));
    g_strlcpy(me.host, g_get_host_name(), sizeof(me.host));
    return intent->store->driver->lock(intent->store, &intent->record.id,
                                       STORE_LOCK_WRITE, &me, &intent->lock,
                                       &holder, error);
}

static int intent_begin(struct intent *intent, archip_store *store,
                        const struct id128 *id, const struct id128 *layer,
                        const char *name, const char *owner, GError **error)
{
    g_autoptr(GBytes) value = intent_encode(id, layer, name);
    int rc;

    *intent = (struct intent){
        .store = store->store,
        .record = { .kind = STORE_INTENT, .id = *id },
    };
    rc = intent_lock(intent, owner, error);
    if (rc < 0) {
        return rc;
    }
    rc = store->store->driver->put(store->store, &intent->record,
                                   g_bytes_get_data(value, NULL),
                                   g_bytes_get_size(value), false, error);
    if (rc < 0) {
        store->store->driver->unlock(intent->lock);
    }
    return rc;
}

/*
 * For a removal.  In a full store there is no room for its intent, and removing
 * is how room is made: then it goes on with the lock alone.  Dropping the name
 * still decides at once whether the volume is gone; a crash after that leaves
 * what it had to the collector.
 */
static int intent_begin_remove(struct intent *intent, archip_store *store,
                               const struct id128 *id,
                               const struct id128 *layer, const char *name,
                               GError **error)
{
    g_autoptr(GError) failure = NULL;
    int rc = intent_begin(intent, store, id, layer, name, "remove", &failure);

    if (rc == -ENOSPC || rc == -EDQUOT) {
        return intent_lock(intent, "remove", error);
    }
    if (rc < 0) {
        g_propagate_error(error, g_steal_pointer(&failure));
    }
    return rc;
}

static int intent_end(struct intent *intent, GError **error)
{
    int rc = intent->store->driver->drop(intent->store, &intent->record,
                                         error);

    intent->store->driver->unlock(intent->lock);
    return rc;
}

/* --- Removing what is left of a volume ------------------------------------------------ */

static int purge_layer(struct store *store, const struct id128 *layer,
                       GError **error)
{
    int rc;

    if (id128_is_zero(layer)) {
        return 0;
    }
    rc = store->driver->remove_all(store, STORE_BLOCK, layer, error);
    return rc < 0 ? rc
                  : store->driver->remove_all(store, STORE_PAGE, layer, error);
}

/* The frozen layers, as far as the table can be read: no other volume shares
 * them as long as there are no clones. */
static int purge_frozen(struct store *store, const struct id128 *id,
                        GError **error)
{
    struct map *map;
    int rc = 0;

    if (map_open(store, id, false, NULL, &map, NULL) < 0) {
        return 0;       /* never finished, or damaged: left to the collector */
    }
    g_mutex_lock(&map->lock);
    for (uint32_t i = 1; rc == 0 && i < map->header.next_layer; i++) {
        struct map_page *wanted;
        struct id128 layer;

        while ((rc = map_layer_id(map, i, &layer, &wanted, NULL)) == -EAGAIN &&
               map_page_load(map, wanted, NULL) == 0) {
        }
        rc = rc == 0 ? purge_layer(store, &layer, error) : 0;
    }
    g_mutex_unlock(&map->lock);
    map_free(map);
    return rc;
}

static int volume_purge(struct store *store, const struct id128 *id,
                        const struct id128 *layer, GError **error)
{
    int rc = purge_frozen(store, id, error);

    if (rc == 0) {
        rc = purge_layer(store, layer, error);
    }
    /* Last, because the lock is there. */
    return rc < 0 ? rc
                  : store->driver->remove_all(store, STORE_JOURNAL, id, error);
}

/* --- Finishing what others began --------------------------------------------------------- */

/* Whoever made or removed the volume died, or failed to sync what he changed:
 * what is there to be seen must be durable before anybody builds upon it
 * (D7). */
static int intent_trust(struct store *store, const struct id128 *id,
                        GError **error)
{
    return store->driver->sync_all(store, STORE_PAGE, id, error);
}

int volume_confirm(archip_store *store, const struct id128 *id,
                   GError **error)
{
    struct store_record record = { .kind = STORE_INTENT, .id = *id };
    g_autoptr(GBytes) value = NULL;
    int rc = store->store->driver->get(store->store, &record, &value, error);

    if (rc == -ENOENT) {
        g_clear_error(error);
        return 0;
    }
    return rc < 0 ? rc : intent_trust(store->store, id, error);
}

static int intents_collect(const struct store_record *record, void *opaque)
{
    g_array_append_vals(opaque, &record->id, 1);
    return 0;
}

int volume_finish_intent(archip_store *store, const struct id128 *id,
                         GError **error)
{
    struct intent intent = {
        .store = store->store,
        .record = { .kind = STORE_INTENT, .id = *id },
    };
    g_autoptr(GBytes) value = NULL;
    g_autofree char *name = NULL;
    struct id128 named = { { 0 } }, intended, layer;
    int rc = intent_lock(&intent, "finishing an operation", NULL);

    if (rc < 0) {
        return 0;       /* its maker is at it */
    }
    rc = store->store->driver->get(store->store, &intent.record, &value,
                                   error);
    if (rc == 0) {
        rc = intent_decode(value, &intended, &layer, &name, error);
    } else if (rc == -ENOENT) {
        g_clear_error(error);
        rc = 0;         /* done meanwhile */
    }
    if (rc == 0 && value && !id128_equal(&intended, id)) {
        /* Sound, and not the one that belongs here (D14): what it names is
         * somebody else's. */
        rc = error_set(error, EUCLEAN, "an intent record belongs to another "
                                       "volume");
    }
    if (rc == 0 && value && archip_name_check(name) < 0) {
        rc = error_set(error, EUCLEAN, "an intent record names no volume");
    }
    if (rc == 0 && value) {
        rc = intent_trust(store->store, id, error);
    }
    if (rc == 0 && value) {
        int found = volume_find(store, name, &named, NULL);

        if (found == -ENOENT || (found == 0 && !id128_equal(&named, id))) {
            rc = volume_purge(store->store, id, &layer, error);
        } else if (found < 0) {
            rc = 0;     /* can't tell: leave it */
            store->store->driver->unlock(intent.lock);
            return 0;
        }
    }
    if (rc < 0) {
        store->store->driver->unlock(intent.lock);
        return rc;
    }
    return intent_end(&intent, error);
}

/* Before making or removing anything: what a dead process left half done. */
static void intents_finish(archip_store *store)
{
    g_autoptr(GArray) ids = g_array_new(false, false, sizeof(struct id128));

    store->store->driver->list(store->store, STORE_INTENT, intents_collect,
                               ids, NULL);
    for (guint i = 0; i < ids->len; i++) {
        /* A failure leaves the intent for the next one. */
        volume_finish_intent(store, &g_array_index(ids, struct id128, i), NULL);
    }
}

/* --- Creating ------------------------------------------------------------------------------ */

static const char *create_find_fault(uint64_t size_bytes,
                                     const archip_create_options *options)
{
    uint32_t object_bytes = options->object_bytes;

    if (size_bytes % ARCHIP_SECTOR_BYTES) {
        return "the size must be a multiple of 512 bytes";
    }
    if (size_bytes > ARCHIP_SIZE_MAX) {
        return "the size must be at most 1 PiB";
    }
    if (object_bytes && (object_bytes & (object_bytes - 1) ||
                         object_bytes < ARCHIP_OBJECT_BYTES_MIN ||
                         object_bytes > ARCHIP_OBJECT_BYTES_MAX)) {
        return "the object size must be a power of two from 64 KiB to 64 MiB";
    }
    if (options->description &&
        (strlen(options->description) > ARCHIP_DESCRIPTION_MAX ||
         !g_utf8_validate(options->description, -1, NULL))) {
        return "the description must be UTF-8 of at most "
               G_STRINGIFY(ARCHIP_DESCRIPTION_MAX) " bytes";
    }
    return options->flags ? "unknown flags" : NULL;
}

static int create_named(archip_store *store, const char *name,
                        const struct id128 *id, uint64_t size_bytes,
                        const archip_create_options *options, GError **error)
{
    struct store_record record = { .kind = STORE_NAME, .text = name };
    uint32_t object_bytes = options->object_bytes
                                ? options->object_bytes
                                : ARCHIP_OBJECT_BYTES_DEFAULT;
    g_autoptr(GBytes) value = name_encode(id);
    int rc = map_create(store->store, id, size_bytes, object_bytes,
                        options->description, error);

    if (rc < 0) {
        return rc;
    }
    rc = store->store->driver->put(store->store, &record,
                                   g_bytes_get_data(value, NULL),
                                   g_bytes_get_size(value), true, error);
    if (rc == -EEXIST) {
        g_clear_error(error);
        return error_set(error, EEXIST, "there is a volume of that name");
    }
    return rc;
}

static int volume_create(archip_store *store, const char *name,
                         uint64_t size_bytes,
                         const archip_create_options *options, GError **error)
{
    struct id128 id, none = { { 0 } };
    struct intent intent;
    int rc;

    intents_finish(store);
    rc = volume_find(store, name, &id, error);
    if (rc == 0) {
        return error_set(error, EEXIST, "there is a volume of that name");
    }
    if (rc != -ENOENT) {
        return rc;      /* its name is taken, though it can't be read */
    }
    g_clear_error(error);
    id = id128_random();
    rc = intent_begin(&intent, store, &id, &none, name, "create", error);
    if (rc < 0) {
        /* Nobody else knows the id: what its lock left goes. */
        store->store->driver->remove_all(store->store, STORE_JOURNAL, &id,
                                         NULL);
        return rc;
    }
    rc = create_named(store, name, &id, size_bytes, options, error);
    if (rc == 0) {
        return intent_end(&intent, NULL), 0;
    }
    /* The name may be there although writing it reported an error. */
    store->store->driver->unlock(intent.lock);
    volume_finish_intent(store, &id, NULL);
    return rc;
}

int archip_volume_create(archip_store *store, const char *name,
                         uint64_t size_bytes,
                         const archip_create_options *options)
{
    static const archip_create_options defaults;
    const char *fault;
    GError *error = NULL;
    int rc = archip_name_check(name);

    if (rc < 0) {
        return rc;
    }
    options = options ? options : &defaults;
    fault = create_find_fault(size_bytes, options);
    if (fault) {
        return api_fail_text(EINVAL, "can't create volume '%s': %s", name,
                             fault);
    }
    if (volume_create(store, name, size_bytes, options, &error) < 0) {
        error_prefix(&error, "can't create volume '%s': ", name);
        return api_fail(error);
    }
    return 0;
}

/* --- Removing -------------------------------------------------------------------------------- */

/* With the lock held: once the name is gone, so is the volume. */
static int remove_named(archip_store *store, const char *name,
                        const struct id128 *id, const struct id128 *layer,
                        GError **error)
{
    struct store_record record = { .kind = STORE_NAME, .text = name };
    struct id128 named;
    int rc = volume_find(store, name, &named, error);

    if (rc < 0) {
        return rc;
    }
    if (!id128_equal(&named, id)) {
        return error_set(error, EBUSY, "it was replaced meanwhile");
    }
    rc = store->store->driver->drop(store->store, &record, error);
    return rc < 0 ? rc : volume_purge(store->store, id, layer, error);
}

static int volume_remove(archip_store *store, const char *name, GError **error)
{
    struct id128 id, layer = { { 0 } };
    struct map_header header;
    struct intent intent;
    int rc;

    intents_finish(store);
    rc = volume_find(store, name, &id, error);
    if (rc < 0) {
        return rc;
    }
    /* A volume whose header is damaged can still be removed. */
    rc = map_read_header(store->store, &id, false, &header, error);
    if (rc == 0) {
        layer = header.current_layer_id;
        header_clear(&header);
        if (header.flags & FORMAT_HEADER_PROTECTED) {
            return error_set(error, EPERM, "it is protected");
        }
    } else if (rc != -EUCLEAN) {
        return rc;
    }
    g_clear_error(error);
    rc = intent_begin_remove(&intent, store, &id, &layer, name, error);
    if (rc < 0) {
        return rc;
    }
    rc = store_exclude_readers(intent.lock, error);
    if (rc == 0) {
        rc = remove_named(store, name, &id, &layer, error);
    }
    if (rc < 0) {
        store->store->driver->unlock(intent.lock);
        volume_finish_intent(store, &id, NULL);
        return rc;
    }
    intent_end(&intent, NULL);
    return 0;
}

int archip_volume_remove(archip_store *store, const char *name)
{
    GError *error = NULL;
    int rc = archip_name_check(name);

    if (rc < 0) {
        return rc;
    }
    if (volume_remove(store, name, &error) < 0) {
        error_prefix(&error, "can't remove volume '%s': ", name);
        return api_fail(error);
    }
    return 0;
}

/* --- Listing ----------------------------------------------------------------------------------- */

static int names_collect(const struct store_record *record, void *opaque)
{
    g_ptr_array_add(opaque, g_strdup(record->text));
    return 0;
}

/* The header of a volume that is open for writing isn't marked clean. */
static void mark_if_held(archip_store *store, const struct id128 *id,
                         archip_volume_info *info)
{
    struct store_owner owner = { 0 };
    bool held = false;

    if (!(info->flags & ARCHIP_VOLUME_CLEAN) &&
        store->store->driver->holder(store->store, id, &owner, &held,
                                     NULL) == 0 && held) {
        info->flags |= ARCHIP_VOLUME_CLEAN;
    }
}

static int list_one(archip_store *store, const char *name,
                    int (*each)(const archip_volume_info *info,
                                const char *error, void *opaque),
                    void *opaque)
{
    archip_volume_info info = { 0 };
    struct map_header header;
    g_autoptr(GError) error = NULL;
    struct id128 id;
    int rc = volume_find(store, name, &id, &error);

    if (rc == -ENOENT) {
        return 0;       /* removed meanwhile */
    }
    g_strlcpy(info.name, name, sizeof(info.name));
    if (rc == 0) {
        rc = map_read_header(store->store, &id, false, &header, &error);
    }
    if (rc == 0) {
        info_fill(&info, name, &header, store->store);
        mark_if_held(store, &id, &info);
        header_clear(&header);
    }
    return each(&info, error ? error->message : NULL, opaque);
}

int archip_volume_list(archip_store *store,
                       int (*each)(const archip_volume_info *info,
                                   const char *error, void *opaque),
                       void *opaque)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    GError *error = NULL;
    int rc = store->store->driver->list(store->store, STORE_NAME,
                                        names_collect, names, &error);

    if (rc < 0) {
        return api_fail(error);
    }
    for (guint i = 0; rc == 0 && i < names->len; i++) {
        rc = list_one(store, g_ptr_array_index(names, i), each, opaque);
    }
    return rc;
}
