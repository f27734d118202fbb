/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memory:NAME, a store in this process's memory.  For tests, and the copy to
 * learn from: the contract of store.h and nothing else.
 *
 * A *world* is the content of one NAME.  Worlds are made when first opened and
 * live as long as the process, so that a store closed and opened again shows
 * what it had, as a disk would.  Everything in a world is under its lock; a
 * queue is its own thread's and has none.
 *
 * Objects are tables of 4 KiB pieces; a piece that isn't there is a hole.
 * Requests are carried out in kick() and delivered by poll().
 *
 * Option: alignment=BYTES makes the store refuse offsets, lengths and memory
 * that aren't multiples, as a disk with O_DIRECT would.
 */
#include "store/object.h"

#include "base/error.h"
#include "store/location.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PIECE_BYTES UINT64_C(4096)
#define OBJECT_BYTES_MAX (UINT64_C(1) << 40)

struct object {
    GHashTable *pieces;         /* of uint8_t[PIECE_BYTES], by place */
    uint64_t size_bytes;
};

struct lock_state {
    struct store_lock *writer;
    struct store_owner owner;   /* the WRITE lock's holder, or its last */
    int reader_count;
    bool readers_excluded;
};

struct world {
    GMutex lock;                /* guards all below */
    GHashTable *objects;        /* struct store_object -> struct object */
    GHashTable *records;        /* record_key() -> GBytes */
    GHashTable *locks;          /* struct id128 -> struct lock_state */
    bool in_repair;             /* by the holder of the lock for that */
    GHashTable *aside;          /* as `objects`: what was set aside of them */
    GHashTable *records_aside;  /* as `records` */
};

struct memory_queue {
    struct store_queue queue;
    GQueue submitted, done;     /* of struct store_request */
    int event_fd;
};

struct memory_lock {
    struct store_lock lock;
    struct id128 id;
    enum store_lock_mode mode;
};

/* --- Worlds --------------------------------------------------------------- */

static guint id_hash(gconstpointer key)
{
    guint word;

    memcpy(&word, key, sizeof(word));
    return word;
}

static gboolean id_equal(gconstpointer a, gconstpointer b)
{
    return id128_equal(a, b);
}

static void object_free(gpointer data)
{
    struct object *object = data;

    g_hash_table_unref(object->pieces);
    g_free(object);
}

static struct world *world_new(void)
{
    struct world *world = g_new0(struct world, 1);

    g_mutex_init(&world->lock);
    world->objects = g_hash_table_new_full(
        store_object_hash, store_object_equal, g_free, object_free);
    world->records = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                           (GDestroyNotify)g_bytes_unref);
    world->locks = g_hash_table_new_full(id_hash, id_equal, g_free, g_free);
    world->aside = g_hash_table_new_full(
        store_object_hash, store_object_equal, g_free, object_free);
    world->records_aside = g_hash_table_new_full(
        g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_bytes_unref);
    return world;
}

/* The world of that name; NULL when there is none and it isn't to be made. */
static struct world *world_find(const char *name, bool create)
{
    static GMutex lock;
    static GHashTable *worlds;
    struct world *world;

    g_mutex_lock(&lock);
    if (!worlds) {
        worlds = g_hash_table_new(g_str_hash, g_str_equal);
    }
    world = g_hash_table_lookup(worlds, name);
    if (!world && create) {
        world = world_new();
        g_hash_table_insert(worlds, g_strdup(name), world);
    }
    g_mutex_unlock(&lock);
    return world;
}

static int memory_open(struct store *store, const char *path,
                       GHashTable *options, unsigned flags, GError **error)
{
    static const char *const known[] = {"alignment", NULL};
    uint64_t alignment_bytes = 1;
    int result = location_check_options(options, "memory", known, error);

    if (result == 0) {
        result = location_get_number(options, "alignment", 1, PIECE_BYTES,
                                     &alignment_bytes, error);
    }
    if (result < 0) {
        return result;
    }
    if (alignment_bytes & (alignment_bytes - 1)) {
        return error_set(error, EINVAL, "alignment is not a power of two");
    }
    store->alignment_bytes = (uint32_t)alignment_bytes;
    store->memory_alignment_bytes = (uint32_t)alignment_bytes;
    store->state = world_find(path, flags & STORE_OPEN_CREATE);
    if (!store->state) {
        return error_set(error, ENOENT,
                         "there is no store memory:%s in this process", path);
    }
    return 0;
}

