/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Encoding and checking of headers, page heads and names.  No I/O: what comes
 * in here may be any bytes at all, what goes out is either valid or an error
 * that says what is wrong.
 */
#include "mapper/format.h"

#include "base/crc32c.h"
#include "base/error.h"

#include <errno.h>
#include <string.h>

uint32_t format_crc(const void *data, size_t bytes, size_t crc_offset)
{
    static const uint8_t zero[4];
    const uint8_t *start = data;
    size_t rest = crc_offset + sizeof(zero);
    uint32_t crc;

    g_assert(rest <= bytes);
    crc = crc32c(0, start, crc_offset);
    crc = crc32c(crc, zero, sizeof(zero));
    return crc32c(crc, start + rest, bytes - rest);
}

/* --- References and trees ---------------------------------------------------- */

bool ref_is_null(const struct map_ref *ref)
{
    return ref->number == 0;
}

void ref_encode(struct format_ref *bytes, const struct map_ref *ref)
{
    memset(bytes, 0, sizeof(*bytes));
    memcpy(bytes->layer, ref->layer.bytes, sizeof(bytes->layer));
    bytes->number = GUINT64_TO_BE(ref->number);
    bytes->crc = GUINT32_TO_BE(ref->crc);
}

struct map_ref ref_decode(const struct format_ref *bytes)
{
    struct map_ref ref = {
        .number = GUINT64_FROM_BE(bytes->number),
        .crc = GUINT32_FROM_BE(bytes->crc),
    };

    memcpy(ref.layer.bytes, bytes->layer, sizeof(bytes->layer));
    return ref;
}

static void tree_encode(struct format_tree *bytes, const struct map_tree *tree)
{
    ref_encode(&bytes->root, &tree->root);
    bytes->height = GUINT32_TO_BE(tree->height);
    bytes->reserved = 0;
}

static struct map_tree tree_decode(const struct format_tree *bytes)
{
    return (struct map_tree){
        .root = ref_decode(&bytes->root),
        .height = GUINT32_FROM_BE(bytes->height),
    };
}

static bool tree_is_valid(const struct map_tree *tree)
{
    return tree->height <= FORMAT_TREE_HEIGHT_MAX &&
           (tree->height > 0 || ref_is_null(&tree->root));
}

/* --- Headers ------------------------------------------------------------------- */

void header_clear(struct map_header *header)
{
    g_clear_pointer(&header->fields, g_bytes_unref);
}

struct map_header header_copy(const struct map_header *header)
{
    struct map_header copy = *header;

    if (copy.fields) {
        g_bytes_ref(copy.fields);
    }
    return copy;
}

static void header_encode_fixed(const struct map_header *header,
                                struct format_header *bytes)
{
    memcpy(bytes->magic, FORMAT_HEADER_MAGIC, sizeof(bytes->magic));
    bytes->version = GUINT16_TO_BE(FORMAT_VERSION);
    bytes->flags = GUINT32_TO_BE(header->flags);
    bytes->features_compatible = GUINT64_TO_BE(header->features_compatible);
    bytes->features_readonly = GUINT64_TO_BE(header->features_readonly);
    bytes->features_incompatible =
        GUINT64_TO_BE(header->features_incompatible);
    memcpy(bytes->id, header->id.bytes, sizeof(bytes->id));
    bytes->generation = GUINT64_TO_BE(header->generation);
    bytes->size_bytes = GUINT64_TO_BE(header->size_bytes);
    bytes->shrink_bytes = GUINT64_TO_BE(header->shrink_bytes);
    bytes->object_bytes = GUINT32_TO_BE(header->object_bytes);
    bytes->block_bytes = GUINT32_TO_BE(header->block_bytes);
    bytes->object_count = GUINT64_TO_BE(header->object_count);
    bytes->journal_epoch = GUINT64_TO_BE(header->journal_epoch);
    bytes->journal_sequence = GUINT64_TO_BE(header->journal_sequence);
    bytes->current_layer = GUINT32_TO_BE(header->current_layer);
    bytes->next_layer = GUINT32_TO_BE(header->next_layer);
    memcpy(bytes->current_layer_id, header->current_layer_id.bytes,
           sizeof(bytes->current_layer_id));
    bytes->next_page = GUINT64_TO_BE(header->next_page);
    bytes->created_ns = GUINT64_TO_BE((uint64_t)header->created_ns);
    bytes->trash_expiry_ns = GUINT64_TO_BE(header->trash_expiry_ns);
    tree_encode(&bytes->entries, &header->entries);
    tree_encode(&bytes->present, &header->present);
    tree_encode(&bytes->layers, &header->layers);
    bytes->vmstate_bytes = GUINT64_TO_BE(header->vmstate_bytes);
    tree_encode(&bytes->vmstate_entries, &header->vmstate_entries);
    tree_encode(&bytes->vmstate_present, &header->vmstate_present);
    memcpy(bytes->parent_volume, header->parent_volume.bytes,
           sizeof(bytes->parent_volume));
    memcpy(bytes->parent_snapshot, header->parent_snapshot.bytes,
           sizeof(bytes->parent_snapshot));
}

