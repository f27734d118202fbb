/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a shot of the fault loop happens to: see scene.h. */
#include "scene.h"

#include "volume/volume.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

char shot_text[512];
unsigned complaints;
GHashTable *found_codes;

void complain(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    if (complaints++ < 200) {
        g_printerr("%s: %s\n", shot_text, text);
    }
}

/* --- Templates ------------------------------------------------------------ */

static char *templates[SCENE_EMPTY];

static void copy_file(const char *from, const char *to)
{
    g_autofree char *bytes = NULL;
    g_autoptr(GError) error = NULL;
    gsize length;

    if (!g_file_get_contents(from, &bytes, &length, &error) ||
        !g_file_set_contents_full(to, bytes, (gssize)length,
                                  G_FILE_SET_CONTENTS_NONE, 0600, &error)) {
        g_error("%s", error->message);
    }
}

static void copy_tree(const char *from, const char *to)
{
    g_autoptr(GDir) dir = g_dir_open(from, 0, NULL);
    const char *name;

    g_mkdir(to, 0700);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *source = g_build_filename(from, name, NULL);
        g_autofree char *target = g_build_filename(to, name, NULL);

        (g_file_test(source, G_FILE_TEST_IS_DIR) ? copy_tree
                                                 : copy_file)(source, target);
    }
}

static void fill_harbour(struct scene *scene)
{
    scene_open(scene, ARCHIP_OPEN_WRITE);
    for (unsigned i = 0; i < 5; i++) {
        fixture_fill(scene->queue, i * OBJECT, OBJECT, (uint8_t)(i + 1));
    }
    assert_ok(volume_freeze(scene->volume));
    fixture_fill(scene->queue, 0, BLOCK, 11);
    fixture_fill(scene->queue, OBJECT + 2 * BLOCK, BLOCK, 12);
    fixture_fill(scene->queue, 8 * OBJECT, 2 * OBJECT, 13);
    archip_queue_close(g_steal_pointer(&scene->queue));
    assert_ok(archip_volume_close(g_steal_pointer(&scene->volume)));
}

static void fill_beacon(struct scene *scene)
{
    archip_create_options options = {.object_bytes = OBJECT};
    archip_volume *volume;
    archip_queue *queue;

    assert_ok(archip_volume_create(scene->store, "beacon", MIB, &options));
    assert_ok(archip_volume_open(scene->store, "beacon", ARCHIP_OPEN_WRITE,
                                 NULL, &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < 4; i++) {
        fixture_fill(queue, i * OBJECT, 20000, (uint8_t)(i + 21));
    }
    fixture_close(volume, queue);
}

static void model_harbour(uint8_t *bytes, enum scene_start start)
{
    for (unsigned i = 0; i < 5; i++) {
        memset(bytes + i * OBJECT, (int)i + 1, OBJECT);
    }
    memset(bytes, 11, BLOCK);
    memset(bytes + OBJECT + 2 * BLOCK, 12, BLOCK);
    memset(bytes + 8 * OBJECT, 13, 2 * OBJECT);
    for (unsigned i = 20; start == SCENE_UNCLEAN && i < 25; i++) {
        memset(bytes + i * OBJECT, (int)i + 10, 5000);
    }
}

/* Flushed, and then the store as it lies there: its writer never closed. */
static void make_unclean(struct scene *scene)
{
    scene_open(scene, ARCHIP_OPEN_WRITE);
    for (unsigned i = 20; i < 25; i++) {
        fixture_fill(scene->queue, i * OBJECT, 5000, (uint8_t)(i + 10));
        assert_ok(archip_flush(scene->queue));
    }
    templates[SCENE_UNCLEAN] = scratch_new();
    copy_tree(scene->root, templates[SCENE_UNCLEAN]);
}

static void make_templates(void)
{
    archip_create_options options = {.object_bytes = OBJECT};
    g_autofree struct scene *scene = g_new0(struct scene, 1);

    scene->root = scratch_new();
    scene->location = g_strdup_printf("dir:%s?io=buffered", scene->root);
    scene->fd = -1;
    assert_ok(
        archip_store_open(scene->location, ARCHIP_STORE_CREATE, &scene->store));
    assert_ok(archip_volume_create(scene->store, "harbour", SIZE, &options));
    fill_harbour(scene);
    fill_beacon(scene);
    templates[SCENE_CLEAN] = scratch_new();
    copy_tree(scene->root, templates[SCENE_CLEAN]);
    make_unclean(scene);
    g_assert_cmpint(scene_close(scene), ==, 0);
    scratch_remove(scene->root);
    g_free(scene->root);
    g_free(scene->location);
}

void scene_clear_templates(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(templates); i++) {
        if (templates[i]) {
            scratch_remove(templates[i]);
        }
        g_free(templates[i]);
    }
}

