/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Places that nobody claims; names.c says why two inventories tell. */
#include "check/check.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

static int count_object(uint64_t number, uint64_t size_bytes, void *opaque)
{
    ++*(uint64_t *)opaque;
    return 0;
}

/* All of a place: block objects, or pages and journals.  -errno: it can't be
 * told, which isn't "none". */
static int count_objects(struct check *check, enum store_kind kind,
                         const struct id128 *id, uint64_t *count,
                         GError **error)
{
    const struct store_driver *driver = check->store->driver;
    int rc;

    *count = 0;
    rc = driver->list_sizes(check->store, kind, id, count_object, count,
                            error);
    if (rc == 0 && kind == STORE_PAGE) {
        rc = driver->list_sizes(check->store, STORE_JOURNAL, id, count_object,
                                count, error);
    }
    return rc;
}

/* Locks, or empty folders, and nothing else: still so, as all goes. */
static int remove_place(struct check *check, enum store_kind kind,
                        const struct id128 *id, GError **error)
{
    const struct store_driver *driver = check->store->driver;
    struct store_lock *lock = NULL;
    uint64_t count;
    int rc = 0;

    if (check->strays_left) {   /* they go uncounted, and would go with it */
        return error_set(error, EBUSY, "a stray couldn't be set aside, and "
                                       "may lie in there");
    }
    if (kind != STORE_BLOCK) {
        rc = check_lock(check, id, &lock, error);
        if (rc == -EUCLEAN) {
            g_clear_error(error);
            rc = 0;
        }
    }
    if (rc == 0) {
        rc = count_objects(check, kind, id, &count, error);
    }
    if (rc == 0 && count) {
        rc = error_set(error, EBUSY, "it isn't empty any more");
    }
    if (rc == 0) {
        rc = driver->remove_all(check->store, kind, id, error);
    }
    if (lock) {
        driver->unlock(lock);
    }
    return rc;
}

static void check_counted_place(struct check *check, enum store_kind kind,
                                const struct id128 *id, uint64_t count,
                                bool unreadable)
{
    struct store_thing thing = { .type = STORE_THING_SET,
                                 .object = { kind, *id, 0 } };
    const char *code = !count                ? "place-empty"
                       : kind == STORE_BLOCK ? "layer-unclaimed"
                                             : "map-unclaimed";
    const char *text = !count ? "a place without anything, which belongs to "
                                "no volume"
                              : "no volume's map claims it";
    const char *action = !count       ? "remove it"
                         : unreadable ? "stays, because it may belong to a "
                                        "volume whose map can't be read"
                                      : "set it aside";
    g_autoptr(GError) error = NULL;
    g_autofree char *place = NULL;
    char id_text[ID128_TEXT_BYTES];
    int rc;

    id128_text(id, id_text);
    place = kind == STORE_BLOCK
                ? g_strdup_printf("%" G_GUINT64_FORMAT
                                  " block objects of layer %s", count, id_text)
                : g_strdup_printf("%" G_GUINT64_FORMAT
                                  " pages and journals of %s", count, id_text);
    if (!check->repair || (count && unreadable)) {
        check_tell(check, NULL, code,
                   count && unreadable ? ARCHIP_NOTE : ARCHIP_LEAK,
                   count && unreadable ? ARCHIP_KEPT : ARCHIP_FOUND, count,
                   place, text, action);
        return;
    }
    rc = count ? check->store->driver->set_aside(check->store, &thing, &error)
               : remove_place(check, kind, id, &error);
    check_tell_tried(check, NULL, code, ARCHIP_LEAK, place, text, action, rc,
                     error);
}

static void check_place(struct check *check, enum store_kind kind,
                        const struct id128 *id, bool unreadable)
{
    g_autofree char *what = NULL;
    char id_text[ID128_TEXT_BYTES];
    GError *error = NULL;
    uint64_t count;

    if (count_objects(check, kind, id, &count, &error) < 0) {
        what = g_strdup_printf("%s %s",
                               kind == STORE_BLOCK ? "layer" : "map",
                               id128_text(id, id_text));
        check_hindered(check, what, error);
        return;
    }
    check_counted_place(check, kind, id, count, unreadable);
}

static bool is_named(const struct inventory *inventory,
                     const struct id128 *id)
{
    GHashTableIter iter;
    void *named;

    g_hash_table_iter_init(&iter, inventory->names);
    while (g_hash_table_iter_next(&iter, NULL, &named)) {
        if (id128_equal(named, id)) {
            return true;
        }
    }
    return false;
}

static bool is_unclaimed(const struct inventory *inventory,
                         const struct id128 *id, enum store_kind kind)
{
    GHashTable *places = kind == STORE_BLOCK ? inventory->layers
                                             : inventory->places;

    return g_hash_table_contains(places, id) &&
           !inventory_claims(inventory, id) &&
           !g_hash_table_contains(inventory->changing, id) &&
           !g_hash_table_contains(inventory->intended, id) &&
           (kind == STORE_BLOCK ||
            (!inventory_find(inventory, id) &&
             !g_hash_table_contains(inventory->intents, id) &&
             !is_named(inventory, id)));
}

static gint compare_ids(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(struct id128));
}

static void check_places(struct check *check, const struct inventory *second,
                         enum store_kind kind)
{
    GHashTable *places = kind == STORE_BLOCK ? second->layers
                                             : second->places;
    g_autoptr(GList) ids = g_list_sort(g_hash_table_get_keys(places),
                                       compare_ids);

    for (GList *link = ids; link && check->stopped == 0; link = link->next) {
        if (is_unclaimed(second, link->data, kind) &&
            is_unclaimed(check->inventory, link->data, kind) &&
            (kind == STORE_BLOCK || !check_is_held(check, link->data))) {
            check_place(check, kind, link->data,
                        second->unreadable || check->inventory->unreadable ||
                            check->hindered);
        }
    }
}

static bool places_are_fine(const struct inventory *inventory,
                            enum store_kind kind)
{
    GHashTableIter iter;
    void *id;

    g_hash_table_iter_init(&iter, kind == STORE_BLOCK ? inventory->layers
                                                      : inventory->places);
    while (g_hash_table_iter_next(&iter, &id, NULL)) {
        if (is_unclaimed(inventory, id, kind)) {
            return false;
        }
    }
    return true;
}

int check_unclaimed(struct check *check, GError **error)
{
    struct inventory *second;
    int rc;

    if (places_are_fine(check->inventory, STORE_BLOCK) &&
        places_are_fine(check->inventory, STORE_PAGE)) {
        return 0;
    }
    g_usleep(CHECK_PAUSE_US);
    rc = inventory_take(check, &second, error);
    if (rc == 0) {
        check_places(check, second, STORE_BLOCK);
        check_places(check, second, STORE_PAGE);
        inventory_free(second);
    }
    return rc;
}
