/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What concerns no single map: names, locks, operations left half done, strays.
 *
 * While it is checked volumes are made and removed.  Who makes one writes an
 * intent before the header and the name after it; who removes one drops the
 * name before anything else.  So what two inventories, one wholly after the
 * other, agree on is no operation under way: one that had begun before the
 * first has its intent in the second, or is done.
 */
#include "check/check.h"

#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool check_is_held(struct check *check, const struct id128 *id)
{
    struct store_owner holder;
    bool held = false;

    return check->store->driver->holder(check->store, id, &holder, &held,
                                        NULL) == 0 && held;
}

static int set_aside_record(struct check *check, enum store_record_kind kind,
                            const struct id128 *id, const char *text,
                            GError **error)
{
    struct store_thing thing = { .type = STORE_THING_RECORD,
                                 .record = { .kind = kind, .text = text } };

    if (id) {
        thing.record.id = *id;
    }
    return check->store->driver->set_aside(check->store, &thing, error);
}

/* --- Locks ------------------------------------------------------------------ */

static void check_lock_record(struct check *check, const struct id128 *id)
{
    const struct volume *volume = inventory_find(check->inventory, id);
    const char *name = volume ? volume_name(volume) : NULL;
    const char *text = "neither record of who has the volume can be read, so "
                       "that nobody can open it for writing";
    const char *action = "write a new record";
    struct store *store = check->store;
    struct store_owner holder;
    g_autofree char *place = NULL;
    g_autoptr(GError) error = NULL;
    char id_text[ID128_TEXT_BYTES];
    bool held;
    int rc;

    if (store->driver->holder(store, id, &holder, &held, NULL) != -EUCLEAN ||
        (check->options->volumes && !(name && check_wants(check, name)))) {
        return;
    }
    place = g_strdup_printf("lock of %s", id128_text(id, id_text));
    if (!check->repair) {
        check_tell(check, name, "lock-damaged", ARCHIP_DAMAGE, ARCHIP_FOUND,
                   1, place, text, action);
        return;
    }
    rc = store->driver->reset_lock(store, id, &error);
    check_tell_tried(check, name, "lock-damaged", ARCHIP_DAMAGE, place, text,
                     action, rc, error);
}

/* Before anything else: no repair goes without the lock. */
int check_locks(struct check *check, GError **error)
{
    GHashTableIter iter;
    void *id;

    g_hash_table_iter_init(&iter, check->inventory->places);
    while (check->stopped == 0 && g_hash_table_iter_next(&iter, &id, NULL)) {
        check_lock_record(check, id);
    }
    return 0;
}

/* --- Operations left half done -------------------------------------------- */

static int intent_value(struct check *check, const struct id128 *id,
                        GBytes **value)
{
    struct store_record record = { STORE_INTENT, *id, NULL };

    return check->store->driver->get(check->store, &record, value, NULL);
}

static int intent_mend(struct check *check, const struct id128 *id,
                       bool readable, GError **error)
{
    g_autoptr(GBytes) value = NULL;
    int rc;

    if (!readable) {
        return set_aside_record(check, STORE_INTENT, id, NULL, error);
    }
    rc = volume_finish_intent(check->api, id, error);
    if (rc == 0 && intent_value(check, id, &value) != -ENOENT) {
        return error_set(error, EBUSY, "it can't be told yet how it ends: the "
                                       "name or the lock isn't to be had");
    }
    return rc;
}

/* Who removes a volume holds its lock to the end, but the lock's file goes
 * before the intent does: where there is none it may still be at it. */
static bool intent_is_dead(struct check *check, const struct id128 *id)
{
    for (int tries = 100; tries; tries--) {
        g_autoptr(GBytes) value = NULL;
        struct store_owner holder = { 0 };
        bool held = false;

        check->store->driver->holder(check->store, id, &holder, &held, NULL);
        if (held || intent_value(check, id, &value) == -ENOENT) {
            return false;
        }
        if (holder.token && !check_is_held(check, id)) {
            return true;
        }
        g_usleep(CHECK_PAUSE_US);
    }
    return true;
}

