#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# nbdfuse [CASE...]: libnbd's nbdfuse shows a volume as a file, which the
# file system's own programs use.
# shellcheck disable=SC2016 # $uri is nbdkit's to set
. "$(dirname "$(readlink -f "$0")")/functions.sh"
requires nbdfuse libnbd-bin
requires nbdcopy libnbd-bin
requires qemu-img qemu-utils
requires fusermount3 fuse3
[ -r /dev/fuse ] && [ -w /dev/fuse ] ||
    skip 'no /dev/fuse, or none for this user'

make_image
mkdir "$directory/mnt"
file=$directory/mnt/disk
at_end+=("fusermount3 -q -u -z $directory/mnt")

# mount ARGUMENT...: nbdfuse in the background, until the file is there.
mount() {
    nbdfuse -P "$directory/fuse.pid" "$@" &
    fuse=$!
    pids+=("$fuse")
    wait_for 20 test -s "$directory/fuse.pid"
}

# It ends when unmounted, after what it was told to write.
unmount() {
    wait_for 10 fusermount3 -u "$directory/mnt"
    wait "$fuse"
    rm "$directory/fuse.pid"
}

# serve VOLUME ARGUMENT...: on $socket
serve() {
    local volume=$1
    shift
    start "$@" "$NBDKIT_PLUGIN" store="$store" "$volume"
}

case_copy() {
    create copy
    serve copy
    mount "$file" "$url"
    test "$(stat -c %s "$file")" = $size
    dd if="$image" of="$file" bs=1M conv=notrunc,fsync status=none
    cmp "$image" "$file"
    unmount
    stop
    same_as_image copy
}

case_odd_sizes() {
    local seed at
    create odd
    serve odd
    mount --connections=4 "$file" "$url"
    cp "$image" "$directory/expected"
    dd if="$image" of="$file" bs=1M conv=notrunc status=none
    for seed in 1 2 3 4 5 6 7 8; do
        at=$((seed * 7654321))
        head -c $((seed * 33333)) /dev/urandom > "$directory/piece"
        for target in "$file" "$directory/expected"; do
            dd if="$directory/piece" of="$target" bs=64K conv=notrunc,fsync \
                oflag=seek_bytes seek=$at status=none
        done
    done
    cmp "$directory/expected" "$file"
    unmount
    stop
    same_as_image odd "$directory/expected"
}

# Trim and zero, by way of the file's fallocate().
case_punch_and_zero() {
    create punch
    serve punch
    mount "$file" "$url"
    cp "$image" "$directory/expected"
    dd if="$image" of="$file" bs=1M conv=notrunc,fsync status=none
    for target in "$file" "$directory/expected"; do
        fallocate --punch-hole -o $((5 << 20)) -l $((512 << 10)) "$target"
        fallocate --zero-range -o $(((21 << 20) + 1000)) -l 100001 "$target"
    done
    cmp "$directory/expected" "$file"
    unmount
    stop
    same_as_image punch "$directory/expected"
}

case_ext4() {
    command -v mkfs.ext4 > /dev/null || skip 'no mkfs.ext4 (Debian: e2fsprogs)'
    create ext4
    serve ext4
    mkdir "$directory/files" "$directory/back"
    cp "$0" "$directory/files"
    head -c 5000001 /dev/urandom > "$directory/files/random"
    mount "$file" "$url"
    mkfs.ext4 -q -F -d "$directory/files" "$file"
    e2fsck -fn "$file" > "$directory/e2fsck" 2>&1 ||
        { cat "$directory/e2fsck"; return 1; }
    debugfs -R "rdump / $directory/back" "$file" 2> "$directory/errors"
    diff -r -x lost+found "$directory/files" "$directory/back"
    unmount
    stop
}

case_read_only() {
    create read-only
    with read-only "nbdcopy $image \$uri"
    serve read-only -r
    mount -r "$file" "$url"
    cmp "$image" "$file"
    must_fail dd if=/dev/zero of="$file" bs=512 count=1 conv=notrunc \
        2> "$directory/errors"
    unmount
    stop
    same_as_image read-only
}

# The whole mount point may be a file, too.
case_on_a_file() {
    create on-a-file
    with on-a-file "nbdcopy $image \$uri"
    touch "$directory/mountpoint"
    serve on-a-file
    mount "$directory/mountpoint" "$url"
    cmp "$image" "$directory/mountpoint"
    wait_for 10 fusermount3 -u "$directory/mountpoint"
    wait "$fuse"
    rm "$directory/fuse.pid"
    stop
}

case_unix_option() {
    create unix-option
    with unix-option "nbdcopy $image \$uri"
    serve unix-option
    mount "$file" --unix "$socket"
    cmp "$image" "$file"
    unmount
    stop
}

case_tcp_option() {
    create tcp-option
    with tcp-option "nbdcopy $image \$uri"
    start_tcp "$NBDKIT_PLUGIN" store="$store" tcp-option
    mount "$file" --tcp 127.0.0.1 "$port"
    cmp "$image" "$file"
    unmount
    stop
}

# The server is nbdfuse's own.
case_subprocess() {
    create subprocess
    mount "$file" [ "${nbdkit[@]}" "$NBDKIT_PLUGIN" store="$store" subprocess ]
    dd if="$image" of="$file" bs=1M conv=notrunc,fsync status=none
    unmount
    same_as_image subprocess
}

case_command() {
    create command
    mount "$file" --command "${nbdkit[@]}" -s "$NBDKIT_PLUGIN" \
        store="$store" command
    dd if="$image" of="$file" bs=1M conv=notrunc,fsync status=none
    cmp "$image" "$file"
    unmount
    same_as_image command
}

run_cases "$@"
