/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * simulate: runs the library against a simulated disk until something that
 * docs/DURABILITY.md promises doesn't hold: see world.h and disk.h.
 *
 * Same seed, same run, bit for bit: the last line has a hash of all that
 * happened.
 */
#include "disk.h"
#include "fibers.h"
#include "world.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct world world;

static gint steps = 2000;
static gchar *wanted_faults;

/* Beyond the simulated clock. */
gint64 __real_g_get_monotonic_time(void);

void broken(unsigned invariant, const struct volume *volume, uint64_t sector,
            const char *format, ...)
{
    va_list args;

    printf("BROKEN: D%u, seed %" G_GUINT64_FORMAT ", life %u, step %u, ",
           invariant, world.seed, world.life, world.step);
    if (volume) {
        printf("volume %s (%u), sector %" G_GUINT64_FORMAT ": ", volume->name,
               volume->number, sector);
    }
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\nagain: scripts/simulate --seed %" G_GUINT64_FORMAT
           " --steps %d%s%s%s%s --trace\n", world.seed, steps,
           world.wanted_habits ? " --habits " : "",
           world.wanted_habits ? world.wanted_habits : "",
           wanted_faults ? " --faults " : "",
           wanted_faults ? wanted_faults : "");
    fflush(stdout);
    if (volume && volume->ledger) {
        fprintf(stderr, "what touched the sector:\n");
        ledger_print(volume->ledger, sector);
    }
    fflush(NULL);
    _Exit(1);
}

void simulation_stuck(const char *what)
{
    broken(17, NULL, 0, "%s", what);
}

void excuse(unsigned invariant, const struct volume *volume, const char *what,
            int64_t result, const char *error)
{
    if (result < 0 && !disk.dead && !disk.injected && !disk.failed_syncs &&
        !world.has_rotted) {
        broken(invariant, volume, 0, "%s failed, and nothing else had: %s",
               what, error);
    }
}

/* An assertion failed, or worse: where. */
static void on_signal(int number)
{
    char text[160];
    int length = snprintf(text, sizeof(text),
                          "BROKEN: D17, seed %" G_GUINT64_FORMAT
                          ", life %u, step %u: signal %d\n", world.seed,
                          world.life, world.step, number);

    signal(number, SIG_DFL);
    if (write(STDOUT_FILENO, text, (size_t)length) == length) {
        raise(number);
    }
}

static void print_counts(gint64 start_us)
{
    double seconds = (double)(__real_g_get_monotonic_time() - start_us) / 1e6;

    printf("%" G_GUINT64_FORMAT " runs, %" G_GUINT64_FORMAT " crashes (%"
           G_GUINT64_FORMAT " power cuts, %" G_GUINT64_FORMAT
           " while opening; %" G_GUINT64_FORMAT " more of new stores), %"
           G_GUINT64_FORMAT " requests, %" G_GUINT64_FORMAT
           " system calls, %" G_GUINT64_FORMAT
           " sectors checked, %" G_GUINT64_FORMAT " errors injected, %"
           G_GUINT64_FORMAT " disks damaged, %" G_GUINT64_FORMAT
           " answers refused then, %" G_GUINT64_FORMAT " times a full disk, %"
           G_GUINT64_FORMAT " calls refused then\n", world.runs, world.crashes,
           world.power_cuts, world.nested, world.births, world.operations,
           world.calls, world.checked, world.errors, world.rots,
           world.refused, world.full, world.full_answers);
    if (seconds > 0) {
        printf("%.0f runs and %.0f crashes a minute, %.0f requests between "
               "crashes, in %.1f s\n", (double)world.runs * 60 / seconds,
               (double)world.crashes * 60 / seconds,
               (double)world.operations / (double)MAX(world.crashes, 1),
               seconds);
    }
    printf("hash %016" G_GINT64_MODIFIER "x\n", disk.hash);
}

static void run_one(uint64_t seed)
{
    world.seed = seed;
    world.steps_max = (unsigned)steps;
    random_seed(seed);
    world_run();
}

