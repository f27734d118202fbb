/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What tests of a full store do to a volume: write-volume STORE NAME HOW
 *
 *   write     what is on stdin to its beginning; flush, close
 *   open      only that, flush and close
 *   die       discard the first object, flush; discard the second; SIGKILL
 *
 * Exits with 7 when there is no room, as `archipelago` does.
 */
#include <archipelago.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define OBJECT_BYTES (4u << 20)

static int copy_in(archip_queue *queue)
{
    static char bytes[256 << 10];
    uint64_t offset_bytes = 0;
    int result = 0;

    while (result == 0) {
        size_t got = fread(bytes, 1, sizeof(bytes), stdin);

        if (got == 0) {
            break;
        }
        result = archip_write(queue, bytes, got, offset_bytes, 0);
        offset_bytes += got;
    }
    return result;
}

static int discard_and_die(archip_queue *queue)
{
    int result = archip_discard(queue, 0, OBJECT_BYTES);

    if (result == 0) {
        result = archip_flush(queue);
    }
    if (result == 0) {
        result = archip_discard(queue, OBJECT_BYTES, OBJECT_BYTES);
    }
    return result == 0 ? kill(getpid(), SIGKILL) : result;
}

static int work(archip_queue *queue, const char *how)
{
    int result = strcmp(how, "write") == 0 ? copy_in(queue)
                 : strcmp(how, "die") == 0 ? discard_and_die(queue)
                                           : 0;

    return result < 0 ? result : archip_flush(queue);
}

static int fail(int result)
{
    fprintf(stderr, "write-volume: %s\n", archip_error());
    return result == -ENOSPC ? 7 : 1;
}

int main(int argc, char **argv)
{
    archip_store *store;
    archip_volume *volume;
    archip_queue *queue;
    int result, code = 0;

    if (argc != 4) {
        fprintf(stderr, "usage: write-volume STORE NAME HOW\n");
        return 2;
    }
    result = archip_store_open(argv[1], 0, &store);
    if (result == 0) {
        result = archip_volume_open(store, argv[2], ARCHIP_OPEN_WRITE,
                                    "write-volume", &volume);
    }
    if (result == 0) {
        result = archip_queue_open(volume, 0, &queue);
    }
    if (result < 0) {
        return fail(result);
    }
    result = work(queue, argv[3]);
    if (result < 0) {
        code = fail(result);
    }
    archip_queue_close(queue);
    result = archip_volume_close(volume);
    if (result < 0) {
        code = fail(result);
    }
    archip_store_close(store);
    return code;
}
