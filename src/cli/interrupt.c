/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ctrl-C in the middle of work that must be undone.  The handler only writes
 * down the signal and makes a pipe readable, so that neither a poll that began
 * a moment before nor a write that hangs misses it (no SA_RESTART).
 */
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile sig_atomic_t signal_seen;
static int pipe_fds[2] = {-1, -1};

static void on_signal(int number)
{
    int saved = errno;

    signal_seen = number;
    if (write(pipe_fds[1], "", 1) < 0) {
        /* Full: then it is readable already. */
    }
    errno = saved;
}

void interrupt_watch(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal};

    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        fprintf(stderr, "archipelago: no pipe for signals: %s\n",
                g_strerror(errno));
        exit(CODE_FAILED);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        struct sigaction old;

        /* What nohup ignores stays ignored. */
        sigaction(numbers[i], NULL, &old);
        if (old.sa_handler != SIG_IGN) {
            sigaction(numbers[i], &action, NULL);
        }
    }
    signal(SIGPIPE, SIG_IGN);
}

int interrupt_signal(void)
{
    return signal_seen;
}

int interrupt_fd(void)
{
    return pipe_fds[0];
}

void interrupt_die(void)
{
    if (signal_seen != 0) {
        signal(signal_seen, SIG_DFL);
        raise(signal_seen);
    }
}
