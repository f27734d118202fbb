/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the API tests share: see fixture.h. */
#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- Assertions ---------------------------------------------------------- */

int fixture_assert_ok(int result, const char *call, const char *file, int line)
{
    if (result < 0) {
        g_printerr("%s:%d: %s: %d (%s): %s\n", file, line, call, result,
                   g_strerror(-result), archip_error());
        g_assert_not_reached();
    }
    return result;
}

void fixture_assert_fails(int result, int errno_value, const char *needle,
                          const char *call, const char *file, int line)
{
    const char *text = archip_error();

    if (result != -errno_value || strlen(text) < 8 || !strstr(text, needle)) {
        g_printerr("%s:%d: %s: %d (%s) instead of %s, text \"%s\" instead of "
                   "\"..%s..\"\n", file, line, call, result,
                   g_strerror(-result), g_strerror(errno_value), text, needle);
        g_assert_not_reached();
    }
}

/* --- Stores and volumes -------------------------------------------------- */

void fixture_begin(struct fixture *fixture, const char *kind)
{
    static unsigned count;

    fixture->scratch = NULL;
    if (!strcmp(kind, "memory")) {
        fixture->location = g_strdup_printf("memory:unit-%u", ++count);
    } else {
        fixture->scratch = scratch_new();
        fixture->location =
            g_strdup_printf("dir:%s%s", fixture->scratch,
                            strcmp(kind, "dir") ? "?io=buffered" : "");
    }
    assert_ok(archip_store_open(fixture->location, ARCHIP_STORE_CREATE,
                                &fixture->store));
}

void fixture_end(struct fixture *fixture)
{
    archip_store_close(fixture->store);
    if (fixture->scratch) {
        scratch_remove(fixture->scratch);
    }
    g_free(fixture->scratch);
    g_free(fixture->location);
}

void fixture_reopen(struct fixture *fixture)
{
    if (fixture->scratch) {
        archip_store_close(fixture->store);
        assert_ok(archip_store_open(fixture->location, 0, &fixture->store));
    }
}

void fixture_create(struct fixture *fixture, const char *name,
                    uint64_t size_bytes, uint32_t object_bytes)
{
    archip_create_options options = {.object_bytes = object_bytes};

    assert_ok(archip_volume_create(fixture->store, name, size_bytes, &options));
}

archip_volume *fixture_open(struct fixture *fixture, const char *name,
                            unsigned flags)
{
    archip_volume *volume = NULL;

    assert_ok(archip_volume_open(fixture->store, name, flags, "unit-test",
                                 &volume));
    g_assert_nonnull(volume);
    return volume;
}

archip_queue *fixture_queue(archip_volume *volume)
{
    archip_queue *queue = NULL;

    assert_ok(archip_queue_open(volume, 0, &queue));
    g_assert_nonnull(queue);
    return queue;
}

archip_queue *fixture_open_queue(struct fixture *fixture, const char *name,
                                 unsigned flags, archip_volume **volume)
{
    *volume = fixture_open(fixture, name, flags);
    return fixture_queue(*volume);
}

void fixture_close(archip_volume *volume, archip_queue *queue)
{
    archip_queue_close(queue);
    assert_ok(archip_volume_close(volume));
}

static void add_kind(const char *name, const char *kind,
                     void (*test)(const void *kind))
{
    g_autofree char *path = g_strdup_printf("%s/%s", name, kind);

    g_test_add_data_func(path, kind, test);
}

void fixture_add(const char *name, void (*test)(const void *kind))
{
    add_kind(name, "memory", test);
    add_kind(name, "dir", test);
    add_kind(name, "dir-buffered", test);
}

void fixture_add_quick(const char *name, void (*test)(const void *kind))
{
    add_kind(name, "memory", test);
    add_kind(name, "dir-buffered", test);
}

void fixture_add_dir(const char *name, void (*test)(const void *kind))
{
    add_kind(name, "dir", test);
}

/* --- Requests ------------------------------------------------------------ */

int64_t fixture_run(archip_queue *queue, const archip_request *request)
{
    archip_completion completion = {0};
    archip_request copy = *request;

    copy.user = &copy;
    assert_ok(archip_submit(queue, &copy, 1));
    g_assert_cmpint(archip_queue_reap(queue, &completion, 1, -1), ==, 1);
    g_assert_true(completion.user == &copy);
    g_assert_true((completion.result < 0) == (completion.error != NULL));
    if (completion.error) {
        g_assert_cmpuint(strlen(completion.error), >, 8);
    }
    return completion.result;
}

void fixture_fill(archip_queue *queue, uint64_t offset, size_t length,
                  uint8_t byte)
{
    g_autofree uint8_t *bytes = g_malloc(length);

    memset(bytes, byte, length);
    assert_ok(archip_write(queue, bytes, length, offset, 0));
}

void fixture_expect(archip_queue *queue, uint64_t offset, size_t length,
                    uint8_t byte)
{
    g_autofree uint8_t *bytes = g_malloc(length);

    memset(bytes, (uint8_t)~byte, length);
    assert_ok(archip_read(queue, bytes, length, offset));
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != byte) {
            g_printerr("at %" PRIu64 ": 0x%02x instead of 0x%02x\n",
                       offset + i, bytes[i], byte);
            g_assert_not_reached();
        }
    }
}

/* --- Children ------------------------------------------------------------ */

struct child child_start(const char *what, const char *location,
                         const char *volume)
{
    const char *argv[] = {"/proc/self/exe", "child", what, location, volume,
                          NULL};
    struct child child;
    g_autoptr(GError) error = NULL;

    g_spawn_async_with_pipes(NULL, (char **)argv, NULL,
                             G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &child.pid,
                             &child.to, &child.from, NULL, &error);
    g_assert_no_error(error);
    return child;
}

char *child_line(const struct child *child)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char c;

    while (read(child->from, &c, 1) == 1) {
        if (c == '\n') {
            return g_strdup(line->str);
        }
        g_string_append_c(line, c);
    }
    return NULL;
}

int child_end(struct child *child, int signal)
{
    int status = 0;

    if (signal) {
        kill(child->pid, signal);
    }
    close(child->to);
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR) {
    }
    close(child->from);
    return status;
}
