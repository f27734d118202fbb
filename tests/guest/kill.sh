# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: write files, fsync each and say so, until killed.  Before, those
# that an earlier life of the guest was sure of must be there: $EXPECTED, a list
# of SUM:NAME.

wait_for_device /dev/vda
[ $ROUND -gt 1 ] || mkfs.ext4 -q /dev/vda
mount -t ext4 /dev/vda /mnt
for pair in $EXPECTED; do
    [ "$(sha256sum < /mnt/${pair#*:})" = "${pair%:*}  -" ]
done
say mounted
i=0
while true; do
    i=$((i + 1))
    file=round$ROUND-$i
    dd if=/dev/urandom of=/tmp/file bs=3001 count=$((i % 40 + 1)) 2>/dev/null
    sum=$(sha256sum < /tmp/file)
    dd if=/tmp/file of=/mnt/$file bs=8K conv=fsync 2>/dev/null
    say "${sum%% *} $file"
    # Overwriting and removing must not take away what stays.
    if [ $((i % 5)) = 0 ]; then
        dd if=/dev/urandom of=/mnt/scratch bs=64K count=$((i % 9 + 1)) \
            conv=fsync 2>/dev/null
    fi
done
