/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command with calls that fail: which one, the environment says.
 *
 *   FAULT_NTH, FAULT_WAY     as in calls.h
 *   FAULT_REPORT             a file: "COUNT FIRED NO_SUCH_WAY ERRNO CALL"
 */
#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COMMAND_CALLS_ONLY
#include "command-calls.h"

int fault_open(const char *path, int flags, ...)
{
    va_list args;
    int mode;

    va_start(args, flags);
    mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return calls_fail(CALLS_FILES, "open",
                      CALLS_WAYS(EMFILE, EIO, EACCES, EINTR))
               ? -1
               : open(path, flags, mode);
}

int fault_fsync(int fd)
{
    return calls_fail(CALLS_FILES, "fsync", CALLS_WAYS(EIO, ENOSPC))
               ? -1
               : fsync(fd);
}

int fault_ftruncate(int fd, off_t length)
{
    return calls_fail(CALLS_FILES, "ftruncate", CALLS_WAYS(EIO, ENOSPC))
               ? -1
               : ftruncate(fd, length);
}

ssize_t fault_pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    int way = calls_way(CALLS_FILES, "pwrite",
                        CALLS_WAYS(EIO, ENOSPC, EINTR, CALLS_LESS));

    if (way > 0) {
        errno = way;
        return -1;
    }
    return pwrite(fd, bytes, way == CALLS_LESS ? (count + 1) / 2 : count,
                  offset);
}

int fault_link(const char *from, const char *to)
{
    return calls_fail(CALLS_FILES, "link", CALLS_WAYS(EIO, ENOSPC))
               ? -1
               : link(from, to);
}

int fault_rename(const char *from, const char *to)
{
    return calls_fail(CALLS_FILES, "rename", CALLS_WAYS(EIO, ENOSPC))
               ? -1
               : rename(from, to);
}

int fault_fallocate(int fd, int mode, off_t offset, off_t length)
{
    return calls_fail(CALLS_FILES, "fallocate",
                      CALLS_WAYS(EIO, ENOSPC, EOPNOTSUPP))
               ? -1
               : fallocate(fd, mode, offset, length);
}

int fault_dup(int fd)
{
    return calls_fail(CALLS_FILES, "dup", CALLS_WAYS(EMFILE)) ? -1 : dup(fd);
}

int fault_pipe2(int fds[2], int flags)
{
    return calls_fail(CALLS_FILES, "pipe2", CALLS_WAYS(EMFILE))
               ? -1
               : pipe2(fds, flags);
}

/* --- Before and after main() ---------------------------------------------- */

static unsigned from_environment(const char *name)
{
    const char *text = getenv(name);

    return text ? (unsigned)strtoul(text, NULL, 10) : 0;
}

__attribute__((constructor)) static void begin(void)
{
    struct calls_rule rule = {
        .groups = CALLS_FILES | CALLS_MEMORY,
        .nth = from_environment("FAULT_NTH"),
        .way = from_environment("FAULT_WAY"),
    };

    calls_install();
    if (rule.nth > 0) {
        calls_arm(&rule);
    }
}

__attribute__((destructor)) static void end(void)
{
    struct calls_report report = calls_disarm();
    const char *path = getenv("FAULT_REPORT");
    FILE *file = path ? fopen(path, "w") : NULL;

    if (file) {
        fprintf(file, "%u %u %d %d %s\n", report.count, report.fired,
                report.no_such_way, report.errno_value,
                report.call ? report.call : "-");
        fclose(file);
    }
}
