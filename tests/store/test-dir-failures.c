/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dir store when system calls fail: through the table of base/sys.h. */
#include "base/sys.h"
#include "harness.h"
#include "store/dir-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB 1024u

/* --- Failing system calls ------------------------------------------------- */

static int failing_errno = EIO, failures_left;

static int fail_or(int (*call)(int fd), int fd)
{
    if (g_atomic_int_add(&failures_left, -1) > 0) {
        errno = failing_errno;
        return -1;
    }
    return call(fd);
}

static int failing_fdatasync(int fd)
{
    return fail_or(fdatasync, fd);
}

static int failing_fsync(int fd)
{
    return fail_or(fsync, fd);
}

static int failing_syncfs(int fd)
{
    return fail_or(syncfs, fd);
}

static void test_sync_fails(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_CREATE), ==, 0);
    failures_left = 1;
    sys.fdatasync = failing_fdatasync;
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, -EIO);
    /* What wasn't synced isn't taken for synced the next time. */
    failures_left = 1;
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, -EIO);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    sys = sys_real;
    fixture_close(&fixture);
    free(data);
}

/* A file synced because it had to leave the cache: nobody waits for that. */
static void test_eviction_sync_fails(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s?fds=4", 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_CREATE), ==, 0);
    failures_left = 1;
    sys.fdatasync = failing_fdatasync;
    for (unsigned i = 1; i < 6; i++) {
        g_assert_cmpint(do_write(&fixture, block(&fixture, i), 0, data, 4096,
                                 STORE_CREATE), ==, 0);
    }
    g_assert_cmpint(failures_left, <, 1);
    sys = sys_real;
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 1), 0, 0, 0),
                    ==, 0);
    g_assert_cmpint(fixture.store->driver->sync_all(
                        fixture.store, STORE_BLOCK, &fixture.layer, NULL),
                    ==, -EIO);
    g_assert_cmpint(fixture.store->driver->sync_all(
                        fixture.store, STORE_BLOCK, &fixture.layer, NULL),
                    ==, 0);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, -EIO);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    fixture_close(&fixture);
    free(data);
}

static void test_folder_sync_fails(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_CREATE), ==, 0);
    failures_left = 1;
    sys.fsync = failing_fsync;
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, -EIO);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    failures_left = 1;
    g_assert_cmpint(do_write(&fixture, block(&fixture, 2000), 0, data, 4096,
                             STORE_CREATE | STORE_FUA), ==, -EIO);
    sys = sys_real;
    fixture_close(&fixture);
    free(data);
}

static void test_removal_sync_fails(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    sys.fsync = failing_fsync;
    for (int round = 0; round < 2; round++) {
        g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                                 STORE_CREATE | STORE_FUA), ==, 0);
        /* Then nobody knows whether an earlier removal was synced. */
        for (int again = 0; again < 2; again++) {
            g_assert_cmpint(do_op(&fixture, STORE_REMOVE, block(&fixture, 0), 0,
                                  0, 0), ==, 0);
            failures_left = 1;
            g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0,
                                  0, 0), ==, -EIO);
            g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0,
                                  0, 0), ==, 0);
        }
    }
    sys = sys_real;
    fixture_close(&fixture);
    free(data);
}

static struct dir_store *syncing;

static unsigned waiting_syncs(void)
{
    unsigned count;

    g_mutex_lock(&syncing->lock);
    count = syncing->sync_waiters;
    g_mutex_unlock(&syncing->lock);
    return count;
}

/* It fails when the three others wait for it. */
static int slowly_failing_fdatasync(int fd)
{
    while (g_atomic_int_get(&failures_left) > 0 && waiting_syncs() < 3) {
        g_usleep(1000);
    }
    return failing_fdatasync(fd);
}

static void count_failed(struct store_request *request)
{
    g_assert_cmpint(request->result, ==, -EIO);
    --*(unsigned *)request->opaque;
}

