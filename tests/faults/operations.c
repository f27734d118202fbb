/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every public function, in each of its uses that differ inside. */
#include "operations.h"

#include "store/fault.h"
#include "volume/volume.h"

#include <fcntl.h>
#include <unistd.h>

/* --- The library and stores ----------------------------------------------- */

static void nothing(struct scene *scene)
{
}

static int run_version(struct scene *scene)
{
    return archip_version()[0] ? 0 : -EINVAL;
}

static int run_error(struct scene *scene)
{
    return archip_error() ? 0 : -EINVAL;
}

static int run_name_check(struct scene *scene)
{
    return archip_name_check("harbour");
}

static int run_store_open(struct scene *scene)
{
    return archip_store_open(scene->location, 0, &scene->store);
}

static int run_store_create(struct scene *scene)
{
    return archip_store_open(scene->location, ARCHIP_STORE_CREATE,
                             &scene->store);
}

static int run_store_close(struct scene *scene)
{
    archip_store_close(g_steal_pointer(&scene->store));
    return 0;
}

static int run_status(struct scene *scene)
{
    archip_store_status status;

    return archip_store_get_status(scene->store, &status);
}

/* --- Volumes -------------------------------------------------------------- */

static void will_have_jetty(struct scene *scene)
{
    scene->jetty_after = true;
}

static int run_create(struct scene *scene)
{
    archip_create_options options = {.object_bytes = OBJECT};

    return archip_volume_create(scene->store, "jetty", MIB, &options);
}

/* It may be there: then wholly. */
static int retry_create(struct scene *scene)
{
    int rc = run_create(scene);

    return rc == -EEXIST ? 0 : rc;
}

