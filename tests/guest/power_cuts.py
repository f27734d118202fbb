#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Power cuts of the file system under a store.

    power_cuts.py ext4|xfs [--io direct|buffered] [--cuts N] [--requests N]
                  [--seed N]

A guest runs load on a store (cut-load.c) on a disk whose writes and flushes
QEMU logs.  The log is cut at many places; at each the disk is made that might
have been left: all that was flushed, and of the rest anything (writelog.py).
Other guests mount these disks, check the store, open and copy the volumes
(power-look.sh).  Here each sector is held against what it may have, by the
notes that cut-load made on the same disk before the cut.

GUEST_SEED=N or --seed repeats the load and the choice of cuts, though not the
timing inside the guest.
"""
import argparse
import bisect
import os
import sys

import harness
import suite
import writelog

sys.path.insert(0, os.path.join(harness.ROOT, 'tests/crash'))
import findings  # noqa: E402
import stamps  # noqa: E402

MIB = 1 << 20
SECTORS = 8192              # of "vol" at most, as in cut-load.c
OBJECT = 128
BLOCK = 8
OTHER_SECTORS = 512
# mkfs.xfs makes nothing smaller; most of it is a hole.
FILESYSTEM_MIB = {'ext4': 64, 'xfs': 300}
MKFS = {'ext4': ['mkfs.ext4', '-q', '-E',
                 'lazy_itable_init=0,lazy_journal_init=0'],
        'xfs': ['mkfs.xfs', '-q']}
TAPE_MIB = 16
PLACE = 16 * MIB
DISKS_MAX = 24              # a machine


class Other:
    """A volume that the command makes and removes."""

    def __init__(self):
        self.sizes = {None}         # that it may have; None: isn't there
        self.stamps = {0}           # that its sectors may have
        self.number = None          # of what is being done to it
        self.then = None            # what it is after that

    def begin(self, number, command, sectors):
        self.number = number
        if command == 'remove':
            self.then = ({None}, {0})
        elif command == 'import':
            self.then = ({sectors}, {number})
        elif command == 'create':
            self.then = ({sectors}, {0})
        else:
            self.then = ({sectors}, self.stamps)
        self.sizes = self.sizes | self.then[0]
        self.stamps = self.stamps | self.then[1]

    def end(self):
        self.sizes, self.stamps = self.then
        self.number = None

    def check(self, name, image):
        size = None if image is None else len(image) // stamps.SECTOR
        if size not in self.sizes:
            raise stamps.Wrong(f'{name} has size {size}, not of {self.sizes}')
        for sector in range(min(size or 0, OTHER_SECTORS)):
            data = image[sector * stamps.SECTOR:(sector + 1) * stamps.SECTOR]
            if not any(data == stamps.pattern(stamp, sector, 1)
                       for stamp in self.stamps):
                raise stamps.Wrong(
                    f'{name}: sector {sector} begins with {data[:16].hex()}; '
                    f'allowed: {self.stamps}')
        if any(image[OTHER_SECTORS * stamps.SECTOR:] if size else b''):
            raise stamps.Wrong(f'{name}: what was grown is not zero')


class Expected:
    """What the volumes may hold, by the notes on the tape up to some place."""

    def __init__(self):
        self.model = stamps.Model(SECTORS, mixes=OPTIONS.io == 'buffered')
        self.size = SECTORS
        self.resize = None          # (number, new size), under way
        self.others = {f'other{i}': Other() for i in range(4)}

    def take(self, line):
        word = line.split()
        number = int(word[1]) if len(word) > 1 else 0
        if word[0] == 'w':
            self.model.write(number, int(word[2]), int(word[3]), word[4] == '1')
        elif word[0] == 'z':
            self.model.write(number, int(word[2]), int(word[3]), word[4] == '1',
                             stamp=0)
        elif word[0] == 'd':
            first = -(-int(word[2]) // BLOCK) * BLOCK
            end = (int(word[2]) + int(word[3])) // BLOCK * BLOCK
            self.model.write(number, first, max(end - first, 0), stamp=0)
        elif word[0] == 'f':
            self.model.flush(number)
        elif word[0] == 'r':
            self.begin_resize(number, int(word[2]))
        elif word[0] == 'v':
            self.others[word[3]].begin(number, word[2], int(word[4]))
        elif word[0] == 'c':
            self.complete(number)

    def begin_resize(self, number, size):
        """What is cut off is zero when it grows again; all of it is durable
        with the call."""
        self.resize = (number, size)
        cut = range(size, max(size, self.size))
        self.model.write(number, cut.start, len(cut), fua=True, stamp=0)

    def complete(self, number):
        for other in self.others.values():
            if other.number == number:
                other.end()
                return
        self.model.complete(number)
        if self.resize and self.resize[0] == number:
            self.size = self.resize[1]
            self.resize = None
            self.flush_by_resize(number)

    def flush_by_resize(self, number):
        """A resize that isn't volatile is durable, and all before it."""
        self.model.flush(number)
        self.model.complete(number)

    def check(self, images):
        image = images.pop('vol', None)
        if image is None:
            raise stamps.Wrong('vol is gone')
        size = len(image) // stamps.SECTOR
        if self.resize and size == self.size != self.resize[1]:
            self.model.forget(self.resize[0])
        elif size != self.size and not (self.resize and
                                        size == self.resize[1]):
            raise stamps.Wrong(f'vol has {size} sectors, not {self.size}; '
                               f'resize under way: {self.resize}')
        lost = self.model.crash(image)
        for name, other in self.others.items():
            other.check(name, images.pop(name, None))
        if images:
            raise stamps.Wrong(f'nobody made {sorted(images)}')
        return lost


