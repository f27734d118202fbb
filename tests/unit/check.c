/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check and repair.  Every kind of damage is done by hand to the files of a
 * store: the check finds it and nothing else and changes nothing; a repair
 * mends it, the next check is clean, and no volume lost a byte; a repair that
 * ends at any operation can be begun again.  Beside writers nothing is found.
 */
#include "patient.h"

#include "store/fault.h"
#include "volume/volume.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

/* --- Damages ------------------------------------------------------------- */

static uint32_t crc32c_of(const uint8_t *bytes, size_t length)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
        }
    }
    return ~crc;
}

/* Put a big-endian number into a header and set its CRC. */
static void header_set(struct patient *patient, size_t at, uint64_t value)
{
    g_autofree char *file = patient_v_file(patient, "header");
    g_autofree char *bytes = NULL;
    uint32_t crc = 0;
    FILE *stream;
    gsize length;

    g_assert_true(g_file_get_contents(file, &bytes, &length, NULL));
    value = GUINT64_TO_BE(value);
    memcpy(bytes + at, &value, sizeof(value));
    memset(bytes + 8, 0, 4);
    crc = GUINT32_TO_BE(crc32c_of((uint8_t *)bytes, length));
    memcpy(bytes + 8, &crc, 4);
    stream = fopen(file, "r+");
    fwrite(bytes, 1, length, stream);
    fclose(stream);
}

static uint64_t header_get(struct patient *patient, size_t at)
{
    g_autofree char *file = patient_v_file(patient, "header");
    g_autofree char *bytes = NULL;
    uint64_t value;
    gsize length;

    g_assert_true(g_file_get_contents(file, &bytes, &length, NULL));
    memcpy(&value, bytes + at, sizeof(value));
    return GUINT64_FROM_BE(value);
}

static void damage_stray(struct patient *patient)
{
    patient_run("cd %s; touch junk names/-x intents/zz maps/ff0; "
                "mkdir blocks/xyz names/d; touch blocks/xyz/y; "
                "ln -s / maps/lnk", patient->scratch);
}

static void damage_wrong_place(struct patient *patient)
{
    patient_run("cd %s/blocks/%.2s/%s; mkdir 001; cp 000/8 001/8; "
                "cp 000/8 000/08; cp 000/8 000/8.bak; mkdir 000/ff; "
                "ln -s 8 000/7", patient->scratch, patient->v_layer,
                patient->v_layer);
}

static void damage_litter(struct patient *patient)
{
    patient_run("cd %s; echo x > names/.new-1; echo y > maps/%.2s/%s/.new-2; "
        "echo z > .new-3", patient->scratch, patient->v_id, patient->v_id);
}

static void damage_name_removed(struct patient *patient)
{
    patient_run("rm %s/names/v", patient->scratch);
}

static void damage_name_flipped(struct patient *patient)
{
    g_autofree char *file = g_build_filename(patient->scratch, "names/v", NULL);

    patient_flip(file, 40);
}

static void damage_name_zeroed(struct patient *patient)
{
    patient_run(": > %s/names/v", patient->scratch);
}

static void damage_name_copied(struct patient *patient)
{
    patient_run("cp %s/names/v %s/names/z", patient->scratch, patient->scratch);
}

static void damage_header_removed(struct patient *patient)
{
    g_autofree char *file = patient_v_file(patient, "header");

    g_assert_cmpint(g_remove(file), ==, 0);
}

static void damage_header_flipped(struct patient *patient)
{
    g_autofree char *file = patient_v_file(patient, "header");

    patient_flip(file, 100);
}

static void damage_header_swapped(struct patient *patient)
{
    g_autofree char *file = patient_v_file(patient, "header");

    patient_run("cp %s/maps/%.2s/%s/header %s", patient->scratch, patient->w_id,
        patient->w_id, file);
}

static void damage_header_newer(struct patient *patient)
{
    header_set(patient, 40, 1);
}

static void damage_header_count(struct patient *patient)
{
    header_set(patient, 96, header_get(patient, 96) + 3);
}

static void damage_header_next_page(struct patient *patient)
{
    header_set(patient, 144, 1);
}

static void damage_page_removed(struct patient *patient)
{
    g_autofree char *file = patient_page_file(patient, patient->v_layer);

    g_assert_cmpint(g_remove(file), ==, 0);
}

