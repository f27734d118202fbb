/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Map pages in memory: found by walking the tree, read when first needed,
 * kept in order of use under a bound.
 *
 * A page that is dirty, pinned, being saved or read, or waited for stays.  A
 * page's bytes are shared with a checkpoint that writes them: whoever changes
 * them then first takes a copy (page_modify()), so that a checkpoint sees the
 * moment at which it began.
 */
#include "mapper/map.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEY_TREE_SHIFT 60
#define KEY_LEVEL_SHIFT 56
#define KEY_POSITION_MASK ((UINT64_C(1) << KEY_LEVEL_SHIFT) - 1)

uint64_t page_key(enum format_tree_kind tree, unsigned level,
                  uint64_t position)
{
    g_assert(position <= KEY_POSITION_MASK);
    return (uint64_t)tree << KEY_TREE_SHIFT |
           (uint64_t)level << KEY_LEVEL_SHIFT | position;
}

enum format_tree_kind page_key_tree(uint64_t key)
{
    return (enum format_tree_kind)(key >> KEY_TREE_SHIFT);
}

unsigned page_key_level(uint64_t key)
{
    return key >> KEY_LEVEL_SHIFT & 15;
}

uint64_t page_key_position(uint64_t key)
{
    return key & KEY_POSITION_MASK;
}

/* --- Data ------------------------------------------------------------------- */

struct page_data *page_data_new(void)
{
    struct page_data *data = g_new0(struct page_data, 1);

    /* Of fixed size, under a bound, and often there is no going on without:
     * like GLib's, the memory is there or the process ends. */
    data->bytes = aligned_alloc(4096, (FORMAT_PAGE_BYTES + 4095) / 4096 * 4096);
    if (!data->bytes) {
        g_error("out of memory for a map page");
    }
    memset(data->bytes, 0, FORMAT_PAGE_BYTES);
    data->references = 1;
    return data;
}

struct page_data *page_data_copy(const struct page_data *data)
{
    struct page_data *copy = page_data_new();

    memcpy(copy->bytes, data->bytes, FORMAT_PAGE_BYTES);
    return copy;
}

struct page_data *page_data_ref(struct page_data *data)
{
    g_atomic_int_inc(&data->references);
    return data;
}

void page_data_unref(struct page_data *data)
{
    if (data && g_atomic_int_dec_and_test(&data->references)) {
        free(data->bytes);
        g_free(data);
    }
}

/* --- Cache -------------------------------------------------------------------- */

static void page_free(struct map *map, struct map_page *page)
{
    g_assert(!page->waiters && !page->pins);
    g_queue_unlink(&map->lru, &page->link);
    g_hash_table_remove(map->pages, &page->key);
    page_data_unref(page->data);
    g_free(page);
}

void page_cache_free(struct map *map)
{
    GList *link;

    while ((link = map->lru.head)) {
        page_free(map, link->data);
    }
    map->dirty_pages = 0;
}

static bool page_is_needed(const struct map_page *page)
{
    return page->dirty || page->saving || page->pins || !page->data ||
           page->incoming || page->waiters;
}

/* Make room for one more: of those used longest ago, free what isn't needed and
 * put what is needed aside. */
static void cache_shrink(struct map *map)
{
    for (int tries = 8; tries && map->lru.length >= MAP_CACHE_PAGES; tries--) {
        struct map_page *page = map->lru.tail->data;

        if (page_is_needed(page)) {
            g_queue_unlink(&map->lru, &page->link);
            g_queue_push_head_link(&map->lru, &page->link);
        } else {
            page_free(map, page);
        }
    }
}

static struct map_page *page_add(struct map *map, uint64_t key)
{
    struct map_page *page = g_new0(struct map_page, 1);

    cache_shrink(map);
    page->key = key;
    page->link.data = page;
    g_queue_push_head_link(&map->lru, &page->link);
    g_hash_table_insert(map->pages, &page->key, page);
    return page;
}

static struct map_page *page_lookup(struct map *map, uint64_t key)
{
    struct map_page *page = g_hash_table_lookup(map->pages, &key);

    if (page && map->lru.head != &page->link) {
        g_queue_unlink(&map->lru, &page->link);
        g_queue_push_head_link(&map->lru, &page->link);
    }
    return page;
}

/* --- Finding ------------------------------------------------------------------ */

struct map_tree *map_tree(struct map_header *header,
                          enum format_tree_kind tree)
{
    switch (tree) {
    case FORMAT_ENTRIES:
        return &header->entries;
    case FORMAT_PRESENT:
        return &header->present;
    case FORMAT_LAYERS:
        return &header->layers;
    case FORMAT_DIGESTS:
        break;
    }
    g_assert_not_reached();
}

