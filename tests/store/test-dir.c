/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is particular to the dir store: opening and refusing, names, symbolic
 * links, bounds, a full file system.
 */
#include "base/crc32c.h"
#include "base/sys.h"
#include "harness.h"
#include "store/dir-format.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB 1024u

static const char *pattern(void)
{
    return "dir:%s";
}

/* --- Opening -------------------------------------------------------------- */

static int try_open(const char *root, const char *options, unsigned flags,
                    const char *want_text)
{
    g_autofree char *location = g_strdup_printf("dir:%s%s", root, options);
    g_autoptr(GError) error = NULL;
    struct store *store = NULL;
    int result = store_open(location, flags, &store, &error);

    if (result == 0) {
        g_assert_null(want_text);
        store_close(store);
        return 0;
    }
    g_assert_cmpint(error->code, ==, -result);
    if (want_text && !strstr(error->message, want_text)) {
        g_error("\"%s\" doesn't say \"%s\"", error->message, want_text);
    }
    return result;
}

static void test_open_missing(void)
{
    g_autofree char *root = harness_make_root();
    g_autofree char *missing = g_strconcat(root, "/missing", NULL);

    g_assert_cmpint(try_open(missing, "", STORE_OPEN_CREATE,
                             "there is no directory"), ==, -ENOENT);
    g_assert_cmpint(try_open(root, "", 0, "empty directory"), ==, -ENOENT);
    g_assert_cmpint(try_open(root, "", STORE_OPEN_CREATE, NULL), ==, 0);
    g_assert_cmpint(try_open(root, "", 0, NULL), ==, 0);
    harness_remove(root);
}

static void test_open_foreign(void)
{
    g_autofree char *root = harness_make_root();
    g_autofree char *file = g_strconcat(root, "/letter.txt", NULL);

    g_file_set_contents(file, "x", 1, NULL);
    g_assert_cmpint(try_open(root, "", STORE_OPEN_CREATE,
                             "not an Archipelago store"), ==, -EINVAL);
    g_assert_cmpint(try_open(file, "", STORE_OPEN_CREATE, "cannot open"), ==,
                    -ENOTDIR);
    harness_remove(root);
}

/* A crash in the middle of making a store leaves something that can be made
 * one; with anything in it, it can't. */
static void test_open_half_made(void)
{
    g_autofree char *root = harness_make_root();
    g_autofree char *names = g_strconcat(root, "/names", NULL);
    g_autofree char *left = g_strconcat(root, "/.new-1", NULL);
    g_autofree char *alien = g_strconcat(names, "/alien", NULL);

    g_mkdir(names, 0700);
    g_file_set_contents(left, "", 0, NULL);
    g_file_set_contents(alien, "", 0, NULL);
    g_assert_cmpint(try_open(root, "", STORE_OPEN_CREATE,
                             "not an Archipelago store"), ==, -EINVAL);
    g_unlink(alien);
    g_assert_cmpint(try_open(root, "", STORE_OPEN_CREATE, NULL), ==, 0);
    harness_remove(root);
}

static void test_open_options(void)
{
    g_autofree char *root = harness_make_root();

    g_assert_cmpint(try_open(root, "?colour=red", STORE_OPEN_CREATE,
                             "no option \"colour\" (known: io, fds, threads, "
                             "warning, critical)"),
                    ==, -EINVAL);
    g_assert_cmpint(try_open(root, "?io=fast", STORE_OPEN_CREATE, "io=fast"),
                    ==, -EINVAL);
    g_assert_cmpint(try_open(root, "?fds=1", STORE_OPEN_CREATE, "fds=1"), ==,
                    -EINVAL);
    g_assert_cmpint(try_open(root, "?threads=x", STORE_OPEN_CREATE,
                             "threads=x"), ==, -EINVAL);
    g_assert_cmpint(try_open(root, "?io", STORE_OPEN_CREATE, "KEY=VALUE"), ==,
                    -EINVAL);
    g_assert_cmpint(try_open(root, "?io=auto&io=auto", STORE_OPEN_CREATE,
                             "twice"), ==, -EINVAL);
    g_assert_cmpint(try_open(root, "?io=buffered&fds=10&threads=2",
                             STORE_OPEN_CREATE, NULL), ==, 0);
    harness_remove(root);
}

