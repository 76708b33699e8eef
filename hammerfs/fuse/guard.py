"""No exception of a handler may end the daemon: pyfuse3 stops serving at anything that is no FUSEError."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pyfuse3 import FUSEError

from hammerfs.errors import HammerError

T = TypeVar("T")
C = TypeVar("C", bound=type)
log = logging.getLogger("hammerfs")


def guarded(cls: C) -> C:
    """Class decorator: every public handler answers EIO to what it did not expect, and logs it."""
    for name, handler in list(vars(cls).items()):
        if not name.startswith("_") and inspect.iscoroutinefunction(handler):
            setattr(cls, name, _guard(handler))
    return cls


def _guard(handler: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    @functools.wraps(handler)
    async def guard(*args: Any) -> T:
        try:
            return await handler(*args)
        except FUSEError:
            raise
        except HammerError as err:
            log.error("%s: %s", handler.__name__, err)
            raise FUSEError(err.errno) from err
        except Exception as err:
            log.exception("a request failed in %s", handler.__name__)
            raise FUSEError(errno.EIO) from err

    return guard
