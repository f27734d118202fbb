#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# metadata export and import: lost maps and names come back.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 9M /dev/urandom > r
a import r one
a create two 5M
hold two
a metadata export saved
a metadata export - | cmp - saved
expect_code 4 a metadata export saved
said --force
a metadata export --force saved one two
expect_code 3 a metadata export --force part one nobody
said nobody
end_process "$holder"
expect_code 4 a metadata import saved
said "there already"
expect_code 2 a metadata saved saved
expect_code 2 a metadata export saved --dry-run
expect_code 3 a metadata import nothing

rm -r store/maps store/names
mkdir store/maps store/names
expect_code 6 a metadata import r
said "isn't a metadata file"
equal "$(a metadata import --dry-run saved)" "would bring back one
would bring back two"
equal "$(names)" ""
tail -c +1 saved | a metadata import - one
equal "$(names)" "one "
a export one - | cmp - r
a metadata import saved --json two | json 'j["volumes"][0]["name"]' > out
equal "$(cat out)" two
a check > out

# Without an object only when told; the volume then says so where it is read.
rm -r store/maps store/names
mkdir store/maps store/names
rm "$(find store/blocks -type f | sort | head -n 1)"
expect_code 6 a metadata import saved
said --force "aren't there"
equal "$(names)" "two "
a metadata import --force saved one 2> err
said "1 objects are missing"
equal "$(names)" "one two "
code=0
a check > out || code=$?
equal "$code" 6
