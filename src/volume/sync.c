/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Synchronous calls: submit and wait. */
#include "volume/volume.h"

#include <errno.h>

static int run(archip_queue *queue, const archip_request *request)
{
    archip_completion completion;
    int rc;

    if (queue->requests || queue->completed.length) {
        return api_fail_text(EBUSY, "other requests are in flight on this "
                                    "queue");
    }
    queue->quiet = true;
    rc = archip_submit(queue, request, 1);
    if (rc == 0) {
        archip_queue_reap(queue, &completion, 1, -1);
        rc = (int)completion.result;
        if (rc < 0) {
            api_fail_text(-rc, "%s", completion.error);
        }
    }
    queue->quiet = false;
    return rc;
}

int archip_read(archip_queue *queue, void *buffer, size_t length_bytes,
                uint64_t offset_bytes)
{
    struct iovec iov = { buffer, length_bytes };
    archip_request request = {
        .op = ARCHIP_READ,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
        .iov = &iov,
        .iov_count = 1,
    };

    return run(queue, &request);
}

int archip_write(archip_queue *queue, const void *buffer, size_t length_bytes,
                 uint64_t offset_bytes, unsigned flags)
{
    struct iovec iov = { (void *)buffer, length_bytes };
    archip_request request = {
        .op = ARCHIP_WRITE,
        .flags = flags,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
        .iov = &iov,
        .iov_count = 1,
    };

    return run(queue, &request);
}

int archip_flush(archip_queue *queue)
{
    return run(queue, &(archip_request){ .op = ARCHIP_FLUSH });
}

int archip_discard(archip_queue *queue, uint64_t offset_bytes,
                   uint64_t length_bytes)
{
    archip_request request = {
        .op = ARCHIP_DISCARD,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
    };

    return run(queue, &request);
}

int archip_write_zeroes(archip_queue *queue, uint64_t offset_bytes,
                        uint64_t length_bytes, unsigned flags)
{
    archip_request request = {
        .op = ARCHIP_WRITE_ZEROES,
        .flags = flags,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
    };

    return run(queue, &request);
}

int archip_extents(archip_queue *queue, uint64_t offset_bytes,
                   uint64_t length_bytes, archip_extent *extents,
                   size_t extent_count)
{
    archip_request request = {
        .op = ARCHIP_EXTENTS,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
        .extents = extents,
        .extent_count = extent_count,
    };

    return run(queue, &request);
}

int archip_copy_range(archip_queue *queue, uint64_t offset_bytes,
                      archip_volume *source, uint64_t source_offset_bytes,
                      uint64_t length_bytes, unsigned flags)
{
    archip_request request = {
        .op = ARCHIP_COPY_RANGE,
        .flags = flags,
        .offset_bytes = offset_bytes,
        .length_bytes = length_bytes,
        .source = source,
        .source_offset_bytes = source_offset_bytes,
    };

    return run(queue, &request);
}