static void run_all(uint64_t seed, gint64 runs, gint seconds)
{
    gint64 start_us = __real_g_get_monotonic_time();
    gint64 end_us = start_us + seconds * G_GINT64_CONSTANT(1000000);
    uint64_t hash = 0;

    for (gint64 i = 0; runs ? i < runs
                            : __real_g_get_monotonic_time() < end_us; i++) {
        run_one(seed + (uint64_t)i);
        hash = hash * 31 + disk.hash;
    }
    disk.hash = hash;
    print_counts(start_us);
}

/* Each line that begins with a number is a seed. */
static void run_file(const char *path)
{
    gint64 start_us = __real_g_get_monotonic_time();
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned count = 0;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        fprintf(stderr, "%s can't be read\n", path);
        exit(2);
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (g_ascii_isdigit(**line)) {
            run_one(g_ascii_strtoull(*line, NULL, 10));
            count++;
        }
    }
    g_assert(count > 0);
    print_counts(start_us);
}

/* -1: none of them. */
static int fault_named(const char *name)
{
    static const char *const names[FAULT_KINDS] = {
        [FAULT_ANY] = "any", [FAULT_WRITE] = "write",
        [FAULT_SYNC] = "sync", [FAULT_NAME] = "name",
    };

    for (int i = 0; i < FAULT_KINDS; i++) {
        if (g_strcmp0(name, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

int main(int argc, char **argv)
{
    const char *seconds_text = g_getenv("ARCHIPELAGO_SIMULATION_SECONDS");
    g_autofree gchar *file = NULL, *habits = NULL;
    gint64 seed = -1, runs = 1;
    gint seconds = 0;
    gboolean trace = FALSE, fresh = FALSE;
    const GOptionEntry entries[] = {
        { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "First seed", "N" },
        { "runs", 0, 0, G_OPTION_ARG_INT64, &runs, "Seeds to try", "N" },
        { "seconds", 0, 0, G_OPTION_ARG_INT, &seconds,
          "Instead of runs: for so long", "N" },
        { "fresh", 0, 0, G_OPTION_ARG_NONE, &fresh,
          "For $ARCHIPELAGO_SIMULATION_SECONDS, 10 by default", NULL },
        { "file", 0, 0, G_OPTION_ARG_FILENAME, &file,
          "The seeds that a file has", "FILE" },
        { "steps", 0, 0, G_OPTION_ARG_INT, &steps, "Requests of a life", "N" },
        { "habits", 0, 0, G_OPTION_ARG_STRING, &habits,
          "All runs do much of one thing (see habits.c)", "NAME" },
        { "faults", 0, 0, G_OPTION_ARG_STRING, &wanted_faults,
          "In all runs such calls fail: any, write, sync, name", "WHICH" },
        { "trace", 0, 0, G_OPTION_ARG_NONE, &trace, "Show what happens",
          NULL },
        { 0 },
    };
    g_autoptr(GOptionContext) context = g_option_context_new("");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc > 1) {
        fprintf(stderr, "%s\n", error ? error->message : "bad arguments");
        return 2;
    }
    world.wanted_habits = habits;
    world.wanted_faults = fault_named(wanted_faults);
    if ((habits && !habits_are_known(habits)) ||
        (wanted_faults && world.wanted_faults < 0)) {
        fprintf(stderr, "no such habits or faults\n");
        return 2;
    }
    if (seed < 0) {
        seed = g_random_int();
    }
    if (fresh) {
        seconds = seconds_text ? atoi(seconds_text) : 10;
    }
    signal(SIGABRT, on_signal);
#ifndef __SANITIZE_ADDRESS__            /* which says more */
    signal(SIGSEGV, on_signal);
#endif
    disk.trace = trace;
    calls_install();
    if (file) {
        run_file(file);
        return 0;
    }
    printf("seed %" G_GINT64_FORMAT "\n", seed);
    fflush(stdout);
    run_all((uint64_t)seed, seconds ? 0 : runs, seconds);
    return 0;
}
