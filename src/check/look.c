/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking at one volume: lock, header, pages, journals, entries, counts.
 *
 * Beside a writer, what is found counts only if it can't be something on its
 * way.  What makes that certain:
 *  - a page is removed only after a header that doesn't refer to it: if the
 *    header's generation is the same as before, a page that isn't there is
 *    missing.  Else the look goes on under the new header from where it was;
 *  - a record of a journal is written after the one before it is durable: the
 *    same bad record met twice isn't one that was being written;
 *  - what isn't referred to may be new or about to go: with a writer nothing is
 *    said of it.
 * Without a writer all counts if nobody took the lock from before the look
 * until after it, which the lock's token tells; else it is begun anew.
 */
#include "check/check.h"

#include "base/error.h"
#include "store/object.h"

#include <errno.h>
#include <string.h>

#define TRIES 200               /* of what a writer is in the way of */

/* --- Candidates ----------------------------------------------------------- */

struct candidate *look_add(struct look *look, const char *code,
                           archip_severity severity, enum fix fix)
{
    struct candidate candidate = {
        .code = code,
        .severity = severity,
        .fix = fix,
        .count = 1,
    };

    g_array_append_val(look->candidates, candidate);
    return &g_array_index(look->candidates, struct candidate,
                          look->candidates->len - 1);
}

static void add_text(struct look *look, const char *code,
                     archip_severity severity, enum fix fix,
                     const char *place, char *text, const char *action)
{
    struct candidate *candidate = look_add(look, code, severity, fix);

    candidate->place = g_strdup(place);
    candidate->text = text;
    candidate->action = g_strdup(action);
}

#define ACTION_OPEN "open it for writing, which brings it into order"
#define ACTION_RESTORE                                                        \
    "nothing here can bring it back: restore the volume's metadata with "     \
    "\"archipelago metadata import\", or the volume from a backup"

static void look_clear(struct look *look)
{
    g_array_unref(look->candidates);
    g_hash_table_unref(look->pages);
    g_ptr_array_unref(look->layers);
    header_clear(&look->header);
}

void look_free(struct look *look)
{
    if (look) {
        look_clear(look);
        g_free(look);
    }
}

static void look_layer_free(gpointer data)
{
    struct look_layer *layer = data;

    bits_free(layer->referenced);
    g_free(layer);
}

static struct look *look_new(struct check *check, struct volume *volume,
                             bool locked)
{
    struct look *look = g_new0(struct look, 1);

    look->check = check;
    look->volume = volume;
    look->locked = locked;
    look->candidates = g_array_new(false, false, sizeof(struct candidate));
    g_array_set_clear_func(look->candidates, candidate_clear);
    look->pages = g_hash_table_new_full(store_object_hash, store_object_equal,
                                        g_free, NULL);
    look->layers = g_ptr_array_new_with_free_func(look_layer_free);
    return look;
}

/* --- Lock and header ------------------------------------------------------ */

static int look_holder(struct look *look, GError **error)
{
    struct store *store = look->check->store;
    g_autoptr(GError) bad = NULL;
    int rc = store->driver->holder(store, &look->volume->id, &look->holder,
                                   &look->held, &bad);

    if (look->locked) {
        look->held = false;
        return 0;
    }
    if (rc == -EUCLEAN) {
        return 0;               /* that was told already */
    }
    if (rc < 0) {
        g_propagate_error(error, g_steal_pointer(&bad));
        return rc;
    }
    if (look->holder.open && !look->held) {
        add_text(look, "lock-stale", ARCHIP_NOTE, FIX_OPEN, "lock",
                 g_strdup_printf("%s on host %s, pid %" G_GINT64_FORMAT
                                 ", died with the volume open",
                                 look->holder.owner, look->holder.host,
                                 look->holder.pid),
                 ACTION_OPEN);
    }
    return 0;
}

static int look_header(struct look *look, GError **error)
{
    struct map_header header;
    int rc = map_read_header(look->check->store, &look->volume->id, false,
                             &header, error);

    if (rc == 0) {
        header_clear(&look->header);
        look->header = header;
        look->have_header = true;
    }
    return rc;
}