static void damage_page_flipped(struct patient *patient)
{
    g_autofree char *file = patient_page_file(patient, patient->v_layer);

    patient_flip(file, 300);
}

static void damage_page_cut(struct patient *patient)
{
    g_autofree char *file = patient_page_file(patient, patient->v_layer);

    g_assert_cmpint(truncate(file, 100), ==, 0);
}

static void damage_page_orphan(struct patient *patient)
{
    g_autofree char *file = patient_page_file(patient, patient->v_layer);

    patient_run("cp %s $(dirname %s)/3e7", file, file);
}

static void damage_object_removed(struct patient *patient)
{
    g_autofree char *file = patient_block_file(patient, patient->v_layer, "8");

    g_assert_cmpint(g_remove(file), ==, 0);
}

static void damage_base_removed(struct patient *patient)
{
    g_autofree char *file = patient_block_file(patient, patient->v_frozen, "1");

    g_assert_cmpint(g_remove(file), ==, 0);
}

static void damage_object_longer(struct patient *patient)
{
    g_autofree char *file = patient_block_file(patient, patient->v_layer, "8");

    g_assert_cmpint(truncate(file, 3 * OBJECT), ==, 0);
}

static void damage_object_cut(struct patient *patient)
{
    g_autofree char *file = patient_block_file(patient, patient->v_layer, "8");

    g_assert_cmpint(truncate(file, 5000), ==, 0);
}

static void damage_object_orphan(struct patient *patient)
{
    g_autofree char *file = patient_block_file(patient, patient->v_layer, "8");

    patient_run("cd $(dirname %s); cp 8 20; cp 8 21; cp 8 30", file);
}

static void damage_layer_unclaimed(struct patient *patient)
{
    patient_run("cd %s/blocks; mkdir -p 12; cp -a %.2s/%s "
        "12/12345678123456781234567812345678", patient->scratch,
        patient->v_layer, patient->v_layer);
}

static void damage_map_unclaimed(struct patient *patient)
{
    patient_run("cd %s/maps; mkdir -p 12; cp -a %.2s/%s "
        "12/12345678123456781234567812345678", patient->scratch,
        patient->v_layer, patient->v_layer);
}

static void damage_lock_unclaimed(struct patient *patient)
{
    patient_run("cd %s/maps; mkdir -p 12/12345678123456781234567812345678; "
        "cp %.2s/%s/lock 12/12345678123456781234567812345678/",
        patient->scratch, patient->v_id, patient->v_id);
}

static void damage_layer_shared(struct patient *patient)
{
    g_autofree char *bytes = NULL, *other = NULL;
    gsize length;

    other = g_strdup_printf("%s/maps/%.2s/%s/header", patient->scratch,
                            patient->w_id, patient->w_id);
    g_assert_true(g_file_get_contents(other, &bytes, &length, NULL));
    for (unsigned i = 0; i < 2; i++) {
        uint64_t half;

        memcpy(&half, bytes + 128 + 8 * i, 8);
        header_set(patient, 128 + 8 * i, GUINT64_FROM_BE(half));
    }
}

static void damage_layer_dangling(struct patient *patient)
{
    /* An empty table of layers. */
    for (unsigned i = 0; i < 5; i++) {
        header_set(patient, 248 + 8 * i, 0);
    }
}

static void damage_lock(struct patient *patient)
{
    g_autofree char *file = patient_v_file(patient, "lock");

    patient_run("head -c 1024 /dev/urandom > %s", file);
}

static void damage_journal_stale(struct patient *patient)
{
    g_autofree char *file = patient_v_file(patient, "journal.0000000000000001");

    patient_run("head -c 4096 /dev/zero > %s", file);
}

/* Five flushes, killed, then the second record is damaged. */
static void damage_journal(struct patient *patient);

static void intent_write(struct patient *patient, const char *id_text,
                         const char *name)
{
    struct id128 id, layer = {{0}};
    g_autoptr(GBytes) value = NULL;
    g_autofree char *file = g_strdup_printf("%s/intents/%s", patient->scratch,
                                            id_text);

    g_assert_true(id128_parse(id_text, &id));
    value = intent_encode(&id, &layer, name);
    g_assert_true(g_file_set_contents(file, g_bytes_get_data(value, NULL),
                                      (gssize)g_bytes_get_size(value), NULL));
}

