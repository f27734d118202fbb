#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each command that changes a store, killed at each system call that does so.

    commands.py [--step N] [--phase N] [CASE...]

A case is a store, a command, and what may be there after it was cut off.  The
command is run in a fresh copy of the store again and again, killed before its
first, second, third ... such system call, and where that is a long write also
in the middle of it, until it runs to its end.  After each kill: `check` finds
no damage and nothing but what a crash may leave; every volume has what it may
have; the next to make or remove a volume finishes what was half done; the
command, given again, does its work; and after `check --repair` nothing is left
to find.

With --step N only each Nth call, beginning with the --phase (random if not
given).
"""
import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile

import findings
import stamps

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get('ARCHIPELAGO_BUILD',
                       os.path.join(HERE, '../../build'))
CLI = os.path.join(BUILD, 'src/cli/archipelago')
KILL_AT = os.path.join(BUILD, 'tests/crash/kill-at')
SHOW_STORE = os.path.join(BUILD, 'tests/crash/show-store')
KIB = 2                             # sectors
OBJECT = 64 * KIB
SIZE = 5 * OBJECT + 3
KEEP, OLD, NEW = 1, 2, 3            # stamps
LONG_WRITES = {'write', 'pwrite64', 'writev', 'pwritev', 'pwritev2'}


class Failure(Exception):
    pass


def data(stamp, sectors=SIZE):
    return stamps.pattern(stamp, 0, sectors)


class Store:
    """A store in the directory `path`, and the command on it."""

    def __init__(self, path):
        self.path = path
        self.work = os.path.dirname(path)

    def run(self, *arguments, expect=(0,), program=CLI):
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.work,
            env={**os.environ, 'ARCHIPELAGO_STORE': 'dir:' + self.path,
                 'LC_ALL': 'C'})
        if done.returncode not in expect:
            raise Failure(f'{" ".join(arguments)}: exit status '
                          f'{done.returncode}: {done.stderr.decode()}'
                          f'{done.stdout.decode(errors="replace")[-2000:]}')
        return done.stdout

    def volumes(self, *arguments):
        """Their bytes, by name."""
        shown = io.BytesIO(self.run(*arguments, 'dir:' + self.path,
                                    program=SHOW_STORE))
        found = {}
        while line := shown.readline().decode().split():
            found[line[0]] = shown.read(int(line[1]))
        return found

    def findings(self):
        found = json.loads(self.run('check', '--json', expect=(0, 6, 8)))
        return found['findings']


# --- What volumes may hold --------------------------------------------------

def whole(*choices):
    """One of `choices`: bytes, or None for no volume."""
    return lambda image: image in choices


def mixed(*choices, absent=False):
    """Each sector that of one of `choices`, all of one length."""
    def allowed(image):
        if image is None:
            return absent
        return len(image) == len(choices[0]) and all(
            any(image[at:at + 512] == one[at:at + 512] for one in choices)
            for at in range(0, len(image), 512))
    return allowed


class Case:
    """`command` is a list.  `cut` and `done` say what volumes may hold after it
    was cut off and after it was done: functions by name; all others are as they
    were.  `again` is the same command, for when it's given once more after
    that."""

    def __init__(self, command, cut, done, again=None, setup=None,
                 may_damage=False, expect=(0,)):
        self.command = command
        self.cut = cut
        self.done = done
        self.again = again or [command]
        self.setup = setup
        self.may_damage = may_damage    # until it was given again
        self.expect = expect            # exit codes of a run to the end


def killed(store, command, first, wanted):
    """Let `command` die at its `first` call or the next one that leaves what is
    `wanted`: a function of the codes that check finds and the volume "old"."""
    for count in range(first, first + 100):
        trial = Store(os.path.join(store.work, 'trial'))
        shutil.copytree(store.path, trial.path)
        subprocess.run([KILL_AT, str(count), CLI, *command], cwd=store.work,
                       env={**os.environ,
                            'ARCHIPELAGO_STORE': 'dir:' + trial.path},
                       check=False)
        codes = {one['code'] for one in trial.findings()}
        good = wanted(codes, trial.volumes()['old'])
        shutil.rmtree(store.path if good else trial.path)
        if good:
            os.rename(trial.path, store.path)
            return
    raise Failure(f'{" ".join(command)} never leaves what is wanted')


def set_up_unclean(store):
    """Somebody died in the middle of overwriting "old"."""
    killed(store, ['import', '-q', '--existing', 'new.raw', 'old'], 12,
           lambda codes, old: 'volume-unclean' in codes and old != data(OLD))


def set_up_shrunk(store):
    """Somebody died in a shrink that had happened, and was not cleaned up."""
    killed(store, ['resize', '--allow-shrink', 'old', '70K'], 1,
           lambda codes, old: 'volume-unclean' in codes and
           old == data(OLD, 140))


def set_up_nothing(store):
    """A directory in which no store was ever made."""
    shutil.rmtree(store.path)
    os.mkdir(store.path)


def set_up_backup(store):
    store.run('metadata', 'export', 'backup')


def set_up_loss(store):
    store.run('metadata', 'export', 'backup')
    for name in ('maps', 'names'):
        shutil.rmtree(os.path.join(store.path, name))
        os.mkdir(os.path.join(store.path, name))


def set_up_litter(store):
    """Things left over, of each kind that a repair removes or sets aside."""
    blocks = os.path.join(store.path, 'blocks')
    for here, _, names in list(os.walk(blocks)):
        if '0' in names:
            shutil.copy(os.path.join(here, '0'), os.path.join(here, '300'))
            layer = os.path.dirname(here)
            shutil.copytree(layer, os.path.join(os.path.dirname(layer),
                                                os.urandom(16).hex()))
    open(os.path.join(store.path, 'junk'), 'w').close()
    open(os.path.join(store.path, 'names/.new-x'), 'w').close()


OLD_DATA = {'old': whole(data(OLD))}
CASES = {
    'create': Case(
        ['create', '-o', '64K', 'new', '200K'],
        {'new': whole(None, bytes(200 * 1024))},
        {'new': whole(bytes(200 * 1024))}),
    'create-first': Case(
        ['create', '-o', '64K', 'new', '200K'], None,
        {'keep': whole(None), 'new': whole(bytes(200 * 1024))},
        setup=set_up_nothing, may_damage=True),
    'remove': Case(
        ['remove', 'old'],
        {'old': whole(None, data(OLD))}, {'old': whole(None)}),
    'grow': Case(
        ['resize', 'old', '500K'],
        {'old': whole(data(OLD), data(OLD).ljust(500 * 1024, b'\0'))},
        {'old': whole(data(OLD).ljust(500 * 1024, b'\0'))}),
    'shrink': Case(
        ['resize', '--allow-shrink', 'old', '70K'],
        {'old': whole(data(OLD), data(OLD, 140))},
        {'old': whole(data(OLD, 140).ljust(300 * 1024, b'\0'))},
        again=[['resize', '--allow-shrink', 'old', '70K'],
               ['resize', 'old', '300K']]),
    'import': Case(
        ['import', '-q', '-o', '64K', 'new.raw', 'new'],
        {'new': mixed(data(0), data(NEW), absent=True)},
        {'new': whole(data(NEW))},
        again=[['create', '-o', '64K', 'new', str(SIZE * 512)],
               ['import', '-q', '--existing', 'new.raw', 'new']]),
    'import-existing': Case(
        ['import', '-q', '--existing', 'new.raw', 'old'],
        {'old': mixed(data(OLD), data(NEW), data(0))},
        {'old': whole(data(NEW))}),
    # What they may have depends on what had been left: see make_template().
    'recover': Case(['resize', 'old', '500K'], None, None,
                    setup=set_up_unclean),
    'recover-shrink': Case(['resize', 'old', '500K'], None, None,
                           setup=set_up_shrunk),
    'metadata-import': Case(
        ['metadata', 'import', '--overwrite', 'backup'],
        None, OLD_DATA, setup=set_up_backup, may_damage=True),
    'metadata-restore': Case(
        ['metadata', 'import', '--overwrite', 'backup'],
        None, OLD_DATA, setup=set_up_loss, may_damage=True),
    'metadata-export': Case(
        ['metadata', 'export', '--force', 'backup'],
        OLD_DATA, OLD_DATA),
    'repair': Case(
        ['check', '--repair'], OLD_DATA, OLD_DATA, setup=set_up_litter,
        may_damage=True, expect=(0, 9)),
}


# --- Killing and looking ------------------------------------------------------

class Round:
    """One kill of one case."""

    def __init__(self, case, template, work):
        self.case = case
        self.store = Store(os.path.join(work, 'store'))
        shutil.rmtree(self.store.path, ignore_errors=True)
        shutil.copytree(template, self.store.path)

    def kill(self, count, torn):
        """Run the command and kill it; the call that it died at, or None
        when it came to its end."""
        read, write = os.pipe()
        done = subprocess.run(
            [KILL_AT, str(count), *(['--torn'] if torn else []), CLI,
             *self.case.command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, cwd=self.store.work,
            env={**os.environ, 'ARCHIPELAGO_STORE': 'dir:' + self.store.path},
            preexec_fn=lambda: os.dup2(write, 3), pass_fds=(3,))
        os.close(write)
        with os.fdopen(read) as pipe:
            words = pipe.read().split()
        if done.returncode == 137:
            return words[1]
        if done.returncode not in self.case.expect:
            raise Failure(f'not killed, but exit status {done.returncode}: '
                          f'{done.stderr.decode()}')
        return None

    def check(self, leaks):
        wrong = findings.unexplained(self.store.findings(), leaks)
        if wrong:
            raise Failure(f'check finds {wrong}')

    def compare(self, allowed, *arguments):
        found = self.store.volumes(*arguments)
        for name, function in {'keep': whole(data(KEEP)), **allowed}.items():
            image = found.pop(name, None)
            if not function(image):
                size = 'absent' if image is None else f'{len(image)} bytes'
                raise Failure(f'volume {name} ({size}) is not as it may be')
        if set(found) - {'old'} or 'old' in found and found['old'] != data(OLD):
            raise Failure(f'unexpected: {sorted(found)}')

    def look(self):
        """All that must hold after the kill."""
        if not self.case.may_damage:
            self.check(leaks=True)
        if self.case.cut:
            self.compare(self.case.cut, 'next')
            codes = {one['code'] for one in self.store.findings()}
            if 'operation-unfinished' in codes:
                raise Failure('nobody finished the operation')
        for command in self.case.again:
            # Already there, already gone: then it had been done.
            self.store.run(*command, expect=(*self.case.expect, *(
                {'create': [4], 'remove': [3]}.get(command[0], []))))
        self.compare(self.case.done)
        self.store.run('check', '--repair', expect=(0, 9))
        self.check(leaks=False)
        self.compare(self.case.done)


def run_case(case, template, work, step, phase):
    """Kill it everywhere; how often that was."""
    kills, count = 0, 1 + phase
    while True:
        call = None
        for torn in (False, True):
            if torn and call not in LONG_WRITES:
                break
            one = Round(case, template, work)
            call = one.kill(count, torn)
            if call is None:
                return kills, count - 1
            try:
                one.look()
            except Failure as failure:
                raise Failure(f'killed at call {count}, {call}'
                              f'{" (torn)" if torn else ""}: '
                              f'{failure}') from None
            kills += 1
        count += step


def make_template(case, work):
    store = Store(os.path.join(work, 'template'))
    shutil.rmtree(store.path, ignore_errors=True)
    os.mkdir(store.path)
    for name, stamp in (('keep', KEEP), ('old', OLD), ('new', NEW)):
        with open(os.path.join(work, name + '.raw'), 'wb') as file:
            file.write(data(stamp))
        if name != 'new':
            store.run('import', '-q', '-o', '64K', name + '.raw', name)
    if case.setup:
        case.setup(store)
    if not case.done:
        # A recovery, and growth: what a reader saw before stays (D5).
        seen = store.volumes()['old']
        grown = seen.ljust(500 * 1024, b'\0')
        case.cut = {'old': whole(seen, grown)}
        case.done = {'old': whole(grown)}
    return store.path


def main():
    parser = argparse.ArgumentParser(description='Kill commands.')
    parser.add_argument('--step', type=int, default=1)
    parser.add_argument('--phase', type=int)
    parser.add_argument('case', nargs='*')
    options = parser.parse_args()
    phase = options.phase
    if phase is None:
        phase = random.randrange(options.step)
    print(f'--step {options.step} --phase {phase}')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = total = 0
    for name in options.case or CASES:
        with tempfile.TemporaryDirectory(prefix='archipelago-crash-') as work:
            try:
                template = make_template(CASES[name], work)
                kills, calls = run_case(CASES[name], template, work,
                                        options.step, phase)
                total += kills
                print(f'{name}: {kills} kills in some {calls} calls',
                      flush=True)
            except Failure as failure:
                failed += 1
                print(f'{name}: FAILED: {failure}', flush=True)
    print(f'{total} kills, {failed} cases failed')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    if subprocess.run([KILL_AT, '0', 'true'], check=False).returncode:
        print('skip: processes cannot be traced here')
        sys.exit(77)
    main()
