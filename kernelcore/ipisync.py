"""Waiting, asleep, until other CPUs have done what this one has sent them.

`ipiq.wait_ipiq` spins; this is the form for threads that may sleep, and so it stands above `sleep`.
"""

from __future__ import annotations

from typing import Any

from kernelcore.defs import PINTERLOCKED
from kernelcore.globaldata import cpu, mycpu
from kernelcore.ipiq import Ipiq, send_ipiq
from kernelcore.sched import assert_can_block, tsleep_remove
from kernelcore.sleep import tsleep, tsleep_interlock, wakeup


class _Round:
    """Who has not answered yet: a dict as an atomic set of CPU numbers; each CPU takes out only itself."""

    __slots__ = ("waiting",)

    def __init__(self, cpuids: list[int]) -> None:
        self.waiting: dict[int, None] = dict.fromkeys(cpuids)


async def synchronize_ipiqs(wmesg: str = "ipiqsync") -> None:
    """Sleep until every IPI that this CPU has sent so far, passive ones included, has finished on its target.

    Sends to all other CPUs and waits for each to answer. An answer may come from within an earlier function that
    itself sends and processes, so who is not done then is asked again.

    Args:
        wmesg: shown by `ps` meanwhile.

    Raises:
        WrongContext: the caller may not sleep.
    """
    gd = mycpu()
    assert_can_block(gd, f"synchronize_ipiqs({wmesg})")
    sent = [(gd.gd_ipiq[other.gd_cpuid], other) for other in gd.gd_domain.gds if other is not gd]
    goals: list[tuple[Ipiq, int, int]] = [(q, q.windex, other.gd_cpuid) for q, other in sent]
    asked = [cpuid for _q, _windex, cpuid in goals]
    while asked:
        await _ask(asked, wmesg)
        asked = [cpuid for q, windex, cpuid in goals if q.xindex < windex]


async def _ask(cpuids: list[int], wmesg: str) -> None:
    gds = mycpu().gd_domain.gds
    state = _Round(cpuids)
    for cpuid in cpuids:
        send_ipiq(gds[cpuid], _answer, state)
    tsleep_interlock(state)
    while state.waiting:
        await tsleep(state, PINTERLOCKED, wmesg)
        tsleep_interlock(state)
    gd = mycpu()
    tsleep_remove(gd, gd.gd_curthread)


def _answer(state: Any, _arg2: int) -> None:
    del state.waiting[cpu.gd.gd_cpuid]
    if not state.waiting:
        wakeup(state)
