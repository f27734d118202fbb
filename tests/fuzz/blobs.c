/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a store has of one volume, out of an input and into one: see blobs.h. */
#include "blobs.h"

#include <string.h>

#define PAGES_MAX 64u

static void journal_free(gpointer data)
{
    struct journal_blob *journal = data;

    g_byte_array_unref(journal->records);
    g_free(journal);
}

/* --- Taking ------------------------------------------------------------------- */

static void replace(uint8_t **to, size_t *to_bytes, const uint8_t *data,
                    size_t bytes)
{
    g_free(*to);
    *to = g_memdup2(data, bytes);
    *to_bytes = bytes;
}

static struct page_blob *page_get(struct blobs *blobs,
                                  const struct id128 *layer, uint64_t number)
{
    struct page_blob *page;

    for (guint i = 0; i < blobs->pages->len; i++) {
        page = blobs->pages->pdata[i];
        if (page->number == number && id128_equal(&page->layer, layer)) {
            return page;
        }
    }
    if (blobs->pages->len == PAGES_MAX) {
        return NULL;
    }
    page = g_new0(struct page_blob, 1);
    page->layer = *layer;
    page->number = number;
    g_ptr_array_add(blobs->pages, page);
    return page;
}

static uint32_t page_crc(const struct page_blob *page)
{
    const struct format_page_head *head = (const void *)page->bytes;

    return GUINT32_FROM_BE(head->crc);
}

/* Give a reference the CRC of the page it names. */
static void reference_seal(const struct blobs *blobs, struct format_ref *ref)
{
    struct map_ref wanted = ref_decode(ref);

    for (guint i = 0; i < blobs->pages->len; i++) {
        const struct page_blob *page = blobs->pages->pdata[i];

        if (page->number == wanted.number &&
            id128_equal(&page->layer, &wanted.layer)) {
            ref->crc = GUINT32_TO_BE(page_crc(page));
        }
    }
}

static void take_page(struct blobs *blobs, struct input *input, bool sealed,
                      size_t bytes)
{
    unsigned tree = (unsigned)take(input, 1), level = (unsigned)take(input, 1);
    uint64_t number = take(input, 1), position = take(input, 2);
    size_t offset = take(input, 2), head = sealed ? FORMAT_PAGE_HEAD_BYTES : 0;
    struct id128 layer = fuzz_layer(tree >> 4 & 3);
    struct page_blob *page = page_get(blobs, &layer, number);
    const uint8_t *data = take_bytes(input, &bytes);
    struct format_ref *refs;

    if (!page || head + offset + bytes > FORMAT_PAGE_BYTES) {
        return;
    }
    memcpy(page->bytes + head + offset, data, bytes);
    if (!sealed) {
        return;
    }
    refs = (void *)(page->bytes + FORMAT_PAGE_HEAD_BYTES);
    for (uint32_t i = 0; level && i < FORMAT_REFS_PER_PAGE; i++) {
        if (refs[i].number) {
            reference_seal(blobs, &refs[i]);
        }
    }
    page_seal(page->bytes, (enum format_tree_kind)(tree & 15), level, position,
              &layer, number);
}

static struct journal_blob *journal_get(struct blobs *blobs, uint64_t epoch)
{
    struct journal_blob *journal;

    for (guint i = 0; i < blobs->journals->len; i++) {
        journal = blobs->journals->pdata[i];
        if (journal->epoch == epoch) {
            return journal;
        }
    }
    journal = g_new0(struct journal_blob, 1);
    journal->epoch = epoch;
    journal->records = g_byte_array_new();
    g_ptr_array_add(blobs->journals, journal);
    return journal;
}

static void record_seal(struct format_record *record, uint64_t epoch,
                        size_t bytes)
{
    struct id128 id = fuzz_volume();

    record->magic = GUINT32_TO_BE(FORMAT_RECORD_MAGIC);
    record->bytes = GUINT32_TO_BE((uint32_t)bytes);
    record->epoch = GUINT64_TO_BE(epoch);
    memcpy(record->id, id.bytes, sizeof(record->id));
    fuzz_seal(record, bytes, offsetof(struct format_record, crc));
}

