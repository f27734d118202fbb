#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# nbdsh [CASE...]: libnbd's shell against the plugin, by its command line.
# What the protocol's requests do is tested through the same library by
# requests.py and its like.
# shellcheck disable=SC2016 # $uri is nbdkit's to set
. "$(dirname "$(readlink -f "$0")")/functions.sh"
requires nbdsh libnbd-bin
/usr/bin/python3 -c 'import nbd' 2> /dev/null ||
    skip 'no Python module nbd (Debian: python3-libnbd)'

case_uri() {
    create uri
    with uri 'nbdsh -u $uri -c "h.pwrite(b\"words\", 1 << 20)" -c "h.flush()"'
    test "$(with uri 'nbdsh -u $uri \
        -c "print(h.pread(5, 1 << 20).decode(), h.get_size())"')" \
        = "words $size"
    must_fail with uri 'nbdsh -u $uri -c "h.pread(1, h.get_size())"' \
        2> "$directory/errors"
    grep -q 'Invalid argument\|EINVAL' "$directory/errors"
}

case_base_allocation() {
    create base-allocation
    cat > "$directory/script" << 'END'
entries = []
h.pwrite(b"x" * 65536, 8 << 20)
h.block_status(16 << 20, 0, lambda *a: entries.extend(a[2]))
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
assert entries[:4] == [8 << 20, 3, 65536, 0], entries
END
    with base-allocation \
        "nbdsh --base-allocation -u \$uri -c - < $directory/script"
}

case_option_mode() {
    sanitized && return
    create option-a
    create option-b
    cat > "$directory/script" << 'END'
names = []
h.opt_list(lambda name, description: names.append(name))
assert {"option-a", "option-b"} <= set(names), names
h.set_export_name("absent")
try:
    h.opt_info()
    raise SystemExit("info on a volume that isn't there")
except nbd.Error:
    pass
h.set_export_name("option-b")
h.opt_info()
assert h.get_size() == 64 << 20
h.opt_go()
assert h.pread(512, 0) == bytearray(512)
h.shutdown()
END
    serving "nbdsh --opt-mode -u \$uri -c - < $directory/script" \
        "$NBDKIT_PLUGIN" store="$store"
}

# Without its handle; two of one's own on a volume.
case_own_handles() {
    create own-handles
    cat > "$directory/script" << 'END'
import os
a, b = nbd.NBD(), nbd.NBD()
a.connect_unix(os.environ["unixsocket"])
b.connect_unix(os.environ["unixsocket"])
a.pwrite(b"y" * 4096, 0, nbd.CMD_FLAG_FUA)
assert b.pread(4096, 0) == b"y" * 4096
a.shutdown()
b.shutdown()
END
    with own-handles \
        "export unixsocket; nbdsh -n -c - < $directory/script"
}

# 256 writes and then reads in flight at once.
case_asynchronous() {
    create asynchronous
    cat > "$directory/script" << 'END'
import random
number = random.Random(1)
data = {at: number.randbytes(4096)
        for at in number.sample(range(0, h.get_size(), 4096), 256)}
def all_of(submit):
    for cookie in [submit(at) for at in data]:
        while not h.aio_command_completed(cookie):
            h.poll(-1)
all_of(lambda at: h.aio_pwrite(nbd.Buffer.from_bytearray(
    bytearray(data[at])), at))
h.flush()
buffers = {at: nbd.Buffer(4096) for at in data}
all_of(lambda at: h.aio_pread(buffers[at], at))
for at in data:
    assert buffers[at].to_bytearray() == data[at], at
END
    with asynchronous "nbdsh -u \$uri -c - < $directory/script"
}

run_cases "$@"
