# SPDX-License-Identifier: LGPL-2.1-or-later
"""The log of a disk that QEMU's blklogwrites driver keeps (the format is that
of Linux's dm-log-writes), and the disk after a power cut at any place in it.

An entry stands in the log once the disk had done it, before the guest knew.  So
what lies before a flush is at least what the guest may rely on after it.  What
lies between the last flush and the cut was in the disk's volatile cache: each
sector of it reached the disk or didn't.
"""
import os
import random
import shutil
import struct
from collections import namedtuple

SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6a736677736872

# Offset and length on the disk; where the data is in the log; None: zeroes.
Entry = namedtuple('Entry', 'offset length flags data')


class WriteLog:
    def __init__(self, path):
        self.file = open(path, 'rb')
        magic, version, count, sector = struct.unpack('<QQQL', self.at(0, 28))
        if (magic, version, sector) != (MAGIC, 1, SECTOR):
            raise ValueError(f'{path} is no log of 512-byte sectors')
        del count           # as of the last flush only
        self.entries = list(self.read_entries(os.path.getsize(path)))

    def close(self):
        self.file.close()

    def at(self, offset, length):
        self.file.seek(offset)
        return self.file.read(length)

    def read_entries(self, end):
        at = SECTOR
        while at < end:
            sector, count, flags, _ = struct.unpack('<QQQQ', self.at(at, 32))
            at += SECTOR
            data = None
            if not flags & (FLUSH | DISCARD):
                data = at
                at += count * SECTOR
            yield Entry(sector * SECTOR, count * SECTOR, flags, data)

    def data(self, entry):
        if entry.data is None:
            return bytes(entry.length)
        # The end of the log may be a hole that was never written.
        return self.at(entry.data, entry.length).ljust(entry.length, b'\0')


class Disk:
    """The image of a disk that follows the log, flush by flush."""

    def __init__(self, log, base, work):
        self.log = log
        self.path = os.path.join(work, 'durable')
        copy_sparse(base, self.path)
        self.done = 0           # entries that are in it

    def cut(self, end, way, path):
        """Cut the power when `end` entries were done: make the image `path`.
        `way` is a function that gets an entry and returns which of its sectors
        reached the disk, as ranges.  Cuts must come in order."""
        entries = self.log.entries
        flushed = max((i + 1 for i in range(self.done, end)
                       if entries[i].flags & FLUSH), default=self.done)
        with open(self.path, 'r+b') as image:
            for entry in entries[self.done:flushed]:
                self.apply(image, entry, [(0, entry.length)])
        self.done = flushed
        copy_sparse(self.path, path)
        with open(path, 'r+b') as image:
            for entry in entries[flushed:end]:
                whole = [(0, entry.length)]
                self.apply(image, entry,
                           whole if entry.flags & FUA else way(entry))
        return end - flushed

    def apply(self, image, entry, ranges):
        if not ranges or entry.flags & FLUSH:
            return
        data = self.log.data(entry)
        for start, end in ranges:
            image.seek(entry.offset + start)
            image.write(data[start:end])


def copy_sparse(source, target):
    """A copy with the holes of the source."""
    with open(source, 'rb') as old, open(target, 'wb') as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            old.seek(at)
            new.seek(at)
            shutil.copyfileobj(Limited(old, hole - at), new, 1 << 20)
            at = hole


class Limited:
    """The next `left` bytes of a file."""

    def __init__(self, file, left):
        self.file = file
        self.left = left

    def read(self, count):
        data = self.file.read(min(count, self.left))
        self.left -= len(data)
        return data


def keep_all(entry):
    """The cache was on the disk, though nobody had asked."""
    return [(0, entry.length)]


def keep_none(entry):
    """Nothing but what was flushed."""
    return []


def keep_some(chance, dice):
    """Whole writes, some of them."""
    return lambda entry: [(0, entry.length)] if dice.random() < chance else []


def keep_torn(chance, dice):
    """Of each write some sectors."""
    def way(entry):
        kind = dice.random()
        if kind < 0.3:
            return [(0, entry.length)]
        if kind < 0.5:
            return []
        return [(at, at + SECTOR) for at in range(0, entry.length, SECTOR)
                if dice.random() < chance]
    return way


def any_way(dice):
    """(name, way), at random."""
    chance = dice.choice([0.1, 0.5, 0.9])
    return dice.choice([
        ('all kept', keep_all), ('none kept', keep_none),
        (f'{chance:.0%} kept', keep_some(chance, dice)),
        (f'torn, {chance:.0%}', keep_torn(chance, dice)),
        (f'torn, {chance:.0%}', keep_torn(chance, dice))])


def dice(seed):
    return random.Random(seed)
