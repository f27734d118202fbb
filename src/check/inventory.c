/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What there is in the store, and which volume claims which layer.
 *
 * The order makes it safe beside writers: places are listed before headers are
 * read.  A layer has objects only after a header in the store names it, so a
 * place that was listed and that no header claims afterwards is nobody's.
 * Intents are listed before places, too: a removal that ends meanwhile takes the
 * place first, and one that began after that has a header to claim it.
 */
#include "check/check.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

#define TRIES 20                /* of something that moves meanwhile */

/* --- Tables --------------------------------------------------------------- */

static guint id_hash(gconstpointer key)
{
    guint word;

    memcpy(&word, key, sizeof(word));
    return word;
}

static gboolean id_equal(gconstpointer a, gconstpointer b)
{
    return id128_equal(a, b);
}

GHashTable *id_table_new(GDestroyNotify free_value)
{
    return g_hash_table_new_full(id_hash, id_equal, g_free, free_value);
}

void id_table_add(GHashTable *table, const struct id128 *id, gpointer value)
{
    g_hash_table_replace(table, g_memdup2(id, sizeof(*id)), value);
}

static void bytes_free(gpointer bytes)
{
    if (bytes) {
        g_bytes_unref(bytes);
    }
}

static void volume_record_free(gpointer data)
{
    struct volume *volume = data;

    header_clear(&volume->header);
    g_ptr_array_unref(volume->names);
    g_array_unref(volume->layers);
    g_free(volume->error);
    g_free(volume);
}

void inventory_free(struct inventory *inventory)
{
    if (!inventory) {
        return;
    }
    g_ptr_array_unref(inventory->order);
    g_hash_table_unref(inventory->claims);
    g_hash_table_unref(inventory->volumes);
    g_hash_table_unref(inventory->names);
    g_hash_table_unref(inventory->bad_names);
    g_hash_table_unref(inventory->intents);
    g_hash_table_unref(inventory->intended);
    g_hash_table_unref(inventory->changing);
    g_hash_table_unref(inventory->layers);
    g_hash_table_unref(inventory->places);
    g_free(inventory);
}

static struct inventory *inventory_new(void)
{
    struct inventory *inventory = g_new0(struct inventory, 1);

    inventory->volumes = id_table_new(volume_record_free);
    inventory->order = g_ptr_array_new();
    inventory->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                             g_free);
    inventory->bad_names = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                 g_free, bytes_free);
    inventory->claims = id_table_new((GDestroyNotify)g_ptr_array_unref);
    inventory->intents = id_table_new(bytes_free);
    inventory->intended = id_table_new(NULL);
    inventory->changing = id_table_new(NULL);
    inventory->layers = id_table_new(NULL);
    inventory->places = id_table_new(NULL);
    return inventory;
}

struct volume *inventory_find(const struct inventory *inventory,
                              const struct id128 *id)
{
    return g_hash_table_lookup(inventory->volumes, id);
}

unsigned inventory_claims(const struct inventory *inventory,
                          const struct id128 *layer)
{
    const GPtrArray *volumes = g_hash_table_lookup(inventory->claims, layer);

    return volumes ? volumes->len : 0;
}

const char *volume_name(const struct volume *volume)
{
    return volume->names->len ? volume->names->pdata[0] : NULL;
}

/* --- Places, intents, names ----------------------------------------------- */

static int collect_id(const struct id128 *id, void *opaque)
{
    id_table_add(opaque, id, NULL);
    return 0;
}

static int collect_record(const struct store_record *record, void *opaque)
{
    if (record->kind == STORE_NAME) {
        g_hash_table_add(opaque, g_strdup(record->text));
    } else {
        id_table_add(opaque, &record->id, NULL);
    }
    return 0;
}

/* 1: it isn't there any more, or what is there is no record, but a stray. */
static int get_record(struct check *check, const struct store_record *record,
                      GBytes **value, GError **error)
{
    int rc = check->store->driver->get(check->store, record, value, error);

    if (rc == -ENOENT || rc == -EISDIR || rc == -ELOOP || rc == -ENOTDIR) {
        g_clear_error(error);
        return 1;
    }
    return rc;
}

static void intent_note(struct inventory *inventory, const struct id128 *id,
                        GBytes *value)
{
    struct id128 intended, layer;
    g_autofree char *name = NULL;
    int rc = value ? intent_decode(value, &intended, &layer, &name, NULL)
                   : -EUCLEAN;

    id_table_add(inventory->intents, id, value);
    if (rc == 0 && !id128_is_zero(&layer)) {
        id_table_add(inventory->intended, &layer, NULL);
    }
    /* What it is about isn't known. */
    inventory->unreadable |= rc == -EOPNOTSUPP;
}

static int take_intents(struct check *check, struct inventory *inventory,
                        GError **error)
{
    g_autoptr(GHashTable) ids = id_table_new(NULL);
    int rc = check->store->driver->list(check->store, STORE_INTENT,
                                        collect_record, ids, error);
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, ids);
    while (rc == 0 && g_hash_table_iter_next(&iter, &key, NULL)) {
        struct store_record record = { STORE_INTENT, *(struct id128 *)key,
                                       NULL };
        GBytes *value = NULL;
        int got = get_record(check, &record, &value, error);

        if (got == -EUCLEAN) {
            g_clear_error(error);
            got = 0;
        }
        if (got == 0) {
            intent_note(inventory, key, value);
        }
        rc = got < 0 ? got : 0;
    }
    return rc;
}

