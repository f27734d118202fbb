/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bringing back a store's metadata out of a file: what is taken can be exported
 * and taken once more, and opens.
 */
#include "blobs.h"

#include "backup/backup.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

const size_t fuzz_memory_base = 64 << 20, fuzz_memory_factor = 32 << 10;

enum { MODE_SEAL = 1, MODE_RAW = 2, MODE_FORCE = 4, MODE_DRY = 8,
       MODE_ODD = 16 };

/* --- Making a file --------------------------------------------------------------- */

static void write_object(struct stream *stream, enum stream_type type,
                         const struct id128 *id, uint64_t number,
                         const void *data, size_t bytes)
{
    struct stream_object object = { .number = GUINT64_TO_BE(number) };

    memcpy(object.id, id->bytes, sizeof(object.id));
    stream_write(stream, type, &object, sizeof(object), data, bytes, NULL);
}

static void write_volume(struct stream *stream, const struct blobs *blobs)
{
    struct stream_volume volume = { .name = "v" };
    struct id128 id = fuzz_volume();

    memcpy(volume.id, id.bytes, sizeof(volume.id));
    if (blobs->name_bytes) {
        memcpy(volume.name, blobs->name,
               MIN(blobs->name_bytes, sizeof(volume.name)));
    }
    stream_write(stream, STREAM_VOLUME, &volume, sizeof(volume), "", 0, NULL);
    stream_write(stream, STREAM_HEADER, blobs->header ? blobs->header : (void *)"",
                 blobs->header_bytes, "", 0, NULL);
    for (guint i = 0; i < blobs->pages->len; i++) {
        const struct page_blob *page = blobs->pages->pdata[i];

        write_object(stream, STREAM_PAGE, &page->layer, page->number,
                     page->bytes, FORMAT_PAGE_BYTES);
    }
    for (guint i = 0; i < blobs->journals->len; i++) {
        const struct journal_blob *journal = blobs->journals->pdata[i];

        write_object(stream, STREAM_JOURNAL, &id, journal->epoch,
                     journal->records->data, journal->records->len);
    }
    stream_write(stream, STREAM_VOLUME_END, "", 0, "", 0, NULL);
}

/* Sections of any kind in any order, with right numbers and checksums. */
static void write_odd(struct stream *stream, struct input *input)
{
    while (input->left) {
        unsigned type = (unsigned)take(input, 1);
        size_t bytes = take(input, 2);
        const uint8_t *data = take_bytes(input, &bytes);

        stream_write(stream, (enum stream_type)type, data, bytes, "", 0, NULL);
    }
}

static void write_file(struct stream *stream, struct input *input,
                       unsigned modes)
{
    struct stream_start start = { .magic = STREAM_START_MAGIC };
    struct stream_end end = { .volume_count = GUINT64_TO_BE(1) };
    struct blobs blobs;

    if (modes & MODE_ODD) {
        write_odd(stream, input);
        end.volume_count = GUINT64_TO_BE(modes >> 5);
    } else {
        stream_write(stream, STREAM_START, &start, sizeof(start), "", 0, NULL);
        blobs_take(&blobs, input, modes & MODE_SEAL);
        write_volume(stream, &blobs);
        blobs_free(&blobs);
    }
    end.crc = GUINT32_TO_BE(stream->crcs);
    stream_write(stream, STREAM_END, &end, sizeof(end), "", 0, NULL);
}

/* --- Importing ------------------------------------------------------------------- */

struct told {
    unsigned taken, left_out;
};

static int tell(const archip_metadata_volume *volume, void *opaque)
{
    struct told *told = opaque;

    g_assert_cmpint(archip_name_check(volume->name), ==, 0);
    g_assert(!volume->error || strlen(volume->error) > 8);
    told->taken += !volume->error;
    told->left_out += volume->error != NULL;
    return 0;
}

static int import(archip_store *store, int fd, unsigned flags,
                  struct told *told)
{
    int rc;

    *told = (struct told){ 0, 0 };
    rc = archip_metadata_import(store, fd, NULL, flags, tell, told);
    g_assert(rc == 0 || strlen(archip_error()) > 20);
    g_assert(rc < 0 || !told->left_out);
    return rc;
}

