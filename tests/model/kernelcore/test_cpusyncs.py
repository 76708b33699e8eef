"""cpusync: Y1 to Y3 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.cpusync_programs import SyncCase, check_syncs, sync_cases
from tests.model.kernelcore.harness import deep, quick


@quick(100)
@given(sync_cases())
def test_random_programs(case: SyncCase) -> None:
    check_syncs(case)


@quick(15)
@given(sync_cases())
def test_interrupted_anywhere(case: SyncCase) -> None:
    check_syncs(case, fine=True)


@pytest.mark.long
@deep(5_000)
@given(sync_cases(max_threads=8, max_ops=12))
def test_random_programs_long(case: SyncCase) -> None:
    check_syncs(case)


@pytest.mark.long
@deep(2_000)
@given(sync_cases(max_threads=8, max_ops=12))
def test_interrupted_anywhere_long(case: SyncCase) -> None:
    check_syncs(case, fine=True)
