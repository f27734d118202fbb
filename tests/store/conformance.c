/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The conformance suite's main program.  The first argument chooses the store;
 * what follows is GTest's.
 */
#include "conformance.h"

#include <stdio.h>
#include <string.h>

static const struct variant {
    const char *name, *pattern;
    bool direct;                /* needs O_DIRECT */
} variants[] = {
    {"dir-direct", "dir:%s?io=direct", true},
    {"dir-buffered", "dir:%s?io=buffered", false},
    {"dir-small", "dir:%s?fds=4&threads=2", false},
    {"memory", "memory:", false},
    {"fault-dir-direct", "fault::dir:%s?io=direct", true},
    {"fault-dir-buffered", "fault::dir:%s?io=buffered", false},
    {"fault-memory", "fault:op=read,delay_ms=1,times=3:memory:", false},
};

static const struct variant *variant;

struct planned {
    conformance_test *test;
    unsigned queue_flags;
};

static void run_planned(gconstpointer opaque)
{
    const struct planned *planned = opaque;
    struct fixture fixture;

    fixture_open(&fixture, variant->pattern, planned->queue_flags);
    planned->test(&fixture);
    fixture_close(&fixture);
}

static void add(const char *path, conformance_test *test, unsigned queue_flags)
{
    struct planned *planned = g_new(struct planned, 1);

    *planned = (struct planned){test, queue_flags};
    g_test_add_data_func_full(path, planned, run_planned, g_free);
}

void conformance_add(const char *path, conformance_test *test)
{
    g_autofree char *queued = g_strdup_printf("/queued%s", path);
    g_autofree char *blocking = g_strdup_printf("/blocking%s", path);

    add(queued, test, 0);
    add(blocking, test, STORE_QUEUE_MAY_BLOCK);
}

void conformance_add_once(const char *path, conformance_test *test)
{
    add(path, test, 0);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";

    for (size_t i = 0; i < G_N_ELEMENTS(variants); i++) {
        if (strcmp(variants[i].name, name) == 0) {
            variant = &variants[i];
        }
    }
    if (!variant) {
        g_printerr("usage: %s dir-direct|dir-buffered|memory|... [GTest's]\n",
                   argv[0]);
        return 1;
    }
    if (variant->direct && !harness_has_direct()) {
        g_printerr("neither %s nor /var/tmp takes O_DIRECT\n",
                   g_get_tmp_dir());
        return 77;
    }
    argv[1] = argv[0];
    argc--;
    argv++;
    g_test_init(&argc, &argv, NULL);
    conformance_objects();
    conformance_queues();
    conformance_records();
    conformance_sets();
    conformance_locks();
    return g_test_run();
}
