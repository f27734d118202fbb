/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault store: fault.h says what it does.
 *
 * A request that isn't to fail goes to the wrapped store as it is.  One that
 * fails is completed here; one that fails late goes there as a copy; one that
 * is delayed is kept until its time.  The queue's descriptor is
 * an epoll instance over the wrapped queue's, an eventfd for what is completed
 * here and a timerfd for what is delayed.
 */
#include "store/fault.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct armed {
    struct fault_rule rule;
    uint64_t seen;
};

struct fault_state {
    struct store *inner;
    GMutex lock;                /* guards all below */
    GArray *rules;              /* of struct armed */
    uint64_t counts[FAULT_ANY + 1];
    uint64_t fired;
    int stopped_errno;          /* 0: not stopped */
};

struct fault_queue {
    struct store_queue queue;
    struct store_queue *inner;
    int epoll_fd, event_fd, timer_fd;
    GQueue failed;              /* of struct store_request, to be delivered */
    GQueue delayed;             /* of struct delayed */
};

struct delayed {
    struct store_request *request;
    int64_t due_us;
    int failure;                /* as struct verdict has them */
    bool late;
};

struct fault_lock {
    struct store_lock lock;
    struct store_lock *inner;
};

/* What becomes of one operation. */
struct verdict {
    int failure;                /* 0 or -errno */
    bool late;
    unsigned delay_ms;
};

/* --- Rules ---------------------------------------------------------------- */

static const char *const op_names[] = {
    [FAULT_READ] = "read",
    [FAULT_WRITE] = "write",
    [FAULT_ZERO] = "zero",
    [FAULT_PUNCH] = "punch",
    [FAULT_SYNC] = "sync",
    [FAULT_REMOVE] = "remove",
    [FAULT_EXTENT] = "extent",
    [FAULT_GET] = "get",
    [FAULT_PUT] = "put",
    [FAULT_DROP] = "drop",
    [FAULT_LIST] = "list",
    [FAULT_LIST_OBJECTS] = "list_objects",
    [FAULT_ALLOCATED] = "allocated",
    [FAULT_SYNC_ALL] = "sync_all",
    [FAULT_REMOVE_ALL] = "remove_all",
    [FAULT_LOCK] = "lock",
    [FAULT_HOLDER] = "holder",
    [FAULT_EXCLUDE_READERS] = "exclude_readers",
    [FAULT_LIST_IDS] = "list_ids",
    [FAULT_LIST_SIZES] = "list_sizes",
    [FAULT_LIST_STRAYS] = "list_strays",
    [FAULT_TRIM] = "trim",
    [FAULT_SET_ASIDE] = "set_aside",
    [FAULT_TAKE_BACK] = "take_back",
    [FAULT_RESET_LOCK] = "reset_lock",
    [FAULT_ANY] = "any",
};

static bool parse_op(const char *text, enum fault_op *op)
{
    for (size_t i = 0; i < G_N_ELEMENTS(op_names); i++) {
        if (strcmp(op_names[i], text) == 0) {
            *op = (enum fault_op)i;
            return true;
        }
    }
    return false;
}

/* "KEY=VALUE" or "KEY". */
static bool parse_part(const char *part, struct fault_rule *rule)
{
    const char *equals = strchr(part, '=');
    guint64 number;

    if (strcmp(part, "late") == 0) {
        return rule->late = true;
    }
    if (strcmp(part, "stop") == 0) {
        return rule->stop = true;
    }
    if (g_str_has_prefix(part, "op=")) {
        return parse_op(part + 3, &rule->op);
    }
    if (!equals || !g_ascii_string_to_unsigned(equals + 1, 10, 0, INT32_MAX,
                                               &number, NULL)) {
        return false;
    }
    if (g_str_has_prefix(part, "nth=") && number > 0) {
        rule->nth = number;
    } else if (g_str_has_prefix(part, "times=")) {
        rule->times = number;
    } else if (g_str_has_prefix(part, "errno=") && number < 4096) {
        rule->errno_value = (int)number;
    } else if (g_str_has_prefix(part, "delay_ms=")) {
        rule->delay_ms = (unsigned)number;
    } else {
        return false;
    }
    return true;
}

static int parse_rule(const char *text, struct fault_rule *rule, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    *rule = (struct fault_rule){
        .op = FAULT_ANY, .nth = 1, .times = 1, .errno_value = -1};
    for (char **part = parts; *part; part++) {
        if (!parse_part(*part, rule)) {
            return error_set(error, EINVAL,
                             "\"%s\" is not part of a fault store's rule",
                             *part);
        }
    }
    if (rule->errno_value < 0) {
        rule->errno_value = rule->delay_ms > 0 && !rule->stop ? 0 : EIO;
    }
    return 0;
}

