/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See fibers.h.  A mutex keeps its holder's number in its first word. */
#include "fibers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_BYTES (256u << 10)
#define FIBERS_MAX 64
/* Choices without an end of the life: somebody runs in circles. */
#define CHOICES_MAX (UINT64_C(1) << 26)

/* --- Chance --------------------------------------------------------------- */

static uint64_t random_state;

void random_seed(uint64_t seed)
{
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

uint64_t random_next(void)
{
    uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint64_t random_below(uint64_t bound)
{
    return random_next() % bound;
}

bool random_once_in(uint64_t n)
{
    return n && random_below(n) == 0;
}

/* --- Fibers --------------------------------------------------------------- */

struct fiber {
    ucontext_t context;
    void *stack;
    unsigned number;
    bool done, joined;
    GThreadFunc run;
    gpointer opaque, result;
    bool (*ready)(void *opaque);        /* NULL: it can run */
    void *ready_opaque;
    const void *condition;              /* waited for, or NULL */
    int error_number;
    unsigned held_back;                 /* points at which others go first */
#ifdef __SANITIZE_ADDRESS__
    void *fake_stack;
#endif
};

static struct fiber first = { .number = 1 };
static struct fiber *fibers[FIBERS_MAX] = { &first };
static unsigned fibers_used = 1, last_number = 1;
static struct fiber *current = &first;
static GPtrArray *spare_stacks;
static uint64_t choices;

unsigned fiber_switch_once_in = 4;

unsigned fiber_number(void)
{
    return current->number;
}

unsigned fiber_count(void)
{
    unsigned count = 0;

    for (unsigned i = 1; i < fibers_used; i++) {
        count += !fibers[i]->done;
    }
    return count;
}

#ifdef __SANITIZE_ADDRESS__
static const void *first_stack;
static size_t first_stack_bytes;

static void switch_begin(struct fiber *from, struct fiber *to)
{
    __sanitizer_start_switch_fiber(&from->fake_stack,
                                   to->stack ? to->stack : first_stack,
                                   to->stack ? STACK_BYTES
                                             : first_stack_bytes);
}

static void switch_end(void)
{
    const void *bottom;
    size_t bytes;

    __sanitizer_finish_switch_fiber(current->fake_stack, &bottom, &bytes);
    if (!first_stack) {
        first_stack = bottom;
        first_stack_bytes = bytes;
    }
}
#else
static void switch_begin(struct fiber *from, struct fiber *to)
{
}

static void switch_end(void)
{
}
#endif

static void fiber_switch(struct fiber *to)
{
    struct fiber *from = current;

    from->error_number = errno;
    current = to;
    switch_begin(from, to);
    swapcontext(&from->context, &to->context);
    switch_end();
    errno = current->error_number;
}

static bool can_run(const struct fiber *fiber)
{
    return !fiber->done &&
           (!fiber->ready || fiber->ready(fiber->ready_opaque));
}

/* Choose who goes on; returns when it is the calling fiber. */
static void fiber_schedule(void)
{
    for (;;) {
        struct fiber *able[FIBERS_MAX];
        unsigned count = 0, events = events_pending();
        uint64_t choice;

        for (unsigned i = 0; i < fibers_used; i++) {
            if (can_run(fibers[i])) {
                able[count++] = fibers[i];
            }
        }
        if (count + events == 0) {
            simulation_stuck("nobody can go on: all wait for one another");
        }
        if (++choices > CHOICES_MAX) {
            simulation_stuck("there is no end to it");
        }
        choice = random_below(count + events);
        if (choice >= count) {
            event_happen();
        } else if (able[choice] == current) {
            return;
        } else {
            fiber_switch(able[choice]);
            return;     /* whoever switched back found us able */
        }
    }
}

void fiber_wait(bool (*ready)(void *opaque), void *opaque)
{
    current->ready = ready;
    current->ready_opaque = opaque;
    fiber_schedule();
    current->ready = NULL;
}

void fiber_point(void)
{
    if (current->held_back > 0) {
        current->held_back--;
        fiber_schedule();
    } else if (random_once_in(fiber_switch_once_in)) {
        fiber_schedule();
    }
}

void fiber_hold_back(unsigned points)
{
    current->held_back = points;
}

static void fiber_main(void)
{
    switch_end();
    errno = 0;
    current->result = current->run(current->opaque);
    current->done = true;
    fiber_schedule();
    abort();
}

static struct fiber *fiber_new(GThreadFunc run, gpointer opaque)
{
    struct fiber *fiber = g_new0(struct fiber, 1);

    if (!spare_stacks) {
        spare_stacks = g_ptr_array_new();
    }
    fiber->stack = spare_stacks->len
                       ? g_ptr_array_steal_index_fast(spare_stacks,
                                                      spare_stacks->len - 1)
                       : malloc(STACK_BYTES);
    fiber->number = ++last_number;
    fiber->run = run;
    fiber->opaque = opaque;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, fiber_main, 0);
    return fiber;
}

void fibers_clean(void)
{
    unsigned kept = 1;

    for (unsigned i = 1; i < fibers_used; i++) {
        struct fiber *fiber = fibers[i];

        if (fiber->done && fiber->joined) {
            g_ptr_array_add(spare_stacks, fiber->stack);
            g_free(fiber);
        } else {
            fibers[kept++] = fiber;
        }
    }
    fibers_used = kept;
    choices = 0;
    if (fibers_used == 1) {
        last_number = 1;
    }
}

/* --- GLib's threads ------------------------------------------------------- */

GThread *__wrap_g_thread_try_new(const char *name, GThreadFunc run,
                                 gpointer opaque, GError **error);
GThread *__wrap_g_thread_new(const char *name, GThreadFunc run,
                             gpointer opaque);
gpointer __wrap_g_thread_join(GThread *thread);
void __wrap_g_mutex_init(GMutex *mutex);
void __wrap_g_mutex_clear(GMutex *mutex);
void __wrap_g_mutex_lock(GMutex *mutex);
gboolean __wrap_g_mutex_trylock(GMutex *mutex);
void __wrap_g_mutex_unlock(GMutex *mutex);
void __wrap_g_cond_init(GCond *condition);
void __wrap_g_cond_clear(GCond *condition);
void __wrap_g_cond_wait(GCond *condition, GMutex *mutex);
void __wrap_g_cond_signal(GCond *condition);
void __wrap_g_cond_broadcast(GCond *condition);

GThread *__wrap_g_thread_try_new(const char *name, GThreadFunc run,
                                 gpointer opaque, GError **error)
{
    if (fibers_used == FIBERS_MAX) {
        fibers_clean();
    }
    if (fibers_used == FIBERS_MAX) {
        return NULL;
    }
    fibers[fibers_used] = fiber_new(run, opaque);
    return (GThread *)fibers[fibers_used++];
}

GThread *__wrap_g_thread_new(const char *name, GThreadFunc run,
                             gpointer opaque)
{
    GThread *thread = __wrap_g_thread_try_new(name, run, opaque, NULL);

    g_assert(thread);
    return thread;
}

static bool is_done(void *opaque)
{
    return ((struct fiber *)opaque)->done;
}

gpointer __wrap_g_thread_join(GThread *thread)
{
    struct fiber *fiber = (struct fiber *)thread;

    g_assert(!fiber->joined);
    fiber_wait(is_done, fiber);
    fiber->joined = true;
    return fiber->result;
}

void __wrap_g_mutex_init(GMutex *mutex)
{
    memset(mutex, 0, sizeof(*mutex));
}

void __wrap_g_mutex_clear(GMutex *mutex)
{
    g_assert(mutex->i[0] == 0);
}

static bool is_free(void *opaque)
{
    return ((GMutex *)opaque)->i[0] == 0;
}

void __wrap_g_mutex_lock(GMutex *mutex)
{
    fiber_point();
    g_assert(mutex->i[0] != current->number);
    if (mutex->i[0]) {
        fiber_wait(is_free, mutex);
    }
    mutex->i[0] = current->number;
}

gboolean __wrap_g_mutex_trylock(GMutex *mutex)
{
    fiber_point();
    if (mutex->i[0]) {
        return FALSE;
    }
    mutex->i[0] = current->number;
    return TRUE;
}

void __wrap_g_mutex_unlock(GMutex *mutex)
{
    g_assert(mutex->i[0] == current->number);
    mutex->i[0] = 0;
}

void __wrap_g_cond_init(GCond *condition)
{
}

void __wrap_g_cond_clear(GCond *condition)
{
}

static bool is_signalled(void *opaque)
{
    return !((struct fiber *)opaque)->condition;
}

void __wrap_g_cond_wait(GCond *condition, GMutex *mutex)
{
    __wrap_g_mutex_unlock(mutex);
    current->condition = condition;
    fiber_wait(is_signalled, current);
    __wrap_g_mutex_lock(mutex);
}

static void signal_some(const GCond *condition, unsigned max)
{
    unsigned start = (unsigned)random_below(fibers_used);

    for (unsigned i = 0; i < fibers_used && max; i++) {
        struct fiber *fiber = fibers[(start + i) % fibers_used];

        if (fiber->condition == condition) {
            fiber->condition = NULL;
            max--;
        }
    }
}

void __wrap_g_cond_signal(GCond *condition)
{
    signal_some(condition, 1);
}

void __wrap_g_cond_broadcast(GCond *condition)
{
    signal_some(condition, FIBERS_MAX);
}
