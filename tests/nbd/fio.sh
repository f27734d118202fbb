#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fio [CASE...]: fio's NBD client writes blocks that carry a CRC32C of
# themselves, and verifies them, also after the server was killed.
# shellcheck disable=SC2016 # $uri is nbdkit's to set
. "$(dirname "$(readlink -f "$0")")/functions.sh"
requires fio fio
fio --enghelp | grep -qw nbd || skip 'this fio has no nbd engine'

# What the jobs have in common.  Blocks of all sizes, each with headers that
# say where it belongs, every 512 bytes.
common="--ioengine=nbd --thread --group_reporting --minimal --randseed=1
    --verify=crc32c --verify_async=2 --verify_fatal=1 --verify_interval=512"
mixed=--bssplit=512/20:4k/30:4608/10:12k/10:64k/20:256k/8:1m/2
# Each job has 16 MiB of its own, 4 jobs the volume.
jobs='--numjobs=4 --size=16m --offset_increment=16m'

# fio_on URI ARGUMENT...: its errors are in its exit status, its line of
# numbers isn't wanted.
fio_on() {
    local uri=$1
    shift
    echo "  fio ${*//$common/}"
    # shellcheck disable=SC2068 # lists of words
    (cd "$directory" && fio $common --uri="$uri" --name=fio $@) \
        > "$directory/fio.log" 2>&1 ||
        { cat "$directory/fio.log"; return 1; }
}

# on_volume VOLUME ARGUMENT...: a server for it, and fio.
on_volume() {
    local volume=$1
    shift
    [ -e "$directory/made.$volume" ] || create "$volume"
    touch "$directory/made.$volume"
    start "$NBDKIT_PLUGIN" store="$store" "$volume"
    fio_on "$url" "$@"
    stop
}

case_random_writes() {
    on_volume random "--rw=randwrite --iodepth=16 $mixed $jobs"
}

case_sequential_writes() {
    on_volume sequential "--rw=write --iodepth=8 --bs=128k $jobs"
}

# Reads between the writes verify what was written a moment before.
case_mixed() {
    on_volume mixed "--rw=randrw --rwmixread=30 --iodepth=16 $mixed $jobs
        --verify_backlog=64 --verify_backlog_batch=32"
}

case_depth_1() {
    on_volume depth-1 '--rw=randwrite --iodepth=1 --bs=4k --size=16m --fsync=16'
}

case_unaligned() {
    on_volume unaligned "--rw=randwrite --iodepth=16 --bs=1536 $jobs
        --io_size=2m"
}

# Pieces are trimmed and written again in turn; one at a time, as fio doesn't
# wait for the trim before it writes.
case_trim_and_write() {
    on_volume trim "--rw=randwrite --iodepth=16 $mixed $jobs"
    on_volume trim "--rw=trimwrite --iodepth=1 --bs=64k $jobs"
}

# A part in the middle is trimmed; it reads as zeroes, the rest as before.
# (fio 3.33's own trim_verify_zero ends in an assertion, on any server.)
case_trim_reads_zeroes() {
    local written='--rw=write --iodepth=8 --bs=64k'
    local zeroes='--verify=pattern --verify_pattern=0x00'
    on_volume zeroes "$written --size=64m --do_verify=0"
    on_volume zeroes "--rw=randtrim --iodepth=16 --bs=4k --verify=0
        --offset=9m --size=17m"
    on_volume zeroes "--rw=read --bs=256k $zeroes --offset=9m --size=17m"
    on_volume zeroes "$written --size=9m --verify_only"
    start "$NBDKIT_PLUGIN" store="$store" zeroes
    must_fail fio_on "$url" "--rw=read --bs=64k $zeroes --offset=8m --size=2m" \
        > "$directory/said"
    stop
}

case_tcp() {
    create tcp
    start_tcp "$NBDKIT_PLUGIN" store="$store" tcp
    fio_on "$url" "--rw=randwrite --iodepth=32 $mixed $jobs"
    stop
}

# killed_and_verified VOLUME FIO-ARGUMENTS: written, flushed, the server killed;
# another one verifies.
killed_and_verified() {
    local volume=$1
    shift
    create "$volume"
    start "$NBDKIT_PLUGIN" store="$store" "$volume"
    fio_on "$url" "$* --do_verify=0 --end_fsync=1"
    kill -KILL "$server"
    wait "$server" || true
    start "$NBDKIT_PLUGIN" store="$store" "$volume"
    fio_on "$url" "$* --verify_only"
    stop
}

case_killed() {
    killed_and_verified killed "--rw=randwrite --iodepth=16 $mixed $jobs"
    killed_and_verified killed-sequential \
        "--rw=write --iodepth=8 --bs=64k $jobs"
}

# Bytes that the server wrote, by whatever call.
written() {
    awk '/^(wchar|write_bytes):/ { n += $2 } END { print n }' "/proc/$server/io"
}

# What was flushed survives that the server is killed at work on the rest: the
# lower half is written and flushed, then the upper half until the end.
case_killed_at_work() {
    local lower writer round before
    lower="--rw=randwrite --iodepth=16 $mixed --size=32m"
    create at-work
    for round in 1 2 3; do
        start "$NBDKIT_PLUGIN" store="$store" at-work
        fio_on "$url" "$lower --randseed=$round --do_verify=0 --end_fsync=1"
        before=$(written)
        (cd "$directory" && exec fio --ioengine=nbd --thread --minimal \
            --uri="$url" --name=upper --rw=randwrite --bs=4k --iodepth=16 \
            --offset=32m --size=32m --time_based --runtime=60 \
            > "$directory/upper.log" 2>&1) &
        writer=$!
        pids+=("$writer")
        while [ "$(written)" -lt $((before + round * 1048576)) ]; do
            kill -0 "$writer"
            sleep 0.01
        done
        kill -KILL "$server"
        wait "$server" || true
        # It sees its server go; it has not ended before.
        must_fail wait "$writer"
        start "$NBDKIT_PLUGIN" store="$store" at-work
        fio_on "$url" "$lower --randseed=$round --verify_only"
        stop
    done
}

# fio finds a block that isn't what it was.
case_finds_damage() {
    create damage
    start "$NBDKIT_PLUGIN" store="$store" damage
    fio_on "$url" '--rw=write --bs=64k --size=16m --do_verify=0 --end_fsync=1'
    nbdsh -u "$url" -c 'h.pwrite(b"\0", 12345678)'
    must_fail fio_on "$url" '--rw=write --bs=64k --size=16m --verify_only' \
        > "$directory/said"
    grep -q 'verify' "$directory/said"
    stop
}

run_cases "$@"
