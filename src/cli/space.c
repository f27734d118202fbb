/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The store's room, what was promised of it, and warnings before it ends: for
 * status, info and create. */
#include "common.h"

#include <stdio.h>

static const char *const level_names[] = {
    [ARCHIP_SPACE_UNKNOWN] = "unknown",
    [ARCHIP_SPACE_OK] = "ok",
    [ARCHIP_SPACE_WARNING] = "warning",
    [ARCHIP_SPACE_CRITICAL] = "critical",
    [ARCHIP_SPACE_FULL] = "full",
};

/* --- Finding out -------------------------------------------------------- */

void space_add(struct space *space, const archip_volume_info *info,
               const char *error)
{
    space->volume_count++;
    space->damaged_count += error != NULL;
    space->size_bytes += info->size_bytes;
}

static int add_volume(const archip_volume_info *info, const char *error,
                      void *opaque)
{
    space_add(opaque, info, error);
    return 0;
}

int space_read(struct cli *cli, struct space *space)
{
    int result;

    *space = (struct space){0};
    result = archip_store_get_status(cli->store, &space->store);
    return result < 0 ? result
                      : archip_volume_list(cli->store, add_volume, space);
}

/* In percent of what there is; 0 where that isn't known. */
static unsigned percent(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (unsigned)((double)part * 100 / (double)whole) : 0;
}

static unsigned overcommit_percent(const struct space *space)
{
    return percent(space->size_bytes, space->store.total_bytes);
}

bool space_is_overcommitted(const struct space *space)
{
    return space->store.total_bytes > 0 &&
           space->size_bytes > space->store.total_bytes;
}

/* --- For people --------------------------------------------------------- */

static char *commitment(const struct space *space)
{
    return space_is_overcommitted(space)
               ? g_strdup_printf(", %.1f times what the store can hold",
                                 overcommit_percent(space) / 100.0)
               : g_strdup("");
}

static void show_reserve(struct cli *cli, int width, const struct space *space)
{
    const archip_store_status *store = &space->store;
    g_autofree char *held = size_text(store->reserve_bytes, cli->bytes);
    g_autofree char *wanted =
        size_text(store->reserve_wanted_bytes, cli->bytes);

    if (store->reserve_wanted_bytes == 0) {
        return;
    }
    if (store->reserve_bytes == 0) {
        printf("%-*s none yet of %s; the next who opens a volume for writing "
               "makes it, where the file system can\n", width, "Reserve:",
               wanted);
    } else if (store->reserve_bytes < store->reserve_wanted_bytes) {
        printf("%-*s %s of %s; filled up as there is room\n", width,
               "Reserve:", held, wanted);
    } else {
        printf("%-*s %s for metadata\n", width, "Reserve:", held);
    }
}

static void print_warning(const char *text, void *opaque)
{
    printf("%-*s %s\n", *(int *)opaque, "Warning:", text);
}

void space_show(struct cli *cli, int width, const struct space *space)
{
    const archip_store_status *store = &space->store;
    g_autofree char *free_text = size_text(store->free_bytes, cli->bytes);
    g_autofree char *total_text = size_text(store->total_bytes, cli->bytes);
    g_autofree char *size = size_text(space->size_bytes, cli->bytes);
    g_autofree char *over = commitment(space);

    if (store->total_bytes > 0) {
        printf("%-*s %s free of %s, %u %% in use\n", width, "Space:", free_text,
               total_text, percent(store->total_bytes - store->free_bytes,
                                   store->total_bytes));
    } else {
        printf("%-*s unknown\n", width, "Space:");
    }
    show_reserve(cli, width, space);
    printf("%-*s %" G_GUINT64_FORMAT ", of %s together%s\n", width, "Volumes:",
           space->volume_count, size, over);
    space_each_warning(space, print_warning, &width);
}

/* --- Warnings ----------------------------------------------------------- */

static void warn(const char *what, unsigned used_percent,
                 const archip_store_status *store,
                 void (*each)(const char *text, void *opaque), void *opaque)
{
    bool critical = used_percent >= store->critical_percent;
    unsigned mark = critical ? store->critical_percent
                             : store->warning_percent;
    g_autofree char *text = NULL;

    if (mark > 0 && used_percent >= mark) {
        text = g_strdup_printf("%u %% of the %s in use, %s from %u %%",
                               used_percent, what,
                               critical ? "critical" : "a warning", mark);
        each(text, opaque);
    }
}

void space_each_warning(const struct space *space,
                        void (*each)(const char *text, void *opaque),
                        void *opaque)
{
    const archip_store_status *store = &space->store;

    if (store->space == ARCHIP_SPACE_FULL) {
        each("the store is full: what needs new room fails; remove volumes, "
             "discard, or enlarge the file system", opaque);
    } else {
        warn("space is", percent(store->total_bytes - store->free_bytes,
                                 store->total_bytes), store, each, opaque);
    }
    if (store->file_count > 0) {
        warn("inodes are", percent(store->file_count - store->free_file_count,
                                   store->file_count), store, each, opaque);
    }
}

/* --- For programs ------------------------------------------------------- */

static void json_warning(const char *text, void *opaque)
{
    json_string(NULL, text);
}

void space_json(const struct space *space)
{
    const archip_store_status *store = &space->store;

    json_number("total_bytes", store->total_bytes);
    json_number("free_bytes", store->free_bytes);
    json_number("reserve_bytes", store->reserve_bytes);
    json_number("reserve_wanted_bytes", store->reserve_wanted_bytes);
    json_number("file_count", store->file_count);
    json_number("free_file_count", store->free_file_count);
    json_number("volume_count", space->volume_count);
    json_number("damaged_count", space->damaged_count);
    json_number("size_bytes", space->size_bytes);
    json_number("overcommit_percent", overcommit_percent(space));
    json_string("space", store->space < G_N_ELEMENTS(level_names)
                             ? level_names[store->space]
                             : "unknown");
    json_array_begin("warnings");
    space_each_warning(space, json_warning, NULL);
    json_array_end();
}
