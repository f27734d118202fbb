#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Options in --help, the man page and completion are the same.
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

"$python" - "$ARCHIPELAGO" "$SOURCE_ROOT" << 'END'
import re, subprocess, sys
program, root = sys.argv[1:]

def run(*args):
    return subprocess.run(args, check=True, text=True,
                          capture_output=True).stdout

def longs(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))

def shorts(text):
    return set(re.findall(r"(?<![\w-])-[a-z](?![\w-])", text))

commands = re.findall(r"^  ([a-z]+)  +[A-Z]", run(program, "--help"), re.M)
assert len(commands) >= 10, commands
pod = open(root + "/docs/man/archipelago.pod").read()
body = pod[pod.index("=head1 COMMANDS"):pod.index("=head1 EXIT STATUS")]
parts = re.split(r"^=head2 ", body, flags=re.M)[1:]
sections = {part.split()[0]: part for part in parts}
assert sorted(sections) == sorted(commands), (sorted(sections), commands)
script = root + "/src/cli/completion.bash"
completed = run("bash", "-c", '. "$0"; echo $_archipelago_commands', script)
assert completed.split() == commands, completed
for command in commands:
    text = run(program, command, "--help")
    lines = "\n".join(re.findall(r"^  -.*$", text, re.M))
    items = "\n".join(re.findall(r"^=item .*$", sections[command], re.M))
    helped = longs(lines) - {"--help"}
    assert helped == longs(items), (command, helped ^ longs(items))
    assert shorts(lines) - {"-h"} == shorts(items), (command, shorts(items))
    offered = longs(run("bash", "-c", '. "$0"; _archipelago_options "$1"',
                        script, command))
    assert offered == helped | {"--help"}, (command, offered ^ helped)
    usage = re.search(r"archipelago %s .*?\] ?(.*)" % command, text).group(1)
    heading = sections[command].split("\n")[0][len(command):].strip()
    assert usage == heading, (usage, heading)
print(len(commands), "commands agree")
END
