"""Threads and scheduler: T1 to T6 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.harness import deep, quick
from tests.model.kernelcore.sched_programs import SchedCase, check_sched, sched_cases


@quick(120)
@given(sched_cases())
def test_random_programs(case: SchedCase) -> None:
    check_sched(case)


@quick(60)
@given(sched_cases())
def test_interrupted_anywhere(case: SchedCase) -> None:
    check_sched(case, fine=True)


@pytest.mark.long
@deep(5_000)
@given(sched_cases(max_threads=10, max_ops=24))
def test_random_programs_long(case: SchedCase) -> None:
    check_sched(case)


@pytest.mark.long
@deep(2_000)
@given(sched_cases(max_threads=10, max_ops=24))
def test_interrupted_anywhere_long(case: SchedCase) -> None:
    check_sched(case, fine=True)
