#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pack an initramfs: busybox, an init, kernel modules, programs of the host.

The modules are listed in /modules in the order in which init inserts them.
Programs go to /bin together with the libraries that ldd names.  busybox's shell
prefers its applet to a program of the same name: so mkfs.ext4, not mke2fs.

As a program:
    initramfs.py --output FILE --init FILE [--module NAME]...
                 [--program NAME]... [--file HOST=GUEST]...
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from guestkit import kernel  # noqa: E402

SEARCH = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'


class Stage:
    """The directory that becomes the root of the initramfs."""

    def __init__(self, root):
        self.root = root
        for name in ('bin', 'dev', 'etc', 'mnt', 'proc', 'sys', 'tmp'):
            os.mkdir(os.path.join(root, name))
        os.symlink('bin', os.path.join(root, 'sbin'))
        self.program('busybox')
        os.symlink('busybox', os.path.join(root, 'bin/sh'))

    def file(self, source, destination):
        path = os.path.join(self.root, destination.lstrip('/'))
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copy(source, path)

    def program(self, name):
        source = shutil.which(name, path=SEARCH)
        if not source:
            raise RuntimeError(f'no program {name}')
        self.file(source, 'bin/' + os.path.basename(name))
        for library in libraries(source):
            self.file(library, library)

    def modules(self, unpacked, names):
        paths = unpacked.module_paths(names)
        for path in paths:
            self.file(path, 'modules.d/' + os.path.basename(path))
        with open(os.path.join(self.root, 'modules'), 'w') as order:
            for path in paths:
                order.write(f'/modules.d/{os.path.basename(path)}\n')

    def pack(self, output):
        """As the kernel wants it: a cpio archive, everything root's."""
        names = []
        for here, directories, files in os.walk(self.root):
            for name in directories + files:
                path = os.path.join(here, name)
                names.append(os.path.relpath(path, self.root))
        with open(output, 'wb') as archive:
            subprocess.run(
                ['busybox', 'cpio', '-o', '-H', 'newc', '-R', '0:0'],
                input='\n'.join(sorted(names)).encode(), cwd=self.root,
                stdout=archive, stderr=subprocess.PIPE, check=True)


def libraries(program):
    """The shared libraries of a program and its loader; none if static."""
    shown = subprocess.run(['ldd', program], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True).stdout
    return re.findall(r'(?:=> |^\s*)(/\S+) \(0x', shown, re.MULTILINE)


def build(output, unpacked, init, modules=(), programs=(), files=None):
    """Write the initramfs `output` for the kernel `unpacked`; `init` is the
    file that becomes /init, `files` maps paths inside to files of the host."""
    with tempfile.TemporaryDirectory() as root:
        stage = Stage(root)
        stage.file(init, 'init')
        os.chmod(os.path.join(root, 'init'), 0o755)
        stage.modules(unpacked, modules)
        for name in programs:
            stage.program(name)
        for inside, source in (files or {}).items():
            stage.file(source, inside)
        stage.pack(output)


def main():
    parser = argparse.ArgumentParser(description='Pack an initramfs.')
    parser.add_argument('--output', required=True)
    parser.add_argument('--init', required=True)
    parser.add_argument('--module', action='append', default=[])
    parser.add_argument('--program', action='append', default=[])
    parser.add_argument('--file', action='append', default=[],
                        metavar='HOST=GUEST')
    given = parser.parse_args()
    files = {}
    for pair in given.file:
        source, inside = pair.split('=', 1)
        files[inside] = source
    build(given.output, kernel.get(), given.init, given.module, given.program,
          files)


if __name__ == '__main__':
    try:
        main()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f'initramfs: {error}')
