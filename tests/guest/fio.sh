# SPDX-License-Identifier: LGPL-2.1-or-later
#
# In the guest: fio's jobs on the bare $DEVICE; what they wrote is verified by
# the jobs themselves, and once more after all of them.

. /suite.sh
export DEVICE SEED
attach $DEVICE
say attached

run_fio fio.job
say written
run_fio fio-trim.job
say trimmed
echo 3 > /proc/sys/vm/drop_caches
run_fio --verify_only fio.job
sync $DEVICE
detach $DEVICE