static void memory_close(struct store *store)
{
}

static int memory_status(struct store *store, struct store_status *status,
                         GError **error)
{
    *status = (struct store_status){.io = "memory"};
    return 0;
}

/* --- Objects -------------------------------------------------------------- */

static struct object *object_find(struct world *world,
                                  const struct store_object *name)
{
    return g_hash_table_lookup(world->objects, name);
}

static uint8_t *piece_find(struct object *object, uint64_t place)
{
    gint64 key = (gint64)place;

    return g_hash_table_lookup(object->pieces, &key);
}

static uint8_t *piece_make(struct object *object, uint64_t place)
{
    uint8_t *piece = piece_find(object, place);

    if (!piece) {
        gint64 key = (gint64)place;

        piece = g_malloc0(PIECE_BYTES);
        g_hash_table_insert(object->pieces, g_memdup2(&key, sizeof(key)),
                            piece);
    }
    return piece;
}

/* The object to write to: with STORE_CREATE a new one. */
static struct object *object_open(struct world *world,
                                  struct store_request *request)
{
    struct object *object;

    if (!(request->flags & STORE_CREATE)) {
        return object_find(world, &request->object);
    }
    object = g_new0(struct object, 1);
    object->pieces =
        g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    g_hash_table_replace(world->objects,
                         store_object_copy(&request->object), object);
    return object;
}

/* How much of the range from `at` on lies in one piece. */
static uint64_t in_piece(uint64_t at, uint64_t end)
{
    return MIN(end, (at / PIECE_BYTES + 1) * PIECE_BYTES) - at;
}

/* One iovec's bytes, to or from the object. */
static void copy_buffer(struct object *object, uint64_t at, uint8_t *buffer,
                        uint64_t bytes, bool write)
{
    uint64_t end = at + bytes, step;

    for (; at < end; at += step, buffer += step) {
        uint64_t place = at / PIECE_BYTES, offset = at % PIECE_BYTES;
        uint8_t *piece = write ? piece_make(object, place)
                               : piece_find(object, place);

        step = in_piece(at, end);
        if (write) {
            memcpy(piece + offset, buffer, step);
        } else if (piece) {
            memcpy(buffer, piece + offset, step);
        } else {
            memset(buffer, 0, step);
        }
    }
}

static int read_write(struct world *world, struct store_request *request)
{
    bool write = request->op == STORE_WRITE;
    struct object *object = write ? object_open(world, request)
                                  : object_find(world, &request->object);
    uint64_t at = request->offset_bytes;

    if (!object) {
        return -ENOENT;
    }
    for (int i = 0; i < request->iov_count; i++) {
        copy_buffer(object, at, request->iov[i].iov_base,
                    request->iov[i].iov_len, write);
        at += request->iov[i].iov_len;
    }
    if (write) {
        object->size_bytes = MAX(object->size_bytes, at);
    }
    return 0;
}

/* A zeroed piece costs space only if `keep`, or if only a part is zeroed. */
static int zero(struct world *world, struct store_request *request, bool keep)
{
    struct object *object = object_open(world, request);
    uint64_t at = request->offset_bytes, end = at + request->length_bytes;
    uint64_t step;

    if (!object) {
        return -ENOENT;
    }
    if (keep) {
        object->size_bytes = MAX(object->size_bytes, end);
    }
    for (; at < end; at += step) {
        gint64 place = (gint64)(at / PIECE_BYTES);
        uint8_t *piece = keep ? piece_make(object, place)
                              : piece_find(object, place);

        step = in_piece(at, end);
        if (!keep && step == PIECE_BYTES) {
            g_hash_table_remove(object->pieces, &place);
        } else if (piece) {
            memset(piece + at % PIECE_BYTES, 0, step);
        }
    }
    return 0;
}

static int extent(struct world *world, struct store_request *request)
{
    struct object *object = object_find(world, &request->object);
    uint64_t at = request->offset_bytes, end = at + request->length_bytes;
    bool is_data;

    if (!object) {
        return -ENOENT;
    }
    is_data = piece_find(object, at / PIECE_BYTES) != NULL;
    if (at >= object->size_bytes) {
        at = end;       /* a hole however far one looks */
    }
    while (at < end &&
           is_data == (piece_find(object, at / PIECE_BYTES) != NULL)) {
        at += in_piece(at, end);
    }
    request->extent.length_bytes = at - request->offset_bytes;
    request->extent.is_data = is_data;
    return 0;
}

