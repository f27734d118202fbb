/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a store has of one volume, out of an input: a sequence of parts, each
 * with a kind, a few numbers and some bytes.  Pages are made of the bytes that
 * differ from zero.  Sealed, all checksums, lengths, references and names are
 * set right, so that the rest is believed.
 */
#ifndef TESTS_FUZZ_BLOBS_H
#define TESTS_FUZZ_BLOBS_H

#include "fuzz.h"

enum blob_kind {
    BLOB_HEADER,        /* bytes */
    BLOB_PAGE,          /* tree, level, number, position (2), offset (2),
                           bytes: of the body, or of all when not sealed */
    BLOB_RECORD,        /* epoch (8), bytes: appended to that journal */
    BLOB_OBJECT,        /* layer, index */
    BLOB_NAME,          /* bytes: the name record of "v" */
    BLOB_INTENT,        /* bytes */
    BLOB_KINDS,
};

struct page_blob {
    struct id128 layer;
    uint64_t number;
    uint8_t bytes[FORMAT_PAGE_BYTES];
};

struct journal_blob {
    uint64_t epoch;
    GByteArray *records;
};

struct blobs {
    uint8_t *header;
    size_t header_bytes;
    GPtrArray *pages;           /* struct page_blob */
    GPtrArray *journals;        /* struct journal_blob */
    GArray *objects;            /* struct store_object */
    uint8_t *name, *intent;
    size_t name_bytes, intent_bytes;
};

void blobs_take(struct blobs *blobs, struct input *input, bool sealed);
void blobs_free(struct blobs *blobs);
/* Put all of it into a store. */
void blobs_store(const struct blobs *blobs, struct store *store);

/* The parts of a volume of this process's, for seeds: after a byte of modes. */
GByteArray *blobs_of(struct store *store, const struct id128 *id,
                     unsigned modes);

#endif
