# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# What the tests of the command share.  A test sources this first; it then is in
# a temporary directory of its own, with an empty store in $ARCHIPELAGO_STORE,
# and fails at the first command that does.  $ARCHIPELAGO is the command,
# $HOLD_VOLUME a program that keeps a volume open.

set -euo pipefail
shopt -s inherit_errexit

: "${ARCHIPELAGO:?}" "${HOLD_VOLUME:?}" "${SOURCE_ROOT:?}"
python=/usr/bin/python3
cleanups=()

# Run COMMAND... when the test ends, the last one given first.
cleanup_fn()
{
    cleanups=("$(printf '%q ' "$@")" "${cleanups[@]}")
}

run_cleanups()
{
    local status=$? cleanup

    trap - EXIT
    set +e
    for cleanup in "${cleanups[@]}"; do
        eval "$cleanup"
    done
    exit "$status"
}
trap run_cleanups EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'echo "$0:$LINENO: \"$BASH_COMMAND\" failed" >&2' ERR

# End the test as skipped where the machine lacks something.
skip()
{
    echo "skipped: $*" >&2
    exit 77
}

# Commands that the test can't do without.
requires()
{
    local tool

    for tool; do
        command -v "$tool" > /dev/null || skip "$tool is not installed"
    done
}

requires_root()
{
    [ "$(id -u)" = 0 ] || skip "needs root"
}

# The line is that of the test itself.
fail()
{
    echo "$0:${BASH_LINENO[${#BASH_LINENO[@]} - 2]}: $*" >&2
    exit 1
}

# Up to 20 seconds until COMMAND... succeeds.
wait_for()
{
    local tries

    for ((tries = 0; tries < 400; tries++)); do
        if "$@"; then
            return
        fi
        sleep 0.05
    done
    fail "waited in vain for: $*"
}

# End process $1, a child, and wait for it.
end_process()
{
    kill "$1" 2> /dev/null || :
    wait "$1" 2> /dev/null || :
}

a()
{
    "$ARCHIPELAGO" "$@"
}

# expect_code CODE COMMAND...: it must exit so, and say something on stderr,
# which is kept in the file "err".
expect_code()
{
    local wanted=$1 code=0

    shift
    "$@" 2> err || code=$?
    [ "$code" = "$wanted" ] ||
        fail "exit code $code rather than $wanted: $*: $(cat err)"
    [ -s err ] || fail "no message: $*"
}

# The last message must hold each of the texts.
said()
{
    local text

    for text; do
        grep -qF -- "$text" err || fail "\"$text\" is not in: $(cat err)"
    done
}

# json EXPRESSION: evaluate it over `j`, what is on stdin, and print.
json()
{
    "$python" -c '
import json, sys
j = json.load(sys.stdin)
print(eval("(" + sys.argv[1] + ")"))
' "$1"
}

# The names of volumes, in one line.
names()
{
    a list --names | tr '\n' ' '
}

equal()
{
    [ "$1" = "$2" ] || fail "\"$1\" is not \"$2\""
}

# below NUMBER LIMIT
below()
{
    [ "$1" -lt "$2" ] || fail "$1 is not below $2"
}

# Bytes that the data of a volume, or a file, takes.
allocated()
{
    a du --json "$1" | json 'j["total"]["allocated_bytes"]'
}

file_allocated()
{
    echo $(($(stat -c %b "$1") * 512))
}

# Keep a volume open for writing in the background; sets `holder`.
hold()
{
    mkfifo "hold.$1"
    "$HOLD_VOLUME" "$ARCHIPELAGO_STORE" "$1" < "hold.$1" > "held.$1" &
    holder=$!
    cleanup_fn end_process "$holder"
    # What keeps it waiting: it ends at the end of its input.
    # shellcheck disable=SC2034
    exec {hold_fd}> "hold.$1"
    wait_for test -s "held.$1"
}

# A sparse file of 64 MiB: data in three places, not aligned to anything, and
# a hole at its beginning and end.
make_sparse()
{
    truncate -s 64M "$1"
    head -c 1500000 /dev/urandom |
        dd of="$1" bs=64K seek=5000001 oflag=seek_bytes conv=notrunc \
            status=none
    head -c 5 /dev/urandom |
        dd of="$1" bs=64K seek=30000000 oflag=seek_bytes conv=notrunc \
            status=none
    head -c 3000000 /dev/urandom |
        dd of="$1" bs=64K seek=40M oflag=seek_bytes conv=notrunc status=none
}
# shellcheck disable=SC2034
sparse_bytes_max=$((8 << 20))

temporary=$(mktemp -d "${TMPDIR:-/tmp}/archipelago-cli-XXXXXX")
cleanup_fn rm -rf "$temporary"
cd "$temporary"
mkdir store
unset ARCHIPELAGO_CONF
export ARCHIPELAGO_STORE=dir:$temporary/store
export XDG_CONFIG_HOME=$temporary/config XDG_DATA_HOME=$temporary/data
export LC_ALL=C.UTF-8 TZ=UTC
