/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Headers: what decodes is encoded to the same bytes, but for reserved ones,
 * which are not looked at and written as zeroes; else it is refused.
 */
#include "fuzz.h"

#include <string.h>

const size_t fuzz_memory_base = 128 << 10, fuzz_memory_factor = 16;

enum { MODE_SEAL = 1, MODE_WRITE = 2, MODE_ID = 4 };

/* Frame and id as they must be. */
static void header_frame(uint8_t *data, size_t bytes, unsigned modes)
{
    struct format_header *header = (void *)data;
    struct id128 id = fuzz_volume();

    if (bytes < sizeof(*header)) {
        return;
    }
    if (modes & MODE_ID) {
        memcpy(header->id, id.bytes, sizeof(id.bytes));
        memcpy(header->magic, FORMAT_HEADER_MAGIC, sizeof(header->magic));
    }
    if (modes & MODE_SEAL) {
        header->bytes = GUINT32_TO_BE((uint32_t)bytes);
        fuzz_seal(data, bytes, offsetof(struct format_header, crc));
    }
}

static void zero_reference(struct format_tree *tree)
{
    tree->root.reserved = 0;
    tree->reserved = 0;
}

/* The same header with zeroes for what is reserved. */
static GBytes *without_reserved(const uint8_t *data, size_t bytes)
{
    uint8_t *copy = g_memdup2(data, bytes);
    struct format_header *header = (void *)copy;

    header->reserved = 0;
    zero_reference(&header->entries);
    zero_reference(&header->present);
    zero_reference(&header->layers);
    zero_reference(&header->vmstate_entries);
    zero_reference(&header->vmstate_present);
    memset(header->reserved2, 0, sizeof(header->reserved2));
    fuzz_seal(copy, bytes, offsetof(struct format_header, crc));
    return g_bytes_new_take(copy, bytes);
}

static void check_decoded(struct map_header *header, const uint8_t *data,
                          size_t bytes)
{
    g_autoptr(GBytes) expected = without_reserved(data, bytes);
    g_autoptr(GBytes) encoded = header_encode(header);
    g_autofree char *tag = header_tag(header, "description");

    g_assert(g_bytes_equal(expected, encoded));
    g_assert(!tag || strlen(tag) < bytes);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned modes = (unsigned)take(&input, 1);
    size_t length = input.left;
    g_autofree uint8_t *copy =
        g_memdup2(take_bytes(&input, &length), length);
    g_autoptr(GBytes) value = NULL;
    struct map_header header = { 0 };
    struct id128 id = fuzz_volume();
    GError *error = NULL;
    int rc;

    header_frame(copy, length, modes);
    value = g_bytes_new_static(copy, length);
    rc = header_decode(value, &id, modes & MODE_WRITE, &header, &error);
    expect_error(rc, error);
    if (rc == 0) {
        check_decoded(&header, copy, length);
        header_clear(&header);
    } else {
        g_assert(!header.fields);
    }
}

static struct map_header example(void)
{
    return (struct map_header){
        .flags = FORMAT_HEADER_CLEAN,
        .id = fuzz_volume(),
        .generation = 7,
        .size_bytes = 10 << 20,
        .object_bytes = 4 << 20,
        .block_bytes = 4096,
        .object_count = 3,
        .journal_epoch = 2,
        .journal_sequence = 5,
        .current_layer = 2,
        .next_layer = 3,
        .current_layer_id = fuzz_layer(0),
        .next_page = 9,
        .created_ns = 1700000000000000000,
        .entries = { { fuzz_layer(0), 4, 0x12345678 }, 1 },
        .present = { { fuzz_layer(1), 5, 0x9abcdef0 }, 2 },
        .layers = { { fuzz_layer(0), 6, 0x13572468 }, 1 },
    };
}

static void put_header(void (*put)(const char *, const void *, size_t),
                       const char *name, unsigned modes,
                       const struct map_header *header)
{
    g_autoptr(GBytes) value = header_encode(header);
    g_autoptr(GByteArray) seed = g_byte_array_new();
    uint8_t byte = (uint8_t)modes;
    gsize bytes;
    const void *data = g_bytes_get_data(value, &bytes);

    g_byte_array_append(seed, &byte, 1);
    g_byte_array_append(seed, data, (guint)bytes);
    put(name, seed->data, seed->len);
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    struct map_header header = example();

    put_header(put, "sealed", MODE_SEAL | MODE_WRITE | MODE_ID, &header);
    put_header(put, "raw", 0, &header);
    header_add_tag(&header, "description", "a disk");
    header_add_tag(&header, "d", "");
    put_header(put, "tags", MODE_SEAL | MODE_ID, &header);
    header.features_readonly = 4;
    put_header(put, "feature", MODE_SEAL | MODE_WRITE, &header);
    header.features_incompatible = 2;
    put_header(put, "incompatible", MODE_SEAL, &header);
    header_clear(&header);
}
