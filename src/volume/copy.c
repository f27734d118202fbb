/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying a range, from the same volume or another of the same store: what is
 * a hole stays one, the rest is read and written in chunks.
 */
#include "volume/volume.h"

#include <errno.h>
#include <stdlib.h>

#ifndef CHUNK_BYTES
#define CHUNK_BYTES (UINT64_C(1) << 20)
#endif

struct copy {
    struct request *parent;
    uint64_t done_bytes;
    uint64_t step_bytes;        /* of the step under way */
    archip_extent extent;
    struct iovec iov;
    uint8_t *memory;
};

static void copy_ask(struct copy *copy);

static void copy_end(struct copy *copy)
{
    struct request *parent = copy->parent;

    free(copy->memory);
    g_free(copy);
    request_finish(parent);
}

/* Take a step's outcome; false when that was the end. */
static bool copy_take(struct copy *copy, struct request *step)
{
    bool good = step->result >= 0;

    if (!good) {
        copy->parent->result = step->result;
        copy->parent->error = g_steal_pointer(&step->error);
    }
    copy->parent->needs_flush |= step->needs_flush;
    request_free(step);
    if (!good) {
        copy_end(copy);
    }
    return good;
}

static void copy_step(struct copy *copy, archip_volume *volume, archip_op op,
                      unsigned flags, uint64_t offset_bytes,
                      void (*complete)(struct request *request))
{
    bool has_data = op == ARCHIP_READ || op == ARCHIP_WRITE;
    archip_request user = {
        .op = op,
        .flags = flags,
        .offset_bytes = offset_bytes + copy->done_bytes,
        .length_bytes = copy->step_bytes,
        .iov = has_data ? &copy->iov : NULL,
        .iov_count = has_data ? 1 : 0,
        .extents = &copy->extent,
        .extent_count = 1,
    };

    copy->iov = (struct iovec){ copy->memory, copy->step_bytes };
    request_start(request_new(copy->parent->queue, volume, &user, complete,
                              copy));
}

static void copy_written(struct request *step)
{
    struct copy *copy = step->opaque;

    if (!copy_take(copy, step)) {
        return;
    }
    copy->done_bytes += copy->step_bytes;
    if (copy->done_bytes == copy->parent->user.length_bytes) {
        copy->parent->needs_flush |=
            (copy->parent->user.flags & ARCHIP_FUA) != 0;
        copy_end(copy);
    } else {
        copy_ask(copy);
    }
}

static void copy_was_read(struct request *step)
{
    struct copy *copy = step->opaque;

    if (copy_take(copy, step)) {
        copy_step(copy, copy->parent->volume, ARCHIP_WRITE, 0,
                  copy->parent->user.offset_bytes, copy_written);
    }
}

static void copy_asked(struct request *step)
{
    struct copy *copy = step->opaque;
    const archip_request *user = &copy->parent->user;

    if (!copy_take(copy, step)) {
        return;
    }
    copy->step_bytes = copy->extent.length_bytes;
    if (copy->extent.flags & ARCHIP_EXTENT_ZERO) {
        copy_step(copy, copy->parent->volume, ARCHIP_WRITE_ZEROES,
                  ARCHIP_MAY_UNMAP, user->offset_bytes, copy_written);
        return;
    }
    copy->step_bytes = MIN(copy->step_bytes, CHUNK_BYTES);
    copy_step(copy, user->source, ARCHIP_READ, 0, user->source_offset_bytes,
              copy_was_read);
}

static void copy_ask(struct copy *copy)
{
    const archip_request *user = &copy->parent->user;

    copy->step_bytes = user->length_bytes - copy->done_bytes;
    copy_step(copy, user->source, ARCHIP_EXTENTS, 0, user->source_offset_bytes,
              copy_asked);
}

static const char *copy_find_fault(const archip_volume *volume,
                                   const archip_request *user, int *rc)
{
    uint64_t distance = user->offset_bytes > user->source_offset_bytes
                            ? user->offset_bytes - user->source_offset_bytes
                            : user->source_offset_bytes - user->offset_bytes;

    *rc = -EXDEV;
    if (user->source->store != volume->store) {
        return "the source is in another store";
    }
    *rc = -EINVAL;
    if (user->source == volume && distance < user->length_bytes) {
        return "source and target of the copy overlap";
    }
    *rc = -ENOTSUP;
    if (user->flags & ARCHIP_NO_FALLBACK) {
        return "this copy can't be done without moving the data";
    }
    return NULL;
}

void copy_start(struct request *request)
{
    size_t bytes = MIN(CHUNK_BYTES, request->user.length_bytes);
    g_autoptr(GError) error = NULL;
    struct copy *copy;
    const char *fault;
    void *memory;
    int rc;

    fault = copy_find_fault(request->volume, &request->user, &rc);
    if (fault || !request->user.length_bytes) {
        if (fault) {
            request_fail(request, rc, g_strdup(fault));
        }
        request_finish(request);
        return;
    }
    memory = buffer_alloc(bytes);
    if (!memory) {
        rc = buffer_fail(bytes, &error);
        request_fail(request, rc, g_strdup(error->message));
        request_finish(request);
        return;
    }
    copy = g_new0(struct copy, 1);
    copy->parent = request;
    copy->memory = memory;
    copy_ask(copy);
}
