/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checks beside writers, who notice nothing and of whose work nothing is found;
 * and of stores with any damage at all, done at random.
 */
#include "patient.h"

#include "volume/volume.h"

#include <glib/gstdio.h>
#include <stdio.h>
#include <unistd.h>

/* --- Beside writers ------------------------------------------------------- */

#define LIVE_SECONDS 6

/* Writes, discards, flushes; in the end what is there must be right. */
static int child_live(const char *location)
{
    uint8_t bytes[64] = {0};
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;
    gint64 end = g_get_monotonic_time() + LIVE_SECONDS * G_USEC_PER_SEC;
    uint64_t rounds = 0;

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < 64; i++) {
        assert_ok(archip_discard(queue, i * OBJECT, OBJECT));
    }
    while (g_get_monotonic_time() < end) {
        unsigned at = (unsigned)g_random_int_range(0, 64);

        if (g_random_int_range(0, 3)) {
            bytes[at] = (uint8_t)g_random_int_range(1, 255);
            fixture_fill(queue, at * OBJECT, OBJECT, bytes[at]);
        } else {
            bytes[at] = 0;
            assert_ok(archip_discard(queue, at * OBJECT, OBJECT));
        }
        if (g_random_int_range(0, 4) == 0) {
            assert_ok(archip_flush(queue));
        }
        if (g_random_int_range(0, 3) == 0) {    /* pages come and go */
            assert_ok(volume_settle(volume, false, NULL));
        }
        rounds++;
    }
    for (unsigned i = 0; i < 64; i++) {
        fixture_expect(queue, i * OBJECT, OBJECT, bytes[i]);
    }
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    printf("%" PRIu64 "\n", rounds);
    return 0;
}

/* Volumes come, are written to, and go. */
static int child_life(const char *location)
{
    archip_create_options options = {.object_bytes = OBJECT};
    gint64 end = g_get_monotonic_time() + LIVE_SECONDS * G_USEC_PER_SEC;
    archip_store *store;
    uint64_t rounds = 0;

    assert_ok(archip_store_open(location, 0, &store));
    while (g_get_monotonic_time() < end) {
        archip_volume *volume;
        archip_queue *queue;

        assert_ok(archip_volume_create(store, "life", SIZE, &options));
        for (unsigned i = 0; i < 3; i++) {
            assert_ok(archip_volume_open(store, "life", ARCHIP_OPEN_WRITE,
                                         NULL, &volume));
            assert_ok(archip_queue_open(volume, 0, &queue));
            fixture_fill(queue, i * OBJECT, 3 * OBJECT, 7);
            if (i == 1) {
                assert_ok(volume_freeze(volume));
                fixture_fill(queue, 0, 4096, 9);
            }
            archip_queue_close(queue);
            assert_ok(archip_volume_close(volume));
        }
        assert_ok(archip_volume_remove(store, "life"));
        rounds++;
    }
    archip_store_close(store);
    printf("%" PRIu64 "\n", rounds);
    return 0;
}

static void test_live(void)
{
    struct patient *patient = patient_shared();
    struct child writer = child_start("live", patient->location, "v");
    struct child life = child_start("life", patient->location, "v");
    gint64 end = g_get_monotonic_time() +
                 (LIVE_SECONDS - 1) * G_USEC_PER_SEC;
    g_autofree char *written = NULL, *lived = NULL;
    unsigned rounds = 0, busy = 0;

    while (g_get_monotonic_time() < end) {
        struct result result = check_at(patient->location, false);

        g_assert_cmpint(result.rc, ==, 0);
        g_assert_cmpstr(result.codes->str, ==, "");
        g_assert_cmpuint(result.summary.note_count, ==, 0);
        busy += result.summary.busy_count > 0;
        result_clear(&result);
        rounds++;
    }
    written = child_line(&writer);
    lived = child_line(&life);
    g_assert_cmpint(child_end(&writer, 0), ==, 0);
    g_assert_cmpint(child_end(&life, 0), ==, 0);
    g_assert_cmpuint(busy, >, 0);
    g_test_message("%u checks, %s writes, %s lives", rounds, written, lived);
    expect(patient->location, false, "", 0);
}

/* What is damaged beside the writer's work is found all the same, and a repair
 * leaves the volume to its writer. */
static void test_live_damage(void)
{
    struct patient *patient = patient_shared();
    struct child writer;
    g_autofree char *line = NULL, *frozen = NULL;
    struct result result;

    frozen = patient_block_file(patient, patient->w_layer, "3");
    g_assert_cmpint(g_remove(frozen), ==, 0);
    writer = child_start("hold", patient->location, "w");
    line = child_line(&writer);
    g_assert_cmpstr(line, ==, "held");
    result = check_at(patient->location, true);
    g_assert_cmpint(result.rc, ==, 0);
    g_assert_cmpstr(result.codes->str, ==, "object-missing");
    g_assert_cmpuint(result.outcomes[ARCHIP_KEPT], ==, 1);
    g_assert_cmpuint(result.summary.busy_count, ==, 1);
    result_clear(&result);
    g_assert_cmpint(child_end(&writer, 0), ==, 0);
}

