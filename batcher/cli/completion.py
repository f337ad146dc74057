"""Scripts that complete a command line in bash, zsh and fish, made from the parser.

Invariant: a script starts no batcher: verbs, options and values stand in it, files and keywords come from the shell.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto

import batcher
from batcher.calls.services import SERVICES
from batcher.cli.parser import Flag, Verb, verbs_of
from batcher.records import Beside
from batcher.settings import OPTIONS

_LONGEST = 70  # characters of a description


class _Value(Enum):
    """What completes a value."""

    NOTHING = auto()
    FILE = auto()
    DIRECTORY = auto()
    KEYWORD = auto()


_BY_METAVAR = {
    "FILE": _Value.FILE,
    "[FILE]": _Value.FILE,
    "INPUT": _Value.FILE,
    "DIR": _Value.DIRECTORY,
    "KEYWORD": _Value.KEYWORD,
    "OTHER": _Value.KEYWORD,
}


class _List(tuple[str, ...]):
    """Words of which several may stand in one value, with commas between them."""

    __slots__ = ()


def script(shell: str) -> str:
    """Return the script for a shell.

    Args:
        shell: `bash`, `zsh` or `fish`.
    """
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return makers[shell](verbs_of())


def _options(verb: Verb) -> list[argparse.Action]:
    return [action for action in verb.actions if action.option_strings]


def _places(verb: Verb) -> list[argparse.Action]:
    """Return the arguments of a verb that are not options, in order."""
    return [action for action in verb.actions if not action.option_strings]


def _forms(action: argparse.Action) -> Iterator[tuple[Sequence[str], str]]:
    """Yield the forms of an option that mean the same, with what they mean."""
    if isinstance(action, Flag):
        yield action.on, _in_short(action.help)
        yield [action.off], f"undo {action.on[-1]} of the file"
    else:
        yield action.option_strings, _in_short(action.help)


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _values(action: argparse.Action) -> _Value | Sequence[str]:
    """Return what completes the value of an option or an argument: a kind, or the words themselves."""
    if action.choices:
        return list(map(str, action.choices))
    if action.dest == "provider":
        return list(SERVICES)
    if action.dest == "keyword":
        return _Value.KEYWORD
    if action.dest == "with_":
        return _List(Beside._fields)
    if action.dest in OPTIONS and OPTIONS[action.dest].choices:
        return OPTIONS[action.dest].choices
    return _BY_METAVAR.get(str(action.metavar), _Value.NOTHING)


def _in_short(text: str | None) -> str:
    """Return the beginning of a help text, as a description in a list."""
    plain = (text or "").replace("%%", "%")
    if plain == argparse.SUPPRESS:
        return ""
    first = re.split(r"[;:.] | \(", plain)[0].rstrip(".")
    return first if len(first) <= _LONGEST else first[:_LONGEST].rpartition(" ")[0] + " ..."


# --- bash ---

_BASH = r"""# Completion of batcher %(version)s in bash: eval "$(batcher completion bash)"

_batcher_keywords() {
    local path name
    for path in "${1/#\~/$HOME}"/journal_*.sqlite; do
        [[ -e $path ]] || continue
        name=${path##*/journal_}
        name=${name%%.sqlite}
        [[ $name == "$2"* ]] || continue
        [[ $name == *[[:space:]\'\"\&\;\(\)\$]* ]] && printf -v name %%q "$name"
        COMPREPLY+=("$name")
    done
}

_batcher_files() {
    local IFS=$'\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen "$1" -- "$2"))
}

_batcher() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev="" before="" verb="" dir=output words="" word i n=0
    COMPREPLY=()
    # The verb, the output directory, the number of arguments before the cursor, and the option that waits for a value.
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == "=" ]] && continue
        case $prev in
            -o | --output-dir) dir=$word prev="" && continue ;;
            ?*) prev="" && continue ;;
        esac
        case $word in
            %(valued)s) prev=$word ;;
            -*) ;;
            *) if [[ -z $verb ]]; then verb=$word; else ((n++)); fi ;;
        esac
    done
    [[ $cur == "=" ]] && cur=""
    case $prev in
        "") ;;
