/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a store's metadata to a file.
 *
 * A reader's lock makes each volume of one moment: while it is held, a writer
 * removes neither pages nor journals, so that the header that was read, the
 * pages below it and the journals behind it belong together.  Pages that
 * couldn't be brought back are found before the first byte of their volume is
 * written.
 */
#include "backup/backup.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READER_TRIES 5000       /* of a millisecond */

struct export {
    struct check check;         /* store and queue alone */
    struct stream stream;
    int (*each)(const archip_metadata_volume *volume, void *opaque);
    void *opaque;
    uint64_t volume_count, left_out_count;
    int result;                 /* of the first volume that was left out */
    char *failure;              /* its text */
};

/* One volume. */
struct source {
    struct export *export;
    const char *name;
    struct map *map;
    GArray *refs;               /* struct map_ref */
    GPtrArray *journals;        /* GBytes, in step with: */
    GArray *epochs;             /* uint64_t, from the last to the first */
    int bad_errno;              /* of the page or journal that ended it */
    char *bad_text;
};

/* --- Reading -------------------------------------------------------------- */

static void page_found(void *opaque, const struct map_ref *ref)
{
    g_array_append_val(((struct source *)opaque)->refs, *ref);
}

static int page_bad(void *opaque, unsigned level, uint64_t position,
                    const struct map_ref *ref, const GError *error)
{
    struct source *source = opaque;

    source->bad_errno = error->code;
    source->bad_text = g_strdup(error->message);
    return -EUCLEAN;
}

static int leaf_check(void *opaque, uint64_t position, const void *body)
{
    const struct format_layer *layers = body;

    for (uint32_t i = 0; i < MAP_LAYERS_PER_PAGE; i++) {
        if (GUINT32_FROM_BE(layers[i].flags) & FORMAT_LAYER_HASHED) {
            return -EOPNOTSUPP;
        }
    }
    return 0;
}

static int source_walk(struct source *source, enum format_tree_kind kind,
                       GError **error)
{
    struct walk walk = {
        .store = source->export->check.store,
        .queue = source->export->check.queue,
        .kind = kind,
        .opaque = source,
        .page = page_found,
        .leaf = kind == FORMAT_LAYERS ? leaf_check : NULL,
        .bad = page_bad,
    };
    int rc = walk_tree(&walk, map_tree(&source->map->stored, kind));

    if (rc == -EOPNOTSUPP) {
        return error_set(error, EOPNOTSUPP, "it has hashed layers, which this "
                                            "version can't export");
    }
    if (rc < 0 && source->bad_errno != ENOENT && source->bad_errno != EUCLEAN) {
        return error_set(error, source->bad_errno, "a page of its map: %s",
                         source->bad_text);
    }
    return rc < 0 ? error_set(error, EUCLEAN, "its map is damaged: see "
                                              "\"archipelago check\"")
                  : 0;
}

static int journal_keep(uint64_t epoch, const void *records, size_t bytes,
                        void *opaque)
{
    struct source *source = opaque;
    void *copy = g_try_malloc(bytes);

    if (!copy) {
        source->bad_errno = ENOMEM;
        return -ENOMEM;
    }
    memcpy(copy, records, bytes);
    g_array_append_val(source->epochs, epoch);
    g_ptr_array_add(source->journals, g_bytes_new_take(copy, bytes));
    return 0;
}

static gint compare_refs(gconstpointer a, gconstpointer b)
{
    const struct map_ref *x = a, *y = b;
    int order = memcmp(x->layer.bytes, y->layer.bytes, sizeof(x->layer.bytes));

    return order ? order : (x->number > y->number) - (x->number < y->number);
}

static int source_read(struct source *source, const struct id128 *id,
                       GError **error)
{
    struct map_header *header;
    int rc = map_open(source->export->check.store, id, false, NULL,
                      &source->map, error);

    if (rc < 0) {
        return rc;
    }
    header = &source->map->stored;
    if (header->vmstate_bytes || header->vmstate_entries.height) {
        return error_set(error, EOPNOTSUPP, "it has a machine's state, which "
                                            "this version can't export");
    }
    rc = map_journals(source->map, journal_keep, source, error);
    if (source->bad_errno) {
        return error_set_errno(error, source->bad_errno, "its journals");
    }
    for (int kind = FORMAT_ENTRIES; rc == 0 && kind <= FORMAT_LAYERS;
         kind++) {
        rc = source_walk(source, (enum format_tree_kind)kind, error);
    }
    g_array_sort(source->refs, compare_refs);
    return rc;
}

