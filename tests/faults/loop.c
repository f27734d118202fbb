/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault loop over every public function: the Nth point fails, N = 1, 2, ...
 * until there is none, in each way in which it can, once and then for good.
 *
 *   store    the points are operations of the store (src/store/fault.h)
 *   files    system calls of the dir store (src/base/sys.h), and folders'
 *   memory   allocations, threads, descriptors
 *   aio      contexts of libaio, what it submits and what it completes
 *
 * With --every K only each Kth point is tried.
 *
 * Whatever fails: no crash, no hang, nothing left open; the call succeeds
 * unharmed or says what failed and why; the same call then succeeds; volumes
 * are there wholly or not at all; what was written before is there; a check
 * finds no damage, and a repair mends the rest.
 */
#include "operations.h"

#include "store/fault.h"
#include "volume/volume.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#define HANG_SECONDS 300
#else
#define HANG_SECONDS 60
#endif
#define NTH_MAX 3000u

struct mode {
    const char *name;
    unsigned groups; /* 0: the fault store */
    const char *prefix, *options;
};

static const struct mode modes[] = {
    {"store", 0, "fault::dir:", "?io=buffered"},
    {"files", CALLS_FILES, "dir:", "?io=buffered"},
    {"memory", CALLS_MEMORY, "dir:", "?io=buffered"},
    {"aio", CALLS_AIO, "dir:", "?io=direct"},
};

/* Ways in which an operation of a store fails. */
static const struct fault_rule store_ways[] = {
    {.errno_value = EIO, .times = 1},
    {.errno_value = ENOSPC, .times = 1},
    {.errno_value = EIO, .times = 1, .late = true},
    {.errno_value = EIO, .times = 0},
    {.errno_value = EIO, .times = 1, .stop = true},
};

struct shot {
    const struct mode *mode;
    const struct operation *operation;
    unsigned nth, way;
    bool for_good;
};

struct tally {
    unsigned shots, fired, failed, points;
};

static struct tally total;
static GHashTable *texts;
static bool show_texts;
static unsigned every = 1; /* only that part of the points */

/* --- The watchdog --------------------------------------------------------- */

static void on_alarm(int signal)
{
    static const char text[] = ": hangs\n";

    if (write(STDERR_FILENO, shot_text, strlen(shot_text)) < 0 ||
        write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        _exit(2);
    }
    abort();
}

/* --- Arming --------------------------------------------------------------- */

static struct store *fault_of(struct scene *scene)
{
    return scene->store ? scene->store->store : NULL;
}

/* The store isn't open yet: it will be with the rule in its location. */
static void arm_location(const struct shot *shot, struct scene *scene)
{
    const struct fault_rule *way = &store_ways[shot->way];

    g_free(scene->location);
    scene->location = g_strdup_printf(
        "fault:nth=%u,times=%u,errno=%d%s%s:dir:%s?io=buffered", shot->nth,
        (unsigned)way->times, way->errno_value, way->late ? ",late" : "",
        way->stop ? ",stop" : "", scene->root);
}

static void arm(const struct shot *shot, struct scene *scene)
{
    struct calls_rule rule = {shot->mode->groups, shot->nth, shot->way,
                              shot->for_good};

    if (shot->mode->groups) {
        calls_arm(&rule);
    } else if (scene->store) {
        struct fault_rule way = store_ways[shot->way];

        way.op = FAULT_ANY;
        way.nth = shot->nth;
        fault_reset(fault_of(scene));
        fault_arm(fault_of(scene), &way);
    } else {
        arm_location(shot, scene);
    }
}

static struct calls_report disarm_store(const struct shot *shot,
                                        struct scene *scene, int rc)
{
    struct calls_report report = {
        .call = "store",
        .errno_value = store_ways[shot->way].errno_value,
        .no_such_way = shot->way >= G_N_ELEMENTS(store_ways),
    };

    if (scene->store) {
        report.count = (unsigned)fault_count(fault_of(scene), FAULT_ANY);
        report.fired = (unsigned)fault_fired(fault_of(scene));
        fault_reset(fault_of(scene));
    } else {
        report.fired = rc < 0;
    }
    if (strstr(scene->location, "fault:nth")) {
        g_free(scene->location);
        scene->location =
            g_strdup_printf("fault::dir:%s?io=buffered", scene->root);
    }
    return report;
}

