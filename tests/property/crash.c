/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that are killed.  A child writes, discards, flushes and grows a
 * volume, many requests in flight, and notes each step in a pipe: before it is
 * submitted and after it was seen complete.  The parent kills it at a random
 * moment, opens the volume at once and checks that
 *
 *  - what a completed flush or FUA covers is there, unless something later may
 *    have taken its place;
 *  - each sector is old or new as a whole, and zero where nothing was written;
 *  - what was read after one crash is still there after the next, unless
 *    written again: nothing lost comes back.
 *
 * The page cache survives a process, so this is about the map, the journal and
 * the lock, not about disks.
 */
#include "model.h"
#include "unit/scratch.h"

#include <archipelago.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "crash"
#define SIZE (UINT64_C(3) << 20)
#define OBJECT_BYTES (1u << 16)
#define BLOCK 4096u
#define SECTOR 512u
#define DEPTH 12
#define LENGTH_MAX (96u << 10)
#define RESIZE 100              /* beside archip_op */

struct note {
    uint32_t step;
    uint8_t completed;          /* else: submitted */
    uint8_t kind;
    uint16_t flags;
    uint64_t offset_bytes, length_bytes;
};

static G_NORETURN void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, archip_error());
    _exit(3);
}

static void must(int result, const char *what)
{
    if (result < 0) {
        die(what);
    }
}

/* --- The child ----------------------------------------------------------- */

struct slot {
    struct note note;
    struct iovec iov;
    bool busy;
};

struct worker {
    archip_volume *volume;
    archip_queue *queue;
    GRand *random;
    uint32_t step;
    struct slot slots[DEPTH];
    unsigned in_flight;
};

static void tell(const struct note *note, bool completed)
{
    struct note copy = *note;

    copy.completed = completed;
    if (write(STDOUT_FILENO, &copy, sizeof(copy)) != sizeof(copy)) {
        _exit(4);
    }
}

static archip_op choose_kind(GRand *random)
{
    int n = g_rand_int_range(random, 0, 100);

    return n < 62   ? ARCHIP_WRITE
           : n < 74 ? ARCHIP_DISCARD
           : n < 86 ? ARCHIP_WRITE_ZEROES
                    : ARCHIP_FLUSH;
}

static void choose_range(struct worker *worker, struct note *note)
{
    GRand *random = worker->random;
    uint32_t sectors = SIZE / SECTOR;
    uint32_t length = 1 + (uint32_t)g_rand_int_range(random, 0, 20);
    uint32_t at = (uint32_t)g_rand_int_range(random, 0, (gint32)sectors);

    if (g_rand_int_range(random, 0, 8) == 0) {
        length = 1 + (uint32_t)g_rand_int_range(random, 0,
                                                LENGTH_MAX / SECTOR);
    }
    if (g_rand_int_range(random, 0, 3) == 0) {  /* come back to few places */
        at = at % 8 * (OBJECT_BYTES / SECTOR) + at % 3;
    }
    note->offset_bytes = (uint64_t)at * SECTOR;
    note->length_bytes = MIN((uint64_t)length * SECTOR,
                             SIZE - note->offset_bytes);
}

static void submit(struct worker *worker, struct slot *slot)
{
    struct note *note = &slot->note;
    archip_request request = {.user = slot, .iov = &slot->iov, .iov_count = 1};

    *note = (struct note){.step = ++worker->step};
    note->kind = (uint8_t)choose_kind(worker->random);
    if (note->kind != ARCHIP_FLUSH) {
        choose_range(worker, note);
    }
    if (note->kind == ARCHIP_WRITE || note->kind == ARCHIP_WRITE_ZEROES) {
        note->flags = g_rand_int_range(worker->random, 0, 6) ? 0 : ARCHIP_FUA;
        slot->iov.iov_len = note->length_bytes;
        pattern_fill(note->step, note->offset_bytes, slot->iov.iov_base,
                     note->length_bytes);
    }
    if (note->kind == ARCHIP_WRITE_ZEROES && note->step % 2) {
        note->flags |= ARCHIP_MAY_UNMAP;
    }
    request.op = note->kind;
    request.flags = note->flags;
    request.offset_bytes = note->offset_bytes;
    request.length_bytes = note->length_bytes;
    slot->busy = true;
    worker->in_flight++;
    tell(note, false);
    must(archip_submit(worker->queue, &request, 1), "submit");
}

