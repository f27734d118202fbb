/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes with their units, and what the command does with texts that come out of
 * a store: a terminal gets no control characters, JSON is JSON.
 */
#include "fuzz.h"

#include "cli/common.h"

#include <string.h>

const size_t fuzz_memory_base = 256 << 10, fuzz_memory_factor = 256;

enum { MODE_SIZE = 0, MODE_PRINT = 1, MODE_TIME = 2, MODES = 3 };

/* Digits, then nothing or one unit, and no overflow: worked out in 128 bits. */
static void run_size(const char *text)
{
    static const char letters[] = "KMGTPE";
    size_t digits = strspn(text, "0123456789");
    const char *unit = text + digits, *letter = NULL;
    unsigned __int128 value = 0, limit = (unsigned __int128)1 << 64;
    uint64_t bytes = 0;
    bool good = digits > 0, taken = size_parse(text, &bytes);

    for (size_t i = 0; i < digits && value < limit; i++) {
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    if (*unit && strcmp(unit, "B")) {
        letter = strchr(letters, g_ascii_toupper(*unit));
        good = good && letter && (!unit[1] || !strcmp(unit + 1, "iB"));
        value = letter ? MIN(value, limit)
                             << (10 * (unsigned)(letter - letters + 1))
                       : value;
    }
    g_assert(taken == (good && value < limit));
    g_assert(!taken || bytes == (uint64_t)value);
    if (taken) {
        g_autofree char *exact = size_text(bytes, true);
        g_autofree char *rounded = size_text(bytes, false);
        uint64_t again = 0;

        g_assert(size_parse(exact, &again) && again == bytes);
        g_assert(strlen(rounded) < 12);
    }
}

static void run_print(const char *text)
{
    g_autofree char *safe = printable(text);

    g_assert(g_utf8_validate(safe, -1, NULL));
    for (const char *at = safe; *at; at = g_utf8_next_char(at)) {
        g_assert(!g_unichar_iscntrl(g_utf8_get_char(at)));
    }
}

static void run_time(struct input *input)
{
    int64_t ns = (int64_t)take(input, 8);
    g_autofree char *local = time_text(ns), *universal = time_iso(ns);

    g_assert(strlen(local) > 0 && strlen(universal) > 0);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
    struct input input = { data, bytes };
    unsigned mode = (unsigned)take(&input, 1) % MODES;
    g_autofree char *text = NULL;

    if (mode == MODE_TIME) {
        run_time(&input);
        return;
    }
    text = take_text(&input);
    if (mode == MODE_SIZE) {
        run_size(text);
    } else {
        run_print(text);
    }
}

void fuzz_seeds(void (*put)(const char *, const void *, size_t))
{
    static const char *const texts[] = {
        "0512", "04M", "010GiB", "01k", "016E", "015EiB",
        "018446744073709551615", "018446744073709551616", "04KB", "0B", "00B",
        "1a\x1b[2Jb", "1\xff\xfe", "1\xc2\x9b", "1plain", "2", "2\x7f\xff\xff",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *name = g_strdup_printf("%zu", i);
        g_autofree char *seed = g_strdup(texts[i]);

        seed[0] = (char)(seed[0] - '0');
        put(name, seed, strlen(texts[i]));
    }
}