static void check_intent(struct check *check, const struct id128 *id)
{
    g_autoptr(GBytes) value = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *name = NULL, *text = NULL, *place = NULL;
    struct id128 intended, layer;
    char id_text[ID128_TEXT_BYTES];
    bool readable, stays = false;
    int rc = intent_is_dead(check, id) ? intent_value(check, id, &value)
                                       : -ENOENT;

    if (rc == -ENOENT) {
        return;                 /* under way, or done */
    }
    if (rc == 0) {
        rc = intent_decode(value, &intended, &layer, &name, &error);
    }
    place = g_strdup_printf("intent %s", id128_text(id, id_text));
    if (rc == -EOPNOTSUPP) {
        check_tell(check, NULL, "intent-newer", ARCHIP_NOTE, ARCHIP_KEPT, 1,
                   place, error->message, "check it with a newer version");
        return;
    }
    g_clear_error(&error);
    readable = rc == 0;
    if (readable) {
        const struct id128 *named =
            g_hash_table_lookup(check->inventory->names, name);

        stays = named && id128_equal(named, id);
    }
    text = readable ? g_strdup_printf("volume '%s' was being made or removed "
                                      "when who did it died", name)
                    : g_strdup("a record of an operation is damaged");
    const char *action = !readable ? "set it aside"
                         : stays   ? "drop the record: the volume is there"
                                   : "remove what there is of it";
    if (!check->repair) {
        check_tell(check, name, readable ? "operation-unfinished"
                                         : "intent-damaged",
                   readable ? ARCHIP_LEAK : ARCHIP_DAMAGE, ARCHIP_FOUND, 1,
                   place, text, action);
        return;
    }
    rc = intent_mend(check, id, readable, &error);
    check_tell_tried(check, name, readable ? "operation-unfinished"
                                           : "intent-damaged",
                     readable ? ARCHIP_LEAK : ARCHIP_DAMAGE, place, text,
                     action, rc, error);
}

int check_intents(struct check *check, GError **error)
{
    GHashTableIter iter;
    void *id;

    g_hash_table_iter_init(&iter, check->inventory->intents);
    while (check->stopped == 0 && g_hash_table_iter_next(&iter, &id, NULL)) {
        check_intent(check, id);
    }
    return 0;
}

/* --- Names that must stay ------------------------------------------------- */

static int id_collect(const struct store_record *record, void *opaque)
{
    g_array_append_vals(opaque, &record->id, 1);
    return 0;
}

static bool intent_may_name(struct check *check, const struct id128 *id,
                            const char *name)
{
    g_autoptr(GBytes) value = NULL;
    g_autofree char *intended_name = NULL;
    struct id128 intended, layer;
    int rc = intent_value(check, id, &value);

    if (rc == 0) {
        rc = intent_decode(value, &intended, &layer, &intended_name, NULL);
    }
    return rc < 0 ? rc != -ENOENT : g_strcmp0(intended_name, name) == 0;
}

/* Who finds an intent and no name of that text takes the volume for one that
 * was half made or removed, and removes it; a record that is there, be it
 * damaged, keeps him from that.  NULL: no intent is about this name. */
static char *why_name_stays(struct check *check, const char *name)
{
    g_autoptr(GArray) ids = g_array_new(false, false, sizeof(struct id128));
    int rc = check->store->driver->list(check->store, STORE_INTENT, id_collect,
                                        ids, NULL);

    if (rc < 0) {
        return g_strdup("it stays, because it can't be told whether an "
                        "operation on it is unfinished");
    }
    for (guint i = 0; i < ids->len; i++) {
        const struct id128 *id = &g_array_index(ids, struct id128, i);
        char text[ID128_TEXT_BYTES];

        if (intent_may_name(check, id, name)) {
            return g_strdup_printf("it stays, because the unfinished operation "
                                   "of intent %s may be about it, and without "
                                   "it the volume would be removed: restore "
                                   "the name, or move the intent out of the "
                                   "store first", id128_text(id, text));
        }
    }
    return NULL;
}

/* Looked at right before it would be set aside.  True: it stays; told. */
static bool name_stays(struct check *check, const char *volume,
                       const char *name, const char *code,
                       archip_severity severity, const char *place,
                       const char *text)
{
    g_autofree char *action = why_name_stays(check, name);

    if (action) {
        check_tell(check, volume, code, severity, ARCHIP_KEPT, 1, place, text,
                   action);
    }
    return action != NULL;
}

