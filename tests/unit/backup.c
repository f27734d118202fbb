/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata to a file and back: what was flushed before the export is there
 * again after names and maps were lost; a file that isn't whole is refused, and
 * so is what would overwrite; an import that ends anywhere can be begun again.
 */
#include "patient.h"

#include "base/sys.h"
#include "store/fault.h"
#include "volume/volume.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <unistd.h>

static const char *const only_v[] = {"v", NULL};
static const char *const only_w[] = {"w", NULL};

static int file_new(void)
{
    FILE *file = tmpfile();
    int fd;

    g_assert_nonnull(file);
    fd = dup(fileno(file));
    fclose(file);
    return fd;
}

static int export_at(const char *location)
{
    archip_store *store;
    int fd = file_new();

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_metadata_export(store, fd, NULL, NULL, NULL));
    archip_store_close(store);
    return fd;
}

static int import_at(const char *location, int fd, const char *const *names,
                     unsigned flags)
{
    archip_store *store;
    int rc;

    assert_ok(archip_store_open(location, 0, &store));
    rc = archip_metadata_import(store, fd, names, flags, NULL, NULL);
    archip_store_close(store);
    return rc;
}

static void lose_metadata(struct patient *patient)
{
    patient_run("cd %s; rm -rf maps names intents; mkdir maps names intents",
                patient->scratch);
}

/* Damages, leaks; after a repair if asked for. */
static archip_check_summary summary_at(const char *location, bool repair)
{
    archip_check_options options = {.flags = repair ? ARCHIP_CHECK_REPAIR
                                                    : 0};
    archip_check_summary summary;
    archip_store *store;

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_check(store, &options, &summary));
    archip_store_close(store);
    return summary;
}

static void expect_clean(const char *location)
{
    archip_check_summary summary = summary_at(location, false);

    g_assert_cmpuint(summary.damage_count, ==, 0);
    g_assert_cmpuint(summary.leak_count, ==, 0);
}

/* --- There and back ------------------------------------------------------ */

static void test_quiet(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);

    lose_metadata(patient);
    assert_ok(import_at(patient->location, fd, NULL, 0));
    patient_expect(patient, "v");
    expect_clean(patient->location);
    close(fd);
}

/* The same bytes each time. */
static void test_same(void)
{
    struct patient *patient = patient_shared();
    int first = export_at(patient->location),
        second = export_at(patient->location);
    off_t size = lseek(first, 0, SEEK_END);
    g_autofree uint8_t *a = g_malloc(size), *b = g_malloc(size);

    g_assert_cmpint(size, >, 0);
    g_assert_cmpint(lseek(second, 0, SEEK_END), ==, size);
    g_assert_cmpint(pread(first, a, size, 0), ==, size);
    g_assert_cmpint(pread(second, b, size, 0), ==, size);
    g_assert_cmpint(memcmp(a, b, size), ==, 0);
    close(first);
    close(second);
}

/* A volume that wasn't closed brings its journal along. */
static void test_unclean(void)
{
    struct patient *patient = patient_shared();
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;
    int fd;

    patient_kill(patient);
    fd = export_at(patient->location);
    lose_metadata(patient);
    assert_ok(import_at(patient->location, fd, NULL, 0));
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < 5; i++) {
        fixture_expect(queue, (20 + i) * OBJECT, 5000, (uint8_t)(i + 1));
    }
    fixture_expect(queue, 8 * OBJECT, 2 * OBJECT, 13);
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    patient_expect(patient, NULL);
    close(fd);
}

/* One volume of two. */
static void test_partial(void)
{
    struct patient *patient = patient_shared();
    const char *const nobody[] = {"nobody", NULL};
    int fd = export_at(patient->location);
    archip_volume *volume;
    archip_store *store;

    lose_metadata(patient);
    assert_fails(import_at(patient->location, fd, nobody, 0), ENOENT,
                 "nobody");
    assert_ok(import_at(patient->location, fd, only_w, 0));
    patient_expect(patient, NULL);
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_fails(archip_volume_open(store, "v", 0, NULL, &volume), ENOENT,
                 "v");
    archip_store_close(store);
    /* A repair sets aside what seems nobody's; it can come back. */
    g_assert_cmpuint(summary_at(patient->location, true).repaired_count, >, 0);
    assert_fails(import_at(patient->location, fd, NULL, 0), EEXIST, "w");
    patient_expect(patient, "v");
    expect_clean(patient->location);
    close(fd);
}

/* --- What is in the way --------------------------------------------------- */

