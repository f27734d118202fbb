/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command's sizes and its JSON. */
#include "cli/common.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void size_reads(void)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"512", 512},
        {"512B", 512},
        {"1K", 1024},
        {"1k", 1024},
        {"4KiB", 4096},
        {"10G", UINT64_C(10) << 30},
        {"1P", UINT64_C(1) << 50},
        {"15E", UINT64_C(15) << 60},
        {"18446744073709551615", UINT64_MAX},
    };
    static const char *const bad[] = {
        "",    "G",     " 1",   "-1",  "+1",  "1.5G", "1KB",
        "1 K", "1KiBx", "1Kib", "16E", "0x1", "18446744073709551616",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        uint64_t bytes = 1;

        g_assert_true(size_parse(good[i].text, &bytes));
        g_assert_cmpuint(bytes, ==, good[i].bytes);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        uint64_t bytes;

        if (size_parse(bad[i], &bytes)) {
            g_error("\"%s\" was taken for a size", bad[i]);
        }
    }
}

static void size_shows(uint64_t bytes, const char *wanted)
{
    g_autofree char *text = size_text(bytes, false);

    g_assert_cmpstr(text, ==, wanted);
}

static void size_writes(void)
{
    g_autofree char *exact = size_text(UINT64_MAX, true);

    g_assert_cmpstr(exact, ==, "18446744073709551615");
    size_shows(0, "0 B");
    size_shows(1023, "1023 B");
    size_shows(1024, "1.0 KiB");
    size_shows(1536, "1.5 KiB");
    size_shows((1 << 20) - 1, "1.0 MiB");
    size_shows(UINT64_C(1) << 50, "1.0 PiB");
    size_shows(UINT64_MAX, "16.0 EiB");
}

static void printable_hides(void)
{
    g_autofree char *text = printable("a\x1b[1m\n\xff\xc3\xa4");

    g_assert_cmpstr(text, ==, "a?[1m?\xef\xbf\xbd\xc3\xa4");
}

/* In a child, whose output is compared. */
static void json_writes(void)
{
    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
        g_test_trap_assert_passed();
        g_test_trap_assert_stdout(
            "*{\n"
            "  \"a\\\"\\\\\\u000a\\u007f\": \"\xc3\xa4\xef\xbf\xbd\",\n"
            "  \"none\": null,\n"
            "  \"list\": [\n"
            "    1,\n"
            "    {},\n"
            "    []\n"
            "  ],\n"
            "  \"big\": 18446744073709551615,\n"
            "  \"yes\": true\n"
            "}\n"
            "[]\n*");
        return;
    }
    json_object_begin(NULL);
    json_string("a\"\\\n\x7f", "\xc3\xa4\xff");
    json_string("none", NULL);
    json_array_begin("list");
    json_number(NULL, 1);
    json_object_begin(NULL);
    json_object_end();
    json_array_begin(NULL);
    json_array_end();
    json_array_end();
    json_number("big", UINT64_MAX);
    json_bool("yes", true);
    json_object_end();
    json_array_begin(NULL);
    json_array_end();
    fflush(stdout);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/output/size_reads", size_reads);
    g_test_add_func("/output/size_writes", size_writes);
    g_test_add_func("/output/printable_hides", printable_hides);
    g_test_add_func("/output/json_writes", json_writes);
    return g_test_run();
}
