/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a metadata file.  All of it is read and checked, down to each CRC,
 * before a byte of it is believed; then volume by volume goes into the store
 * (install.c).
 */
#include "backup/backup.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct import {
    struct stream stream;
    GPtrArray *volumes;         /* struct stored_volume */
    struct stored_volume *open; /* of which sections are being read */
    bool started, ended;
};

static void stored_volume_free(gpointer data)
{
    struct stored_volume *volume = data;

    g_free(volume->name);
    if (volume->header) {
        g_bytes_unref(volume->header);
    }
    g_array_unref(volume->objects);
    g_free(volume);
}

/* --- Sections, in their order --------------------------------------------- */

static int take_start(struct import *import, const uint8_t *payload,
                      size_t bytes)
{
    const struct stream_start *start = (const void *)payload;

    if (import->started || bytes != sizeof(*start) ||
        memcmp(start->magic, STREAM_START_MAGIC,
               sizeof(STREAM_START_MAGIC))) {
        return -EUCLEAN;
    }
    import->started = true;
    return 0;
}

static int take_volume(struct import *import, const uint8_t *payload,
                       size_t bytes)
{
    const struct stream_volume *section = (const void *)payload;
    struct stored_volume *volume;

    if (!import->started || import->open || bytes != sizeof(*section) ||
        section->name[sizeof(section->name) - 1] ||
        archip_name_check(section->name) < 0) {
        return -EUCLEAN;
    }
    volume = g_new0(struct stored_volume, 1);
    memcpy(volume->id.bytes, section->id, sizeof(section->id));
    volume->name = g_strdup(section->name);
    volume->objects = g_array_new(false, false, sizeof(struct stored_object));
    g_ptr_array_add(import->volumes, volume);
    import->open = volume;
    return 0;
}

static int take_header(struct import *import, const uint8_t *payload,
                       size_t bytes)
{
    if (!import->open || import->open->header ||
        bytes > FORMAT_HEADER_BYTES_MAX) {
        return -EUCLEAN;
    }
    import->open->header = g_bytes_new(payload, bytes);
    return 0;
}

static int take_object(struct import *import, enum store_kind kind,
                       const struct stream *before, const uint8_t *payload,
                       size_t bytes)
{
    const struct stream_object *section = (const void *)payload;
    struct stored_object stored = { .object = { .kind = kind },
                                    .at_bytes = before->at_bytes,
                                    .number = before->number };
    size_t unit = kind == STORE_PAGE ? FORMAT_PAGE_BYTES : FORMAT_RECORD_ALIGN;

    if (!import->open || !import->open->header || bytes <= sizeof(*section) ||
        (bytes - sizeof(*section)) % unit) {
        return -EUCLEAN;
    }
    memcpy(stored.object.id.bytes, section->id, sizeof(section->id));
    stored.object.number = GUINT64_FROM_BE(section->number);
    if (kind == STORE_PAGE ? bytes != sizeof(*section) + unit
                           : !id128_equal(&stored.object.id,
                                          &import->open->id)) {
        return -EUCLEAN;
    }
    g_array_append_val(import->open->objects, stored);
    return 0;
}

static int take_volume_end(struct import *import)
{
    if (!import->open || !import->open->header) {
        return -EUCLEAN;
    }
    import->open = NULL;
    return 0;
}

static int take_end(struct import *import, uint32_t crcs,
                    const uint8_t *payload, size_t bytes)
{
    const struct stream_end *end = (const void *)payload;

    if (!import->started || import->open || bytes != sizeof(*end) ||
        GUINT32_FROM_BE(end->crc) != crcs ||
        GUINT64_FROM_BE(end->volume_count) != import->volumes->len) {
        return -EUCLEAN;
    }
    import->ended = true;
    return 0;
}

static int take_section(struct import *import, const struct stream *before,
                        enum stream_type type, const uint8_t *payload,
                        size_t bytes)
{
    switch (type) {
    case STREAM_START:
        return take_start(import, payload, bytes);
    case STREAM_VOLUME:
        return take_volume(import, payload, bytes);
    case STREAM_HEADER:
        return take_header(import, payload, bytes);
    case STREAM_PAGE:
        return take_object(import, STORE_PAGE, before, payload, bytes);
    case STREAM_JOURNAL:
        return take_object(import, STORE_JOURNAL, before, payload, bytes);
    case STREAM_VOLUME_END:
        return take_volume_end(import);
    case STREAM_END:
        return take_end(import, before->crcs, payload, bytes);
    }
    return -EUCLEAN;
}

static int import_read(struct import *import, GError **error)
{
    uint8_t byte;

    while (!import->ended) {
        struct stream before = import->stream;
        g_autofree uint8_t *payload = NULL;
        enum stream_type type;
        size_t bytes;
        int rc = stream_read(&import->stream, &type, &payload, &bytes, error);

        if (rc == 0 &&
            take_section(import, &before, type, payload, bytes) < 0) {
            rc = error_set(error, EUCLEAN, "the metadata file is damaged at "
                           "byte %" G_GUINT64_FORMAT ": section %"
                           G_GUINT64_FORMAT " can't stand there",
                           before.at_bytes, before.number);
        }
        if (rc < 0) {
            return rc;
        }
    }
    if (pread(import->stream.fd, &byte, 1, (off_t)import->stream.at_bytes) >
        0) {
        return error_set(error, EUCLEAN, "something follows the end of the "
                                         "metadata");
    }
    return 0;
}

