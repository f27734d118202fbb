/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pages of a tree, read one by one and not kept: what the mapper's own way
 * through them can't do is to go on behind one that is bad.
 *
 * A page is only taken for what its parent says, position and all, so that no
 * page can be met twice, whatever is written in it.
 */
#include "check/check.h"

#include "base/error.h"

#include <errno.h>

/* Leaves below a page of that level; the heights that a header may have keep
 * this within 64 bits but for the last, which saturates. */
static uint64_t leaves_below(unsigned level)
{
    uint64_t leaves = 1;

    while (level-- > 0) {
        leaves = leaves > UINT64_MAX / FORMAT_REFS_PER_PAGE
                     ? UINT64_MAX
                     : leaves * FORMAT_REFS_PER_PAGE;
    }
    return leaves;
}

static uint64_t first_leaf_behind(unsigned level, uint64_t position)
{
    uint64_t leaves = leaves_below(level);

    return position + 1 > UINT64_MAX / leaves ? UINT64_MAX
                                              : (position + 1) * leaves;
}

static int read_page(struct walk *walk, unsigned level, uint64_t position,
                     const struct map_ref *ref, struct page_data *data,
                     GError **error)
{
    struct iovec iov = { data->bytes, FORMAT_PAGE_BYTES };
    struct store_request request = {
        .op = STORE_READ,
        .object = { STORE_PAGE, ref->layer, ref->number },
        .length_bytes = FORMAT_PAGE_BYTES,
        .iov = &iov,
        .iov_count = 1,
    };
    int rc = store_run(walk->queue, &request);

    if (rc == -ENOENT) {
        return error_set(error, ENOENT, "it is missing");
    }
    return rc < 0 ? error_set_errno(error, -rc, "it can't be read")
                  : page_check(data->bytes, walk->kind, level, position, ref,
                               error);
}

static int walk_page(struct walk *walk, unsigned level, uint64_t position,
                     const struct map_ref *ref);

static int walk_children(struct walk *walk, unsigned level, uint64_t position,
                         const struct page_data *data)
{
    const struct format_ref *refs =
        (const void *)(data->bytes + FORMAT_PAGE_HEAD_BYTES);
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < FORMAT_REFS_PER_PAGE; i++) {
        struct map_ref ref = ref_decode(&refs[i]);

        if (!ref_is_null(&ref)) {
            rc = walk_page(walk, level - 1,
                           position * FORMAT_REFS_PER_PAGE + i, &ref);
        }
    }
    return rc;
}

static int walk_page(struct walk *walk, unsigned level, uint64_t position,
                     const struct map_ref *ref)
{
    uint64_t behind = first_leaf_behind(level, position);
    g_autoptr(GError) error = NULL;
    struct page_data *data;
    int rc;

    if (behind <= walk->from) {
        return 0;
    }
    if (walk->page) {
        walk->page(walk->opaque, ref);
    }
    data = page_data_new();
    if (read_page(walk, level, position, ref, data, &error) < 0) {
        rc = walk->bad(walk->opaque, level, position, ref, error);
    } else if (level > 0) {
        rc = walk_children(walk, level, position, data);
    } else {
        rc = walk->leaf ? walk->leaf(walk->opaque, position,
                                     data->bytes + FORMAT_PAGE_HEAD_BYTES)
                        : 0;
    }
    page_data_unref(data);
    if (rc == 0) {
        walk->from = MAX(walk->from, behind);
    }
    return rc;
}

int walk_tree(struct walk *walk, const struct map_tree *tree)
{
    return tree->height && !ref_is_null(&tree->root)
               ? walk_page(walk, tree->height - 1, 0, &tree->root)
               : 0;
}