/* --- Strays --------------------------------------------------------------- */

static int stray_collect(const char *stray, bool litter, void *opaque)
{
    g_hash_table_replace(opaque, g_strdup(stray), GINT_TO_POINTER(litter));
    return 0;
}

static void check_stray(struct check *check, const char *stray, bool litter)
{
    struct store_thing thing = { .type = STORE_THING_STRAY, .stray = stray };
    const char *code = litter ? "litter" : "stray";
    const char *text = litter ? "a write that a crash ended left it"
                              : "nothing of a store has this name here";
    const char *action = "set it aside";
    g_autoptr(GError) error = NULL;
    int rc;

    if (!check->repair) {
        check_tell(check, NULL, code, ARCHIP_LEAK, ARCHIP_FOUND, 1, stray,
                   text, action);
        return;
    }
    if (!litter && g_str_has_prefix(stray, "names/") &&
        name_stays(check, NULL, stray + strlen("names/"), code, ARCHIP_LEAK,
                   stray, text)) {
        return;
    }
    rc = check->store->driver->set_aside(check->store, &thing, &error);
    check->strays_left |= rc < 0;
    check_tell_tried(check, NULL, code, ARCHIP_LEAK, stray, text, action, rc,
                     error);
}

static int strays_list(struct check *check, GHashTable **strays,
                       GError **error)
{
    *strays = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return check->store->driver->list_strays(check->store, stray_collect,
                                             *strays, error);
}

int check_strays(struct check *check, GError **error)
{
    g_autoptr(GHashTable) first = NULL, second = NULL;
    g_autoptr(GList) sorted = NULL;
    int rc = strays_list(check, &first, error);

    if (rc < 0 || g_hash_table_size(first) == 0) {
        return rc;
    }
    g_usleep(CHECK_PAUSE_US);
    rc = strays_list(check, &second, error);
    sorted = g_list_sort(g_hash_table_get_keys(first), (GCompareFunc)strcmp);
    for (GList *link = sorted; rc == 0 && link && check->stopped == 0;
         link = link->next) {
        if (g_hash_table_contains(second, link->data)) {
            check_stray(check, link->data,
                        GPOINTER_TO_INT(g_hash_table_lookup(second,
                                                            link->data)));
        }
    }
    return rc;
}

/* --- Names ---------------------------------------------------------------- */

static int name_write(struct check *check, const char *name,
                      const struct id128 *id, bool exclusive, GError **error)
{
    struct store_record record = { .kind = STORE_NAME, .text = name };
    g_autoptr(GBytes) value = name_encode(id);
    struct store_lock *lock;
    int rc = check_lock(check, id, &lock, error);

    if (rc < 0) {
        return rc;
    }
    rc = check->store->driver->put(check->store, &record,
                                   g_bytes_get_data(value, NULL),
                                   g_bytes_get_size(value), exclusive, error);
    check->store->driver->unlock(lock);
    return rc;
}

static bool intent_names(const struct inventory *inventory,
                         const struct id128 *id, const char *name)
{
    GBytes *value = g_hash_table_lookup(inventory->intents, id);
    g_autofree char *intended_name = NULL;
    struct id128 intended, layer;

    return value &&
           intent_decode(value, &intended, &layer, &intended_name,
                         NULL) == 0 &&
           id128_equal(&intended, id) && strcmp(intended_name, name) == 0;
}

/* The volume that a damaged name still shows: an id is not met by chance.  The
 * name is written last and dropped first: with its record there, the volume of
 * an unfinished operation is a whole one. */
static struct volume *name_shows(const struct inventory *inventory,
                                 const char *name, GBytes *value)
{
    const struct format_name *bytes;
    struct volume *volume;
    struct id128 id;

    if (!value || g_bytes_get_size(value) <
                      offsetof(struct format_name, id) + sizeof(id)) {
        return NULL;
    }
    bytes = g_bytes_get_data(value, NULL);
    memcpy(id.bytes, bytes->id, sizeof(id.bytes));
    volume = inventory_find(inventory, &id);
    return volume && volume->names->len == 0 &&
                   (!volume->pending || intent_names(inventory, &id, name))
               ? volume
               : NULL;
}