static int parse_rules(struct fault_state *state, const char *text,
                       GError **error)
{
    g_auto(GStrv) rules = g_strsplit(text, ";", -1);

    for (char **one = rules; *one; one++) {
        struct armed armed = {0};
        int result = **one ? parse_rule(*one, &armed.rule, error) : 0;

        if (result < 0) {
            return result;
        }
        if (**one) {
            g_array_append_val(state->rules, armed);
        }
    }
    return 0;
}

static bool fires(struct armed *armed, enum fault_op op)
{
    const struct fault_rule *rule = &armed->rule;

    if (rule->op != FAULT_ANY && rule->op != op) {
        return false;
    }
    armed->seen++;
    return armed->seen >= rule->nth &&
           (rule->times == 0 || armed->seen < rule->nth + rule->times);
}

static bool can_be_late(enum fault_op op)
{
    switch (op) {
    case FAULT_WRITE:
    case FAULT_ZERO:
    case FAULT_PUNCH:
    case FAULT_SYNC:
    case FAULT_REMOVE:
    case FAULT_PUT:
    case FAULT_DROP:
    case FAULT_SYNC_ALL:
    case FAULT_REMOVE_ALL:
    case FAULT_TRIM:
    case FAULT_SET_ASIDE:
    case FAULT_TAKE_BACK:
    case FAULT_RESET_LOCK:
        return true;
    default:
        return false;
    }
}

static struct verdict judge_locked(struct fault_state *state, enum fault_op op)
{
    struct verdict verdict = {.failure = -state->stopped_errno};

    state->counts[op]++;
    state->counts[FAULT_ANY]++;
    for (guint i = 0; i < state->rules->len; i++) {
        struct armed *armed = &g_array_index(state->rules, struct armed, i);

        if (!fires(armed, op) || verdict.failure < 0) {
            continue;
        }
        verdict.failure = -armed->rule.errno_value;
        verdict.late = armed->rule.late && can_be_late(op);
        verdict.delay_ms += armed->rule.delay_ms;
        if (armed->rule.stop) {
            state->stopped_errno = armed->rule.errno_value;
        }
    }
    state->fired += verdict.failure < 0;
    return verdict;
}

static struct verdict judge(struct store *store, enum fault_op op)
{
    struct fault_state *state = store->state;
    struct verdict verdict;

    g_mutex_lock(&state->lock);
    verdict = judge_locked(state, op);
    g_mutex_unlock(&state->lock);
    return verdict;
}

/* --- For tests ------------------------------------------------------------ */

static struct fault_state *state_of(struct store *store)
{
    g_assert(store->driver == &store_fault);
    return store->state;
}

void fault_arm(struct store *store, const struct fault_rule *rule)
{
    struct fault_state *state = state_of(store);
    struct armed armed = {.rule = *rule};

    g_mutex_lock(&state->lock);
    g_array_append_val(state->rules, armed);
    g_mutex_unlock(&state->lock);
}

void fault_reset(struct store *store)
{
    struct fault_state *state = state_of(store);

    g_mutex_lock(&state->lock);
    g_array_set_size(state->rules, 0);
    memset(state->counts, 0, sizeof(state->counts));
    state->fired = 0;
    state->stopped_errno = 0;
    g_mutex_unlock(&state->lock);
}

uint64_t fault_count(struct store *store, enum fault_op op)
{
    struct fault_state *state = state_of(store);
    uint64_t count;

    g_mutex_lock(&state->lock);
    count = state->counts[op];
    g_mutex_unlock(&state->lock);
    return count;
}

uint64_t fault_fired(struct store *store)
{
    struct fault_state *state = state_of(store);
    uint64_t fired;

    g_mutex_lock(&state->lock);
    fired = state->fired;
    g_mutex_unlock(&state->lock);
    return fired;
}

struct store *fault_inner(struct store *store)
{
    return state_of(store)->inner;
}

/* --- Opening -------------------------------------------------------------- */

static void state_free(struct fault_state *state)
{
    store_close(state->inner);
    g_array_unref(state->rules);
    g_mutex_clear(&state->lock);
    g_free(state);
}

