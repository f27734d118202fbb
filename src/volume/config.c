/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago.conf and the default store.
 *
 * With $ARCHIPELAGO_CONF only that file counts and it must exist.  Otherwise
 * the user's file is laid over the host's: of two groups with one name the
 * user's is taken whole, nothing is mixed.  A file is checked whole when it is
 * read, so that a misspelt key shows at once and not when it is first needed.
 * Locations with a scheme don't read any file: they work whatever the files
 * say.
 */
#include "volume/config.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAIN_GROUP "archipelago"
#define DEFAULT_KEY "default-store"
#define LOCATION_KEY "location"

const char *config_system_path = "/etc/archipelago.conf";

/* Keys of a store's group that become options of its location. */
static const char *const option_keys[] = {"io", "fds", "warning",
                                          "critical"};

/* What was read, searched in this order. */
typedef struct config {
    int count;
    char *paths[2];
    GKeyFile *files[2];         /* NULL: there is no such file */
} config;

static void config_free(config *self)
{
    for (int i = 0; i < self->count; i++) {
        g_free(self->paths[i]);
        g_clear_pointer(&self->files[i], g_key_file_free);
    }
    g_free(self);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(config, config_free)

/* An empty variable counts as none. */
static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

/* As the XDG base directory specification has it: a relative one is ignored. */
static char *user_directory(const char *variable, const char *below_home)
{
    const char *value = environment(variable);
    const char *home = environment("HOME");

    if (value && g_path_is_absolute(value)) {
        return g_strdup(value);
    }
    return g_build_filename(home ? home : g_get_home_dir(), below_home, NULL);
}

/* --- Reading ------------------------------------------------------------ */

static bool is_option_key(const char *key)
{
    for (size_t i = 0; i < G_N_ELEMENTS(option_keys); i++) {
        if (g_str_equal(key, option_keys[i])) {
            return true;
        }
    }
    return false;
}

static bool key_is_known(const char *group, const char *key)
{
    if (g_str_equal(group, MAIN_GROUP)) {
        return g_str_equal(key, DEFAULT_KEY);
    }
    return g_str_equal(key, LOCATION_KEY) || is_option_key(key);
}

static int check_group(GKeyFile *file, const char *path, const char *group,
                       GError **error)
{
    g_auto(GStrv) keys = g_key_file_get_keys(file, group, NULL, NULL);

    for (int i = 0; keys && keys[i]; i++) {
        if (!key_is_known(group, keys[i])) {
            return error_set(error, EINVAL,
                             "%s: group [%s]: key \"%s\" is not known", path,
                             group, keys[i]);
        }
    }
    return 0;
}

static int check_file(GKeyFile *file, const char *path, GError **error)
{
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
    int result = 0;

    for (int i = 0; result == 0 && groups[i]; i++) {
        result = check_group(file, path, groups[i], error);
    }
    return result;
}

static int file_errno(const GError *failure)
{
    if (g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        return ENOENT;
    }
    if (g_error_matches(failure, G_FILE_ERROR, G_FILE_ERROR_ACCES)) {
        return EACCES;
    }
    return failure->domain == G_FILE_ERROR ? EIO : EINVAL;
}

/* Add `path` (taken over) to what is searched. */
static int load(config *self, char *path, bool must_exist, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) failure = NULL;
    int result;

    self->paths[self->count++] = path;
    if (!g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, &failure)) {
        result = file_errno(failure);
        if (result == ENOENT && !must_exist) {
            return 0;
        }
        return error_set(error, result, "%s: %s", path, failure->message);
    }
    result = check_file(file, path, error);
    if (result == 0) {
        self->files[self->count - 1] = g_steal_pointer(&file);
    }
    return result;
}

static int config_read(config **read, GError **error)
{
    g_autoptr(config) self = g_new0(config, 1);
    const char *only = environment("ARCHIPELAGO_CONF");
    int result;

    if (only) {
        result = load(self, g_strdup(only), true, error);
    } else {
        g_autofree char *directory =
            user_directory("XDG_CONFIG_HOME", ".config");

        result = load(self,
                      g_build_filename(directory, "archipelago.conf", NULL),
                      false, error);
        if (result == 0) {
            result = load(self, g_strdup(config_system_path), false, error);
        }
    }
    if (result == 0) {
        *read = g_steal_pointer(&self);
    }
    return result;
}

/* --- Looking up --------------------------------------------------------- */

/* The value without the blanks at its end, which GKeyFile keeps; NULL: no such
 * key. */
