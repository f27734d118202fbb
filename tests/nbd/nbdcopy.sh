#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# nbdcopy [CASE...]: libnbd's nbdcopy in all its modes, to, from and between
# volumes.  What it brings in, qemu-img finds equal; what it brings out, cmp.
# shellcheck disable=SC2016 # $uri is nbdkit's to set
. "$(dirname "$(readlink -f "$0")")/functions.sh"
requires nbdcopy libnbd-bin
requires nbdinfo libnbd-bin
requires qemu-img qemu-utils

make_image
# A volume with the image in it, for the cases that copy out.
create full
with full "nbdcopy $image \$uri"

# data_bytes VOLUME: how much of it isn't a hole.
data_bytes() {
    with "$1" 'nbdinfo --map --totals $uri' |
        awk '$3 == 0 { n = $1 } END { print n + 0 }'
}

# Both ways with these options; each time into something that is empty.
both_ways() {
    local volume=$1
    shift
    create "$volume"
    with "$volume" "nbdcopy $* $image \$uri"
    same_as_image "$volume"
    with "$volume" "nbdcopy $* \$uri $directory/copy"
    cmp "$image" "$directory/copy"
    rm "$directory/copy"
}

case_default() { both_ways default; }
case_flush() { both_ways flush --flush; }
case_synchronous() { both_ways synchronous --synchronous; }
case_no_extents() { both_ways no-extents --no-extents; }

case_connections() {
    both_ways connections-1 --connections=1
    both_ways connections-4 --connections=4
    both_ways connections-16 --connections=16 --threads=16
}

case_threads() {
    both_ways threads-1 --threads=1
    both_ways threads-4 --threads=4 --connections=4
}

case_requests() {
    both_ways requests-1 --requests=1
    both_ways requests-64 --requests=64 --threads=1 --connections=1
}

case_request_size() {
    both_ways request-size-4k --request-size=4096
    both_ways request-size-largest --request-size=33554432 \
        --queue-size=67108864
}

case_queue_size() {
    both_ways queue-size-small --queue-size=65536 --request-size=65536
    both_ways queue-size-large --queue-size=134217728
}

# What was sparse stays so, on both sides.
case_stays_sparse() {
    create sparse
    with sparse "nbdcopy $image \$uri"
    test "$(data_bytes sparse)" -lt $((5 << 20))
    with sparse "nbdcopy \$uri $directory/copy"
    cmp "$image" "$directory/copy"
    test "$(du -k "$directory/copy" | cut -f1)" -lt $((5 << 10))
    rm "$directory/copy"
}

# Zeroes that were written are found and made holes, or not with --sparse=0.
case_sparse() {
    head -c $size /dev/zero > "$directory/zeroes"
    create detected
    with detected "nbdcopy --no-extents $directory/zeroes \$uri"
    test "$(data_bytes detected)" = 0
    create undetected
    with undetected "nbdcopy --no-extents --sparse=0 $directory/zeroes \$uri"
    test "$(data_bytes undetected)" = $size
    same_as_image undetected "$directory/zeroes"
    both_ways sparse-64k --sparse=65536
    rm "$directory/zeroes"
}

# The map shows what was reserved as a hole; the store has the space.
case_allocated() {
    local before after
    before=$(du -sk --exclude=reserve "$directory/store" | cut -f1)
    both_ways allocated --allocated
    after=$(du -sk --exclude=reserve "$directory/store" | cut -f1)
    test $((after - before)) -ge $((size >> 10))
}

# Into a volume which is new, and so is zero.
case_destination_is_zero() {
    both_ways is-zero --destination-is-zero
    test "$(data_bytes is-zero)" -lt $((5 << 20))
    both_ways target-is-zero --target-is-zero --allocated
}

# Over what isn't zero the holes have to become zeroes.
case_over_data() {
    create over
    head -c $size /dev/urandom > "$directory/noise"
    with over "nbdcopy $directory/noise \$uri && nbdcopy $image \$uri"
    same_as_image over
    test "$(data_bytes over)" -lt $((5 << 20))
    with over "nbdcopy $directory/noise \$uri &&
        nbdcopy --allocated $image \$uri"
    same_as_image over
    rm "$directory/noise"
}

case_stdin() {
    create stdin
    with stdin "nbdcopy - \$uri < $image"
    same_as_image stdin
    create pipe
    with pipe "cat $image | nbdcopy --flush -- - \$uri"
    same_as_image pipe
}

case_stdout() {
    with full "nbdcopy \$uri - > $directory/copy"
    cmp "$image" "$directory/copy"
    rm "$directory/copy"
    with full "nbdcopy \$uri - | cmp - $image"
}

case_null() {
    with full 'nbdcopy $uri null:'
    with full 'nbdcopy --synchronous $uri null:'
    with full 'nbdcopy --no-extents --connections=4 $uri null:'
}

case_progress() {
    with full "nbdcopy --progress=3 \$uri null: 3> $directory/progress"
    test "$(tail -n 1 "$directory/progress")" = 100/100
    with full 'nbdcopy -p $uri null:' 2> "$directory/progress"
    test -s "$directory/progress"
}

case_between_volumes() {
    local number=0 options
    for options in '' --synchronous --allocated '--connections=1 --threads=1' \
        '--requests=2 --request-size=65536' '--no-extents --flush'; do
        number=$((number + 1))
        create to$number
        serving "nbdcopy $options \"nbd+unix:///full?socket=\$unixsocket\" \
            \"nbd+unix:///to$number?socket=\$unixsocket\"" \
            "$NBDKIT_PLUGIN" store="$store"
        same_as_image to$number
    done
}

case_between_servers() {
    create other-server
    start "$NBDKIT_PLUGIN" store="$store" other-server
    with full "nbdcopy --flush \$uri '$url'"
    stop
    same_as_image other-server
}

case_subprocess() {
    local server=("${nbdkit[@]}" "$NBDKIT_PLUGIN" store="$store")
    create subprocess
    create subprocess-2
    nbdcopy --flush -- "$image" [ "${server[@]}" subprocess ]
    same_as_image subprocess
    nbdcopy -- [ "${server[@]}" subprocess ] "$directory/copy"
    cmp "$image" "$directory/copy"
    rm "$directory/copy"
    nbdcopy --flush -- [ "${server[@]}" subprocess ] \
        [ "${server[@]}" subprocess-2 ]
    same_as_image subprocess-2
    nbdcopy -- [ "${server[@]}" subprocess-2 ] - | cmp - "$image"
}

case_device() {
    local device
    device=$(losetup --find --show "$image" 2> "$directory/errors") || {
        echo "  left out: no loop device: $(cat "$directory/errors")"
        return 0
    }
    at_end+=("losetup -d $device")
    create device
    with device "nbdcopy --flush $device \$uri"
    same_as_image device
    losetup -d "$device"
    truncate -s $size "$directory/backing"
    device=$(losetup --find --show "$directory/backing")
    at_end=("losetup -d $device")
    with device "nbdcopy --flush \$uri $device"
    cmp "$image" "$device"
    losetup -d "$device"
    at_end=()
    rm "$directory/backing"
}

case_read_only() {
    must_fail with full "nbdcopy $image \$uri" -r 2> "$directory/errors"
    same_as_image full
}

case_tcp() {
    create tcp
    start_tcp "$NBDKIT_PLUGIN" store="$store" tcp
    nbdcopy --flush "$image" "$url"
    nbdcopy "$url" - | cmp - "$image"
    stop
    same_as_image tcp
}

run_cases "$@"
