"""Going to the background as a mount helper does: the terminal waits until the mount works or says why not."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_SYSLOG = ("/dev/log", "/var/run/log")


def in_background(work: Callable[[Callable[[], None]], int]) -> int:
    """Run `work` in a child; return 0 when it reports ready, else its exit code when it ends before that.

    Args:
        work: Gets a function to call when ready, after which nothing reaches the terminal any more; returns an exit
            code.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            if pipe.read(1):
                return 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(reader)
    os.setsid()

    def ready() -> None:
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        log_to_syslog()
        os.write(writer, b"+")
        os.close(writer)

    os._exit(_exit_code(work, ready))


def _exit_code(work: Callable[[Callable[[], None]], int], ready: Callable[[], None]) -> int:
    try:
        return work(ready)
    except BaseException:  # the parent's frames must not go on in the child
        logging.getLogger("hammerfs").exception("the daemon died")
        return 4
    finally:
        logging.shutdown()


def notify_ready() -> None:
    """Tell a service manager that waits for it (sd_notify(3)) that the mount works."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)
        except OSError as err:
            logging.getLogger("hammerfs").warning("the service manager can't be told: %s", err)


class _JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": round(record.created, 6), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def log_to_terminal(level: int, *, as_json: bool = False) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if as_json else logging.Formatter("mount_hammer: %(message)s"))
    _set_handler(handler, level)


def log_to_syslog() -> None:
    """Log to the system's log, if there is one."""
    address = next((path for path in _SYSLOG if Path(path).exists()), None)
    handler: logging.Handler = logging.NullHandler()
    if address is not None:
        try:
            handler = logging.handlers.SysLogHandler(address, logging.handlers.SysLogHandler.LOG_DAEMON)
        except OSError:
            handler = logging.NullHandler()
        handler.setFormatter(logging.Formatter(f"hammerfs[{os.getpid()}]: %(message)s"))
    _set_handler(handler, logging.getLogger("hammerfs").level)


def _set_handler(handler: logging.Handler, level: int) -> None:
    logger = logging.getLogger("hammerfs")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
