#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every function that the library exports has its place in the fault loop.
#
#   complete_test.sh FAULT-LOOP LIBRARY
set -euo pipefail

exported=$(nm -D --defined-only "$2" | awk '$2 == "T" { sub(/@.*/, "", $3)
                                                        print $3 }' | sort -u)
tested=$("$1" --list | sort -u)
[ -n "$exported" ] || { echo "$2 exports nothing" >&2; exit 1; }
if [ "$exported" != "$tested" ]; then
    echo "no fault loop (<), or no such function (>):" >&2
    diff <(echo "$exported") <(echo "$tested") >&2 || exit 1
fi
