#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The default store is made when first needed, with its parents.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires setpriv unshare
requires_root
unset ARCHIPELAGO_STORE
chmod 755 "$temporary"
mkdir -m 777 home
user=(setpriv --reuid=65534 --regid=65534 --clear-groups env -u XDG_DATA_HOME
    HOME="$temporary/home")
if ! "${user[@]}" "$ARCHIPELAGO" --version > out; then
    skip "an unprivileged user can't run $ARCHIPELAGO"
fi
"${user[@]}" "$ARCHIPELAGO" create v 1M
equal "$("${user[@]}" "$ARCHIPELAGO" list --names)" v
test -d home/.local/share/archipelago
# Root's, where a tmpfs hides the machine's own.
unshare -m bash -eu -c '
    mount -t tmpfs none /var/lib
    "$0" create root-volume 1M
    test "$("$0" list --names)" = root-volume
    test -d /var/lib/archipelago' "$ARCHIPELAGO"
