/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names and the records of names and intents: the rule for names is one,
 * whoever asks; a record that is taken is encoded to the same bytes but for
 * reserved ones; and finishing what an intent says never touches what belongs
 * to another volume.
 */
#include "fuzz.h"

#include "store/dir-internal.h"
#include "volume/volume.h"

#include <errno.h>
#include <string.h>

/* With a whole store, for what intents finish. */
const size_t fuzz_memory_base = 4 << 20, fuzz_memory_factor = 64;

enum { MODE_SEAL = 1, MODE_FRAME = 2, MODE_KIND = 12 };
enum { KIND_RULE = 0, KIND_NAME = 4, KIND_INTENT = 8, KIND_FINISH = 12 };

static void run_rule(struct input *input)
{
    g_autofree char *name = take_text(input);
    int rc = archip_name_check(name);

    g_assert((rc == 0) == (dir_name_is_safe(name) != 0));
    g_assert(rc == 0 || strlen(archip_error()) > 20);
    g_assert(rc < 0 || (!strchr(name, '/') && name[0] != '.'));
}

static GBytes *take_record(struct input *input, unsigned modes,
                           const char *magic, size_t size)
{
    size_t bytes = input->left;
    uint8_t *copy = g_memdup2(take_bytes(input, &bytes), bytes);

    if (modes & MODE_FRAME && bytes > size) {
        bytes = size;
    }
    if (modes & MODE_FRAME && bytes >= 8) {
        memcpy(copy, magic, 8);
    }
    if (modes & MODE_SEAL) {
        fuzz_seal(copy, bytes, 8);
    }
    return g_bytes_new_take(copy, bytes);
}

static void run_name(GBytes *value)
{
    gsize bytes;
    const struct format_name *record = g_bytes_get_data(value, &bytes);
    GError *error = NULL;
    struct id128 id;
    int rc = name_decode(value, "a-name", &id, &error);

    expect_error(rc, error);
    if (rc == 0) {
        g_autoptr(GBytes) again = name_encode(&id);
        const struct format_name *other = g_bytes_get_data(again, NULL);

        g_assert_cmpuint(bytes, ==, g_bytes_get_size(again));
        g_assert(!memcmp(record->id, other->id, sizeof(record->id)));
        g_assert_cmpuint(record->version, ==, other->version);
    }
}

static void run_intent(GBytes *value)
{
    const struct format_intent *record = g_bytes_get_data(value, NULL);
    g_autofree char *name = NULL;
    GError *error = NULL;
    struct id128 id, layer;
    int rc = intent_decode(value, &id, &layer, &name, &error);

    expect_error(rc, error);
    g_assert((rc == 0) == (name != NULL));
    if (rc == 0) {
        g_autoptr(GBytes) again = intent_encode(&id, &layer, name);
        const struct format_intent *other = g_bytes_get_data(again, NULL);

        g_assert(!memcmp(record->id, other->id, sizeof(record->id)));
        g_assert(!memcmp(record->layer, other->layer, sizeof(record->layer)));
        g_assert_cmpstr(record->name, ==, other->name);
    }
}

/* --- Finishing ---------------------------------------------------------------- */

static void put_intent(archip_store *store, const struct id128 *id,
                       GBytes *value)
{
    struct store_record record = { STORE_INTENT, *id, NULL };

    fuzz_put(store->store, &record, g_bytes_get_data(value, NULL),
             g_bytes_get_size(value));
}

static bool object_is_there(archip_store *store,
                            const struct store_object *object)
{
    uint64_t bytes;

    return store->store->driver->allocated(store->store, object, &bytes,
                                           NULL) == 0;
}

