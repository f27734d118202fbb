#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The property test must pass against a right library and fail against each of
# these wrong ones (mock.c), saying the seed and why.
#   mock_test.sh MOCKED-PROPERTY-TEST
set -u
mocked=$1
seed=${ARCHIPELAGO_SEED:-1}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

run() {
    MOCK_BUG=$1 "$mocked" --store memory:mock --size 2097664 --seconds 0 \
        --rounds 60 --ops 120 --seed "$2" "${@:3}" >"$output" 2>&1
}

for mode in "" --threads; do
    if ! run none "$seed" $mode; then
        cat "$output"
        echo "fails without a bug"
        exit 1
    fi
done
for bug in lost-neighbour zeroed-neighbour discard-wide discard-end \
           discard-nothing stale-read shrink-keeps shrink-keeps-tail \
           extents-lie copy-rounds zeroes-short grow-exact lost-at-close twice
do
    for again in 1 2 3 4; do
        run $bug $((seed + again)) || break
    done
    if ! grep -q "^seed [0-9]*, round" "$output"; then
        cat "$output"
        echo "$bug: not found with seeds from $seed"
        exit 1
    fi
    echo "$bug: $(grep '^FAILED' "$output")"
done
