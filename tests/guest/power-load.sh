# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: load on a store in the file system on /dev/vda, whose writes are
# logged outside.  What lies behind the file system is cut-load's tape.

wait_for_device /dev/vda
mount -t $FILESYSTEM /dev/vda /mnt
mkdir /mnt/store
sync
say begin
# The build may lie below the host's /tmp: then its libraries are in this one.
umount /tmp
export LD_LIBRARY_PATH=$LIBRARIES
cut-load load "dir:/mnt/store?io=$IO" "$(which archipelago)" /dev/vda \
    $TAPE $SEED $REQUESTS
say end
