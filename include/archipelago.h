/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libarchipelago: block volumes out of fixed-size objects.
 *
 * Everything in this file is API and stays; nothing else in the project is.
 * Types are opaque, or plain structs that grow only into their `reserved`
 * fields, which callers set to zero (`= {0}` does it).
 *
 * Names.  A *store* keeps objects.  A *volume* is a block device made of them.
 * A *queue* carries requests to one volume; a volume may have many.
 *
 * Errors.  A function that can fail returns 0 or a positive number, or -errno.
 * archip_error() gives the text that belongs to the last failure in the calling
 * thread; a completion carries its own.
 *
 * Threads.  Stores and volumes may be used from any thread, except that closing
 * excludes every other use.  A queue belongs to one thread at a time.
 *
 * Fork.  Open stores and volumes after any fork; a lock belongs to the process
 * that took it.
 */
#ifndef ARCHIPELAGO_H
#define ARCHIPELAGO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header.  archip_version() is that of the library. */
#define ARCHIP_VERSION_MAJOR 0
#define ARCHIP_VERSION_MINOR 1
#define ARCHIP_VERSION_PATCH 0

/* A name is 1 to ARCHIP_NAME_MAX of A-Z a-z 0-9 _ . + -, the first of them a
 * letter, a digit or '_'. */
#define ARCHIP_NAME_MAX 128
#define ARCHIP_DESCRIPTION_MAX 255

#define ARCHIP_SECTOR_BYTES 512u
#define ARCHIP_SIZE_MAX (UINT64_C(1) << 50)        /* 1 PiB */
#define ARCHIP_OBJECT_BYTES_MIN (UINT32_C(1) << 16) /* 64 KiB */
#define ARCHIP_OBJECT_BYTES_MAX (UINT32_C(1) << 26) /* 64 MiB */
#define ARCHIP_OBJECT_BYTES_DEFAULT (UINT32_C(1) << 22)

typedef struct archip_store archip_store;
typedef struct archip_volume archip_volume;
typedef struct archip_queue archip_queue;

/* "MAJOR.MINOR.PATCH" of the library; static. */
const char *archip_version(void);

/* The text of the last failure in this thread: what was wrong and what to do.
 * Never NULL; valid until the next call that fails in this thread. */
const char *archip_error(void);

/* 0, or -EINVAL with the rule that `name` breaks. */
int archip_name_check(const char *name);

/* --- Stores ------------------------------------------------------------- */

/* Make the store if there is none: its directory must be empty, or be the
 * default one. */
#define ARCHIP_STORE_CREATE 0x1u

/*
 * Open a store.  `location` is "dir:PATH", "memory:NAME", a section of
 * archipelago.conf, or NULL for $ARCHIPELAGO_STORE, else the configured
 * default, else a directory of the user's.  Options follow a '?', separated by
 * '&': "dir:/srv/a?io=buffered".
 * -ENOENT: no such store; -EINVAL: not a location; -EUCLEAN: damaged;
 * -EOPNOTSUPP: made by a newer version.
 */
int archip_store_open(const char *location, unsigned flags,
                      archip_store **store);

/* Every volume of the store must be closed.  NULL is let pass. */
void archip_store_close(archip_store *store);

/* How much room there is; by the watermarks of the store, which belong to its
 * location or its section of archipelago.conf. */
typedef enum archip_space {
    ARCHIP_SPACE_UNKNOWN = 0,
    ARCHIP_SPACE_OK,
    ARCHIP_SPACE_WARNING,
    ARCHIP_SPACE_CRITICAL,
    ARCHIP_SPACE_FULL,        /* what needs new room fails, what has it works */
} archip_space;

typedef struct archip_store_status {
    char driver[16];          /* "dir", "memory" */
    char location[1024];      /* as it can be given to archip_store_open() */
    char io[32];              /* how it does I/O: "direct", "buffered", ... */
    uint64_t total_bytes;     /* of what it lies on; 0: unknown */
    uint64_t free_bytes;      /* for new objects; 0 with total 0: unknown */
    uint32_t alignment_bytes; /* of offsets, lengths and memory for I/O
                                 without a copy */
    uint32_t space;           /* archip_space */
    uint64_t reserve_bytes;   /* kept for metadata when all else is full */
    uint64_t reserve_wanted_bytes;  /* what that should be; 0: none here */
    uint64_t file_count;      /* inodes; 0: no limit is known */
    uint64_t free_file_count;
    uint32_t warning_percent; /* of space or inodes in use: the watermarks; 0:
                                 none */
    uint32_t critical_percent;
    uint32_t reserved[4];
} archip_store_status;

