/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One writer, many readers: within a process, between processes, after a
 * process was killed, and handing over. */
#include "fixture.h"

#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- The child's side ---------------------------------------------------- */

static archip_store *child_store;

static archip_queue *child_open(const char *location, const char *name,
                                archip_volume **volume)
{
    archip_queue *queue;

    assert_ok(archip_store_open(location, 0, &child_store));
    assert_ok(archip_volume_open(child_store, name, ARCHIP_OPEN_WRITE,
                                 "the-child", volume));
    assert_ok(archip_queue_open(*volume, 0, &queue));
    return queue;
}

static void child_says(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

/* Hold the volume until killed or told to close it. */
static void child_hold(const char *location, const char *name)
{
    archip_volume *volume;
    archip_queue *queue = child_open(location, name, &volume);
    char c;

    fixture_fill(queue, 0, 4096, 0x11);
    assert_ok(archip_flush(queue));
    child_says("held");
    if (read(STDIN_FILENO, &c, 1) == 0) {
        fixture_close(volume, queue);
    }
}

static size_t count_journals(const char *location)
{
    size_t length = strcspn(location, "?") - strlen("dir:");
    g_autofree char *pattern = g_strdup_printf(
        "%.*s/maps/*/*/journal.*", (int)length, location + strlen("dir:"));
    glob_t found;
    size_t count = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;

    globfree(&found);
    return count;
}

/* What is left goes in the background. */
static void await_tidy(const char *location)
{
    for (unsigned i = 0; i < 2000 && count_journals(location) > 1; i++) {
        g_usleep(10000);
    }
}

/* The same by who reads it, too, to begin with, as a node of QEMU does. */
static void child_beside(const char *location, const char *name)
{
    archip_volume *volume, *reader;
    archip_queue *queue;
    char c;

    assert_ok(archip_store_open(location, 0, &child_store));
    assert_ok(archip_volume_open(child_store, name, 0, "the-child", &reader));
    assert_ok(archip_volume_open(child_store, name, ARCHIP_OPEN_WRITE,
                                 "the-child", &volume));
    assert_ok(archip_volume_close(reader));
    assert_ok(archip_queue_open(volume, 0, &queue));
    assert_ok(archip_discard(queue, 0, 1 << 16));   /* it makes a journal */
    fixture_fill(queue, 0, 4096, 0x11);
    assert_ok(archip_flush(queue));
    await_tidy(location);
    child_says("held");
    g_assert_cmpint(read(STDIN_FILENO, &c, 1), ==, 0);
}

/* The same by a reader who becomes a writer. */
static void child_upgrade(const char *location, const char *name)
{
    archip_volume *volume;
    archip_queue *queue;
    char c;

    assert_ok(archip_store_open(location, 0, &child_store));
    assert_ok(archip_volume_open(child_store, name, 0, "the-child", &volume));
    assert_ok(archip_queue_open(volume, 0, &queue));
    assert_ok(archip_volume_reopen(volume, ARCHIP_OPEN_WRITE));
    fixture_fill(queue, 0, 4096, 0x11);
    assert_ok(archip_discard(queue, 0, 1 << 16));
    fixture_fill(queue, 0, 4096, 0x11);
    assert_ok(archip_flush(queue));
    await_tidy(location);
    child_says("held");
    g_assert_cmpint(read(STDIN_FILENO, &c, 1), ==, 0);
}

/* Write, discard, resize and flush without end. */
static void child_churn(const char *location, const char *name)
{
    archip_volume *volume;
    archip_queue *queue = child_open(location, name, &volume);

    for (unsigned i = 0; i < 1000000; i++) {
        uint64_t at = i * 7919 % 60 * 65536;

        fixture_fill(queue, at, 70000, (uint8_t)(1 + i % 3));
        assert_ok(archip_discard(queue, (at + 200000) % (3 * MIB), 300000));
        if (i % 3 == 0) {
            assert_ok(archip_flush(queue));
        }
        if (i % 16 == 15) {
            assert_ok(archip_volume_resize(volume, 6 * MIB, 0));
            assert_ok(archip_volume_resize(volume, 4 * MIB + 70000 / 512 * 512,
                                           ARCHIP_RESIZE_SHRINK));
        }
        if (i == 20) {
            child_says("churning");
        }
    }
}

/* Make each object anew: discard all, write other blocks of it. */
static void child_renew(const char *location, const char *name)
{
    archip_volume *volume;
    archip_queue *queue = child_open(location, name, &volume);

    assert_ok(archip_discard(queue, 0, 4 * MIB));
    fixture_close(volume, queue);
    archip_store_close(child_store);
    queue = child_open(location, name, &volume);
    for (uint64_t at = 0; at < 4 * MIB; at += 65536) {
        fixture_fill(queue, at + 8192, 4096, 0x22);
    }
    fixture_close(volume, queue);
    child_says("renewed");
}

static int child_main(char **argv)
{
    if (!strcmp(argv[2], "hold")) {
        child_hold(argv[3], argv[4]);
    } else if (!strcmp(argv[2], "upgrade")) {
        child_upgrade(argv[3], argv[4]);
    } else if (!strcmp(argv[2], "beside")) {
        child_beside(argv[3], argv[4]);
    } else if (!strcmp(argv[2], "renew")) {
        child_renew(argv[3], argv[4]);
    } else if (!strcmp(argv[2], "churn")) {
        child_churn(argv[3], argv[4]);
    }
    return 0;
}

static struct child child_started(struct fixture *fixture, const char *what)
{
    struct child child = child_start(what, fixture->location, "v");
    g_autofree char *line = child_line(&child);

    g_assert_cmpstr(line, ==, "held");
    return child;
}

static struct child child_holding(struct fixture *fixture)
{
    return child_started(fixture, "hold");
}

/* --- Writers ------------------------------------------------------------- */

static void test_same_process(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume, *second = NULL;
    archip_store *other;
    g_autofree char *pid = g_strdup_printf("%d", (int)getpid());
    bool named;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 0);
    volume = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    assert_fails(archip_volume_open(fixture.store, "v", ARCHIP_OPEN_WRITE,
                                    "me-too", &second), EBUSY, "unit-test");
    named = strstr(archip_error(), pid) ||
            strstr(archip_error(), "this process");
    g_assert_true(named);
    g_assert_null(second);
    assert_ok(archip_store_open(fixture.location, 0, &other));
    assert_fails(archip_volume_open(other, "v", ARCHIP_OPEN_WRITE, NULL,
                                    &second), EBUSY, "unit-test");
    archip_store_close(other);
    assert_ok(archip_volume_close(volume));
    volume = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    assert_ok(archip_volume_close(volume));
    fixture_end(&fixture);
}

