#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One writer: others are told who it is; readers come in; a dead one is no
# holder; reopening takes the lock and gives it back.
. "$(dirname "$0")/functions.sh"

img create -q -f raw archipelago:v 4M

# A qemu-io that does what is written to its standard input.
mkfifo "$work/commands"
interactive() {
    exec stdbuf -o0 "${run[@]}" "${bin}qemu-io" -f raw "$@" archipelago:v \
        <"$work/commands" >"$work/io.out" 2>&1
}
start interactive
exec 8>"$work/commands"

# tell COMMAND: one at a time, until qemu-io asks for the next
prompts() { grep -o 'qemu-io> ' "$work/io.out" | wc -l; }
prompted() { [ "$(prompts)" -gt "$1" ]; }
tell() {
    local before
    before=$(prompts)
    echo "$1" >&8
    wait_for prompted "$before"
}
held() { [ -n "$("$volume" holder v)" ]; }
free() { ! held; }
wait_for held

### the second writer
holder=$("$volume" holder v)
[ "$holder" = "qemu-io $pid" ] || fail "holder is '$holder', not qemu-io $pid"
fails_with "$pid" io -f raw -c 'write 0 512' archipelago:v
fails_with 'qemu-io' img resize -f raw archipelago:v +1M
says 'virtual size: 4 MiB' img info archipelago:v
says 'identical' img compare -f raw -F raw archipelago:v archipelago:v

### reopened read-only it lets go; and takes it again
tell 'reopen -r'
wait_for free
io -f raw -c 'write -q -P 2 0 4K' archipelago:v
tell 'reopen -w'
wait_for held
tell 'read -P 2 0 4K'
tell 'write -P 3 4K 4K'
wait_for grep -q 'wrote 4096/4096' "$work/io.out"
! grep -q 'verification failed' "$work/io.out" || fail "stale after reopen"

### reopening that can't have the lock changes nothing
tell 'reopen -r'
wait_for free
mkfifo "$work/stop"
hold() { exec "$volume" hold v <"$work/stop" >"$work/hold.out"; }
start hold
exec 7>"$work/stop"
wait_for held
tell 'reopen -w'
wait_for grep -q 'volume-test' "$work/io.out"
tell 'read -P 3 4K 4K'
wait_for grep -q 'read 4096/4096 bytes at offset 4096' "$work/io.out"
exec 7>&-
wait_for free

### a dead holder
tell 'reopen -w'
wait_for held
tell 'write -P 4 8K 4K'
tell 'flush'
tell 'write -P 4 12K 4K'
wait_for grep -q 'at offset 12288' "$work/io.out"
kill -9 "${started[0]}"
wait_for free
says 'read 4096' io -f raw -c 'read -P 4 8K 4K' -c 'write -P 5 8K 4K' \
    archipelago:v

echo ok
