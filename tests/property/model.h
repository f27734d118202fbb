/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a volume may hold, byte by byte.
 *
 * The model is a sparse array of bytes that are known for certain, and a log
 * of the changes of the present round, each with the logical times at which it
 * was submitted and seen complete.  A byte read between two times may be
 *
 *  - what a change wrote that was submitted before the read ended, unless a
 *    later change (submitted after that one completed) completed before the
 *    read began;
 *  - what was there before the round, unless some change of it completed
 *    before the read began.
 *
 * So requests in flight together may win in either order, byte by byte, and
 * nothing else is let pass.  A change that isn't `certain` (it failed, or the
 * contract leaves it open) may have happened or not.
 *
 * At the end of a round, with nothing in flight, model_fold() makes the log
 * part of the array; bytes that may be one of several values are read, and are
 * what was read from then on.
 */
#ifndef PROPERTY_MODEL_H
#define PROPERTY_MODEL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

enum change_kind {
    CHANGE_ZERO,
    CHANGE_PATTERN,     /* pattern_byte() of `step` */
    CHANGE_COPY,        /* what `from` holds at source_bytes, which no change
                           of the round touches */
};

#define TIME_END UINT64_MAX

struct model;

struct change {
    enum change_kind kind;
    bool certain;
    uint64_t start_bytes, end_bytes;
    uint64_t submitted, completed;      /* logical times, from 1 */
    uint32_t step;
    const struct model *from;
    uint64_t source_bytes;
};

struct mismatch {
    uint64_t offset_bytes;
    uint8_t found;
    char *allowed;          /* text; the caller frees */
};

/* Never 0, so that a byte that was lost to zeroes is told apart. */
uint8_t pattern_byte(uint32_t step, uint64_t position);
void pattern_fill(uint32_t step, uint64_t position, uint8_t *bytes,
                  size_t length_bytes);

/* `grain_bytes`: so much at a time is of one candidate.  1; or a sector, when
 * all changes are aligned to sectors, since a crash tears none. */
struct model *model_new(size_t grain_bytes);
void model_free(struct model *model);

/* The certain bytes, of which all are zero at first. */
void model_get(const struct model *model, uint64_t offset_bytes,
               uint8_t *bytes, size_t length_bytes);
void model_put(struct model *model, uint64_t offset_bytes,
               const uint8_t *bytes, size_t length_bytes);
/* From `start_bytes` up to `end_bytes`; any length is cheap. */
void model_zero(struct model *model, uint64_t start_bytes, uint64_t end_bytes);

/* Note a change of this round. */
void model_log(struct model *model, const struct change *change);

/* Whether `bytes` (NULL: zeroes) may have been read between the two times; if
 * not, `mismatch` says where and why. */
bool model_check(const struct model *model, uint64_t offset_bytes,
                 const uint8_t *bytes, uint64_t length_bytes,
                 uint64_t submitted, uint64_t completed,
                 struct mismatch *mismatch);

/* Reads the volume; false when it can't. */
typedef bool (*model_reader)(void *opaque, uint64_t offset_bytes,
                             uint8_t *bytes, size_t length_bytes);

/* End the round.  False: the reader failed (mismatch->allowed is NULL) or what
 * it read isn't allowed. */
bool model_fold(struct model *model, model_reader reader, void *opaque,
                struct mismatch *mismatch);

/* Call `each` for each run of bytes that was ever touched, in order, at most
 * `max_bytes` long, until it returns false, which is then returned. */
bool model_each(const struct model *model, size_t max_bytes,
                bool (*each)(void *opaque, uint64_t offset_bytes,
                             size_t length_bytes),
                void *opaque);

#endif