GBytes *header_encode(const struct map_header *header)
{
    gsize field_bytes = header->fields ? g_bytes_get_size(header->fields) : 0;
    gsize bytes = FORMAT_HEADER_BYTES + field_bytes;
    struct format_header *value = g_malloc0(bytes);

    g_assert(bytes <= FORMAT_HEADER_BYTES_MAX);
    header_encode_fixed(header, value);
    if (field_bytes) {
        memcpy(value + 1, g_bytes_get_data(header->fields, NULL), field_bytes);
    }
    value->bytes = GUINT32_TO_BE((uint32_t)bytes);
    value->crc = GUINT32_TO_BE(
        format_crc(value, bytes, offsetof(struct format_header, crc)));
    return g_bytes_new_take(value, bytes);
}

static void header_decode_fixed(const struct format_header *bytes,
                                struct map_header *header)
{
    *header = (struct map_header){
        .flags = GUINT32_FROM_BE(bytes->flags),
        .features_compatible = GUINT64_FROM_BE(bytes->features_compatible),
        .features_readonly = GUINT64_FROM_BE(bytes->features_readonly),
        .features_incompatible = GUINT64_FROM_BE(bytes->features_incompatible),
        .generation = GUINT64_FROM_BE(bytes->generation),
        .size_bytes = GUINT64_FROM_BE(bytes->size_bytes),
        .shrink_bytes = GUINT64_FROM_BE(bytes->shrink_bytes),
        .object_bytes = GUINT32_FROM_BE(bytes->object_bytes),
        .block_bytes = GUINT32_FROM_BE(bytes->block_bytes),
        .object_count = GUINT64_FROM_BE(bytes->object_count),
        .journal_epoch = GUINT64_FROM_BE(bytes->journal_epoch),
        .journal_sequence = GUINT64_FROM_BE(bytes->journal_sequence),
        .current_layer = GUINT32_FROM_BE(bytes->current_layer),
        .next_layer = GUINT32_FROM_BE(bytes->next_layer),
        .next_page = GUINT64_FROM_BE(bytes->next_page),
        .created_ns = (int64_t)GUINT64_FROM_BE(bytes->created_ns),
        .trash_expiry_ns = GUINT64_FROM_BE(bytes->trash_expiry_ns),
        .entries = tree_decode(&bytes->entries),
        .present = tree_decode(&bytes->present),
        .layers = tree_decode(&bytes->layers),
        .vmstate_bytes = GUINT64_FROM_BE(bytes->vmstate_bytes),
        .vmstate_entries = tree_decode(&bytes->vmstate_entries),
        .vmstate_present = tree_decode(&bytes->vmstate_present),
    };
    memcpy(header->id.bytes, bytes->id, sizeof(bytes->id));
    memcpy(header->current_layer_id.bytes, bytes->current_layer_id,
           sizeof(bytes->current_layer_id));
    memcpy(header->parent_volume.bytes, bytes->parent_volume,
           sizeof(bytes->parent_volume));
    memcpy(header->parent_snapshot.bytes, bytes->parent_snapshot,
           sizeof(bytes->parent_snapshot));
}