/* The volume is there: only the record is left. */
static void damage_create_done(struct patient *patient)
{
    intent_write(patient, patient->v_id, "v");
}

/* Killed before the name was written. */
static void damage_create_begun(struct patient *patient)
{
    archip_create_options options = {.object_bytes = OBJECT};
    g_autofree char *file = g_build_filename(patient->scratch, "names", "n",
                                             NULL);
    g_autofree char *id = NULL;
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_create(store, "n", SIZE, &options));
    archip_store_close(store);
    id = patient_id_at(file, 16);
    g_assert_cmpint(g_remove(file), ==, 0);
    intent_write(patient, id, "n");
}

static void damage_intent(struct patient *patient)
{
    g_autofree char *file =
        g_strdup_printf("%s/intents/%s", patient->scratch, patient->v_id);

    g_assert_true(g_file_set_contents(file, "nonsense", 8, NULL));
}

enum verdict { MENDED, KEPT };

static const struct damage {
    const char *name;
    void (*inflict)(struct patient *patient);
    const char *codes;
    enum verdict verdict;
    const char *v_name;         /* where v's content is afterwards; or NULL */
} damages[] = {
    {"stray", damage_stray, "stray", MENDED, "v"},
    {"wrong-place", damage_wrong_place, "stray", MENDED, "v"},
    {"litter", damage_litter, "litter", MENDED, "v"},
    {"name-removed", damage_name_removed, "name-missing", MENDED, "lost"},
    {"name-flipped", damage_name_flipped, "name-damaged", MENDED, "v"},
    {"name-copied", damage_name_copied, "name-duplicate", MENDED, "v"},
    {"header-flipped", damage_header_flipped, "header-damaged", KEPT, NULL},
    {"header-swapped", damage_header_swapped, "header-damaged", KEPT, NULL},
    {"header-count", damage_header_count, "header-counts", MENDED, "v"},
    {"header-next-page", damage_header_next_page, "header-counts", MENDED,
     "v"},
    {"page-removed", damage_page_removed, "page-missing", KEPT, NULL},
    {"page-flipped", damage_page_flipped, "page-damaged", KEPT, NULL},
    {"page-cut", damage_page_cut, "page-damaged", KEPT, NULL},
    {"page-orphan", damage_page_orphan, "page-orphan", MENDED, "v"},
    {"object-removed", damage_object_removed, "object-missing", KEPT, NULL},
    {"base-removed", damage_base_removed, "object-missing", KEPT, NULL},
    {"object-longer", damage_object_longer, "object-size", MENDED, "v"},
    {"object-cut", damage_object_cut, "object-short", KEPT, NULL},
    {"object-orphan", damage_object_orphan, "object-orphan", MENDED, "v"},
    {"layer-unclaimed", damage_layer_unclaimed, "layer-unclaimed", MENDED,
     "v"},
    {"map-unclaimed", damage_map_unclaimed, "map-unclaimed", MENDED, "v"},
    {"lock-unclaimed", damage_lock_unclaimed, "place-empty", MENDED, "v"},
    {"layer-dangling", damage_layer_dangling, "layer-dangling", KEPT, NULL},
    {"lock", damage_lock, "lock-damaged", MENDED, "v"},
    {"journal-stale", damage_journal_stale, "journal-stale", MENDED, "v"},
    {"create-done", damage_create_done, "operation-unfinished", MENDED, "v"},
    {"create-begun", damage_create_begun, "operation-unfinished", MENDED,
     "v"},
    {"intent", damage_intent, "intent-damaged", MENDED, "v"},
    {"journal", damage_journal, "journal-damaged", KEPT, NULL},
};

static void expect_v(struct patient *patient, const char *v_name)
{
    g_autofree char *lost = g_strdup_printf("lost-%.12s", patient->v_id);

    patient_expect(patient, g_strcmp0(v_name, "lost") ? v_name : lost);
}

/* --- Each damage: found, left alone, mended ------------------------------ */

