#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# nbdinfo [CASE...]: libnbd's nbdinfo in all its modes against the plugin.
# shellcheck disable=SC2016 # $uri is nbdkit's to set
. "$(dirname "$(readlink -f "$0")")/functions.sh"
requires nbdinfo libnbd-bin
requires nbdcopy libnbd-bin
requires qemu-img qemu-utils

make_image

# is_false COMMAND: nbdinfo says no by 2; 1 is an error.
is_false() {
    local status=0
    "$@" || status=$?
    test $status = 2
}

case_text() {
    create text $size 'for reading'
    with text 'nbdinfo $uri' > "$directory/text"
    grep -q 'protocol: newstyle-fixed without TLS' "$directory/text"
    grep -q 'description: 64 MiB: for reading' "$directory/text"
    grep -q 'export-size: 67108864 (64M)' "$directory/text"
    grep -q 'base:allocation' "$directory/text"
}

case_json() {
    create json $size 'for looking at'
    with json 'nbdinfo --json $uri' > "$directory/json"
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
}

case_size() {
    create size
    create odd 1000448
    test "$(with size 'nbdinfo --size $uri')" = $size
    test "$(with odd 'nbdinfo --size $uri')" = 1000448
    test "$(with odd 'nbdinfo --size --json $uri' |
            tr -dc 0-9)" = 1000448
}

case_is() {
    create is
    is_false with is 'nbdinfo --is read-only $uri'
    with is 'nbdinfo --is read-only $uri' -r
    is_false with is 'nbdinfo --is rotational $uri'
    is_false with is 'nbdinfo --is tls $uri'
    with is 'nbdinfo --is structured-reply $uri'
}

case_can() {
    local what
    create can
    for what in cache connect df fast-zero flush fua multi-conn read \
        structured-reply trim write zero; do
        with can "nbdinfo --can $what \$uri"
    done
    for what in fast-zero trim write zero; do
        is_false with can "nbdinfo --can $what \$uri" -r
    done
    for what in cache connect df multi-conn read; do
        with can "nbdinfo --can $what \$uri" -r
    done
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
    serving 'nbdinfo --list --json $uri' "$NBDKIT_PLUGIN" store="$store" \
        > "$directory/list"
    /usr/bin/python3 - "$directory/list" << 'END'
import json, sys
sizes = {export["export-name"]: export["export-size"]
         for export in json.load(open(sys.argv[1]))["exports"]}
assert sizes["list-a"] == 1 << 20 and sizes["list-b"] == 2 << 20, sizes
END
}

case_no_such_export() {
    local status=0
    sanitized && return
    create there
    serving 'nbdinfo --size "nbd+unix:///absent?socket=$unixsocket"' \
        "$NBDKIT_PLUGIN" store="$store" 2> "$directory/errors" || status=$?
    test $status = 1
    grep -q absent "$directory/errors"
}

# What nbdinfo says is where, qemu-img does, too.
case_map() {
    create map
    with map "nbdcopy $image \$uri && nbdinfo --map \$uri" > "$directory/map"
    with map 'nbdinfo --map --json $uri' > "$directory/json-map"
    with map 'qemu-img map --output=json $uri' > "$directory/qemu-map"
    /usr/bin/python3 - "$directory" $size << 'END'
import json, sys
directory, size = sys.argv[1], int(sys.argv[2])
def joined(pieces):
    result = []
    for length, kind in pieces:
        if result and result[-1][1] == kind:
            length += result.pop()[0]
        result.append((length, kind))
    return result
def read(name):
    return json.load(open(f"{directory}/{name}"))
lines = [line.split() for line in open(f"{directory}/map")]
text = joined((int(line[1]), line[3] == "data") for line in lines)
nbd = joined((piece["length"], piece["type"] == 0)
             for piece in read("json-map"))
qemu = joined((piece["length"], piece["data"]) for piece in read("qemu-map"))
assert text == nbd == qemu, (text, nbd, qemu)
assert sum(length for length, data in nbd) == size
assert len(nbd) > 6 and not nbd[-1][1]
END
}

case_map_of_a_context() {
    create context
    with context 'nbdinfo --map=base:allocation $uri' > "$directory/map"
    grep -Eq "^ +0 +$size +3 +hole,zero\$" "$directory/map"
    must_fail with context 'nbdinfo --map=qemu:dirty-bitmap $uri' \
        2> "$directory/errors"
    grep -q 'dirty-bitmap' "$directory/errors"
}

case_map_totals() {
    create totals
    with totals 'nbdinfo --map --totals $uri' > "$directory/map"
    grep -Eq "^ +$size +100\.0% +3 hole,zero\$" "$directory/map"
    with totals "nbdcopy $image \$uri && nbdinfo --map --totals --json \$uri" \
        > "$directory/map"
    /usr/bin/python3 - "$directory/map" $size << 'END'
import json, sys
sizes = {piece["type"]: piece["size"] for piece in json.load(open(sys.argv[1]))}
assert sizes[0] + sizes[3] == int(sys.argv[2]), sizes
assert 5 * 600 << 10 < sizes[0] < 5 * 800 << 10, sizes
END
}

case_content() {
    command -v file > /dev/null || skip 'no file (Debian: file)'
    command -v mkfs.ext4 > /dev/null || skip 'no mkfs.ext4 (Debian: e2fsprogs)'
    create content
    truncate -s $size "$directory/ext4"
    mkfs.ext4 -q -L found-it "$directory/ext4"
    with content "nbdcopy $directory/ext4 \$uri && nbdinfo --content \$uri" |
        grep 'content:.*ext4.*found-it' > /dev/null
    with content 'nbdinfo --no-content $uri' > "$directory/text"
    must_fail grep -q 'content:' "$directory/text"
    serving 'nbdinfo --list --content $uri' "$NBDKIT_PLUGIN" store="$store" |
        grep 'content:.*ext4.*found-it' > /dev/null
}

case_subprocess() {
    create subprocess
    test "$(nbdinfo --size -- [ "${nbdkit[@]}" "$NBDKIT_PLUGIN" \
        store="$store" subprocess ])" = $size
}

case_tcp() {
    create tcp
    start_tcp "$NBDKIT_PLUGIN" store="$store"
    test "$(nbdinfo --size "$url/tcp")" = $size
    nbdinfo --list "$url" > "$directory/list"
    grep -q 'export="tcp":' "$directory/list"
    stop
}

run_cases "$@"
