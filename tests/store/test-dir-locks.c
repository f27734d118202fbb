/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dir store's locks: holders that die, what the file says, torn slots. */
#include "base/sys.h"
#include "harness.h"
#include "store/dir-format.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* A process that takes the lock and then waits for its end. */
static pid_t start_holder(struct fixture *fixture)
{
    int ready[2];
    char byte;
    pid_t pid;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid = fork();
    if (pid == 0) {
        struct store_owner me = someone("holder");
        struct store_lock *made;
        struct store *store;

        if (store_open(fixture->location, 0, &store, NULL) < 0 ||
            store->driver->lock(store, &fixture->layer, STORE_LOCK_WRITE, &me,
                                &made, NULL, NULL) < 0) {
            _exit(1);
        }
        if (write(ready[1], "x", 1) != 1) {
            _exit(1);
        }
        sleep(60);
        _exit(1);
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static void test_killed_holder(void)
{
    struct store_owner me = someone("me"), by;
    g_autofree char *pid_text = NULL;
    g_autoptr(GError) error = NULL;
    struct fixture fixture;
    struct store_lock *made;
    bool held;
    pid_t pid;

    fixture_open(&fixture, "dir:%s", 0);
    pid = start_holder(&fixture);
    pid_text = g_strdup_printf("in use by holder on host testhost, pid %d, "
                               "since ", (int)pid);
    g_assert_cmpint(lock(&fixture, &me, &made, &error), ==, -EBUSY);
    g_assert_true(g_str_has_prefix(error->message, pid_text));
    g_assert_nonnull(strstr(error->message, "end that process"));
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    g_assert_cmpint(fixture.store->driver->holder(
                        fixture.store, &fixture.layer, &by, &held, NULL),
                    ==, 0);
    g_assert_false(held);
    g_assert_true(by.open);
    g_assert_cmpint(by.pid, ==, pid);
    g_assert_cmpint(lock(&fixture, &me, &made, NULL), ==, 0);
    g_assert_cmpuint(me.token, >, by.token);
    made->store->driver->unlock(made);
    fixture_close(&fixture);
}

static char *lock_path(struct fixture *fixture)
{
    char id[ID128_TEXT_BYTES];

    id128_text(&fixture->layer, id);
    return g_strdup_printf("%s/maps/%.2s/%s/lock", fixture->root, id, id);
}

static void spoil(const char *path, off_t offset)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(pwrite(fd, "spoiled", 7, offset), ==, 7);
    close(fd);
}

static void test_torn_slot(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    struct fixture fixture;
    struct store_lock *made;
    uint64_t before;

    fixture_open(&fixture, "dir:%s", 0);
    path = lock_path(&fixture);
    for (int round = 0; round < 6; round++) {
        struct store_owner me = someone("me"), again = someone("again");

        g_assert_cmpint(lock(&fixture, &me, &made, NULL), ==, 0);
        made->store->driver->unlock(made);
        before = me.token;
        /* Whichever it is, a token that was used isn't used again. */
        spoil(path, round % 2 * 512 + 60);
        g_assert_cmpint(lock(&fixture, &again, &made, NULL), ==, 0);
        g_assert_cmpuint(again.token, >, before);
        made->store->driver->unlock(made);
    }
    spoil(path, 60);
    spoil(path, 572);
    {
        struct store_owner me = someone("me");

        g_assert_cmpint(lock(&fixture, &me, &made, &error), ==, -EUCLEAN);
        g_assert_nonnull(strstr(error->message, "damaged"));
    }
    fixture_close(&fixture);
}

static void read_slots(const char *path, struct dir_lock_slot slots[2])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(pread(fd, slots, 1024, 0), ==, 1024);
    close(fd);
}

/* A slot in force is never written over. */
static void test_slots_alternate(void)
{
    struct dir_lock_slot before[2], after[2];
    struct store_owner me = someone("me");
    g_autofree char *path = NULL;
    struct fixture fixture;
    struct store_lock *made;
    int in_force = -1;

    fixture_open(&fixture, "dir:%s", 0);
    path = lock_path(&fixture);
    for (int round = 0; round < 8; round++) {
        if (round % 2 == 0) {
            g_assert_cmpint(lock(&fixture, &me, &made, NULL), ==, 0);
            if (round == 0) {
                made->store->driver->unlock(made);
                g_assert_cmpint(lock(&fixture, &me, &made, NULL), ==, 0);
            }
        } else {
            made->store->driver->unlock(made);
        }
        read_slots(path, after);
        if (in_force >= 0) {
            g_assert_cmpmem(&after[in_force], 512, &before[in_force], 512);
            in_force = !in_force;
        } else {
            in_force = GUINT64_FROM_BE(after[1].token) == me.token;
        }
        g_assert_cmpuint(GUINT64_FROM_BE(after[in_force].token), ==, me.token);
        memcpy(before, after, sizeof(before));
    }
    fixture_close(&fixture);
}

/* The slot of a holder that was killed is torn: its token isn't given again. */
static void test_torn_token(void)
{
    struct store_owner me = someone("me"), next = someone("next");
    struct dir_lock_slot slots[2];
    g_autofree char *path = NULL;
    struct fixture fixture;
    struct store_lock *made;
    int fd, newest;

    fixture_open(&fixture, "dir:%s", 0);
    path = lock_path(&fixture);
    g_assert_cmpint(lock(&fixture, &me, &made, NULL), ==, 0);
    made->store->driver->unlock(made);
    g_assert_cmpint(lock(&fixture, &me, &made, NULL), ==, 0);
    read_slots(path, slots);
    made->store->driver->unlock(made);
    newest = GUINT64_FROM_BE(slots[1].token) == me.token;
    slots[newest].owner[0] ^= 1;
    fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, slots, sizeof(slots), 0), ==, 1024);
    close(fd);
    g_assert_cmpint(lock(&fixture, &next, &made, NULL), ==, 0);
    g_assert_cmpuint(next.token, >, me.token);
    made->store->driver->unlock(made);
    fixture_close(&fixture);
}

/* Another file has the name, between its opening and its locking: the volume
 * was removed and made again. */
static char *stolen_path;

static int stealing_flock(int fd, int operation)
{
    if (stolen_path && g_str_has_suffix(stolen_path, "/lock")) {
        g_unlink(stolen_path);
        g_file_set_contents(stolen_path, "", 0, NULL);
        stolen_path = NULL;
    }
    return sys_real.flock(fd, operation);
}

static void test_removed_lock_file(void)
{
    struct store_owner me = someone("me"), other = someone("other");
    struct store_lock *one, *two;
    g_autofree char *path = NULL;
    struct fixture fixture;

    fixture_open(&fixture, "dir:%s", 0);
    path = lock_path(&fixture);
    stolen_path = path;
    sys.flock = stealing_flock;
    g_assert_cmpint(lock(&fixture, &me, &one, NULL), ==, 0);
    sys = sys_real;
    g_assert_null(stolen_path);
    g_assert_cmpint(lock(&fixture, &other, &two, NULL), ==, -EBUSY);
    one->store->driver->unlock(one);
    fixture_close(&fixture);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dir/locks/killed-holder", test_killed_holder);
    g_test_add_func("/dir/locks/slots-alternate", test_slots_alternate);
    g_test_add_func("/dir/locks/torn-slot", test_torn_slot);
    g_test_add_func("/dir/locks/torn-token", test_torn_token);
    g_test_add_func("/dir/locks/removed-file", test_removed_lock_file);
    return g_test_run();
}
