"""Per-CPU data, and which CPU is running.

`cpu.gd` is the `GlobalData` of the virtual CPU that executes now. Where one OS thread carries all virtual CPUs (the
domain, the simulator) it is a plain slot: 9 ns to read. `ThreadHost`, where every virtual CPU is an OS thread, turns
the same object into a view on a thread-local by `use_thread_local()`; no other module notices.

Who may touch what: every field belongs to its CPU. Other CPUs may only append to `gd_ipiq` FIFOs of their own row, set
a key of `gd_ipimask`, and read. Those are single dict and deque operations, atomic in CPython; nothing here relies on
`x += 1` across OS threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

from kernelcore.defs import NPRI
from kernelcore.panic import WrongContext

if TYPE_CHECKING:
    from kernelcore.callout import Callout
    from kernelcore.cpusync import CpuSync
    from kernelcore.host.domain import Domain
    from kernelcore.ipiq import Ipiq
    from kernelcore.thread import Thread


class CpuCounters:
    """Counters of one CPU: plain integers, written by it alone, summed by the reader."""

    __slots__ = (
        "ipiq_avoided",
        "ipiq_cscount",
        "ipiq_fifofull",
        "ipiq_passive",
        "v_idle",
        "v_lock_colls",
        "v_lock_name",
        "v_swtch",
    )

    def __init__(self) -> None:
        self.v_swtch = 0
        self.v_idle = 0
        self.v_lock_colls = 0
        self.v_lock_name = ""
        self.ipiq_fifofull = 0
        self.ipiq_avoided = 0
        self.ipiq_passive = 0
        self.ipiq_cscount = 0


class GlobalData:
    """One virtual CPU.

    `gd_ipimask` is a dict used as an atomic set: its keys are the CPUs that have sent an IPI. `gd_npoll` is the latch
    "an IPI is already signalled". `gd_tok_rounds` counts scheduling rounds in which no thread could get its tokens.
    """

    __slots__ = (
        "gd_callout_seq",
        "gd_callouts",
        "gd_cnt",
        "gd_cpuid",
        "gd_cpumask",
        "gd_cpusyncq",
        "gd_csphase",
        "gd_curthread",
        "gd_domain",
        "gd_idlethread",
        "gd_intpend",
        "gd_intr_nesting_level",
        "gd_ipimask",
        "gd_ipiq",
        "gd_npoll",
        "gd_objcache",
        "gd_other_cpus",
        "gd_reqflags",
        "gd_resched",
        "gd_runmask",
        "gd_runqs",
        "gd_slab",
        "gd_spinlocks",
        "gd_tdallq",
        "gd_tok_rounds",
        "gd_tsleep_hash",
    )

    gd_idlethread: Thread
    gd_curthread: Thread

    def __init__(self, domain: Domain, cpuid: int, ncpus: int) -> None:
        self.gd_domain = domain
        self.gd_cpuid = cpuid
        self.gd_cpumask = 1 << cpuid
        self.gd_other_cpus = ((1 << ncpus) - 1) & ~self.gd_cpumask
        self.gd_reqflags = 0
        self.gd_resched = False  # a better thread became ready, or the tick says it is another's turn
        self.gd_runqs: list[deque[Thread]] = [deque() for _ in range(NPRI)]
        self.gd_runmask = 0
        self.gd_tdallq: dict[Thread, None] = {}
        self.gd_intr_nesting_level = 0
        self.gd_spinlocks = 0
        self.gd_ipiq: list[Ipiq] = []
        self.gd_ipimask: dict[int, None] = {}
        self.gd_npoll = False
        self.gd_cpusyncq: list[CpuSync] = []
        self.gd_csphase = 0
        self.gd_intpend: deque[tuple[Callable[[Any], object], Any]] = deque()
        self.gd_tsleep_hash: dict[object, dict[Thread, None]] = {}
        self.gd_callouts: list[tuple[float, int, Callout]] = []
        self.gd_callout_seq = 0
        self.gd_tok_rounds = 0
        self.gd_slab: Any = None
        self.gd_objcache: dict[Any, Any] = {}
        self.gd_cnt = CpuCounters()

    @property
    def ipiq_count(self) -> int:
        """How many IPIs this CPU has sent, passive ones not counted."""
        return sum(q.windex for q in self.gd_ipiq) - self.gd_cnt.ipiq_passive

    @property
    def gd_tdrunqcount(self) -> int:
        """How many threads are on the run queues, the running one included."""
        return sum(map(len, self.gd_runqs))

    def __repr__(self) -> str:
        return f"<cpu {self.gd_cpuid} of {self.gd_domain.name}>"


class _NoCpu:
    """Stands for the current CPU where there is none: whatever a service wants of it is refused with a reason."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise WrongContext(_NO_CPU_TEXT)


_NO_CPU_TEXT: Final = "not on a kernel CPU: enter through a host (run, syscall)"
NO_CPU: Final = _NoCpu()


class CurrentCpu:
    """Holder of the running CPU: `cpu.gd`. `NO_CPU` until a host has been entered on this OS thread."""

    __slots__ = ("gd",)

    def __init__(self) -> None:
        # A GlobalData; typed loosely because it is read on every hot path and set before any of them.
        self.gd: Any = NO_CPU


_local: ContextVar[Any] = ContextVar("cpu", default=NO_CPU)
"""The current CPU of an OS thread. Each has a context of its own, and a context variable is read in a third of the
time of a `threading.local`."""


class _ThreadLocalCpu(CurrentCpu):
    """`CurrentCpu` where each OS thread is a CPU of its own: the slot becomes a view on a thread-local.

    Reading it runs no Python code: the property calls `cpu.get()`, which is the variable's.
    """

    __slots__ = ()

    get = _local.get

    def _set(self, value: Any) -> None:
        _local.set(value)

    gd = property(methodcaller("get"), _set)


cpu = CurrentCpu()
_local_users: list[None] = []  # one entry for each host that needs it


def use_thread_local() -> None:
    """Give each OS thread its own current CPU (`ThreadHost`). Pair with `use_plain_slot`."""
    if not _local_users:
        _local.set(cpu.gd)
        cpu.__class__ = _ThreadLocalCpu
    _local_users.append(None)


def use_plain_slot() -> None:
    """Undo `use_thread_local`; the last one brings back one current CPU for the process, the caller's."""
    _local_users.pop()
    if not _local_users:
        gd = cpu.gd
        cpu.__class__ = CurrentCpu
        cpu.gd = gd


def mycpu() -> GlobalData:
    """Return the CPU that is running.

    Raises:
        WrongContext: no host has been entered on this OS thread.
    """
    gd = cpu.gd
    if gd is NO_CPU:
        raise WrongContext(_NO_CPU_TEXT)
    return gd  # type: ignore[no-any-return]


def globaldata_find(n: int) -> GlobalData:
    """Return CPU `n` of the running domain."""
    return mycpu().gd_domain.gds[n]


def curthread() -> Thread:
    """Return the running thread (the CPU's idle thread where none runs)."""
    return mycpu().gd_curthread
