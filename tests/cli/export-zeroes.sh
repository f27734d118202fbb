#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: zeroes are looked for when asked.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

head -c 8M /dev/zero > z
a import z v
below 8000000 "$(allocated v)"
a export v kept
below 8000000 "$(file_allocated kept)"
a export v sparse --detect-zeroes
equal "$(file_allocated sparse)" 0
cmp sparse z
