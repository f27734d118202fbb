/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Damaged stores: each byte of what the library keeps on disk is changed, cut
 * off, zeroed or taken from elsewhere.  It says so (-EUCLEAN) and names the
 * place, or can't be harmed by it; it never crashes, hangs, or makes things
 * worse: a failed open changes nothing.
 */
#include "fixture.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define SIZE (8 * MIB)
#define FLUSHES 5u

/* --- A store to damage --------------------------------------------------- */

struct patient {
    char *pristine, *scratch;   /* directories: whole, and to be damaged */
    char *location;
};

/* Volumes "v" and "other": object i of 64 KiB was written before flush i. */
static void write_volume(archip_store *store, const char *name)
{
    archip_create_options options = {.object_bytes = 1 << 16};
    archip_volume *volume;
    archip_queue *queue;

    assert_ok(archip_volume_create(store, name, SIZE, &options));
    assert_ok(archip_volume_open(store, name, ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < FLUSHES; i++) {
        fixture_fill(queue, i * 65536, 65536, (uint8_t)(i + 1));
        fixture_fill(queue, 7 * MIB + i * 65536, 5000, (uint8_t)(i + 1));
        assert_ok(archip_flush(queue));
    }
    if (!strcmp(name, "v")) {   /* the child is to be killed */
        printf("written\n");
        fflush(stdout);
        pause();
    }
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
}

static int child_main(char **argv)
{
    archip_store *store;

    assert_ok(archip_store_open(argv[3], ARCHIP_STORE_CREATE, &store));
    write_volume(store, "other");
    write_volume(store, "v");
    return 0;
}

static void run(const char *format, ...) G_GNUC_PRINTF(1, 2);

static void run(const char *format, ...)
{
    g_autofree char *command = NULL;
    va_list args;

    va_start(args, format);
    command = g_strdup_vprintf(format, args);
    va_end(args);
    g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

/* Start anew from the whole store. */
static void patient_heal(struct patient *patient)
{
    scratch_remove(patient->scratch);
    run("cp -a --sparse=always %s %s", patient->pristine, patient->scratch);
}

/* `clean`: both were closed; else "v" has a journal of FLUSHES records. */
static void patient_begin(struct patient *patient, bool clean)
{
    g_autofree char *location = NULL, *line = NULL;
    struct child child;
    archip_store *store;
    archip_volume *volume;

    patient->pristine = scratch_new();
    patient->scratch = scratch_new();
    patient->location = g_strdup_printf("dir:%s?io=buffered",
                                        patient->scratch);
    location = g_strdup_printf("dir:%s?io=buffered", patient->pristine);
    child = child_start("write", location, "v");
    line = child_line(&child);
    g_assert_cmpstr(line, ==, "written");
    child_end(&child, SIGKILL);
    if (clean) {
        assert_ok(archip_store_open(location, 0, &store));
        assert_ok(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                     &volume));
        assert_ok(archip_volume_close(volume));
        archip_store_close(store);
    }
    patient_heal(patient);
}

static void patient_end(struct patient *patient)
{
    scratch_remove(patient->pristine);
    scratch_remove(patient->scratch);
    g_free(patient->pristine);
    g_free(patient->scratch);
    g_free(patient->location);
}

/* The id of a volume, as it stands in file names. */
static char *patient_id(struct patient *patient, const char *name)
{
    archip_volume_info info;
    archip_volume *volume;
    archip_store *store;
    g_autofree char *location = g_strdup_printf("dir:%s", patient->pristine);

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_volume_open(store, name, 0, NULL, &volume));
    assert_ok(archip_volume_get_info(volume, &info));
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    return g_strdup(info.id);
}

/* A file of a volume, by the end of its path. */
static char *patient_file(struct patient *patient, const char *name,
                          const char *end)
{
    g_autofree char *id = patient_id(patient, name);
    g_autofree char *pattern = g_strdup_printf("*/maps/*/%s/%s", id, end);
    char *file = scratch_find(patient->scratch, pattern);

    g_assert_nonnull(file);
    return file;
}