static void test_exists(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *before = NULL, *after = NULL;
    int fd = export_at(patient->location);

    before = patient_tree_sum(patient->scratch);
    assert_fails(import_at(patient->location, fd, NULL, 0), EEXIST, "there");
    assert_ok(import_at(patient->location, fd, NULL,
                        ARCHIP_IMPORT_OVERWRITE | ARCHIP_IMPORT_DRY_RUN));
    after = patient_tree_sum(patient->scratch);
    g_assert_cmpstr(before, ==, after);
    /* Something else, and back. */
    patient_kill(patient);
    assert_ok(import_at(patient->location, fd, NULL,
                        ARCHIP_IMPORT_OVERWRITE));
    patient_expect(patient, "v");
    g_assert_cmpuint(summary_at(patient->location, true).damage_count, ==, 0);
    patient_expect(patient, "v");
    expect_clean(patient->location);
    close(fd);
}

static void test_damaged_header(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *file = patient_v_file(patient, "header");
    int fd = export_at(patient->location);

    patient_flip(file, 77);
    assert_fails(import_at(patient->location, fd, NULL, 0), EEXIST, "w");
    patient_expect(patient, "v");
    expect_clean(patient->location);
    close(fd);
}

/* What another process does just before an import has the volume's lock. */
static struct {
    void (*run)(struct patient *patient);
    struct patient *patient;
    const struct store_driver *driver;
} before_lock;

static int lock_after(struct store *store, const struct id128 *id,
                      enum store_lock_mode mode, struct store_owner *me,
                      struct store_lock **lock, struct store_owner *holder,
                      GError **error)
{
    if (mode == STORE_LOCK_WRITE) {
        store->driver = before_lock.driver;
        before_lock.run(before_lock.patient);
    }
    return before_lock.driver->lock(store, id, mode, me, lock, holder, error);
}

static int import_w_after(struct patient *patient, int fd, unsigned flags,
                          void (*run)(struct patient *patient))
{
    struct store_driver driver;
    archip_store *store;
    int rc;

    assert_ok(archip_store_open(patient->location, 0, &store));
    before_lock.run = run;
    before_lock.patient = patient;
    before_lock.driver = store->store->driver;
    driver = *before_lock.driver;
    driver.lock = lock_after;
    store->store->driver = &driver;
    rc = archip_metadata_import(store, fd, only_w, flags, NULL, NULL);
    g_assert_true(store->store->driver == before_lock.driver);
    archip_store_close(store);
    return rc;
}

static void create_other(struct patient *patient)
{
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_create(store, "w", 3 * MIB, NULL));
    archip_store_close(store);
}

/* Somebody made a volume of that name meanwhile: it keeps it. */
static void test_second_name(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);
    archip_volume *volume;
    archip_store *store;

    lose_metadata(patient);
    assert_fails(import_w_after(patient, fd, 0, create_other), EEXIST,
                 "another volume has that name");
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_open(store, "w", 0, NULL, &volume));
    g_assert_cmpuint(archip_volume_size(volume), ==, 3 * MIB);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    close(fd);
}

/* A name that can't be read just now may be another's, too. */
static void test_unread_name(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *location = g_strdup_printf("fault::%s",
                                                patient->location);
    struct fault_rule rule = {.op = FAULT_GET, .times = 1,
                              .errno_value = EIO};
    archip_create_options options = {.object_bytes = OBJECT};
    int fd = export_at(patient->location);
    archip_store *store;
    bool fired = true;

    lose_metadata(patient);
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_create(store, "w", SIZE, &options));
    archip_store_close(store);
    for (rule.nth = 1; fired; rule.nth++) {
        g_autofree char *name = NULL, *now = NULL;
        g_autofree char *file = g_strdup_printf("%s/names/w",
                                                patient->scratch);

        name = patient_id_at(file, 16);
        assert_ok(archip_store_open(location, 0, &store));
        fault_arm(store->store, &rule);
        g_assert_cmpint(archip_metadata_import(store, fd, only_w,
                                               ARCHIP_IMPORT_OVERWRITE, NULL,
                                               NULL), <, 0);
        fired = fault_fired(store->store) > 0;
        archip_store_close(store);
        now = patient_id_at(file, 16);
        g_assert_cmpstr(name, ==, now);
    }
    g_assert_cmpuint(rule.nth, >, 3);
    close(fd);
}

/* A header that can't be read just now is no damaged one: the volume stays. */
static bool import_with_get_failing(struct patient *patient, int fd,
                                    unsigned nth, int errno_value,
                                    unsigned flags)
{
    g_autofree char *location = g_strdup_printf("fault::%s",
                                                patient->location);
    struct fault_rule rule = {.op = FAULT_GET, .nth = nth, .times = 1,
                              .errno_value = errno_value};
    archip_store *store;
    bool fired;

    assert_ok(archip_store_open(location, 0, &store));
    fault_arm(store->store, &rule);
    g_assert_cmpint(archip_metadata_import(store, fd, NULL, flags, NULL,
                                           NULL), <, 0);
    fired = fault_fired(store->store) > 0;
    archip_store_close(store);
    return fired;
}

