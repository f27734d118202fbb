#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: to pipes; one that breaks is an error, not a death.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires script
make_sparse s
a import s v
a export v - > out
cmp out s
a export v - --json | cmp - s
mkfifo pipe
cmp pipe s &
a export v pipe
wait $!
code=0
{ a export v - 2> err || echo $? > code; } | head -c 10000 > out
equal "$(cat code)" 1
said "went away"
code=0
a export v - > /dev/full 2> err || code=$?
equal "$code" 7
a export v /dev/null
code=0
script -qec "$ARCHIPELAGO export v -" out || code=$?
equal "$code" 2
grep -q terminal out
expect_code 2 a export v - --format qcow2
