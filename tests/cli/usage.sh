#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Without or with a wrong command, and output that can't be written.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

expect_code 2 a
expect_code 2 a nonsense
said nonsense
expect_code 2 a list --nonsense
said --nonsense Usage
a --help | grep -q '^  create '
equal "$(a --version)" "archipelago $VERSION"
a create v 1M
code=0
a list > /dev/full 2> err || code=$?
equal "$code" 1
a list --help | grep -q -- '--names'
