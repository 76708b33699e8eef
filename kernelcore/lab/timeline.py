"""A simulator that tells what happens: tokens taken and lost, IPIs, messages, spins, halts, as events on a timeline.

The services know nothing of this. A `LabHost` gives its tokens, IPI FIFOs and ports a subclass that reports, so that no
other host pays for it. Events carry names, never thread numbers or addresses: the same seed gives the same text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from kernelcore.globaldata import GlobalData, cpu
from kernelcore.host.sim import SimHost
from kernelcore.msgport import LwktMsg, ThreadPort
from kernelcore.thread import Thread
from kernelcore.token import Token
from kernelcore.token_contended import ContendedToken
from kernelcore.zone import Zone

_POLLS = ("spin", "refused")  # what a CPU does over and over while others go on: told once, with a count


class Event(NamedTuple):
    """Something that happened on a CPU in a step; `time_s` is virtual. `times`: how often in a row."""

    step: int
    time_s: float
    cpu: int
    kind: str
    text: str
    times: int = 1


class LabHost(SimHost):
    """A simulator that records its events."""

    def __init__(self, ncpus: int, seed: int, strategy: str, token_class: type[Token] | None = None) -> None:
        self.events: list[Event] = []
        self._last = [-1] * ncpus  # index of the last event of each CPU
        super().__init__(ncpus, seed, strategy, trace=self._record, name="lab")
        self.token_class = token_class or TracedToken
        self.kept: list[object] = []  # tokens and ports must outlive their threads to be counted
        for source in self.gds:
            for target, queue in enumerate(source.gd_ipiq):
                queue.fifo = _TracedFifo(self, source.gd_cpuid, target)

    def token(self, desc: str) -> Token:
        """Make a token whose story is told."""
        tok = Token(desc, self)
        self.kept.append(tok)
        return tok

    def say(self, text: str) -> None:
        """Report what the running thread has to say."""
        self.event("note", cpu.gd, f"{cpu.gd.gd_curthread.td_comm}: {text}")

    def spin(self, gd: GlobalData) -> None:
        """Spin as the simulator does, and say so."""
        if not self._ending:
            self.event("spin", gd, "spins, serving its IPIs")
        super().spin(gd)

    def _idle_step(self, gd: GlobalData) -> None:
        awake = gd.gd_cpuid not in self._halted
        super()._idle_step(gd)
        if awake and gd.gd_cpuid in self._halted:
            self.event("halt", gd, "halts")

    def _record(self, kind: str, gd: GlobalData, text: str) -> None:
        if kind == "intr":
            return  # each IPI is told when it runs
        events = self.events
        if kind == "signal" and events and events[-1].kind == "send" and events[-1].cpu == gd.gd_cpuid:
            events[-1] = events[-1]._replace(text=f"{events[-1].text}, signals it")
            return
        last = self._last[gd.gd_cpuid]
        again = last >= 0 and (events[last].kind, events[last].text) == (kind, text)
        if again and (kind in _POLLS or last == len(events) - 1):
            events[last] = events[last]._replace(times=events[last].times + 1)
            return
        self._last[gd.gd_cpuid] = len(events)
        events.append(Event(self.steps, self.now, gd.gd_cpuid, kind, text))


class TracedToken(ContendedToken):
    """A token that reports who takes, reserves, loses and releases it."""

    __slots__ = ()

    def attempt(self, td: Thread, excl: bool, blocking: bool) -> bool:
        """`ContendedToken.attempt`, reported."""
        reserved = self.t_exclreq
        ok = super().attempt(td, excl, blocking)
        what = f"token {self.t_desc}" + ("" if excl else " (shared)")
        if ok:
            _tell("token", f"{td.td_comm} has {what}")
        elif self.t_exclreq is not reserved:
            _tell("refused", f"{td.td_comm} must wait for {what}, sets EXCLREQ")
        else:
            _tell("refused", f"{td.td_comm} must wait for {what}")
        return ok

    def drop(self, td: Thread) -> None:
        """`ContendedToken.drop`, reported."""
        super().drop(td)
        if len(td.td_toks) < td.td_toks_have:  # `rel` has popped the reference already
            _tell("release", f"{td.td_comm} releases token {self.t_desc}")
        else:
            _tell("lose", f"{td.td_comm} loses token {self.t_desc}")


class TracedMsg(LwktMsg):
    """A message with a name."""

    __slots__ = ("name",)

    def __init__(self, name: str, reply_port: TracedPort) -> None:
        super().__init__(reply_port)
        self.name = name


class TracedPort(ThreadPort):
    """A thread port that reports messages where they land: on its owner's CPU."""

    __slots__ = ()

    def putport(self, msg: LwktMsg, _arg2: int = 0) -> int:
        """`ThreadPort.putport`, reported."""
        if self.mpu_td.td_gd is cpu.gd:
            _tell("put", f"message {_show(msg)} lands on port {self.mp_name}")
        return super().putport(msg)

    def replyport(self, msg: LwktMsg, _arg2: int = 0) -> None:
        """`ThreadPort.replyport`, reported."""
        if self.mpu_td.td_gd is cpu.gd:
            _tell("reply", f"reply to {_show(msg)} lands on port {self.mp_name}")
        super().replyport(msg)


class _TracedFifo(deque[Any]):
    """The FIFO of one pair of CPUs: reports what goes in and what comes out to be run."""

    def __init__(self, host: LabHost, source: int, target: int) -> None:
        super().__init__()
        self.host = host
        self.source = source
        self.target = target

    def append(self, entry: Any) -> None:
        super().append(entry)
        self.host.event("send", self.host.gds[self.source], f"IPI to cpu {self.target}: {_call(entry)}")

    def popleft(self) -> Any:
        entry = super().popleft()
        self.host.event("ipi", self.host.gds[self.target], f"runs IPI of cpu {self.source}: {_call(entry)}")
        return entry


def _call(entry: tuple[Any, Any, int]) -> str:
    fn, arg, _arg2 = entry
    name = fn.__name__.strip("_").removesuffix("_remote")
    return f"{name}({_show(arg)})"


def _show(arg: object) -> str:
    match arg:
        case Thread():
            return arg.td_comm
        case TracedMsg():
            return arg.name
        case Zone():
            return arg.label
        case str() | int():
            return str(arg)
        case (first, *_):
            return _show(first)
    return ""


def _tell(kind: str, text: str) -> None:
    gd = cpu.gd
    gd.gd_domain.event(kind, gd, text)


def columns(events: Sequence[Event], ncpus: int) -> Iterator[str]:
    """Yield the lines of the timeline: a row for each step, a column for each CPU."""
    texts = [event.text + (f" (x{event.times})" if event.times > 1 else "") for event in events]
    widths = [
        max([len(f"cpu {n}"), *(len(t) for t, e in zip(texts, events, strict=True) if e.cpu == n)])
        for n in range(ncpus)
    ]
    timed = any(event.time_s for event in events)
    clock = f"{'time':>8}  " if timed else ""
    yield f"{'step':>5}  {clock}" + "  ".join(f"cpu {n}".ljust(width) for n, width in enumerate(widths)).rstrip()
    for step, group in groupby(zip(events, texts, strict=True), key=lambda pair: pair[0].step):
        head = f"{step:>5}  "
        for event, text in group:
            clock = f"{event.time_s * 1e3:>6.1f}ms  " if timed else ""
            cells = [(text if n == event.cpu else "").ljust(width) for n, width in enumerate(widths)]
            yield f"{head}{clock}{'  '.join(cells)}".rstrip()
            head = " " * len(head)
