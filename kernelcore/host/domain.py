"""The domain: a set of virtual CPUs and the loop that runs them on one OS thread.

`run` is the pump: it runs ready threads until none is left or its budget is spent. It is not re-entrant. A request
enters as a system call: it borrows a thread structure and runs at once, inline, up to its first block; only what blocks
becomes a scheduled thread. Other OS threads (I/O CPUs) never touch a domain, they `post` a completion to it.

Subclasses say what to do when idle and how a foreign OS thread wakes the domain.
"""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from kernelcore import invariants
from kernelcore.callout import next_deadline, run_callouts
from kernelcore.crit import intr_post, splz
from kernelcore.defs import (
    KERN_DAEMON,
    RQF_TIMER,
    TDF_IDLE,
    TDF_SYSCALL,
    TRAP_BLOCK,
    TRAP_SWITCH,
    TRAP_YIELD,
)
from kernelcore.globaldata import GlobalData, cpu
from kernelcore.host.gilprobe import GilProbe
from kernelcore.ipiq import Ipiq, process_ipiq
from kernelcore.panic import KernelPanic, WrongContext, thread_label
from kernelcore.sched import OFF_RUNQ, enqueue_first, set_home, thread_state
from kernelcore.switch import abandon, resume, switched_out, thread_ended, thread_raised
from kernelcore.thread import Body, Thread
from kernelcore.token import CheckedToken, Token, switch_in

T = TypeVar("T")

PUMP_SWITCHES: Final = 256
PUMP_SECONDS: Final = 200e-6
CLOCK_EVERY: Final = 16  # switches between two looks at the clock


