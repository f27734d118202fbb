#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: the store's Nth operation fails, for each N.  Either all is well all
# the same, or the volume is gone again; nothing is ever left half made.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 100352 /dev/urandom > r
failures=0
for ((n = 1, in_a_row = 0; in_a_row < 5; n++)); do
    code=0
    a import r v --object-size 64K 2> err \
        --store "fault:op=any,nth=$n:$ARCHIPELAGO_STORE" || code=$?
    if [ "$code" = 0 ]; then
        in_a_row=$((in_a_row + 1))
        a export v - | cmp - r
        a remove v
        continue
    fi
    in_a_row=0
    failures=$((failures + 1))
    equal "$code" 1
    [ -s err ]
    equal "$(names)" ""
    [ "$n" -lt 200 ] || fail "no end of operations that fail"
done
below 10 "$failures"
# A lock without a volume may stay where not even an intent could be written.
equal "$(find store/blocks store/maps store/intents -type f ! -name lock)" ""
