#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Stores that aren't there, or are something else.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 512 /dev/zero > r
for command in list "info v" "map v" du "resize v 1M" "remove v" status \
    "export v out"; do
    # shellcheck disable=SC2086
    expect_code 3 a $command --store "dir:$temporary/none"
    said "$temporary/none"
done
expect_code 3 a create v 1M --store "dir:$temporary/none"
expect_code 3 a import r v --store "dir:$temporary/none"
[ ! -e none ]
mkdir full
echo text > full/file
for command in "create v 1M" "import r v"; do
    code=0
    # shellcheck disable=SC2086
    a $command --store "dir:$temporary/full" 2> err || code=$?
    [ "$code" != 0 ] || fail "made a store where there is something else"
    said "$temporary/full"
done
equal "$(ls -A full)" file
expect_code 3 a list --store "dir:$temporary/store"
equal "$(ls -A store)" ""
expect_code 2 a list --store "$temporary/store"
said "\"dir:$temporary/store\""
expect_code 2 a list --store nonsense:x
expect_code 3 a list --store word
said archipelago.conf
