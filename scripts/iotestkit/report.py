# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of iotests leaves: for each combination, in a directory of its
own, skips.txt, junit.xml, and of each failure what differed."""
import collections
import os
from xml.etree import ElementTree

Result = collections.namedtuple('Result', 'name status seconds text')
"""status: passed, failed or skipped; text: why, or the difference."""


def count(results):
    counts = collections.Counter(result.status for result in results)
    return tuple(counts[status] for status in ('passed', 'failed', 'skipped'))


def summary(results):
    return '%d passed, %d failed, %d skipped' % count(results)


def write_skips(directory, results, others, cases):
    """`others`: tests that aren't for this combination, and are not counted;
    `cases`: what tests that ran left out."""
    with open(os.path.join(directory, 'skips.txt'), 'w',
              encoding='utf-8') as file:
        for result in results:
            if result.status == 'skipped':
                text = ' '.join(result.text.split())
                file.write(f'{result.name}: {text}\n')
        if cases:
            file.write('\nCases that tests which ran left out:\n')
        for name, text in sorted(cases.items()):
            file.write(f'{name}: {"; ".join(text.splitlines())}\n')
        if others:
            file.write('\nNot counted, as they say themselves:\n')
        for name, reason in others.items():
            file.write(f'{name}: {reason}\n')


def write_failures(directory, results):
    for result in results:
        if result.status == 'failed':
            with open(os.path.join(directory, result.name + '.diff'), 'w',
                      encoding='utf-8') as file:
                file.write(result.text + '\n')


def write_first_failures(directory, records):
    """Of tests that were run twice: the difference at first."""
    for name, record in records.items():
        with open(os.path.join(directory, name + '.first.diff'), 'w',
                  encoding='utf-8') as file:
            file.write(record['diff'] + '\n')


def printable(text):
    """What XML can carry."""
    return ''.join(letter if letter >= ' ' or letter in '\n\t' else '?'
                   for letter in text)


def write_junit(directory, name, results):
    passed, failed, skipped = count(results)
    suite = ElementTree.Element(
        'testsuite', name=name, tests=str(passed + failed + skipped),
        failures=str(failed), skipped=str(skipped),
        time='%.1f' % sum(result.seconds for result in results))
    for result in results:
        case = ElementTree.SubElement(suite, 'testcase', classname=name,
                                      name=result.name,
                                      time='%.1f' % result.seconds)
        if result.status == 'failed':
            ElementTree.SubElement(case, 'failure', message='failed').text = \
                printable(result.text)
        elif result.status == 'skipped':
            ElementTree.SubElement(case, 'skipped',
                                   message=printable(result.text))
    ElementTree.ElementTree(suite).write(os.path.join(directory, 'junit.xml'),
                                         encoding='utf-8',
                                         xml_declaration=True)


def write(directory, name, results, others, cases):
    write_skips(directory, results, others, cases)
    write_failures(directory, results)
    write_junit(directory, name, results)
