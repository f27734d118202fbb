/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dir store's setting aside and taking back, when there is nothing to move,
 * when its place is taken, when system calls fail: open files keep what they
 * owe, and what is done again is durable then.
 */
#include "base/sys.h"
#include "harness.h"
#include "store/dir-format.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static const struct store_driver *driver_of(const struct fixture *fixture)
{
    return fixture->store->driver;
}

static struct store_thing set_of(const struct id128 *layer)
{
    return (struct store_thing){.type = STORE_THING_SET,
                                .object = {STORE_BLOCK, *layer, 0}};
}

static struct store_thing object_of(const struct fixture *fixture,
                                    uint64_t number)
{
    return (struct store_thing){.type = STORE_THING_OBJECT,
                                .object = block(fixture, number)};
}

static int set_aside(struct fixture *fixture, struct store_thing thing)
{
    return driver_of(fixture)->set_aside(fixture->store, &thing, NULL);
}

static int take_back(struct fixture *fixture, struct store_thing thing)
{
    return driver_of(fixture)->take_back(fixture->store, &thing, NULL);
}

static void make(struct fixture *fixture, struct store_object object,
                 unsigned flags)
{
    uint8_t *data = make_buffer(4096, 1);

    g_assert_cmpint(do_write(fixture, object, 0, data, 4096,
                             STORE_CREATE | flags), ==, 0);
    free(data);
}

/* With a folder for what is set aside, where something lies already. */
static void begin(struct fixture *fixture)
{
    struct store_object other = {STORE_BLOCK, id128_random(), 0};

    fixture_open(fixture, "dir:%s?fds=4", 0);
    make(fixture, other, 0);
    g_assert_cmpint(set_aside(fixture, set_of(&other.id)), ==, 0);
}

static void end(struct fixture *fixture)
{
    sys = sys_real;
    fixture_close(fixture);
}

/* --- Open files ----------------------------------------------------------- */

static int datasyncs, datasync_failures;

static int counting_fdatasync(int fd)
{
    datasyncs++;
    if (datasync_failures > 0) {
        datasync_failures--;
        errno = EIO;
        return -1;
    }
    return fdatasync(fd);
}

static void expect_dirty(struct fixture *fixture)
{
    datasyncs = 0;
    sys.fdatasync = counting_fdatasync;
    g_assert_cmpint(do_op(fixture, STORE_SYNC, block(fixture, 0), 0, 0, 0), ==,
                    0);
    g_assert_cmpint(datasyncs, ==, 1);
    sys = sys_real;
}

static int no_renameat2(int from_fd, const char *from, int to_fd,
                        const char *to, unsigned flags)
{
    errno = EIO;
    return -1;
}

/* What wasn't moved still has to be synced: a layer that is in use. */
static void test_still_dirty(void)
{
    struct fixture fixture;

    begin(&fixture);
    make(&fixture, block(&fixture, 0), 0);
    g_assert_cmpint(take_back(&fixture, set_of(&fixture.layer)), ==, -ENOENT);
    expect_dirty(&fixture);
    make(&fixture, block(&fixture, 0), 0);
    g_assert_cmpint(take_back(&fixture, object_of(&fixture, 0)), ==, -ENOENT);
    expect_dirty(&fixture);
    make(&fixture, block(&fixture, 0), 0);
    sys.renameat2 = no_renameat2;
    g_assert_cmpint(set_aside(&fixture, set_of(&fixture.layer)), ==, -EIO);
    g_assert_cmpint(set_aside(&fixture, object_of(&fixture, 0)), ==, -EIO);
    sys = sys_real;
    expect_dirty(&fixture);
    end(&fixture);
}

/* There is another layer of that id aside. */
static void test_taken(void)
{
    struct fixture fixture;

    begin(&fixture);
    make(&fixture, block(&fixture, 0), 0);
    g_assert_cmpint(set_aside(&fixture, set_of(&fixture.layer)), ==, 0);
    make(&fixture, block(&fixture, 0), 0);
    g_assert_cmpint(take_back(&fixture, set_of(&fixture.layer)), ==, -EEXIST);
    expect_dirty(&fixture);
    end(&fixture);
}

/* A failed sync that nobody was told of yet. */
static void test_still_failed(void)
{
    struct fixture fixture;

    begin(&fixture);
    make(&fixture, block(&fixture, 0), 0);
    datasync_failures = 1;
    sys.fdatasync = counting_fdatasync;
    for (unsigned i = 1; i < 6; i++) {
        make(&fixture, block(&fixture, i), 0);
    }
    g_assert_cmpint(datasync_failures, ==, 0);
    sys = sys_real;
    g_assert_cmpint(take_back(&fixture, set_of(&fixture.layer)), ==, -ENOENT);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, -EIO);
    end(&fixture);
}

/* --- Durability ----------------------------------------------------------- */

/* One entry for each fsync(): which folder. */
static GPtrArray *synced;
static int fsyncs_before_failure;

