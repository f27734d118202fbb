# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: stress-ng's stressors of files, verifying, in a new $FILESYSTEM
# on $DEVICE that discards; then the file system's own check.

. /suite.sh
attach $DEVICE
mkfs.$FILESYSTEM -q $DEVICE
mount -t $FILESYSTEM -o discard $DEVICE /mnt
say mounted

# stress STRESSOR:OPERATIONS... -- OPTION...: run them at once, and say how much
# they did.
stress() {
    stressors=
    while [ "$1" != -- ]; do
        stressors="$stressors $1"
        shift
    done
    shift
    for pair in $stressors; do
        set -- "$@" --${pair%:*} 1 --${pair%:*}-ops ${pair#*:}
    done
    stress-ng --seed $SEED --verify --temp-path /mnt --timeout 300 \
        --metrics-brief "$@" > /tmp/out 2>&1 || { cat /tmp/out; false; }
    cat /tmp/out
    # Its hdd finds wrong data, says so, and succeeds.
    if grep -q 'stress-ng: fail' /tmp/out; then
        return 1
    fi
    for pair in $stressors; do
        say did $pair $(sed -n \
            "s/.*metrc: \[[0-9]*\] ${pair%:*}  *\([0-9]*\)  .*/\1/p" /tmp/out)
    done
}

# What is read is to come from the disk.
while true; do
    echo 3 > /proc/sys/vm/drop_caches
    usleep 200000
done &
dropping=$!

# A round of hdd is 32 operations that write and 32 that read.
stress hdd:320 iomix:3000 seek:500 -- --hdd-bytes 2m --hdd-opts $HDD \
    --iomix-bytes 16m --seek-size 8m --seek-punch
stress fallocate:4 aiol:100 readahead:2000 -- --fallocate-bytes 8m \
    --readahead-bytes 8m
kill $dropping
say done
sync
fstrim /mnt
umount /mnt

case $FILESYSTEM in
ext4) e2fsck -fn $DEVICE ;;
xfs) xfs_repair -n $DEVICE ;;
esac
detach $DEVICE
