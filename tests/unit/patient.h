/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A store of two volumes to be damaged: "v" has a frozen layer, objects over a
 * base and whole ones, "w" is a bystander.  It is made once, and copied for
 * each test.
 */
#ifndef TESTS_PATIENT_H
#define TESTS_PATIENT_H

#include "fixture.h"

#define SIZE (4 * MIB)
#define OBJECT 65536u

struct patient {
    char *pristine, *scratch;   /* directories: whole, and to be damaged */
    char *location;             /* of the latter */
    char *v_id, *v_layer, *v_frozen, *w_id, *w_layer;
    char *v_sum, *w_sum;        /* patient_content() of the whole ones */
};

/* The one that all tests of a program share, healed. */
struct patient *patient_shared(void);
void patient_shared_end(void);
void patient_begin(struct patient *patient);
void patient_end(struct patient *patient);
/* Start anew from the whole store. */
void patient_heal(struct patient *patient);

/* Run a shell command, which must succeed. */
void patient_run(const char *format, ...) G_GNUC_PRINTF(1, 2);
/* A sum over all that can be read of a volume; NULL: it can't. */
char *patient_content(archip_store *store, const char *name);
/* "w" has its content, and so has the volume `v_name` that of "v", unless that
 * is NULL. */
void patient_expect(struct patient *patient, const char *v_name);
/* A sum over all names, sorts and contents of files, locks too. */
char *patient_tree_sum(const char *path);

/* Files of the store that is to be damaged. */
char *patient_v_file(struct patient *patient, const char *end);
char *patient_block_file(struct patient *patient, const char *layer,
                         const char *end);
char *patient_page_file(struct patient *patient, const char *layer);
/* The id that stands in a file. */
char *patient_id_at(const char *file, size_t offset);
/* Flip a bit. */
void patient_flip(const char *file, long at);

/* A child writes five objects more into "v", each followed by a flush, and one
 * without, and is killed.  The program runs patient_child() as "child write".
 * */
void patient_kill(struct patient *patient);
/* What it flushed, beside what was there before, can be read. */
void patient_expect_killed(struct patient *patient);
int patient_child(const char *location);

/* --- Checking ------------------------------------------------------------ */

struct result {
    GString *codes;             /* sorted, each once, blank between */
    unsigned outcomes[8];
    int rc;
    archip_check_summary summary;
};

struct result check_store(archip_store *store, bool repair);
struct result check_at(const char *location, bool repair);
void result_clear(struct result *result);
/* A check finds those codes and no other, all with that outcome. */
void expect(const char *location, bool repair, const char *codes,
            archip_outcome outcome);

#endif
