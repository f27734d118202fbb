/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dir store in a full file system: what goes on, what doesn't, and that
 * room is given back and taken again.
 *
 * The file systems are small tmpfs in a mount namespace of this process's own.
 */
#include "base/sys.h"
#include "harness.h"
#include "store/dir-format.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIB 1024u
#define MIB (1024u * 1024)
#define SMALL "size=16m"
#define SMALL_RESERVE (1u * MIB)

static bool can_mount;

/* --- A small file system -------------------------------------------------- */

struct small {
    struct fixture fixture;
    uint8_t *data;              /* 1 MiB */
    unsigned made;              /* blocks 0 to here, of 1 MiB */
    unsigned holes;             /* written to in vain */
};

static void small_open_with(struct small *small, const char *size,
                            const char *options, unsigned queue_flags)
{
    struct fixture *fixture = &small->fixture;
    g_autoptr(GError) error = NULL;

    *small = (struct small){.data = make_buffer(MIB, 1)};
    fixture->root = harness_make_root();
    fixture->layer = id128_random();
    fixture->location = g_strdup_printf("dir:%s%s", fixture->root, options);
    g_assert_cmpint(mount("tmpfs", fixture->root, "tmpfs", 0, size), ==, 0);
    store_open(fixture->location, STORE_OPEN_CREATE, &fixture->store, &error);
    g_assert_no_error(error);
    g_assert_cmpint(store_queue_open(fixture->store, queue_flags,
                                     &fixture->queue, NULL), ==, 0);
}

static void small_close(struct small *small)
{
    sys = sys_real;
    store_queue_close(small->fixture.queue);
    store_close(small->fixture.store);
    g_assert_cmpint(umount(small->fixture.root), ==, 0);
    harness_remove(small->fixture.root);
    g_free(small->fixture.root);
    g_free(small->fixture.location);
    free(small->data);
}

static bool skipped(void)
{
    if (!can_mount) {
        g_test_skip("mounting a small file system needs root and a mount "
                    "namespace");
    }
    return !can_mount;
}

static char *path_in(struct small *small, const char *name)
{
    return g_build_filename(small->fixture.root, name, NULL);
}

