/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From what a user calls a store to what store_open() takes.
 *
 * Configuration is a file of GKeyFile's format, archipelago.conf: a group a
 * store, and the group [archipelago] for what belongs to none.
 *
 * Threads: any, as long as nobody changes the environment meanwhile.
 */
#ifndef ARCHIPELAGO_VOLUME_CONFIG_H
#define ARCHIPELAGO_VOLUME_CONFIG_H

#include <glib.h>
#include <stdbool.h>

/* The file that all users of a host share; tests put another path here. */
extern const char *config_system_path;

/*
 * Resolve `location` to "SCHEME:PATH[?KEY=VALUE[&KEY=VALUE]...]", which the
 * caller frees.
 *
 * With a scheme, it stays as it is.  A plain word is a group of
 * archipelago.conf; options that follow the word win over the group's.  NULL
 * stands for $ARCHIPELAGO_STORE, else `default-store` of [archipelago], else a
 * directory, /var/lib/archipelago for root, $XDG_DATA_HOME/archipelago for
 * others: only then `is_default` is true, and the caller may make the directory
 * with its parents.
 *
 * -ENOENT: no such group or file; -EINVAL: not a location, or a file that says
 * what it can't mean; -EACCES, -EIO: a file that can't be read.
 */
int config_resolve(const char *location, char **resolved, bool *is_default,
                   GError **error);

#endif
