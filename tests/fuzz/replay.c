/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a fuzzer without libFuzzer.
 *
 *   fuzz-NAME FILE|FOLDER...    each file; at its end, how many
 *   fuzz-NAME --seeds FOLDER    writes the inputs to begin with
 */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>

static const char *seeds_folder;

static void seed_put(const char *name, const void *data, size_t bytes)
{
    g_autofree char *leaf = g_strdup_printf("seed-%s", name);
    g_autofree char *path = g_build_filename(seeds_folder, leaf, NULL);
    g_autoptr(GError) error = NULL;

    if (!g_file_set_contents(path, data, (gssize)bytes, &error)) {
        g_error("%s", error->message);
    }
}

static unsigned run_file(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *data = NULL;
    gsize bytes;
    uint8_t *exact;

    if (!g_file_get_contents(path, &data, &bytes, &error)) {
        g_error("%s", error->message);
    }
    /* What fails is named; and no byte lies behind the last one. */
    fprintf(stderr, "%s\n", path);
    exact = malloc(MAX(bytes, 1));
    g_assert(exact);
    memcpy(exact, data, bytes);
    fuzz_run(exact, bytes);
    free(exact);
    return 1;
}

static unsigned run(const char *path)
{
    g_autoptr(GDir) folder = g_dir_open(path, 0, NULL);
    unsigned count = 0;
    const char *leaf;

    if (!folder) {
        return run_file(path);
    }
    while ((leaf = g_dir_read_name(folder))) {
        g_autofree char *child = g_build_filename(path, leaf, NULL);

        count += run(child);
    }
    return count;
}

int main(int argc, char **argv)
{
    unsigned count = 0;

    if (argc == 3 && g_str_equal(argv[1], "--seeds")) {
        seeds_folder = argv[2];
        fuzz_seeds(seed_put);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        count += run(argv[i]);
    }
    printf("%u inputs\n", count);
    return count ? 0 : 1;
}
