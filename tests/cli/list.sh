#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# list: columns, patterns, names, and JSON.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

expect_code 3 a list
said "$temporary/store"
a create vm-2 1G -d $'tab\there \e[31m'
a create vm-1 1536
a create other 2M
equal "$(names)" "other vm-1 vm-2 "
equal "$(a list 'vm-*' --names | tr '\n' ' ')" "vm-1 vm-2 "
equal "$(a list nothing --names)" ""
a list > out
equal "$(head -n1 out | tr -s ' ')" "NAME SIZE CREATED STATE DESCRIPTION"
grep -Eq '^vm-2 +1\.0 GiB +20' out
grep -Eq '^vm-1 +1\.5 KiB' out
grep -q 'tab?here ?\[31m$' out
if grep -q ' $' out; then fail "blanks at the end of a line"; fi
a list --bytes | grep -Eq '^vm-2 +1073741824 '
equal "$(a list --json | json '[v["name"] for v in j["volumes"]]')" \
    "['other', 'vm-1', 'vm-2']"
equal "$(a list --json vm-2 | json '[(v["size_bytes"], v["error"],
    v["description"]) for v in j["volumes"]]')" \
    "[(1073741824, None, 'tab\\there \\x1b[31m')]"
expect_code 2 a list one two
