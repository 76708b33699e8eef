"""Threads: create, start, exit, join, hold."""

from __future__ import annotations

import logging
from collections.abc import Generator

import pytest

from kernelcore.crit import crit_enter
from kernelcore.defs import TDF_DEAD, TDF_EXITING, TDF_FIXEDCPU, TDF_NOSTART, TRAP_YIELD
from kernelcore.globaldata import curthread, globaldata_find, mycpu
from kernelcore.host.sim import SimHost
from kernelcore.panic import KernelPanic, WrongContext
from kernelcore.sched import lwkt_schedule, lwkt_user_yield, thread_state
from kernelcore.thread import TDPRI, Thread, join, lwkt_create, lwkt_exit, lwkt_hold, lwkt_rele
from kernelcore.token import Token
from tests.unit.kernelcore.conftest import JumpHost


async def nothing() -> None:
    return None


def test_a_thread_runs_with_its_argument_and_gives_its_result(up: JumpHost) -> None:
    async def double(n: int) -> int:
        return 2 * n

    async def main() -> None:
        td = lwkt_create(double, 21)
        assert (td.td_comm, td.td_pri, td.td_gd, td.is_done) == ("double", TDPRI.KERN_DAEMON, mycpu(), False)
        assert await join(td) == 42
        assert td.is_done and td.td_flags & TDF_DEAD and td not in mycpu().gd_tdallq

    up.call(main())


def test_join_raises_what_ended_the_thread(up: JumpHost, caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("by zero")

    async def main() -> None:
        with pytest.raises(ZeroDivisionError, match="by zero"):
            await join(lwkt_create(fails))

    with caplog.at_level(logging.ERROR):
        up.call(main())
    assert not caplog.records  # its joiner knows


def test_an_exception_that_nobody_waits_for_is_reported(up: JumpHost, caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("by zero")

    async def main() -> None:
        lwkt_create(fails, name="careless")

    with caplog.at_level(logging.ERROR), pytest.raises(KernelPanic, match=r"thread 'careless' died.*by zero"):
        up.call(main())
    assert "careless" in caplog.text and "in fails" in caplog.text


def test_lwkt_exit_ends_the_thread_from_any_depth(up: JumpHost) -> None:
    ended = []

    async def deep() -> None:
        try:
            lwkt_exit("early")
        finally:
            ended.append("finally")

    async def body() -> str:
        await deep()
        return "late"

    async def main() -> object:
        return await join(lwkt_create(body))

    assert up.call(main()) == "early"
    assert ended == ["finally"]


def test_nostart_waits_for_schedule(up: JumpHost) -> None:
    log: list[str] = []

    async def body() -> None:
        log.append("ran")

    async def main() -> None:
        td = lwkt_create(body, flags=TDF_NOSTART)
        await lwkt_user_yield()
        assert log == [] and thread_state(td) == "N"
        lwkt_schedule(td)
        lwkt_schedule(td)  # idempotent
        await join(td)
        assert log == ["ran"]

    up.call(main())


def test_a_generator_will_do_as_body(up: JumpHost) -> None:
    def body() -> Generator[int, None, str]:
        yield TRAP_YIELD
        return "done"

    async def main() -> object:
        return await join(lwkt_create(body))

    assert up.call(main()) == "done"


def test_what_is_no_body_is_refused(up: JumpHost) -> None:
    async def main() -> None:
        with pytest.raises(KernelPanic, match="is 5, not a coroutine"):
            lwkt_create(lambda: 5)
        with pytest.raises(ValueError, match="priority 32"):
            lwkt_create(nothing, pri=32)

    up.call(main())


def test_threads_without_a_cpu_go_round(smp: JumpHost) -> None:
    async def main() -> list[int]:
        threads = [lwkt_create(nothing) for _ in range(4)]
        for td in threads:
            await join(td)
        return [td.td_gd.gd_cpuid for td in threads]

    assert smp.call(main()) in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_a_thread_on_another_cpu_runs_there(smp: JumpHost) -> None:
    async def where() -> int:
        return mycpu().gd_cpuid

    async def main() -> int:
        result: int = await join(lwkt_create(where, cpu_id=1, flags=TDF_FIXEDCPU))
        return result

    assert smp.call(main()) == 1


def test_a_held_thread_does_not_go_away(sim: SimHost) -> None:
    async def main() -> None:
        td = lwkt_create(nothing, cpu_id=1)
        lwkt_hold(td, "reader")
        lwkt_hold(td, "writer")
        assert td.td_refs == 2
        with pytest.raises(KernelPanic, match="already held by 'reader'"):
            lwkt_hold(td, "reader")
        while not td.is_done:
            await lwkt_user_yield()
        assert td.td_flags & TDF_EXITING and thread_state(td) == "Z" and td.td_wmesg == "exitwait"
        lwkt_rele(td, "reader")
        assert td in globaldata_find(1).gd_tdallq
        with pytest.raises(KernelPanic, match="not held by 'reader'"):
            lwkt_rele(td, "reader")
        lwkt_rele(td, "writer")
        await join(td)
        assert td.td_flags & TDF_DEAD

    sim.call(main())


def test_a_thread_cannot_join_itself(up: JumpHost) -> None:
    async def main() -> None:
        with pytest.raises(WrongContext, match="joins itself"):
            await join(curthread())

    up.call(main())


def test_what_a_thread_leaves_behind_is_its_error(up: JumpHost) -> None:
    async def main() -> None:
        tok = Token("left")

        async def with_token() -> None:
            tok.get()

        async def with_section() -> None:
            crit_enter()

        for body, text in ((with_token, "holding token 'left'"), (with_section, "in 1 critical section")):
            td = lwkt_create(body)
            with pytest.raises(KernelPanic, match=text):
                await join(td)
            assert not td.td_toks and td.td_critcount == 0

    up.call(main())


def test_repr_names_thread_number_and_cpu(up: JumpHost) -> None:
    async def main() -> str:
        td: Thread = curthread()
        return repr(td).replace(str(td.td_tid), "N", 1)

    assert up.call(main(), name="ls") == "<thread 'ls' (tid N, cpu 0)>"
