#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Transaction logs for nbd-tester-client, out of others or out of a seed.

  transactions.py rewrite [--fua all|none] [--flush N] [--end SIZE] < in > out
  transactions.py make SEED COUNT SIZE > out

`rewrite` gives all writes FUA or takes it away, has a flush follow each Nth
write and none elsewhere (0: none at all), and reads SIZE bytes at the end, all
there is, which the client compares with what it wrote.  `make` mixes reads and
writes of all sizes, many on top of each other, with FUA and flushes, and then
reads all.
"""
import argparse
import random
import struct
import sys

MAGIC = struct.Struct('>I')
REQUEST = struct.Struct('>IIQQI')
REPLY_BYTES = 16
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH = range(4)
FUA = 1 << 16
PIECE = 1 << 20


def requests(data):
    """(type, offset, length) of each request in a log."""
    at = 0
    while at < len(data):
        magic, = MAGIC.unpack_from(data, at)
        if magic == REQUEST_MAGIC:
            _, kind, _, offset, length = REQUEST.unpack_from(data, at)
            yield kind, offset, length
            at += REQUEST.size
        elif magic == REPLY_MAGIC:
            at += REPLY_BYTES
        else:
            sys.exit(f'no transaction at byte {at}')


def rewritten(log, args):
    writes = 0
    for kind, offset, length in log:
        if kind & 0xffff == WRITE:
            kind = {'all': WRITE | FUA, 'none': WRITE}.get(args.fua, kind)
            yield kind, offset, length
            writes += 1
            if args.flush and writes % args.flush == 0:
                yield FLUSH, 0, 0
        elif kind == READ or kind == FLUSH and args.flush is None:
            yield kind, offset, length


def made(args):
    number = random.Random(args.seed)
    place = 0
    for _ in range(args.count):
        # As often small as large, and a third near the last one.
        sectors = min(int(2 ** number.uniform(0, 12)), args.size >> 9)
        if number.random() < 0.67:
            place = number.randrange(args.size >> 9)
        place = min(place, (args.size >> 9) - sectors)
        kind = number.choices((READ, WRITE, WRITE | FUA, FLUSH),
                              (3, 8, 1, 0.5))[0]
        if kind == FLUSH:
            yield FLUSH, 0, 0
        else:
            yield kind, place << 9, sectors << 9


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest='command', required=True)
    rewrite = commands.add_parser('rewrite')
    rewrite.add_argument('--fua', choices=['all', 'none'])
    rewrite.add_argument('--flush', type=int)
    rewrite.add_argument('--end', type=int, dest='size', default=0)
    make = commands.add_parser('make')
    make.add_argument('seed', type=int)
    make.add_argument('count', type=int)
    make.add_argument('size', type=int)
    args = parser.parse_args()
    if args.command == 'make':
        log = made(args)
    else:
        log = rewritten(requests(sys.stdin.buffer.read()), args)

    def put(kind, offset, length):
        sys.stdout.buffer.write(REQUEST.pack(REQUEST_MAGIC, kind, 0, offset,
                                             length))
    for request in log:
        put(*request)
    for offset in range(0, args.size, PIECE):
        put(READ, offset, min(PIECE, args.size - offset))
    put(DISCONNECT, 0, 0)


main()
