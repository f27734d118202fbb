/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In the guest, for power_cuts.py:
 *
 *   cut-load load STORE ARCHIPELAGO TAPE OFFSET SEED REQUESTS
 *       Writes to the volume "vol" until REQUESTS were submitted: writes of all
 *       kinds on two queues, flushes, resizes, now and then a clean close.  In
 *       between the command ARCHIPELAGO makes, imports, resizes and removes
 *       other volumes.
 *   cut-load look STORE OUT OFFSET
 *       After a power cut: checks the store; opens each volume, read-only and
 *       then for writing, which must show the same, and copies it; makes and
 *       removes a volume; repairs, after which nothing may be left to find.  On
 *       the device OUT there are then a line for each volume, at 64 KiB one for
 *       each thing that the first check found, from 1 MiB on the volumes.
 *
 * All that is about to be done and all that was seen done is noted on the TAPE:
 * the end of the disk on which the store's file system lies, written with
 * O_DIRECT.  So the notes are in one order with the file system's writes, in
 * the log that is kept of the disk outside.  A line each:
 *
 *   w|z|d NUMBER FIRST COUNT FUA    write, zeroes, discard, in sectors
 *   f NUMBER                        flush
 *   r NUMBER SIZE                   resize of "vol"
 *   v NUMBER COMMAND NAME SIZE      of another volume, by the command
 *   c NUMBER                        it is complete
 *
 * stamps.py says what is in a sector.
 */
#include <archipelago.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "vol"
#define SECTOR 512u
#define SECTORS_MAX 8192u
#define SECTORS_MIN 4096u
#define OBJECT_SECTORS 128u
#define BLOCK_SECTORS 8u
#define LENGTH_MAX 192u
#define QUEUES 2
#define DEPTH 12
#define OTHERS 4
#define OTHER_SECTORS 512u
#define TAPE_MAX 4096u

static G_NORETURN void die(const char *what, const char *why)
{
    fprintf(stderr, "cut-load: %s: %s\n", what, why);
    exit(1);
}

static void must(int result, const char *what)
{
    if (result < 0) {
        die(what, archip_error());
    }
}

static void must_io(bool good, const char *what)
{
    if (!good) {
        die(what, strerror(errno));
    }
}

static uint64_t number_of(const char *text)
{
    return g_ascii_strtoull(text, NULL, 10);
}

/* Sectors from `first` on as the write `stamp` leaves them. */
static void stamp_sectors(void *memory, uint64_t stamp, uint64_t first,
                          uint32_t count)
{
    uint64_t *words = memory;

    for (uint32_t i = 0; i < count * (SECTOR / 16); i++) {
        words[2 * i] = GUINT64_TO_LE(stamp);
        words[2 * i + 1] = GUINT64_TO_LE(first + i / (SECTOR / 16));
    }
}

/* --- The tape ------------------------------------------------------------- */

struct tape {
    int fd;
    uint64_t at_bytes;
    char *memory;  /* aligned */
    GString *text; /* of the next note */
};

static void tape_open(struct tape *tape, const char *path, uint64_t at_bytes)
{
    tape->fd = open(path, O_WRONLY | O_DIRECT);
    must_io(tape->fd >= 0, path);
    tape->at_bytes = at_bytes;
    must_io(posix_memalign((void **)&tape->memory, 4096, TAPE_MAX) == 0,
            "memory");
    tape->text = g_string_new(NULL);
}

/* On return the note is in the log. */
static void tape_put(struct tape *tape)
{
    size_t length = (tape->text->len + SECTOR - 1) / SECTOR * SECTOR;

    if (!length) {
        return;
    }
    g_assert(length <= TAPE_MAX);
    memset(tape->memory, 0, length);
    memcpy(tape->memory, tape->text->str, tape->text->len);
    must_io(pwrite(tape->fd, tape->memory, length, (off_t)tape->at_bytes) ==
                (ssize_t)length,
            "tape");
    tape->at_bytes += length;
    g_string_truncate(tape->text, 0);
}

