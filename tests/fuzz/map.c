/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole of opening a map, over a store whose header, pages, journals and
 * records come from the input: what opens shows the same map each time, for
 * reading, for writing, and again after that; and the check looks at it,
 * repairs it, and then finds nothing more to do.
 */
#include "blobs.h"

#include "check/check.h"

#include <errno.h>
#include <string.h>

/* A journal's item of 24 bytes may change an entry anywhere in a volume of
 * 1 PiB: two pages.  A repair may copy an object, of at most 64 MiB. */
const size_t fuzz_memory_base = 192 << 20, fuzz_memory_factor = 16 << 10;

#define WALK_MAX 4096u

/* CRASH: what was opened for writing isn't closed. */
enum { MODE_SEAL = 1, MODE_WRITE = 2, MODE_CHECK = 4, MODE_REPAIR = 8,
       MODE_CRASH = 16 };

/* --- Walking -------------------------------------------------------------------- */

/* What a walk met: an error, or a sum over all entries. */
struct seen {
    int result;
    unsigned count;
    uint64_t size_bytes, sum;
};

static void seen_add(struct seen *seen, const void *data, size_t bytes)
{
    const uint8_t *at = data;

    while (bytes--) {
        seen->sum = (seen->sum ^ *at++) * UINT64_C(1099511628211);
    }
}

static int load(struct map *map, int rc, struct map_page *wanted,
                GError **error)
{
    if (rc == -EAGAIN) {
        rc = map_page_load(map, wanted, error);
        return rc < 0 ? rc : -EAGAIN;
    }
    return rc;
}

static int walk_entry(struct map *map, uint64_t index, struct seen *seen,
                      GError **error)
{
    struct map_entry entry = { 0 };
    struct map_bits bits = { { 0 } };
    struct map_page *wanted = NULL;
    struct id128 id;
    int rc;

    do {
        rc = map_lookup(map, index, &entry, &bits, &wanted, error);
    } while ((rc = load(map, rc, wanted, error)) == -EAGAIN);
    if (rc < 0) {
        return rc;
    }
    g_assert(!entry.base || entry.layer);
    do {
        rc = map_layer_id(map, entry.layer, &id, &wanted, error);
    } while ((rc = load(map, rc, wanted, error)) == -EAGAIN);
    if (rc < 0) {
        return rc;
    }
    g_assert(!id128_is_zero(&id));
    seen_add(seen, &index, sizeof(index));
    seen_add(seen, &entry, sizeof(entry));
    seen_add(seen, &id, sizeof(id));
    if (entry.base) {
        seen_add(seen, &bits, sizeof(bits));
    }
    return 0;
}

