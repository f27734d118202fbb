/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One page against the reference that led to it: what is taken is, sealed
 * again, the same bytes but for reserved ones.
 */
#include "fuzz.h"

#include <string.h>

const size_t fuzz_memory_base = 512 << 10, fuzz_memory_factor = 16;

enum { MODE_SEAL = 1, MODE_REFERENCE = 2 };

static void check_taken(const uint8_t *page, enum format_tree_kind tree,
                        unsigned level, uint64_t position,
                        const struct map_ref *ref)
{
    g_autofree uint8_t *again = g_memdup2(page, FORMAT_PAGE_BYTES);
    g_autofree uint8_t *expected = g_memdup2(page, FORMAT_PAGE_BYTES);
    struct format_page_head *head = (void *)expected;

    head->reserved = 0;
    memset(head->reserved2, 0, sizeof(head->reserved2));
    fuzz_seal(expected, FORMAT_PAGE_BYTES,
              offsetof(struct format_page_head, crc));
    page_seal(again, tree, level, position, &ref->layer, ref->number);
    g_assert(!memcmp(again, expected, FORMAT_PAGE_BYTES));
}

/* Take the reference from the page itself. */
static void believe(const struct format_page_head *head, uint8_t *tree,
                    uint8_t *level, uint64_t *position, struct map_ref *ref)
{
    *tree = head->tree;
    *level = head->level;
    *position = GUINT64_FROM_BE(head->position);
    ref->number = GUINT64_FROM_BE(head->number);
    memcpy(ref->layer.bytes, head->layer, sizeof(head->layer));
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned modes = (unsigned)take(&input, 1);
    uint8_t tree = (uint8_t)take(&input, 1), level = (uint8_t)take(&input, 1);
    uint64_t position = take(&input, 8);
    struct map_ref ref = { fuzz_layer(0), take(&input, 8),
                           (uint32_t)take(&input, 4) };
    g_autofree uint8_t *page = g_malloc0(FORMAT_PAGE_BYTES);
    struct format_page_head *head = (void *)page;
    size_t length = FORMAT_PAGE_BYTES;
    const uint8_t *body = take_bytes(&input, &length);
    GError *error = NULL;
    int rc;

    memcpy(page, body, length);
    if (modes & MODE_SEAL) {
        head->magic = GUINT32_TO_BE(FORMAT_PAGE_MAGIC);
        fuzz_seal(page, FORMAT_PAGE_BYTES,
                  offsetof(struct format_page_head, crc));
        ref.crc = GUINT32_FROM_BE(head->crc);
    }
    if (modes & MODE_REFERENCE) {
        believe(head, &tree, &level, &position, &ref);
    }
    rc = page_check(page, (enum format_tree_kind)tree, level, position, &ref,
                    &error);
    expect_error(rc, error);
    if (rc == 0) {
        check_taken(page, (enum format_tree_kind)tree, level, position, &ref);
    }
}

static void put_page(void (*put)(const char *, const void *, size_t),
                     const char *name, unsigned modes, unsigned level)
{
    g_autofree uint8_t *page = g_malloc0(FORMAT_PAGE_BYTES);
    g_autoptr(GByteArray) seed = g_byte_array_new();
    struct id128 layer = fuzz_layer(0);
    struct {
        uint8_t modes, tree, level;
        be64 position, number;
        be32 crc;
    } __attribute__((packed)) start = {
        (uint8_t)modes, FORMAT_ENTRIES, (uint8_t)level, GUINT64_TO_BE(3),
        GUINT64_TO_BE(9), 0,
    };

    page[FORMAT_PAGE_HEAD_BYTES + 3] = 1;
    start.crc = GUINT32_TO_BE(page_seal(page, FORMAT_ENTRIES, level, 3,
                                        &layer, 9));
    g_byte_array_append(seed, (const void *)&start, sizeof(start));
    g_byte_array_append(seed, page, FORMAT_PAGE_HEAD_BYTES + 8);
    put(name, seed->data, seed->len);
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    put_page(put, "raw", 0, 0);
    put_page(put, "sealed", MODE_SEAL, 1);
    put_page(put, "believed", MODE_SEAL | MODE_REFERENCE, 2);
}
