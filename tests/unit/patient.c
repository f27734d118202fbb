/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store of two volumes that tests damage: see patient.h. */
#include "patient.h"

#include "volume/volume.h"

#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* --- The store ----------------------------------------------------------- */

/* Objects 0 to 4 whole, frozen, partly written over; 8 and 9 whole. */
static void write_v(archip_store *store)
{
    archip_create_options options = {.object_bytes = OBJECT};
    archip_volume *volume;
    archip_queue *queue;

    assert_ok(archip_volume_create(store, "v", SIZE, &options));
    assert_ok(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < 5; i++) {
        fixture_fill(queue, i * OBJECT, OBJECT, (uint8_t)(i + 1));
    }
    assert_ok(volume_freeze(volume));
    fixture_fill(queue, 0, 4096, 11);
    fixture_fill(queue, OBJECT + 8192, 4096, 12);
    fixture_fill(queue, 8 * OBJECT, 2 * OBJECT, 13);
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
}

static void write_w(archip_store *store)
{
    archip_create_options options = {.object_bytes = OBJECT};
    archip_volume *volume;
    archip_queue *queue;

    assert_ok(archip_volume_create(store, "w", SIZE, &options));
    assert_ok(archip_volume_open(store, "w", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < 6; i++) {
        fixture_fill(queue, i * OBJECT, 20000, (uint8_t)(i + 21));
    }
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
}

char *patient_id_at(const char *file, size_t offset)
{
    g_autoptr(GString) id = g_string_new(NULL);
    g_autofree char *bytes = NULL;
    gsize length;

    g_assert_true(g_file_get_contents(file, &bytes, &length, NULL));
    g_assert_cmpuint(length, >=, offset + 16);
    for (size_t i = offset; i < offset + 16; i++) {
        g_string_append_printf(id, "%02x", (uint8_t)bytes[i]);
    }
    return g_strdup(id->str);
}

/* Everything in the volume; NULL: it can't be opened or read. */
char *patient_content(archip_store *store, const char *name)
{
    g_autofree uint8_t *bytes = g_malloc(SIZE);
    archip_volume *volume;
    archip_queue *queue;
    int rc;

    if (archip_volume_open(store, name, 0, NULL, &volume) < 0) {
        g_assert_cmpuint(strlen(archip_error()), >, 8);
        return NULL;
    }
    assert_ok(archip_queue_open(volume, 0, &queue));
    rc = archip_volume_size(volume) == SIZE
             ? archip_read(queue, bytes, SIZE, 0)
             : -ERANGE;
    archip_queue_close(queue);
    archip_volume_close(volume);
    return rc < 0 ? NULL
                  : g_compute_checksum_for_data(G_CHECKSUM_SHA256, bytes,
                                                SIZE);
}

void patient_run(const char *format, ...)
{
    g_autofree char *command = NULL;
    const char *argv[] = {"/bin/sh", "-ec", NULL, NULL};
    int status = 0;
    va_list args;

    va_start(args, format);
    command = g_strdup_vprintf(format, args);
    va_end(args);
    argv[2] = command;
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL,
                               NULL, &status, NULL));
    if (status) {
        g_error("failed: %s", command);
    }
}

void patient_heal(struct patient *patient)
{
    scratch_remove(patient->scratch);
    patient_run("cp -a --sparse=always %s %s", patient->pristine,
                patient->scratch);
}