static void check_bad_name(struct check *check,
                           const struct inventory *inventory,
                           const char *name, GBytes *value)
{
    struct volume *volume = name_shows(inventory, name, value);
    const char *text = "the name's record is damaged, so that the volume "
                       "can't be found by it";
    const char *action = volume ? "write it anew for the volume whose id it "
                                  "still shows, and which has no other name"
                                : "set it aside";
    g_autoptr(GError) error = NULL;
    struct id128 now;
    int rc;

    if (!check->repair) {
        check_tell(check, name, "name-damaged", ARCHIP_DAMAGE, ARCHIP_FOUND,
                   1, "name", text, action);
        return;
    }
    if (!volume && name_stays(check, name, name, "name-damaged", ARCHIP_DAMAGE,
                              "name", text)) {
        return;
    }
    rc = volume_find(check->api, name, &now, &error);
    if (rc == 0 || rc == -ENOENT) {
        return;                 /* others mended or removed it meanwhile */
    }
    if (rc == -EUCLEAN) {
        g_clear_error(&error);
        rc = volume ? name_write(check, name, &volume->id, false, &error)
                    : set_aside_record(check, STORE_NAME, NULL, name, &error);
    }
    check_tell_tried(check, name, "name-damaged", ARCHIP_DAMAGE, "name", text,
                     action, rc, error);
}

/* A name that is sound goes only if it still leads there.  1: it doesn't. */
static int name_set_aside(struct check *check, const char *name,
                          const struct id128 *id, GError **error)
{
    struct id128 now;
    int rc = volume_find(check->api, name, &now, error);

    if (rc == -ENOENT || (rc == 0 && !id128_equal(&now, id))) {
        g_clear_error(error);
        return 1;
    }
    return rc < 0 ? rc
                  : set_aside_record(check, STORE_NAME, NULL, name, error);
}

static void check_dangling(struct check *check, const char *name,
                           const struct id128 *id)
{
    const char *text = "the name leads to a volume that has no header";
    const char *action = "set the name aside; \"archipelago metadata import\" "
                         "can bring name and header back";
    g_autoptr(GError) error = NULL;
    struct store_record header = { STORE_HEADER, *id, NULL };
    g_autoptr(GBytes) value = NULL;
    g_autofree char *place = NULL;
    char id_text[ID128_TEXT_BYTES];
    int rc;

    place = g_strdup_printf("header of %s", id128_text(id, id_text));
    if (!check->repair) {
        check_tell(check, name, "header-missing", ARCHIP_DAMAGE, ARCHIP_FOUND,
                   1, place, text, action);
        return;
    }
    if (name_stays(check, name, name, "header-missing", ARCHIP_DAMAGE, place,
                   text)) {
        return;
    }
    rc = check->store->driver->get(check->store, &header, &value, &error);
    if (rc == 0) {
        return;                 /* an import brought it back meanwhile */
    }
    if (rc == -ENOENT) {
        g_clear_error(&error);
        rc = name_set_aside(check, name, id, &error);
    }
    if (rc <= 0) {
        check_tell_tried(check, name, "header-missing", ARCHIP_DAMAGE, place,
                         text, action, rc, error);
    }
}

static void check_duplicate(struct check *check, const struct volume *volume,
                            const char *name)
{
    g_autofree char *text =
        g_strdup_printf("it leads to the same volume as '%s'",
                        volume_name(volume));
    const char *action = "set the name aside";
    g_autoptr(GError) error = NULL;
    int rc;

    if (!check->repair) {
        check_tell(check, name, "name-duplicate", ARCHIP_DAMAGE, ARCHIP_FOUND,
                   1, "name", text, action);
        return;
    }
    if (name_stays(check, name, name, "name-duplicate", ARCHIP_DAMAGE, "name",
                   text)) {
        return;
    }
    rc = name_set_aside(check, name, &volume->id, &error);
    if (rc <= 0) {
        check_tell_tried(check, name, "name-duplicate", ARCHIP_DAMAGE, "name",
                         text, action, rc, error);
    }
}