/* --- One shot ------------------------------------------------------------- */

/* The text has the cause in it, and more: what it was done to. */
static void judge_text(const struct calls_report *report, int rc,
                       const char *text)
{
    const char *cause = g_strerror(report->errno_value);

    if (!report->fired) {
        complain("fails without a fault: %d, %s", rc, text);
        return;
    }
    if (report->errno_value == 0 || report->errno_value == EINTR ||
        report->errno_value == EAGAIN) {
        complain("what is to be tried again isn't: %d, %s", rc, text);
    } else if (rc != -report->errno_value) {
        complain("fails with %d: %s", rc, text);
    }
    if (!strstr(text, cause) || strlen(text) < strlen(cause) + 8) {
        complain("the text doesn't tell the cause: %d, %s", rc, text);
    }
    if (show_texts) {
        g_hash_table_add(texts, g_strdup_printf("%s %s", report->call, text));
    }
}

static void describe(const struct shot *shot, const char *what)
{
    g_snprintf(shot_text, sizeof(shot_text), "%s %s %s %s:%u:%u%s: %s",
               shot->mode->name, shot->operation->symbol,
               shot->operation->title, "shot", shot->nth, shot->way,
               shot->for_good ? ":for-good" : "", what);
}

static void retry(const struct shot *shot, struct scene *scene)
{
    const struct operation *operation = shot->operation;
    int rc = (operation->retry ? operation->retry : operation->run)(scene);

    if (rc < 0) {
        complain("fails again, without a fault: %d, %s", rc, archip_error());
    }
}

static struct calls_report fire(const struct shot *shot, struct scene *scene,
                                int *rc)
{
    const struct operation *operation = shot->operation;
    struct calls_report report;
    g_autofree char *what = NULL;

    scene_begin(scene, shot->mode->prefix, shot->mode->options,
                operation->start);
    if (!(operation->flags & OPERATION_OPENS_STORE)) {
        scene_open_store(scene);
    }
    if (operation->prepare) {
        operation->prepare(scene);
    }
    arm(shot, scene);
    *rc = operation->run(scene);
    report =
        shot->mode->groups ? calls_disarm() : disarm_store(shot, scene, *rc);
    what = g_strdup_printf("%s, %s", report.call ? report.call : "none",
                           report.fired ? g_strerror(report.errno_value)
                                        : "no fault");
    describe(shot, what);
    if (*rc < 0) {
        judge_text(&report, *rc, archip_error());
    }
    return report;
}

/* Returns what became of the fault. */
static struct calls_report shoot(const struct shot *shot, bool again, int *rc)
{
    static struct scene the_scene;
    struct scene *scene = &the_scene;
    struct calls_report report;
    int closed;

    alarm(HANG_SECONDS);
    describe(shot, "");
    report = fire(shot, scene, rc);
    if (*rc < 0 && again) {
        retry(shot, scene);
    }
    closed = scene_close(scene);
    if (closed < 0 && !report.fired) {
        complain("closing fails: %d, %s", closed, archip_error());
    }
    scene_expect_nothing_left(scene);
    if ((*rc >= 0 && !(shot->operation->flags & OPERATION_UNTOLD)) ||
        (*rc < 0 && again)) {
        scene_is(scene);
    }
    scene_verify(scene, *rc >= 0 || again);
    scene_expect_nothing_left(scene);
    scene_end(scene);
    total.shots++;
    total.fired += report.fired > 0;
    total.failed += *rc < 0;
    return report;
}

/* --- The loop ------------------------------------------------------------- */

/* One point in one way; false when there is no such point. */
static bool loop_way(struct shot *shot, bool *no_such_way)
{
    int rc;
    struct calls_report report = shoot(shot, true, &rc);

    *no_such_way = report.no_such_way;
    if (rc < 0) {
        shoot(shot, false, &rc);
    }
    if (shot->mode->groups) {
        return report.count >= shot->nth;
    }
    return report.fired > 0;
}