static void table_add_all(GHashTable *table, GHashTable *added)
{
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, added);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        id_table_add(table, key, NULL);
    }
}

static int take_changing(struct check *check, struct inventory *inventory,
                         GError **error)
{
    int rc = take_intents(check, inventory, error);

    table_add_all(inventory->changing, inventory->intents);
    table_add_all(inventory->changing, inventory->intended);
    g_hash_table_remove_all(inventory->intents);
    g_hash_table_remove_all(inventory->intended);
    return rc;
}

static int take_name(struct check *check, struct inventory *inventory,
                     const char *name, GError **error)
{
    struct store_record record = { .kind = STORE_NAME, .text = name };
    g_autoptr(GError) bad = NULL;
    GBytes *value = NULL;
    struct id128 id;
    int rc = get_record(check, &record, &value, &bad);

    if (rc == 0) {
        rc = name_decode(value, name, &id, &bad);
    }
    if (rc == 0) {
        g_hash_table_replace(inventory->names, g_strdup(name),
                             g_memdup2(&id, sizeof(id)));
    } else if (rc == -EUCLEAN) {
        g_hash_table_replace(inventory->bad_names, g_strdup(name),
                             value ? g_bytes_ref(value) : NULL);
        rc = 0;
    } else if (rc < 0) {
        inventory->unreadable = true;
        check_hindered(check, name, g_steal_pointer(&bad));
        rc = 0;
    }
    bytes_free(value);
    return 0;
}

static int take_names(struct check *check, struct inventory *inventory,
                      GError **error)
{
    g_autoptr(GHashTable) names =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    int rc = check->store->driver->list(check->store, STORE_NAME,
                                        collect_record, names, error);
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, names);
    while (rc == 0 && g_hash_table_iter_next(&iter, &key, NULL)) {
        rc = take_name(check, inventory, key, error);
    }
    return rc;
}

/* --- Headers -------------------------------------------------------------- */

struct layers_walk {
    struct volume *volume;
    bool bad;
};

static int layers_leaf(void *opaque, uint64_t position, const void *body)
{
    struct volume *volume = ((struct layers_walk *)opaque)->volume;
    const struct format_layer *layers = body;

    for (uint32_t i = 0; i < MAP_LAYERS_PER_PAGE; i++) {
        struct layer layer = {
            .number = (uint32_t)(position * MAP_LAYERS_PER_PAGE + i),
            .hashed = GUINT32_FROM_BE(layers[i].flags) & FORMAT_LAYER_HASHED,
        };

        memcpy(layer.id.bytes, layers[i].id, sizeof(layer.id.bytes));
        if (!id128_is_zero(&layer.id) &&
            layer.number != volume->header.current_layer) {
            g_array_append_val(volume->layers, layer);
        }
    }
    return 0;
}

static int layers_bad(void *opaque, unsigned level, uint64_t position,
                      const struct map_ref *ref, const GError *error)
{
    ((struct layers_walk *)opaque)->bad = true;
    return 0;
}

static void take_layers(struct check *check, struct volume *volume)
{
    struct layers_walk state = { volume, false };
    struct walk walk = {
        .store = check->store,
        .queue = check->queue,
        .kind = FORMAT_LAYERS,
        .opaque = &state,
        .leaf = layers_leaf,
        .bad = layers_bad,
    };
    struct layer current = {
        .id = volume->header.current_layer_id,
        .number = volume->header.current_layer,
        .current = true,
    };

    g_array_set_size(volume->layers, 0);
    g_array_append_val(volume->layers, current);
    walk_tree(&walk, &volume->header.layers);
    volume->readable = !state.bad;
}

/* 1: there is no header any more. */
static int take_header(struct check *check, struct volume *volume)
{
    struct store_record record = { STORE_HEADER, volume->id, NULL };
    g_autoptr(GBytes) value = NULL;
    g_autoptr(GError) error = NULL;
    int rc = get_record(check, &record, &value, &error);

    header_clear(&volume->header);
    g_clear_pointer(&volume->error, g_free);
    volume->readable = false;
    if (rc > 0) {
        return rc;
    }
    if (rc == 0) {
        rc = header_decode(value, &volume->id, false, &volume->header,
                           &error);
    }
    volume->result = rc;
    if (rc < 0) {
        volume->error = g_strdup(error->message);
        return 0;
    }
    take_layers(check, volume);
    return 0;
}

static struct volume *volume_record_new(const struct id128 *id)
{
    struct volume *volume = g_new0(struct volume, 1);

    volume->id = *id;
    volume->names = g_ptr_array_new();
    volume->layers = g_array_new(false, false, sizeof(struct layer));
    return volume;
}

