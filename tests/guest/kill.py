#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""kill -9 of QEMU while its guest writes: what the guest knew to be synced is
there afterwards, for the next guest and for the host."""
import harness

ROUNDS = 3


class Kill(harness.GuestTest):
    def round(self, number, sums, count):
        """Boot, let `count` files be written, kill; returns their sums."""
        drive = ['-drive', 'if=virtio,' + self.store.drive('vol')]
        expected = ' '.join(line.replace(' ', ':') for line in sums)
        variables = {'ROUND': number, 'EXPECTED': expected}
        with self.qemu_guest('kill.sh', drive, variables=variables) as guest:
            guest.expect('mounted')
            for _ in range(count):
                if guest.hear() is None:
                    raise guest.error('the guest stopped writing')
            guest.kill()
            return guest.said[1:]

    def test_synced_files_survive(self):
        self.store.create('vol', 128)
        sums = []
        for number in range(1, ROUNDS + 1):
            sums += self.round(number, sums, 17 + 13 * number)
        image = self.export('vol')
        # 0 and 1: nothing but the journal's replay was needed.
        harness.run('e2fsck', '-fp', image, success=(0, 1))
        self.check_files(image, sums)


if __name__ == '__main__':
    harness.require_qemu_plugin()
    harness.require_programs('debugfs', 'e2fsck')
    harness.main()