static void with_jetty(struct scene *scene)
{
    archip_volume *volume;
    archip_queue *queue;

    scene->jetty_before = true;
    assert_ok(run_create(scene));
    assert_ok(archip_volume_open(scene->store, "jetty", ARCHIP_OPEN_WRITE, NULL,
                                 &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    fixture_fill(queue, 0, 3 * OBJECT, 50);
    fixture_close(volume, queue);
}

static int run_remove(struct scene *scene)
{
    return archip_volume_remove(scene->store, "jetty");
}

static int retry_remove(struct scene *scene)
{
    int rc = run_remove(scene);

    return rc == -ENOENT ? 0 : rc;
}

/* What can't be read is listed with its error; else all is right. */
static int list_one(const archip_volume_info *info, const char *error,
                    void *opaque)
{
    if (error) {
        return archip_name_check(info->name) < 0 ? -EINVAL : 0;
    }
    if (info->size_bytes != SIZE && info->size_bytes != MIB) {
        complain("%s is listed with a wrong size", info->name);
    }
    return 0;
}

static int run_list(struct scene *scene)
{
    return archip_volume_list(scene->store, list_one, NULL);
}

static int run_get_holder(struct scene *scene)
{
    archip_holder holder;
    int rc = archip_volume_get_holder(scene->store, "harbour", &holder);

    if (rc == 0 && holder.held != (scene->volume != NULL)) {
        complain("a wrong holder");
    }
    return rc;
}

static void open_write(struct scene *scene)
{
    scene_open(scene, ARCHIP_OPEN_WRITE);
}

static void open_read(struct scene *scene)
{
    scene_open(scene, 0);
}

static int run_open_read(struct scene *scene)
{
    return archip_volume_open(scene->store, "harbour", 0, NULL, &scene->volume);
}

static int run_open_write(struct scene *scene)
{
    return archip_volume_open(scene->store, "harbour", ARCHIP_OPEN_WRITE, NULL,
                              &scene->volume);
}

static int run_open_unlocked(struct scene *scene)
{
    return archip_volume_open(scene->store, "harbour",
                              ARCHIP_OPEN_WRITE | ARCHIP_OPEN_NO_LOCK, NULL,
                              &scene->volume);
}

static void write_some(struct scene *scene)
{
    fixture_fill(scene->queue, 3 * BLOCK, BLOCK, 60);
    scene_will_be(scene, 3 * BLOCK, BLOCK, 60);
    fixture_fill(scene->queue, 20 * OBJECT, OBJECT, 61);
    scene_will_be(scene, 20 * OBJECT, OBJECT, 61);
}

static void open_and_write(struct scene *scene)
{
    scene_open(scene, ARCHIP_OPEN_WRITE);
    write_some(scene);
}

static void to_be_closed(struct scene *scene)
{
    open_and_write(scene);
    archip_queue_close(g_steal_pointer(&scene->queue));
}

static int run_close(struct scene *scene)
{
    return archip_volume_close(g_steal_pointer(&scene->volume));
}

/* It is closed, and what was written may be lost. */
static int retry_close(struct scene *scene)
{
    to_be_closed(scene);
    return run_close(scene);
}

static void to_be_closed_unwritten(struct scene *scene)
{
    scene_open(scene, 0);
    archip_queue_close(g_steal_pointer(&scene->queue));
}

static int run_get_info(struct scene *scene)
{
    archip_volume_info info;
    int rc = archip_volume_get_info(scene->volume, &info);

    if (rc == 0 && info.size_bytes != SIZE) {
        complain("a wrong size");
    }
    return rc;
}

static int run_size(struct scene *scene)
{
    return archip_volume_size(scene->volume) == SIZE ? 0 : -EINVAL;
}

static void to_grow(struct scene *scene)
{
    scene_open(scene, ARCHIP_OPEN_WRITE);
    scene->size_after = SIZE + 4 * OBJECT;
}

static int run_grow(struct scene *scene)
{
    return archip_volume_resize(scene->volume, SIZE + 4 * OBJECT, 0);
}

static int run_grow_volatile(struct scene *scene)
{
    return archip_volume_resize(scene->volume, SIZE + 4 * OBJECT,
                                ARCHIP_RESIZE_VOLATILE);
}

static void to_shrink(struct scene *scene)
{
    scene_open(scene, ARCHIP_OPEN_WRITE);
    write_some(scene);
    scene->size_after = 4 * OBJECT + BLOCK + 512;
}

static int run_shrink(struct scene *scene)
{
    return archip_volume_resize(scene->volume, 4 * OBJECT + BLOCK + 512,
                                ARCHIP_RESIZE_SHRINK);
}

static int run_deactivate(struct scene *scene)
{
    return archip_volume_deactivate(scene->volume);
}

/* As the owner of a volume that can't be handed over would go on. */
static int retry_deactivate(struct scene *scene)
{
    if (archip_volume_activate(scene->volume) < 0) {
        return -EPERM;
    }
    write_some(scene);
    return run_deactivate(scene);
}

static void deactivated(struct scene *scene)
{
    scene_open(scene, ARCHIP_OPEN_WRITE | ARCHIP_OPEN_NO_LOCK);
}

static int run_activate(struct scene *scene)
{
    return archip_volume_activate(scene->volume);
}

static int run_reopen_write(struct scene *scene)
{
    return archip_volume_reopen(scene->volume, ARCHIP_OPEN_WRITE);
}

static int run_reopen_read(struct scene *scene)
{
    return archip_volume_reopen(scene->volume, 0);
}

/* "On failure nothing changed", or the volume was let go: but that data may be
 * lost needs new data. */
static int retry_reopen_read(struct scene *scene)
{
    if (archip_volume_activate(scene->volume) < 0) {
        return -EPERM;
    }
    write_some(scene);
    return run_reopen_read(scene);
}

static int run_get_usage(struct scene *scene)
{
    archip_usage usage;
    int rc = archip_volume_get_usage(scene->volume, &usage);

    if (rc == 0 && usage.object_count != 7) {
        complain("%" PRIu64 " objects are counted", usage.object_count);
    }
    return rc;
}

/* --- Check ---------------------------------------------------------------- */

static int no_damage(const archip_finding *finding, void *opaque)
{
    if (finding->severity == ARCHIP_DAMAGE) {
        complain("a check that can't read finds %s at %s: %s", finding->code,
                 finding->place, finding->text);
    }
    return 0;
}

static int run_check(struct scene *scene)
{
    archip_check_options options = {.finding = no_damage};

    return archip_check(scene->store, &options, NULL);
}

static int run_repair(struct scene *scene)
{
    archip_check_options options = {.flags = ARCHIP_CHECK_REPAIR,
                                    .finding = no_damage};

    return archip_check(scene->store, &options, NULL);
}

/* --- Metadata ------------------------------------------------------------- */

static void open_file(struct scene *scene)
{
    scene->fd = open(scene->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    g_assert_cmpint(scene->fd, >=, 0);
}

static int run_export(struct scene *scene)
{
    g_assert_true(ftruncate(scene->fd, 0) == 0);
    lseek(scene->fd, 0, SEEK_SET);
    return archip_metadata_export(scene->store, scene->fd, NULL, NULL, NULL);
}

static int import_with(struct scene *scene, unsigned flags)
{
    lseek(scene->fd, 0, SEEK_SET);
    return archip_metadata_import(scene->store, scene->fd, NULL, flags, NULL,
                                  NULL);
}

static void without_metadata(struct scene *scene)
{
    open_file(scene);
    assert_ok(run_export(scene));
    archip_store_close(scene->store);
    scene_wreck(scene, "names");
    scene_wreck(scene, "maps");
    scene_open_store(scene);
    scene->wrecked = true;
}

static int run_import(struct scene *scene)
{
    int rc = import_with(scene, 0);

    scene->wrecked &= rc < 0;
    return rc;
}

/* What came back the first time is there. */
static int retry_import(struct scene *scene)
{
    int rc = import_with(scene, ARCHIP_IMPORT_OVERWRITE);

    scene->wrecked &= rc < 0;
    return rc;
}

static void with_metadata(struct scene *scene)
{
    open_file(scene);
    assert_ok(run_export(scene));
}

static int run_import_over(struct scene *scene)
{
    int rc = import_with(scene, ARCHIP_IMPORT_OVERWRITE);

    scene->wrecked = rc < 0;
    return rc;
}

static int run_import_dry(struct scene *scene)
{
    return import_with(scene, ARCHIP_IMPORT_OVERWRITE | ARCHIP_IMPORT_DRY_RUN);
}

/* --- Queues --------------------------------------------------------------- */

static void open_volume(struct scene *scene)
{
    assert_ok(run_open_write(scene));
}

static int run_queue_open(struct scene *scene)
{
    return archip_queue_open(scene->volume, 0, &scene->queue);
}

static int run_queue_open_blocking(struct scene *scene)
{
    return archip_queue_open(scene->volume, ARCHIP_QUEUE_MAY_BLOCK,
                             &scene->queue);
}

static void open_blocking(struct scene *scene)
{
    open_volume(scene);
    assert_ok(run_queue_open_blocking(scene));
}

static int run_queue_fd(struct scene *scene)
{
    int rc = archip_queue_fd(scene->queue);

    return rc < 0 ? rc : 0;
}

static void in_flight(struct scene *scene)
{
    struct iovec iov = {scene->memory, 5000};
    archip_request request = {.op = ARCHIP_WRITE,
                              .offset_bytes = 100,
                              .length_bytes = 5000,
                              .iov = &iov,
                              .iov_count = 1};

    open_write(scene);
    memset(scene->memory, 70, 5000);
    scene_will_be(scene, 100, 5000, 70);
    assert_ok(archip_submit(scene->queue, &request, 1));
}

static int run_queue_close(struct scene *scene)
{
    archip_queue_close(g_steal_pointer(&scene->queue));
    return 0;
}

/* All of them complete, each once; the first error. */
static int reap_all(struct scene *scene, unsigned count)
{
    g_autofree char *text = NULL;
    unsigned seen = 0;
    int rc = 0;

    while (count > 0) {
        archip_completion got;

        if (archip_queue_reap(scene->queue, &got, 1, -1) != 1) {
            complain("a completion is missing");
            break;
        }
        seen |= 1u << GPOINTER_TO_UINT(got.user);
        count--;
        if (got.result < 0 && rc == 0) {
            rc = (int)got.result;
            text = g_strdup(got.error ? got.error : "no text");
        }
    }
    if (seen & (seen + 1)) {
        complain("a request completed twice");
    }
    return rc < 0 ? api_fail_text(-rc, "%s", text) : 0;
}

static int run_reap(struct scene *scene)
{
    return reap_all(scene, 1);
}

static int retry_reap(struct scene *scene)
{
    return archip_write(scene->queue, scene->memory, 5000, 100, 0);
}

static void to_submit(struct scene *scene)
{
    open_write(scene);
    memset(scene->memory, 71, sizeof(scene->memory));
    scene_will_be(scene, 3 * OBJECT + 1000, 40 * 512, 71);
    scene_will_be(scene, 8 * OBJECT + 77, 300, 71);
    scene_will_be(scene, 9 * OBJECT, OBJECT, 0);
    scene_will_be(scene, 2 * OBJECT, OBJECT, 0);
    scene_will_be(scene, 20 * OBJECT + 512, OBJECT - 512, 13);
}

/* One of each operation, of which one has many buffers. */
static int run_submit(struct scene *scene)
{
    uint8_t *target = scene->memory + sizeof(scene->memory) / 2;
    archip_extent extents[4];
    struct iovec iov[40], small = {scene->memory, 300}, in = {target, 8000};
    archip_request requests[] = {
        {.op = ARCHIP_WRITE,
         .offset_bytes = 3 * OBJECT + 1000,
         .length_bytes = 40 * 512,
         .iov = iov,
         .iov_count = 40},
        {.op = ARCHIP_WRITE,
         .flags = ARCHIP_FUA,
         .offset_bytes = 8 * OBJECT + 77,
         .length_bytes = 300,
         .iov = &small,
         .iov_count = 1},
        {.op = ARCHIP_DISCARD,
         .offset_bytes = 9 * OBJECT,
         .length_bytes = OBJECT},
        {.op = ARCHIP_WRITE_ZEROES,
         .offset_bytes = 2 * OBJECT,
         .length_bytes = OBJECT},
        {.op = ARCHIP_READ,
         .offset_bytes = OBJECT + 5000,
         .length_bytes = 8000,
         .iov = &in,
         .iov_count = 1},
        {.op = ARCHIP_EXTENTS,
         .length_bytes = SIZE,
         .extents = extents,
         .extent_count = 4},
        {.op = ARCHIP_COPY_RANGE,
         .offset_bytes = 20 * OBJECT + 512,
         .length_bytes = OBJECT - 512,
         .source = scene->volume,
         .source_offset_bytes = 8 * OBJECT + 512},
        {.op = ARCHIP_FLUSH},
    };

    for (unsigned i = 0; i < 40; i++) {
        iov[i] = (struct iovec){scene->memory + i * 1024, 512};
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(requests); i++) {
        requests[i].user = GUINT_TO_POINTER(i);
    }
    assert_ok(archip_submit(scene->queue, requests, G_N_ELEMENTS(requests)));
    return reap_all(scene, G_N_ELEMENTS(requests));
}

/* --- Synchronous calls ---------------------------------------------------- */

static int run_read(struct scene *scene)
{
    int rc = archip_read(scene->queue, scene->memory, 2 * OBJECT - 700, 333);

    if (rc == 0 && memcmp(scene->memory, scene->sure + 333, 2 * OBJECT - 700)) {
        complain("wrong bytes are read");
    }
    return rc;
}

static int run_read_aligned(struct scene *scene)
{
    int rc = archip_read(scene->queue, scene->memory, OBJECT, 8 * OBJECT);

    if (rc == 0 && memcmp(scene->memory, scene->sure + 8 * OBJECT, OBJECT)) {
        complain("wrong bytes are read");
    }
    return rc;
}

static int write_at(struct scene *scene, uint64_t offset, size_t length,
                    unsigned flags)
{
    memset(scene->memory, 80, length);
    return archip_write(scene->queue, scene->memory, length, offset, flags);
}

#define WRITE(NAME, OFFSET, LENGTH, FLAGS)                                     \
    static void to_write_##NAME(struct scene *scene)                           \
    {                                                                          \
        open_write(scene);                                                     \
        scene_will_be(scene, OFFSET, LENGTH, 80);                              \
    }                                                                          \
    static int run_write_##NAME(struct scene *scene)                           \
    {                                                                          \
        return write_at(scene, OFFSET, LENGTH, FLAGS);                         \
    }

/* In place; a new object; over a whole frozen one, less than blocks; over one
 * of two; past the end. */
WRITE(in_place, 8 * OBJECT + 4096, 8192, 0)
WRITE(odd, 8 * OBJECT + 77, 3000, 0)
WRITE(new, 20 * OBJECT + 300, OBJECT, 0)
WRITE(frozen, 3 * OBJECT + 700, 9000, 0)
WRITE(partial, OBJECT + 2 * BLOCK + 100, 2 * BLOCK, 0)
WRITE(fua, 9 * OBJECT, BLOCK, ARCHIP_FUA)
WRITE(fua_new, 21 * OBJECT, BLOCK, ARCHIP_FUA)

/* After a sync that failed, all of the objects is written again, up to the
 * volume's end. */
static int rewrite(struct scene *scene, uint64_t offset, unsigned count)
{
    uint64_t size = archip_volume_size(scene->volume);
    size_t bytes = offset < size ? MIN(count * OBJECT, size - offset) : 0;
    int rc = archip_read(scene->queue, scene->memory, bytes, offset);

    return rc < 0 ? rc
                  : archip_write(scene->queue, scene->memory, bytes, offset, 0);
}

/* What may be lost is written again, or cut off. */
static int retry_shrink(struct scene *scene)
{
    static const unsigned objects[] = {0, 4, 20};
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < G_N_ELEMENTS(objects); i++) {
        if (objects[i] * OBJECT < archip_volume_size(scene->volume)) {
            rc = rewrite(scene, objects[i] * OBJECT, 1);
        }
    }
    return rc < 0 ? rc : run_shrink(scene);
}

static int retry_write_fua_new(struct scene *scene)
{
    int rc = rewrite(scene, 21 * OBJECT, 1);

    return rc < 0 ? rc : run_write_fua_new(scene);
}

static void to_write_grow(struct scene *scene)
{
    open_write(scene);
    scene->size_after = SIZE + OBJECT;
    scene_will_be(scene, SIZE - 1000, OBJECT + 1000, 80);
}

static int run_write_grow(struct scene *scene)
{
    return write_at(scene, SIZE - 1000, OBJECT + 1000, ARCHIP_GROW);
}

/* A flush is believed once all was written again. */
static int run_flush(struct scene *scene)
{
    return archip_flush(scene->queue);
}

static int retry_flush(struct scene *scene)
{
    write_some(scene);
    return run_flush(scene);
}

static void to_free(struct scene *scene)
{
    open_write(scene);
    scene_will_be(scene, 8 * OBJECT, 2 * OBJECT, 0);
    assert_ok(archip_discard(scene->queue, 8 * OBJECT, 2 * OBJECT));
}

/* With what follows in the background. */
static int run_flush_free(struct scene *scene)
{
    int rc = archip_flush(scene->queue);

    background_wait(scene->volume);
    return rc;
}

static void to_discard(struct scene *scene)
{
    open_write(scene);
    scene_will_be(scene, 8 * OBJECT, OBJECT, 0);
    scene_will_be(scene, 9 * OBJECT, 3 * BLOCK, 0);
}

static int run_discard(struct scene *scene)
{
    return archip_discard(scene->queue, 8 * OBJECT, OBJECT + 3 * BLOCK + 100);
}

static void to_discard_frozen(struct scene *scene)
{
    open_write(scene);
    scene_will_be(scene, OBJECT + BLOCK, 2 * BLOCK, 0);
}

static int run_discard_frozen(struct scene *scene)
{
    return archip_discard(scene->queue, OBJECT + BLOCK, 2 * BLOCK);
}

static void to_zero(struct scene *scene)
{
    open_write(scene);
    scene_will_be(scene, OBJECT + 500, 2 * OBJECT, 0);
}

static int run_zero(struct scene *scene)
{
    return archip_write_zeroes(scene->queue, OBJECT + 500, 2 * OBJECT, 0);
}

static int run_zero_unmap(struct scene *scene)
{
    return archip_write_zeroes(scene->queue, OBJECT + 500, 2 * OBJECT,
                               ARCHIP_MAY_UNMAP | ARCHIP_FUA);
}

static int retry_zero_unmap(struct scene *scene)
{
    int rc = rewrite(scene, OBJECT, 2);

    rc = rc < 0 ? rc : rewrite(scene, 3 * OBJECT, 1);
    return rc < 0 ? rc : run_zero_unmap(scene);
}

static int run_extents(struct scene *scene)
{
    archip_extent extents[8];

    return archip_extents(scene->queue, 0, SIZE, extents, 8);
}

static void to_copy(struct scene *scene)
{
    open_write(scene);
    assert_ok(
        archip_volume_open(scene->store, "beacon", 0, NULL, &scene->other));
    scene_will_be(scene, 24 * OBJECT + 100, 10000, 21);
}

static int run_copy(struct scene *scene)
{
    return archip_copy_range(scene->queue, 24 * OBJECT + 100, scene->other, 50,
                             10000, 0);
}

/* --- The table ------------------------------------------------------------ */

#define HARMLESS .flags = OPERATION_HARMLESS
#define UNCLEAN .start = SCENE_UNCLEAN

const struct operation operations[] = {
    {"archip_version", "", HARMLESS, .run = run_version},
    {"archip_error", "", HARMLESS, .run = run_error},
    {"archip_name_check", "", HARMLESS, .run = run_name_check},
    {"archip_store_open", "", .flags = OPERATION_OPENS_STORE,
     .run = run_store_open},
    {"archip_store_open", "create", SCENE_EMPTY, OPERATION_OPENS_STORE,
     .run = run_store_create},
    {"archip_store_close", "", .prepare = nothing, .run = run_store_close},
    {"archip_store_get_status", "", .run = run_status},
    {"archip_volume_create", "", .prepare = will_have_jetty, .run = run_create,
     .retry = retry_create},
    {"archip_volume_remove", "", .prepare = with_jetty, .run = run_remove,
     .retry = retry_remove},
    {"archip_volume_list", "", .run = run_list},
    {"archip_volume_get_holder", "", .run = run_get_holder},
    {"archip_volume_get_holder", "held", .prepare = open_write,
     .run = run_get_holder},
    {"archip_volume_open", "read", .run = run_open_read},
    {"archip_volume_open", "write", .run = run_open_write},
    {"archip_volume_open", "unlocked", .run = run_open_unlocked},
    {"archip_volume_open", "read-unclean", UNCLEAN, .run = run_open_read},
    {"archip_volume_open", "write-unclean", UNCLEAN, .run = run_open_write},
    {"archip_volume_close", "written", .prepare = to_be_closed,
     .run = run_close, .retry = retry_close},
    {"archip_volume_close", "read", .prepare = to_be_closed_unwritten,
     .run = run_close},
    {"archip_volume_get_info", "", .prepare = open_read, .run = run_get_info},
    {"archip_volume_size", "", HARMLESS, .prepare = open_read, .run = run_size},
    {"archip_volume_resize", "grow", .prepare = to_grow, .run = run_grow},
    {"archip_volume_resize", "volatile", .prepare = to_grow,
     .run = run_grow_volatile},
    {"archip_volume_resize", "shrink", .prepare = to_shrink, .run = run_shrink,
     .retry = retry_shrink},
    {"archip_volume_deactivate", "", .prepare = open_and_write,
     .run = run_deactivate, .retry = retry_deactivate},
    {"archip_volume_activate", "", .prepare = deactivated, .run = run_activate},
    {"archip_volume_activate", "unclean", UNCLEAN, .prepare = deactivated,
     .run = run_activate},
    {"archip_volume_reopen", "write", .prepare = open_read,
     .run = run_reopen_write},
    {"archip_volume_reopen", "write-unclean", UNCLEAN, .prepare = open_read,
     .run = run_reopen_write},
    {"archip_volume_reopen", "read", .prepare = open_and_write,
     .run = run_reopen_read, .retry = retry_reopen_read},
    {"archip_volume_get_usage", "", .prepare = open_read, .run = run_get_usage},
    {"archip_check", "look", .run = run_check},
    {"archip_check", "look-unclean", UNCLEAN, .run = run_check},
    {"archip_check", "repair-unclean", UNCLEAN, .run = run_repair},
    {"archip_metadata_export", "", .prepare = open_file, .run = run_export},
    {"archip_metadata_export", "unclean", UNCLEAN, .prepare = open_file,
     .run = run_export},
    {"archip_metadata_import", "", .prepare = without_metadata,
     .run = run_import, .retry = retry_import},
    {"archip_metadata_import", "overwrite", .prepare = with_metadata,
     .run = run_import_over},
    {"archip_metadata_import", "dry-run", .prepare = with_metadata,
     .run = run_import_dry},
    {"archip_queue_open", "", .prepare = open_volume, .run = run_queue_open},
    {"archip_queue_open", "may-block", .prepare = open_volume,
     .run = run_queue_open_blocking},
    {"archip_queue_close", "", .prepare = open_write, .run = run_queue_close},
    {"archip_queue_close", "in-flight", .flags = OPERATION_UNTOLD,
     .prepare = in_flight, .run = run_queue_close},
    {"archip_queue_fd", "", .prepare = open_write, .run = run_queue_fd},
    {"archip_queue_fd", "may-block", .prepare = open_blocking,
     .run = run_queue_fd},
    {"archip_submit", "each", .prepare = to_submit, .run = run_submit},
    {"archip_queue_reap", "", .prepare = in_flight, .run = run_reap,
     .retry = retry_reap},
    {"archip_read", "odd", .prepare = open_read, .run = run_read},
    {"archip_read", "aligned", .prepare = open_read, .run = run_read_aligned},
    {"archip_write", "in-place", .prepare = to_write_in_place,
     .run = run_write_in_place},
    {"archip_write", "odd", .prepare = to_write_odd, .run = run_write_odd},
    {"archip_write", "new", .prepare = to_write_new, .run = run_write_new},
    {"archip_write", "frozen", .prepare = to_write_frozen,
     .run = run_write_frozen},
    {"archip_write", "partial", .prepare = to_write_partial,
     .run = run_write_partial},
    {"archip_write", "fua", .prepare = to_write_fua, .run = run_write_fua},
    {"archip_write", "fua-new", .prepare = to_write_fua_new,
     .run = run_write_fua_new, .retry = retry_write_fua_new},
    {"archip_write", "grow", .prepare = to_write_grow, .run = run_write_grow},
    {"archip_flush", "", .prepare = open_and_write, .run = run_flush,
     .retry = retry_flush},
    {"archip_flush", "free", .prepare = to_free, .run = run_flush_free},
    {"archip_discard", "", .prepare = to_discard, .run = run_discard},
    {"archip_discard", "frozen", .prepare = to_discard_frozen,
     .run = run_discard_frozen},
    {"archip_write_zeroes", "", .prepare = to_zero, .run = run_zero},
    {"archip_write_zeroes", "unmap-fua", .prepare = to_zero,
     .run = run_zero_unmap, .retry = retry_zero_unmap},
    {"archip_extents", "", .prepare = open_read, .run = run_extents},
    {"archip_copy_range", "", .prepare = to_copy, .run = run_copy},
};
const unsigned operation_count = G_N_ELEMENTS(operations);