bool look_is_stale(struct look *look)
{
    struct map_header header;
    bool stale;

    if (look->locked || map_read_header(look->check->store, &look->volume->id,
                                        false, &header, NULL) < 0) {
        return false;
    }
    stale = header.generation != look->header.generation;
    header_clear(&header);
    return stale;
}

/* --- Layers --------------------------------------------------------------- */

struct look_layer *look_find_layer(const struct look *look, uint32_t number)
{
    for (guint i = 0; i < look->layers->len; i++) {
        struct look_layer *layer = look->layers->pdata[i];

        if (layer->layer.number == number) {
            return layer;
        }
    }
    return NULL;
}

static struct look_layer *add_layer(struct look *look, struct layer layer)
{
    const struct inventory *inventory = look->check->inventory;
    struct look_layer *added = g_new0(struct look_layer, 1);

    added->layer = layer;
    added->referenced = bits_new();
    added->shared = inventory_claims(inventory, &layer.id) > 1;
    g_ptr_array_add(look->layers, added);
    return added;
}

static int layers_leaf(void *opaque, uint64_t position, const void *body)
{
    const struct format_layer *layers = body;
    struct look *look = opaque;

    for (uint32_t i = 0; i < MAP_LAYERS_PER_PAGE; i++) {
        struct layer layer = {
            .number = (uint32_t)(position * MAP_LAYERS_PER_PAGE + i),
            .hashed = GUINT32_FROM_BE(layers[i].flags) & FORMAT_LAYER_HASHED,
        };

        memcpy(layer.id.bytes, layers[i].id, sizeof(layer.id.bytes));
        if (!id128_is_zero(&layer.id) &&
            layer.number != look->header.current_layer &&
            !look_find_layer(look, layer.number)) {
            add_layer(look, layer);
        }
    }
    return 0;
}

/* Is the layer that this volume writes to its alone? */
static void look_sharing(struct look *look)
{
    const GPtrArray *claims =
        g_hash_table_lookup(look->check->inventory->claims,
                            &look->header.current_layer_id);
    const char *other = NULL;

    for (guint i = 0; claims && claims->len > 1 && i < claims->len; i++) {
        const struct volume *volume = claims->pdata[i];

        if (volume != look->volume) {
            other = volume_name(volume);
        } else if (!other) {
            other = "its own past";
        }
    }
    if (claims && claims->len > 1) {
        add_text(look, "layer-shared", ARCHIP_DAMAGE, FIX_NONE,
                 "current layer",
                 g_strdup_printf("what this volume writes lies where %s%s "
                                 "has its data, too: each may overwrite the "
                                 "other's",
                                 other ? "" : "a volume without a name",
                                 other ? other : ""),
                 "which of them it belongs to can't be told: copy both with "
                 "\"archipelago export\" and remove both");
        look->lost = true;
    }
}

/* --- Pages ---------------------------------------------------------------- */

static void page_found(void *opaque, const struct map_ref *ref)
{
    struct store_object object = { STORE_PAGE, ref->layer, ref->number };
    struct look *look = opaque;

    if (g_hash_table_add(look->pages, store_object_copy(&object))) {
        look->check->summary.page_count += !look->locked;
    }
    if (id128_equal(&ref->layer, &look->header.current_layer_id)) {
        look->last_page = MAX(look->last_page, ref->number);
    }
}

static const char *tree_text(enum format_tree_kind kind)
{
    return kind == FORMAT_ENTRIES   ? "entries"
           : kind == FORMAT_PRESENT ? "presence"
                                    : "layers";
}

struct tree_look {
    struct look *look;
    enum format_tree_kind kind;
};

