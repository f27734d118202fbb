#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# info: what people and programs are told.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

a create v 3M --object-size 1M -d 'for tests'
a info v > out
grep -Eq '^Name: +v$' out
grep -Eq '^Description: +for tests$' out
grep -Eq '^Size: +3\.0 MiB \(3145728 bytes\)$' out
grep -Eq '^Object size: +1\.0 MiB ' out
grep -Eq '^Open by: +nobody$' out
a info v --bytes | grep -Eq '^Size: +3145728$'
a info v --json > out
equal "$(json 'sorted(j)' < out)" "['block_bytes', 'clean', 'created', \
'description', 'generation', 'holder', 'id', 'name', 'object_bytes', \
'object_count', 'protected', 'readonly', 'size_bytes', 'store']"
equal "$(json 'len(j["id"]), j["block_bytes"], j["object_count"]' < out)" \
    "(32, 4096, 0)"
json '__import__("datetime").datetime.strptime(j["created"],
    "%Y-%m-%dT%H:%M:%SZ")' < out
expect_code 3 a info none
said none
expect_code 2 a info
