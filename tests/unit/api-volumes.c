/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stores and volumes: names, sizes, creation, removal, lists, what is told. */
#include "fixture.h"

#include <glib/gstdio.h>
#include <unistd.h>

/* --- Names --------------------------------------------------------------- */

static const char *const bad_names[] = {
    "", "/", "a/b", "..", ".", "../x", ".hidden", "-x", "+x", "a@b", "@", "a:b",
    "a b", "a\nb", "a?b", "a*", "\xc3\xa9t\xc3\xa9", "a\\b", "a%", "~", "a,b",
};

static void test_name_check(void)
{
    static const char *const good[] = {"a", "Z", "0", "_", "a.b", "a..b", "a-",
                                       "a+b", "_x", "9.", "CON", "a_b-c+d.e"};
    g_autofree char *longest = g_strnfill(ARCHIP_NAME_MAX, 'n');
    g_autofree char *longer = g_strnfill(ARCHIP_NAME_MAX + 1, 'n');

    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        assert_ok(archip_name_check(good[i]));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_names); i++) {
        assert_fails(archip_name_check(bad_names[i]), EINVAL, "");
    }
    assert_ok(archip_name_check(longest));
    assert_fails(archip_name_check(longer), EINVAL, "128");
}

static void test_name_refused(const void *kind)
{
    struct fixture fixture;
    archip_holder holder;

    fixture_begin(&fixture, kind);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_names); i++) {
        archip_volume *volume = NULL;
        const char *name = bad_names[i];

        assert_fails(archip_volume_create(fixture.store, name, MIB, NULL),
                     EINVAL, "");
        assert_fails(archip_volume_open(fixture.store, name, 0, NULL, &volume),
                     EINVAL, "");
        g_assert_null(volume);
        assert_fails(archip_volume_remove(fixture.store, name), EINVAL, "");
        assert_fails(archip_volume_get_holder(fixture.store, name, &holder),
                     EINVAL, "");
    }
    fixture_end(&fixture);
}

static void test_name_longest(const void *kind)
{
    struct fixture fixture;
    g_autofree char *name = g_strnfill(ARCHIP_NAME_MAX, 'n');
    archip_volume_info info;
    archip_volume *volume;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, name, MIB, 0);
    volume = fixture_open(&fixture, name, 0);
    assert_ok(archip_volume_get_info(volume, &info));
    g_assert_cmpstr(info.name, ==, name);
    assert_ok(archip_volume_close(volume));
    assert_ok(archip_volume_remove(fixture.store, name));
    fixture_end(&fixture);
}

/* --- Creation ------------------------------------------------------------ */

static void test_create_sizes(const void *kind)
{
    static const uint64_t bad[] = {1, 511, 513, 4095, PIB - 1, PIB + 1,
                                   PIB + 512, UINT64_MAX, UINT64_MAX - 511};
    static const uint64_t good[] = {512, 1024, 512 * 12345, MIB * 4 + 512,
                                    PIB - 512, PIB};
    struct fixture fixture;

    fixture_begin(&fixture, kind);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_fails(archip_volume_create(fixture.store, "v", bad[i], NULL),
                     EINVAL, "");
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
        archip_volume *volume;

        fixture_create(&fixture, "v", good[i], 0);
        volume = fixture_open(&fixture, "v", 0);
        g_assert_cmpuint(archip_volume_size(volume), ==, good[i]);
        assert_ok(archip_volume_close(volume));
        assert_ok(archip_volume_remove(fixture.store, "v"));
    }
    fixture_end(&fixture);
}

/* Nothing to read, but it is a volume, and it can grow. */
static void test_create_empty(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;
    uint8_t byte = 7;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 0, 0);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    g_assert_cmpuint(archip_volume_size(volume), ==, 0);
    assert_fails(archip_read(queue, &byte, 1, 0), EINVAL, "");
    assert_ok(archip_flush(queue));
    assert_ok(archip_write(queue, &byte, 1, 0, ARCHIP_GROW));
    g_assert_cmpuint(archip_volume_size(volume), ==, 512);
    fixture_expect(queue, 0, 1, 7);
    fixture_expect(queue, 1, 511, 0);
    fixture_close(volume, queue);
    fixture_end(&fixture);
}

