# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the Python tests of QEMU share: QEMU processes driven through QMP.

functions.sh says what a flavour is; qmp.sh runs a test with these set:
QEMU_RUN (the words before a program), QEMU_SYSTEM, QEMU_DAEMON, QEMU_IMG,
QEMU_IO, WORK, VOLUME.
"""
import json
import os
import shlex
import socket
import subprocess
import time

WORK = os.environ['WORK']
RUN = shlex.split(os.environ['QEMU_RUN'])
TIMEOUT_S = 30


def run(program, *arguments):
    """One of the programs, by its variable: what it printed."""
    return subprocess.run(RUN + shlex.split(os.environ[program]) +
                          list(arguments), check=True, text=True,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT).stdout


def holder(name):
    """(program, pid) of the volume's writer, or None."""
    text = subprocess.run([os.environ['VOLUME'], 'holder', name], check=True,
                          text=True, stdout=subprocess.PIPE).stdout.split()
    return (text[0], int(text[1])) if text else None


def content(name, offset, length):
    """Bytes of a volume, through the C API."""
    return subprocess.run([os.environ['VOLUME'], 'read', name, str(offset),
                           str(length)], check=True,
                          stdout=subprocess.PIPE).stdout


def wait_for(condition, what):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, f'waited in vain for {what}'
        time.sleep(0.02)


class Refused(Exception):
    """An error that QMP answered with."""


class Process:
    """A program with a QMP monitor; ends with the `with` block.

    It waits for the connection before it goes on: who connects while the
    monitor is moved to a thread of its own may be greeted by nobody, or lose
    bytes (QEMU 7.2, once in some thousand starts).
    """

    def __init__(self, name, program, *arguments):
        self.path = f'{WORK}/{name}.sock'
        self.log = f'{WORK}/{name}.log'
        with open(self.log, 'w', encoding='utf-8') as log:
            self.child = subprocess.Popen(
                RUN + shlex.split(os.environ[program]) + list(arguments),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self.child.pid

    def __enter__(self):
        self.connect()
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()

    def said(self):
        with open(self.log, encoding='utf-8') as log:
            return log.read()

    def attach(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        end = time.monotonic() + TIMEOUT_S
        while True:
            assert self.child.poll() is None, self.said()
            try:
                self.socket.connect(self.path)
                break
            except OSError:
                assert time.monotonic() < end, f'no monitor: {self.said()}'
                time.sleep(0.02)

    def connect(self):
        self.attach()
        self.file = self.socket.makefile('rw', encoding='utf-8')
        greeting = self.file.readline()
        assert 'QMP' in greeting, self.said()
        self.qmp('qmp_capabilities')

    def qmp(self, command, **arguments):
        """Its answer; events are passed over."""
        arguments = {key.replace('_', '-'): value
                     for key, value in arguments.items()}
        json.dump({'execute': command, 'arguments': arguments}, self.file)
        self.file.flush()
        while True:
            line = self.file.readline()
            assert line, f'{command}: the monitor is gone: {self.said()}'
            answer = json.loads(line)
            if 'error' in answer:
                raise Refused(answer['error']['desc'])
            if 'return' in answer:
                return answer['return']

    def hmp(self, line):
        return self.qmp('human-monitor-command', command_line=line)

    def io(self, device, command):
        """qemu-io's commands on a device of the guest."""
        text = self.hmp(f'qemu-io {device} "{command}"')
        assert 'failed' not in text and 'rror' not in text, text
        return text

    def run_job(self, job):
        """Until the job is ready or over; `job` was started."""
        def concluded():
            for one in self.qmp('query-jobs'):
                if one['id'] == job:
                    assert 'error' not in one, one
                    return one['status'] in ('concluded', 'ready')
            return True
        wait_for(concluded, job)

    def quit(self):
        self.qmp('quit')
        self.child.wait(TIMEOUT_S)
        assert self.child.returncode == 0, self.said()


class System(Process):
    """qemu-system without a guest: I/O comes by HMP's qemu-io."""

    def __init__(self, name, *arguments):
        super().__init__(
            name, 'QEMU_SYSTEM', '-accel', 'tcg', '-machine', 'q35',
            '-nodefaults', '-display', 'none', '-m', '64',
            '-qmp', f'unix:{WORK}/{name}.sock,server=on,wait=on', *arguments)


class Daemon(Process):
    """qemu-storage-daemon."""

    def __init__(self, name, *arguments):
        super().__init__(
            name, 'QEMU_DAEMON', '--chardev',
            f'socket,id=mon,path={WORK}/{name}.sock,server=on,wait=on',
            '--monitor', 'chardev=mon', *arguments)


def expect_refusal(text, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Refused as error:
        assert text in str(error), f"'{text}' is not in: {error}"
    else:
        raise AssertionError(f'should have been refused: {arguments} {named}')


def main(tests):
    """Run each function, in order."""
    for test in tests:
        print('---', test.__name__, flush=True)
        test()
