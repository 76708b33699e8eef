"""A handler that fails in a way nobody expected costs its request, not the daemon."""

from __future__ import annotations

import errno
import logging

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")

from hammerfs.errors import BufferMiss, NoSpace  # noqa: E402
from hammerfs.fuse.guard import guarded  # noqa: E402


@guarded
class Handlers:
    async def fine(self, value: int) -> int:
        return value

    async def refuses(self) -> None:
        raise pyfuse3.FUSEError(errno.EROFS)

    async def full(self) -> None:
        raise NoSpace("no big-block is left")

    async def breaks(self) -> None:
        raise BufferMiss([])

    async def _inside(self) -> None:
        raise ValueError


def run(coroutine: object) -> object:
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def test_what_a_handler_answers() -> None:
    assert run(Handlers().fine(3)) == 3


@pytest.mark.parametrize(("name", "number"), [("refuses", errno.EROFS), ("full", errno.ENOSPC), ("breaks", errno.EIO)])
def test_errors_are_errnos(name: str, number: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "hammerfs"), pytest.raises(pyfuse3.FUSEError) as caught:
        run(getattr(Handlers(), name)())
    assert caught.value.errno == number
    assert ("a request failed in breaks" in caplog.text) == (name == "breaks")


def test_what_is_no_handler_is_left_alone() -> None:
    with pytest.raises(ValueError):
        run(Handlers()._inside())