/* --- Beginning ------------------------------------------------------------ */

void scene_begin(struct scene *scene, const char *prefix, const char *options,
                 enum scene_start start)
{
    if (!templates[SCENE_CLEAN]) {
        make_templates();
    }
    memset(scene, 0, sizeof(*scene));
    scene->before = scratch_descriptors();
    scene->fd = -1;
    scene->root = scratch_new();
    scene->location = g_strconcat(prefix, scene->root, options, NULL);
    scene->file = g_strconcat(scene->root, ".file", NULL);
    scene->size = scene->size_after = start == SCENE_EMPTY ? 0 : SIZE;
    if (start != SCENE_EMPTY) {
        copy_tree(templates[start], scene->root);
        model_harbour(scene->sure, start);
        memcpy(scene->after, scene->sure, sizeof(scene->sure));
    }
}

void scene_open_store(struct scene *scene)
{
    assert_ok(archip_store_open(scene->location, 0, &scene->store));
}

void scene_open(struct scene *scene, unsigned flags)
{
    assert_ok(archip_volume_open(scene->store, "harbour", flags, NULL,
                                 &scene->volume));
    assert_ok(archip_queue_open(scene->volume, 0, &scene->queue));
}

void scene_will_be(struct scene *scene, uint64_t offset, uint64_t length,
                   uint8_t byte)
{
    memset(scene->after + offset, byte, length);
}

void scene_is(struct scene *scene)
{
    memcpy(scene->sure, scene->after, sizeof(scene->sure));
    scene->size = scene->size_after;
    scene->jetty_before = scene->jetty_after;
}

void scene_wreck(struct scene *scene, const char *path)
{
    g_autofree char *tree = g_build_filename(scene->root, path, NULL);

    scratch_remove(tree);
    g_mkdir(tree, 0700);
}

/* --- Ending --------------------------------------------------------------- */

int scene_close(struct scene *scene)
{
    int rc;

    archip_queue_close(g_steal_pointer(&scene->queue));
    rc = archip_volume_close(g_steal_pointer(&scene->volume));
    archip_volume_close(g_steal_pointer(&scene->other));
    archip_store_close(g_steal_pointer(&scene->store));
    if (scene->fd >= 0) {
        close(scene->fd);
    }
    scene->fd = -1;
    return rc;
}

static unsigned count_threads(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    unsigned count = 0;

    while (g_dir_read_name(dir)) {
        count++;
    }
    return count;
}

void scene_expect_nothing_left(struct scene *scene)
{
    unsigned threads;

    if (scratch_descriptors() != scene->before) {
        complain("%u descriptors before, %u after", scene->before,
                 scratch_descriptors());
    }
    /* One that was joined is listed for a moment still. */
    for (unsigned i = 0; (threads = count_threads()) > 1 && i < 1000; i++) {
        g_usleep(1000);
    }
    if (threads > 1) {
        complain("%u threads are left", threads - 1);
    }
}

void scene_end(struct scene *scene)
{
    scratch_remove(scene->root);
    g_remove(scene->file);
    g_free(scene->root);
    g_free(scene->location);
    g_free(scene->file);
}

/* --- What must hold ------------------------------------------------------- */

struct verdict {
    struct scene *scene;
    bool done; /* the operation was: nothing may be left */
    unsigned mendable;
};

static int judge_finding(const archip_finding *finding, void *opaque)
{
    struct verdict *verdict = opaque;
    g_autofree char *code = g_strdup_printf("%s%s", finding->code,
                                            verdict->done ? "" : " (failed)");
    gpointer count = g_hash_table_lookup(found_codes, code);

    g_hash_table_replace(found_codes, g_steal_pointer(&code),
                         GUINT_TO_POINTER(GPOINTER_TO_UINT(count) + 1));
    if (finding->severity == ARCHIP_DAMAGE && !verdict->scene->wrecked) {
        complain("check finds %s, %s: %s", finding->code, finding->place,
                 finding->text);
    }
    verdict->mendable += finding->severity == ARCHIP_LEAK;
    return 0;
}

static unsigned check(struct scene *scene, bool repair, bool done)
{
    struct verdict verdict = {scene, done, 0};
    archip_check_options options = {
        .flags = repair ? ARCHIP_CHECK_REPAIR : 0,
        .finding = judge_finding,
        .opaque = &verdict,
    };

    if (archip_check(scene->store, &options, NULL) < 0) {
        complain("the check fails: %s", archip_error());
    }
    return verdict.mendable;
}

static bool sector_is(const uint8_t *bytes, const uint8_t *model)
{
    return memcmp(bytes, model, 512) == 0;
}

