/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a store's name resolves to.  Each test has its own directory and sets
 * the environment anew; the host's own files are never read.
 */
#include "base/error.h"
#include "volume/config.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct fixture {
    char *directory;
    char *system_path;
    char *user_path;
    char *only_path;
} fixture;

static void set_up(fixture *f, gconstpointer data)
{
    f->directory = g_dir_make_tmp("archipelago-config-XXXXXX", NULL);
    g_assert_nonnull(f->directory);
    f->system_path = g_build_filename(f->directory, "system.conf", NULL);
    f->user_path = g_build_filename(f->directory, "archipelago.conf", NULL);
    f->only_path = g_build_filename(f->directory, "only.conf", NULL);
    config_system_path = f->system_path;
    g_setenv("XDG_CONFIG_HOME", f->directory, TRUE);
    g_setenv("HOME", f->directory, TRUE);
    g_unsetenv("XDG_DATA_HOME");
    g_unsetenv("ARCHIPELAGO_CONF");
    g_unsetenv("ARCHIPELAGO_STORE");
}

static void tear_down(fixture *f, gconstpointer data)
{
    g_unlink(f->system_path);
    g_unlink(f->user_path);
    g_unlink(f->only_path);
    g_assert_cmpint(g_rmdir(f->directory), ==, 0);
    g_free(f->system_path);
    g_free(f->user_path);
    g_free(f->only_path);
    g_free(f->directory);
}

