#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Room: watermarks, inodes, over-commitment, in text and JSON.
# It mounts in a mount namespace of its own.
if [ "$(id -u)" = 0 ] && [ -z "${STORE_SPACE_UNSHARED:-}" ]; then
    STORE_SPACE_UNSHARED=1 exec unshare --mount "$0"
fi
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires_root

# level WHERE: of the space, as status and info have it.
level()
{
    local of_status of_info

    of_status=$(a status --store "$1" --json | json 'j["space"]')
    of_info=$(a info v --store "$1" --json | json 'j["store"]["space"]')
    equal "$of_status" "$of_info"
    echo "$of_status"
}

mkdir small
mount -t tmpfs -o size=20M,nr_inodes=100 none small
cleanup_fn umount "$temporary/small"
mkdir small/store
export ARCHIPELAGO_STORE=dir:$temporary/small/store
a create v 8M 2> noted
grep archipelago noted && fail "there is nothing to be noted"
a status | grep -q '^Reserve: *1\.0 MiB for metadata$'
a status | grep -q '^Volumes: *1, of 8\.0 MiB together$'
a info v --json > out
equal "$(json 'j["store"]["reserve_bytes"], j["store"]["volume_count"],
    j["store"]["size_bytes"], j["store"]["overcommit_percent"],
    j["store"]["file_count"]' < out)" "(1048576, 1, 8388608, 40, 100)"
equal "$(level "$ARCHIPELAGO_STORE")" ok
# Watermarks: those by default, and others.
fallocate -l 15900K small/filler
equal "$(level "$ARCHIPELAGO_STORE")" warning
a status | grep -q '^Warning: *8[0-9] % of the space is in use, a warning from 80 %'
equal "$(level "$ARCHIPELAGO_STORE?warning=99&critical=100")" ok
equal "$(level "$ARCHIPELAGO_STORE?critical=60")" critical
cat > conf << END
[small]
location = $ARCHIPELAGO_STORE
warning = 50
critical = 82
END
equal "$(ARCHIPELAGO_CONF=conf level small)" critical
ARCHIPELAGO_CONF=conf a info v --store small |
    grep -q '^Warning: .* critical from 82 %$'
expect_code 2 a status --store "$ARCHIPELAGO_STORE?warning=101"
said warning
fallocate -l 18500K small/filler
equal "$(level "$ARCHIPELAGO_STORE")" critical
# More promised than there is.
a create w 25M --json > out 2> err
said over-committed "33.0 MiB" "20.0 MiB" "critical from 95 %"
equal "$(json 'j["name"], j["store"]["overcommit_percent"],
    len(j["store"]["warnings"])' < out)" "('w', 165, 1)"
a status | grep -q '^Volumes: *2, of 33\.0 MiB together, 1\.6 times'
a remove w
rm small/filler
# Inodes.
for ((i = 0; i < 70; i++)); do
    : > "small/lost.$i"
done
equal "$(level "$ARCHIPELAGO_STORE")" warning
a status | grep -q '^Warning: .*inodes are in use'
# No reserve, and none made by looking.
rm small/store/reserve small/lost.*
a status | grep -q '^Reserve: *none yet of 1\.0 MiB'
equal "$(a status --json | json 'j["reserve_bytes"]')" 0
a resize v +512
equal "$(a status --json | json 'j["reserve_bytes"]')" 1048576
