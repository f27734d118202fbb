#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The loader: takes no driver but the one built for the program, says so, does
# no harm in other programs, and isn't inherited by what QEMU starts.
. "$(dirname "$0")/functions.sh"

img create -q -f raw archipelago:v 1M

### no driver for this build: one line, and the program goes on
mkdir "$work/empty"
ARCHIPELAGO_QEMU_DIR=$work/empty img create -q -f raw "$work/file" 1M \
    2>"$work/said"
[ -e "$work/file" ] || fail "qemu-img didn't go on"
[ "$(wc -l <"$work/said")" = 1 ] || fail "$(cat "$work/said")"
grep -q 'no driver for this QEMU ([0-9.]*, build [0-9a-f]\{40\})' "$work/said"
grep -q 'archipelago-qemu --build' "$work/said"
without() { ARCHIPELAGO_QEMU_DIR=$work/empty img info archipelago:v; }
fails_with "Unknown protocol 'archipelago'" without

### a driver under the wrong stamp isn't touched
mkdir -p "$work/wrong/0123456789012345678901234567890123456789"
cp "$(cat "$work/plugin")" "$work/wrong/"*/
wrong() { ARCHIPELAGO_QEMU_DIR=$work/wrong img info archipelago:v; }
fails_with 'no driver for this QEMU' wrong

### a driver that can't be loaded
stamp=$(basename "$(dirname "$(cat "$work/plugin")")")
mkdir -p "$work/bad/$stamp"
echo nothing >"$work/bad/$stamp/block-archipelago.so"
bad() { ARCHIPELAGO_QEMU_DIR=$work/bad img info archipelago:v; }
fails_with "can't load the driver" bad

### the second of two directories has it
ARCHIPELAGO_QEMU_DIR=$work/empty:$(dirname "$(dirname "$(cat "$work/plugin")")")
export ARCHIPELAGO_QEMU_DIR
says 'virtual size: 1 MiB' img info archipelago:v
unset ARCHIPELAGO_QEMU_DIR

### other programs notice nothing, and a QEMU below them has the driver
[ "$("$wrapper" echo hello 2>&1)" = hello ] || fail "noise in echo"
says 'virtual size' "$wrapper" sh -c "'${bin}qemu-img' info archipelago:v"
fails_with 'usage' "$wrapper"

### what QEMU starts doesn't inherit it, but what else was preloaded
incoming="exec:tr '\\0' '\\n' </proc/self/environ >$work/env; cat"
LD_PRELOAD=/usr/lib/none.so start qemu -accel tcg -machine q35 -nodefaults \
    -display none -incoming "$incoming" 2>"$work/qemu.err"
written() { [ -s "$work/env" ]; }
wait_for written
kill "$pid"
! grep -q archipelago-qemu-loader "$work/env" || fail "$(cat "$work/env")"
grep -q '^LD_PRELOAD=/usr/lib/none.so$' "$work/env"

### the driver is rebuilt only when something changed
before=$(stat -c %Y%i "$(cat "$work/plugin")")
"$wrapper" --build "${bin}qemu-img" >/dev/null
[ "$before" = "$(stat -c %Y%i "$(cat "$work/plugin")")" ] || fail "rebuilt"
fails_with 'not found' "$wrapper" --build no-such-qemu
fails_with 'built without modules' "$wrapper" --build /bin/true

echo ok
