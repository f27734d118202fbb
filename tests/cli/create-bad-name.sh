#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# create: names that can't be, each with exit code 2.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

long=$(printf 'x%.0s' {1..129})
head -c 512 /dev/zero > r
a create "${long%x}" 512
for name in "" / a/b .. . ../x .hidden a@b -- "a b" ä "$long" $'a\nb'; do
    expect_code 2 a create -- "$name" 1M
done
expect_code 2 a create -x 1M
for name in a/b .. a@b ""; do
    expect_code 2 a info "$name"
    expect_code 2 a map "$name"
    expect_code 2 a du "$name"
    expect_code 2 a resize "$name" 1M
    expect_code 2 a remove "$name"
    expect_code 2 a remove --dry-run "$name"
    expect_code 2 a export "$name" out
    expect_code 2 a import r "$name"
done
equal "$(names)" "${long%x} "
[ ! -e out ]
