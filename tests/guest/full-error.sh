# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: write to the bare disk until the host's lack of room comes
# through as an error; what was written before stays, and the disk works on
# as soon as there is room.

wait_for_device /dev/vda
dd if=/dev/urandom of=/tmp/a bs=1M count=8 2>/dev/null
dd if=/dev/urandom of=/tmp/b bs=1M count=40 2>/dev/null
dd if=/tmp/a of=/dev/vda bs=1M conv=fsync oflag=direct 2>/dev/null
! dd if=/tmp/b of=/dev/vda bs=1M seek=8 oflag=direct 2>/dev/null
say error
dd if=/dev/vda bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/a
say kept
hear
dd if=/tmp/b of=/dev/vda bs=1M seek=8 conv=fsync oflag=direct 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
cat /tmp/a /tmp/b > /tmp/both
dd if=/dev/vda bs=1M count=48 2>/dev/null | cmp - /tmp/both
say both $(sha256sum < /tmp/both)
