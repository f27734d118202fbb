/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking at a volume's objects: those that the map refers to must be there and
 * no longer than an object is; others are left over.  What is in them can't be
 * judged: objects have no checksums.
 *
 * Beside a writer an object that is missing may have been discarded since the
 * map was read.  It is removed only after that is durable: if the map named it
 * before and after, and had no record more, it is missing.
 */
#include "check/check.h"

#include "base/error.h"
#include "store/object.h"

#include <errno.h>

#define CONFIRM_ROUNDS 16

struct objects {
    struct look *look;
    struct look_layer *layer;
    enum store_kind kind;
    struct bits *seen;
    GArray *missing;            /* uint64_t, while they must be confirmed */
};

static char *run_text(const struct objects *objects, uint64_t first,
                      uint64_t count)
{
    const char *what = objects->kind == STORE_PAGE ? "page" : "block object";
    char id[ID128_TEXT_BYTES];

    id128_text(&objects->layer->layer.id, id);
    return count == 1
               ? g_strdup_printf("%s %" G_GUINT64_FORMAT " of layer %s", what,
                                 first, id)
               : g_strdup_printf("%ss %" G_GUINT64_FORMAT "-%" G_GUINT64_FORMAT
                                 " of layer %s", what, first,
                                 first + count - 1, id);
}

static struct candidate *add_run(const struct objects *objects,
                                 const char *code, archip_severity severity,
                                 enum fix fix, uint64_t first, uint64_t count)
{
    struct candidate *candidate =
        look_add(objects->look, code, severity, fix);

    candidate->place = run_text(objects, first, count);
    candidate->count = count;
    candidate->object = (struct store_object){
        objects->kind, objects->layer->layer.id, first };
    return candidate;
}

/* --- Missing ones --------------------------------------------------------- */

static int add_missing(uint64_t first, uint64_t count, void *opaque)
{
    struct candidate *candidate = add_run(opaque, "object-missing",
                                          ARCHIP_DAMAGE, FIX_NONE, first,
                                          count);

    candidate->text = g_strdup("the map refers to it and it isn't there: this "
                               "part of the volume can't be read");
    candidate->action = g_strdup("its data is lost, unless it was set aside or "
                                 "is found elsewhere");
    return 0;
}

static int collect_missing(uint64_t first, uint64_t count, void *opaque)
{
    struct objects *objects = opaque;

    for (uint64_t number = first; number < first + count; number++) {
        g_array_append_val(objects->missing, number);
    }
    return 0;
}

static bool map_names(struct map *map, uint64_t index,
                      const struct look_layer *layer)
{
    struct map_page *wanted;
    struct map_entry entry;
    struct map_bits bits;
    int rc;

    g_mutex_lock(&map->lock);
    while ((rc = map_lookup(map, index, &entry, &bits, &wanted, NULL)) ==
           -EAGAIN) {
        if (map_page_load(map, wanted, NULL) < 0) {
            break;
        }
    }
    g_mutex_unlock(&map->lock);
    return rc < 0 || entry.layer == layer->layer.number ||
           entry.base == layer->layer.number;
}

static bool is_there(const struct objects *objects, uint64_t number)
{
    struct store *store = objects->look->check->store;
    struct store_object object = { STORE_BLOCK, objects->layer->layer.id,
                                   number };
    uint64_t bytes;

    return store->driver->allocated(store, &object, &bytes, NULL) != -ENOENT;
}

/* Keep those that the map names and that aren't there. */
static void missing_filter(struct objects *objects, struct map *map)
{
    GArray *missing = objects->missing;

    for (guint i = missing->len; i-- > 0;) {
        uint64_t number = g_array_index(missing, uint64_t, i);

        if (!map_names(map, number, objects->layer) ||
            is_there(objects, number)) {
            g_array_remove_index(missing, i);
        }
    }
}

static int missing_confirm(struct objects *objects, GError **error)
{
    struct look *look = objects->look;

    for (int round = 0; objects->missing->len && round < CONFIRM_ROUNDS;
         round++) {
        struct map *before, *after;
        bool same;
        int rc = look_open_map(look, &before, error);

        if (rc < 0) {
            return rc;
        }
        missing_filter(objects, before);
        rc = look_open_map(look, &after, error);
        same = rc == 0 &&
               after->stored.generation == before->stored.generation &&
               after->journal.sequence == before->journal.sequence;
        map_free(before);
        if (rc < 0) {
            return rc;
        }
        map_free(after);
        if (same) {
            break;
        }
        g_usleep(1000u << MIN(round, 6));
    }
    return 0;
}

static int look_missing(struct objects *objects, GError **error)
{
    struct look *look = objects->look;
    int rc;

    if (look->locked || !look->held) {
        return bits_runs(objects->layer->referenced, objects->seen,
                         add_missing, objects);
    }
    objects->missing = g_array_new(false, false, sizeof(uint64_t));
    bits_runs(objects->layer->referenced, objects->seen, collect_missing,
              objects);
    rc = missing_confirm(objects, error);
    for (guint i = 0; rc == 0 && i < objects->missing->len; i++) {
        add_missing(g_array_index(objects->missing, uint64_t, i), 1, objects);
    }
    g_array_unref(objects->missing);
    return rc;
}