static bool is_aligned(struct store *store, const struct store_request *request)
{
    uint64_t mask = store->alignment_bytes - 1;

    if (request->op != STORE_READ && request->op != STORE_WRITE) {
        return true;
    }
    for (int i = 0; i < request->iov_count; i++) {
        if (((uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len) &
            mask) {
            return false;
        }
    }
    return !((request->offset_bytes | request->length_bytes) & mask);
}

static int carry_out_locked(struct world *world, struct store_request *request)
{
    switch (request->op) {
    case STORE_READ:
    case STORE_WRITE:
        return read_write(world, request);
    case STORE_ZERO:
        return zero(world, request, true);
    case STORE_PUNCH:
        return zero(world, request, false);
    case STORE_SYNC:
        return 0;
    case STORE_REMOVE:
        g_hash_table_remove(world->objects, &request->object);
        return 0;
    case STORE_EXTENT:
        return extent(world, request);
    }
    g_assert_not_reached();
}

static int carry_out(struct store *store, struct store_request *request)
{
    struct world *world = store->state;
    int result;

    if (!is_aligned(store, request)) {
        return -EINVAL;
    }
    if (request->offset_bytes > OBJECT_BYTES_MAX ||
        request->length_bytes > OBJECT_BYTES_MAX - request->offset_bytes) {
        return -EFBIG;
    }
    g_mutex_lock(&world->lock);
    result = carry_out_locked(world, request);
    g_mutex_unlock(&world->lock);
    return result;
}

/* --- Queues --------------------------------------------------------------- */

static int memory_queue_open(struct store *store, unsigned flags,
                             struct store_queue **queue, GError **error)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct memory_queue *memory;

    if (fd < 0) {
        return error_set_errno(error, errno, "cannot make a queue");
    }
    memory = g_new0(struct memory_queue, 1);
    memory->queue.store = store;
    memory->event_fd = fd;
    *queue = &memory->queue;
    return 0;
}

static void memory_queue_close(struct store_queue *queue)
{
    struct memory_queue *memory = (struct memory_queue *)queue;

    g_assert(memory->submitted.length == 0 && memory->done.length == 0);
    close(memory->event_fd);
    g_free(memory);
}

static int memory_queue_fd(struct store_queue *queue)
{
    return ((struct memory_queue *)queue)->event_fd;
}

static void memory_submit(struct store_queue *queue,
                          struct store_request *request)
{
    g_queue_push_tail(&((struct memory_queue *)queue)->submitted, request);
}

static void memory_kick(struct store_queue *queue)
{
    struct memory_queue *memory = (struct memory_queue *)queue;
    struct store_request *request;

    while ((request = g_queue_pop_head(&memory->submitted))) {
        request->result = carry_out(queue->store, request);
        g_queue_push_tail(&memory->done, request);
    }
    if (memory->done.length > 0) {
        eventfd_write(memory->event_fd, 1);
    }
}

/* `done` may submit and kick: what that completes stays for the next call. */
static int memory_poll(struct store_queue *queue)
{
    struct memory_queue *memory = (struct memory_queue *)queue;
    int count = (int)memory->done.length;
    eventfd_t drained;

    if (count > 0) {
        eventfd_read(memory->event_fd, &drained);
    }
    for (int i = 0; i < count; i++) {
        struct store_request *request = g_queue_pop_head(&memory->done);

        request->done(request);
    }
    return count;
}

/* --- Records -------------------------------------------------------------- */

static char *record_key(const struct store_record *record)
{
    char id[ID128_TEXT_BYTES];

    return g_strdup_printf("%d/%s", record->kind,
                           record->kind == STORE_NAME
                               ? record->text
                               : id128_text(&record->id, id));
}

static int memory_get(struct store *store, const struct store_record *record,
                      GBytes **value, GError **error)
{
    struct world *world = store->state;
    g_autofree char *key = record_key(record);
    GBytes *found;

    g_mutex_lock(&world->lock);
    found = g_hash_table_lookup(world->records, key);
    if (found) {
        *value = g_bytes_ref(found);
    }
    g_mutex_unlock(&world->lock);
    return found ? 0 : error_set(error, ENOENT, "no record %s", key + 2);
}