static void test_create_objects(const void *kind)
{
    static const uint32_t bad[] = {1, 512, 4096, 32768, 65535, 65537, 65536 * 3,
                                   1u << 27, 1u << 31, UINT32_MAX};
    struct fixture fixture;

    fixture_begin(&fixture, kind);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        archip_create_options options = {.object_bytes = bad[i]};

        assert_fails(archip_volume_create(fixture.store, "v", MIB, &options),
                     EINVAL, "");
    }
    for (uint32_t size = 1u << 16; size <= 1u << 26; size *= 2) {
        archip_volume_info info;
        archip_volume *volume;

        fixture_create(&fixture, "v", MIB, size);
        volume = fixture_open(&fixture, "v", 0);
        assert_ok(archip_volume_get_info(volume, &info));
        g_assert_cmpuint(info.object_bytes, ==, size);
        g_assert_cmpuint(info.block_bytes, ==, MAX(4096, size / 1024));
        assert_ok(archip_volume_close(volume));
        assert_ok(archip_volume_remove(fixture.store, "v"));
    }
    fixture_end(&fixture);
}

static int count_volume(const archip_volume_info *info, const char *error,
                        void *opaque)
{
    ++*(int *)opaque;
    return 0;
}

/* What was refused leaves nothing. */
static void test_create_options(const void *kind)
{
    struct fixture fixture;
    g_autofree char *longer = g_strnfill(ARCHIP_DESCRIPTION_MAX + 1, 'd');
    archip_create_options flags = {.flags = 1};
    archip_create_options description = {.description = longer};
    archip_create_options text = {.description = "\xff\xfe"};
    int count = 0;

    fixture_begin(&fixture, kind);
    assert_fails(archip_volume_create(fixture.store, "v", MIB, &flags), EINVAL,
                 "");
    assert_fails(archip_volume_create(fixture.store, "v", MIB, &description),
                 EINVAL, "");
    assert_fails(archip_volume_create(fixture.store, "v", MIB, &text), EINVAL,
                 "");
    assert_ok(archip_volume_list(fixture.store, count_volume, &count));
    g_assert_cmpint(count, ==, 0);
    longer[ARCHIP_DESCRIPTION_MAX] = '\0';
    assert_ok(archip_volume_create(fixture.store, "v", MIB, &description));
    fixture_end(&fixture);
}

static void test_create_exists(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "taken", MIB, 0);
    queue = fixture_open_queue(&fixture, "taken", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 0, 4096, 3);
    assert_fails(archip_volume_create(fixture.store, "taken", 2 * MIB, NULL),
                 EEXIST, "taken");
    fixture_close(volume, queue);
    assert_fails(archip_volume_create(fixture.store, "taken", 2 * MIB, NULL),
                 EEXIST, "taken");
    queue = fixture_open_queue(&fixture, "taken", 0, &volume);
    fixture_expect(queue, 0, 4096, 3);
    fixture_close(volume, queue);
    fixture_end(&fixture);
}

/* --- Removal ------------------------------------------------------------- */

static void test_remove_missing(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume = NULL;
    archip_holder holder;

    fixture_begin(&fixture, kind);
    assert_fails(archip_volume_remove(fixture.store, "nothing"), ENOENT,
                 "nothing");
    assert_fails(archip_volume_open(fixture.store, "nothing", 0, NULL, &volume),
                 ENOENT, "nothing");
    assert_fails(archip_volume_open(fixture.store, "nothing", ARCHIP_OPEN_WRITE,
                                    NULL, &volume), ENOENT, "nothing");
    assert_fails(archip_volume_get_holder(fixture.store, "nothing", &holder),
                 ENOENT, "nothing");
    fixture_end(&fixture);
}