int archip_store_get_status(archip_store *store, archip_store_status *status);

/* --- Volumes ------------------------------------------------------------ */

#define ARCHIP_VOLUME_CLEAN 0x1u     /* closed properly, or open right now */
#define ARCHIP_VOLUME_READONLY 0x2u  /* marked read-only in its header */
#define ARCHIP_VOLUME_PROTECTED 0x4u /* may not be removed */

typedef struct archip_volume_info {
    char name[ARCHIP_NAME_MAX + 1];
    char id[33];                /* 128 bits in hex */
    uint64_t size_bytes;
    uint32_t object_bytes;
    uint32_t block_bytes;       /* the grain of copy-on-write */
    uint32_t flags;             /* ARCHIP_VOLUME_... */
    uint32_t alignment_bytes;   /* as in archip_store_status */
    uint64_t object_count;      /* objects the map names */
    uint64_t generation;        /* how often the header was written */
    int64_t created_ns;         /* since 1970 */
    char description[ARCHIP_DESCRIPTION_MAX + 1];
    uint64_t reserved[16];
} archip_volume_info;

typedef struct archip_create_options {
    uint32_t object_bytes;      /* power of two; 0: the default */
    uint32_t flags;             /* none yet */
    const char *description;    /* UTF-8; or NULL */
    uint64_t reserved[8];
} archip_create_options;

/* Create a volume of zeroes.  `size_bytes` is a multiple of 512, at most 1 PiB.
 * `options` may be NULL.  Durable on return.
 * -EEXIST: the name is taken; -EINVAL: name, size or object size. */
int archip_volume_create(archip_store *store, const char *name,
                         uint64_t size_bytes,
                         const archip_create_options *options);

/* Remove a volume and free what only it used.
 * -EBUSY: open somewhere, be it for reading (the text says who has it for
 * writing); -EPERM: protected. */
int archip_volume_remove(archip_store *store, const char *name);

/* Call `each` for each volume in order of name, until it returns non-zero,
 * which is then returned.  `info` is valid during the call.  A volume whose
 * header can't be read has size_bytes 0, `error` set to why, else NULL. */
int archip_volume_list(archip_store *store,
                       int (*each)(const archip_volume_info *info,
                                   const char *error, void *opaque),
                       void *opaque);

typedef struct archip_holder {
    int held;                 /* 1: a writer has the volume open */
    char owner[64];           /* program and purpose */
    char host[64];
    int64_t pid;
    int64_t since_ns;         /* since 1970 */
    uint64_t token;           /* the fencing number */
    uint64_t reserved[4];
} archip_holder;

/* Who has the volume open for writing; `held` is 0 when nobody has. */
int archip_volume_get_holder(archip_store *store, const char *name,
                             archip_holder *holder);

#define ARCHIP_OPEN_WRITE 0x1u      /* else read-only */
#define ARCHIP_OPEN_NO_LOCK 0x2u    /* with WRITE: no lock yet, as the target
                                       of a live migration; all I/O is refused
                                       until archip_volume_activate() */

/*
 * Open a volume.  For writing it takes the volume's lock, which ends with the
 * process; then it brings the volume into order after an unclean close.
 * `owner` says what it is opened for and is shown to others ("qemu-img"); NULL:
 * the program's name.
 * Read-only opens need no lock: while a writer is at work they see what it had
 * flushed when they opened, mixed with what it wrote since.
 * -ENOENT; -EBUSY: another writer (the text names it); -EUCLEAN: corrupt, with
 * the place; -EOPNOTSUPP: features this version doesn't know, by name;
 * -EROFS: for writing, and marked read-only.
 */
int archip_volume_open(archip_store *store, const char *name, unsigned flags,
                       const char *owner, archip_volume **volume);

/*
 * Flush, close, release the lock.  Every queue must be closed.  The volume is
 * gone whatever is returned; an error means that the last flush failed.
 * NULL is let pass.
 */
int archip_volume_close(archip_volume *volume);

