"""LWKT threads: the structure, creation, exit, join, hold.

The body of a thread is a coroutine (`async def`); a generator or anything else with `send` and `throw` will do. It runs
until it awaits something of the kernel core; what it yields to the run loop is a small integer (see `defs.TRAP_*`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from kernelcore.defs import (
    KERN_DAEMON,
    NPRI,
    PINTERLOCKED,
    TDF_DEAD,
    TDF_EXITING,
    TDF_FIXEDCPU,
    TDF_IDLE,
    TDF_NOSTART,
    TDPRI,
)
from kernelcore.globaldata import GlobalData, cpu, curthread, mycpu
from kernelcore.ipiq import send_ipiq
from kernelcore.panic import KernelPanic, ThreadExit, WrongContext, thread_label
from kernelcore.sched import enqueue, lwkt_schedule, lwkt_switch
from kernelcore.sleep import tsleep, tsleep_interlock, wakeup

if TYPE_CHECKING:
    from kernelcore.callout import Callout
    from kernelcore.port import ThreadPort
    from kernelcore.token import SharedRef, Token

__all__ = [
    "TDPRI",
    "Body",
    "Thread",
    "curthread",
    "join",
    "lwkt_create",
    "lwkt_exit",
    "lwkt_hold",
    "lwkt_rele",
]

Body: TypeAlias = Coroutine[Any, Any, Any] | Generator[Any, Any, Any]

_tids = count(1)
_first_hold = threading.Lock()  # two CPUs may hold a thread for the first time at once
_UNSET: Final = object()


class Thread:
    """One LWKT thread. Fields belong to the CPU `td_gd`; see `globaldata` for the rules.

    `td_toks` is the stack of token references; `td_toks_have` how many of them are really held (contended domains);
    `td_refs` the hold count (an atomic set of holds); `td_sig` a pending signal; `td_cputime` seconds, where the domain
    accounts time.
    """

    __slots__ = (
        "__weakref__",
        "td_callout",
        "td_comm",
        "td_contended",
        "td_coro",
        "td_cputime",
        "td_crit_ids",
        "td_critcount",
        "td_cscount",
        "td_exc",
        "td_exclreq",
        "td_flags",
        "td_gd",
        "td_holds",
        "td_joiners",
        "td_migrate_gd",
        "td_msgport",
        "td_nest_count",
        "td_on_exit",
        "td_pri",
        "td_pribit",
        "td_result",
        "td_runq",
        "td_send",
        "td_sig",
        "td_sleep_result",
        "td_switches",
        "td_tid",
        "td_toks",
        "td_toks_have",
        "td_toks_pending",
        "td_wchan",
        "td_wmesg",
    )

    def __init__(self, gd: GlobalData, name: str, pri: int, flags: int = 0) -> None:
        self.td_gd = gd
        self.td_runq = gd.gd_runqs[pri]  # this and td_pribit follow td_gd and td_pri (sched.set_home)
        self.td_tid = next(_tids)
        self.td_comm = name
        self.td_pri = pri
        self.td_pribit = 1 << pri
        self.td_flags = flags
        self.td_critcount = 0
        self.td_crit_ids: list[str] | None = None  # containers that few threads need are made when needed
        self.td_nest_count = 0
        self.td_cscount = 0
        self.td_toks: list[Token | SharedRef] = []
        self.td_toks_have = 0
        self.td_toks_pending = False
        self.td_exclreq: dict[Token, None] | None = None
        self.td_contended = 0
        self.td_switches = 0
        self.td_cputime = 0.0
        self.td_wmesg = ""
        self.td_wchan: object = None
        self.td_sleep_result = 0
        self.td_sig = 0
        self.td_callout: Callout | None = None
        self.td_msgport: ThreadPort | None = None
        self.td_migrate_gd: GlobalData | None = None
        self.td_holds: dict[object, None] | None = None
        self.td_joiners = 0
        self.td_coro: Body | None = None
        self.td_send: Callable[[None], object] = _no_body
        self.td_result: Any = None
        self.td_exc: BaseException | None = None
        self.td_on_exit: Callable[[Thread], object] | None = None

    def __repr__(self) -> str:
        return f"<{thread_label(self)}>"

    @property
    def td_refs(self) -> int:
        """How many holds (`lwkt_hold`) keep the structure from going away."""
        return len(self.td_holds or ())

    @property
    def is_done(self) -> bool:
        """Whether its body has ended (it may still be held)."""
        return bool(self.td_flags & (TDF_EXITING | TDF_DEAD))

    def set_body(self, body: object) -> None:
        """Give it the coroutine it will run.

        Raises:
            KernelPanic: `body` is no coroutine or generator.
        """
        if body.__class__ is CoroutineType:  # nearly always; what follows asks questions
            self.td_coro = body
            self.td_send = body.send
            return
        send = getattr(body, "send", None)
        if send is None or not hasattr(body, "throw"):
            raise KernelPanic(f"the body of {thread_label(self)} is {body!r}, not a coroutine or generator")
        self.td_coro = body  # type: ignore[assignment]
        self.td_send = send


def _no_body(_value: None) -> object:
    raise KernelPanic("a thread without a body was run")


def lwkt_create(
    func: Callable[..., object],
    arg: Any = _UNSET,
    *,
    cpu_id: int = -1,
    pri: int = KERN_DAEMON,
    flags: int = 0,
    name: str | None = None,
) -> Thread:
    """Create a thread that runs `func(arg)` (or `func()`), and schedule it.

    Args:
        func: returns the coroutine or generator to run.
        arg: its argument, if given.
        cpu_id: the CPU to live on; -1 takes the domain's CPUs in turn.
        pri: priority, 0..31.
        flags: TDF_NOSTART (do not schedule it), TDF_FIXEDCPU (it may not migrate).
        name: shown by `ps`; the function's name by default.

    Raises:
        KernelPanic: `func` did not return a coroutine.
        ValueError: the priority or CPU does not exist.
    """
    gd = mycpu()
    domain = gd.gd_domain
    target = domain.gds[cpu_id] if cpu_id >= 0 else gd if domain.ncpus == 1 else domain.next_cpu()
    if pri & ~(NPRI - 1):
        raise ValueError(f"priority {pri} is not in 0..{NPRI - 1}")
    if name is None:
        name = getattr(func, "__name__", "thread")
    td = Thread(target, name, pri, flags & TDF_FIXEDCPU | TDF_NOSTART)
    body = func() if arg is _UNSET else func(arg)
    if body.__class__ is CoroutineType:  # set_body, without the questions
        td.td_coro = body
        td.td_send = body.send
    else:
        td.set_body(body)
    if target is gd:
        gd.gd_tdallq[td] = None
        if not flags & TDF_NOSTART:
            enqueue(gd, td)
    else:
        send_ipiq(target, _link_remote, td)
        if not flags & TDF_NOSTART:
            lwkt_schedule(td)
    return td


def _link_remote(td: Thread, _arg2: int) -> None:
    cpu.gd.gd_tdallq[td] = None


def lwkt_exit(value: object = None) -> None:
    """End the running thread with `value` as its result; does not return."""
    raise ThreadExit(value)


def lwkt_hold(td: Thread, holder: object) -> None:
    """Keep `td` from exiting completely; `holder` names the hold and must be used once at a time."""
    if td.td_holds is None:
        with _first_hold:
            if td.td_holds is None:
                td.td_holds = {}
    if holder in td.td_holds:
        raise KernelPanic(f"{thread_label(td)} is already held by {holder!r}")
    td.td_holds[holder] = None


def lwkt_rele(td: Thread, holder: object) -> None:
    """Undo `lwkt_hold`; the last one lets an ended thread go, on its own CPU."""
    if td.td_holds is None or holder not in td.td_holds:
        raise KernelPanic(f"{thread_label(td)} is not held by {holder!r}")
    del td.td_holds[holder]
    if not td.td_holds and td.td_flags & TDF_EXITING:
        gd = mycpu()
        if td.td_gd is gd:
            finish_exit(td)
        else:
            send_ipiq(td.td_gd, _finish_remote, td)


def _finish_remote(td: Thread, _arg2: int) -> None:
    finish_exit(td)


def finish_exit(td: Thread) -> None:
    """On its own CPU: take an ended thread that nobody holds off every list, and tell those who join it."""
    if td.td_holds or td.td_flags & TDF_DEAD:  # held again, or let go twice
        return
    gd = td.td_gd
    td.td_flags = td.td_flags & ~TDF_EXITING | TDF_DEAD
    gd.gd_tdallq.pop(td, None)
    td.td_coro = None
    td.td_send = _no_body
    if td.td_joiners or gd.gd_domain.ncpus > 1:
        wakeup((td, "exit"))
    on_exit = td.td_on_exit
    if on_exit is not None:
        td.td_on_exit = None
        on_exit(td)


async def join(td: Thread) -> Any:
    """Wait until `td` has exited; return its result, or raise the exception that ended it.

    Raises:
        WrongContext: a thread joins itself.
    """
    me = mycpu().gd_curthread
    if me.td_flags & TDF_IDLE:
        await lwkt_switch()  # raises: not in a kernel thread
    if me is td:
        raise WrongContext(f"{thread_label(td)} joins itself")
    td.td_joiners += 1
    while True:
        tsleep_interlock((td, "exit"))
        if td.td_flags & TDF_DEAD:
            break
        await tsleep((td, "exit"), PINTERLOCKED, "join")
    if td.td_exc is not None:
        raise td.td_exc
    return td.td_result
