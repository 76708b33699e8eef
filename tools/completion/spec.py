"""What the command lines of all commands look like, read from their parsers; so completion can't lag behind them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from hammerfs.fuse.options import option_words
from hammerfs.uflags import FLAGS
from mkfs.options import NAMES as NEWFS_NAMES
from mkfs.options import build_parser as newfs_parser
from tools.cli import build_parser as hammer_parser
from tools.cmd_pfs import OPTIONS as PFS_OPTIONS
from tools.fsck.cli import build_parser as fsck_parser
from tools.fstyp import build_parser as fstyp_parser
from tools.mount_hammer import build_parser as mount_parser
from tools.mount_helper import build_mount_parser, build_umount_parser
from tools.undo import build_parser as undo_parser


class Kind(StrEnum):
    """What may stand somewhere."""

    NOTHING = "nothing"
    """Anything: nobody can guess it."""
    WORDS = "words"
    LIST = "list"
    """Words with commas between them."""
    FILE = "file"
    DIRECTORY = "directory"
    VOLUMES = "volumes"
    """Files or devices, with colons between them."""
    INSIDE = "inside"
    """A path in the file system: of the image of ``-f``, else of the host; maybe with ``@@`` and a TID."""
    MOMENT = "moment"
    """A snapshot's label, or a TID."""
    TID = "tid"
    LINK_OR_TID = "link-or-tid"
    PFS = "pfs"
    """A PFS's number or label."""


@dataclass(frozen=True, slots=True)
class Value:
    """What an option or an argument may be.

    Attributes:
        kind: What kind of thing.
        words: The words it is one of, or a list of.
    """

    kind: Kind
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Attributes:
        names: What it is called, each with its dashes.
        about: What it does.
        values: What follows it.
    """

    names: tuple[str, ...]
    about: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or a verb of one.

    Attributes:
        names: What it is called; the first one is its own.
        about: What it does.
        options: Its options.
        arguments: Its arguments in order, up to the first of which there may be several.
        repeats: Whether there may be several of the last of them; what follows these is a path as well.
        verbs: Its verbs.
    """

    names: tuple[str, ...]
    about: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    repeats: bool
    verbs: tuple[Command, ...]


PARSERS: dict[tuple[str, ...], Callable[[], argparse.ArgumentParser]] = {
    ("hammer",): hammer_parser,
    ("undo",): undo_parser,
    ("fstyp_hammer",): fstyp_parser,
    ("fsck.hammer", "fsck_hammer"): fsck_parser,
    NEWFS_NAMES: newfs_parser,
    ("mount_hammer",): mount_parser,
    ("mount.hammer", "mount.fuse.hammer"): build_mount_parser,
    ("umount.hammer", "umount.fuse.hammer"): build_umount_parser,
}
"""The parsers of all commands, by the names they go by."""

_KINDS = {
    Kind.NOTHING: "COUNT FD GLOB LABEL N NAME NAME[=VALUE] NAMESPACE OFFSET[,LENGTH] TYPE WORD "
    "LO:OBJID[:RT[:KEY[:TID]]]",
    Kind.FILE: "FILE TARGET file",
    Kind.VOLUMES: "VOL VOL[:VOL...] volume",
    Kind.INSIDE: "FS FS|DIR LINK PATH PATH[@@TID] PATH[@@TIME] PATH[@OFFSET[,LENGTH]] PFS ROOT SLAVE path "
    "[[USER@]HOST:]PFS [[USER@]HOST:]SLAVE",
    Kind.MOMENT: "FROM TO TIME TID|TIME|LABEL time",
    Kind.TID: "TID",
    Kind.LINK_OR_TID: "LINK|TID",
    Kind.PFS: "N|LABEL N|LABEL|PATH N|LABEL|/PATH pfs",
}
_BY_METAVAR = {word: kind for kind, text in _KINDS.items() for word in text.split()}
_WORDS = {
    "FLAG[,FLAG...]": Value(Kind.LIST, tuple(word for flag in FLAGS for word in (flag, f"no{flag}"))),
    "OPTION=VALUE": Value(Kind.WORDS, tuple(f"{name}=" for name in PFS_OPTIONS if name != "snapshots-clear")),
    "OPTIONS": Value(Kind.LIST, option_words()),
}


def commands() -> tuple[Command, ...]:
    """All commands."""
    return tuple(_command(names, "", build()) for names, build in PARSERS.items())


def _command(names: tuple[str, ...], about: str, parser: argparse.ArgumentParser) -> Command:
    options: list[Option] = []
    arguments: list[Value] = []
    repeats = False
    verbs: tuple[Command, ...] = ()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            verbs = tuple(_command((verb,), texts.get(verb, ""), sub) for verb, sub in action.choices.items())
        elif action.option_strings:
            options.append(Option(tuple(action.option_strings), _about(action), _values(action)))
        elif not repeats:
            arguments += _values(action)
            repeats = action.nargs in ("*", "+")
    return Command(names, about, tuple(options), tuple(arguments), repeats, verbs)


def _about(action: argparse.Action) -> str:
    return " ".join((action.help or "").replace("%%", "%").split())


def _values(action: argparse.Action) -> tuple[Value, ...]:
    if action.nargs == 0:
        return ()
    if action.choices is not None:
        return (Value(Kind.WORDS, tuple(map(str, action.choices))),)
    metavars = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,) * _count(action)
    return tuple(_value(metavar, action) for metavar in metavars)


def _count(action: argparse.Action) -> int:
    return action.nargs if isinstance(action.nargs, int) else 1


def _value(metavar: str | None, action: argparse.Action) -> Value:
    if metavar == "DIR":
        # a directory that is read from is one of the file system; one that is written to, or mounted on, is not
        is_inside = not action.option_strings and action.dest in ("path", "paths")
        return Value(Kind.INSIDE if is_inside else Kind.DIRECTORY)
    if metavar is None:
        return Value(Kind.NOTHING)
    unknown = Kind.FILE if action.type is None else Kind.NOTHING  # what is a number or the like can't be guessed
    return _WORDS.get(metavar) or Value(_BY_METAVAR.get(metavar, unknown))