static void test_unread_header(void)
{
    static const int errnos[] = {EIO, EMFILE, ENOMEM};
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);
    g_autofree char *before = patient_tree_sum(patient->scratch);

    for (unsigned i = 0; i < G_N_ELEMENTS(errnos); i++) {
        unsigned nth = 1;

        while (import_with_get_failing(patient, fd, nth, errnos[i], 0)) {
            g_autofree char *after = patient_tree_sum(patient->scratch);

            g_assert_cmpstr(before, ==, after);
            g_assert_cmpuint(++nth, <, 100);
        }
        g_assert_cmpuint(nth, >, 4);
    }
    close(fd);
}

/* That of a newer version, or with features that this one may not write, is
 * sound: not even overwriting takes it away. */
static void test_newer_header(void)
{
    static const struct { size_t at; int errno_value; } news[] = {
        {offsetof(struct format_header, version) + 1, EOPNOTSUPP},
        {offsetof(struct format_header, features_incompatible) + 7,
         EOPNOTSUPP},
        {offsetof(struct format_header, features_readonly) + 7, EROFS},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(news); i++) {
        struct patient *patient = patient_shared();
        g_autofree char *file = patient_v_file(patient, "header");
        g_autofree char *bytes = NULL, *before = NULL, *after = NULL;
        int fd = export_at(patient->location);
        struct format_header *header;
        gsize size;

        g_assert_true(g_file_get_contents(file, &bytes, &size, NULL));
        header = (void *)bytes;
        bytes[news[i].at] ^= 6;
        header->crc = GUINT32_TO_BE(
            format_crc(header, size, offsetof(struct format_header, crc)));
        g_assert_true(g_file_set_contents(file, bytes, (gssize)size, NULL));
        before = patient_tree_sum(patient->scratch);
        assert_fails(import_at(patient->location, fd, only_v, 0),
                     news[i].errno_value, "left alone");
        assert_fails(import_at(patient->location, fd, only_v,
                               ARCHIP_IMPORT_OVERWRITE |
                               ARCHIP_IMPORT_FORCE),
                     news[i].errno_value, "left alone");
        after = patient_tree_sum(patient->scratch);
        g_assert_cmpstr(before, ==, after);
        close(fd);
    }
}

static void put_back_and_write(struct patient *patient)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;

    patient_run("cp -a %s.kept/* %s", patient->scratch, patient->scratch);
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_open(store, "w", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    fixture_fill(queue, 20 * OBJECT, OBJECT, 99);
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
}

