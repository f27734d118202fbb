# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/iotests is made of:

harness    QEMU's tests/qemu-iotests, taught the protocol
programs   the QEMU to test, and the environment its programs run in
selection  which tests apply, and the lists of those that can't
report     summaries, the file of skips, JUnit XML
"""
