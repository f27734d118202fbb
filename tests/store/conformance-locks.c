/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Conformance: locks inside one process. */
#include "conformance.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static struct store_owner someone(const char *name)
{
    struct store_owner owner = {.pid = getpid()};

    g_strlcpy(owner.owner, name, sizeof(owner.owner));
    g_strlcpy(owner.host, "testhost", sizeof(owner.host));
    return owner;
}

static int lock(struct fixture *fixture, enum store_lock_mode mode,
                struct store_owner *me, struct store_lock **made,
                struct store_owner *holder)
{
    return fixture->store->driver->lock(fixture->store, &fixture->layer, mode,
                                        me, made, holder, NULL);
}

static void unlock(struct store_lock *made)
{
    made->store->driver->unlock(made);
}

static bool holder(struct fixture *fixture, struct store_owner *owner)
{
    bool held = false;

    g_assert_cmpint(fixture->store->driver->holder(
                        fixture->store, &fixture->layer, owner, &held, NULL),
                    ==, 0);
    return held;
}

static void test_one_writer(struct fixture *fixture)
{
    struct store_owner first = someone("first"), second = someone("second");
    struct store_owner by = {0};
    struct store_lock *one, *other;
    g_autoptr(GError) error = NULL;
    int result;

    g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &first, &one, NULL), ==, 0);
    g_assert_cmpuint(first.token, >, 0);
    g_assert_cmpint(first.since_ns, >, 0);
    result = fixture->store->driver->lock(fixture->store, &fixture->layer,
                                          STORE_LOCK_WRITE, &second, &other,
                                          &by, &error);
    g_assert_cmpint(result, ==, -EBUSY);
    g_assert_cmpint(error->code, ==, EBUSY);
    g_assert_nonnull(strstr(error->message, "in use by first"));
    g_assert_cmpstr(by.owner, ==, "first");
    g_assert_cmpstr(by.host, ==, "testhost");
    g_assert_cmpint(by.pid, ==, getpid());
    g_assert_cmpuint(by.token, ==, first.token);
    g_assert_true(by.open);
    unlock(one);
    g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &second, &other, NULL), ==,
                    0);
    g_assert_cmpuint(second.token, >, first.token);
    unlock(other);
}

static void test_holder(struct fixture *fixture)
{
    struct store_owner me = someone("me"), by;
    struct store_lock *made;

    g_assert_false(holder(fixture, &by));
    g_assert_cmpuint(by.token, ==, 0);
    g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &me, &made, NULL), ==, 0);
    g_assert_true(holder(fixture, &by));
    g_assert_cmpstr(by.owner, ==, "me");
    g_assert_true(by.open);
    unlock(made);
    g_assert_false(holder(fixture, &by));
    g_assert_cmpstr(by.owner, ==, "me");
    g_assert_cmpuint(by.token, ==, me.token);
    g_assert_false(by.open);
}

static void test_tokens(struct fixture *fixture)
{
    uint64_t before = 0;

    for (int i = 0; i < 10; i++) {
        struct store_owner me = someone("me");
        struct store_lock *made;

        if (i == 5) {
            fixture_reopen(fixture);
        }
        g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &me, &made, NULL), ==,
                        0);
        g_assert_cmpuint(me.token, >, before);
        before = me.token;
        unlock(made);
    }
}

static void test_other_ids(struct fixture *fixture)
{
    struct store_owner me = someone("me");
    struct store_lock *one, *other;
    struct id128 id = id128_random();

    g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &me, &one, NULL), ==, 0);
    g_assert_cmpint(fixture->store->driver->lock(fixture->store, &id,
                                                 STORE_LOCK_WRITE, &me, &other,
                                                 NULL, NULL), ==, 0);
    unlock(one);
    unlock(other);
}