static void patient_ids(struct patient *patient)
{
    g_autofree char *v = g_build_filename(patient->pristine, "names/v", NULL);
    g_autofree char *w = g_build_filename(patient->pristine, "names/w", NULL);
    g_autofree char *v_header = NULL, *w_header = NULL, *blocks = NULL;
    g_autofree char *pattern = NULL;
    char *slash;

    patient->v_id = patient_id_at(v, 16);
    patient->w_id = patient_id_at(w, 16);
    v_header = g_strdup_printf("%s/maps/%.2s/%s/header", patient->pristine,
                               patient->v_id, patient->v_id);
    w_header = g_strdup_printf("%s/maps/%.2s/%s/header", patient->pristine,
                               patient->w_id, patient->w_id);
    patient->v_layer = patient_id_at(v_header, 128);
    patient->w_layer = patient_id_at(w_header, 128);
    /* The frozen layer is the one with an object 4. */
    pattern = g_strdup("*/blocks/*/000/4");
    for (unsigned tries = 0; !patient->v_frozen && tries < 2; tries++) {
        blocks = scratch_find(patient->pristine, pattern);
        if (strstr(blocks, patient->w_layer)) {
            g_autofree char *hidden = g_strconcat(blocks, ".x", NULL);

            g_rename(blocks, hidden);
            g_free(blocks);
            blocks = scratch_find(patient->pristine, pattern);
            g_autofree char *shown = g_strndup(hidden, strlen(hidden) - 2);
            g_rename(hidden, shown);
        }
        slash = strstr(blocks, "/000/4");
        patient->v_frozen = g_strndup(slash - 32, 32);
    }
}

void patient_begin(struct patient *patient)
{
    g_autofree char *location = NULL;
    archip_store *store;

    *patient = (struct patient){.pristine = scratch_new(),
                                .scratch = scratch_new()};
    patient->location = g_strdup_printf("dir:%s?io=buffered",
                                        patient->scratch);
    location = g_strdup_printf("dir:%s?io=buffered", patient->pristine);
    assert_ok(archip_store_open(location, ARCHIP_STORE_CREATE, &store));
    write_v(store);
    write_w(store);
    patient->v_sum = patient_content(store, "v");
    patient->w_sum = patient_content(store, "w");
    archip_store_close(store);
    patient_ids(patient);
    patient_heal(patient);
}

void patient_end(struct patient *patient)
{
    scratch_remove(patient->pristine);
    scratch_remove(patient->scratch);
    g_free(patient->pristine);
    g_free(patient->scratch);
    g_free(patient->location);
    g_free(patient->v_id);
    g_free(patient->v_layer);
    g_free(patient->v_frozen);
    g_free(patient->w_id);
    g_free(patient->w_layer);
    g_free(patient->v_sum);
    g_free(patient->w_sum);
}

/* Sum over all files, locks too. */
char *patient_tree_sum(const char *path)
{
    g_autofree char *command =
        g_strdup_printf("cd %s && find . -printf '%%p %%y %%s\\n' | sort | "
                        "sha256sum; cd %s && find . -type f | sort | xargs -d "
                        "'\\n' sha256sum | sha256sum", path, path);
    const char *argv[] = {"/bin/sh", "-ec", command, NULL};
    char *out = NULL;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, &out,
                               NULL, NULL, NULL));
    return out;
}

void patient_expect(struct patient *patient, const char *v_name)
{
    g_autofree char *v = NULL, *w = NULL;
    archip_store *store;

    assert_ok(archip_store_open(patient->location, 0, &store));
    w = patient_content(store, "w");
    g_assert_cmpstr(w, ==, patient->w_sum);
    if (v_name) {
        v = patient_content(store, v_name);
        g_assert_cmpstr(v, ==, patient->v_sum);
    }
    archip_store_close(store);
}

char *patient_v_file(struct patient *patient, const char *end)
{
    return g_strdup_printf("%s/maps/%.2s/%s/%s", patient->scratch,
                           patient->v_id, patient->v_id, end);
}

char *patient_block_file(struct patient *patient, const char *layer,
                        const char *end)
{
    return g_strdup_printf("%s/blocks/%.2s/%s/000/%s", patient->scratch,
                           layer, layer, end);
}

char *patient_page_file(struct patient *patient, const char *layer)
{
    g_autofree char *pattern = g_strdup_printf("*/maps/%.2s/%s/pages/*",
                                               layer, layer);
    char *file = scratch_find(patient->scratch, pattern);

    g_assert_nonnull(file);
    return file;
}

