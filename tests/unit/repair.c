/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A repair whose steps fail, or that finds another volume than it saw at first:
 * what stands on a step that wasn't taken isn't done, and is told as not done.
 */
#include "patient.h"

#include "store/fault.h"
#include "volume/volume.h"

#include <string.h>

/* --- A repair that something comes between -------------------------------- */

/* "CODE: ACTION" of each finding of "v" that was tried, a line each. */
struct repaired {
    GString *mended, *failed;
};

static int note(const archip_finding *finding, void *opaque)
{
    struct repaired *repaired = opaque;
    GString *told = finding->outcome == ARCHIP_REPAIRED ? repaired->mended
                                                        : repaired->failed;

    if (finding->outcome == ARCHIP_REPAIRED ||
        finding->outcome == ARCHIP_FAILED) {
        g_string_append_printf(told, "%s: %s\n", finding->code,
                               finding->action);
    }
    return 0;
}

static void repaired_clear(struct repaired *repaired)
{
    g_string_free(repaired->mended, TRUE);
    g_string_free(repaired->failed, TRUE);
}

/* What happens just before the lock is taken, that is after the first look. */
static struct {
    const struct store_driver *real;
    void (*act)(struct patient *patient, struct store *store);
    struct patient *patient;
    struct store *store;        /* with the rules */
} between;

static int lock_after_act(struct store *store, const struct id128 *id,
                          enum store_lock_mode mode, struct store_owner *me,
                          struct store_lock **lock, struct store_owner *holder,
                          GError **error)
{
    char text[ID128_TEXT_BYTES];

    if (between.act && mode == STORE_LOCK_WRITE &&
        !strcmp(id128_text(id, text), between.patient->v_id)) {
        void (*act)(struct patient *patient, struct store *store) =
            between.act;

        between.act = NULL;
        act(between.patient, between.store);
    }
    return between.real->lock(store, id, mode, me, lock, holder, error);
}

/* Repair with those rules, and with `act` between the looks; may be NULL. */
static struct repaired repair(struct patient *patient, const char *rules,
                              void (*act)(struct patient *patient,
                                          struct store *store))
{
    g_autofree char *location = g_strdup_printf("fault:%s:%s", rules,
                                                patient->location);
    struct repaired repaired = {g_string_new(NULL), g_string_new(NULL)};
    archip_check_options options = {.flags = ARCHIP_CHECK_REPAIR,
                                    .finding = note,
                                    .opaque = &repaired};
    struct store_driver driver;
    archip_store *store;
    struct store *inner;

    assert_ok(archip_store_open(location, 0, &store));
    inner = fault_inner(store->store);
    between.real = inner->driver;
    between.act = act;
    between.patient = patient;
    between.store = store->store;
    driver = *between.real;
    driver.lock = lock_after_act;
    inner->driver = &driver;
    archip_check(store, &options, NULL);
    inner->driver = between.real;
    g_assert_null(between.act);
    if (*rules) {
        g_assert_cmpuint(fault_fired(store->store), ==, 1);
    }
    archip_store_close(store);
    if (g_test_verbose()) {
        g_printerr("mended:\n%sfailed:\n%s", repaired.mended->str,
                   repaired.failed->str);
    }
    return repaired;
}

static void expect_line(const GString *told, const char *code,
                        const char *cause)
{
    g_auto(GStrv) lines = g_strsplit(told->str, "\n", -1);

    for (char **line = lines; *line; line++) {
        if (g_str_has_prefix(*line, code) && strstr(*line, cause)) {
            return;
        }
    }
    g_error("no \"%s: ...%s\" in\n%s", code, cause, told->str);
}

/* `number` in hexadecimal; 28 is the one that patient_kill() didn't flush. */
static void expect_block(struct patient *patient, const char *number,
                         bool there)
{
    g_autofree char *file = patient_block_file(patient, patient->v_layer,
                                               number);

    g_assert_true(g_file_test(file, G_FILE_TEST_EXISTS) == there);
}

static void make_orphan(struct patient *patient)
{
    patient_run("cd %s/blocks/%.2s/%s/000; cp 8 30", patient->scratch,
                patient->v_layer, patient->v_layer);
}

