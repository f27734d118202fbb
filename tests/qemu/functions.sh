# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the tests of QEMU: test.sh FLAVOUR.
#
# A flavour is a QEMU and the way the driver gets in: `stock` and `stock-10.0`
# take the plugin (the installed QEMU, and backports' unpacked in the cache),
# `tree-7.2` and `tree-10.0` are built with the driver.  Afterwards there are
# the functions img, io, nbd, qsd, qemu, which run the programs; $work, a directory
# of the test's own; a store in it, the default one.
set -euo pipefail

: "${SOURCE_ROOT:?run by meson test}" "${BUILD_ROOT:?run by meson test}"
flavour=${1:-stock}
scripts=$SOURCE_ROOT/scripts
wrapper=$BUILD_ROOT/block/archipelago-qemu

skip() { echo "SKIP: $*"; exit 77; }
fail() { echo "FAIL: $*" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/archipelago-qemu.XXXXXX")
started=()
cleanup() {
    local pid
    for pid in "${started[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT

export ARCHIPELAGO_STORE=dir:$work/store
export LC_ALL=C
volume=$BUILD_ROOT/tests/qemu/volume
mkdir "$work/store"
"$volume" init

# Exit status 3 of the scripts: this machine can't get Debian's source.
or_skip() {
    local status=0
    "$@" || status=$?
    [ $status != 3 ] || skip "the source of QEMU can't be had from here"
    [ $status = 0 ] || fail "$1 failed"
}

use_plugin() {
    bin=$1
    run=("$wrapper")
    or_skip "$scripts/build-qemu-plugin" --libdir "$BUILD_ROOT/src" \
        --output "$BUILD_ROOT/block/qemu" "${bin}qemu-img" >"$work/plugin"
    firmware=${bin:+${bin%bin/}share/qemu}
    daemon=${bin}qemu-storage-daemon
}

use_tree() {
    or_skip "$scripts/build-qemu" --libdir "$BUILD_ROOT/src" "$1" >"$work/tree"
    bin=$(tail -n 1 "$work/tree")/
    firmware=${bin}firmware
    run=(env "QEMU_MODULE_DIR=${bin%/}" "LD_LIBRARY_PATH=$BUILD_ROOT/src")
    daemon=${bin}storage-daemon/qemu-storage-daemon
}

case $flavour in
stock)
    command -v qemu-img >/dev/null || skip "qemu-utils is not installed"
    use_plugin "" ;;
stock-10.0)
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    or_skip "$scripts/debian-fetch" binary "$codename-backports" qemu-utils \
        qemu-system-x86 qemu-system-common qemu-block-extra \
        qemu-system-data >"$work/binary"
    use_plugin "$(cat "$work/binary")/usr/bin/" ;;
tree-*) use_tree "${flavour#tree-}" ;;
*) fail "no flavour $flavour" ;;
esac

img() { "${run[@]}" "${bin}qemu-img" "$@"; }
io() { "${run[@]}" "${bin}qemu-io" "$@"; }
nbd() { exec "${run[@]}" "${bin}qemu-nbd" "$@"; }
qsd() { exec "${run[@]}" "$daemon" "$@"; }
qemu() {
    exec "${run[@]}" "${bin}qemu-system-x86_64" ${firmware:+-L "$firmware"} \
        "$@"
}

# start COMMAND...: in the background, as $pid, ended with the test
start() {
    "$@" &
    pid=$!
    started+=("$pid")
}

# wait_for COMMAND...: until it succeeds, a minute at most
wait_for() {
    local i
    for ((i = 0; i < 1200; i++)); do
        if "$@"; then
            return
        fi
        sleep 0.05
    done
    cat "$work"/*.out >&2 2>/dev/null || true
    fail "waited in vain for: $*"
}

# fails_with TEXT COMMAND...: it fails, and TEXT is in what it says
fails_with() {
    local text=$1 output
    shift
    if output=$("$@" 2>&1); then
        fail "should have failed: $*: $output"
    fi
    [[ $output == *"$text"* ]] || fail "'$text' is not in: $output"
}

# says TEXT COMMAND...: it succeeds, and TEXT is in what it says
says() {
    local text=$1 output
    shift
    output=$("$@" 2>&1) || fail "$* failed: $output"
    [[ $output == *"$text"* ]] || fail "'$text' is not in: $output"
}

# same VOLUME FILE: read through the C API, it is what the file is
same() {
    "$volume" read "$1" | cmp - "$2" || fail "$1 is not $2"
}

# random FILE SIZE-IN-KIB [OFFSET-IN-KIB]
random() {
    dd if=/dev/urandom of="$1" bs=1K count="$2" seek="${3:-0}" conv=notrunc \
        status=none
}
