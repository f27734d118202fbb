#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several connections to one volume, and servers that end with them open."""
import nbd
import os
import random
import select
import signal

from nbdtest import KiB, MiB, PRELOAD, NbdTest, main, wait_for

BLOCK = 4096
MODEL_BYTES = 24 * MiB
REQUESTS = 3000
IN_FLIGHT = 64


class FourConnections(NbdTest):
    def setUp(self):
        super().setUp()
        self.server = self.serve("vol")
        self.handles = [self.connect(self.server) for _ in range(4)]

    def test_written_on_one_read_on_all(self):
        for i, handle in enumerate(self.handles):
            handle.pwrite(bytes([i + 1]) * MiB, i * 3 * MiB + 7)
        for handle in self.handles:
            for i in range(4):
                self.assertEqual(handle.pread(MiB, i * 3 * MiB + 7),
                                 bytes([i + 1]) * MiB)

    def test_flush_covers_all_when_killed(self):
        """Written on three, flushed on the fourth, kill -9, read back."""
        data = [os.urandom(5 * MiB) for _ in range(3)]
        for i, handle in enumerate(self.handles[:3]):
            handle.pwrite(data[i], i * 5 * MiB + 1)
        self.handles[1].trim(MiB, 7 * MiB)
        data[1] = bytearray(data[1])
        data[1][2 * MiB - 1:3 * MiB - 1] = bytes(MiB)
        self.handles[3].flush()
        self.server.end(signal.SIGKILL)
        self.assertEqual(self.state(), ["unclean", "free"])
        handle = self.connect(self.serve("vol"))
        for i in range(3):
            self.assertEqual(handle.pread(5 * MiB, i * 5 * MiB + 1),
                             bytes(data[i]))

    def test_fua_survives_a_kill(self):
        data = os.urandom(300 * KiB)
        self.handles[0].pwrite(data, 11, nbd.CMD_FLAG_FUA)
        self.handles[1].pwrite(b"x" * MiB, 8 * MiB, nbd.CMD_FLAG_FUA)
        self.handles[2].zero(512 * KiB, 8 * MiB, nbd.CMD_FLAG_FUA)
        self.handles[3].trim(256 * KiB, 8 * MiB + 512 * KiB, nbd.CMD_FLAG_FUA)
        self.server.end(signal.SIGKILL)
        handle = self.connect(self.serve("vol"))
        self.assertEqual(handle.pread(len(data), 11), data)
        self.assertEqual(handle.pread(MiB, 8 * MiB),
                         bytes(768 * KiB) + b"x" * (256 * KiB))

    def terminate(self):
        """nbdkit waits until its clients are gone."""
        self.server.process.send_signal(signal.SIGTERM)

    def test_sigterm_flushes_at_once(self):
        """Idle connections stay open, nothing was flushed, a supervisor loses
        patience."""
        data = os.urandom(2 * MiB)
        while self.handles:
            self.handles.pop()
        wait_for(lambda: self.state()[1] == "free", "the lock")
        server = self.serve("vol", options=["-v"])
        handle = self.connect(server)
        handle.pwrite(data, 4 * MiB - 5)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "vol: flushed" in server.log(), "the flush")
        server.end(signal.SIGKILL)
        handle = self.connect(self.serve("vol"))
        self.assertEqual(handle.pread(len(data), 4 * MiB - 5), data)

    def test_sigterm_closes(self):
        data = os.urandom(2 * MiB)
        self.handles[0].pwrite(data, 4 * MiB - 5)
        self.terminate()
        for handle in self.handles:
            handle.shutdown()
        self.assertEqual(self.server.process.wait(20), 0)
        self.assertEqual(self.server.log(), "")
        self.assertEqual(self.state(), ["clean", "free"])
        handle = self.connect(self.serve("vol"))
        self.assertEqual(handle.pread(len(data), 4 * MiB - 5), data)

    def test_sigterm_under_load(self):
        """Requests in flight are answered or refused, and the end is clean."""
        for i in range(64):
            self.handles[i % 4].aio_pwrite(nbd.Buffer.from_bytearray(
                bytearray(os.urandom(256 * KiB))), i * 256 * KiB)
        self.terminate()
        while self.handles:
            self.handles.pop()
        wait_for(lambda: self.state() == ["clean", "free"], "the end")
        # With libasan any nbdkit that has logged "%m" hangs in its exit().
        if not PRELOAD:
            self.assertEqual(self.server.process.wait(20), 0)

    def test_client_vanishes(self):
        """A connection that breaks is a connection that ended."""
        self.handles[0].pwrite(b"kept", 0)
        while self.handles:
            self.handles.pop()
        wait_for(lambda: self.state() == ["clean", "free"], "the lock")
        self.assertEqual(self.connect(self.server).pread(4, 0), b"kept")