static int walk_all(struct map *map, struct seen *seen, GError **error)
{
    uint64_t end = map_object_total(&map->header), index = 0;

    for (seen->count = 0; seen->count < WALK_MAX; seen->count++, index++) {
        struct map_page *wanted = NULL;
        int rc;

        do {
            rc = map_next_used(map, index, end, &index, &wanted, error);
        } while ((rc = load(map, rc, wanted, error)) == -EAGAIN);
        if (rc < 0 || index >= end) {
            return rc;
        }
        rc = walk_entry(map, index, seen, error);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static struct seen walk(struct map *map)
{
    struct seen seen = { .size_bytes = map->header.size_bytes };
    GError *error = NULL;

    g_mutex_lock(&map->lock);
    seen.result = walk_all(map, &seen, &error);
    g_mutex_unlock(&map->lock);
    expect_error(seen.result, error);
    return seen;
}

static struct seen open_and_walk(struct store *store, bool for_write)
{
    struct id128 id = fuzz_volume();
    struct seen seen = { 0 };
    GError *error = NULL;
    struct map *map;

    seen.result = map_open(store, &id, for_write, NULL, &map, &error);
    expect_error(seen.result, error);
    if (seen.result == 0) {
        seen = walk(map);
        map_free(map);
    }
    return seen;
}

static void expect_same(const struct seen *a, const struct seen *b)
{
    g_assert_cmpint(a->result, ==, b->result);
    g_assert_cmpuint(a->size_bytes, ==, b->size_bytes);
    if (a->result == 0) {
        g_assert_cmpuint(a->count, ==, b->count);
        g_assert_cmpuint(a->sum, ==, b->sum);
    }
}

static void run_open(struct store *store, bool for_write, bool crash)
{
    struct id128 id = fuzz_volume();
    struct seen before = open_and_walk(store, false), after;
    GError *error = NULL;
    struct map *map;
    int rc;

    if (!for_write) {
        after = open_and_walk(store, false);
        expect_same(&before, &after);
        return;
    }
    rc = map_open(store, &id, true, NULL, &map, &error);
    expect_error(rc, error);
    if (rc < 0) {
        return;
    }
    after = walk(map);
    expect_same(&before, &after);
    error = NULL;
    rc = crash ? 0 : map_fold(map, true, &error);
    expect_error(rc, error);
    g_assert_cmpint(rc, ==, 0);
    map_free(map);
    after = open_and_walk(store, false);
    expect_same(&before, &after);
    /* And once more for writing. */
    after = open_and_walk(store, true);
    expect_same(&before, &after);
}

/* --- Checking ------------------------------------------------------------------- */

struct findings {
    unsigned found, failed;
};

static int finding(const archip_finding *found, void *opaque)
{
    struct findings *findings = opaque;

    g_assert(found->code && *found->code);
    g_assert(found->text && strlen(found->text) > 8);
    g_assert(found->place && *found->place);
    findings->found += found->outcome == ARCHIP_FOUND &&
                       found->severity != ARCHIP_NOTE;
    findings->failed += found->outcome == ARCHIP_FAILED;
    return 0;
}

static struct findings check_once(archip_store *store, bool repair)
{
    struct findings findings = { 0, 0 };
    archip_check_options options = {
        .flags = repair ? ARCHIP_CHECK_REPAIR : 0,
        .finding = finding,
        .opaque = &findings,
    };
    int rc = archip_check(store, &options, NULL);

    g_assert(rc == 0 || strlen(archip_error()) > 8);
    return findings;
}

static void run_check(archip_store *store, bool repair)
{
    struct findings findings = check_once(store, false);

    if (!repair) {
        return;
    }
    findings = check_once(store, true);
    if (findings.failed == 0) {
        /* What one repair uncovers may need another. */
        check_once(store, true);
        findings = check_once(store, false);
        g_assert_cmpuint(findings.found, ==, 0);
    }
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned modes = (unsigned)take(&input, 1);
    archip_store *store;
    struct blobs blobs;

    g_assert_cmpint(archip_store_open("memory:map", ARCHIP_STORE_CREATE,
                                      &store), ==, 0);
    blobs_take(&blobs, &input, modes & MODE_SEAL);
    blobs_store(&blobs, store->store);
    if (modes & MODE_CHECK) {
        run_check(store, modes & MODE_REPAIR);
    }
    run_open(store->store, modes & MODE_WRITE, modes & MODE_CRASH);
    blobs_free(&blobs);
    fuzz_empty(store->store);
    archip_store_close(store);
}

/* --- Seeds ------------------------------------------------------------------------ */

static void put_seeds(void (*put)(const char *, const void *, size_t),
                      archip_store *store, const char *name)
{
    static const unsigned modes[] = {
        MODE_SEAL, MODE_SEAL | MODE_WRITE, MODE_SEAL | MODE_CHECK,
        MODE_SEAL | MODE_CHECK | MODE_REPAIR | MODE_WRITE, 0,
    };
    struct id128 id;

    g_assert_cmpint(volume_find(store, "v", &id, NULL), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        GByteArray *seed = blobs_of(store->store, &id, modes[i]);
        g_autofree char *file = g_strdup_printf("%s-%u", name, modes[i]);

        put(file, seed->data, seed->len);
        g_byte_array_unref(seed);
    }
}

static void write_some(archip_volume *volume, uint64_t offset)
{
    archip_queue *queue;

    g_assert_cmpint(archip_queue_open(volume, 0, &queue), ==, 0);
    g_assert_cmpint(archip_write(queue, "0123456789", 10, offset, 0), ==, 0);
    g_assert_cmpint(archip_flush(queue), ==, 0);
    archip_queue_close(queue);
}

static archip_volume *open_volume(archip_store *store)
{
    archip_volume *volume;

    g_assert_cmpint(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                       &volume), ==, 0);
    return volume;
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    archip_create_options options = { .object_bytes = 65536 };
    archip_store *store;
    archip_volume *volume;

    g_assert_cmpint(archip_store_open("memory:seeds", ARCHIP_STORE_CREATE,
                                      &store), ==, 0);
    g_assert_cmpint(archip_volume_create(store, "v", UINT64_C(1) << 50,
                                         &options), ==, 0);
    put_seeds(put, store, "new");
    volume = open_volume(store);
    write_some(volume, 1 << 20);
    put_seeds(put, store, "journal");
    write_some(volume, UINT64_C(1) << 49);
    g_assert_cmpint(archip_volume_resize(volume, UINT64_C(3) << 48,
                                         ARCHIP_RESIZE_SHRINK), ==, 0);
    put_seeds(put, store, "shrunk");
    archip_volume_close(volume);
    put_seeds(put, store, "pages");
    volume = open_volume(store);
    write_some(volume, UINT64_C(1) << 48);
    write_some(volume, 1 << 20);
    put_seeds(put, store, "both");
    archip_volume_close(volume);
    g_assert_cmpint(archip_volume_remove(store, "v"), ==, 0);
    archip_store_close(store);
}