static char *w_files_sum(struct patient *patient)
{
    g_autofree char *command =
        g_strdup_printf("cd %s && find . -type f | grep -e %s -e %s -e "
                        "names/w | sort | xargs sha256sum | sha256sum",
                        patient->scratch, patient->w_id, patient->w_layer);
    const char *argv[] = {"/bin/sh", "-ec", command, NULL};
    char *out = NULL;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &out,
                               NULL, NULL, NULL));
    return out;
}

static void test_damage(const void *opaque)
{
    const struct damage *damage = opaque;
    struct patient *patient = patient_shared();
    bool mended = damage->verdict == MENDED;
    g_autofree char *before = NULL, *after = NULL, *w = NULL, *w_after = NULL;

    damage->inflict(patient);
    before = patient_tree_sum(patient->scratch);
    w = w_files_sum(patient);
    expect(patient->location, false, damage->codes,
           mended ? ARCHIP_FOUND : ARCHIP_KEPT);
    after = patient_tree_sum(patient->scratch);
    g_assert_cmpstr(before, ==, after);
    expect(patient->location, true, damage->codes,
           mended ? ARCHIP_REPAIRED : ARCHIP_KEPT);
    expect(patient->location, false, mended ? "" : damage->codes,
           ARCHIP_KEPT);
    expect_v(patient, damage->v_name);
    w_after = w_files_sum(patient);
    g_assert_cmpstr(w, ==, w_after);
}

/* A header that is gone takes its name with it; what it had is set aside. */
static void test_header_removed(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    damage_header_removed(patient);
    result = check_at(patient->location, false);
    g_assert_nonnull(strstr(result.codes->str, "header-missing"));
    result_clear(&result);
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.outcomes[ARCHIP_FAILED], ==, 0);
    result_clear(&result);
    expect(patient->location, false, "", 0);
    patient_expect(patient, NULL);
    patient_run("cd %s/set-aside; test -e names%%v; "
                "test -e blocks%%%.2s%%%s/000/8; "
                "test -e blocks%%%.2s%%%s/000/4", patient->scratch,
                patient->v_layer, patient->v_layer, patient->v_frozen,
                patient->v_frozen);
}

/* While a header can't be read, nothing that could be its is touched. */
static void test_unreadable_keeps(void)
{
    struct patient *patient = patient_shared();

    damage_header_flipped(patient);
    damage_layer_unclaimed(patient);
    damage_map_unclaimed(patient);
    expect(patient->location, true, "header-damaged", ARCHIP_KEPT);
    patient_run("cd %s; test ! -e set-aside; test -e blocks/%.2s/%s/000/8; "
        "test -e blocks/12/12345678123456781234567812345678/000/8",
        patient->scratch, patient->v_layer, patient->v_layer);
}

static void test_newer(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    damage_header_newer(patient);
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.outcomes[ARCHIP_REPAIRED], ==, 0);
    g_assert_cmpuint(result.outcomes[ARCHIP_FAILED], ==, 0);
    g_assert_cmpuint(result.summary.note_count, ==, 5);
    result_clear(&result);
    patient_run("test ! -e %s/set-aside", patient->scratch);
}

/* Both volumes keep what they have. */
static void test_layer_shared(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *before = NULL, *after = NULL;
    struct result result;

    damage_layer_shared(patient);
    before = patient_tree_sum(patient->scratch);
    result = check_at(patient->location, true);
    g_assert_nonnull(strstr(result.codes->str, "layer-shared"));
    result_clear(&result);
    patient_expect(patient, NULL);
    g_assert_cmpstr(before, !=, "");
    after = w_files_sum(patient);
    g_assert_nonnull(after);
}

/* A name of which nothing is left: its volume gets another. */
static void test_name_zeroed(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    damage_name_zeroed(patient);
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, "name-damaged name-missing");
    result_clear(&result);
    expect(patient->location, false, "", 0);
    expect_v(patient, "lost");
}

/* A missing object whose like lies beside: that isn't removed. */
static void test_renamed(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    patient_run("cd %s/blocks/%.2s/%s/000; mv 8 20", patient->scratch,
                patient->v_layer, patient->v_layer);
    result = check_at(patient->location, true);
    g_assert_nonnull(strstr(result.codes->str, "object-missing"));
    g_assert_nonnull(strstr(result.codes->str, "object-orphan"));
    result_clear(&result);
    patient_run("cd %s; mv set-aside/blocks%%%.2s%%%s%%000%%20 "
                "blocks/%.2s/%s/000/8", patient->scratch, patient->v_layer,
                patient->v_layer, patient->v_layer, patient->v_layer);
    expect(patient->location, false, "", 0);
    patient_expect(patient, "v");
}