static int page_bad(void *opaque, unsigned level, uint64_t position,
                    const struct map_ref *ref, const GError *error)
{
    struct tree_look *tree = opaque;
    g_autofree char *place = NULL;

    if (look_is_stale(tree->look)) {
        return -ESTALE;
    }
    tree->look->pages_bad = true;
    place = g_strdup_printf("map page %" G_GUINT64_FORMAT " (%s, level %u, "
                            "position %" G_GUINT64_FORMAT ")",
                            ref->number, tree_text(tree->kind), level,
                            position);
    if (error->code != ENOENT && error->code != EUCLEAN) {
        check_hindered(tree->look->check, place, g_error_copy(error));
        return 0;
    }
    tree->look->lost = true;
    add_text(tree->look,
             error->code == ENOENT ? "page-missing" : "page-damaged",
             ARCHIP_DAMAGE, FIX_NONE, place,
             g_strdup_printf("%s: the part of the volume that it maps can't "
                             "be used", error->message),
             ACTION_RESTORE);
    return 0;
}

static void tree_page(void *opaque, const struct map_ref *ref)
{
    page_found(((struct tree_look *)opaque)->look, ref);
}

static int tree_leaf(void *opaque, uint64_t position, const void *body)
{
    struct tree_look *tree = opaque;

    return tree->kind == FORMAT_LAYERS
               ? layers_leaf(tree->look, position, body)
               : 0;
}

static int look_tree(struct look *look, enum format_tree_kind kind,
                     GError **error)
{
    struct tree_look state = { look, kind };
    struct walk walk = {
        .store = look->check->store,
        .queue = look->check->queue,
        .kind = kind,
        .opaque = &state,
        .page = tree_page,
        .leaf = tree_leaf,
        .bad = page_bad,
    };
    uint64_t from = 0;
    int tries = TRIES, rc;

    while ((rc = walk_tree(&walk, map_tree(&look->header, kind))) ==
               -ESTALE &&
           tries) {
        tries = walk.from > from ? TRIES : tries - 1;
        from = walk.from;
        look->check->store->driver->look(look->check->store,
                                         !look->check->repair);
        rc = look_header(look, error);
        if (rc < 0) {
            return rc;
        }
    }
    return rc == -ESTALE ? error_set(error, EAGAIN, "its map changes too "
                                     "quickly to be read") : rc;
}

/* --- The map with its journals -------------------------------------------- */

int look_open_map(struct look *look, struct map **map, GError **error)
{
    struct store *store = look->check->store;
    g_autofree char *before = NULL;
    int rc = -EAGAIN;

    for (int tries = TRIES; tries; tries--) {
        g_autoptr(GError) failure = NULL;

        if (tries < TRIES) {
            g_usleep(500);
            store->driver->look(store, !look->check->repair);
        }
        rc = look_header(look, error);
        if (rc < 0) {
            return rc;
        }
        rc = map_open(store, &look->volume->id, false, NULL, map, &failure);
        if (rc == 0 &&
            (*map)->stored.generation == look->header.generation &&
            !look_is_stale(look)) {
            return 0;
        }
        if (rc == 0) {
            map_free(*map);
            rc = -EAGAIN;
            continue;
        }
        if (look->locked || (g_strcmp0(failure->message, before) == 0 &&
                             !look_is_stale(look))) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return rc;
        }
        g_free(before);
        before = g_strdup(failure->message);
    }
    return error_set(error, EAGAIN, "its map changes too quickly to be read");
}

static int open_first_map(struct look *look, struct map **map, GError **error)
{
    g_autoptr(GError) failure = NULL;
    int rc = look_open_map(look, map, &failure);

    if (rc == 0 || (rc != -EUCLEAN && rc != -EOPNOTSUPP)) {
        if (rc < 0) {
            g_propagate_error(error, g_steal_pointer(&failure));
        }
        return rc;
    }
    look->map_bad = look->lost = true;
    if (!g_str_has_prefix(failure->message, "map page")) {
        add_text(look, "journal-damaged", ARCHIP_DAMAGE, FIX_NONE, "journal",
                 g_strdup_printf("%s: the volume can't be opened, lest "
                                 "flushed changes of its map be lost",
                                 failure->message),
                 ACTION_RESTORE);
    }
    return 1;
}