static void test_second_process(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume = NULL;
    g_autofree char *pid = NULL;
    struct child child;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 4 * MIB, 1 << 16);
    child = child_holding(&fixture);
    pid = g_strdup_printf("%d", (int)child.pid);
    assert_fails(archip_volume_open(fixture.store, "v", ARCHIP_OPEN_WRITE, NULL,
                                    &volume), EBUSY, "the-child");
    g_assert_nonnull(strstr(archip_error(), pid));
    g_assert_nonnull(strstr(archip_error(), g_get_host_name()));
    assert_fails(archip_volume_remove(fixture.store, "v"), EBUSY, "the-child");
    g_assert_cmpint(child_end(&child, 0), ==, 0);
    volume = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    assert_ok(archip_volume_close(volume));
    fixture_end(&fixture);
}

/* The lock ends with its holder; nobody waits, nobody repairs by hand. */
static void test_killed(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 4 * MIB, 1 << 16);
    for (unsigned i = 0; i < 5; i++) {
        struct child child = child_holding(&fixture);
        int status = child_end(&child, SIGKILL);
        gint64 start = g_get_monotonic_time();

        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
        g_assert_cmpint(g_get_monotonic_time() - start, <, 2000000);
        fixture_expect(queue, 0, 4096, 0x11);
        fixture_close(volume, queue);
    }
    fixture_end(&fixture);
}

