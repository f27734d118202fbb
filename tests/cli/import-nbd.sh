#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: from NBD servers, holes included.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires nbdkit qemu-nbd
make_sparse s
nbdkit -U - file s --run "'$ARCHIPELAGO' import \"\$uri\" v"
a export v - | cmp - s
below "$(allocated v)" "$sparse_bytes_max"
# A server without block status: all is data, unless zeroes are looked for.
nbdkit -U - --filter=noextents file s \
    --run "'$ARCHIPELAGO' import --detect-zeroes \"\$uri\" w"
a export w - | cmp - s
below "$(allocated w)" "$sparse_bytes_max"
# One that wants whole blocks of 4096 bytes.
nbdkit -U - --filter=blocksize-policy file s blocksize-minimum=4096 \
    blocksize-error-policy=error --run "'$ARCHIPELAGO' import \"\$uri\" x"
a export x - | cmp - s
qemu-nbd --read-only --fork --persistent --pid-file=pid -f raw -x name \
    -k "$temporary/sock" s
cleanup_fn eval "kill \$(cat '$temporary/pid')"
a import "nbd+unix:///name?socket=$temporary/sock" y
a export y - | cmp - s
below "$(allocated y)" "$sparse_bytes_max"
expect_code 1 a import "nbd+unix:///other?socket=$temporary/sock" z
equal "$(names)" "v w x y "