/* The page of the volume's map; it lies with the layer that the header names. */
static char *patient_page(struct patient *patient, const char *name)
{
    g_autofree char *header = patient_file(patient, name, "header");
    g_autofree char *bytes = NULL, *pattern = NULL;
    g_autoptr(GString) id = g_string_new(NULL);
    gsize length;
    char *file;

    g_assert_true(g_file_get_contents(header, &bytes, &length, NULL));
    g_assert_cmpuint(length, >=, 144);
    for (unsigned i = 128; i < 144; i++) {
        g_string_append_printf(id, "%02x", (uint8_t)bytes[i]);
    }
    pattern = g_strdup_printf("*/maps/*/%s/pages/*", id->str);
    file = scratch_find(patient->scratch, pattern);
    g_assert_nonnull(file);
    return file;
}

/* --- Damage -------------------------------------------------------------- */

static GByteArray *file_read(const char *file)
{
    gchar *bytes;
    gsize length;

    g_assert_true(g_file_get_contents(file, &bytes, &length, NULL));
    return g_byte_array_new_take((guint8 *)bytes, length);
}

/* In place: locks and links stay as they are. */
static void file_write(const char *file, const void *bytes, size_t length)
{
    FILE *stream = fopen(file, "r+");

    g_assert_nonnull(stream);
    g_assert_cmpuint(fwrite(bytes, 1, length, stream), ==, length);
    g_assert_cmpint(fflush(stream), ==, 0);
    g_assert_cmpint(ftruncate(fileno(stream), (off_t)length), ==, 0);
    fclose(stream);
}

static uint32_t crc32c(const uint8_t *bytes, size_t length)
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

/* Set the big-endian CRC at `at` of what is otherwise valid. */
static void reseal(uint8_t *bytes, size_t length, size_t at)
{
    uint32_t crc;

    memset(bytes + at, 0, 4);
    crc = GUINT32_TO_BE(crc32c(bytes, length));
    memcpy(bytes + at, &crc, 4);
}

/* --- What must come of it ------------------------------------------------ */

enum verdict { DAMAGED, HARMLESS, EITHER };

/* Read the volume's first object after each flush, as far as it goes. */
static int read_all(archip_queue *queue, char **text)
{
    g_autofree uint8_t *bytes = g_malloc(SIZE);
    int result = archip_read(queue, bytes, SIZE, 0);

    if (result < 0) {
        *text = g_strdup(archip_error());
        return result;
    }
    for (uint64_t i = 0; i < SIZE; i++) {
        g_assert_cmpuint(bytes[i], <=, FLUSHES);
    }
    return 0;
}

/* Open "v", read, close: the first error and its text; `opened`: it was no
 * earlier than the read's. */
static int try_volume(const char *location, unsigned flags, bool *opened,
                      char **text)
{
    archip_store *store = NULL;
    archip_volume *volume = NULL;
    archip_queue *queue;
    int result = archip_store_open(location, 0, &store);

    if (result == 0) {
        result = archip_volume_open(store, "v", flags, NULL, &volume);
    }
    *opened = result == 0;
    if (result < 0) {
        *text = g_strdup(archip_error());
    } else {
        assert_ok(archip_queue_open(volume, 0, &queue));
        if (archip_volume_size(volume) == SIZE) {
            result = read_all(queue, text);
        }
        archip_queue_close(queue);
        archip_volume_close(volume);
    }
    archip_store_close(store);
    return result;
}

static void expect_flags(struct patient *patient, enum verdict verdict,
                         const char *place, unsigned flags, const char *what)
{
    g_autofree char *before =
        verdict == DAMAGED ? scratch_checksum(patient->scratch) : NULL;
    g_autofree char *after = NULL, *text = NULL;
    bool opened = false;
    int result = try_volume(patient->location, flags, &opened, &text);

    if (verdict == HARMLESS) {
        g_assert_cmpint(result, ==, 0);
    }
    if (verdict != DAMAGED) {
        if (opened && flags & ARCHIP_OPEN_WRITE) {
            patient_heal(patient);
        }
        return;
    }
    if ((result != -EUCLEAN && result != -EOPNOTSUPP) ||
        !strstr(text, place)) {
        g_printerr("%s: %d, \"%s\", not -EUCLEAN with \"%s\"\n", what, result,
                   text ? text : "", place);
        g_assert_not_reached();
    }
    after = scratch_checksum(patient->scratch);
    if (!opened) {
        g_assert_cmpstr(after, ==, before);
    } else if (flags & ARCHIP_OPEN_WRITE) {
        patient_heal(patient);
    }
}

