#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# du: what volumes take, and the sum.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 3M /dev/urandom > r
a import r full
a create empty 1G
a du --json > out
equal "$(json '[v["name"] for v in j["volumes"]]' < out)" "['empty', 'full']"
"$python" - << 'END'
import json
j = json.load(open("out"))
empty, full = j["volumes"]
assert full["size_bytes"] == 3 << 20
assert 3 << 20 <= full["allocated_bytes"] <= 5 << 20, full
assert full["exclusive_bytes"] == full["allocated_bytes"]
assert full["object_count"] == 1 and full["metadata_bytes"] > 0
assert empty["allocated_bytes"] == 0 and empty["size_bytes"] == 1 << 30
for key in j["total"]:
    assert j["total"][key] == empty[key] + full[key], key
END
a du full > out
equal "$(wc -l < out)" 2
a du | grep -Eq '^total +1\.0 GiB'
a du -b full empty | grep -Eq '^full +3145728 +[0-9]+'
expect_code 3 a du full none empty
said none