static void compare(struct scene *scene, const uint8_t *bytes, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += 512) {
        if (!sector_is(bytes + at, scene->sure + at) &&
            !sector_is(bytes + at, scene->after + at)) {
            complain("harbour at %" PRIu64 ": %u instead of %u or %u", at,
                     bytes[at], scene->sure[at], scene->after[at]);
            return;
        }
    }
}

/* An import that ended in the middle: the volume isn't there, or lacks its
 * header until the import is run again. */
static bool is_being_brought_back(int rc)
{
    return rc == -ENOENT ||
           (rc == -EUCLEAN && strstr(archip_error(), "header is missing"));
}

static void verify_harbour(struct scene *scene, unsigned flags)
{
    static uint8_t bytes[SIZE_MAX_BYTES];
    archip_volume *volume;
    archip_queue *queue;
    uint64_t size;
    int rc = archip_volume_open(scene->store, "harbour", flags, NULL, &volume);

    if (rc < 0) {
        if (!scene->wrecked || !is_being_brought_back(rc)) {
            complain("harbour can't be opened: %s", archip_error());
        }
        return;
    }
    size = archip_volume_size(volume);
    if (size != scene->size && size != scene->size_after) {
        complain("harbour has %" PRIu64 " bytes", size);
    }
    assert_ok(archip_queue_open(volume, 0, &queue));
    if (archip_read(queue, bytes, size, 0) < 0) {
        complain("harbour can't be read: %s", archip_error());
    } else {
        compare(scene, bytes, size);
    }
    archip_queue_close(queue);
    if (archip_volume_close(volume) < 0) {
        complain("harbour can't be closed: %s", archip_error());
    }
}

/* Another volume: its first `count` objects begin with `first` and so on. */
static bool verify_other(struct scene *scene, const char *name, unsigned count,
                         uint8_t first, uint64_t size)
{
    g_autofree uint8_t *bytes = g_malloc(20000);
    archip_volume *volume;
    archip_queue *queue;
    int rc = archip_volume_open(scene->store, name, ARCHIP_OPEN_WRITE, NULL,
                                &volume);

    if (rc < 0) {
        if (scene->wrecked ? !is_being_brought_back(rc) : rc != -ENOENT) {
            complain("%s can't be opened: %s", name, archip_error());
        }
        return false;
    }
    if (archip_volume_size(volume) != size) {
        complain("%s has another size", name);
    }
    assert_ok(archip_queue_open(volume, 0, &queue));
    for (unsigned i = 0; i < count; i++) {
        if (archip_read(queue, bytes, 20000, i * OBJECT) < 0) {
            complain("%s can't be read: %s", name, archip_error());
        } else if (bytes[0] != first + i || bytes[19999] != first + i) {
            complain("%s lost object %u", name, i);
        }
    }
    archip_queue_close(queue);
    if (archip_volume_close(volume) < 0) {
        complain("%s can't be closed: %s", name, archip_error());
    }
    return true;
}

struct listing {
    bool wrecked;
    unsigned count;
};

static int count_volume(const archip_volume_info *info, const char *error,
                        void *opaque)
{
    struct listing *listing = opaque;

    if (error && !(listing->wrecked && strstr(error, "header is missing"))) {
        complain("%s is listed with: %s", info->name, error);
    }
    listing->count++;
    return 0;
}

static void verify_volumes(struct scene *scene)
{
    bool jetty = verify_other(scene, "jetty", 0, 0, MIB);
    struct listing listing = {scene->wrecked, 0};
    unsigned count;

    if (jetty != scene->jetty_before && jetty != scene->jetty_after) {
        complain("jetty is %s", jetty ? "there" : "gone");
    }
    if (!verify_other(scene, "beacon", 4, 21, MIB) && !scene->wrecked) {
        complain("beacon is gone");
    }
    assert_ok(archip_volume_list(scene->store, count_volume, &listing));
    count = listing.count;
    if (count != 2u + jetty && !(scene->wrecked && count < 2u + jetty)) {
        complain("%u volumes are listed", count);
    }
}

void scene_verify(struct scene *scene, bool done)
{
    if (!scene->size) { /* it began without volumes */
        return;
    }
    scene_open_store(scene);
    check(scene, false, done);
    verify_harbour(scene, 0);
    verify_harbour(scene, ARCHIP_OPEN_WRITE);
    verify_volumes(scene);
    if (!scene->wrecked) {
        check(scene, true, done);
        if (check(scene, false, done) > 0) {
            complain("a repair leaves something to be mended");
        }
        verify_harbour(scene, ARCHIP_OPEN_WRITE);
    }
    archip_store_close(g_steal_pointer(&scene->store));
}
