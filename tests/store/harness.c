/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Temporary stores, and requests in one line. */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- Places --------------------------------------------------------------- */

static bool takes_direct(const char *base)
{
    g_autofree char *name = g_strdup_printf("%s/direct-XXXXXX", base);
    int fd = g_mkstemp_full(name, O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    void *data = NULL;
    bool works;

    if (fd < 0) {
        return false;
    }
    unlink(name);
    works = posix_memalign(&data, 4096, 4096) == 0 &&
            memset(data, 0, 4096) && pwrite(fd, data, 4096, 0) == 4096;
    free(data);
    close(fd);
    return works;
}

static bool has_direct;

const char *harness_base(void)
{
    static const char *base;

    if (!base) {
        base = g_get_tmp_dir();
        has_direct = takes_direct(base);
        if (!has_direct) {
            g_printerr("%s doesn't take O_DIRECT, trying /var/tmp\n", base);
            has_direct = takes_direct("/var/tmp");
            base = has_direct ? "/var/tmp" : base;
        }
    }
    return base;
}

bool harness_has_direct(void)
{
    harness_base();
    return has_direct;
}

char *harness_make_root(void)
{
    char *root = g_strdup_printf("%s/archipelago-test-XXXXXX", harness_base());

    g_assert_nonnull(g_mkdtemp(root));
    return root;
}

static int remove_one(const char *path, const struct stat *status, int type,
                      struct FTW *where)
{
    return remove(path);
}

void harness_remove(const char *path)
{
    g_assert_cmpint(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), ==, 0);
}

/* --- Stores --------------------------------------------------------------- */

static void open_store(struct fixture *fixture)
{
    g_autoptr(GError) error = NULL;

    store_open(fixture->location, STORE_OPEN_CREATE, &fixture->store, &error);
    g_assert_no_error(error);
    store_queue_open(fixture->store, fixture->queue_flags, &fixture->queue,
                     &error);
    g_assert_no_error(error);
}

void fixture_open(struct fixture *fixture, const char *pattern,
                  unsigned queue_flags)
{
    const char *place = strstr(pattern, "%s");

    *fixture = (struct fixture){.queue_flags = queue_flags};
    fixture->root = harness_make_root();
    fixture->layer = id128_random();
    fixture->location =
        place ? g_strdup_printf("%.*s%s%s", (int)(place - pattern), pattern,
                                fixture->root, place + 2)
              : g_strdup_printf("%s%p-%u", pattern, (void *)fixture,
                                g_random_int());
    open_store(fixture);
}

void fixture_reopen(struct fixture *fixture)
{
    store_queue_close(fixture->queue);
    store_close(fixture->store);
    open_store(fixture);
}

void fixture_close(struct fixture *fixture)
{
    store_queue_close(fixture->queue);
    store_close(fixture->store);
    harness_remove(fixture->root);
    g_free(fixture->root);
    g_free(fixture->location);
}

struct store_object block(const struct fixture *fixture, uint64_t number)
{
    return (struct store_object){STORE_BLOCK, fixture->layer, number};
}

/* --- Requests ------------------------------------------------------------- */

static int do_transfer(struct fixture *fixture, enum store_op op,
                       struct store_object object, uint64_t offset_bytes,
                       void *data, size_t bytes, unsigned flags)
{
    struct iovec iov = {data, bytes};
    struct store_request request = {
        .op = op,
        .flags = flags,
        .object = object,
        .offset_bytes = offset_bytes,
        .length_bytes = bytes,
        .iov = &iov,
        .iov_count = 1,
        .create_bytes = flags & STORE_CREATE ? 4u << 20 : 0,
    };

    return store_run(fixture->queue, &request);
}

int do_write(struct fixture *fixture, struct store_object object,
             uint64_t offset_bytes, const void *data, size_t bytes,
             unsigned flags)
{
    return do_transfer(fixture, STORE_WRITE, object, offset_bytes, (void *)data,
                       bytes, flags);
}

int do_read(struct fixture *fixture, struct store_object object,
            uint64_t offset_bytes, void *data, size_t bytes)
{
    return do_transfer(fixture, STORE_READ, object, offset_bytes, data, bytes,
                       0);
}

int do_op(struct fixture *fixture, enum store_op op, struct store_object object,
          uint64_t offset_bytes, uint64_t length_bytes, unsigned flags)
{
    struct store_request request = {
        .op = op,
        .flags = flags,
        .object = object,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
    };

    return store_run(fixture->queue, &request);
}

uint64_t do_extent(struct fixture *fixture, struct store_object object,
                   uint64_t offset_bytes, uint64_t length_bytes, bool *is_data)
{
    struct store_request request = {
        .op = STORE_EXTENT,
        .object = object,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
    };

    g_assert_cmpint(store_run(fixture->queue, &request), ==, 0);
    *is_data = request.extent.is_data;
    return request.extent.length_bytes;
}

uint8_t *make_buffer(size_t bytes, unsigned seed)
{
    void *data = NULL;
    uint32_t state = seed;

    g_assert_cmpint(posix_memalign(&data, 4096, bytes), ==, 0);
    memset(data, 0, bytes);
    for (size_t i = 0; seed && i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        ((uint8_t *)data)[i] = (uint8_t)(state >> 24);
    }
    return data;
}

bool is_all(const uint8_t *data, uint8_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (data[i] != value) {
            return false;
        }
    }
    return true;
}

void wait_for_zero(struct store_queue *queue, const unsigned *count)
{
    while (*count > 0) {
        struct pollfd wait = {store_queue_fd(queue), POLLIN, 0};

        if (store_poll(queue) == 0) {
            g_assert_cmpint(poll(&wait, 1, 30000), ==, 1);
        }
    }
}

unsigned count_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    unsigned count = 0;

    g_assert_nonnull(folder);
    while (readdir(folder)) {
        count++;
    }
    closedir(folder);
    return count;
}
