#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# import: a signal, and the volume is gone again.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

mkfifo pipe
exec {keep}<> pipe
for signal in INT TERM HUP; do
    # bash has background jobs ignore SIGINT, and what is ignored stays so.
    "$python" -c '
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.execv(sys.argv[1], sys.argv[1:])' "$ARCHIPELAGO" import pipe v 2> err &
    process=$!
    cleanup_fn end_process "$process"
    head -c 3000000 /dev/urandom >&"$keep"
    wait_for eval 'test "$(names)" = "v "'
    kill -$signal "$process"
    code=0
    wait "$process" || code=$?
    equal "$code" $((128 + $(kill -l $signal)))
    said interrupted
    equal "$(names)" ""
done
