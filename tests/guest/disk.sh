# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: everything a disk is used for, on $DEVICE.

wait_for_device $DEVICE
say size $(cat /sys/block/${DEVICE#/dev/}/size)

# Discarded and zeroed ranges read as zeroes, their neighbours stay.
dd if=/dev/urandom of=/tmp/random bs=1M count=24 2>/dev/null
dd if=/tmp/random of=$DEVICE bs=1M oflag=direct 2>/dev/null
/bin/blkdiscard -o 4M -l 8M $DEVICE
/bin/blkdiscard -z -o 16M -l 4100K $DEVICE
echo 3 > /proc/sys/vm/drop_caches
for range in 4:8 16:4; do
    dd if=/dev/zero of=/tmp/random bs=1M seek=${range%:*} \
        count=${range#*:} conv=notrunc 2>/dev/null
done
dd if=/dev/zero of=/tmp/random bs=1K seek=20480 count=4 conv=notrunc \
    2>/dev/null
dd if=$DEVICE bs=1M count=24 2>/dev/null | cmp - /tmp/random
say ranges
rm /tmp/random
/bin/blkdiscard $DEVICE

mkfs.ext4 -q $DEVICE
mount -t ext4 $DEVICE /mnt
cd /mnt
mkdir directory
for i in 1 2 3 4 5 6 7 8; do
    dd if=/dev/urandom of=directory/file$i bs=50001 count=$((i * 7))
done 2>/dev/null
dd if=/dev/urandom of=large bs=1M count=32 2>/dev/null
sync
sha256sum directory/* large > /tmp/sums
echo 3 > /proc/sys/vm/drop_caches
sha256sum -c /tmp/sums > /dev/null
say read back
rm large
sync
cd /
fstrim /mnt
umount /mnt

mount -t ext4 $DEVICE /mnt
grep -v large /tmp/sums | while read -r line; do say file $line; done
umount /mnt
e2fsck -fn $DEVICE
echo 3 > /proc/sys/vm/drop_caches
say device $(sha256sum < $DEVICE)
