"""Tokens: K1 to K7 and T3 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.harness import deep, quick
from tests.model.kernelcore.token_domain import DomainCase, check_domain_tokens, domain_cases
from tests.model.kernelcore.token_programs import TokenCase, check_tokens, token_cases
from tests.model.kernelcore.token_sets import SetCase, check_sets, set_cases


@quick(150)
@given(token_cases())
def test_random_programs(case: TokenCase) -> None:
    check_tokens(case)


@quick(100)
@given(set_cases())
def test_sets_in_any_order(case: SetCase) -> None:
    check_sets(case)


@quick(60)
@given(set_cases())
def test_sets_taken_in_parts(case: SetCase) -> None:
    check_sets(case, fine=True, max_steps=20_000)


@quick(150)
@given(domain_cases())
def test_plain_tokens_of_one_os_thread(case: DomainCase) -> None:
    check_domain_tokens(case)


@pytest.mark.long
@deep(10_000)
@given(token_cases(max_threads=12, max_ops=30))
def test_random_programs_long(case: TokenCase) -> None:
    check_tokens(case)


@pytest.mark.long
@deep(5_000)
@given(set_cases(ntoks=4, nthreads=9))
def test_sets_in_any_order_long(case: SetCase) -> None:
    check_sets(case, max_steps=20_000)


@pytest.mark.long
@deep(2_000)
@given(set_cases(ntoks=4, nthreads=9))
def test_sets_taken_in_parts_long(case: SetCase) -> None:
    check_sets(case, fine=True, max_steps=100_000)


@pytest.mark.long
@deep(10_000)
@given(domain_cases(max_threads=8, max_ops=40))
def test_plain_tokens_of_one_os_thread_long(case: DomainCase) -> None:
    check_domain_tokens(case)
