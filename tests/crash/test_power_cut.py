"""The power is cut at any moment: what was promised is there, nothing is half-done, and the file system is sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from hammerfs.changes import WriteOptions
from tests.crash import workloads
from tests.crash.cuts import Recorded, Workload, cut_everywhere
from tests.enginelab import Clock

WORKLOADS: Sequence[tuple[Workload, int, int]] = [
    (workloads.small_files, version, 1) for version in (1, 3, 4, 6, 7)
] + [
    (workloads.renames, 7, 1),
    (workloads.renames, 3, 1),
    (workloads.big_file, 6, 1),
    (workloads.big_file, 1, 2),
    (workloads.fsyncs, 4, 1),
    (workloads.fsyncs, 7, 2),
    (workloads.fsyncs, 3, 1),
    (workloads.wrapping, 7, 1),
    (workloads.wrapping, 1, 1),
    (workloads.reuse, 7, 1),
    (workloads.reuse, 3, 1),
    (workloads.held_files, 7, 1),
    (workloads.held_files, 3, 2),
]
CASES = [
    pytest.param(workload, version, volumes, id=f"{workload.__name__}-v{version}-{volumes}vol")
    for workload, version, volumes in WORKLOADS
]


def recorded(workload: Workload, version: int, volumes: int, seed: int) -> Recorded:
    """The recording of a workload."""
    rng = Random(f"{seed}/{workload.__name__}/{version}")
    options = WriteOptions(clock=Clock(), group_records=rng.choice([30, 200, 1500]))
    twin = Recorded(version, options, volumes=volumes)
    workload(twin, rng)
    return twin


@pytest.mark.parametrize(("workload", "version", "volumes"), CASES)
def test_cuts(workload: Workload, version: int, volumes: int) -> None:
    twin = recorded(workload, version, volumes, 1)
    assert cut_everywhere(twin, 1, cuts=90, nested=30) >= 45


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("workload", "version", "volumes"), CASES)
def test_cuts_long(
    workload: Workload, version: int, volumes: int, seed: int, record_property: Callable[[str, object], None]
) -> None:
    twin = recorded(workload, version, volumes, seed)
    checked = cut_everywhere(twin, seed, cuts=250, nested=10)
    record_property("cuts", checked)
    assert checked >= 160
