/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sets of numbers, in pieces of 65,536: cheap where they lie close. */
#include "check/check.h"

#define PIECE_BITS 65536u
#define WORDS (PIECE_BITS / 64)

struct bits {
    GHashTable *pieces;         /* number / PIECE_BITS -> uint64_t[WORDS] */
};

struct bits *bits_new(void)
{
    struct bits *bits = g_new0(struct bits, 1);

    bits->pieces = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free,
                                         g_free);
    return bits;
}

void bits_free(struct bits *bits)
{
    if (bits) {
        g_hash_table_unref(bits->pieces);
        g_free(bits);
    }
}

static uint64_t *piece_find(const struct bits *bits, uint64_t piece)
{
    return g_hash_table_lookup(bits->pieces, &piece);
}

void bits_set(struct bits *bits, uint64_t number)
{
    uint64_t piece = number / PIECE_BITS, at = number % PIECE_BITS;
    uint64_t *words = piece_find(bits, piece);

    if (!words) {
        words = g_new0(uint64_t, WORDS);
        g_hash_table_insert(bits->pieces, g_memdup2(&piece, sizeof(piece)),
                            words);
    }
    words[at / 64] |= UINT64_C(1) << (at % 64);
}

bool bits_test(const struct bits *bits, uint64_t number)
{
    uint64_t at = number % PIECE_BITS;
    const uint64_t *words = piece_find(bits, number / PIECE_BITS);

    return words && words[at / 64] >> (at % 64) & 1;
}

uint64_t bits_count(const struct bits *bits)
{
    GHashTableIter iter;
    uint64_t count = 0;
    void *words;

    g_hash_table_iter_init(&iter, bits->pieces);
    while (g_hash_table_iter_next(&iter, NULL, &words)) {
        for (unsigned i = 0; i < WORDS; i++) {
            count += (uint64_t)__builtin_popcountll(((uint64_t *)words)[i]);
        }
    }
    return count;
}

static gint compare(gconstpointer a, gconstpointer b)
{
    const uint64_t *x = *(uint64_t *const *)a, *y = *(uint64_t *const *)b;

    return (*x > *y) - (*x < *y);
}

struct run {
    uint64_t first, count;
    int (*each)(uint64_t first, uint64_t count, void *opaque);
    void *opaque;
};

static int run_end(struct run *run)
{
    int rc = run->count ? run->each(run->first, run->count, run->opaque) : 0;

    run->count = 0;
    return rc;
}

static int run_add(struct run *run, uint64_t number)
{
    int rc = run->first + run->count != number ? run_end(run) : 0;

    run->first = run->count ? run->first : number;
    run->count++;
    return rc;
}

static int piece_runs(struct run *run, uint64_t piece, const uint64_t *words,
                      const uint64_t *without)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < WORDS; i++) {
        uint64_t word = words[i] & ~(without ? without[i] : 0);

        for (; rc == 0 && word; word &= word - 1) {
            rc = run_add(run, piece * PIECE_BITS + i * 64 +
                                  (unsigned)__builtin_ctzll(word));
        }
    }
    return rc;
}

int bits_runs(const struct bits *a, const struct bits *b,
              int (*each)(uint64_t first, uint64_t count, void *opaque),
              void *opaque)
{
    g_autoptr(GPtrArray) pieces = g_ptr_array_new();
    struct run run = { 0, 0, each, opaque };
    GHashTableIter iter;
    void *key;
    int rc = 0;

    g_hash_table_iter_init(&iter, a->pieces);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        g_ptr_array_add(pieces, key);
    }
    g_ptr_array_sort(pieces, compare);
    for (guint i = 0; rc == 0 && i < pieces->len; i++) {
        uint64_t piece = *(uint64_t *)pieces->pdata[i];

        rc = piece_runs(&run, piece, piece_find(a, piece),
                        b ? piece_find(b, piece) : NULL);
    }
    return rc == 0 ? run_end(&run) : rc;
}
