/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A stand-in for the library, to test the property test: an array of bytes
 * behind the same header, with one deliberate bug, named by $MOCK_BUG, of those
 * in mock_test.sh.  Without a bug it must pass.
 *
 * Requests are carried out by archip_queue_reap() of their queue, in random
 * order, each under the volume's mutex.
 */
#include <archipelago.h>
#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FILE_BYTES (UINT64_C(16) << 20)
#define BLOCK 4096u

struct file {
    GMutex mutex;               /* guards all of it */
    uint64_t size;
    uint8_t *bytes;
    uint64_t last_write;
};

struct archip_store {
    struct file files[2];       /* "property" and another */
};

struct archip_volume {
    struct file *file;
    bool writable, active;
};

struct job {
    archip_request request;
    struct iovec iov[16];
    uint8_t *sectors;           /* lost-neighbour: read before */
    bool done;                  /* twice: completed once already */
};

struct archip_queue {
    archip_volume *volume;
    GPtrArray *jobs;
    int fd;
    int64_t cached;             /* stale-read: one block, invalidated */
    uint8_t cache[BLOCK];       /* only by this queue's writes */
};

static bool bug(const char *name)
{
    static const char *chosen;

    if (!chosen) {
        chosen = g_getenv("MOCK_BUG") ? g_getenv("MOCK_BUG") : "";
    }
    return !strcmp(chosen, name);
}

/* --- Stores and volumes -------------------------------------------------- */

const char *archip_error(void)
{
    return "mock";
}

int archip_store_open(const char *location, unsigned flags, archip_store **store)
{
    *store = g_new0(archip_store, 1);
    return 0;
}

void archip_store_close(archip_store *store)
{
    for (int i = 0; i < 2; i++) {
        g_free(store->files[i].bytes);
    }
    g_free(store);
}

static struct file *file_of(archip_store *store, const char *name)
{
    return &store->files[strcmp(name, "property") != 0];
}

int archip_volume_create(archip_store *store, const char *name, uint64_t size,
                         const archip_create_options *options)
{
    struct file *file = file_of(store, name);

    file->size = size;
    file->bytes = g_malloc0(FILE_BYTES);
    return 0;
}

int archip_volume_remove(archip_store *store, const char *name)
{
    return 0;
}

int archip_volume_open(archip_store *store, const char *name, unsigned flags,
                       const char *owner, archip_volume **volume)
{
    *volume = g_new0(archip_volume, 1);
    (*volume)->file = file_of(store, name);
    (*volume)->writable = flags & ARCHIP_OPEN_WRITE;
    (*volume)->active = true;
    return 0;
}

int archip_volume_close(archip_volume *volume)
{
    if (bug("lost-at-close") && volume->writable) {
        memset(volume->file->bytes + volume->file->last_write, 0, 1);
    }
    g_free(volume);
    return 0;
}

int archip_volume_get_info(archip_volume *volume, archip_volume_info *info)
{
    memset(info, 0, sizeof(*info));
    info->block_bytes = BLOCK;
    return 0;
}

uint64_t archip_volume_size(archip_volume *volume)
{
    return volume->file->size;
}

int archip_volume_resize(archip_volume *volume, uint64_t size, unsigned flags)
{
    struct file *file = volume->file;

    g_mutex_lock(&file->mutex);
    if (size < file->size && !bug("shrink-keeps")) {
        uint64_t from = bug("shrink-keeps-tail") ? (size + BLOCK - 1) / BLOCK *
                                                       BLOCK
                                                 : size;

        memset(file->bytes + from, 0, FILE_BYTES - from);
    }
    file->size = size;
    g_mutex_unlock(&file->mutex);
    return 0;
}

int archip_volume_deactivate(archip_volume *volume)
{
    volume->active = false;
    return 0;
}

int archip_volume_activate(archip_volume *volume)
{
    volume->active = true;
    return 0;
}

int archip_volume_reopen(archip_volume *volume, unsigned flags)
{
    volume->writable = flags & ARCHIP_OPEN_WRITE;
    return 0;
}

/* --- Queues -------------------------------------------------------------- */

int archip_queue_open(archip_volume *volume, unsigned flags,
                      archip_queue **queue)
{
    *queue = g_new0(archip_queue, 1);
    (*queue)->volume = volume;
    (*queue)->jobs = g_ptr_array_new();
    (*queue)->fd = eventfd(0, EFD_CLOEXEC);
    (*queue)->cached = -1;
    return 0;
}