/* --- Killed ------------------------------------------------------------- */

static void damage_journal(struct patient *patient)
{
    g_autofree char *pattern = g_strdup_printf("*/maps/*/%s/journal.*",
                                               patient->v_id);
    g_autofree char *file = NULL;

    patient_kill(patient);
    file = scratch_find(patient->scratch, pattern);
    patient_flip(file, 4096 + 70);
}

/* After a crash there is nothing wrong but what is left over. */
static void test_killed(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *pattern = NULL, *file = NULL, *before = NULL,
                    *after = NULL;
    struct result result;

    patient_kill(patient);
    pattern = g_strdup_printf("*/maps/*/%s/journal.*", patient->v_id);
    file = scratch_find(patient->scratch, pattern);
    patient_flip(file, 4 * 4096 + 70);      /* the last: as torn */
    before = patient_tree_sum(patient->scratch);
    result = check_at(patient->location, false);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, "object-orphan");
    g_assert_cmpuint(result.summary.damage_count, ==, 0);
    g_assert_cmpuint(result.summary.note_count, ==, 3);
    result_clear(&result);
    after = patient_tree_sum(patient->scratch);
    g_assert_cmpstr(before, ==, after);
    result = check_at(patient->location, true);
    g_assert_cmpuint(result.outcomes[ARCHIP_REPAIRED], ==, 5);
    result_clear(&result);
    result = check_at(patient->location, false);
    g_assert_cmpuint(result.summary.note_count, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, "");
    result_clear(&result);
}

/* Recovery writes pages: under a wrong count it would write over those that are
 * in use. */
static void test_killed_next_page(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    patient_kill(patient);
    header_set(patient, 144, 1);
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, "header-counts object-orphan");
    g_assert_cmpuint(result.outcomes[ARCHIP_FAILED], ==, 0);
    result_clear(&result);
    expect(patient->location, false, "", 0);
    patient_expect_killed(patient);
}

/* --- A repair that ends anywhere ----------------------------------------- */

static bool repair_with_fault(struct patient *patient, enum fault_op op,
                              unsigned nth, bool late)
{
    g_autofree char *location = g_strdup_printf("fault::%s",
                                                patient->location);
    struct fault_rule rule = {.op = op, .nth = nth, .times = 1,
                              .errno_value = EIO, .late = late, .stop = true};
    struct result result;
    archip_store *store;
    bool fired;

    assert_ok(archip_store_open(location, 0, &store));
    fault_arm(store->store, &rule);
    result = check_store(store, true);
    fired = fault_fired(store->store) > 0;
    if (result.rc < 0) {
        g_assert_cmpuint(strlen(archip_error()), >, 8);
    }
    result_clear(&result);
    archip_store_close(store);
    return fired;
}

static void fault_loop(const struct damage *damage, enum fault_op op,
                       unsigned step, bool late)
{
    struct patient *patient = patient_shared();

    for (unsigned nth = 1; nth < 400; nth += step) {
        struct result result;

        patient_heal(patient);
        damage->inflict(patient);
        if (!repair_with_fault(patient, op, nth, late)) {
            return;
        }
        result = check_at(patient->location, true);
        g_assert_cmpint(result.rc, ==, 0);
        g_assert_cmpuint(result.outcomes[ARCHIP_FAILED], ==, 0);
        result_clear(&result);
        expect(patient->location, false,
               damage->verdict == MENDED ? "" : damage->codes, ARCHIP_KEPT);
        expect_v(patient, damage->v_name);
    }
    g_assert_not_reached();
}

/* Those with a test of their own above: what a repair that ended anywhere left
 * ends as it does there. */
static const struct damage others[] = {
    {"header-removed", damage_header_removed, "header-missing", MENDED, NULL},
    {"layer-shared", damage_layer_shared, "layer-shared page-missing", KEPT,
     NULL},
};

