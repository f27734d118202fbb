# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: write more than the host has room for; the host pauses the guest
# meanwhile, and the guest knows nothing of it.

wait_for_device /dev/vda
mkfs.ext4 -q /dev/vda
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/mnt/before bs=1M count=4 conv=fsync 2>/dev/null
say ready
dd if=/dev/urandom of=/mnt/large bs=1M count=48 conv=fsync 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
cd /mnt
sha256sum before large | while read -r line; do say file $line; done
cd /
umount /mnt
e2fsck -fn /dev/vda