/* Magic, version, length, CRC: whether the rest can be believed at all. */
static int header_check_frame(const struct format_header *bytes, gsize size,
                              GError **error)
{
    uint32_t crc;

    if (size < FORMAT_HEADER_BYTES) {
        return error_set(error, EUCLEAN, "header has %zu bytes, not %u",
                         size, FORMAT_HEADER_BYTES);
    }
    if (memcmp(bytes->magic, FORMAT_HEADER_MAGIC, sizeof(bytes->magic))) {
        return error_set(error, EUCLEAN, "header has no magic \"%s\"",
                         FORMAT_HEADER_MAGIC);
    }
    if (GUINT32_FROM_BE(bytes->bytes) != size ||
        size > FORMAT_HEADER_BYTES_MAX) {
        return error_set(error, EUCLEAN,
                         "header says it has %u bytes and has %zu, of at most "
                         "%u", GUINT32_FROM_BE(bytes->bytes), size,
                         FORMAT_HEADER_BYTES_MAX);
    }
    crc = format_crc(bytes, size, offsetof(struct format_header, crc));
    if (crc != GUINT32_FROM_BE(bytes->crc)) {
        return error_set(error, EUCLEAN,
                         "header has CRC32C %08x where %08x was expected",
                         GUINT32_FROM_BE(bytes->crc), crc);
    }
    if (GUINT16_FROM_BE(bytes->version) != FORMAT_VERSION) {
        return error_set(error, EOPNOTSUPP,
                         "header has format version %u; this program knows "
                         "%u: use a newer one",
                         GUINT16_FROM_BE(bytes->version), FORMAT_VERSION);
    }
    return 0;
}

/* No feature bits are taken yet: each that is set is unknown. */
static int header_check_features(const struct map_header *header,
                                 bool for_write, GError **error)
{
    if (header->features_incompatible) {
        return error_set(error, EOPNOTSUPP,
                         "it uses incompatible features 0x%" G_GINT64_MODIFIER
                         "x that this program doesn't know: use a newer one",
                         header->features_incompatible);
    }
    if (header->features_readonly && for_write) {
        return error_set(error, EROFS,
                         "it uses features 0x%" G_GINT64_MODIFIER
                         "x that this program may not write: open it "
                         "read-only or use a newer one",
                         header->features_readonly);
    }
    return 0;
}

static bool is_power_of_two(uint64_t value)
{
    return value && !(value & (value - 1));
}

/* Counted from 1 on.  What nobody can have counted to would overflow soon. */
static bool number_is_possible(uint64_t number)
{
    return number && number <= FORMAT_NUMBER_MAX;
}

/* Every number that later code counts on. */
static const char *header_find_nonsense(const struct map_header *header)
{
    if (header->size_bytes % 512 || header->size_bytes > UINT64_C(1) << 50 ||
        header->shrink_bytes % 512 ||
        header->shrink_bytes > UINT64_C(1) << 50) {
        return "size";
    }
    if (!is_power_of_two(header->object_bytes) ||
        header->object_bytes < 1u << 16 || header->object_bytes > 1u << 26) {
        return "object size";
    }
    if (header->block_bytes != MAX(header->object_bytes / 1024, 4096u)) {
        return "block size";
    }
    if (!header->current_layer || header->next_layer <= header->current_layer ||
        id128_is_zero(&header->current_layer_id)) {
        return "current layer";
    }
    if (!number_is_possible(header->next_page) ||
        !number_is_possible(header->journal_epoch) ||
        !number_is_possible(header->journal_sequence)) {
        return "page or journal number";
    }
    if (!tree_is_valid(&header->entries) || !tree_is_valid(&header->present) ||
        !tree_is_valid(&header->layers) ||
        !tree_is_valid(&header->vmstate_entries) ||
        !tree_is_valid(&header->vmstate_present)) {
        return "tree";
    }
    return NULL;
}

/* Walk the fields; false when one leaves the `bytes` there are. */
static bool fields_are_valid(const uint8_t *data, gsize bytes)
{
    gsize at = 0;

    while (at < bytes) {
        const struct format_field *field = (const void *)(data + at);
        gsize value_bytes;

        if (bytes - at < sizeof(*field)) {
            return false;
        }
        value_bytes = GUINT32_FROM_BE(field->bytes);
        at += sizeof(*field);
        if (value_bytes > FORMAT_HEADER_BYTES_MAX ||
            (value_bytes + 7) / 8 * 8 > bytes - at) {
            return false;
        }
        at += (value_bytes + 7) / 8 * 8;
    }
    return true;
}

int header_decode(GBytes *value, const struct id128 *id, bool for_write,
                  struct map_header *header, GError **error)
{
    gsize size;
    const struct format_header *bytes = g_bytes_get_data(value, &size);
    const char *nonsense;
    int rc;

