/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check and repair, in sections named after the files.
 *
 * First an *inventory* is taken: which names, headers, layers and places there
 * are, and which volume claims which layer.  Then each volume is *looked* at
 * without a lock.  A look collects candidates; where a writer may be at work
 * each of them is confirmed (look.c says how) before it counts.  For a repair
 * the volume is then locked and looked at again, so that what is done rests on
 * what nobody else can change.
 *
 * What a repair may do, in the order of preference: let the volume recover as
 * any open for writing does; write a record anew, atomically; remove what a
 * crash is known to leave and no readable map refers to; set aside all else
 * that is in the way.  While any map can't be read, what it might refer to
 * stays.
 *
 * Threads: one; the store may be used by others meanwhile.
 */
#ifndef ARCHIPELAGO_CHECK_CHECK_H
#define ARCHIPELAGO_CHECK_CHECK_H

#include "volume/volume.h"

/* --- bits.c: sets of numbers ---------------------------------------------- */

struct bits;

struct bits *bits_new(void);
void bits_free(struct bits *bits);
void bits_set(struct bits *bits, uint64_t number);
bool bits_test(const struct bits *bits, uint64_t number);
uint64_t bits_count(const struct bits *bits);
/* The runs of `a` without `b` (NULL: nothing), in order, until `each` returns
 * non-zero, which is returned. */
int bits_runs(const struct bits *a, const struct bits *b,
              int (*each)(uint64_t first, uint64_t count, void *opaque),
              void *opaque);

/* --- walk.c: pages of a tree, whatever state they are in ------------------ */

struct walk {
    struct store *store;
    struct store_queue *queue;
    enum format_tree_kind kind;
    uint64_t from;              /* leaves before this one are done */
    void *opaque;
    /* A page that must be there; may be NULL, as `leaf`. */
    void (*page)(void *opaque, const struct map_ref *ref);
    int (*leaf)(void *opaque, uint64_t position, const void *body);
    /* It isn't, or isn't sound: 0 goes on behind all that lies below it, other
     * values end the walk and are returned. */
    int (*bad)(void *opaque, unsigned level, uint64_t position,
               const struct map_ref *ref, const GError *error);
};

int walk_tree(struct walk *walk, const struct map_tree *tree);

/* --- finding.c: what is told ---------------------------------------------- */

/* What would mend it. */
enum fix {
    FIX_NONE,                   /* nothing here */
    FIX_OPEN,                   /* opening for writing */
    FIX_REMOVE,                 /* removing `count` objects from `object` on */
    FIX_TRIM,                   /* cutting `object` to `size_bytes` */
    FIX_HEADER,                 /* writing the header with the right counts */
};

struct candidate {
    const char *code;
    archip_severity severity;
    enum fix fix;
    char *place, *text, *action;
    struct store_object object;
    uint64_t count, size_bytes;
};

struct check;

/* Tell it.  `outcome` with `action`. */
void check_tell(struct check *check, const char *volume, const char *code,
                archip_severity severity, archip_outcome outcome,
                uint64_t count, const char *place, const char *text,
                const char *action);
void candidate_clear(gpointer candidate);
/* As it was found. */
void candidate_tell(struct check *check, const char *volume,
                    const struct candidate *candidate);
/* After something was tried: `rc` and `error` say whether it worked. */
void check_tell_tried(struct check *check, const char *volume,
                      const char *code, archip_severity severity,
                      const char *place, const char *text, const char *action,
                      int rc, const GError *error);
/* Something couldn't be looked at; the check goes on and fails in the end. */
void check_hindered(struct check *check, const char *what, GError *error);

/* --- inventory.c: what there is ------------------------------------------- */

/* A map that has a header. */
struct volume {
    struct id128 id;
    GPtrArray *names;           /* char *, sorted */
    bool wanted;                /* to be looked at */
    bool readable;              /* `header` is valid, and all it claims known */
    bool pending;               /* an intent is about it */
    int result;                 /* of reading the header */
    char *error;
    struct map_header header;
    GArray *layers;             /* struct layer: what it claims */
};

struct layer {
    struct id128 id;
    uint32_t number;
    bool current, hashed;
};

