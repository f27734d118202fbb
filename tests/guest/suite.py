# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests share that run other people's suites in a guest: the ways by
which the guest's disk is our volume, and the seed.

    virtio-blk  by QEMU's driver
    iothread    the same in an iothread
    nbd         the guest's nbd-client, by nbdkit on the host

Each run has another seed; it's printed, and GUEST_SEED=N repeats it.
"""
import contextlib
import os
import secrets

import harness

SEED = int(os.environ.get('GUEST_SEED') or secrets.randbits(31))
DEVICES = {'virtio-blk': '/dev/vda', 'iothread': '/dev/vda',
           'nbd': '/dev/nbd0'}
# The programs that make and check a file system.
FILESYSTEMS = {'ext4': ['mkfs.ext4', 'e2fsck'],
               'xfs': ['mkfs.xfs', 'xfs_repair']}
# fio, with all its libraries, lies in the guest's memory.
FIO_MIB = 512
# TCG on a busy machine, and suites that are made to be slow.
TIMEOUT = 400


class SuiteTest(harness.GuestTest):
    def setUp(self):
        super().setUp()
        print(f'seed: GUEST_SEED={SEED}', flush=True)

    def qemu_disk(self, way, volume):
        drive = ['-drive', 'if=none,id=d0,' + self.store.drive(volume)]
        device = 'virtio-blk-pci,drive=d0'
        if way == 'virtio-blk':
            return [*drive, '-device', device]
        return [*drive, '-object', 'iothread,id=io0',
                '-device', device + ',iothread=io0']

    @contextlib.contextmanager
    def attached(self, volumes, script, variables=None, programs=(), files=(),
                 **how):
        """A guest with `volumes`, a dict from way to volume: at most one of
        QEMU's and one by NBD."""
        arguments, wrapper = [], []
        variables = {'SEED': SEED, **(variables or {})}
        with contextlib.ExitStack() as stack:
            for way, volume in volumes.items():
                if way != 'nbd':
                    arguments += self.qemu_disk(way, volume)
                    wrapper = [harness.QEMU_WRAPPER]
                    continue
                server = stack.enter_context(
                    harness.Nbdkit(self.store.nbdkit(volume)))
                arguments += ['-netdev', 'user,id=n0', '-device',
                              'virtio-net-pci,netdev=n0']
                variables |= {'PORT': server.port, 'EXPORT': volume}
                programs = [*programs, 'nbd-client']
            yield stack.enter_context(self.guest(
                script, variables, arguments, programs, wrapper,
                files=['suite.sh', *files], **how))


def verify_by_fio(jobs, image, sections, **variables):
    """The image has what `sections` of fio's `jobs` wrote or expect."""
    given = {'SEED': SEED, **variables, 'DEVICE': image}
    harness.run('env', *[f'{name}={value}' for name, value in given.items()],
                'fio', '--verify_only',
                *[f'--section={name}' for name in sections],
                os.path.join(harness.HERE, jobs))


def check_filesystem(kind, image):
    if kind == 'ext4':
        harness.run('e2fsck', '-fn', image)
    else:
        harness.run('xfs_repair', '-n', '-f', image)


def require(ways, *programs):
    harness.require_programs('qemu-system-x86_64', *programs)
    for way in ways:
        if way == 'nbd':
            harness.require_programs('nbdkit', 'nbd-client')
        else:
            harness.require_qemu_plugin()