static void test_locations(void)
{
    static const struct {
        const char *location, *text;
    } wrong[] = {
        {"", "is not a store"},
        {"/srv/volumes", "is not a store"},
        {"nfs:/x", "no store driver \"nfs\" (known: dir, memory, fault)"},
        {"fault:op=read", "fault:RULES:LOCATION"},
        {"fault:op=dance:memory:x", "op=dance"},
        {"fault:nth=0:memory:x", "nth=0"},
        {"fault:x:memory:x", "\"x\""},
        {"fault::nfs:x", "no store driver \"nfs\""},
        {"memory:x?alignment=3", "power of two"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;
        struct store *store;

        g_assert_cmpint(store_open(wrong[i].location, STORE_OPEN_CREATE, &store,
                                   &error), ==, -EINVAL);
        g_assert_nonnull(strstr(error->message, wrong[i].text));
    }
}

static void edit_format(const char *file, size_t at, uint8_t value,
                        bool mend_crc)
{
    struct dir_format *format;
    g_autofree char *data = NULL;
    gsize bytes;

    g_assert_true(g_file_get_contents(file, &data, &bytes, NULL));
    g_assert_cmpuint(bytes, ==, sizeof(*format));
    data[at] = (char)value;
    format = (struct dir_format *)data;
    if (mend_crc) {
        format->crc = GUINT32_TO_BE(
            crc32c(0, format, offsetof(struct dir_format, crc)));
    }
    g_assert_true(g_file_set_contents(file, data, (gssize)bytes, NULL));
}

static void test_format_file(void)
{
    g_autofree char *root = harness_make_root();
    g_autofree char *file = g_strconcat(root, "/" DIR_FORMAT_NAME, NULL);

    g_assert_cmpint(try_open(root, "", STORE_OPEN_CREATE, NULL), ==, 0);
    edit_format(file, 11, 2, false);
    g_assert_cmpint(try_open(root, "", 0, "made by a newer version"), ==,
                    -EOPNOTSUPP);
    edit_format(file, 11, 1, false);
    g_assert_cmpint(try_open(root, "", 0, NULL), ==, 0);
    edit_format(file, offsetof(struct dir_format, incompatible) + 7, 1, true);
    g_assert_cmpint(try_open(root, "", 0, "features that this version"), ==,
                    -EOPNOTSUPP);
    edit_format(file, offsetof(struct dir_format, incompatible) + 7, 0, true);
    edit_format(file, offsetof(struct dir_format, uuid), 0, false);
    edit_format(file, offsetof(struct dir_format, uuid) + 1, 0, false);
    g_assert_cmpint(try_open(root, "", 0, "checksum"), ==, -EUCLEAN);
    edit_format(file, 0, 'X', true);
    g_assert_cmpint(try_open(root, "", 0, "is damaged"), ==, -EUCLEAN);
    g_assert_cmpint(truncate(file, 100), ==, 0);
    g_assert_cmpint(try_open(root, "", STORE_OPEN_CREATE, "is damaged"), ==,
                    -EUCLEAN);
    harness_remove(root);
}

static gpointer open_at_once(gpointer root)
{
    g_assert_cmpint(try_open(root, "", STORE_OPEN_CREATE, NULL), ==, 0);
    return NULL;
}

static void test_create_race(void)
{
    for (int round = 0; round < 5; round++) {
        g_autofree char *root = harness_make_root();
        GThread *threads[4];

        for (int i = 0; i < 4; i++) {
            threads[i] = g_thread_new("opener", open_at_once, root);
        }
        for (int i = 0; i < 4; i++) {
            g_thread_join(threads[i]);
        }
        harness_remove(root);
    }
}

/* --- Names and links ------------------------------------------------------ */

static void test_bad_names(void)
{
    static const char *const bad[] = {"",    ".",      "..",       "a/b",
                                      "/a",  "../a",   ".new-x",   "-a",
                                      "a b", "\xc3\xa9", "a\nb",   NULL};
    struct fixture fixture;
    g_autofree char *outside = NULL;

    fixture_open(&fixture, pattern(), 0);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct store_record record = {.kind = STORE_NAME, .text = bad[i]};
        const struct store_driver *driver = fixture.store->driver;
        GBytes *value;

        g_assert_cmpint(driver->put(fixture.store, &record, "x", 1, false,
                                    NULL), ==, -EINVAL);
        g_assert_cmpint(driver->get(fixture.store, &record, &value, NULL), ==,
                        -EINVAL);
        g_assert_cmpint(driver->drop(fixture.store, &record, NULL), ==,
                        -EINVAL);
    }
    outside = g_strconcat(fixture.root, "/a", NULL);
    g_assert_false(g_file_test(outside, G_FILE_TEST_EXISTS));
    fixture_close(&fixture);
}