/* Somebody with a copy of the folders was quicker, and uses them. */
static void test_put_back(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;

    patient_run("cd %s; mkdir %s.kept; cp -a maps names %s.kept",
                patient->scratch, patient->scratch, patient->scratch);
    lose_metadata(patient);
    assert_fails(import_w_after(patient, fd, 0, put_back_and_write), EEXIST,
                 "there already");
    patient_run("rm -r %s.kept", patient->scratch);
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_open(store, "w", 0, NULL, &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    fixture_expect(queue, 20 * OBJECT, OBJECT, 99);
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    close(fd);
}

static void test_busy(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);
    archip_volume *volume;
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_open(store, "w", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_fails(import_at(patient->location, fd, only_w,
                           ARCHIP_IMPORT_OVERWRITE), EBUSY, "w");
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    patient_expect(patient, "v");
    close(fd);
}

static const char *watched_layer;
static gint watched_syncs;

static int watching_fdatasync(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *path = g_file_read_link(link, NULL);

    if (path && strstr(path, watched_layer)) {
        g_atomic_int_inc(&watched_syncs);
    }
    return sys_real.fdatasync(fd);
}

/* An import that finds the volume busy, in the process that has it open, leaves
 * what it wrote to be synced by its flush. */
static void test_busy_unsynced(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;

    patient_run("mkdir %s/set-aside", patient->scratch);
    watched_layer = patient->w_layer;
    sys.fdatasync = watching_fdatasync;
    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_open(store, "w", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    fixture_fill(queue, 0, 4096, 7);
    assert_fails(archip_metadata_import(store, fd, only_w,
                                        ARCHIP_IMPORT_OVERWRITE, NULL, NULL),
                 EBUSY, "w");
    assert_ok(archip_flush(queue));
    g_assert_cmpint(g_atomic_int_get(&watched_syncs), >, 0);
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    sys = sys_real;
    close(fd);
}

/* What was set aside can't be had back: then objects may seem missing, or an
 * earlier taking back isn't durable. */
static void test_take_back_fails(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *location = g_strdup_printf("fault::%s",
                                                patient->location);
    struct fault_rule rule = {.op = FAULT_TAKE_BACK, .nth = 1, .times = 1,
                              .errno_value = EIO};
    int fd = export_at(patient->location);
    g_autofree char *before = NULL, *after = NULL;
    archip_store *store;

    lose_metadata(patient);
    before = patient_tree_sum(patient->scratch);
    assert_ok(archip_store_open(location, 0, &store));
    fault_arm(store->store, &rule);
    assert_fails(archip_metadata_import(store, fd, only_w, 0, NULL, NULL),
                 EIO, "w");
    archip_store_close(store);
    after = patient_tree_sum(patient->scratch);
    g_assert_cmpstr(before, ==, after);
    /* A place that is taken is no failure. */
    patient_run("cd %s; mkdir -p 'set-aside/blocks%%%.2s%%%s'",
                patient->scratch, patient->w_layer, patient->w_layer);
    assert_ok(import_at(patient->location, fd, NULL, 0));
    patient_expect(patient, "v");
    close(fd);
}

static bool import_with_fault(struct patient *patient, int fd,
                              const char *const *names, enum fault_op op,
                              unsigned nth, bool late)
{
    g_autofree char *location = g_strdup_printf("fault::%s",
                                                patient->location);
    struct fault_rule rule = {.op = op, .nth = nth, .times = 1,
                              .errno_value = EIO, .late = late, .stop = true};
    archip_store *store;
    bool fired;

    assert_ok(archip_store_open(location, 0, &store));
    fault_arm(store->store, &rule);
    if (archip_metadata_import(store, fd, names, ARCHIP_IMPORT_OVERWRITE, NULL,
                               NULL) < 0) {
        g_assert_cmpuint(strlen(archip_error()), >, 8);
    }
    fired = fault_fired(store->store) > 0;
    archip_store_close(store);
    return fired;
}

static int failing_syncfs(int fd)
{
    errno = EIO;
    return -1;
}

/* Pages that an import put which was cut off may not be durable: no header
 * before they are. */
static void test_cut_off_unsynced(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *header = patient_v_file(patient, "header");
    int fd = export_at(patient->location);

    lose_metadata(patient);
    g_assert_true(import_with_fault(patient, fd, only_v, FAULT_PUT, 1, false));
    sys.syncfs = failing_syncfs;
    assert_fails(import_at(patient->location, fd, only_v, 0), EIO, "sync");
    sys = sys_real;
    g_assert_false(g_file_test(header, G_FILE_TEST_EXISTS));
    assert_ok(import_at(patient->location, fd, NULL, 0));
    patient_expect(patient, "v");
    close(fd);
}

/* --- What isn't so any more ----------------------------------------------- */

static archip_queue *open_at(const char *location, const char *name,
                             archip_store **store, archip_volume **volume)
{
    archip_queue *queue;

    assert_ok(archip_store_open(location, 0, store));
    assert_ok(archip_volume_open(*store, name, ARCHIP_OPEN_WRITE, NULL,
                                 volume));
    assert_ok(archip_queue_open(*volume, 0, &queue));
    return queue;
}

static void close_at(archip_store *store, archip_volume *volume,
                     archip_queue *queue)
{
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
}

static void discard_w(struct patient *patient)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue = open_at(patient->location, "w", &store, &volume);

    assert_ok(archip_discard(queue, 0, SIZE));
    assert_ok(archip_flush(queue));
    close_at(store, volume, queue);
}

/* Objects were there when the import looked first, and then were discarded: the
 * sound volume stays. */
static void test_discarded_since(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);

    assert_fails(import_w_after(patient, fd, ARCHIP_IMPORT_OVERWRITE,
                                discard_w), ENODATA, "aren't there");
    expect_clean(patient->location);
    close(fd);
}

/* What was written behind the end that the file knows doesn't show when it
 * grows again: "clean" isn't believed of an import. */
static void test_grown_since(void)
{
    struct patient *patient = patient_shared();
    archip_create_options options = {.object_bytes = 4 * MIB};
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;
    int fd;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_create(store, "grown", 6 * MIB, &options));
    archip_store_close(store);
    queue = open_at(patient->location, "grown", &store, &volume);
    fixture_fill(queue, 5 * MIB, MIB, 7);
    close_at(store, volume, queue);
    fd = export_at(patient->location);
    queue = open_at(patient->location, "grown", &store, &volume);
    assert_ok(archip_volume_resize(volume, 8 * MIB, 0));
    fixture_fill(queue, 6 * MIB, 2 * MIB, 0xaa);
    close_at(store, volume, queue);
    assert_ok(import_at(patient->location, fd, NULL,
                        ARCHIP_IMPORT_OVERWRITE));
    queue = open_at(patient->location, "grown", &store, &volume);
    assert_ok(archip_volume_resize(volume, 8 * MIB, 0));
    fixture_expect(queue, 4 * MIB, MIB, 0);
    fixture_expect(queue, 5 * MIB, MIB, 7);
    fixture_expect(queue, 6 * MIB, 2 * MIB, 0);
    close_at(store, volume, queue);
    close(fd);
}