/* The kernel tells of a failure once: everyone who waited hears of it. */
static void test_waiting_syncs_fail(void)
{
    struct store_request requests[4];
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;
    unsigned left = 4;

    fixture_open(&fixture, "dir:%s", 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_CREATE), ==, 0);
    failures_left = 1;
    syncing = fixture.store->state;
    sys.fdatasync = slowly_failing_fdatasync;
    for (int i = 0; i < 4; i++) {
        requests[i] = (struct store_request){
            .op = STORE_SYNC,
            .object = block(&fixture, 0),
            .done = count_failed,
            .opaque = &left,
        };
        store_submit(fixture.queue, &requests[i]);
    }
    store_kick(fixture.queue);
    wait_for_zero(fixture.queue, &left);
    sys = sys_real;
    fixture_close(&fixture);
    free(data);
}

/* Another FUA write, whose sync fails, comes between a write and its sync. */
static struct fixture *writing_to;

/* The result; `sync_failed` is held against what the driver says. */
static int write_through(struct fixture *fixture, struct store_queue *queue,
                         uint64_t offset_bytes, bool sync_failed)
{
    static uint8_t bytes[4096];
    struct iovec iov = {bytes, sizeof(bytes)};
    struct store_request write = {
        .op = STORE_WRITE,
        .flags = STORE_FUA,
        .object = block(fixture, 0),
        .offset_bytes = offset_bytes,
        .length_bytes = sizeof(bytes),
        .iov = &iov,
        .iov_count = 1,
    };
    int result = store_run(queue, &write);

    g_assert_cmpint(write.sync_failed, ==, sync_failed);
    return result;
}

static ssize_t interrupted_pwritev2(int fd, const struct iovec *iov, int count,
                                    off_t offset, int flags)
{
    ssize_t done = sys_real.pwritev2(fd, iov, count, offset, flags);
    struct fixture *fixture = writing_to;
    struct store_queue *other;

    if (fixture) {
        writing_to = NULL;
        failures_left = 1;
        store_queue_open(fixture->store, STORE_QUEUE_MAY_BLOCK, &other, NULL);
        g_assert_cmpint(write_through(fixture, other, 8192, true), ==,
                        -ENOSPC);
        store_queue_close(other);
    }
    return done;
}

/* The kernel tells the descriptor of both once.  A lack of room may come as
 * late as that. */
static void test_fua_beside_fua(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s?io=buffered", STORE_QUEUE_MAY_BLOCK);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_CREATE), ==, 0);
    sys.fdatasync = failing_fdatasync;
    sys.pwritev2 = interrupted_pwritev2;
    failing_errno = ENOSPC;
    writing_to = &fixture;
    g_assert_cmpint(write_through(&fixture, fixture.queue, 4096, true), ==,
                    -EIO);
    g_assert_cmpint(failures_left, <, 1);
    g_assert_cmpint(write_through(&fixture, fixture.queue, 4096, false), ==,
                    0);
    failing_errno = EIO;
    sys = sys_real;
    fixture_close(&fixture);
    free(data);
}

/* Another queue's removal comes between opening a file and keeping it. */
static struct fixture *removing_from;

static int removing_openat2(int folder_fd, const char *path,
                            struct open_how *how, size_t how_bytes)
{
    int fd = sys_real.openat2(folder_fd, path, how, how_bytes);
    struct fixture *fixture = removing_from;
    struct store_queue *other;

    if (fixture && g_str_has_suffix(path, "/000/0")) {
        struct store_request remove = {
            .op = STORE_REMOVE,
            .object = block(fixture, 0),
        };

        removing_from = NULL;
        store_queue_open(fixture->store, STORE_QUEUE_MAY_BLOCK, &other, NULL);
        g_assert_cmpint(store_run(other, &remove), ==, 0);
        store_queue_close(other);
    }
    return fd;
}

static void test_removed_while_opened(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    for (int round = 0; round < 2; round++) {
        fixture_open(&fixture, "dir:%s",
                     round ? STORE_QUEUE_MAY_BLOCK : 0);
        g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                                 STORE_CREATE), ==, 0);
        fixture_reopen(&fixture);
        removing_from = &fixture;
        sys.openat2 = removing_openat2;
        g_assert_cmpint(do_read(&fixture, block(&fixture, 0), 0, data, 4096),
                        ==, -ENOENT);
        g_assert_null(removing_from);
        sys = sys_real;
        fixture_close(&fixture);
    }
    free(data);
}

