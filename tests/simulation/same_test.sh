#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Same seed, same run, bit for bit; another seed, another run.  Usage: SIMULATE
set -euo pipefail

hash_of() {
    "$1" --seed "$2" --runs 20 | tail -n 1
}

first=$(hash_of "$1" 4711)
again=$(hash_of "$1" 4711)
other=$(hash_of "$1" 4712)
echo "$first, again $again, another seed's $other"
[[ $first = hash\ * ]]
[ "$first" = "$again" ]
[ "$first" != "$other" ]
