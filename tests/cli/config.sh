#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# archipelago.conf, as the command meets it.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"

mkdir config first second
cat > config/archipelago.conf << END
[archipelago]
default-store = one
[one]
location = dir:$temporary/first
[two]
location = dir:$temporary/second
io = buffered
END
unset ARCHIPELAGO_STORE
a create in-one 1M
a create in-two 1M --store two
equal "$(names)" "in-one "
equal "$(ARCHIPELAGO_STORE=two a list --names)" in-two
equal "$(a status -s two --json | json 'j["io"].split()[0]')" buffered
expect_code 3 a list --store three
said three "$temporary/config/archipelago.conf" "one, two"
echo "ios = direct" >> config/archipelago.conf
expect_code 2 a list
said "$temporary/config/archipelago.conf" "[two]" '"ios"'
equal "$(a list --names -s "dir:$temporary/first")" in-one
expect_code 3 env ARCHIPELAGO_CONF="$temporary/none" "$ARCHIPELAGO" list
said "$temporary/none"
