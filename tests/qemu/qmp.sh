#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# qmp.sh FLAVOUR TEST.py: run a Python test with that QEMU.
. "$(dirname "$0")/functions.sh"

command -v "${bin}qemu-system-x86_64" >/dev/null ||
    skip "qemu-system-x86 is not installed"
export WORK=$work VOLUME=$volume QEMU_RUN="${run[*]}"
export QEMU_SYSTEM="${bin}qemu-system-x86_64${firmware:+ -L $firmware}"
export QEMU_DAEMON=$daemon QEMU_IMG=${bin}qemu-img QEMU_IO=${bin}qemu-io
/usr/bin/python3 -B "$2"