/* --- Those that are there ------------------------------------------------- */

/* Where objects are made with all their size, one that has less was cut. */
static void note_short(struct objects *objects, uint64_t number,
                       uint64_t size_bytes)
{
    struct look *look = objects->look;
    struct candidate *candidate;

    if (!look->check->store->full_size || look->held) {
        return;
    }
    candidate = add_run(objects, "object-short", ARCHIP_DAMAGE, FIX_NONE,
                        number, 1);
    candidate->text = g_strdup_printf("it has %" G_GUINT64_FORMAT " bytes "
                                      "rather than %u: what was behind reads "
                                      "as zeroes", size_bytes,
                                      look->header.object_bytes);
    candidate->action = g_strdup("what was cut off is lost; if it is found "
                                 "elsewhere, put it back by hand");
}

static int note_object(uint64_t number, uint64_t size_bytes, void *opaque)
{
    struct objects *objects = opaque;
    uint32_t object_bytes = objects->look->header.object_bytes;
    struct candidate *candidate;

    bits_set(objects->seen, number);
    objects->look->check->summary.object_count += !objects->look->locked;
    if (!bits_test(objects->layer->referenced, number)) {
        return 0;
    }
    if (size_bytes < object_bytes) {
        note_short(objects, number, size_bytes);
    }
    if (size_bytes <= object_bytes) {
        return 0;
    }
    candidate = add_run(objects, "object-size", ARCHIP_DAMAGE, FIX_TRIM,
                        number, 1);
    candidate->size_bytes = object_bytes;
    candidate->text = g_strdup_printf("it has %" G_GUINT64_FORMAT
                                      " bytes, and objects here have %u: the "
                                      "rest belongs to nobody",
                                      size_bytes, object_bytes);
    candidate->action = g_strdup("cut it to its size");
    return 0;
}

static int add_orphans(uint64_t first, uint64_t count, void *opaque)
{
    struct objects *objects = opaque;
    struct candidate *candidate =
        add_run(objects,
                objects->kind == STORE_PAGE ? "page-orphan" : "object-orphan",
                ARCHIP_LEAK, FIX_REMOVE, first, count);

    candidate->text = g_strdup("the volume's map doesn't refer to it: a crash "
                               "or an older state of the volume left it");
    candidate->action = g_strdup("remove it");
    return 0;
}

/* What nobody refers to in a frozen layer isn't wrong: whoever replaces what a
 * snapshot froze leaves it there, for a collector who knows all maps. */
static bool may_judge(const struct look *look, const struct look_layer *layer)
{
    return layer->layer.current && !look->held && !look->pages_bad &&
           !look->map_bad && !layer->shared;
}

static int look_layer_objects(struct look *look, struct look_layer *layer,
                              GError **error)
{
    struct store *store = look->check->store;
    struct objects objects = { look, layer, STORE_BLOCK, bits_new(), NULL };
    int rc = store->driver->list_sizes(store, STORE_BLOCK, &layer->layer.id,
                                       note_object, &objects, error);

    if (rc == 0 && !layer->layer.hashed) {
        rc = look_missing(&objects, error);
    }
    if (rc == 0 && may_judge(look, layer)) {
        rc = bits_runs(objects.seen, layer->referenced, add_orphans,
                       &objects);
    }
    bits_free(objects.seen);
    return rc;
}

/* --- Pages that nobody refers to ------------------------------------------ */

static int note_page(uint64_t number, uint64_t size_bytes, void *opaque)
{
    struct objects *objects = opaque;
    struct store_object object = { STORE_PAGE, objects->layer->layer.id,
                                   number };

    if (!g_hash_table_contains(objects->look->pages, &object)) {
        bits_set(objects->seen, number);
    }
    return 0;
}

static int look_layer_pages(struct look *look, struct look_layer *layer,
                            GError **error)
{
    struct store *store = look->check->store;
    struct objects objects = { look, layer, STORE_PAGE, bits_new(), NULL };
    int rc = 0;

    if (may_judge(look, layer)) {
        rc = store->driver->list_sizes(store, STORE_PAGE, &layer->layer.id,
                                       note_page, &objects, error);
    }
    if (rc == 0) {
        rc = bits_runs(objects.seen, NULL, add_orphans, &objects);
    }
    bits_free(objects.seen);
    return rc;
}

int look_objects(struct look *look, GError **error)
{
    int rc = 0;

    for (guint i = 0; rc == 0 && i < look->layers->len; i++) {
        struct look_layer *layer = look->layers->pdata[i];

        rc = look_layer_objects(look, layer, error);
        if (rc == 0) {
            rc = look_layer_pages(look, layer, error);
        }
    }
    return rc;
}
