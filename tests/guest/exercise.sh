# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: `exercise` at once in an ext4 on /dev/vda and in an xfs on
# /dev/nbd0, which discard; then their own checks, and what is in the file after
# mounting again.

. /suite.sh
mkdir /mnt/ext4 /mnt/xfs

# each COMMAND [ARGUMENT...]: for both devices.
each() {
    "$@" ext4 /dev/vda
    "$@" xfs /dev/nbd0
}

prepare() {
    attach $2
    mkfs.$1 -q $2
    mount -t $1 -o discard $2 /mnt/$1
}

exercise_one() {
    exercise $SEED $STEPS /mnt/$1/file /tmp/$1
}

compare() {
    umount /mnt/$1
    if [ $1 = ext4 ]; then
        e2fsck -fn $2
    else
        xfs_repair -n $2
    fi
    mount -t $1 $2 /mnt/$1
    cmp /tmp/$1 /mnt/$1/file
    say $1 $(sha256sum < /mnt/$1/file)
    umount /mnt/$1
}

each prepare
say mounted
exercise_one ext4 & ext4=$!
exercise_one xfs
wait $ext4
say exercised
sync
fstrim /mnt/ext4
fstrim /mnt/xfs
each compare
detach /dev/nbd0
