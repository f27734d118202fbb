/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of operations that the fault loop runs over. */
#ifndef TESTS_FAULTS_OPERATIONS_H
#define TESTS_FAULTS_OPERATIONS_H

#include "scene.h"

/* Nothing of it can fail: it makes no calls. */
#define OPERATION_HARMLESS 1u
/* The store isn't opened before it. */
#define OPERATION_OPENS_STORE 2u
/* Nobody hears what became of it. */
#define OPERATION_UNTOLD 4u

struct operation {
    const char *symbol; /* of the public function */
    const char *title;  /* which use of it */
    enum scene_start start;
    unsigned flags;
    /* Without faults. */
    void (*prepare)(struct scene *scene);
    /* The call: 0 or more, or -errno with the text in archip_error(). */
    int (*run)(struct scene *scene);
    /* After it failed, without faults, in the same state; NULL: `run`. */
    int (*retry)(struct scene *scene);
};

extern const struct operation operations[];
extern const unsigned operation_count;

#endif
