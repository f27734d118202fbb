/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See shutdown.h.  nbdkit tells its plugins of a shutdown only through
 * nbdkit_nanosleep(), which logs an error each time.  So its signal handlers
 * are wrapped: ours wakes a thread, then calls nbdkit's.
 */
#include "shutdown.h"
#include "shared.h"

#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};

/* Constant while there is a watch. */
static int wake_fd = -1;
static GThread *thread;
static struct sigaction wrapped[G_N_ELEMENTS(numbers)];

static void wake(void)
{
    uint64_t one = 1;
    ssize_t written = write(wake_fd, &one, sizeof(one));

    (void)written; /* full means that it is awake already */
}

/* Only what is async-signal-safe. */
static void on_signal(int number)
{
    int saved_errno = errno;

    wake();
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        if (numbers[i] == number) {
            wrapped[i].sa_handler(number);
        }
    }
    errno = saved_errno;
}

/* A signal that nbdkit doesn't handle, or not in this way, is left alone. */
static void wrap(int number, struct sigaction *old)
{
    struct sigaction new;

    if (sigaction(number, NULL, old) < 0 || old->sa_flags & SA_SIGINFO ||
        old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
        return;
    }
    new = *old;
    new.sa_handler = on_signal;
    sigaction(number, &new, NULL);
}

static gpointer flush_when_woken(gpointer opaque)
{
    uint64_t count;

    while (read(wake_fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
    shared_flush_all();
    return NULL;
}

void shutdown_watch(void)
{
    wake_fd = eventfd(0, EFD_CLOEXEC);
    if (wake_fd < 0) {
        nbdkit_error("eventfd: %m; unflushed data is at risk at shutdown");
        return;
    }
    thread = g_thread_new("shutdown", flush_when_woken, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        wrap(numbers[i], &wrapped[i]);
    }
}

/* The handlers stay, since nbdkit's do: waking nobody is harmless. */
void shutdown_unwatch(void)
{
    if (thread) {
        wake();
        g_thread_join(g_steal_pointer(&thread));
    }
}
