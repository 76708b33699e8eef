"""Long passes over a file system, asked for piece by piece: so they can be timed, interrupted and resumed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from hammerfs.errors import UsageError
from tools.session import Session
from tools.stop import INTERRUPTED, Stop


class PassResult(NamedTuple):
    """What a pass came to."""

    reply: dict[str, Any]
    """The last reply of the verb."""
    stats: dict[str, int]
    """Its figures, summed up."""
    stopped_at: str | None
    """Where it would go on; None: it is complete."""
    by: str
    """What stopped it."""

    @property
    def exit_code(self) -> int:
        """Of a command that has nothing else to tell."""
        return INTERRUPTED if self.by == "interrupt" else 0


def run_pass(session: Session, args: argparse.Namespace, verb: str, path: str | None, **words: Any) -> PassResult:
    """Run a verb that works for a while until it is complete, the time of ``-t`` is over, or somebody interrupts.

    With ``-c`` a pass that was stopped goes on where it was, and the file goes when it is complete.

    Args:
        session: Where the file system is.
        args: With `seconds` and `cycle`.
        verb: Its name.
        path: Its path, if it takes one.
        **words: Its other arguments; what it replies under the same name is asked for with the next call.

    Raises:
        UsageError: The file of ``-c`` can't be read or written.
        HammerError: What the verb raises.
    """
    start = read_cycle(args.cycle)
    stats: dict[str, int] = {}
    by = ""
    with Stop(args.seconds) as stop:
        while True:
            reply = session.run(verb, path, start=start, **words)
            for name, value in reply["stats"].items():
                stats[name] = stats.get(name, 0) + value
            words.update({name: reply[name] for name in words if name in reply})
            start = reply["next"]
            if start is None:
                break
            stopped = stop.reason()
            if stopped is not None:
                by = "interrupt" if stopped.exit_code else "timer"
                break
    write_cycle(args.cycle, start)
    return PassResult(reply, stats, start, by)


def place_text(start: str) -> str:
    """Where a pass stopped, as hammer(8) prints it: object and localization."""
    localization, obj_id = start.split(":")[:2]
    return f"{int(obj_id, 16):016x} {int(localization, 16):04x}"


def read_cycle(name: str | None) -> str | None:
    """What the file of ``-c`` holds; None when there is nothing.

    Raises:
        UsageError: It can't be read.
    """
    if name is None:
        return None
    try:
        return Path(name).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(f"{name}: {err}") from None


def write_cycle(name: str | None, start: str | None) -> None:
    """Have the file of ``-c`` hold a text, or go.

    Raises:
        UsageError: It can't be written.
    """
    if name is None:
        return
    try:
        if start is None:
            Path(name).unlink(missing_ok=True)
        else:
            Path(name).write_text(f"{start}\n", encoding="ascii")
    except OSError as err:
        raise UsageError(f"{name}: {err.strerror}") from None
