# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `archipelago check` may find after a crash: notes, and of the leaks
those that archipelago(1) and docs/DURABILITY.md explain by one."""
NOTES = {'volume-unclean', 'journal-torn', 'shrink-unfinished', 'lock-stale'}
# Of a write or a discard; of a fold; of making or removing a volume.
LEAKS = {'object-orphan', 'litter', 'page-orphan', 'journal-stale',
         'operation-unfinished', 'place-empty'}


def unexplained(findings, leaks=True):
    """The first of check's findings that no crash explains, or None; without
    `leaks` there must be notes only."""
    for finding in findings:
        allowed = {'note': NOTES, 'leak': LEAKS if leaks else set()}
        if finding['code'] not in allowed.get(finding['severity'], set()):
            return finding
    return None
