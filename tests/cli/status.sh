#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# status: the store, and who has what open.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

a create v 1G
a create w 1G
a status --json > out
equal "$(json 'j["driver"], j["volume_count"], j["size_bytes"], j["open"]' \
    < out)" "('dir', 2, 2147483648, [])"
equal "$(json '0 < j["free_bytes"] <= j["total_bytes"]' < out)" True
equal "$(json 'j["io"] != "" and j["alignment_bytes"] > 0' < out)" True
location=$(json 'j["location"]' < out)
equal "$(a list --names --store "$location" | tr '\n' ' ')" "v w "
a status | grep -q '^Open: *none'
hold v
equal "$(a status --json | json '[(o["name"], o["holder"]["pid"],
    o["holder"]["owner"]) for o in j["open"]]')" \
    "[('v', $holder, 'hold-volume')]"
a status | grep -Eq "^v +$holder "
