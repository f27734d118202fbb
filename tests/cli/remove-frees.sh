#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# remove: the space comes back.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

a create other 1M
before=$(du -sk store | cut -f1)
head -c 20M /dev/urandom | a import - v
below $((before + 15000)) "$(du -sk store | cut -f1)"
a remove v
below "$(du -sk store | cut -f1)" $((before + 1000))