void archip_queue_close(archip_queue *queue)
{
    g_ptr_array_unref(queue->jobs);
    close(queue->fd);
    g_free(queue);
}

int archip_queue_fd(archip_queue *queue)
{
    return queue->fd;
}

int archip_submit(archip_queue *queue, const archip_request *requests,
                  size_t count)
{
    uint64_t one = 1;

    for (size_t i = 0; i < count; i++) {
        struct job *job = g_new0(struct job, 1);

        job->request = requests[i];
        if (requests[i].iov) {
            memcpy(job->iov, requests[i].iov,
                   (size_t)requests[i].iov_count * sizeof(struct iovec));
            job->request.iov = job->iov;
        }
        g_ptr_array_add(queue->jobs, job);
    }
    return write(queue->fd, &one, sizeof(one)) == sizeof(one) ? 0 : -EIO;
}

/* --- Requests ------------------------------------------------------------ */

static uint64_t up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static uint64_t down(uint64_t value, uint64_t unit)
{
    return value / unit * unit;
}

static void scatter(const archip_request *request, uint8_t *bytes, bool read)
{
    for (int i = 0; i < request->iov_count; i++) {
        uint8_t *buffer = request->iov[i].iov_base;
        size_t length = request->iov[i].iov_len;

        memcpy(read ? buffer : bytes, read ? bytes : buffer, length);
        bytes += length;
    }
}

static void do_read(archip_queue *queue, struct file *file,
                    const archip_request *request, uint64_t end)
{
    int64_t block = (int64_t)(request->offset_bytes / BLOCK);

    scatter(request, file->bytes + request->offset_bytes, true);
    if (!bug("stale-read") || request->iov_count != 1 ||
        (end - 1) / BLOCK != (uint64_t)block) {
        return;
    }
    if (queue->cached != block) {
        memcpy(queue->cache, file->bytes + block * BLOCK, BLOCK);
        queue->cached = block;
    }
    memcpy(request->iov->iov_base, queue->cache + request->offset_bytes % BLOCK,
           request->length_bytes);
}

static void do_write(archip_queue *queue, struct file *file, struct job *job,
                     uint64_t end)
{
    const archip_request *request = &job->request;
    uint64_t start = request->offset_bytes;

    if (job->sectors) {
        memcpy(file->bytes + down(start, 512), job->sectors,
               up(end, 512) - down(start, 512));
    }
    if (bug("zeroed-neighbour") && up(end, 512) > end) {
        memset(file->bytes + end, 0, up(end, 512) - end);
    }
    scatter(request, file->bytes + start, false);
    file->last_write = start;
    if (queue->cached >= (int64_t)(start / BLOCK) &&
        queue->cached <= (int64_t)(end / BLOCK)) {
        queue->cached = -1;
    }
}

static void do_discard(struct file *file, uint64_t start, uint64_t end)
{
    uint64_t from = up(start, BLOCK), to = down(end, BLOCK);

    if (bug("discard-wide")) {
        from = start;
    } else if (bug("discard-end")) {
        to = up(end, 512);
    } else if (bug("discard-nothing")) {
        return;
    }
    if (from < to) {
        memset(file->bytes + from, 0, to - from);
    }
}

static int64_t do_extents(struct file *file, const archip_request *request)
{
    const uint8_t *bytes = file->bytes + request->offset_bytes;
    uint64_t looked = bug("extents-lie") ? MIN(16, request->length_bytes)
                                         : request->length_bytes;
    bool zero = true;

    for (uint64_t i = 0; i < looked; i++) {
        zero &= !bytes[i];
    }
    request->extents[0] = (archip_extent){
        request->length_bytes, zero ? ARCHIP_EXTENT_ZERO : ARCHIP_EXTENT_DATA,
        0};
    return 1;
}

static void do_copy(struct file *file, const archip_request *request)
{
    uint64_t from = request->source_offset_bytes;

    if (bug("copy-rounds")) {
        from = down(from, 512);
    }
    memmove(file->bytes + request->offset_bytes,
            request->source->file->bytes + from, request->length_bytes);
}

static int64_t refuse(archip_volume *volume, const archip_request *request)
{
    if (!volume->active) {
        return -EPERM;
    }
    if (!volume->writable && request->op == ARCHIP_WRITE) {
        return -EROFS;
    }
    return 0;
}