/* `path` is all that follows "fault:", with the options of the other store. */
static int fault_open(struct store *store, const char *path,
                      GHashTable *options, unsigned flags, GError **error)
{
    const char *colon = strchr(path, ':');
    g_autofree char *rules = NULL;
    struct fault_state *state;
    int result;

    if (!colon) {
        return error_set(error, EINVAL,
                         "a fault store is written fault:RULES:LOCATION");
    }
    state = g_new0(struct fault_state, 1);
    g_mutex_init(&state->lock);
    state->rules = g_array_new(FALSE, FALSE, sizeof(struct armed));
    rules = g_strndup(path, (gsize)(colon - path));
    result = parse_rules(state, rules, error);
    if (result == 0) {
        result = store_open(colon + 1, flags, &state->inner, error);
    }
    if (result < 0) {
        state_free(state);
        return result;
    }
    store->alignment_bytes = state->inner->alignment_bytes;
    store->memory_alignment_bytes = state->inner->memory_alignment_bytes;
    store->full_size = state->inner->full_size;
    store->state = state;
    return 0;
}

static void fault_close(struct store *store)
{
    state_free(store->state);
}

static int fault_status(struct store *store, struct store_status *status,
                        GError **error)
{
    struct store *inner = fault_inner(store);

    return inner->driver->status(inner, status, error);
}

/* --- Queues --------------------------------------------------------------- */

