/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bringing one volume's metadata back into a store.
 *
 * It is tried first in a store in memory: there the map is opened as any other,
 * journals and all, and says which objects it needs.  Then, under the volume's
 * lock: what stands in the way is set aside, the header before the journals, so
 * that no header is ever read with journals of another time; pages, journals,
 * the header, and last the name, each durable before the next.  Ended anywhere
 * it can be begun again.
 */
#include "backup/backup.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- Writing to a store, be it the real one or that in memory ------------- */

struct target {
    struct store *store;
    struct store_queue *queue;
};

static int put_record(struct store *store, const struct store_record *record,
                      GBytes *value, bool exclusive, GError **error)
{
    return store->driver->put(store, record, g_bytes_get_data(value, NULL),
                              g_bytes_get_size(value), exclusive, error);
}

/* In steps, aligned, the first making the object anew. */
static int put_object(const struct target *target,
                      const struct store_object *object, const uint8_t *bytes,
                      size_t length, GError **error)
{
    const size_t step = 1 << 20;
    struct store_request sync = { .op = STORE_SYNC, .object = *object };
    void *chunk;
    int rc = 0;

    if (posix_memalign(&chunk, 4096, step)) {
        return error_set_errno(error, ENOMEM, "can't write it");
    }
    for (size_t at = 0; rc == 0 && at < length; at += step) {
        struct iovec iov = { chunk, MIN(step, length - at) };
        struct store_request request = {
            .op = STORE_WRITE,
            .flags = at == 0 ? STORE_CREATE : 0,
            .object = *object,
            .offset_bytes = at,
            .length_bytes = iov.iov_len,
            .iov = &iov,
            .iov_count = 1,
            .create_bytes = object->kind == STORE_PAGE ? FORMAT_PAGE_BYTES
                                                       : 0,
        };

        memcpy(chunk, bytes + at, iov.iov_len);
        rc = store_run(target->queue, &request);
    }
    free(chunk);
    if (rc == 0) {
        rc = store_run(target->queue, &sync);
    }
    return rc < 0 ? error_set_errno(error, -rc, "can't write it") : 0;
}

enum place { PLACE_FREE, PLACE_SAME, PLACE_TAKEN };

/* A page may be there, and in use: the same, of a frozen layer, or another that
 * got its number since. */
static enum place place_of(const struct target *target,
                           const struct store_object *object,
                           const uint8_t *bytes)
{
    struct page_data *data = page_data_new();
    struct iovec iov = { data->bytes, FORMAT_PAGE_BYTES };
    struct store_request request = {
        .op = STORE_READ,
        .object = *object,
        .length_bytes = FORMAT_PAGE_BYTES,
        .iov = &iov,
        .iov_count = 1,
    };
    enum place place = PLACE_FREE;

    if (object->kind == STORE_PAGE) {
        int rc = store_run(target->queue, &request);

        if (rc == 0 && memcmp(data->bytes, bytes, FORMAT_PAGE_BYTES) == 0) {
            place = PLACE_SAME;
        } else if (rc != -ENOENT) {
            place = PLACE_TAKEN;
        }
    }
    page_data_unref(data);
    return place;
}

/* Those whose place is taken are left for later, in `taken`; NULL: they replace
 * what is there. */
static int put_objects(const struct install *install,
                       const struct target *target, enum store_kind kind,
                       GPtrArray *taken, GError **error)
{
    GArray *objects = install->stored->objects;
    int rc = 0;

    for (guint i = 0; rc == 0 && i < objects->len; i++) {
        struct stored_object *stored =
            &g_array_index(objects, struct stored_object, i);
        g_autofree uint8_t *bytes = NULL;
        enum place place;
        size_t length;

        if (stored->object.kind != kind) {
            continue;
        }
        rc = stored_object_read(install->fd, stored, &bytes, &length, error);
        if (rc < 0) {
            break;
        }
        place = place_of(target, &stored->object, bytes);
        if (place == PLACE_TAKEN && taken) {
            g_ptr_array_add(taken, stored);
        } else if (place != PLACE_SAME) {
            rc = put_object(target, &stored->object, bytes, length, error);
        }
    }
    return rc;
}

