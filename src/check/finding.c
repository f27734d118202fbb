/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a check tells, and what it counts of it. */
#include "check/check.h"

#include "base/error.h"

#include <errno.h>

static void count_finding(archip_check_summary *summary,
                          const archip_finding *finding)
{
    switch (finding->severity) {
    case ARCHIP_NOTE:
        summary->note_count++;
        break;
    case ARCHIP_LEAK:
        summary->leak_count++;
        break;
    case ARCHIP_DAMAGE:
        summary->damage_count++;
        break;
    }
    summary->repaired_count += finding->outcome == ARCHIP_REPAIRED &&
                               finding->severity != ARCHIP_NOTE;
    summary->failed_count += finding->outcome == ARCHIP_FAILED;
}

void check_tell(struct check *check, const char *volume, const char *code,
                archip_severity severity, archip_outcome outcome,
                uint64_t count, const char *place, const char *text,
                const char *action)
{
    archip_finding finding = {
        .code = code,
        .severity = severity,
        .outcome = outcome,
        .volume = volume,
        .place = place,
        .text = text,
        .action = action,
        .count = count,
    };

    count_finding(&check->summary, &finding);
    if (check->options->finding && check->stopped == 0) {
        check->stopped = check->options->finding(&finding,
                                                 check->options->opaque);
    }
}

void check_tell_tried(struct check *check, const char *volume,
                      const char *code, archip_severity severity,
                      const char *place, const char *text, const char *action,
                      int rc, const GError *error)
{
    g_autofree char *failure = NULL;

    if (rc < 0) {
        failure = g_strdup_printf("%s: %s", action,
                                  error ? error->message : g_strerror(-rc));
    }
    check_tell(check, volume, code, severity,
               rc < 0 ? ARCHIP_FAILED : ARCHIP_REPAIRED, 1, place, text,
               rc < 0 ? failure : action);
}

void candidate_clear(gpointer data)
{
    struct candidate *candidate = data;

    g_free(candidate->place);
    g_free(candidate->text);
    g_free(candidate->action);
}

void candidate_tell(struct check *check, const char *volume,
                    const struct candidate *candidate)
{
    check_tell(check, volume, candidate->code, candidate->severity,
               candidate->fix == FIX_NONE ? ARCHIP_KEPT : ARCHIP_FOUND,
               candidate->count, candidate->place, candidate->text,
               candidate->action);
}

void check_hindered(struct check *check, const char *what, GError *error)
{
    if (!check->hindered) {
        check->hindered = error ? -error->code : -EIO;
        check->hindrance = g_strdup_printf("%s: %s", what,
                                           error ? error->message : "?");
    }
    g_clear_error(&error);
}
