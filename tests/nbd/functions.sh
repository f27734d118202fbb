# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the tests of other people's NBD programs share: sourced first, it makes
# a temporary directory with a store in it; `run_cases "$@"` at the end runs
# every function named case_*, or those named as arguments.  A case fails by
# the first command of it that does.  Each makes volumes of its own, servers
# listen on Unix sockets, and what was started is ended by its process id.
#
# From the environment: NBDKIT_PLUGIN, VOLUME_TOOL and, for a build with
# AddressSanitizer, which nbdkit itself isn't, NBDKIT_PRELOAD.
set -eEu -o pipefail
trap 'failed "$BASH_COMMAND"' ERR
failed() {
    local i
    echo "FAILED: $1" >&2
    for ((i = 1; i < ${#FUNCNAME[@]}; i++)); do
        echo "  ${BASH_SOURCE[i]##*/}:${BASH_LINENO[i - 1]}" \
            "(${FUNCNAME[i]})" >&2
    done
}
PATH=/usr/bin:$PATH:/usr/sbin:/sbin

skip() { echo "SKIP: $*"; exit 77; }
# requires PROGRAM DEBIAN-PACKAGE
requires() { command -v "$1" > /dev/null || skip "no $1 (Debian: $2)"; }
requires nbdkit nbdkit

directory=$(mktemp -d -t archipelago-nbd-XXXXXX)
store=dir:$directory/store
mkdir "$directory/store"
size=$((64 << 20))
pids=()
at_end=()
cleanup() {
    local command pid
    for command in "${at_end[@]}"; do $command || true; done
    for pid in "${pids[@]}"; do kill -9 "$pid" 2> /dev/null || true; done
    wait
    rm -rf "$directory"
}
trap cleanup EXIT

# The nbdkit to be given to programs that start their server themselves.
nbdkit=(env "LD_PRELOAD=${NBDKIT_PRELOAD:-}" nbdkit)

# For a case in which nbdkit has to print an error: preloaded, AddressSanitizer
# upsets the lock of the C library's message catalogues, with any plugin, and
# then nbdkit never gets through its exit.
sanitized() {
    [ -n "${NBDKIT_PRELOAD:-}" ] || return 1
    echo "  left out under the sanitizers${1:+: $1}"
}

# create VOLUME [BYTES [DESCRIPTION]]
create() {
    "$VOLUME_TOOL" create "$store" "$1" "${2:-$size}" 0 "${3:-}"
}

# serving COMMAND ARGUMENT...: run the command, with $uri and $unixsocket set,
# while an nbdkit with these arguments runs for it.
serving() {
    local command=$1
    shift
    "${nbdkit[@]}" -U - "$@" --run "unset LD_PRELOAD; $command"
}

# with VOLUME COMMAND [NBDKIT-OPTION...]: the same with a server of one volume.
with() {
    local volume=$1 command=$2
    shift 2
    serving "$command" "$@" "$NBDKIT_PLUGIN" store="$store" volume="$volume"
}

# must_fail COMMAND...: `! COMMAND` would not end a case.
must_fail() {
    if "$@"; then
        echo "succeeded: $*" >&2
        return 1
    fi
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
    local tries=$(($1 * 20))
    shift
    until "$@" > /dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "waited in vain: $*" >&2; return 1; }
        sleep 0.05
    done
}

# start ARGUMENT...: an nbdkit in the background; sets $server (its process
# id), $socket and $url.
start() {
    socket=$directory/socket.${#pids[@]}
    url=nbd+unix:///?socket=$socket
    rm -f "$directory/pid"
    "${nbdkit[@]}" -f -U "$socket" -P "$directory/pid" "$@" &
    server=$!
    pids+=("$server")
    # This file comes after the socket is listened on.
    wait_for 20 test -e "$directory/pid"
}

# start_tcp ARGUMENT...: the same on a port of the loopback address; sets $port
# too.  A port that was free a moment ago; tried again if somebody took it.
start_tcp() {
    local tries
    for tries in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 10000))
        rm -f "$directory/pid"
        "${nbdkit[@]}" -f -p $port -i 127.0.0.1 -P "$directory/pid" "$@" \
            2> "$directory/tcp.log" &
        server=$!
        pids+=("$server")
        url=nbd://127.0.0.1:$port
        if wait_for 20 tcp_started && [ -e "$directory/pid" ]; then
            return
        fi
    done
    cat "$directory/tcp.log" >&2
    return 1
}
tcp_started() { [ -e "$directory/pid" ] || ! kill -0 "$server"; }

# Tell the server of `start` to end; it must do so in order.
stop() {
    kill -TERM "$server"
    wait "$server"
}

# make_image: $image, data, holes and data, the same throughout a test.
make_image() {
    local at
    image=$directory/image
    truncate -s "$size" "$image"
    for at in 0 5 6 21 63; do
        head -c $((700 << 10)) /dev/urandom |
            dd of="$image" bs=64K seek=$((at * 16)) conv=notrunc \
                iflag=fullblock status=none
    done
}

# same_as_image VOLUME [FILE]: by the judgement of another program than those
# that wrote it.
same_as_image() {
    with "$1" "qemu-img compare -q -f raw -F raw ${2:-$image} \$uri"
}

# run_cases [CASE...]
run_cases() {
    local names name
    names=("$@")
    [ $# -gt 0 ] ||
        mapfile -t names < <(compgen -A function case_ | sed 's/^case_//')
    for name in "${names[@]}"; do
        echo "$name"
        "case_$name"
    done
    echo "${#names[@]} cases passed"
}