/* With no header that may refer to what is there. */
static int put_taken(const struct install *install,
                     const struct target *target, const GPtrArray *taken,
                     GError **error)
{
    int rc = 0;

    for (guint i = 0; rc == 0 && i < taken->len; i++) {
        const struct stored_object *stored = taken->pdata[i];
        struct store_thing thing = { .type = STORE_THING_OBJECT,
                                     .object = stored->object };
        g_autofree uint8_t *bytes = NULL;
        size_t length;

        rc = stored_object_read(install->fd, stored, &bytes, &length, error);
        if (rc == 0) {
            rc = target->store->driver->set_aside(target->store, &thing,
                                                  error);
        }
        if (rc == 0) {
            rc = put_object(target, &stored->object, bytes, length, error);
        }
    }
    return rc;
}

/* "Clean" was true of objects as they were at that time: others may have been
 * written since, behind its end (D4, D5) and without a sync (D7). */
static int header_unclean(const struct install *install, GBytes *value,
                          GBytes **unclean, GError **error)
{
    struct map_header header;
    int rc = header_decode(value, &install->stored->id, true, &header, error);

    if (rc == 0) {
        header.flags &= ~FORMAT_HEADER_CLEAN;
        *unclean = header_encode(&header);
        header_clear(&header);
    }
    return rc;
}

static int put_header(const struct install *install, struct store *store,
                      GError **error)
{
    struct store_record record = { STORE_HEADER, install->stored->id, NULL };
    g_autoptr(GBytes) value = NULL;
    int rc = header_unclean(install, install->stored->header, &value, error);

    return rc == 0 ? put_record(store, &record, value, false, error) : rc;
}

/* --- What it needs -------------------------------------------------------- */

/* Which objects of a layer the map refers to. */
struct needs {
    struct id128 layer;
    bool current;
    struct bits *bits;
};

static void needs_free(gpointer data)
{
    struct needs *needs = data;

    bits_free(needs->bits);
    g_free(needs);
}

static struct bits *needs_of(GHashTable *layers, const struct id128 *layer,
                             bool current)
{
    struct needs *needs = g_hash_table_lookup(layers, layer);

    if (!needs) {
        needs = g_new0(struct needs, 1);
        needs->layer = *layer;
        needs->current = current;
        needs->bits = bits_new();
        id_table_add(layers, layer, needs);
    }
    return needs->bits;
}

/* Look up one thing of the map, reading the pages it takes. */
static int with_pages(struct map *map, int rc, struct map_page *wanted,
                      GError **error)
{
    if (rc == -EAGAIN) {
        int loaded = map_page_load(map, wanted, error);

        return loaded < 0 ? loaded : -EAGAIN;
    }
    return rc;
}

static int needs_layer(struct map *map, GHashTable *layers, uint32_t number,
                       uint64_t index, GError **error)
{
    struct map_page *wanted = NULL;
    struct id128 id;
    int rc;

    do {
        rc = map_layer_id(map, number, &id, &wanted, error);
    } while ((rc = with_pages(map, rc, wanted, error)) == -EAGAIN);
    if (rc == 0) {
        bits_set(needs_of(layers, &id, number == map->header.current_layer),
                 index);
    }
    return rc;
}

static int needs_next(struct map *map, uint64_t *index, uint64_t end,
                      struct map_entry *entry, GError **error)
{
    struct map_page *wanted = NULL;
    struct map_bits bits;
    int rc;

    do {
        rc = map_next_used(map, *index, end, index, &wanted, error);
        if (rc == 0 && *index < end) {
            rc = map_lookup(map, *index, entry, &bits, &wanted, error);
        }
    } while ((rc = with_pages(map, rc, wanted, error)) == -EAGAIN);
    return rc;
}