/* A page of a volume in use may be replaced between header and page. */
static void take_volume(struct check *check, struct inventory *inventory,
                        const struct id128 *id)
{
    struct volume *volume = volume_record_new(id);
    uint64_t generation = 0;
    int rc = 0;

    for (int tries = 0; tries < TRIES && !volume->readable; tries++) {
        rc = take_header(check, volume);
        if (rc > 0 || volume->result < 0 ||
            (tries > 1 && volume->header.generation == generation)) {
            break;
        }
        generation = volume->header.generation;
    }
    if (rc > 0) {
        volume_record_free(volume);
        return;
    }
    inventory->unreadable |= !volume->readable;
    volume->pending = g_hash_table_contains(inventory->intents, id);
    id_table_add(inventory->volumes, id, volume);
}

static int take_headers(struct check *check, struct inventory *inventory,
                        GError **error)
{
    g_autoptr(GHashTable) ids = id_table_new(NULL);
    int rc = check->store->driver->list(check->store, STORE_HEADER,
                                        collect_record, ids, error);
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, ids);
    while (rc == 0 && g_hash_table_iter_next(&iter, &key, NULL)) {
        take_volume(check, inventory, key);
    }
    return rc;
}

/* --- Putting it together -------------------------------------------------- */

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static gint compare_volumes(gconstpointer a, gconstpointer b)
{
    const struct volume *x = *(struct volume *const *)a;
    const struct volume *y = *(struct volume *const *)b;
    int order = g_strcmp0(volume_name(x), volume_name(y));

    return order ? order : memcmp(x->id.bytes, y->id.bytes,
                                  sizeof(x->id.bytes));
}

static void connect_names(struct inventory *inventory)
{
    GHashTableIter iter;
    void *name, *id;

    g_hash_table_iter_init(&iter, inventory->names);
    while (g_hash_table_iter_next(&iter, &name, &id)) {
        struct volume *volume = inventory_find(inventory, id);

        if (volume) {
            g_ptr_array_add(volume->names, name);
        } else {
            /* What the lost map referred to isn't known. */
            inventory->unreadable = true;
        }
    }
}

static void connect_claims(struct inventory *inventory, struct volume *volume)
{
    for (guint i = 0; volume->result == 0 && i < volume->layers->len; i++) {
        const struct id128 *id =
            &g_array_index(volume->layers, struct layer, i).id;
        GPtrArray *volumes = g_hash_table_lookup(inventory->claims, id);

        if (!volumes) {
            volumes = g_ptr_array_new();
            id_table_add(inventory->claims, id, volumes);
        }
        g_ptr_array_add(volumes, volume);
    }
}

static void inventory_connect(struct inventory *inventory)
{
    GHashTableIter iter;
    void *volume;

    connect_names(inventory);
    g_hash_table_iter_init(&iter, inventory->volumes);
    while (g_hash_table_iter_next(&iter, NULL, &volume)) {
        g_ptr_array_sort(((struct volume *)volume)->names, compare_names);
        g_ptr_array_add(inventory->order, volume);
        connect_claims(inventory, volume);
    }
    g_ptr_array_sort(inventory->order, compare_volumes);
}

int inventory_take(struct check *check, struct inventory **inventory,
                   GError **error)
{
    const struct store_driver *driver = check->store->driver;
    struct inventory *taken = inventory_new();
    int rc;

    driver->look(check->store, !check->repair);
    rc = take_changing(check, taken, error);
    if (rc == 0) {
        rc = driver->list_ids(check->store, STORE_BLOCK, collect_id,
                              taken->layers, error);
    }
    if (rc == 0) {
        rc = driver->list_ids(check->store, STORE_PAGE, collect_id,
                              taken->places, error);
    }
    if (rc == 0) {
        rc = take_intents(check, taken, error);
    }
    if (rc == 0) {
        rc = take_headers(check, taken, error);
    }
    if (rc == 0) {
        rc = take_names(check, taken, error);
    }
    if (rc < 0) {
        inventory_free(taken);
        return rc;
    }
    inventory_connect(taken);
    *inventory = taken;
    return 0;
}

static void forget_claims(struct inventory *inventory, struct volume *volume)
{
    GHashTableIter iter;
    void *volumes;

    g_hash_table_iter_init(&iter, inventory->claims);
    while (g_hash_table_iter_next(&iter, NULL, &volumes)) {
        while (g_ptr_array_remove(volumes, volume)) {
        }
    }
    g_ptr_array_remove(inventory->order, volume);
}

void inventory_renew_volume(struct check *check, struct inventory *inventory,
                            const struct id128 *id, const char *name)
{
    struct volume *volume = inventory_find(inventory, id);
    void *key;

    if (volume) {
        forget_claims(inventory, volume);
        g_hash_table_remove(inventory->volumes, id);
    }
    g_hash_table_replace(inventory->names, g_strdup(name),
                         g_memdup2(id, sizeof(*id)));
    take_volume(check, inventory, id);
    volume = inventory_find(inventory, id);
    if (volume) {
        g_hash_table_lookup_extended(inventory->names, name, &key, NULL);
        g_ptr_array_add(volume->names, key);
        connect_claims(inventory, volume);
    }
}
