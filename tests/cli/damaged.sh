#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A corrupt header: exit code 6 and a clear text, others unharmed.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 1M /dev/urandom > r
a import r good
a import r bad
id=$(a info bad --json | json 'j["id"]')
header=store/maps/${id:0:2}/$id/header
test -s "$header"
printf '\xff\x00\xff\x00' |
    dd of="$header" bs=1 seek=40 conv=notrunc status=none
for command in "info bad" "map bad" "du bad" "resize bad 2M" "export bad out" \
    "import --existing r bad"; do
    # shellcheck disable=SC2086
    expect_code 6 a $command > out.text
    said bad header
done
[ ! -e out ]
expect_code 6 a list > out.text
grep -Eq '^bad .*damaged' out.text
grep -Eq '^good ' out.text
expect_code 6 a list --json > out.text
equal "$(json '[(v["name"], v["error"] is None) for v in j["volumes"]]' \
    < out.text)" "[('bad', False), ('good', True)]"
expect_code 6 a status --json > out.text
equal "$(json 'j["volume_count"], j["damaged_count"]' < out.text)" "(2, 1)"
expect_code 6 a du good bad --json > out.text
equal "$(json 'len(j["volumes"])' < out.text)" 1
a export good - | cmp - r
# It can still be removed, for good.
equal "$(a remove --dry-run bad)" "would remove bad"
a remove bad
equal "$(names)" "good "
equal "$(a status --json | json 'j["volume_count"]')" 1
