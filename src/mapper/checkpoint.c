/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Folding changed pages into new ones, bottom up, and a new header over them.
 *
 * Pages are never overwritten: a changed page gets a new number in the current
 * layer, its parent a new reference, up to the root in the header.  The order
 * is: pages written, pages durable, header replaced (D8), and only then are
 * replaced pages of the current layer and the folded journals removed (D9).
 * Pages of older layers may be shared and are left alone.
 *
 * Numbers handed out by an attempt that failed are not used again (D6): the
 * header may be in the store although its replacing reported an error.
 */
#include "mapper/map.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

struct saved_page {
    uint64_t key;
    struct page_data *data;
};

struct map_checkpoint {
    GArray *pages;              /* struct saved_page, of level 0 */
    struct map_header header;   /* of the moment it began */
};

/* A page that got a new name, for its parent to know. */
struct child {
    uint64_t position;
    struct map_ref ref;
};

/* One run of a checkpoint. */
struct fold {
    struct map *map;
    struct map_header *header;  /* the new one */
    GArray *inner;              /* struct saved_page, those above level 0 */
    GArray *written;            /* struct saved_page, all that aren't empty */
    GArray *numbers;            /* uint64_t, their names, in step */
    GArray *replaced;           /* struct store_object */
};

static void saved_page_clear(gpointer page)
{
    page_data_unref(((struct saved_page *)page)->data);
}

static GArray *saved_pages_new(void)
{
    GArray *pages = g_array_new(false, false, sizeof(struct saved_page));

    g_array_set_clear_func(pages, saved_page_clear);
    return pages;
}

static gint saved_page_compare(gconstpointer a, gconstpointer b)
{
    const struct saved_page *x = a, *y = b;

    return (x->key > y->key) - (x->key < y->key);
}

struct map_checkpoint *checkpoint_begin(struct map *map)
{
    struct map_checkpoint *checkpoint = g_new0(struct map_checkpoint, 1);

    checkpoint->pages = saved_pages_new();
    for (GList *link = map->lru.head; link; link = link->next) {
        struct map_page *page = link->data;
        struct saved_page saved;

        if (!page->dirty) {
            continue;
        }
        g_assert(!page->saving && page_key_level(page->key) == 0);
        page->dirty = false;
        page->saving = true;
        saved = (struct saved_page){ page->key, page_data_ref(page->data) };
        g_array_append_val(checkpoint->pages, saved);
    }
    map->dirty_pages = 0;
    g_array_sort(checkpoint->pages, saved_page_compare);
    checkpoint->header = header_copy(&map->header);
    checkpoint->header.journal_epoch = map->journal.epoch;
    checkpoint->header.journal_sequence = map->journal.sequence;
    return checkpoint;
}

static void checkpoint_free(struct map *map, struct map_checkpoint *checkpoint,
                            bool success)
{
    for (guint i = 0; i < checkpoint->pages->len; i++) {
        page_saved(map,
                   g_array_index(checkpoint->pages, struct saved_page, i).key,
                   success);
    }
    g_array_unref(checkpoint->pages);
    header_clear(&checkpoint->header);
    g_free(checkpoint);
}

void checkpoint_abandon(struct map *map, struct map_checkpoint *checkpoint)
{
    checkpoint_free(map, checkpoint, false);
}

/* --- Building the new trees ---------------------------------------------------- */

static bool body_is_zero(const struct page_data *data)
{
    const uint8_t *body = data->bytes + FORMAT_PAGE_HEAD_BYTES;

    return body[0] == 0 &&
           memcmp(body, body + 1, FORMAT_PAGE_BODY_BYTES - 1) == 0;
}

/* Give a page its new name; a page of zeroes gets none. */
static struct child fold_page(struct fold *fold, uint64_t key,
                              struct page_data *data)
{
    struct map_header *header = fold->header;
    struct child child = { .position = page_key_position(key) };
    struct saved_page written = { key, page_data_ref(data) };

