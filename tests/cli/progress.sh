#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A progress bar, on a terminal only.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires script
head -c 64M /dev/urandom > r
a import r quiet-here 2> err
equal "$(cat err)" ""
script -qec "$ARCHIPELAGO import r v" /dev/null > out
grep -q 'import v  \[=*>* *\] *[0-9]*%' out
script -qec "$ARCHIPELAGO import --quiet r w" /dev/null > out
equal "$(cat out)" ""
