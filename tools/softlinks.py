"""Softlinks that remember points in time, in a directory of the host: which PFS they lead into, and since when."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from hammerfs.errors import HammerError, UsageError
from tools.session import open_mount

DEFAULT_NAME = "snap-%Y%m%d-%H%M"
"""What a softlink in a directory is called."""
_TIME_FORM = re.compile(r"%[-_0^#]?[EO]?[A-Za-z%]", re.ASCII)
_SNAPSHOT = re.compile(r"(.*?)/?@@0[xX][0-9a-fA-F]{16}(?::(\d{5}))?", re.ASCII | re.DOTALL)


class Softlink(NamedTuple):
    """One of them."""

    target: str
    """As it is stored."""
    base: str
    """Full path of what it shows in the past."""
    pfs_id: int | None
    """The PFS it names, if it does."""
    ts: float
    """When it was made (Unix seconds)."""


class Place(NamedTuple):
    """A PFS of a mounted file system."""

    device: int
    pfs_id: int


def expanded(template: str) -> str:
    """A name with its strftime forms replaced; whatever else is in it stays as it is."""
    now = time.localtime()
    return _TIME_FORM.sub(lambda match: time.strftime(match[0], now), template)


def softlinks(folder: str) -> list[Softlink]:
    """The softlinks in a directory that lead into the past; not those to PFSs, which have nothing before ``@@``.

    Raises:
        UsageError: It can't be read.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                target = os.readlink(entry.path) if entry.is_symlink() else ""
                match = _SNAPSHOT.match(target)
                if match is None or (target.startswith("@@") and match[2] is not None):
                    continue
                base = os.path.join(os.path.realpath(folder), match[1] or target[:1].strip("@"))
                pfs_id = None if match[2] is None else int(match[2])
                found.append(Softlink(target, base, pfs_id, entry.stat(follow_symlinks=False).st_ctime))
    except OSError as err:
        raise UsageError(f"{folder}: {err.strerror}") from None
    return found


class Pruned(NamedTuple):
    """What is to be pruned by softlinks."""

    path: str
    """Anything in the PFS."""
    links: list[Softlink]
    """Those that lead into it."""


def pruned_by(path: str) -> Pruned:
    """The PFS that a directory stands for, and the snapshots of it that softlinks there remember.

    The root of a PFS stands for that PFS. Any other directory stands for the PFS its softlinks lead into, wherever it
    is itself; without such softlinks for the one it is in.

    Args:
        path: The directory.

    Raises:
        UsageError: It can't be read, or its softlinks lead into several PFSs and it is in none of them.
        HammerError: A file system can't be asked.
    """
    links = softlinks(path) if os.path.isdir(path) else []
    own = _place_of(path)
    places = {base: _place_of(base) for base in dict.fromkeys(link.base for link in links)}
    led_to: dict[Place, str] = {}
    for link in links:
        place = _exactly(link, places[link.base])
        if place is not None:
            led_to.setdefault(place, link.base)
    if own is not None and (_is_root(path) or own in led_to or not led_to):
        wanted, where = own, path
    elif len(led_to) == 1:
        ((wanted, where),) = led_to.items()
    elif led_to:
        raise UsageError(f"{path}: softlinks lead into several PFSs: {_names(led_to.values())}; name one by its root")
    else:
        with open_mount(path):  # says why that is no answer
            return Pruned(path, links)
    return Pruned(where, [link for link in links if _exactly(link, places[link.base]) in {None, wanted}])


def links_into(folder: str, path: str) -> list[Softlink]:
    """The softlinks in a directory that lead into the PFS that holds a path, or may do so.

    Raises:
        UsageError: The directory can't be read.
    """
    own = _place_of(path)
    links = softlinks(folder)
    places = {base: _place_of(base) for base in dict.fromkeys(link.base for link in links)}
    return [link for link in links if _exactly(link, places[link.base]) in {None, own}]


def _exactly(link: Softlink, place: Place | None) -> Place | None:
    """The PFS a softlink leads into; None when what it leads to is not there (any more), so that any may be meant."""
    if place is None:
        return None
    return place if link.pfs_id is None else place._replace(pfs_id=link.pfs_id)


def _place_of(path: str) -> Place | None:
    """The PFS that holds a path of a mount; None when there is none."""
    try:
        with open_mount(path) as session:
            return Place(os.stat(path).st_dev, session.run("pfs-status", path)["pfs"])
    except (HammerError, OSError):
        return None


def _is_root(path: str) -> bool:
    """Whether a path is where a file system is mounted, or a softlink to a PFS leads."""
    real = os.path.realpath(path)
    return os.path.ismount(real) or os.path.basename(real).startswith("@@")


def _names(paths: Iterable[str]) -> str:
    return ", ".join(sorted(paths))
