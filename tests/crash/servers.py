#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that serves a volume over NBD, killed at random under load, again
and again.

    servers.py nbdkit|qemu-nbd|qemu-system|qemu-iothread
               [--rounds N] [--seed N] [--io direct|buffered]

nbdkit has our plugin; the others are the installed QEMU with our driver:
qemu-nbd, and qemu-system with an NBD export made over QMP, in the main loop or
an iothread.

A round: start it, which recovers from the kill before; read the whole volume
and hold it against the model (stamps.py); many requests on several connections;
kill.  Some rounds kill it while it starts.  In between `archipelago check` must
find nothing but what a crash may leave, and what a reader of the unclean volume
sees must be true and stay so.
"""
import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time

import findings
import stamps

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                '../guest'))
import harness  # noqa: E402

try:
    import nbd
except ImportError:
    harness.skip('python3-libnbd is not installed')

SHOW_STORE = os.path.join(harness.BUILD, 'tests/crash/show-store')
SECTORS = 8192
OBJECT = 128
BLOCK = 8
CONNECTIONS = 4
DEPTH = 6
LENGTH_MAX = 192
LIFE_S = 0.4                # at most, under load
PATIENCE_S = 120


class Failure(Exception):
    pass


# --- The programs -------------------------------------------------------------

class Server:
    """One life of a program that serves the volume on a unix socket."""

    def __init__(self, kind, location, work, monitor=True):
        self.kind = kind
        self.monitor = monitor
        self.location = location
        self.work = work
        self.socket = os.path.join(work, 'nbd')
        for path in (self.socket, self.path('qmp')):
            if os.path.exists(path):
                os.unlink(path)
        self.errors = open(self.path('errors'), 'w+')
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=self.errors,
            env={**os.environ, 'ARCHIPELAGO_STORE': location})

    def path(self, name):
        return os.path.join(self.work, name)

    def command(self):
        if self.kind == 'nbdkit':
            return ['nbdkit', '--foreground', '--exit-with-parent', '--unix',
                    self.socket, '--threads', '8', harness.NBDKIT_PLUGIN,
                    'store=' + self.location, 'volume=vol']
        if self.kind == 'qemu-nbd':
            return [harness.QEMU_WRAPPER, 'qemu-nbd', '--persistent',
                    '--format=raw', f'--shared={CONNECTIONS}',
                    '--discard=unmap', '--socket=' + self.socket,
                    'archipelago:vol']
        # It waits for us: see tests/qemu/qmp.py.
        monitor = (['-qmp', f'unix:{self.path("qmp")},server=on,wait=on']
                   if self.monitor else [])
        return [harness.QEMU_WRAPPER, 'qemu-system-x86_64', '-machine', 'none',
                '-nodefaults', '-display', 'none',
                '-object', 'iothread,id=io0', *monitor,
                '-drive', 'if=none,id=d0,node-name=n0,format=raw,'
                          'discard=unmap,file.driver=archipelago,'
                          'file.volume=vol,file.store=' + self.location]

    def until(self, action):
        """Try `action` until it works, the program being there."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return action()
            except (OSError, nbd.Error) as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Failure(f'{self.kind} does not serve: {error}: '
                                  f'{self.said()}') from None
                time.sleep(0.005)

    def said(self):
        self.errors.seek(0)
        return self.errors.read()

    def export(self):
        if self.kind.startswith('qemu-') and self.kind != 'qemu-nbd':
            monitor = self.until(lambda: harness.Monitor(self.path('qmp')))
            monitor.execute('nbd-server-start', addr={
                'type': 'unix', 'data': {'path': self.socket}})
            thread = ({'iothread': 'io0'} if self.kind == 'qemu-iothread'
                      else {})
            monitor.execute('block-export-add', type='nbd', id='e0',
                            **{'node-name': 'n0'}, name='', writable=True,
                            **thread)
            monitor.close()

    def connect(self):
        handle = nbd.NBD()
        handle.connect_unix(self.socket)
        return handle

    def kill(self):
        self.process.kill()

    def end(self):
        """In order."""
        self.process.terminate()
        self.process.wait()

    def wait(self):
        self.process.wait()
        self.errors.close()


# --- The load -----------------------------------------------------------------

