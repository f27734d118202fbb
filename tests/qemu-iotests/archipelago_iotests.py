# SPDX-License-Identifier: GPL-2.0-or-later
"""What our tests in the style of QEMU's iotests share.

Next to each test in the harness's tests/ folder.  From the environment, besides
what QEMU's `check` sets: ARCHIPELAGO, the path of the command, and
ARCHIPELAGO_STORE, the default store, which is there and empty.

There is no guest under qtest, so requests come from two other places: Load, a
client of QEMU's NBD server, whose requests enter above jobs and filters as a
guest's do; and GuestDisk, which drives an IDE disk's registers, for what only
devices do (stopping at errors, migrating).
"""
import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time

import iotests

KIB = 1 << 10
MIB = 1 << 20
STORE = os.environ.get('ARCHIPELAGO_STORE', '')
WAIT_SECONDS = 120              # a machine may be very busy


# --- Volumes -----------------------------------------------------------------

def archipelago(*args):
    """Run the command; what it printed."""
    return subprocess.run([os.environ['ARCHIPELAGO'], *args], check=True,
                          stdout=subprocess.PIPE, text=True).stdout


def volume(name):
    return f'archipelago:{name}'


def volumes():
    """The names of those in the default store."""
    return archipelago('list', '--names').split()


def holder(name):
    """The process that has the volume open for writing, or None."""
    held = json.loads(archipelago('info', '--json', name))['holder']
    return held and held['pid']


def remove_volumes():
    names = volumes()
    if names:
        archipelago('remove', '--yes', *names)


def protocol_node(name, **options):
    """What -blockdev takes, for the volume itself."""
    return {'driver': 'archipelago', 'volume': name, 'discard': 'unmap',
            **{key.replace('_', '-'): value for key, value in options.items()}}


def format_node(name, node_name, fmt=iotests.imgfmt, store=None, **options):
    """The same, for the image in a volume.  The volume is NODE_NAME-file."""
    where = {'store': store} if store else {}
    return {'driver': fmt, 'node-name': node_name, 'discard': 'unmap',
            'file': protocol_node(name, node_name=f'{node_name}-file',
                                  **where),
            **{key.replace('_', '-'): value for key, value in options.items()}}


def slow(operation, delay_ms):
    """The default store, with every such operation taking that long more."""
    return f'fault:op={operation},delay_ms={delay_ms},times=0:{STORE}'


def content_is(name, expected, fmt=iotests.imgfmt):
    """Whether the image in a volume that nobody writes to has this content."""
    with iotests.FilePath('expected') as path:
        with open(path, 'wb') as file:
            file.write(expected)
        return iotests.compare_images(path, volume(name), 'raw', fmt)