static int count_stale(const archip_finding *finding, void *opaque)
{
    *(unsigned *)opaque += !strcmp(finding->code, "journal-stale");
    return 0;
}

/* What recovery folded goes, although there was a reader meanwhile: else each
 * kill would leave a journal more, and a page. */
static void expect_no_stale(const void *kind, const char *what)
{
    struct fixture fixture;
    unsigned stale = 0;
    archip_check_options options = {.finding = count_stale, .opaque = &stale};

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 4 * MIB, 1 << 16);
    for (unsigned i = 0; i < 3; i++) {
        struct child child = child_started(&fixture, what);

        child_end(&child, SIGKILL);
    }
    assert_ok(archip_check(fixture.store, &options, NULL));
    g_assert_cmpuint(stale, ==, 0);
    fixture_end(&fixture);
}

static void test_killed_upgraded(const void *kind)
{
    expect_no_stale(kind, "upgrade");
}

static void test_killed_beside_reader(const void *kind)
{
    expect_no_stale(kind, "beside");
}

/* What this process has open of objects is of no use once another process had
 * the volume. */
static void expect_renewed(archip_queue *queue)
{
    for (uint64_t at = 0; at < 4 * MIB; at += 65536) {
        fixture_expect(queue, at, 8192, 0);
        fixture_expect(queue, at + 8192, 4096, 0x22);
        fixture_expect(queue, at + 12288, 65536 - 12288, 0);
    }
}

static void let_child_renew(struct fixture *fixture)
{
    struct child child = child_start("renew", fixture->location, "v");
    g_autofree char *line = child_line(&child);

    g_assert_cmpstr(line, ==, "renewed");
    g_assert_cmpint(child_end(&child, 0), ==, 0);
}

static void test_other_process_between(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume;
    archip_queue *queue;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 4 * MIB, 1 << 16);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 0, 4 * MIB, 1);
    fixture_close(volume, queue);
    let_child_renew(&fixture);
    queue = fixture_open_queue(&fixture, "v", 0, &volume);
    expect_renewed(queue);
    fixture_close(volume, queue);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &volume);
    fixture_fill(queue, 0, 4 * MIB, 1);
    assert_ok(archip_volume_deactivate(volume));
    let_child_renew(&fixture);
    assert_ok(archip_volume_activate(volume));
    expect_renewed(queue);
    fixture_close(volume, queue);
    fixture_end(&fixture);
}

static void test_holder(const void *kind)
{
    struct fixture fixture;
    archip_holder holder;
    archip_volume *volume;
    int64_t before = g_get_real_time() * 1000;
    uint64_t token;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 0);
    assert_ok(archip_volume_get_holder(fixture.store, "v", &holder));
    g_assert_cmpint(holder.held, ==, 0);
    volume = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    memset(&holder, 0xff, sizeof(holder));
    assert_ok(archip_volume_get_holder(fixture.store, "v", &holder));
    g_assert_cmpint(holder.held, ==, 1);
    g_assert_cmpstr(holder.owner, ==, "unit-test");
    g_assert_cmpint(holder.pid, ==, getpid());
    g_assert_cmpuint(strlen(holder.host), >, 0);
    g_assert_cmpint(holder.since_ns, >=, before - 1000000000);
    token = holder.token;
    g_assert_cmpuint(token, >, 0);
    assert_ok(archip_volume_close(volume));
    volume = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    assert_ok(archip_volume_get_holder(fixture.store, "v", &holder));
    g_assert_cmpuint(holder.token, >, token);
    assert_ok(archip_volume_close(volume));
    assert_ok(archip_volume_get_holder(fixture.store, "v", &holder));
    g_assert_cmpint(holder.held, ==, 0);
    fixture_end(&fixture);
}

static int note_flags(const archip_volume_info *info, const char *error,
                      void *opaque)
{
    g_assert_null(error);
    *(uint32_t *)opaque = info->flags;
    return 0;
}

