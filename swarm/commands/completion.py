"""`swarm completion SHELL`: completing of commands, options, files and model names, in bash, zsh and fish.

What it prints is a few lines for the shell, which ask this program again for each TAB: with the words of the line so
far in an environment variable. The answer is made from the parser itself, so that it is never behind. Its first line
says what may stand there (`words`, `files`, `directories`), each further one is a word, a tab, and what it is.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swarm.commands.output import say
from swarm.commands.parser import Parser

WORDS = "SWARM_COMPLETE"  # the words after the program's own, each with a line's end; the last is being typed
SEVERAL = (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE)
HERE = "NAME"  # how a model is called in help that must be here already
SAFE_NAME = re.compile(r"[\w.:/@+-]+", re.ASCII)  # other names are for the user to quote, and no shell reads them here

BASH = """\
# bash completion of swarm: source <(swarm completion bash)
_swarm_completion() {
    local line=${COMP_LINE:0:COMP_POINT} words=() reply=() current value breaks= candidate IFS=$' \\t\\n'
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]}-1]}
    IFS=$'\\n'
    reply=($(SWARM_COMPLETE="${words[*]:1}"$'\\n' "${words[0]}" completion bash 2>/dev/null))
    value=$current
    [[ $current == --*=* ]] && value=${current#*=}
    COMPREPLY=()
    case ${reply[0]} in
        files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$value")) ;;
        directories) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$value")) ;;
        words)
            for candidate in "${reply[@]:1}"; do COMPREPLY+=("${candidate%%$'\\t'*}"); done
            # What stands before one of these is a word of its own to bash, and stays as it is.
            [[ $COMP_WORDBREAKS == *:* ]] && breaks+=:
            [[ $COMP_WORDBREAKS == *=* ]] && breaks+==
            [[ -n $breaks && $current == *[$breaks]* ]] &&
                COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*[$breaks]}"}"}") ;;
    esac
}
complete -F _swarm_completion swarm
"""

ZSH = """\
#compdef swarm
# zsh completion of swarm: source <(swarm completion zsh) after compinit, or a file _swarm in $fpath
_swarm() {
    local -a given reply names texts
    local line name
    given=("${(@)words[2,CURRENT-1]}" "$PREFIX")
    reply=("${(@f)$(SWARM_COMPLETE="${(F)given}"$'\\n' ${(Q)words[1]} completion zsh 2>/dev/null)}")
    [[ $PREFIX == --*=* ]] && compset -P '--*='
    case $reply[1] in
        files) _files ;;
        directories) _files -/ ;;
        words)
            for line in "${(@)reply[2,-1]}"; do
                name=${line%%$'\\t'*}
                [[ -z $name ]] && continue
                texts+=("$name  ${line#*$'\\t'}")
                [[ $name == --*=* ]] && name=${name#*=}
                names+=("$name")
            done
            compadd -l -d texts -a names ;;
    esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _swarm "$@"; else compdef _swarm swarm; fi
"""

FISH = """\
# fish completion of swarm: swarm completion fish | source
function __swarm_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l given (string join \\n -- $words[2..-1] | string collect --no-trim-newlines)
    set -l reply (env SWARM_COMPLETE="$given" $words[1] completion fish 2>/dev/null)
    set -l before (string match -r -- '^--[^=]*=' $words[-1])
    set -l value (string replace -r -- '^--[^=]*=' '' $words[-1])
    switch "$reply[1]"
        case files
            __fish_complete_path "$value" | string replace -r -- '^' "$before"
        case directories
            __fish_complete_directories "$value" | string replace -r -- '^' "$before"
        case words
            printf '%s\\n' $reply[2..-1]
    end
end
complete -c swarm -f -a '(__swarm_complete)'
"""

SCRIPTS: Mapping[str, str] = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@dataclass(frozen=True, slots=True)
class Completion:
    """What may stand in a word's place: files, directories, or these words, each with what it is."""

    kind: Literal["words", "files", "directories"]
    words: tuple[tuple[str, str], ...] = ()


def completion(shell: str, environment: Mapping[str, str], parser: Parser) -> int:
    """Print the lines for `shell`, or where it asks with the words of a line, the answer. 0 always: it may be asked
    in the middle of anything."""
    if WORDS not in environment:
        say(SCRIPTS[shell], end="")
        return 0
    found = complete(parser, environment[WORDS].removesuffix("\n").split("\n"), model_names)
    say("\n".join([found.kind, *(f"{word}\t{about}" for word, about in found.words)]))
    return 0


def complete(parser: Parser, words: Sequence[str], models: Callable[[bool], Iterable[str]]) -> Completion:
    """What may stand in the place of the last of `words`, of which a part may be there; `models` gives names of models,
    where it is told so of those alone that are here already.

    The words before it are taken as the parser would take them.
    """
    *before, current = words
    given: set[str] = set()  # destinations of the options that are there
    taking: argparse.Action | None = None  # the option whose values come next
    places = 0  # words that were no options
    only_words = False
    for word in before:
        if taking is not None and not word.startswith("-"):
            taking = taking if taking.nargs in SEVERAL else None
        elif word == "--" and not only_words:
            only_words, taking = True, None
        elif word.startswith("-") and not only_words:
            option, _, value = word.partition("=")
            action = parser.option(option)
            if action is not None:
                given.add(action.dest)
            taking = action if action is not None and action.nargs != 0 and not value else None
        elif word in (commands := parser.commands()):
            parser, places = commands[word], 0
        elif commands:
            return Completion("words")  # a command that there is not: its options are not known
        else:
            places += 1
    if current.startswith("-") and not only_words:
        option, is_value, value = current.partition("=")
        if not is_value:
            return Completion("words", tuple(_options(parser, given, current)))
        action = parser.option(option)
        return Completion("words") if action is None else _values(action, value, f"{option}=", models)
    if taking is not None:
        return _values(taking, current, "", models)
    if commands := parser.commands():
        return Completion("words", tuple(_chosen(parser.about_commands(), current)))
    action = parser.place(places)
    return Completion("words") if action is None else _values(action, current, "", models)


def _options(parser: Parser, given: set[str], current: str) -> Iterable[tuple[str, str]]:
    """The options that begin so and may still be given; short spellings only where nothing more is typed."""
    for action in parser.actions():
        if action.dest in given and "repeatable" not in (action.help or ""):
            continue
        for spelling in action.option_strings:
            if spelling.startswith(current) and (spelling.startswith("--") or len(action.option_strings) == 1):
                yield spelling, _about(action.help)


def _values(action: argparse.Action, current: str, before: str, models: Callable[[bool], Iterable[str]]) -> Completion:
    """What the option or word may be; `before` stands in front of it in the same word."""
    if action.choices is not None:
        known = [(str(choice), "") for choice in action.choices]
    elif action.metavar in ("PROGRAM", "CLIENT"):
        known = client_names(only_launched=action.metavar == "PROGRAM")
    elif action.type is Path:
        return Completion("directories" if action.metavar in ("DIR", "FOLDER") else "files")
    elif "MODEL" in str(action.metavar) or action.dest in ("model", "default_model", "wanted"):
        known = [(name, "") for name in models(action.dest == "wanted" and action.metavar == HERE)]
    else:
        known = []
    return Completion("words", tuple((before + word, about) for word, about in _chosen(known, current)))


def _chosen(known: Iterable[tuple[str, str]], current: str) -> Iterable[tuple[str, str]]:
    return [(word, _about(about)) for word, about in known if word.startswith(current)]


def _about(text: str | None) -> str:
    """The beginning of an option's help: a list in a terminal has one line for each."""
    return (text or "").partition(";")[0].partition(" (")[0]


def client_names(only_launched: bool) -> list[tuple[str, str]]:
    """What `swarm launch` starts, or every client with settings; each with its title."""
    from swarm.commands.client_settings import client_entries

    entries = client_entries()
    if only_launched:
        return [(entry.name, entry.title) for entry in entries if entry.launch is not None]
    return [(entry.id, entry.title) for entry in entries]


def model_names(only_here: bool = False) -> list[str]:
    """The models by name, as far as no shell needs quotes for them: of this disk, else of the catalogue, too."""
    from swarm.errors import SwarmError
    from swarm.node.model_choice import model_store
    from swarm.node.settings import make_settings
    from swarm.registry.catalogue import Catalogue
    from swarm.registry.names import EMBEDDED_NAMES

    names = list(EMBEDDED_NAMES)
    try:
        names += [] if only_here else [choice.id for choice in Catalogue.load().choices(formats=["gguf"])]
        names += [model.id for model in model_store(make_settings({})).look().models]
    except (SwarmError, OSError):
        pass
    return [name for name in dict.fromkeys(names) if SAFE_NAME.fullmatch(name)]
