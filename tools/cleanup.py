"""What `hammer cleanup` does for one PFS: the lines of its configuration, each when it is due."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hammerfs.const import VERSION_SNAPSHOT
from hammerfs.errors import HammerError, UsageError
from hammerfs.ondisk.records import PfsData
from tools.cmd_snap import snapshot_path
from tools.output import complain, safe_name
from tools.passes import run_pass
from tools.session import Session
from tools.softlinks import links_into

DEFAULT = """\
snapshots 1d 60d
prune     1d 5m
rebalance 1d 5m
#dedup\t   1d 5m
reblock   1d 5m
recopy    30d 10m
"""
"""What a PFS gets that has no configuration."""
NO_SNAPSHOTS = frozenset({"/tmp", "/var/tmp", "/usr/obj"})
"""What changes all the time and is kept by nobody."""
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile(r"(\d{1,9})([dhms])\Z", re.ASCII)
_LINK = re.compile(r"snap-\d{8}-\d{4}\Z", re.ASCII)
_PASSES = (("btree", 1, 100), ("inodes", 2, 100), ("dirs", 4, 100), ("data", 3, 95))
"""What reblock does: class, number of its cycle file, percent. recopy moves everything."""


class Line(NamedTuple):
    """A line of a configuration."""

    command: str
    period: int
    """Seconds between two runs."""
    limit: int
    """snapshots: how long they are kept; else the longest time of a run. Seconds."""


def parse_config(text: str) -> list[Line]:
    """The lines of a configuration.

    Raises:
        UsageError: One makes no sense; says which.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        spans = [_seconds(word) for word in words[1:]]
        if words[0] not in COMMANDS or len(spans) != 2 or None in spans:
            raise UsageError(f"configuration, line {number}: '{line.strip()}' is not COMMAND PERIOD TIME")
        found.append(Line(words[0], spans[0] or 0, spans[1] or 0))
    return found


def _seconds(word: str) -> int | None:
    match = _SPAN.match(word)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def default_config(place: str) -> str:
    """The configuration of a PFS that has none."""
    return DEFAULT.replace("snapshots 1d 60d", "snapshots 0d 0d") if place in NO_SNAPSHOTS else DEFAULT


def is_due(period: int, last: float | None, now: float) -> bool:
    """Whether a command that was last run at a time is to be run again; times count by whole minutes, hours or days.

    Args:
        period: Seconds.
        last: Unix time, None when it never was.
        now: Unix time.
    """
    return last is None or _whole(now, period) - _whole(last, period) >= period


def _whole(moment: float, period: int) -> int:
    local = time.localtime(moment)
    fields = [*local[:6]]
    for unit, first in ((86400, 3), (3600, 4), (60, 5)):
        if period and period % unit == 0:
            fields[first:] = [0] * (6 - first)
            break
    return int(time.mktime((*fields, 0, 0, -1)))  # type: ignore[arg-type]  # nine numbers


