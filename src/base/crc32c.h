/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CRC32C (Castagnoli, reflected, inverted at both ends), as iSCSI and ext4
 * have it.  Start with 0; feeding the result of one piece into the next gives
 * the sum of both together.  crc32c("123456789") is 0xE3069283.  Any thread.
 */
#ifndef ARCHIPELAGO_BASE_CRC32C_H
#define ARCHIPELAGO_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* By the fastest way this processor has. */
uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);

/* The same by tables, for any processor; here for the tests. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t bytes);

#endif
