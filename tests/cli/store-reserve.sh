#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A full file system (tmpfs, or that of $1 on a loop device): what has room goes
# on, metadata commands work, new data gets code 7; and all goes on once there is
# room.
# It mounts in a mount namespace of its own.
if [ "$(id -u)" = 0 ] && [ -z "${STORE_RESERVE_UNSHARED:-}" ]; then
    STORE_RESERVE_UNSHARED=1 exec unshare --mount "$0" "$@"
fi
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires_root

reserve_bytes()
{
    echo $(($(stat -c %b small/store/reserve 2> /dev/null || echo 0) * 512))
}

# To the last page.
fill()
{
    local size

    sync -f small
    for size in 1M 4K; do
        dd if=/dev/zero bs=$size oflag=append conv=notrunc,fsync \
            of=small/filler status=none 2> /dev/null || :
    done
    below "$(stat -f -c '%a * %S' small | "$python" -c 'print(eval(input()))')" \
        65536
}

# mount_small KIND SIZE [OPTION...]
mount_small()
{
    local kind=$1 size=$2

    mkdir small
    if [ "$kind" = tmpfs ]; then
        mount -t tmpfs -o "size=$size" none small
    else
        requires "mkfs.$kind" losetup
        losetup --find > /dev/null 2>&1 || skip "there are no loop devices"
        truncate -s "$size" image
        "mkfs.$kind" -q "${@:3}" image
        # A kernel may lack it.
        mount -o loop image small || skip "cannot mount $kind"
    fi
    cleanup_fn umount "$temporary/small"
}

case ${1:-tmpfs} in
    tmpfs) mount_small tmpfs 32M ;;
    ext4) mount_small ext4 128M -m 0 ;;
    xfs) mount_small xfs 320M ;;
esac
mkdir small/store
export ARCHIPELAGO_STORE=dir:$temporary/small/store
head -c 4M /dev/urandom > r
head -c 4M /dev/urandom > s
a import r v
cat r s > both
a import both old
a create sparse 64M 2> /dev/null
whole=$(reserve_bytes)
equal "$whole" "$(a status --json | json 'j["reserve_wanted_bytes"]')"

fill
# Reading and looking.
a export v - | cmp - r
a info v > /dev/null
a map v > /dev/null
a du v > /dev/null
a list > /dev/null
a check > checked || fail "$(cat checked)"
a metadata export backup
[ -s backup ]
equal "$(a status --json | json 'j["space"]')" full
a status | grep -q '^Warning: *the store is full'
a info v | grep -q '^Warning: *the store is full'
# An overwrite.
"$WRITE_VOLUME" "$ARCHIPELAGO_STORE" v write < s
a export v - | cmp - s
# What needs new room: refused, and nothing is broken.
expect_code 7 "$WRITE_VOLUME" "$ARCHIPELAGO_STORE" sparse write < r
said "No space left on device"
expect_code 7 a import r more
# Metadata.
for i in 1 2 3 4 5; do
    a create "new$i" 1T 2> /dev/null
    a resize v $((i * 10))M
    a resize v 4M --allow-shrink
    a remove "new$i"
done
a create new 1T 2> err
said over-committed
grep -Eq 'the store is full|critical from 95 %' err
a export v - | cmp - s
a check > checked || fail "$(cat checked)"
[ "${1:-tmpfs}" != tmpfs ] || below "$(reserve_bytes)" "$whole"
below $((whole / 4)) "$(reserve_bytes)"
# A process that dies with discards that it flushed, and ones that it didn't.
code=0
"$WRITE_VOLUME" "$ARCHIPELAGO_STORE" old die || code=$?
equal "$code" 137
fill
a check > /dev/null || [ $? = 8 ]
"$WRITE_VOLUME" "$ARCHIPELAGO_STORE" old open < /dev/null
# What it had no time to remove.
a check --repair > checked || [ $? = 9 ] || fail "$(cat checked)"
a check > checked || fail "$(cat checked)"
a export old out
cmp -n $((4 << 20)) out /dev/zero
# Removing, which gives its room to the reserve first.
fill
a remove old
equal "$(reserve_bytes)" "$whole"
# Room: all goes on.
rm small/filler
"$WRITE_VOLUME" "$ARCHIPELAGO_STORE" sparse write < r
rm out
a export sparse out
cmp -n $((4 << 20)) out r
a import s more
equal "$(reserve_bytes)" "$whole"
equal "$(a status --json | json 'j["space"], j["warnings"]')" "('ok', [])"
a check > checked || fail "$(cat checked)"