/* Out of one store and into another: the same again. */
static void check_again(archip_store *store)
{
    int fd = fuzz_file("", 0), second_fd = fuzz_file("", 0);
    struct told told;
    archip_store *other;
    int rc = archip_metadata_export(store, fd, NULL, NULL, NULL);

    if (rc == -EOPNOTSUPP) {
        close(fd);      /* hashed layers */
        close(second_fd);
        return;
    }
    g_assert_cmpint(rc, ==, 0);
    g_assert_cmpint(archip_store_open("memory:other", ARCHIP_STORE_CREATE,
                                      &other), ==, 0);
    rc = import(other, fd, ARCHIP_IMPORT_FORCE, &told);
    g_assert_cmpint(rc, ==, 0);
    rc = archip_metadata_export(other, second_fd, NULL, NULL, NULL);
    g_assert_cmpint(rc, ==, 0);
    g_assert_cmpint(lseek(fd, 0, SEEK_END), ==,
                    lseek(second_fd, 0, SEEK_END));
    fuzz_empty(other->store);
    archip_store_close(other);
    close(fd);
    close(second_fd);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned modes = (unsigned)take(&input, 1);
    unsigned flags = (modes & MODE_FORCE ? ARCHIP_IMPORT_FORCE : 0) |
                     (modes & MODE_DRY ? ARCHIP_IMPORT_DRY_RUN : 0);
    struct stream stream = { .fd = -1 };
    archip_store *store;
    struct told told;
    int rc;

    g_assert_cmpint(archip_store_open("memory:metadata", ARCHIP_STORE_CREATE,
                                      &store), ==, 0);
    if (modes & MODE_RAW) {
        stream.fd = fuzz_file(input.at, input.left);
    } else {
        stream.fd = fuzz_file("", 0);
        write_file(&stream, &input, modes);
    }
    rc = import(store, stream.fd, flags, &told);
    if (rc == 0 && told.taken && !(modes & MODE_DRY)) {
        check_again(store);
        g_assert_cmpint(import(store, stream.fd, flags, &told), ==, -EEXIST);
    }
    close(stream.fd);
    fuzz_empty(store->store);
    archip_store_close(store);
}

/* --- Seeds ------------------------------------------------------------------------ */

static void put_raw(void (*put)(const char *, const void *, size_t),
                    archip_store *store)
{
    int fd = fuzz_file("", 0);
    uint8_t bytes[4096] = { MODE_RAW };
    ssize_t got;

    g_assert_cmpint(archip_metadata_export(store, fd, NULL, NULL, NULL), ==,
                    0);
    got = pread(fd, bytes + 1, sizeof(bytes) - 1, 0);
    g_assert_cmpint(got, >, 0);
    put("raw", bytes, (size_t)got + 1);
    close(fd);
}

static void put_impossible(void (*put)(const char *, const void *, size_t))
{
    uint8_t bytes[1 + sizeof(struct stream_head)] = { MODE_RAW };
    struct stream_head head = {
        .magic = GUINT32_TO_BE(STREAM_MAGIC),
        .version = GUINT16_TO_BE(STREAM_VERSION),
        .type = GUINT16_TO_BE(STREAM_START),
        .bytes = GUINT64_TO_BE(STREAM_BYTES_MAX),
    };

    memcpy(bytes + 1, &head, sizeof(head));
    put("long-section", bytes, sizeof(bytes));
}

static void put_blobs(void (*put)(const char *, const void *, size_t),
                      archip_store *store, const char *name)
{
    static const unsigned modes[] = { MODE_SEAL | MODE_FORCE, MODE_SEAL,
                                      MODE_SEAL | MODE_FORCE | MODE_DRY };
    struct id128 id;

    g_assert_cmpint(volume_find(store, "v", &id, NULL), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        GByteArray *seed = blobs_of(store->store, &id, modes[i]);
        g_autofree char *file = g_strdup_printf("%s-%u", name, modes[i]);

        /* Without the name record, which says another thing here. */
        put(file, seed->data, seed->len - sizeof(struct format_name) - 3);
        g_byte_array_unref(seed);
    }
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    static const uint8_t odd[] = { MODE_ODD, STREAM_START, 0, 2, 'A', 'B',
                                   STREAM_VOLUME, 0, 0, STREAM_VOLUME_END, 0,
                                   0 };
    archip_store *store;
    archip_volume *volume;
    archip_queue *queue;

    g_assert_cmpint(archip_store_open("memory:seeds", ARCHIP_STORE_CREATE,
                                      &store), ==, 0);
    g_assert_cmpint(archip_volume_create(store, "v", 1 << 30, NULL), ==, 0);
    put_raw(put, store);
    put_impossible(put);
    put("odd", odd, sizeof(odd));
    g_assert_cmpint(archip_volume_open(store, "v", ARCHIP_OPEN_WRITE, NULL,
                                       &volume), ==, 0);
    g_assert_cmpint(archip_queue_open(volume, 0, &queue), ==, 0);
    g_assert_cmpint(archip_write(queue, "abc", 3, 5 << 20, 0), ==, 0);
    g_assert_cmpint(archip_flush(queue), ==, 0);
    put_blobs(put, store, "journal");
    archip_queue_close(queue);
    archip_volume_close(volume);
    put_blobs(put, store, "pages");
    g_assert_cmpint(archip_volume_remove(store, "v"), ==, 0);
    archip_store_close(store);
}
