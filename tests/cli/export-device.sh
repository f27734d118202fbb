#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: to a block device, old data under holes is zeroed.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires losetup
requires_root
head -c 65M /dev/urandom > disk
loop=$(losetup --find --show disk 2> err) ||
    skip "no loop devices here: $(cat err)"
cleanup_fn losetup -d "$loop"
make_sparse s
a import s v
expect_code 4 a export v "$loop"
a export v "$loop" --force
cmp -n $((64 << 20)) "$loop" s
a import "$loop" w
a export w out
cmp -n $((64 << 20)) out s
a resize v 66M
expect_code 7 a export v "$loop" --force