static void put(const char *path, const char *text)
{
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void expect(const char *location, const char *wanted, bool is_default)
{
    g_autofree char *resolved = NULL;
    g_autoptr(GError) error = NULL;
    bool got_default = !is_default;
    int result = config_resolve(location, &resolved, &got_default, &error);

    g_assert_no_error(error);
    g_assert_cmpint(result, ==, 0);
    g_assert_cmpstr(resolved, ==, wanted);
    g_assert_cmpint(got_default, ==, is_default);
}

/* Fails with `errno_value` and a text that holds each of `parts`. */
static void refuse(const char *location, int errno_value,
                   const char *const *parts)
{
    g_autofree char *resolved = NULL;
    g_autoptr(GError) error = NULL;
    bool is_default;
    int result = config_resolve(location, &resolved, &is_default, &error);

    g_assert_cmpint(result, ==, -errno_value);
    g_assert_error(error, ARCHIP_ERROR, errno_value);
    g_assert_null(resolved);
    for (int i = 0; parts[i]; i++) {
        if (!strstr(error->message, parts[i])) {
            g_error("\"%s\" doesn't say \"%s\"", error->message, parts[i]);
        }
    }
}
#define REFUSE(location, errno_value, ...)                                     \
    refuse(location, errno_value, (const char *const[]){__VA_ARGS__, NULL})

static void scheme_stays(fixture *f, gconstpointer data)
{
    put(f->user_path, "not a key file at all");
    expect("dir:/srv/x", "dir:/srv/x", false);
    expect("dir:rel?io=buffered&fds=9", "dir:rel?io=buffered&fds=9", false);
    expect("memory:a", "memory:a", false);
    expect("fault:2:dir:/x", "fault:2:dir:/x", false);
}

static void path_suggests_dir(fixture *f, gconstpointer data)
{
    REFUSE("/srv/x", EINVAL, "\"dir:/srv/x\"");
    REFUSE("./x", EINVAL, "\"dir:./x\"");
    REFUSE("..", EINVAL, "\"dir:..\"");
}

static void nonsense_refused(fixture *f, gconstpointer data)
{
    REFUSE("", EINVAL, "empty");
    REFUSE(":x", EINVAL, "driver");
    REFUSE("DIR:x", EINVAL, "driver");
}

static void group_resolves(fixture *f, gconstpointer data)
{
    put(f->user_path, "[fast]\nlocation = dir:/srv/fast  \n"
                      "[tuned]\nlocation=dir:/srv/t\nio=buffered\nfds=64\n"
                      "[mixed]\nlocation=dir:/srv/m?io=direct&x=1\nfds=5\n");
    expect("fast", "dir:/srv/fast", false);
    expect("tuned", "dir:/srv/t?io=buffered&fds=64", false);
    expect("mixed", "dir:/srv/m?io=direct&x=1&fds=5", false);
}

static void given_options_win(fixture *f, gconstpointer data)
{
    put(f->user_path, "[t]\nlocation=dir:/srv/t?io=a\nio=b\nfds=64\n");
    expect("t", "dir:/srv/t?io=b&fds=64", false);
    expect("t?io=c", "dir:/srv/t?io=c&fds=64", false);
}

static void unknown_group_says_what_is_known(fixture *f, gconstpointer data)
{
    put(f->user_path, "[one]\nlocation=dir:/1\n[archipelago]\n");
    put(f->system_path, "[one]\nlocation=dir:/3\n[two]\nlocation=dir:/2\n");
    REFUSE("three", ENOENT, "\"three\"", f->user_path, f->system_path,
           "one, two;");
    REFUSE("archipelago", ENOENT, "\"archipelago\"");
}

static void no_file_says_where(fixture *f, gconstpointer data)
{
    REFUSE("x", ENOENT, f->user_path, f->system_path, "not there",
           "known: none");
}

static void user_wins_over_system(fixture *f, gconstpointer data)
{
    put(f->user_path, "[a]\nlocation=dir:/user\n");
    put(f->system_path, "[a]\nlocation=dir:/system\nio=buffered\n"
                        "[b]\nlocation=dir:/b\n");
    expect("a", "dir:/user", false);
    expect("b", "dir:/b", false);
}

static void only_file_counts(fixture *f, gconstpointer data)
{
    put(f->user_path, "[a]\nlocation=dir:/user\n");
    put(f->only_path, "[c]\nlocation=dir:/c\n");
    g_setenv("ARCHIPELAGO_CONF", f->only_path, TRUE);
    expect("c", "dir:/c", false);
    REFUSE("a", ENOENT, f->only_path);
}

static void only_file_must_exist(fixture *f, gconstpointer data)
{
    g_setenv("ARCHIPELAGO_CONF", f->only_path, TRUE);
    REFUSE("a", ENOENT, f->only_path);
    REFUSE(NULL, ENOENT, f->only_path);
    expect("dir:/x", "dir:/x", false);
}

static void unknown_key_is_named(fixture *f, gconstpointer data)
{
    put(f->user_path, "[a]\nlocation=dir:/a\n[b]\nlocation=dir:/b\nfd=3\n");
    REFUSE("a", EINVAL, f->user_path, "[b]", "\"fd\"");
    put(f->user_path, "[archipelago]\nstore=a\n");
    REFUSE(NULL, EINVAL, f->user_path, "[archipelago]", "\"store\"");
}

static void bad_group_is_named(fixture *f, gconstpointer data)
{
    put(f->user_path, "[a]\nio=direct\n[b]\nlocation=/srv\n"
                      "[c]\nlocation=a\n[d]\nlocation=dir:/d\nio=x&y=1\n");
    REFUSE("a", EINVAL, f->user_path, "[a]", "\"location\" is missing");
    REFUSE("b", EINVAL, f->user_path, "[b]", "\"/srv\"");
    REFUSE("c", EINVAL, f->user_path, "[c]", "driver");
    REFUSE("d", EINVAL, f->user_path, "[d]", "\"io\"");
}

static void bad_file_is_named(fixture *f, gconstpointer data)
{
    put(f->system_path, "location=dir:/a\n");
    REFUSE("a", EINVAL, f->system_path);
    g_assert_cmpint(g_mkdir(f->user_path, 0700), ==, 0);
    REFUSE("a", EINVAL, f->user_path);
    g_assert_cmpint(g_rmdir(f->user_path), ==, 0);
}

static void variable_is_the_default(fixture *f, gconstpointer data)
{
    put(f->user_path, "[archipelago]\ndefault-store=dir:/conf\n"
                      "[a]\nlocation=dir:/a\n");
    g_setenv("ARCHIPELAGO_STORE", "memory:m", TRUE);
    expect(NULL, "memory:m", false);
    g_setenv("ARCHIPELAGO_STORE", "a", TRUE);
    expect(NULL, "dir:/a", false);
    g_setenv("ARCHIPELAGO_STORE", "/srv", TRUE);
    REFUSE(NULL, EINVAL, "$ARCHIPELAGO_STORE", "\"dir:/srv\"");
    g_setenv("ARCHIPELAGO_STORE", "", TRUE);
    expect(NULL, "dir:/conf", false);
}

static void configured_default(fixture *f, gconstpointer data)
{
    put(f->user_path, "[a]\nlocation=dir:/a\n");
    put(f->system_path, "[archipelago]\ndefault-store=a\n");
    expect(NULL, "dir:/a", false);
    put(f->system_path, "[archipelago]\ndefault-store=gone\n");
    REFUSE(NULL, ENOENT, f->system_path, "default-store", "gone");
}

static void root_default(fixture *f, gconstpointer data)
{
    if (geteuid() != 0) {
        g_test_skip("needs root");
        return;
    }
    expect(NULL, "dir:/var/lib/archipelago", true);
}

/* In a child: its effective user is nobody. */
static void user_default(fixture *f, gconstpointer data)
{
    g_autofree char *in_home = g_strdup_printf(
        "dir:%s/.local/share/archipelago", f->directory);

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_passed();
        return;
    }
    if (geteuid() == 0) {
        g_assert_cmpint(chmod(f->directory, 0755), ==, 0);
        g_assert_cmpint(seteuid(65534), ==, 0);
    }
    expect(NULL, in_home, true);
    g_setenv("XDG_DATA_HOME", "relative", TRUE);
    expect(NULL, in_home, true);
    g_setenv("XDG_DATA_HOME", "/data", TRUE);
    expect(NULL, "dir:/data/archipelago", true);
    g_setenv("XDG_DATA_HOME", "/da?ta", TRUE);
    REFUSE(NULL, EINVAL, "'?'");
    if (getuid() == 0) {
        g_assert_cmpint(seteuid(0), ==, 0);
    }
}

#define ADD(name) g_test_add("/config/" #name, fixture, NULL, set_up, name, \
                             tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD(scheme_stays);
    ADD(path_suggests_dir);
    ADD(nonsense_refused);
    ADD(group_resolves);
    ADD(given_options_win);
    ADD(unknown_group_says_what_is_known);
    ADD(no_file_says_where);
    ADD(user_wins_over_system);
    ADD(only_file_counts);
    ADD(only_file_must_exist);
    ADD(unknown_key_is_named);
    ADD(bad_group_is_named);
    ADD(bad_file_is_named);
    ADD(variable_is_the_default);
    ADD(configured_default);
    ADD(root_default);
    ADD(user_default);
    return g_test_run();
}