class Load:
    """Requests on all connections until the server is dead."""

    def __init__(self, model, handles, dice, number):
        self.model = model
        self.handles = handles
        self.dice = dice
        self.number = number        # of the last request
        self.in_flight = [0] * len(handles)
        self.completed = 0
        self.dead = False
        self.errors = []
        self.flushes = dice.choice([0, 0.01, 0.08])

    def range(self):
        dice = self.dice
        length = dice.randint(1, 20 if dice.random() < 0.9 else LENGTH_MAX)
        first = dice.randrange(SECTORS)
        if dice.random() < 0.3:     # a few places come again and again
            first = first % 8 * OBJECT + first % 3
        elif dice.random() < 0.3:   # whole blocks
            first = first // BLOCK * BLOCK
            length = (length // BLOCK + 1) * BLOCK
        return first, min(length, SECTORS - first)

    def submit(self, which):
        handle = self.handles[which]
        self.number += 1
        number = self.number
        kind = self.dice.random()
        if kind < self.flushes:
            self.model.flush(number)
            self.send(which, handle.aio_flush)
            return
        first, count = self.range()
        if kind < 0.3 and self.dice.random() < 0.4:
            # A whole object, which has to be made anew then.
            first, count = first // OBJECT * OBJECT, OBJECT
        offset = first * stamps.SECTOR
        length = count * stamps.SECTOR
        fua = self.dice.random() < 0.1
        flags = nbd.CMD_FLAG_FUA if fua else 0
        if kind < 0.18:
            start = -(-first // BLOCK) * BLOCK
            whole = max((first + count) // BLOCK * BLOCK - start, 0)
            self.model.write(number, start, whole, stamp=0)
            self.send(which, handle.aio_trim, length, offset)
        elif kind < 0.3:
            self.model.write(number, first, count, fua, stamp=0)
            if self.dice.random() < 0.5:
                flags |= nbd.CMD_FLAG_NO_HOLE
            self.send(which, handle.aio_zero, length, offset, flags=flags)
        else:
            self.model.write(number, first, count, fua)
            data = nbd.Buffer.from_bytearray(
                bytearray(stamps.pattern(number, first, count)))
            self.send(which, handle.aio_pwrite, data, offset, flags=flags)

    def send(self, which, function, *arguments, **more):
        number = self.number

        def done(error):
            self.in_flight[which] -= 1
            # A callback gets the errno in an object of libnbd's.
            if getattr(error, 'value', error):
                if not self.dead:
                    self.errors.append(f'request {number}: '
                                       f'{os.strerror(error.value)}')
            else:
                self.completed += 1
                self.model.complete(number)
            return 1

        self.in_flight[which] += 1
        try:
            function(*arguments, completion=done, **more)
        except nbd.Error:
            if not self.dead:
                raise

    def turn(self, timeout_s):
        """Let each connection move on."""
        poll = select.poll()
        alive = {}
        for handle in self.handles:
            if handle.aio_is_dead() or handle.aio_is_closed():
                continue
            way = handle.aio_get_direction()
            events = ((select.POLLIN if way & nbd.AIO_DIRECTION_READ else 0)
                      | (select.POLLOUT if way & nbd.AIO_DIRECTION_WRITE
                         else 0))
            alive[handle.aio_get_fd()] = handle
            poll.register(handle.aio_get_fd(), events)
        for fd, event in poll.poll(timeout_s * 1000):
            try:
                if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    alive[fd].aio_notify_read()
                elif event & select.POLLOUT:
                    alive[fd].aio_notify_write()
            except nbd.Error:
                if not self.dead:
                    raise
        return bool(alive)

    def run(self, server, life_s):
        """Returns how many requests were in flight when it was killed."""
        end = time.monotonic() + life_s
        while time.monotonic() < end:
            for which in range(len(self.handles)):
                while self.in_flight[which] < DEPTH and \
                        self.dice.random() < 0.9:
                    self.submit(which)
            self.turn(0.01)
        if self.errors or server.process.poll() is not None:
            raise Failure(f'before the kill: {self.errors}: {server.said()}')
        self.dead = True
        server.kill()
        in_flight = sum(self.in_flight)
        # What it had answered counts, also what is still on its way to us.
        while self.turn(1):
            pass
        server.wait()
        return in_flight


# --- Rounds -------------------------------------------------------------------

class Rounds:
    def __init__(self, options, work):
        self.kind = options.program
        self.work = work
        self.dice = random.Random(options.seed)
        self.model = stamps.Model(SECTORS)
        self.location = f'dir:{work}/store?io={options.io}'
        os.mkdir(os.path.join(work, 'store'))
        self.cli('create', '-o', '64K', 'vol', f'{SECTORS * stamps.SECTOR}')
        self.number = self.completed = self.in_flight = self.lost = 0
        self.early = 0
        self.left = {}

    def cli(self, *arguments, expect=(0,)):
        done = subprocess.run(
            [harness.CLI, *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, 'ARCHIPELAGO_STORE': self.location})
        if done.returncode not in expect:
            raise Failure(f'{" ".join(arguments)}: exit status '
                          f'{done.returncode}: {done.stderr.decode()}'
                          f'{done.stdout.decode()}')
        return done.stdout

    def check(self):
        found = json.loads(self.cli('check', '--json',
                                    expect=(0, 6, 8)))['findings']
        for finding in found:
            code = finding['code']
            self.left[code] = self.left.get(code, 0) + 1
        wrong = findings.unexplained(found)
        if wrong:
            raise Failure(f'check finds {wrong}')

    def read_unclean(self):
        shown = subprocess.run([SHOW_STORE, self.location], check=True,
                               stdout=subprocess.PIPE).stdout
        line, image = shown.split(b'\n', 1)
        if line.split()[0] != b'vol':
            raise Failure(f'show-store shows {line}')
        self.lost += self.model.crash(image)

    def kill_early(self):
        """While it starts, and recovers."""
        server = Server(self.kind, self.location, self.work, monitor=False)
        try:
            time.sleep(self.dice.random() * 0.15)
        finally:
            server.kill()
            server.wait()
        self.early += 1

    def serve(self):
        """A server, and connections to it that saw what must be there."""
        server = Server(self.kind, self.location, self.work)
        try:
            server.export()
            handles = [server.until(server.connect)
                       for _ in range(CONNECTIONS)]
            if not handles[0].can_multi_conn():
                raise Failure('it does not offer several connections')
            image = handles[0].pread(SECTORS * stamps.SECTOR, 0)
            self.lost += self.model.crash(bytes(image))
        except BaseException:
            server.kill()
            server.wait()
            raise
        return server, handles

    def empty(self, handle):
        """Discard all there is, for good: then each object is made anew, and
        nothing of it is in the map before a flush, or FUA."""
        self.model.write(self.number + 1, 0, SECTORS, stamp=0)
        handle.trim(SECTORS * stamps.SECTOR, 0)
        self.model.complete(self.number + 1)
        self.model.flush(self.number + 2)
        handle.flush()
        self.model.complete(self.number + 2)
        self.number += 2

    def round(self, number):
        server, handles = self.serve()
        if self.dice.random() < 0.4:
            self.empty(handles[0])
        load = Load(self.model, handles, self.dice, self.number)
        try:
            self.in_flight += load.run(server, self.dice.random() * LIFE_S)
        finally:
            server.kill()
            server.process.wait()
        self.number = load.number
        self.completed += load.completed
        if self.dice.random() < 0.2:
            self.kill_early()
        self.check()
        if number % 3 == 0:
            self.read_unclean()

    def finish(self):
        server, handles = self.serve()
        handles.clear()             # which closes them
        server.end()
        self.check()
        self.cli('check', '--repair', expect=(0, 9))
        self.cli('check')


def read_options():
    parser = argparse.ArgumentParser(description='Kill a server.')
    parser.add_argument('program', choices=[
        'nbdkit', 'qemu-nbd', 'qemu-system', 'qemu-iothread'])
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 31))
    parser.add_argument('--io', choices=['direct', 'buffered', 'auto'],
                        default='auto')
    return parser.parse_args()


def main():
    options = read_options()
    if options.program == 'nbdkit':
        harness.require_programs('nbdkit')
    else:
        harness.require_programs('qemu-nbd')
        harness.require_qemu_plugin()
    print(f'--seed {options.seed} (the timing is not the seed\'s)', flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix='archipelago-crash-') as work:
        run(options, work)


def run(options, work):
    rounds = Rounds(options, work)
    failed = 0
    number = 0
    try:
        for number in range(1, options.rounds + 1):
            rounds.round(number)
        rounds.finish()
    except (Failure, stamps.Wrong) as failure:
        failed = 1
        print(f'FAILED in round {number}: {failure}')
    print(f'{options.program}, {options.io}: {number} kills under load, '
          f'{rounds.early} while it started; {rounds.number} requests, '
          f'{rounds.completed} completed, {rounds.in_flight} in flight at the '
          f'kills; {rounds.lost} sectors lost that were not flushed; check '
          f'found {rounds.left}')
    if not failed and (rounds.completed < 20 * number or not rounds.in_flight):
        failed = 1
        print('FAILED: that is no load')
    sys.exit(failed)


if __name__ == '__main__':
    main()
