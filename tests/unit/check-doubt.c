/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a repair can't tell it leaves alone: nothing that it does, and nothing
 * that others do afterwards, costs a volume its data.
 */
#include "patient.h"

#include "store/fault.h"
#include "volume/volume.h"

#include <string.h>

/* --- Names that an intent is about ---------------------------------------- */

/* Who made the volume died before he dropped it. */
static void leave_intent(struct patient *patient)
{
    struct id128 id, layer = {{0}};
    g_autoptr(GBytes) value = NULL;
    g_autofree char *file = g_strdup_printf("%s/intents/%s", patient->scratch,
                                            patient->v_id);

    g_assert_true(id128_parse(patient->v_id, &id));
    value = intent_encode(&id, &layer, "v");
    g_assert_true(g_file_set_contents(file, g_bytes_get_data(value, NULL),
                                      (gssize)g_bytes_get_size(value), NULL));
}

static void flip_name(struct patient *patient)
{
    g_autofree char *file = g_build_filename(patient->scratch, "names/v",
                                             NULL);

    patient_flip(file, 40);     /* the id can still be read */
}

/* Making and removing finish what others began. */
static void make_and_remove(struct patient *patient)
{
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_create(store, "other", SIZE, NULL));
    assert_ok(archip_volume_remove(store, "other"));
    archip_store_close(store);
}

static struct result repair_volume(struct patient *patient, const char *name)
{
    const char *const names[] = {name, NULL};
    archip_check_options options = {.flags = ARCHIP_CHECK_REPAIR,
                                    .volumes = names};
    struct result result = {.codes = g_string_new(NULL)};
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    result.rc = archip_check(store, &options, &result.summary);
    archip_store_close(store);
    return result;
}

static void test_name_legible(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    leave_intent(patient);
    flip_name(patient);
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.outcomes[ARCHIP_REPAIRED], ==, 1);
    g_assert_cmpstr(result.codes->str, ==,
                    "operation-unfinished name-damaged");
    result_clear(&result);
    make_and_remove(patient);
    patient_expect(patient, "v");
    expect(patient->location, false, "", 0);
    patient_run("test ! -e %s/set-aside", patient->scratch);
}

/* After one of these nothing tells which volume "v" was. */
static void name_emptied(struct patient *patient)
{
    patient_run(": > %s/names/v", patient->scratch);
}

static void name_to_folder(struct patient *patient)
{
    patient_run("cd %s/names; rm v; mkdir v", patient->scratch);
}

static void name_to_link(struct patient *patient)
{
    patient_run("cd %s/names; rm v; ln -s w v", patient->scratch);
}

static const struct loss {
    const char *path;
    void (*inflict)(struct patient *patient);
    const char *codes;
} losses[] = {
    {"/check/doubt/name-emptied", name_emptied,
     "operation-unfinished name-damaged"},
    {"/check/doubt/name-folder", name_to_folder, "operation-unfinished stray"},
    {"/check/doubt/name-link", name_to_link, "operation-unfinished stray"},
};

static void test_name_lost(const void *opaque)
{
    const struct loss *loss = opaque;
    struct patient *patient = patient_shared();

    leave_intent(patient);
    loss->inflict(patient);
    for (unsigned i = 0; i < 2; i++) {
        struct result result = check_at(patient->location, true);

        g_assert_cmpint(result.rc, ==, 0);
        g_assert_cmpstr(result.codes->str, ==, loss->codes);
        g_assert_cmpuint(result.outcomes[ARCHIP_REPAIRED], ==, 0);
        g_assert_cmpuint(result.outcomes[ARCHIP_KEPT], ==, 1);
        result_clear(&result);
        make_and_remove(patient);
    }
    patient_run("cd %s; test ! -e set-aside; rm -d names/v; "
                "cp %s/names/v names/", patient->scratch, patient->pristine);
    patient_expect(patient, "v");
    expect(patient->location, true, "operation-unfinished", ARCHIP_REPAIRED);
    expect(patient->location, false, "", 0);
    patient_expect(patient, "v");
}

/* Of two names that which the intent has stays, though it is the second; where
 * only that volume is asked for, intents aren't gone into. */
static void test_duplicate(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    leave_intent(patient);
    patient_run("cd %s/names; cp v a", patient->scratch);
    result = repair_volume(patient, "v");
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.summary.repaired_count, ==, 0);
    result_clear(&result);
    make_and_remove(patient);
    patient_expect(patient, "v");
    expect(patient->location, true, "name-duplicate", ARCHIP_REPAIRED);
    patient_expect(patient, "a");
}

