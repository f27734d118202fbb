# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the Python tests of QEMU's iotests use volumes.

They name their images by paths below TEST_DIR and say so to QEMU, on command
lines and over QMP.  Imported by iotests.py for the protocol archipelago, this
turns on its way to QEMU each such path that isn't a local file into the volume
of that name, and {driver: file, filename: PATH} into the driver's options; what
comes back is turned round.  So the tests see files, and QEMU volumes.

A file is overwritten where it is created again, a volume isn't: it is removed
first.
"""
import json
import os
import re
import subprocess

from qemu.qmp.legacy import QEMUMonitorProtocol
from qemu.qmp.qmp_client import QMPClient

TEST_DIR = os.environ['TEST_DIR']
CLI = os.environ['ARCHIPELAGO']
PROGRAMS = {os.environ[key] for key in (
    'QEMU_PROG', 'QEMU_IMG_PROG', 'QEMU_IO_PROG', 'QEMU_NBD_PROG', 'QSD_PROG')}
PATH = re.compile(r'(?<!socket=)(?<!path=)' + re.escape(TEST_DIR) + r'/([A-Za-z0-9_][A-Za-z0-9_.+-]*)'
                  r'(?![A-Za-z0-9_.+/-])')
VOLUME = re.compile(r'archipelago:([A-Za-z0-9_.+-]+)')
# Only the driver of files knows these.
FILE_OPTIONS = {'locking', 'aio', 'drop-cache', 'x-check-cache-dropped',
                'aio-max-batch'}
# What has a path that isn't an image's: command line options, and a key of QMP.
OTHER_PATHS = {'--pid-file', '--socket', '-k', '-D'}
SOCKET_KEY = 'path'
# Commands that make an image: the argument that names it.
CREATING = {'blockdev-snapshot-sync': 'snapshot-file',
            'drive-mirror': 'target', 'drive-backup': 'target'}

Popen = subprocess.Popen
remove_file = os.remove


def volume_of(text):
    """The volume that a whole string names, or None."""
    match = PATH.fullmatch(text) if isinstance(text, str) else None
    if not match or os.path.exists(text):
        return None
    return match[1]


def remove_volume(name):
    """True if there was one."""
    return not Popen([CLI, 'remove', name], stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL).wait()


# --- To QEMU ----------------------------------------------------------------

def text_to_qemu(text):
    if text.startswith(('exec:', 'unix:')):
        return text
    if text.startswith('json:'):
        return 'json:' + json.dumps(to_qemu(json.loads(text[5:])))
    return PATH.sub(lambda match: match[0] if os.path.exists(match[0])
                    else 'archipelago:' + match[1], text)


def options_to_qemu(options):
    """One level of a node's options; keys may be dotted."""
    result = dict(options)
    for key in options:
        prefix = key[:-len('filename')]
        name = volume_of(options[key]) if key.endswith('filename') else None
        driver = options.get(prefix + 'driver', 'file')
        if not name or driver != 'file' or (prefix and prefix[-1] != '.'):
            continue
        del result[key]
        result[prefix + 'driver'] = 'archipelago'
        if 'size' in options:
            result[prefix + 'location'] = {'volume': name}
        else:
            result[prefix + 'volume'] = name
        for option in FILE_OPTIONS:
            result.pop(prefix + option, None)
    return result


def to_qemu(value):
    if isinstance(value, dict):
        return {key: inner if key == SOCKET_KEY else to_qemu(inner)
                for key, inner in options_to_qemu(value).items()}
    if isinstance(value, list):
        return [to_qemu(inner) for inner in value]
    return text_to_qemu(value) if isinstance(value, str) else value


def argument_to_qemu(argument):
    """A path, KEY=VALUE,..., JSON, or a text with paths in it."""
    if argument.startswith('{'):
        return json.dumps(to_qemu(json.loads(argument)))
    if 'filename=' not in argument or ' ' in argument:
        return text_to_qemu(argument)
    parts = argument.split(',')
    if '=' not in parts[0]:
        parts[0] = 'driver=' + parts[0]
    options = dict(part.partition('=')[::2] for part in parts)
    return text_to_qemu(','.join(
        f'{key}={value}' for key, value in options_to_qemu(options).items()))


