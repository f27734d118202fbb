# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Sourced by the guest scripts that run other people's suites.

# A disk comes in two ways: /dev/vda is there by itself, /dev/nbd0 comes by
# nbd-client from $PORT on the host.
attach() {
    if [ $1 != /dev/nbd0 ]; then
        wait_for_device $1
        return
    fi
    try=0
    until nbd-client 10.0.2.2 "$PORT" $1 -N "$EXPORT" -C 4; do
        try=$((try + 1))
        [ $try -lt 3 ]
        sleep 1
    done
}

detach() {
    if [ $1 = /dev/nbd0 ]; then
        nbd-client -d $1
    fi
}

# fio, of whose many lines only those about errors are shown.
run_fio() {
    fio "$@" > /tmp/fio 2>&1 || {
        grep -E 'verify|err=|error' /tmp/fio
        false
    }
}