static void test_records_fail(void)
{
    struct store_record record = {.kind = STORE_NAME, .text = "a"};
    const struct store_driver *driver;
    g_autoptr(GBytes) value = NULL;
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    driver = fixture.store->driver;
    g_assert_cmpint(driver->put(fixture.store, &record, "old", 3, false, NULL),
                    ==, 0);
    sys.fsync = failing_fsync;
    failing_errno = ENOSPC;
    failures_left = 100;        /* more than are made up for */
    g_assert_cmpint(driver->put(fixture.store, &record, "new", 3, false, NULL),
                    ==, -ENOSPC);
    failing_errno = EIO;
    g_assert_cmpint(driver->get(fixture.store, &record, &value, NULL), ==, 0);
    g_assert_cmpmem(g_bytes_get_data(value, NULL), 3, "old", 3);
    failures_left = 1;
    g_assert_cmpint(driver->drop(fixture.store, &record, NULL), ==, -EIO);
    sys.syncfs = failing_syncfs;
    failures_left = 1;
    g_assert_cmpint(driver->sync_all(fixture.store, STORE_BLOCK, &fixture.layer,
                                     NULL), ==, -EIO);
    sys = sys_real;
    fixture_close(&fixture);
}

static int sync_calls;

static int counting_fdatasync(int fd)
{
    g_atomic_int_inc(&sync_calls);
    return fdatasync(fd);
}

/* A sync of what is durable already costs no system call. */
static void test_sync_is_lazy(void)
{
    uint8_t *data = make_buffer(4096, 1);
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    sys.fdatasync = counting_fdatasync;
    sync_calls = 0;
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_CREATE), ==, 0);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0,
                              0), ==, 0);
    }
    g_assert_cmpint(sync_calls, ==, 1);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096,
                             STORE_FUA), ==, 0);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    g_assert_cmpint(sync_calls, ==, 1);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 4096, 0),
                    ==, 0);
    g_assert_cmpint(do_op(&fixture, STORE_SYNC, block(&fixture, 0), 0, 0, 0),
                    ==, 0);
    g_assert_cmpint(sync_calls, ==, 2);
    sys = sys_real;
    fixture_close(&fixture);
    free(data);
}

static int no_fallocate(int fd, int mode, off_t offset, off_t length)
{
    errno = EOPNOTSUPP;
    return -1;
}

static void test_no_fallocate(void)
{
    uint8_t *data = make_buffer(64 * KIB, 1);
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 64 * KIB,
                             STORE_CREATE), ==, 0);
    sys.fallocate = no_fallocate;
    g_assert_cmpint(do_op(&fixture, STORE_PUNCH, block(&fixture, 0), 0, 4096,
                          0), ==, -ENOTSUP);
    g_assert_cmpint(do_op(&fixture, STORE_ZERO, block(&fixture, 0), 0, 4096,
                          STORE_NO_FALLBACK), ==, -ENOTSUP);
    g_assert_cmpint(do_op(&fixture, STORE_ZERO, block(&fixture, 0), 5, 50000,
                          0), ==, 0);
    sys = sys_real;
    g_assert_cmpint(do_read(&fixture, block(&fixture, 0), 0, data, 64 * KIB),
                    ==, 0);
    g_assert_false(is_all(data, 0, 5));
    g_assert_true(is_all(data + 5, 0, 50000));
    g_assert_false(is_all(data + 50005, 0, 100));
    fixture_close(&fixture);
    free(data);
}

static int refusing_io_submit(io_context_t context, long count,
                              struct iocb **iocbs)
{
    return g_random_boolean() ? -EAGAIN : -EINTR;
}

static int refusing_aio_get(int depth, io_context_t *context)
{
    return -EAGAIN;
}

static int partial_io_submit(io_context_t context, long count,
                             struct iocb **iocbs)
{
    return io_submit(context, 1, iocbs);
}

/* As if the disk had stopped in the middle. */
static int shortening_io_submit(io_context_t context, long count,
                                struct iocb **iocbs)
{
    for (long i = 0; i < count; i++) {
        iocbs[i]->u.c.nbytes = 4096;
    }
    return io_submit(context, count, iocbs);
}

static ssize_t short_pwritev2(int fd, const struct iovec *iov, int count,
                              off_t offset, int flags)
{
    struct iovec less = {iov[0].iov_base, MIN(iov[0].iov_len, 512)};

    return pwritev2(fd, &less, 1, offset, flags);
}

