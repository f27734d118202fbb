#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: raw files, sparse, dense, and of odd length.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

make_sparse s
a import s v
a export v - | cmp - s
below "$(allocated v)" "$sparse_bytes_max"
equal "$(a import s w --json | json 'j["name"], j["size_bytes"],
    j["source_bytes"], j["data_bytes"] < 8 << 20')" \
    "('w', 67108864, 67108864, True)"
head -c 5000001 /dev/urandom > odd
a import odd odd --object-size 64K -d odd 2> err
said 191 5000192
equal "$(a info odd --json | json 'j["size_bytes"], j["object_bytes"],
    j["description"]')" "(5000192, 65536, 'odd')"
truncate -s 5000192 odd
a export odd - | cmp - odd
a import odd larger --size 8M
truncate -s 8M odd
a export larger - | cmp - odd
expect_code 2 a import odd small --size 1M
expect_code 4 a import odd v
expect_code 1 a import none x
expect_code 1 a import . x
expect_code 2 a import odd x --size 8M --object-size 3M
equal "$(names)" "larger odd v w "
