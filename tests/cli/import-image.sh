#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: QEMU's image formats, and what may not be guessed.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires qemu-img qemu-nbd
make_sparse s
qemu-img convert -O qcow2 s i.qcow2
a import i.qcow2 v --json > out
equal "$(json 'j["size_bytes"], j["data_bytes"] < 8 << 20' < out)" \
    "(67108864, True)"
a export v - | cmp - s
below "$(allocated v)" "$sparse_bytes_max"
# Known by what is in it, where the name says nothing.
cp i.qcow2 i.img
a import i.img w
a export w - | cmp - s
a import --format raw i.img raw-bytes 2> err
truncate -s "$(a info raw-bytes --json | json 'j["size_bytes"]')" i.img
a export raw-bytes - | cmp - i.img
# One that names another file is only taken when told.
cp i.qcow2 base
qemu-img create -q -f qcow2 -b "$temporary/base" -F qcow2 overlay
expect_code 2 a import overlay x
said "--format qcow2"
a import overlay --format qcow2 x
a export x - | cmp - s
for format in vdi vmdk vhdx; do
    qemu-img convert -O $format s "i.$format"
    a import "i.$format" $format
    a export $format - | cmp - s
done
head -c 100 /dev/urandom > broken.qcow2
expect_code 1 a import broken.qcow2 y
expect_code 1 env PATH=/nonexistent "$ARCHIPELAGO" import i.qcow2 y
said qemu-utils
equal "$(names)" "raw-bytes v vdi vhdx vmdk w x "