/* A header without its name is the same whether it says "clean" or not: as an
 * import left it, or as it was. */
static void test_same_header(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);

    for (unsigned i = 0; i < 2; i++) {
        patient_run("rm %s/names/w", patient->scratch);
        assert_ok(import_at(patient->location, fd, only_w, 0));
        assert_fails(import_at(patient->location, fd, only_w, 0), EEXIST,
                     "there already");
    }
    patient_expect(patient, "v");
    expect_clean(patient->location);
    close(fd);
}

/* Write and fold, again and again: each time pages get new numbers. */
static void write_pages(struct patient *patient, unsigned first)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue = open_at(patient->location, "v", &store, &volume);

    for (unsigned i = 0; i < 5; i++) {
        fixture_fill(queue, (first + i) * (uint64_t)OBJECT, OBJECT, 77);
        assert_ok(volume_settle(volume, false, NULL));
    }
    close_at(store, volume, queue);
}

static char *content_of_v(struct patient *patient)
{
    archip_store *store;
    char *content;

    assert_ok(archip_store_open(patient->location, 0, &store));
    content = patient_content(store, "v");
    archip_store_close(store);
    return content;
}

/* Import a later state of "v" over an earlier one that went on, and so has
 * pages by the same numbers.  Which file of what it had is nowhere? */
static bool overtake(struct patient *patient, int early, int late,
                     enum fault_op op, unsigned nth, char **before)
{
    bool fired;

    assert_ok(import_at(patient->location, early, only_v,
                        ARCHIP_IMPORT_OVERWRITE));
    write_pages(patient, 40);
    *before = content_of_v(patient);
    g_assert_nonnull(*before);
    patient_run("cd %s; find maps/*/%s maps/*/%s -type f ! -name 'lock*' "
                "-exec sha256sum {} + | cut -c1-64 | sort -u > sums",
                patient->scratch, patient->v_id, patient->v_layer);
    fired = import_with_fault(patient, late, only_v, op, nth, false);
    patient_run("cd %s; find maps set-aside -type f -exec sha256sum {} + | "
                "cut -c1-64 | sort -u > after; test -s sums; "
                "test -z \"$(comm -23 sums after)\"; rm sums after",
                patient->scratch);
    return fired;
}

/* While the header is in force its pages stay; then they are set aside. */
static void test_overtaken(void)
{
    static const enum fault_op ops[] = {FAULT_WRITE, FAULT_SYNC,
                                        FAULT_SET_ASIDE, FAULT_PUT};
    struct patient *patient = patient_shared();
    g_autofree char *header = patient_v_file(patient, "header");
    g_autofree char *wanted = NULL;
    int early = export_at(patient->location), late;

    write_pages(patient, 30);
    late = export_at(patient->location);
    wanted = content_of_v(patient);
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        bool fired = true;

        for (unsigned nth = 1; fired; nth++) {
            g_autofree char *before = NULL, *now = NULL, *again = NULL;

            fired = overtake(patient, early, late, ops[i], nth, &before);
            /* Whole, or to be imported again. */
            now = content_of_v(patient);
            if (now || g_file_test(header, G_FILE_TEST_EXISTS)) {
                g_assert_nonnull(now);
                g_assert_true(!strcmp(now, before) || !strcmp(now, wanted));
            }
            g_assert_true(fired || now);
            if (fired && now) {
                archip_check_summary summary = summary_at(patient->location,
                                                          false);

                g_assert_cmpuint(summary.damage_count, ==, 0);
            }
            assert_ok(import_at(patient->location, late, only_v,
                                ARCHIP_IMPORT_OVERWRITE));
            again = content_of_v(patient);
            g_assert_cmpstr(again, ==, wanted);
        }
    }
    close(early);
    close(late);
}