static void test_readers(struct fixture *fixture)
{
    struct store_owner me = someone("me"), by;
    struct store_lock *writer, *readers[3];

    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(lock(fixture, STORE_LOCK_READ, &me, &readers[i], NULL),
                        ==, 0);
    }
    g_assert_false(holder(fixture, &by));
    g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &me, &writer, NULL), ==, 0);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(writer->store->driver->exclude_readers(writer), ==,
                        -EBUSY);
        unlock(readers[i]);
    }
    g_assert_cmpint(writer->store->driver->exclude_readers(writer), ==, 0);
    g_assert_cmpint(lock(fixture, STORE_LOCK_READ, &me, &readers[0], NULL), ==,
                    -EBUSY);
    writer->store->driver->admit_readers(writer);
    g_assert_cmpint(lock(fixture, STORE_LOCK_READ, &me, &readers[0], NULL), ==,
                    0);
    unlock(readers[0]);
    /* The end of the writer ends the exclusion too. */
    g_assert_cmpint(writer->store->driver->exclude_readers(writer), ==, 0);
    unlock(writer);
    g_assert_cmpint(lock(fixture, STORE_LOCK_READ, &me, &readers[0], NULL), ==,
                    0);
    unlock(readers[0]);
}

static int lock_repair(struct fixture *fixture, struct store_lock **made,
                       GError **error)
{
    return fixture->store->driver->lock(fixture->store, NULL, STORE_LOCK_REPAIR,
                                        NULL, made, NULL, error);
}

/* One in the store, beside the locks of volumes. */
static void test_repair(struct fixture *fixture)
{
    struct store_owner me = someone("me");
    struct store_lock *writer, *reader, *repair, *other;
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &me, &writer, NULL), ==, 0);
    g_assert_cmpint(lock_repair(fixture, &repair, NULL), ==, 0);
    g_assert_cmpint(lock(fixture, STORE_LOCK_READ, &me, &reader, NULL), ==, 0);
    g_assert_cmpint(lock_repair(fixture, &other, &error), ==, -EBUSY);
    g_assert_cmpint(error->code, ==, EBUSY);
    g_assert_nonnull(strstr(error->message, "repairing"));
    unlock(writer);
    g_assert_cmpint(lock(fixture, STORE_LOCK_WRITE, &me, &writer, NULL), ==, 0);
    unlock(repair);
    g_assert_cmpint(lock_repair(fixture, &repair, NULL), ==, 0);
    unlock(writer);
    unlock(reader);
    unlock(repair);
}

struct contender {
    struct fixture *fixture;
    int *inside;
    unsigned won;
};

static gpointer contend(gpointer opaque)
{
    struct contender *contender = opaque;

    for (int i = 0; i < 20; i++) {
        struct store_owner me = someone("contender");
        struct store_lock *made;
        int result = lock(contender->fixture, STORE_LOCK_WRITE, &me, &made,
                          NULL);

        if (result == -EBUSY) {
            continue;
        }
        g_assert_cmpint(result, ==, 0);
        g_assert_cmpint(g_atomic_int_add(contender->inside, 1), ==, 0);
        contender->won++;
        g_atomic_int_add(contender->inside, -1);
        unlock(made);
    }
    return NULL;
}

static void test_contention(struct fixture *fixture)
{
    struct contender contenders[3];
    GThread *threads[3];
    unsigned won = 0;
    int inside = 0;

    for (int i = 0; i < 3; i++) {
        contenders[i] = (struct contender){fixture, &inside, 0};
        threads[i] = g_thread_new("contender", contend, &contenders[i]);
    }
    for (int i = 0; i < 3; i++) {
        g_thread_join(threads[i]);
        won += contenders[i].won;
    }
    g_assert_cmpuint(won, >, 0);
}

void conformance_locks(void)
{
    conformance_add_once("/locks/one-writer", test_one_writer);
    conformance_add_once("/locks/holder", test_holder);
    conformance_add_once("/locks/tokens", test_tokens);
    conformance_add_once("/locks/other-ids", test_other_ids);
    conformance_add_once("/locks/readers", test_readers);
    conformance_add_once("/locks/repair", test_repair);
    conformance_add_once("/locks/contention", test_contention);
}