/* What is there, by its blocks. */
static uint64_t reserve_bytes(struct small *small)
{
    g_autofree char *path = path_in(small, DIR_RESERVE);
    struct stat status;

    return stat(path, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
}

static struct store_status status_of(struct small *small)
{
    struct store_status status = {0};

    g_assert_cmpint(small->fixture.store->driver->status(
                        small->fixture.store, &status, NULL), ==, 0);
    return status;
}

static int make_block(struct small *small, unsigned number, size_t bytes)
{
    return do_write(&small->fixture, block(&small->fixture, number), 0,
                    small->data, bytes, STORE_CREATE);
}

/* With data, to the last page. */
static void fill_up(struct small *small)
{
    g_autofree char *path = path_in(small, "filler");
    int fd;

    while (make_block(small, small->made, MIB) == 0) {
        small->made++;
    }
    g_assert_cmpuint(small->made, >, 4);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    g_assert_cmpint(fd, >=, 0);
    while (write(fd, small->data, 4096) > 0) {
    }
    g_assert_cmpint(errno, ==, ENOSPC);
    close(fd);
}

static int put(struct small *small, const char *name, size_t bytes,
               bool exclusive)
{
    struct store_record record = {.kind = STORE_NAME, .text = name};

    return small->fixture.store->driver->put(small->fixture.store, &record,
                                             small->data, bytes, exclusive,
                                             NULL);
}

static int lock(struct small *small, struct store_lock **made)
{
    struct store_owner me = {.owner = "me", .host = "here", .pid = 1,
                             .open = true};

    return small->fixture.store->driver->lock(
        small->fixture.store, &small->fixture.layer, STORE_LOCK_WRITE, &me,
        made, NULL, NULL);
}

static struct store_object thing(struct small *small, enum store_kind kind,
                                 uint64_t number)
{
    return (struct store_object){kind, small->fixture.layer, number};
}

/* --- It is there ---------------------------------------------------------- */

static int each_stray(const char *stray, bool litter, void *opaque)
{
    g_test_message("%s is a stray", stray);
    return -EEXIST;
}

static void test_made(void)
{
    g_autofree char *path = NULL;
    struct store_lock *made;
    struct small small;

    if (skipped()) {
        return;
    }
    small_open_with(&small, SMALL, "", 0);
    path = path_in(&small, DIR_RESERVE);
    g_assert_cmpuint(reserve_bytes(&small), ==, SMALL_RESERVE);
    g_assert_cmpuint(status_of(&small).reserve_bytes, ==, SMALL_RESERVE);
    g_assert_cmpuint(status_of(&small).reserve_wanted_bytes, ==,
                     SMALL_RESERVE);
    g_assert_cmpint(small.fixture.store->driver->list_strays(
                        small.fixture.store, each_stray, NULL, NULL), ==, 0);
    /* Who locks a volume for writing makes it anew; who only looks doesn't. */
    g_assert_cmpint(unlink(path), ==, 0);
    fixture_reopen(&small.fixture);
    g_assert_cmpuint(status_of(&small).reserve_bytes, ==, 0);
    g_assert_cmpint(lock(&small, &made), ==, 0);
    g_assert_cmpuint(reserve_bytes(&small), ==, SMALL_RESERVE);
    made->store->driver->unlock(made);
    small_close(&small);
}

static struct statfs pretended;

static int pretending_fstatfs(int fd, struct statfs *space)
{
    *space = pretended;
    return 0;
}

/* 1/64, but at most 64 MiB, and 1 MiB or 1/16 where that is more; nothing in
 * what is too small for it, and less of memory. */
static void test_sizes(void)
{
    static const struct {
        uint64_t total, want;
        long type;
    } cases[] = {
        {512 * KIB, 0, EXT4_SUPER_MAGIC},
        {4 * MIB, 256 * KIB, EXT4_SUPER_MAGIC},
        {16 * MIB, 1 * MIB, EXT4_SUPER_MAGIC},
        {48 * MIB, 1 * MIB, EXT4_SUPER_MAGIC},
        {129 * MIB, 2 * MIB, EXT4_SUPER_MAGIC},
        {UINT64_C(1) << 50, 64 * MIB, EXT4_SUPER_MAGIC},
        {UINT64_C(1) << 40, 1 * MIB, TMPFS_MAGIC},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct small small = {0};

        pretended = (struct statfs){
            .f_type = cases[i].type,
            .f_bsize = 4096,
            .f_blocks = cases[i].total / 4096,
            .f_bavail = cases[i].total / 4096,
        };
        sys.fstatfs = pretending_fstatfs;
        fixture_open(&small.fixture, "dir:%s", 0);
        g_assert_cmpuint(reserve_bytes(&small), ==, cases[i].want);
        g_assert_cmpuint(status_of(&small).reserve_wanted_bytes, ==,
                         cases[i].want);
        fixture_close(&small.fixture);
        sys = sys_real;
    }
}

static int no_fallocate(int fd, int mode, off_t offset, off_t length)
{
    errno = EOPNOTSUPP;
    return -1;
}

/* Then all is as it was without. */
static void test_impossible(void)
{
    g_autofree char *path = NULL;
    struct store_lock *made;
    struct small small;

    if (skipped()) {
        return;
    }
    small_open_with(&small, SMALL, "", 0);
    path = path_in(&small, DIR_RESERVE);
    g_assert_cmpint(unlink(path), ==, 0);
    sys.fallocate = no_fallocate;
    g_assert_cmpint(lock(&small, &made), ==, 0);
    g_assert_cmpuint(status_of(&small).reserve_wanted_bytes, ==, 0);
    g_assert_cmpint(make_block(&small, 0, MIB), ==, 0);
    small.made = 1;
    fill_up(&small);
    g_assert_cmpint(put(&small, "a", 5 * KIB, false), ==, -ENOSPC);
    g_assert_cmpint(do_op(&small.fixture, STORE_REMOVE,
                          block(&small.fixture, 0), 0, 0, 0), ==, 0);
    g_assert_cmpint(put(&small, "a", 5 * KIB, false), ==, 0);
    g_assert_cmpint(make_block(&small, 100, 64 * KIB), ==, 0);
    made->store->driver->unlock(made);
    small_close(&small);
}

/* --- Full ----------------------------------------------------------------- */

/* A hole of an object that is there. */
static int fill_hole(struct small *small)
{
    small->holes++;
    return do_write(&small->fixture, block(&small->fixture, 1),
                    4 * MIB + small->holes * 64 * KIB, small->data, 4 * KIB,
                    0);
}

static void data_goes_on(struct small *small)
{
    struct fixture *fixture = &small->fixture;
    uint8_t *got = make_buffer(MIB, 0);

    g_assert_cmpint(do_write(fixture, block(fixture, 1), 0, small->data + 4096,
                             512 * KIB, 0), ==, 0);
    g_assert_cmpint(do_write(fixture, block(fixture, 1), 0, small->data, MIB,
                             STORE_FUA), ==, 0);
    g_assert_cmpint(do_op(fixture, STORE_SYNC, block(fixture, 1), 0, 0, 0), ==,
                    0);
    g_assert_cmpint(do_read(fixture, block(fixture, 1), 0, got, MIB), ==, 0);
    g_assert_cmpmem(got, MIB, small->data, MIB);
    /* What needs room has none: a hole, a new object. */
    g_assert_cmpint(fill_hole(small), ==, -ENOSPC);
    g_assert_cmpint(make_block(small, 1000, 128 * KIB), ==, -ENOSPC);
    /* Nothing is left of it. */
    g_assert_cmpint(do_read(fixture, block(fixture, 1000), 0, got, 4096), ==,
                    -ENOENT);
    free(got);
}

static void metadata_goes_on(struct small *small)
{
    struct fixture *fixture = &small->fixture;
    struct store_object journal = thing(small, STORE_JOURNAL, 1);
    uint8_t *got = make_buffer(64 * KIB, 0);
    struct store_lock *made;

    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpint(put(small, "a", 64 * KIB, false), ==, 0);
    }
    g_assert_cmpint(put(small, "b", 512, true), ==, 0);
    g_assert_cmpint(put(small, "b", 512, true), ==, -EEXIST);
    g_assert_cmpint(lock(small, &made), ==, 0);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_cmpint(do_write(fixture, journal, i * 4096, small->data, 4096,
                                 STORE_FUA | (i ? 0 : STORE_CREATE)), ==, 0);
        /* Data gets nothing of what that borrowed. */
        g_assert_cmpint(fill_hole(small), ==, -ENOSPC);
    }
    g_assert_cmpint(do_write(fixture, thing(small, STORE_PAGE, 1), 0,
                             small->data, 64 * KIB, STORE_CREATE), ==, 0);
    g_assert_cmpint(do_op(fixture, STORE_SYNC, thing(small, STORE_PAGE, 1), 0,
                          0, 0), ==, 0);
    g_assert_cmpint(do_read(fixture, thing(small, STORE_PAGE, 1), 0, got,
                            64 * KIB), ==, 0);
    g_assert_cmpmem(got, 64 * KIB, small->data, 64 * KIB);
    g_assert_cmpint(do_read(fixture, journal, 3 * 4096, got, 4096), ==, 0);
    g_assert_cmpmem(got, 4096, small->data, 4096);
    /* An empty object has no data. */
    g_assert_cmpint(make_block(small, 2000, 0), ==, 0);
    made->store->driver->unlock(made);
    free(got);
}

