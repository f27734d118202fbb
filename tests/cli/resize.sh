#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# resize: every way to say a size, and what it refuses.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

size() { a info v --json | json 'j["size_bytes"]'; }
a create v 1M
a resize v 2M
equal "$(size)" 2097152
a resize v +512
equal "$(size)" 2097664
expect_code 2 a resize v 1M
said --allow-shrink
expect_code 2 a resize v -512
equal "$(size)" 2097664
a resize v -512 --allow-shrink
equal "$(size)" 2097152
a resize --allow-shrink v -1M
equal "$(size)" 1048576
equal "$(a resize v 5M --dry-run --json | json \
    'j["old_size_bytes"], j["size_bytes"], j["dry_run"]')" \
    "(1048576, 5242880, True)"
equal "$(size)" 1048576
a resize v 5M --dry-run | grep -q 'would resize v .*5242880'
expect_code 2 a resize v 512K --dry-run
equal "$(a resize v 1P --json | json 'j["size_bytes"]')" $((1 << 50))
for bad in 513 +1 x +x -9P 2P ++1 ""; do
    expect_code 2 a resize v "$bad" --allow-shrink
done
equal "$(size)" $((1 << 50))
expect_code 3 a resize none 1M