/* Nor are a volume's later journals replaced because its name was lost. */
static void test_later_journal(void)
{
    struct patient *patient = patient_shared();
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue = open_at(patient->location, "w", &store, &volume);
    int fd;

    fixture_fill(queue, 20 * OBJECT, OBJECT, 41);
    assert_ok(archip_flush(queue));
    fd = export_at(patient->location);
    fixture_fill(queue, 30 * OBJECT, OBJECT, 42);
    assert_ok(archip_flush(queue));
    /* As a crash leaves it. */
    patient_run("rm -rf %s.x; cp -a --sparse=always %s %s.x",
                patient->scratch, patient->scratch, patient->scratch);
    close_at(store, volume, queue);
    patient_run("rm -rf %s; mv %s.x %s; cp %s/names/w %s/name; "
                "rm %s/names/w", patient->scratch, patient->scratch,
                patient->scratch, patient->scratch, patient->scratch,
                patient->scratch);
    assert_fails(import_at(patient->location, fd, only_w, 0), EEXIST,
                 "there already");
    patient_run("mv %s/name %s/names/w", patient->scratch, patient->scratch);
    queue = open_at(patient->location, "w", &store, &volume);
    fixture_expect(queue, 20 * OBJECT, OBJECT, 41);
    fixture_expect(queue, 30 * OBJECT, OBJECT, 42);
    close_at(store, volume, queue);
    close(fd);
}

/* The name, or the layer, is another's by now. */
static void test_taken(void)
{
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);
    archip_create_options options = {.object_bytes = OBJECT};
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_remove(store, "w"));
    assert_ok(archip_volume_create(store, "w", SIZE, &options));
    archip_store_close(store);
    assert_fails(import_at(patient->location, fd, only_w,
                           ARCHIP_IMPORT_OVERWRITE | ARCHIP_IMPORT_FORCE),
                 EEXIST, "name");
    close(fd);
}

static void test_missing(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *file = patient_block_file(patient, patient->v_layer,
                                               "8");
    g_autofree char *before = NULL, *after = NULL;
    int fd = export_at(patient->location);

    lose_metadata(patient);
    g_assert_cmpint(g_remove(file), ==, 0);
    before = patient_tree_sum(patient->scratch);
    assert_fails(import_at(patient->location, fd, (const char *const[]){
                               "v", NULL}, 0), ENODATA, "aren't there");
    after = patient_tree_sum(patient->scratch);
    g_assert_cmpstr(before, ==, after);
    assert_ok(import_at(patient->location, fd, NULL, ARCHIP_IMPORT_FORCE));
    g_assert_cmpuint(summary_at(patient->location, false).damage_count, ==, 1);
    patient_expect(patient, NULL);
    close(fd);
}

/* --- Files that aren't whole ---------------------------------------------- */

static void refuse(struct patient *patient, const uint8_t *bytes, size_t size)
{
    int fd = file_new(), rc;

    g_assert_cmpint(write(fd, bytes, size), ==, (ssize_t)size);
    rc = import_at(patient->location, fd, NULL, 0);
    /* A version that it doesn't know is refused as such. */
    g_assert_true(rc == -EUCLEAN || rc == -EOPNOTSUPP);
    g_assert_nonnull(strstr(archip_error(), "metadata"));
    close(fd);
}

static void test_damaged_file(void)
{
    struct patient *patient = patient_shared();
    g_autofree char *before = NULL, *after = NULL;
    int fd = export_at(patient->location);
    size_t size = (size_t)lseek(fd, 0, SEEK_END);
    g_autofree uint8_t *bytes = g_malloc(size + 1);

    g_assert_cmpint(pread(fd, bytes, size, 0), ==, (ssize_t)size);
    lose_metadata(patient);
    before = patient_tree_sum(patient->scratch);
    for (size_t at = 0; at < size; at += at < 1100 ? 13 : 7919) {
        uint8_t byte = bytes[at];

        bytes[at] ^= (uint8_t)(1u << at % 8);
        refuse(patient, bytes, size);
        bytes[at] = byte;
    }
    for (size_t cut = 0; cut < size; cut += 9973) {
        refuse(patient, bytes, cut);
    }
    refuse(patient, bytes, size - 1);
    bytes[size] = 0;
    refuse(patient, bytes, size + 1);
    /* Two volumes' sections the other way round: each sound in itself. */
    memmove(bytes + 96, bytes + 96 + 224, size - 96 - 224);
    refuse(patient, bytes, size - 224);
    after = patient_tree_sum(patient->scratch);
    g_assert_cmpstr(before, ==, after);
    close(fd);
}

/* --- In use --------------------------------------------------------------- */

/* Object after object, each flushed before its number is told. */
static int child_load(const char *location)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_volume_open(store, "load", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < 600; i++) {
        fixture_fill(queue, i * (uint64_t)OBJECT, 4096, 3);
        assert_ok(archip_flush(queue));
        if (i % 2) {            /* pages and journals come and go */
            assert_ok(volume_settle(volume, false, NULL));
        }
        printf("%u\n", i);
        fflush(stdout);
        g_usleep(300);
    }
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    return 0;
}

