#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""stress-ng in a guest, on a file system on a volume; that's checked in the
guest and on the host.

    stress.py FILESYSTEM    ext4 (by QEMU's driver) or xfs (by nbd-client)
"""
import sys

import harness
import suite

# The least that mkfs.xfs agrees to is 300 MiB.
MIB = 384
KINDS = {'ext4': ('virtio-blk', 'direct,wr-rnd,rd-rnd'),
         'xfs': ('nbd', 'fadv-dontneed,fdatasync,wr-seq,rd-rnd')}


class Stress(suite.SuiteTest):
    def test_stress(self):
        way, hdd = KINDS[FILESYSTEM]
        variables = {'DEVICE': suite.DEVICES[way], 'FILESYSTEM': FILESYSTEM,
                     'HDD': hdd}
        self.store.create('vol', MIB)
        with self.attached({way: 'vol'}, 'stress.sh', variables,
                           ['stress-ng', *suite.FILESYSTEMS[FILESYSTEM]],
                           modules=['xfs']) as guest:
            guest.expect('mounted')
            while guest.expect('d', suite.TIMEOUT) != 'one':
                self.check_count(guest)
            guest.finish(suite.TIMEOUT)
        suite.check_filesystem(FILESYSTEM, self.export('vol'))

    def check_count(self, guest):
        """A stressor was not cut short, nor did it do nothing."""
        _, goal, done = (guest.said[-1] + ' 0').split()[:3]
        if int(done) < int(goal.split(':')[1]):
            guest.hear()
            raise guest.error(f'stress-ng was to do {goal} and did {done}')


if __name__ == '__main__':
    FILESYSTEM = sys.argv.pop()
    suite.require([KINDS[FILESYSTEM][0]], 'stress-ng',
                  *suite.FILESYSTEMS[FILESYSTEM])
    harness.main()