/* What the tree has at a place below its root: null where it has nothing. */
static int page_reference(struct map *map, enum format_tree_kind tree,
                          unsigned level, uint64_t position,
                          struct map_ref *ref, struct map_page **wanted,
                          GError **error)
{
    const struct map_tree *root = map_tree(&map->header, tree);
    const struct format_ref *refs;
    struct map_page *parent;
    int rc;

    *ref = (struct map_ref){ 0 };
    if (level >= root->height || (level + 1 == root->height && position > 0)) {
        return 0;
    }
    if (level + 1 == root->height) {
        *ref = root->root;
        return 0;
    }
    rc = page_find(map, tree, level + 1, position / FORMAT_REFS_PER_PAGE,
                   &parent, error);
    if (rc < 0) {
        *wanted = parent;
        return rc;
    }
    if (parent) {
        refs = page_body(parent);
        *ref = ref_decode(&refs[position % FORMAT_REFS_PER_PAGE]);
    }
    return 0;
}

int page_find(struct map *map, enum format_tree_kind tree, unsigned level,
              uint64_t position, struct map_page **page, GError **error)
{
    uint64_t key = page_key(tree, level, position);
    struct map_ref ref;
    int rc;

    *page = page_lookup(map, key);
    if (*page) {
        return (*page)->data ? 0 : -EAGAIN;
    }
    rc = page_reference(map, tree, level, position, &ref, page, error);
    if (rc < 0 || ref_is_null(&ref)) {
        return rc;
    }
    *page = page_add(map, key);
    (*page)->ref = ref;
    return -EAGAIN;
}

/* Pages that were never saved are only in memory. */
static uint64_t page_next_cached(const struct map *map,
                                 enum format_tree_kind tree,
                                 uint64_t position, uint64_t end)
{
    for (const GList *link = map->lru.head; link; link = link->next) {
        const struct map_page *page = link->data;
        uint64_t at = page_key_position(page->key);

        if (page_key_tree(page->key) == tree &&
            page_key_level(page->key) == 0 && at >= position && at < end) {
            end = at;
        }
    }
    return end;
}

/* Leaves below one reference of a level. */
static uint64_t leaves_below(unsigned level)
{
    uint64_t leaves = 1;

    while (level-- > 1) {
        leaves *= FORMAT_REFS_PER_PAGE;
    }
    return leaves;
}

/* Move on to the first reference of an inner page that leads anywhere; false:
 * none does, and `position` is behind all that is below the page. */
static bool page_next_ref(const struct map_page *page, unsigned level,
                          uint64_t *position)
{
    uint64_t leaves = leaves_below(level), ref = *position / leaves;
    const struct format_ref *refs = page ? page_body(page) : NULL;
    uint64_t page_end =
        (ref / FORMAT_REFS_PER_PAGE + 1) * FORMAT_REFS_PER_PAGE;

    for (; refs && ref < page_end; ref++) {
        if (refs[ref % FORMAT_REFS_PER_PAGE].number) {
            *position = MAX(*position, ref * leaves);
            return true;
        }
    }
    *position = page_end * leaves;
    return false;
}

int page_next(struct map *map, enum format_tree_kind tree, uint64_t end,
              uint64_t *position, struct map_page **wanted, GError **error)
{
    unsigned top = map_tree(&map->header, tree)->height;
    uint64_t reach = top ? leaves_below(top) : 0;
    unsigned level = top - 1;

    end = page_next_cached(map, tree, *position, end);
    while (*position < MIN(end, reach) && level > 0) {
        struct map_page *page;
        int rc = page_find(map, tree, level,
                           *position / leaves_below(level + 1), &page, error);

        if (rc < 0) {
            *wanted = page;
            return rc;
        }
        level = page_next_ref(page, level, position) ? level - 1 : top - 1;
    }
    if (*position >= reach) {
        *position = end;
    }
    *position = MIN(*position, end);
    return 0;
}

int page_find_or_create(struct map *map, enum format_tree_kind tree,
                        uint64_t position, struct map_page **page,
                        GError **error)
{
    int rc = page_find(map, tree, 0, position, page, error);

    if (rc == 0 && !*page) {
        *page = page_add(map, page_key(tree, 0, position));
        (*page)->data = page_data_new();
    }
    return rc;
}

const void *page_body(const struct map_page *page)
{
    return page->data->bytes + FORMAT_PAGE_HEAD_BYTES;
}