/* Another volume, "other", is there, with one object. */
static void run_finish(GBytes *value)
{
    struct id128 id = fuzz_volume(), other;
    struct store_object object = { STORE_BLOCK, { { 0 } }, 0 };
    struct map_header header;
    archip_store *store;
    GError *error = NULL;
    int rc;

    g_assert_cmpint(archip_store_open("memory:record", ARCHIP_STORE_CREATE,
                                      &store), ==, 0);
    g_assert_cmpint(archip_volume_create(store, "other", 1 << 20, NULL), ==,
                    0);
    g_assert_cmpint(volume_find(store, "other", &other, NULL), ==, 0);
    g_assert_cmpint(map_read_header(store->store, &other, false, &header,
                                    NULL), ==, 0);
    object.id = header.current_layer_id;
    header_clear(&header);
    fuzz_write(store->store, &object, 0, "data", 4);
    if (g_bytes_get_size(value) == sizeof(struct format_intent)) {
        /* The worst that a record under this id can say: the other's layer. */
        gsize bytes;
        struct format_intent *intent = g_bytes_unref_to_data(value, &bytes);

        if (intent->layer[0] == 'X') {
            memcpy(intent->layer, object.id.bytes, sizeof(intent->layer));
            memcpy(intent->id, other.bytes, sizeof(intent->id));
            fuzz_seal(intent, bytes, offsetof(struct format_intent, crc));
        }
        value = g_bytes_new_take(intent, bytes);
    }
    put_intent(store, &id, value);
    rc = volume_finish_intent(store, &id, &error);
    expect_error(rc, error);
    g_assert_cmpint(volume_find(store, "other", &other, NULL), ==, 0);
    g_assert(object_is_there(store, &object));
    fuzz_empty(store->store);
    archip_store_close(store);
    g_bytes_unref(value);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned modes = (unsigned)take(&input, 1);
    g_autoptr(GBytes) value = NULL;

    switch (modes & MODE_KIND) {
    case KIND_RULE:
        run_rule(&input);
        break;
    case KIND_NAME:
        value = take_record(&input, modes, FORMAT_NAME_MAGIC,
                            sizeof(struct format_name));
        run_name(value);
        break;
    case KIND_INTENT:
        value = take_record(&input, modes, FORMAT_INTENT_MAGIC,
                            sizeof(struct format_intent));
        run_intent(value);
        break;
    case KIND_FINISH:
        run_finish(take_record(&input, modes, FORMAT_INTENT_MAGIC,
                               sizeof(struct format_intent)));
        break;
    }
}

static void put_seed(void (*put)(const char *, const void *, size_t),
                     const char *name, unsigned modes, const void *data,
                     size_t bytes)
{
    g_autofree uint8_t *seed = g_malloc(bytes + 1);

    seed[0] = (uint8_t)modes;
    memcpy(seed + 1, data, bytes);
    put(name, seed, bytes + 1);
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    static const char *const names[] = { "disk1", "_", "a@b", "../up", ".x",
                                         "-x", "a.b+c-d_9" };
    struct id128 id = fuzz_volume(), layer = fuzz_layer(0), other;
    g_autoptr(GBytes) name = name_encode(&id);
    g_autoptr(GBytes) intent = intent_encode(&id, &layer, "disk1");
    g_autoptr(GBytes) worst = NULL;

    memset(&other, 'X', sizeof(other));
    worst = intent_encode(&id, &other, "gone");
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *file = g_strdup_printf("rule-%zu", i);

        put_seed(put, file, KIND_RULE, names[i], strlen(names[i]));
    }
    put_seed(put, "name", KIND_NAME | MODE_SEAL | MODE_FRAME,
             g_bytes_get_data(name, NULL), g_bytes_get_size(name));
    put_seed(put, "name-raw", KIND_NAME, g_bytes_get_data(name, NULL),
             g_bytes_get_size(name));
    put_seed(put, "intent", KIND_INTENT | MODE_SEAL | MODE_FRAME,
             g_bytes_get_data(intent, NULL), g_bytes_get_size(intent));
    put_seed(put, "intent-raw", KIND_INTENT, g_bytes_get_data(intent, NULL),
             g_bytes_get_size(intent));
    put_seed(put, "finish", KIND_FINISH | MODE_SEAL | MODE_FRAME,
             g_bytes_get_data(intent, NULL), g_bytes_get_size(intent));
    put_seed(put, "finish-other", KIND_FINISH | MODE_SEAL | MODE_FRAME,
             g_bytes_get_data(worst, NULL), g_bytes_get_size(worst));
}
