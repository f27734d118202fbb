/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzzers share: see fuzz.h.
 *
 * GLib isn't instrumented.  Where it calls the C library, the sanitizer sees
 * that; what it does in loops of its own is done here again.
 */
#include "fuzz.h"

#include "base/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* In place of GLib's, for the sanitizer to see what it reads: all of `src`. */
gsize g_strlcpy(gchar *dest, const gchar *src, gsize dest_size)
{
    gsize length = strlen(src);

    if (dest_size) {
        memcpy(dest, src, MIN(length, dest_size - 1));
        dest[MIN(length, dest_size - 1)] = '\0';
    }
    return length;
}

/* --- Memory ----------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN
#endif
#endif

#ifdef HAS_ASAN
/* As sanitizer/allocator_interface.h has them, which gcc doesn't bring. */
int __sanitizer_install_malloc_and_free_hooks(
    void (*taken)(const volatile void *memory, size_t bytes),
    void (*freed)(const volatile void *memory));
size_t __sanitizer_get_allocated_size(const volatile void *memory);

static size_t memory_used, memory_bound;
static bool memory_watched;

static void memory_taken(const volatile void *memory, size_t bytes)
{
    if (!memory_watched) {
        return;
    }
    memory_used += bytes;
    if (memory_used > memory_bound) {
        memory_watched = false;
        g_printerr("%zu bytes are allocated, %zu of them now: the bound is "
                   "%zu\n", memory_used, bytes, memory_bound);
        abort();
    }
}

static void memory_freed(const volatile void *memory)
{
    size_t bytes;

    if (memory_watched && memory) {
        bytes = __sanitizer_get_allocated_size(memory);
        memory_used -= MIN(bytes, memory_used);
    }
}
#endif

void fuzz_run(const uint8_t *data, size_t bytes)
{
#ifdef HAS_ASAN
    static bool is_set_up;

    if (!is_set_up) {
        __sanitizer_install_malloc_and_free_hooks(memory_taken, memory_freed);
        is_set_up = true;
    }
    memory_used = 0;
    memory_bound = fuzz_memory_base + fuzz_memory_factor * bytes;
    memory_watched = true;
    fuzz_one(data, bytes);
    memory_watched = false;
#else
    fuzz_one(data, bytes);
#endif
}

/* --- Inputs ----------------------------------------------------------------- */

uint64_t take(struct input *input, size_t bytes)
{
    uint64_t value = 0;

    while (bytes--) {
        value <<= 8;
        if (input->left) {
            value |= *input->at++;
            input->left--;
        }
    }
    return value;
}

const uint8_t *take_bytes(struct input *input, size_t *bytes)
{
    const uint8_t *start = input->at;

    *bytes = MIN(*bytes, input->left);
    input->at += *bytes;
    input->left -= *bytes;
    return start;
}

char *take_text(struct input *input)
{
    char *text = g_strndup((const char *)input->at, input->left);
    size_t bytes = strlen(text) + 1;

    take_bytes(input, &bytes);
    return text;
}

void expect_error(int rc, GError *error)
{
    if (rc >= 0) {
        g_assert_no_error(error);
        return;
    }
    g_assert(error);
    g_assert_cmpint(error->code, ==, -rc);
    g_assert_cmpint(error->code, <, 4096);
    g_assert_cmpuint(strlen(error->message), >, 8);
    g_error_free(error);
}

struct id128 fuzz_volume(void)
{
    return (struct id128){ { 'V', 'O', 'L', 'U', 'M', 'E' } };
}

struct id128 fuzz_layer(unsigned number)
{
    return (struct id128){ { 'L', 'A', 'Y', 'E', 'R', (uint8_t)number } };
}

void fuzz_seal(void *data, size_t bytes, size_t crc_offset)
{
    if (bytes >= crc_offset + 4) {
        be32 crc = GUINT32_TO_BE(format_crc(data, bytes, crc_offset));

        memcpy((uint8_t *)data + crc_offset, &crc, sizeof(crc));
    }
}

/* --- Stores and files --------------------------------------------------------- */

static int collect_id(const struct id128 *id, void *opaque)
{
    g_array_append_vals(opaque, id, 1);
    return 0;
}

static int collect_record(const struct store_record *record, void *opaque)
{
    struct store_record copy = *record;

    copy.text = g_strdup(record->text);
    g_array_append_val((GArray *)opaque, copy);
    return 0;
}

static void empty_records(struct store *store, enum store_record_kind kind)
{
    g_autoptr(GArray) records =
        g_array_new(false, false, sizeof(struct store_record));

    store->driver->list(store, kind, collect_record, records, NULL);
    for (guint i = 0; i < records->len; i++) {
        struct store_record *record =
            &g_array_index(records, struct store_record, i);

        store->driver->drop(store, record, NULL);
        g_free((char *)record->text);
    }
}

void fuzz_empty(struct store *store)
{
    static const enum store_kind kinds[] = { STORE_BLOCK, STORE_PAGE,
                                             STORE_JOURNAL };

    for (size_t kind = 0; kind < G_N_ELEMENTS(kinds); kind++) {
        g_autoptr(GArray) ids = g_array_new(false, false,
                                            sizeof(struct id128));

        store->driver->list_ids(store, kinds[kind], collect_id, ids, NULL);
        for (guint i = 0; i < ids->len; i++) {
            store->driver->remove_all(store, kinds[kind],
                                      &g_array_index(ids, struct id128, i),
                                      NULL);
        }
    }
    empty_records(store, STORE_HEADER);
    empty_records(store, STORE_NAME);
    empty_records(store, STORE_INTENT);
}

void fuzz_put(struct store *store, const struct store_record *record,
              const void *value, size_t bytes)
{
    int rc = store->driver->put(store, record, value,
                                MIN(bytes, STORE_RECORD_BYTES_MAX), false,
                                NULL);

    g_assert_cmpint(rc, ==, 0);
}

void fuzz_write(struct store *store, const struct store_object *object,
                uint64_t offset, const void *data, size_t bytes)
{
    struct iovec iov = { (void *)data, bytes };
    struct store_request request = {
        .op = STORE_WRITE,
        .object = *object,
        .offset_bytes = offset,
        .length_bytes = bytes,
        .iov = &iov,
        .iov_count = 1,
    };
    struct store_queue *queue;
    int rc = store_queue_open(store, STORE_QUEUE_MAY_BLOCK, &queue, NULL);

    g_assert_cmpint(rc, ==, 0);
    if (store_run(queue, &request) == -ENOENT) {
        request.flags = STORE_CREATE;
        store_run(queue, &request);
    }
    g_assert_cmpint(request.result, ==, 0);
    store_queue_close(queue);
}

int fuzz_file(const void *data, size_t bytes)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, data, bytes), ==, (gssize)bytes);
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    return fd;
}