def arguments_to_qemu(arguments):
    befores = [None, *arguments]
    return [argument if before in OTHER_PATHS or
            argument.split('=')[0] in OTHER_PATHS
            else argument_to_qemu(argument)
            for before, argument in zip(befores, arguments)]


def makes_anew(arguments):
    """The volume that qemu-img is about to create, or None."""
    if 'create' in arguments[1:2]:
        named = [argument for before, argument in zip(arguments, arguments[1:])
                 if before not in ('-b', '-o', '-u')]
    elif 'convert' in arguments[1:2] and '-n' not in arguments:
        named = arguments[-1:]
    else:
        named = []
    return next(filter(None, map(volume_of, named)), None)


# --- From QEMU --------------------------------------------------------------

def text_from_qemu(text):
    if text.startswith('json:') and 'archipelago' in text:
        return 'json:' + json.dumps(from_qemu(json.loads(text[5:])))
    return VOLUME.sub(lambda match: f'{TEST_DIR}/{match[1]}', text)


def options_from_qemu(options):
    result = {}
    for key, value in options.items():
        if key in ('driver', 'drv', 'format') and value == 'archipelago':
            value = 'file'
        elif key == 'volume' and options.get('driver') == 'archipelago':
            key, value = 'filename', f'{TEST_DIR}/{value}'
        result[key] = value
    return result


def from_qemu(value):
    if isinstance(value, dict):
        return {key: from_qemu(inner)
                for key, inner in options_from_qemu(value).items()}
    if isinstance(value, list):
        return [from_qemu(inner) for inner in value]
    return text_from_qemu(value) if isinstance(value, str) else value


# --- Between ----------------------------------------------------------------

class VolumePopen(Popen):
    """Starts QEMU's programs on volumes, and other programs as they are."""

    def __init__(self, args, *rest, **options):
        if not isinstance(args, str) and args[0] in PROGRAMS:
            again = makes_anew(list(args))
            if again:
                remove_volume(again)
            args = [args[0], *arguments_to_qemu(args[1:])]
        super().__init__(args, *rest, **options)

    def communicate(self, *args, **options):
        return tuple(text_from_qemu(text) if isinstance(text, str) else text
                     for text in super().communicate(*args, **options))


def remove(path, **options):
    """An image's file is its volume."""
    name = volume_of(path)
    if name is None or not remove_volume(name):
        remove_file(path, **options)


def made_by(name, arguments):
    """The volume that a command makes, or None."""
    if name == 'blockdev-create':
        options = arguments['options']
        return options['driver'] == 'file' and volume_of(options['filename'])
    if arguments.get('mode') == 'existing':
        return None
    return volume_of(arguments.get(CREATING.get(name)))


def command_to_qemu(name, arguments):
    made = made_by(name, arguments or {})
    if made:
        remove_volume(made)
    return to_qemu(arguments)


def wrap_client():
    raw, execute = QMPClient._raw, QMPClient.execute

    async def volume_raw(self, msg, assign_id=True):
        if isinstance(msg, dict) and 'execute' in msg:
            msg = dict(msg)
            if 'arguments' in msg:
                msg['arguments'] = command_to_qemu(msg['execute'],
                                                   msg['arguments'])
        return from_qemu(dict(await raw(self, msg, assign_id)))

    async def volume_execute(self, cmd, arguments=None, oob=False):
        return from_qemu(await execute(
            self, cmd, command_to_qemu(cmd, arguments), oob))

    QMPClient._raw = volume_raw
    QMPClient.execute = volume_execute


def wrap_events():
    pull, get = QEMUMonitorProtocol.pull_event, QEMUMonitorProtocol.get_events
    QEMUMonitorProtocol.pull_event = \
        lambda self, wait=False: from_qemu(pull(self, wait))
    QEMUMonitorProtocol.get_events = \
        lambda self, wait=False: from_qemu(get(self, wait))


subprocess.Popen = VolumePopen
os.remove = os.unlink = remove
wrap_client()
wrap_events()
