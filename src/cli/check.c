/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * archipelago check: look at a store, or at some volumes, and mend what can be
 * mended.  A line a finding; progress on a terminal only.
 */
#include "common.h"
#include "copy.h"

#include <stdio.h>
#include <unistd.h>

struct check {
    struct cli *cli;
    gboolean repair, dry_run, quiet;
    bool on_terminal;
    gint64 drawn_us;
    uint64_t damages_left, leaks_left;
    archip_check_summary summary;
};

static const char *severity_text(archip_severity severity)
{
    return severity == ARCHIP_NOTE   ? "note"
           : severity == ARCHIP_LEAK ? "leak"
                                     : "damage";
}

static const char *outcome_text(archip_outcome outcome)
{
    return outcome == ARCHIP_FOUND      ? "found"
           : outcome == ARCHIP_KEPT     ? "kept"
           : outcome == ARCHIP_REPAIRED ? "repaired"
                                        : "failed";
}

static void clear_line(const struct check *check)
{
    if (check->on_terminal) {
        fputs("\r\033[K", stderr);
    }
}

/* "damage object-missing web1, block object 3 of layer ..: ... [kept: ...]" */
static void show(const struct check *check, const archip_finding *finding)
{
    static const char *const verbs[] = {"", "would ", "kept: ", "done: ",
                                        "failed: "};
    g_autofree char *volume = finding->volume ? printable(finding->volume)
                                              : NULL;
    g_autofree char *place = printable(finding->place);
    g_autofree char *text = printable(finding->text);
    g_autofree char *action = printable(finding->action);

    clear_line(check);
    printf("%s %s %s%s%s: %s [%s%s]\n", severity_text(finding->severity),
           finding->code, volume ? volume : "", volume ? ", " : "", place,
           text, verbs[finding->outcome], action);
}

static void show_json(const archip_finding *finding)
{
    json_object_begin(NULL);
    json_string("code", finding->code);
    json_string("severity", severity_text(finding->severity));
    json_string("outcome", outcome_text(finding->outcome));
    json_string("volume", finding->volume);
    json_string("place", finding->place);
    json_number("count", finding->count);
    json_string("text", finding->text);
    json_string("action", finding->action);
    json_object_end();
}

static int on_finding(const archip_finding *finding, void *opaque)
{
    struct check *check = opaque;
    bool left = finding->outcome != ARCHIP_REPAIRED;

    check->damages_left += left && finding->severity == ARCHIP_DAMAGE;
    check->leaks_left += left && finding->severity == ARCHIP_LEAK;
    if (check->cli->json) {
        show_json(finding);
    } else {
        show(check, finding);
    }
    return interrupt_signal() != 0;
}

static int on_progress(uint64_t done, uint64_t total, void *opaque)
{
    struct check *check = opaque;
    gint64 now_us = g_get_monotonic_time();

    if (check->on_terminal && now_us - check->drawn_us >= 100000) {
        check->drawn_us = now_us;
        fprintf(stderr,
                "\rcheck  %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                " volumes\033[K", done, total);
        fflush(stderr);
    }
    return interrupt_signal() != 0;
}

static void summary_json(const archip_check_summary *summary)
{
    json_object_begin("summary");
    json_number("volume_count", summary->volume_count);
    json_number("busy_count", summary->busy_count);
    json_number("unchecked_count", summary->unchecked_count);
    json_number("object_count", summary->object_count);
    json_number("page_count", summary->page_count);
    json_number("note_count", summary->note_count);
    json_number("leak_count", summary->leak_count);
    json_number("damage_count", summary->damage_count);
    json_number("repaired_count", summary->repaired_count);
    json_number("failed_count", summary->failed_count);
    json_object_end();
}

static void summary_show(const archip_check_summary *summary)
{
    printf("%" G_GUINT64_FORMAT " volumes (%" G_GUINT64_FORMAT
           " in use), %" G_GUINT64_FORMAT " objects, %" G_GUINT64_FORMAT
           " map pages: ",
           summary->volume_count, summary->busy_count, summary->object_count,
           summary->page_count);
    if (summary->damage_count + summary->leak_count == 0) {
        printf("nothing wrong\n");
        return;
    }
    printf("%" G_GUINT64_FORMAT " damages, %" G_GUINT64_FORMAT
           " leaks, %" G_GUINT64_FORMAT " repaired\n",
           summary->damage_count, summary->leak_count,
           summary->repaired_count);
}

static int code_of(const struct check *check)
{
    if (check->damages_left > 0) {
        return CODE_DAMAGED;
    }
    if (check->leaks_left > 0) {
        return CODE_LEAKS;
    }
    if (check->summary.failed_count > 0) {
        return CODE_FAILED;
    }
    return check->summary.repaired_count > 0 ? CODE_REPAIRED : CODE_OK;
}

static int check_run(struct check *check)
{
    struct cli *cli = check->cli;
    const archip_check_options options = {
        .flags = check->repair && !check->dry_run ? ARCHIP_CHECK_REPAIR : 0,
        .volumes = cli->argc > 0 ? (const char *const *)cli->argv : NULL,
        .finding = on_finding,
        .progress = on_progress,
        .opaque = check,
    };
    int result;

    if (cli->json) {
        json_object_begin(NULL);
        json_bool("repair", options.flags != 0);
        json_array_begin("findings");
    }
    result = archip_check(cli->store, &options, &check->summary);
    clear_line(check);
    if (cli->json) {
        json_array_end();
        summary_json(&check->summary);
        json_object_end();
    } else if (result == 0) {
        summary_show(&check->summary);
    }
    if (result > 0) {
        interrupt_die();
    }
    return result < 0 ? cli_fail_library(cli, result) : code_of(check);
}

static int run(struct cli *cli)
{
    struct check check = {.cli = cli};
    const GOptionEntry entries[] = {
        {"repair", 0, 0, G_OPTION_ARG_NONE, &check.repair,
         "Mend what can be mended", NULL},
        {"dry-run", 0, 0, G_OPTION_ARG_NONE, &check.dry_run,
         "Only say what would be done", NULL},
        {"quiet", 'q', 0, G_OPTION_ARG_NONE, &check.quiet,
         "Show no progress", NULL},
        {NULL},
    };
    int code = cli_parse(cli, entries, CLI_JSON, 0, -1);

    if (code == CODE_OK) {
        code = cli_open_store(cli, 0);
    }
    if (code != CODE_OK) {
        return code;
    }
    check.on_terminal = !check.quiet && isatty(STDERR_FILENO);
    interrupt_watch();
    return check_run(&check);
}

const struct command command_check = {
    "check", "[NAME...]", "Look for damage and leftovers, and mend them", run,
};
