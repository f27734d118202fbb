#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: QEMU's image formats.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires qemu-img qemu-nbd
make_sparse s
truncate -s 67109376 s
a import s v
for format in qcow2 vdi vmdk vhdx; do
    a export v "out.$format"
    qemu-img info --output=json "out.$format" > described
    equal "$(json 'j["format"], j["virtual-size"]' < described)" \
        "('$format', 67109376)"
    qemu-img compare -q "out.$format" s
    below "$(file_allocated "out.$format")" $((3 * sparse_bytes_max))
done
a export v image --format qcow2
qemu-img check -q image
qemu-img compare -q -f qcow2 image s
expect_code 4 a export v out.qcow2
a export v out.qcow2 --force
qemu-img compare -q out.qcow2 s
expect_code 1 a export v x --format nonsense
expect_code 1 env PATH=/nonexistent "$ARCHIPELAGO" export v x.qcow2
[ ! -e x ] && [ ! -e x.qcow2 ]
# A name that QEMU might take for a protocol.
expect_code 1 a export v nbd:x.qcow2
a export v "./host:x.qcow2"
qemu-img compare -q "$temporary/host:x.qcow2" s
equal "$(find . -name '*.part-*')" ""
