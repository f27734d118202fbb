/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archipelago map: which parts of a volume are allocated. */
#include "common.h"

#include <stdio.h>

#define EXTENTS_AT_ONCE 1024

struct map {
    struct cli *cli;
    struct table *table;
    uint64_t offset_bytes;      /* of `pending` */
    archip_extent pending;      /* grows as long as neighbours are alike */
};

static const char *kind(uint32_t flags)
{
    if (!(flags & ARCHIP_EXTENT_DATA)) {
        return "hole";
    }
    return flags & ARCHIP_EXTENT_ZERO ? "zero" : "data";
}

static void emit_json(const struct map *map)
{
    uint32_t flags = map->pending.flags;

    json_object_begin(NULL);
    json_number("start", map->offset_bytes);
    json_number("length", map->pending.length_bytes);
    json_bool("data", flags & ARCHIP_EXTENT_DATA);
    json_bool("zero", flags & ARCHIP_EXTENT_ZERO);
    json_bool("shared", flags & ARCHIP_EXTENT_SHARED);
    json_object_end();
}

static void emit(struct map *map)
{
    bool exact = map->cli->bytes;

    if (map->pending.length_bytes == 0) {
        return;
    }
    if (map->cli->json) {
        emit_json(map);
    } else {
        table_row(map->table,
                  g_strdup_printf("0x%" G_GINT64_MODIFIER "x",
                                  map->offset_bytes),
                  size_text(map->pending.length_bytes, exact),
                  g_strdup(kind(map->pending.flags)),
                  g_strdup(map->pending.flags & ARCHIP_EXTENT_SHARED ? "shared"
                                                                     : ""));
    }
    map->offset_bytes += map->pending.length_bytes;
    map->pending.length_bytes = 0;
}

static void add(struct map *map, const archip_extent *extent)
{
    if (extent->flags != map->pending.flags) {
        emit(map);
    }
    map->pending.flags = extent->flags;
    map->pending.length_bytes += extent->length_bytes;
}

static int walk(struct map *map, archip_queue *queue, uint64_t size_bytes)
{
    g_autofree archip_extent *extents =
        g_new0(archip_extent, EXTENTS_AT_ONCE);
    uint64_t at = 0;

    while (at < size_bytes) {
        int count = archip_extents(queue, at, size_bytes - at, extents,
                                   EXTENTS_AT_ONCE);

        if (count < 0) {
            return count;
        }
        for (int i = 0; i < count; i++) {
            add(map, &extents[i]);
            at += extents[i].length_bytes;
        }
    }
    emit(map);
    return 0;
}

static int report(struct cli *cli, archip_volume *volume)
{
    struct map map = {.cli = cli};
    archip_queue *queue;
    int result = archip_queue_open(volume, ARCHIP_QUEUE_MAY_BLOCK, &queue);

    if (result < 0) {
        return cli_fail_library(cli, result);
    }
    if (cli->json) {
        json_array_begin(NULL);
    } else {
        map.table = table_new("OFFSET >LENGTH KIND SHARED");
    }
    result = walk(&map, queue, archip_volume_size(volume));
    archip_queue_close(queue);
    if (cli->json) {
        json_array_end();
    } else {
        table_print(map.table);
    }
    return result < 0 ? cli_fail_library(cli, result) : CODE_OK;
}

static int run(struct cli *cli)
{
    archip_volume *volume;
    int code = cli_parse(cli, NULL, CLI_JSON | CLI_BYTES, 1, 1);

    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    if (code == CODE_OK) {
        code = cli_open_volume(cli, cli->argv[0], 0, &volume);
    }
    if (code == CODE_OK) {
        code = report(cli, volume);
        archip_volume_close(volume);
    }
    return code;
}

const struct command command_map = {
    "map", "NAME", "Show which parts of a volume are allocated", run,
};
