"""The control socket of a mount, for both ends: where it is, and how messages look on it.

A message is one line of JSON: a request ``{"verb": NAME, "args": {...}}``, a reply ``{"result": ...}`` or
``{"error": TEXT, "errno": N, "exit_code": N}``. The socket is named after the mount's device number, so that any path
inside the mount leads to it.
"""

from __future__ import annotations

import inspect
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from hammerfs.errors import HammerError, UsageError

MAX_LINE = 2 << 20
"""Bytes of the longest message."""
_SYSTEM_DIR = Path("/run/hammerfs")


class RemoteError(HammerError):
    """What the daemon answered."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(str(reply.get("error")))
        self.errno = int(reply.get("errno", self.errno))
        self.exit_code = int(reply.get("exit_code", self.exit_code))


def runtime_dir(uid: int) -> Path:
    """Where the daemon of a user keeps its sockets."""
    if uid == 0:
        return _SYSTEM_DIR
    given = os.environ.get("XDG_RUNTIME_DIR")
    return Path(given, "hammerfs") if given else Path(f"/tmp/hammerfs-{uid}")


def socket_name(device: int) -> str:
    """Name of the socket of the mount with a device number (st_dev of anything in it)."""
    return f"{os.major(device)}:{os.minor(device)}.sock"


def sockets_for(device: int) -> Iterator[Path]:
    """Where the socket of a mount may be: root's place, then the asking user's; not where others could put one."""
    for uid in dict.fromkeys((0, os.geteuid())):
        folder = runtime_dir(uid)
        if is_private(folder, uid):
            yield folder / socket_name(device)


def is_private(folder: Path, uid: int) -> bool:
    """Whether a directory is a user's, and only that user can put something in it."""
    try:
        st = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid == uid and not st.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def encode(message: dict[str, Any]) -> bytes:
    """A message as it goes over the socket."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A message that came over the socket.

    Raises:
        HammerError: It is none.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise HammerError("malformed message on the control socket")
    return message


def check_args(name: str, verb: Callable[..., Any], args: object) -> None:
    """See that arguments are those a verb takes, and of its types.

    Args:
        name: What it is called in the message.
        verb: Takes a context, and these by name; its annotations are plain types, lists of them, or alternatives.
        args: What came with the request.

    Raises:
        UsageError: They are not.
    """
    wanted = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
    if not isinstance(args, dict):
        raise UsageError(f"{name}: arguments are no object")
    unknown = args.keys() - {parameter.name for parameter in wanted}
    if unknown:
        raise UsageError(f"{name}: unknown argument '{min(unknown)}'")
    for parameter in wanted:
        if parameter.name not in args:
            if parameter.default is parameter.empty:
                raise UsageError(f"{name}: argument '{parameter.name}' is missing")
        elif not _fits(args[parameter.name], parameter.annotation):
            raise UsageError(f"{name}: argument '{parameter.name}' has the wrong type")


def _fits(value: object, wanted: Any) -> bool:
    """Whether a value that came as JSON is of a type; True and False are no numbers."""
    if isinstance(wanted, UnionType):
        return any(_fits(value, choice) for choice in get_args(wanted))
    if get_origin(wanted) is list:
        return isinstance(value, list) and all(_fits(item, get_args(wanted)[0]) for item in value)
    return type(value) is wanted