static char *object_path(struct fixture *fixture, const char *rest)
{
    char id[ID128_TEXT_BYTES];

    id128_text(&fixture->layer, id);
    return g_strdup_printf("%s/blocks/%.2s/%s%s", fixture->root, id, id, rest);
}

/* Replace the thing at `path` by a link to something outside the store. */
static void plant_link(const char *path, const char *target)
{
    g_autofree char *aside = g_strconcat(path, ".aside", NULL);

    g_rename(path, aside);
    g_assert_cmpint(symlink(target, path), ==, 0);
}

static void check_links_refused(void)
{
    static const char *const places[] = {"", "/000", "/000/0"};
    uint8_t *data = make_buffer(4096, 1);

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autofree char *elsewhere = harness_make_root();
        g_autofree char *victim = g_strconcat(elsewhere, "/000", NULL);
        g_autofree char *path = NULL;
        struct fixture fixture;
        int result;

        fixture_open(&fixture, pattern(), 0);
        g_mkdir(victim, 0700);
        g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                                 STORE_CREATE), ==, 0);
        fixture_reopen(&fixture);
        path = object_path(&fixture, places[i]);
        plant_link(path, elsewhere);
        result = do_read(&fixture, block(&fixture, 0), 0, data, 4096);
        g_assert_true(result == -ELOOP || result == -ENOTDIR);
        result = do_write(&fixture, block(&fixture, 5), 0, data, 4096,
                          STORE_CREATE);
        /* Beside a planted file there is no harm in it. */
        g_assert_true(i == 2 ? result == 0
                             : result == -ELOOP || result == -ENOTDIR);
        g_assert_cmpint(g_rmdir(victim), ==, 0);
        fixture.store->driver->remove_all(fixture.store, STORE_BLOCK,
                                          &fixture.layer, NULL);
        g_assert_true(g_file_test(elsewhere, G_FILE_TEST_IS_DIR));
        fixture_close(&fixture);
        harness_remove(elsewhere);
    }
    free(data);
}

static void test_links(void)
{
    check_links_refused();
}

static int no_openat2(int folder_fd, const char *path, struct open_how *how,
                      size_t how_bytes)
{
    errno = EPERM;
    return -1;
}

/* Where the kernel, or a filter in it, has no openat2(). */
static void test_links_without_openat2(void)
{
    sys.openat2 = no_openat2;
    check_links_refused();
    sys = sys_real;
}

static int old_openat2(int folder_fd, const char *path, struct open_how *how,
                       size_t how_bytes)
{
    if (how->resolve & RESOLVE_CACHED) {
        errno = EINVAL;
        return -1;
    }
    return sys_real.openat2(folder_fd, path, how, how_bytes);
}

/* A kernel that has openat2() but not RESOLVE_CACHED. */
static void test_old_openat2(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    sys.openat2 = old_openat2;
    fixture_open(&fixture, pattern(), 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_CREATE), ==, 0);
    fixture_reopen(&fixture);
    g_assert_cmpint(do_read(&fixture, block(&fixture, 0), 0, data, 4096), ==,
                    0);
    g_assert_cmpint(do_read(&fixture, block(&fixture, 1), 0, data, 4096), ==,
                    -ENOENT);
    sys = sys_real;
    fixture_close(&fixture);
    free(data);
}