static int needs_collect(struct map *map, GHashTable *layers, GError **error)
{
    uint64_t end = ARCHIP_SIZE_MAX / map->header.object_bytes;
    int rc = 0;

    g_mutex_lock(&map->lock);
    needs_of(layers, &map->header.current_layer_id, true);
    for (uint64_t index = 0; rc == 0; index++) {
        struct map_entry entry;

        rc = needs_next(map, &index, end, &entry, error);
        if (rc < 0 || index >= end) {
            break;
        }
        rc = needs_layer(map, layers, entry.layer, index, error);
        if (rc == 0 && entry.base) {
            rc = needs_layer(map, layers, entry.base, index, error);
        }
    }
    g_mutex_unlock(&map->lock);
    return rc;
}

static int object_seen(uint64_t number, uint64_t size_bytes, void *opaque)
{
    bits_set(opaque, number);
    return 0;
}

static int run_count(uint64_t first, uint64_t count, void *opaque)
{
    *(uint64_t *)opaque += count;
    return 0;
}

/* A check may have set the whole layer aside, as nobody's.  Mostly it is where
 * it should be. */
static int layer_take_back(struct install *install, const struct id128 *layer,
                           GError **error)
{
    struct store *store = install->check->store;
    struct store_thing thing = { .type = STORE_THING_SET,
                                 .object = { STORE_BLOCK, *layer, 0 } };
    GError *cause = NULL;
    int rc = install->flags & ARCHIP_IMPORT_DRY_RUN
                 ? 0
                 : store->driver->take_back(store, &thing, &cause);

    if (rc == -ENOENT || rc == -EEXIST) {
        g_clear_error(&cause);
        return 0;
    }
    if (cause) {
        g_propagate_error(error, cause);
    }
    return rc;
}

static int needs_compare(struct install *install, const struct needs *needs,
                         GError **error)
{
    struct store *store = install->check->store;
    struct bits *seen = bits_new();
    int rc = layer_take_back(install, &needs->layer, error);

    if (rc == 0) {
        rc = store->driver->list_sizes(store, STORE_BLOCK, &needs->layer,
                                       object_seen, seen, error);
    }
    bits_runs(needs->bits, seen, run_count, &install->missing_count);
    if (needs->current) {
        bits_runs(seen, needs->bits, run_count, &install->newer_count);
    }
    bits_free(seen);
    return rc;
}

static int needs_check(struct install *install, struct map *map,
                       GError **error)
{
    g_autoptr(GHashTable) layers = id_table_new(needs_free);
    int rc = needs_collect(map, layers, error);
    GHashTableIter iter;
    void *needs;

    install->missing_count = install->newer_count = 0;
    g_hash_table_iter_init(&iter, layers);
    while (rc == 0 && g_hash_table_iter_next(&iter, NULL, &needs)) {
        rc = needs_compare(install, needs, error);
    }
    if (rc == 0 && install->missing_count &&
        !(install->flags & ARCHIP_IMPORT_FORCE)) {
        return error_set(error, ENODATA, "%" G_GUINT64_FORMAT
                         " objects that its map refers to aren't there",
                         install->missing_count);
    }
    return rc;
}

/* --- Trying it in memory -------------------------------------------------- */

static int page_bad(void *opaque, unsigned level, uint64_t position,
                    const struct map_ref *ref, const GError *error)
{
    return -EUCLEAN;
}

/* All pages, also those that no entry needs by now: an export leaves a volume
 * out that lacks one. */
static int trees_check(const struct target *trial, struct map *map,
                       GError **error)
{
    int rc = 0;

    for (int kind = FORMAT_ENTRIES; rc == 0 && kind <= FORMAT_LAYERS;
         kind++) {
        struct walk walk = {
            .store = trial->store,
            .queue = trial->queue,
            .kind = (enum format_tree_kind)kind,
            .bad = page_bad,
        };

        rc = walk_tree(&walk, map_tree(&map->stored, walk.kind));
    }
    return rc < 0 ? error_set(error, EUCLEAN, "pages of its map aren't in the "
                                              "file, or aren't sound")
                  : 0;
}