void *page_modify(struct map *map, struct map_page *page)
{
    if (g_atomic_int_get(&page->data->references) > 1) {
        struct page_data *copy = page_data_copy(page->data);

        page_data_unref(page->data);
        page->data = copy;
    }
    if (!page->dirty) {
        page->dirty = true;
        map->dirty_pages++;
    }
    return page->data->bytes + FORMAT_PAGE_HEAD_BYTES;
}

void page_replace(struct map *map, uint64_t key, struct page_data *data)
{
    struct map_page *page = g_hash_table_lookup(map->pages, &key);

    if (!page) {
        page = page_add(map, key);
    }
    page_data_unref(page->data);
    page->data = page_data_ref(data);
}

void page_saved(struct map *map, uint64_t key, bool success)
{
    struct map_page *page = g_hash_table_lookup(map->pages, &key);

    g_assert(page && page->saving);
    page->saving = false;
    if (!success && !page->dirty) {
        page->dirty = true;
        map->dirty_pages++;
    }
}

/* --- Reading -------------------------------------------------------------------- */

bool map_page_claim(struct map_page *page)
{
    if (page->incoming) {
        return false;
    }
    page->incoming = page_data_new();
    page->iov = (struct iovec){ page->incoming->bytes, FORMAT_PAGE_BYTES };
    page->request = (struct store_request){
        .op = STORE_READ,
        .object = { STORE_PAGE, page->ref.layer, page->ref.number },
        .length_bytes = FORMAT_PAGE_BYTES,
        .iov = &page->iov,
        .iov_count = 1,
    };
    return true;
}

static const char *tree_text(enum format_tree_kind tree)
{
    static const char *const texts[] = { "?", "entries", "present", "layers",
                                         "digests" };

    return texts[tree];
}

static int page_accept(struct map_page *page, GError **error)
{
    enum format_tree_kind tree = page_key_tree(page->key);
    unsigned level = page_key_level(page->key);
    uint64_t position = page_key_position(page->key);
    int rc;

    if (page->request.result == -ENOENT) {
        rc = error_set(error, EUCLEAN, "it is missing");
    } else if (page->request.result < 0) {
        rc = error_set_errno(error, -page->request.result, "can't read it");
    } else {
        rc = page_check(page->incoming->bytes, tree, level, position,
                        &page->ref, error);
    }
    if (rc < 0) {
        error_prefix(error, "map page %s/%u/%" G_GUINT64_FORMAT
                     " (number %" G_GUINT64_FORMAT "): ",
                     tree_text(tree), level, position, page->ref.number);
    }
    return rc;
}

int map_page_loaded(struct map *map, struct map_page *page, GError **error)
{
    GSList *waiters = g_steal_pointer(&page->waiters);
    g_autoptr(GError) own_error = NULL;
    int rc = page->data ? 0 : page_accept(page, &own_error);

    if (rc < 0) {
        page_data_unref(page->incoming);
        page_free(map, page);
    } else if (page->data) {
        /* It came by another way, and may be newer than what was read. */
        page_data_unref(g_steal_pointer(&page->incoming));
    } else {
        page->data = g_steal_pointer(&page->incoming);
    }
    if (waiters) {
        map->wake(waiters, own_error);
    }
    if (rc < 0) {
        g_propagate_error(error, g_steal_pointer(&own_error));
    }
    return rc;
}

/* Somebody else reads the page, but perhaps the thread that would see to it is
 * this one: don't wait, read it, too. */
static int page_load_beside(struct map *map, struct map_page *page,
                            GError **error)
{
    uint64_t key = page->key;
    struct map_page copy = { .key = key, .ref = page->ref };
    int rc;

    map_page_claim(&copy);
    g_mutex_unlock(&map->lock);
    store_run(map->queue, &copy.request);
    g_mutex_lock(&map->lock);
    page = g_hash_table_lookup(map->pages, &key);
    if (!page || page->data || page->ref.number != copy.ref.number ||
        !id128_equal(&page->ref.layer, &copy.ref.layer)) {
        rc = 0;         /* it came, or is another one by now: look again */
    } else {
        rc = page_accept(&copy, error);
        page->data = rc == 0 ? g_steal_pointer(&copy.incoming) : NULL;
    }
    page_data_unref(copy.incoming);
    return rc;
}

int map_page_load(struct map *map, struct map_page *page, GError **error)
{
    if (!map_page_claim(page)) {
        return page_load_beside(map, page, error);
    }
    g_mutex_unlock(&map->lock);
    store_run(map->queue, &page->request);
    g_mutex_lock(&map->lock);
    return map_page_loaded(map, page, error);
}