int stored_object_read(int fd, const struct stored_object *stored,
                       uint8_t **bytes, size_t *length, GError **error)
{
    struct stream stream = { .fd = fd, .at_bytes = stored->at_bytes,
                             .number = stored->number };
    enum stream_type type;
    int rc = stream_read(&stream, &type, bytes, length, error);

    if (rc == 0) {
        *length -= sizeof(struct stream_object);
        memmove(*bytes, *bytes + sizeof(struct stream_object), *length);
    }
    return rc;
}

/* --- Volumes -------------------------------------------------------------- */

struct wanted {
    const char *const *names;   /* NULL: all */
    unsigned flags;
    int (*each)(const archip_metadata_volume *volume, void *opaque);
    void *opaque;
    int result;                 /* of the first that was left out */
};

static int import_tell(const struct wanted *wanted, const char *name,
                       const struct install *install, const GError *error)
{
    char id[ID128_TEXT_BYTES];
    archip_metadata_volume volume = {
        .name = name,
        .error = error ? error->message : NULL,
    };

    if (install) {
        volume.id = id128_text(&install->stored->id, id);
        volume.page_count = install->stored->objects->len;
        volume.missing_count = install->missing_count;
        volume.newer_count = install->newer_count;
    }
    return wanted->each ? wanted->each(&volume, wanted->opaque) : 0;
}

static int import_volume(struct check *check, int fd, struct wanted *wanted,
                         const struct stored_volume *stored)
{
    struct install install = {
        .check = check,
        .fd = fd,
        .flags = wanted->flags,
        .stored = stored,
    };
    g_autoptr(GError) error = NULL;
    int rc = install_volume(&install, &error);

    if (rc == 0 && !(wanted->flags & ARCHIP_IMPORT_DRY_RUN)) {
        /* The next ones must not take what this one has. */
        inventory_renew_volume(check, check->inventory, &stored->id,
                               stored->name);
    }
    if (rc < 0 && !wanted->result) {
        wanted->result = rc;
        api_fail_text(-rc, "volume '%s': %s", stored->name, error->message);
    }
    return import_tell(wanted, stored->name, &install, error);
}

static bool has_volume(const GPtrArray *volumes, const char *name)
{
    for (guint i = 0; i < volumes->len; i++) {
        if (!strcmp(((struct stored_volume *)volumes->pdata[i])->name,
                    name)) {
            return true;
        }
    }
    return false;
}

static int import_missing(const GPtrArray *volumes, struct wanted *wanted)
{
    int rc = 0;

    for (const char *const *name = wanted->names; rc == 0 && name && *name;
         name++) {
        g_autoptr(GError) error = NULL;

        if (!has_volume(volumes, *name)) {
            error_set(&error, ENOENT, "it isn't in the file");
            wanted->result = wanted->result ? wanted->result : -ENOENT;
            api_fail_text(ENOENT, "volume '%s': %s", *name, error->message);
            rc = import_tell(wanted, *name, NULL, error);
        }
    }
    return rc;
}

static int import_volumes(archip_store *store, int fd,
                          const GPtrArray *volumes, struct wanted *wanted,
                          GError **error)
{
    static const archip_check_options options;
    struct check check = { .api = store, .store = store->store,
                           .options = &options, .repair = true };
    int rc = store_queue_open(store->store, STORE_QUEUE_MAY_BLOCK,
                              &check.queue, error);

    if (rc < 0) {
        return rc;
    }
    rc = inventory_take(&check, &check.inventory, error);
    if (rc == 0) {
        rc = import_missing(volumes, wanted);
    }
    for (guint i = 0; rc == 0 && i < volumes->len; i++) {
        const struct stored_volume *stored = volumes->pdata[i];

        if (!wanted->names || g_strv_contains(wanted->names, stored->name)) {
            rc = import_volume(&check, fd, wanted, stored);
        }
    }
    inventory_free(check.inventory);
    g_free(check.hindrance);
    store_queue_close(check.queue);
    return rc;
}

/* What is put in has no name at first, as what a repair takes away. */
static int import_alone(archip_store *store, int fd, const GPtrArray *volumes,
                        struct wanted *wanted, GError **error)
{
    const struct store_driver *driver = store->store->driver;
    struct store_lock *lock;
    int rc;

    if (wanted->flags & ARCHIP_IMPORT_DRY_RUN) {
        return import_volumes(store, fd, volumes, wanted, error);
    }
    rc = driver->lock(store->store, NULL, STORE_LOCK_REPAIR, NULL, &lock, NULL,
                      error);
    if (rc < 0) {
        error_prefix(error, "can't import into %s: ", store->store->location);
        return rc;
    }
    rc = import_volumes(store, fd, volumes, wanted, error);
    driver->unlock(lock);
    return rc;
}

int archip_metadata_import(archip_store *store, int fd,
                           const char *const *volumes, unsigned flags,
                           int (*each)(const archip_metadata_volume *volume,
                                       void *opaque),
                           void *opaque)
{
    struct import import = {
        .stream = { .fd = fd },
        .volumes = g_ptr_array_new_with_free_func(stored_volume_free),
    };
    struct wanted wanted = { volumes, flags, each, opaque, 0 };
    GError *error = NULL;
    int rc;

    if (flags & ~(ARCHIP_IMPORT_OVERWRITE | ARCHIP_IMPORT_FORCE |
                  ARCHIP_IMPORT_DRY_RUN)) {
        return api_fail_text(EINVAL, "unknown import flags 0x%x", flags);
    }
    rc = import_read(&import, &error);
    if (rc == 0) {
        rc = import_alone(store, fd, import.volumes, &wanted, &error);
    }
    g_ptr_array_unref(import.volumes);
    if (error) {
        return api_fail(error);
    }
    return rc ? rc : wanted.result;
}
