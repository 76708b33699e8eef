"""`python -m kernelcore`: help, exit codes, JSON keys; the same seed gives the same text."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from kernelcore import __main__ as lab
from kernelcore.globaldata import NO_CPU, cpu
from kernelcore.host.sim import STRATEGIES
from kernelcore.lab import bench, bench_mount, bench_run
from kernelcore.lab.bench import Case, Row
from kernelcore.lab.scenarios import SCENARIOS

BENCH_KEYS = ["operation", "measured", "against", "ratio", "target", "pass"]

ROWS_OF_THE_CORE = (
    ("domsg round trip, same CPU", "trio memory channel"),
    ("domsg round trip, same CPU", "asyncio.Queue"),
    ("domsg round trip, same CPU", "SimpleQueue"),
    ("domsg round trip, across vCPUs", "trio memory channel"),
    ("synchronous domsg", "trio memory channel"),
    ("pipelined sendmsg+reply", "asyncio.Queue"),
    ("tsleep+wakeup", "asyncio.Queue"),
    ("yield+switch", "trio checkpoint"),
    ("thread create+exit", "trio start_soon"),
    ("token get+rel, domain", "threading.Lock"),
    ("token get+rel, cross-thread", "threading.Lock"),
    ("crit enter+exit", "threading.Lock"),
    ("IPI send+dispatch", "deque"),
    ("IPI round trip between OS threads", "SimpleQueue"),
    ("hop to an I/O CPU and back, 1 in flight", "to_thread"),
    ("hop to an I/O CPU and back, 16 in flight", "to_thread"),
    ("system call that never blocks", "null pyfuse3 getattr"),
    ("service-thread round trip", "null pyfuse3 getattr"),
    ("16 KiB read miss by an I/O CPU", "null pyfuse3 read"),
    ("statistics on versus off", "off"),
    ("invariants on versus off", "off"),
)


@pytest.fixture(autouse=True)
def no_cpu_afterwards() -> Any:
    yield
    cpu.gd = NO_CPU


def run(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    """Run the lab in this process; return what it printed. Nothing may go to stderr."""
    assert lab.main(argv) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run the lab with a wrong option: exit code 2, one line on stderr, nothing on stdout; return the line."""
    try:
        code = lab.main(argv)
    except SystemExit as leave:
        assert isinstance(leave.code, int)
        code = leave.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


# ------------------------------------------------------------ the whole


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--help"], ["ps", "bench", "sim"]),
        (["ps", "--help"], ["--json", "STAT"]),
        (["bench", "--help"], ["--json", "--rounds", "--filter", "--quick", "--list"]),
        (["sim", "--help"], ["--seed", "--cpus", "--strategy", "--list", "--json"]),
    ],
)
def test_help(capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        lab.main(argv)
    assert leave.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(word in out for word in words)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["bench", "--rounds", "0"], "0 is not positive"),
        (["bench", "--rounds", "many"], "invalid"),
        (["bench", "--filter", "no such row"], "no row contains 'no such row'"),
        (["sim"], "no scenario given"),
        (["sim", "quake"], "no scenario 'quake'"),
        (["sim", "token", "--strategy", "luck"], "no strategy 'luck'"),
        (["sim", "token", "--cpus", "1"], "takes 2 to 16 CPUs, not 1"),
        (["sim", "token", "--cpus", "17"], "takes 2 to 16 CPUs, not 17"),
        (["sim", "token", "--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_wrong_options_are_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], text: str) -> None:
    assert text in refused(capsys, *argv)


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "kernelcore", "sim", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(SCENARIOS)


# ------------------------------------------------------------ ps


def test_ps_shows_threads_in_every_state(capsys: pytest.CaptureFixture[str]) -> None:
    tables = json.loads(run(capsys, "ps", "--json"))
    assert {"ps", "scheduler", "tokens", "ipiq", "ports"} <= set(tables)
    states = {row["stat"][0] for row in tables["ps"]} | {row["stat"][0] for row in tables["ps, CPUs side by side"]}
    assert states == set("RQSBNZT")
    wanted = ["cpu", "tid", "pri", "stat", "crit", "toks", "wmesg", "swtch", "contended", "time_s", "comm"]
    assert all(list(row) == wanted for row in tables["ps"])
    reporter = next(row for row in tables["ps"] if row["comm"] == "reporter")
    assert (reporter["toks"], reporter["crit"], reporter["stat"]) == (2, 1, "Rsc")


def test_ps_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "ps")
    for heading in ("-- ps", "-- scheduler", "-- tokens", "-- ipiq", "-- ports", "WMESG", "V_SWTCH", "FIFOFULL"):
        assert heading in out


# ------------------------------------------------------------ sim


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_ends_as_it_must(capsys: pytest.CaptureFixture[str], name: str, strategy: str) -> None:
    for seed in ("0", "7"):
        told = json.loads(run(capsys, "sim", name, "--seed", seed, "--strategy", strategy, "--json"))
        assert list(told) == ["scenario", "seed", "cpus", "strategy", "parts", "remarks"]
        for part in told["parts"]:
            assert part["expected"]
            assert part["events"]
            assert list(part["events"][0]) == ["step", "time_s", "cpu", "kind", "text", "times"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_text(capsys: pytest.CaptureFixture[str], name: str) -> None:
    first = run(capsys, "sim", name, "--seed", "11", "--cpus", "3")
    assert run(capsys, "sim", name, "--seed", "11", "--cpus", "3") == first
    assert first.startswith(f"{name}: {SCENARIOS[name].about}\nseed 11, 3 CPUs, strategy uniform\n")


def test_other_seeds_give_other_orders(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {run(capsys, "sim", "token", "--seed", str(seed)).split("\n", 2)[2] for seed in range(6)}
    assert len(texts) > 1


def test_the_scenarios_that_a_student_wants(capsys: pytest.CaptureFixture[str]) -> None:
    """What each must show, whatever the seed."""
    wanted = {
        "token": ["must wait for token counter", "the counter stands at 9"],
        "message": ["IPI to cpu 1", "message ping0 lands on port server", "reply to ping0 lands on port client"],
        "migrate": ["arrived on cpu 1 with token map", "gives worker away", "took worker"],
        "cpusync": ["has them at rest", "runs the function of first", "runs the function of second"],
        "deadlock": ["deadlock found", "dines with both", "all threads ended"],
    }
    for name, texts in wanted.items():
        out = run(capsys, "sim", name, "--seed", "3")
        for text in texts:
            assert text in out, f"{name}: {text}"


# ------------------------------------------------------------ bench


def test_bench_has_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "bench", "--list").splitlines()
    for operation, against in ROWS_OF_THE_CORE:
        assert any(operation in line and against in line.split("  against  ")[1] for line in lines), operation


def test_bench_as_json_is_one_list_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "bench", "--json", "--quick", "--rounds", "1", "--filter", "crit enter"))
    assert [list(row) for row in rows] == [BENCH_KEYS]
    (row,) = rows
    assert row["operation"] == "crit enter+exit"
    assert row["measured"] > 0
    assert row["ratio"] > 0
    assert row["target"] == "<= 1"
    assert row["pass"] is (row["ratio"] <= 1)