/* --- Writing -------------------------------------------------------------- */

static int write_page(struct source *source, const struct map_ref *ref,
                      struct page_data *data, GError **error)
{
    struct export *export = source->export;
    struct stream_object object = { .number = GUINT64_TO_BE(ref->number) };
    struct iovec iov = { data->bytes, FORMAT_PAGE_BYTES };
    struct store_request request = {
        .op = STORE_READ,
        .object = { STORE_PAGE, ref->layer, ref->number },
        .length_bytes = FORMAT_PAGE_BYTES,
        .iov = &iov,
        .iov_count = 1,
    };
    int rc = store_run(export->check.queue, &request);

    if (rc < 0) {
        return error_set_errno(error, -rc, "can't read a map page");
    }
    memcpy(object.id, ref->layer.bytes, sizeof(object.id));
    return stream_write(&export->stream, STREAM_PAGE, &object, sizeof(object),
                        data->bytes, FORMAT_PAGE_BYTES, error);
}

static int write_pages(struct source *source, GError **error)
{
    struct page_data *data = page_data_new();
    int rc = 0;

    for (guint i = 0; rc == 0 && i < source->refs->len; i++) {
        rc = write_page(source,
                        &g_array_index(source->refs, struct map_ref, i), data,
                        error);
    }
    page_data_unref(data);
    return rc;
}

static int write_journals(struct source *source, GError **error)
{
    const struct id128 *id = &source->map->stored.id;
    int rc = 0;

    for (guint i = source->epochs->len; rc == 0 && i-- > 0;) {
        GBytes *records = source->journals->pdata[i];
        struct stream_object object = {
            .number = GUINT64_TO_BE(g_array_index(source->epochs, uint64_t,
                                                  i)),
        };

        memcpy(object.id, id->bytes, sizeof(object.id));
        rc = stream_write(&source->export->stream, STREAM_JOURNAL, &object,
                          sizeof(object), g_bytes_get_data(records, NULL),
                          g_bytes_get_size(records), error);
    }
    return rc;
}

static int source_write(struct source *source, GError **error)
{
    struct stream *stream = &source->export->stream;
    g_autoptr(GBytes) header = header_encode(&source->map->stored);
    struct stream_volume volume = { 0 };
    int rc;

    memcpy(volume.id, source->map->stored.id.bytes, sizeof(volume.id));
    g_strlcpy(volume.name, source->name, sizeof(volume.name));
    rc = stream_write(stream, STREAM_VOLUME, &volume, sizeof(volume), "", 0,
                      error);
    if (rc == 0) {
        rc = stream_write(stream, STREAM_HEADER,
                          g_bytes_get_data(header, NULL),
                          g_bytes_get_size(header), "", 0, error);
    }
    if (rc == 0) {
        rc = write_pages(source, error);
    }
    if (rc == 0) {
        rc = write_journals(source, error);
    }
    return rc == 0 ? stream_write(stream, STREAM_VOLUME_END, "", 0, "", 0,
                                  error)
                   : rc;
}

/* --- Volumes -------------------------------------------------------------- */

static int export_tell(struct export *export, const struct source *source,
                       const GError *error)
{
    char id[ID128_TEXT_BYTES];
    archip_metadata_volume volume = {
        .name = source->name,
        .error = error ? error->message : NULL,
        .page_count = source->refs->len,
    };

    if (source->map) {
        volume.id = id128_text(&source->map->stored.id, id);
    }
    return export->each ? export->each(&volume, export->opaque) : 0;
}

static int reader_lock(struct store *store, const struct id128 *id,
                       struct store_lock **lock, GError **error)
{
    struct store_owner me = { .owner = "metadata export" }, holder;
    int rc = -EBUSY;

    for (int tries = READER_TRIES; rc == -EBUSY && tries; tries--) {
        g_clear_error(error);
        rc = store->driver->lock(store, id, STORE_LOCK_READ, &me, lock,
                                 &holder, error);
        if (rc == -EBUSY) {
            g_usleep(1000);
        }
    }
    return rc;
}

/* -errno in `*left_out` when it can't be read; the result is of writing. */
static int export_locked(struct source *source, const struct id128 *id,
                         int *left_out, GError **error)
{
    *left_out = source_read(source, id, error);
    return *left_out == 0 ? source_write(source, error) : 0;
}

