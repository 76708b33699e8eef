"""Memory in the lab: the scenario of remote frees, the tables of `ps`, the bench rows."""

from __future__ import annotations

import pytest

from kernelcore.host.sim import STRATEGIES
from kernelcore.lab import bench_memory, ps
from kernelcore.lab.bench import QUICK, run_case
from kernelcore.lab.sim import play


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize(("seed", "ncpus"), [(0, 2), (3, 2), (5, 4)])
def test_the_scenario_of_a_remote_free_tells_what_it_promises(strategy: str, seed: int, ncpus: int) -> None:
    listed, dry, retired = play("slab", seed, ncpus, strategy).parts
    assert all(part.expected for part in (listed, dry, retired))
    assert not any("kfree(zone" in event.text for event in listed.events)  # a listed zone is not told of
    told = [event.text for event in dry.events if "kfree(zone" in event.text]
    assert any(text.startswith("IPI to cpu 0: kfree(zone 0 (16384 bytes, cpu 0))") for text in told)
    assert any(text.startswith("runs IPI of cpu ") for text in told)
    assert dry.counters["lwkt.ipiq_passive"]
    assert [event.text for event in retired.events if event.kind == "note"][-1] == (
        "owner: has 1 zone with chunks, 1 free zone"
    )


def test_the_same_seed_tells_the_same_story() -> None:
    first, again, other = (play("slab", seed, 3, "uniform").parts for seed in (11, 11, 12))
    assert first == again
    assert first != other


def test_ps_shows_memory_with_a_line_of_totals() -> None:
    lines = ps.text(ps.views()).splitlines()
    for title in ("vmstat -m", "slab", "objcaches", "arenas"):
        assert f"-- {title}" in lines
    assert "Memory totals: 4 chunks, 41584 bytes in use, 16 requests" in lines


def test_each_bench_row_measures_and_leaves_nothing_behind() -> None:
    rows = [run_case(case, QUICK._replace(rounds=1, sample_ns=20_000)) for case in bench_memory.CASES]
    assert [row.target for row in rows] == ["<= 1.5", "<= 0.2", "<= 0.5", "<= 1.5", "<= 2.2"]
    assert all(row.measured and row.ratio for row in rows)