static int trial_run(struct install *install, const struct target *trial,
                     GError **error)
{
    struct map *map;
    int rc = put_objects(install, trial, STORE_PAGE, NULL, error);

    if (rc == 0) {
        rc = put_objects(install, trial, STORE_JOURNAL, NULL, error);
    }
    if (rc == 0) {
        rc = put_header(install, trial->store, error);
    }
    if (rc == 0) {
        rc = map_open(trial->store, &install->stored->id, false, NULL, &map,
                      error);
    }
    if (rc < 0) {
        return rc;
    }
    rc = trees_check(trial, map, error);
    rc = rc < 0 ? rc : needs_check(install, map, error);
    map_free(map);
    return rc;
}

/* A store in memory lives as long as the process: leave it empty. */
static void trial_clear(const struct install *install,
                        const struct target *trial)
{
    const GArray *objects = install->stored->objects;

    for (guint i = 0; i < objects->len; i++) {
        struct store_request request = {
            .op = STORE_REMOVE,
            .object = g_array_index(objects, struct stored_object, i).object,
        };

        store_run(trial->queue, &request);
    }
    trial->store->driver->remove_all(trial->store, STORE_JOURNAL,
                                     &install->stored->id, NULL);
}

static int install_try(struct install *install, GError **error)
{
    struct target trial;
    int rc = store_open("memory:archipelago-import", STORE_OPEN_CREATE,
                        &trial.store, error);

    if (rc < 0) {
        return rc;
    }
    rc = store_queue_open(trial.store, STORE_QUEUE_MAY_BLOCK, &trial.queue,
                          error);
    if (rc == 0) {
        rc = trial_run(install, &trial, error);
        trial_clear(install, &trial);
        store_queue_close(trial.queue);
    }
    store_close(trial.store);
    return rc;
}

/* --- What is in the way --------------------------------------------------- */

enum name_state { NAME_FREE, NAME_OURS, NAME_DAMAGED };

/* Whose is the name?  Asked anew each time, as what the inventory says of it is
 * as old as that; our own stays while we have the lock. */
static int install_check_name(struct install *install, enum name_state *state,
                              GError **error)
{
    const struct stored_volume *stored = install->stored;
    struct store *store = install->check->store;
    struct store_record record = { .kind = STORE_NAME, .text = stored->name };
    g_autoptr(GBytes) value = NULL;
    GError *cause = NULL;
    struct id128 id;
    int rc = store->driver->get(store, &record, &value, &cause);

    if (rc == 0) {
        rc = name_decode(value, stored->name, &id, &cause);
    }
    if (rc == -ENOENT || rc == -EUCLEAN) {
        g_clear_error(&cause);
        *state = rc == -ENOENT ? NAME_FREE : NAME_DAMAGED;
        return 0;
    }
    if (rc < 0) {
        g_propagate_error(error, cause);
        return error_prefix(error, "can't tell whose its name is");
    }
    if (!id128_equal(&id, &stored->id)) {
        return error_set(error, EEXIST, "another volume has that name: rename "
                                        "or remove it first");
    }
    *state = NAME_OURS;
    return 0;
}

/* 0: nothing sound stands where its header belongs.  -errno: what there is may
 * be sound; only overwriting takes away what the medium doesn't give. */
static int header_unread(struct install *install, int rc, GError *cause,
                         GError **error)
{
    if (rc == -EUCLEAN || rc == -ENOENT || rc == -EISDIR || rc == -ELOOP ||
        rc == -ENOTDIR ||
        (rc == -EIO && install->flags & ARCHIP_IMPORT_OVERWRITE)) {
        g_error_free(cause);
        return 0;
    }
    g_propagate_error(error, cause);
    return error_prefix(error, "its header may be sound, so it is left alone%s",
                        rc == -EIO ? " (overwriting would replace it)" : "");
}

struct comparison {
    const struct install *install;
    guint journal_count;        /* of which both have the same */
};

static int journal_compare(uint64_t epoch, const void *records, size_t bytes,
                           void *opaque)
{
    struct comparison *comparison = opaque;
    const struct install *install = comparison->install;
    const GArray *objects = install->stored->objects;
    bool same = false;

    for (guint i = 0; !same && i < objects->len; i++) {
        const struct stored_object *stored =
            &g_array_index(objects, struct stored_object, i);
        g_autofree uint8_t *mine = NULL;
        size_t length;

        if (stored->object.kind == STORE_JOURNAL &&
            stored->object.number == epoch) {
            same = stored_object_read(install->fd, stored, &mine, &length,
                                      NULL) == 0 &&
                   length == bytes && memcmp(mine, records, bytes) == 0;
        }
    }
    comparison->journal_count += same;
    return same ? 0 : -EEXIST;
}

