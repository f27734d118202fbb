#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# resize: what is cut off doesn't come back.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 6M /dev/urandom > r
a import r v
a resize v 5242368 --allow-shrink
a resize v 6M
truncate -s 5242368 r
truncate -s 6M r
a export v - | cmp - r
