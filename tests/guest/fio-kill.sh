# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: fio writes and syncs part after part of the disk, each time with
# another seed, until QEMU is killed.  Before, the parts that an earlier life of
# the guest was sure of are verified: $EXPECTED, a list of OFFSET:SEED.

. /suite.sh
DEVICE=/dev/vda
OFFSET=0
CHECK=0
export CHECK DEVICE OFFSET SEED
attach $DEVICE
for pair in $EXPECTED; do
    (
        CHECK=1
        OFFSET=${pair%:*}
        SEED=${pair#*:}
        run_fio --section=part --verify_only fio-kill.job
    )
done
say verified
fio --section=noise fio-kill.job > /dev/null &
noise=$!
i=0
while true; do
    OFFSET=$((i % PARTS))M
    say begins $OFFSET
    SEED=$((SEED + 1))
    run_fio --section=part fio-kill.job
    kill -0 $noise
    say synced $OFFSET $SEED
    i=$((i + 1))
done
