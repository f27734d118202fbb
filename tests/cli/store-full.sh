#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A full file system: exit code 7, and no volume is left half made.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires unshare
requires_root
head -c 40M /dev/urandom > r
export -f a expect_code said fail equal names json allocated
export python temporary
unshare -m bash -eu -c '
    shopt -s inherit_errexit
    mount -t tmpfs -o size=24M none "$temporary/store"
    head -c 4M r > small
    a import small v
    expect_code 7 a import r w
    expect_code 7 a import - w < r
    equal "$(names)" "v "
    a export v - | cmp - small
    a import small again
    mkdir tiny
    mount -t tmpfs -o size=2M none "$temporary/tiny"
    expect_code 7 a export v tiny/out
    equal "$(ls -A tiny)" ""
'
