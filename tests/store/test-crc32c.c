/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC32C: known values, and the fast way against a bit-by-bit one. */
#include "base/crc32c.h"

#include <glib.h>
#include <string.h>

#define ROOM 70000u

static uint32_t bitwise(const uint8_t *data, size_t bytes)
{
    uint32_t sum = ~0u;

    for (size_t i = 0; i < bytes; i++) {
        sum ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            sum = (sum >> 1) ^ (sum & 1 ? 0x82F63B78u : 0);
        }
    }
    return ~sum;
}

static uint8_t *noise(void)
{
    uint8_t *data = g_malloc(ROOM);
    uint32_t state = 1;

    for (size_t i = 0; i < ROOM; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (uint8_t)(state >> 24);
    }
    return data;
}

static void test_known(void)
{
    uint8_t zeroes[32] = {0}, ones[32];

    memset(ones, 0xff, sizeof(ones));
    g_assert_cmphex(crc32c(0, "123456789", 9), ==, 0xE3069283u);
    g_assert_cmphex(crc32c_portable(0, "123456789", 9), ==, 0xE3069283u);
    g_assert_cmphex(crc32c(0, zeroes, 32), ==, 0x8A9136AAu);
    g_assert_cmphex(crc32c(0, ones, 32), ==, 0x62A8AB43u);
    g_assert_cmphex(crc32c(0, "", 0), ==, 0);
}

static void test_lengths(void)
{
    static const size_t lengths[] = {1,    2,    7,    8,    9,    63,   1023,
                                     1024, 3071, 3072, 3073, 4096, 6143, 6144,
                                     9999, 65536, 69000};
    g_autofree uint8_t *data = noise();

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        for (size_t start = 0; start < 9; start += 3) {
            uint32_t want = bitwise(data + start, lengths[i]);

            g_assert_cmphex(crc32c(0, data + start, lengths[i]), ==, want);
            g_assert_cmphex(crc32c_portable(0, data + start, lengths[i]), ==,
                            want);
        }
    }
}

static void test_pieces(void)
{
    g_autofree uint8_t *data = noise();
    uint32_t whole = crc32c(0, data, ROOM);

    for (size_t cut = 0; cut <= ROOM; cut += 777) {
        uint32_t sum = crc32c(0, data, cut);

        g_assert_cmphex(crc32c(sum, data + cut, ROOM - cut), ==, whole);
        g_assert_cmphex(crc32c_portable(sum, data + cut, ROOM - cut), ==,
                        whole);
    }
}

static void test_speed(void)
{
    g_autofree uint8_t *data = noise();
    const int rounds = 4000;
    uint32_t sum = 0;
    double seconds;

    g_test_timer_start();
    for (int i = 0; i < rounds; i++) {
        sum = crc32c(sum, data, 65536);
    }
    seconds = g_test_timer_elapsed();
    g_test_maximized_result(65536.0 * rounds / seconds / 1e9,
                            "%.1f GB/s over 64 KiB pages (%08x)",
                            65536.0 * rounds / seconds / 1e9, sum);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/crc32c/known", test_known);
    g_test_add_func("/crc32c/lengths", test_lengths);
    g_test_add_func("/crc32c/pieces", test_pieces);
    if (g_test_perf()) {
        g_test_add_func("/crc32c/speed", test_speed);
    }
    return g_test_run();
}
