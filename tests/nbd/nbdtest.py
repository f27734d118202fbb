# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the NBD tests share: a store of their own, servers, connections.

Each test gets a temporary directory with a store; servers listen on Unix
sockets there and are ended, by their pid, when the test is over.
"""
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import nbd
except ImportError:
    print("SKIP: no Python module nbd (Debian: python3-libnbd)")
    sys.exit(77)

PLUGIN = os.environ["NBDKIT_PLUGIN"]
TOOL = os.environ["VOLUME_TOOL"]
# Set for a build with AddressSanitizer, which nbdkit itself isn't.
PRELOAD = os.environ.get("NBDKIT_PRELOAD")

KiB, MiB = 1 << 10, 1 << 20
SIZE = 64 * MiB


def wait_for(condition, what, seconds=20):
    """Poll until `condition` holds; its value is returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s in vain: {what}")


def server_environment():
    environment = dict(os.environ)
    if PRELOAD:
        environment["LD_PRELOAD"] = PRELOAD
    return environment


class Server:
    """An nbdkit in the foreground on a Unix socket; `options` go before the
    plugin's name, `parameters` after it."""

    def __init__(self, directory, parameters, options=()):
        number = len(os.listdir(directory))
        self.socket = os.path.join(directory, f"s{number}")
        self.pid_path = os.path.join(directory, f"pid{number}")
        self.log_path = os.path.join(directory, f"log{number}")
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                ["nbdkit", "-f", "-U", self.socket, "-P", self.pid_path,
                 *options, PLUGIN, *parameters],
                stdin=subprocess.DEVNULL, stderr=log,
                env=server_environment())
        wait_for(self.listens, "nbdkit's socket")

    def listens(self):
        if self.process.poll() is not None:
            raise AssertionError(f"nbdkit ended: {self.log()}")
        # The socket is there before anybody listens; this comes after.
        return os.path.exists(self.pid_path)

    def log(self):
        with open(self.log_path) as log:
            return log.read()

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def end(self, number=signal.SIGTERM):
        """Send a signal and wait; the exit code is returned."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class NbdTest(unittest.TestCase):
    """A store with the volume "vol"."""

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="archipelago-nbd-")
        self.addCleanup(shutil.rmtree, self.directory)
        os.mkdir(f"{self.directory}/store")
        self.location = f"dir:{self.directory}/store"
        self.create("vol")

    def tool(self, *arguments):
        return subprocess.run([TOOL, *map(str, arguments)], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def create(self, name, size=SIZE, object_bytes=0, description=""):
        self.tool("create", self.location, name, size, object_bytes,
                  description)

    def state(self, name="vol"):
        return self.tool("state", self.location, name).split()

    def serve(self, *parameters, options=(), store=None):
        """A server of the test's store, by default of its volume "vol"."""
        server = Server(self.directory,
                        [f"store={store or self.location}", *parameters],
                        options)
        self.addCleanup(server.kill)
        return server

    def connect(self, server, export="", strict=True):
        handle = nbd.NBD()
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.set_export_name(export)
        if not strict:
            handle.set_strict_mode(0)
        handle.connect_unix(server.socket)
        return handle

    def assert_fails(self, error, call, *arguments, **keywords):
        with self.assertRaises(nbd.Error) as caught:
            call(*arguments, **keywords)
        self.assertEqual(caught.exception.errno, error)

    def assert_refused(self, server, export=""):
        with self.assertRaises(nbd.Error):
            self.connect(server, export)


def extents(handle, count, offset, flags=0):
    """[(length, flags)] of base:allocation, adjacent ones of a kind joined."""
    entries = []

    def collect(context, at, pairs, error):
        for length, kind in zip(pairs[::2], pairs[1::2]):
            if entries and entries[-1][1] == kind:
                entries[-1] = (entries[-1][0] + length, kind)
            else:
                entries.append((length, kind))

    handle.block_status(count, offset, collect, flags)
    return entries


def main():
    unittest.main(verbosity=2)
