/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A progress bar on stderr, only when that is a terminal, drawn at most ten
 * times a second:
 *   import demo  [=========>          ]  47%  1.2 GiB of 2.5 GiB  310.0 MiB/s
 */
#include "copy.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 20
#define REDRAW_US 100000

struct progress {
    char *label;
    uint64_t total_bytes;       /* 0: unknown */
    gint64 begin_us, drawn_us;
};

struct progress *progress_new(const char *label, uint64_t total_bytes)
{
    struct progress *progress;

    if (!isatty(STDERR_FILENO)) {
        return NULL;
    }
    progress = g_new0(struct progress, 1);
    progress->label = g_strdup(label);
    progress->total_bytes = total_bytes;
    progress->begin_us = g_get_monotonic_time();
    return progress;
}

static void bar(char text[BAR_WIDTH + 1], double share)
{
    int filled = (int)(share * BAR_WIDTH);

    memset(text, ' ', BAR_WIDTH);
    memset(text, '=', (size_t)filled);
    if (filled < BAR_WIDTH) {
        text[filled] = '>';
    }
    text[BAR_WIDTH] = '\0';
}

static void draw(const struct progress *progress, uint64_t done_bytes,
                 double seconds)
{
    g_autofree char *done = size_text(done_bytes, false);
    g_autofree char *total = size_text(progress->total_bytes, false);
    double rate = seconds > 0 ? (double)done_bytes / seconds : 0;
    g_autofree char *speed = size_text((uint64_t)rate, false);
    char text[BAR_WIDTH + 1];

    if (progress->total_bytes > 0) {
        double share =
            MIN(1.0, (double)done_bytes / (double)progress->total_bytes);

        bar(text, share);
        fprintf(stderr, "\r%s  [%s] %3d%%  %s of %s  %s/s\033[K",
                progress->label, text, (int)(share * 100), done, total, speed);
    } else {
        fprintf(stderr, "\r%s  %s  %s/s\033[K", progress->label, done, speed);
    }
    fflush(stderr);
}

void progress_update(struct progress *progress, uint64_t done_bytes)
{
    gint64 now_us;

    if (!progress) {
        return;
    }
    now_us = g_get_monotonic_time();
    if (now_us - progress->drawn_us < REDRAW_US) {
        return;
    }
    progress->drawn_us = now_us;
    draw(progress, done_bytes, (double)(now_us - progress->begin_us) / 1e6);
}

/* Leave the line empty for what is printed next. */
void progress_free(struct progress *progress)
{
    if (progress) {
        fputs("\r\033[K", stderr);
        g_free(progress->label);
        g_free(progress);
    }
}