%(values)s
        *) return ;;
    esac
    if [[ -z $words && $cur == -* ]]; then
        case $verb in
            "") words="--help --version" ;;
%(flags)s
        esac
    elif [[ -z $words ]]; then
        case "$verb $n" in
            " "*) words="%(verbs)s" ;;
%(places)s
        esac
    fi
    COMPREPLY+=($(compgen -W "$words" -- "$cur"))
}

complete -F _batcher batcher"""


def _bash(verbs: Sequence[Verb]) -> str:
    options: dict[str, argparse.Action] = {}
    for action in (each for verb in verbs for each in _options(verb) if _takes_value(each)):
        options.update(dict.fromkeys(action.option_strings, action))
    by_values: dict[str, list[str]] = {}
    for flag, action in options.items():
        if (found := _in_bash(_values(action))) is not None:
            by_values.setdefault(found, []).append(flag)
    places = (
        (f'"{verb.name} "*' if action.dest == "data" and not number else f'"{verb.name} {number}"', _values(action))
        for verb in verbs
        for number, action in enumerate(_places(verb))
    )
    return _BASH % {
        "version": batcher.__version__,
        "valued": " | ".join(options),
        "values": "\n".join(f"        {' | '.join(flags)}) {does} ;;" for does, flags in by_values.items()),
        "flags": "\n".join(f'            {verb.name}) words="{" ".join(_flags(verb))}" ;;' for verb in verbs),
        "verbs": " ".join(verb.name for verb in verbs),
        "places": "\n".join(
            f"            {where}) {does} ;;" for where, values in places if (does := _in_bash(values)) is not None
        ),
    }


def _flags(verb: Verb) -> Iterable[str]:
    return (flag for action in _options(verb) for flag in action.option_strings if flag.startswith("--"))


def _in_bash(values: _Value | Sequence[str]) -> str | None:
    """Return the command that completes a value; None if nothing does."""
    match values:
        case _Value.NOTHING:
            return None
        case _Value.FILE:
            return '_batcher_files -f "$cur"; return'
        case _Value.DIRECTORY:
            return '_batcher_files -d "$cur"; return'
        case _Value.KEYWORD:
            return '_batcher_keywords "$dir" "$cur"; return'
        case _List():
            more = "${words// / ${cur%,*},}"
            return f'words="{" ".join(values)}"; [[ $cur == *,* ]] && words="${{cur%,*}},{more}"'
        case _:
            return f'words="{" ".join(values)}"'


# --- zsh ---

_ZSH = r"""#compdef batcher
# Completion of batcher %(version)s in zsh: eval "$(batcher completion zsh)" after compinit

_batcher_keywords() {
    local dir=${opt_args[--output-dir]:-${opt_args[-o]:-output}}
    local -a found
    found=(${~${(Q)dir}}/journal_*.sqlite(N:t:r))
    compadd -- ${found#journal_}
}

_batcher() {
    local curcontext="$curcontext" state line
    local -a verbs
    typeset -A opt_args
    _arguments -C '(- *)'{-h,--help}'[show the help]' '(- *)--version[show the version]' \
        '1:verb:->verb' '*::argument:->rest'
    case $state in
        verb)
            verbs=(
%(verbs)s
            )
            _describe verb verbs
            ;;
        rest)
            case $line[1] in
%(arguments)s
            esac
            ;;
    esac
}

