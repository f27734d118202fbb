# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: the kernel's NBD driver, attached by nbd-client to $PORT on the
# host with $CONNECTIONS connections.

try=0
until nbd-client 10.0.2.2 "$PORT" /dev/nbd0 -N "$EXPORT" \
    -C "$CONNECTIONS"; do
    try=$((try + 1))
    [ $try -lt 3 ]
    sleep 1
done
say size $(cat /sys/block/nbd0/size)

mkfs.ext4 -q /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
cd /mnt
for i in 1 2 3 4 5 6; do
    dd if=/dev/urandom of=file$i bs=50001 count=$((i * 9)) conv=fsync
done 2>/dev/null
dd if=/dev/urandom of=large bs=1M count=32 conv=fsync 2>/dev/null
sha256sum file* > sums
sync
echo 3 > /proc/sys/vm/drop_caches
sha256sum -c sums > /dev/null
while read -r line; do say file $line; done < sums
rm large
sync
cd /
fstrim /mnt
umount /mnt

e2fsck -fn /dev/nbd0
echo 3 > /proc/sys/vm/drop_caches
say device $(sha256sum < /dev/nbd0)
nbd-client -d /dev/nbd0
try=0
while [ "$(cat /sys/block/nbd0/size)" != 0 ]; do
    try=$((try + 1))
    [ $try -lt 50 ]
    usleep 100000
done
say detached
