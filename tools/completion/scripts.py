"""The completion scripts: tables made from the parsers, and the shell's own program that looks things up in them.

Keys of the tables are words with blanks between them: a command and its verb; with the name of an option behind it what
follows that option; with the number of an argument (from 0) what that may be. The programs are the files beside this
module. They find out which of the three a word is, and offer words from the tables, files, or what the verb
`completion` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import NamedTuple

from tools.completion.spec import Command, Kind, Value, commands


class Entry(NamedTuple):
    """A word that is offered."""

    word: str
    about: str = ""


Table = dict[str, tuple[Entry, ...]]
"""Entries by key."""


class Tables(NamedTuple):
    """All that a shell needs to know."""

    aliases: Table
    """By another name of a command: its own name."""
    verbs: Table
    options: Table
    values: Table
    """The kinds of what follows an option, by its key."""
    arguments: Table
    """The kinds of the arguments; ``...`` behind them where there may be several of the last."""
    words: Table
    """By the key of an option or argument: what it may be."""


def tables(all_commands: Iterable[Command]) -> Tables:
    """The tables of some commands."""
    made = Tables({}, {}, {}, {}, {}, {})
    for command in all_commands:
        own = command.names[0]
        for name in command.names[1:]:
            made.aliases[name] = (Entry(own),)
        if command.verbs:
            made.verbs[own] = tuple(Entry(verb.names[0], verb.about) for verb in command.verbs)
        for key, part in ((own, command), *((f"{own} {verb.names[0]}", verb) for verb in command.verbs)):
            _enter(made, key, part)
    return made


def _enter(made: Tables, key: str, command: Command) -> None:
    made.options[key] = tuple(Entry(name, option.about) for option in command.options for name in option.names)
    for option in command.options:
        for name in option.names if option.values else ():
            made.values[f"{key} {name}"] = _kinds(option.values)
            _enter_words(made, f"{key} {name}", option.values)
    more = (Entry("..."),) if command.repeats else ()
    made.arguments[key] = _kinds(command.arguments) + more
    for number, value in enumerate(command.arguments):
        _enter_words(made, f"{key} {number}", [value])


def _kinds(values: Iterable[Value]) -> tuple[Entry, ...]:
    return tuple(Entry(value.kind.value) for value in values)


def _enter_words(made: Tables, key: str, values: Iterable[Value]) -> None:
    words = [word for value in values if value.kind in (Kind.WORDS, Kind.LIST) for word in value.words]
    if words:
        made.words[key] = tuple(map(Entry, words))


def script(shell: str) -> str:
    """The completion script of a shell: bash, zsh or fish."""
    every = commands()
    names = " ".join(name for command in every for name in command.names)
    program = files("tools.completion").joinpath(f"program.{shell}").read_text(encoding="utf-8")
    table = "\n".join(_WRITERS[shell](tables(every)))
    return program.replace("@NAMES@", names).replace("@TABLES@", table)


def _bash(made: Tables) -> Iterator[str]:
    """Arrays by key, words separated by blanks: no word holds one. Bash shows no descriptions."""
    for name, table in made._asdict().items():
        yield f"declare -gA _hammer_{name}=("
        yield from (
            f"  [{_quoted(key)}]={_quoted(' '.join(e.word for e in entries))}" for key, entries in table.items()
        )
        yield ")"


def _zsh(made: Tables) -> Iterator[str]:
    """Arrays by key: a line for each word, with a tab before its description."""
    for name, table in made._asdict().items():
        yield f"typeset -gA _hammer_{name}=("
        yield from (f"  {_quoted(key)} {_quoted(_lines(entries))}" for key, entries in table.items())
        yield ")"


def _fish(made: Tables) -> Iterator[str]:
    """A function for each table that prints the entries of a key, as fish takes them."""
    for name, table in made._asdict().items():
        yield f"function __hammer_{name}"
        yield "    switch $argv[1]"
        for key, entries in table.items():
            yield f"        case {_fish_quoted(key)}"
            yield f"            printf '%s\\n' {' '.join(_fish_quoted(line) for line in _lines(entries).splitlines())}"
        yield "    end"
        yield "end"


def _lines(entries: Iterable[Entry]) -> str:
    return "\n".join(f"{entry.word}\t{entry.about}" if entry.about else entry.word for entry in entries)


def _quoted(text: str) -> str:
    """A word for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_WRITERS: dict[str, Callable[[Tables], Iterator[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
