#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fault loop over every command: the Nth call that it makes fails, N = 1,
2, ... until there is none, in each way in which it can.

Whatever fails: no signal, no hang; the command succeeds and did all of it, or
ends with 1 and says why; a check then finds no damage and a repair mends the
rest; the volumes are there with every byte, or not at all; the same command
then succeeds.

    commands.py [--every K] [COMMAND...]    only each Kth point

FAULTY_ARCHIPELAGO is the program, ARCHIPELAGO_SCRATCH where to work.
"""
import argparse
import errno
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile

PROGRAM = os.environ['FAULTY_ARCHIPELAGO']
SECONDS = 120
WAYS_MAX = 8
# What a command ends with: anything, no space, check mended something.
FAILED, DAMAGED, SPACE, REPAIRED = 1, 6, 7, 9


class Place:
    """A directory with a store, which is made once and copied."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.template = os.path.join(scratch, 'template')
        self.here = os.path.join(scratch, 'here')
        os.mkdir(self.template)
        with open(os.path.join(self.template, 'raw'), 'wb') as raw:
            raw.write(os.urandom(200192))
        shutil.copytree(self.template, self.here)
        os.mkdir(self.file('store'))
        for name in 'harbour', 'beacon':
            self.good('import', 'raw', name, '--object-size', '64K')
        self.good('metadata', 'export', 'saved')
        shutil.rmtree(self.template)
        os.rename(self.here, self.template)

    def file(self, name):
        return os.path.join(self.here, name)

    def renew(self):
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.template, self.here)

    def run(self, arguments, nth=0, way=0):
        """The completed process, and the report of the calls."""
        report = os.path.join(self.scratch, 'report')
        environment = dict(os.environ, FAULT_NTH=str(nth), FAULT_WAY=str(way),
                           FAULT_REPORT=report, LC_ALL='C.UTF-8',
                           ARCHIPELAGO_STORE=f'dir:{self.file("store")}'
                                             '?io=buffered')
        if os.path.exists(report):
            os.remove(report)
        done = subprocess.run([PROGRAM, *arguments], cwd=self.here,
                              env=environment, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=SECONDS,
                              check=False)
        words = ['0', '0', '0', '0', 'none']
        if os.path.exists(report):
            with open(report, encoding='ascii') as lines:
                words = lines.read().split()
        return done, [*map(int, words[:4]), words[4]]

    def good(self, *arguments):
        done, _ = self.run(arguments)
        if done.returncode:
            raise AssertionError(f'{arguments}: {done.stderr.decode()}')
        return done.stdout


class Command:
    """A use of a command: what it needs, and what it leaves."""

    def __init__(self, *arguments, prepare=None, after=None, again=None,
                 before=None):
        self.arguments = arguments
        self.prepare = prepare or (lambda place: None)
        # After success; after failure.
        self.after = after or (lambda place: None)
        self.before = before or (lambda place: None)
        # What to run after a failure: it may have happened.
        self.again = again or (lambda place: place.good(*arguments))


def names(place):
    return {volume['name'] for volume in json.loads(
        place.good('list', '--json'))['volumes']}


def expect(truth, text):
    if not truth:
        raise AssertionError(text)


def has_all(place, volume='harbour'):
    """The volume has every byte of the file."""
    out = place.file('compared')
    place.good('export', volume, out, '--force')
    with open(place.file('raw'), 'rb') as raw, open(out, 'rb') as got:
        expect(raw.read() == got.read()[:200192], f'{volume} lost something')
    os.remove(out)


def there(name):
    return lambda place: expect(name in names(place), f'no {name}')


def gone(name):
    return lambda place: expect(name not in names(place), f'{name} is there')


def imported(place):
    there('jetty')(place)
    has_all(place, 'jetty')


def unless(name, *arguments):
    """Run it again if that is still to be done."""
    def again(place):
        if name not in names(place):
            place.good(*arguments)
    return again


def remove_again(place):
    if 'harbour' in names(place):
        has_all(place)
        place.good('remove', 'harbour')


def no_files(place, *but):
    """Nothing of an output file, also by another name."""
    left = set(os.listdir(place.here)) - {'raw', 'saved', 'store', *but}
    expect(not left, f'{left} was left')


def only_file(place):
    """It has the other volumes where one was left out."""
    no_files(place, 'file')


def whole_file(place):
    expect(filecmp.cmp(place.file('out'), place.file('raw'), shallow=False),
           'another file than what was exported')


def is_saved(place):
    expect(filecmp.cmp(place.file('file'), place.file('saved'),
                       shallow=False), 'another export than without faults')


def size_is(size):
    def look(place):
        info = json.loads(place.good('info', 'harbour', '--json'))
        expect(info['size_bytes'] == size, f'size {info["size_bytes"]}')
    return look


def lose_metadata(place):
    for folder in 'names', 'maps':
        shutil.rmtree(os.path.join(place.file('store'), folder))
        os.mkdir(os.path.join(place.file('store'), folder))


def damage(place):
    """A leftover that a repair sets aside."""
    with open(os.path.join(place.file('store'), 'names', '.new-x'), 'wb'):
        pass


