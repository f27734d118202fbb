/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Temporary directories and files for tests.  They lie under
 * $ARCHIPELAGO_SCRATCH, else /var/tmp, which unlike /tmp is seldom a tmpfs: a
 * store there does direct I/O.
 */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* A new empty directory; the caller frees the path. */
char *scratch_new(void);
/* Remove it with all that is in it. */
void scratch_remove(const char *path);

/* Call `each` for each regular file below `path`, with its path. */
void scratch_each(const char *path, void (*each)(const char *file, void *opaque),
                  void *opaque);
/* A sum over names and contents of all files below, but for those named
 * "lock", which each opening of a volume writes. */
char *scratch_checksum(const char *path);
/* What a file, or the regular files below a directory, take on the disk. */
uint64_t scratch_file_allocated(const char *file);
uint64_t scratch_allocated(const char *path);
/* The one file below `path` whose path matches the GPattern; the caller frees.
 * NULL when there is none. */
char *scratch_find(const char *path, const char *pattern);

/* How many descriptors this process has open. */
unsigned scratch_descriptors(void);

#endif