/* Read-only, then for writing. */
static void expect(struct patient *patient, enum verdict verdict,
                   const char *place, const char *what)
{
    expect_flags(patient, verdict, place, 0, what);
    expect_flags(patient, verdict, place, ARCHIP_OPEN_WRITE, what);
}

/* Flip a bit in each `stride`th byte, from `from` up to `to`. */
static void flip(struct patient *patient, const char *file, size_t from,
                 size_t to, size_t stride, const char *place)
{
    GByteArray *whole = file_read(file);
    g_autofree uint8_t *bytes = g_memdup2(whole->data, whole->len);

    g_assert_cmpuint(from, <, to);
    g_assert_cmpuint(to, <=, whole->len);
    for (size_t at = from; at < to; at += stride) {
        g_autofree char *what = g_strdup_printf("%s byte %zu", file, at);

        bytes[at] ^= (uint8_t)(1u << at % 8);
        file_write(file, bytes, whole->len);
        expect_flags(patient, DAMAGED, place,
                     at / stride % 2 ? ARCHIP_OPEN_WRITE : 0, what);
        bytes[at] = whole->data[at];
    }
    file_write(file, whole->data, whole->len);
    expect_flags(patient, HARMLESS, "", 0, file);
    g_byte_array_unref(whole);
}

static void cut(struct patient *patient, const char *file, size_t length,
                enum verdict verdict, const char *place)
{
    GByteArray *whole = file_read(file);
    g_autofree char *what = g_strdup_printf("%s cut at %zu", file, length);

    g_assert_cmpuint(length, <=, whole->len);
    file_write(file, whole->data, length);
    expect(patient, verdict, place, what);
    patient_heal(patient);
    g_byte_array_unref(whole);
}

static void zero(struct patient *patient, const char *file, size_t from,
                 size_t to, enum verdict verdict, const char *place)
{
    GByteArray *whole = file_read(file);
    g_autofree char *what = g_strdup_printf("%s zeroed from %zu", file, from);

    memset(whole->data + from, 0, to - from);
    file_write(file, whole->data, whole->len);
    expect(patient, verdict, place, what);
    patient_heal(patient);
    g_byte_array_unref(whole);
}

/* Put the other volume's file in its place. */
static void swap(struct patient *patient, const char *file, const char *other,
                 const char *place)
{
    GByteArray *foreign = file_read(other);
    g_autofree char *what = g_strdup_printf("%s swapped", file);

    file_write(file, foreign->data, foreign->len);
    expect(patient, DAMAGED, place, what);
    patient_heal(patient);
    g_byte_array_unref(foreign);
}

/* --- Headers, names, the store ------------------------------------------- */

static void test_header(void)
{
    struct patient patient;
    g_autofree char *file = NULL, *other = NULL;

    patient_begin(&patient, true);
    file = patient_file(&patient, "v", "header");
    other = patient_file(&patient, "other", "header");
    flip(&patient, file, 0, 640, 7, "header");
    cut(&patient, file, 0, DAMAGED, "header");
    cut(&patient, file, 1, DAMAGED, "header");
    cut(&patient, file, 300, DAMAGED, "header");
    cut(&patient, file, 639, DAMAGED, "header");
    zero(&patient, file, 0, 640, DAMAGED, "header");
    zero(&patient, file, 8, 640, DAMAGED, "header");
    swap(&patient, file, other, "header");
    patient_end(&patient);
}

/* A valid CRC over nonsense: whatever comes of it, no crash and no hang. */
static void test_header_wild(void)
{
    static const uint64_t values[] = {0, 1, UINT64_MAX, UINT64_C(1) << 63,
                                      UINT64_C(0x8000000000)};
    struct patient patient;
    g_autofree char *file = NULL;
    GByteArray *whole;

    patient_begin(&patient, true);
    file = patient_file(&patient, "v", "header");
    whole = file_read(file);
    for (size_t at = 16; at + 8 <= 408; at += 8) {
        g_autofree uint8_t *bytes = g_memdup2(whole->data, whole->len);
        uint64_t value =
            GUINT64_TO_BE(values[at / 8 % G_N_ELEMENTS(values)]);

        memcpy(bytes + at, &value, sizeof(value));
        reseal(bytes, whole->len, 8);
        file_write(file, bytes, whole->len);
        expect_flags(&patient, EITHER, "", 0, "wild");
        expect_flags(&patient, EITHER, "", ARCHIP_OPEN_WRITE, "wild");
    }
    g_byte_array_unref(whole);
    patient_end(&patient);
}