static ssize_t short_preadv2(int fd, const struct iovec *iov, int count,
                             off_t offset, int flags)
{
    struct iovec less = {iov[0].iov_base, MIN(iov[0].iov_len, 512)};

    if (g_random_int_range(0, 4) == 0) {
        errno = EINTR;
        return -1;
    }
    return preadv2(fd, &less, 1, offset, flags);
}

static void write_and_compare(const char *where, unsigned queue_flags)
{
    uint8_t *data = make_buffer(64 * KIB, 1), *got = make_buffer(64 * KIB, 2);
    struct fixture fixture;

    fixture_open(&fixture, where, queue_flags);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, got, 64 * KIB,
                             STORE_CREATE), ==, 0);
    g_assert_cmpint(do_write(&fixture, block(&fixture, 0), 0, data, 64 * KIB,
                             0), ==, 0);
    g_assert_cmpint(do_read(&fixture, block(&fixture, 0), 0, got, 64 * KIB),
                    ==, 0);
    g_assert_cmpmem(got, 64 * KIB, data, 64 * KIB);
    fixture_close(&fixture);
    free(data);
    free(got);
}

static void test_aio_refuses(void)
{
    sys.io_submit = refusing_io_submit;
    write_and_compare("dir:%s", 0);
    sys.io_submit = partial_io_submit;
    write_and_compare("dir:%s", 0);
    sys.io_submit = shortening_io_submit;
    write_and_compare("dir:%s", 0);
    sys.aio_get = refusing_aio_get;
    write_and_compare("dir:%s", 0);
    sys = sys_real;
}

static void test_short_transfers(void)
{
    sys.pwritev2 = short_pwritev2;
    sys.preadv2 = short_preadv2;
    write_and_compare("dir:%s?io=buffered", STORE_QUEUE_MAY_BLOCK);
    write_and_compare("dir:%s?io=buffered", 0);
    sys = sys_real;
}

static int no_direct_openat(int folder_fd, const char *path, int flags,
                            mode_t mode)
{
    if (flags & O_DIRECT) {
        errno = EINVAL;
        return -1;
    }
    return sys_real.openat(folder_fd, path, flags, mode);
}

static void test_no_direct(void)
{
    g_autofree char *root = harness_make_root();
    g_autofree char *location = g_strdup_printf("dir:%s?io=direct", root);
    g_autoptr(GError) error = NULL;
    struct store_status status;
    struct store *store;
    struct fixture fixture;

    sys.openat = no_direct_openat;
    g_assert_cmpint(store_open(location, STORE_OPEN_CREATE, &store, &error), ==,
                    -EOPNOTSUPP);
    g_assert_nonnull(strstr(error->message, "O_DIRECT doesn't work"));
    harness_remove(root);
    fixture_open(&fixture, "dir:%s?io=auto", 0);
    g_assert_cmpint(fixture.store->driver->status(fixture.store, &status, NULL),
                    ==, 0);
    g_assert_cmpstr(status.io, ==, "buffered (threads)");
    g_assert_cmpuint(status.total_bytes, >=, status.free_bytes);
    g_assert_cmpuint(status.total_bytes, >, 0);
    sys = sys_real;
    fixture_close(&fixture);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dir/fail/sync", test_sync_fails);
    g_test_add_func("/dir/fail/waiting-syncs", test_waiting_syncs_fail);
    g_test_add_func("/dir/fail/fua-beside-fua", test_fua_beside_fua);
    g_test_add_func("/dir/fail/eviction-sync", test_eviction_sync_fails);
    g_test_add_func("/dir/fail/folder-sync", test_folder_sync_fails);
    g_test_add_func("/dir/fail/removal-sync", test_removal_sync_fails);
    g_test_add_func("/dir/fail/records", test_records_fail);
    g_test_add_func("/dir/fail/no-fallocate", test_no_fallocate);
    g_test_add_func("/dir/fail/aio-refuses", test_aio_refuses);
    g_test_add_func("/dir/fail/short-transfers", test_short_transfers);
    g_test_add_func("/dir/fail/no-direct", test_no_direct);
    g_test_add_func("/dir/fail/removed-while-opened",
                    test_removed_while_opened);
    g_test_add_func("/dir/sync-is-lazy", test_sync_is_lazy);
    return g_test_run();
}
