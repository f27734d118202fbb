#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# check --repair and metadata import, killed at any moment: begun again, they
# end well, and no volume lost a byte.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 3M /dev/urandom > r
for name in one two three; do
    a import --object-size 64K r "$name"
done
a metadata export saved
mv store whole

# Run COMMAND... and kill it after some milliseconds.
killed()
{
    local process

    "$ARCHIPELAGO" "$@" > out 2>&1 &
    process=$!
    sleep "0.0$((RANDOM % 50 + 10))"
    kill -9 "$process" 2> /dev/null || :
    wait "$process" 2> /dev/null || :
}

# What is wrong in a copy of the store: things left over, wrong names.
damage()
{
    local layer

    rm -rf store
    cp -a --sparse=always whole store
    for layer in store/blocks/*/*; do
        cp "$layer/000/0" "$layer/000/300"
        cp "$layer/000/0" "$layer/000/301"
        truncate -s 200K "$layer/000/5"
    done
    cp -a "$layer" store/blocks/"$(basename "$(dirname "$layer")")/${1}"
    touch store/junk store/names/.new-x
    cp store/names/two store/names/other
    rm store/names/three
    for lock in store/maps/*/*/lock; do
        head -c 1024 /dev/zero | tr '\0' x > "$lock"
    done
}

same()
{
    a export one - | cmp - r
    a export two - 2> /dev/null | cmp - r || a export other - | cmp - r
}

for ((round = 0; round < 12; round++)); do
    damage "$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')"
    for ((kill = 0; kill < 3; kill++)); do
        killed check --repair
    done
    code=0
    a check --repair > out || code=$?
    [ "$code" = 9 ] || [ "$code" = 0 ] || fail "$code: $(cat out)"
    a check > out || fail "$(cat out)"
    same

    rm -rf store/maps store/names
    mkdir store/maps store/names
    for ((kill = 0; kill < 3; kill++)); do
        killed metadata import --overwrite saved
    done
    a metadata import --overwrite saved > out
    a check --repair > out || [ $? = 9 ]
    a check > out || fail "$(cat out)"
    for name in one two three; do
        a export "$name" - | cmp - r
    done
done