/* How many objects from the first on hold what was written. */
static unsigned count_written(const char *location)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;
    unsigned count = 0;
    uint8_t byte = 0;

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_volume_open(store, "load", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (; count < 600; count++) {
        assert_ok(archip_read(queue, &byte, 1, count * (uint64_t)OBJECT));
        if (byte != 3) {
            break;
        }
    }
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    return count;
}

static void test_load(void)
{
    enum { EXPORTS = 12 };
    struct patient *patient = patient_shared();
    archip_create_options options = {.object_bytes = OBJECT};
    unsigned told[EXPORTS];
    int fds[EXPORTS];
    struct child child;
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_create(store, "load", 600 * OBJECT, &options));
    archip_store_close(store);
    child = child_start("load", patient->location, "load");
    for (unsigned i = 0; i < EXPORTS; i++) {
        for (unsigned skip = 0; skip < 45; skip++) {
            g_autofree char *line = child_line(&child);

            g_assert_nonnull(line);
            told[i] = (unsigned)atoi(line);
        }
        fds[i] = export_at(patient->location);
    }
    g_assert_cmpint(child_end(&child, 0), ==, 0);
    for (unsigned i = 0; i < EXPORTS; i++) {
        unsigned count;

        lose_metadata(patient);
        assert_ok(import_at(patient->location, fds[i], NULL, 0));
        g_assert_cmpuint(summary_at(patient->location, false).damage_count, ==,
                         0);
        count = count_written(patient->location);
        g_assert_cmpuint(count, >, told[i]);
        patient_expect(patient, "v");
        close(fds[i]);
    }
}

/* --- An import that ends anywhere ----------------------------------------- */

static void interrupt(int fd, enum fault_op op, bool late, bool lost)
{
    struct patient *patient = NULL;
    unsigned nth = 1;

    for (; nth < 400; nth++) {
        int rc;

        patient = patient_shared();
        if (lost) {
            lose_metadata(patient);
        } else {
            patient_kill(patient);
        }
        if (!import_with_fault(patient, fd, NULL, op, nth, late)) {
            return;
        }
        rc = import_at(patient->location, fd, NULL,
                       lost ? 0 : ARCHIP_IMPORT_OVERWRITE);
        g_assert_true(rc == 0 || (lost && rc == -EEXIST));
        patient_expect(patient, "v");
        g_assert_cmpuint(summary_at(patient->location, true).damage_count, ==,
                         0);
        expect_clean(patient->location);
        patient_expect(patient, "v");
    }
    g_assert_not_reached();
}

static void test_interrupted(void)
{
    static const enum fault_op ops[] = {
        FAULT_PUT, FAULT_WRITE, FAULT_SYNC, FAULT_SET_ASIDE, FAULT_TAKE_BACK,
        FAULT_LOCK, FAULT_EXCLUDE_READERS};
    struct patient *patient = patient_shared();
    int fd = export_at(patient->location);

    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        interrupt(fd, ops[i], false, true);
        interrupt(fd, ops[i], true, true);
        interrupt(fd, ops[i], false, false);
    }
    close(fd);
}

/* --- Other stores --------------------------------------------------------- */

static int count_volume(const archip_metadata_volume *volume, void *opaque)
{
    g_assert_null(volume->error);
    ++*(unsigned *)opaque;
    return 0;
}

static void test_stores(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;
    struct store_thing map = {.type = STORE_THING_SET},
                       name = {.type = STORE_THING_RECORD,
                               .record = {.kind = STORE_NAME, .text = "v"}};
    const struct store_driver *driver;
    int fd = file_new();
    unsigned count = 0;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", SIZE, OBJECT);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 100, 3 * OBJECT, 5);
    map.object = (struct store_object){STORE_PAGE, volume->id, 0};
    fixture_close(volume, queue);
    assert_ok(archip_metadata_export(fixture.store, fd, NULL, count_volume,
                                     &count));
    g_assert_cmpuint(count, ==, 1);
    driver = fixture.store->store->driver;
    assert_ok(driver->set_aside(fixture.store->store, &map, NULL));
    assert_ok(driver->set_aside(fixture.store->store, &name, NULL));
    assert_ok(archip_metadata_import(fixture.store, fd, NULL, 0, count_volume,
                                     &count));
    g_assert_cmpuint(count, ==, 2);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_expect(queue, 0, 100, 0);
    fixture_expect(queue, 100, 3 * OBJECT, 5);
    fixture_close(volume, queue);
    fixture_end(&fixture);
    close(fd);
}

/* --- Alone ---------------------------------------------------------------- */

