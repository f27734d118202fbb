/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a user writes for a store: locations with their options, the rules of
 * the fault store, and words that archipelago.conf explains.  No file system is
 * touched: a location of the dir store is split and not opened.
 */
#include "fuzz.h"

#include "store/location.h"
#include "volume/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const size_t fuzz_memory_base = 1 << 20, fuzz_memory_factor = 4096;

enum { MODE_SPLIT = 0, MODE_OPEN = 1, MODE_CONFIG = 2, MODES = 3 };

/* --- Options -------------------------------------------------------------------- */

/* What was split, joined again in any order, is split the same. */
static void check_split(const char *text, const char *path,
                        GHashTable *options)
{
    size_t bytes = strlen(path), pairs = 0;
    GHashTableIter iter;
    void *key, *value;

    g_assert(!strncmp(text, path, bytes));
    g_assert(text[bytes] == '?' || text[bytes] == '\0');
    g_hash_table_iter_init(&iter, options);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        g_assert(*(char *)key);
        g_assert(!strchr(key, '=') && !strchr(key, '&'));
        g_assert(!strchr(value, '&'));
        pairs += strlen(key) + strlen(value) + 2;
    }
    g_assert(bytes + pairs == strlen(text) || (!pairs && text[bytes + 1] == 0));
}

static void check_number(GHashTable *options)
{
    uint64_t value = 12;
    GError *error = NULL;
    int rc = location_get_number(options, "n", 3, 4096, &value, &error);
    const char *text = g_hash_table_lookup(options, "n");

    expect_error(rc, error);
    g_assert(value >= 3 && value <= 4096);
    g_assert(text || (rc == 0 && value == 12));
    g_assert(!text || rc < 0 || (uint64_t)atoi(text) == value);
}

static void run_split(const char *text)
{
    static const char *const known[] = { "n", "io", NULL };
    g_autoptr(GHashTable) options = NULL;
    g_autofree char *path = NULL;
    GError *error = NULL;
    int rc = location_split(text, &path, &options, &error);

    expect_error(rc, error);
    if (rc < 0) {
        return;
    }
    check_split(text, path, options);
    check_number(options);
    error = NULL;
    rc = location_check_options(options, "dir", known, &error);
    expect_error(rc, error);
}

/* --- Stores --------------------------------------------------------------------- */

/* Only stores in memory are opened. */
static void run_open(const char *text)
{
    struct store *store;
    GError *error = NULL;
    int rc;

    if (strstr(text, "dir:")) {
        return;
    }
    rc = store_open(text, 0, &store, &error);
    expect_error(rc, error);
    if (rc == 0) {
        g_assert_cmpstr(store->location, ==, text);
        g_assert(store->alignment_bytes &&
                 !(store->alignment_bytes & (store->alignment_bytes - 1)));
        store_close(store);
    }
}

/* --- Configuration ------------------------------------------------------------- */

static void check_resolved(const char *word, const char *resolved)
{
    g_autofree char *again = NULL;
    bool is_default;

    g_assert(strchr(resolved, ':'));
    /* What has a scheme stays as it is. */
    g_assert_cmpint(config_resolve(resolved, &again, &is_default, NULL), ==,
                    0);
    g_assert_cmpstr(again, ==, resolved);
    g_assert(!is_default);
}

/* The word, a NUL, the file. */
static void run_config(struct input *input)
{
    g_autofree char *word = take_text(input), *resolved = NULL;
    int fd = fuzz_file(input->at, input->left);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    bool is_default;
    GError *error = NULL;
    int rc;

    setenv("ARCHIPELAGO_CONF", path, 1);
    unsetenv("ARCHIPELAGO_STORE");
    rc = config_resolve(*word ? word : NULL, &resolved, &is_default, &error);
    expect_error(rc, error);
    g_assert((rc == 0) == (resolved != NULL));
    if (rc == 0) {
        check_resolved(word, resolved);
    }
    close(fd);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned mode = (unsigned)take(&input, 1) % MODES;
    g_autofree char *text = NULL;

    if (mode == MODE_CONFIG) {
        run_config(&input);
        return;
    }
    text = take_text(&input);
    if (mode == MODE_OPEN) {
        run_open(text);
    } else {
        run_split(text);
    }
}

static void put_texts(void (*put)(const char *, const void *, size_t),
                      unsigned mode, const char *kind,
                      const char *const *texts)
{
    for (int i = 0; texts[i]; i++) {
        g_autofree char *name = g_strdup_printf("%s-%d", kind, i);
        g_autofree char *seed = g_strdup_printf("%c%s", (char)mode, texts[i]);

        /* '|' stands for the NUL between a word and its file. */
        put(name, g_strdelimit(seed + 1, "|", '\0') - 1,
            strlen(texts[i]) + 1);
    }
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    static const char *const splits[] = {
        "/srv/volumes", "/srv?io=buffered&fds=12", "a?", "a?n=4096", "a?n=0",
        "a?n=4&n=5", "a?=b", "a?b", "", "?n=18446744073709551616", NULL,
    };
    static const char *const opens[] = {
        "memory:x", "memory:x?alignment=4096", "nothing", "none:x",
        "fault:op=write,nth=3,errno=28;op=sync,late:memory:x",
        "fault:op=any,times=0,delay_ms=5,stop:memory:x?alignment=512",
        "fault::memory:x", "fault:errno=9999:memory:x", "fault:", NULL,
    };
    static const char *const configs[] = {
        "fast|[fast]\nlocation=dir:/srv/fast\nio=buffered\n",
        "fast?fds=9|[fast]\nlocation=dir:/srv/fast?fds=3&io=direct\nfds=7\n",
        "|[archipelago]\ndefault-store=a\n[a]\nlocation=memory:x\n",
        "other|[fast]\nlocation=dir:/x\n", "a|[a]\nlocation=b\n[b]\n",
        "a|[a]\nlocatoin=dir:/x\n", "a|[a\n", "./here|", "A:b|", "|",
        NULL,
    };
    struct store *store;

    put_texts(put, MODE_SPLIT, "split", splits);
    put_texts(put, MODE_OPEN, "open", opens);
    put_texts(put, MODE_CONFIG, "config", configs);
    if (store_open("memory:x", STORE_OPEN_CREATE, &store, NULL) == 0) {
        store_close(store);
    }
}
