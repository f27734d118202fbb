#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import --existing: all of the volume is replaced.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 8M /dev/urandom > r
a import r v --size 12M
a resize v 12M
make_sparse s
truncate -s 6M s
a import s v --existing
truncate -s 12M s
a export v - | cmp - s
expect_code 3 a import s none --existing
truncate -s 13M s
expect_code 1 a import s v --existing
said resize
expect_code 2 a import s v --existing --size 20M
equal "$(names)" "v "