static void space_comes_back(struct small *small)
{
    struct fixture *fixture = &small->fixture;
    uint64_t lacking = SMALL_RESERVE - reserve_bytes(small);
    g_autofree char *filler = path_in(small, "filler");

    g_assert_cmpuint(lacking, >, 64 * KIB);
    g_assert_cmpuint(lacking, <, SMALL_RESERVE / 2);
    /* So much goes to the reserve, and data waits. */
    g_assert_cmpint(do_op(fixture, STORE_PUNCH, block(fixture, 0), 0,
                          64 * KIB, 0), ==, 0);
    g_assert_cmpuint(SMALL_RESERVE - reserve_bytes(small), ==,
                     lacking - 64 * KIB);
    g_assert_cmpint(make_block(small, 1000, 4 * KIB), ==, -ENOSPC);
    /* More than it lacks. */
    g_assert_cmpint(do_op(fixture, STORE_REMOVE, block(fixture, 2), 0, 0, 0),
                    ==, 0);
    g_assert_cmpuint(reserve_bytes(small), ==, SMALL_RESERVE);
    g_assert_cmpint(make_block(small, 1000, 4 * KIB), ==, 0);
    g_assert_cmpint(unlink(filler), ==, 0);
}

static void full_with(const char *options, unsigned queue_flags)
{
    struct small small;

    small_open_with(&small, SMALL, options, queue_flags);
    for (unsigned round = 0; round < 2; round++) {
        fill_up(&small);
        g_assert_cmpuint(reserve_bytes(&small), ==, SMALL_RESERVE);
        data_goes_on(&small);
        g_assert_cmpuint(reserve_bytes(&small), ==, SMALL_RESERVE);
        metadata_goes_on(&small);
        data_goes_on(&small);
        if (round > 0) {
            break;
        }
        space_comes_back(&small);
        /* So that the next round needs room for all of it again. */
        small.fixture.store->driver->remove_all(
            small.fixture.store, STORE_PAGE, &small.fixture.layer, NULL);
        small.fixture.store->driver->drop(
            small.fixture.store,
            &(struct store_record){.kind = STORE_NAME, .text = "b"}, NULL);
        g_assert_cmpint(do_op(&small.fixture, STORE_REMOVE,
                              block(&small.fixture, 1000), 0, 0, 0), ==, 0);
        small.made = 3000;
        g_assert_cmpint(make_block(&small, 0, 64 * KIB), ==, 0);
        g_assert_cmpint(make_block(&small, 2, 64 * KIB), ==, 0);
    }
    small_close(&small);
}

