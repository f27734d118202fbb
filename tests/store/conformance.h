/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The conformance suite: what every driver must do, whatever it is made of. */
#ifndef ARCHIPELAGO_TESTS_STORE_CONFORMANCE_H
#define ARCHIPELAGO_TESTS_STORE_CONFORMANCE_H

#include "harness.h"

typedef void conformance_test(struct fixture *fixture);

/* Run `test` on a fresh store, with a queue of either sort. */
void conformance_add(const char *path, conformance_test *test);
/* Only once: for tests that don't use the fixture's queue. */
void conformance_add_once(const char *path, conformance_test *test);

void conformance_objects(void);
void conformance_queues(void);
void conformance_records(void);
void conformance_sets(void);
void conformance_locks(void);

#endif