void patient_flip(const char *file, long at)
{
    FILE *stream = fopen(file, "r+");
    int byte;

    g_assert_nonnull(stream);
    fseek(stream, at, SEEK_SET);
    byte = fgetc(stream);
    fseek(stream, at, SEEK_SET);
    fputc(byte ^ 0x20, stream);
    fclose(stream);
}

void patient_expect_killed(struct patient *patient)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;

    assert_ok(archip_store_open(patient->location, 0, &store));
    assert_ok(archip_volume_open(store, "v", 0, NULL, &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    fixture_expect(queue, 4 * OBJECT, OBJECT, 5);
    fixture_expect(queue, 8 * OBJECT, 2 * OBJECT, 13);
    for (unsigned i = 0; i < 5; i++) {
        fixture_expect(queue, (20 + i) * OBJECT, 5000, (uint8_t)(i + 1));
    }
    fixture_close(volume, queue);
    archip_store_close(store);
}

int patient_child(const char *location)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < 5; i++) {
        fixture_fill(queue, (20 + i) * OBJECT, 5000, (uint8_t)(i + 1));
        assert_ok(archip_flush(queue));
    }
    fixture_fill(queue, 40 * OBJECT, 5000, 9);      /* in no journal */
    printf("written\n");
    fflush(stdout);
    pause();
    return 1;
}

void patient_kill(struct patient *patient)
{
    struct child child = child_start("write", patient->location, "v");
    g_autofree char *line = child_line(&child);

    g_assert_cmpstr(line, ==, "written");
    child_end(&child, SIGKILL);
}

static struct patient *shared;

struct patient *patient_shared(void)
{
    if (!shared) {
        shared = g_new0(struct patient, 1);
        patient_begin(shared);
    }
    patient_heal(shared);
    return shared;
}

void patient_shared_end(void)
{
    if (shared) {
        patient_end(shared);
        g_free(shared);
        shared = NULL;
    }
}

/* --- Checking ------------------------------------------------------------ */

static int collect(const archip_finding *finding, void *opaque)
{
    struct result *result = opaque;

    g_assert_cmpuint(strlen(finding->text), >, 8);
    g_assert_cmpuint(strlen(finding->action), >, 5);
    g_assert_nonnull(finding->place);
    if (g_test_verbose()) {
        g_printerr("  %d/%d %s %s %s: %s [%s]\n", finding->severity,
                   finding->outcome, finding->code,
                   finding->volume ? finding->volume : "-", finding->place,
                   finding->text, finding->action);
    }
    result->outcomes[finding->outcome]++;
    if (finding->severity != ARCHIP_NOTE &&
        !strstr(result->codes->str, finding->code)) {
        g_string_append_printf(result->codes, "%s%s",
                               result->codes->len ? " " : "", finding->code);
    }
    return 0;
}

void result_clear(struct result *result)
{
    g_string_free(result->codes, TRUE);
}

struct result check_store(archip_store *store, bool repair)
{
    struct result result = {.codes = g_string_new(NULL)};
    archip_check_options options = {
        .flags = repair ? ARCHIP_CHECK_REPAIR : 0,
        .finding = collect,
        .opaque = &result,
    };

    result.rc = archip_check(store, &options, &result.summary);
    return result;
}

struct result check_at(const char *location, bool repair)
{
    struct result result;
    archip_store *store;

    assert_ok(archip_store_open(location, 0, &store));
    result = check_store(store, repair);
    if (result.rc < 0) {
        g_printerr("%s\n", archip_error());
    }
    archip_store_close(store);
    return result;
}

void expect(const char *location, bool repair, const char *codes,
                   archip_outcome outcome)
{
    struct result result = check_at(location, repair);

    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, codes);
    if (*codes) {
        g_assert_cmpuint(result.outcomes[outcome], >, 0);
        for (unsigned i = 0; i < G_N_ELEMENTS(result.outcomes); i++) {
            g_assert_true(i == outcome || result.outcomes[i] == 0);
        }
    }
    result_clear(&result);
}
