/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the dir store keeps from one lock on a volume to the next, while other
 * processes have it: open files, folders, locks.
 */
#include "base/sys.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* The same store, opened once more, which is what another process has. */
static struct fixture opened_again(const struct fixture *fixture)
{
    struct fixture again = *fixture;

    g_assert_cmpint(store_open(fixture->location, 0, &again.store, NULL), ==,
                    0);
    g_assert_cmpint(store_queue_open(again.store, again.queue_flags,
                                     &again.queue, NULL), ==, 0);
    return again;
}

static struct store_lock *begin_life(struct fixture *fixture)
{
    struct store_owner me = {.pid = getpid(), .open = true};
    struct store_lock *lock;

    g_assert_cmpint(fixture->store->driver->lock(fixture->store,
                                                 &fixture->layer,
                                                 STORE_LOCK_WRITE, &me, &lock,
                                                 NULL, NULL), ==, 0);
    return lock;
}

static void end_life(struct fixture *fixture, struct store_lock *lock)
{
    fixture->store->driver->unlock(lock);
}

static void write_byte(struct fixture *fixture, uint8_t byte, unsigned flags)
{
    uint8_t *data = make_buffer(4096, 0);

    memset(data, byte, 4096);
    g_assert_cmpint(do_write(fixture, block(fixture, 0), 0, data, 4096, flags),
                    ==, 0);
    free(data);
}

static void assert_byte(struct fixture *fixture, uint8_t byte)
{
    uint8_t *data = make_buffer(4096, 1);

    g_assert_cmpint(do_read(fixture, block(fixture, 0), 0, data, 4096), ==, 0);
    g_assert_true(is_all(data, byte, 4096));
    free(data);
}

static void assert_nothing(struct fixture *fixture)
{
    uint8_t *data = make_buffer(4096, 1);

    g_assert_cmpint(do_read(fixture, block(fixture, 0), 0, data, 4096), ==,
                    -ENOENT);
    free(data);
}

static void take_away(struct fixture *fixture, bool aside)
{
    struct store_thing thing = {STORE_THING_OBJECT, block(fixture, 0)};

    g_assert_cmpint(aside ? fixture->store->driver->set_aside(fixture->store,
                                                              &thing, NULL)
                          : do_op(fixture, STORE_REMOVE, thing.object, 0, 0, 0),
                    ==, 0);
}

static void one_object_of_two(const char *location, unsigned flags, bool aside,
                              bool synced)
{
    struct fixture one, other;
    struct store_lock *lock;

    fixture_open(&one, location, flags);
    other = opened_again(&one);
    lock = begin_life(&one);
    write_byte(&one, 1, STORE_CREATE);
    if (synced) {
        do_op(&one, STORE_SYNC, block(&one, 0), 0, 0, 0);
    }
    end_life(&one, lock);
    lock = begin_life(&other);
    take_away(&other, aside);
    write_byte(&other, 2, STORE_CREATE);
    end_life(&other, lock);
    lock = begin_life(&one);
    assert_byte(&one, 2);
    write_byte(&one, 3, 0);
    end_life(&one, lock);
    lock = begin_life(&other);
    assert_byte(&other, 3);
    take_away(&other, aside);
    end_life(&other, lock);
    lock = begin_life(&one);
    assert_nothing(&one);
    write_byte(&one, 4, STORE_CREATE);
    end_life(&one, lock);
    lock = begin_life(&other);
    assert_byte(&other, 4);
    end_life(&other, lock);
    store_queue_close(other.queue);
    store_close(other.store);
    fixture_close(&one);
}

static void test_two_processes(void)
{
    for (unsigned i = 0; i < 16; i++) {
        one_object_of_two(i & 1 ? "dir:%s" : "dir:%s?io=buffered",
                          i & 2 ? STORE_QUEUE_MAY_BLOCK : 0, i & 4, i & 8);
    }
}

