/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* In place of side-nbd.c where libnbd wasn't found at build time. */
#include "copy.h"

static struct copy_side *missing(GError **error)
{
    g_set_error(error, CLI_ERROR, CODE_FAILED,
                "this archipelago was built without libnbd: only raw files, "
                "devices and streams can be imported and exported");
    return NULL;
}

struct copy_side *side_nbd_uri(const char *uri, GError **error)
{
    return missing(error);
}

struct copy_side *side_nbd_command(char **argv, bool starts_zero,
                                   GError **error)
{
    return missing(error);
}