static void test_remove_busy(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume, *reader;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 0);
    volume = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    assert_fails(archip_volume_remove(fixture.store, "v"), EBUSY, "unit-test");
    reader = fixture_open(&fixture, "v", 0);
    assert_ok(archip_volume_close(volume));
    assert_fails(archip_volume_remove(fixture.store, "v"), EBUSY, "v");
    assert_ok(archip_volume_close(reader));
    assert_ok(archip_volume_remove(fixture.store, "v"));
    fixture_end(&fixture);
}

/* A new volume of an old name holds zeroes and is another one. */
static void test_remove_again(const void *kind)
{
    struct fixture fixture;
    archip_volume_info first, second;
    archip_volume *volume;
    archip_queue *queue;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 1 << 16);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 0, MIB, 9);
    assert_ok(archip_volume_get_info(volume, &first));
    fixture_close(volume, queue);
    assert_ok(archip_volume_remove(fixture.store, "v"));
    fixture_create(&fixture, "v", MIB, 1 << 16);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_expect(queue, 0, MIB, 0);
    assert_ok(archip_volume_get_info(volume, &second));
    g_assert_cmpstr(first.id, !=, second.id);
    fixture_close(volume, queue);
    fixture_end(&fixture);
}

static void count_file(const char *file, void *opaque)
{
    ++*(unsigned *)opaque;
}

static void test_remove_frees(const void *kind)
{
    struct fixture fixture;
    unsigned before = 0, after = 0;
    archip_volume *volume;
    archip_queue *queue;

    fixture_begin(&fixture, kind);
    scratch_each(fixture.scratch, count_file, &before);
    fixture_create(&fixture, "v", 8 * MIB, 1 << 16);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 0, 4 * MIB, 9);
    fixture_close(volume, queue);
    g_assert_cmpuint(scratch_allocated(fixture.scratch), >=, 4 * MIB);
    assert_ok(archip_volume_remove(fixture.store, "v"));
    scratch_each(fixture.scratch, count_file, &after);
    g_assert_cmpuint(after, ==, before);
    fixture_end(&fixture);
}

/* --- What is told -------------------------------------------------------- */

static int collect(const archip_volume_info *info, const char *error,
                   void *opaque)
{
    g_assert_null(error);
    g_string_append_printf(opaque, "%s %" PRIu64 " %s;", info->name,
                           info->size_bytes, info->description);
    return 0;
}

static int stop_at_second(const archip_volume_info *info, const char *error,
                          void *opaque)
{
    return ++*(int *)opaque == 2 ? 77 : 0;
}

static void test_list(const void *kind)
{
    static const char *const names[] = {"b", "a.1", "_z", "B", "a", "10", "9"};
    struct fixture fixture;
    g_autoptr(GString) text = g_string_new(NULL);
    int count = 0;

    fixture_begin(&fixture, kind);
    assert_ok(archip_volume_list(fixture.store, collect, text));
    g_assert_cmpstr(text->str, ==, "");
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        archip_create_options options = {.description = names[i]};

        assert_ok(archip_volume_create(fixture.store, names[i],
                                       512 * (i + 1), &options));
    }
    assert_ok(archip_volume_list(fixture.store, collect, text));
    g_assert_cmpstr(text->str, ==, "10 3072 10;9 3584 9;B 2048 B;_z 1536 _z;"
                    "a 2560 a;a.1 1024 a.1;b 512 b;");
    g_assert_cmpint(archip_volume_list(fixture.store, stop_at_second, &count),
                    ==, 77);
    g_assert_cmpint(count, ==, 2);
    fixture_end(&fixture);
}

