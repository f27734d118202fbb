/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mending one volume.  Each step is atomic or may be done again, and the order
 * makes each stand on the ones before:
 *
 *   1. the header's counts, for a fold under wrong ones overwrites pages;
 *   2. recovery, as any open for writing does it;
 *   3. what is left over, for only now is known what isn't.
 *
 * The lock is held only during 1 and 3, each of which looks anew.  What a step
 * stands on and wasn't done ends the repair: nothing is removed from a volume
 * that isn't in order, by then, and on the disk.
 */
#include "check/check.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct repair {
    struct check *check;
    struct volume *volume;
    struct look *first;         /* without the lock */
    char *open_failure;         /* of step 2; or NULL */
    GHashTable *told;           /* keys of candidates */
};

int check_lock(struct check *check, const struct id128 *id,
               struct store_lock **lock, GError **error)
{
    struct store_owner me = { .pid = getpid(), .open = true }, holder = { 0 };

    g_strlcpy(me.owner, "check", sizeof(me.owner));
    g_strlcpy(me.host, g_get_host_name(), sizeof(me.host));
    return check->store->driver->lock(check->store, id, STORE_LOCK_WRITE, &me,
                                      lock, &holder, error);
}

/* --- Telling once --------------------------------------------------------- */

static char *key_of(const struct candidate *candidate)
{
    return g_strdup_printf("%s %s", candidate->code, candidate->place);
}

/* False: it was told before. */
static bool tell_first(struct repair *repair,
                       const struct candidate *candidate)
{
    return g_hash_table_add(repair->told, key_of(candidate));
}

static void tell_tried(struct repair *repair,
                       const struct candidate *candidate, int rc,
                       const GError *error)
{
    if (tell_first(repair, candidate)) {
        check_tell_tried(repair->check, volume_name(repair->volume),
                         candidate->code, candidate->severity,
                         candidate->place, candidate->text,
                         candidate->action, rc, error);
    }
}

/* Nothing more can be done: tell the rest. */
static void tell_rest(struct repair *repair, const struct look *look, int rc,
                      const GError *error)
{
    for (guint i = 0; i < look->candidates->len; i++) {
        const struct candidate *candidate =
            &g_array_index(look->candidates, struct candidate, i);

        if (candidate->fix != FIX_NONE) {
            tell_tried(repair, candidate, rc, error);
        } else if (tell_first(repair, candidate)) {
            candidate_tell(repair->check, volume_name(repair->volume),
                           candidate);
        }
    }
}

static bool wants(const struct look *look, enum fix fix)
{
    for (guint i = 0; i < look->candidates->len; i++) {
        if (g_array_index(look->candidates, struct candidate, i).fix == fix) {
            return true;
        }
    }
    return false;
}

static bool has_code(const struct look *look, const char *code)
{
    for (guint i = 0; i < look->candidates->len; i++) {
        if (!strcmp(g_array_index(look->candidates, struct candidate, i).code,
                    code)) {
            return true;
        }
    }
    return false;
}

/* --- What is done under the lock ------------------------------------------ */

static int fix_header(struct repair *repair, const struct look *look,
                      GError **error)
{
    struct store_record record = { STORE_HEADER, look->header.id, NULL };
    struct map_header header = header_copy(&look->header);
    struct store *store = repair->check->store;
    g_autoptr(GBytes) value = NULL;

    header.object_count += look->count_error;
    header.next_page = MAX(header.next_page, look->last_page + 1);
    header.generation++;
    value = header_encode(&header);
    header_clear(&header);
    return store->driver->put(store, &record, g_bytes_get_data(value, NULL),
                              g_bytes_get_size(value), false, error);
}

static int remove_object(struct repair *repair,
                         const struct store_object *object, bool aside,
                         GError **error)
{
    struct store *store = repair->check->store;
    struct store_thing thing = { .type = STORE_THING_OBJECT,
                                 .object = *object };
    struct store_request request = { .op = STORE_REMOVE, .object = *object };
    int rc;

    if (aside) {
        return store->driver->set_aside(store, &thing, error);
    }
    rc = store_run(repair->check->queue, &request);
    return rc < 0 ? error_set_errno(error, -rc, "can't remove it") : 0;
}