int archip_volume_get_info(archip_volume *volume, archip_volume_info *info);

/* Size in bytes, cheap, from any thread. */
uint64_t archip_volume_size(archip_volume *volume);

/* Allow losing data by shrinking. */
#define ARCHIP_RESIZE_SHRINK 0x1u
/* Durable only with the next flush, as data is; never with SHRINK. */
#define ARCHIP_RESIZE_VOLATILE 0x2u

/* Change the size.  What is cut off is gone: growing again shows zeroes.  A
 * shrink that fails leaves the old size and all data, unless the smaller size
 * was durable already: then the next call, or opening the volume again,
 * finishes it.  archip_volume_size() tells; a crash right after it may leave
 * either.
 * May block; no request beyond the new end may be in flight.  A thread that
 * waits in this or any other call keeps going what is in flight on the queues
 * of the store that it used last.
 * -EINVAL: size, or a shrink without the flag; -EROFS. */
int archip_volume_resize(archip_volume *volume, uint64_t size_bytes,
                         unsigned flags);

/*
 * Hand the volume over without closing it (live migration): flush and release
 * the lock; all I/O is refused with -EPERM until activated again.  No request
 * may be in flight.  On failure the volume stays active, unless its header can't
 * be marked as in use again, which the text says: then it is inactive with all
 * that was flushed.
 */
int archip_volume_deactivate(archip_volume *volume);

/* Take the lock (if the volume was opened for writing) and read the map anew:
 * size and content may have changed.  Fails as archip_volume_open() does, and
 * then stays inactive. */
int archip_volume_activate(archip_volume *volume);

/* Change between read-only and writable (`flags` as for opening), keeping the
 * queues.  No request may be in flight.  On failure nothing changed, but to
 * read-only it may leave the volume inactive as archip_volume_deactivate()
 * does. */
int archip_volume_reopen(archip_volume *volume, unsigned flags);

typedef struct archip_usage {
    uint64_t apparent_bytes;  /* the volume's size */
    uint64_t object_count;    /* objects the map names */
    uint64_t allocated_bytes; /* what they take in the store */
    uint64_t exclusive_bytes; /* of that, in the current layer */
    uint64_t metadata_bytes;  /* header, pages, journal */
    uint64_t reserved[8];
} archip_usage;

/* Exact, by asking the store for each object: takes time.  May block. */
int archip_volume_get_usage(archip_volume *volume, archip_usage *usage);

/* --- Check and repair ----------------------------------------------------- */

typedef enum archip_severity {
    ARCHIP_NOTE = 1,          /* nothing wrong in itself: mostly what a crash
                                 leaves and the next open for writing mends */
    ARCHIP_LEAK,              /* takes space or a name, and harms nobody */
    ARCHIP_DAMAGE,            /* something is wrong, or lost */
} archip_severity;

typedef enum archip_outcome {
    ARCHIP_FOUND = 1,         /* a repair would do `action` */
    ARCHIP_KEPT,              /* no repair can help: `action` says why, or who
                                 can */
    ARCHIP_REPAIRED,          /* `action` was done */
    ARCHIP_FAILED,            /* it was tried: `action` says what failed */
} archip_outcome;

typedef struct archip_finding {
    const char *code;         /* stable, such as "object-missing"; the list is
                                 in archipelago(1) */
    archip_severity severity;
    archip_outcome outcome;
    const char *volume;       /* its name; NULL: none, or none that is known */
    const char *place;        /* where, for people */
    const char *text;         /* what it means */
    const char *action;
    uint64_t count;           /* how many such things stand at `place` */
    uint64_t reserved[8];
} archip_finding;

typedef struct archip_check_summary {
    uint64_t volume_count;    /* looked at */
    uint64_t busy_count;      /* of them open for writing meanwhile: what is on
                                 its way there isn't judged */
    uint64_t unchecked_count; /* of them not, or not wholly, looked at */
    uint64_t object_count, page_count;  /* looked at */
    uint64_t note_count, leak_count, damage_count;  /* findings */
    uint64_t repaired_count;  /* of the leaks and damages */
    uint64_t failed_count;    /* repairs that were tried in vain */
    uint64_t reserved[8];
} archip_check_summary;

/* Mend what can be mended.  Nothing that could be somebody's data is removed:
 * it is set aside, or stays. */
