"""Critical sections: C1 to C3 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.crit_programs import CritCase, check_crit, crit_cases
from tests.model.kernelcore.harness import deep, quick


@quick(150)
@given(crit_cases())
def test_random_programs(case: CritCase) -> None:
    check_crit(case)


@pytest.mark.long
@deep(5_000)
@given(crit_cases(max_threads=10, max_ops=40))
def test_random_programs_long(case: CritCase) -> None:
    check_crit(case)
