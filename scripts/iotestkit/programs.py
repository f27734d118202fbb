# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU that is tested: how it is come by, and the environment in which the
harness runs its programs.  Only the scripts that users have are used for it."""
import os
import subprocess

from . import harness

SCRIPTS = os.path.join(harness.TOP, 'scripts')
VARIABLES = {'qemu-system-x86_64': 'QEMU_PROG', 'qemu-img': 'QEMU_IMG_PROG',
             'qemu-io': 'QEMU_IO_PROG', 'qemu-nbd': 'QEMU_NBD_PROG',
             'qemu-storage-daemon': 'QSD_PROG'}


# Runs a program.  Bash tests name their image in options as that of a file;
# on the way the file's options become the driver's.
WRAPPER = r"""#!/bin/bash
arguments=()
for argument; do
    case $argument in
    *filename=archipelago:*|*filename=nbd+unix:*)
        argument=$(sed -E \
            -e 's/(^|,)driver=file,(.*filename=(archipelago|nbd))/\1\2/' \
            -e 's/^file,(.*filename=(archipelago|nbd))/\1/' \
            -e 's/([a-z.]*)filename=archipelago:/\1driver=archipelago,\1volume=/g' \
            -e 's/([a-z.]*)filename=nbd\+unix:[^,]*socket=/\1driver=nbd,\1server.type=unix,\1server.path=/g' \
            <<< "$argument") ;;
    esac
    arguments+=("$argument")
done
exec {command} "${{arguments[@]}}"
"""


class Unavailable(Exception):
    """It can't be had on this machine."""


def script(name, *arguments):
    """The last line that one of our scripts prints."""
    done = subprocess.run([os.path.join(SCRIPTS, name), *arguments],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True)
    if done.returncode == 3:
        raise Unavailable(f'{name} {" ".join(arguments)}')
    done.check_returncode()
    return done.stdout.splitlines()[-1]


def codename():
    with open('/etc/os-release', encoding='utf-8') as file:
        fields = dict(line.rstrip('\n').split('=', 1) for line in file
                      if '=' in line)
    return fields['VERSION_CODENAME']


class Programs:
    """QEMU `which` (7.2, 10.0 or a source directory) from its own tree, and
    libarchipelago, the plugin and the command from a build of ours."""

    def __init__(self, which, build):
        self.which = which
        self.build = os.path.abspath(build)
        self.libdir = os.path.join(self.build, 'src')
        if not os.path.exists(os.path.join(self.libdir, 'libarchipelago.so')):
            raise harness.Unknown(
                f'{build} is no build of Archipelago: make it with "meson setup '
                'build && meson compile -C build", or name another one with '
                '--build')
        self.tree = script('build-qemu', '--libdir', self.libdir, which)
        self.source = os.path.join(os.path.dirname(self.tree), 'source')
        with open(os.path.join(self.source, 'VERSION'),
                  encoding='ascii') as file:
            self.version = file.read().strip()

    def built(self, name):
        return os.path.join(self.tree, 'storage-daemon'
                            if name == 'qemu-storage-daemon' else '', name)

    def installed(self, name):
        """Debian's build: the system's, or the backports', unpacked."""
        if self.version.startswith('7.'):
            return os.path.join('/usr/bin', name)
        root = script('debian-fetch', 'binary', codename() + '-backports',
                      'qemu-utils', 'qemu-system-x86', 'qemu-system-common',
                      'qemu-block-extra', 'qemu-system-data')
        return os.path.join(root, 'usr/bin', name)

    def commands(self, way):
        """Of each program, the command that runs it with our driver.  Debian's
        qemu-system lacks what the harness needs of it (the accelerator qtest),
        so for the plugin, too, it is the one built here."""
        firmware = ['-L', os.path.join(self.tree, 'firmware')]
        commands = {name: [self.built(name)] for name in VARIABLES}
        if way == 'plugin':
            wrapper = os.path.join(self.build, 'block/archipelago-qemu')
            for name in VARIABLES:
                if name != 'qemu-system-x86_64':
                    commands[name] = [self.installed(name)]
            self.build_plugins(commands)
            commands = {name: [wrapper, *command]
                        for name, command in commands.items()}
            self.check_plugins(commands)
        commands['qemu-system-x86_64'] += firmware
        return commands

    def build_plugins(self, commands):
        plugins = os.path.join(self.build, 'block/qemu')
        for name, source in (('qemu-img', []),
                             ('qemu-system-x86_64', ['--source', self.source])):
            script('build-qemu-plugin', '--libdir', self.libdir, '--output',
                   plugins, *source, commands[name][0])

    def check_plugins(self, commands):
        """The loader found a plugin for each: without one, the QEMU built here
        would take the module of its tree."""
        for name, command in commands.items():
            done = subprocess.run([*command, '--version'], text=True,
                                  stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE)
            if done.returncode or done.stderr:
                raise harness.Unknown(f'{name} has no plugin: {done.stderr}')

    def environment(self, way, directory):
        """Variables for the harness; wrappers of the programs are put into
        `directory`."""
        os.makedirs(directory)
        variables = {'QEMU_MODULE_DIR': self.tree,
                     'ARCHIPELAGO': os.path.join(self.build,
                                                 'src/cli/archipelago')}
        if way != 'plugin':
            variables['LD_LIBRARY_PATH'] = self.libdir
        for name, command in self.commands(way).items():
            path = os.path.join(directory, name)
            with open(path, 'w', encoding='utf-8') as file:
                file.write(WRAPPER.format(command=' '.join(command)))
            os.chmod(path, 0o755)
            variables[VARIABLES[name]] = path
        return variables