static void test_full(void)
{
    if (!skipped()) {
        full_with("?io=auto", 0);
    }
}

static void test_full_buffered(void)
{
    if (!skipped()) {
        full_with("?io=buffered", 0);
    }
}

static void test_full_blocking(void)
{
    if (!skipped()) {
        full_with("", STORE_QUEUE_MAY_BLOCK);
    }
}

/* Opening tries O_DIRECT by writing, for which there is no room. */
static void test_opened(void)
{
    struct store_status before, after;
    struct small small;

    if (skipped()) {
        return;
    }
    small_open_with(&small, SMALL, "", 0);
    before = status_of(&small);
    fill_up(&small);
    fixture_reopen(&small.fixture);
    after = status_of(&small);
    g_assert_cmpstr(after.io, ==, before.io);
    data_goes_on(&small);
    metadata_goes_on(&small);
    small_close(&small);
}

/* Until there is nothing left: an error, and what was there stays. */
static void test_used_up(void)
{
    struct store_record record = {.kind = STORE_NAME, .text = "n0"};
    g_autoptr(GBytes) value = NULL;
    struct small small;
    unsigned count = 0;
    int result = 0;

    if (skipped()) {
        return;
    }
    small_open_with(&small, SMALL, "", 0);
    fill_up(&small);
    while (result == 0) {
        g_autofree char *name = g_strdup_printf("n%u", count);

        result = put(&small, name, 64 * KIB, false);
        count += result == 0;
    }
    g_assert_cmpint(result, ==, -ENOSPC);
    g_assert_cmpuint(count, >=, SMALL_RESERVE / (64 * KIB) - 1);
    g_assert_cmpuint(count, <=, SMALL_RESERVE / (64 * KIB));
    g_assert_cmpint(small.fixture.store->driver->get(
                        small.fixture.store, &record, &value, NULL), ==, 0);
    g_assert_cmpmem(g_bytes_get_data(value, NULL), 64 * KIB, small.data,
                    64 * KIB);
    /* A removal still works, and gives back. */
    g_assert_cmpint(small.fixture.store->driver->drop(small.fixture.store,
                                                      &record, NULL), ==, 0);
    g_assert_cmpint(put(&small, "again", 32 * KIB, false), ==, 0);
    small_close(&small);
}