/* Where the volume lacks an object, one that is left over may be it. */
static int fix_remove(struct repair *repair, const struct look *look,
                      const struct candidate *candidate, GError **error)
{
    bool aside = has_code(look, "object-missing");
    struct store_object object = candidate->object;
    int rc = 0;

    for (uint64_t i = 0; rc == 0 && i < candidate->count; i++) {
        object.number = candidate->object.number + i;
        rc = remove_object(repair, &object, aside, error);
    }
    return rc;
}

static int fix_one(struct repair *repair, struct look *look,
                   struct candidate *candidate, GError **error)
{
    struct store *store = repair->check->store;

    switch (candidate->fix) {
    case FIX_HEADER:
        return fix_header(repair, look, error);
    case FIX_TRIM:
        return store->driver->trim(store, &candidate->object,
                                   candidate->size_bytes, error);
    case FIX_REMOVE:
        return fix_remove(repair, look, candidate, error);
    default:
        g_assert_not_reached();
    }
}

/* -errno: the header, on which all else stands, couldn't be written. */
static int fix_all(struct repair *repair, struct look *look, bool removals,
                   GError **error)
{
    for (guint i = 0; i < look->candidates->len; i++) {
        struct candidate *candidate =
            &g_array_index(look->candidates, struct candidate, i);
        bool wanted = removals ? candidate->fix == FIX_REMOVE
                               : candidate->fix == FIX_HEADER ||
                                     candidate->fix == FIX_TRIM;
        g_autoptr(GError) failure = NULL;

        if (wanted && repair->check->stopped == 0) {
            int rc = fix_one(repair, look, candidate, &failure);

            tell_tried(repair, candidate, rc, failure);
            if (rc < 0 && candidate->fix == FIX_HEADER) {
                return error_set(error, -rc, "the header comes first: %s",
                                 failure->message);
            }
        }
    }
    return 0;
}

/* Something couldn't be read, so that not all of it is known. */
static bool is_blind(const struct look *look)
{
    return look->pages_bad || look->map_bad || look->lost;
}

static int fail_blind(GError **error)
{
    return error_set(error, EIO, "not all of the volume's map could be read");
}

/* 0, or why not.  A header or journal that nobody synced may be taken back by a
 * crash (D7), and the map that is there then may name what they didn't (D9). */
static int may_remove(struct repair *repair, struct store_lock *lock,
                      const struct look *look, GError **error)
{
    struct store *store = repair->check->store;
    int rc;

    if (repair->open_failure) {
        return error_set(error, EIO, "it couldn't be opened for writing, which "
                         "comes first: %s", repair->open_failure);
    }
    if (wants(look, FIX_OPEN)) {
        return error_set(error, EBUSY, "the volume isn't in order, as if "
                         "somebody died with it open meanwhile: repair it "
                         "again");
    }
    if (is_blind(look)) {
        return fail_blind(error);   /* what is left over isn't known */
    }
    if (!wants(look, FIX_REMOVE)) {
        return 0;
    }
    rc = store_exclude_readers(lock, error);
    return rc < 0 ? rc
                  : store->driver->sync_all(store, STORE_PAGE,
                                            &repair->volume->id, error);
}

static int fix_with_lock(struct repair *repair, struct store_lock *lock,
                         bool removals, struct look **look, GError **error)
{
    const struct store_driver *driver = repair->check->store->driver;
    int rc = look_at(repair->check, repair->volume, true, look, error);

    if (rc < 0) {
        return rc;
    }
    rc = removals ? may_remove(repair, lock, *look, error) : 0;
    if (rc == 0) {
        rc = fix_all(repair, *look, removals, error);
    }
    driver->admit_readers(lock);
    return rc;
}

/* Lock, look, and do one half of the work.  `look` is set, unless it failed. */
static int fix_locked(struct repair *repair, bool removals,
                      struct look **look, GError **error)
{
    struct store_lock *lock;
    int rc = check_lock(repair->check, &repair->volume->id, &lock, error);

    if (rc < 0) {
        return rc;
    }
    rc = fix_with_lock(repair, lock, removals, look, error);
    repair->check->store->driver->unlock(lock);
    return rc;
}

/* --- The steps ------------------------------------------------------------ */