def random_content(size, seed=0):
    """Random bytes, with a hole before the last eighth."""
    some = random.Random(seed).randbytes
    hole = size // 4
    return some(size - hole - size // 8) + bytes(hole) + some(size // 8)


def make(name, content, fmt=iotests.imgfmt, *options):
    """A volume with an image of this content; options as of qemu-img create."""
    iotests.qemu_img_create('-f', fmt, *options, volume(name),
                            str(len(content)))
    with iotests.FilePath('content') as path:
        with open(path, 'wb') as file:
            file.write(content)
        iotests.qemu_img('convert', '-n', '-f', 'raw', '-O', fmt, path,
                         volume(name))


def img(*args):
    """Run qemu-img, whether it succeeds or not; its status and what it said."""
    done = subprocess.run([*iotests.qemu_img_args, *args], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


# --- QEMU --------------------------------------------------------------------

def wait_for(condition, what):
    """Until it's true; its value."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f'waited in vain for {what}')


def cmd(vm, name, /, **arguments):
    """A QMP command that has to succeed; what it returns."""
    result = vm.qmp(name, **arguments)
    assert 'return' in result, f'{name} {arguments}: {result}'
    return result['return']


def refusal(vm, name, /, **arguments):
    """A QMP command that has to fail; the error's text."""
    result = vm.qmp(name, **arguments)
    assert 'error' in result, f'{name} {arguments} went well: {result}'
    return result['error']['desc']


def launched(*devices, suffix='', incoming=None, paused=False):
    """A running machine with these -object and -blockdev (dicts) and -device
    (strings)."""
    vm = iotests.VM(path_suffix=suffix)
    for device in devices:
        if isinstance(device, dict) and 'qom-type' in device:
            vm.add_object(json.dumps(device))
        elif isinstance(device, dict):
            vm.add_blockdev(json.dumps(device))
        else:
            vm.add_device(device)
    if incoming:
        vm.add_incoming(incoming)
    if paused:
        vm.add_args('-S')
    vm.launch()
    return vm


def job_status(vm, job_id):
    for job in cmd(vm, 'query-jobs'):
        if job['id'] == job_id:
            return job
    raise AssertionError(f'there is no job {job_id}')


def wait_job(vm, job_id, *states):
    """Until the job is in one of the states; what query-jobs says of it."""
    def arrived():
        job = job_status(vm, job_id)
        if job['status'] == 'concluded' and 'concluded' not in states:
            raise AssertionError(f'job {job_id} has ended: {job}')
        return job if job['status'] in states else None
    return wait_for(arrived, f'job {job_id} to be {states}')


def end_job(vm, job_id):
    """Until it ends by itself; its error's text, or None.  It must have been
    started with auto-dismiss off."""
    job = wait_job(vm, job_id, 'concluded')
    cmd(vm, 'job-dismiss', id=job_id)
    return job.get('error')


def run_job(vm, name, job_id, /, **arguments):
    """Start a block job, see it succeed."""
    cmd(vm, name, job_id=job_id, auto_dismiss=False, **arguments)
    error = end_job(vm, job_id)
    assert error is None, f'{name} {arguments}: {error}'


@contextlib.contextmanager
def exported(vm, node_name, writable=True):
    """The path of a socket where a node is served by NBD, as an export of its
    own name."""
    with iotests.FilePath('nbd.sock', base_dir=iotests.sock_dir) as path:
        cmd(vm, 'nbd-server-start',
            addr={'type': 'unix', 'data': {'path': path}})
        try:
            cmd(vm, 'block-export-add', id='load', type='nbd',
                node_name=node_name, name=node_name, writable=writable)
            yield path
        finally:
            cmd(vm, 'nbd-server-stop')


# --- A client of NBD ---------------------------------------------------------

class Nbd:
    """A connection to an export; requests one at a time."""
    OPTION_MAGIC = b'IHAVEOPT'
    REQUEST_MAGIC = 0x25609513
    REPLY_MAGIC = 0x67446698
    READ, WRITE, LEAVE, FLUSH, TRIM, ZERO = 0, 1, 2, 3, 4, 6
    FUA, NO_HOLE = 1, 2

    def __init__(self, path, export):
        self.cookie = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        greeting = self.receive(18)
        assert greeting[:16] == b'NBDMAGIC' + self.OPTION_MAGIC, greeting
        name = export.encode()
        self.socket.sendall(struct.pack('>I8sII', 3, self.OPTION_MAGIC, 1,
                                        len(name)) + name)
        self.size, self.flags = struct.unpack('>QH', self.receive(10))

    def receive(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError('the NBD server has gone')
            data += piece
        return bytes(data)

    def request(self, kind, offset=0, length=0, data=b'', flags=0):
        self.cookie += 1
        self.socket.sendall(struct.pack('>IHHQQI', self.REQUEST_MAGIC, flags,
                                        kind, self.cookie, offset, length)
                            + data)
        if kind == self.LEAVE:
            return b''
        magic, error, cookie = struct.unpack('>IIQ', self.receive(16))
        assert (magic, cookie) == (self.REPLY_MAGIC, self.cookie)
        if error:
            raise OSError(error, f'NBD request {kind} at {offset}+{length}')
        return self.receive(length) if kind == self.READ else b''

    def read(self, offset, length):
        return self.request(self.READ, offset, length)

    def write(self, offset, data, flags=0):
        self.request(self.WRITE, offset, len(data), data, flags)

    def zero(self, offset, length, flags=0):
        self.request(self.ZERO, offset, length, flags=flags)

    def trim(self, offset, length):
        self.request(self.TRIM, offset, length)

    def flush(self):
        self.request(self.FLUSH)

    def close(self):
        self.request(self.LEAVE)
        self.socket.close()


class Load(threading.Thread):
    """Requests of all kinds, in a part of an export that is its own; it knows
    what has to be there and looks, again and again.

    `eased`: with pauses, so that a job can keep up.  `lock` is held during each
    request: who takes it stops the load."""
    GRAIN = 64 * KIB            # what is trimmed is zeroes in any format then

    KINDS = ['write', 'write', 'unaligned', 'fua', 'zero', 'keep', 'trim',
             'read', 'flush']

    def __init__(self, path, export, start, model, seed, kinds=None):
        super().__init__(daemon=True)
        self.nbd = Nbd(path, export)
        self.start_bytes = start
        self.model = bytearray(model)
        self.random = random.Random(seed)
        self.kinds = kinds or self.KINDS
        self.lock = threading.Lock()
        self.eased = False
        self.ended = False
        self.count = 0
        self.error = None

    def place(self, grain, most):
        """Where, relative to the part, and how long."""
        whole = len(self.model) // grain
        offset = self.random.randrange(whole)
        length = self.random.randint(1, min(most // grain, whole - offset))
        return offset * grain, length * grain

    def step(self):
        kind = self.random.choice(self.kinds)
        if kind == 'trim':
            offset, length = self.place(self.GRAIN, 4 * self.GRAIN)
        elif kind == 'unaligned':
            offset, length = self.place(1, 9000)
        else:
            offset, length = self.place(512, 128 * KIB)
        self.request(kind, offset, length)

    def request(self, kind, offset, length):
        where = self.start_bytes + offset
        content = bytes(length)
        if kind == 'flush':
            self.nbd.flush()
            return
        if kind == 'read':
            self.check(offset, length)
            return
        if kind == 'trim':
            self.trim(offset, length)
            return
        if kind in ('zero', 'keep'):
            self.nbd.zero(where, length, Nbd.NO_HOLE if kind == 'keep' else 0)
        else:
            content = self.random.randbytes(length)
            self.nbd.write(where, content, Nbd.FUA if kind == 'fua' else 0)
        self.model[offset:offset + length] = content

    def trim(self, offset, length):
        """All of it is zeroes, or as it was: filters drop what is trimmed."""
        part = slice(offset, offset + length)
        self.nbd.trim(self.start_bytes + offset, length)
        if self.nbd.read(self.start_bytes + offset, length) == bytes(length):
            self.model[part] = bytes(length)
        else:
            self.check(offset, length)

    def check(self, offset, length):
        found = self.nbd.read(self.start_bytes + offset, length)
        expected = bytes(self.model[offset:offset + length])
        if found == expected:
            return
        wrong = next(i for i in range(length) if found[i] != expected[i])
        raise AssertionError(
            f'byte {self.start_bytes + offset + wrong} is {found[wrong]} and '
            f'not {expected[wrong]}, after {self.count} requests')

    def run(self):
        try:
            while not self.ended:
                with self.lock:
                    self.step()
                self.count += 1
                time.sleep(0.02 if self.eased else 0)
            for offset in range(0, len(self.model), MIB):
                self.check(offset, min(MIB, len(self.model) - offset))
            self.nbd.flush()
            self.nbd.close()
        except (OSError, AssertionError) as error:
            self.error = error


    def finish(self):
        self.ended = True
        self.join(WAIT_SECONDS)
        assert not self.is_alive(), 'a request takes for ever'


class Traffic:
    """Several loads, which together cover an image."""
    PARTS = 3

    def __init__(self, path, export, content, seed=1):
        part = -(-len(content) // self.PARTS // MIB) * MIB
        self.loads = [Load(path, export, start, content[start:start + part],
                           seed + start)
                      for start in range(0, len(content), part)]
        for load in self.loads:
            load.start()

    def count(self):
        for load in self.loads:
            if load.error:
                raise load.error
        return sum(load.count for load in self.loads)

    def go_on(self, count):
        """Until that many requests more have been made."""
        end = self.count() + count
        wait_for(lambda: self.count() >= end, f'{count} requests')

    def ease(self, eased=True):
        for load in self.loads:
            load.eased = eased

    @contextlib.contextmanager
    def stopped(self):
        """No request is in flight; gives what the image has to be."""
        with contextlib.ExitStack() as stack:
            for load in self.loads:
                stack.enter_context(load.lock)
            yield b''.join(load.model for load in self.loads)

    def end(self):
        """What the image has to be, each part having been compared."""
        for load in self.loads:
            load.ended = True
        for load in self.loads:
            load.finish()
        self.count()
        return b''.join(load.model for load in self.loads)


# --- A guest's disk ----------------------------------------------------------

class GuestDisk:
    """The first IDE disk of a PC, used as a guest's driver would: DMA through
    guest memory, one command at a time.

    Add `ide-hd,bus=ide.0,drive=NODE` to the machine.  After migration `set_up`
    isn't needed again: the registers migrate."""
    CONFIG = 0x80000900         # PCI 00:01.1
    MASTER = 0xc000             # where set_up puts the bus master's ports
    TABLE, BUFFER = 0x1000, 0x10000
    READ, WRITE = 0xc8, 0xca
    SECTOR = 512
    MOST = 64 * KIB - SECTOR

    def __init__(self, vm, set_up=True):
        self.vm = vm
        if set_up:
            self.out('l', 0xcf8, self.CONFIG + 0x20)
            self.out('l', 0xcfc, self.MASTER)
            self.out('l', 0xcf8, self.CONFIG + 0x04)
            self.out('w', 0xcfc, 5)

    def qtest(self, text):
        answer = self.vm.qtest(text).split()
        assert answer[0] == 'OK', f'{text}: {answer}'
        return int(answer[1], 0) if len(answer) > 1 and text[:2] == 'in' else 0

    def out(self, width, port, value):
        self.qtest(f'out{width} {port:#x} {value:#x}')

    def inb(self, port):
        return self.qtest(f'inb {port:#x}')

    def command(self, command, offset, length):
        sector, count = offset // self.SECTOR, length // self.SECTOR
        assert 0 < length <= self.MOST
        table = struct.pack('<II', self.BUFFER, length | 1 << 31)
        self.qtest(f'write {self.TABLE:#x} 8 0x{table.hex()}')
        self.out('b', self.MASTER, 0)
        self.out('b', self.MASTER + 2, 6)
        self.out('l', self.MASTER + 4, self.TABLE)
        self.out('b', 0x1f6, 0xe0 | sector >> 24)
        self.out('b', 0x1f2, count)
        for port in 0x1f3, 0x1f4, 0x1f5:
            self.out('b', port, sector & 0xff)
            sector >>= 8
        self.out('b', 0x1f7, command)
        self.out('b', self.MASTER, 9 if command == self.READ else 1)

    def start_write(self, offset, length, byte):
        """Begin to write; go on at once."""
        self.qtest(f'memset {self.BUFFER:#x} {length:#x} {byte:#x}')
        self.command(self.WRITE, offset, length)

    def busy(self):
        """Whether the command is still being carried out."""
        return bool(self.inb(0x1f7) & 0x88 or self.inb(self.MASTER + 2) & 1)

    def finish(self):
        """Until the command has ended; whether it went well."""
        wait_for(lambda: not self.busy(), 'the disk')
        return not self.inb(0x1f7) & 0x21

    def write(self, offset, length, byte):
        self.start_write(offset, length, byte)
        return self.finish()

    def read(self, offset, length):
        self.qtest(f'memset {self.BUFFER:#x} {length:#x} 0xee')
        self.command(self.READ, offset, length)
        assert self.finish(), f'cannot read at {offset}'
        answer = self.vm.qtest(f'read {self.BUFFER:#x} {length:#x}')
        return bytes.fromhex(answer.split()[1][2:])


# --- What varies, taken out of texts -----------------------------------------

def filtered(text):
    """Process ids, host names and directories have fixed names."""
    text = text.replace(iotests.test_dir, 'TEST_DIR')
    text = re.sub(r'#block\d+', 'NODE_NAME', text)
    text = re.sub(r'\bpid \d+', 'pid PID', text)
    text = re.sub(r'\bsince \d{4}-\d\d-\d\d [\d:]+', 'since TIME', text)
    return re.sub(f'\\bhost {re.escape(socket.gethostname())}\\b', 'host HOST',
                  text)