static int noting_fsync(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);

    if (fsyncs_before_failure-- == 0) {
        errno = EIO;
        return -1;
    }
    g_ptr_array_add(synced, g_file_read_link(link, NULL));
    return fsync(fd);
}

/* Begin to note; the one after that many fails. */
static void note_fsyncs(int before_failure)
{
    g_clear_pointer(&synced, g_ptr_array_unref);
    synced = g_ptr_array_new_with_free_func(g_free);
    fsyncs_before_failure = before_failure;
    sys.fsync = noting_fsync;
}

static bool was_synced(const struct fixture *fixture, const char *folder)
{
    g_autofree char *path = g_build_filename(fixture->root, folder, NULL);
    g_autofree char *real = realpath(path, NULL);

    g_assert_nonnull(real);
    return g_ptr_array_find_with_equal_func(synced, real, g_str_equal, NULL);
}

/* "blocks/XX" */
static char *parent_of(const struct fixture *fixture)
{
    char text[ID128_TEXT_BYTES];

    id128_text(&fixture->layer, text);
    return g_strdup_printf("blocks/%.2s", text);
}

static void expect_synced(const struct fixture *fixture, bool back)
{
    g_autofree char *parent = parent_of(fixture);

    g_assert_true(was_synced(fixture, parent));
    g_assert_true(was_synced(fixture, "set-aside"));
    g_assert_true(was_synced(fixture, ""));
    g_assert_true(!back || was_synced(fixture, "blocks"));
}

static int move(struct fixture *fixture, bool back)
{
    return back ? take_back(fixture, set_of(&fixture->layer))
                : set_aside(fixture, set_of(&fixture->layer));
}

/* After any failed fsync() the same once more, be it by another process, syncs
 * all, though there is nothing left to move.  False: so many weren't made. */
static bool tried_again(int before_failure, bool back, bool reopened)
{
    struct fixture fixture;
    bool failed;
    int result;

    fixture_open(&fixture, "dir:%s", 0);
    make(&fixture, block(&fixture, 0), STORE_FUA);
    if (back) {
        g_assert_cmpint(move(&fixture, false), ==, 0);
    }
    note_fsyncs(before_failure);
    result = move(&fixture, back);
    failed = fsyncs_before_failure < 0;
    g_assert_cmpint(result, ==, failed ? -EIO : 0);
    sys = sys_real;
    if (failed && reopened) {
        fixture_reopen(&fixture);
    }
    if (failed) {
        note_fsyncs(-1);
        result = move(&fixture, back);
        g_assert_true(result == 0 || (back && result == -ENOENT));
        expect_synced(&fixture, back);
    }
    g_clear_pointer(&synced, g_ptr_array_unref);
    end(&fixture);
    return failed;
}

static void tried_again_after_each(bool back)
{
    for (int reopened = 0; reopened < 2; reopened++) {
        int count = 0;

        while (tried_again(count, back, reopened)) {
            count++;
        }
        g_assert_cmpint(count, >=, back ? 4 : 3);
    }
}

static void test_aside_again(void)
{
    tried_again_after_each(false);
}

static void test_back_again(void)
{
    tried_again_after_each(true);
}

static int count_litter(const char *stray, bool litter, void *opaque)
{
    g_assert_true(litter);
    ++*(unsigned *)opaque;
    return 0;
}

/* Who made the store was killed with its file in place and the temporary name
 * still there: a repair, which has that file locked, finds it. */
static void test_own_temporary(void)
{
    struct store_lock *lock;
    struct fixture fixture;
    unsigned count = 0;

    fixture_open(&fixture, "dir:%s", 0);
    {
        g_autofree char *own = g_build_filename(fixture.root,
                                                DIR_FORMAT_NAME, NULL);
        g_autofree char *temporary = g_build_filename(
            fixture.root, DIR_TEMPORARY "0123456789abcdef0123456789abcdef",
            NULL);

        g_assert_cmpint(link(own, temporary), ==, 0);
    }
    g_assert_cmpint(driver_of(&fixture)->lock(fixture.store, NULL,
                                              STORE_LOCK_REPAIR, NULL, &lock,
                                              NULL, NULL), ==, 0);
    g_assert_cmpint(driver_of(&fixture)->list_strays(fixture.store,
                                                     count_litter, &count,
                                                     NULL), ==, 0);
    g_assert_cmpuint(count, ==, 1);
    driver_of(&fixture)->unlock(lock);
    fixture_close(&fixture);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dir/strays/still-dirty", test_still_dirty);
    g_test_add_func("/dir/strays/taken", test_taken);
    g_test_add_func("/dir/strays/still-failed", test_still_failed);
    g_test_add_func("/dir/strays/aside-again", test_aside_again);
    g_test_add_func("/dir/strays/back-again", test_back_again);
    g_test_add_func("/dir/strays/own-temporary", test_own_temporary);
    return g_test_run();
}
