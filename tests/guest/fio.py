#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""fio on a guest's bare disk: random reads and writes of mixed sizes by several
jobs, trims, all verified by CRC in the guest and again on the host.

    fio.py WAY      iothread or nbd, see suite.py
"""
import sys

import harness
import suite

MIB = 128
SECTIONS = ['mixed-sizes', 'mostly-reads', 'parallel', 'trimmed-first',
            'synced', 'sequential', 'neighbours']


class Fio(suite.SuiteTest):
    def test_fio(self):
        self.store.create('vol', MIB)
        with self.attached({WAY: 'vol'}, 'fio.sh',
                           {'DEVICE': suite.DEVICES[WAY]}, ['fio'],
                           ['fio.job', 'fio-trim.job'],
                           memory_mib=suite.FIO_MIB) as guest:
            guest.expect('attached')
            guest.expect('written', suite.TIMEOUT)
            guest.expect('trimmed', suite.TIMEOUT)
            guest.finish(suite.TIMEOUT)
        image = self.export('vol')
        suite.verify_by_fio('fio.job', image, SECTIONS)
        suite.verify_by_fio('fio-trim.job', image, ['zeroes'])
        # With what was trimmed it were 8 MiB more.
        self.assertLess(self.store.allocated_bytes(), 72 << 20)


if __name__ == '__main__':
    WAY = sys.argv.pop()
    suite.require([WAY], 'fio')
    harness.main()
