# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the harness's tests a combination runs.

A test says in its own text for which formats and protocols it is; asking the
text saves starting most of them.  Where the text isn't plain the test is run
and says so itself.  Two lists, in tests/qemu-iotests, name the exceptions:

expected      fails on QEMU's own driver, too; with the command that shows it
unsuited      goes to a local file although a protocol was asked for; with the
              piece of its text that shows it, which must be there
"""
import ast
import os
import re

from . import harness

# Formats that can't be created, which "generic" doesn't mean.
NOT_GENERIC = {'bochs', 'cloop', 'dmg', 'vvfat'}


def bash_words(text, function):
    """The arguments of its only call, when it is called unconditionally."""
    calls = re.findall(rf'^{function} ([^#\n]*)', text, re.MULTILINE)
    return calls[0].split() if len(calls) == 1 else None


def python_words(text, keyword):
    lists = re.findall(rf'(?<!un){keyword} ?= ?(\[[^\]]*\])', text)
    try:
        return ast.literal_eval(lists[0]) if len(lists) == 1 else None
    except (ValueError, SyntaxError):
        return None


def words(text, what):
    python = {'supported_fmt': 'supported_fmts',
              'unsupported_fmt': 'unsupported_fmts',
              'supported_proto': 'supported_protocols',
              'unsupported_proto': 'unsupported_protocols'}[what]
    return bash_words(text, '_' + what) or python_words(text, python)


def unsuited(text, image_format, protocol):
    """Why the test says that it isn't for these, or None."""
    kinds = {image_format}
    if image_format not in NOT_GENERIC:
        kinds.add('generic')
    formats = words(text, 'supported_fmt')
    if formats is not None and not kinds & set(formats):
        return f'not suitable for this image format: {image_format}'
    if image_format in (words(text, 'unsupported_fmt') or ()):
        return f'not suitable for this image format: {image_format}'
    protocols = words(text, 'supported_proto')
    if protocols is not None and not {protocol, 'generic'} & set(protocols):
        return f'not suitable for this image protocol: {protocol}'
    if protocol in (words(text, 'unsupported_proto') or ()):
        return f'not suitable for this image protocol: {protocol}'
    return None


class Entry:
    """A line of a list: TEST FORMATS PROTOCOLS VERSIONS: TEXT; * is any."""

    def __init__(self, line):
        head, self.text = line.split(': ', 1)
        self.test, *sets = head.split()
        self.formats, self.protocols, self.versions = [
            set(names.split(',')) for names in sets]
        self.evidence = None
        self.piece = None

    def shows_in(self, text):
        """Is this difference the one that is listed?"""
        return self.piece in text

    def matches(self, test, combination):
        return test == self.test and all(
            '*' in wanted or value in wanted
            for value, wanted in ((combination.format, self.formats),
                                  (combination.protocol, self.protocols),
                                  (combination.version, self.versions)))


def read_list(name):
    """Indented lines belong to the entry before them: its evidence, and after
    that what the difference has."""
    entries = []
    with open(os.path.join(harness.OWN_TESTS, name), encoding='utf-8') as file:
        for line in file:
            if line[0] in '#\n':
                continue
            if line[0] == ' ' and not entries[-1].evidence:
                entries[-1].evidence = line.strip()
            elif line[0] == ' ':
                entries[-1].piece = line.strip().removeprefix('in it: ')
            else:
                entries.append(Entry(line.rstrip('\n')))
    if name == 'expected' and not all(entry.piece for entry in entries):
        raise ListError('expected: an entry has no evidence, or no piece')
    return entries


def find(entries, test, combination):
    return next((entry for entry in entries
                 if entry.matches(test, combination)), None)


class ListError(Exception):
    """An entry of a list that isn't true."""


def listed(test, text, combination):
    """Why the list says that it can't be run, or None."""
    entry = find(read_list('unsuited'), test, combination)
    if not entry:
        return None
    piece = entry.text.split(': ', 1)[1]
    if piece not in text:
        raise ListError(f'unsuited: in test {test} there is no {piece}')
    return entry.text


def names(directory):
    """Every test of the harness, as its `check` names them."""
    numbered = [name for name in os.listdir(directory)
                if re.fullmatch(r'\d{3}', name)]
    named = [name for name in os.listdir(os.path.join(directory, 'tests'))
             if os.access(os.path.join(directory, 'tests', name), os.X_OK)
             and '.' not in name and os.path.isfile(
                 os.path.join(directory, 'tests', name))]
    return sorted(numbered) + sorted(named)


def path_of(directory, name):
    inner = os.path.join(directory, 'tests', name)
    return inner if os.path.exists(inner) else os.path.join(directory, name)


def choose(directory, tests, combination):
    """Which of `tests` to run; which aren't for this combination by their own
    words, and which by our list; both with the reason."""
    chosen, others, skipped = [], {}, {}
    for name in tests:
        with open(path_of(directory, name), encoding='utf-8') as file:
            text = file.read()
        if reason := unsuited(text, combination.format,
                              combination.check_protocol):
            others[name] = reason
        elif reason := listed(name, text, combination):
            skipped[name] = reason
        else:
            chosen.append(name)
    return chosen, others, skipped