static int memory_put(struct store *store, const struct store_record *record,
                      const void *value, size_t bytes, bool exclusive,
                      GError **error)
{
    struct world *world = store->state;
    g_autofree char *key = record_key(record);
    bool taken;

    g_assert(bytes <= STORE_RECORD_BYTES_MAX);
    g_mutex_lock(&world->lock);
    taken = exclusive && g_hash_table_contains(world->records, key);
    if (!taken) {
        g_hash_table_replace(world->records, g_strdup(key),
                             g_bytes_new(value, bytes));
    }
    g_mutex_unlock(&world->lock);
    return taken ? error_set(error, EEXIST, "%s exists", key + 2) : 0;
}

static int memory_drop(struct store *store, const struct store_record *record,
                       GError **error)
{
    struct world *world = store->state;
    g_autofree char *key = record_key(record);

    g_mutex_lock(&world->lock);
    g_hash_table_remove(world->records, key);
    g_mutex_unlock(&world->lock);
    return 0;
}

static int compare_keys(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What record_key() says about records of this kind, sorted. */
static GPtrArray *keys_of(struct world *world, enum store_record_kind kind)
{
    GPtrArray *keys = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    void *key;

    g_mutex_lock(&world->lock);
    g_hash_table_iter_init(&iter, world->records);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        if (*(char *)key == '0' + (int)kind) {
            g_ptr_array_add(keys, g_strdup((char *)key + 2));
        }
    }
    g_mutex_unlock(&world->lock);
    g_ptr_array_sort(keys, compare_keys);
    return keys;
}

static int memory_list(struct store *store, enum store_record_kind kind,
                       int (*each)(const struct store_record *record,
                                   void *opaque),
                       void *opaque, GError **error)
{
    g_autoptr(GPtrArray) keys = keys_of(store->state, kind);
    int result = 0;

    for (guint i = 0; i < keys->len && result == 0; i++) {
        struct store_record record = {.kind = kind};

        if (kind == STORE_NAME) {
            record.text = keys->pdata[i];
        } else {
            g_assert(id128_parse(keys->pdata[i], &record.id));
        }
        result = each(&record, opaque);
    }
    return result;
}

/* --- Sets of objects ------------------------------------------------------ */

static uint64_t object_allocated(const struct object *object)
{
    return g_hash_table_size(object->pieces) * PIECE_BYTES;
}

static uint64_t object_size(const struct object *object)
{
    return object->size_bytes;
}

struct listed {
    uint64_t number, bytes;
};

/* Tell each object of the set, with what `measure` says of it; nothing is
 * locked while `each` runs. */
static int list_measured(struct world *world, enum store_kind kind,
                         const struct id128 *id,
                         uint64_t (*measure)(const struct object *object),
                         int (*each)(uint64_t number, uint64_t bytes,
                                     void *opaque),
                         void *opaque)
{
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(struct listed));
    GHashTableIter iter;
    void *key, *value;
    int result = 0;

    g_mutex_lock(&world->lock);
    g_hash_table_iter_init(&iter, world->objects);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        struct store_object *name = key;

        if (name->kind == kind && id128_equal(&name->id, id)) {
            struct listed one = {name->number, measure(value)};

            g_array_append_val(found, one);
        }
    }
    g_mutex_unlock(&world->lock);
    for (guint i = 0; i < found->len && result == 0; i++) {
        struct listed *one = &g_array_index(found, struct listed, i);

        result = each(one->number, one->bytes, opaque);
    }
    return result;
}

static int memory_list_objects(struct store *store, enum store_kind kind,
                               const struct id128 *id,
                               int (*each)(uint64_t number,
                                           uint64_t allocated_bytes,
                                           void *opaque),
                               void *opaque, GError **error)
{
    return list_measured(store->state, kind, id, object_allocated, each,
                         opaque);
}

static int memory_allocated(struct store *store,
                            const struct store_object *name, uint64_t *bytes,
                            GError **error)
{
    g_autofree char *text = store_object_text(name);
    struct world *world = store->state;
    struct object *object;

    g_mutex_lock(&world->lock);
    object = object_find(world, name);
    if (object) {
        *bytes = object_allocated(object);
    }
    g_mutex_unlock(&world->lock);
    return object ? 0 : error_set(error, ENOENT, "there is no %s", text);
}