static int child_hold(const char *location)
{
    archip_volume *volume;
    archip_store *store;
    archip_queue *queue;
    int byte;

    assert_ok(archip_store_open(location, 0, &store));
    assert_ok(archip_volume_open(store, "w", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    fixture_fill(queue, 30 * OBJECT, OBJECT, 1);
    printf("held\n");
    fflush(stdout);
    while ((byte = getchar()) != EOF) {
    }
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
    archip_store_close(store);
    return 0;
}

/* --- Anything ------------------------------------------------------------- */

static void files_add(const char *file, void *opaque)
{
    if (!g_str_has_suffix(file, "/archipelago-store")) {
        g_ptr_array_add(opaque, g_strdup(file));
    }
}

static void hurt(GRand *rand, const char *file)
{
    g_autofree char *copy = NULL;
    long size = 0;
    FILE *stream = fopen(file, "r");

    if (!stream) {
        return;
    }
    fseek(stream, 0, SEEK_END);
    size = ftell(stream);
    fclose(stream);
    switch (g_rand_int_range(rand, 0, 6)) {
    case 0:
    case 1:
        if (size > 0) {
            patient_flip(file, g_rand_int_range(rand, 0, (gint32)size));
        }
        break;
    case 2:
        g_assert_cmpint(truncate(file, g_rand_int_range(
                                           rand, 0, (gint32)size + 1)), ==, 0);
        break;
    case 3:
        g_assert_cmpint(g_remove(file), ==, 0);
        break;
    case 4:
        copy = g_strdup_printf("%s%d", file, g_rand_int_range(rand, 0, 9));
        patient_run("cp %s %s", file, copy);
        break;
    default:
        g_assert_cmpint(truncate(file, size + 70000), ==, 0);
    }
}

static void test_random(void)
{
    const char *given = g_getenv("SEED");
    uint32_t seed = given ? (uint32_t)atoi(given)
                          : (uint32_t)g_test_rand_int();
    unsigned rounds = g_test_slow() ? 400 : 60;
    GRand *rand = g_rand_new_with_seed(seed);
    struct patient *patient = patient_shared();

    g_test_message("SEED=%u", seed);
    for (unsigned round = 0; round < rounds; round++) {
        g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
        bool w_hurt = false;
        g_autofree char *sum = NULL;
        struct result result;
        archip_store *store;

        patient_heal(patient);
        if (g_rand_int_range(rand, 0, 4) == 0) {
            patient_kill(patient);
        }
        scratch_each(patient->scratch, files_add, paths);
        for (int hits = g_rand_int_range(rand, 1, 4); hits > 0; hits--) {
            guint at = (guint)g_rand_int_range(rand, 0, (gint32)paths->len);
            const char *file = paths->pdata[at];

            w_hurt |= strstr(file, patient->w_id) ||
                      strstr(file, patient->w_layer) ||
                      strstr(file, "names/w");
            hurt(rand, file);
        }
        for (unsigned i = 0; i < 2; i++) {
            result = check_at(patient->location, i > 0);
            g_assert_true(result.rc == 0 || result.rc == -EIO);
            result_clear(&result);
        }
        assert_ok(archip_store_open(patient->location, 0, &store));
        sum = patient_content(store, "w");
        if (!w_hurt && g_strcmp0(sum, patient->w_sum)) {
            g_error("seed %u, round %u: the other volume suffered", seed,
                    round);
        }
        g_free(patient_content(store, "v"));
        archip_store_close(store);
        /* What one repair did needs no other. */
        result = check_at(patient->location, true);
        g_assert_cmpuint(result.outcomes[ARCHIP_REPAIRED], ==, 0);
        result_clear(&result);
    }
    g_rand_free(rand);
}

int main(int argc, char **argv)
{
    int rc;

    if (argc == 5 && !strcmp(argv[1], "child")) {
        return !strcmp(argv[2], "write")  ? patient_child(argv[3])
               : !strcmp(argv[2], "live") ? child_live(argv[3])
               : !strcmp(argv[2], "life") ? child_life(argv[3])
                                          : child_hold(argv[3]);
    }
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/check/live", test_live);
    g_test_add_func("/check/live-damage", test_live_damage);
    g_test_add_func("/check/random", test_random);
    rc = g_test_run();
    patient_shared_end();
    return rc;
}