/* --- Entries -------------------------------------------------------------- */

static int layer_id(struct map *map, uint32_t number, struct id128 *id,
                    GError **error)
{
    struct map_page *wanted;
    int rc;

    g_mutex_lock(&map->lock);
    while ((rc = map_layer_id(map, number, id, &wanted, error)) == -EAGAIN) {
        rc = map_page_load(map, wanted, error);
        if (rc < 0) {
            break;
        }
    }
    g_mutex_unlock(&map->lock);
    return rc;
}

/* The layer of that number, which the table of layers may not have. */
static struct look_layer *entry_layer(struct look *look, struct map *map,
                                      uint32_t number)
{
    struct look_layer *layer = look_find_layer(look, number);
    struct layer unknown = { .number = number };
    g_autoptr(GError) error = NULL;
    g_autofree char *place = NULL;

    if (layer) {
        return layer;
    }
    if (layer_id(map, number, &unknown.id, &error) < 0) {
        look->map_bad = true;
        unknown.hashed = true;      /* nothing is said of its objects */
        if (!look->pages_bad) {
            place = g_strdup_printf("layer %u", number);
            add_text(look, "layer-dangling", ARCHIP_DAMAGE, FIX_NONE, place,
                     g_strdup("the map refers to a layer that its table "
                              "doesn't have: what lies in it can't be found"),
                     ACTION_RESTORE);
            look->lost = true;
        }
    }
    return add_layer(look, unknown);
}

static void entry_note(struct look *look, struct map *map, uint64_t index,
                       const struct map_entry *entry)
{
    look->object_count++;
    bits_set(entry_layer(look, map, entry->layer)->referenced, index);
    if (entry->base) {
        bits_set(entry_layer(look, map, entry->base)->referenced, index);
    }
}

static void entry_bad(struct look *look, uint64_t index, const GError *error)
{
    g_autofree char *place =
        g_strdup_printf("object %" G_GUINT64_FORMAT, index);

    if (error->code != EUCLEAN) {
        check_hindered(look->check, place, g_error_copy(error));
    } else if (g_str_has_prefix(error->message, "map entry")) {
        add_text(look, "entry-damaged", ARCHIP_DAMAGE, FIX_NONE, place,
                 g_strdup_printf("%s: this part of the volume can't be used",
                                 error->message),
                 ACTION_RESTORE);
        look->lost = true;
    }
    look->map_bad = true;
}