struct inventory {
    GHashTable *volumes;        /* struct id128 -> struct volume */
    GPtrArray *order;           /* struct volume, by name, then by id */
    GHashTable *names;          /* char * -> struct id128 */
    GHashTable *bad_names;      /* char * -> GBytes: records to no avail */
    GHashTable *claims;         /* struct id128 -> GPtrArray of struct volume */
    GHashTable *intents;        /* struct id128 -> GBytes */
    GHashTable *intended;       /* struct id128: layers that intents name */
    GHashTable *changing;       /* struct id128: volumes and layers of intents
                                   that were there before places were */
    GHashTable *layers;         /* struct id128: with a place for blocks */
    GHashTable *places;         /* struct id128: with a place for maps */
    bool unreadable;            /* a map's claims aren't all known */
};

GHashTable *id_table_new(GDestroyNotify free_value);
void id_table_add(GHashTable *table, const struct id128 *id, gpointer value);

/* The places first, then who claims them.  -errno: it can't be told. */
int inventory_take(struct check *check, struct inventory **inventory,
                   GError **error);
void inventory_free(struct inventory *inventory);
/* This volume was made, by that name, since. */
void inventory_renew_volume(struct check *check, struct inventory *inventory,
                            const struct id128 *id, const char *name);
struct volume *inventory_find(const struct inventory *inventory,
                              const struct id128 *id);
/* How many maps claim it. */
unsigned inventory_claims(const struct inventory *inventory,
                          const struct id128 *layer);
const char *volume_name(const struct volume *volume);   /* or NULL */

/* --- look.c, look-objects.c: at one volume -------------------------------- */

/* A layer of the volume and what its map refers to in it. */
struct look_layer {
    struct layer layer;
    struct bits *referenced;
    bool shared;                /* other maps claim it */
};

struct look {
    struct check *check;
    struct volume *volume;
    bool locked;                /* by us: nothing moves */
    bool held;                  /* by a writer */
    struct store_owner holder;
    struct map_header header;
    bool have_header;
    GArray *candidates;         /* struct candidate */
    GHashTable *pages;          /* struct store_object: those referred to */
    GPtrArray *layers;          /* struct look_layer */
    uint64_t object_count;      /* entries that aren't zeroes */
    uint64_t count_error;       /* more than the header says, modulo 2^64 */
    uint64_t last_page;         /* highest number in the current layer */
    bool pages_bad, map_bad;    /* not everything is known */
    bool lost;                  /* something is damaged for good */
    bool torn;
};

/* 0: all candidates count; -ENOENT: there is no such volume any more; other
 * -errno: it couldn't be told what there is. */
int look_at(struct check *check, struct volume *volume, bool locked,
            struct look **look, GError **error);
void look_free(struct look *look);
struct candidate *look_add(struct look *look, const char *code,
                           archip_severity severity, enum fix fix);
/* Has the header been written since the look began? */
bool look_is_stale(struct look *look);
/* A view of the map, journals and all, as it is now; map_free() it. */
int look_open_map(struct look *look, struct map **map, GError **error);
/* Objects that are missing, too long, or that nobody refers to. */
int look_objects(struct look *look, GError **error);
struct look_layer *look_find_layer(const struct look *look, uint32_t number);

/* --- repair.c ------------------------------------------------------------- */

/* Look at it, tell what was found, and mend it if that is asked for. */
int check_volume(struct check *check, struct volume *volume, GError **error);
int check_lock(struct check *check, const struct id128 *id,
               struct store_lock **lock, GError **error);

/* --- names.c: names, locks, intents, strays ------------------------------- */

#define CHECK_PAUSE_US 20000    /* for what goes by in a moment */

/* Each takes another inventory where it must be sure. */
int check_locks(struct check *check, GError **error);
int check_intents(struct check *check, GError **error);
int check_strays(struct check *check, GError **error);
int check_names(struct check *check, GError **error);
/* Does somebody have it open for writing? */
bool check_is_held(struct check *check, const struct id128 *id);
/* Was it asked for? */
bool check_wants(const struct check *check, const char *name);

/* --- places.c: those that nobody claims ----------------------------------- */

int check_unclaimed(struct check *check, GError **error);

/* --- check.c -------------------------------------------------------------- */

struct check {
    archip_store *api;
    struct store *store;
    struct store_queue *queue;
    const archip_check_options *options;
    bool repair;
    int stopped;                /* what a callback returned */
    archip_check_summary summary;
    struct inventory *inventory;
    bool strays_left;           /* setting one aside failed */
    int hindered;               /* first -errno */
    char *hindrance;
};

#endif
