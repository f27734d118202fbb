/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The preloaded half of the plugin: brings the block driver into a QEMU that
 * knows nothing of it.
 *
 * A driver fits one build of QEMU only and crashes in any other.  A build with
 * modules carries its identity as a string, qemu_stamp_<SHA-1>, in each of its
 * programs.  The loader finds it in the main program's memory and loads the
 * driver that was built for it:
 *
 *     DIRECTORY/<SHA-1>/block-archipelago.so
 *
 * where DIRECTORY is one of $ARCHIPELAGO_QEMU_DIR (separated by ':') or, when
 * that isn't set, the user's cache and the installed one.  No driver: one line
 * on stderr, and the program goes on without.
 *
 * Nothing here refers to a symbol of QEMU's, so the object does no harm in
 * other programs; it says nothing there and leaves the environment alone, so that a
 * QEMU which they start still gets it.  In a QEMU it takes itself out of
 * LD_PRELOAD: what QEMU starts shall run as ever.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAMP_PREFIX "qemu_stamp_"
#define STAMP_DIGITS 40
#define VERSION_PREFIX "QEMU v"
#define DRIVER_FILE "block-archipelago.so"

struct identity {
    char stamp[STAMP_DIGITS + 1];   /* "": not found */
    char version[32];               /* "": not found */
};

/* The characters of `set` that follow `at`, at most `max`, into `text`. */
static size_t take(const char *at, const char *end, const char *set, size_t max,
                   char *text)
{
    size_t length = 0;

    while (at + length < end && length < max && at[length] &&
           strchr(set, at[length])) {
        text[length] = at[length];
        length++;
    }
    text[length] = '\0';
    return length;
}

/* The first occurrence of `prefix` that `min` characters of `set` follow. */
static void search(const char *from, const char *end, const char *prefix,
                   const char *set, size_t min, size_t max, char *text)
{
    size_t prefix_length = strlen(prefix);

    while (!text[0] && from < end) {
        const char *hit = memmem(from, end - from, prefix, prefix_length);

        if (!hit) {
            return;
        }
        from = hit + prefix_length;
        if (take(from, end, set, max, text) < min) {
            text[0] = '\0';
        }
    }
}

/* Called for the main program first, and stops there. */
static int inspect_program(struct dl_phdr_info *info, size_t size, void *opaque)
{
    struct identity *identity = opaque;

    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        const char *from = (const char *)(info->dlpi_addr + segment->p_vaddr);
        const char *end = from + segment->p_filesz;

        if (segment->p_type != PT_LOAD ||
            (segment->p_flags & (PF_R | PF_W)) != PF_R) {
            continue;
        }
        search(from, end, STAMP_PREFIX, "0123456789abcdef", STAMP_DIGITS,
               STAMP_DIGITS, identity->stamp);
        search(from, end, VERSION_PREFIX, "0123456789.", 3,
               sizeof(identity->version) - 1, identity->version);
    }
    return 1;
}

static bool is_this_object(const char *path, size_t length)
{
    static const char anchor;
    Dl_info self;
    char name[PATH_MAX], real[PATH_MAX], own[PATH_MAX];

    if (length >= sizeof(name) || !dladdr(&anchor, &self)) {
        return false;
    }
    memcpy(name, path, length);
    name[length] = '\0';
    return realpath(name, real) && realpath(self.dli_fname, own) &&
           strcmp(real, own) == 0;
}

/* Others that are preloaded stay. */
static void leave_environment(void)
{
    const char *at = getenv("LD_PRELOAD");
    char *kept;
    size_t kept_length = 0;

    if (!at || !(kept = calloc(1, strlen(at) + 1))) {
        return;
    }
    while (*at) {
        size_t length = strcspn(at, ": ");

        if (length > 0 && !is_this_object(at, length)) {
            if (kept_length > 0) {
                kept[kept_length++] = ':';
            }
            memcpy(kept + kept_length, at, length);
            kept_length += length;
        }
        at += length + (at[length] != '\0');
    }
    kept[kept_length] = '\0';
    if (kept_length > 0) {
        setenv("LD_PRELOAD", kept, 1);
    } else {
        unsetenv("LD_PRELOAD");
    }
    free(kept);
}

/* 1: loaded; 0: none there; -1: there, but can't be loaded (said so). */
static int load_from(const char *directory, size_t length, const char *stamp)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof(path), "%.*s/%s/" DRIVER_FILE, (int)length,
                 directory, stamp) >= (int)sizeof(path) ||
        access(path, F_OK) != 0) {
        return 0;
    }
    if (dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
        return 1;
    }
    fprintf(stderr, "archipelago: can't load the driver: %s\n", dlerror());
    return -1;
}

static int load_from_list(const char *list, const char *stamp)
{
    int result = 0;

    while (*list && result == 0) {
        size_t length = strcspn(list, ":");

        if (length > 0) {
            result = load_from(list, length, stamp);
        }
        list += length + (list[length] != '\0');
    }
    return result;
}

static int load_driver(const char *stamp)
{
    const char *list = getenv("ARCHIPELAGO_QEMU_DIR");
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char path[PATH_MAX] = "";
    int result;

    if (list) {
        return load_from_list(list, stamp);
    }
    if (cache && cache[0] == '/') {
        snprintf(path, sizeof(path), "%s/archipelago/qemu", cache);
    } else if (home) {
        snprintf(path, sizeof(path), "%s/.cache/archipelago/qemu", home);
    }
    result = load_from_list(path, stamp);
    return result ? result : load_from_list(ARCHIPELAGO_QEMU_DIR, stamp);
}

static bool is_named_qemu(void)
{
    return strncmp(program_invocation_short_name, "qemu", 4) == 0;
}

__attribute__((constructor)) static void bring_driver(void)
{
    struct identity identity = { 0 };

    dl_iterate_phdr(inspect_program, &identity);
    if (!identity.stamp[0]) {
        if (identity.version[0] && is_named_qemu()) {
            fprintf(stderr, "archipelago: %s (QEMU %s) was built without "
                    "modules and can't take the driver; going on without\n",
                    program_invocation_short_name, identity.version);
        }
        return;
    }
    leave_environment();
    if (load_driver(identity.stamp) == 0) {
        fprintf(stderr, "archipelago: no driver for this QEMU (%s, build %s); "
                "going on without.  Build one: archipelago-qemu --build %s\n",
                identity.version[0] ? identity.version : "unknown version",
                identity.stamp, program_invocation_name);
    }
}
