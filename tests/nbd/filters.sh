#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# filters [CASE...]: nbdkit's own filters on top of the plugin, and nbdkit's own
# ways to be started.
# shellcheck disable=SC2016 # $uri is nbdkit's to set
. "$(dirname "$(readlink -f "$0")")/functions.sh"
requires nbdcopy libnbd-bin
requires nbdinfo libnbd-bin
requires qemu-img qemu-utils
requires nbdsh libnbd-bin
requires sfdisk fdisk

make_image

# through VOLUME FILTERS PARAMETERS COMMAND: run it with the volume served
# through the filters, lists of words.
through() {
    # shellcheck disable=SC2046,SC2086 # lists of words
    serving "$4" $(printf -- '--filter=%s ' $2) "$NBDKIT_PLUGIN" \
        store="$store" volume="$1" $3
}

# transparent FILTERS [PARAMETERS]: the image goes in through filters that
# change nothing, and comes out through them; it is looked at without, too.
transparent_count=0
transparent() {
    local volume=transparent-$((transparent_count += 1))
    echo "  $1 ${2:-}"
    create $volume
    through $volume "$1" "${2:-}" "nbdcopy --flush $image \$uri"
    same_as_image $volume
    through $volume "$1" "${2:-}" "nbdcopy \$uri - | cmp - $image"
}

case_blocksize() {
    transparent blocksize 'minblock=4k maxdata=64k maxlen=1M'
    transparent blocksize minblock=64k
    transparent blocksize-policy \
        'blocksize-minimum=512 blocksize-error-policy=error'
}

case_cache() {
    transparent cache cache=writeback
    transparent cache cache=writethrough
    transparent cache 'cache=writethrough cache-on-read=true'
    transparent 'readahead cache'
    transparent nocache
}

case_flush_and_fua() {
    local mode
    for mode in emulate native force pass discard; do
        transparent fua fuamode=$mode
    done
}

case_zero_and_extents() {
    local mode
    for mode in none emulate notrim plugin; do
        transparent nozero zeromode=$mode
    done
    transparent noextents
    transparent cacheextents
}

case_connections() {
    local mode
    for mode in emulate disable plugin unsafe; do
        transparent multi-conn multi-conn-mode=$mode
    done
    transparent noparallel serialize=all-requests
    transparent noparallel serialize=requests
    transparent limit limit=4
}

case_stacked() {
    transparent 'stats log' \
        "statsfile=$directory/stats logfile=$directory/log"
    grep -q '^total:' "$directory/stats"
    grep -q '[.]Read id=.*return=0' "$directory/log"
    transparent 'retry blocksize cache fua' minblock=1k
    transparent 'retry-request exitlast'
}

# Requests that fail are tried again after a second; `retry` closes the volume
# and opens it again before.
case_retried_errors() {
    local filter
    sanitized && return
    for filter in retry-request retry; do
        echo "  $filter"
        create $filter
        touch "$directory/failing"
        through $filter "$filter error" "$filter-delay=1
            error=EIO error-pwrite-rate=100%
            error-pwrite-file=$directory/failing" \
            "{ until grep -q 'injecting EIO' $directory/errors; do
                   sleep 0.05
               done
               rm $directory/failing; } &
            nbdcopy --flush $image \$uri" 2> "$directory/errors"
        same_as_image $filter
    done
}

# Fails what is written unless it is there already.
case_checkwrite() {
    sanitized && return
    create checkwrite
    with checkwrite "nbdcopy $image \$uri"
    through checkwrite checkwrite '' "nbdcopy $image \$uri"
    with checkwrite 'qemu-io -f raw -c "write -P 1 12345 1" $uri' > /dev/null
    must_fail through checkwrite checkwrite '' "nbdcopy $image \$uri" \
        2> "$directory/errors"
}

# What is written over the volume stays out of it.
case_cow() {
    create cow
    with cow "nbdcopy --flush $image \$uri"
    through cow cow '' 'nbdsh -u $uri -c "h.pwrite(b\"other\", 0)" \
        -c "assert h.pread(5, 0) == b\"other\""'
    same_as_image cow
}

case_offset() {
    create part
    with part "nbdcopy $image \$uri"
    through part offset 'offset=5M range=1M' "nbdcopy \$uri $directory/part"
    cmp -n $((1 << 20)) -i $((5 << 20)):0 "$image" "$directory/part"
    test "$(stat -c %s "$directory/part")" = $((1 << 20))
}

case_truncate() {
    create odd 1000448
    through odd truncate 'round-up=64k' 'nbdsh -u $uri \
        -c "assert h.get_size() == 1048576" \
        -c "h.pwrite(b\"end!\", 1000444)" \
        -c "assert h.pread(8, 1000444) == b\"end!\" + bytearray(4)"'
    with odd 'nbdsh -u $uri -c "assert h.pread(4, 1000444) == b\"end!\""'
}

case_swab() {
    create swab
    through swab swab swab-bits=32 "nbdcopy $image \$uri"
    through swab swab swab-bits=32 "nbdcopy \$uri - | cmp - $image"
    must_fail same_as_image swab
}

case_protect() {
    sanitized && return
    create protect
    with protect "nbdcopy $image \$uri"
    through protect protect protect=0-1048575 "qemu-io -f raw -c 'write 2M 4k' \
        -c 'write -P 9 512k 4k' \$uri" > "$directory/said" 2>&1 || true
    grep -q 'wrote 4096/4096 bytes at offset 2097152' "$directory/said"
    grep -q 'write failed: Operation not permitted' "$directory/said"
    with protect "nbdcopy \$uri $directory/copy"
    cmp -n 1048576 "$image" "$directory/copy"
    rm "$directory/copy"
}

# A partition in a volume and a file in the tar archive in a volume.
case_inside() {
    create partitioned
    printf 'start=2048, size=65536\nstart=67584\n' > "$directory/table"
    truncate -s $size "$directory/disk"
    sfdisk -q --label dos "$directory/disk" < "$directory/table"
    dd if="$image" of="$directory/disk" bs=512 seek=2048 count=65536 \
        conv=notrunc status=none
    with partitioned "nbdcopy $directory/disk \$uri"
    through partitioned partition partition=1 "nbdcopy \$uri - |
        cmp -n 33554432 - $image"
    create archive $((80 << 20))
    tar -C "$directory" -cf "$directory/archive" table image
    with archive "nbdsh -u \$uri -c 'import os' -c 'at = 0' \
        -c 'data = open(\"$directory/archive\", \"rb\").read()' -c '
while at < len(data):
    h.pwrite(data[at:at + 1048576], at)
    at += 1048576'"
    through archive tar tar-entry=image "nbdcopy \$uri - | cmp - $image"
}

# Served over its standard input and output, to one client.
case_single() {
    create single
    nbdsh -c - << END
h.connect_command([$(printf '"%s", ' "${nbdkit[@]}")
    "-s", "$NBDKIT_PLUGIN", "store=$store", "single"])
h.pwrite(b"z" * 65536, 1000, nbd.CMD_FLAG_FUA)
h.shutdown()
END
    with single \
        'nbdsh -u $uri -c "assert h.pread(65536, 1000) == b\"z\" * 65536"'
}

case_threads() {
    local count
    for count in 1 2 32; do
        create threads-$count
        with threads-$count "nbdcopy --flush $image \$uri" --threads=$count
        same_as_image threads-$count
    done
}

run_cases "$@"
