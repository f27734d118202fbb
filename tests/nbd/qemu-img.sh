#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The NBD tools that people use, against the plugin: nbdinfo, nbdcopy, qemu-img,
# nbdkit's filters, over a Unix socket and over TCP.  Each case has a volume of
# its own; what was written is read back by another tool.
set -eEu -o pipefail
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR

requires() {
    command -v "$1" > /dev/null || { echo "SKIP: no $1 (Debian: $2)"; exit 77; }
}
requires nbdkit nbdkit
requires nbdinfo libnbd-bin
requires nbdcopy libnbd-bin
requires qemu-img qemu-utils

directory=$(mktemp -d -t archipelago-nbd-XXXXXX)
mkdir "$directory/store"
store=dir:$directory/store
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2> /dev/null || true; done
    rm -rf "$directory"
}
trap cleanup EXIT

size=$((64 << 20))
create() {
    "$VOLUME_TOOL" create "$store" "$1" "${2:-$size}" 0 "${3:-}"
}

# serving COMMAND ARGUMENT...: run the command, with $uri and $unixsocket set,
# while an nbdkit with these arguments runs for it.
serving() {
    local command=$1
    shift
    LD_PRELOAD=${NBDKIT_PRELOAD:-} nbdkit -U - "$@" \
        --run "unset LD_PRELOAD; $command"
}
# with VOLUME COMMAND: the same with a server of one volume.
with() {
    serving "$2" "$NBDKIT_PLUGIN" store="$store" volume="$1"
}

# Data, holes and data, 64 MiB, the same each time.
image=$directory/image
truncate -s $size "$image"
for at in 0 5 6 21 63; do
    head -c $((700 << 10)) /dev/urandom |
        dd of="$image" bs=64K seek=$((at * 16)) conv=notrunc iflag=fullblock \
            status=none
done

case_info() {
    create info $size 'for looking at'
    with info 'nbdinfo --json $uri' > "$directory/json"
    /usr/bin/python3 - "$directory/json" $size << 'END'
import json, sys
export = json.load(open(sys.argv[1]))["exports"][0]
expected = {"export-size": int(sys.argv[2]), "is_read_only": False,
            "can_fua": True, "can_flush": True, "can_trim": True,
            "can_zero": True, "can_fast_zero": True, "can_cache": True,
            "can_multi_conn": True, "is_rotational": False,
            "block_size_minimum": 1, "block_size_preferred": 4096,
            "block_size_maximum": 32 << 20, "contexts": ["base:allocation"],
            "description": "64 MiB: for looking at"}
wrong = {key: export.get(key) for key in expected
         if export.get(key) != expected[key]}
assert not wrong, wrong
END
    test "$(with info 'nbdinfo --size $uri')" = $size
    with info 'nbdinfo --can multi-conn $uri'
}

case_list() {
    create list-a $((1 << 20)) first
    create list-b $((2 << 20))
    serving 'nbdinfo --list $uri' "$NBDKIT_PLUGIN" store="$store" \
        > "$directory/list"
    grep -q 'export="list-a":' "$directory/list"
    grep -q 'description: 1 MiB: first' "$directory/list"
    grep -q 'export="list-b":' "$directory/list"
    grep -q 'export-size: 2097152 (2M)' "$directory/list"
}

# What nbdcopy brings in, qemu-img finds equal; what was sparse stays so.
case_copy_in() {
    create in
    with in "nbdcopy --flush $image \$uri && nbdinfo --map --totals \$uri" \
        > "$directory/map"
    with in "qemu-img compare -f raw -F raw $image \$uri"
    awk '$NF == "hole,zero" && $1 > 40 * 2^20 { sparse = 1 }
         END { exit !sparse }' "$directory/map"
}

case_copy_out() {
    create out
    with out "qemu-img convert -n -f raw -O raw $image \$uri"
    with out "nbdcopy \$uri $directory/copy"
    cmp "$image" "$directory/copy"
    test "$(du -k "$directory/copy" | cut -f1)" -lt $((40 << 10))
    rm "$directory/copy"
}

