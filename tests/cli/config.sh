#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# archipelago.conf, as the command meets it.
# shellcheck source-path=SCRIPTDIR source=functions.sh
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
# Each key that the manual names is one.
for key in $(sed -n 's/^=item B<\([a-z-]*\)>$/\1/p' \
    "$SOURCE_ROOT/docs/man/archipelago.conf.pod"); do
    case "$key" in
        default-store) echo "[archipelago]" > each.conf ;;
        *) echo "[x]" > each.conf ;;
    esac
    echo "$key = dir:/x" >> each.conf
    expect_code 3 env ARCHIPELAGO_CONF=each.conf "$ARCHIPELAGO" list -s none
    said "no store"
done
expect_code 3 a list --store three
said three "$temporary/config/archipelago.conf" "one, two"
echo "ios = direct" >> config/archipelago.conf
expect_code 2 a list
said "$temporary/config/archipelago.conf" "[two]" '"ios"'
equal "$(a list --names -s "dir:$temporary/first")" in-one
expect_code 3 env ARCHIPELAGO_CONF="$temporary/none" "$ARCHIPELAGO" list
said "$temporary/none"