static void reap(struct worker *worker)
{
    archip_completion completions[DEPTH];
    int count = archip_queue_reap(worker->queue, completions, DEPTH, -1);

    for (int i = 0; i < count; i++) {
        struct slot *slot = completions[i].user;

        if (completions[i].result < 0) {
            fprintf(stderr, "%s\n", completions[i].error);
            _exit(5);
        }
        tell(&slot->note, true);
        slot->busy = false;
        worker->in_flight--;
    }
}

/* Durable on return. */
static void grow(struct worker *worker)
{
    struct note note = {.step = ++worker->step, .kind = RESIZE};

    note.length_bytes = archip_volume_size(worker->volume) + SECTOR;
    tell(&note, false);
    must(archip_volume_resize(worker->volume, note.length_bytes, 0), "resize");
    tell(&note, true);
}

static G_NORETURN void child_main(const char *location, guint32 seed,
                                  uint32_t step)
{
    struct worker worker = {.random = g_rand_new_with_seed(seed),
                            .step = step};
    archip_store *store;

    must(archip_store_open(location, 0, &store), "store");
    must(archip_volume_open(store, NAME, ARCHIP_OPEN_WRITE, "crash-child",
                            &worker.volume), "open");
    must(archip_queue_open(worker.volume, 0, &worker.queue), "queue");
    for (unsigned i = 0; i < DEPTH; i++) {
        worker.slots[i].iov.iov_base = g_malloc(LENGTH_MAX);
    }
    for (;;) {
        for (unsigned i = 0; i < DEPTH; i++) {
            if (!worker.slots[i].busy) {
                submit(&worker, &worker.slots[i]);
            }
        }
        reap(&worker);
        if (g_rand_int_range(worker.random, 0, 40) == 0) {
            grow(&worker);
        }
    }
}

/* --- The parent ---------------------------------------------------------- */

struct parent {
    guint32 seed;
    unsigned round, rounds;
    uint32_t step;              /* the last that a child used */
    char *scratch, *location;
    GRand *random;
    struct model *model;
    GArray *history;            /* struct step of all rounds */
    uint64_t size_sure, size_possible;
    archip_store *store;
    archip_volume *volume;
    archip_queue *queue;
};

static G_NORETURN void fail(struct parent *parent, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

static void fail(struct parent *parent, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "FAILED: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nseed %u, round %u; again: --seed %u (timing differs)\n",
            parent->seed, parent->round, parent->seed);
    if (!g_getenv("ARCHIPELAGO_KEEP")) {
        scratch_remove(parent->scratch);
    }
    exit(1);
}

/* Start a child, let it work for a moment, kill it; its notes. */
static GByteArray *run_child(struct parent *parent)
{
    g_autofree char *seed = g_strdup_printf("%u",
                                            g_rand_int(parent->random));
    g_autofree char *step = g_strdup_printf("%u", parent->step);
    const char *argv[] = {"/proc/self/exe", "child", parent->location, seed,
                          step, NULL};
    gint64 end = 0, live_us = g_rand_int_range(parent->random, 0, 120000);
    GByteArray *notes = g_byte_array_new();
    struct pollfd fd = {.events = POLLIN};
    guint8 bytes[4096];
    ssize_t n = 1;
    GPid pid;
    int status;

    if (!g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                                  G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid,
                                  NULL, &fd.fd, NULL, NULL)) {
        fail(parent, "can't start a child");
    }
    while (n > 0) {
        int ready = poll(&fd, 1, end ? 1 : 20000);

        n = ready > 0 ? read(fd.fd, bytes, sizeof(bytes)) : ready < 0 ? 0 : 1;
        if (ready > 0 && n > 0) {
            g_byte_array_append(notes, bytes, (guint)n);
        }
        end = end ? end : g_get_monotonic_time() + live_us;
        if (g_get_monotonic_time() >= end) {
            kill(pid, SIGKILL);
        }
    }
    close(fd.fd);
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        fail(parent, "the child ended by itself, status 0x%x", status);
    }
    return notes;
}

struct step {
    struct note note;
    uint64_t submitted, completed;      /* TIME_END - 1: never seen */
    unsigned round;
};

/* Notes in pairs; the index into `notes` is the time. */
static GArray *pair_notes(const struct note *notes, size_t count,
                          unsigned round)
{
    GArray *steps = g_array_new(FALSE, TRUE, sizeof(struct step));

    for (size_t i = 0; i < count; i++) {
        struct step step = {notes[i], i + 1, TIME_END - 1, round};

        if (!notes[i].completed) {
            g_array_append_val(steps, step);
            continue;
        }
        for (guint j = 0; j < steps->len; j++) {
            struct step *other = &g_array_index(steps, struct step, j);

            if (other->note.step == notes[i].step) {
                other->completed = i + 1;
            }
        }
    }
    return steps;
}

