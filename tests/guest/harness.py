# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the guest tests share: a store of their own, a guest, and the host's
other ways to the same data.

Everything lies in one temporary directory a test; what was started is ended
by its process id.  Exit status 77 with a reason is a skip, as in Meson's
protocol.
"""
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get('ARCHIPELAGO_BUILD', os.path.join(ROOT, 'build'))
CLI = os.path.join(BUILD, 'src/cli/archipelago')
NBDKIT_PLUGIN = os.path.join(BUILD,
                             'nbdkit-plugin/nbdkit-archipelago-plugin.so')
QEMU_WRAPPER = os.path.join(BUILD, 'block/archipelago-qemu')
os.environ['PATH'] += ':/usr/sbin:/sbin'

sys.path.insert(0, os.path.join(ROOT, 'scripts'))
from guestkit import initramfs, kernel, machine  # noqa: E402

MODULES = ['virtio_pci', 'virtio_blk', 'virtio_scsi', 'ata_piix', 'sd_mod',
           'virtio_net', 'nbd', 'ext4']
PROGRAMS = ['mkfs.ext4', 'e2fsck', 'blkdiscard']


def skip(reason):
    print('skip:', reason)
    sys.exit(77)


def require_programs(*names):
    for name in names:
        if not shutil.which(name):
            skip(f'{name} is not installed')


def require_qemu_plugin():
    require_programs('qemu-system-x86_64')
    done = subprocess.run([QEMU_WRAPPER, '--build', 'qemu-system-x86_64'],
                          stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 3:
        skip("the source of the installed QEMU can't be had: "
             + done.stdout.replace('\n', ' '))
    if done.returncode:
        sys.exit(f'the QEMU plugin cannot be built:\n{done.stdout}')


def run(*command, success=(0,)):
    """The output of a command, which must exit with one of `success`."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode not in success:
        raise AssertionError(f'{" ".join(command)}: exit status '
                             f'{done.returncode}\n{done.stdout}')
    return done.stdout


def sha256(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while some := file.read(1 << 20):
            digest.update(some)
    return digest.hexdigest()


class Store:
    """A dir store and the ways into it."""

    def __init__(self, directory):
        self.directory = os.path.join(directory, 'store')
        self.location = 'dir:' + self.directory
        os.mkdir(self.directory)

    def create(self, name, mib):
        run(CLI, 'create', '--store', self.location, name, f'{mib}M')

    def export(self, name, path):
        run(CLI, 'export', '--store', self.location, name, path)

    def drive(self, name):
        """The value of QEMU's -drive without its interface."""
        return (f'file.driver=archipelago,file.store={self.location},'
                f'file.volume={name},format=raw,discard=unmap')

    def nbdkit(self, name):
        """The arguments with which nbdkit serves a volume."""
        return [NBDKIT_PLUGIN, 'store=' + self.location, 'volume=' + name]

    def allocated_bytes(self):
        """What the store's files take, asked of the file system; without what
        it keeps back for when that is full."""
        return sum(os.lstat(os.path.join(here, name)).st_blocks * 512
                   for here, _, names in os.walk(self.directory)
                   for name in names if name != 'reserve')


class Nbdkit:
    """nbdkit on a port of the loopback address and nowhere else."""

    def __init__(self, arguments):
        self.arguments = arguments

    def __enter__(self):
        for _ in range(3):          # the port may go to somebody else
            self.start()
            if self.answers():
                return self
            self.__exit__()
        raise AssertionError('nbdkit does not answer')

    def start(self):
        self.port = free_port()
        self.process = subprocess.Popen(
            ['nbdkit', '--foreground', '--exit-with-parent', '--ipaddr',
             '127.0.0.1', '--port', str(self.port), *self.arguments],
            stdin=subprocess.DEVNULL)

    def answers(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(('127.0.0.1', self.port)).close()
                return self.process.poll() is None
            except ConnectionRefusedError:
                time.sleep(0.05)
        return False

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Monitor:
    """QEMU's QMP socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(120)
        self.socket.connect(path)
        self.lines = self.socket.makefile('rw')
        self.events = []
        self.lines.readline()
        self.execute('qmp_capabilities')

    def close(self):
        self.lines.close()
        self.socket.close()

    def execute(self, command, **arguments):
        json.dump({'execute': command, 'arguments': arguments}, self.lines)
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if 'event' in answer:
                self.events.append(answer)
            elif 'error' in answer:
                raise AssertionError(f'{command}: {answer["error"]}')
            else:
                return answer['return']

    def wait_event(self, name):
        while True:
            for event in self.events:
                if event['event'] == name:
                    self.events.remove(event)
                    return event.get('data')
            self.events.append(json.loads(self.lines.readline()))


class GuestTest(unittest.TestCase):
    """A test with a temporary directory and a store in it."""

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix='archipelago-guest-')
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.store = Store(self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def guest(self, script, variables=None, arguments=(), programs=(),
              wrapper=(), modules=(), files=(), **how):
        """A machine that runs the guest script `script`, a file beside this
        one, with the shell `variables` set and `files` of here in its /."""
        with open(self.path('test'), 'w') as test:
            for name, value in (variables or {}).items():
                test.write(f"{name}='{value}'\n")
            with open(os.path.join(HERE, script)) as source:
                test.write(source.read())
        unpacked = kernel.get()
        initramfs.build(self.path('initramfs'), unpacked, machine.INIT,
                        [*MODULES, *modules], [*PROGRAMS, *programs],
                        {**{name: os.path.join(HERE, name) for name in files},
                         'test': self.path('test'),
                         'etc/mke2fs.conf': '/etc/mke2fs.conf'})
        return machine.Machine(self.directory, unpacked,
                               self.path('initramfs'), arguments, wrapper,
                               **how)

    def qemu_guest(self, script, arguments, **how):
        return self.guest(script, arguments=arguments, wrapper=[QEMU_WRAPPER],
                          **how)

    def export(self, name):
        path = self.path(name + '.raw')
        self.store.export(name, path)
        return path

    def extract(self, image):
        """The files of an ext4 image, in a directory, without mounting."""
        into = self.path('files')
        shutil.rmtree(into, ignore_errors=True)
        os.mkdir(into)
        run('debugfs', '-R', f'rdump / {into}', image)
        return into

    def check_files(self, image, sums):
        """The ext4 image is whole, and has the files of `sums` (as sha256sum
        prints them, one a line) with those sums."""
        run('e2fsck', '-fn', image)
        into = self.extract(image)
        self.assertTrue(sums)
        for line in sums:
            digest, name = line.split()
            self.assertEqual(sha256(os.path.join(into, name)), digest, name)


def main():
    unittest.main(verbosity=2)