/* It may be about any name: that stays, until the intent is out of the way. */
static void test_intent_unreadable(void)
{
    struct patient *patient = patient_shared();
    struct result result;

    patient_run("cd %s; echo nonsense > intents/%s; : > names/v",
                patient->scratch, patient->v_id);
    result = repair_volume(patient, "v");
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.summary.damage_count, ==, 1);
    g_assert_cmpuint(result.summary.repaired_count, ==, 0);
    result_clear(&result);
    patient_run("cd %s; test -e names/v; test ! -e set-aside",
                patient->scratch);
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.outcomes[ARCHIP_REPAIRED], ==, 3);
    g_assert_cmpstr(result.codes->str, ==,
                    "intent-damaged name-damaged name-missing");
    result_clear(&result);
    make_and_remove(patient);
    expect(patient->location, false, "", 0);
}

/* One of a newer version isn't a damaged one. */
static void test_intent_newer(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *file = g_strdup_printf("%s/intents/%s", patient->scratch,
                                            patient->v_id);
    g_autofree uint8_t *bytes = NULL;
    struct format_intent *intent;
    struct result result;
    gsize size;

    leave_intent(patient);
    g_assert_true(g_file_get_contents(file, (char **)&bytes, &size, NULL));
    intent = (struct format_intent *)bytes;
    intent->version = GUINT16_TO_BE(FORMAT_VERSION + 1);
    intent->crc = GUINT32_TO_BE(format_crc(
        intent, size, offsetof(struct format_intent, crc)));
    g_assert_true(g_file_set_contents(file, (char *)bytes, (gssize)size,
                                      NULL));
    patient_run("cd %s/blocks; mkdir -p 12/12345678123456781234567812345678; "
                "cp -a %.2s/%s/000 12/12345678123456781234567812345678/",
                patient->scratch, patient->v_layer, patient->v_layer);
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.outcomes[ARCHIP_KEPT], ==, 2);
    g_assert_cmpuint(result.summary.note_count, ==, 2);
    g_assert_cmpstr(result.codes->str, ==, "");
    result_clear(&result);
    make_and_remove(patient);
    patient_run("cd %s; test -e intents/%s; test ! -e set-aside",
                patient->scratch, patient->v_id);
    patient_expect(patient, "v");
}

/* A repair of such a name that ends anywhere. */
static void test_interrupted(void)
{
    struct patient *patient = patient_shared();
    bool fired = true;

    for (unsigned nth = 1; fired; nth += 3) {
        struct fault_rule rule = {.op = FAULT_ANY, .nth = nth, .times = 1,
                                  .errno_value = EIO, .stop = true};
        g_autofree char *location = g_strdup_printf("fault::%s",
                                                    patient->location);
        struct result result;
        archip_store *store;

        patient_heal(patient);
        leave_intent(patient);
        flip_name(patient);
        assert_ok(archip_store_open(location, 0, &store));
        fault_arm(store->store, &rule);
        result = check_store(store, true);
        fired = fault_fired(store->store) > 0;
        result_clear(&result);
        archip_store_close(store);
        make_and_remove(patient);
        result = check_at(patient->location, true);
        g_assert_cmpint(result.rc, ==, 0);
        result_clear(&result);
        make_and_remove(patient);
        expect(patient->location, false, "", 0);
        patient_expect(patient, "v");
    }
}

/* Under a name that can't be read none is made: its intent would stay and keep
 * the name from being repaired. */
static void test_create(void)
{
    struct patient *patient = patient_shared();
    archip_store *store;

    name_emptied(patient);
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_fails(archip_volume_create(store, "v", SIZE, NULL), EUCLEAN,
                 "damaged");
    archip_store_close(store);
    patient_run("test -z \"$(ls %s/intents)\"", patient->scratch);
    expect(patient->location, true, "name-damaged name-missing",
           ARCHIP_REPAIRED);
    expect(patient->location, false, "", 0);
}

/* --- Names that others mend meanwhile ------------------------------------- */

/* Of two damages this comes to be told while the names are mended: then the
 * other is gone. */
static int mend_v(const archip_finding *finding, void *opaque)
{
    struct patient *patient = opaque;

    if (g_strcmp0(finding->volume, "a") == 0) {
        patient_run("cd %s; cp %s/names/v names/; "
                    "cp %s/maps/%.2s/%s/header maps/%.2s/%s/",
                    patient->scratch, patient->pristine,
                    patient->pristine, patient->v_id, patient->v_id,
                    patient->v_id, patient->v_id);
        return 0;
    }
    g_assert_cmpstr(finding->volume, !=, "v");
    return 0;
}

static void remove_header(struct patient *patient)
{
    patient_run("rm %s/maps/%.2s/%s/header", patient->scratch, patient->v_id,
                patient->v_id);
}

