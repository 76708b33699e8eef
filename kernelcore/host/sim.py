"""SimHost: a deterministic simulator of several CPUs, replayable from a seed.

Every virtual CPU is a state machine that a seeded chooser advances one step at a time: deliver its interrupts, go on
with its current thread up to the next trap, or pick another one. At `await preempt_point()` the current thread keeps
its tokens while other CPUs run, so contention, EXCLREQ, the sorted fallback, full FIFOs, overlapping cpusyncs and
migration races all happen on demand. The clock is virtual and jumps when every CPU is idle.

Idle protocol, as on a real CPU: see nothing to do; look again; halt. A halted CPU is woken by a signal, not by its
queue, so that a lost signal shows as a CPU that never wakes.

Plain code may spin (a full FIFO, `wait_ipiq`, cpusync). A spinning CPU must let the others go on while its Python
frames stay where they are, so it keeps its *carrier*, the OS thread it runs on, and the loop moves to another carrier.
Exactly one carrier runs at any moment; which one changes nothing. A simulation ends only when no CPU spins; when it
fails, the spinning ones are unwound one after the other before the error is raised.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, Protocol, TypeVar

from kernelcore import invariants
from kernelcore.callout import next_deadline
from kernelcore.crit import splz
from kernelcore.defs import RQF_INTPEND, RQF_TIMER
from kernelcore.globaldata import GlobalData, cpu
from kernelcore.host.domain import Domain
from kernelcore.ipiq import look_before_halt
from kernelcore.panic import KernelPanic
from kernelcore.sched import thread_state
from kernelcore.switch import TRAP_DONE, pick, resume
from kernelcore.thread import Thread, lwkt_create
from kernelcore.token_contended import ContendedToken

T = TypeVar("T")

TICK: Final = 0.01  # virtual seconds between clock ticks, at which passive IPIs are found
MAX_STEPS: Final = 200_000


class Strategy(Protocol):
    """Chooses which CPU makes the next step, and whether a CPU that may take an interrupt does so now."""

    def choose(self, ready: list[GlobalData]) -> GlobalData:
        """Return one of `ready` (never empty)."""

    def deliver(self, gd: GlobalData) -> bool:
        """Whether `gd` takes its pending interrupts before its next step."""


class Uniform:
    """Every CPU is equally likely."""

    def __init__(self, rng: Random, _ncpus: int) -> None:
        self.rng = rng

    def choose(self, ready: list[GlobalData]) -> GlobalData:
        """Return any of them."""
        return ready[int(self.rng.random() * len(ready))]

    def deliver(self, gd: GlobalData) -> bool:
        """Toss a coin."""
        del gd
        return self.rng.random() < 0.5


class Pct(Uniform):
    """Random priorities with a few change points: finds bugs of small depth with known probability."""

    def __init__(self, rng: Random, ncpus: int) -> None:
        super().__init__(rng, ncpus)
        self.order = list(range(ncpus))
        rng.shuffle(self.order)
        self.change = {rng.randrange(400) for _ in range(4)}
        self.step = 0

    def choose(self, ready: list[GlobalData]) -> GlobalData:
        """Return the one of highest priority; now and then demote it, so that nobody starves for ever."""
        self.step += 1
        best = min(ready, key=lambda gd: self.order.index(gd.gd_cpuid))
        if self.step in self.change or self.rng.random() < 0.02:
            self.order.remove(best.gd_cpuid)
            self.order.append(best.gd_cpuid)
        return best


class Starve(Uniform):
    """One CPU hardly ever gets a step."""

    def __init__(self, rng: Random, ncpus: int) -> None:
        super().__init__(rng, ncpus)
        self.victim = rng.randrange(ncpus)

    def choose(self, ready: list[GlobalData]) -> GlobalData:
        """Return any but the victim, save one time in fifty."""
        others = [gd for gd in ready if gd.gd_cpuid != self.victim]
        if not others or self.rng.random() < 0.02:
            return super().choose(ready)
        return super().choose(others)


class FifoFull(Uniform):
    """Interrupts are hardly ever taken between steps, so that IPI queues fill up."""

    def deliver(self, gd: GlobalData) -> bool:
        """One time in fifty."""
        del gd
        return self.rng.random() < 0.02


STRATEGIES: Final[dict[str, Callable[[Random, int], Strategy]]] = {
    "uniform": Uniform,
    "pct": Pct,
    "starve": Starve,
    "fifo-full": FifoFull,
}


class SimDeadlock(KernelPanic):
    """No thread can ever run again, or the step limit was reached without an end."""


class _Aborted(BaseException):
    """Unwinds the carriers of spinning CPUs when a simulation has failed."""


class _Carrier:
    """An OS thread that runs the loop when it is handed to it, and is parked otherwise."""

    __slots__ = ("baton", "dismissed", "thread")

    def __init__(self, loop: Callable[[_Carrier], bool], name: str) -> None:
        self.baton = _Baton()
        self.dismissed = False
        self.thread = threading.Thread(target=self._run, args=(loop,), name=name, daemon=True)
        self.thread.start()

    def _run(self, loop: Callable[[_Carrier], bool]) -> None:
        self.baton.wait()
        while not self.dismissed and loop(self):
            self.baton.wait()

    def dismiss(self) -> None:
        """End it; it is parked, or ends by itself."""
        self.dismissed = True
        self.baton.hand_over()
        self.thread.join()


class _Baton:
    """Who has it, runs: a latch that one OS thread waits for and another hands over, in turn."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()

    def wait(self) -> None:
        """Wait until it is handed over."""
        self.lock.acquire()

    def hand_over(self) -> None:
        """Let the one who waits for it run."""
        self.lock.release()


