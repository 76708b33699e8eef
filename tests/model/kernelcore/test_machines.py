"""State machines: the run queues of one CPU against a sorted list, a port against a queue for each sender."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from kernelcore import invariants
from kernelcore.defs import TDF_NOSTART, TRAP_SWITCH, TRAP_YIELD
from kernelcore.globaldata import cpu
from kernelcore.host.up import UpHost
from kernelcore.msgport import (
    ENOENT,
    MSGF_DONE,
    MSGF_DROPABLE,
    MSGF_PRIORITY,
    MSGF_QUEUED,
    LwktMsg,
    NullReplyPort,
    SpinPort,
    dropmsg,
    initmsg,
    replymsg,
    sendmsg,
)
from kernelcore.sched import lwkt_deschedule, lwkt_deschedule_self, lwkt_schedule, lwkt_setpri, schedulerclock
from kernelcore.thread import Thread, lwkt_create
from tests.model.kernelcore.harness import deep, quick


class _OnHost(RuleBasedStateMachine):
    """A machine that acts as the idle CPU of a plain host."""

    def __init__(self) -> None:
        super().__init__()
        self.entered_from = cpu.gd
        self.host = UpHost(debug=True)
        cpu.gd = self.gd = self.host.gds[0]

    def teardown(self) -> None:
        self.host.stop()
        cpu.gd = self.entered_from


class SchedulerMachine(_OnHost):
    """T1, T3: the model is one list, best first, equals in the order of their arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list[Thread] = []
        self.threads: list[Thread] = []
        self.ran: list[Thread] = []
        self.next_trap = TRAP_SWITCH
        self.leave = False

    def arrive(self, td: Thread) -> None:
        place = next((i for i, other in enumerate(self.model) if other.td_pri < td.td_pri), len(self.model))
        self.model.insert(place, td)

    def pick(self, n: int) -> Thread:
        return self.threads[n % len(self.threads)]

    @rule(pri=st.integers(2, 31), start=st.booleans())
    def create(self, pri: int, start: bool) -> None:
        def body() -> Any:
            while True:
                self.ran.append(self.gd.gd_curthread)
                if self.leave:
                    lwkt_deschedule_self()
                yield self.next_trap

        td = lwkt_create(body, pri=pri, flags=0 if start else TDF_NOSTART)
        self.threads.append(td)
        if start:
            self.arrive(td)

    @precondition(lambda self: self.threads)
    @rule(n=st.integers(0, 99))
    def schedule(self, n: int) -> None:
        td = self.pick(n)
        lwkt_schedule(td)
        if td not in self.model:
            self.arrive(td)

    @precondition(lambda self: self.threads)
    @rule(n=st.integers(0, 99))
    def deschedule(self, n: int) -> None:
        td = self.pick(n)
        lwkt_deschedule(td)
        if td in self.model:
            self.model.remove(td)

    @precondition(lambda self: self.threads)
    @rule(n=st.integers(0, 99), pri=st.integers(2, 31))
    def setpri(self, n: int, pri: int) -> None:
        td = self.pick(n)
        lwkt_setpri(td, pri)
        assert td.td_pri == pri
        if td in self.model:
            self.model.remove(td)
            self.arrive(td)

    @rule()
    def tick(self) -> None:
        schedulerclock(self.gd)
        if self.model:
            self.arrive(self.model.pop(0))

    @rule(trap=st.sampled_from((TRAP_SWITCH, TRAP_YIELD)), leave=st.booleans())
    def run_one(self, trap: int, leave: bool) -> None:
        """The best one runs up to its next trap: leaves, goes behind its equals, or keeps its place."""
        self.next_trap, self.leave = trap, leave
        self.ran.clear()
        self.host.run(switches=1, seconds=1.0)
        assert self.ran == self.model[:1]
        if self.ran and (leave or trap == TRAP_YIELD):
            td = self.model.pop(0)
            if not leave:
                self.arrive(td)

    @invariant()
    def queues_are_the_list(self) -> None:
        assert [td for q in reversed(self.gd.gd_runqs) for td in q] == self.model
        assert self.gd.gd_tdrunqcount == len(self.model)
        invariants.check_domain(self.host)


class _Numbered(LwktMsg):
    __slots__ = ("n", "sender")

    def __init__(self, sender: int, n: int) -> None:
        super().__init__()
        self.sender = sender
        self.n = n


class PortMachine(_OnHost):
    """M1 to M3: a queue for each sender and priority; what comes out is the head of one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.port = SpinPort("machine")
        self.replies = NullReplyPort()
        self.queues: dict[tuple[bool, int], deque[_Numbered]] = {}
        self.taken: list[_Numbered] = []
        self.finished: list[_Numbered] = []
        self.sent = 0

    def waiting(self) -> list[_Numbered]:
        return [msg for queue in self.queues.values() for msg in queue]

    @rule(sender=st.integers(0, 3), priority=st.booleans(), again=st.booleans())
    def send(self, sender: int, priority: bool, again: bool) -> None:
        """A new message, or one that has come back."""
        self.sent += 1
        msg = self.finished.pop() if again and self.finished else _Numbered(sender, 0)
        msg.sender, msg.n = sender, self.sent
        initmsg(msg, self.replies, MSGF_DROPABLE | (MSGF_PRIORITY if priority else 0))
        sendmsg(self.port, msg)
        assert msg.ms_flags & MSGF_QUEUED and not msg.ms_flags & MSGF_DONE
        self.queues.setdefault((priority, sender), deque()).append(msg)

    @rule()
    def get(self) -> None:
        msg = self.port.getport()
        if msg is None:
            assert not self.waiting()
            return
        assert isinstance(msg, _Numbered)
        priority = bool(msg.ms_flags & MSGF_PRIORITY)
        assert priority or not any(queue for (urgent, _), queue in self.queues.items() if urgent)
        assert self.queues[priority, msg.sender].popleft() is msg
        self.taken.append(msg)

    @precondition(lambda self: self.taken)
    @rule(n=st.integers(0, 99), error=st.integers(0, 9))
    def reply(self, n: int, error: int) -> None:
        msg = self.taken.pop(n % len(self.taken))
        replymsg(msg, error)
        assert msg.is_done and msg.ms_error == error
        self.finished.append(msg)

    @rule(n=st.integers(0, 99))
    def drop(self, n: int) -> None:
        """What waits may be dropped; what was taken may not."""
        for msg in self.taken[:1]:
            assert dropmsg(msg) == ENOENT
        waiting = self.waiting()
        if waiting:
            msg = waiting[n % len(waiting)]
            assert dropmsg(msg) == 0 and msg.is_done
            next(queue for queue in self.queues.values() if msg in queue).remove(msg)
            self.finished.append(msg)

    @invariant()
    def queued_is_linked(self) -> None:
        invariants.check_domain(self.host)
        assert self.port.depth == len(self.waiting())
        assert not any(msg.ms_flags & MSGF_QUEUED for msg in (*self.taken, *self.finished))


MACHINES = (SchedulerMachine, PortMachine)


@pytest.mark.parametrize("machine", MACHINES)
def test_machine(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(quick(40), stateful_step_count=40))


@pytest.mark.long
@pytest.mark.parametrize("machine", MACHINES)
def test_machine_long(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(deep(2_000), stateful_step_count=100))
