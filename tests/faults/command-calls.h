/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Included before everything else in the command's sources when they are built
 * for the fault loop: the system calls that the command itself makes, and that
 * --wrap can't tell from the library's, go through ours.
 */
#ifndef TESTS_FAULTS_COMMAND_CALLS_H
#define TESTS_FAULTS_COMMAND_CALLS_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

int fault_open(const char *path, int flags, ...);
int fault_fsync(int fd);
int fault_ftruncate(int fd, off_t length);
ssize_t fault_pwrite(int fd, const void *bytes, size_t count, off_t offset);
int fault_link(const char *from, const char *to);
int fault_rename(const char *from, const char *to);
int fault_fallocate(int fd, int mode, off_t offset, off_t length);
int fault_dup(int fd);
int fault_pipe2(int fds[2], int flags);

#ifndef COMMAND_CALLS_ONLY
#define open fault_open
#define fsync fault_fsync
#define ftruncate fault_ftruncate
#define pwrite fault_pwrite
#define link fault_link
#define rename fault_rename
#define fallocate fault_fallocate
#define dup fault_dup
#define pipe2 fault_pipe2
#endif

#endif
