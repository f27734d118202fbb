// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * exercise SEED STEPS FILE COPY: random changes to FILE by every means that a
 * file system offers, the same changes to its image in memory, and comparisons
 * of the two.  At the end the image is written to COPY.
 *
 * It's run in a guest: the punched, zeroed, collapsed and inserted ranges
 * become discards, zeroes and overwrites of the disk below, and what is read
 * after the page cache was dropped comes from that disk.  The same seed makes
 * the same steps.  Exit status 1 with the first wrong byte and the last steps.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/falloc.h>

enum { FILE_MAX = 6 << 20, PIECE_MAX = 192 << 10, BLOCK = 4096, LOG = 24 };

/* The file: what it must be, and the ways to it. */
static uint8_t image[FILE_MAX];
static uint64_t size;
static int buffered, direct;

static uint8_t *piece; /* PIECE_MAX bytes, aligned for `direct` */
static uint64_t step;
static char history[LOG][80];
static uint64_t random_state;

static uint64_t next_random(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint64_t below(uint64_t limit)
{
    return next_random() % limit;
}

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "exercise: step %" PRIu64 ": %s\n", step, what);
    for (uint64_t i = step < LOG ? 0 : step - LOG + 1; i <= step; i++)
        fprintf(stderr, "exercise: %s\n", history[i % LOG]);
    exit(1);
}

static void must(bool worked, const char *what)
{
    char text[160];

    if (worked)
        return;
    snprintf(text, sizeof(text), "%s: %s", what, strerror(errno));
    fail(text);
}

static void note(const char *what, uint64_t offset, uint64_t length)
{
    snprintf(history[step % LOG], sizeof(history[0]),
             "%8" PRIu64 " %-9s %8" PRIu64 " + %7" PRIu64 " of %8" PRIu64, step,
             what, offset, length, size);
}

static void compare(const uint8_t *found, uint64_t offset, uint64_t length)
{
    char text[160];

    if (memcmp(found, image + offset, length) == 0)
        return;
    while (*found == image[offset])
        found++, offset++;
    snprintf(text, sizeof(text), "byte %" PRIu64 " is %02x and must be %02x",
             offset, *found, image[offset]);
    fail(text);
}

/* A range of at most PIECE_MAX bytes that begins inside of `limit`. */
struct range {
    uint64_t offset, length;
};

static struct range pick(uint64_t limit, uint64_t unit)
{
    struct range r;

    r.offset = below(limit) / unit * unit;
    r.length = (1 + below(PIECE_MAX / unit)) * unit;
    if (r.length > FILE_MAX - r.offset)
        r.length = FILE_MAX - r.offset;
    return r;
}

/* The same, within the file; empty if that has no whole unit there. */
static struct range pick_inside(uint64_t unit)
{
    struct range r = {0, 0};

    if (size < unit)
        return r;
    r = pick(size, unit);
    if (r.length > size - r.offset)
        r.length = (size - r.offset) / unit * unit;
    return r;
}

static void grow_to(uint64_t end)
{
    if (end > size)
        size = end;
}

/* New contents for a range, in `piece` and in the image. */
static void fill(struct range r)
{
    uint64_t word = 0;

    for (uint64_t i = 0; i < r.length; i++) {
        if (i % 8 == 0)
            word = next_random();
        piece[i] = (uint8_t)(word >> (i % 8 * 8));
    }
    memcpy(image + r.offset, piece, r.length);
    grow_to(r.offset + r.length);
}

static void write_by(int file, const char *name, uint64_t unit)
{
    struct range r = pick(FILE_MAX, unit);
    ssize_t done;

    note(name, r.offset, r.length);
    fill(r);
    done = pwrite(file, piece, r.length, (off_t)r.offset);
    must(done == (ssize_t)r.length, name);
}

static void do_write(void)
{
    write_by(buffered, "write", 1);
}

static void do_write_direct(void)
{
    write_by(direct, "direct", BLOCK);
}

static void do_write_mapped(void)
{
    struct range r = pick_inside(1);
    uint64_t shift = r.offset % BLOCK;
    uint8_t *map;

    if (r.length == 0)
        return;
    note("map", r.offset, r.length);
    fill(r);
    map = mmap(NULL, r.length + shift, PROT_READ | PROT_WRITE, MAP_SHARED,
               buffered, (off_t)(r.offset - shift));
    must(map != MAP_FAILED, "mmap");
    memcpy(map + shift, piece, r.length);
    must(munmap(map, r.length + shift) == 0, "munmap");
}

static void do_read(void)
{
    struct range r = pick_inside(1);
    ssize_t done;

    note("read", r.offset, r.length);
    done = pread(buffered, piece, r.length, (off_t)r.offset);
    must(done == (ssize_t)r.length, "pread");
    compare(piece, r.offset, r.length);
}