class Command:
    def __init__(self, kind, offset, count):
        self.kind, self.offset, self.count = kind, offset, count
        self.cookie = self.buffer = None
        self.expected = b""

    def collides(self, other):
        return ((self.kind != "read" or other.kind != "read")
                and self.offset < other.offset + other.count
                and other.offset < self.offset + self.count)


class Model(NbdTest):
    """Random requests, many in flight on four connections, against bytes in
    memory.  Those in flight never overlap, save reads."""

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
        self.random = random.Random(self.seed)
        self.model = bytearray(MODEL_BYTES)
        self.in_flight = {}

    def choose(self):
        chooser = self.random
        kind = chooser.choice(["read"] * 8 + ["write"] * 8 +
                              ["zero", "zero", "trim", "flush", "cache"])
        if kind == "flush":
            return Command(kind, 0, 0)
        count = chooser.choice([512, 4096, 8192, chooser.randint(1, 9000),
                                chooser.randint(1, 200000)])
        offset = chooser.randrange(MODEL_BYTES - count)
        if chooser.random() < 0.5:
            offset -= offset % BLOCK
        command = Command("read" if kind == "cache" else kind, offset, count)
        return None if any(map(command.collides, self.in_flight.values())) \
            else command

    def start(self, handle, command):
        end = command.offset + command.count
        fua = self.random.choice([0, 0, 0, nbd.CMD_FLAG_FUA])
        if command.kind == "read":
            command.buffer = nbd.Buffer(command.count)
            command.expected = bytes(self.model[command.offset:end])
            return handle.aio_pread(command.buffer, command.offset)
        if command.kind == "write":
            data = self.random.randbytes(command.count)
            self.model[command.offset:end] = data
            command.buffer = nbd.Buffer.from_bytearray(bytearray(data))
            return handle.aio_pwrite(command.buffer, command.offset,
                                     flags=fua)
        if command.kind == "zero":
            self.model[command.offset:end] = bytes(command.count)
            return handle.aio_zero(
                command.count, command.offset,
                flags=fua | self.random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        if command.kind == "trim":
            first = -(-command.offset // BLOCK) * BLOCK
            last = end // BLOCK * BLOCK
            if first < last:
                self.model[first:last] = bytes(last - first)
            return handle.aio_trim(command.count, command.offset,
                                   flags=fua)
        return handle.aio_flush()

    def reap(self, handles):
        poll = select.poll()
        for handle in handles:
            direction = handle.aio_get_direction()
            poll.register(handle.aio_get_fd(),
                          (select.POLLIN if direction & 1 else 0) |
                          (select.POLLOUT if direction & 2 else 0))
        ready = dict(poll.poll(20000))
        self.assertTrue(ready, "no reply in 20 s")
        for handle in handles:
            events = ready.get(handle.aio_get_fd(), 0)
            if events & select.POLLIN:
                handle.aio_notify_read()
            elif events & select.POLLOUT:
                handle.aio_notify_write()
        for key, command in list(self.in_flight.items()):
            if handles[key[0]].aio_command_completed(command.cookie):
                del self.in_flight[key]
                if command.kind == "read":
                    self.assertEqual(bytes(command.buffer.to_bytearray()),
                                     command.expected,
                                     f"at {command.offset}")

    def run_requests(self, handles):
        most = 0
        for number in range(REQUESTS):
            while len(self.in_flight) >= IN_FLIGHT:
                self.reap(handles)
            command = self.choose()
            if not command:
                self.reap(handles)
                continue
            which = number % len(handles)
            command.cookie = self.start(handles[which], command)
            self.in_flight[which, command.cookie] = command
            most = max(most, len(self.in_flight))
        while self.in_flight:
            self.reap(handles)
        self.assertEqual(most, IN_FLIGHT)

    def run_model(self, number):
        print(f"SEED={self.seed}", flush=True)
        server = self.serve("vol")
        handles = [self.connect(server) for _ in range(4)]
        self.run_requests(handles)
        self.assertEqual(handles[0].pread(MODEL_BYTES, 0), bytes(self.model))
        handles[1].flush()
        if number == signal.SIGTERM:
            for handle in handles:
                handle.shutdown()
        server.end(number)
        self.assertEqual(self.connect(self.serve("vol")).pread(MODEL_BYTES, 0),
                         bytes(self.model))

    def test_closed(self):
        self.run_model(signal.SIGTERM)

    def test_killed(self):
        self.run_model(signal.SIGKILL)


if __name__ == "__main__":
    main()
