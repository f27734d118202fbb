/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sequence of sections, each with its number and CRC; the last has the CRC of
 * all others' CRCs.  So nothing of the file can be changed, left out, doubled
 * or cut off without being noticed.
 */
#include "backup/backup.h"

#include "base/crc32c.h"
#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STREAM_STEP_BYTES ((size_t)1 << 20)

static int write_all(int fd, const void *data, size_t bytes, GError **error)
{
    const uint8_t *at = data;

    while (bytes > 0) {
        ssize_t put = write(fd, at, bytes);

        if (put < 0 && errno != EINTR) {
            return error_set_errno(error, errno, "can't write the metadata");
        }
        at += put > 0 ? put : 0;
        bytes -= put > 0 ? (size_t)put : 0;
    }
    return 0;
}

static void stream_passed(struct stream *stream, be32 crc, uint64_t bytes)
{
    stream->crcs = crc32c(stream->crcs, &crc, sizeof(crc));
    stream->number++;
    stream->at_bytes += sizeof(struct stream_head) + bytes;
}

int stream_write(struct stream *stream, enum stream_type type,
                 const void *part, size_t part_bytes, const void *rest,
                 size_t rest_bytes, GError **error)
{
    struct stream_head head = {
        .magic = GUINT32_TO_BE(STREAM_MAGIC),
        .version = GUINT16_TO_BE(STREAM_VERSION),
        .type = GUINT16_TO_BE((uint16_t)type),
        .number = GUINT64_TO_BE(stream->number),
        .bytes = GUINT64_TO_BE(part_bytes + rest_bytes),
    };
    uint32_t crc = crc32c(0, &head, sizeof(head));
    int rc;

    crc = crc32c(crc, part, part_bytes);
    crc = crc32c(crc, rest, rest_bytes);
    head.crc = GUINT32_TO_BE(crc);
    rc = write_all(stream->fd, &head, sizeof(head), error);
    if (rc == 0) {
        rc = write_all(stream->fd, part, part_bytes, error);
    }
    if (rc == 0) {
        rc = write_all(stream->fd, rest, rest_bytes, error);
    }
    stream_passed(stream, head.crc, part_bytes + rest_bytes);
    return rc;
}

static int stream_fail(const struct stream *stream, GError **error,
                       const char *what)
{
    return error_set(error, EUCLEAN,
                     "the metadata file is damaged at byte %" G_GUINT64_FORMAT
                     " (section %" G_GUINT64_FORMAT "): %s",
                     stream->at_bytes, stream->number, what);
}

static int read_all(struct stream *stream, uint64_t offset, void *data,
                    size_t bytes, GError **error)
{
    uint8_t *at = data;

    while (bytes > 0) {
        ssize_t got = pread(stream->fd, at, bytes,
                            (off_t)(stream->at_bytes + offset));

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set_errno(error, errno, "can't read the metadata");
        }
        if (got == 0) {
            return stream_fail(stream, error, "it ends too early");
        }
        at += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

static int head_check(const struct stream *stream,
                      const struct stream_head *head, GError **error)
{
    if (GUINT32_FROM_BE(head->magic) != STREAM_MAGIC) {
        return stream_fail(stream, error, stream->number
                                              ? "there is no section"
                                              : "it isn't a metadata file");
    }
    if (GUINT16_FROM_BE(head->version) != STREAM_VERSION) {
        return error_set(error, EOPNOTSUPP, "the metadata file has format "
                         "version %u; this program knows %u: use a newer one",
                         GUINT16_FROM_BE(head->version), STREAM_VERSION);
    }
    if (GUINT64_FROM_BE(head->number) != stream->number) {
        return stream_fail(stream, error, "another section stands here");
    }
    return GUINT64_FROM_BE(head->bytes) > STREAM_BYTES_MAX
               ? stream_fail(stream, error, "a section has an impossible "
                                            "length")
               : 0;
}

static int payload_grow(uint8_t **data, size_t bytes, GError **error)
{
    uint8_t *longer = g_try_realloc(*data, bytes);

    if (!longer) {
        return error_set_errno(error, ENOMEM, "a section of %zu bytes", bytes);
    }
    *data = longer;
    return 0;
}

/* Memory grows with what is really there, not by what a few bytes say. */
static int payload_read(struct stream *stream, size_t bytes, uint8_t **data,
                        GError **error)
{
    size_t room = MIN(bytes, STREAM_STEP_BYTES), at = 0;
    int rc = payload_grow(data, room + 1, error);

    while (rc == 0 && at < bytes) {
        if (at == room) {
            room = MIN(bytes, 2 * room);
            rc = payload_grow(data, room + 1, error);
        }
        if (rc == 0) {
            rc = read_all(stream, sizeof(struct stream_head) + at, *data + at,
                          room - at, error);
        }
        at = room;
    }
    return rc;
}

int stream_read(struct stream *stream, enum stream_type *type,
                uint8_t **payload, size_t *bytes, GError **error)
{
    g_autofree uint8_t *data = NULL;
    struct stream_head head, zeroed;
    uint32_t crc;
    int rc = read_all(stream, 0, &head, sizeof(head), error);

    if (rc == 0) {
        rc = head_check(stream, &head, error);
    }
    if (rc < 0) {
        return rc;
    }
    *bytes = GUINT64_FROM_BE(head.bytes);
    rc = payload_read(stream, *bytes, &data, error);
    if (rc < 0) {
        return rc;
    }
    zeroed = head;
    zeroed.crc = 0;
    crc = crc32c(crc32c(0, &zeroed, sizeof(zeroed)), data, *bytes);
    if (crc != GUINT32_FROM_BE(head.crc)) {
        return stream_fail(stream, error, "its checksum is wrong");
    }
    *type = (enum stream_type)GUINT16_FROM_BE(head.type);
    *payload = g_steal_pointer(&data);
    stream_passed(stream, head.crc, *bytes);
    return 0;
}