static void do_truncate(void)
{
    uint64_t to = size / 2 + below(FILE_MAX - size / 2);

    note("truncate", to, 0);
    must(ftruncate(buffered, (off_t)to) == 0, "ftruncate");
    if (to < size)
        memset(image + to, 0, size - to);
    size = to;
}

static void allocate(struct range r, int mode, const char *name)
{
    note(name, r.offset, r.length);
    must(fallocate(buffered, mode, (off_t)r.offset, (off_t)r.length) == 0,
         name);
}

/* Bytes or whole blocks: only the latter free anything for sure. */
static uint64_t any_unit(void)
{
    return below(2) ? 1 : BLOCK;
}

static void do_punch(void)
{
    struct range r = pick(FILE_MAX, any_unit());

    allocate(r, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, "punch");
    memset(image + r.offset, 0, r.length);
}

static void do_zero(void)
{
    struct range r = pick(FILE_MAX, any_unit());

    allocate(r, FALLOC_FL_ZERO_RANGE, "zero");
    memset(image + r.offset, 0, r.length);
    grow_to(r.offset + r.length);
}

static void do_allocate(void)
{
    struct range r = pick(FILE_MAX, 1);

    allocate(r, 0, "allocate");
    grow_to(r.offset + r.length);
}

static void do_collapse(void)
{
    struct range r = pick_inside(BLOCK);
    uint64_t end = r.offset + r.length;

    if (r.length == 0 || end >= size)
        return;
    allocate(r, FALLOC_FL_COLLAPSE_RANGE, "collapse");
    memmove(image + r.offset, image + end, size - end);
    memset(image + size - r.length, 0, r.length);
    size -= r.length;
}

static void do_insert(void)
{
    struct range r = pick_inside(BLOCK);

    if (r.length == 0 || r.length > FILE_MAX - size)
        return;
    allocate(r, FALLOC_FL_INSERT_RANGE, "insert");
    memmove(image + r.offset + r.length, image + r.offset, size - r.offset);
    memset(image + r.offset, 0, r.length);
    size += r.length;
}

/* Forget what is cached, so that reads come from the disk. */
static void do_drop(void)
{
    note("drop", 0, 0);
    must(fsync(buffered) == 0, "fsync");
    must(posix_fadvise(buffered, 0, 0, POSIX_FADV_DONTNEED) == 0, "fadvise");
}

static void compare_all(void)
{
    do_drop();
    must((uint64_t)lseek(buffered, 0, SEEK_END) == size, "the size");
    for (uint64_t at = 0; at < size; at += PIECE_MAX) {
        uint64_t length = size - at < PIECE_MAX ? size - at : PIECE_MAX;

        must(pread(buffered, piece, length, (off_t)at) == (ssize_t)length,
             "pread");
        compare(piece, at, length);
    }
}

static const struct {
    void (*run)(void);
    unsigned weight;
} steps[] = {
    {do_write, 14}, {do_write_direct, 6}, {do_write_mapped, 8},
    {do_read, 20},  {do_truncate, 3},     {do_punch, 10},
    {do_zero, 8},   {do_allocate, 4},     {do_collapse, 6},
    {do_insert, 6}, {do_drop, 4},         {compare_all, 1},
};

static void do_any(void)
{
    unsigned total = 0, chosen, i;

    for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        total += steps[i].weight;
    chosen = (unsigned)below(total);
    for (i = 0; chosen >= steps[i].weight; i++)
        chosen -= steps[i].weight;
    note("nothing", 0, 0);
    steps[i].run();
}

static void write_copy(const char *name)
{
    FILE *copy = fopen(name, "w");

    must(copy && fwrite(image, 1, size, copy) == size && fclose(copy) == 0,
         name);
}

int main(int argc, char **argv)
{
    uint64_t count;

    if (argc != 5) {
        fprintf(stderr, "usage: exercise SEED STEPS FILE COPY\n");
        return 2;
    }
    random_state = strtoull(argv[1], NULL, 10);
    count = strtoull(argv[2], NULL, 10);
    piece = aligned_alloc(BLOCK, PIECE_MAX);
    must(piece != NULL, "memory");
    buffered = open(argv[3], O_RDWR | O_CREAT | O_TRUNC, 0666);
    must(buffered >= 0, argv[3]);
    direct = open(argv[3], O_RDWR | O_DIRECT);
    must(direct >= 0, argv[3]);
    for (step = 0; step < count; step++)
        do_any();
    compare_all();
    write_copy(argv[4]);
    printf("exercise: %" PRIu64 " steps from seed %s\n", count, argv[1]);
    return 0;
}