/* Completed with FUA, or before a flush that completed was submitted. */
static bool is_durable(const GArray *steps, const struct step *step)
{
    if (step->completed >= TIME_END - 1) {
        return false;
    }
    for (guint i = 0; i < steps->len; i++) {
        const struct step *flush = &g_array_index(steps, struct step, i);

        if (flush->note.kind == ARCHIP_FLUSH &&
            flush->submitted > step->completed &&
            flush->completed < TIME_END - 1) {
            return true;
        }
    }
    return step->note.flags & ARCHIP_FUA;
}

static void log_step(struct parent *parent, const GArray *steps,
                     const struct step *step)
{
    const struct note *note = &step->note;
    struct change change = {
        .kind = note->kind == ARCHIP_WRITE ? CHANGE_PATTERN : CHANGE_ZERO,
        .certain = is_durable(steps, step),
        .start_bytes = note->offset_bytes,
        .end_bytes = note->offset_bytes + note->length_bytes,
        .submitted = step->submitted, .completed = step->completed,
        .step = note->step,
    };

    parent->step = MAX(parent->step, note->step);
    if (note->kind == RESIZE) {
        parent->size_possible = note->length_bytes;
        if (step->completed < TIME_END - 1) {
            parent->size_sure = note->length_bytes;
        }
    } else if (note->kind == ARCHIP_DISCARD) {
        change.start_bytes = (change.start_bytes + BLOCK - 1) / BLOCK * BLOCK;
        change.end_bytes = change.end_bytes / BLOCK * BLOCK;
        model_log(parent->model, &change);
    } else if (note->kind != ARCHIP_FLUSH) {
        model_log(parent->model, &change);
    }
}

static bool read_volume(void *opaque, uint64_t offset, uint8_t *bytes,
                        size_t length)
{
    struct parent *parent = opaque;

    return archip_read(parent->queue, bytes, length, offset) == 0;
}

static void open_volume(struct parent *parent, unsigned flags)
{
    int result = archip_volume_open(parent->store, NAME, flags, "crash-parent",
                                    &parent->volume);

    if (result < 0 ||
        archip_queue_open(parent->volume, 0, &parent->queue) < 0) {
        fail(parent, "open: %d: %s", result, archip_error());
    }
}

static void close_volume(struct parent *parent)
{
    archip_queue_close(parent->queue);
    if (archip_volume_close(parent->volume) < 0) {
        fail(parent, "close: %s", archip_error());
    }
}

static void print_step(const struct step *step, bool there, bool origin)
{
    static const char *const names[] = {
        [ARCHIP_WRITE] = "write", [ARCHIP_DISCARD] = "discard",
        [ARCHIP_WRITE_ZEROES] = "zeroes", [ARCHIP_FLUSH] = "flush",
    };
    const struct note *note = &step->note;

    fprintf(stderr, "  round %u step %u: %s%s%s 0x%" PRIx64 "+0x%" PRIx64
            " %s%s%s\n", step->round, note->step, names[note->kind],
            note->flags & ARCHIP_FUA ? ",fua" : "",
            note->flags & ARCHIP_MAY_UNMAP ? ",may-unmap" : "",
            note->offset_bytes, note->length_bytes,
            step->completed < TIME_END - 1 ? "completed" : "cut off",
            there ? "" : ", beside it", origin ? "  <-- wrote this byte" : "");
}

/* All that touched the object of a wrong byte, from the write on that left
 * it. */
static void print_history(struct parent *parent,
                          const struct mismatch *mismatch)
{
    uint64_t offset = mismatch->offset_bytes;
    uint64_t object = offset / OBJECT_BYTES;
    bool since = !mismatch->found;

    for (guint i = 0; i < parent->history->len; i++) {
        const struct step *step = &g_array_index(parent->history, struct step,
                                                 i);
        const struct note *note = &step->note;
        uint64_t end = note->offset_bytes + note->length_bytes;
        bool there = note->offset_bytes <= offset && offset < end;
        bool origin = there && note->kind == ARCHIP_WRITE &&
                      pattern_byte(note->step, offset) == mismatch->found;

        since |= origin;
        if (since && note->kind != RESIZE && end > object * OBJECT_BYTES &&
            note->offset_bytes < (object + 1) * OBJECT_BYTES) {
            print_step(step, there, origin);
        }
    }
}

