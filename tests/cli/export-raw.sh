#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: to a file, whole or not at all.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

make_sparse s
a import s v
umask 027
a export v out
cmp out s
equal "$(stat -c %a out)" 640
below "$(file_allocated out)" "$sparse_bytes_max"
echo old > kept
expect_code 4 a export v kept
said kept --force
equal "$(cat kept)" old
chmod 604 kept
ln -s kept link
equal "$(a export v link --force --json | json 'j["name"], j["size_bytes"],
    j["data_bytes"] < 8 << 20')" "('v', 67108864, True)"
cmp kept s
test -L link
equal "$(stat -c %a kept)" 604
expect_code 1 a export v none/out
expect_code 1 a export v .
expect_code 3 a export none new
a create zeroes 3M
a export zeroes z
equal "$(stat -c %s z)" 3145728
equal "$(file_allocated z)" 0
equal "$(find . -name '*.part-*')" ""
