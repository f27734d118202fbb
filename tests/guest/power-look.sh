# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: the $DISKS disks of a SCSI bus were under power-load.sh when
# their power was cut.  For each, the file system is mounted, which replays its
# journal; cut-load looks at the store; the file system is checked.  What is
# found goes to /dev/vda, in places of $PLACE bytes, as cut-load has it, with a
# message at 128 KiB if anything failed.

# The build may lie below the host's /tmp: then its libraries are in this one.
umount /tmp
export LD_LIBRARY_PATH=$LIBRARIES

# put OFFSET: what comes in goes there.
put() {
    dd of=/dev/vda bs=4096 seek=$((($place + $1) / 4096)) conv=sync 2>/dev/null
}

check_filesystem() {
    case $FILESYSTEM in
    ext4) e2fsck -fn $1 ;;
    xfs) xfs_repair -n $1 ;;
    esac
}

# In words of its own: `set -e` doesn't hold where a failure is waited for.
look() {
    mount -t $FILESYSTEM $1 /mnt || return
    cut-load look dir:/mnt/store /dev/vda $place || return
    umount /mnt || return
    check_filesystem $1
}

# The name of the disk with the number $1 on the bus: the kernel finds them in
# any order.
disk_name() {
    for try in $(seq 300); do
        for path in /sys/bus/scsi/devices/*:0:$1:0/block/*; do
            [ ! -e "$path" ] || { echo "${path##*/}"; return 0; }
        done
        usleep 100000
    done
    return 1
}

wait_for_device /dev/vda
place=0
for number in $(seq 0 $((DISKS - 1))); do
    disk=$(disk_name $number)
    wait_for_device /dev/$disk
    if (set +e; look /dev/$disk) > /tmp/message 2>&1; then
        say fine
    else
        (set +e; ls -lR /mnt) >> /tmp/message 2>&1
        put 131072 < /tmp/message
        say failed
        umount /mnt 2>/dev/null || true
    fi
    place=$((place + PLACE))
done
sync