    rc = header_check_frame(bytes, size, error);
    if (rc < 0) {
        return rc;
    }
    header_decode_fixed(bytes, header);
    rc = header_check_features(header, for_write, error);
    if (rc < 0) {
        return rc;
    }
    if (!id128_equal(&header->id, id)) {
        return error_set(error, EUCLEAN, "header belongs to another map");
    }
    nonsense = header_find_nonsense(header);
    if (nonsense || !fields_are_valid((const void *)(bytes + 1),
                                      size - sizeof(*bytes))) {
        return error_set(error, EUCLEAN, "header has an impossible %s",
                         nonsense ? nonsense : "field");
    }
    if (size > sizeof(*bytes)) {
        header->fields = g_bytes_new_from_bytes(value, sizeof(*bytes),
                                                size - sizeof(*bytes));
    }
    return 0;
}

char *header_tag(const struct map_header *header, const char *key)
{
    gsize bytes = 0, at = 0, key_bytes = strlen(key);
    const uint8_t *data =
        header->fields ? g_bytes_get_data(header->fields, &bytes) : NULL;

    while (at < bytes) {
        const struct format_field *field = (const void *)(data + at);
        gsize value_bytes = GUINT32_FROM_BE(field->bytes);
        const char *text = (const char *)(field + 1);

        if (GUINT16_FROM_BE(field->type) == FORMAT_FIELD_TAG &&
            value_bytes > key_bytes && !memcmp(text, key, key_bytes) &&
            text[key_bytes] == '=') {
            return g_strndup(text + key_bytes + 1,
                             value_bytes - key_bytes - 1);
        }
        at += sizeof(*field) + (value_bytes + 7) / 8 * 8;
    }
    return NULL;
}

void header_add_tag(struct map_header *header, const char *key,
                    const char *value)
{
    g_autofree char *text = g_strdup_printf("%s=%s", key, value);
    struct format_field field = {
        .type = GUINT16_TO_BE(FORMAT_FIELD_TAG),
        .bytes = GUINT32_TO_BE((uint32_t)strlen(text)),
    };
    GByteArray *fields = header->fields
                             ? g_bytes_unref_to_array(header->fields)
                             : g_byte_array_new();

    g_byte_array_append(fields, (const void *)&field, sizeof(field));
    g_byte_array_append(fields, (const void *)text, strlen(text));
    while (fields->len % 8) {
        g_byte_array_append(fields, (const void *)"", 1);
    }
    header->fields = g_byte_array_free_to_bytes(fields);
}

/* --- Pages --------------------------------------------------------------------- */

uint32_t page_seal(void *page, enum format_tree_kind tree, unsigned level,
                   uint64_t position, const struct id128 *layer,
                   uint64_t number)
{
    struct format_page_head *head = page;
    uint32_t crc;

    memset(head, 0, sizeof(*head));
    head->magic = GUINT32_TO_BE(FORMAT_PAGE_MAGIC);
    head->version = GUINT16_TO_BE(FORMAT_VERSION);
    head->tree = (uint8_t)tree;
    head->level = (uint8_t)level;
    memcpy(head->layer, layer->bytes, sizeof(head->layer));
    head->number = GUINT64_TO_BE(number);
    head->position = GUINT64_TO_BE(position);
    crc = format_crc(page, FORMAT_PAGE_BYTES,
                     offsetof(struct format_page_head, crc));
    head->crc = GUINT32_TO_BE(crc);
    return crc;
}

int page_check(const void *page, enum format_tree_kind tree, unsigned level,
               uint64_t position, const struct map_ref *ref, GError **error)
{
    const struct format_page_head *head = page;
    uint32_t crc = format_crc(page, FORMAT_PAGE_BYTES,
                              offsetof(struct format_page_head, crc));

    if (GUINT32_FROM_BE(head->magic) != FORMAT_PAGE_MAGIC) {
        return error_set(error, EUCLEAN, "it has no page magic");
    }
    if (GUINT32_FROM_BE(head->crc) != crc) {
        return error_set(error, EUCLEAN,
                         "it has CRC32C %08x where %08x was expected",
                         GUINT32_FROM_BE(head->crc), crc);
    }
    if (GUINT16_FROM_BE(head->version) != FORMAT_VERSION) {
        return error_set(error, EOPNOTSUPP,
                         "it has format version %u; this program knows %u",
                         GUINT16_FROM_BE(head->version), FORMAT_VERSION);
    }
    if (crc != ref->crc || head->tree != tree || head->level != level ||
        GUINT64_FROM_BE(head->position) != position ||
        GUINT64_FROM_BE(head->number) != ref->number ||
        memcmp(head->layer, ref->layer.bytes, sizeof(head->layer))) {
        return error_set(error, EUCLEAN,
                         "another page, or an older one, stands in its place");
    }
    return 0;
}

