#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What `meson install` puts where, and that programs can use it.
#   install_test.sh PART SOURCE-DIRECTORY BUILD-DIRECTORY
# PART: plan (destinations with prefix /usr), programs (a C and a C++ program
# through pkg-config), symbols (exported names are those of the header).
set -eu
part=$1 source=$2 build=$3
here=$(dirname "$(readlink -f "$0")")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

skip() {
    echo "skipped: $*"
    exit 77
}

# The value of a build option.
option() {
    meson introspect --buildoptions "$build" |
        python3 -c 'import json, sys
print(next(o["value"] for o in json.load(sys.stdin) if o["name"] == "'"$1"'"))'
}

has() {
    pkg-config --exists "$1"
}

test_plan() {
    local triplet plan=$scratch/plan

    command -v dpkg-architecture >/dev/null && [ -e /etc/debian_version ] ||
        skip "not Debian, or no dpkg-dev: its directories aren't known"
    triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
    meson setup --prefix=/usr "$source" "$plan" >"$scratch/log" 2>&1 || {
        cat "$scratch/log"
        fail "meson setup --prefix=/usr"
    }
    meson introspect --installed "$plan" |
        python3 -c 'import json, sys
print("\n".join(json.load(sys.stdin).values()))' | sort >"$scratch/files"
    cat "$scratch/files"
    expect() {
        grep -qxE "$1" "$scratch/files" || fail "nothing is installed as $1"
    }
    expect /usr/include/archipelago.h
    expect "/usr/lib/$triplet/libarchipelago.so.0.1.0"
    expect "/usr/lib/$triplet/pkgconfig/archipelago.pc"
    expect /usr/bin/archipelago
    ! has bash-completion ||
        expect /usr/share/bash-completion/completions/archipelago
    ! has nbdkit || expect \
        "$(pkg-config --variable=plugindir nbdkit)/nbdkit-archipelago-plugin.so"
    if command -v pod2man >/dev/null; then
        expect '/usr/share/man/man1/archipelago\.1(\.gz)?'
        ! has nbdkit ||
            expect '/usr/share/man/man1/nbdkit-archipelago-plugin\.1(\.gz)?'
    fi
    ! grep -vE '^/usr/(bin|include|lib|libexec|sbin|share)/' "$scratch/files" ||
        fail "the above lie outside of Debian's directories"
}

install_all() {
    root=$scratch/root
    prefix=$(option prefix)
    libdir=$root$prefix/$(option libdir)
    DESTDIR=$root meson install -C "$build" --no-rebuild >"$scratch/log" 2>&1 || {
        cat "$scratch/log"
        fail "meson install"
    }
    export PKG_CONFIG_PATH=$libdir/pkgconfig LD_LIBRARY_PATH=$libdir
}

config() {
    pkg-config --define-variable=prefix="$root$prefix" "$@" archipelago
}

test_programs() {
    local sanitize flags=""

    install_all
    sanitize=$(option b_sanitize)
    [ "$sanitize" = none ] || flags=-fsanitize=$sanitize
    [ "$(config --modversion)" = 0.1.0 ] || fail "pkg-config --modversion"
    [ "$(config --libs | xargs)" = "-L$libdir -larchipelago" ] ||
        fail "pkg-config --libs says $(config --libs)"
    # shellcheck disable=SC2046,SC2086
    {
        cc -std=c99 -Wall -Wextra -Werror $flags "$here/install-client.c" \
            -o "$scratch/c" $(config --cflags --libs)
        c++ -x c++ -Wall -Wextra -Werror $flags "$here/install-client.c" \
            -o "$scratch/c++" $(config --cflags --libs)
    }
    for program in c c++; do
        mkdir "$scratch/store-$program"
        "$scratch/$program" "dir:$scratch/store-$program" >"$scratch/said" ||
            fail "the $program program"
        grep -qx "hello, world from 0.1.0" "$scratch/said" ||
            fail "the $program program said: $(cat "$scratch/said")"
    done
}

test_symbols() {
    local library

    install_all
    library=$libdir/libarchipelago.so.0
    readelf -d "$library" | grep -q 'SONAME.*\[libarchipelago\.so\.0\]' ||
        fail "soname"
    nm -D --defined-only --with-symbol-versions "$library" |
        awk '$2 != "A" { print $3 }' | sort >"$scratch/exported"
    sed 's://.*::; s:/\*.*\*/::' "$root$prefix/include/archipelago.h" |
        sed '/\/\*/,/\*\//d' | grep -v '^ *#' |
        grep -oE '\<archip_[a-z_]+ *\(' | tr -d '( ' | sort -u |
        sed 's/$/@@ARCHIPELAGO_0.1/' >"$scratch/declared"
    [ -s "$scratch/declared" ] || fail "found no function in the header"
    diff "$scratch/declared" "$scratch/exported" ||
        fail "< is declared only, > is exported only"
}

case $part in
    plan) test_plan ;;
    programs) test_programs ;;
    symbols) test_symbols ;;
    *) fail "no part $part" ;;
esac
