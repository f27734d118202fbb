/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying between a volume and the world, for import and export.
 *
 * A *side* is one end: a volume, a file or device, a stream, an NBD export.
 * The engine (copy.c) keeps several pieces in flight, asks the source where it
 * has holes, and leaves them out or writes them as zeroes.  Offsets and lengths
 * it asks for are multiples of `alignment_bytes` of both sides and of
 * COPY_GRAIN_BYTES, but for the end of the source.
 *
 * Contract of a side's operations: read, write and zero either finish before
 * they return or set io->busy and clear it later inside work(); either way a
 * failure is left in io->error.  No other operation calls back.
 *
 * Threads: one.
 */
#ifndef ARCHIPELAGO_CLI_COPY_H
#define ARCHIPELAGO_CLI_COPY_H

#include "common.h"

#define COPY_GRAIN_BYTES 4096u
#define COPY_CHUNK_BYTES (1024u * 1024)
#define COPY_DEPTH 16

struct copy_io {
    void *buffer;
    uint64_t offset_bytes;
    uint64_t length_bytes;      /* shortened where a stream ends */
    bool busy;                  /* a side has it */
    GError *error;
};

struct copy_side;

struct copy_ops {
    /* Blocking: the run of one kind that begins at `offset_bytes`, at most
     * `length_bytes`.  NULL: all is data. */
    bool (*extent)(struct copy_side *side, uint64_t offset_bytes,
                   uint64_t length_bytes, uint64_t *run_bytes, bool *is_zero,
                   GError **error);
    void (*read)(struct copy_side *side, struct copy_io *io);
    void (*write)(struct copy_side *side, struct copy_io *io);
    /* Of any length; `buffer` is not used.  Only where !sequential. */
    void (*zero)(struct copy_side *side, struct copy_io *io);
    /* What to poll for; -1: nothing. */
    int (*poll_fd)(struct copy_side *side, short *events);
    void (*work)(struct copy_side *side, short events);
    /* Blocking, with nothing in flight: all that was written is durable. */
    bool (*flush)(struct copy_side *side, GError **error);
    /* After a failure: nothing is in flight any more, and the side is only
     * good for closing. */
    void (*stop)(struct copy_side *side);
    /* With nothing in flight. */
    void (*close)(struct copy_side *side);
};

struct copy_side {
    const struct copy_ops *ops;
    uint64_t size_bytes;
    uint32_t alignment_bytes;
    bool size_unknown;          /* a source that ends when it ends */
    bool sequential;            /* one piece at a time, in order */
    bool starts_zero;           /* a target that needs no zeroes written */
};

void copy_side_close(struct copy_side *side);   /* NULL is let pass */

/* --- Sides: side-*.c ---------------------------------------------------- */

/* `grow`: writing past the end makes the volume longer.  The volume stays the
 * caller's and is closed after the side. */
struct copy_side *side_volume_new(archip_volume *volume, bool starts_zero,
                                  bool grow, GError **error);
/* A regular file or block device; takes over `fd`, also when it fails. */
struct copy_side *side_file_new(int fd, const char *name, bool starts_zero,
                                GError **error);
/* A pipe, socket, terminal; takes over `fd`. */
struct copy_side *side_stream_new(int fd, const char *name, bool is_source);
/* An NBD server by its URI, or one started as `argv` and given its socket by
 * systemd's socket activation; it ends with the side. */
bool is_nbd_uri(const char *name);
struct copy_side *side_nbd_uri(const char *uri, GError **error);
struct copy_side *side_nbd_command(char **argv, bool starts_zero,
                                   GError **error);

/* --- The engine: copy.c ------------------------------------------------- */

struct progress;

struct copy {
    struct copy_side *source, *target;
    bool detect_zeroes;
    struct progress *progress;      /* or NULL */
    /* What it found; `position` ends as the source's size. */
    uint64_t position_bytes;
    uint64_t data_bytes;            /* written as data */
};

/* Copy all of the source and flush the target.  Nothing is in flight on return;
 * after a failure the sides are only good for closing. */
bool copy_run(struct copy *copy, GError **error);

/* --- Being interrupted: interrupt.c ------------------------------------- */

/* From now on SIGINT, SIGTERM and SIGHUP are noted rather than deadly, and
 * SIGPIPE is an error of the write. */
void interrupt_watch(void);
/* The signal that came, or 0. */
int interrupt_signal(void);
/* Readable when one has come. */
int interrupt_fd(void);
/* After cleaning up: die of the signal that came, if any. */
void interrupt_die(void);

/* --- Progress: progress.c ----------------------------------------------- */

/* NULL unless stderr is a terminal. */
struct progress *progress_new(const char *label, uint64_t total_bytes);
void progress_update(struct progress *progress, uint64_t done_bytes);
void progress_free(struct progress *progress);

/* --- Image formats, by QEMU's tools: image.c ---------------------------- */

/*
 * The format of a file: `format` if given, else by its name, else by what is in
 * it.  "raw" or a name that QEMU knows; static or `format` itself.  A file that
 * refers to other files must be named by `format`: an image from a stranger
 * could name any file of this host.
 */
const char *image_format(const char *path, const char *format, GError **error);
/* NULL or "raw". */
bool image_is_raw(const char *format);
/* By name alone, for what is not there yet. */
const char *image_format_of_name(const char *path, const char *format);
struct copy_side *image_open(const char *path, const char *format,
                             bool writable, GError **error);
bool image_create(const char *path, const char *format, uint64_t size_bytes,
                  GError **error);

#endif