static void check_nameless(struct check *check, const struct volume *volume)
{
    g_autofree char *action = NULL, *name = NULL, *place = NULL;
    const char *text = "a volume that no name leads to";
    g_autoptr(GError) error = NULL;
    char id[ID128_TEXT_BYTES];
    int rc;

    id128_text(&volume->id, id);
    name = g_strdup_printf("lost-%.12s", id);
    action = g_strdup_printf("give it the name %s", name);
    place = g_strdup_printf("header of %s", id);
    if (!check->repair) {
        check_tell(check, NULL, "name-missing", ARCHIP_DAMAGE, ARCHIP_FOUND,
                   1, place, text, action);
        return;
    }
    rc = name_write(check, name, &volume->id, true, &error);
    check_tell_tried(check, name, "name-missing", ARCHIP_DAMAGE, place, text,
                     action, rc, error);
}

static bool is_nameless(const struct volume *volume)
{
    return volume && volume->names->len == 0 && !volume->pending &&
           volume->result == 0 &&
           !(volume->header.flags &
             (FORMAT_HEADER_SNAPSHOT | FORMAT_HEADER_TRASHED));
}

/* A damaged name that is to be written anew isn't missing. */
static bool is_shown(const struct inventory *inventory,
                     const struct volume *volume)
{
    GHashTableIter iter;
    void *name, *value;

    g_hash_table_iter_init(&iter, inventory->bad_names);
    while (g_hash_table_iter_next(&iter, &name, &value)) {
        if (name_shows(inventory, name, value) == volume) {
            return true;
        }
    }
    return false;
}

static bool names_are_fine(const struct inventory *inventory)
{
    GHashTableIter iter;
    void *id;

    for (guint i = 0; i < inventory->order->len; i++) {
        const struct volume *volume = inventory->order->pdata[i];

        if (is_nameless(volume) || volume->names->len > 1) {
            return false;
        }
    }
    g_hash_table_iter_init(&iter, inventory->names);
    while (g_hash_table_iter_next(&iter, NULL, &id)) {
        if (!inventory_find(inventory, id)) {
            return false;
        }
    }
    return g_hash_table_size(inventory->bad_names) == 0;
}

static void check_volume_names(struct check *check,
                               const struct inventory *first,
                               const struct inventory *second,
                               const struct volume *volume)
{
    if (is_nameless(volume) && !check->options->volumes &&
        is_nameless(inventory_find(first, &volume->id)) &&
        !is_shown(second, volume) && !check_is_held(check, &volume->id)) {
        check_nameless(check, volume);
    }
    for (guint i = 1; i < volume->names->len; i++) {
        const char *name = volume->names->pdata[i];

        const struct id128 *before = g_hash_table_lookup(first->names, name);

        if (before && id128_equal(before, &volume->id) &&
            check_wants(check, name)) {
            check_duplicate(check, volume, name);
        }
    }
}

static void check_all_names(struct check *check,
                            const struct inventory *first,
                            const struct inventory *second)
{
    g_autoptr(GList) bad =
        g_list_sort(g_hash_table_get_keys(second->bad_names),
                    (GCompareFunc)strcmp);
    g_autoptr(GList) names = g_list_sort(g_hash_table_get_keys(second->names),
                                         (GCompareFunc)strcmp);

    for (GList *link = bad; link && check->stopped == 0; link = link->next) {
        if (g_hash_table_contains(first->bad_names, link->data) &&
            check_wants(check, link->data)) {
            check_bad_name(check, second, link->data,
                           g_hash_table_lookup(second->bad_names,
                                               link->data));
        }
    }
    for (GList *link = names; link && check->stopped == 0;
         link = link->next) {
        const struct id128 *id = g_hash_table_lookup(second->names,
                                                     link->data);
        const struct id128 *before = g_hash_table_lookup(first->names,
                                                         link->data);

        if (!inventory_find(second, id) && before &&
            id128_equal(before, id) && check_wants(check, link->data)) {
            check_dangling(check, link->data, id);
        }
    }
    for (guint i = 0; i < second->order->len && check->stopped == 0; i++) {
        check_volume_names(check, first, second, second->order->pdata[i]);
    }
}

int check_names(struct check *check, GError **error)
{
    struct inventory *second;
    int rc;

    if (names_are_fine(check->inventory)) {
        return 0;
    }
    g_usleep(CHECK_PAUSE_US);
    rc = inventory_take(check, &second, error);
    if (rc == 0) {
        check_all_names(check, check->inventory, second);
        inventory_free(second);
    }
    return rc;
}
