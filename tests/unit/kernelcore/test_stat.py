"""The statistics: rows that say what happened, text that lines up, DragonFly's names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernelcore import stat
from kernelcore.crit import critical
from kernelcore.globaldata import NO_CPU, cpu, globaldata_find
from kernelcore.host.sim import SimHost
from kernelcore.host.up import UpHost
from kernelcore.ipiq import send_ipiq, send_ipiq_passive
from kernelcore.msgport import LwktMsg, PutOnlyPort, domsg, lwkt_port, sendmsg, service_loop, waitport
from kernelcore.sched import lwkt_user_yield, preempt_point
from kernelcore.sleep import tsleep
from kernelcore.thread import lwkt_create
from kernelcore.token import Token


@pytest.fixture
def host() -> Iterator[UpHost]:
    host = UpHost(2, name="up")
    yield host
    host.stop()
    cpu.gd = NO_CPU


def test_ports_count_puts_completions_replies_and_depth(host: UpHost) -> None:
    async def server() -> None:
        await service_loop(lwkt_port(), lambda _msg: 0)

    async def main() -> list[stat.PortRow]:
        td = lwkt_create(server, cpu_id=0, name="netisr")
        await lwkt_user_yield()
        port, own = lwkt_port(td), lwkt_port()
        at_once = PutOnlyPort(lambda _port, _msg: 7, name="lookup")
        assert await domsg(at_once, LwktMsg(own)) == 7
        sendmsg(at_once, LwktMsg(own))
        for msg in [LwktMsg(own) for _ in range(3)]:
            sendmsg(port, msg)
        seen = stat.ports()
        for _ in range(4):
            await waitport(own)
        return [*seen, *stat.ports()]

    rows = host.call(main(), "client")
    before, after = rows[:3], rows[3:]
    assert [tuple(row) for row in before] == [
        ("client", "ThreadPort", 0, 0, 1, 1, 1),
        ("lookup", "PutOnlyPort", 2, 2, 0, 0, 1),
        ("netisr", "ThreadPort", 3, 0, 0, 3, 3),
    ]
    assert [(row.port, row.puts, row.sync, row.replies, row.depth, row.max) for row in after] == [
        ("client", 0, 0, 4, 0, 3),
        ("lookup", 2, 2, 0, 0, 1),
        ("netisr", 3, 0, 0, 0, 3),
    ]


def test_threads_tokens_and_cpus(host: UpHost) -> None:
    async def sleeper(tok: Token) -> None:
        with tok:
            await tsleep("inode", 0, "hmrwt")

    async def main() -> None:
        tok = Token("fs_token")
        lwkt_create(sleeper, tok, cpu_id=1, name="waits")
        while [row.wmesg for row in stat.ps() if row.comm == "waits"] != ["hmrwt"]:
            await lwkt_user_yield()
        with tok, critical():
            rows = {row.comm: row for row in stat.ps()}
            (token,) = stat.tokens()
        assert (rows["waits"].cpu, rows["waits"].stat, rows["waits"].toks) == (1, "S", 1)
        assert (rows["reader"].stat, rows["reader"].crit, rows["reader"].toks) == ("Rsc", 1, 1)
        assert rows["reader"].wmesg == ""
        assert (token.desc, token.collisions, token.references, token.holder) == ("fs_token", 0, 2, "reader")
        cpus = stat.scheduler()
        assert [row.threads for row in cpus] == [1, 1]
        assert cpus[1].v_swtch >= 1
        assert cpus[1].v_idle >= 1

    host.call(main(), "reader")


def test_ipis(host: UpHost) -> None:
    async def main() -> list[stat.IpiqRow]:
        other = globaldata_find(1)
        send_ipiq(other, lambda _a, _b: None)
        send_ipiq_passive(other, lambda _a, _b: None)
        send_ipiq(other, lambda _a, _b: None)
        return stat.ipiq()

    rows = host.call(main())
    assert [(row.sent, row.passive, row.pending) for row in rows] == [(2, 1, 0), (0, 0, 2)]


def test_collisions_are_named_where_cpus_run_side_by_side() -> None:
    host = SimHost(2, seed=1)
    tok = Token("tree", host)
    rows: list[stat.CpuRow] = []

    async def holder() -> None:
        async with tok:
            for _ in range(20):
                await preempt_point()

    for n in range(2):
        host.spawn(holder, cpu_id=n, name=f"holder{n}")
    host.run_sim()
    rows = stat.scheduler(host)
    assert sum(row.lock_colls for row in rows) == stat.tokens(host)[0].collisions > 0
    assert "tree" in {row.lock_name for row in rows}
    host.stop()


def test_the_sysctl_tree_has_the_names_that_people_look_for(host: UpHost) -> None:
    async def main() -> dict[str, int | str]:
        await lwkt_user_yield()
        return stat.sysctl()

    tree = host.call(main())
    assert host.gil.sample() >= 0.0
    wanted = (
        *("hw.ncpu", "kern.nthreads", "kern.syscalls", "kern.pumps", "kern.stalls", "kern.gil_latency_us"),
        *("lwkt.switch_count", "lwkt.preempt_hit", "lwkt.preempt_miss", "lwkt.preempt_weird", "lwkt.spin_loops"),
        *("lwkt.ipiq_count", "lwkt.ipiq_fifofull", "lwkt.ipiq_avoided", "lwkt.ipiq_passive", "lwkt.ipiq_cscount"),
        *("lwkt.token_collisions", "lwkt.cpu0.v_swtch", "lwkt.cpu1.runq", "lwkt.cpu0.lock_name"),
    )
    assert [name for name in wanted if name not in tree] == []
    assert (tree["hw.ncpu"], tree["kern.syscalls"], tree["kern.gil_samples"]) == (2, 1, 0)
    assert stat.sysctl(host)["kern.gil_samples"] == 1
    assert "hw.ncpu: 2\n" in stat.sysctl_text(tree)


def test_text_lines_up(host: UpHost) -> None:
    async def main() -> str:
        return stat.text(stat.ThreadRow, stat.ps())

    heading, line = host.call(main(), "reader").splitlines()
    assert heading.split()[:4] == ["CPU", "TID", "PRI", "STAT"]
    assert heading.index("COMMAND") == line.index("reader")
    assert line.index("Rs") == heading.index("STAT")