/* --- The load ------------------------------------------------------------- */

struct slot {
    archip_request request;
    struct iovec iov;
    uint64_t number;
    archip_queue *queue;
    bool busy;
};

struct load {
    const char *location, *command;
    archip_store *store;
    archip_volume *volume;
    archip_queue *queues[QUEUES];
    struct slot slots[DEPTH];
    struct tape tape;
    GRand *random;
    uint64_t number;  /* of the last request */
    uint32_t sectors; /* of the volume */
    unsigned in_flight;
    bool others[OTHERS]; /* which are there */
    bool calm;           /* see change_mood() */
};

static uint32_t below(struct load *load, uint32_t limit)
{
    return (uint32_t)g_rand_int_range(load->random, 0, (gint32)limit);
}

static void volume_open(struct load *load)
{
    must(archip_volume_open(load->store, NAME, ARCHIP_OPEN_WRITE, "cut-load",
                            &load->volume),
         "open");
    for (unsigned i = 0; i < QUEUES; i++) {
        must(archip_queue_open(load->volume, 0, &load->queues[i]), "queue");
    }
}

/*
 * In a calm time a few objects are overwritten and flushed and nothing else is
 * done, so that a flush has to sync data alone: any other sync on the same file
 * system may bring about what one that is missing should have.
 */
static void change_mood(struct load *load)
{
    if (below(load, 25) == 0) {
        load->calm = !load->calm;
    }
}

static void choose_range(struct load *load, archip_request *request,
                         uint32_t sectors)
{
    uint32_t length = 1 + below(load, below(load, 8) ? 20 : LENGTH_MAX);
    uint32_t first = below(load, sectors);

    switch (below(load, 4)) {
    case 0: /* a few places come again and again */
        first = first % 8 * OBJECT_SECTORS + first % 3;
        break;
    case 1: /* whole blocks */
        first = first / BLOCK_SECTORS * BLOCK_SECTORS;
        length = (length / BLOCK_SECTORS + 1) * BLOCK_SECTORS;
        break;
    }
    length = MIN(length, sectors - first);
    request->offset_bytes = (uint64_t)first * SECTOR;
    request->length_bytes = (uint64_t)length * SECTOR;
}

/* A whole object, now and then, which has to be made anew after that. */
static void widen(struct load *load, archip_request *request)
{
    uint64_t object_bytes = OBJECT_SECTORS * SECTOR;
    uint64_t start = request->offset_bytes / object_bytes * object_bytes;

    if (start + object_bytes <= (uint64_t)load->sectors * SECTOR &&
        below(load, 3) == 0) {
        request->offset_bytes = start;
        request->length_bytes = object_bytes;
    }
}

static char choose(struct load *load, archip_request *request)
{
    uint32_t dice = below(load, 100);

    memset(request, 0, sizeof(*request));
    if (load->calm && dice < 90) {
        choose_range(load, request, 6 * OBJECT_SECTORS);
        request->op = ARCHIP_WRITE;
        return 'w';
    }
    if (dice >= 95) {
        request->op = ARCHIP_FLUSH;
        return 'f';
    }
    if (dice >= 84) {
        /* Nothing is promised for the part of a block at the end. */
        choose_range(load, request,
                     load->sectors / BLOCK_SECTORS * BLOCK_SECTORS);
        widen(load, request);
        request->op = ARCHIP_DISCARD;
        return 'd';
    }
    choose_range(load, request, load->sectors);
    request->flags = below(load, 24) ? 0 : ARCHIP_FUA;
    if (dice >= 70) {
        widen(load, request);
        request->op = ARCHIP_WRITE_ZEROES;
        request->flags |= below(load, 2) ? ARCHIP_MAY_UNMAP : 0;
        return 'z';
    }
    request->op = ARCHIP_WRITE;
    return 'w';
}

