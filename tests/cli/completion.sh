#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion: commands, options, values, volumes, files.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

a create web-1 1M
a create web-2 1M
touch local-file
bin=$(dirname "$ARCHIPELAGO")
cat > complete.bash << 'END'
. "$1"
COMP_LINE=$2
COMP_POINT=${#COMP_LINE}
_archipelago
echo "${COMPREPLY[*]}"
END
complete()
{
    PATH=$bin:$PATH bash complete.bash "$SOURCE_ROOT/src/cli/completion.bash" \
        "$1"
}
equal "$(complete 'archipelago re')" "resize remove"
equal "$(complete 'archipelago --v')" "--version"
equal "$(complete 'archipelago info w')" "web-1 web-2"
equal "$(complete 'archipelago remove web-1 web-2')" "web-2"
equal "$(complete 'archipelago resize web-1 --al')" "--allow-shrink"
equal "$(complete 'archipelago resize web-1 ')" ""
equal "$(complete 'archipelago export web-1 loc')" "local-file"
equal "$(complete 'archipelago import loc')" "local-file"
equal "$(complete 'archipelago import local-file ')" ""
equal "$(complete 'archipelago import --existing local-file web-2')" "web-2"
equal "$(complete 'archipelago import --format qc')" "qcow2 qcow"
equal "$(complete "archipelago info --store $ARCHIPELAGO_STORE web-1")" "web-1"
equal "$(complete 'archipelago info --store dir:/nonexistent w')" ""
bash -c '. "$0"; complete -p archipelago' \
    "$SOURCE_ROOT/src/cli/completion.bash" > out
