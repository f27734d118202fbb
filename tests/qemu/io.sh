#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# qemu-io: the same commands on a volume and on a raw file leave the same bytes.
. "$(dirname "$0")/functions.sh"

truncate -s 20M "$work/file"
img create -q -f raw -o object_size=1M archipelago:v 20M

# both OPTIONS... -- COMMAND...
both() {
    local options=() commands=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    for command in "$@"; do
        commands+=(-c "$command")
    done
    io -f raw "${options[@]}" "${commands[@]}" archipelago:v >"$work/v.out" ||
        fail "on the volume: $(cat "$work/v.out")"
    io -f raw "${options[@]}" "${commands[@]}" "$work/file" >"$work/f.out" ||
        fail "on the file: $(cat "$work/f.out")"
    ! grep -il 'failed' "$work/v.out" "$work/f.out" ||
        fail "$(cat "$work/v.out" "$work/f.out")"
    same v "$work/file"
}

### aligned and not, within an object and across
both -- 'write -P 1 0 64K' 'write -P 2 1000K 100K' 'read -P 1 0 64K' \
    'read -P 2 1000K 100K' 'read -P 0 64K 936K'
both -- 'write -P 3 511 3' 'write -P 4 1048575 2' 'write -P 5 4095 8194' \
    'read -P 3 511 3' 'read -P 4 1048575 2' 'read -P 5 4095 8194'
both -n -- 'write -P 6 3M 2M' 'writev -P 7 5M 1000 5000 3 77777' \
    'readv -P 7 5M 500 500 5000 77780'

### FUA and flush
both -- 'write -f -P 8 6M 12345' 'write -P 9 7M 1M' 'flush'
both -- 'write -z -f 6M 100' 'flush'

### zeroes: kept, unmapped, quick ones; discards
both -- 'write -z 3M 1M' 'read -P 0 3M 1M'
both -d unmap -- 'write -z -u 4M 1M' 'read -P 0 4M 1M'
both -- 'write -z 7340033 4095' 'write -z -u 7400000 100001'
both -- 'write -P 10 8M 4M'
io -f raw -d unmap -c 'discard 8M 2M' -c 'read -P 0 8M 2M' \
    -c 'discard 10500000 1000' archipelago:v >"$work/out"
io -f raw -c 'write -z 8M 2M' "$work/file" >"$work/out"
same v "$work/file"
says '8388608' img map --output=json -f raw archipelago:v

### many at once, overlapping too
both -- 'aio_write -P 11 12M 512K' 'aio_write -P 12 13200000 100' \
    'aio_write -P 13 13500000 64K' 'aio_write -z 14M 64K' 'aio_flush' \
    'aio_read -P 0 15M 1M' 'write -P 14 16M 64K'

### past the end: refused to guests, taken from formats
fails_with 'Input/output error' io -f raw -c 'write 20M 512' archipelago:v
io -c "open -o driver=archipelago,volume=v" -c 'truncate 21M' >"$work/out"
truncate -s 21M "$work/file"
same v "$work/file"
both -- 'write -P 15 20M 1M'
both -- 'truncate 22M' 'write -P 16 21M 100K'
both -- 'truncate 21M' 'truncate 23M'

### a name and options that name another volume: neither wins silently
img create -q -f raw archipelago:other 1M
img create -q -f qcow2 -F raw -b archipelago:other archipelago:top
fails_with "contradict the file name" io -c quit --image-opts "driver=qcow2,\
file.driver=archipelago,file.volume=top,\
backing.file.driver=archipelago,backing.file.volume=v"
io -c quit --image-opts "driver=qcow2,file.driver=archipelago,file.volume=top,\
backing.file.driver=archipelago,backing.file.volume=other"

### read-only
fails_with 'read-only' io -r -f raw -c 'write 0 512' archipelago:v
both -- 'reopen -r' 'read -P 15 20M 1M' 'reopen -w' 'write -P 17 0 4K'

echo ok