static void test_record_link(void)
{
    struct store_record record = {.kind = STORE_NAME, .text = "trap"};
    g_autofree char *path = NULL;
    struct fixture fixture;
    GBytes *value;

    fixture_open(&fixture, pattern(), 0);
    path = g_strconcat(fixture.root, "/names/trap", NULL);
    g_assert_cmpint(symlink("/etc/passwd", path), ==, 0);
    g_assert_cmpint(fixture.store->driver->get(fixture.store, &record, &value,
                                               NULL), ==, -ELOOP);
    g_assert_cmpint(fixture.store->driver->put(fixture.store, &record, "x", 1,
                                               false, NULL), ==, 0);
    g_assert_false(g_file_test(path, G_FILE_TEST_IS_SYMLINK));
    fixture_close(&fixture);
}

static int count_one(const struct store_record *record, void *opaque)
{
    ++*(unsigned *)opaque;
    return 0;
}

/* What a put left that died goes; what another one is at work on stays. */
static void test_temporaries(void)
{
    struct store_record record = {.kind = STORE_NAME, .text = "a"};
    g_autofree char *dead = NULL, *alive = NULL;
    struct fixture fixture;
    unsigned count = 0;
    int fd;

    fixture_open(&fixture, pattern(), 0);
    dead = g_strconcat(fixture.root, "/names/.new-dead", NULL);
    alive = g_strconcat(fixture.root, "/names/.new-alive", NULL);
    g_file_set_contents(dead, "x", 1, NULL);
    g_file_set_contents(alive, "x", 1, NULL);
    fd = open(alive, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(flock(fd, LOCK_EX), ==, 0);
    g_assert_cmpint(fixture.store->driver->put(fixture.store, &record, "x", 1,
                                               false, NULL), ==, 0);
    g_assert_cmpint(fixture.store->driver->list(fixture.store, STORE_NAME,
                                                count_one, &count, NULL),
                    ==, 0);
    g_assert_cmpuint(count, ==, 1);
    g_assert_false(g_file_test(dead, G_FILE_TEST_EXISTS));
    g_assert_true(g_file_test(alive, G_FILE_TEST_EXISTS));
    close(fd);
    fixture_close(&fixture);
}

/* --- The rest ------------------------------------------------------------- */

static struct store_owner someone(const char *name)
{
    struct store_owner owner = {.pid = getpid()};

    g_strlcpy(owner.owner, name, sizeof(owner.owner));
    g_strlcpy(owner.host, "testhost", sizeof(owner.host));
    return owner;
}

static int lock(struct fixture *fixture, struct store_owner *me,
                struct store_lock **made, GError **error)
{
    return fixture->store->driver->lock(fixture->store, &fixture->layer,
                                        STORE_LOCK_WRITE, me, made, NULL,
                                        error);
}

static void use_all(const char *where)
{
    uint8_t *data = make_buffer(4096, 1);
    struct store_owner me = someone("me");
    struct store_lock *made;
    struct fixture fixture;

    fixture_open(&fixture, where, 0);
    for (unsigned i = 0; i < 40; i++) {
        do_write(&fixture, block(&fixture, i * 100), 0, data, 4096,
                 STORE_CREATE);
        do_write(&fixture, block(&fixture, i * 50), 1, data, 5, 0);
        do_op(&fixture, STORE_REMOVE, block(&fixture, i * 300), 0, 0, 0);
    }
    g_assert_cmpint(lock(&fixture, &me, &made, NULL), ==, 0);
    g_assert_cmpint(made->store->driver->exclude_readers(made), ==, 0);
    made->store->driver->unlock(made);
    fixture.store->driver->remove_all(fixture.store, STORE_BLOCK,
                                      &fixture.layer, NULL);
    fixture.store->driver->remove_all(fixture.store, STORE_PAGE,
                                      &fixture.layer, NULL);
    fixture_close(&fixture);
    free(data);
}

static void test_descriptors(void)
{
    unsigned before = count_fds();

    use_all("dir:%s");
    use_all("dir:%s?io=buffered&fds=4");
    g_assert_cmpuint(count_fds(), ==, before);
}

static void test_bound(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;
    unsigned before;

    fixture_open(&fixture, "dir:%s?fds=8", 0);
    before = count_fds();
    for (unsigned i = 0; i < 60; i++) {
        g_assert_cmpint(do_write(&fixture, block(&fixture, i), 0, data, 4096,
                                 STORE_CREATE), ==, 0);
        g_assert_cmpint(do_read(&fixture, block(&fixture, i / 2), 0, data,
                                4096), ==, 0);
        g_assert_cmpuint(count_fds(), <=, before + 8);
    }
    fixture_close(&fixture);
    free(data);
}

/* In a mount namespace of a child: the tests' own stays as it is. */
static int fill_small_file_system(const char *root, const char *io)
{
    g_autofree char *where = g_strdup_printf("dir:%s?io=%s", root, io);
    struct fixture fixture = {.layer = id128_random()};
    struct store_record record = {.kind = STORE_NAME, .text = "big"};
    uint8_t *data = make_buffer(256 * KIB, 1), *got = make_buffer(256 * KIB, 2);
    unsigned made = 0;
    int result = 0;

    g_assert_cmpint(mount("tmpfs", root, "tmpfs", 0, "size=4m"), ==, 0);
    g_assert_cmpint(store_open(where, STORE_OPEN_CREATE, &fixture.store, NULL),
                    ==, 0);
    g_assert_cmpint(store_queue_open(fixture.store, 0, &fixture.queue, NULL),
                    ==, 0);
    while (result == 0 && made < 100) {
        result = do_write(&fixture, block(&fixture, made), 0, data, 256 * KIB,
                          STORE_CREATE);
        made += result == 0;
    }
    g_assert_cmpint(result, ==, -ENOSPC);
    g_assert_cmpuint(made, >=, 8);
    g_assert_cmpint(do_op(&fixture, STORE_ZERO, block(&fixture, 0), 0,
                          4 * KIB * KIB, 0), ==, -ENOSPC);
    /* What it keeps back is for metadata. */
    g_assert_cmpint(fixture.store->driver->put(fixture.store, &record, data,
                                               65536, false, NULL), ==, 0);
    /* What was there is there, and after a removal there is room. */
    g_assert_cmpint(do_read(&fixture, block(&fixture, made - 1), 0, got,
                            256 * KIB), ==, 0);
    g_assert_cmpmem(got, 256 * KIB, data, 256 * KIB);
    g_assert_cmpint(do_op(&fixture, STORE_REMOVE, block(&fixture, made), 0, 0,
                          0), ==, 0);
    g_assert_cmpint(do_op(&fixture, STORE_REMOVE, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 200), 0, data, 64 * KIB,
                             STORE_CREATE), ==, 0);
    store_queue_close(fixture.queue);
    store_close(fixture.store);
    free(data);
    free(got);
    return umount(root);
}

