#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file system below the store fills up under a running guest.

The store lies on a small ext4 of its own, mounted in a mount namespace of this
process's own; a file that fills it up is removed to make room.
"""
import os
import sys

import harness

FREE_MIB = 24
SMALL_MIB = 160
VOLUME_MIB = 96


class Full(harness.GuestTest):
    def setUp(self):
        super().setUp()
        small, where = self.path('small'), self.path('mnt')
        with open(small, 'wb') as file:
            file.truncate(SMALL_MIB << 20)
        harness.run('mkfs.ext4', '-q', '-m', '0', small)
        os.mkdir(where)
        harness.run('mount', '-o', 'loop', small, where)
        self.addCleanup(harness.run, 'umount', where)
        self.store = harness.Store(where)
        self.store.create('vol', VOLUME_MIB)
        self.filler = os.path.join(where, 'filler')
        self.fill()

    def fill(self):
        state = os.statvfs(self.store.directory)
        size = state.f_bavail * state.f_frsize - (FREE_MIB << 20)
        with open(self.filler, 'wb') as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def machine(self, script, policy):
        drive = ['-drive', f'if=virtio,werror={policy},'
                 + self.store.drive('vol')]
        return self.qemu_guest(script, drive)

    def test_guest_pauses_and_goes_on(self):
        with self.machine('full-pause.sh', 'enospc') as guest:
            guest.expect('ready')
            monitor = harness.Monitor(guest.monitor_path)
            self.addCleanup(monitor.close)
            event = monitor.wait_event('BLOCK_IO_ERROR')
            self.assertTrue(event['nospace'], event)
            monitor.wait_event('STOP')
            os.unlink(self.filler)
            monitor.execute('cont')
            said = guest.finish(timeout=240)
        sums = [text[5:] for text in said if text.startswith('file ')]
        self.assertEqual(len(sums), 2)
        self.check_files(self.export('vol'), sums)

    def test_guest_gets_an_error_and_goes_on(self):
        with self.machine('full-error.sh', 'report') as guest:
            guest.expect('error')
            guest.expect('kept')
            os.unlink(self.filler)
            guest.say('room')
            said = guest.finish(timeout=240)
        with open(self.export('vol'), 'r+b') as image:
            image.truncate(48 << 20)
        self.assertEqual(harness.sha256(self.path('vol.raw')),
                         said[-1].split()[1])


if __name__ == '__main__':
    harness.require_qemu_plugin()
    harness.require_programs('debugfs', 'e2fsck', 'unshare', 'mkfs.ext4')
    if os.geteuid() != 0:
        harness.skip('mounting a file system needs root')
    try:
        harness.run('losetup', '--find')
    except AssertionError as error:
        harness.skip(f'there are no loop devices: {error}')
    if not os.environ.get('GUEST_FULL_UNSHARED'):
        os.execvpe('unshare', ['unshare', '--mount', sys.executable,
                               *sys.argv],
                   dict(os.environ, GUEST_FULL_UNSHARED='1'))
    harness.main()
