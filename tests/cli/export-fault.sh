#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: the store's Nth operation fails, for each N.  Either there is all of
# the file, or nothing, also under another name.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 200192 /dev/urandom > r
a import r v --object-size 64K
failures=0
for ((n = 1, in_a_row = 0; in_a_row < 5; n++)); do
    code=0
    a export v out --store "fault:op=any,nth=$n:$ARCHIPELAGO_STORE" \
        2> err || code=$?
    if [ "$code" = 0 ]; then
        in_a_row=$((in_a_row + 1))
        cmp out r
        rm out
        continue
    fi
    in_a_row=0
    failures=$((failures + 1))
    equal "$code" 1
    [ -s err ]
    equal "$(find . -name 'out*')" ""
    [ "$n" -lt 200 ] || fail "no end of operations that fail"
done
below 3 "$failures"