COMMANDS = [
    Command('create', 'jetty', '1M', after=there('jetty'),
            again=unless('jetty', 'create', 'jetty', '1M')),
    Command('list'),
    Command('info', 'harbour'),
    Command('map', 'harbour'),
    Command('du'),
    Command('resize', 'harbour', '1M', after=size_is(1 << 20)),
    Command('resize', 'harbour', '200192', '--allow-shrink',
            prepare=lambda place: place.good('resize', 'harbour', '1M'),
            after=size_is(200192)),
    Command('remove', 'harbour', after=gone('harbour'), again=remove_again),
    Command('import', 'raw', 'jetty', '--object-size', '64K', after=imported,
            before=gone('jetty')),
    Command('export', 'harbour', 'out', after=whole_file, before=no_files),
    Command('status'),
    Command('check'),
    Command('check', '--repair', prepare=damage),
    Command('metadata', 'export', 'file', after=is_saved, before=only_file,
            again=lambda place: place.good('metadata', 'export', 'file',
                                           '--force')),
    Command('metadata', 'import', 'saved', prepare=lose_metadata,
            again=lambda place: place.good('metadata', 'import', 'saved',
                                           '--overwrite')),
]

# What has no fault loop of its own.
REMOVES = {'remove'}


def judge(command, done, report):
    """Did it end as it may?  Returns whether it failed."""
    _, fired, _, number, call = report
    text = done.stderr.decode(errors='replace')
    # Of a volume that can't be looked at these know only the text.
    listed = command.arguments[0] in ('list', 'status') and \
        done.returncode == DAMAGED
    expect(listed or done.returncode in (0, FAILED, SPACE, REPAIRED),
           f'ends with {done.returncode}: {text}')
    if done.returncode in (0, REPAIRED):
        return False
    if command.arguments[0] == 'check' and not text:
        text = done.stdout.decode(errors='replace')
    expect(fired, f'fails without a fault: {text}')
    expect(number not in (0, errno.EINTR, errno.EAGAIN),
           f'{call}: what is to be tried again isn\'t: {text}')
    expect(os.strerror(number) in text,
           f'the text doesn\'t tell "{os.strerror(number)}": {text}')
    return True


def verify(command, place, failed):
    """Nothing is damaged, nothing is lost."""
    if failed:
        command.before(place)
        command.again(place)
    command.after(place)
    done, _ = place.run(['check', '--repair'])
    expect(done.returncode in (0, REPAIRED), f'a repair ends with '
           f'{done.returncode}: {done.stdout.decode()}')
    place.good('check')
    for name in names(place) & {'harbour', 'beacon'}:
        has_all(place, name)
    expect('beacon' in names(place), 'no beacon')
    expect('harbour' in names(place) or command.arguments[0] in REMOVES,
           'no harbour')


def shoot(command, place, nth, way):
    """One call fails in one way.  Returns (is there such a point, such a
    way, did it fail)."""
    place.renew()
    command.prepare(place)
    done, report = place.run(command.arguments, nth, way)
    try:
        failed = judge(command, done, report)
        if report[1]:
            verify(command, place, failed)
    except AssertionError as complaint:
        raise AssertionError(f'{" ".join(command.arguments)}, call {nth} '
                             f'({report[4]}), way {way}: {complaint}') \
            from None
    return report[0] >= nth, not report[2], failed


def loop(command, place, every):
    """Returns how many points, runs and failures there were."""
    nth, runs, failures, complaints = 1, 0, 0, 0
    while True:
        way, is_there, such = 0, True, True
        while is_there and such and way < WAYS_MAX:
            try:
                is_there, such, failed = shoot(command, place, nth, way)
                failures += failed
            except AssertionError as complaint:
                print(complaint, flush=True)
                complaints += 1
            runs += 1
            way += 1
        if not is_there:
            return nth - 1, runs, failures, complaints
        nth += every


def complete():
    """Every command that --help shows is in the table."""
    text = subprocess.run([PROGRAM, '--help'], capture_output=True,
                          check=True).stdout.decode()
    listed = {line.split()[0] for line in
              text.split('Commands:\n')[1].split('\n\n')[0].splitlines()}
    tested = {command.arguments[0] for command in COMMANDS}
    expect(listed == tested, f'no fault loop for {listed ^ tested}')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--every', type=int, default=1)
    parser.add_argument('commands', nargs='*')
    options = parser.parse_args()
    complete()
    scratch = tempfile.mkdtemp(prefix='archipelago-test-',
                               dir=os.environ.get('ARCHIPELAGO_SCRATCH',
                                                  '/var/tmp'))
    bad = 0
    try:
        place = Place(scratch)
        for command in COMMANDS:
            if options.commands and \
                    command.arguments[0] not in options.commands:
                continue
            points, runs, failures, complaints = loop(command, place,
                                                      options.every)
            print(f'{" ".join(command.arguments)}: {points} points, {runs} '
                  f'runs, {failures} failed, {complaints} complaints',
                  flush=True)
            bad += complaints
    finally:
        shutil.rmtree(scratch)
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
