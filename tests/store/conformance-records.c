/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Conformance: records. */
#include "conformance.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int put(struct fixture *fixture, const struct store_record *record,
               const char *value, bool exclusive)
{
    return fixture->store->driver->put(fixture->store, record, value,
                                       strlen(value), exclusive, NULL);
}

static void check_value(struct fixture *fixture,
                        const struct store_record *record, const char *want)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) value = NULL;
    int result = fixture->store->driver->get(fixture->store, record, &value,
                                             &error);

    if (!want) {
        g_assert_cmpint(result, ==, -ENOENT);
        g_assert_cmpint(error->code, ==, ENOENT);
        return;
    }
    g_assert_no_error(error);
    g_assert_cmpint(result, ==, 0);
    g_assert_cmpmem(g_bytes_get_data(value, NULL), g_bytes_get_size(value),
                    want, strlen(want));
}

static void test_put_get(struct fixture *fixture)
{
    struct store_record records[] = {
        {.kind = STORE_HEADER, .id = fixture->layer},
        {.kind = STORE_NAME, .text = "a.volume_1+2-3"},
        {.kind = STORE_INTENT, .id = fixture->layer},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(records); i++) {
        g_autofree char *value = g_strdup_printf("value %zu", i);

        check_value(fixture, &records[i], NULL);
        g_assert_cmpint(put(fixture, &records[i], value, i % 2), ==, 0);
    }
    fixture_reopen(fixture);
    for (size_t i = 0; i < G_N_ELEMENTS(records); i++) {
        g_autofree char *value = g_strdup_printf("value %zu", i);

        check_value(fixture, &records[i], value);
        g_assert_cmpint(put(fixture, &records[i], "", false), ==, 0);
        check_value(fixture, &records[i], "");
    }
}

static void test_drop(struct fixture *fixture)
{
    struct store_record name = {.kind = STORE_NAME, .text = "x"};
    struct store_record header = {.kind = STORE_HEADER, .id = fixture->layer};
    const struct store_driver *driver = fixture->store->driver;

    g_assert_cmpint(driver->drop(fixture->store, &name, NULL), ==, 0);
    g_assert_cmpint(driver->drop(fixture->store, &header, NULL), ==, 0);
    g_assert_cmpint(put(fixture, &name, "1", false), ==, 0);
    g_assert_cmpint(put(fixture, &header, "2", false), ==, 0);
    g_assert_cmpint(driver->drop(fixture->store, &name, NULL), ==, 0);
    check_value(fixture, &name, NULL);
    check_value(fixture, &header, "2");
}

static void test_exclusive(struct fixture *fixture)
{
    struct store_record name = {.kind = STORE_NAME, .text = "x"};
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(put(fixture, &name, "first", true), ==, 0);
    g_assert_cmpint(fixture->store->driver->put(fixture->store, &name, "second",
                                                6, true, &error),
                    ==, -EEXIST);
    g_assert_cmpint(error->code, ==, EEXIST);
    check_value(fixture, &name, "first");
    g_assert_cmpint(put(fixture, &name, "third", false), ==, 0);
    check_value(fixture, &name, "third");
}

static void test_large(struct fixture *fixture)
{
    struct store_record header = {.kind = STORE_HEADER, .id = fixture->layer};
    uint8_t *data = make_buffer(STORE_RECORD_BYTES_MAX, 41);
    g_autoptr(GBytes) value = NULL;

    g_assert_cmpint(fixture->store->driver->put(fixture->store, &header, data,
                                                STORE_RECORD_BYTES_MAX, false,
                                                NULL), ==, 0);
    g_assert_cmpint(fixture->store->driver->get(fixture->store, &header, &value,
                                                NULL), ==, 0);
    g_assert_cmpmem(g_bytes_get_data(value, NULL), g_bytes_get_size(value),
                    data, STORE_RECORD_BYTES_MAX);
    free(data);
}

/* --- Listing -------------------------------------------------------------- */

static int note_name(const struct store_record *record, void *opaque)
{
    g_string_append_printf(opaque, "%s ", record->text);
    return strcmp(record->text, "stop") == 0 ? 7 : 0;
}

static void test_list_names(struct fixture *fixture)
{
    static const char *const names[] = {"b", "a", "Z", "_1", "a.b", "10", "9"};
    const struct store_driver *driver = fixture->store->driver;
    struct store_record record = {.kind = STORE_NAME};
    g_autoptr(GString) seen = g_string_new(NULL);

    g_assert_cmpint(driver->list(fixture->store, STORE_NAME, note_name, seen,
                                 NULL), ==, 0);
    g_assert_cmpstr(seen->str, ==, "");
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        record.text = names[i];
        g_assert_cmpint(put(fixture, &record, "x", true), ==, 0);
    }
    g_assert_cmpint(driver->list(fixture->store, STORE_NAME, note_name, seen,
                                 NULL), ==, 0);
    g_assert_cmpstr(seen->str, ==, "10 9 Z _1 a a.b b ");
    record.text = "stop";
    put(fixture, &record, "x", true);
    record.text = "zzz";
    put(fixture, &record, "x", true);
    g_string_truncate(seen, 0);
    g_assert_cmpint(driver->list(fixture->store, STORE_NAME, note_name, seen,
                                 NULL), ==, 7);
    g_assert_cmpstr(seen->str, ==, "10 9 Z _1 a a.b b stop ");
}

