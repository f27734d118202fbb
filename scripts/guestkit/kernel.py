#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fetch Debian's kernel package once and keep it unpacked in a cache.

Only the package is downloaded: nothing is installed and no root is needed.
The cache is archipelago/ in the user's cache directory.  A kernel appears there by one rename, so whatever has a directory
is complete; a lock file makes several callers at a time fetch it once.

As a program: prints the kernel's directory.
"""
import contextlib
import fcntl
import glob
import os
import subprocess
import sys
import tempfile

META_PACKAGE = 'linux-image-amd64'
# What a virtual machine's disks, networks and file systems need.
WANTED = ['./boot/vmlinuz-*', './lib/modules/*/modules.*'] + [
    './lib/modules/*/kernel/' + part for part in (
        'arch', 'block', 'crypto', 'drivers/ata', 'drivers/block',
        'drivers/cdrom', 'drivers/char', 'drivers/net/*.ko',
        'drivers/net/ethernet/intel', 'drivers/nvme', 'drivers/scsi',
        'drivers/virtio', 'fs', 'lib', 'net/core')]


class Kernel:
    """An unpacked kernel: `image` to boot, modules below `root`."""

    def __init__(self, root):
        self.root = root
        self.release = os.path.basename(root)
        self.image = os.path.join(root, 'boot', 'vmlinuz-' + self.release)

    def module_paths(self, names):
        """The files of these modules and of all they need, in the order in
        which they must be inserted.  What is built in has none."""
        paths = []
        for name in names:
            shown = run(['modprobe', '-d', self.root, '-S', self.release,
                         '--show-depends', name])
            for line in shown.splitlines():
                word = line.split()
                if word[0] == 'insmod' and word[1] not in paths:
                    paths.append(word[1])
        return paths


def cache_directory():
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    path = os.path.join(base, 'archipelago')
    os.makedirs(path, exist_ok=True)
    return path


def run(command, **how):
    """The output of a command; its error text in the exception if it fails."""
    path = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    done = subprocess.run(command, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True,
                          env=dict(os.environ, PATH=path, LC_ALL='C'), **how)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)}: {done.stderr.strip()}')
    return done.stdout


@contextlib.contextmanager
def locked(path):
    with open(path, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def package_name():
    """The package that the kernel's meta package depends on today."""
    for line in run(['apt-cache', 'depends', META_PACKAGE]).splitlines():
        word = line.split()
        if word[0] == 'Depends:' and word[1].startswith('linux-image-'):
            return word[1]
    raise RuntimeError(f'apt knows no {META_PACKAGE}: run apt-get update')


def fetch(directory):
    """Download, unpack and index the kernel into `directory`/RELEASE."""
    with tempfile.TemporaryDirectory(dir=directory) as work:
        # apt's own unprivileged user can't write here; we are the user.
        run(['apt-get', '-o', 'APT::Sandbox::User=root', 'download',
             package_name()], cwd=work)
        package = glob.glob(os.path.join(work, '*.deb'))[0]
        root = os.path.join(work, 'root')
        os.mkdir(root)
        with subprocess.Popen(['dpkg-deb', '--fsys-tarfile', package],
                              stdout=subprocess.PIPE) as source:
            run(['tar', '-x', '--no-same-owner', '--wildcards', *WANTED],
                stdin=source.stdout, cwd=root)
        release = os.listdir(os.path.join(root, 'lib/modules'))[0]
        run(['depmod', '-b', root, release])
        os.rename(root, os.path.join(directory, release))


def newest(directory):
    """The newest unpacked kernel, or None."""
    roots = glob.glob(os.path.join(directory, '[0-9]*'))
    return max(roots, key=os.path.getmtime, default=None)


def get():
    """Debian's kernel, fetched if the cache has none."""
    directory = os.path.join(cache_directory(), 'kernel')
    os.makedirs(directory, exist_ok=True)
    with locked(os.path.join(directory, 'lock')):
        if not newest(directory):
            fetch(directory)
        return Kernel(newest(directory))


if __name__ == '__main__':
    try:
        print(get().root)
    except (RuntimeError, OSError) as error:
        sys.exit(f'kernel: {error}')
