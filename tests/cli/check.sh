#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check: exit codes, what it prints, --dry-run, --json, some volumes only.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 9M /dev/urandom > r
a import r one
a import r two
equal "$(a check)" "2 volumes (0 in use), 6 objects, 2 map pages: nothing wrong"
equal "$(a check one --json | json 'j["findings"], j["summary"]["volume_count"]')" \
    "([], 1)"
expect_code 3 a check nobody
said nobody
expect_code 2 a check /

# Something left over: found, not touched; then mended.
layer=$(basename "$(dirname "$(dirname "$(find store/blocks -type f |
    sort | head -n 1)")")")
folder=store/blocks/${layer:0:2}/$layer/000
cp "$folder/0" "$folder/20"
touch store/junk
code=0
a check --repair --dry-run > out || code=$?
equal "$code" 8
grep -q '^leak object-orphan .*, block object 32 of layer .*would remove it' out
grep -q '^leak stray junk: .*would set it aside' out
[ -e "$folder/20" ] && [ -e store/junk ] && [ ! -e store/set-aside ]
code=0
a check --repair --json > out || code=$?
equal "$code" 9
equal "$(json 'sorted((f["code"], f["severity"], f["outcome"]) for f in
    j["findings"])' < out)" \
    "[('object-orphan', 'leak', 'repaired'), ('stray', 'leak', 'repaired')]"
[ ! -e "$folder/20" ] && [ -e store/set-aside/junk ]
a check > out

# Damage that nothing mends.
rm "$folder/1"
for options in "" --repair; do
    code=0
    # shellcheck disable=SC2086
    a check $options > out || code=$?
    equal "$code" 6
    grep -Eq '^damage object-missing (one|two), .*\[kept: ' out
done

# In use: nothing is said of what is on its way.
hold one
a check > out || :
grep -q '2 volumes (1 in use)' out