static int watch(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void fault_queue_close(struct store_queue *base)
{
    struct fault_queue *queue = (struct fault_queue *)base;

    g_assert(queue->failed.length == 0 && queue->delayed.length == 0);
    store_queue_close(queue->inner);
    close(queue->epoll_fd);
    close(queue->event_fd);
    close(queue->timer_fd);
    g_free(queue);
}

static int fault_queue_open(struct store *store, unsigned flags,
                            struct store_queue **base, GError **error)
{
    struct fault_queue *queue = g_new0(struct fault_queue, 1);
    int result = store_queue_open(fault_inner(store), flags, &queue->inner,
                                  error);

    if (result < 0) {
        g_free(queue);
        return result;
    }
    queue->queue.store = store;
    queue->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    queue->timer_fd = timerfd_create(CLOCK_MONOTONIC,
                                     TFD_CLOEXEC | TFD_NONBLOCK);
    if (watch(queue->epoll_fd, queue->event_fd) < 0 ||
        watch(queue->epoll_fd, queue->timer_fd) < 0 ||
        watch(queue->epoll_fd, store_queue_fd(queue->inner)) < 0) {
        result = error_set_errno(error, errno, "cannot make a queue");
        fault_queue_close(&queue->queue);
        return result;
    }
    *base = &queue->queue;
    return 0;
}

static int fault_queue_fd(struct store_queue *base)
{
    return ((struct fault_queue *)base)->epoll_fd;
}

static void fail(struct fault_queue *queue, struct store_request *request,
                 int failure)
{
    request->result = failure;
    g_queue_push_tail(&queue->failed, request);
    eventfd_write(queue->event_fd, 1);
}

struct late {
    struct store_request copy;
    struct store_request *request;
    int failure;
};

static void late_done(struct store_request *copy)
{
    struct late *late = copy->opaque;

    late->request->result = late->failure;
    late->request->done(late->request);
    g_free(late);
}

static void forward(struct fault_queue *queue, struct store_request *request,
                    int failure, bool is_late)
{
    struct late *late;

    if (failure == 0) {
        store_submit(queue->inner, request);
        return;
    }
    if (!is_late) {
        fail(queue, request, failure);
        return;
    }
    late = g_new0(struct late, 1);
    late->copy = *request;
    late->copy.done = late_done;
    late->copy.opaque = late;
    late->request = request;
    late->failure = failure;
    store_submit(queue->inner, &late->copy);
}

static void fault_submit(struct store_queue *base,
                         struct store_request *request)
{
    struct fault_queue *queue = (struct fault_queue *)base;
    struct verdict verdict = judge(base->store, (enum fault_op)request->op);
    struct itimerspec soon = {.it_value.tv_nsec = 1000000,
                              .it_interval.tv_nsec = 1000000};
    struct delayed *delayed;

    if (verdict.delay_ms == 0) {
        forward(queue, request, verdict.failure, verdict.late);
        return;
    }
    delayed = g_new0(struct delayed, 1);
    *delayed = (struct delayed){
        .request = request,
        .due_us = g_get_monotonic_time() + verdict.delay_ms * INT64_C(1000),
        .failure = verdict.failure,
        .late = verdict.late,
    };
    g_queue_push_tail(&queue->delayed, delayed);
    timerfd_settime(queue->timer_fd, 0, &soon, NULL);
}

static void fault_kick(struct store_queue *base)
{
    store_kick(((struct fault_queue *)base)->inner);
}

/* Whose time has come; the timer ticks until none is left. */
static void release_delayed(struct fault_queue *queue)
{
    struct itimerspec never = {0};
    int64_t now_us = g_get_monotonic_time();
    GList *link = queue->delayed.head;
    bool any = false;

    while (link) {
        struct delayed *delayed = link->data;
        GList *next = link->next;

        if (delayed->due_us <= now_us) {
            g_queue_delete_link(&queue->delayed, link);
            forward(queue, delayed->request, delayed->failure, delayed->late);
            g_free(delayed);
            any = true;
        }
        link = next;
    }
    if (any) {
        store_kick(queue->inner);
    }
    if (queue->delayed.length == 0) {
        timerfd_settime(queue->timer_fd, 0, &never, NULL);
    }
}

static int fault_poll(struct store_queue *base)
{
    struct fault_queue *queue = (struct fault_queue *)base;
    uint64_t drained;
    int count;

    if (queue->delayed.length > 0) {
        if (read(queue->timer_fd, &drained, sizeof(drained)) < 0) {
            /* It hasn't ticked; looking at the clock does no harm. */
        }
        release_delayed(queue);
    }
    eventfd_read(queue->event_fd, &drained);
    count = (int)queue->failed.length;
    for (int i = 0; i < count; i++) {
        struct store_request *request = g_queue_pop_head(&queue->failed);

        request->done(request);
    }
    return count + store_poll(queue->inner);
}

/* --- Blocking calls ------------------------------------------------------- */

static int failure_text(enum fault_op op, int failure, GError **error)
{
    return error_set_errno(error, -failure, "injected failure of %s",
                           op_names[op]);
}

/* Before the wrapped call; `late` is for finish(). */
static int begin(struct store *store, enum fault_op op, int *late,
                 GError **error)
{
    struct verdict verdict = judge(store, op);

    *late = verdict.late ? verdict.failure : 0;
    if (verdict.delay_ms > 0) {
        g_usleep(verdict.delay_ms * 1000ul);
    }
    return verdict.failure < 0 && !verdict.late
               ? failure_text(op, verdict.failure, error)
               : 0;
}

static int finish(enum fault_op op, int result, int late, GError **error)
{
    return result >= 0 && late < 0 ? failure_text(op, late, error) : result;
}

/* Call the wrapped store's `member`, unless a rule has it fail. */
#define WRAP(OP, member, ...)                                                  \
    do {                                                                       \
        struct store *inner = fault_inner(store);                              \
        int late, result = begin(store, OP, &late, error);                     \
                                                                               \
        if (result < 0) {                                                      \
            return result;                                                     \
        }                                                                      \
        result = inner->driver->member(inner, __VA_ARGS__, error);             \
        return finish(OP, result, late, error);                                \
    } while (0)

static int fault_get(struct store *store, const struct store_record *record,
                     GBytes **value, GError **error)
{
    WRAP(FAULT_GET, get, record, value);
}

static int fault_put(struct store *store, const struct store_record *record,
                     const void *value, size_t bytes, bool exclusive,
                     GError **error)
{
    WRAP(FAULT_PUT, put, record, value, bytes, exclusive);
}

static int fault_drop(struct store *store, const struct store_record *record,
                      GError **error)
{
    WRAP(FAULT_DROP, drop, record);
}

static int fault_list(struct store *store, enum store_record_kind kind,
                      int (*each)(const struct store_record *record,
                                  void *opaque),
                      void *opaque, GError **error)
{
    WRAP(FAULT_LIST, list, kind, each, opaque);
}

static int fault_list_objects(struct store *store, enum store_kind kind,
                              const struct id128 *id,
                              int (*each)(uint64_t number,
                                          uint64_t allocated_bytes,
                                          void *opaque),
                              void *opaque, GError **error)
{
    WRAP(FAULT_LIST_OBJECTS, list_objects, kind, id, each, opaque);
}

static int fault_allocated(struct store *store,
                           const struct store_object *object, uint64_t *bytes,
                           GError **error)
{
    WRAP(FAULT_ALLOCATED, allocated, object, bytes);
}

static int fault_sync_all(struct store *store, enum store_kind kind,
                          const struct id128 *id, GError **error)
{
    WRAP(FAULT_SYNC_ALL, sync_all, kind, id);
}

static int fault_remove_all(struct store *store, enum store_kind kind,
                            const struct id128 *id, GError **error)
{
    WRAP(FAULT_REMOVE_ALL, remove_all, kind, id);
}

static int fault_holder(struct store *store, const struct id128 *id,
                        struct store_owner *holder, bool *held, GError **error)
{
    WRAP(FAULT_HOLDER, holder, id, holder, held);
}

/* --- Locks ---------------------------------------------------------------- */

static int fault_lock(struct store *store, const struct id128 *id,
                      enum store_lock_mode mode, struct store_owner *me,
                      struct store_lock **lock, struct store_owner *holder,
                      GError **error)
{
    struct store *inner = fault_inner(store);
    struct fault_lock *made;
    int late, result = begin(store, FAULT_LOCK, &late, error);

    if (result < 0) {
        return result;
    }
    made = g_new0(struct fault_lock, 1);
    result = inner->driver->lock(inner, id, mode, me, &made->inner, holder,
                                 error);
    if (result < 0) {
        g_free(made);
        return result;
    }
    made->lock.store = store;
    *lock = &made->lock;
    return 0;
}

static void fault_unlock(struct store_lock *lock)
{
    struct fault_lock *fault = (struct fault_lock *)lock;

    fault->inner->store->driver->unlock(fault->inner);
    g_free(fault);
}

static int fault_exclude_readers(struct store_lock *lock)
{
    struct fault_lock *fault = (struct fault_lock *)lock;
    int late, result = begin(lock->store, FAULT_EXCLUDE_READERS, &late, NULL);

    return result < 0
               ? result
               : fault->inner->store->driver->exclude_readers(fault->inner);
}

static void fault_admit_readers(struct store_lock *lock)
{
    struct fault_lock *fault = (struct fault_lock *)lock;

    fault->inner->store->driver->admit_readers(fault->inner);
}

/* --- Check and repair ----------------------------------------------------- */

static void fault_look(struct store *store, bool only)
{
    struct store *inner = fault_inner(store);

    inner->driver->look(inner, only);
}

static int fault_list_ids(struct store *store, enum store_kind kind,
                          int (*each)(const struct id128 *id, void *opaque),
                          void *opaque, GError **error)
{
    WRAP(FAULT_LIST_IDS, list_ids, kind, each, opaque);
}

static int fault_list_sizes(struct store *store, enum store_kind kind,
                            const struct id128 *id,
                            int (*each)(uint64_t number, uint64_t size_bytes,
                                        void *opaque),
                            void *opaque, GError **error)
{
    WRAP(FAULT_LIST_SIZES, list_sizes, kind, id, each, opaque);
}

static int fault_list_strays(struct store *store,
                             int (*each)(const char *stray, bool litter,
                                         void *opaque),
                             void *opaque, GError **error)
{
    WRAP(FAULT_LIST_STRAYS, list_strays, each, opaque);
}

static int fault_trim(struct store *store, const struct store_object *object,
                      uint64_t size_bytes, GError **error)
{
    WRAP(FAULT_TRIM, trim, object, size_bytes);
}

static int fault_set_aside(struct store *store,
                           const struct store_thing *thing, GError **error)
{
    WRAP(FAULT_SET_ASIDE, set_aside, thing);
}

static int fault_take_back(struct store *store,
                           const struct store_thing *thing, GError **error)
{
    WRAP(FAULT_TAKE_BACK, take_back, thing);
}

static int fault_reset_lock(struct store *store, const struct id128 *id,
                            GError **error)
{
    WRAP(FAULT_RESET_LOCK, reset_lock, id);
}

const struct store_driver store_fault = {
    .name = "fault",
    .open = fault_open,
    .close = fault_close,
    .status = fault_status,
    .queue_open = fault_queue_open,
    .queue_close = fault_queue_close,
    .queue_fd = fault_queue_fd,
    .submit = fault_submit,
    .kick = fault_kick,
    .poll = fault_poll,
    .get = fault_get,
    .put = fault_put,
    .drop = fault_drop,
    .list = fault_list,
    .list_objects = fault_list_objects,
    .allocated = fault_allocated,
    .sync_all = fault_sync_all,
    .remove_all = fault_remove_all,
    .lock = fault_lock,
    .unlock = fault_unlock,
    .holder = fault_holder,
    .exclude_readers = fault_exclude_readers,
    .admit_readers = fault_admit_readers,
    .look = fault_look,
    .list_ids = fault_list_ids,
    .list_sizes = fault_list_sizes,
    .list_strays = fault_list_strays,
    .trim = fault_trim,
    .set_aside = fault_set_aside,
    .take_back = fault_take_back,
    .reset_lock = fault_reset_lock,
};
