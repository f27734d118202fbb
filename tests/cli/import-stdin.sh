#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: from a pipe, of known and unknown length.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 3333333 /dev/urandom > r
# In small, slow pieces.
{ head -c 1000 r; sleep 0.2; tail -c +1001 r; } | a import - v 2> err
said 3333632
truncate -s 3333632 r
a export v - | cmp - r
a import - w --size 4M < r
truncate -s 4M r
a export w - | cmp - r
expect_code 1 a import - x --size 1M < r
said longer
# Only zeroes: all of it is a hole, and the length is right all the same.
head -c 9000000 /dev/zero | a import - zeroes 2> err
equal "$(a info zeroes --json | json 'j["size_bytes"]')" 9000448
equal "$(allocated zeroes)" 0
mkfifo pipe
cat r > pipe &
a import pipe from-fifo
a export from-fifo - | cmp - r
expect_code 2 a import - x --format qcow2 < r
equal "$(names)" "from-fifo v w zeroes "
