/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU's headers ask of QEMU's configure, for a driver that is compiled
 * without running it: the answers for any Linux with glibc.  Left out are
 * libaio and io_uring, on which only AioContext's inside depends, which a
 * driver never looks into.
 */
#define CONFIG_ATOMIC64 1
#define CONFIG_EPOLL 1
#define CONFIG_EVENTFD 1
#define CONFIG_IOVEC 1
#define CONFIG_LINUX 1
#define CONFIG_MADVISE 1
#define CONFIG_MALLOC_TRIM 1
#define CONFIG_MODULES 1
#define CONFIG_POSIX 1
#define CONFIG_POSIX_MADVISE 1
#define CONFIG_PPOLL 1
#define HAVE_HOST_BLOCK_DEVICE 1
#define HAVE_SYSTEM_FUNCTION 1