static int step_counts(struct repair *repair, GError **error)
{
    struct look *look = NULL;
    int rc = 0;

    if (wants(repair->first, FIX_OPEN) && is_blind(repair->first)) {
        return fail_blind(error);       /* they may be wrong */
    }
    if (wants(repair->first, FIX_HEADER) || wants(repair->first, FIX_TRIM)) {
        rc = fix_locked(repair, false, &look, error);
    }
    if (rc == 0 && wants(repair->first, FIX_HEADER) && is_blind(look)) {
        rc = fail_blind(error);     /* they weren't counted again */
    }
    look_free(look);
    return rc;
}

static void step_open(struct repair *repair)
{
    const char *name = volume_name(repair->volume);
    archip_volume *volume;
    int rc;

    if (!wants(repair->first, FIX_OPEN)) {
        return;
    }
    if (!name) {
        repair->open_failure = g_strdup("it has no name");
        return;
    }
    rc = archip_volume_open(repair->check->api, name, ARCHIP_OPEN_WRITE,
                            "check", &volume);
    if (rc == 0) {
        rc = archip_volume_close(volume);
    }
    if (rc < 0) {
        repair->open_failure = g_strdup(archip_error());
    }
}

/* What opening was to mend: it did, unless it failed. */
static void tell_opened(struct repair *repair)
{
    struct look *look = repair->first;
    g_autoptr(GError) error = NULL;

    if (repair->open_failure) {
        error_set(&error, EIO, "%s", repair->open_failure);
    }
    for (guint i = 0; i < look->candidates->len; i++) {
        struct candidate *candidate =
            &g_array_index(look->candidates, struct candidate, i);

        if (candidate->fix == FIX_OPEN) {
            tell_tried(repair, candidate, error ? -EIO : 0, error);
        }
    }
}

static int step_rest(struct repair *repair, GError **error)
{
    g_autoptr(GError) still = NULL;
    struct look *look = NULL;
    int rc = fix_locked(repair, true, &look, error);

    if (look) {
        error_set(&still, EIO, "it is still there");
        tell_opened(repair);
        tell_rest(repair, look, -EIO, rc < 0 ? *error : still);
    }
    if (rc == 0) {
        /* What went by itself when the volume recovered. */
        tell_rest(repair, repair->first, 0, NULL);
    }
    look_free(look);
    return rc;
}

static bool is_in_use(struct repair *repair, GError **error)
{
    const struct look *look = repair->first;

    if (look->held) {
        error_set(error, EBUSY, "the volume is open by %s on host %s, pid %"
                  G_GINT64_FORMAT, look->holder.owner, look->holder.host,
                  look->holder.pid);
    }
    return look->held;
}

static void repair_run(struct repair *repair)
{
    g_autoptr(GError) error = NULL;
    int rc = is_in_use(repair, &error) ? -EBUSY
                                       : step_counts(repair, &error);

    if (rc == 0) {
        step_open(repair);
        rc = step_rest(repair, &error);
    }
    if (rc < 0) {
        tell_rest(repair, repair->first, rc, error);
    }
}

static bool can_be_mended(const struct look *look)
{
    for (guint i = 0; i < look->candidates->len; i++) {
        if (g_array_index(look->candidates, struct candidate, i).fix !=
            FIX_NONE) {
            return true;
        }
    }
    return false;
}

int check_volume(struct check *check, struct volume *volume, GError **error)
{
    struct repair repair = { .check = check, .volume = volume };
    const char *name = volume_name(volume);
    char id[ID128_TEXT_BYTES];
    int rc = look_at(check, volume, false, &repair.first, error);

    if (rc == -ENOENT) {
        g_clear_error(error);
        return 0;
    }
    check->summary.volume_count++;
    if (rc < 0) {
        g_autofree char *what =
            g_strdup_printf("volume %s", name ? name
                                              : id128_text(&volume->id, id));

        check->summary.unchecked_count++;
        check->inventory->unreadable = true;
        check_hindered(check, what, g_steal_pointer(error));
        return 0;
    }
    check->summary.busy_count += repair.first->held;
    check->inventory->unreadable |= repair.first->pages_bad ||
                                    repair.first->map_bad;
    if (check->repair && can_be_mended(repair.first)) {
        repair.told = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                            NULL);
        repair_run(&repair);
        g_hash_table_unref(repair.told);
        g_free(repair.open_failure);
    } else {
        for (guint i = 0; i < repair.first->candidates->len; i++) {
            candidate_tell(check, name,
                           &g_array_index(repair.first->candidates,
                                          struct candidate, i));
        }
    }
    look_free(repair.first);
    return 0;
}
