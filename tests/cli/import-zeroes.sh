#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: zeroes are looked for when asked.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

make_sparse s
cat s > dense
below "$sparse_bytes_max" "$(file_allocated dense)"
a import dense --format raw kept
below 60000000 "$(allocated kept)"
a import dense sparse --detect-zeroes
below "$(allocated sparse)" "$sparse_bytes_max"
a export sparse - | cmp - s
a import - piped < dense
below "$(allocated piped)" "$sparse_bytes_max"
a import - dense --no-detect-zeroes < dense
below 60000000 "$(allocated dense)"
a export dense - | cmp - s
expect_code 2 a import - x --detect-zeroes --no-detect-zeroes < dense
