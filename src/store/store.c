/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a store by its location, and the calls that are the same for every
 * driver: each goes straight to the driver's table.
 */
#include "store/store.h"

#include "base/error.h"
#include "store/location.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

static const struct store_driver *const drivers[] = {
    &store_dir,
    &store_memory,
    &store_fault,
};

static const struct store_driver *find_driver(const char *scheme)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (strcmp(drivers[i]->name, scheme) == 0) {
            return drivers[i];
        }
    }
    return NULL;
}

static char *driver_names(void)
{
    GString *names = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        g_string_append_printf(names, "%s%s", i ? ", " : "", drivers[i]->name);
    }
    return g_string_free(names, FALSE);
}

/* The driver that `location` names; its path begins at `rest`. */
static int parse_scheme(const char *location, const char **rest,
                        const struct store_driver **driver, GError **error)
{
    const char *colon = strchr(location, ':');
    g_autofree char *names = driver_names();
    g_autofree char *scheme = NULL;

    if (!colon) {
        return error_set(error, EINVAL,
                         "\"%s\" is not a store: write SCHEME:PATH with one "
                         "of %s, such as dir:/srv/volumes", location, names);
    }
    scheme = g_strndup(location, colon - location);
    *driver = find_driver(scheme);
    if (!*driver) {
        return error_set(error, EINVAL,
                         "\"%s\": there is no store driver \"%s\" (known: %s)",
                         location, scheme, names);
    }
    *rest = colon + 1;
    return 0;
}

/* What follows '?' belongs to the store that the fault store wraps. */
static int split_rest(const struct store_driver *driver, const char *rest,
                      char **path, GHashTable **options, GError **error)
{
    if (driver == &store_fault) {
        *path = g_strdup(rest);
        *options = g_hash_table_new(g_str_hash, g_str_equal);
        return 0;
    }
    return location_split(rest, path, options, error);
}

int store_open(const char *location, unsigned flags, struct store **store,
               GError **error)
{
    g_autoptr(GHashTable) options = NULL;
    const struct store_driver *driver = NULL;
    g_autofree char *path = NULL;
    struct store *made;
    const char *rest = NULL;
    int result;

    result = parse_scheme(location, &rest, &driver, error);
    if (result == 0) {
        result = split_rest(driver, rest, &path, &options, error);
    }
    if (result < 0) {
        return result;
    }
    made = g_new0(struct store, 1);
    made->driver = driver;
    made->location = g_strdup(location);
    made->alignment_bytes = made->memory_alignment_bytes = 1;
    result = driver->open(made, path, options, flags, error);
    if (result < 0) {
        g_free(made->location);
        g_free(made);
        return result;
    }
    *store = made;
    return 0;
}

void store_close(struct store *store)
{
    if (!store) {
        return;
    }
    store->driver->close(store);
    g_free(store->location);
    g_free(store);
}

int store_queue_open(struct store *store, unsigned flags,
                     struct store_queue **queue, GError **error)
{
    int result = store->driver->queue_open(store, flags, queue, error);

    if (result == 0) {
        g_assert((*queue)->store == store);
    }
    return result;
}

void store_queue_close(struct store_queue *queue)
{
    if (queue) {
        queue->store->driver->queue_close(queue);
    }
}

int store_queue_fd(struct store_queue *queue)
{
    return queue->store->driver->queue_fd(queue);
}

void store_submit(struct store_queue *queue, struct store_request *request)
{
    queue->store->driver->submit(queue, request);
}

void store_kick(struct store_queue *queue)
{
    queue->store->driver->kick(queue);
}

int store_poll(struct store_queue *queue)
{
    return queue->store->driver->poll(queue);
}

static void run_done(struct store_request *request)
{
    ++*(unsigned *)request->opaque;
}

int store_run_all(struct store_queue *queue, struct store_request *requests,
                  unsigned count)
{
    unsigned done = 0;

    for (unsigned i = 0; i < count; i++) {
        requests[i].done = run_done;
        requests[i].opaque = &done;
        store_submit(queue, &requests[i]);
    }
    store_kick(queue);
    while (store_poll(queue), done < count) {
        struct pollfd wait = {store_queue_fd(queue), POLLIN, 0};

        poll(&wait, 1, -1);
    }
    for (unsigned i = 0; i < count; i++) {
        if (requests[i].result < 0) {
            return requests[i].result;
        }
    }
    return 0;
}

int store_run(struct store_queue *queue, struct store_request *request)
{
    return store_run_all(queue, request, 1);
}

int store_exclude_readers(struct store_lock *lock, GError **error)
{
    int result = lock->store->driver->exclude_readers(lock);

    if (result == -EBUSY) {
        return error_set(error, EBUSY, "it is open for reading somewhere");
    }
    return result < 0
               ? error_set_errno(error, -result, "cannot keep readers out")
               : 0;
}