static int memory_sync_all(struct store *store, enum store_kind kind,
                           const struct id128 *id, GError **error)
{
    return 0;
}

struct doomed {
    bool is_map;                /* PAGE and JOURNAL go together */
    const struct id128 *id;
};

static gboolean is_doomed(gpointer key, gpointer value, gpointer opaque)
{
    struct store_object *name = key;
    struct doomed *doomed = opaque;

    return (name->kind != STORE_BLOCK) == doomed->is_map &&
           id128_equal(&name->id, doomed->id);
}

static int memory_remove_all(struct store *store, enum store_kind kind,
                             const struct id128 *id, GError **error)
{
    struct store_record header = {.kind = STORE_HEADER, .id = *id};
    struct doomed doomed = {kind != STORE_BLOCK, id};
    struct world *world = store->state;

    g_mutex_lock(&world->lock);
    g_hash_table_foreach_remove(world->objects, is_doomed, &doomed);
    g_mutex_unlock(&world->lock);
    return doomed.is_map ? memory_drop(store, &header, error) : 0;
}

/* --- Locks ---------------------------------------------------------------- */

static struct lock_state *lock_find(struct world *world, const struct id128 *id)
{
    struct lock_state *state = g_hash_table_lookup(world->locks, id);

    if (!state) {
        state = g_new0(struct lock_state, 1);
        g_hash_table_insert(world->locks, g_memdup2(id, sizeof(*id)), state);
    }
    return state;
}

static struct store_lock *lock_new(struct store *store, const struct id128 *id,
                                   enum store_lock_mode mode)
{
    struct memory_lock *lock = g_new0(struct memory_lock, 1);

    lock->lock.store = store;
    lock->mode = mode;
    if (id) {
        lock->id = *id;
    }
    return &lock->lock;
}

static int repair_locked(struct store *store, struct store_lock **lock)
{
    struct world *world = store->state;

    if (world->in_repair) {
        return -EBUSY;
    }
    world->in_repair = true;
    *lock = lock_new(store, NULL, STORE_LOCK_REPAIR);
    return 0;
}

static int lock_locked(struct store *store, const struct id128 *id,
                       enum store_lock_mode mode, struct store_owner *me,
                       struct store_lock **lock, struct store_owner *holder)
{
    struct lock_state *state = lock_find(store->state, id);

    if (mode == STORE_LOCK_READ) {
        if (state->readers_excluded) {
            return -EBUSY;
        }
        state->reader_count++;
        *lock = lock_new(store, id, mode);
        return 0;
    }
    if (state->writer) {
        *holder = state->owner;
        return -EBUSY;
    }
    me->token = state->owner.token + 1;
    me->since_ns = g_get_real_time() * 1000;
    me->open = true;
    state->owner = *me;
    state->writer = *lock = lock_new(store, id, mode);
    return 0;
}

static int memory_lock(struct store *store, const struct id128 *id,
                       enum store_lock_mode mode, struct store_owner *me,
                       struct store_lock **lock, struct store_owner *holder,
                       GError **error)
{
    struct world *world = store->state;
    struct store_owner by = {0};
    int result;

    g_mutex_lock(&world->lock);
    result = mode == STORE_LOCK_REPAIR
                 ? repair_locked(store, lock)
                 : lock_locked(store, id, mode, me, lock, &by);
    g_mutex_unlock(&world->lock);
    if (result == 0) {
        return 0;
    }
    if (mode == STORE_LOCK_REPAIR) {
        return error_set(error, EBUSY,
                         "somebody is repairing it or importing metadata into "
                         "it; try again when that has ended");
    }
    if (mode == STORE_LOCK_READ) {
        return error_set(error, EBUSY, "readers are kept out for a moment "
                                       "while it is being changed; try again");
    }
    if (holder) {
        *holder = by;
    }
    return error_set(error, EBUSY, "in use by %s in this process", by.owner);
}