static void test_info(const void *kind)
{
    archip_create_options options = {.object_bytes = 1 << 17,
                                     .description = "der Gro\xc3\x9f"
                                                    "e Wagen"};
    int64_t before = g_get_real_time() * 1000;
    struct fixture fixture;
    archip_volume_info info, reopened;
    archip_volume *volume;
    archip_queue *queue;

    fixture_begin(&fixture, kind);
    assert_ok(archip_volume_create(fixture.store, "v", 3 * MIB + 512,
                                   &options));
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 2 * MIB, 3, 1);
    assert_ok(archip_flush(queue));
    memset(&info, 0xff, sizeof(info));
    assert_ok(archip_volume_get_info(volume, &info));
    g_assert_cmpstr(info.name, ==, "v");
    g_assert_cmpstr(info.description, ==, options.description);
    g_assert_cmpuint(info.size_bytes, ==, 3 * MIB + 512);
    g_assert_cmpuint(info.object_bytes, ==, 1 << 17);
    g_assert_cmpuint(info.block_bytes, ==, 4096);
    g_assert_cmpuint(info.flags, ==, ARCHIP_VOLUME_CLEAN);
    g_assert_cmpuint(info.object_count, ==, 1);
    g_assert_cmpuint(strspn(info.id, "0123456789abcdef"), ==, 32);
    g_assert_cmpuint(info.generation, >, 0);
    g_assert_cmpint(info.created_ns, >=, before - 1000000000);
    g_assert_cmpint(info.created_ns, <=, g_get_real_time() * 1000);
    fixture_close(volume, queue);
    volume = fixture_open(&fixture, "v", 0);
    assert_ok(archip_volume_get_info(volume, &reopened));
    g_assert_cmpint(reopened.created_ns, ==, info.created_ns);
    g_assert_cmpstr(reopened.id, ==, info.id);
    g_assert_cmpuint(reopened.object_count, ==, 1);
    assert_ok(archip_volume_close(volume));
    fixture_end(&fixture);
}

static void add_object(const char *file, void *opaque)
{
    if (strstr(file, "/blocks/")) {
        *(uint64_t *)opaque += scratch_file_allocated(file);
    }
}

/* Exactly what the file system says of the objects' files. */
static void test_usage(const void *kind)
{
    struct fixture fixture;
    archip_usage usage;
    archip_volume *volume;
    archip_queue *queue;
    uint64_t on_disk = 0;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 64 * MIB, 0);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    assert_ok(archip_volume_get_usage(volume, &usage));
    g_assert_cmpuint(usage.allocated_bytes, ==, 0);
    g_assert_cmpuint(usage.object_count, ==, 0);
    fixture_fill(queue, 0, 4 * MIB, 1);
    fixture_fill(queue, 9 * MIB, 4096, 1);
    fixture_fill(queue, 63 * MIB, 10000, 1);
    assert_ok(archip_flush(queue));
    assert_ok(archip_volume_get_usage(volume, &usage));
    g_assert_cmpuint(usage.apparent_bytes, ==, 64 * MIB);
    g_assert_cmpuint(usage.object_count, ==, 3);
    g_assert_cmpuint(usage.exclusive_bytes, ==, usage.allocated_bytes);
    g_assert_cmpuint(usage.allocated_bytes, >=, 4 * MIB + 4096 + 10000);
    g_assert_cmpuint(usage.metadata_bytes, >, 0);
    if (fixture.scratch) {
        scratch_each(fixture.scratch, add_object, &on_disk);
        g_assert_cmpuint(usage.allocated_bytes, ==, on_disk);
    }
    assert_ok(archip_discard(queue, 0, 64 * MIB));
    assert_ok(archip_flush(queue));
    assert_ok(archip_volume_get_usage(volume, &usage));
    g_assert_cmpuint(usage.allocated_bytes, ==, 0);
    fixture_close(volume, queue);
    fixture_end(&fixture);
}

/* --- Stores -------------------------------------------------------------- */