if [[ $funcstack[1] == _batcher ]]; then _batcher "$@"; else compdef _batcher batcher; fi"""


def _zsh(verbs: Sequence[Verb]) -> str:
    arguments = []
    for verb in verbs:
        lines = [_zsh_option(action, *form) for action in _options(verb) for form in _forms(action)]
        for number, action in enumerate(_places(verb), 1):
            place = "*" if action.dest == "data" and number == 1 else f"{number}"
            lines.append(shlex.quote(f"{place}:{action.metavar}:{_in_zsh(_values(action))}"))
        joined = " \\\n                        ".join(lines)
        arguments.append(
            f"                {verb.name})\n                    _arguments {joined}\n                    ;;"
        )
    return _ZSH % {
        "version": batcher.__version__,
        "verbs": "\n".join(
            f"                {shlex.quote(f'{verb.name}:{_in_short(verb.summary)}')}" for verb in verbs
        ),
        "arguments": "\n".join(arguments),
    }


def _zsh_option(action: argparse.Action, flags: Sequence[str], words: str) -> str:
    described = re.sub(r"([\[\]:\\])", r"\\\1", words)
    optional = ":" if action.nargs == "?" else ""
    value = f"{optional}:{action.metavar}:{_in_zsh(_values(action))}" if _takes_value(action) else ""
    said = shlex.quote(f"[{described}]{value}")
    several = "*" if isinstance(action, argparse._AppendAction) else ""  # noqa: SLF001 - argparse has no public name for it
    if len(flags) == 1:
        return shlex.quote(several + flags[0]) + said
    together = shlex.quote(f"({' '.join(flags)})")
    return f"{together}{{{','.join(flags)}}}{said}"


def _in_zsh(values: _Value | Sequence[str]) -> str:
    match values:
        case _Value.NOTHING:
            return " "
        case _Value.FILE:
            return "_files"
        case _Value.DIRECTORY:
            return "_files -/"
        case _Value.KEYWORD:
            return "_batcher_keywords"
        case _List():
            return f"_values -s , name {' '.join(values)}"
        case _:
            return f"({' '.join(values)})"


# --- fish ---

_FISH = r"""# Completion of batcher %(version)s in fish, for ~/.config/fish/completions/batcher.fish

function __batcher_keywords
    set -l words (commandline -opc)
    set -l dir output
    for i in (seq (count $words))
        switch $words[$i]
            case -o --output-dir
                set -q words[(math $i + 1)]; and set dir $words[(math $i + 1)]
            case '--output-dir=*'
                set dir (string replace -- --output-dir= '' $words[$i])
        end
    end
    for path in $dir/journal_*.sqlite
        string replace -r '.*/journal_(.*)\.sqlite$' '$1' -- $path
    end
end

# The words of a list, after those that stand before the last comma.
function __batcher_list
    set -l before (string match -r '.*,' -- (commandline -ct))
    for word in $argv
        echo "$before$word"
    end
end

complete -c batcher -f
complete -c batcher -n __fish_use_subcommand -s h -l help -d 'show the help'
complete -c batcher -n __fish_use_subcommand -l version -d 'show the version'
%(lines)s"""


def _fish(verbs: Sequence[Verb]) -> str:
    lines = []
    for verb in verbs:
        lines.append(
            f"complete -c batcher -n __fish_use_subcommand -a {verb.name} -d {_fish_text(_in_short(verb.summary))}"
        )
        seen = f"complete -c batcher -n '__fish_seen_subcommand_from {verb.name}'"
        for action, (forms, words) in ((each, form) for each in _options(verb) for form in _forms(each)):
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in forms)
            value = f" {_in_fish(_values(action))}" if _takes_value(action) and action.nargs != "?" else ""
            lines.append(f"{seen} {flags}{value} -d {_fish_text(words)}")
        lines += [
            f"{seen} {_in_fish(_values(action)).replace('-x ', '-f ').replace('-r ', '')}" for action in _places(verb)
        ]
    return _FISH % {"version": batcher.__version__, "lines": "\n".join(lines)}


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _in_fish(values: _Value | Sequence[str]) -> str:
    match values:
        case _Value.NOTHING:
            return "-x"
        case _Value.FILE:
            return "-r -F"
        case _Value.DIRECTORY:
            return "-x -a '(__fish_complete_directories)'"
        case _Value.KEYWORD:
            return "-x -a '(__batcher_keywords)'"
        case _List():
            return f"-x -a '(__batcher_list {' '.join(values)})'"
        case _:
            return f"-x -a {_fish_text(' '.join(values))}"
