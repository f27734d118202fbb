#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A volume open elsewhere: read, not changed; free once its holder died.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

a create v 4M
head -c 512 /dev/zero > r
hold v
equal "$(a info v --json | json 'j["holder"]["pid"], j["holder"]["owner"],
    j["holder"]["host"]')" "($holder, 'hold-volume', '$(uname -n)')"
a info v | grep -q "process $holder"
a map v > out
a du v > out
for command in "remove v" "remove --dry-run v" "resize v 8M" \
    "import --existing r v"; do
    # shellcheck disable=SC2086
    expect_code 5 a $command
    said hold-volume "$holder"
done
expect_code 1 "$HOLD_VOLUME" "$ARCHIPELAGO_STORE" v
said hold-volume "$holder"
a export v out.raw 2> err
said warning hold-volume "$holder"
kill -9 "$holder"
wait "$holder" 2> err || :
equal "$(a info v --json | json 'j["holder"]')" None
a resize v 8M
a remove v
