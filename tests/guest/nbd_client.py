#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own NBD client on a volume: nbd.ko and nbd-client in a guest
with Debian's kernel, nbdkit with the plugin on the host."""
import harness

MIB = 192


class NbdClient(harness.GuestTest):
    def serve_and_run(self, connections):
        self.store.create('vol', MIB)
        network = ['-netdev', 'user,id=n0', '-device',
                   'virtio-net-pci,netdev=n0']
        with harness.Nbdkit(self.store.nbdkit('vol')) as server:
            variables = {'PORT': server.port, 'EXPORT': 'vol',
                         'CONNECTIONS': connections}
            with self.guest('nbd-client.sh', variables, network,
                            programs=['nbd-client']) as guest:
                said = guest.finish(timeout=240)
            self.check(said)
            # The server is still there: copy out over NBD as well.
            copy = self.path('copied.raw')
            harness.run('nbdcopy', f'nbd://127.0.0.1:{server.port}/vol', copy)
            self.assertEqual(harness.sha256(copy), self.device)

        exported = self.export('vol')
        self.assertEqual(harness.sha256(exported), self.device)
        self.check_files(exported, self.sums)
        # 32 MiB were written and trimmed again.
        self.assertLess(self.store.allocated_bytes(), 40 << 20)

    def check(self, said):
        self.assertEqual(said[0], f'size {MIB * 2048}')
        self.assertEqual(said[-1], 'detached')
        self.sums = [text[5:] for text in said if text.startswith('file ')]
        self.assertEqual(len(self.sums), 6)
        device = [text for text in said if text.startswith('device ')]
        self.device = device[0].split()[1]

    def test_one_connection(self):
        self.serve_and_run(1)

    def test_four_connections(self):
        self.serve_and_run(4)


if __name__ == '__main__':
    harness.require_programs('qemu-system-x86_64', 'nbdkit', 'nbd-client',
                             'nbdcopy', 'debugfs')
    harness.main()