static int count_damaged(const archip_volume_info *info, const char *error,
                         void *opaque)
{
    unsigned *counts = opaque;

    if (error) {
        g_assert_cmpstr(info->name, ==, "v");
        g_assert_cmpuint(info->size_bytes, ==, 0);
        g_assert_cmpuint(strlen(error), >, 8);
    } else {
        g_assert_cmpstr(info->name, ==, "other");
    }
    counts[error != NULL]++;
    return 0;
}

/* One bad header spoils no list. */
static void test_header_list(void)
{
    struct patient patient;
    g_autofree char *file = NULL;
    unsigned counts[2] = {0};
    archip_store *store;

    patient_begin(&patient, true);
    file = patient_file(&patient, "v", "header");
    file_write(file, "nonsense", 8);
    assert_ok(archip_store_open(patient.location, 0, &store));
    assert_ok(archip_volume_list(store, count_damaged, counts));
    g_assert_cmpuint(counts[0], ==, 1);
    g_assert_cmpuint(counts[1], ==, 1);
    archip_store_close(store);
    patient_end(&patient);
}

static void test_name(void)
{
    struct patient patient;
    g_autofree char *file = NULL;

    patient_begin(&patient, true);
    file = g_build_filename(patient.scratch, "names", "v", NULL);
    flip(&patient, file, 0, 64, 3, "v");
    cut(&patient, file, 0, DAMAGED, "v");
    cut(&patient, file, 63, DAMAGED, "v");
    zero(&patient, file, 0, 64, DAMAGED, "v");
    patient_end(&patient);
}

static void test_store(void)
{
    struct patient patient;
    g_autofree char *file = NULL;

    patient_begin(&patient, true);
    file = g_build_filename(patient.scratch, "archipelago-store", NULL);
    flip(&patient, file, 0, 512, 9, patient.scratch);
    cut(&patient, file, 0, DAMAGED, patient.scratch);
    cut(&patient, file, 511, DAMAGED, patient.scratch);
    patient_end(&patient);
}

/* --- Pages --------------------------------------------------------------- */

/* Read when needed: the open or the read fails, and says which page. */
static void test_page(void)
{
    struct patient patient;
    g_autofree char *file = NULL, *other = NULL;

    patient_begin(&patient, true);
    file = patient_page(&patient, "v");
    other = patient_page(&patient, "other");
    flip(&patient, file, 0, 128, 5, "page");
    flip(&patient, file, 128, 65536, 4099, "page");
    cut(&patient, file, 0, DAMAGED, "page");
    cut(&patient, file, 127, DAMAGED, "page");
    cut(&patient, file, 65535, EITHER, "page");    /* that may be a zero */
    zero(&patient, file, 0, 65536, DAMAGED, "page");
    zero(&patient, file, 0, 128, DAMAGED, "page");
    swap(&patient, file, other, "page");
    g_assert_cmpint(g_remove(file), ==, 0);
    expect(&patient, DAMAGED, "page", "page removed");
    patient_end(&patient);
}

/* --- Journals ------------------------------------------------------------ */

/* Where the records lie: each tells its length. */
static GArray *records_of(const GByteArray *journal)
{
    GArray *records = g_array_new(FALSE, FALSE, sizeof(size_t));
    size_t at = 0;

    while (at + 64 <= journal->len) {
        uint32_t length;

        g_array_append_val(records, at);
        memcpy(&length, journal->data + at + 12, 4);
        length = GUINT32_FROM_BE(length);
        g_assert_cmpuint(length, >, 0);
        at += length;
    }
    g_array_append_val(records, at);
    return records;
}

static size_t record_at(const GArray *records, unsigned i)
{
    g_assert_cmpuint(i, <, records->len);
    return g_array_index(records, size_t, i);
}

/* How many of the flushes are still there, from the first. */
static unsigned flushes_left(const char *location)
{
    archip_store *store;
    archip_volume *volume;
    archip_queue *queue;
    unsigned count = 0;
    uint8_t byte;

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < FLUSHES; i++) {
        assert_ok(archip_read(queue, &byte, 1, i * 65536));
        g_assert_true(byte == i + 1 || byte == 0);
        g_assert_true(byte == 0 || count == i);     /* none after a gap */
        count += byte != 0;
    }
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    return count;
}

