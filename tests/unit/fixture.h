/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the API tests share: a store of their own, assertions that show the
 * library's error text, requests in one call, and children.
 */
#ifndef TESTS_FIXTURE_H
#define TESTS_FIXTURE_H

#include "scratch.h"

#include <archipelago.h>
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define PIB (MIB * MIB * 1024)

/* --- Assertions ---------------------------------------------------------- */

/* The call returns 0 or more. */
#define assert_ok(call) fixture_assert_ok((call), #call, __FILE__, __LINE__)
/* It returns -errno_value, and the text of the error contains `needle`. */
#define assert_fails(call, errno_value, needle)                               \
    fixture_assert_fails((call), (errno_value), (needle), #call, __FILE__,    \
                         __LINE__)

int fixture_assert_ok(int result, const char *call, const char *file, int line);
void fixture_assert_fails(int result, int errno_value, const char *needle,
                          const char *call, const char *file, int line);

/* --- Stores and volumes -------------------------------------------------- */

struct fixture {
    char *scratch;          /* NULL for a store in memory */
    char *location;
    archip_store *store;
};

/* `kind`: "memory", "dir", "dir-buffered". */
void fixture_begin(struct fixture *fixture, const char *kind);
void fixture_end(struct fixture *fixture);
/* Close the store and open it again, but for memory. */
void fixture_reopen(struct fixture *fixture);
/* Create with objects of `object_bytes` (0: default). */
void fixture_create(struct fixture *fixture, const char *name,
                    uint64_t size_bytes, uint32_t object_bytes);
archip_volume *fixture_open(struct fixture *fixture, const char *name,
                            unsigned flags);
archip_queue *fixture_queue(archip_volume *volume);
/* Open, one queue. */
archip_queue *fixture_open_queue(struct fixture *fixture, const char *name,
                                 unsigned flags, archip_volume **volume);
void fixture_close(archip_volume *volume, archip_queue *queue);

/* Add `name` as a test for each kind of store; `test` gets the kind. */
void fixture_add(const char *name, void (*test)(const void *kind));
/* For those that open hundreds of stores: without direct I/O, since the kernel
 * takes 30 ms to end a context of libaio. */
void fixture_add_quick(const char *name, void (*test)(const void *kind));
/* For tests that need files or processes: only "dir". */
void fixture_add_dir(const char *name, void (*test)(const void *kind));

/* --- Requests ------------------------------------------------------------ */

/* Submit one and wait for it; its result. */
int64_t fixture_run(archip_queue *queue, const archip_request *request);
/* `length` bytes of `byte`. */
void fixture_fill(archip_queue *queue, uint64_t offset, size_t length,
                  uint8_t byte);
/* Assert that the range holds nothing but `byte`. */
void fixture_expect(archip_queue *queue, uint64_t offset, size_t length,
                    uint8_t byte);

/* --- Children ------------------------------------------------------------ */

struct child {
    GPid pid;
    int to, from;           /* its standard input and output */
};

/* Run this program again as "child WHAT LOCATION VOLUME". */
struct child child_start(const char *what, const char *location,
                         const char *volume);
/* Read a line of its output, without the newline; the caller frees.  NULL: it
 * has ended. */
char *child_line(const struct child *child);
/* Send `signal` (0: none, its input ends) and wait; its wait status. */
int child_end(struct child *child, int signal);

#endif
