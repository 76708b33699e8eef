"""Tokens: K1 to K7 and T3 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.harness import deep, quick
from tests.model.kernelcore.token_programs import TokenCase, check_tokens, token_cases


@quick(150)
@given(token_cases())
def test_random_programs_keep_the_rules(case: TokenCase) -> None:
    check_tokens(case)


@pytest.mark.long
@deep(10_000)
@given(token_cases(max_threads=12, max_ops=30))
def test_random_programs_keep_the_rules_long(case: TokenCase) -> None:
    check_tokens(case)