/* Hold the whole volume against the model; what was ambiguous is settled. */
static void verify(struct parent *parent)
{
    g_autofree uint8_t *bytes = g_malloc(SIZE);
    uint64_t size = archip_volume_size(parent->volume);
    struct mismatch mismatch = {0};

    if (size < parent->size_sure || size > parent->size_possible) {
        fail(parent, "size %" PRIu64 ", not from %" PRIu64 " to %" PRIu64,
             size, parent->size_sure, parent->size_possible);
    }
    parent->size_sure = parent->size_possible = size;
    if (!read_volume(parent, 0, bytes, SIZE)) {
        fail(parent, "read: %s", archip_error());
    }
    if (!model_check(parent->model, 0, bytes, SIZE, TIME_END, TIME_END,
                     &mismatch) ||
        !model_fold(parent->model, read_volume, parent, &mismatch)) {
        print_history(parent, &mismatch);
        fail(parent, "at 0x%" PRIx64 " (object %" PRIu64 ", block %" PRIu64
             " of it): found 0x%02x, allowed:%s", mismatch.offset_bytes,
             mismatch.offset_bytes / OBJECT_BYTES,
             mismatch.offset_bytes % OBJECT_BYTES / BLOCK, mismatch.found,
             mismatch.allowed ? mismatch.allowed : " (can't be read)");
    }
}

static void run_round(struct parent *parent)
{
    GByteArray *notes = run_child(parent);
    GArray *steps = pair_notes((const struct note *)notes->data,
                               notes->len / sizeof(struct note),
                               parent->round);

    g_array_append_vals(parent->history, steps->data, steps->len);
    for (guint i = 0; i < steps->len; i++) {
        log_step(parent, steps, &g_array_index(steps, struct step, i));
    }
    /* What a reader would see of the unclean volume is binding, too. */
    if (parent->round % 3 == 0) {
        open_volume(parent, 0);
        verify(parent);
        close_volume(parent);
    }
    open_volume(parent, ARCHIP_OPEN_WRITE);
    verify(parent);
    close_volume(parent);
    if (parent->round % 4 == 0) {
        open_volume(parent, 0);
        verify(parent);
        close_volume(parent);
    }
    g_byte_array_unref(notes);
    g_array_unref(steps);
}

static void read_options(int argc, char **argv, struct parent *parent,
                         const char **options)
{
    const char *seed = g_getenv("ARCHIPELAGO_SEED");

    parent->seed = seed ? (guint32)g_ascii_strtoull(seed, NULL, 10)
                        : g_random_int();
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seed")) {
            parent->seed = (guint32)g_ascii_strtoull(argv[i + 1], NULL, 10);
        } else if (!strcmp(argv[i], "--rounds")) {
            parent->rounds = (unsigned)atoi(argv[i + 1]);
        } else if (!strcmp(argv[i], "--options")) {
            *options = argv[i + 1];
        }
    }
}

static void set_up(struct parent *parent, const char *options)
{
    archip_create_options create = {.object_bytes = OBJECT_BYTES};

    parent->scratch = scratch_new();
    parent->location = g_strdup_printf("dir:%s%s", parent->scratch, options);
    parent->random = g_rand_new_with_seed(parent->seed);
    parent->model = model_new(SECTOR);
    parent->history = g_array_new(FALSE, FALSE, sizeof(struct step));
    parent->size_sure = parent->size_possible = SIZE;
    must(archip_store_open(parent->location, ARCHIP_STORE_CREATE,
                           &parent->store), "store");
    must(archip_volume_create(parent->store, NAME, SIZE, &create), "create");
}

int main(int argc, char **argv)
{
    struct parent parent = {.rounds = 24};
    const char *options = "";

    if (argc == 5 && !strcmp(argv[1], "child")) {
        child_main(argv[2], (guint32)g_ascii_strtoull(argv[3], NULL, 10),
                   (uint32_t)g_ascii_strtoull(argv[4], NULL, 10));
    }
    read_options(argc, argv, &parent, &options);
    printf("seed %u\n", parent.seed);
    fflush(stdout);
    set_up(&parent, options);
    for (parent.round = 1; parent.round <= parent.rounds; parent.round++) {
        run_round(&parent);
    }
    archip_store_close(parent.store);
    scratch_remove(parent.scratch);
    printf("%u crashes, %u steps\n", parent.rounds, parent.step);
    g_free(parent.scratch);
    g_free(parent.location);
    g_rand_free(parent.random);
    model_free(parent.model);
    g_array_unref(parent.history);
    return 0;
}
