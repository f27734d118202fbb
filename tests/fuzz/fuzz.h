/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzzers share.  A fuzzer is one file with the three names below;
 * linked with libFuzzer it searches, with replay.c it runs files.  Both build
 * the same code, so what libFuzzer finds becomes a test by lying in
 * corpus/NAME.
 *
 * An input begins with a byte of modes.  Where a checksum would keep everything
 * else out, one mode lets the fuzzer compute it, so that inputs get behind the
 * check; without that mode the input stands as it is.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "base/error.h"
#include "mapper/map.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* --- What each fuzzer defines ------------------------------------------- */

/* Run one input.  What it finds wrong ends the process. */
void fuzz_one(const uint8_t *data, size_t bytes);

/* All memory that one input may have allocated at a time: `fuzz_memory_base`
 * and so many times its size.  Counted under ASan alone. */
extern const size_t fuzz_memory_base, fuzz_memory_factor;

/* Give `put` the inputs to begin with, made of what the library writes. */
void fuzz_seeds(void (*put)(const char *name, const void *data,
                            size_t bytes));

/* --- support.c ------------------------------------------------------------ */

/* Run fuzz_one() and hold its memory against the bound. */
void fuzz_run(const uint8_t *data, size_t bytes);

/* What is left of an input.  Past its end everything is zero. */
struct input {
    const uint8_t *at;
    size_t left;
};

/* A number of so many bytes, big-endian. */
uint64_t take(struct input *input, size_t bytes);
/* At most so many bytes. */
const uint8_t *take_bytes(struct input *input, size_t *bytes);
/* All that is left, or up to a NUL, as a text; the caller frees. */
char *take_text(struct input *input);

/* A failure has an errno and a text that says something, a success neither.
 * Frees the error. */
void expect_error(int rc, GError *error);

/* The volume and the layers that inputs are about: 0 is the current one. */
struct id128 fuzz_volume(void);
struct id128 fuzz_layer(unsigned number);

/* Remove everything from a memory store. */
void fuzz_empty(struct store *store);
void fuzz_put(struct store *store, const struct store_record *record,
              const void *value, size_t bytes);
/* Write into an object, which is made when it isn't there. */
void fuzz_write(struct store *store, const struct store_object *object,
                uint64_t offset, const void *data, size_t bytes);
/* A file in memory with that content; its descriptor. */
int fuzz_file(const void *data, size_t bytes);

/* Set the CRC32C at `crc_offset`, if it fits in. */
void fuzz_seal(void *data, size_t bytes, size_t crc_offset);

#endif
