#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# nbd-tester [CASE...]: the nbd package's own test client and transaction logs,
# built by scripts/build-nbd-tester, against the plugin.  It speaks the protocol
# without libnbd: no structured replies, NBD_OPT_EXPORT_NAME.  The integrity
# tests know what each 512 bytes have to be, from a log of requests.
# shellcheck disable=SC2016 # $unixsocket is nbdkit's to set
here=$(dirname "$(readlink -f "$0")")
. "$here/functions.sh"
export NBD_TEST_SILENT=1

status=0
built=$("$here/../../scripts/build-nbd-tester") || status=$?
[ $status != 3 ] || skip "the source of Debian's nbd can't be had"
test $status = 0
client=$built/nbd-tester-client
# As its makers give it: 4 MiB, and 50 MiB for the integrity tests.
small=$((4 << 20))
large=$((50 << 20))

# tester VOLUME ARGUMENT...: on a Unix socket
tester() {
    local volume=$1
    shift
    with "$volume" "$client -N '$volume' $* -u \$unixsocket"
}

case_throughput() {
    create throughput $small
    tester throughput
    tester throughput -w
    tester throughput
    # 4 MiB of Xs are what it writes.
    with throughput 'nbdsh -u $uri \
        -c "assert h.pread(4 << 20, 0) == b\"X\" * (4 << 20)"'
}

case_flush_and_fua() {
    create flush $small
    tester flush -w -f
}

case_oversize() {
    create oversize $small
    tester oversize -o
}

case_handshake() {
    create handshake $small
    tester handshake -h
}

case_read_only() {
    sanitized && return
    create read-only $small
    with read-only "$client -N read-only -u \$unixsocket" -r
    with read-only "$client -N read-only -w -F -u \$unixsocket" -r
    with read-only 'nbdsh -u $uri \
        -c "assert h.pread(4 << 20, 0) == bytearray(4 << 20)"'
}

# The client starts the server, on a socket that is its standard input, as
# inetd's servers expect; nbdkit writes to its output.
case_inetd() {
    create inetd $small
    # shellcheck disable=SC2016 # the inner shell's
    "$client" -N inetd -I -- \
        bash -c 'exec "$@" >&0' bash "${nbdkit[@]}" -s "$NBDKIT_PLUGIN" \
        store="$store" inetd
}

case_tcp() {
    create tcp-1 $large
    create tcp-2 $small
    start_tcp "$NBDKIT_PLUGIN" store="$store"
    "$client" -N tcp-1 -i -t "$built/integrity-test.tr" 127.0.0.1 "$port"
    "$client" -N tcp-2 -w -f 127.0.0.1 "$port"
    "$client" -N tcp-2 -o 127.0.0.1 "$port"
    "$client" -N tcp-2 -h 127.0.0.1 "$port"
    if command -v nbd-client > /dev/null; then
        nbd-client -l 127.0.0.1 "$port" > "$directory/list"
        grep -q '^tcp-2\b' "$directory/list"
    fi
    stop
}

case_integrity() {
    create integrity $large
    tester integrity -i -t "$built/integrity-test.tr"
}

# rewritten VOLUME OPTION...: its log with other flags, read back at the end.
rewritten() {
    local volume=$1
    shift
    create "$volume" $large
    "$here/transactions.py" rewrite --end $large "$@" \
        < "$built/integrity-test.tr" > "$directory/log"
    tester "$volume" -i -t "$directory/log"
}

case_integrity_without_flushes() { rewritten plain --fua none --flush 0; }
case_integrity_all_fua() { rewritten fua --fua all --flush 0; }
case_integrity_many_flushes() { rewritten flushes --fua none --flush 8; }

case_integrity_random() {
    local seed
    for seed in 1 2; do
        create random-$seed $large
        "$here/transactions.py" make $seed 2000 $large > "$directory/log"
        tester random-$seed -i -t "$directory/log"
    done
}

# Requests of up to 32 MiB, 6 GB in all.
case_integrity_huge() {
    sanitized 'takes minutes' && return
    create huge $large
    tester huge -i -t "$built/integrityhuge-test.tr"
}

run_cases "$@"