    if (page_key_level(key) > 0) {
        struct saved_page inner = { key, page_data_ref(data) };

        g_array_append_val(fold->inner, inner);
    }
    if (body_is_zero(data)) {
        page_data_unref(data);
        return child;
    }
    child.ref.layer = header->current_layer_id;
    child.ref.number = header->next_page++;
    child.ref.crc = page_seal(data->bytes, page_key_tree(key),
                              page_key_level(key), child.position,
                              &child.ref.layer, child.ref.number);
    g_array_append_val(fold->written, written);
    g_array_append_val(fold->numbers, child.ref.number);
    return child;
}

/* The page is replaced: if no other map can have it, it goes. */
static void fold_replaced(struct fold *fold, const struct map_ref *ref)
{
    if (!ref_is_null(ref) &&
        id128_equal(&ref->layer, &fold->header->current_layer_id)) {
        struct store_object object = { STORE_PAGE, ref->layer, ref->number };

        g_array_append_val(fold->replaced, object);
    }
}

/* A copy of an inner page as it is, or zeroes where there is none. */
static int inner_page_copy(struct fold *fold, uint64_t key,
                           struct page_data **data, GError **error)
{
    struct map *map = fold->map;
    struct map_page *page;
    int rc;

    g_mutex_lock(&map->lock);
    while ((rc = page_find(map, page_key_tree(key), page_key_level(key),
                           page_key_position(key), &page, error)) == -EAGAIN) {
        rc = map_page_load(map, page, error);
        if (rc < 0) {
            break;
        }
    }
    if (rc == 0) {
        *data = page ? page_data_copy(page->data) : page_data_new();
    }
    g_mutex_unlock(&map->lock);
    return rc;
}

static void inner_page_set(struct fold *fold, struct page_data *data,
                           const struct child *child)
{
    struct format_ref *refs = (void *)(data->bytes + FORMAT_PAGE_HEAD_BYTES);
    struct format_ref *slot = &refs[child->position % FORMAT_REFS_PER_PAGE];
    struct map_ref old = ref_decode(slot);

    if (old.number != child->ref.number ||
        !id128_equal(&old.layer, &child->ref.layer)) {
        fold_replaced(fold, &old);
    }
    if (ref_is_null(&child->ref)) {
        memset(slot, 0, sizeof(*slot));
    } else {
        ref_encode(slot, &child->ref);
    }
}

/*
 * Write the parents of `children` (sorted, all of `level`) and return them as
 * the children of the next level.  `grow`: the tree has no such level yet;
 * then its root becomes the first child of it.
 */
static int fold_level(struct fold *fold, enum format_tree_kind tree,
                      unsigned level, bool grow, GArray *children,
                      GArray **parents, GError **error)
{
    *parents = g_array_new(false, false, sizeof(struct child));
    for (guint i = 0; i < children->len;) {
        uint64_t position =
            g_array_index(children, struct child, i).position /
            FORMAT_REFS_PER_PAGE;
        uint64_t key = page_key(tree, level + 1, position);
        struct page_data *data = NULL;
        struct child parent;

        if (grow) {
            data = page_data_new();
        } else {
            int rc = inner_page_copy(fold, key, &data, error);

            if (rc < 0) {
                return rc;
            }
        }
        for (; i < children->len; i++) {
            const struct child *child =
                &g_array_index(children, struct child, i);

            if (child->position / FORMAT_REFS_PER_PAGE != position) {
                break;
            }
            inner_page_set(fold, data, child);
        }
        parent = fold_page(fold, key, data);
        page_data_unref(data);
        g_array_append_val(*parents, parent);
    }
    return 0;
}

static void child_set_root(struct fold *fold, struct map_tree *tree,
                           unsigned level, const struct child *child)
{
    fold_replaced(fold, &tree->root);
    tree->root = child->ref;
    tree->height = ref_is_null(&child->ref) ? 0 : level + 1;
}

