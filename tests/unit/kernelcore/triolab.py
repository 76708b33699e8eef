"""A trio loop with a started host, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from kernelcore.host.trio_host import TrioHost

Main = Callable[[TrioHost], Awaitable[Any]]


def serve(main: Main, **kwargs: Any) -> Any:
    """Run `main(host)` beside a started host; return its result."""

    async def everything() -> Any:
        host = TrioHost(**kwargs)
        async with trio.open_nursery() as nursery:
            host.start(nursery)
            result = await main(host)
            await host.shutdown()
        return result

    return trio.run(everything)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition()` holds; the suite's time limit is the only other end."""
    while not condition():
        await trio.lowlevel.checkpoint()


def leaf_errors(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a group of groups."""
    found: list[BaseException] = []
    for exc in group.exceptions:
        found += leaf_errors(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found