/* Bad before good is an error: never a guess. */
static void test_journal_bad_before_good(void)
{
    struct patient patient;
    g_autofree char *file = NULL;
    GByteArray *journal;
    g_autoptr(GArray) records = NULL;

    patient_begin(&patient, false);
    file = patient_file(&patient, "v", "journal.*");
    journal = file_read(file);
    records = records_of(journal);
    g_assert_cmpuint(records->len, ==, FLUSHES + 1);
    for (unsigned i = 0; i + 2 < records->len; i++) {
        size_t start = record_at(records, i), end = record_at(records, i + 1);

        zero(&patient, file, start, end, DAMAGED, "journal");
        flip(&patient, file, start, start + 64, 7, "journal");
        flip(&patient, file, start + 64, end, 501, "journal");
    }
    g_byte_array_unref(journal);
    patient_end(&patient);
}

/* A torn last record is dropped; all before it stays. */
static void test_journal_torn(void)
{
    struct patient patient;
    g_autofree char *file = NULL;
    GByteArray *journal;
    g_autoptr(GArray) records = NULL;
    size_t start, end;

    patient_begin(&patient, false);
    file = patient_file(&patient, "v", "journal.*");
    journal = file_read(file);
    records = records_of(journal);
    start = record_at(records, FLUSHES - 1);
    end = record_at(records, FLUSHES);
    g_assert_cmpuint(flushes_left(patient.location), ==, FLUSHES);
    for (size_t length = start; length < end; length += 299) {
        unsigned left;

        patient_heal(&patient);
        file_write(file, journal->data, length);
        left = flushes_left(patient.location);
        /* A record ends with zeroes, as what lies past the end reads. */
        g_assert_true(left == FLUSHES - 1 ||
                      (left == FLUSHES && length > start + 64));
    }
    for (size_t at = start; at < end; at += at < start + 64 ? 5 : 333) {
        g_autofree uint8_t *bytes = g_memdup2(journal->data, journal->len);

        patient_heal(&patient);
        bytes[at] ^= 0x10;
        file_write(file, bytes, journal->len);
        g_assert_cmpuint(flushes_left(patient.location), ==, FLUSHES - 1);
    }
    g_byte_array_unref(journal);
    patient_end(&patient);
}

static void test_journal_foreign(void)
{
    struct patient patient, second;
    g_autofree char *file = NULL, *other = NULL;

    patient_begin(&patient, false);
    patient_begin(&second, false);
    file = patient_file(&patient, "v", "journal.*");
    other = patient_file(&second, "v", "journal.*");
    swap(&patient, file, other, "journal");
    patient_end(&second);
    patient_end(&patient);
}

/* Valid CRCs over nonsense items. */
static void test_journal_wild(void)
{
    struct patient patient;
    g_autofree char *file = NULL;
    GByteArray *journal;
    uint32_t length;

    patient_begin(&patient, false);
    file = patient_file(&patient, "v", "journal.*");
    journal = file_read(file);
    memcpy(&length, journal->data + 12, 4);
    length = GUINT32_FROM_BE(length);
    for (size_t at = 12; at < 160; at += 3) {
        g_autofree uint8_t *bytes = g_memdup2(journal->data, journal->len);

        bytes[at] ^= at % 2 ? 0xff : 0x80;
        reseal(bytes, length, 4);
        file_write(file, bytes, journal->len);
        expect_flags(&patient, EITHER, "", 0, "wild");
        expect_flags(&patient, EITHER, "", ARCHIP_OPEN_WRITE, "wild");
    }
    g_byte_array_unref(journal);
    patient_end(&patient);
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "child")) {
        return child_main(argv);
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/corrupt/header", test_header);
    g_test_add_func("/corrupt/header-wild", test_header_wild);
    g_test_add_func("/corrupt/header-list", test_header_list);
    g_test_add_func("/corrupt/name", test_name);
    g_test_add_func("/corrupt/store", test_store);
    g_test_add_func("/corrupt/page", test_page);
    g_test_add_func("/corrupt/journal-bad-before-good",
                    test_journal_bad_before_good);
    g_test_add_func("/corrupt/journal-torn", test_journal_torn);
    g_test_add_func("/corrupt/journal-foreign", test_journal_foreign);
    g_test_add_func("/corrupt/journal-wild", test_journal_wild);
    return g_test_run();
}