case_map() {
    create map
    with map "nbdcopy $image \$uri && nbdinfo --map \$uri" > "$directory/map"
    with map 'qemu-img map --output=json $uri' > "$directory/qemu-map"
    /usr/bin/python3 - "$directory/map" "$directory/qemu-map" $size << 'END'
import json, sys
def joined(pieces):
    result = []
    for length, kind in pieces:
        if result and result[-1][1] == kind:
            length += result.pop()[0]
        result.append((length, kind))
    return result
lines = [line.split() for line in open(sys.argv[1])]
nbd = joined((int(line[1]), line[3] == "data") for line in lines)
qemu = joined((piece["length"], piece["data"])
              for piece in json.load(open(sys.argv[2])))
assert nbd == qemu, (nbd, qemu)
assert sum(length for length, data in nbd) == int(sys.argv[3])
assert len(nbd) > 6 and not nbd[-1][1]
END
}

case_qcow2_over_nbd() {
    create qcow2
    qemu-img convert -f raw -O qcow2 "$image" "$directory/q.qcow2"
    with qcow2 "qemu-img convert -n -W -f qcow2 -O raw $directory/q.qcow2 \$uri"
    with qcow2 "qemu-img compare -f raw -F raw $image \$uri"
    rm "$directory/q.qcow2"
}

case_between_volumes() {
    create from
    create to
    with from "nbdcopy $image \$uri"
    serving 'nbdcopy "nbd+unix:///from?socket=$unixsocket" \
                     "nbd+unix:///to?socket=$unixsocket"' \
        "$NBDKIT_PLUGIN" store="$store"
    with to "qemu-img compare -f raw -F raw $image \$uri"
}

case_filter_cow() {
    create cow
    with cow "nbdcopy --flush $image \$uri"
    serving '/usr/bin/python3 -m nbd -u $uri -c "h.pwrite(b\"other\", 0)" \
                 -c "assert h.pread(5, 0) == b\"other\""' \
        --filter=cow "$NBDKIT_PLUGIN" store="$store" cow
    with cow "qemu-img compare -f raw -F raw $image \$uri"
}

case_filter_offset() {
    create part
    with part "nbdcopy $image \$uri"
    serving "nbdcopy \$uri $directory/part" --filter=offset "$NBDKIT_PLUGIN" \
        store="$store" part offset=5M range=1M
    cmp -n $((1 << 20)) -i $((5 << 20)):0 "$image" "$directory/part"
    test "$(stat -c %s "$directory/part")" = $((1 << 20))
}

# A port that was free a moment ago; tried again if somebody took it.
case_tcp() {
    local port pid tries
    create tcp
    for tries in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 10000))
        LD_PRELOAD=${NBDKIT_PRELOAD:-} nbdkit -f -p $port -i 127.0.0.1 \
            "$NBDKIT_PLUGIN" store="$store" volume=tcp \
            2> "$directory/tcp.log" &
        pid=$!
        pids+=($pid)
        for _ in $(seq 200); do
            kill -0 $pid 2> /dev/null || break
            nbdinfo --size nbd://127.0.0.1:$port > /dev/null 2>&1 && break 2
            sleep 0.05
        done
    done
    nbdcopy "$image" nbd://127.0.0.1:$port
    qemu-img compare -f raw -F raw "$image" nbd://127.0.0.1:$port
    tcp_is_prompt $port
    kill -TERM $pid
    wait $pid
}

# With Nagle's algorithm on, a reply in two pieces waits for a delayed ACK of
# 40 ms; QEMU's client, many requests in flight, is who suffers.
tcp_is_prompt() {
    local began ended
    began=$(date +%s%N)
    qemu-img bench -f raw -t none -d 16 -c 2000 -s 4096 -S 4096 -w \
        nbd://127.0.0.1:$1 > /dev/null
    qemu-img bench -f raw -t none -d 16 -c 2000 -s 4096 -S 4096 \
        nbd://127.0.0.1:$1 > /dev/null
    ended=$(date +%s%N)
    test $(((ended - began) / 1000000)) -lt 5000
}

for name in $(compgen -A function case_); do
    echo "${name#case_}"
    $name
done
