#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: to NBD servers; old data under holes is zeroed.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires nbdkit
make_sparse s
a import s v
head -c 64M /dev/urandom > target
nbdkit -U - file target --run "'$ARCHIPELAGO' export v \"\$uri\""
cmp target s
# One that knows no zeroes, and is larger.
head -c 65M /dev/urandom > target
tail -c 1M target > rest
nbdkit -U - --filter=nozero file target zeromode=none \
    --run "'$ARCHIPELAGO' export v \"\$uri\""
head -c 64M target | cmp - s
tail -c 1M target | cmp - rest
head -c 1M /dev/zero > small
nbdkit -U - file small --run \
    "'$ARCHIPELAGO' export v \"\$uri\" 2> err; test \$? = 7"
said 1048576
nbdkit -U - -r file target --run \
    "'$ARCHIPELAGO' export v \"\$uri\" 2> err; test \$? = 1"
said NBD