static void prepare(struct load *load, struct slot *slot)
{
    archip_request *request = &slot->request;
    char kind = choose(load, request);
    uint64_t first = request->offset_bytes / SECTOR;
    uint32_t count = (uint32_t)(request->length_bytes / SECTOR);

    slot->number = ++load->number;
    slot->queue = load->queues[below(load, QUEUES)];
    request->user = slot;
    if (kind == 'f') {
        g_string_append_printf(load->tape.text, "f %" PRIu64 "\n",
                               slot->number);
        return;
    }
    if (kind == 'w') {
        stamp_sectors(slot->iov.iov_base, slot->number, first, count);
        slot->iov.iov_len = request->length_bytes;
        request->iov = &slot->iov;
        request->iov_count = 1;
    }
    g_string_append_printf(
        load->tape.text, "%c %" PRIu64 " %" PRIu64 " %u %u\n", kind,
        slot->number, first, count, (unsigned)(request->flags & ARCHIP_FUA));
}

/* Fill what is free; first of all it is noted. */
static void submit(struct load *load)
{
    struct slot *some[DEPTH];
    unsigned count = 0;

    for (unsigned i = 0; i < DEPTH; i++) {
        if (!load->slots[i].busy && below(load, 4)) {
            some[count++] = &load->slots[i];
            prepare(load, &load->slots[i]);
        }
    }
    tape_put(&load->tape);
    for (unsigned i = 0; i < count; i++) {
        some[i]->busy = true;
        load->in_flight++;
        must(archip_submit(some[i]->queue, &some[i]->request, 1), "submit");
    }
}

static void reap(struct load *load, int timeout_ms)
{
    struct pollfd fds[QUEUES];
    archip_completion done[DEPTH];

    for (unsigned i = 0; i < QUEUES; i++) {
        fds[i] = (struct pollfd){archip_queue_fd(load->queues[i]), POLLIN, 0};
    }
    poll(fds, QUEUES, timeout_ms);
    for (unsigned i = 0; i < QUEUES; i++) {
        int count = archip_queue_reap(load->queues[i], done, DEPTH, 0);

        must(count, "reap");
        for (int j = 0; j < count; j++) {
            struct slot *slot = done[j].user;

            if (done[j].result < 0) {
                die("request", done[j].error);
            }
            slot->busy = false;
            load->in_flight--;
            g_string_append_printf(load->tape.text, "c %" PRIu64 "\n",
                                   slot->number);
        }
    }
    tape_put(&load->tape);
}

static void drain(struct load *load)
{
    while (load->in_flight) {
        reap(load, 1000);
    }
}

/* Note the step that `format` says, do nothing, and return its number. */
static uint64_t begin(struct load *load, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

static uint64_t begin(struct load *load, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    g_string_append_vprintf(load->tape.text, format, arguments);
    va_end(arguments);
    tape_put(&load->tape);
    return load->number;
}

static void end(struct load *load, uint64_t number)
{
    g_string_append_printf(load->tape.text, "c %" PRIu64 "\n", number);
    tape_put(&load->tape);
}

static void resize(struct load *load)
{
    uint64_t number;

    drain(load);
    load->sectors = SECTORS_MIN + below(load, SECTORS_MAX - SECTORS_MIN + 1);
    load->number++;
    number = begin(load, "r %" PRIu64 " %u\n", load->number, load->sectors);
    must(archip_volume_resize(load->volume, (uint64_t)load->sectors * SECTOR,
                              ARCHIP_RESIZE_SHRINK),
         "resize");
    end(load, number);
}

/* A clean close is a flush. */
static void close_and_open(struct load *load)
{
    uint64_t number;

    drain(load);
    load->number++;
    number = begin(load, "f %" PRIu64 "\n", load->number);
    for (unsigned i = 0; i < QUEUES; i++) {
        archip_queue_close(load->queues[i]);
    }
    must(archip_volume_close(load->volume), "close");
    end(load, number);
    volume_open(load);
}

/* --- Other volumes, by the command ------------------------------------------
 */

static void run(const char *const *argv)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *output = NULL;
    int status = 0;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL,
                      NULL, NULL, NULL, &output, &status, &error)) {
        die(argv[1], error->message);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        die(argv[1], output);
    }
}

