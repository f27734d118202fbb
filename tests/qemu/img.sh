#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# qemu-img on volumes: every subcommand that reads or writes data.
. "$(dirname "$0")/functions.sh"

# A sparse disk: data at the start, in the middle unaligned, and at the end.
disk=$work/disk.raw
truncate -s 40M "$disk"
random "$disk" 3000
random "$disk" 77 9001
random "$disk" 512 $((40 * 1024 - 512))

### create, info
img create -q -f raw -o object_size=256K archipelago:a 40M
says 'virtual size: 40 MiB (41943040 bytes)' img info archipelago:a
says '"filename": "archipelago:a"' img info --output=json archipelago:a
[ "$("$volume" size a)" = 41943040 ] || fail "wrong size"
says 'object_size' img create -f raw -o help archipelago:a
fails_with 'a' img create -q -f raw archipelago:a 40M
fails_with 'object' img create -q -f raw -o object_size=100K archipelago:b 1M
fails_with 'maximum' img create -q -f raw archipelago:b 2P
fails_with 'name' img create -q -f raw archipelago:../b 1M
fails_with 'name' img create -q -f raw archipelago: 1M
fails_with 'no snapshots' img info archipelago:a@yesterday
fails_with 'none' img info archipelago:none
fails_with 'store' img info \
    --image-opts "driver=archipelago,volume=a,store=dir:$work/missing"
img create -q -f raw archipelago:odd 1000
[ "$("$volume" size odd)" = 1024 ] || fail "not rounded up to 512"

### convert in and out, compare, map
img convert -q -n -f raw -O raw "$disk" archipelago:a
same a "$disk"
says 'Images are identical' img compare -f raw -F raw archipelago:a "$disk"
img convert -q -f raw -O qcow2 archipelago:a "$work/a.qcow2"
says 'No errors' img check "$work/a.qcow2"
img convert -q -f qcow2 -O raw "$work/a.qcow2" archipelago:fromqcow2
same fromqcow2 "$disk"
img convert -q -W -m 8 -f raw -O raw archipelago:fromqcow2 "$work/back.raw"
cmp "$disk" "$work/back.raw"
img convert -q -C -f raw -O raw archipelago:a archipelago:copied
same copied "$disk"

# Sparse stays sparse: what converting left out takes no space.
img map --output=json -f raw archipelago:fromqcow2 |
    /usr/bin/python3 -c '
import json, sys
extents = json.load(sys.stdin)
data = sum(e["length"] for e in extents if e["data"])
assert sum(e["length"] for e in extents) == 40 << 20, extents
assert 3589 << 10 <= data <= 6 << 20, (data, extents)
assert all(e["zero"] for e in extents if not e["data"]), extents'
says '0x' img map -f raw archipelago:fromqcow2
allocated=$(img info --output=json archipelago:fromqcow2 |
            sed -n 's/.*"actual-size": \([0-9]*\).*/\1/p' | head -n 1)
[ "$allocated" -gt 3000000 ] && [ "$allocated" -lt 8000000 ] ||
    fail "allocated: $allocated"

### the store in the options, and what such a file is called
store2=dir:$work/store2
mkdir "$work/store2"
ARCHIPELAGO_STORE=$store2 "$volume" init
ARCHIPELAGO_STORE=$store2 img create -q -f raw archipelago:elsewhere 1M
fails_with 'elsewhere' img info archipelago:elsewhere
says 'virtual size: 1 MiB' img info \
    --image-opts "driver=archipelago,volume=elsewhere,store=$store2"
says 'virtual size: 1 MiB' img info "json:{\"driver\": \"archipelago\",
    \"volume\": \"elsewhere\", \"store\": \"$store2\"}"
says "$store2" img info \
    --image-opts "driver=archipelago,volume=elsewhere,store=$store2"

# A format made there would be written over the default store's volume.
img create -q -f raw archipelago:both 1M
io -f raw -c 'write -P 7 0 1M' archipelago:both >"$work/out"
for format in raw qcow2; do
    fails_with 'store' img create -f $format -o "store=$store2" \
        archipelago:both 8M
done
io -f raw -c 'read -P 7 0 1M' archipelago:both >"$work/out"

### resize
img resize -q -f raw archipelago:copied +2M
truncate -s 42M "$work/back.raw"
same copied "$work/back.raw"
fails_with 'shrink' img resize -q -f raw archipelago:copied 5M
img resize -q -f raw --shrink archipelago:copied 5M
img resize -q -f raw archipelago:copied 6M
truncate -s 5M "$work/back.raw"
truncate -s 6M "$work/back.raw"
same copied "$work/back.raw"
img resize -q -f raw --preallocation=falloc archipelago:copied 7M
img resize -q -f raw --preallocation=full archipelago:copied 8M
fails_with 'metadata' img resize -q -f raw --preallocation=metadata \
    archipelago:copied 9M
truncate -s 8M "$work/back.raw"
same copied "$work/back.raw"

### qcow2 on a volume: it grows as it is written
img create -q -f qcow2 archipelago:q 64M
img convert -q -n -f raw -O qcow2 "$disk" archipelago:q
says 'No errors' img check -f qcow2 archipelago:q
img convert -q -f qcow2 -O raw archipelago:q "$work/q.raw"
truncate -s 64M "$disk.64"
dd if="$disk" of="$disk.64" conv=notrunc status=none
cmp "$work/q.raw" "$disk.64"
img snapshot -c one archipelago:q
io -f qcow2 -c 'write -q -P 1 5M 1M' archipelago:q
img snapshot -a one archipelago:q
says 'identical' img compare -f qcow2 -F raw archipelago:q "$disk.64"

### volumes as backing files, by name
img create -q -f qcow2 -b archipelago:a -F raw archipelago:over
says 'backing file: archipelago:a' img info -f qcow2 archipelago:over
io -f qcow2 -c 'write -q -P 7 1M 64K' archipelago:over
img commit -q -f qcow2 archipelago:over
dd if=/dev/zero bs=64K count=1 status=none | tr '\0' '\7' |
    dd of="$disk" bs=64K seek=16 conv=notrunc status=none
same a "$disk"

### measure, bench, dd
says 'required size' img measure -O qcow2 -f raw archipelago:a
img bench -q -c 2000 -d 16 -s 4096 -S 40960 -f raw -t none archipelago:a
same a "$disk"
img bench -q -w -c 2000 -d 16 -s 4096 -S 12288 --pattern=5 \
    --flush-interval=500 -f raw -t none archipelago:odd2 2>/dev/null &&
    fail "bench of what isn't there"
img create -q -f raw archipelago:b 12M
img bench -q -w -c 3000 -d 16 -s 4096 -S 12288 --pattern=5 \
    --flush-interval=500 -f raw -t none archipelago:b
img bench -q -w -c 1024 -d 16 -s 12288 -S 12288 --pattern=5 -f raw \
    archipelago:b
head -c 12582912 /dev/zero | tr '\0' '\5' >"$work/fives"
same b "$work/fives"
img dd -f raw -O raw bs=64K if=archipelago:a "of=$work/dd.raw" >/dev/null
cmp "$work/dd.raw" "$disk"

echo ok
