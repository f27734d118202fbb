#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# export: a signal, and nothing of the file is left.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

requires nbdkit qemu-img
make_sparse s
a import s v
cat > slow.sh << 'END'
case "$1" in
    get_size) echo 67108864 ;;
    can_write) exit 0 ;;
    pwrite) touch "$BEGUN"; exec sleep 2 ;;
    *) exit 2 ;;
esac
END
chmod +x slow.sh
BEGUN=$temporary/begun nbdkit --exit-with-parent -f -U "$temporary/sock" \
    -P "$temporary/sock.pid" sh slow.sh &
cleanup_fn end_process $!
wait_for test -e sock.pid
"$ARCHIPELAGO" export v "nbd+unix:///?socket=$temporary/sock" 2> err &
process=$!
wait_for test -e begun
kill -TERM "$process"
code=0
wait "$process" || code=$?
equal "$code" 143
said interrupted

# A file, whose image is served by something in qemu-nbd's place that takes its
# time.
rm begun
mkdir bin
cat > bin/qemu-nbd << END
#!/bin/bash
BEGUN=$temporary/begun exec nbdkit -f sh $temporary/slow.sh
END
chmod +x bin/qemu-nbd
PATH=$temporary/bin:$PATH "$ARCHIPELAGO" export v out.qcow2 2> err &
process=$!
wait_for test -e begun
test -n "$(find . -name 'out.qcow2.part-*')"
kill -TERM "$process"
code=0
wait "$process" || code=$?
equal "$code" 143
said interrupted
equal "$(find . -name 'out*')" ""
