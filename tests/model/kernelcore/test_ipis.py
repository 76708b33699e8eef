"""IPI queues: I1 to I8, C2 and C3 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.harness import deep, quick
from tests.model.kernelcore.ipiq_programs import IpiCase, check_ipis, ipi_cases


@quick(120)
@given(ipi_cases())
def test_random_programs(case: IpiCase) -> None:
    check_ipis(case)


@quick(40)
@given(ipi_cases())
def test_interrupted_anywhere(case: IpiCase) -> None:
    check_ipis(case, fine=True)


@pytest.mark.long
@deep(5_000)
@given(ipi_cases(max_threads=8, max_ops=20))
def test_random_programs_long(case: IpiCase) -> None:
    check_ipis(case)


@pytest.mark.long
@deep(2_000)
@given(ipi_cases(max_threads=8, max_ops=20))
def test_interrupted_anywhere_long(case: IpiCase) -> None:
    check_ipis(case, fine=True)