/* What others remove takes no room because it is open here. */
static void test_removed_elsewhere(void)
{
    g_autofree char *command = g_strdup_printf(
        "! ls -l /proc/%d/fd | grep deleted", (int)getpid());
    struct fixture one, other;
    struct store_lock *lock;

    fixture_open(&one, "dir:%s", 0);
    other = opened_again(&one);
    lock = begin_life(&one);
    write_byte(&one, 1, STORE_CREATE);
    do_op(&one, STORE_SYNC, block(&one, 0), 0, 0, 0);
    end_life(&one, lock);
    lock = begin_life(&other);
    take_away(&other, false);
    end_life(&other, lock);
    g_assert_cmpint(system(command), ==, 0);
    store_queue_close(other.queue);
    store_close(other.store);
    fixture_close(&one);
}

/* As on a mount that is for reading only. */
static int reading_openat2(int folder_fd, const char *path,
                           struct open_how *how, size_t how_bytes)
{
    if (how->flags & O_CREAT || ((how->flags & O_ACCMODE) != O_RDONLY &&
                                 !(how->flags & O_PATH))) {
        errno = EROFS;
        return -1;
    }
    return sys_real.openat2(folder_fd, path, how, how_bytes);
}

static void count_down(struct store_request *request)
{
    g_assert_cmpint(request->result, ==, 0);
    --*(unsigned *)request->opaque;
}

/* What could only be read can be written later, also while a read of then is
 * under way. */
static void test_writable_since(void)
{
    uint8_t *data = make_buffer(4096, 0);
    struct iovec iov = {data, 4096};
    unsigned left = 1;
    struct store_request read = {
        .op = STORE_READ, .length_bytes = 4096, .iov = &iov, .iov_count = 1,
        .done = count_down, .opaque = &left,
    };
    struct store_lock *lock;
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    write_byte(&fixture, 1, STORE_CREATE);
    fixture_reopen(&fixture);
    sys.openat2 = reading_openat2;
    assert_byte(&fixture, 1);
    read.object = block(&fixture, 0);
    store_submit(fixture.queue, &read);
    store_kick(fixture.queue);
    sys = sys_real;
    lock = begin_life(&fixture);
    write_byte(&fixture, 2, 0);
    wait_for_zero(fixture.queue, &left);
    g_assert_true(is_all(data, 1, 4096) || is_all(data, 2, 4096));
    assert_byte(&fixture, 2);
    end_life(&fixture, lock);
    fixture_close(&fixture);
    free(data);
}

/* A reader to whom the store isn't writable counts as one, beside a writer. */
static void test_reading_mount(void)
{
    struct fixture one, other;
    struct store_lock *writer, *reader;

    fixture_open(&one, "dir:%s", 0);
    other = opened_again(&one);
    writer = begin_life(&one);
    sys.openat2 = reading_openat2;
    g_assert_cmpint(other.store->driver->lock(other.store, &one.layer,
                                              STORE_LOCK_READ, NULL, &reader,
                                              NULL, NULL), ==, 0);
    sys = sys_real;
    g_assert_cmpint(one.store->driver->exclude_readers(writer), ==, -EBUSY);
    end_life(&other, reader);
    g_assert_cmpint(one.store->driver->exclude_readers(writer), ==, 0);
    one.store->driver->admit_readers(writer);
    end_life(&one, writer);
    store_queue_close(other.queue);
    store_close(other.store);
    fixture_close(&one);
}

/* Unlike its number a descriptor's owner doesn't go to the next one. */
static int marking_fdatasync(int fd)
{
    g_assert_cmpint(fcntl(fd, F_SETOWN, getpid()), ==, 0);
    return sys_real.fdatasync(fd);
}

static int failing_if_marked_fdatasync(int fd)
{
    if (fcntl(fd, F_GETOWN) == getpid()) {
        errno = EIO;
        return -1;
    }
    return sys_real.fdatasync(fd);
}

static int sync_count;

static int counting_fsync(int fd)
{
    sync_count++;
    return sys_real.fsync(fd);
}

/* The next life has nothing of the last one's: no descriptor, to which Linux
 * would tell what failed in another's hands, and no folder known to be durable,
 * which another may have made anew. */
