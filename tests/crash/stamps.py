# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each sector of a volume may hold, under the contract of
docs/DURABILITY.md (D1 to D5).

Every write has a stamp, a number that no other has, and fills each of its
sectors with stamp and sector number; zeroes have stamp 0.  So a sector tells
who wrote it, and whether it is whole and in its place.

The model hears of requests when they are submitted and when they complete; what
counts as the time is the order in which it hears.  A value is out of the
question only when something that took its place for certain was submitted after
it had completed: for certain means with FUA, or before a flush was submitted
that completed.  What was read after a crash is settled: it must not change any
more unless it's written again.
"""
import struct

SECTOR = 512
FOREVER = float('inf')


def pattern(stamp, first, count):
    """`count` sectors from sector `first` on, as the write `stamp` leaves."""
    if stamp == 0:
        return bytes(count * SECTOR)
    return b''.join(struct.pack('<QQ', stamp, sector) * (SECTOR // 16)
                    for sector in range(first, first + count))


class Wrong(Exception):
    """A sector holds what it must not."""


class Change:
    """A write, or zeroes, over a range of sectors."""
    __slots__ = ('stamp', 'text', 'submitted', 'completed', 'durable', 'fua')

    def __init__(self, stamp, text, submitted, fua):
        self.stamp = stamp
        self.text = text
        self.submitted = submitted
        self.completed = FOREVER
        self.durable = FOREVER
        self.fua = fua

    def __str__(self):
        end = ('durable' if self.durable < FOREVER else
               'completed' if self.completed < FOREVER else 'cut off')
        return f'{self.text}: {end}'


class Model:
    """With `mixes`, a sector may be mixed of values each of which it may have:
    that is what a power cut makes of a sector that was overwritten while the
    kernel was writing its page (D3).  Such a model is for one crash."""

    def __init__(self, sectors, mixes=False):
        self.mixes = mixes
        self.mixed = 0          # sectors found so
        self.base = [0] * sectors
        self.changes = [None] * sectors
        self.time = 0
        self.open = {}          # number: Change, or when a flush was submitted
        self.volatile = []      # completed, not yet durable

    def tick(self):
        self.time += 1
        return self.time

    def write(self, number, first, count, fua=False, stamp=None):
        """The request `number` was, or is about to be, submitted; with
        `stamp` 0 it makes zeroes."""
        stamp = number if stamp is None else stamp
        text = (f'request {number}, {"write" if stamp else "zeroes"}'
                f'{",fua" if fua else ""} {first}+{count}')
        change = Change(stamp, text, self.tick(), fua)
        self.open[number] = change
        for sector in range(first, first + count):
            some = self.changes[sector]
            if some is None:
                self.changes[sector] = [change]
            else:
                some.append(change)
                if len(some) > 8:
                    self.prune(sector)

    def flush(self, number):
        self.open[number] = self.tick()

    def complete(self, number):
        what = self.open.pop(number)
        now = self.tick()
        if isinstance(what, Change):
            what.completed = now
            if what.fua:
                what.durable = now
            else:
                self.volatile.append(what)
            return
        for change in self.volatile:
            if change.completed < what:
                change.durable = now
        self.volatile = [change for change in self.volatile
                         if change.durable == FOREVER]

    def prune(self, sector):
        """Forget what something durable has replaced."""
        some = self.changes[sector]
        bound = max((change.submitted for change in some
                     if change.durable < FOREVER), default=0)
        self.changes[sector] = [change for change in some
                                if change.completed >= bound]
        if bound:
            self.base[sector] = None

    def allowed(self, sector):
        some = self.changes[sector]
        if some is None:
            return {self.base[sector]}
        bound = max((change.submitted for change in some
                     if change.durable < FOREVER), default=0)
        stamps = {change.stamp for change in some if change.completed >= bound}
        if not bound and self.base[sector] is not None:
            stamps.add(self.base[sector])
        return stamps

    def is_mixed(self, sector, data):
        """Is each byte that of a value which the sector may have?"""
        values = [pattern(stamp, sector, 1) for stamp in self.allowed(sector)
                  if stamp is not None]
        return self.mixes and all(byte in choice for byte, *choice
                                  in zip(data, *values))

    def explain(self, sector, what):
        some = self.changes[sector] or []
        return Wrong(f'sector {sector}: {what}; allowed: '
                     f'{sorted(self.allowed(sector))}; before: '
                     f'{self.base[sector]}\n  '
                     + '\n  '.join(str(change) for change in some))

    def crash(self, image):
        """The volume was opened after a crash and holds `image`: hold it
        against the model, and settle what was found.  Returns how many
        sectors had lost a completed write that no flush covered."""
        lost = 0
        if len(image) % SECTOR or len(image) > len(self.base) * SECTOR:
            raise Wrong(f'{len(image)} bytes is no size for the volume')
        for sector in range(len(image) // SECTOR):
            at = sector * SECTOR
            data = image[at:at + SECTOR]
            stamp, where = struct.unpack_from('<QQ', data)
            if data != pattern(stamp, sector, 1):
                if not self.is_mixed(sector, data):
                    raise self.explain(sector, 'torn or foreign: stamp '
                                       f'{stamp}, sector {where} at its head')
                self.mixed += 1
                stamp = None
            elif stamp not in self.allowed(sector):
                raise self.explain(sector, f'found stamp {stamp}')
            elif self.changes[sector]:
                lost += self.lost(sector, stamp)
            self.base[sector] = stamp
            self.changes[sector] = None
        for sector in range(len(image) // SECTOR, len(self.base)):
            self.base[sector] = 0
            self.changes[sector] = None
        self.open.clear()
        self.volatile.clear()
        return lost

    def lost(self, sector, stamp):
        done = [change for change in self.changes[sector]
                if change.completed < FOREVER]
        last = max((change.submitted for change in done), default=0)
        return not any(change.stamp == stamp and change.completed >= last
                       for change in self.changes[sector])

    def forget(self, number):
        """A request that is known not to have happened."""
        change = self.open.pop(number)
        for sector, some in enumerate(self.changes):
            if some and change in some:
                some.remove(change)