static int note_id(const struct store_record *record, void *opaque)
{
    g_array_append_val((GArray *)opaque, record->id);
    return 0;
}

static void check_ids(struct fixture *fixture, enum store_record_kind kind)
{
    g_autoptr(GArray) seen = g_array_new(FALSE, FALSE, sizeof(struct id128));
    struct store_record record = {.kind = kind};
    struct id128 ids[5];
    unsigned found = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
        record.id = ids[i] = id128_random();
        g_assert_cmpint(put(fixture, &record, "x", false), ==, 0);
    }
    g_assert_cmpint(fixture->store->driver->list(fixture->store, kind, note_id,
                                                 seen, NULL), ==, 0);
    g_assert_cmpuint(seen->len, ==, G_N_ELEMENTS(ids));
    for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
        for (guint k = 0; k < seen->len; k++) {
            found += id128_equal(&ids[i],
                                 &g_array_index(seen, struct id128, k));
        }
    }
    g_assert_cmpuint(found, ==, G_N_ELEMENTS(ids));
}

static void test_list_ids(struct fixture *fixture)
{
    struct store_lock *lock;
    struct store_owner me = {.owner = "test"};
    struct id128 bare = id128_random();

    /* A lock makes no header. */
    g_assert_cmpint(fixture->store->driver->lock(fixture->store, &bare,
                                                 STORE_LOCK_WRITE, &me, &lock,
                                                 NULL, NULL), ==, 0);
    check_ids(fixture, STORE_HEADER);
    check_ids(fixture, STORE_INTENT);
    lock->store->driver->unlock(lock);
}

/* --- At the same time ----------------------------------------------------- */

struct racer {
    struct fixture *fixture;
    struct store_record record;
    char value[32];
    int result;
};

static gpointer race_exclusive(gpointer opaque)
{
    struct racer *racer = opaque;

    racer->result = put(racer->fixture, &racer->record, racer->value, true);
    return NULL;
}

static void test_exclusive_race(struct fixture *fixture)
{
    for (int round = 0; round < 5; round++) {
        struct racer racers[6];
        GThread *threads[6];
        int winner = -1;
        char name[16];

        g_snprintf(name, sizeof(name), "name%d", round);
        for (int i = 0; i < 6; i++) {
            racers[i] = (struct racer){
                fixture, {.kind = STORE_NAME, .text = name}, "", 1};
            g_snprintf(racers[i].value, sizeof(racers[i].value), "racer %d", i);
            threads[i] = g_thread_new("racer", race_exclusive, &racers[i]);
        }
        for (int i = 0; i < 6; i++) {
            g_thread_join(threads[i]);
            if (racers[i].result == 0) {
                g_assert_cmpint(winner, ==, -1);
                winner = i;
            } else {
                g_assert_cmpint(racers[i].result, ==, -EEXIST);
            }
        }
        g_assert_cmpint(winner, >=, 0);
        check_value(fixture, &racers[0].record, racers[winner].value);
    }
}

struct replacer {
    struct fixture *fixture;
    int stop;
};

static gpointer replace_again(gpointer opaque)
{
    struct replacer *replacer = opaque;
    struct store_record header = {.kind = STORE_HEADER,
                                  .id = replacer->fixture->layer};
    g_autofree char *value = g_malloc(5001);

    for (char letter = 'a'; !g_atomic_int_get(&replacer->stop);
         letter = letter == 'z' ? 'a' : (char)(letter + 1)) {
        size_t bytes = letter % 2 ? 5000 : 100;

        memset(value, letter, bytes);
        value[bytes] = '\0';
        g_assert_cmpint(put(replacer->fixture, &header, value, false), ==, 0);
    }
    return NULL;
}

/* A reader sees one value or another, whole. */
static void test_atomic(struct fixture *fixture)
{
    struct store_record header = {.kind = STORE_HEADER, .id = fixture->layer};
    struct replacer replacer = {fixture, 0};
    GThread *thread;

    g_assert_cmpint(put(fixture, &header, "a", false), ==, 0);
    thread = g_thread_new("replacer", replace_again, &replacer);
    for (int i = 0; i < 500; i++) {
        g_autoptr(GBytes) value = NULL;
        const uint8_t *data;
        size_t bytes;

        g_assert_cmpint(fixture->store->driver->get(fixture->store, &header,
                                                    &value, NULL), ==, 0);
        data = g_bytes_get_data(value, &bytes);
        g_assert_true(bytes == 1 || bytes == (data[0] % 2 ? 5000 : 100));
        g_assert_true(is_all(data, data[0], bytes));
    }
    g_atomic_int_set(&replacer.stop, 1);
    g_thread_join(thread);
}

void conformance_records(void)
{
    conformance_add_once("/records/put-get", test_put_get);
    conformance_add_once("/records/drop", test_drop);
    conformance_add_once("/records/exclusive", test_exclusive);
    conformance_add_once("/records/large", test_large);
    conformance_add_once("/records/list-names", test_list_names);
    conformance_add_once("/records/list-ids", test_list_ids);
    conformance_add_once("/records/exclusive-race", test_exclusive_race);
    conformance_add_once("/records/atomic", test_atomic);
}
