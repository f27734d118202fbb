#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# remove: several, dry, and on a terminal.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires script
for name in a b c d; do a create $name 1M; done
equal "$(a remove --dry-run a b)" $'would remove a\nwould remove b'
equal "$(names)" "a b c d "
expect_code 3 a remove --dry-run a none
a remove a
expect_code 3 a remove none b
said none
equal "$(names)" "c d "
echo n | script -qec "$ARCHIPELAGO remove c" /dev/null > asked || :
grep -q '\[y/N\]' asked
equal "$(names)" "c d "
echo y | script -qec "$ARCHIPELAGO remove c" /dev/null > asked
equal "$(names)" "d "
equal "$(a remove d --json | json 'j')" "{'dry_run': False, 'removed': ['d']}"
equal "$(names)" ""
expect_code 2 a remove
