/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume by the C API, for tests: the other path by which data written
 * through QEMU is checked.
 *
 *   volume init
 *   volume create NAME SIZE [OBJECT-SIZE]
 *   volume size NAME
 *   volume read NAME [OFFSET LENGTH]        to standard output
 *   volume write NAME OFFSET                from standard input
 *   volume hold NAME       open for writing until standard input ends
 *   volume holder NAME     prints the holder's name and pid, or nothing
 *
 * All in the default store, $ARCHIPELAGO_STORE.
 */
#include <archipelago.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (1u << 20)

static archip_store *store;
static archip_volume *volume;
static archip_queue *queue;

static int check(int ret)
{
    if (ret < 0) {
        fprintf(stderr, "volume: %s\n", archip_error());
        exit(1);
    }
    return ret;
}

static void open_volume(const char *name, unsigned flags)
{
    check(archip_volume_open(store, name, flags, "volume-test", &volume));
    check(archip_queue_open(volume, ARCHIP_QUEUE_MAY_BLOCK, &queue));
}

static void create(char **args)
{
    archip_create_options options = {
        .object_bytes = args[2] ? strtoul(args[2], NULL, 0) : 0,
    };

    check(archip_volume_create(store, args[0], strtoull(args[1], NULL, 0),
                               &options));
}

static void read_out(char **args)
{
    static char buffer[CHUNK_BYTES];
    uint64_t offset, left;

    open_volume(args[0], 0);
    offset = args[1] ? strtoull(args[1], NULL, 0) : 0;
    left = args[1] ? strtoull(args[2], NULL, 0) : archip_volume_size(volume);
    while (left > 0) {
        size_t bytes = left < CHUNK_BYTES ? left : CHUNK_BYTES;

        check(archip_read(queue, buffer, bytes, offset));
        if (fwrite(buffer, 1, bytes, stdout) != bytes) {
            exit(1);
        }
        offset += bytes;
        left -= bytes;
    }
}

static void write_in(char **args)
{
    static char buffer[CHUNK_BYTES];
    uint64_t offset = strtoull(args[1], NULL, 0);
    size_t bytes;

    open_volume(args[0], ARCHIP_OPEN_WRITE);
    while ((bytes = fread(buffer, 1, CHUNK_BYTES, stdin)) > 0) {
        check(archip_write(queue, buffer, bytes, offset, 0));
        offset += bytes;
    }
}

static void print_size(char **args)
{
    open_volume(args[0], 0);
    printf("%llu\n", (unsigned long long)archip_volume_size(volume));
}

static void hold(char **args)
{
    char byte;

    open_volume(args[0], ARCHIP_OPEN_WRITE);
    printf("held\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
}

static void print_holder(char **args)
{
    archip_holder holder = { 0 };

    check(archip_volume_get_holder(store, args[0], &holder));
    if (holder.held) {
        printf("%s %lld\n", holder.owner, (long long)holder.pid);
    }
}

static void init(char **args)
{
}

static const struct {
    const char *name;
    int argument_count;
    void (*run)(char **args);
} commands[] = {
    { "init", 0, init },         { "create", 2, create },
    { "size", 1, print_size },   { "read", 1, read_out },
    { "write", 2, write_in },    { "hold", 1, hold },
    { "holder", 1, print_holder },
};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (argc >= 2 + commands[i].argument_count &&
            strcmp(argv[1], commands[i].name) == 0) {
            check(archip_store_open(NULL, ARCHIP_STORE_CREATE, &store));
            commands[i].run(argv + 2);
            archip_queue_close(queue);
            check(archip_volume_close(volume));
            archip_store_close(store);
            return 0;
        }
    }
    fprintf(stderr, "volume: see the head of volume.c\n");
    return 2;
}