static void test_full(void)
{
    g_autofree char *root = NULL;
    int status;
    pid_t pid;

    if (geteuid() != 0) {
        g_test_skip("mounting a small file system needs root");
        return;
    }
    root = harness_make_root();
    pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNS) < 0 ||
            mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
            _exit(77);
        }
        _exit(fill_small_file_system(root, "buffered") == 0 &&
              fill_small_file_system(root, "auto") == 0 ? 0 : 1);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    harness_remove(root);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        g_test_skip("no mount namespace of our own to be had here");
        return;
    }
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

/* --- Waiting at the same time --------------------------------------------- */

#define TOGETHER 8

static GMutex together_lock;
static GCond together_arrived;
static unsigned together_count;

/* Ends well only if all the others come before it ends. */
static int fdatasync_together(int fd)
{
    gint64 end_us = g_get_monotonic_time() + 20 * G_TIME_SPAN_SECOND;
    bool all;

    g_mutex_lock(&together_lock);
    together_count++;
    g_cond_broadcast(&together_arrived);
    while (together_count < TOGETHER &&
           g_cond_wait_until(&together_arrived, &together_lock, end_us)) {
    }
    all = together_count >= TOGETHER;
    g_mutex_unlock(&together_lock);
    errno = ETIMEDOUT;
    return all ? 0 : -1;
}

