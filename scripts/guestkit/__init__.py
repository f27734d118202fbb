# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small virtual machines out of Debian's kernel and busybox.

kernel     fetches and unpacks Debian's kernel package
initramfs  packs busybox, kernel modules and programs into an initramfs
machine    boots it under QEMU and talks to it

scripts/quickstart and tests/guest use it; nothing is installed.
"""