static char *value_get(GKeyFile *file, const char *group, const char *key)
{
    char *value = g_key_file_get_string(file, group, key, NULL);

    return value ? g_strchomp(value) : NULL;
}

/* The index of the first file with this group, or -1. */
static int config_find(const config *self, const char *group)
{
    for (int i = 0; i < self->count; i++) {
        if (self->files[i] && g_key_file_has_group(self->files[i], group)) {
            return i;
        }
    }
    return -1;
}

/* The groups that name stores, in order, each once. */
static char *stores_known(const config *self)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);

    for (int i = 0; i < self->count; i++) {
        g_auto(GStrv) groups = NULL;

        if (!self->files[i]) {
            continue;
        }
        groups = g_key_file_get_groups(self->files[i], NULL);
        for (int j = 0; groups[j]; j++) {
            if (!g_str_equal(groups[j], MAIN_GROUP) &&
                config_find(self, groups[j]) == i) {
                g_ptr_array_add(names, g_strdup(groups[j]));
            }
        }
    }
    if (names->len == 0) {
        return g_strdup("none");
    }
    g_ptr_array_add(names, NULL);
    return g_strjoinv(", ", (char **)names->pdata);
}

static int unknown_store(const config *self, const char *name, GError **error)
{
    g_autoptr(GString) paths = g_string_new(NULL);
    g_autofree char *known = stores_known(self);

    for (int i = 0; i < self->count; i++) {
        g_string_append_printf(paths, "%s%s%s", i ? ", " : "", self->paths[i],
                               self->files[i] ? "" : " (not there)");
    }
    return error_set(error, ENOENT,
                     "no store \"%s\" in archipelago.conf; files: %s; "
                     "stores known: %s; a directory is written \"dir:PATH\"",
                     name, paths->str, known);
}

/* --- Locations ---------------------------------------------------------- */

/* "SCHEME:": lower-case letters, digits and '-' before the first colon. */
static bool has_scheme(const char *location)
{
    size_t bytes = strspn(location, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return bytes > 0 && location[bytes] == ':';
}

/* A path without a scheme is the mistake to expect: say what was meant. */
static int check_word(const char *location, GError **error)
{
    if (*location == '\0') {
        return error_set(error, EINVAL, "the store's location is empty");
    }
    if (strchr(location, '/') != NULL || *location == '.') {
        return error_set(error, EINVAL,
                         "\"%s\" is not a store's location; did you mean "
                         "\"dir:%s\"?",
                         location, location);
    }
    if (strchr(location, ':') != NULL) {
        return error_set(error, EINVAL,
                         "\"%s\" is not a store's location: what stands "
                         "before ':' is a driver's name such as \"dir\"",
                         location);
    }
    return 0;
}

/* Set an option in "A=B&C=D", in its place if it is there already. */
static void option_set(GPtrArray *options, const char *option)
{
    size_t key_bytes = strcspn(option, "=");

    for (guint i = 0; i < options->len; i++) {
        const char *other = options->pdata[i];

        if (strcspn(other, "=") == key_bytes &&
            strncmp(other, option, key_bytes) == 0) {
            g_free(options->pdata[i]);
            options->pdata[i] = g_strdup(option);
            return;
        }
    }
    g_ptr_array_add(options, g_strdup(option));
}

static void options_add(GPtrArray *options, const char *text)
{
    g_auto(GStrv) each = g_strsplit(text, "&", -1);

    for (int i = 0; each[i]; i++) {
        option_set(options, each[i]);
    }
}

static char *location_join(const char *location, GPtrArray *options)
{
    g_autofree char *text = NULL;
    int bytes = (int)strcspn(location, "?");

    if (options->len == 0) {
        return g_strdup(location);
    }
    g_ptr_array_add(options, NULL);
    text = g_strjoinv("&", (char **)options->pdata);
    return g_strdup_printf("%.*s?%s", bytes, location, text);
}

/* The options that a group's keys make. */
static int group_options(GKeyFile *file, const char *path, const char *group,
                         GPtrArray *options, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(option_keys); i++) {
        const char *key = option_keys[i];
        g_autofree char *value = value_get(file, group, key);
        g_autofree char *option = NULL;

        if (!value) {
            continue;
        }
        if (*value == '\0' || strpbrk(value, "&?")) {
            return error_set(error, EINVAL,
                             "%s: group [%s]: key \"%s\": \"%s\" is not a "
                             "value it can have",
                             path, group, key, value);
        }
        option = g_strdup_printf("%s=%s", key, value);
        option_set(options, option);
    }
    return 0;
}

