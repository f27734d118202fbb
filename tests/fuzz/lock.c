/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two slots of a lock file and the file that makes a directory a store, as
 * the dir store reads them.  Who gets the lock has a token above any that could
 * be read; afterwards the file says so.
 */
#include "fuzz.h"

#include "base/crc32c.h"
#include "store/dir-format.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const size_t fuzz_memory_base = 8 << 20, fuzz_memory_factor = 64;

enum { MODE_SEAL = 1, MODE_FRAME = 2, MODE_STORE = 4, MODE_RESET = 8 };

static struct store *dir_store;
static char *folder;
static int lock_fd = -1, format_fd = -1;
static struct dir_format good_format;

static void finish(void)
{
    static const char *const leaves[] = {
        "maps/56/564f4c554d4500000000000000000000/lock",
        "maps/56/564f4c554d4500000000000000000000", "maps/56", "maps",
        "names", "intents", "blocks", DIR_FORMAT_NAME, ".",
    };

    store_close(dir_store);
    for (size_t i = 0; i < G_N_ELEMENTS(leaves); i++) {
        g_autofree char *path = g_build_filename(folder, leaves[i], NULL);

        remove(i + 1 < G_N_ELEMENTS(leaves) ? path : folder);
    }
    g_free(folder);
}

static int open_leaf(const char *leaf)
{
    g_autofree char *path = g_build_filename(folder, leaf, NULL);
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void begin(void)
{
    const char *parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    struct store_owner me = { .pid = 1, .open = true }, holder;
    struct id128 id = fuzz_volume();
    struct store_lock *lock;
    g_autofree char *location = NULL;
    int rc;

    folder = g_build_filename(parent, "archipelago-fuzz-XXXXXX", NULL);
    g_assert(g_mkdtemp(folder));
    location = g_strdup_printf("dir:%s?io=buffered", folder);
    rc = store_open(location, STORE_OPEN_CREATE, &dir_store, NULL);
    g_assert_cmpint(rc, ==, 0);
    rc = dir_store->driver->lock(dir_store, &id, STORE_LOCK_WRITE, &me, &lock,
                                 &holder, NULL);
    g_assert_cmpint(rc, ==, 0);
    dir_store->driver->unlock(lock);
    lock_fd = open_leaf("maps/56/564f4c554d4500000000000000000000/lock");
    format_fd = open_leaf(DIR_FORMAT_NAME);
    rc = (int)pread(format_fd, &good_format, sizeof(good_format), 0);
    g_assert_cmpint(rc, ==, sizeof(good_format));
    atexit(finish);
}

/* --- Locks ---------------------------------------------------------------------- */

static void seal(void *data, size_t crc_offset)
{
    uint32_t crc = GUINT32_TO_BE(crc32c(0, data, crc_offset));

    memcpy((uint8_t *)data + crc_offset, &crc, sizeof(crc));
}

/* A slot that a reader would take, by FORMAT.md. */
static uint64_t slot_token(const struct dir_lock_slot *slot)
{
    struct dir_lock_slot copy = *slot;

    seal(&copy, offsetof(struct dir_lock_slot, crc));
    return copy.crc == slot->crc &&
                   !memcmp(slot->magic, DIR_LOCK_MAGIC, sizeof(slot->magic)) &&
                   GUINT32_FROM_BE(slot->version) == DIR_LOCK_VERSION &&
                   !slot->owner[sizeof(slot->owner) - 1] &&
                   !slot->host[sizeof(slot->host) - 1] &&
                   GUINT64_FROM_BE(slot->token) <= UINT64_C(1) << 62
               ? GUINT64_FROM_BE(slot->token)
               : 0;
}

static void check_holder(struct store_owner *holder)
{
    struct id128 id = fuzz_volume();
    GError *error = NULL;
    bool held;
    int rc = dir_store->driver->holder(dir_store, &id, holder, &held, &error);

    expect_error(rc, error);
    g_assert(!held);
    g_assert(memchr(holder->owner, 0, sizeof(holder->owner)));
    g_assert(memchr(holder->host, 0, sizeof(holder->host)));
}

static void check_lock(uint64_t highest)
{
    struct store_owner me = { .owner = "fuzz", .pid = 1, .open = true };
    struct store_owner holder = { .pid = 0 }, after;
    struct id128 id = fuzz_volume();
    struct store_lock *lock;
    GError *error = NULL;
    int rc = dir_store->driver->lock(dir_store, &id, STORE_LOCK_WRITE, &me,
                                     &lock, &holder, &error);

    expect_error(rc, error);
    if (rc < 0) {
        g_assert_cmpint(rc, ==, -EUCLEAN);
        return;
    }
    g_assert_cmpuint(me.token, >, highest);
    dir_store->driver->unlock(lock);
    check_holder(&after);
    g_assert_cmpuint(after.token, ==, me.token);
    g_assert_cmpstr(after.owner, ==, "fuzz");
    g_assert(!after.open);
}

static void check_reset(void)
{
    struct id128 id = fuzz_volume();
    GError *error = NULL;
    int rc = dir_store->driver->reset_lock(dir_store, &id, &error);

    expect_error(rc, error);
}

static void run_lock(struct input *input, unsigned modes)
{
    struct dir_lock_slot slots[2] = { { .magic = { 0 } } };
    struct store_owner holder;
    size_t bytes = sizeof(slots);
    const uint8_t *data = take_bytes(input, &bytes);
    uint64_t highest = 0;

    memcpy(slots, data, bytes);
    for (int i = 0; i < 2; i++) {
        if (modes & MODE_FRAME) {
            memcpy(slots[i].magic, DIR_LOCK_MAGIC, sizeof(slots[i].magic));
            slots[i].version = GUINT32_TO_BE(DIR_LOCK_VERSION);
        }
        if (modes & MODE_SEAL) {
            seal(&slots[i], offsetof(struct dir_lock_slot, crc));
        }
        if (bytes >= (size_t)(i + 1) * sizeof(slots[i])) {
            highest = MAX(highest, slot_token(&slots[i]));
        }
    }
    g_assert_cmpint(ftruncate(lock_fd, 0), ==, 0);
    g_assert_cmpint(pwrite(lock_fd, slots, bytes, 0), ==, (gssize)bytes);
    check_holder(&holder);
    if (modes & MODE_RESET) {
        check_reset();
    }
    check_lock(highest);
}

/* --- The store's own file ------------------------------------------------------- */

static void run_format(struct input *input, unsigned modes)
{
    g_autofree char *location = g_strdup_printf("dir:%s?io=buffered", folder);
    struct dir_format format = { { 0 } };
    size_t bytes = sizeof(format);
    const uint8_t *data = take_bytes(input, &bytes);
    struct store *store;
    GError *error = NULL;
    int rc;

    memcpy(&format, data, bytes);
    if (modes & MODE_FRAME) {
        memcpy(format.magic, DIR_FORMAT_MAGIC, sizeof(format.magic));
    }
    if (modes & MODE_SEAL) {
        seal(&format, offsetof(struct dir_format, crc));
    }
    g_assert_cmpint(ftruncate(format_fd, 0), ==, 0);
    g_assert_cmpint(pwrite(format_fd, &format, bytes, 0), ==, (gssize)bytes);
    rc = store_open(location, 0, &store, &error);
    expect_error(rc, error);
    if (rc == 0) {
        g_assert(!memcmp(format.magic, good_format.magic,
                         sizeof(format.magic)));
        g_assert(format.incompatible == 0);
        store_close(store);
    }
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned modes = (unsigned)take(&input, 1);

    if (!dir_store) {
        begin();
    }
    if (modes & MODE_STORE) {
        run_format(&input, modes);
    } else {
        run_lock(&input, modes);
    }
}

/* --- Seeds ------------------------------------------------------------------------ */

static void put_seed(void (*put)(const char *, const void *, size_t),
                     const char *name, unsigned modes, const void *data,
                     size_t bytes)
{
    g_autofree uint8_t *seed = g_malloc(bytes + 1);

    seed[0] = (uint8_t)modes;
    memcpy(seed + 1, data, bytes);
    put(name, seed, bytes + 1);
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    struct dir_lock_slot slots[2];

    begin();
    g_assert_cmpint(pread(lock_fd, slots, sizeof(slots), 0), ==,
                    sizeof(slots));
    put_seed(put, "raw", 0, slots, sizeof(slots));
    put_seed(put, "sealed", MODE_SEAL, slots, sizeof(slots));
    put_seed(put, "torn", 0, slots, 600);
    slots[1].flags = GUINT32_TO_BE(DIR_LOCK_OPEN);
    put_seed(put, "open", MODE_SEAL | MODE_FRAME, slots, sizeof(slots));
    slots[0].crc = slots[1].crc = 1;
    put_seed(put, "reset", MODE_RESET, slots, sizeof(slots));
    memset(slots[0].owner, 'o', sizeof(slots[0].owner));
    memset(slots[1].host, 'h', sizeof(slots[1].host));
    memset(slots[1].reserved, 'r', sizeof(slots[1].reserved));
    put_seed(put, "no-end", MODE_SEAL | MODE_FRAME, slots, sizeof(slots));
    slots[1].token = UINT64_MAX;
    put_seed(put, "last-token", MODE_SEAL | MODE_FRAME, slots,
             sizeof(slots));
    put_seed(put, "store", MODE_STORE, &good_format, sizeof(good_format));
    good_format.incompatible = 1;
    put_seed(put, "store-feature", MODE_STORE | MODE_SEAL | MODE_FRAME,
             &good_format, sizeof(good_format));
}