struct alone {
    archip_store *store;
    int fd;                     /* of metadata of "v" */
    unsigned calls;
};

/* Beside a repair or an import there is neither; looking is allowed. */
static void expect_alone(struct alone *alone)
{
    archip_check_options look = {0}, repair = {.flags = ARCHIP_CHECK_REPAIR};

    alone->calls++;
    assert_ok(archip_check(alone->store, &look, NULL));
    assert_fails(archip_check(alone->store, &repair, NULL), EBUSY, "repairing");
    g_assert_cmpint(lseek(alone->fd, 0, SEEK_SET), ==, 0);
    assert_fails(archip_metadata_import(alone->store, alone->fd, only_v,
                                        ARCHIP_IMPORT_OVERWRITE, NULL, NULL),
                 EBUSY, "repairing");
    g_assert_cmpint(lseek(alone->fd, 0, SEEK_SET), ==, 0);
    assert_ok(archip_metadata_import(
        alone->store, alone->fd, only_v,
        ARCHIP_IMPORT_OVERWRITE | ARCHIP_IMPORT_DRY_RUN, NULL, NULL));
}

static int while_importing(const archip_metadata_volume *volume, void *opaque)
{
    g_assert_null(volume->error);
    expect_alone(opaque);
    return 0;
}

static int while_repairing(uint64_t done, uint64_t total, void *opaque)
{
    expect_alone(opaque);
    return 0;
}

static void test_alone(const void *kind)
{
    archip_volume *volume;
    archip_queue *queue;
    struct fixture fixture;
    struct alone alone = {.fd = file_new()};
    archip_check_options repair = {
        .flags = ARCHIP_CHECK_REPAIR,
        .progress = while_repairing,
        .opaque = &alone,
    };
    int fd = file_new();

    fixture_begin(&fixture, kind);
    alone.store = fixture.store;
    fixture_create(&fixture, "v", SIZE, OBJECT);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 100, 3 * OBJECT, 5);
    fixture_close(volume, queue);
    assert_ok(archip_metadata_export(fixture.store, fd, NULL, NULL, NULL));
    assert_ok(archip_metadata_export(fixture.store, alone.fd, NULL, NULL, NULL));
    assert_ok(archip_metadata_import(fixture.store, fd, NULL,
                                     ARCHIP_IMPORT_OVERWRITE, while_importing,
                                     &alone));
    g_assert_cmpuint(alone.calls, ==, 1);
    assert_ok(archip_check(fixture.store, &repair, NULL));
    g_assert_cmpuint(alone.calls, >, 1);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_expect(queue, 100, 3 * OBJECT, 5);
    fixture_close(volume, queue);
    fixture_end(&fixture);
    close(alone.fd);
    close(fd);
}

int main(int argc, char **argv)
{
    int rc;

    if (argc == 5 && !strcmp(argv[1], "child")) {
        return !strcmp(argv[2], "load") ? child_load(argv[3])
                                        : patient_child(argv[3]);
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/quiet", test_quiet);
    g_test_add_func("/backup/same", test_same);
    g_test_add_func("/backup/unclean", test_unclean);
    g_test_add_func("/backup/partial", test_partial);
    g_test_add_func("/backup/exists", test_exists);
    g_test_add_func("/backup/damaged-header", test_damaged_header);
    g_test_add_func("/backup/second-name", test_second_name);
    g_test_add_func("/backup/unread-name", test_unread_name);
    g_test_add_func("/backup/unread-header", test_unread_header);
    g_test_add_func("/backup/newer-header", test_newer_header);
    g_test_add_func("/backup/put-back", test_put_back);
    g_test_add_func("/backup/busy", test_busy);
    g_test_add_func("/backup/busy-unsynced", test_busy_unsynced);
    g_test_add_func("/backup/take-back-fails", test_take_back_fails);
    g_test_add_func("/backup/cut-off-unsynced", test_cut_off_unsynced);
    g_test_add_func("/backup/discarded-since", test_discarded_since);
    g_test_add_func("/backup/grown-since", test_grown_since);
    g_test_add_func("/backup/same-header", test_same_header);
    g_test_add_func("/backup/overtaken", test_overtaken);
    g_test_add_func("/backup/later-journal", test_later_journal);
    g_test_add_func("/backup/taken", test_taken);
    g_test_add_func("/backup/missing", test_missing);
    g_test_add_func("/backup/damaged-file", test_damaged_file);
    g_test_add_func("/backup/load", test_load);
    g_test_add_func("/backup/interrupted", test_interrupted);
    fixture_add("/backup/stores", test_stores);
    fixture_add("/backup/alone", test_alone);
    rc = g_test_run();
    patient_shared_end();
    return rc;
}