/* What another process took out of it is known before data takes room. */
static void test_others(void)
{
    struct store_record record = {.kind = STORE_NAME, .text = "a"};
    g_autofree char *filler = NULL;
    struct store *other;
    struct small small;

    if (skipped()) {
        return;
    }
    small_open_with(&small, SMALL, "", 0);
    filler = path_in(&small, "filler");
    g_assert_cmpint(store_open(small.fixture.location, 0, &other, NULL), ==,
                    0);
    fill_up(&small);
    g_assert_cmpint(other->driver->put(other, &record, small.data, 64 * KIB,
                                       false, NULL), ==, 0);
    g_assert_cmpuint(reserve_bytes(&small), <, SMALL_RESERVE);
    /* Less than is lacking comes free, by somebody else's hand. */
    g_assert_cmpint(truncate(filler, 0), ==, 0);
    {
        int fd = open(filler, O_WRONLY | O_APPEND);

        while (status_of(&small).free_bytes > 32 * KIB) {
            g_assert_cmpint(write(fd, small.data, 4096), ==, 4096);
        }
        close(fd);
    }
    g_assert_cmpint(make_block(&small, 1000, 4 * KIB), ==, -ENOSPC);
    g_assert_cmpint(unlink(filler), ==, 0);
    g_assert_cmpint(do_op(&small.fixture, STORE_REMOVE,
                          block(&small.fixture, 0), 0, 0, 0), ==, 0);
    g_assert_cmpint(make_block(&small, 1000, 4 * KIB), ==, 0);
    g_assert_cmpuint(reserve_bytes(&small), ==, SMALL_RESERVE);
    store_close(other);
    small_close(&small);
}

/* --- Many at once --------------------------------------------------------- */

struct putter {
    struct small *small;
    unsigned number;
};

static gpointer put_often(gpointer opaque)
{
    struct putter *putter = opaque;

    for (unsigned i = 0; i < 30; i++) {
        g_autofree char *name = g_strdup_printf("n%u", putter->number);

        g_assert_cmpint(put(putter->small, name, 8 * KIB, false), ==, 0);
    }
    return NULL;
}

