#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""kill -9 of QEMU while fio writes in its guest: every part of the disk that
fio had synced is there with its last contents, for fio in the next guest and on
the host.  The parts come round, so that old contents would be found out."""
import harness
import suite

MIB = 48
PARTS = 4
# So many parts are synced before the kill, in each round: when all is over some
# are of the first and some of the second.
COUNTS = [6, 2]


class FioKill(suite.SuiteTest):
    def round(self, number, count):
        variables = {
            'PARTS': PARTS, 'SEED': suite.SEED + 1000 * number,
            'EXPECTED': ' '.join(f'{offset}:{seed}' for offset, seed
                                 in self.synced.items())}
        with self.attached({'virtio-blk': 'vol'}, 'fio-kill.sh', variables,
                           ['fio'], ['fio-kill.job'],
                           memory_mib=suite.FIO_MIB) as guest:
            guest.expect('verified', suite.TIMEOUT)
            while count:
                count -= self.hear_part(guest)
            guest.expect('begins')
            self.synced.pop(guest.said[-1].split()[1], None)
            guest.kill()

    def hear_part(self, guest):
        """Take in the next message; True if a part was synced."""
        said = (guest.hear(suite.TIMEOUT) or '').split()
        if said[:1] == ['begins']:
            self.synced.pop(said[1], None)
        elif said[:1] == ['synced']:
            self.synced[said[1]] = said[2]
        else:
            raise guest.error('the guest stopped writing')
        return said[0] == 'synced'

    def test_synced_parts_survive(self):
        self.store.create('vol', MIB)
        self.synced = {}
        for number, count in enumerate(COUNTS):
            self.round(number, count)
        image = self.export('vol')
        self.assertEqual(len(self.synced), PARTS - 1)
        for offset, seed in self.synced.items():
            suite.verify_by_fio('fio-kill.job', image, ['part'],
                                OFFSET=offset, SEED=seed, CHECK=1)


if __name__ == '__main__':
    suite.require(['virtio-blk'], 'fio')
    harness.main()