static int look_entries(struct look *look, struct map **map, GError **error)
{
    uint64_t end = ARCHIP_SIZE_MAX / look->header.object_bytes, last = 0;
    int tries = TRIES;

    for (uint64_t index = 0; index < end && tries;) {
        g_autoptr(GError) failure = NULL;
        struct map_entry entry;
        bool found;
        int rc = map_next_entry(*map, &index, end, &entry, &found, &failure);

        if (rc < 0 && look_is_stale(look)) {
            tries = index > last ? TRIES : tries - 1;
            last = index;
            map_free(g_steal_pointer(map));
            rc = look_open_map(look, map, error);
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        if (rc < 0) {
            entry_bad(look, index, failure);
            index = found ? index + 1
                          : (index / MAP_ENTRIES_PER_PAGE + 1) *
                                MAP_ENTRIES_PER_PAGE;
        } else if (index < end) {
            entry_note(look, *map, index++, &entry);
        }
    }
    return tries ? 0 : error_set(error, EAGAIN, "its map changes too quickly "
                                                "to be read");
}

/* --- Counts and journals -------------------------------------------------- */

static int journal_note(uint64_t epoch, uint64_t size_bytes, void *opaque)
{
    struct look *look = opaque;

    if (epoch < look->header.journal_epoch) {
        g_autofree char *place =
            g_strdup_printf("journal %" G_GUINT64_FORMAT, epoch);

        add_text(look, "journal-stale", ARCHIP_LEAK, FIX_OPEN, place,
                 g_strdup("it was folded into the map and not removed"),
                 ACTION_OPEN);
    }
    return 0;
}

static void look_counts(struct look *look, const struct map *map)
{
    const struct map_header *header = &map->header;
    g_autoptr(GString) text = g_string_new(NULL);

    look->count_error = look->object_count - header->object_count;
    if (look->count_error) {
        g_string_append_printf(text, "it says that the map names %"
                               G_GUINT64_FORMAT " objects, and it names %"
                               G_GUINT64_FORMAT, header->object_count,
                               look->object_count);
    }
    if (header->next_page <= look->last_page) {
        g_string_append_printf(text, "%sits next page has number %"
                               G_GUINT64_FORMAT ", and page %"
                               G_GUINT64_FORMAT " is in use",
                               text->len ? "; " : "", header->next_page,
                               look->last_page);
    }
    if (text->len) {
        add_text(look, "header-counts", ARCHIP_DAMAGE, FIX_HEADER, "header",
                 g_strdup(text->str), "write it with what was counted");
    }
}

static void look_state(struct look *look)
{
    if (!(look->header.flags & FORMAT_HEADER_CLEAN)) {
        add_text(look, "volume-unclean", ARCHIP_NOTE, FIX_OPEN, "header",
                 g_strdup("the volume wasn't closed"), ACTION_OPEN);
    }
    if (look->torn) {
        add_text(look, "journal-torn", ARCHIP_NOTE, FIX_OPEN, "journal",
                 g_strdup("its last record was never finished, and so never "
                          "acknowledged: a crash leaves that"),
                 ACTION_OPEN);
    }
    if (look->header.shrink_bytes) {
        add_text(look, "shrink-unfinished", ARCHIP_NOTE, FIX_OPEN, "header",
                 g_strdup("what a smaller size cut off wasn't all removed"),
                 ACTION_OPEN);
    }
}

/* --- All together --------------------------------------------------------- */

static bool has_vmstate(const struct map_header *header)
{
    return header->vmstate_bytes || header->vmstate_entries.height ||
           header->vmstate_present.height;
}

static int look_map(struct look *look, GError **error)
{
    struct store *store = look->check->store;
    struct map *map = NULL;
    int rc = open_first_map(look, &map, error);

    if (rc != 0) {
        return rc < 0 ? rc : 0;
    }
    look->torn = map->journal.torn;
    rc = look_entries(look, &map, error);
    if (rc == 0 && !look->held && !look->pages_bad && !look->map_bad) {
        look_counts(look, map);
    }
    map_free(map);
    if (rc == 0 && !look->held) {
        rc = store->driver->list_sizes(store, STORE_JOURNAL,
                                       &look->volume->id, journal_note, look,
                                       error);
    }
    return rc;
}

static int look_trees(struct look *look, GError **error)
{
    struct layer current = {
        .id = look->header.current_layer_id,
        .number = look->header.current_layer,
        .current = true,
    };
    int rc;

    add_layer(look, current);
    rc = look_tree(look, FORMAT_LAYERS, error);
    if (rc == 0) {
        rc = look_tree(look, FORMAT_ENTRIES, error);
    }
    return rc == 0 ? look_tree(look, FORMAT_PRESENT, error) : rc;
}

static int look_header_first(struct look *look, GError **error)
{
    g_autoptr(GError) failure = NULL;
    int rc = look_header(look, &failure);

    if (rc == -EUCLEAN || rc == -EOPNOTSUPP) {
        bool newer = rc == -EOPNOTSUPP;

        look->lost = true;
        add_text(look, newer ? "header-newer" : "header-damaged",
                 newer ? ARCHIP_NOTE : ARCHIP_DAMAGE, FIX_NONE, "header",
                 g_strdup_printf(newer ? "%s" : "%s: the volume can't be "
                                                "opened",
                                 failure->message),
                 newer ? "check it with a newer version" : ACTION_RESTORE);
        return 1;
    }
    if (rc < 0) {
        g_propagate_error(error, g_steal_pointer(&failure));
    }
    return rc;
}

/* What can't be written to isn't mended; neither is what is damaged, so that
 * nothing of it gets lost on the way. */
static void look_restrain(struct look *look)
{
    bool readonly = look->header.flags &
                        (FORMAT_HEADER_READONLY | FORMAT_HEADER_SNAPSHOT |
                         FORMAT_HEADER_TRASHED) ||
                    look->header.features_readonly;

    for (guint i = 0; i < look->candidates->len; i++) {
        struct candidate *candidate =
            &g_array_index(look->candidates, struct candidate, i);

        if ((look->lost || readonly) && candidate->fix != FIX_NONE) {
            candidate->fix = FIX_NONE;
            g_free(candidate->action);
            candidate->action =
                g_strdup(look->lost ? "left as it is, because the volume's map "
                                      "is damaged"
                                    : "left as it is, because the volume may "
                                      "not be written to");
        }
    }
}

static int look_once(struct look *look, GError **error)
{
    int rc = look_holder(look, error);

    if (rc == 0) {
        rc = look_header_first(look, error);
    }
    if (rc != 0) {
        return rc < 0 ? rc : 0;
    }
    look_sharing(look);
    look->map_bad = has_vmstate(&look->header);
    rc = look_trees(look, error);
    if (rc == 0) {
        rc = look_map(look, error);
    }
    if (rc == 0) {
        rc = look_objects(look, error);
    }
    if (rc == 0 && !look->held) {
        look_state(look);
    }
    look_restrain(look);
    return rc;
}

/* Was nobody else at work? */
static bool look_is_settled(struct look *look)
{
    struct store *store = look->check->store;
    struct store_owner holder;
    bool held;

    if (look->locked || look->candidates->len == 0) {
        return true;
    }
    if (store->driver->holder(store, &look->volume->id, &holder, &held,
                              NULL) < 0) {
        return true;        /* it says so itself */
    }
    return held == look->held && holder.token == look->holder.token &&
           (held || (!look->have_header || !look_is_stale(look)));
}

/* Whoever removes a volume takes its name first, its header last, and between
 * them what is looked at here; his intent is there all the time. */
static bool is_gone(struct check *check, const struct volume *volume)
{
    struct store_record record = { STORE_HEADER, volume->id, NULL };
    g_autoptr(GBytes) value = NULL;
    struct id128 id;

    if (check->store->driver->get(check->store, &record, &value, NULL) ==
        -ENOENT) {
        return true;
    }
    if (!volume_name(volume)) {
        g_autoptr(GBytes) intent = NULL;

        record.kind = STORE_INTENT;
        return check->store->driver->get(check->store, &record, &intent,
                                         NULL) == 0;
    }
    switch (volume_find(check->api, volume_name(volume), &id, NULL)) {
    case 0:
        return !id128_equal(&id, &volume->id);
    case -ENOENT:
        return true;
    default:
        return false;
    }
}

int look_at(struct check *check, struct volume *volume, bool locked,
            struct look **look, GError **error)
{
    for (int tries = 50; tries; tries--) {
        struct look *taken = look_new(check, volume, locked);
        int rc;

        check->store->driver->look(check->store, !check->repair);
        g_clear_error(error);
        rc = look_once(taken, error);
        if ((rc < 0 || taken->candidates->len) && is_gone(check, volume)) {
            look_free(taken);
            g_clear_error(error);
            return error_set(error, ENOENT, "it was removed meanwhile");
        }
        if (rc < 0 && rc != -EAGAIN) {
            /* What was being removed fails in any way. */
            if (!look_is_settled(taken) && tries > 1) {
                look_free(taken);
                continue;
            }
            look_free(taken);
            return rc;
        }
        if (rc == 0 && look_is_settled(taken)) {
            *look = taken;
            return 0;
        }
        look_free(taken);
        g_usleep(10000);
    }
    return error && *error ? -EAGAIN
                           : error_set(error, EAGAIN, "it is opened and closed "
                                       "too often to be looked at");
}
