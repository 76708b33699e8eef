"""Sleep and wakeup: S1 to S4 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.harness import deep, quick
from tests.model.kernelcore.sleep_programs import SleepCase, check_sleeps, sleep_cases


@quick(120)
@given(sleep_cases())
def test_random_programs(case: SleepCase) -> None:
    check_sleeps(case)


@quick(60)
@given(sleep_cases())
def test_interrupted_anywhere(case: SleepCase) -> None:
    check_sleeps(case, fine=True)


@pytest.mark.long
@deep(5_000)
@given(sleep_cases(max_threads=12, max_ops=20))
def test_random_programs_long(case: SleepCase) -> None:
    check_sleeps(case)


@pytest.mark.long
@deep(2_000)
@given(sleep_cases(max_threads=12, max_ops=20))
def test_interrupted_anywhere_long(case: SleepCase) -> None:
    check_sleeps(case, fine=True)