static void test_next_life(void)
{
    struct store_lock *lock;
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    lock = begin_life(&fixture);
    write_byte(&fixture, 1, STORE_CREATE);
    sys.fdatasync = marking_fdatasync;
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    sys.fdatasync = failing_if_marked_fdatasync;
    end_life(&fixture, lock);
    lock = begin_life(&fixture);
    sync_count = 0;
    sys.fsync = counting_fsync;
    write_byte(&fixture, 2, 0);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    g_assert_cmpint(sync_count, ==, 0);
    for (unsigned i = 1; i < 3; i++) {
        uint8_t *data = make_buffer(4096, i);

        sync_count = 0;
        g_assert_cmpint(do_write(&fixture, block(&fixture, i), 0, data, 4096,
                                 STORE_CREATE), ==, 0);
        g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, i), 0, 0,
                              0), ==, 0);
        if (i == 1) {
            g_assert_cmpint(sync_count, >=, 3);
        } else {
            g_assert_cmpint(sync_count, ==, 1);
        }
        free(data);
    }
    sys = sys_real;
    end_life(&fixture, lock);
    fixture_close(&fixture);
}

static char *made_again;
static int made_again_fd;

static int remaking_unlinkat(int folder_fd, const char *path, int flags)
{
    int result = sys_real.unlinkat(folder_fd, path, flags);

    if (made_again_fd < 0 && result == 0 && !strcmp(path, "lock")) {
        made_again_fd = open(made_again, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
        g_assert_cmpint(made_again_fd, >=, 0);
    }
    return result;
}

static int remaking_and_taking_unlinkat(int folder_fd, const char *path,
                                        int flags)
{
    bool is_first = made_again_fd < 0;
    int result = remaking_unlinkat(folder_fd, path, flags);

    if (is_first && made_again_fd >= 0) {
        g_assert_cmpint(flock(made_again_fd, LOCK_EX | LOCK_NB), ==, 0);
    }
    return result;
}

/* Somebody makes the lock's file again, and has the lock, or not yet. */
static void removed_beside(bool taken)
{
    struct store_lock *lock;
    struct fixture fixture;
    char id[ID128_TEXT_BYTES];
    g_autofree char *folder = NULL;

    fixture_open(&fixture, "dir:%s", 0);
    id128_text(&fixture.layer, id);
    folder = g_strdup_printf("%s/maps/%.2s/%s", fixture.root, id, id);
    made_again = g_strdup_printf("%s/lock", folder);
    made_again_fd = -1;
    lock = begin_life(&fixture);
    sys.unlinkat = taken ? remaking_and_taking_unlinkat : remaking_unlinkat;
    g_assert_cmpint(fixture.store->driver->remove_all(fixture.store, STORE_PAGE,
                                                      &fixture.layer, NULL),
                    ==, 0);
    sys = sys_real;
    g_assert_cmpint(made_again_fd, >=, 0);
    g_assert_true(g_file_test(made_again, G_FILE_TEST_EXISTS) == taken);
    g_assert_true(g_file_test(folder, G_FILE_TEST_EXISTS) == taken);
    close(made_again_fd);
    g_free(made_again);
    end_life(&fixture, lock);
    fixture_close(&fixture);
}

static void test_removed_beside(void)
{
    removed_beside(false);
    removed_beside(true);
}

static int lying_unlinkat(int folder_fd, const char *path, int flags)
{
    sys_real.unlinkat(folder_fd, path, flags);
    errno = EIO;
    return -1;
}

/* An error, and it happened nevertheless. */
static void test_removed_and_failed(void)
{
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    write_byte(&fixture, 1, STORE_CREATE);
    sys.unlinkat = lying_unlinkat;
    g_assert_cmpint(do_op(&fixture, STORE_REMOVE, block(&fixture, 0), 0, 0, 0),
                    ==, -EIO);
    sys = sys_real;
    assert_nothing(&fixture);
    fixture_close(&fixture);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dir/lives/two-processes", test_two_processes);
    g_test_add_func("/dir/lives/removed-elsewhere", test_removed_elsewhere);
    g_test_add_func("/dir/lives/writable-since", test_writable_since);
    g_test_add_func("/dir/lives/reading-mount", test_reading_mount);
    g_test_add_func("/dir/lives/next-life", test_next_life);
    g_test_add_func("/dir/lives/removed-beside", test_removed_beside);
    g_test_add_func("/dir/lives/removed-and-failed", test_removed_and_failed);
    return g_test_run();
}