class Domain:
    """Virtual CPUs on one OS thread.

    Args:
        ncpus: how many.
        name: for messages.
        clock: seconds, monotonic.
        debug: check at every switch, detect forgotten awaits; costs up to half again.
        stats: account CPU time to threads.
    """

    contended = False  # may two CPUs want one token at the same moment?
    interleaved = False  # does `preempt_point` switch CPUs?
    ipiq_bounded = False

    def __init__(
        self,
        ncpus: int = 1,
        *,
        name: str = "domain",
        clock: Callable[[], float] = time.monotonic,
        debug: bool = False,
        stats: bool = True,
    ) -> None:
        if ncpus < 1:
            raise ValueError(f"a domain needs at least one CPU, not {ncpus}")
        self.name = name
        self.ncpus = ncpus
        self.clock = clock
        self.debug = debug
        self.stats = stats
        self.token_class: type[Token] = CheckedToken if debug else Token
        self.tokens: weakref.WeakSet[Token] = weakref.WeakSet()
        self.token_pool: dict[int, Token] = {}
        self.ports: weakref.WeakSet[Any] = weakref.WeakSet()
        self.objcaches: weakref.WeakSet[Any] = weakref.WeakSet()
        self.slpque: dict[tuple[object, int], None] = {}
        self.panics: list[tuple[Thread, BaseException]] = []
        self.last_overrun: Thread | None = None  # ran last when the pump's time was over
        self.outstanding = 0  # requests under way on I/O CPUs; they will post
        self.syscalls = 0
        self.pumps = 0  # runs of the pump
        self.stalls = 0  # pumps and requests that kept the host waiting for too long
        self.gil = GilProbe()
        self.gds = [GlobalData(self, n, ncpus) for n in range(ncpus)]
        for gd in self.gds:
            gd.gd_ipiq = [Ipiq(self.ipiq_bounded) for _ in range(ncpus)]
            gd.gd_idlethread = gd.gd_curthread = Thread(gd, f"idle_{gd.gd_cpuid}", 0, TDF_IDLE)
        self._visit = self.gds  # in the order of the pump
        self._next_cpu = 0
        self._running = False
        self._began = 0.0  # when the present budget, of the pump or of a request's first step, began
        self._deadline = math.inf  # and when it ends
        self._posted: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._free_threads: list[Thread] = []
        self._plain_thread = Thread(self.gds[0], "syscall", KERN_DAEMON, TDF_SYSCALL)
        self._releases: dict[Thread, list[Callable[[], object]]] = {}  # of requests under way
        self._after_reply: list[Callable[[], object]] = []  # of requests whose replies are on their way out
        self._dropped_coroutine: KernelPanic | None = None
        cpu.gd = self.gds[0]

    # ---------------------------------------------------------------- the pump

    def run(self, switches: int = PUMP_SWITCHES, seconds: float = PUMP_SECONDS) -> bool:
        """Run ready threads on all CPUs until none is left (True) or the budget is spent (False).

        Raises:
            KernelPanic: called from within a thread of a running domain.
        """
        if self._running:
            raise KernelPanic(f"run() of domain '{self.name}' is not re-entrant")
        self._running = True
        entered_from = cpu.gd
        self.pumps += 1
        self.last_overrun = None
        self._start_budget(seconds)
        try:
            if self.debug:
                with self._catch_unawaited():
                    return self._pump(switches)
            return self._pump(switches)
        finally:
            cpu.gd = entered_from
            self._running = False
            if self.clock() > self._deadline:
                self.overran(self.last_overrun)

    def _pump(self, left: int) -> bool:  # noqa: PLR0915 - calls would cost more than what they call
        """The hot loop: `switch.resume` for the traps of a domain without contention, written out."""
        clock = self.clock
        stats = self.stats
        debug = self.debug
        deadline = self._deadline
        posted = self._posted
        gds = self._visit
        over = False
        last = now = self._began
        while True:
            if posted:
                self._drain()
            idle = True
            for gd in gds:
                if gd.gd_callouts and gd.gd_callouts[0][0] <= now:
                    gd.gd_reqflags |= RQF_TIMER
                if not gd.gd_ipimask and not gd.gd_runmask and not gd.gd_reqflags:
                    continue
                idle = False
                cpu.gd = gd
                began = left
                while left > 0:
                    if gd.gd_ipimask or gd.gd_reqflags:
                        gd.gd_curthread = gd.gd_idlethread
                        process_ipiq()
                        if gd.gd_reqflags:
                            splz()
                    mask = gd.gd_runmask
                    if not mask:
                        gd.gd_cnt.v_idle += 1
                        break
                    left -= 1
                    q = gd.gd_runqs[mask.bit_length() - 1]
                    gd.gd_curthread = td = q[0]
                    td.td_switches += 1
                    if td.td_toks:
                        switch_in(td)
                    try:
                        trap = td.td_send(None)
                    except StopIteration as end:
                        thread_ended(gd, td, end.value, None)
                        if debug:
                            self._raise_dropped()
                    except BaseException as exc:  # noqa: BLE001 - recorded, and handed to a joiner or the panic hook
                        thread_raised(gd, td, exc)
                        if debug:
                            self._raise_dropped()
                    else:
                        if debug:
                            switched_out(self, gd, td, trap)
                            self._raise_dropped()
                        elif trap is TRAP_BLOCK and q[0] is td:
                            q.popleft()  # dequeue, written out
                            td.td_flags &= OFF_RUNQ
                            if not q:
                                gd.gd_runmask ^= td.td_pribit
                        elif trap is TRAP_YIELD and q[0] is td:
                            q.rotate(-1)
                        elif trap is not TRAP_SWITCH:
                            switched_out(self, gd, td, trap)
                    if stats:
                        now = clock()
                        td.td_cputime += now - last
                        last = now
                    elif not left % CLOCK_EVERY:
                        now = clock()
                    if now > deadline:
                        self.last_overrun = td
                        over = True
                        break
                gd.gd_curthread = gd.gd_idlethread
                gd.gd_cnt.v_swtch += began - left
                if over or not left:
                    if len(gds) > 1:  # the others come first next time: a busy CPU must not starve them
                        here = gds.index(gd) + 1
                        self._visit = gds[here:] + gds[:here]
                    return False
            if idle and not posted:
                return True

    def _start_budget(self, seconds: float) -> None:
        self._began = now = self.clock()
        self._deadline = now + seconds

    def overran(self, culprit: object) -> None:
        """The budget that began last is more than spent, by the thread or function `culprit`; a host may complain."""

    def pump_expired(self) -> bool:
        """Whether the pump's time is over, so that a long thread should yield to the host."""
        return self.clock() > self._deadline

    def next_deadline(self) -> float | None:
        """Clock value of the earliest callout of all CPUs, None where there is none."""
        deadlines = [d for gd in self.gds if (d := next_deadline(gd)) is not None]
        return min(deadlines, default=None)

    def has_work(self) -> bool:
        """Whether `run` would find something to do now."""
        if self._posted:
            return True
        for gd in self.gds:  # noqa: SIM110 - asked after every request: a generator costs more than the answer
            if gd.gd_runmask or gd.gd_ipimask or gd.gd_reqflags:
                return True
        return False

    # ------------------------------------------------------------ system calls

    def give_back(self, td: Thread) -> None:
        """Return a borrowed structure whose body has ended; the reply goes out before the host does anything else."""
        if self._releases:
            self._reply_follows(td)
        td.td_flags = TDF_SYSCALL
        td.td_coro = None
        td.td_on_exit = None
        if td.td_holds:
            td.td_gd.gd_tdallq.pop(td, None)
        else:
            self._free_threads.append(td)

    def enter_syscall(self, body: Body, name: str = "syscall") -> Thread:
        """Drive the coroutine of a request up to its first block, inline, on CPU 0; `is_done` tells if that was all.

        It borrows a thread structure; the host gives it back when the body has ended.

        Raises:
            WrongContext: called from within a kernel thread.
        """
        gd = self.gds[0]
        if self._after_reply:
            self._release_after_reply()
        if self._running or gd.gd_curthread is not gd.gd_idlethread:
            body.close()
            raise WrongContext(f"system call '{name}' from within {thread_label(cpu.gd.gd_curthread)}")
        cpu.gd = gd
        self._began = now = self.clock()  # _start_budget, written out
        self._deadline = now + PUMP_SECONDS
        if self._free_threads:
            td = self._free_threads.pop()
            if td.td_gd is not gd or td.td_pri != KERN_DAEMON:
                set_home(td, gd, KERN_DAEMON)
            td.td_comm = name
            td.td_result = td.td_exc = None
            td.td_sig = 0
        else:
            td = Thread(gd, name, KERN_DAEMON, TDF_SYSCALL)
        td.set_body(body)
        gd.gd_tdallq[td] = None
        self.syscalls += 1
        enqueue_first(gd, td)  # a request does not wait behind what the pump has left over
        self._running = True
        try:
            if self.debug:
                with self._catch_unawaited():
                    resume(self, gd, td)
            else:
                resume(self, gd, td)
        finally:
            self._running = False
        if self.clock() > self._deadline:
            self.overran(td)
        if self._dropped_coroutine is not None:
            self._raise_dropped()
        return td

    def syscall_plain(self, fn: Callable[..., T], *args: Any) -> T:
        """Run the plain function `fn(*args)` as a request that cannot block, on CPU 0; then let the pump run.

        Raises:
            WrongContext: called from within a kernel thread.
        """
        gd = self.gds[0]
        if self._after_reply:
            self._release_after_reply()
        if self._running or gd.gd_curthread is not gd.gd_idlethread:
            raise WrongContext(f"a system call from within {thread_label(cpu.gd.gd_curthread)}")
        cpu.gd = gd
        self._began = now = self.clock()  # _start_budget, written out
        self._deadline = now + PUMP_SECONDS
        gd.gd_curthread = td = self._plain_thread
        self.syscalls += 1
        try:
            return fn(*args)
        finally:
            gd.gd_curthread = gd.gd_idlethread
            if self.clock() > self._deadline:
                self.overran(fn)
            if self._releases:
                self._reply_follows(td)
            if td.td_toks or td.td_critcount:
                self._plain_left_behind(td)
            if gd.gd_runmask or (gd.gd_other_cpus and self.has_work()):
                self.kick()

    def _plain_left_behind(self, td: Thread) -> None:
        what = f"token '{td.td_toks[-1].tr_tok.t_desc}'" if td.td_toks else "a critical section"
        td.td_toks.clear()
        td.td_critcount = 0
        raise KernelPanic(f"a plain system call, {thread_label(td)}, ended holding {what}")

    def release_after_reply(self, release: Callable[[], object]) -> None:
        """Call `release` when the reply of the running request has gone out: for a buffer, a view of which is in it.

        Called by a request's thread, however long that still runs; or by whoever made the request, before it replies
        without another suspension.

        Raises:
            WrongContext: the running thread serves no request.
        """
        td = cpu.gd.gd_curthread
        if td.td_flags & TDF_SYSCALL:
            self._releases.setdefault(td, []).append(release)
        elif td.td_flags & TDF_IDLE:
            self._after_reply.append(release)
            self._replies_wait()
        else:
            raise WrongContext(f"release_after_reply by {thread_label(td)}, which serves no request")

    def _reply_follows(self, td: Thread) -> None:
        """The request of `td` returns to its caller, which replies before anything else of this domain runs."""
        items = self._releases.pop(td, None)
        if items:
            self._after_reply += items
            self._replies_wait()

    def _replies_wait(self) -> None:
        """Something is to be released after a reply: at the next entry; a host that may be idle for long sees to it."""

    def _release_after_reply(self) -> None:
        items, self._after_reply = self._after_reply, []
        for release in items:
            release()

    # ---------------------------------------------- from other OS threads, idle

    def post(self, fn: Callable[[Any], object], arg: Any = None) -> None:
        """From any OS thread: run the completion `fn(arg)` on CPU 0, soon."""
        self._posted.append((fn, arg))
        self.wake_host()

    def _drain(self) -> None:
        gd = cpu.gd = self.gds[0]
        posted = self._posted
        while posted:
            fn, arg = posted.popleft()
            intr_post(gd, fn, arg)

    def wake_host(self) -> None:
        """From any OS thread: make the host call `run` soon. Here: the owner calls it anyway."""

    def kick(self) -> None:
        """From the domain's own OS thread, outside the pump: something became ready."""
        if not self._running:
            self.run()

    # -------------------------------------------------- called by the services

    def signal(self, target: GlobalData) -> None:
        """An IPI was queued for `target`. One OS thread: the pump looks at every CPU."""

    def note_passive(self, target: GlobalData) -> None:
        """A passive IPI was queued for `target`."""

    def spin(self, gd: GlobalData) -> None:
        """CPU `gd` spins in plain code: let the others progress. Here: process their queues, as their interrupt would.

        Raises:
            KernelPanic: no other CPU has anything to process, so the spin would never end.
        """
        progressed = False
        try:
            for other in self.gds:
                if other is not gd and other.gd_ipimask:
                    cpu.gd = other
                    process_ipiq()
                    progressed = True
        finally:
            cpu.gd = gd
        if not progressed and not gd.gd_ipimask:
            raise KernelPanic(f"cpu {gd.gd_cpuid} spins for ever in {thread_label(gd.gd_curthread)}")

    def run_callouts(self, gd: GlobalData) -> None:
        """Call what is due on the current CPU `gd`."""
        run_callouts(gd, self.clock())

    def timer_changed(self, deadline: float) -> None:
        """The earliest callout is now due at `deadline`; a host that sleeps must look again."""

    def next_cpu(self) -> GlobalData:
        """CPUs in turn, for threads created with no CPU named."""
        gd = self.gds[self._next_cpu]
        self._next_cpu = (self._next_cpu + 1) % self.ncpus
        return gd

    def register_token(self, tok: Token) -> None:
        """Remember a token for the statistics; weakly."""
        self.tokens.add(tok)

    def panic_hook(self, td: Thread, exc: BaseException) -> None:
        """A thread died of `exc` and nobody joins it: keep it for the host. Replaceable."""
        self.panics.append((td, exc))

    def _raise_panic(self) -> None:
        """A thread that nobody joins has died: the caller must hear of it, there is no console."""
        if self.panics:
            td, exc = self.panics.pop(0)
            raise KernelPanic(f"thread '{td.td_comm}' died: {exc!r}") from exc

    # --------------------------------------------------------- debug, shutdown

    def check_switch_out(self, gd: GlobalData, td: Thread) -> None:
        """Debug mode: check what must hold when a thread switches out."""
        invariants.check_switch_out(gd, td)

    @contextmanager
    def _catch_unawaited(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("always", RuntimeWarning)
            warnings.showwarning = self._on_warning
            yield

    def _on_warning(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        text = str(message)
        if "was never awaited" in text:
            td = cpu.gd.gd_curthread
            self._dropped_coroutine = KernelPanic(f"forgotten await in {thread_label(td)}: {text}")

    def _raise_dropped(self) -> None:
        panic, self._dropped_coroutine = self._dropped_coroutine, None
        if panic is not None:
            raise panic

    def _blocked(self) -> str:
        """Say of every thread what it waits for; without thread numbers, for the same seed gives the same text."""
        waits = [
            f"cpu {gd.gd_cpuid} '{td.td_comm}' ({thread_state(td)}) waits for {td.td_wmesg or td.td_wchan!r}"
            for gd in self.gds
            for td in gd.gd_tdallq
        ]
        return "; ".join(waits) or "no thread is left"

    def stop(self) -> None:
        """Close every thread that has not ended. The domain cannot be used afterwards."""
        for gd in self.gds:
            cpu.gd = gd
            for td in list(gd.gd_tdallq):
                gd.gd_curthread = td
                abandon(td)
                gd.gd_curthread = gd.gd_idlethread
            gd.gd_tdallq.clear()
        self._free_threads.clear()
        for td in list(self._releases):
            self._reply_follows(td)
        self._release_after_reply()
