/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls that fail on demand: the system calls of base/sys.h, and what the
 * linker's --wrap brings here besides (allocations that may fail, threads,
 * descriptors, folders).
 *
 * Each call of a group that is armed is a point, counted from 1 over all
 * threads.  At the Nth point the call fails in the Mth of the ways in which it
 * can: with an error, or with less than was asked for.
 */
#ifndef TESTS_FAULTS_CALLS_H
#define TESTS_FAULTS_CALLS_H

#include <stdbool.h>

enum calls_group {
    CALLS_FILES = 1,  /* system calls */
    CALLS_MEMORY = 2, /* memory, threads, descriptors */
    CALLS_AIO = 4,    /* libaio's contexts, submissions, completions */
};

struct calls_rule {
    unsigned groups;
    unsigned nth;  /* 0: none fails */
    unsigned way;  /* from 0 */
    bool for_good; /* all later ones that can fail that way, too */
};

struct calls_report {
    unsigned count; /* points that were passed */
    unsigned fired;
    bool no_such_way; /* the Nth call can't fail in so many ways */
    const char *call; /* which one it was */
    int errno_value;  /* 0: it did less, and said so */
};

/* --- For a call that can fail --------------------------------------------- */

/* Not an error: half of what was asked for. */
#define CALLS_LESS (-1)
/* The ways in which a call fails. */
#define CALLS_WAYS(...) ((const int[]){__VA_ARGS__, 0})

/* A point: how the call must fail, an errno or CALLS_LESS, or 0. */
int calls_way(enum calls_group group, const char *call, const int *ways);
/* The same where only errors can be: sets errno. */
bool calls_fail(enum calls_group group, const char *call, const int *ways);

/* --- For the test --------------------------------------------------------- */

/* Put the replacements into base/sys.h, once. */
void calls_install(void);
void calls_arm(const struct calls_rule *rule);
struct calls_report calls_disarm(void);
/* As it is now. */
struct calls_report calls_so_far(void);

#endif