/* A group's location must have a scheme: groups don't refer to each other. */
static int group_location(GKeyFile *file, const char *path, const char *group,
                          char **location, GError **error)
{
    g_autofree char *value = value_get(file, group, LOCATION_KEY);

    if (!value) {
        return error_set(error, EINVAL, "%s: group [%s]: key \"%s\" is missing",
                         path, group, LOCATION_KEY);
    }
    if (!has_scheme(value)) {
        return error_set(error, EINVAL,
                         "%s: group [%s]: key \"%s\": \"%s\" doesn't begin "
                         "with a driver's name, as in \"dir:/srv/volumes\"",
                         path, group, LOCATION_KEY, value);
    }
    *location = g_steal_pointer(&value);
    return 0;
}

/* Resolve a plain word, which may carry options: "fast?io=buffered". */
static int resolve_word(const config *self, const char *word, char **resolved,
                        GError **error)
{
    g_autoptr(GPtrArray) options = g_ptr_array_new_with_free_func(g_free);
    const char *given = strchr(word, '?');
    g_autofree char *group = g_strndup(word, strcspn(word, "?"));
    g_autofree char *location = NULL;
    int index = config_find(self, group);
    int result;

    if (index < 0 || g_str_equal(group, MAIN_GROUP)) {
        return unknown_store(self, group, error);
    }
    result = group_location(self->files[index], self->paths[index], group,
                            &location, error);
    if (result < 0) {
        return result;
    }
    if (strchr(location, '?')) {
        options_add(options, strchr(location, '?') + 1);
    }
    result = group_options(self->files[index], self->paths[index], group,
                           options, error);
    if (result == 0) {
        if (given) {
            options_add(options, given + 1);
        }
        *resolved = location_join(location, options);
    }
    return result;
}

static int resolve_with(const config *self, const char *location,
                        char **resolved, GError **error)
{
    int result;

    if (has_scheme(location)) {
        *resolved = g_strdup(location);
        return 0;
    }
    result = check_word(location, error);
    return result < 0 ? result : resolve_word(self, location, resolved, error);
}

/* --- The default -------------------------------------------------------- */

static int default_directory(char **resolved, GError **error)
{
    g_autofree char *path = NULL;

    if (geteuid() == 0) {
        path = g_strdup("/var/lib/archipelago");
    } else {
        g_autofree char *data = user_directory("XDG_DATA_HOME", ".local/share");

        path = g_build_filename(data, "archipelago", NULL);
    }
    if (strchr(path, '?')) {
        return error_set(error, EINVAL,
                         "the default store \"%s\" has a '?' in its path, "
                         "where options would begin",
                         path);
    }
    *resolved = g_strdup_printf("dir:%s", path);
    return 0;
}

static int resolve_default(const config *self, char **resolved,
                           bool *is_default, GError **error)
{
    int index = config_find(self, MAIN_GROUP);
    g_autofree char *value = NULL;
    int result;

    if (index >= 0) {
        value = value_get(self->files[index], MAIN_GROUP, DEFAULT_KEY);
    }
    if (!value) {
        *is_default = true;
        return default_directory(resolved, error);
    }
    result = resolve_with(self, value, resolved, error);
    if (result < 0) {
        error_prefix(error, "%s: group [%s]: key \"%s\": ", self->paths[index],
                     MAIN_GROUP, DEFAULT_KEY);
    }
    return result;
}

int config_resolve(const char *location, char **resolved, bool *is_default,
                   GError **error)
{
    g_autoptr(GError) failure = NULL;
    g_autoptr(config) self = NULL;
    const char *variable = NULL;
    int result;

    *resolved = NULL;
    *is_default = false;
    if (!location) {
        location = variable = environment("ARCHIPELAGO_STORE");
    }
    if (location && has_scheme(location)) {
        *resolved = g_strdup(location);
        return 0;
    }
    result = location ? check_word(location, &failure) : 0;
    if (result == 0) {
        result = config_read(&self, &failure);
    }
    if (result == 0) {
        result = location
                     ? resolve_with(self, location, resolved, &failure)
                     : resolve_default(self, resolved, is_default, &failure);
    }
    if (result < 0) {
        if (variable) {
            error_prefix(&failure, "$ARCHIPELAGO_STORE: ");
        }
        g_propagate_error(error, g_steal_pointer(&failure));
    }
    return result;
}
