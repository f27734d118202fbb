/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tests of stores share: a store of one of several variants, in a
 * place of its own that goes away afterwards, and requests in one line.
 */
#ifndef ARCHIPELAGO_TESTS_STORE_HARNESS_H
#define ARCHIPELAGO_TESTS_STORE_HARNESS_H

#include "store/store.h"

#include <glib.h>

struct fixture {
    char *root;                 /* a directory of the test's own */
    char *location;
    struct store *store;
    struct store_queue *queue;
    unsigned queue_flags;
    struct id128 layer;         /* random */
};

/* Directories for tests, where O_DIRECT works if there is such a place. */
const char *harness_base(void);
bool harness_has_direct(void);
char *harness_make_root(void);
void harness_remove(const char *path);

/* `pattern` is a location with one %s for the root, or none. */
void fixture_open(struct fixture *fixture, const char *pattern,
                  unsigned queue_flags);
void fixture_close(struct fixture *fixture);
/* Close the store and open it again. */
void fixture_reopen(struct fixture *fixture);

struct store_object block(const struct fixture *fixture, uint64_t number);

/* One request, waited for; they return its result. */
int do_write(struct fixture *fixture, struct store_object object,
             uint64_t offset_bytes, const void *data, size_t bytes,
             unsigned flags);
int do_read(struct fixture *fixture, struct store_object object,
            uint64_t offset_bytes, void *data, size_t bytes);
/* Any other. */
int do_op(struct fixture *fixture, enum store_op op, struct store_object object,
          uint64_t offset_bytes, uint64_t length_bytes, unsigned flags);
/* From `offset_bytes`; the extent's length, `is_data` by reference. */
uint64_t do_extent(struct fixture *fixture, struct store_object object,
                   uint64_t offset_bytes, uint64_t length_bytes, bool *is_data);

/* Memory for O_DIRECT; free() it.  Filled by `seed`, or zeroed with 0. */
uint8_t *make_buffer(size_t bytes, unsigned seed);
bool is_all(const uint8_t *data, uint8_t value, size_t bytes);
/* Poll until `*count` is 0. */
void wait_for_zero(struct store_queue *queue, const unsigned *count);
unsigned count_fds(void);

#endif