static void memory_unlock(struct store_lock *lock)
{
    struct memory_lock *memory = (struct memory_lock *)lock;
    struct world *world = lock->store->state;
    struct lock_state *state;

    g_mutex_lock(&world->lock);
    if (memory->mode == STORE_LOCK_REPAIR) {
        world->in_repair = false;
    } else if (memory->mode == STORE_LOCK_READ) {
        lock_find(world, &memory->id)->reader_count--;
    } else {
        state = lock_find(world, &memory->id);
        state->writer = NULL;
        state->owner.open = false;
        state->readers_excluded = false;
    }
    g_mutex_unlock(&world->lock);
    g_free(memory);
}

static int memory_holder(struct store *store, const struct id128 *id,
                         struct store_owner *holder, bool *held, GError **error)
{
    struct world *world = store->state;
    struct lock_state *state;

    g_mutex_lock(&world->lock);
    state = lock_find(world, id);
    *holder = state->owner;
    *held = state->writer != NULL;
    g_mutex_unlock(&world->lock);
    return 0;
}

static int memory_exclude_readers(struct store_lock *lock)
{
    struct memory_lock *memory = (struct memory_lock *)lock;
    struct world *world = lock->store->state;
    struct lock_state *state;
    int result;

    g_assert(memory->mode == STORE_LOCK_WRITE);
    g_mutex_lock(&world->lock);
    state = lock_find(world, &memory->id);
    result = state->reader_count > 0 ? -EBUSY : 0;
    state->readers_excluded = result == 0;
    g_mutex_unlock(&world->lock);
    return result;
}

static void memory_admit_readers(struct store_lock *lock)
{
    struct world *world = lock->store->state;

    g_mutex_lock(&world->lock);
    lock_find(world, &((struct memory_lock *)lock)->id)->readers_excluded =
        false;
    g_mutex_unlock(&world->lock);
}

/* --- Check and repair ----------------------------------------------------- */

static void memory_look(struct store *store, bool only)
{
}

static gboolean has_kind(const struct store_object *name, enum store_kind kind)
{
    return (name->kind == STORE_BLOCK) == (kind == STORE_BLOCK);
}

/* The headers of maps have a place there, too. */
static void add_header_ids(struct world *world, GHashTable *ids)
{
    char prefix = '0' + STORE_HEADER;
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, world->records);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        struct id128 id;

        if (*(char *)key == prefix && id128_parse((char *)key + 2, &id)) {
            g_hash_table_add(ids, g_memdup2(&id, sizeof(id)));
        }
    }
}

static int memory_list_ids(struct store *store, enum store_kind kind,
                           int (*each)(const struct id128 *id, void *opaque),
                           void *opaque, GError **error)
{
    g_autoptr(GHashTable) ids =
        g_hash_table_new_full(id_hash, id_equal, g_free, NULL);
    struct world *world = store->state;
    GHashTableIter iter;
    int result = 0;
    void *key;

    g_mutex_lock(&world->lock);
    g_hash_table_iter_init(&iter, world->objects);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        struct store_object *name = key;

        if (has_kind(name, kind)) {
            g_hash_table_add(ids, g_memdup2(&name->id, sizeof(name->id)));
        }
    }
    if (kind != STORE_BLOCK) {
        add_header_ids(world, ids);
    }
    g_mutex_unlock(&world->lock);
    g_hash_table_iter_init(&iter, ids);
    while (result == 0 && g_hash_table_iter_next(&iter, &key, NULL)) {
        result = each(key, opaque);
    }
    return result;
}

static int memory_list_sizes(struct store *store, enum store_kind kind,
                             const struct id128 *id,
                             int (*each)(uint64_t number, uint64_t size_bytes,
                                         void *opaque),
                             void *opaque, GError **error)
{
    return list_measured(store->state, kind, id, object_size, each, opaque);
}

static int memory_list_strays(struct store *store,
                              int (*each)(const char *stray, bool litter,
                                          void *opaque),
                              void *opaque, GError **error)
{
    return 0;
}

static int memory_trim(struct store *store, const struct store_object *name,
                       uint64_t size_bytes, GError **error)
{
    struct world *world = store->state;
    struct object *object;

    g_mutex_lock(&world->lock);
    object = object_find(world, name);
    if (object && object->size_bytes > size_bytes) {
        struct store_request rest = {
            .op = STORE_PUNCH,
            .object = *name,
            .offset_bytes = size_bytes,
            .length_bytes = object->size_bytes - size_bytes,
        };

        zero(world, &rest, false);
        object->size_bytes = size_bytes;
    }
    g_mutex_unlock(&world->lock);
    return object ? 0 : error_set(error, ENOENT, "there is no such object");
}

