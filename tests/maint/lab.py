"""Maintenance on file systems in memory: verbs run until they are done, and trees at all the TIDs a test remembers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

from hammerfs.maint.verb import Context
from hammerfs.maint.verbs import run_verb
from hammerfs.rw import WritableFS
from tests.enginelab import Tree, tree


def verb(fs: WritableFS, name: str, **args: Any) -> Any:
    """Run a verb once."""
    return fs.host.call(run_verb(Context(fs), name, args))


class Here:
    """A session, as the tools have it, on a file system in this process."""

    place = "here"

    def __init__(self, fs: WritableFS) -> None:
        self._fs = fs

    def run(self, verb: str, path: str | None = None, **args: Any) -> Any:
        """Run a verb."""
        words = args if path is None else {"path": path, **args}
        return self._fs.host.call(run_verb(Context(self._fs), verb, words))


def whole(fs: WritableFS, name: str, **args: Any) -> dict[str, int]:
    """Run a verb that works piece by piece to its end; its figures summed up."""
    stats: dict[str, int] = {}
    start = None
    while True:
        reply = verb(fs, name, start=start, seconds=0, **args)
        for key, value in reply["stats"].items():
            stats[key] = stats.get(key, 0) + value
        start = reply["next"]
        if start is None:
            return stats


def trees(fs: WritableFS, tids: Sequence[int] | Sequence[int | None]) -> dict[int | None, Tree]:
    """The tree as of each TID (None: now)."""
    return {tid: tree(fs, tid) for tid in tids}


def history(fs: WritableFS, rounds: int, seed: int = 1, per_round: int = 40) -> list[int]:
    """Files made, overwritten and removed in rounds; the TID of each round."""
    rng = random.Random(seed)
    root = fs.root()
    tids = []
    for number in range(rounds):
        directory = fs.mkdir(root, b"d%d" % number)
        for name in range(per_round):
            inode = fs.create(directory, b"f%d" % name)
            fs.write(inode, 0, rng.randbytes(rng.choice((10, 900, 9000, 40_000))))
        if number:
            before = fs.lookup(root, b"d%d" % (number - 1))
            for name in range(per_round):
                if name % 3 == 0:
                    fs.unlink(before, b"f%d" % name)
                elif name % 3 == 1:
                    fs.write(fs.lookup(before, b"f%d" % name), 5, rng.randbytes(3000))
        tids.append(fs.sync())
    return tids


def churn(fs: WritableFS, rounds: int) -> list[int]:
    """A part of all files changes, again and again; the TID of each round."""
    tids = []
    for number in range(rounds):
        for entry in list(fs.readdir(fs.root())):
            directory = fs.iget(entry.pfs_id, entry.obj_id)
            for name in list(fs.readdir(directory))[::3]:
                fs.write(fs.iget(name.pfs_id, name.obj_id), 0, b"round %d" % number)
        tids.append(fs.sync())
    return tids


def entry_texts(entries: Iterable[dict[str, Any]], ignored: frozenset[str] = frozenset({"atime_us"})) -> list[str]:
    """A tree of a manifest as texts that compare, in one order."""
    kept = ({name: value for name, value in entry.items() if name not in ignored} for entry in entries)
    return sorted(json.dumps(entry, sort_keys=True) for entry in kept)
