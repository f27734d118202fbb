#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest uses a volume as its disk, on each of QEMU's buses.

    disk.py BUS     virtio-blk, iothread, virtio-scsi or ide
"""
import sys

import harness

MIB = 192

# What carries the drive, and what the guest calls it.
BUSES = {
    'virtio-blk': ('/dev/vda', ['-device', 'virtio-blk-pci,drive=d0']),
    'iothread': ('/dev/vda', [
        '-object', 'iothread,id=io0',
        '-device', 'virtio-blk-pci,drive=d0,iothread=io0']),
    'virtio-scsi': ('/dev/sda', [
        '-device', 'virtio-scsi-pci,id=scsi0',
        '-device', 'scsi-hd,drive=d0,bus=scsi0.0']),
    'ide': ('/dev/sda', ['-device', 'ide-hd,drive=d0']),
}


class Disk(harness.GuestTest):
    def test_disk(self):
        device, arguments = BUSES[BUS]
        self.store.create('vol', MIB)
        drive = ['-drive', 'if=none,id=d0,' + self.store.drive('vol')]
        with self.qemu_guest('disk.sh', drive + arguments,
                             variables={'DEVICE': device}) as guest:
            guest.expect(f'size {MIB * 2048}')
            guest.expect('ranges')
            guest.expect('read back')
            said = guest.finish(timeout=240)[3:]

        sums = [text[5:] for text in said if text.startswith('file ')]
        self.assertEqual(len(sums), 8)
        image = self.export('vol')
        self.assertEqual(harness.sha256(image), said[-1].split()[1])
        self.check_files(image, [line.replace('  ', ' ') for line in sums])
        # 24 and 32 MiB were written and discarded again.
        self.assertLess(self.store.allocated_bytes(), 44 << 20)


if __name__ == '__main__':
    BUS = sys.argv.pop()
    harness.require_qemu_plugin()
    harness.require_programs('debugfs', 'e2fsck')
    harness.main()