static void take_record(struct blobs *blobs, struct input *input, bool sealed,
                        size_t bytes)
{
    uint64_t epoch = take(input, 8);
    struct journal_blob *journal = journal_get(blobs, epoch);
    const uint8_t *data = take_bytes(input, &bytes);
    guint start = journal->records->len;
    size_t length = (bytes + FORMAT_RECORD_ALIGN - 1) / FORMAT_RECORD_ALIGN *
                    FORMAT_RECORD_ALIGN;

    if (!length) {
        return;
    }
    g_byte_array_set_size(journal->records, (guint)(start + length));
    memset(journal->records->data + start, 0, length);
    memcpy(journal->records->data + start, data, bytes);
    if (sealed) {
        record_seal((void *)(journal->records->data + start), epoch, length);
    }
}

static void take_object(struct blobs *blobs, struct input *input)
{
    struct store_object object = {
        STORE_BLOCK, fuzz_layer((unsigned)take(input, 1) & 3),
        take(input, 1),
    };

    g_array_append_val(blobs->objects, object);
}

static void header_seal(struct blobs *blobs)
{
    struct format_header *header = (void *)blobs->header;
    struct id128 id = fuzz_volume();

    if (blobs->header_bytes < sizeof(*header)) {
        return;
    }
    memcpy(header->id, id.bytes, sizeof(header->id));
    memcpy(header->magic, FORMAT_HEADER_MAGIC, sizeof(header->magic));
    header->bytes = GUINT32_TO_BE((uint32_t)blobs->header_bytes);
    reference_seal(blobs, &header->entries.root);
    reference_seal(blobs, &header->present.root);
    reference_seal(blobs, &header->layers.root);
    fuzz_seal(blobs->header, blobs->header_bytes,
              offsetof(struct format_header, crc));
}

static void take_part(struct blobs *blobs, struct input *input, bool sealed)
{
    unsigned kind = (unsigned)take(input, 1) % BLOB_KINDS;
    size_t bytes = take(input, 2);

    switch ((enum blob_kind)kind) {
    case BLOB_PAGE:
        take_page(blobs, input, sealed, bytes);
        return;
    case BLOB_RECORD:
        take_record(blobs, input, sealed, bytes);
        return;
    case BLOB_OBJECT:
        take_object(blobs, input);
        return;
    case BLOB_HEADER:
        replace(&blobs->header, &blobs->header_bytes,
                take_bytes(input, &bytes), bytes);
        return;
    case BLOB_NAME:
        replace(&blobs->name, &blobs->name_bytes, take_bytes(input, &bytes),
                bytes);
        return;
    case BLOB_INTENT:
        replace(&blobs->intent, &blobs->intent_bytes,
                take_bytes(input, &bytes), bytes);
        return;
    case BLOB_KINDS:
        break;
    }
    g_assert_not_reached();
}

void blobs_take(struct blobs *blobs, struct input *input, bool sealed)
{
    *blobs = (struct blobs){
        .pages = g_ptr_array_new_with_free_func(g_free),
        .journals = g_ptr_array_new_with_free_func(journal_free),
        .objects = g_array_new(false, false, sizeof(struct store_object)),
    };
    while (input->left) {
        take_part(blobs, input, sealed);
    }
    if (sealed) {
        header_seal(blobs);
        fuzz_seal(blobs->name, blobs->name_bytes,
                  offsetof(struct format_name, crc));
        fuzz_seal(blobs->intent, blobs->intent_bytes,
                  offsetof(struct format_intent, crc));
    }
}

void blobs_free(struct blobs *blobs)
{
    g_ptr_array_unref(blobs->pages);
    g_ptr_array_unref(blobs->journals);
    g_array_unref(blobs->objects);
    g_free(blobs->header);
    g_free(blobs->name);
    g_free(blobs->intent);
}

/* --- Storing -------------------------------------------------------------------- */