/* The next repair, with nothing in its way, mends all there is. */
static void expect_next_mends(struct patient *patient)
{
    struct result result = check_at(patient->location, true);

    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpuint(result.outcomes[ARCHIP_FAILED], ==, 0);
    result_clear(&result);
    expect(patient->location, false, "", 0);
}

/* --- The header's counts -------------------------------------------------- */

/* A crash, and a header under which recovery writes over pages in use. */
static void kill_and_count_wrong(struct patient *patient)
{
    struct store_record record = {.kind = STORE_HEADER};
    g_autoptr(GBytes) value = NULL;
    struct map_header header;
    archip_store *store;

    patient_kill(patient);
    g_assert_true(id128_parse(patient->v_id, &record.id));
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(map_read_header(store->store, &record.id, false, &header,
                              NULL));
    header.next_page = 1;
    value = header_encode(&header);
    header_clear(&header);
    assert_ok(store->store->driver->put(store->store, &record,
                                        g_bytes_get_data(value, NULL),
                                        g_bytes_get_size(value), false,
                                        NULL));
    archip_store_close(store);
}

/* All of v's map, but for its lock. */
static char *map_sum(struct patient *patient)
{
    g_autofree char *map = patient_v_file(patient, "");
    g_autofree char *pages = g_strdup_printf("%s/maps/%.2s/%s",
                                             patient->scratch,
                                             patient->v_layer,
                                             patient->v_layer);
    g_autofree char *one = scratch_checksum(map);
    g_autofree char *other = scratch_checksum(pages);

    return g_strconcat(one, " ", other, NULL);
}

static void repair_without_counts(const char *rules, const char *cause,
                                  void (*act)(struct patient *patient,
                                              struct store *store))
{
    struct patient *patient = patient_shared();
    g_autofree char *before = NULL, *after = NULL;
    struct repaired repaired;

    kill_and_count_wrong(patient);
    before = map_sum(patient);
    repaired = repair(patient, rules, act);
    expect_line(repaired.failed, "header-counts", cause);
    expect_line(repaired.failed, "volume-unclean", cause);
    expect_line(repaired.failed, "object-orphan", cause);
    g_assert_cmpstr(repaired.mended->str, ==, "");
    repaired_clear(&repaired);
    after = map_sum(patient);
    g_assert_cmpstr(before, ==, after);
    expect_block(patient, "28", true);
    expect_next_mends(patient);
    patient_expect_killed(patient);
}

static void test_header_failed(void)
{
    repair_without_counts("op=put,errno=28", "injected failure of put", NULL);
}

static void next_read_fails(struct patient *patient, struct store *store)
{
    struct fault_rule rule = {.op = FAULT_READ, .nth = 1, .times = 1,
                              .errno_value = EIO};

    fault_arm(store, &rule);
}

/* A page that can't be read just then: nothing can be counted. */
static void test_not_counted(void)
{
    repair_without_counts("", "could be read", next_read_fails);
}

/* Each read in turn, be it of the first look. */
static void test_any_read_fails(void)
{
    struct patient *patient = patient_shared();

    for (unsigned nth = 1;; nth++) {
        g_autofree char *location = g_strdup_printf(
            "fault:op=read,nth=%u:%s", nth, patient->location);
        struct result result;
        archip_store *store;
        bool fired;

        patient_heal(patient);
        kill_and_count_wrong(patient);
        assert_ok(archip_store_open(location, 0, &store));
        result = check_store(store, true);
        result_clear(&result);
        fired = fault_fired(store->store) > 0;
        archip_store_close(store);
        expect_next_mends(patient);
        patient_expect_killed(patient);
        if (!fired) {
            g_assert_cmpuint(nth, >, 10);
            break;
        }
    }
}

/* --- What is left over ---------------------------------------------------- */

/* Recovery failed: the journals may say what no disk has, and what they don't
 * refer to may be what the durable map does. */