static bool loop_point(struct shot *shot)
{
    unsigned ways = shot->mode->groups ? 100 : G_N_ELEMENTS(store_ways);
    bool there = true, no_such_way = false;

    for (shot->way = 0; there && shot->way < ways; shot->way++) {
        for (int for_good = 0; there && for_good < 2; for_good++) {
            shot->for_good = for_good;
            if (!for_good || shot->mode->groups) {
                there = loop_way(shot, &no_such_way);
            }
        }
        if (no_such_way) {
            break;
        }
    }
    return there;
}

struct test {
    const struct mode *mode;
    const struct operation *operation;
};

static void test_operation(const void *opaque)
{
    const struct test *test = opaque;
    struct shot shot = {.mode = test->mode, .operation = test->operation};
    unsigned before = complaints;

    /* What is set up once is there before anything is counted. */
    shot.nth = 1;
    while (shot.nth < NTH_MAX && loop_point(&shot)) {
        shot.nth += every;
    }
    alarm(0);
    g_assert_cmpuint(shot.nth, <, NTH_MAX);
    total.points += shot.nth - 1;
    if (test->operation->flags & OPERATION_HARMLESS) {
        g_assert_cmpuint(shot.nth, ==, 1);
    }
    g_test_message("%u points", shot.nth - 1);
    if (complaints > before) {
        g_test_fail();
    }
}

static void add_tests(const struct mode *mode)
{
    for (unsigned i = 0; i < operation_count; i++) {
        const struct operation *operation = &operations[i];
        g_autofree char *path =
            g_strdup_printf("/faults/%s/%s%s%s", mode->name, operation->symbol,
                            *operation->title ? "/" : "", operation->title);
        struct test *test = g_new(struct test, 1);

        *test = (struct test){mode, operation};
        g_test_add_data_func_full(path, test, test_operation, g_free);
    }
}

static void list(void)
{
    for (unsigned i = 0; i < operation_count; i++) {
        g_print("%s\n", operations[i].symbol);
    }
}

static void tell(const struct mode *mode)
{
    GHashTableIter iter;
    gpointer key, value;

    g_test_message("%s: %u uses of functions, %u points, %u shots, %u hit, "
                   "%u made the call fail",
                   mode->name, operation_count, total.points, total.shots,
                   total.fired, total.failed);
    g_hash_table_iter_init(&iter, found_codes);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        g_test_message("found: %s, %u times", (char *)key,
                       GPOINTER_TO_UINT(value));
    }
    g_hash_table_iter_init(&iter, texts);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        g_printerr("%s\n", (char *)key);
    }
}

/* Not every file system in memory knows O_DIRECT; then it takes a disk. */
static void choose_scratch(const struct mode *mode)
{
    const char *scratch = g_getenv("ARCHIPELAGO_SCRATCH");
    int fd =
        scratch ? open(scratch, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600)
                : -1;

    if (fd >= 0) {
        close(fd);
    } else if (mode->groups & CALLS_AIO) {
        g_unsetenv("ARCHIPELAGO_SCRATCH");
    }
}

int main(int argc, char **argv)
{
    const struct mode *mode = NULL;
    int rc;

    for (unsigned i = 0; argc > 1 && i < G_N_ELEMENTS(modes); i++) {
        if (g_str_equal(argv[1], modes[i].name)) {
            mode = &modes[i];
        }
    }
    if (argc > 1 && g_str_equal(argv[1], "--list")) {
        list();
        return 0;
    }
    if (!mode) {
        g_printerr("usage: fault-loop store|files|memory|aio [--every K] "
                   "[-p PATH] | --list\n");
        return 2;
    }
    if (argc > 3 && g_str_equal(argv[2], "--every")) {
        every = (unsigned)MAX(atoi(argv[3]), 1);
        argv += 2;
        argc -= 2;
    }
    argv[1] = argv[0];
    argv++;
    argc--;
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();
    signal(SIGALRM, on_alarm);
    choose_scratch(mode);
    calls_install();
    show_texts = g_getenv("FAULT_TEXTS") != NULL;
    found_codes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    texts = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    add_tests(mode);
    rc = g_test_run();
    tell(mode);
    g_hash_table_unref(found_codes);
    g_hash_table_unref(texts);
    scene_clear_templates();
    return rc;
}