static void store_records(const struct blobs *blobs, struct store *store)
{
    struct store_record header = { STORE_HEADER, fuzz_volume(), NULL };
    struct store_record intent = { STORE_INTENT, fuzz_volume(), NULL };
    struct store_record name = { .kind = STORE_NAME, .text = "v" };

    if (blobs->header) {
        fuzz_put(store, &header, blobs->header, blobs->header_bytes);
    }
    if (blobs->intent) {
        fuzz_put(store, &intent, blobs->intent, blobs->intent_bytes);
    }
    if (blobs->name) {
        fuzz_put(store, &name, blobs->name, blobs->name_bytes);
    }
}

void blobs_store(const struct blobs *blobs, struct store *store)
{
    for (guint i = 0; i < blobs->pages->len; i++) {
        const struct page_blob *page = blobs->pages->pdata[i];
        struct store_object object = { STORE_PAGE, page->layer,
                                       page->number };

        fuzz_write(store, &object, 0, page->bytes, FORMAT_PAGE_BYTES);
    }
    for (guint i = 0; i < blobs->journals->len; i++) {
        const struct journal_blob *journal = blobs->journals->pdata[i];
        struct store_object object = { STORE_JOURNAL, fuzz_volume(),
                                       journal->epoch };

        fuzz_write(store, &object, 0, journal->records->data,
                   journal->records->len);
    }
    for (guint i = 0; i < blobs->objects->len; i++) {
        fuzz_write(store,
                   &g_array_index(blobs->objects, struct store_object, i), 0,
                   "x", 1);
    }
    store_records(blobs, store);
}

/* --- Seeds ------------------------------------------------------------------------ */

struct writer {
    GByteArray *out;
    struct store *store;
    struct store_queue *queue;
    struct id128 id;
    struct map_header header;
};

static void write_number(struct writer *writer, uint64_t value, size_t bytes)
{
    while (bytes--) {
        uint8_t byte = (uint8_t)(value >> (8 * bytes));

        g_byte_array_append(writer->out, &byte, 1);
    }
}

/* The layers get the names that inputs know. */
static void rename_layer(const struct writer *writer, uint8_t layer[16])
{
    struct id128 known = fuzz_layer(0);

    if (!memcmp(layer, writer->header.current_layer_id.bytes, 16)) {
        memcpy(layer, known.bytes, 16);
    }
}

static void write_page(struct writer *writer, uint64_t number)
{
    g_autofree uint8_t *bytes = g_malloc0(FORMAT_PAGE_BYTES);
    const struct format_page_head *head = (const void *)bytes;
    uint8_t *body = bytes + FORMAT_PAGE_HEAD_BYTES;
    struct iovec iov = { bytes, FORMAT_PAGE_BYTES };
    struct store_request request = {
        .op = STORE_READ,
        .object = { STORE_PAGE, writer->header.current_layer_id, number },
        .length_bytes = FORMAT_PAGE_BYTES,
        .iov = &iov,
        .iov_count = 1,
    };
    size_t first = 0, end = FORMAT_PAGE_BODY_BYTES;

    g_assert_cmpint(store_run(writer->queue, &request), ==, 0);
    while (first < end && !body[first]) {
        first++;
    }
    while (end > first && !body[end - 1]) {
        end--;
    }
    for (struct format_ref *ref = (void *)body; head->level &&
         (uint8_t *)(ref + 1) <= body + end + sizeof(*ref) - 1; ref++) {
        rename_layer(writer, ref->layer);
    }
    write_number(writer, BLOB_PAGE, 1);
    write_number(writer, end - first, 2);
    write_number(writer, head->tree, 1);
    write_number(writer, head->level, 1);
    write_number(writer, number, 1);
    write_number(writer, GUINT64_FROM_BE(head->position), 2);
    write_number(writer, first, 2);
    g_byte_array_append(writer->out, body + first, (guint)(end - first));
}

static int collect_number(uint64_t number, uint64_t size_bytes, void *opaque)
{
    g_array_append_val((GArray *)opaque, number);
    return 0;
}