static void test_status(const void *kind)
{
    struct fixture fixture;
    archip_store_status status;
    archip_store *again = NULL;

    fixture_begin(&fixture, kind);
    memset(&status, 0xff, sizeof(status));
    assert_ok(archip_store_get_status(fixture.store, &status));
    g_assert_cmpstr(status.driver, ==, fixture.scratch ? "dir" : "memory");
    g_assert_cmpuint(strlen(status.io), >, 0);
    g_assert_cmpuint(status.alignment_bytes, >, 0);
    g_assert_cmpuint(status.free_bytes, <=, status.total_bytes);
    if (!strcmp(kind, "dir-buffered")) {
        g_assert_true(g_str_has_prefix(status.io, "buffered"));
    }
    if (fixture.scratch) {
        g_assert_nonnull(strstr(status.location, fixture.scratch));
        g_assert_cmpuint(status.total_bytes, >, 0);
    }
    assert_ok(archip_store_open(status.location, 0, &again));
    archip_store_close(again);
    fixture_end(&fixture);
}

static void test_store_errors(void)
{
    g_autofree char *path = scratch_new();
    g_autofree char *missing = g_strdup_printf("dir:%s/none", path);
    g_autofree char *empty = g_strdup_printf("dir:%s", path);
    g_autofree char *option = g_strdup_printf("dir:%s?color=blue", path);
    g_autofree char *value = g_strdup_printf("dir:%s?io=psychic", path);
    g_autofree char *file = g_build_filename(path, "file", NULL);
    archip_store *store = NULL;

    assert_fails(archip_store_open(missing, 0, &store), ENOENT, "none");
    assert_fails(archip_store_open(empty, 0, &store), ENOENT, path);
    assert_fails(archip_store_open(option, ARCHIP_STORE_CREATE, &store), EINVAL,
                 "color");
    /* What was refused left nothing. */
    g_assert_cmpint(g_rmdir(path), ==, 0);
    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    assert_fails(archip_store_open(value, ARCHIP_STORE_CREATE, &store), EINVAL,
                 "psychic");
    scratch_remove(path);
    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    assert_fails(archip_store_open("floppy:a", 0, &store), EINVAL, "floppy");
    g_assert_true(g_file_set_contents(file, "mine", -1, NULL));
    g_assert_cmpint(archip_store_open(empty, ARCHIP_STORE_CREATE, &store), <, 0);
    g_assert_null(store);
    archip_store_close(NULL);
    scratch_remove(path);
}

static void test_version(void)
{
    g_autofree char *version =
        g_strdup_printf("%d.%d.%d", ARCHIP_VERSION_MAJOR, ARCHIP_VERSION_MINOR,
                        ARCHIP_VERSION_PATCH);

    g_assert_cmpstr(archip_version(), ==, version);
    g_assert_nonnull(archip_error());
}

static gpointer no_error_yet(gpointer data)
{
    g_assert_nonnull(archip_error());
    g_assert_null(strstr(archip_error(), "a/b"));
    return NULL;
}

/* A thread's text is its own. */
static void test_error_threads(void)
{
    assert_fails(archip_name_check("a/b"), EINVAL, "a/b");
    g_thread_join(g_thread_new("other", no_error_yet, NULL));
    g_assert_nonnull(strstr(archip_error(), "a/b"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/volume/name/check", test_name_check);
    fixture_add("/volume/name/refused", test_name_refused);
    fixture_add("/volume/name/longest", test_name_longest);
    fixture_add("/volume/create/sizes", test_create_sizes);
    fixture_add("/volume/create/empty", test_create_empty);
    fixture_add("/volume/create/objects", test_create_objects);
    fixture_add("/volume/create/options", test_create_options);
    fixture_add("/volume/create/exists", test_create_exists);
    fixture_add("/volume/remove/missing", test_remove_missing);
    fixture_add("/volume/remove/busy", test_remove_busy);
    fixture_add("/volume/remove/again", test_remove_again);
    fixture_add_dir("/volume/remove/frees", test_remove_frees);
    fixture_add("/volume/list", test_list);
    fixture_add("/volume/info", test_info);
    fixture_add("/volume/usage", test_usage);
    fixture_add("/store/status", test_status);
    g_test_add_func("/store/errors", test_store_errors);
    g_test_add_func("/library/version", test_version);
    g_test_add_func("/library/error-threads", test_error_threads);
    return g_test_run();
}