static bool is_of(const struct store_object *name,
                  const struct store_thing *thing)
{
    return thing->type == STORE_THING_OBJECT
               ? store_object_equal(name, &thing->object)
               : thing->type == STORE_THING_SET &&
                     has_kind(name, thing->object.kind) &&
                     id128_equal(&name->id, &thing->object.id);
}

/* What of one table belongs to the thing, to the other; how many. */
static unsigned move_objects(GHashTable *from, GHashTable *to,
                             const struct store_thing *thing)
{
    GHashTableIter iter;
    void *key, *value;
    unsigned count = 0;

    g_hash_table_iter_init(&iter, from);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        if (is_of(key, thing)) {
            g_hash_table_iter_steal(&iter);
            g_hash_table_replace(to, key, value);
            count++;
        }
    }
    return count;
}

static unsigned move_record(GHashTable *from, GHashTable *to,
                            const struct store_thing *thing)
{
    struct store_record header = {STORE_HEADER, thing->object.id, NULL};
    g_autofree char *key = record_key(
        thing->type == STORE_THING_RECORD ? &thing->record : &header);
    void *old_key, *value;

    if ((thing->type != STORE_THING_RECORD &&
         (thing->type != STORE_THING_SET ||
          thing->object.kind == STORE_BLOCK)) ||
        !g_hash_table_steal_extended(from, key, &old_key, &value)) {
        return 0;
    }
    g_hash_table_replace(to, old_key, value);
    return 1;
}

static int memory_set_aside(struct store *store,
                            const struct store_thing *thing, GError **error)
{
    struct world *world = store->state;

    g_mutex_lock(&world->lock);
    move_objects(world->objects, world->aside, thing);
    move_record(world->records, world->records_aside, thing);
    g_mutex_unlock(&world->lock);
    return 0;
}

static int memory_take_back(struct store *store,
                            const struct store_thing *thing, GError **error)
{
    struct world *world = store->state;
    GHashTableIter iter;
    unsigned count = 0;
    bool taken = false;
    void *key;

    g_mutex_lock(&world->lock);
    g_hash_table_iter_init(&iter, world->objects);
    while (!taken && g_hash_table_iter_next(&iter, &key, NULL)) {
        taken = is_of(key, thing);
    }
    if (!taken) {
        count = move_objects(world->aside, world->objects, thing) +
                move_record(world->records_aside, world->records, thing);
    }
    g_mutex_unlock(&world->lock);
    if (taken) {
        return error_set(error, EEXIST, "its place is taken");
    }
    return count ? 0 : error_set(error, ENOENT, "it wasn't set aside");
}

static int memory_reset_lock(struct store *store, const struct id128 *id,
                             GError **error)
{
    struct world *world = store->state;
    bool held;

    g_mutex_lock(&world->lock);
    held = lock_find(world, id)->writer != NULL;
    g_mutex_unlock(&world->lock);
    return held ? error_set(error, EBUSY, "somebody holds it") : 0;
}

const struct store_driver store_memory = {
    .name = "memory",
    .open = memory_open,
    .close = memory_close,
    .status = memory_status,
    .queue_open = memory_queue_open,
    .queue_close = memory_queue_close,
    .queue_fd = memory_queue_fd,
    .submit = memory_submit,
    .kick = memory_kick,
    .poll = memory_poll,
    .get = memory_get,
    .put = memory_put,
    .drop = memory_drop,
    .list = memory_list,
    .list_objects = memory_list_objects,
    .allocated = memory_allocated,
    .sync_all = memory_sync_all,
    .remove_all = memory_remove_all,
    .lock = memory_lock,
    .unlock = memory_unlock,
    .holder = memory_holder,
    .exclude_readers = memory_exclude_readers,
    .admit_readers = memory_admit_readers,
    .look = memory_look,
    .list_ids = memory_list_ids,
    .list_sizes = memory_list_sizes,
    .list_strays = memory_list_strays,
    .trim = memory_trim,
    .set_aside = memory_set_aside,
    .take_back = memory_take_back,
    .reset_lock = memory_reset_lock,
};