static void test_threads(void)
{
    struct putter putters[4];
    GThread *threads[4];
    struct small small;

    if (skipped()) {
        return;
    }
    small_open_with(&small, SMALL, "", 0);
    fill_up(&small);
    for (unsigned i = 0; i < 4; i++) {
        putters[i] = (struct putter){&small, i};
        threads[i] = g_thread_new("putter", put_often, &putters[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpuint(reserve_bytes(&small), >=, SMALL_RESERVE / 2);
    small_close(&small);
}

/* --- Failing calls -------------------------------------------------------- */

static int failing_errno, failures_left;

static bool fails(void)
{
    errno = failing_errno;
    return g_atomic_int_add(&failures_left, -1) > 0;
}

static int failing_linkat(int from_fd, const char *from, int to_fd,
                          const char *to, int flags)
{
    return fails() ? -1 : linkat(from_fd, from, to_fd, to, flags);
}

static int failing_fdatasync(int fd)
{
    return fails() ? -1 : fdatasync(fd);
}

static int failing_mkdirat(int folder_fd, const char *path, mode_t mode)
{
    return fails() ? -1 : mkdirat(folder_fd, path, mode);
}

static ssize_t failing_pwritev2(int fd, const struct iovec *iov, int count,
                                off_t offset, int flags)
{
    return fails() ? -1 : pwritev2(fd, iov, count, offset, flags);
}

static int failing_unlinkat(int folder_fd, const char *path, int flags)
{
    return fails() ? -1 : unlinkat(folder_fd, path, flags);
}

static void fail_next(int error, int times)
{
    failing_errno = error;
    failures_left = times;
}

/* A lack of room anywhere on the way is made up for, also that of a quota; what
 * took its name isn't tried a second time. */
static void test_each_step(void)
{
    static const int errors[] = {ENOSPC, EDQUOT};
    struct fixture fixture;
    struct small small = {.data = make_buffer(MIB, 1)};

    fixture_open(&fixture, "dir:%s", STORE_QUEUE_MAY_BLOCK);
    small.fixture = fixture;
    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        struct store_lock *made;
        char name[2] = {(char)('a' + i), 0};

        sys.linkat = failing_linkat;
        fail_next(errors[i], 1);
        g_assert_cmpint(put(&small, name, 512, true), ==, 0);
        sys = sys_real;
        sys.mkdirat = failing_mkdirat;
        small.fixture.layer = id128_random();
        fail_next(errors[i], 2);
        g_assert_cmpint(lock(&small, &made), ==, 0);
        sys = sys_real;
        /* The lock's record. */
        made->store->driver->unlock(made);
        sys.pwritev2 = failing_pwritev2;
        fail_next(errors[i], 1);
        g_assert_cmpint(lock(&small, &made), ==, 0);
        sys = sys_real;
        made->store->driver->unlock(made);
        sys.fdatasync = failing_fdatasync;
        fail_next(errors[i], 1);
        g_assert_cmpint(lock(&small, &made), ==, 0);
        sys.pwritev2 = failing_pwritev2;
        fail_next(errors[i], 1);
        g_assert_cmpint(do_write(&small.fixture,
                                 thing(&small, STORE_JOURNAL, 1), 0, small.data,
                                 4096, STORE_CREATE | STORE_FUA), ==, 0);
        fail_next(errors[i], 1);
        g_assert_cmpint(do_write(&small.fixture,
                                 thing(&small, STORE_JOURNAL, 1), 4096,
                                 small.data, 4096, STORE_FUA), ==, 0);
        /* Data isn't helped. */
        fail_next(errors[i], 1);
        g_assert_cmpint(make_block(&small, 0, 4096), ==, -errors[i]);
        sys = sys_real;
        g_assert_cmpint(make_block(&small, 0, 4096), ==, 0);
        sys.unlinkat = failing_unlinkat;
        fail_next(errors[i], 1);
        g_assert_cmpint(do_op(&small.fixture, STORE_REMOVE,
                              block(&small.fixture, 0), 0, 0, 0), ==, 0);
        sys = sys_real;
        made->store->driver->unlock(made);
    }
    fixture_close(&fixture);
    free(small.data);
}

/* A lack that lasts ends, with the error; another error isn't one. */
static void test_bounded(void)
{
    struct fixture fixture;
    struct small small = {.data = make_buffer(MIB, 1)};

    fixture_open(&fixture, "dir:%s", 0);
    small.fixture = fixture;
    sys.linkat = failing_linkat;
    fail_next(ENOSPC, 1000);
    g_assert_cmpint(put(&small, "a", 512, true), ==, -ENOSPC);
    g_assert_cmpint(failures_left, >, 980);
    g_assert_cmpint(failures_left, <, 998);
    fail_next(EIO, 1);
    g_assert_cmpint(put(&small, "a", 512, true), ==, -EIO);
    g_assert_cmpint(put(&small, "a", 512, true), ==, 0);
    sys = sys_real;
    /* What was given is taken back. */
    g_assert_cmpuint(reserve_bytes(&small), ==,
                     status_of(&small).reserve_wanted_bytes);
    fixture_close(&fixture);
    free(small.data);
}

/* --- A loan while it is filled up ----------------------------------------- */

/* This thread fills it up; before or after one of its calls another begins a
 * loan. */
enum way {
    LOAN_LASTS,                 /* until the filling is done */
    LOAN_ENDS,                  /* before, without room to fill it up again */
    LOAN_ELSEWHERE,             /* in another process */
    LOAN_WAYS,
};

static struct placed_loan {
    struct small *small;
    const char *path;
    enum way way;
    bool pieces;                /* first there is room for a half only */
    GThread *filler, *lender;
    int places_left;            /* until that call; -1: it was there */
    gint has_lent, may_end;
    int links;
} loan;

static gpointer lend_once(gpointer opaque)
{
    g_assert_cmpint(put(loan.small, "lent", 64 * KIB, true), ==, 0);
    return NULL;
}

static void wait_for(gint *flag)
{
    while (!g_atomic_int_get(flag)) {
        g_usleep(500);
    }
}

static void place(void)
{
    if (g_thread_self() != loan.filler || loan.places_left < 0 ||
        loan.places_left-- > 0) {
        return;
    }
    if (loan.way == LOAN_ELSEWHERE) {
        g_assert_cmpint(truncate(loan.path, 64 * KIB), ==, 0);
        return;
    }
    loan.lender = g_thread_new("lender", lend_once, NULL);
    if (loan.way == LOAN_ENDS) {
        g_thread_join(loan.lender);
    } else {
        wait_for(&loan.has_lent);
    }
}

static int placed_fallocate(int fd, int mode, off_t offset, off_t length)
{
    bool fills = g_thread_self() == loan.filler;
    int result = -1;

    place();
    if (fills ? loan.pieces && length > SMALL_RESERVE / 2
              : loan.way == LOAN_ENDS) {
        errno = ENOSPC;
    } else {
        result = fallocate(fd, mode, offset, length);
        place();
    }
    return result;
}

static int placed_fstat(int fd, struct stat *status)
{
    int result;

    place();
    result = fstat(fd, status);
    place();
    return result;
}

/* The lender's first finds no room, the second has what was given up. */
static int lending_linkat(int from_fd, const char *from, int to_fd,
                          const char *to, int flags)
{
    if (loan.links++ == 0) {
        errno = ENOSPC;
        return -1;
    }
    g_atomic_int_set(&loan.has_lent, 1);
    if (loan.way == LOAN_LASTS) {
        wait_for(&loan.may_end);
    }
    return linkat(from_fd, from, to_fd, to, flags);
}

/* False: the filling has no such call. */
static bool lent_at(const char *size, enum way way, bool pieces, int number)
{
    g_autofree char *path = NULL;
    struct small small;
    uint64_t wanted;

    small_open_with(&small, size, "", 0);
    path = path_in(&small, DIR_RESERVE);
    wanted = reserve_bytes(&small);
    g_assert_cmpuint(wanted, ==, status_of(&small).reserve_wanted_bytes);
    loan = (struct placed_loan){.small = &small, .path = path,
                                .way = way, .pieces = pieces,
                                .filler = g_thread_self(),
                                .places_left = number};
    sys.fallocate = placed_fallocate;
    sys.fstat = placed_fstat;
    sys.linkat = lending_linkat;
    g_assert_cmpint(truncate(path, (off_t)wanted / 2), ==, 0);
    small.fixture.store->driver->remove_all(small.fixture.store, STORE_PAGE,
                                            &small.fixture.layer, NULL);
    if (loan.lender && way == LOAN_LASTS) {
        g_atomic_int_set(&loan.may_end, 1);
        g_thread_join(loan.lender);
        /* Whose loan was the last fills it up. */
        g_assert_cmpuint(reserve_bytes(&small), ==, wanted);
    }
    sys = sys_real;
    /* What is less than it was isn't taken for full. */
    if (reserve_bytes(&small) == wanted) {
        g_assert_cmpint(truncate(path, (off_t)(wanted - 4 * KIB)), ==, 0);
    }
    g_assert_cmpint(make_block(&small, 0, 4 * KIB), ==, 0);
    g_assert_cmpuint(reserve_bytes(&small), ==, wanted);
    small_close(&small);
    return loan.places_left < 0;
}

/* Of a large reserve something is left, of a small one nothing. */
static void test_lent_while_filled(void)
{
    static const char *const sizes[] = {SMALL, "size=2m"};

    if (skipped()) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes) * LOAN_WAYS * 2; i++) {
        int number = 0;

        while (lent_at(sizes[i / 2 / LOAN_WAYS], (enum way)(i / 2 % LOAN_WAYS),
                       i % 2, number)) {
            number++;
        }
        g_assert_cmpint(number, >=, 6);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    can_mount = geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
                mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    g_test_add_func("/reserve/made", test_made);
    g_test_add_func("/reserve/sizes", test_sizes);
    g_test_add_func("/reserve/impossible", test_impossible);
    g_test_add_func("/reserve/full", test_full);
    g_test_add_func("/reserve/full-buffered", test_full_buffered);
    g_test_add_func("/reserve/full-blocking", test_full_blocking);
    g_test_add_func("/reserve/opened", test_opened);
    g_test_add_func("/reserve/used-up", test_used_up);
    g_test_add_func("/reserve/others", test_others);
    g_test_add_func("/reserve/threads", test_threads);
    g_test_add_func("/reserve/lent-while-filled", test_lent_while_filled);
    g_test_add_func("/reserve/each-step", test_each_step);
    g_test_add_func("/reserve/bounded", test_bounded);
    return g_test_run();
}
