# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU's test runner calls before and after each test.

A test gets directories of its own, with an empty store that is the default
one, and has to end in time.  A test that passed without having made a volume,
although a volume was asked for, has tested something else, and is a skip.
Results go to the file $ARCHIPELAGO_RESULTS, one JSON object a line.
"""
import json
import os

MEMORY = os.environ.get('ARCHIPELAGO_TEST_STORE') == 'memory'
TIMEOUT_S = os.environ.get('ARCHIPELAGO_TEST_TIMEOUT', '600')
WITH_VOLUMES = os.environ.get('ARCHIPELAGO_VOLUMES') == '1'


test_dir = None  # of the test that runs: this process runs one at a time


def before(name, args, env):
    """`args` and `env` of the test that is about to be started."""
    global test_dir
    for key in 'TEST_DIR', 'SOCK_DIR':
        if not env[key].endswith(name):
            env[key] = os.path.join(env[key], name)
            os.makedirs(env[key], exist_ok=True)
    test_dir = env['TEST_DIR']
    store = os.path.join(test_dir, 'store')
    os.makedirs(store, exist_ok=True)
    env['ARCHIPELAGO_STORE'] = 'memory:test' if MEMORY else 'dir:' + store
    args[:0] = ['timeout', '--kill-after=10', TIMEOUT_S]


def made_volume():
    """Was there ever one?  Each leaves a directory in its store; a server with
    a store in memory leaves a file."""
    maps = os.path.join(test_dir, 'store/maps')
    return (os.path.isdir(maps) and bool(os.listdir(maps))
            or os.path.exists(os.path.join(test_dir, 'served')))


def after(name, result):
    """The result as it is to count."""
    if WITH_VOLUMES and result.status == 'pass' and not made_volume():
        result.status = 'not run'
        result.description = 'made no volume: it works on something else'
    record = {'name': name, 'status': result.status,
              'description': result.description,
              'seconds': result.elapsed or 0,
              'cases_not_run': result.casenotrun or '',
              'diff': '\n'.join(result.diff)}
    with open(os.environ['ARCHIPELAGO_RESULTS'], 'a',
              encoding='utf-8') as file:
        file.write(json.dumps(record) + '\n')
    return result