class SimHost(Domain):
    """The simulator.

    Args:
        ncpus: virtual CPUs.
        seed: everything random comes from it.
        strategy: uniform, pct, starve or fifo-full.
        check: check all invariants after every step.
        max_steps: give up (SimDeadlock) after this many.
        trace: called as `trace(kind, gd, text)` for each event, for a readable timeline.
        ncpus and the other keywords of `Domain`.
    """

    contended = True
    interleaved = True
    ipiq_bounded = True

    def __init__(
        self,
        ncpus: int = 2,
        seed: int = 0,
        strategy: str = "uniform",
        *,
        check: bool = True,
        max_steps: int = MAX_STEPS,
        trace: Callable[[str, GlobalData, str], None] | None = None,
        **kwargs: Any,
    ) -> None:
        self.now = 0.0
        kwargs.setdefault("name", "sim")
        kwargs.setdefault("debug", True)
        super().__init__(ncpus, clock=lambda: self.now, **kwargs)
        self.token_class = ContendedToken
        self.rng = Random(seed)
        self.strategy = STRATEGIES[strategy](self.rng, ncpus)
        self.check = check
        self.max_steps = max_steps
        self.trace = trace
        self.steps = 0
        self._idling: set[int] = set()  # saw nothing to do, will look again
        self._halted: set[int] = set()
        self._passive: set[int] = set()
        self._spinning: dict[int, _Baton] = {}
        self._carriers: list[_Carrier] = []
        self._parked: list[_Carrier] = []
        self._error: BaseException | None = None
        self._until: Callable[[], bool] = _never
        self._finished = _Baton()
        self._ending = False

    # --------------------------------------------------------------- for tests

    def spawn(self, func: Callable[..., object], *args: Any, cpu_id: int = -1, **kwargs: Any) -> Thread:
        """Create a thread from outside, as CPU 0 would: `func(*args)`; keywords as for `lwkt_create`."""
        cpu.gd = self.gds[0]
        self._halted.discard(0)
        name = kwargs.pop("name", getattr(func, "__name__", "thread"))
        return lwkt_create(lambda: func(*args), cpu_id=cpu_id, name=name, **kwargs)

    def call(self, body: Coroutine[Any, Any, T], cpu_id: int = 0, name: str = "main") -> T:
        """Run `body` as a thread until it ends; return its result or raise its exception.

        Raises:
            SimDeadlock: it cannot end.
        """
        td = self.spawn(lambda: body, cpu_id=cpu_id, name=name)
        td.td_joiners += 1
        self.run_sim(until=lambda: td.is_done)
        if td.td_exc is not None:
            raise td.td_exc
        return td.td_result  # type: ignore[no-any-return]

    def run_sim(self, until: Callable[[], bool] | None = None) -> None:
        """Step until `until()` holds; without it until every thread has ended.

        Raises:
            SimDeadlock: that can never be, or not within the step limit.
            BaseException: what a thread died of, if nobody joins it; a broken invariant.
        """
        self._until = until or self._all_ended
        self._ending = False
        self._error = None
        entered_from = cpu.gd
        with self._catch_unawaited():
            self._loop(None)
            self._finished.wait()
        for carrier in self._carriers:
            carrier.dismiss()
        self._carriers.clear()
        self._parked.clear()
        cpu.gd = entered_from
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _all_ended(self) -> bool:
        # The run mask counts too: a thread that has just migrated is on its new CPU's queue and on no list yet.
        return not any(gd.gd_tdallq or gd.gd_ipimask or gd.gd_intpend or gd.gd_runmask for gd in self.gds)

    def panic_hook(self, td: Thread, exc: BaseException) -> None:
        """Stop the simulation with the exception of a thread that nobody joins."""
        super().panic_hook(td, exc)
        if self._error is None:
            self._error = exc

    # ---------------------------------------------------------------- the loop

    def _loop(self, carrier: _Carrier | None) -> bool:
        """Step CPUs on this carrier until the end, or until a spinning CPU's own carrier must go on.

        Returns:
            Whether the carrier will be needed again.
        """
        try:
            while self._error is None and not self._ending and (self._spinning or not self._until()):
                gd = self._choose()
                if gd is None:
                    continue
                self.steps += 1
                if self.steps > self.max_steps:
                    raise SimDeadlock(f"no end after {self.max_steps} steps: {self._blocked()}")
                baton = self._spinning.get(gd.gd_cpuid)
                if baton is not None:
                    if carrier is not None:
                        self._parked.append(carrier)
                    baton.hand_over()
                    return True
                self._step(gd)
                if self._dropped_coroutine is not None:
                    self._raise_dropped()
                if self.check:
                    invariants.check_domain(self)
        except BaseException as exc:  # noqa: BLE001 - handed to the caller of run_sim
            if self._error is None:
                self._error = exc
        self._end()
        return False

    def _end(self) -> None:
        """Unwind what still spins, one CPU after the other, each on its own carrier; then let `run_sim` return."""
        self._ending = True
        for cpuid, baton in self._spinning.items():
            self.gds[cpuid].gd_curthread.td_on_exit = _unwound
            baton.hand_over()
            return
        self._finished.hand_over()

    def _choose(self) -> GlobalData | None:
        ready = [gd for gd in self.gds if self._is_ready(gd)]
        if ready:
            return self.strategy.choose(ready)
        if self._passive:  # the clock tick finds passive IPIs
            self.now += TICK
            self._halted -= self._passive
            self._passive.clear()
            return None
        deadline = self.next_deadline()
        if deadline is None:
            raise SimDeadlock(f"nothing can run: {self._blocked()}")
        self.now = max(self.now, deadline)
        return None

    def _is_ready(self, gd: GlobalData) -> bool:
        if gd.gd_cpuid in self._spinning or gd.gd_curthread is not gd.gd_idlethread:
            return True
        if gd.gd_callouts and (due := next_deadline(gd)) is not None and due <= self.now:
            self._halted.discard(gd.gd_cpuid)
            return True
        return gd.gd_cpuid not in self._halted

    def _step(self, gd: GlobalData) -> None:
        cpu.gd = gd
        td = gd.gd_curthread
        if gd.gd_callouts and gd.gd_callouts[0][0] <= self.now:
            gd.gd_reqflags |= RQF_TIMER
        if gd.gd_cpuid in self._idling:
            self._idle_step(gd)
            return
        idle = td is gd.gd_idlethread
        if self._has_interrupts(gd) and not td.td_critcount and (idle or self.strategy.deliver(gd)):
            self._passive.discard(gd.gd_cpuid)
            if gd.gd_ipimask:
                self.event("intr", gd, f"takes IPIs from cpu {', '.join(map(str, sorted(gd.gd_ipimask)))}")
            splz()
            return
        if not idle:
            self._resume(gd, td)
            return
        gd.gd_resched = False
        best = pick(gd)
        if best is not None:
            self._idling.discard(gd.gd_cpuid)
            self._resume(gd, best)
        elif not gd.gd_runmask:
            self._idle_step(gd)

    def _resume(self, gd: GlobalData, td: Thread) -> None:
        if self.trace and gd.gd_curthread is not td:
            held = ", ".join(ref.tr_tok.t_desc for ref in td.td_toks)
            self.event("run", gd, f"runs {td.td_comm}" + (f" with tokens {held}" if held else ""))
        trap = resume(self, gd, td)
        if self.trace and trap != TRAP_DONE and gd.gd_curthread is not td:
            why = f" ({td.td_wmesg})" if td.td_wmesg else ""
            self.event("switch", gd, f"{td.td_comm} switches out: {thread_state(td)}{why}")
        elif self.trace and trap == TRAP_DONE:
            self.event("exit", gd, f"{td.td_comm} ended")

    def _idle_step(self, gd: GlobalData) -> None:
        """Halt in two steps: what comes in between is seen by the second look."""
        me = gd.gd_cpuid
        if me not in self._idling:
            self._idling.add(me)
            gd.gd_cnt.v_idle += 1
            return
        self._idling.discard(me)
        if not self._found_work_before_halt(gd):
            self._halted.add(me)

    def _found_work_before_halt(self, gd: GlobalData) -> bool:
        return bool(look_before_halt(gd) or self._has_interrupts(gd) or gd.gd_runmask)

    def _has_interrupts(self, gd: GlobalData) -> bool:
        return bool(gd.gd_ipimask or gd.gd_cpusyncq or gd.gd_reqflags & (RQF_INTPEND | RQF_TIMER))

    # ------------------------------------------------- called by the services

    def signal(self, target: GlobalData) -> None:
        """Wake `target` if it has halted."""
        self._halted.discard(target.gd_cpuid)
        self.event("signal", cpu.gd, f"signals cpu {target.gd_cpuid}")

    def note_passive(self, target: GlobalData) -> None:
        """`target` finds it by itself, at the clock tick at the latest."""
        self._passive.add(target.gd_cpuid)
        self.event("passive", cpu.gd, f"leaves a passive IPI for cpu {target.gd_cpuid}")

    def spin(self, gd: GlobalData) -> None:
        """Keep this carrier for `gd`; the loop goes on elsewhere until the chooser comes back to it."""
        if self._ending:
            raise _Aborted
        baton = _Baton()
        self._spinning[gd.gd_cpuid] = baton
        if not self._parked:
            carrier = _Carrier(self._loop, f"carrier-{len(self._carriers)}")
            self._carriers.append(carrier)
        else:
            carrier = self._parked.pop()
        carrier.baton.hand_over()
        baton.wait()
        del self._spinning[gd.gd_cpuid]
        cpu.gd = gd
        if self._ending:
            raise _Aborted

    def event(self, kind: str, gd: GlobalData, text: str) -> None:
        """Report something for the timeline."""
        if self.trace is not None:
            self.trace(kind, gd, text)


def _never() -> bool:
    return False


def _unwound(_td: Thread) -> None:
    """Marks a thread that is unwound at the end of a failed simulation: nobody need hear of its end."""