/* Closed properly, or open right now. */
static void test_clean_flag(const void *kind)
{
    struct fixture fixture;
    struct child child;
    uint32_t flags = 0;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 4 * MIB, 1 << 16);
    assert_ok(archip_volume_list(fixture.store, note_flags, &flags));
    g_assert_cmpuint(flags, ==, ARCHIP_VOLUME_CLEAN);
    child = child_holding(&fixture);
    assert_ok(archip_volume_list(fixture.store, note_flags, &flags));
    g_assert_cmpuint(flags, ==, ARCHIP_VOLUME_CLEAN);
    child_end(&child, SIGKILL);
    assert_ok(archip_volume_list(fixture.store, note_flags, &flags));
    g_assert_cmpuint(flags, ==, 0);
    assert_ok(archip_volume_close(fixture_open(&fixture, "v",
                                               ARCHIP_OPEN_WRITE)));
    assert_ok(archip_volume_list(fixture.store, note_flags, &flags));
    g_assert_cmpuint(flags, ==, ARCHIP_VOLUME_CLEAN);
    fixture_end(&fixture);
}

/* --- Readers ------------------------------------------------------------- */

static void test_readers(const void *kind)
{
    enum { COUNT = 10 };
    struct fixture fixture;
    archip_volume *writer, *readers[COUNT];
    archip_queue *queue, *queues[COUNT];

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 1 << 16);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &writer);
    fixture_fill(queue, 0, 200000, 7);
    assert_ok(archip_flush(queue));
    for (unsigned i = 0; i < COUNT; i++) {
        queues[i] = fixture_open_queue(&fixture, "v", 0, &readers[i]);
        fixture_expect(queues[i], 0, 200000, 7);
    }
    fixture_fill(queue, 300000, 1000, 8);
    fixture_close(writer, queue);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &writer);
    fixture_expect(queue, 300000, 1000, 8);
    for (unsigned i = 0; i < COUNT; i++) {
        fixture_expect(queues[i], 0, 200000, 7);
        fixture_close(readers[i], queues[i]);
    }
    fixture_close(writer, queue);
    fixture_end(&fixture);
}

/* Every byte of a sector is of one kind: old, new, or zero. */
static void read_sectors(archip_queue *queue)
{
    g_autofree uint8_t *bytes = g_malloc(MIB);

    for (uint64_t at = 0; at < 4 * MIB; at += MIB) {
        assert_ok(archip_read(queue, bytes, MIB, at));
        for (unsigned i = 0; i < MIB; i++) {
            g_assert_cmpuint(bytes[i], <=, 3);
        }
    }
}

/* Readers come, read all and go, beside a writer that turns everything over:
 * no error, no foreign byte. */
static void test_reader_beside_writer(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume, *lasting;
    archip_queue *queue, *lasting_queue;
    archip_extent extents[64];
    struct child child;
    g_autofree char *line = NULL;
    gint64 end = g_get_monotonic_time() + 2 * G_USEC_PER_SEC;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", 5 * MIB, 1 << 16);
    child = child_start("churn", fixture.location, "v");
    line = child_line(&child);
    g_assert_cmpstr(line, ==, "churning");
    lasting_queue = fixture_open_queue(&fixture, "v", 0, &lasting);
    while (g_get_monotonic_time() < end) {
        queue = fixture_open_queue(&fixture, "v", 0, &volume);
        read_sectors(queue);
        assert_ok(archip_extents(queue, 0, 4 * MIB, extents, 64));
        fixture_close(volume, queue);
        read_sectors(lasting_queue);
    }
    fixture_close(lasting, lasting_queue);
    g_assert_true(WIFSIGNALED(child_end(&child, SIGKILL)));
    fixture_end(&fixture);
}

/* --- Handing over -------------------------------------------------------- */

static void expect_inactive(archip_queue *queue)
{
    uint8_t byte;

    assert_fails(archip_read(queue, &byte, 1, 0), EPERM, "");
    assert_fails(archip_write(queue, &byte, 1, 0, 0), EPERM, "");
    assert_fails(archip_discard(queue, 0, 4096), EPERM, "");
}