static int export_named(struct source *source, int *left_out, GError **error)
{
    struct export *export = source->export;
    struct store *store = export->check.store;
    struct store_lock *lock = NULL;
    struct id128 id;
    int rc;

    *left_out = volume_find(export->check.api, source->name, &id, error);
    if (*left_out == 0) {
        *left_out = reader_lock(store, &id, &lock, error);
    }
    if (*left_out < 0) {
        return 0;
    }
    rc = export_locked(source, &id, left_out, error);
    store->driver->unlock(lock);
    return rc;
}

static void bytes_free(gpointer bytes)
{
    g_bytes_unref(bytes);
}

static int export_volume(struct export *export, const char *name,
                         bool must_be, GError **error)
{
    struct source source = {
        .export = export,
        .name = name,
        .refs = g_array_new(false, false, sizeof(struct map_ref)),
        .journals = g_ptr_array_new_with_free_func(bytes_free),
        .epochs = g_array_new(false, false, sizeof(uint64_t)),
    };
    g_autoptr(GError) failure = NULL;
    int left_out, rc = export_named(&source, &left_out, &failure);

    if (rc < 0) {
        g_propagate_error(error, g_steal_pointer(&failure));
    } else if (left_out != -ENOENT || must_be) {
        /* One that was removed since it was listed isn't missed. */
        export->volume_count += left_out == 0;
        export->left_out_count += left_out < 0;
        if (left_out < 0 && !export->result) {
            export->result = left_out;
            export->failure =
                g_strdup_printf("volume '%s': %s", name, failure->message);
        }
        rc = export_tell(export, &source, failure);
    }
    map_free(source.map);
    g_array_unref(source.refs);
    g_ptr_array_unref(source.journals);
    g_array_unref(source.epochs);
    g_free(source.bad_text);
    return rc;
}

static int name_collect(const struct store_record *record, void *opaque)
{
    g_ptr_array_add(opaque, g_strdup(record->text));
    return 0;
}

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int export_names(struct export *export, const char *const *volumes,
                        GPtrArray *names, GError **error)
{
    struct store *store = export->check.store;

    if (!volumes) {
        return store->driver->list(store, STORE_NAME, name_collect, names,
                                   error);
    }
    for (; *volumes; volumes++) {
        g_ptr_array_add(names, g_strdup(*volumes));
    }
    g_ptr_array_sort(names, compare_names);
    return 0;
}

static int export_end(struct export *export, GError **error)
{
    struct stream_end end = {
        .volume_count = GUINT64_TO_BE(export->volume_count),
        .left_out_count = GUINT64_TO_BE(export->left_out_count),
        .crc = GUINT32_TO_BE(export->stream.crcs),
    };

    return stream_write(&export->stream, STREAM_END, &end, sizeof(end), "", 0,
                        error);
}

static int export_all(struct export *export, const char *const *volumes,
                      GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    struct stream_start start = { .magic = STREAM_START_MAGIC };
    int rc = export_names(export, volumes, names, error);

    if (rc == 0) {
        rc = stream_write(&export->stream, STREAM_START, &start,
                          sizeof(start), "", 0, error);
    }
    for (guint i = 0; rc == 0 && i < names->len; i++) {
        rc = export_volume(export, names->pdata[i], volumes != NULL, error);
    }
    return rc == 0 ? export_end(export, error) : rc;
}

int archip_metadata_export(archip_store *store, int fd,
                           const char *const *volumes,
                           int (*each)(const archip_metadata_volume *volume,
                                       void *opaque),
                           void *opaque)
{
    struct export export = {
        .check = { .api = store, .store = store->store },
        .stream = { .fd = fd },
        .each = each,
        .opaque = opaque,
    };
    GError *error = NULL;
    int rc = store_queue_open(store->store, STORE_QUEUE_MAY_BLOCK,
                              &export.check.queue, &error);

    if (rc == 0) {
        rc = export_all(&export, volumes, &error);
        store_queue_close(export.check.queue);
    }
    if (error) {
        rc = api_fail(error);
    } else if (rc == 0 && export.result) {
        rc = api_fail_text(-export.result,
                           "%" G_GUINT64_FORMAT " volumes were left out; %s",
                           export.left_out_count, export.failure);
    }
    g_free(export.failure);
    return rc;
}
