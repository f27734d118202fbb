#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every request of NBD with every flag, on one connection."""
import nbd
import os
import unittest

from nbdtest import KiB, MiB, SIZE, NbdTest, extents, main, wait_for

DATA = 0
HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO


class OneConnection(NbdTest):
    def setUp(self):
        super().setUp()
        self.server = self.serve("volume=vol")
        self.handle = self.connect(self.server, strict=False)


class Negotiation(OneConnection):
    def test_size(self):
        self.assertEqual(self.handle.get_size(), SIZE)

    def test_flags(self):
        handle = self.handle
        for can in (handle.can_flush, handle.can_fua, handle.can_trim,
                    handle.can_zero, handle.can_fast_zero, handle.can_df,
                    handle.can_cache, handle.can_multi_conn):
            self.assertTrue(can(), can.__name__)
        self.assertFalse(handle.is_read_only())
        self.assertTrue(handle.get_structured_replies_negotiated())
        self.assertTrue(handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION))

    def test_block_size(self):
        sizes = [self.handle.get_block_size(which) for which in
                 (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
        self.assertEqual(sizes, [1, 4096, 32 * MiB])

    def test_block_size_follows_the_grain(self):
        self.create("coarse", object_bytes=64 * MiB)
        server = self.serve()
        self.assertEqual(self.connect(server, "coarse").get_block_size(
            nbd.SIZE_PREFERRED), 64 * KiB)


class ReadsAndWrites(OneConnection):
    def test_unwritten_reads_zeroes(self):
        self.assertEqual(self.handle.pread(MiB, 3 * MiB), bytes(MiB))

    def test_write(self):
        data = os.urandom(64 * KiB)
        self.handle.pwrite(data, 8 * KiB)
        self.assertEqual(self.handle.pread(64 * KiB, 8 * KiB), data)

    def test_write_fua(self):
        data = os.urandom(4 * KiB)
        self.handle.pwrite(data, 4 * KiB, nbd.CMD_FLAG_FUA)
        self.assertEqual(self.handle.pread(4 * KiB, 4 * KiB), data)

    def test_unaligned(self):
        """Odd offsets and lengths, across an object's end, keep neighbours."""
        model = bytearray(os.urandom(8 * MiB))
        self.handle.pwrite(bytes(model), 0)
        for offset, count in ((1, 1), (511, 2), (513, 511), (4095, 4098),
                              (4 * MiB - 777, 1555), (8 * MiB - 3, 3),
                              (MiB + 1, 300001)):
            data = os.urandom(count)
            model[offset:offset + count] = data
            self.handle.pwrite(data, offset)
            self.assertEqual(self.handle.pread(count, offset), data)
            self.assertEqual(self.handle.pread(count + 2, offset - 1)
                             if offset + count < 8 * MiB else b"",
                             bytes(model[offset - 1:offset + count + 1])
                             if offset + count < 8 * MiB else b"")
        self.assertEqual(self.handle.pread(8 * MiB, 0), bytes(model))

    def test_largest(self):
        data = os.urandom(32 * MiB)
        self.handle.pwrite(data, MiB + 1)
        self.assertEqual(self.handle.pread(32 * MiB, MiB + 1), data)

    def test_last_byte(self):
        self.handle.pwrite(b"x", SIZE - 1)
        self.assertEqual(self.handle.pread(2, SIZE - 2), b"\0x")

    def test_structured_read(self):
        chunks = []
        data = os.urandom(64 * KiB)
        self.handle.pwrite(data, MiB)

        def chunk(piece, offset, status, error):
            chunks.append((offset, bytes(piece), status))

        self.handle.pread_structured(64 * KiB, MiB, chunk)
        self.assertEqual(chunks, [(MiB, data, nbd.READ_DATA)])
        self.handle.pread_structured(64 * KiB, MiB, chunk, nbd.CMD_FLAG_DF)
        self.assertEqual(chunks[1:], [(MiB, data, nbd.READ_DATA)])

    def test_simple_replies(self):
        handle = nbd.NBD()
        handle.set_request_structured_replies(False)
        handle.connect_unix(self.server.socket)
        self.assertFalse(handle.get_structured_replies_negotiated())
        handle.pwrite(b"simple", 99)
        self.assertEqual(handle.pread(6, 99), b"simple")

    def test_past_the_end(self):
        for call in (lambda: self.handle.pread(2, SIZE - 1),
                     lambda: self.handle.cache(2, SIZE - 1),
                     lambda: self.handle.trim(2, SIZE - 1),
                     lambda: extents(self.handle, 2, SIZE - 1)):
            self.assert_fails("EINVAL", call)
        for call in (lambda: self.handle.pwrite(b"xx", SIZE - 1),
                     lambda: self.handle.zero(2, SIZE - 1)):
            self.assert_fails("ENOSPC", call)
        self.assertEqual(self.handle.pread(1, SIZE - 1), b"\0")


class FlushTrimZero(OneConnection):
    def setUp(self):
        super().setUp()
        self.model = bytearray(os.urandom(9 * MiB))
        self.handle.pwrite(bytes(self.model), 0)

    def zeroed(self, offset, count):
        self.model[offset:offset + count] = bytes(count)

    def assert_model(self):
        self.assertEqual(self.handle.pread(9 * MiB, 0), bytes(self.model))

    def test_flush(self):
        self.handle.flush()
        self.assert_model()

    def test_trim_whole_blocks(self):
        self.handle.trim(64 * KiB, MiB)
        self.handle.trim(4 * MiB, 4 * MiB, nbd.CMD_FLAG_FUA)
        self.zeroed(MiB, 64 * KiB)
        self.zeroed(4 * MiB, 4 * MiB)
        self.assert_model()

    def test_trim_keeps_parts_of_blocks(self):
        self.handle.trim(3 * 4096, MiB + 100)
        self.zeroed(MiB + 4096, 2 * 4096)
        self.assert_model()

    def test_zero(self):
        place = 0
        for flags in (0, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE,
                      nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA):
            for count in (1, 4096, 70001, MiB):
                self.handle.zero(count, place + 3, flags)
                self.zeroed(place + 3, count)
                place += count + 7
        self.assert_model()

    def test_zero_across_objects(self):
        self.handle.zero(5 * MiB, 3 * MiB + 1)
        self.zeroed(3 * MiB + 1, 5 * MiB)
        self.assert_model()

    def test_fast_zero_of_whole_objects(self):
        self.handle.zero(4 * MiB, 4 * MiB, nbd.CMD_FLAG_FAST_ZERO)
        self.zeroed(4 * MiB, 4 * MiB)
        self.assert_model()

    def test_fast_zero_is_fast_or_nothing(self):
        """Whatever the answer, it is ENOTSUP with the data kept, or zeroes."""
        for offset, count, flags in ((MiB, 64 * KiB, 0),
                                     (2 * MiB, 64 * KiB, nbd.CMD_FLAG_NO_HOLE),
                                     (3 * MiB + 5, 11, 0)):
            try:
                self.handle.zero(count, offset,
                                 flags | nbd.CMD_FLAG_FAST_ZERO)
                self.zeroed(offset, count)
            except nbd.Error as error:
                self.assertEqual(error.errno, "ENOTSUP")
            self.assert_model()

    def test_cache(self):
        self.handle.cache(9 * MiB, 0)
        self.handle.cache(777, 12345)
        self.assert_model()

    def test_cache_buffered(self):
        self.create("other")
        server = self.serve("other", store=f"{self.location}?io=buffered")
        handle = self.connect(server)
        handle.pwrite(bytes(self.model), 0)
        handle.cache(SIZE, 0)
        self.assertEqual(handle.pread(9 * MiB, 0), bytes(self.model))


class Extents(OneConnection):
    def test_empty_volume_is_a_hole(self):
        self.assertEqual(extents(self.handle, SIZE, 0), [(SIZE, HOLE)])

    def test_sparse_between_objects(self):
        self.handle.pwrite(os.urandom(4 * MiB), 8 * MiB)
        self.handle.flush()
        self.assertEqual(
            extents(self.handle, SIZE, 0),
            [(8 * MiB, HOLE), (4 * MiB, DATA), (SIZE - 12 * MiB, HOLE)])

    def test_sparse_inside_an_object(self):
        self.handle.pwrite(os.urandom(64 * KiB), 5 * MiB)
        self.handle.pwrite(os.urandom(64 * KiB), 6 * MiB)
        self.handle.flush()
        self.assertEqual(
            extents(self.handle, 4 * MiB, 4 * MiB),
            [(MiB, HOLE), (64 * KiB, DATA), (MiB - 64 * KiB, HOLE),
             (64 * KiB, DATA), (2 * MiB - 64 * KiB, HOLE)])

    def test_hole_after_trim(self):
        self.handle.pwrite(os.urandom(8 * MiB), 0)
        self.handle.trim(MiB, MiB)
        self.handle.trim(4 * MiB, 4 * MiB)
        self.handle.flush()
        self.assertEqual(extents(self.handle, 8 * MiB, 0),
                         [(MiB, DATA), (MiB, HOLE), (2 * MiB, DATA),
                          (4 * MiB, HOLE)])

    def test_hole_after_zero(self):
        self.handle.pwrite(os.urandom(8 * MiB), 0)
        self.handle.zero(4 * MiB, 0)
        self.handle.flush()
        self.assertEqual(extents(self.handle, 8 * MiB, 0),
                         [(4 * MiB, HOLE), (4 * MiB, DATA)])

    def allocated_bytes(self):
        """What the store takes; extents don't tell zeroes with space of their
        own from holes."""
        return sum(os.lstat(os.path.join(place, name)).st_blocks * 512
                   for place, _, names in os.walk(f"{self.directory}/store")
                   for name in names)

    def test_zero_without_hole_takes_space(self):
        before = self.allocated_bytes()
        self.handle.zero(8 * MiB, 0)
        self.handle.flush()
        self.assertLess(self.allocated_bytes() - before, MiB)
        self.handle.zero(4 * MiB, 0, nbd.CMD_FLAG_NO_HOLE)
        self.handle.flush()
        self.assertGreaterEqual(self.allocated_bytes() - before, 4 * MiB)
        self.assertEqual(self.handle.pread(8 * MiB, 0), bytes(8 * MiB))

    def test_trim_gives_space_back(self):
        self.handle.pwrite(os.urandom(8 * MiB), 0)
        self.handle.flush()
        before = self.allocated_bytes()
        self.handle.trim(MiB, MiB)
        self.handle.trim(4 * MiB, 4 * MiB)
        self.handle.flush()
        wait_for(lambda: self.allocated_bytes() < before - 5 * MiB + 64 * KiB,
                 "the space")

    def test_request_one(self):
        self.handle.pwrite(os.urandom(4 * MiB), 4 * MiB)
        self.handle.flush()
        entries = extents(self.handle, SIZE - 5 * MiB, 5 * MiB,
                          nbd.CMD_FLAG_REQ_ONE)
        self.assertEqual(entries, [(3 * MiB, DATA)])

    def test_odd_range(self):
        self.handle.pwrite(os.urandom(64 * KiB), 0)
        entries = extents(self.handle, 1001, 64 * KiB - 500)
        self.assertEqual(entries[0], (500, DATA))
        self.assertEqual(entries[1][1], HOLE)

    def test_many(self):
        """More extents than one call of the library returns."""
        for i in range(700):
            self.handle.pwrite(b"x" * 4096, i * 32 * KiB)
        self.handle.flush()
        entries = extents(self.handle, 700 * 32 * KiB, 0)
        self.assertEqual(entries, [(4 * KiB, DATA), (28 * KiB, HOLE)] * 700)


if __name__ == "__main__":
    main()