static void count_down(struct store_request *request)
{
    g_assert_cmpint(request->result, ==, 0);
    --*(unsigned *)request->opaque;
}

/* On a queue whose caller waits, too. */
static void syncs_together(const char *location, unsigned flags)
{
    struct store_request requests[TOGETHER] = {0};
    uint8_t *data = make_buffer(4096, 1);
    unsigned left = TOGETHER;
    struct fixture fixture;

    fixture_open(&fixture, location, flags);
    for (unsigned i = 0; i < TOGETHER; i++) {
        g_assert_cmpint(do_write(&fixture, block(&fixture, i), 0, data, 4096,
                                 STORE_CREATE), ==, 0);
    }
    together_count = 0;
    sys.fdatasync = fdatasync_together;
    for (unsigned i = 0; i < TOGETHER; i++) {
        requests[i].op = STORE_SYNC;
        requests[i].object = block(&fixture, i);
        requests[i].done = count_down;
        requests[i].opaque = &left;
        store_submit(fixture.queue, &requests[i]);
    }
    store_kick(fixture.queue);
    wait_for_zero(fixture.queue, &left);
    sys.fdatasync = sys_real.fdatasync;
    fixture_close(&fixture);
    free(data);
}

static void test_syncs_together(void)
{
    syncs_together("dir:%s?io=buffered", 0);
    syncs_together("dir:%s?io=buffered", STORE_QUEUE_MAY_BLOCK);
    syncs_together("dir:%s", 0);
    syncs_together("dir:%s", STORE_QUEUE_MAY_BLOCK);
}

/* --- Contexts of libaio --------------------------------------------------- */

static io_context_t context_of(int depth)
{
    io_context_t context = NULL;

    g_assert_cmpint(sys.aio_get(depth, &context), ==, 0);
    g_assert_cmpint(io_submit(context, 0, NULL), ==, 0);
    return context;
}

static void put_and_get(io_context_t context)
{
    sys.aio_put(8, context);
    g_assert_true(context_of(8) == context);
    sys.aio_put(8, context);
}

/* Many put back: some are kept, and none is used twice. */
static void many_contexts(void)
{
    io_context_t many[20];

    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(many); i++) {
            many[i] = context_of(8);
            for (unsigned j = 0; j < i; j++) {
                g_assert_true(many[i] != many[j]);
            }
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(many); i++) {
            sys.aio_put(8, many[i]);
        }
    }
}

/* One that was put back is used again, but not for another depth, nor by a
 * child, to which it's nothing. */
static void test_contexts(void)
{
    io_context_t first = context_of(8), other;
    int status;
    pid_t pid;

    sys.aio_put(8, first);
    other = context_of(16);
    g_assert_true(other != first);
    sys.aio_put(16, other);
    pid = fork();
    if (pid == 0) {
        put_and_get(context_of(8));
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    g_assert_true(context_of(8) == first);
    put_and_get(first);
    many_contexts();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dir/contexts", test_contexts);
    g_test_add_func("/dir/open/missing", test_open_missing);
    g_test_add_func("/dir/open/foreign", test_open_foreign);
    g_test_add_func("/dir/open/half-made", test_open_half_made);
    g_test_add_func("/dir/open/options", test_open_options);
    g_test_add_func("/dir/open/locations", test_locations);
    g_test_add_func("/dir/open/format-file", test_format_file);
    g_test_add_func("/dir/open/create-race", test_create_race);
    g_test_add_func("/dir/names/bad", test_bad_names);
    g_test_add_func("/dir/names/links", test_links);
    g_test_add_func("/dir/names/links-without-openat2",
                    test_links_without_openat2);
    g_test_add_func("/dir/names/old-openat2", test_old_openat2);
    g_test_add_func("/dir/names/record-link", test_record_link);
    g_test_add_func("/dir/names/temporaries", test_temporaries);
    g_test_add_func("/dir/descriptors", test_descriptors);
    g_test_add_func("/dir/bound", test_bound);
    g_test_add_func("/dir/full", test_full);
    g_test_add_func("/dir/syncs-together", test_syncs_together);
    return g_test_run();
}