/* --- Names --------------------------------------------------------------------- */

GBytes *name_encode(const struct id128 *id)
{
    struct format_name bytes = {
        .version = GUINT16_TO_BE(FORMAT_VERSION),
    };

    memcpy(bytes.magic, FORMAT_NAME_MAGIC, sizeof(bytes.magic));
    memcpy(bytes.id, id->bytes, sizeof(bytes.id));
    bytes.crc = GUINT32_TO_BE(format_crc(&bytes, sizeof(bytes),
                                         offsetof(struct format_name, crc)));
    return g_bytes_new(&bytes, sizeof(bytes));
}

int name_decode(GBytes *value, const char *name, struct id128 *id,
                GError **error)
{
    gsize size;
    const struct format_name *bytes = g_bytes_get_data(value, &size);

    if (size != sizeof(*bytes) ||
        memcmp(bytes->magic, FORMAT_NAME_MAGIC, sizeof(bytes->magic)) ||
        format_crc(bytes, size, offsetof(struct format_name, crc)) !=
            GUINT32_FROM_BE(bytes->crc)) {
        return error_set(error, EUCLEAN, "the name record of '%s' is damaged",
                         name);
    }
    if (GUINT16_FROM_BE(bytes->version) != FORMAT_VERSION) {
        return error_set(error, EOPNOTSUPP,
                         "the name record of '%s' has format version %u; this "
                         "program knows %u: use a newer one",
                         name, GUINT16_FROM_BE(bytes->version),
                         FORMAT_VERSION);
    }
    memcpy(id->bytes, bytes->id, sizeof(bytes->id));
    return 0;
}

/* --- Intents ------------------------------------------------------------------- */

GBytes *intent_encode(const struct id128 *id, const struct id128 *layer,
                      const char *name)
{
    struct format_intent bytes = {
        .version = GUINT16_TO_BE(FORMAT_VERSION),
    };

    memcpy(bytes.magic, FORMAT_INTENT_MAGIC, sizeof(bytes.magic));
    memcpy(bytes.id, id->bytes, sizeof(bytes.id));
    memcpy(bytes.layer, layer->bytes, sizeof(bytes.layer));
    g_strlcpy(bytes.name, name, sizeof(bytes.name));
    bytes.crc = GUINT32_TO_BE(format_crc(&bytes, sizeof(bytes),
                                         offsetof(struct format_intent, crc)));
    return g_bytes_new(&bytes, sizeof(bytes));
}

int intent_decode(GBytes *value, struct id128 *id, struct id128 *layer,
                  char **name, GError **error)
{
    gsize size;
    const struct format_intent *bytes = g_bytes_get_data(value, &size);

    if (size != sizeof(*bytes) ||
        memcmp(bytes->magic, FORMAT_INTENT_MAGIC, sizeof(bytes->magic)) ||
        format_crc(bytes, size, offsetof(struct format_intent, crc)) !=
            GUINT32_FROM_BE(bytes->crc)) {
        return error_set(error, EUCLEAN, "an intent record is damaged");
    }
    if (GUINT16_FROM_BE(bytes->version) != FORMAT_VERSION) {
        return error_set(error, EOPNOTSUPP,
                         "an intent record has format version %u; this "
                         "program knows %u: use a newer one",
                         GUINT16_FROM_BE(bytes->version), FORMAT_VERSION);
    }
    if (bytes->name[sizeof(bytes->name) - 1]) {
        return error_set(error, EUCLEAN, "an intent record's name has no end");
    }
    memcpy(id->bytes, bytes->id, sizeof(bytes->id));
    memcpy(layer->bytes, bytes->layer, sizeof(bytes->layer));
    *name = g_strdup(bytes->name);
    return 0;
}