#define ARCHIP_CHECK_REPAIR 0x1u

typedef struct archip_check_options {
    uint32_t flags;           /* ARCHIP_CHECK_... */
    const char *const *volumes;     /* names, then NULL; NULL: all there is */
    /* For each finding; non-zero ends the check and is returned. */
    int (*finding)(const archip_finding *finding, void *opaque);
    /* Now and then; likewise.  May be NULL. */
    int (*progress)(uint64_t done, uint64_t total, void *opaque);
    void *opaque;
    uint64_t reserved[8];
} archip_check_options;

/*
 * Look at everything in the store, or at some volumes: names, headers, maps,
 * journals, objects, locks, and operations that were left half done.  Volumes
 * that are open meanwhile aren't disturbed: no lock is taken but for a repair,
 * which leaves alone what it can't lock.  A repair that is ended anywhere
 * leaves things no worse and can be begun again.  May block for long.
 * 0: all was looked at, whatever was found; `summary` (may be NULL) says what.
 * -ENOENT: no such volume; -EBUSY: another repair or import is under way (only
 * for a repair); else what kept it from looking, also in part.
 */
int archip_check(archip_store *store, const archip_check_options *options,
                 archip_check_summary *summary);

/* --- Metadata in a file --------------------------------------------------- */

typedef struct archip_metadata_volume {
    const char *name;
    const char *id;           /* 32 hex digits, or NULL */
    const char *error;        /* NULL: done; else why it was left out */
    uint64_t page_count;      /* of its map */
    uint64_t missing_count;   /* import: objects that the map names and that
                                 aren't there */
    uint64_t newer_count;     /* import: objects in its current layer that the
                                 map doesn't name, written since the export */
    uint64_t reserved[8];
} archip_metadata_volume;

/*
 * Write headers and maps of all volumes, or of those named (NULL at the end),
 * to `fd`, from where it stands.  Volumes may be in use: each is of one moment,
 * with all that it had flushed by then.  The same metadata makes the same
 * bytes. `each` (may be NULL) is called for each volume; non-zero ends it and
 * is returned.  A volume that can't be read is left out, and its -errno is
 * returned in the end.
 */
int archip_metadata_export(archip_store *store, int fd,
                           const char *const *volumes,
                           int (*each)(const archip_metadata_volume *volume,
                                       void *opaque),
                           void *opaque);

#define ARCHIP_IMPORT_OVERWRITE 0x1u /* also volumes that are there: what they
                                        have is set aside */
#define ARCHIP_IMPORT_FORCE 0x2u     /* also with objects missing */
#define ARCHIP_IMPORT_DRY_RUN 0x4u   /* only look */

/*
 * Bring back volumes out of such a file, which `fd` must be able to seek in.
 * All of it is read and checked before anything is done.  A volume that is
 * there (-EEXIST), is in use (-EBUSY) or lacks objects (-ENODATA) is left out;
 * the first such -errno is returned when all others were done.  Beside a repair
 * or another import nothing is done (-EBUSY).  docs/FORMAT.md says what state a
 * volume comes back to.
 */
int archip_metadata_import(archip_store *store, int fd,
                           const char *const *volumes, unsigned flags,
                           int (*each)(const archip_metadata_volume *volume,
                                       void *opaque),
                           void *opaque);

/* --- Queues: asynchronous requests --------------------------------------- */

/* Requests may be carried out inside archip_submit(): fastest where the caller
 * would wait for each anyhow. */
#define ARCHIP_QUEUE_MAY_BLOCK 0x1u

int archip_queue_open(archip_volume *volume, unsigned flags,
                      archip_queue **queue);

/* Waits for what is in flight and drops its completions.  NULL is let pass. */
void archip_queue_close(archip_queue *queue);

/* A descriptor that is readable while archip_queue_reap() has work to do.
 * Belongs to the queue; only poll it.  Can fail only with MAY_BLOCK. */
int archip_queue_fd(archip_queue *queue);

typedef enum archip_op {
    ARCHIP_READ = 1,
    ARCHIP_WRITE,
    ARCHIP_FLUSH,        /* makes durable every write that completed, on any
                            queue, before it was submitted */
    ARCHIP_DISCARD,      /* whole blocks inside the range read as zeroes
                            afterwards and cost no space; the rest is kept */
    ARCHIP_WRITE_ZEROES, /* exact to the byte */
    ARCHIP_EXTENTS,      /* what is allocated */
    ARCHIP_COPY_RANGE,   /* from `source` to this volume */
} archip_op;

