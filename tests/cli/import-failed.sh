#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: a source that fails leaves no volume.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires nbdkit
# A server whose reads fail.  (Not by --run: nbdkit may abort when a client goes
# while it reports several errors.)
nbdkit --exit-with-parent -f -U "$temporary/errors" -P "$temporary/errors.pid" \
    --filter=error data data='"abc"*1000000' error-pread=EIO \
    error-pread-rate=100% &
cleanup_fn end_process $!
wait_for test -e errors.pid
expect_code 1 a import "nbd+unix:///?socket=$temporary/errors" v
said NBD
equal "$(names)" ""

# A server that goes away in the middle.
cat > server.sh << 'END'
case "$1" in
    get_size) echo 67108864 ;;
    pread)
        if [ "$4" -ge 20971520 ]; then kill -9 "$PPID"; fi
        head -c "$3" /dev/urandom
        ;;
    *) exit 2 ;;
esac
END
chmod +x server.sh
nbdkit --exit-with-parent -f -U "$temporary/sock" -P "$temporary/sock.pid" \
    sh server.sh &
server=$!
cleanup_fn end_process "$server"
wait_for test -e sock.pid
expect_code 1 a import "nbd+unix:///?socket=$temporary/sock" v
said NBD
equal "$(names)" ""

# A file that has less than it says.
expect_code 1 a import /sys/devices/system/cpu/online v
said shorter
equal "$(names)" ""

# No server at all.
expect_code 1 a import "nbd+unix:///?socket=$temporary/none" v
equal "$(names)" ""