class PowerCuts(harness.GuestTest):
    def file_system(self):
        """An image, and where behind the file system the tape begins."""
        path = self.path('base')
        size = FILESYSTEM_MIB[OPTIONS.filesystem] * MIB
        with open(path, 'wb') as file:
            file.truncate(size)
        harness.run(*MKFS[OPTIONS.filesystem], path)
        harness.run('fallocate', '--dig-holes', path)
        with open(path, 'r+b') as file:
            file.truncate(size + TAPE_MIB * MIB)
        return path, size

    def boot(self, script, arguments, variables):
        program = os.path.join(harness.BUILD, 'tests/guest/cut-load')
        return self.guest(
            script,
            variables={'FILESYSTEM': OPTIONS.filesystem,
                       'LIBRARIES': os.path.join(harness.BUILD, 'src'),
                       **variables},
            arguments=arguments,
            programs=[harness.CLI, program,
                      *suite.FILESYSTEMS[OPTIONS.filesystem]],
            modules=['xfs'], memory_mib=suite.FIO_MIB)

    def load(self, base, tape):
        """Run it; the log of what it wrote."""
        disk, log = self.path('disk'), self.path('log')
        writelog.copy_sparse(base, disk)
        open(log, 'wb').close()
        arguments = [
            '-blockdev', f'driver=file,filename={disk},node-name=f0',
            '-blockdev', f'driver=file,filename={log},node-name=l0',
            '-blockdev', 'driver=blklogwrites,file=f0,log=l0,node-name=d0,'
                         'log-sector-size=512',
            '-device', 'virtio-blk-pci,drive=d0']
        variables = {'TAPE': tape, 'SEED': OPTIONS.seed,
                     'REQUESTS': OPTIONS.requests, 'IO': OPTIONS.io}
        with self.boot('power-load.sh', arguments, variables) as guest:
            guest.expect('begin', suite.TIMEOUT)
            guest.expect('end', suite.TIMEOUT)
            guest.finish(suite.TIMEOUT)
        os.unlink(disk)
        return writelog.WriteLog(log)

    def read_tape(self, log, tape):
        """[(place in the log, notes)]"""
        notes = []
        for i, entry in enumerate(log.entries):
            if entry.offset >= tape and entry.length:
                text = log.data(entry).rstrip(b'\0').decode()
                notes.append((i, text.splitlines()))
        self.assertTrue(notes and notes[0][1] == ['begin'], notes[:1])
        return notes

    def choose_cuts(self, log, notes):
        """Places in the log, in order: half of them right after the load was
        told that something is durable (a flush, or anything), a quarter before
        a flush of the disk, the others anywhere."""
        first, last = notes[0][0] + 1, notes[-1][0] + 1
        durable = {line.split()[1] for _, lines in notes for line in lines
                   if line[0] in 'frv' or line[0] in 'wz' and line[-1] == '1'}
        flush = {line.split()[1] for _, lines in notes for line in lines
                 if line[0] == 'f'}
        told, flushed = [
            [i + 1 for i, lines in notes
             if any(line[0] == 'c' and line.split()[1] in numbers
                    for line in lines)] for numbers in (durable, flush)]
        flushes = [i for i, entry in enumerate(log.entries)
                   if entry.flags & writelog.FLUSH and first < i < last]
        cuts = []
        for number in range(OPTIONS.cuts):
            end, way = self.dice.randint(first, last), None
            if number % 4 < 2:
                end = self.dice.choice([told, flushed][number % 4])
                if self.dice.random() < 0.6:
                    way = ('none kept', writelog.keep_none)
            elif number % 4 == 2:
                end = self.dice.choice(flushes)
            cuts.append((end, way or writelog.any_way(self.dice)))
        return sorted(cuts, key=lambda cut: cut[0])

    def look(self, images):
        """Let a guest look; what it found in each."""
        out = self.path('out')
        with open(out, 'wb') as file:
            file.truncate(len(images) * PLACE)
        arguments = ['-drive', f'if=virtio,format=raw,cache=unsafe,file={out}',
                     '-device', 'virtio-scsi-pci,id=s0']
        for i, image in enumerate(images):
            arguments += [
                '-drive', f'if=none,id=i{i},format=raw,cache=unsafe,'
                          f'file={image}',
                '-device', f'scsi-hd,drive=i{i},bus=s0.0,scsi-id={i}']
        variables = {'DISKS': len(images), 'PLACE': PLACE}
        with self.boot('power-look.sh', arguments, variables) as guest:
            said = [guest.hear(suite.TIMEOUT) for _ in images]
            guest.finish(suite.TIMEOUT)
        with open(out, 'rb') as file:
            for i, word in enumerate(said):
                yield self.found(file, i * PLACE, word)
        os.unlink(out)

    def found(self, file, place, word):
        """The volumes by name."""
        def text(offset, length):
            file.seek(place + offset)
            return file.read(length).rstrip(b'\0').decode(errors='replace')

        if word != 'fine':
            return (f'the guest said {word}: ' + text(131072, 65536)
                    + text(65536, 65536))
        said = [dict(zip(('severity', 'code', 'place'), line.split(' ', 2)))
                for line in text(65536, 65536).splitlines()]
        for finding in said:
            self.left[finding['code']] = self.left.get(finding['code'], 0) + 1
        wrong = findings.unexplained(said)
        if wrong:
            return f'check finds {wrong}'
        lines = text(0, 65536).splitlines()
        if lines[-1:] != ['end']:
            return f'the list of volumes is cut off: {lines}'
        images = {}
        for line in lines[:-1]:
            name, size, at = line.split()
            file.seek(int(at))
            images[name] = file.read(int(size) * stamps.SECTOR)
        return images

    def judge(self, notes, cut, images):
        """Hold one cut's volumes against the notes from before it."""
        expected = Expected()
        before = bisect.bisect_left([place for place, _ in notes], cut)
        for _, lines in notes[:before]:
            for line in lines:
                expected.take(line)
        self.lost += expected.check(images)
        self.mixed += expected.model.mixed

    def run_cuts(self, log, base, notes):
        disk = writelog.Disk(log, base, self.directory)
        cuts = self.choose_cuts(log, notes)
        failures = []
        for first in range(0, len(cuts), DISKS_MAX):
            some = cuts[first:first + DISKS_MAX]
            images = []
            for i, (end, (_, way)) in enumerate(some):
                images.append(self.path(f'cut{i}'))
                self.unflushed += disk.cut(end, way, images[-1])
            for (end, (name, _)), found in zip(some, self.look(images)):
                failure = found if isinstance(found, str) else None
                try:
                    if not failure:
                        self.judge(notes, end, found)
                except stamps.Wrong as wrong:
                    failure = str(wrong)
                if failure:
                    failures.append(f'cut at {end} of {len(log.entries)}, '
                                    f'{name}: {failure}')
            for image in images:
                os.unlink(image)
        return failures

    def test_cuts(self):
        print(f'seed: GUEST_SEED={OPTIONS.seed}', flush=True)
        self.dice = writelog.dice(OPTIONS.seed)
        self.lost = self.mixed = self.unflushed = 0
        self.left = {}
        base, tape = self.file_system()
        log = self.load(base, tape)
        self.addCleanup(log.close)
        notes = self.read_tape(log, tape)
        failures = self.run_cuts(log, base, notes)
        print(f'{OPTIONS.filesystem}, {OPTIONS.io}: {OPTIONS.cuts} cuts in a '
              f'log of {len(log.entries)} entries and '
              f'{sum(e.flags & writelog.FLUSH for e in log.entries)} flushes; '
              f'{self.unflushed} entries in doubt, {self.lost} sectors lost '
              f'that were not flushed, {self.mixed} mixed; check found '
              f'{self.left}; {len(failures)} failures')
        self.assertFalse(failures, '\n\n'.join(failures[:5]))
        self.assertGreater(self.unflushed, OPTIONS.cuts,
                           'next to nothing was in doubt')
        self.assertLessEqual(self.mixed, OPTIONS.cuts,
                             'more than write-back can mix')


def read_options():
    parser = argparse.ArgumentParser(description='Cut the power.')
    parser.add_argument('filesystem', choices=MKFS)
    parser.add_argument('--io', choices=['direct', 'buffered'],
                        default='direct')
    parser.add_argument('--cuts', type=int, default=24)
    parser.add_argument('--requests', type=int, default=1500)
    parser.add_argument('--seed', type=int, default=suite.SEED)
    return parser.parse_args()


if __name__ == '__main__':
    OPTIONS = read_options()
    del sys.argv[1:]
    harness.require_programs('qemu-system-x86_64', 'fallocate',
                             *suite.FILESYSTEMS[OPTIONS.filesystem])
    harness.main()