static int64_t carry_out(archip_queue *queue, struct job *job)
{
    struct file *file = queue->volume->file;
    const archip_request *request = &job->request;
    uint64_t start = request->offset_bytes;
    uint64_t end = start + request->length_bytes;

    if (refuse(queue->volume, request)) {
        return refuse(queue->volume, request);
    }
    if (request->flags & ARCHIP_GROW) {
        file->size = MAX(file->size, bug("grow-exact") ? end : up(end, 512));
    }
    switch (request->op) {
    case ARCHIP_READ:
        do_read(queue, file, request, end);
        break;
    case ARCHIP_WRITE:
        do_write(queue, file, job, end);
        break;
    case ARCHIP_WRITE_ZEROES:
        if (bug("zeroes-short")) {
            end = MAX(start, down(end, 512));
        }
        memset(file->bytes + start, 0, end - start);
        break;
    case ARCHIP_DISCARD:
        do_discard(file, start, end);
        break;
    case ARCHIP_EXTENTS:
        return do_extents(file, request);
    case ARCHIP_COPY_RANGE:
        do_copy(file, request);
        break;
    case ARCHIP_FLUSH:
        break;
    }
    return 0;
}

/* lost-neighbour: the first of two visits only reads the sectors. */
static bool first_visit(archip_queue *queue, struct job *job)
{
    uint64_t start = down(job->request.offset_bytes, 512);
    uint64_t end = up(job->request.offset_bytes + job->request.length_bytes,
                      512);

    if (!bug("lost-neighbour") || job->request.op != ARCHIP_WRITE ||
        job->sectors) {
        return false;
    }
    job->sectors = g_memdup2(queue->volume->file->bytes + start, end - start);
    return true;
}

static bool reap_one(archip_queue *queue, archip_completion *completion)
{
    guint i = (guint)g_random_int_range(0, (gint32)queue->jobs->len);
    struct job *job = queue->jobs->pdata[i];
    struct file *file = queue->volume->file;
    bool done = false;

    g_mutex_lock(&file->mutex);
    if (!first_visit(queue, job)) {
        *completion = (archip_completion){
            .user = job->request.user,
            .result = job->done ? 0 : carry_out(queue, job)};
        completion->error = completion->result < 0 ? "mock" : NULL;
        done = true;
    }
    g_mutex_unlock(&file->mutex);
    job->done = done;
    if (done && !(bug("twice") && g_random_int_range(0, 500) == 0)) {
        g_ptr_array_remove_index_fast(queue->jobs, i);
        g_free(job->sectors);
        g_free(job);
    }
    return done;
}

int archip_queue_reap(archip_queue *queue, archip_completion *completions,
                      size_t max, int timeout_ms)
{
    uint64_t drained;
    int count = 0;

    while (queue->jobs->len && (size_t)count < max &&
           g_random_int_range(0, 4) > 0) {
        count += reap_one(queue, &completions[count]);
    }
    if (!queue->jobs->len && read(queue->fd, &drained, sizeof(drained)) < 0) {
        return -EIO;
    }
    return count || !timeout_ms || !queue->jobs->len
               ? count
               : archip_queue_reap(queue, completions, max, timeout_ms);
}

/* --- Synchronous calls --------------------------------------------------- */

static int run_one(archip_queue *queue, archip_request request)
{
    archip_completion completion;

    archip_submit(queue, &request, 1);
    while (archip_queue_reap(queue, &completion, 1, -1) == 0) {
    }
    return (int)completion.result;
}

int archip_read(archip_queue *queue, void *buffer, size_t length,
                uint64_t offset)
{
    struct iovec iov = {buffer, length};

    return run_one(queue, (archip_request){
        .op = ARCHIP_READ, .offset_bytes = offset, .length_bytes = length,
        .iov = &iov, .iov_count = 1});
}

int archip_write(archip_queue *queue, const void *buffer, size_t length,
                 uint64_t offset, unsigned flags)
{
    struct iovec iov = {(void *)buffer, length};

    return run_one(queue, (archip_request){
        .op = ARCHIP_WRITE, .offset_bytes = offset, .length_bytes = length,
        .iov = &iov, .iov_count = 1});
}

int archip_flush(archip_queue *queue)
{
    return 0;
}

int archip_discard(archip_queue *queue, uint64_t offset, uint64_t length)
{
    return run_one(queue, (archip_request){
        .op = ARCHIP_DISCARD, .offset_bytes = offset, .length_bytes = length});
}

int archip_write_zeroes(archip_queue *queue, uint64_t offset, uint64_t length,
                        unsigned flags)
{
    return run_one(queue, (archip_request){
        .op = ARCHIP_WRITE_ZEROES, .offset_bytes = offset,
        .length_bytes = length});
}