@pytest.mark.parametrize(
    "text",
    [
        *("same CPU", "across vCPUs", "synchronous", "pipelined", "tsleep", "yield", "create", "token get", "IPI"),
        *("hop to an I/O CPU and back, 1 in", "hop to an I/O CPU and back, 16 in", "invariants"),
    ],
)
def test_every_probe_measures(capsys: pytest.CaptureFixture[str], text: str) -> None:
    rows = json.loads(run(capsys, "bench", "--json", "--quick", "--rounds", "1", "--filter", text))
    assert rows
    assert all(row["measured"] > 0 and row["pass"] in (True, False) for row in rows)


def test_bench_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    heading, line = run(capsys, "bench", "--quick", "--rounds", "1", "--filter", "crit enter").splitlines()
    assert heading.split() == ["operation", "measured", "ratio", "target", "against"]
    assert line.startswith("crit enter+exit")
    assert " pass " in line or " MISS " in line


def test_a_row_that_misses_says_so() -> None:
    def slow(n: int, _clock: bench.Clock) -> int:
        return n * 300

    def fast(n: int, _clock: bench.Clock) -> int:
        return n * 100

    missed = bench.run_case(Case("op", slow, "other", fast, 2.0), bench.QUICK)
    met = bench.run_case(Case("op", slow, "other", fast, 3.0), bench.QUICK)
    assert (missed.measured, missed.ratio, missed.passed) == (300.0, 3.0, False)
    assert met.passed is True
    assert missed.against == "other, 100 ns"
    lines = list(bench.text_table([missed, met, Row("none", None, "no machine", None, "<= 1", None)]))
    assert [word in line for word, line in zip(("MISS", "pass", " - "), lines[1:], strict=True)] == [True] * 3


def test_mount_rows_without_a_mount_say_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_mount, "missing", lambda: "no access to /dev/fuse")
    rows = json.loads(run(capsys, "bench", "--json", "--quick", "--filter", "over"))
    rows = [row for row in rows if "null" in row["against"]]
    assert len(rows) == len(bench_mount.CASES)
    assert all(row["measured"] is None and row["pass"] is None for row in rows)
    assert all("not measured, no access to /dev/fuse" in row["against"] for row in rows)


@pytest.mark.mount
@pytest.mark.root
def test_mount_rows_on_a_mount(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "bench", "--json", "--quick", "--rounds", "1", "--filter", "over"))
    assert len(rows) == len(bench_mount.CASES)
    for row in rows:
        assert list(row) == BENCH_KEYS
        assert isinstance(row["measured"], float)
        assert row["pass"] in (True, False)


def test_a_mount_that_does_not_come_up_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_mount, "missing", lambda: None)
    monkeypatch.setattr("kernelcore.lab.bench_mount.sys.executable", "/bin/false")
    assert lab.main(["bench", "--json", "--quick", "--filter", "service-thread"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bench: the null mount ended with 1")
    assert err.count("\n") == 1


def test_bench_without_trio_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "find_spec", lambda _name: None)
    assert lab.main(["bench", "--json"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "bench: trio is not installed, with which the services are compared\n")


def test_the_registry_holds_each_row_once() -> None:
    rows = [(row.operation, bench_run.comparison(row)) for row in bench_run.all_rows()]
    assert len(rows) == len(set(rows))
