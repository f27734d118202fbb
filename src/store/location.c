/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading locations of stores and the options in them. */
#include "store/location.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>

static int add_option(GHashTable *options, const char *pair, GError **error)
{
    const char *equals = strchr(pair, '=');
    g_autofree char *key = NULL;

    if (!equals || equals == pair) {
        return error_set(error, EINVAL,
                         "\"%s\" is not an option: after '?' a location has "
                         "KEY=VALUE, separated by '&'", pair);
    }
    key = g_strndup(pair, equals - pair);
    if (g_hash_table_contains(options, key)) {
        return error_set(error, EINVAL, "option \"%s\" is given twice", key);
    }
    g_hash_table_insert(options, g_steal_pointer(&key), g_strdup(equals + 1));
    return 0;
}

int location_split(const char *rest, char **path, GHashTable **options,
                   GError **error)
{
    g_autoptr(GHashTable) found =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    const char *mark = strchr(rest, '?');
    g_auto(GStrv) pairs = NULL;

    if (mark && mark[1] != '\0') {
        pairs = g_strsplit(mark + 1, "&", -1);
    }
    for (char **pair = pairs; pair && *pair; pair++) {
        int result = add_option(found, *pair, error);

        if (result < 0) {
            return result;
        }
    }
    *path = mark ? g_strndup(rest, mark - rest) : g_strdup(rest);
    *options = g_steal_pointer(&found);
    return 0;
}

static char *known_text(const char *const *known)
{
    if (!known[0]) {
        return g_strdup("it has none");
    }
    g_autofree char *list = g_strjoinv(", ", (char **)known);

    return g_strdup_printf("known: %s", list);
}

int location_check_options(GHashTable *options, const char *driver,
                           const char *const *known, GError **error)
{
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, options);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        if (!g_strv_contains(known, key)) {
            g_autofree char *text = known_text(known);

            return error_set(error, EINVAL,
                             "the %s store has no option \"%s\" (%s)", driver,
                             (char *)key, text);
        }
    }
    return 0;
}

int location_get_number(GHashTable *options, const char *key, uint64_t min,
                        uint64_t max, uint64_t *value, GError **error)
{
    const char *text = g_hash_table_lookup(options, key);
    g_autoptr(GError) why = NULL;
    guint64 number;

    if (!text) {
        return 0;
    }
    if (!g_ascii_string_to_unsigned(text, 10, min, max, &number, &why)) {
        return error_set(error, EINVAL, "option %s=%s: %s", key, text,
                         why->message);
    }
    *value = number;
    return 0;
}
