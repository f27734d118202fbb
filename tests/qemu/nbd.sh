#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# qemu-nbd serves a volume on a unix socket; libnbd's tools and qemu-io use it.
. "$(dirname "$0")/functions.sh"
command -v nbdcopy >/dev/null || skip "nbdcopy (libnbd-bin) is not installed"

socket=$work/nbd.sock
uri="nbd+unix:///?socket=$socket"
img create -q -f raw archipelago:v 24M
random "$work/data" 10000
truncate -s 24M "$work/data"

start nbd -t -f raw -e 4 --discard=unmap -k "$socket" \
    --pid-file="$work/server.pid" archipelago:v
server=$pid
wait_for test -s "$work/server.pid"
says '25165824' nbdinfo --size "$uri"
nbdcopy "$work/data" "$uri"
nbdcopy --connections=2 "$uri" "$work/back"
cmp "$work/data" "$work/back"
says 'hole,zero' nbdinfo --map "$uri"
io -f raw -c 'write -q -P 9 1M 300001' -c 'write -q -f -z 2M 5000' \
    -c 'discard -q 3M 1M' -c 'read -q -P 9 1M 300001' "$uri"
says "$server" "$volume" holder v
kill "$server"
wait "$server" || true
io -f raw -c 'write -q -P 9 1M 300001' -c 'write -q -z 2M 5000' \
    -c 'write -q -z 3M 1M' "$work/data"
same v "$work/data"

### it opens volumes after it forked
rm -f "$socket"
(nbd --fork -t -f raw -r --pid-file="$work/pid" -k "$socket" archipelago:v)
started+=("$(cat "$work/pid")")
nbdcopy "$uri" "$work/back"
cmp "$work/data" "$work/back"
fails_with 'Permission denied' io -f raw -c 'write 0 512' "$uri"

### the stock storage daemon knows a volume as a backing file, by its name
img create -q -f qcow2 -b archipelago:v -F raw "$work/over.qcow2"
rm -f "$socket"
start qsd --pidfile "$work/qsd.pid" --blockdev "qcow2,node-name=q,file.driver=file,\
file.filename=$work/over.qcow2" --nbd-server \
    "addr.type=unix,addr.path=$socket" --export nbd,id=e,node-name=q,name=
wait_for test -s "$work/qsd.pid"
nbdcopy "$uri" "$work/back"
cmp "$work/data" "$work/back"

echo ok
