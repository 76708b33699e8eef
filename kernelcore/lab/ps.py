"""`python -m kernelcore ps`: a small live domain with a thread in every state, seen through the statistics."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from kernelcore import stat
from kernelcore.arena import Arena, ArenaRow
from kernelcore.crit import critical
from kernelcore.defs import KERN_DAEMON, TDF_NOSTART, TDPRI
from kernelcore.globaldata import cpu, globaldata_find
from kernelcore.host.sim import SimHost
from kernelcore.host.up import UpHost
from kernelcore.ipiq import send_ipiq_passive
from kernelcore.malloctype import M_NULLOK, MallocType
from kernelcore.msgport import LwktMsg, PutOnlyPort, domsg, lwkt_port, sendmsg, service_loop
from kernelcore.objcache import ObjCache, ObjCacheRow
from kernelcore.sched import lwkt_user_yield, preempt_point
from kernelcore.slab import kfree, kmalloc
from kernelcore.sleep import tsleep
from kernelcore.thread import lwkt_create, lwkt_hold, lwkt_rele
from kernelcore.token import Token

_NO_WAKEUP: Final = object()


class View(NamedTuple):
    """One table: what it shows, the kind of its rows, the rows."""

    title: str
    kind: type[NamedTuple]
    rows: list[Any]


def views() -> list[View]:
    """Run the domain; return every table, as its reporting thread sees them."""
    host = UpHost(2, name="lab")
    seen: list[View] = host.call(_reporter(), name="reporter")
    host.stop()
    return seen


def _housekeeping(_arg1: object, _arg2: int) -> None:
    """Work that nobody waits for."""


async def _reporter() -> list[View]:
    """Set a scene with threads in the states R Q S B N Z; the reporter is the one that runs."""
    buffers, inodes = Token("buffers"), Token("inodes")

    async def sleeper() -> None:
        with buffers:  # lost while it sleeps
            await tsleep(_NO_WAKEUP, 0, "hmrwt")

    async def timed() -> None:
        while True:
            await tsleep(_NO_WAKEUP, 0, "flushw", 30.0)

    async def server() -> None:
        await service_loop(lwkt_port(), lambda _msg: 0)

    async def worker() -> None:
        while True:
            await lwkt_user_yield()

    async def brief() -> None:
        pass

    lwkt_create(sleeper, cpu_id=0, name="inode_wait")
    lwkt_create(timed, cpu_id=0, name="flusher", pri=KERN_DAEMON)
    service = lwkt_port(lwkt_create(server, cpu_id=1, name="netisr1", pri=TDPRI.SOFT_NORM))
    lwkt_create(worker, cpu_id=0, name="reblock", pri=TDPRI.KERN_USER)
    lwkt_create(brief, cpu_id=1, name="unborn", flags=TDF_NOSTART)
    ended = lwkt_create(brief, cpu_id=1, name="zombie")
    lwkt_hold(ended, "reporter")

    message = LwktMsg(lwkt_port())
    for _ in range(3):
        await domsg(service, message)
    at_once = PutOnlyPort(lambda _port, _msg: 0, name="lookup")
    await domsg(at_once, message)
    while not ended.is_done:
        await lwkt_user_yield()
    await lwkt_user_yield()
    send_ipiq_passive(globaldata_find(1), _housekeeping)  # lies in the FIFO to CPU 1 while we report
    sendmsg(service, message)  # and so does this, behind it
    with buffers, inodes, critical():
        seen = _look()
    lwkt_rele(ended, "reporter")
    return [*seen, *_contended()]


def _look() -> list[View]:
    return [
        View("ps", stat.ThreadRow, stat.ps()),
        View("scheduler", stat.CpuRow, stat.scheduler()),
        View("tokens", stat.TokenRow, stat.tokens()),
        View("ipiq", stat.IpiqRow, stat.ipiq()),
        View("ports", stat.PortRow, stat.ports()),
        *_memory(),
    ]


def _memory() -> list[View]:
    """Some memory of every sort in use, and some freed."""
    nodes, blocks = MallocType("nodes"), MallocType("blocks", 1 << 20)
    for size in (200, 200, 200, 40_000):
        kmalloc(size, nodes)  # stays in use
    for chunk in [kmalloc(16384, blocks) for _ in range(12)]:
        assert chunk is not None
        kfree(chunk, blocks)
    kmalloc(2 << 20, blocks, M_NULLOK)  # more than its limit
    lists: ObjCache[list[int]] = ObjCache("lists", list, limit=8)
    for made in [lists.get() for _ in range(3)]:
        assert made is not None
        lists.put(made)
    arena = Arena(1 << 20, name="buffers")
    arena.alloc()
    return [
        View("vmstat -m", stat.MallocRow, stat.vmstat_m()),
        View("slab", stat.SlabRow, stat.slab()),
        View("objcaches", ObjCacheRow, stat.objcaches()),
        View("arenas", ArenaRow, stat.arenas()),
    ]


def _contended() -> list[View]:
    """The state T: CPUs that really run side by side, the simulator's, and one token."""
    here = cpu.gd
    host = SimHost(2, seed=1, name="contended")
    tok = Token("buffers", host)

    async def holder() -> None:
        async with tok:
            while True:
                await preempt_point()

    host.spawn(holder, cpu_id=0, name="holder")
    host.run_sim(until=lambda: tok.held_any(host.gds[0].gd_curthread))
    waiter = host.spawn(holder, cpu_id=1, name="waiter")
    host.run_sim(until=lambda: waiter.td_toks_pending)
    rows = stat.ps(host)
    host.stop()
    cpu.gd = here
    return [View("ps, CPUs side by side", stat.ThreadRow, rows)]


def text(tables: Iterable[View]) -> str:
    """Return the tables one under the other, each with its title."""
    return "\n\n".join(f"-- {view.title}\n{_text(view)}" for view in tables)


def _text(view: View) -> str:
    return stat.vmstat_m_text(view.rows) if view.kind is stat.MallocRow else stat.text(view.kind, view.rows)


def main(args: argparse.Namespace) -> int:
    """Do what the command line asks; return the exit code."""
    tables = views()
    if args.json:
        print(json.dumps({view.title: [row._asdict() for row in view.rows] for view in tables}, indent=1))
    else:
        print(text(tables))
    return 0