/* Do the journals there, which follow the same header, hold just what those of
 * the file do?  If that can't be told, they don't. */
static bool journals_are_same(const struct install *install)
{
    const GArray *objects = install->stored->objects;
    struct comparison comparison = { install, 0 };
    guint journal_count = 0;
    struct map *map;
    int rc;

    for (guint i = 0; i < objects->len; i++) {
        journal_count += g_array_index(objects, struct stored_object,
                                       i).object.kind == STORE_JOURNAL;
    }
    if (map_open(install->check->store, &install->stored->id, false, NULL,
                 &map, NULL) < 0) {
        return false;
    }
    rc = map_journals(map, journal_compare, &comparison, NULL);
    map_free(map);
    return rc == 0 && comparison.journal_count == journal_count;
}

/* Is there a volume that must stay?  Asked anew each time, too.  A header that
 * nothing but the name follows was left by an import that didn't end; unless
 * its journals went on, when it is the name that was lost. */
static int install_check_header(struct install *install, enum name_state name,
                                GError **error)
{
    const struct id128 *id = &install->stored->id;
    struct store *store = install->check->store;
    struct store_record record = { STORE_HEADER, *id, NULL };
    g_autoptr(GBytes) value = NULL, there = NULL, mine = NULL;
    GError *cause = NULL;
    int rc = store->driver->get(store, &record, &value, &cause);

    if (rc == 0) {
        rc = header_unclean(install, value, &there, &cause);
    }
    if (rc < 0) {
        return header_unread(install, rc, cause, error);
    }
    rc = header_unclean(install, install->stored->header, &mine, error);
    if (rc < 0) {
        return rc;
    }
    if (!(install->flags & ARCHIP_IMPORT_OVERWRITE) &&
        (name == NAME_OURS || !g_bytes_equal(there, mine) ||
         !journals_are_same(install))) {
        return error_set(error, EEXIST, "it is there already");
    }
    return 0;
}

static int install_check_there(struct install *install, GError **error)
{
    const struct inventory *inventory = install->check->inventory;
    const struct stored_volume *stored = install->stored;
    struct volume *there = inventory_find(inventory, &stored->id);
    enum name_state name;
    int rc = install_check_name(install, &name, error);

    if (rc < 0) {
        return rc;
    }
    if (there && there->names->len && strcmp(volume_name(there),
                                             stored->name)) {
        return error_set(error, EEXIST, "it is there, by the name '%s'",
                         volume_name(there));
    }
    return install_check_header(install, name, error);
}

/* Nobody else may have its current layer. */
static int install_check_layer(struct install *install, GError **error)
{
    const struct inventory *inventory = install->check->inventory;
    struct map_header header;
    const GPtrArray *claims;
    int rc = header_decode(install->stored->header, &install->stored->id,
                           true, &header, error);

    if (rc < 0) {
        return rc;
    }
    claims = g_hash_table_lookup(inventory->claims, &header.current_layer_id);
    header_clear(&header);
    if (header.vmstate_bytes || header.vmstate_entries.height) {
        return error_set(error, EOPNOTSUPP, "it has a machine's state, which "
                                            "this version can't import");
    }
    for (guint i = 0; claims && i < claims->len; i++) {
        const struct volume *volume = claims->pdata[i];

        if (!id128_equal(&volume->id, &install->stored->id)) {
            const char *name = volume_name(volume);

            return error_set(error, EEXIST, "what it wrote to belongs to '%s' "
                             "now", name ? name : "a volume without a name");
        }
    }
    return 0;
}

/* --- Doing it ------------------------------------------------------------- */

static int journal_collect(uint64_t number, uint64_t size_bytes, void *opaque)
{
    g_array_append_val((GArray *)opaque, number);
    return 0;
}

