"""Differences of contents, found by diff(1) between copies of two versions; shown so that no terminal is steered."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

from hammerfs.errors import HammerError
from hammerfs.reports import join
from tools.output import safe_name
from tools.places import Source

_COLOURS = {b"+": "\x1b[32m", b"-": "\x1b[31m", b"@": "\x1b[36m"}
_PLAIN = "\x1b[0m"


def content_diff(source: Source, older: bytes | None, newer: bytes | None, names: Sequence[str]) -> bytes:
    """What diff(1) finds between two files or directories.

    Args:
        source: Where they are.
        older: Path of the one; None: there is none.
        newer: Path of the other; the same.
        names: What they are called, if they are no directories.

    Raises:
        HammerError: Something can't be read; there is no diff(1), or it failed.
        OSError: The same, on a mount; or there is no space for copies.
    """
    with tempfile.TemporaryDirectory(prefix="undo-") as folder:
        is_dir = False
        for side, path in ((b"a", older), (b"b", newer)):
            if path is not None:
                is_dir |= _copy_out(source, path, join(os.fsencode(folder), side))
        return _run_diff(folder, None if is_dir else names)


def _copy_out(source: Source, path: bytes, target: bytes) -> bool:
    """Copy what diff(1) is to see: contents of files, targets of links; returns whether it is a directory."""
    thing = source.look(path)
    if thing is None:
        return False
    if thing.is_dir:
        os.mkdir(target)
        for name in source.names(path):
            _copy_out(source, join(path, name), join(target, name))
        return True
    with open(target, "xb") as out:
        if thing.is_file:
            for offset, piece in source.pieces(path):
                out.seek(offset)
                out.write(piece)
            out.truncate(thing.size)
        elif thing.is_link:
            out.write(b"-> " + source.target(path) + b"\n")
    return False


def _run_diff(folder: str, names: Sequence[str] | None) -> bytes:
    """What diff(1) finds between ``a`` and ``b`` in a folder.

    Args:
        folder: The folder.
        names: What the two are to be called; None: as they are.

    Raises:
        HammerError: There is no diff(1), or it failed.
    """
    labels = [word for name in names or () for word in ("--label", name)]
    command = ["diff", "-N", "-r", "-u", *labels, "a", "b"]
    if names is not None:
        for side in ("a", "b"):
            if not os.path.lexists(os.path.join(folder, side)):
                command[command.index(side, 4 + len(labels))] = os.devnull
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise HammerError("diff(1) is not installed") from None
    if done.returncode > 1:
        raise HammerError(f"diff: {done.stderr.decode('utf-8', 'backslashreplace').strip()}")
    return done.stdout


def write_diff(out: BinaryIO, text: bytes) -> None:
    """Write a diff; on a terminal in colour, and without anything that could steer it."""
    if not out.isatty():
        out.write(text)
        out.flush()
        return
    coloured = "NO_COLOR" not in os.environ
    lines = []
    for line in text.split(b"\n")[:-1]:
        shown = "\t".join(safe_name(part) for part in line.split(b"\t"))
        colour = _COLOURS.get(line[:1], "") if coloured else ""
        lines.append(f"{colour}{shown}{_PLAIN if colour else ''}\n".encode())
    out.write(b"".join(lines))
    out.flush()