static const struct loss mended[] = {
    {"/check/doubt/mended/emptied", name_emptied, NULL},
    {"/check/doubt/mended/legible", flip_name, NULL},
    {"/check/doubt/mended/header", remove_header, NULL},
};

static void test_mended(const void *opaque)
{
    const struct loss *loss = opaque;
    struct patient *patient = patient_shared();
    archip_check_options options = {.flags = ARCHIP_CHECK_REPAIR,
                                    .finding = mend_v, .opaque = patient};
    archip_store *store;

    patient_run(": > %s/names/a", patient->scratch);
    loss->inflict(patient);
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_check(store, &options, NULL));
    archip_store_close(store);
    patient_run("cd %s; test -e set-aside/names%%a; "
                "test ! -e set-aside/names%%v", patient->scratch);
    patient_expect(patient, "v");
}

/* --- Places that can't be listed ------------------------------------------ */

static char *layers_sum(struct patient *patient)
{
    g_autofree char *command =
        g_strdup_printf("cd %s && find blocks maps -type f -path '*/%s/*' -o "
                        "-type f -path '*/%s/*' | sort | xargs sha256sum",
                        patient->scratch, patient->v_layer, patient->v_frozen);
    const char *argv[] = {"/bin/sh", "-ec", command, NULL};
    char *out = NULL;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &out,
                               NULL, NULL, NULL));
    g_assert_nonnull(strstr(out, patient->v_layer));
    return out;
}

/* The layers of a damaged volume are nobody's: a listing of one that fails
 * before the first object doesn't make it an empty one. */
static void test_unlisted(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *header = patient_v_file(patient, "header");
    g_autofree char *location = g_strdup_printf("fault::%s",
                                                patient->location);
    g_autofree char *before = NULL;
    struct fault_rule rule = {.op = FAULT_LIST_SIZES, .times = 1,
                              .errno_value = EMFILE};
    bool fired = true;

    patient_flip(header, 100);
    before = layers_sum(patient);
    for (rule.nth = 1; fired; rule.nth++) {
        g_autofree char *after = NULL;
        struct result result;
        archip_store *store;

        assert_ok(archip_store_open(location, 0, &store));
        fault_arm(store->store, &rule);
        result = check_store(store, true);
        fired = fault_fired(store->store) > 0;
        g_assert_cmpint(result.rc, ==, fired ? -EMFILE : 0);
        g_assert_cmpuint(result.outcomes[ARCHIP_REPAIRED], ==, 0);
        result_clear(&result);
        archip_store_close(store);
        after = layers_sum(patient);
        g_assert_cmpstr(before, ==, after);
    }
    g_assert_cmpuint(rule.nth, >, 4);
}

/* A stray that couldn't be set aside isn't removed with its place. */
static void test_stray_in_empty(void)
{
    static const char file[] =
        "blocks/12/12345678123456781234567812345678/000/8.bak";
    struct patient *patient = patient_shared();
    g_autofree char *location = g_strdup_printf("fault:op=set_aside:%s",
                                                patient->location);
    struct result result;

    patient_run("cd %s; mkdir -p $(dirname %s); echo data > %s",
                patient->scratch, file, file);
    result = check_at(location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, "stray place-empty");
    result_clear(&result);
    patient_run("test -s %s/%s", patient->scratch, file);
    expect(patient->location, true, "stray place-empty", ARCHIP_REPAIRED);
    patient_run("cd %s; test -s set-aside/*8.bak; test ! -e blocks/12/1*",
                patient->scratch);
}

int main(int argc, char **argv)
{
    int rc;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/check/doubt/name-legible", test_name_legible);
    for (unsigned i = 0; i < G_N_ELEMENTS(losses); i++) {
        g_test_add_data_func(losses[i].path, &losses[i], test_name_lost);
    }
    g_test_add_func("/check/doubt/duplicate", test_duplicate);
    g_test_add_func("/check/doubt/intent-unreadable", test_intent_unreadable);
    g_test_add_func("/check/doubt/interrupted", test_interrupted);
    g_test_add_func("/check/doubt/create", test_create);
    g_test_add_func("/check/doubt/unlisted", test_unlisted);
    g_test_add_func("/check/doubt/stray-in-empty", test_stray_in_empty);
    g_test_add_func("/check/doubt/intent-newer", test_intent_newer);
    for (unsigned i = 0; i < G_N_ELEMENTS(mended); i++) {
        g_test_add_data_func(mended[i].path, &mended[i], test_mended);
    }
    rc = g_test_run();
    patient_shared_end();
    return rc;
}