static void test_not_recovered(void)
{
    struct patient *patient = patient_shared();
    struct repaired repaired;

    patient_kill(patient);
    repaired = repair(patient, "op=sync_all", NULL);
    expect_line(repaired.failed, "volume-unclean", "sync_all");
    expect_line(repaired.failed, "object-orphan", "sync_all");
    g_assert_cmpstr(repaired.mended->str, ==, "");
    repaired_clear(&repaired);
    expect_block(patient, "28", true);
    expect_next_mends(patient);
    expect_block(patient, "28", false);
    patient_expect_killed(patient);
}

static void writer_dies(struct patient *patient, struct store *store)
{
    patient_kill(patient);
}

/* It was closed well at the first look, and a writer came and died. */
static void test_unclean_meanwhile(void)
{
    struct patient *patient = patient_shared();
    struct repaired repaired;

    make_orphan(patient);
    repaired = repair(patient, "", writer_dies);
    expect_line(repaired.failed, "object-orphan", "again");
    expect_line(repaired.failed, "volume-unclean", "again");
    g_assert_cmpstr(repaired.mended->str, ==, "");
    repaired_clear(&repaired);
    expect_block(patient, "30", true);
    expect_block(patient, "28", true);
    expect_next_mends(patient);
    expect_block(patient, "30", false);
    expect_block(patient, "28", false);
    patient_expect_killed(patient);
}

/* The header that the look believes may not be on the disk. */
static void test_not_synced(void)
{
    struct patient *patient = patient_shared();
    struct repaired repaired;

    make_orphan(patient);
    repaired = repair(patient, "op=sync_all", NULL);
    expect_line(repaired.failed, "object-orphan", "sync_all");
    g_assert_cmpstr(repaired.mended->str, ==, "");
    repaired_clear(&repaired);
    expect_block(patient, "30", true);
    expect_next_mends(patient);
    expect_block(patient, "30", false);
    patient_expect(patient, "v");
}

/* Left over, and then nobody knows any more whether it is. */
static void lose_sight(void (*act)(struct patient *patient,
                                   struct store *store))
{
    struct patient *patient = patient_shared();
    g_autofree char *page = patient_page_file(patient, patient->v_layer);
    g_autofree char *folder = g_path_get_dirname(page);
    g_autofree char *orphan = g_build_filename(folder, "3e7", NULL);
    struct repaired repaired;

    make_orphan(patient);
    patient_run("cp %s %s", page, orphan);
    repaired = repair(patient, "", act);
    expect_line(repaired.failed, "object-orphan", "could be read");
    expect_line(repaired.failed, "page-orphan", "could be read");
    g_assert_cmpstr(repaired.mended->str, ==, "");
    repaired_clear(&repaired);
    expect_block(patient, "30", true);
    g_assert_true(g_file_test(orphan, G_FILE_TEST_EXISTS));
}

static void test_unread_meanwhile(void)
{
    struct patient *patient = patient_shared();

    lose_sight(next_read_fails);
    expect_next_mends(patient);
    expect_block(patient, "30", false);
    patient_expect(patient, "v");
}

static void damage_pages(struct patient *patient, struct store *store)
{
    patient_run("find %s/maps/%.2s/%s/pages -type f ! -name 3e7 "
                "-exec truncate -s 100 {} +", patient->scratch,
                patient->v_layer, patient->v_layer);
}

static void test_damaged_meanwhile(void)
{
    lose_sight(damage_pages);
}

int main(int argc, char **argv)
{
    int rc;

    if (argc == 5 && !strcmp(argv[1], "child")) {
        return patient_child(argv[3]);
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/repair/header-failed", test_header_failed);
    g_test_add_func("/repair/not-counted", test_not_counted);
    g_test_add_func("/repair/any-read-fails", test_any_read_fails);
    g_test_add_func("/repair/not-recovered", test_not_recovered);
    g_test_add_func("/repair/unclean-meanwhile", test_unclean_meanwhile);
    g_test_add_func("/repair/not-synced", test_not_synced);
    g_test_add_func("/repair/unread-meanwhile", test_unread_meanwhile);
    g_test_add_func("/repair/damaged-meanwhile", test_damaged_meanwhile);
    rc = g_test_run();
    patient_shared_end();
    return rc;
}