class Cleanup:
    """One PFS that is being cleaned up.

    Args:
        session: Where it is.
        args: Of the command.
        path: Anything in it.
        say: Prints what is done.
        state_root: Where PFSs have their directories that do not name one.
    """

    def __init__(
        self,
        session: Session,
        args: argparse.Namespace,
        path: str,
        say: Callable[[str], object],
        state_root: Path = Path("/var/hammer"),
    ) -> None:
        self._session = session
        self._args = args
        self._path = path
        self._say = say
        self.done: list[dict[str, str]] = []
        """What came of each line."""
        reply = session.run("pfs-status", path)
        self.pfs_id: int = reply["pfs"]
        self._pfs = PfsData.decode(bytes.fromhex(reply["data"]))
        self._version: int = reply["version"]
        self._now = time.time()
        self.unique = self._pfs.unique
        named = os.fsdecode(self._pfs.snapshots_path)
        if named:
            self.folder = Path(named)
        elif self._version < VERSION_SNAPSHOT:
            self.folder = Path(path, "snapshots")
        else:
            self.folder = state_root / (os.path.realpath(path).strip("/") or "root")

    def run(self) -> bool:
        """Do what is due; whether all of it went well.

        Raises:
            UsageError: The configuration makes no sense, or the directory of the PFS can't be made.
            HammerError: The file system can't be asked.
        """
        lines = parse_config(self._config())
        path, folder = safe_name(os.fsencode(self._path)), safe_name(os.fsencode(self.folder))
        self._say(f"cleanup {path:<20} - handle PFS #{self.pfs_id} using {folder}")
        kept = next((line for line in lines if line.command == "snapshots"), None)
        self._all_history_goes = kept is not None and not kept.period and not kept.limit
        good = True
        for line in lines:
            good &= self._line(line)
        return good

    def _config(self) -> str:
        if self._version < VERSION_SNAPSHOT:
            try:
                return (self.folder / "config").read_text(encoding="utf-8")
            except OSError:
                return default_config(self._path)
        text: str | None = self._session.run("config", self._path)["config"]
        if text is None:
            text = default_config(self._path)
            old = self.folder / "config"
            if old.exists():
                text = old.read_text(encoding="utf-8")
            if not self._pfs.is_slave:
                self._session.run("config", self._path, text=text)
        return text

    def _line(self, line: Line) -> bool:
        """Run one command if it is due; whether it went well."""
        if line.command == "snapshots" and self._all_history_goes:
            self._tell(line, "disabled")
            return True
        mark = self.folder / f".{line.command}.period"
        if not self._args.force and not is_due(line.period, _read_mark(mark), self._now):
            self._tell(line, "skip")
            return True
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            outcome = COMMANDS[line.command](self, line)
            mark.write_text(f"0x{int(self._now):08x}\n", encoding="ascii")
        except HammerError as err:
            complain("hammer: cleanup", f"{self._path}: {line.command}: {err}")
            self._tell(line, "failed")
            return False
        except OSError as err:
            raise UsageError(f"{err.filename or self.folder}: {err.strerror}") from None
        self._tell(line, outcome)
        return True

    def _tell(self, line: Line, outcome: str) -> None:
        self.done.append({"command": line.command, "outcome": outcome})
        self._say(f"{line.command:>20} - {outcome}")

    # Commands

    def snapshots(self, line: Line) -> str:
        """Snapshots older than the limit go, and one is taken; a slave's come with the mirror."""
        expired = 0
        if line.limit:
            expired = self._expire(self._now - line.limit)
        if not line.period or self._pfs.is_slave:
            return f"run ({expired} expired)"
        taken = self._session.run("snap", self._path, label="cleanup", linked=True)
        link = self.folder / time.strftime("snap-%Y%m%d-%H%M", time.localtime(self._now))
        if not os.path.lexists(link):
            link.symlink_to(snapshot_path(self._session, taken))
        return f"run ({expired} expired)" if expired else "run"

    def _expire(self, before: float) -> int:
        """Below version 3 a snapshot is nothing but its softlink."""
        links = [path for path in self.folder.iterdir() if path.is_symlink() and _LINK.match(path.name)]
        if self._version < VERSION_SNAPSHOT:
            links = [link for link in links if link.lstat().st_ctime < before]
            for link in links:
                link.unlink()
            return len(links)
        found = self._session.run("snapls", self._path)["snapshots"]
        old = [snap["tid"] for snap in found if snap["ts_us"] < before * 1_000_000]
        if old:
            self._session.run("snaprm", self._path, tids=old)
        for link in links:
            if any(tid in os.readlink(link) for tid in old):
                link.unlink()
        return len(old)

    def prune(self, line: Line) -> str:
        """History between snapshots goes, softlinks in the directory included; all of it where there are to be none."""
        links = [] if self._all_history_goes else links_into(str(self.folder), self._path)
        words = {"targets": [link.target for link in links], "times": [link.ts for link in links]}
        return self._pass("prune", "prune", line, everything=self._all_history_goes, ranges=None, **words)

    def rebalance(self, line: Line) -> str:
        """The nodes of the tree are filled evenly."""
        return self._pass("rebalance", "rebalance", line)

    def dedup(self, line: Line) -> str:
        """Equal data is stored once."""
        from tools.dedupe import Deduper

        done = Deduper(self._session, simulate=False).run(self._path, line.limit)
        return f"run ({done.records} shared)"

    def reblock(self, line: Line) -> str:
        """What lies in big-blocks that are not full moves."""
        return self._moves("reblock", line, most=95)

    def recopy(self, line: Line) -> str:
        """Everything moves."""
        return self._moves("recopy", line, most=100)

    def _moves(self, name: str, line: Line, most: int) -> str:
        outcomes = []
        for what, number, percent in _PASSES:
            words = {"what": [what], "percent": max(percent, most)}
            outcomes.append(self._pass("reblock", f"{name}-{number}", line, **words))
        return next((outcome for outcome in outcomes if outcome != "run"), "run")

    def _pass(self, verb: str, cycle: str, line: Line, **words: object) -> str:
        args = argparse.Namespace(seconds=float(line.limit), cycle=str(self.folder / f".{cycle}.cycle"))
        done = run_pass(self._session, args, verb, self._path, **words)
        return "run" if done.stopped_at is None else f"run (interrupted by {done.by})"


def _read_mark(mark: Path) -> float | None:
    try:
        return float(int(mark.read_text(encoding="ascii"), 16))
    except (OSError, ValueError):
        return None


COMMANDS: dict[str, Callable[[Cleanup, Line], str]] = {
    "snapshots": Cleanup.snapshots,
    "prune": Cleanup.prune,
    "rebalance": Cleanup.rebalance,
    "dedup": Cleanup.dedup,
    "reblock": Cleanup.reblock,
    "recopy": Cleanup.recopy,
}