static gint compare_numbers(gconstpointer a, gconstpointer b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* In order of their numbers, children come before their parents. */
static void write_pages(struct writer *writer)
{
    g_autoptr(GArray) numbers = g_array_new(false, false, sizeof(uint64_t));

    writer->store->driver->list_sizes(writer->store, STORE_PAGE,
                                      &writer->header.current_layer_id,
                                      collect_number, numbers, NULL);
    g_array_sort(numbers, compare_numbers);
    for (guint i = 0; i < numbers->len; i++) {
        write_page(writer, g_array_index(numbers, uint64_t, i));
    }
}

/* The records as they are in use: with less padding. */
static int write_journal(uint64_t epoch, uint64_t size_bytes, void *opaque)
{
    struct writer *writer = opaque;
    g_autofree uint8_t *bytes = g_malloc0(size_bytes);
    struct iovec iov = { bytes, size_bytes };
    struct store_request request = {
        .op = STORE_READ,
        .object = { STORE_JOURNAL, writer->id, epoch },
        .length_bytes = size_bytes,
        .iov = &iov,
        .iov_count = 1,
    };

    g_assert_cmpint(store_run(writer->queue, &request), ==, 0);
    for (size_t at = 0; at < size_bytes;) {
        const struct format_record *record = (const void *)(bytes + at);
        size_t used = sizeof(*record) + GUINT32_FROM_BE(record->item_bytes);

        write_number(writer, BLOB_RECORD, 1);
        write_number(writer, used, 2);
        write_number(writer, epoch, 8);
        g_byte_array_append(writer->out, bytes + at, (guint)used);
        at += MAX(GUINT32_FROM_BE(record->bytes), FORMAT_RECORD_ALIGN);
    }
    return 0;
}

static int write_object(uint64_t number, uint64_t size_bytes, void *opaque)
{
    struct writer *writer = opaque;

    write_number(writer, BLOB_OBJECT, 1);
    write_number(writer, 0, 3);
    write_number(writer, number, 1);
    return 0;
}

static void write_header(struct writer *writer)
{
    struct map_header *header = &writer->header;
    g_autoptr(GBytes) value = NULL;
    struct map_tree *trees[] = { &header->entries, &header->present,
                                 &header->layers };
    gsize bytes;
    const void *data;

    for (size_t i = 0; i < G_N_ELEMENTS(trees); i++) {
        rename_layer(writer, trees[i]->root.layer.bytes);
    }
    rename_layer(writer, header->current_layer_id.bytes);
    value = header_encode(header);
    data = g_bytes_get_data(value, &bytes);
    write_number(writer, BLOB_HEADER, 1);
    write_number(writer, bytes, 2);
    g_byte_array_append(writer->out, data, (guint)bytes);
}

static void write_name(struct writer *writer)
{
    struct id128 id = fuzz_volume();
    g_autoptr(GBytes) value = name_encode(&id);
    gsize bytes;
    const void *data = g_bytes_get_data(value, &bytes);

    write_number(writer, BLOB_NAME, 1);
    write_number(writer, bytes, 2);
    g_byte_array_append(writer->out, data, (guint)bytes);
}

GByteArray *blobs_of(struct store *store, const struct id128 *id,
                     unsigned modes)
{
    struct writer writer = { g_byte_array_new(), store, NULL, *id, { 0 } };
    const struct id128 *layer = &writer.header.current_layer_id;
    int rc = map_read_header(store, id, false, &writer.header, NULL);

    g_assert_cmpint(rc, ==, 0);
    rc = store_queue_open(store, STORE_QUEUE_MAY_BLOCK, &writer.queue, NULL);
    g_assert_cmpint(rc, ==, 0);
    write_number(&writer, modes, 1);
    write_pages(&writer);
    store->driver->list_sizes(store, STORE_JOURNAL, id, write_journal,
                              &writer, NULL);
    store->driver->list_sizes(store, STORE_BLOCK, layer, write_object,
                              &writer, NULL);
    write_header(&writer);
    write_name(&writer);
    header_clear(&writer.header);
    store_queue_close(writer.queue);
    return writer.out;
}