/* The tree grows: its old root is one of the children of a new level. */
static void children_add_root(GArray *children, const struct map_tree *tree)
{
    struct child root = { .position = 0, .ref = tree->root };

    if (g_array_index(children, struct child, 0).position != 0 &&
        !ref_is_null(&tree->root)) {
        g_array_prepend_val(children, root);
    }
}

static GArray *fold_leaves(struct fold *fold, enum format_tree_kind tree,
                           const GArray *pages)
{
    GArray *children = g_array_new(false, false, sizeof(struct child));

    for (guint i = 0; i < pages->len; i++) {
        const struct saved_page *page =
            &g_array_index(pages, struct saved_page, i);

        if (page_key_tree(page->key) == tree) {
            struct child child = fold_page(fold, page->key, page->data);

            g_array_append_val(children, child);
        }
    }
    return children;
}

static int fold_tree(struct fold *fold, enum format_tree_kind kind,
                     const GArray *pages, GError **error)
{
    struct map_tree *tree = map_tree(fold->header, kind);
    struct map_tree old = *tree;
    g_autoptr(GArray) children = fold_leaves(fold, kind, pages);

    for (unsigned level = 0; children->len; level++) {
        const struct child *first = &g_array_index(children, struct child, 0);
        bool top = level + 1 >= old.height;
        GArray *parents;
        int rc;

        if (top && children->len == 1 && first->position == 0) {
            child_set_root(fold, tree, level, first);
            break;
        }
        if (level + 1 == old.height) {
            if (first->position == 0) {
                fold_replaced(fold, &old.root);
            }
            children_add_root(children, &old);
            /* It has a parent now and is no root any more. */
            tree->root = (struct map_ref){ 0 };
        }
        rc = fold_level(fold, kind, level, top, children, &parents, error);
        g_array_unref(children);
        children = parents;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* --- Writing -------------------------------------------------------------------- */

/* The same with every page, all at once. */
static int fold_pages(struct fold *fold, enum store_op op)
{
    guint count = fold->written->len;
    g_autofree struct store_request *requests =
        g_new0(struct store_request, count);
    g_autofree struct iovec *iov = g_new(struct iovec, count);

    for (guint i = 0; i < count; i++) {
        const struct saved_page *page =
            &g_array_index(fold->written, struct saved_page, i);

        iov[i] = (struct iovec){ page->data->bytes, FORMAT_PAGE_BYTES };
        requests[i] = (struct store_request){
            .op = op,
            .flags = op == STORE_WRITE ? STORE_CREATE : 0,
            .object = { STORE_PAGE, fold->header->current_layer_id,
                        g_array_index(fold->numbers, uint64_t, i) },
            .length_bytes = op == STORE_WRITE ? FORMAT_PAGE_BYTES : 0,
            .iov = &iov[i],
            .iov_count = op == STORE_WRITE ? 1 : 0,
            .create_bytes = FORMAT_PAGE_BYTES,
        };
    }
    return store_run_all(fold->map->queue, requests, count);
}

static int fold_write(struct fold *fold, GError **error)
{
    int rc = fold_pages(fold, STORE_WRITE);

    if (rc == 0) {
        rc = fold_pages(fold, STORE_SYNC);
    }
    return rc < 0 ? error_set_errno(error, -rc, "can't write map pages") : 0;
}

static int fold_put_header(struct fold *fold, bool clean, GError **error)
{
    struct map_header *header = fold->header;
    struct store_record record = { STORE_HEADER, header->id, NULL };
    g_autoptr(GBytes) value = NULL;

    header->flags &= ~FORMAT_HEADER_CLEAN;
    header->flags |= clean ? FORMAT_HEADER_CLEAN : 0;
    header->generation++;
    value = header_encode(header);
    fold->map->may_be_clean |= clean;
    return fold->map->store->driver->put(
        fold->map->store, &record, g_bytes_get_data(value, NULL),
        g_bytes_get_size(value), false, error);
}

/* --- Running --------------------------------------------------------------------- */

/* Those of epochs before the header's aren't needed any more.  A stray one may
 * be any number of epochs ahead: only what was there, or can have been written
 * since, counts. */
static void journals_drop(struct map *map)
{
    struct map_journal *journal = &map->journal;
    struct store_object dropped = { STORE_JOURNAL, map->header.id, 0 };

    for (guint i = 0; i < map->found->len; i++) {
        dropped.number = g_array_index(map->found, uint64_t, i);
        g_array_append_val(map->garbage, dropped);
    }
    g_array_set_size(map->found, 0);
    journal->oldest_epoch = MAX(journal->oldest_epoch, journal->own_epoch);
    for (; journal->oldest_epoch < map->header.journal_epoch;
         journal->oldest_epoch++) {
        dropped.number = journal->oldest_epoch;
        g_array_append_val(map->garbage, dropped);
    }
}

/* The store has the new header: so has the map, from now on. */
static void fold_publish(struct fold *fold)
{
    struct map *map = fold->map;
    struct map_header *header = &map->header;

    for (guint i = 0; i < fold->inner->len; i++) {
        const struct saved_page *page =
            &g_array_index(fold->inner, struct saved_page, i);

        page_replace(map, page->key, page->data);
    }
    header->entries = fold->header->entries;
    header->present = fold->header->present;
    header->layers = fold->header->layers;
    header->generation = fold->header->generation;
    header->flags = fold->header->flags;
    header->journal_epoch = fold->header->journal_epoch;
    header->journal_sequence = fold->header->journal_sequence;
    header_clear(&map->stored);
    map->stored = header_copy(fold->header);
    g_array_append_vals(map->garbage, fold->replaced->data,
                        fold->replaced->len);
    journals_drop(map);
}

static int fold_run(struct fold *fold, const GArray *pages, bool clean,
                    GError **error)
{
    static const enum format_tree_kind trees[] = { FORMAT_ENTRIES,
                                                   FORMAT_PRESENT,
                                                   FORMAT_LAYERS };
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < G_N_ELEMENTS(trees); i++) {
        rc = fold_tree(fold, trees[i], pages, error);
    }
    if (rc == 0) {
        rc = fold_write(fold, error);
    }
    return rc == 0 ? fold_put_header(fold, clean, error) : rc;
}

int checkpoint_run(struct map *map, struct map_checkpoint *checkpoint,
                   bool clean, GError **error)
{
    struct fold fold = {
        .map = map,
        .header = &checkpoint->header,
        .inner = saved_pages_new(),
        .written = saved_pages_new(),
        .numbers = g_array_new(false, false, sizeof(uint64_t)),
        .replaced = g_array_new(false, false, sizeof(struct store_object)),
    };
    int rc;

    g_mutex_lock(&map->io_lock);
    rc = fold_run(&fold, checkpoint->pages, clean, error);
    g_mutex_lock(&map->lock);
    map->header.next_page = checkpoint->header.next_page;
    if (rc == 0) {
        fold_publish(&fold);
    }
    checkpoint_free(map, checkpoint, rc == 0);
    g_mutex_unlock(&map->lock);
    g_array_unref(fold.inner);
    g_array_unref(fold.written);
    g_array_unref(fold.numbers);
    g_array_unref(fold.replaced);
    if (rc == 0) {
        map_remove_garbage(map);
    }
    g_mutex_unlock(&map->io_lock);
    return rc;
}

int map_fold(struct map *map, bool clean, GError **error)
{
    struct map_commit commit;
    int rc;

    g_mutex_lock(&map->lock);
    map_capture(map, MAP_CHECKPOINT, &commit);
    g_mutex_unlock(&map->lock);
    rc = checkpoint_run(map, commit.checkpoint, clean, error);
    g_mutex_lock(&map->lock);
    map_commit_end(map, &commit, rc);
    g_mutex_unlock(&map->lock);
    return rc;
}

int map_mark_unclean(struct map *map)
{
    struct store_record record = { STORE_HEADER, map->header.id, NULL };
    g_autoptr(GBytes) value = NULL;
    int rc;

    if (!map->may_be_clean) {
        return 0;
    }
    map->stored.generation = ++map->header.generation;
    map->stored.next_page = map->header.next_page;
    map->stored.flags &= ~FORMAT_HEADER_CLEAN;
    value = header_encode(&map->stored);
    rc = map->store->driver->put(map->store, &record,
                                 g_bytes_get_data(value, NULL),
                                 g_bytes_get_size(value), false, NULL);
    map->may_be_clean = rc < 0;
    return rc;
}

void map_remove_garbage(struct map *map)
{
    const struct store_driver *driver = map->store->driver;
    g_autofree struct store_request *requests = NULL;
    GArray *garbage;

    if (!map->store_lock || driver->exclude_readers(map->store_lock) < 0) {
        return;
    }
    g_mutex_lock(&map->lock);
    garbage = map->garbage;
    map->garbage = g_array_new(false, false, sizeof(struct store_object));
    g_mutex_unlock(&map->lock);
    requests = g_new0(struct store_request, garbage->len);
    for (guint i = 0; i < garbage->len; i++) {
        requests[i].op = STORE_REMOVE;
        requests[i].object = g_array_index(garbage, struct store_object, i);
    }
    /* What stays behind is found by the collector. */
    store_run_all(map->queue, requests, garbage->len);
    driver->admit_readers(map->store_lock);
    g_array_unref(garbage);
}

/* --- Freezing --------------------------------------------------------------------- */

/* Enter the current layer in the table: true whenever it is frozen. */
static int freeze_enter_locked(struct map *map, GError **error)
{
    uint32_t number = map->header.current_layer;
    struct format_layer *layers;
    struct map_page *page;
    int rc;

    while ((rc = page_find_or_create(map, FORMAT_LAYERS,
                                     number / MAP_LAYERS_PER_PAGE, &page,
                                     error)) == -EAGAIN) {
        rc = map_page_load(map, page, error);
        if (rc < 0) {
            return rc;
        }
    }
    if (rc < 0) {
        return rc;
    }
    layers = page_modify(map, page);
    memcpy(layers[number % MAP_LAYERS_PER_PAGE].id,
           map->header.current_layer_id.bytes, sizeof(layers->id));
    layers[number % MAP_LAYERS_PER_PAGE].frozen_ns =
        GUINT64_TO_BE((uint64_t)g_get_real_time() * 1000);
    return 0;
}

static int freeze_enter(struct map *map, GError **error)
{
    int rc;

    g_mutex_lock(&map->io_lock);
    g_mutex_lock(&map->lock);
    rc = freeze_enter_locked(map, error);
    g_mutex_unlock(&map->lock);
    g_mutex_unlock(&map->io_lock);
    return rc < 0 ? rc : map_fold(map, false, error);
}

/* Every page is written by now, and goes with the layer that is frozen: the new
 * one has nothing before a header names it. */
static int freeze_switch(struct map *map, GError **error)
{
    struct map_header *header = &map->header, before;
    int rc;

    g_mutex_lock(&map->lock);
    before = *header;
    header->current_layer = header->next_layer++;
    header->current_layer_id = id128_random();
    header->next_page = 1;
    g_mutex_unlock(&map->lock);
    rc = map_fold(map, false, error);
    if (rc < 0) {
        /* The numbers of the new one are not used. */
        g_mutex_lock(&map->lock);
        header->current_layer = before.current_layer;
        header->current_layer_id = before.current_layer_id;
        header->next_page = before.next_page;
        g_mutex_unlock(&map->lock);
    }
    return rc;
}

int map_freeze(struct map *map, GError **error)
{
    int rc = freeze_enter(map, error);

    return rc == 0 ? freeze_switch(map, error) : rc;
}
