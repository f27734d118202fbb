# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot a test guest under QEMU and talk to it.

The guest is slow emulation (TCG) unless GUEST_ACCEL says otherwise, so that a
test is the same on every machine.  Its console goes to a file; its second
serial line is a unix socket that carries the messages which the kit's init
describes.  A machine that is left, however, is dead: `with Machine(...)`.
"""
import os
import select
import socket
import subprocess
import time

INIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'init')
# Without no_timer_check the kernel panics when the host is so busy that the
# timer of a guest seems to stand still.
APPEND = ('console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr '
          'random.trust_cpu=on no_timer_check')


class GuestError(Exception):
    """The guest failed, or did not answer in time; with its console."""


class Machine:
    def __init__(self, directory, kernel, initramfs, arguments=(),
                 wrapper=(), memory_mib=256, cpus=1):
        self.console_path = os.path.join(directory, 'console.log')
        self.socket_path = os.path.join(directory, 'line')
        self.monitor_path = os.path.join(directory, 'monitor')
        self.command = [
            *wrapper, 'qemu-system-x86_64', '-nodefaults', '-display', 'none',
            '-machine', 'pc', '-accel', os.environ.get('GUEST_ACCEL', 'tcg'),
            '-cpu', 'max', '-smp', str(cpus), '-m', str(memory_mib),
            '-no-reboot', '-kernel', kernel.image, '-initrd', initramfs,
            '-append', APPEND, '-serial', 'file:' + self.console_path,
            '-serial', f'unix:{self.socket_path},server=on,wait=on',
            '-qmp', f'unix:{self.monitor_path},server=on,wait=off',
            *arguments]
        self.said = []
        self.status = None
        self.process = None
        self.line = None
        self.pending = b''

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        try:
            self.line = self.connect()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.kill()

    def connect(self):
        """QEMU waits for us on the socket before it starts the guest."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(self.socket_path)
                return line
            except (FileNotFoundError, ConnectionRefusedError):
                line.close()
                time.sleep(0.05)
        raise self.error('QEMU does not start')

    def kill(self):
        """kill -9 of QEMU: what it had acknowledged is all that may be."""
        if self.line:
            self.line.close()
            self.line = None
        if self.process and self.process.stdout:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process.stdout = None

    def error(self, message):
        text = ''
        if self.process.poll() is not None and self.process.stdout:
            text = self.process.stdout.read().decode(errors='replace')
        if os.path.exists(self.console_path):
            with open(self.console_path, errors='replace') as console:
                text += ''.join(console.readlines()[-60:])
        return GuestError(f'{message}\n--- QEMU and console:\n{text}')

    def message(self, end):
        """The next message of the guest, or None when the line is closed."""
        while b'\n' not in self.pending:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.line], [], [], left)[0]:
                raise self.error('the guest does not answer in time')
            some = self.line.recv(65536)
            if not some:
                return None
            self.pending += some
        text, self.pending = self.pending.split(b'\n', 1)
        return text.decode(errors='replace').strip()

    def hear(self, timeout=120):
        """What the guest says next; its status is kept, then None comes."""
        end = time.monotonic() + timeout
        while self.status is None:
            text = self.message(end)
            if text is None:
                return None
            if text.startswith('say '):
                self.said.append(text[4:])
                return text[4:]
            if text.startswith('status '):
                self.status = int(text[7:])
        return None

    def expect(self, text, timeout=120):
        """The next thing said must be `text`, or begin with it; returns what
        follows."""
        heard = self.hear(timeout)
        if heard is None or not heard.startswith(text):
            raise self.error(f'expected "{text}", the guest said "{heard}"')
        return heard[len(text):].strip()

    def say(self, text):
        self.line.sendall(text.encode() + b'\n')

    def finish(self, timeout=120):
        """Wait for the guest's end; it must be success.  Returns all that it
        said."""
        while self.hear(timeout) is not None:
            pass
        if self.status != 0:
            raise self.error(f'the guest ended with status {self.status}')
        try:
            if self.process.wait(timeout=30) != 0:
                raise self.error(f'QEMU exits with {self.process.returncode}')
        except subprocess.TimeoutExpired:
            raise self.error('the guest does not power off') from None
        return self.said
