/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What one shot of the fault loop happens to: a store in a directory of its
 * own, with the volume "harbour" (frozen objects, some partly written over,
 * whole ones) and a bystander, "beacon"; a model of what harbour holds; and
 * what must hold afterwards.
 *
 * Whatever is wrong is a complaint: it fails the test, names the shot, and the
 * loop goes on.
 */
#ifndef TESTS_FAULTS_SCENE_H
#define TESTS_FAULTS_SCENE_H

#include "../unit/fixture.h"

#include "calls.h"

#define SIZE (30 * OBJECT)
#define SIZE_MAX_BYTES (SIZE + 4 * OBJECT) /* of one that grew */
#define OBJECT 65536u
#define BLOCK 4096u

enum scene_start {
    SCENE_CLEAN,   /* both volumes, closed properly */
    SCENE_UNCLEAN, /* harbour as its writer's death left it */
    SCENE_EMPTY,   /* an empty directory, no store */
};

struct scene {
    char *root; /* the store's directory */
    char *location;
    char *file; /* for metadata, beside it */
    archip_store *store;
    archip_volume *volume, *other;
    archip_queue *queue;
    int fd;          /* -1: none */
    unsigned before; /* descriptors */

    /* What harbour must hold: `sure` outside of the range that the operation
     * changes, there `sure` or `after` in each sector. */
    uint8_t sure[SIZE_MAX_BYTES], after[SIZE_MAX_BYTES];
    uint64_t size, size_after;
    bool jetty_before, jetty_after; /* a third volume is there */
    bool wrecked; /* volumes may be missing: they are being brought
                     back */
    uint8_t memory[2 * OBJECT]; /* for requests */
};

/* The location is its directory between `prefix` ("dir:", "fault::dir:") and
 * `options` ("?io=buffered"). */
void scene_begin(struct scene *scene, const char *prefix, const char *options,
                 enum scene_start start);
/* Close what is open; returns the first error. */
int scene_close(struct scene *scene);
/* Nothing is left open, no thread runs. */
void scene_expect_nothing_left(struct scene *scene);
/* The store is as it may be; `done`: the operation was. */
void scene_verify(struct scene *scene, bool done);
void scene_end(struct scene *scene);
void scene_clear_templates(void);

void scene_open_store(struct scene *scene);
/* harbour, and a queue. */
void scene_open(struct scene *scene, unsigned flags);
/* The operation makes these bytes of harbour `byte`. */
void scene_will_be(struct scene *scene, uint64_t offset, uint64_t length,
                   uint8_t byte);
/* It did: what was to be is. */
void scene_is(struct scene *scene);
/* Remove a tree below the store's directory. */
void scene_wreck(struct scene *scene, const char *path);

/* What is said of a complaint besides. */
extern char shot_text[512];
void complain(const char *format, ...) G_GNUC_PRINTF(1, 2);
extern unsigned complaints;
/* Codes that checks found, with how often. */
extern GHashTable *found_codes;

#endif
