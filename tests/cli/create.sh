#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# create: what it makes, and that nothing is printed.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

equal "$(a create one 10G)" ""
equal "$(a info one --json | json 'j["size_bytes"], j["object_bytes"]')" \
    "(10737418240, 4194304)"
equal "$(a info one --json | json 'j["clean"], j["readonly"], j["holder"]')" \
    "(True, False, None)"
equal "$(a create two 1536 --object-size 64K -d 'naïve "text"' --json |
    json 'j["size_bytes"], j["object_bytes"], j["description"]')" \
    "(1536, 65536, 'naïve \"text\"')"
equal "$(a create three 1P --object-size 64M --json | json 'j["size_bytes"]')" \
    $((1 << 50))
equal "$(names)" "one three two "
expect_code 4 a create one 1G
said one
equal "$(a info one --json | json 'j["size_bytes"]')" 10737418240
