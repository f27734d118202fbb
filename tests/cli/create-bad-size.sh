#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# create: sizes that can't be, each with exit code 2.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

for size in "" x 1X 1KB 10GG 1.5G 513 1023 0x200 1Pi -5 +5 \
    99999999999999999999 16E 17000000T 1125899906843136 2P; do
    expect_code 2 a create v -- "$size"
done
for size in 0 1 4095 32K 65537 3M 128M 4G x; do
    expect_code 2 a create v 1M --object-size "$size"
done
expect_code 2 a create v 1M --description "$(printf 'x%.0s' {1..256})"
expect_code 2 a create v
expect_code 2 a create
expect_code 2 a create v 1M more
expect_code 2 a create v 1M --nonsense
equal "$(names)" ""
