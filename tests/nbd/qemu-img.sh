#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# qemu-img [CASE...]: QEMU's NBD client, in qemu-img, against the plugin.  What
# it brings in, nbdcopy brings out, and the reverse.
# shellcheck disable=SC2016 # $uri is nbdkit's to set
. "$(dirname "$(readlink -f "$0")")/functions.sh"
requires qemu-img qemu-utils
requires nbdcopy libnbd-bin

make_image

case_convert() {
    create convert
    with convert "qemu-img convert -n -f raw -O raw $image \$uri"
    with convert "nbdcopy \$uri $directory/copy"
    cmp "$image" "$directory/copy"
    with convert "qemu-img convert -f raw -O raw \$uri $directory/copy"
    cmp "$image" "$directory/copy"
    test "$(du -k "$directory/copy" | cut -f1)" -lt $((40 << 10))
    rm "$directory/copy"
}

case_compare() {
    create compare
    with compare "nbdcopy $image \$uri"
    with compare "qemu-img compare -f raw -F raw $image \$uri"
    with compare 'qemu-io -f raw -c "write -P 1 12345 1" $uri' > /dev/null
    must_fail with compare "qemu-img compare -f raw -F raw $image \$uri"
}

case_qcow2_over_nbd() {
    create qcow2
    qemu-img convert -f raw -O qcow2 "$image" "$directory/q.qcow2"
    with qcow2 "qemu-img convert -n -W -f qcow2 -O raw $directory/q.qcow2 \$uri"
    with qcow2 "nbdcopy \$uri - | cmp - $image"
    rm "$directory/q.qcow2"
}

# With Nagle's algorithm on, a reply in two pieces waits for a delayed ACK of
# 40 ms; QEMU's client, many requests in flight, is who suffers.
case_tcp_is_prompt() {
    local began ended
    create tcp
    start_tcp "$NBDKIT_PLUGIN" store="$store" tcp
    began=$(date +%s%N)
    qemu-img bench -f raw -t none -d 16 -c 2000 -s 4096 -S 4096 -w \
        "$url" > /dev/null
    qemu-img bench -f raw -t none -d 16 -c 2000 -s 4096 -S 4096 \
        "$url" > /dev/null
    ended=$(date +%s%N)
    stop
    test $(((ended - began) / 1000000)) -lt 5000
}

run_cases "$@"
