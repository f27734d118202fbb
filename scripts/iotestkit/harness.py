# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's iotests, copied out of its source and taught the protocol.

The copy lies in a tree that looks like the source's, because the harness finds
QEMU's Python packages beside itself.  Each edit inserts lines before or after
an anchor and says how often the anchor must be there; where that isn't so the
harness isn't one we know, and nothing is run.
"""
import os
import re
import shutil

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
OWN_TESTS = os.path.join(TOP, 'tests/qemu-iotests')
IOTESTS = 'tests/qemu-iotests'
OWN_PREFIX = 'archipelago-'

# Volumes have no directory: what a file would show as TEST_DIR/t.raw.
FILTER = '        -e "s#archipelago:#TEST_DIR/#g" \\' + '\n'

# (file, anchor, how often it is there, where, text)
EDITS = [
    ('check', r"^    protocol_list = \['file', ", 1, 'after',
     "'archipelago', "),

    # The bash tests' images: see common.archipelago.
    ('common.rc', r'^ORIG_TEST_IMG_FILE=\$TEST_IMG_FILE\n', 1, 'before',
     '. "$(dirname "${BASH_SOURCE[0]}")/common.archipelago"\n'),
    ('common.rc', r'^    # XXX\(hch\): have global image options\?\n', 1,
     'before',
     '    archipelago_before_create "${misc_params[@]}"\n'),
    ('common.rc', r'^        eval "\$QEMU_NBD -v -t -k .*\n        sleep 1 .*\n',
     1, 'around',
     ('        if ! archipelago_is_served; then\n', '        fi\n')),
    ('common.rc', r'^        nbd\)\n            _stop_nbd_server\n', 1, 'after',
     '            archipelago_stop_servers\n'),
    ('common.rc', r'^_rm_test_img\(\)\n\{\n    local img=\$1\n', 1, 'after',
     '    if archipelago_remove "$img"; then return; fi\n'),
    ('common.rc', r'^        rbd\)\n            rbd --no-progress', 1, 'before',
     '        archipelago)\n            archipelago_remove_all\n'
     '            ;;\n\n'),
    ('common.rc', r'^ +-e "s#\$IMGPROTO:\$TEST_DIR#TEST_DIR#g" \\\n', 1,
     'after', FILTER),
    ('common.filter', r'^ +-e "s#\$IMGPROTO:\$TEST_DIR#TEST_DIR#g" \\\n', 2,
     'after', FILTER),
    ('common.filter',
     r'^_filter_testdir\(\)\n\{\n    sed -e "s#\$TEST_DIR/#TEST_DIR/#g" \\\n',
     1, 'after', FILTER),

    ('iotests.py', r"^    if imgproto == 'file':\n        return path\n", 1,
     'after',
     "    elif imgproto == 'archipelago':\n"
     "        return 'archipelago:' + os.path.basename(path)\n"),

    ('iotests.py', r"^sample_img_dir = os\.environ\['SAMPLE_IMG_DIR'\]\n", 1,
     'after',
     "\nif (imgproto == 'archipelago' and\n"
     f"        not os.path.basename(sys.argv[0]).startswith('{OWN_PREFIX}')):\n"
     "    import archipelago_volumes\n"),

    # Each test has a store of its own, an end, and a result we can read.
    ('testrunner.py', r"^        test_dir = env\['TEST_DIR'\]\n", 1, 'before',
     "        archipelago_hooks.before(f_test.name, args, env)\n"),
    ('testrunner.py', r"^        res = self\.do_run_test\(.*\)\n", 1, 'after',
     "        res = archipelago_hooks.after(os.path.basename(test), res)\n"),
    ('testrunner.py', r"^import os\n", 1, 'before',
     "import archipelago_hooks\n"),
]


class Unknown(Exception):
    """A harness that the edits don't fit."""


def edited(name, text, anchor, count, where, addition):
    before, after = {'before': (addition, ''), 'after': ('', addition),
                     'around': addition}[where]
    result, found = re.subn(anchor, lambda match: before + match[0] + after,
                            text, flags=re.MULTILINE)
    if found != count:
        raise Unknown(f'{name} has {found} times what it should have {count} '
                      f'times: {anchor}')
    return result


def edit(directory):
    for name in dict.fromkeys(entry[0] for entry in EDITS):
        path = os.path.join(directory, name)
        with open(path, encoding='utf-8') as file:
            text = file.read()
        for entry in EDITS:
            if entry[0] == name:
                text = edited(name, text, *entry[1:])
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)


def own_tests():
    """Names of this project's tests, without the prefix they run under."""
    return sorted(name[:-len('.out')] for name in os.listdir(OWN_TESTS)
                  if name.endswith('.out'))


def add_ours(directory):
    for name in os.listdir(OWN_TESTS):
        if name.endswith('.py') or name.startswith('common.'):
            shutil.copy(os.path.join(OWN_TESTS, name), directory)
    for name in own_tests():
        for suffix in ('', '.out'):
            shutil.copy(os.path.join(OWN_TESTS, name + suffix),
                        os.path.join(directory, 'tests',
                                     OWN_PREFIX + name + suffix))


def link_others(source, tree):
    for name in os.listdir(source):
        if name not in ('tests', 'build'):
            os.symlink(os.path.join(source, name), os.path.join(tree, name))


def make(source, tree):
    """Make `tree` from QEMU's source; returns the directory of its tests."""
    directory = os.path.join(tree, IOTESTS)
    os.makedirs(os.path.dirname(directory))
    shutil.copytree(os.path.join(source, IOTESTS), directory, symlinks=True)
    link_others(source, tree)
    edit(directory)
    add_ours(directory)
    return directory