static void write_source(const char *path, uint64_t stamp)
{
    g_autofree char *bytes = g_malloc(OTHER_SECTORS * SECTOR);

    stamp_sectors(bytes, stamp, 0, OTHER_SECTORS);
    must_io(g_file_set_contents(path, bytes, OTHER_SECTORS * SECTOR, NULL),
            path);
}

static void change_other(struct load *load)
{
    unsigned which = below(load, OTHERS);
    g_autofree char *name = g_strdup_printf("other%u", which);
    g_autofree char *size = NULL;
    uint32_t sectors = OTHER_SECTORS, dice = below(load, 3);
    const char *verb = load->others[which] ? (dice ? "remove" : "resize")
                                           : (dice ? "import" : "create");
    const char *source = "/tmp/source";
    uint64_t number = ++load->number;

    if (!strcmp(verb, "resize")) {
        sectors += 1 + below(load, OTHER_SECTORS);
    }
    size = g_strdup_printf("%u", sectors * SECTOR);
    begin(load, "v %" PRIu64 " %s %s %u\n", number, verb, name, sectors);
    if (!strcmp(verb, "import")) {
        write_source(source, number);
        run((const char *[]){load->command, "import", "-q", "-o", "64K", source,
                             name, NULL});
    } else if (!strcmp(verb, "remove")) {
        run((const char *[]){load->command, "remove", name, NULL});
    } else if (!strcmp(verb, "create")) {
        run((const char *[]){load->command, "create", "-o", "64K", name, size,
                             NULL});
    } else {
        run((const char *[]){load->command, "resize", "--allow-shrink", name,
                             size, NULL});
    }
    load->others[which] = strcmp(verb, "remove") != 0;
    end(load, number);
}

static void load_begin(struct load *load)
{
    archip_create_options options = {
        .object_bytes = OBJECT_SECTORS * SECTOR,
    };

    must(archip_store_open(load->location, ARCHIP_STORE_CREATE, &load->store),
         "store");
    must(
        archip_volume_create(load->store, NAME, SECTORS_MAX * SECTOR, &options),
        "create");
    load->sectors = SECTORS_MAX;
    for (unsigned i = 0; i < DEPTH; i++) {
        must_io(posix_memalign(&load->slots[i].iov.iov_base, 4096,
                               (LENGTH_MAX + BLOCK_SECTORS) * SECTOR) == 0,
                "memory");
    }
    volume_open(load);
    g_string_append(load->tape.text, "begin\n");
    tape_put(&load->tape);
}

static void run_load(char **arguments)
{
    struct load load = {.location = arguments[0], .command = arguments[1]};
    uint64_t requests = number_of(arguments[5]);

    g_setenv("ARCHIPELAGO_STORE", load.location, TRUE);
    load.random = g_rand_new_with_seed((guint32)number_of(arguments[4]));
    tape_open(&load.tape, arguments[2], number_of(arguments[3]));
    load_begin(&load);
    while (load.number < requests) {
        change_mood(&load);
        submit(&load);
        if (!load.calm && below(&load, 16) == 0) {
            change_other(&load);
        }
        reap(&load, 1000);
        if (!load.calm && below(&load, 40) == 0) {
            resize(&load);
        }
        if (!load.calm && below(&load, 80) == 0) {
            close_and_open(&load);
        }
    }
    drain(&load);
    printf("cut-load: %" PRIu64 " requests\n", load.number);
}

/* --- Looking ----------------------------------------------------------------
 */

struct look {
    archip_store *store;
    int out;
    uint64_t at_bytes; /* of the next volume in `out` */
    GPtrArray *names;
    GString *text; /* a line for each volume */
};

static void put_out(struct look *look, const void *bytes, size_t length,
                    uint64_t offset_bytes)
{
    must_io(pwrite(look->out, bytes, length, (off_t)offset_bytes) ==
                (ssize_t)length,
            "out");
}

