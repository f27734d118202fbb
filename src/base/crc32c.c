/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CRC32C by the processor's instruction where there is one, else by tables.
 *
 * The instruction takes three cycles and a new one can start every cycle, so
 * long data is cut into three lanes that advance side by side.  Lanes are
 * joined by moving a lane's sum over the bytes of the next one as if these
 * were zeroes, which is linear in the sum's bits: four lookups.
 *
 * Inside this file a sum is the bare register, not inverted.
 */
#include "base/crc32c.h"

#include <glib.h>
#include <stdatomic.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u  /* reflected */

/* --- Tables --------------------------------------------------------------- */

/* slice[k][b]: the sum of byte b followed by k zero bytes. */
static uint32_t slice[8][256];

static void slice_fill(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t sum = b;

        for (int bit = 0; bit < 8; bit++) {
            sum = (sum >> 1) ^ (sum & 1 ? POLYNOMIAL : 0);
        }
        slice[0][b] = sum;
    }
    for (int k = 1; k < 8; k++) {
        for (int b = 0; b < 256; b++) {
            uint32_t before = slice[k - 1][b];

            slice[k][b] = (before >> 8) ^ slice[0][before & 255];
        }
    }
}

static void slice_ready(void)
{
    static gsize ready;

    if (g_once_init_enter(&ready)) {
        slice_fill();
        g_once_init_leave(&ready, 1);
    }
}

static uint32_t slice_eight(uint32_t sum, const uint8_t *data)
{
    uint32_t low, high;

    memcpy(&low, data, 4);
    memcpy(&high, data + 4, 4);
    low = GUINT32_FROM_LE(low) ^ sum;
    high = GUINT32_FROM_LE(high);
    return slice[7][low & 255] ^ slice[6][low >> 8 & 255] ^
           slice[5][low >> 16 & 255] ^ slice[4][low >> 24] ^
           slice[3][high & 255] ^ slice[2][high >> 8 & 255] ^
           slice[1][high >> 16 & 255] ^ slice[0][high >> 24];
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint32_t sum = ~crc;

    slice_ready();
    for (; bytes >= 8; bytes -= 8, at += 8) {
        sum = slice_eight(sum, at);
    }
    for (; bytes > 0; bytes--, at++) {
        sum = (sum >> 8) ^ slice[0][(sum ^ *at) & 255];
    }
    return ~sum;
}

/* --- The x86 instruction -------------------------------------------------- */

#ifdef __x86_64__
#include <nmmintrin.h>

#define LANE_BYTES 1024u

/* lane_shift[k][b]: byte b at place k of a sum, LANE_BYTES zeroes later. */
static uint32_t lane_shift[4][256];

__attribute__((target("sse4.2")))
static uint64_t step(uint64_t sum, const uint8_t *data)
{
    uint64_t word;

    memcpy(&word, data, 8);
    return _mm_crc32_u64(sum, word);
}

__attribute__((target("sse4.2")))
static void lane_shift_fill(void)
{
    for (int k = 0; k < 4; k++) {
        for (uint32_t b = 0; b < 256; b++) {
            uint64_t sum = (uint64_t)b << (8 * k);

            /* Linear: a byte of many bits is the sum of its single bits. */
            if (b & (b - 1)) {
                lane_shift[k][b] = lane_shift[k][b & (b - 1)] ^
                                   lane_shift[k][b & -b];
                continue;
            }
            for (unsigned i = 0; i < LANE_BYTES; i += 8) {
                sum = _mm_crc32_u64(sum, 0);
            }
            lane_shift[k][b] = (uint32_t)sum;
        }
    }
}

static uint32_t lane_skip(uint64_t sum)
{
    return lane_shift[0][sum & 255] ^ lane_shift[1][sum >> 8 & 255] ^
           lane_shift[2][sum >> 16 & 255] ^ lane_shift[3][sum >> 24 & 255];
}

__attribute__((target("sse4.2")))
static uint64_t three_lanes(uint64_t sum, const uint8_t *at)
{
    uint64_t first = sum, second = 0, third = 0;

    for (unsigned i = 0; i < LANE_BYTES; i += 8) {
        first = step(first, at + i);
        second = step(second, at + LANE_BYTES + i);
        third = step(third, at + 2 * LANE_BYTES + i);
    }
    return lane_skip(lane_skip(first) ^ second) ^ third;
}

__attribute__((target("sse4.2")))
static uint32_t crc32c_sse42(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint64_t sum = (uint32_t)~crc;

    for (; bytes >= 3 * LANE_BYTES;
         bytes -= 3 * LANE_BYTES, at += 3 * LANE_BYTES) {
        sum = three_lanes(sum, at);
    }
    for (; bytes >= 8; bytes -= 8, at += 8) {
        sum = step(sum, at);
    }
    for (; bytes > 0; bytes--, at++) {
        sum = _mm_crc32_u8((uint32_t)sum, *at);
    }
    return ~(uint32_t)sum;
}
#endif

/* --- Choosing ------------------------------------------------------------- */

typedef uint32_t crc32c_function(uint32_t crc, const void *data, size_t bytes);

static crc32c_function crc32c_choose;
static crc32c_function *_Atomic chosen = crc32c_choose;

static uint32_t crc32c_choose(uint32_t crc, const void *data, size_t bytes)
{
    static gsize ready;

    if (g_once_init_enter(&ready)) {
        crc32c_function *best = crc32c_portable;

#ifdef __x86_64__
        if (__builtin_cpu_supports("sse4.2")) {
            lane_shift_fill();
            best = crc32c_sse42;
        }
#endif
        atomic_store_explicit(&chosen, best, memory_order_release);
        g_once_init_leave(&ready, 1);
    }
    return crc32c(crc, data, bytes);
}

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
    return atomic_load_explicit(&chosen, memory_order_acquire)(crc, data,
                                                               bytes);
}
