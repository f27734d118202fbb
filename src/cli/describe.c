/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Volumes and their holders, described the same way by every subcommand. */
#include "common.h"

void describe_json(const archip_volume_info *info)
{
    g_autofree char *created = time_iso(info->created_ns);

    json_string("name", info->name);
    json_string("id", info->id);
    json_number("size_bytes", info->size_bytes);
    json_number("object_bytes", info->object_bytes);
    json_number("block_bytes", info->block_bytes);
    json_number("object_count", info->object_count);
    json_number("generation", info->generation);
    json_string("created", created);
    json_string("description", info->description);
    json_bool("clean", info->flags & ARCHIP_VOLUME_CLEAN);
    json_bool("readonly", info->flags & ARCHIP_VOLUME_READONLY);
    json_bool("protected", info->flags & ARCHIP_VOLUME_PROTECTED);
}

void describe_holder_json(const archip_holder *holder)
{
    g_autofree char *since = NULL;

    if (!holder->held) {
        json_string("holder", NULL);
        return;
    }
    since = time_iso(holder->since_ns);
    json_object_begin("holder");
    json_string("owner", holder->owner);
    json_string("host", holder->host);
    json_number("pid", (uint64_t)MAX(holder->pid, 0));
    json_string("since", since);
    json_number("token", holder->token);
    json_object_end();
}

char *describe_holder(const archip_holder *holder)
{
    g_autofree char *owner = printable(holder->owner);
    g_autofree char *host = printable(holder->host);

    return g_strdup_printf("%s on %s, process %" G_GINT64_FORMAT, owner, host,
                           holder->pid);
}
