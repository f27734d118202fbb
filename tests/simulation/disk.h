/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated file system with a volatile cache, behind src/base/sys.h and, for
 * what the core calls directly, the linker's --wrap.
 *
 * What it promises is the least that POSIX and Linux's journalling file systems
 * have in common, and no order beyond it:
 *
 *  - bytes of a file are durable once fsync(), fdatasync() or syncfs() of it
 *    returned, or the write carried RWF_DSYNC; before that, after a power cut,
 *    each 512-byte sector holds any of the values it had since it was last
 *    durable, independently of every other sector;
 *  - a file's size likewise;
 *  - an entry of a directory is durable once that directory was fsync()ed;
 *    until then each creation, removal or rename is kept or not, independently.
 *    A rename is one step: never both names lost;
 *  - a killed process loses only its own memory.
 *
 * There may be an end to its space: each file, each folder and each 4 KiB of a
 * file that were ever written take a unit of it, until they are punched, cut
 * off, or nobody has the file open and no name leads to it.  What is written
 * over something takes none.
 *
 * Not assumed: that syncing a file makes its entry durable, that operations
 * reach the disk in order, that a later rename implies an earlier write.
 *
 * A failed fsync() of a file, or write-back that fails by itself: of each
 * sector the new value is durable, or is lost for good although reads still
 * show it, and each descriptor is told once, as on Linux.  A failed one of a
 * directory leaves its entries as they were: file systems that lose metadata
 * shut down.
 */
#ifndef SIMULATION_DISK_H
#define SIMULATION_DISK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define SECTOR 512u
#define NAME_BYTES 64

/* --- disk.c: files, directories, and what of them is durable -------------- */

/* Failures of write-back, as Linux counts them: every descriptor that was open
 * then learns of one at its next sync; of those opened later the first does, if
 * nobody had learned of it before. */
struct failures {
    unsigned count;
    bool told;
};

/* Bytes, sparse: chunks that are NULL read as zeroes. */
struct image {
    uint8_t **chunks;
    unsigned count;
    unsigned used;              /* chunks that aren't NULL */
};

struct change {
    uint64_t start, end;
    uint8_t *bytes;             /* NULL: zeroes, chunks given back */
};

struct entry {
    char name[NAME_BYTES];
    struct inode *inode;
};

/* Not yet durable: `remove` (if any) goes, `add` (if any) comes. */
struct entry_change {
    char remove[NAME_BYTES], add[NAME_BYTES];
    struct inode *inode;        /* of `add` */
};

struct inode {
    unsigned number;
    bool is_folder, reached;
    bool released;              /* nobody can get at it: it takes no space */
    unsigned links, opens;
    /* A file: */
    struct image now, safe;
    uint64_t size_now, size_safe;
    GArray *changes;            /* struct change, in order */
    struct failures failures;
    /* A folder: */
    GArray *entries_now, *entries_safe;         /* struct entry */
    GArray *entry_changes;      /* struct entry_change, in order */
    /* Its lock: */
    unsigned shared_count;
    bool exclusive;
};

/* Of which calls some fail. */
enum fault { FAULT_ANY, FAULT_WRITE, FAULT_SYNC, FAULT_NAME, FAULT_KINDS };

enum moment { IN_ANY, IN_SYNC, IN_FUA, IN_NAMING };

struct disk {
    GPtrArray *inodes;
    struct inode *root;
    unsigned last_inode;
    bool dead;                  /* the process: every call fails, without
                                   effect */
    bool dying;                 /* in this very call */
    bool power_cut;             /* else killed */
    uint64_t calls;             /* so far in this life */
    uint64_t crash_at;          /* die at that call; 0: never */
    enum moment crash_in;       /* or at the first such call after it */
    uint64_t hash;              /* of all that happened */
    enum fault faults;          /* those injected */
    /* Each once in so many; 0: never. */
    unsigned error_once_in, short_once_in;
    unsigned errors_to_crash;   /* after so many more the process soon dies; 0:
                                   it doesn't for that */
    uint64_t used, limit;       /* units of space; no limit: 0 */
    unsigned injected;          /* errors so far in this life */
    uint64_t full_answers;      /* of those: for want of space */
    unsigned failed_syncs;      /* since the last power cut */
    struct failures failures;   /* of any file */
    int64_t clock_ns;
    bool trace;
};

extern struct disk disk;

void disk_new(void);
void disk_free(void);
/* What is left when the process has ended: after a power cut only what is
 * durable, and of the rest as much as chance has it. */
void disk_recover(void);
void disk_note(const char *format, ...) G_GNUC_PRINTF(1, 2);
void disk_hash(uint64_t value);

struct inode *inode_new(bool is_folder);
struct entry *folder_find(const struct inode *folder, const char *name);
/* Now; durable when the folder is synced. */
void folder_change(struct inode *folder, const char *remove, const char *add,
                   struct inode *inode);
void folder_sync(struct inode *folder);

void file_read(const struct inode *inode, uint64_t offset, uint8_t *bytes,
               size_t length);
/* Now; `bytes` NULL: zeroes. */
void file_write(struct inode *inode, uint64_t offset, const uint8_t *bytes,
                size_t length);
/* Some of the sectors, as a write that something cut off. */
void file_write_torn(struct inode *inode, uint64_t offset,
                     const uint8_t *bytes, size_t length);
void file_resize(struct inode *inode, uint64_t size);
/* Zeroes that take space. */
void file_allocate(struct inode *inode, uint64_t offset, uint64_t length);
/* So much of [offset, offset + length) as there is space for. */
uint64_t file_room(const struct inode *inode, uint64_t offset,
                   uint64_t length);
/* Whether another file can be made. */
bool disk_has_room(void);
/* To be called when a name or a descriptor of it went. */
void inode_let_go(struct inode *inode);
bool file_is_data(const struct inode *inode, uint64_t offset);
void file_sync(struct inode *inode);
void file_sync_range(struct inode *inode, uint64_t start, uint64_t end);
/* A sync that reports an error. */
void file_sync_failed(struct inode *inode, uint64_t start, uint64_t end);

/* --- calls.c: descriptors and the table of system calls ------------------- */

/* Put the simulated calls into `sys`. */
void calls_install(void);
/* Descriptors that are open. */
unsigned calls_open_count(void);
/* In what the process shall die. */
enum moment draw_moment(void);
/* Called as the process ends: transfers under way are partly carried out. */
void transfers_cut(void);

#endif
