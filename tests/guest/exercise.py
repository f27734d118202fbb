#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every way to change a file, against an image of it in memory (exercise.c), on
two file systems at once: ext4 by QEMU's driver, xfs by nbd-client."""
import os

import harness
import suite

MIB = 384
STEPS = 1500
PROGRAM = os.path.join(harness.BUILD, 'tests/guest/exercise')


class Exercise(suite.SuiteTest):
    def test_file(self):
        self.store.create('disk', MIB)
        self.store.create('served', MIB)
        programs = [PROGRAM, *suite.FILESYSTEMS['xfs']]
        with self.attached({'iothread': 'disk', 'nbd': 'served'}, 'exercise.sh',
                           {'STEPS': STEPS}, programs,
                           modules=['xfs']) as guest:
            guest.expect('mounted')
            guest.expect('exercised', suite.TIMEOUT)
            digest = guest.expect('ext4').split()[0]
            guest.expect('xfs')
            guest.finish(suite.TIMEOUT)
        self.check_files(self.export('disk'), [f'{digest}  file'])
        suite.check_filesystem('xfs', self.export('served'))


if __name__ == '__main__':
    suite.require(['iothread', 'nbd'], 'debugfs', *suite.FILESYSTEMS['xfs'])
    harness.main()
