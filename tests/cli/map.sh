#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# map: extents, in order and without gaps.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

a create empty 5G
equal "$(a map empty --json | json 'j')" "[{'start': 0, 'length': 5368709120, \
'data': False, 'zero': True, 'shared': False}]"
make_sparse s
a import s v
a map v --json > out
"$python" - << 'END'
import json
extents = json.load(open("out"))
at = 0
for e in extents:
    assert e["start"] == at and e["length"] > 0, e
    at += e["length"]
assert at == 64 << 20, at
kinds = [(e["data"], e["zero"], e["shared"]) for e in extents]
assert all(a != b for a, b in zip(kinds, kinds[1:])), "neighbours alike"
def is_data(offset):
    return any(e["data"] and e["start"] <= offset < e["start"] + e["length"]
               for e in extents)
assert is_data(5000001) and is_data(30000004) and is_data((40 << 20) + 2999999)
assert not is_data(0) and not is_data((64 << 20) - 1)
END
a map v > out
equal "$(head -n1 out | tr -s ' ')" "OFFSET LENGTH KIND SHARED"
grep -Eq '^0x0 +.* hole$' out
grep -Eq '^0x[0-9a-f]+ +.* data$' out
equal "$(a map v --bytes | awk 'NR > 1 {sum += $2} END {print sum}')" \
    $((64 << 20))
expect_code 3 a map none
