# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for archipelago.  Volumes are asked for with the store that is
# already on the line; an unreachable one completes to nothing, without a word.

# The options of each command; a test compares them with --help.
_archipelago_options()
{
    local all="--help --store"

    case "$1" in
        create) echo "$all --json --object-size --description" ;;
        list) echo "$all --json --bytes --names" ;;
        info | map | du | status) echo "$all --json --bytes" ;;
        resize) echo "$all --json --allow-shrink --dry-run" ;;
        remove) echo "$all --json --dry-run --yes" ;;
        import)
            echo "$all --json --format --size --object-size --description" \
                "--existing --detect-zeroes --no-detect-zeroes --quiet"
            ;;
        check) echo "$all --json --repair --dry-run --quiet" ;;
        metadata) echo "$all --json --force --overwrite --dry-run" ;;
        export) echo "$all --json --format --force --detect-zeroes --quiet" ;;
        "") echo "--help --version" ;;
    esac
}

_archipelago_commands="create list info map du resize remove import export \
status check metadata"

# Names of volumes in the store named on the line, else in the default one.
_archipelago_volumes()
{
    local index store=()

    for ((index = 1; index < ${#words[@]}; index++)); do
        case "${words[index]}" in
            -s | --store) store=(--store "${words[index + 1]}") ;;
            --store=*) store=("${words[index]}") ;;
        esac
    done
    archipelago list --names "${store[@]}" 2> /dev/null
}

# How many plain arguments stand before the word to complete.
_archipelago_position()
{
    local index count=0

    for ((index = 2; index < ${#words[@]} - 1; index++)); do
        case "${words[index]}" in
            -s | --store | -o | --object-size | -d | --description | -f | \
                --format | --size)
                ((index++))
                ;;
            -?*) ;;
            *) ((count++)) ;;
        esac
    done
    echo "$count"
}

_archipelago_argument()
{
    local position
    position=$(_archipelago_position)

    case "$1:$position" in
        info:0 | map:0 | resize:0 | export:0 | list:0 | du:* | remove:* | \
            check:*)
            mapfile -t COMPREPLY < <(compgen -W "$(_archipelago_volumes)" \
                -- "$current")
            ;;
        metadata:0)
            mapfile -t COMPREPLY < <(compgen -W "export import" -- "$current")
            ;;
        import:0 | export:1 | metadata:1)
            compopt -o filenames 2> /dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            ;;
        import:1)
            if [[ " ${words[*]} " == *" --existing "* ]]; then
                mapfile -t COMPREPLY < <(compgen \
                    -W "$(_archipelago_volumes)" -- "$current")
            fi
            ;;
    esac
}

# The value of the option before the word; 1 if that is none that has one.
_archipelago_value()
{
    case "$1" in
        -f | --format)
            mapfile -t COMPREPLY < <(compgen \
                -W "raw qcow2 qcow qed vdi vmdk vhdx vpc" -- "$current")
            ;;
        -o | --object-size)
            mapfile -t COMPREPLY < <(compgen \
                -W "64K 128K 256K 512K 1M 2M 4M 8M 16M 32M 64M" -- "$current")
            ;;
        -s | --store | -d | --description | --size) ;;
        *) return 1 ;;
    esac
}

_archipelago()
{
    # Split by blanks alone: COMP_WORDS also splits "dir:/srv" at its colon.
    local line=${COMP_LINE:0:COMP_POINT} words current command previous

    read -r -a words <<< "$line"
    if [[ $line == *[[:blank:]] ]]; then
        words+=("")
    fi
    current=${words[-1]}
    previous=${words[-2]}
    command=
    if ((${#words[@]} > 2)); then
        command=${words[1]}
    fi
    COMPREPLY=()
    if [[ -n $command ]] && _archipelago_value "$previous"; then
        return
    fi
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen \
            -W "$(_archipelago_options "$command")" -- "$current")
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$_archipelago_commands" \
            -- "$current")
    else
        _archipelago_argument "$command"
    fi
}

complete -F _archipelago archipelago