#define ARCHIP_FUA 0x1u         /* write, zeroes, copy: durable on completion */
#define ARCHIP_MAY_UNMAP 0x2u   /* zeroes: space may be given back */
#define ARCHIP_NO_FALLBACK 0x4u /* zeroes, copy: -ENOTSUP rather than writing */
#define ARCHIP_GROW 0x8u        /* write, zeroes: past the end grows the volume
                                   (rounded up to 512), durable with a flush;
                                   -EFBIG beyond 1 PiB */

#define ARCHIP_EXTENT_DATA 0x1u   /* allocated; else it reads as zeroes and
                                     takes no space */
#define ARCHIP_EXTENT_ZERO 0x2u   /* reads as zeroes */
#define ARCHIP_EXTENT_SHARED 0x4u /* at least in part from a frozen layer */

typedef struct archip_extent {
    uint64_t length_bytes;
    uint32_t flags;           /* ARCHIP_EXTENT_... */
    uint32_t reserved;
} archip_extent;

/*
 * A request.  Copied by archip_submit(), as is the iovec array; the buffers it
 * points to, `extents` and `source` stay the caller's, untouched until the
 * completion.  Any offset and length inside the volume.
 */
typedef struct archip_request {
    archip_op op;
    uint32_t flags;              /* ARCHIP_FUA ... */
    uint64_t offset_bytes;
    uint64_t length_bytes;       /* read, write: of all iovecs together */
    const struct iovec *iov;     /* read, write */
    int iov_count;
    void *user;                  /* comes back in the completion */
    archip_extent *extents;      /* extents: filled from `offset_bytes` on */
    size_t extent_count;         /* extents: room in `extents` */
    archip_volume *source;       /* copy: of the same store; may be the same
                                    volume, ranges not overlapping */
    uint64_t source_offset_bytes;
    uint64_t reserved[4];
} archip_request;

typedef struct archip_completion {
    void *user;
    int64_t result;              /* 0; extents: how many were filled, at least
                                    one, together at most length_bytes; or
                                    -errno */
    const char *error;           /* text when result < 0, else NULL; valid until
                                    the next reap of this queue */
} archip_completion;

/*
 * Submit requests.  Returns 0, or -errno when the first of them is malformed in
 * a way that only the caller's program can mend (unknown op or flag: -EINVAL);
 * then none was taken.  Everything else, also a range past the end (-EINVAL),
 * comes as a completion.  One completion each, in any order, always through
 * archip_queue_reap().
 */
int archip_submit(archip_queue *queue, const archip_request *requests,
                  size_t count);

/*
 * Collect up to `max` completions.  `timeout_ms` 0 doesn't wait, -1 waits for
 * at least one.  Returns how many; 0 when none came in time, or when waiting
 * with nothing in flight.
 */
int archip_queue_reap(archip_queue *queue, archip_completion *completions,
                      size_t max, int timeout_ms);

/* --- Synchronous calls: submit and wait ----------------------------------- */
/* Only on a queue with nothing else in flight.  `flags` as for the request. */

int archip_read(archip_queue *queue, void *buffer, size_t length_bytes,
                uint64_t offset_bytes);
int archip_write(archip_queue *queue, const void *buffer, size_t length_bytes,
                 uint64_t offset_bytes, unsigned flags);
int archip_flush(archip_queue *queue);
int archip_discard(archip_queue *queue, uint64_t offset_bytes,
                   uint64_t length_bytes);
int archip_write_zeroes(archip_queue *queue, uint64_t offset_bytes,
                        uint64_t length_bytes, unsigned flags);
/* Returns how many extents were filled. */
int archip_extents(archip_queue *queue, uint64_t offset_bytes,
                   uint64_t length_bytes, archip_extent *extents,
                   size_t extent_count);
int archip_copy_range(archip_queue *queue, uint64_t offset_bytes,
                      archip_volume *source, uint64_t source_offset_bytes,
                      uint64_t length_bytes, unsigned flags);

#ifdef __cplusplus
}
#endif
#endif