static void test_no_lock(const void *kind)
{
    struct fixture fixture;
    archip_volume *source, *target;
    archip_queue *queue, *target_queue;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 1 << 16);
    queue = fixture_open_queue(&fixture, "v", ARCHIP_OPEN_WRITE, &source);
    target_queue = fixture_open_queue(
        &fixture, "v", ARCHIP_OPEN_WRITE | ARCHIP_OPEN_NO_LOCK, &target);
    expect_inactive(target_queue);
    fixture_fill(queue, 0, 100000, 7);
    assert_ok(archip_volume_resize(source, 2 * MIB, 0));
    assert_fails(archip_volume_activate(target), EBUSY, "unit-test");
    expect_inactive(target_queue);
    assert_ok(archip_volume_deactivate(source));
    expect_inactive(queue);
    assert_ok(archip_volume_activate(target));
    g_assert_cmpuint(archip_volume_size(target), ==, 2 * MIB);
    fixture_expect(target_queue, 0, 100000, 7);
    fixture_fill(target_queue, 50000, 100000, 8);
    assert_fails(archip_volume_activate(source), EBUSY, "unit-test");
    fixture_close(target, target_queue);
    assert_ok(archip_volume_activate(source));
    fixture_expect(queue, 0, 50000, 7);
    fixture_expect(queue, 50000, 100000, 8);
    fixture_close(source, queue);
    fixture_end(&fixture);
}

static void test_reopen(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume, *writer;
    archip_queue *queue;
    uint8_t byte = 1;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 1 << 16);
    queue = fixture_open_queue(&fixture, "v", 0, &volume);
    writer = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    assert_fails(archip_volume_reopen(volume, ARCHIP_OPEN_WRITE), EBUSY,
                 "unit-test");
    assert_fails(archip_write(queue, &byte, 1, 0, 0), EROFS, "");
    fixture_expect(queue, 0, 4096, 0);
    assert_ok(archip_volume_close(writer));
    assert_ok(archip_volume_reopen(volume, ARCHIP_OPEN_WRITE));
    fixture_fill(queue, 0, 4096, 5);
    assert_ok(archip_volume_reopen(volume, 0));
    fixture_expect(queue, 0, 4096, 5);
    assert_fails(archip_write(queue, &byte, 1, 0, 0), EROFS, "");
    writer = fixture_open(&fixture, "v", ARCHIP_OPEN_WRITE);
    assert_ok(archip_volume_close(writer));
    fixture_close(volume, queue);
    fixture_end(&fixture);
}

static void test_open_flags(const void *kind)
{
    struct fixture fixture;
    archip_volume *volume = NULL;

    fixture_begin(&fixture, kind);
    fixture_create(&fixture, "v", MIB, 0);
    assert_fails(archip_volume_open(fixture.store, "v", 0x100, NULL, &volume),
                 EINVAL, "");
    g_assert_null(volume);
    assert_ok(archip_volume_close(NULL));
    fixture_end(&fixture);
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "child")) {
        return child_main(argv);
    }
    g_test_init(&argc, &argv, NULL);
    fixture_add("/lock/same-process", test_same_process);
    fixture_add_dir("/lock/second-process", test_second_process);
    fixture_add_dir("/lock/killed", test_killed);
    fixture_add_dir("/lock/killed-upgraded", test_killed_upgraded);
    fixture_add_dir("/lock/killed-beside-reader", test_killed_beside_reader);
    fixture_add_dir("/lock/other-process-between", test_other_process_between);
    fixture_add("/lock/holder", test_holder);
    fixture_add_dir("/lock/clean-flag", test_clean_flag);
    fixture_add("/lock/readers", test_readers);
    fixture_add_dir("/lock/reader-beside-writer", test_reader_beside_writer);
    fixture_add("/lock/no-lock", test_no_lock);
    fixture_add("/lock/reopen", test_reopen);
    fixture_add("/lock/open-flags", test_open_flags);
    return g_test_run();
}