static const char *severity_name(archip_severity severity)
{
    return severity == ARCHIP_NOTE   ? "note"
           : severity == ARCHIP_LEAK ? "leak"
                                     : "damage";
}

static int note_finding(const archip_finding *finding, void *opaque)
{
    g_string_append_printf(opaque, "%s %s %s\n",
                           severity_name(finding->severity), finding->code,
                           finding->place);
    return 0;
}

/* All findings, a line each. */
static GString *check(struct look *look, uint32_t flags)
{
    GString *text = g_string_new(NULL);
    archip_check_options options = {
        .flags = flags,
        .finding = note_finding,
        .opaque = text,
    };

    must(archip_check(look->store, &options, NULL), "check");
    return text;
}

static int collect(const archip_volume_info *info, const char *error,
                   void *opaque)
{
    struct look *look = opaque;

    if (error) {
        die(info->name, error);
    }
    g_ptr_array_add(look->names, g_strdup(info->name));
    return 0;
}

static char *read_volume(struct look *look, const char *name, unsigned flags,
                         uint64_t *size_bytes)
{
    archip_volume *volume;
    archip_queue *queue;
    char *bytes;

    must(archip_volume_open(look->store, name, flags, "look", &volume), name);
    must(archip_queue_open(volume, 0, &queue), "queue");
    *size_bytes = archip_volume_size(volume);
    bytes = g_malloc(*size_bytes);
    must(archip_read(queue, bytes, *size_bytes, 0), "read");
    archip_queue_close(queue);
    must(archip_volume_close(volume), "close");
    return bytes;
}

static void look_at(struct look *look, const char *name)
{
    uint64_t size_bytes, again_bytes;
    g_autofree char *seen = read_volume(look, name, 0, &size_bytes);
    g_autofree char *bytes =
        read_volume(look, name, ARCHIP_OPEN_WRITE, &again_bytes);

    if (size_bytes != again_bytes || memcmp(seen, bytes, size_bytes)) {
        die(name, "recovery changed what a reader had seen (D5)");
    }
    put_out(look, bytes, size_bytes, look->at_bytes);
    g_string_append_printf(look->text, "%s %" PRIu64 " %" PRIu64 "\n", name,
                           size_bytes / SECTOR, look->at_bytes);
    look->at_bytes += size_bytes;
}

static void run_look(char **arguments)
{
    struct look look = {
        .names = g_ptr_array_new_with_free_func(g_free),
        .text = g_string_new(NULL),
    };
    uint64_t offset_bytes = number_of(arguments[2]);
    GString *found;

    look.at_bytes = offset_bytes + (1 << 20);
    look.out = open(arguments[1], O_WRONLY);
    must_io(look.out >= 0, arguments[1]);
    must(archip_store_open(arguments[0], 0, &look.store), "store");
    found = check(&look, 0);
    put_out(&look, found->str, found->len, offset_bytes + (64 << 10));
    must(archip_volume_list(look.store, collect, &look), "list");
    for (guint i = 0; i < look.names->len; i++) {
        look_at(&look, g_ptr_array_index(look.names, i));
    }
    must(archip_volume_create(look.store, "new", 1 << 20, NULL), "create");
    must(archip_volume_remove(look.store, "new"), "remove");
    check(&look, ARCHIP_CHECK_REPAIR);
    found = check(&look, 0);
    if (found->len) {
        die("after a repair there is", found->str);
    }
    archip_store_close(look.store);
    g_string_append(look.text, "end\n");
    put_out(&look, look.text->str, look.text->len, offset_bytes);
    must_io(fsync(look.out) == 0, "out");
}

int main(int argc, char **argv)
{
    if (argc == 8 && !strcmp(argv[1], "load")) {
        run_load(argv + 2);
    } else if (argc == 5 && !strcmp(argv[1], "look")) {
        run_look(argv + 2);
    } else {
        fprintf(stderr, "cut-load: see the head of its source\n");
        return 2;
    }
    return 0;
}