static int clear_journals(struct install *install, GError **error)
{
    struct store *store = install->check->store;
    g_autoptr(GArray) epochs = g_array_new(false, false, sizeof(uint64_t));
    int rc = store->driver->list_sizes(store, STORE_JOURNAL,
                                       &install->stored->id, journal_collect,
                                       epochs, error);

    for (guint i = 0; rc == 0 && i < epochs->len; i++) {
        struct store_thing thing = {
            .type = STORE_THING_OBJECT,
            .object = { STORE_JOURNAL, install->stored->id,
                        g_array_index(epochs, uint64_t, i) },
        };

        rc = store->driver->set_aside(store, &thing, error);
    }
    return rc;
}

/* The intent first: who finds one removes a volume that has no name yet. */
static int clear_way(struct install *install, GError **error)
{
    struct store *store = install->check->store;
    struct store_thing thing = {
        .type = STORE_THING_RECORD,
        .record = { .kind = STORE_INTENT, .id = install->stored->id },
    };
    int rc = store->driver->set_aside(store, &thing, error);

    if (rc == 0) {
        thing.record.kind = STORE_HEADER;
        rc = store->driver->set_aside(store, &thing, error);
    }
    return rc == 0 ? clear_journals(install, error) : rc;
}

static int install_locked(struct install *install, struct store_lock *lock,
                          GError **error)
{
    struct store *store = install->check->store;
    struct target target = { store, install->check->queue };
    struct store_record name = { .kind = STORE_NAME,
                                 .text = install->stored->name };
    g_autoptr(GBytes) value = name_encode(&install->stored->id);
    g_autoptr(GPtrArray) taken = g_ptr_array_new();
    enum name_state name_state = NAME_FREE;
    /* Again: who had the lock may have removed objects since. */
    int rc = install_try(install, error);

    if (rc == 0) {
        rc = store_exclude_readers(lock, error);
    }
    if (rc == 0) {
        rc = install_check_name(install, &name_state, error);
    }
    if (rc == 0) {
        rc = install_check_header(install, name_state, error);
    }
    /* While there is a header, pages that it doesn't know harm nobody: what
     * takes long and needs room comes before anything is put out of the way.
     * Only those that it may know by the same number come after. */
    if (rc == 0) {
        rc = put_objects(install, &target, STORE_PAGE, taken, error);
    }
    /* Who put those that are there already may have died before a sync (D7). */
    if (rc == 0) {
        rc = store->driver->sync_all(store, STORE_PAGE, &install->stored->id,
                                     error);
    }
    if (rc == 0) {
        rc = clear_way(install, error);
    }
    if (rc == 0) {
        rc = put_taken(install, &target, taken, error);
    }
    if (rc == 0) {
        rc = put_objects(install, &target, STORE_JOURNAL, NULL, error);
    }
    if (rc == 0) {
        rc = put_header(install, store, error);
    }
    if (rc == 0) {
        rc = put_record(store, &name, value, name_state == NAME_FREE, error);
    }
    store->driver->admit_readers(lock);
    return rc;
}

static int install_do(struct install *install, GError **error)
{
    struct store_lock *lock;
    int rc = check_lock(install->check, &install->stored->id, &lock, error);

    if (rc == -EUCLEAN) {
        g_clear_error(error);
        rc = install->check->store->driver->reset_lock(
            install->check->store, &install->stored->id, error);
        rc = rc < 0 ? rc : check_lock(install->check, &install->stored->id,
                                      &lock, error);
    }
    if (rc < 0) {
        return rc;
    }
    rc = install_locked(install, lock, error);
    install->check->store->driver->unlock(lock);
    return rc;
}

int install_volume(struct install *install, GError **error)
{
    int rc = install_check_there(install, error);

    if (rc == 0) {
        rc = install_check_layer(install, error);
    }
    if (rc == 0) {
        rc = install_try(install, error);
    }
    if (rc < 0 || install->flags & ARCHIP_IMPORT_DRY_RUN) {
        return rc;
    }
    return install_do(install, error);
}