static void test_interrupted(const void *opaque)
{
    static const enum fault_op ops[] = {
        FAULT_PUT, FAULT_DROP, FAULT_WRITE, FAULT_SYNC, FAULT_REMOVE,
        FAULT_REMOVE_ALL, FAULT_TRIM, FAULT_SET_ASIDE, FAULT_RESET_LOCK,
        FAULT_LOCK};
    const struct damage *damage = opaque;

    patient_shared();
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        fault_loop(damage, ops[i], 1, false);
        fault_loop(damage, ops[i], 1, true);
    }
    fault_loop(damage, FAULT_ANY, 11, false);
}

/* --- Other stores, other calls -------------------------------------------- */

static void test_stores(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;
    struct id128 layer;
    struct result result;
    struct store_request request = {.op = STORE_REMOVE};
    struct store_queue *store_queue;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", SIZE, OBJECT);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 0, 3 * OBJECT, 5);
    layer = volume->map->header.current_layer_id;
    fixture_close(volume, queue);
    result = check_store(fixture.store, false);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, "");
    g_assert_cmpuint(result.summary.object_count, ==, 3);
    g_assert_cmpuint(result.summary.volume_count, ==, 1);
    result_clear(&result);
    assert_ok(store_queue_open(fixture.store->store, 0, &store_queue, NULL));
    request.object = (struct store_object){STORE_BLOCK, layer, 1};
    assert_ok(store_run(store_queue, &request));
    store_queue_close(store_queue);
    result = check_store(fixture.store, true);
    g_assert_cmpstr(result.codes->str, ==, "object-missing");
    result_clear(&result);
    fixture_end(&fixture);
}

static int stop_at_once(const archip_finding *finding, void *opaque)
{
    ++*(unsigned *)opaque;
    return 42;
}

static void test_arguments(void)
{
    struct patient *patient = patient_shared();
    const char *const none[] = {"nobody", NULL}, *const one[] = {"w", NULL};
    const char *const bad[] = {"/", NULL};
    unsigned count = 0;
    archip_check_options options = {.flags = 8};
    archip_check_summary summary;
    archip_store *store;

    damage_object_removed(patient);
    damage_stray(patient);
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_fails(archip_check(store, &options, NULL), EINVAL, "flags");
    options = (archip_check_options){.volumes = bad};
    assert_fails(archip_check(store, &options, NULL), EINVAL, "name");
    options.volumes = none;
    assert_fails(archip_check(store, &options, NULL), ENOENT, "nobody");
    options.volumes = one;
    assert_ok(archip_check(store, &options, &summary));
    g_assert_cmpuint(summary.volume_count, ==, 1);
    g_assert_cmpuint(summary.damage_count + summary.leak_count, ==, 0);
    options = (archip_check_options){.finding = stop_at_once,
                                     .opaque = &count};
    g_assert_cmpint(archip_check(store, &options, NULL), ==, 42);
    g_assert_cmpuint(count, ==, 1);
    archip_store_close(store);
}

static void add_damages(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autofree char *path = g_strdup_printf("/check/damage/%s",
                                                damages[i].name);
        g_autofree char *loop = g_strdup_printf("/check/interrupted/%s",
                                                damages[i].name);

        g_test_add_data_func(path, &damages[i], test_damage);
        if (damages[i].verdict == MENDED) {
            g_test_add_data_func(loop, &damages[i], test_interrupted);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        g_autofree char *loop =
            g_strdup_printf("/check/interrupted/%s", others[i].name);

        g_test_add_data_func(loop, &others[i], test_interrupted);
    }
}

int main(int argc, char **argv)
{
    int rc;

    if (argc == 5 && !strcmp(argv[1], "child")) {
        return patient_child(argv[3]);
    }
    g_test_init(&argc, &argv, NULL);
    add_damages();
    g_test_add_func("/check/header-removed", test_header_removed);
    g_test_add_func("/check/unreadable-keeps", test_unreadable_keeps);
    g_test_add_func("/check/newer", test_newer);
    g_test_add_func("/check/layer-shared", test_layer_shared);
    g_test_add_func("/check/name-zeroed", test_name_zeroed);
    g_test_add_func("/check/renamed", test_renamed);
    g_test_add_func("/check/killed", test_killed);
    g_test_add_func("/check/killed-next-page", test_killed_next_page);
    g_test_add_func("/check/arguments", test_arguments);
    fixture_add("/check/stores", test_stores);
    rc = g_test_run();
    patient_shared_end();
    return rc;
}
