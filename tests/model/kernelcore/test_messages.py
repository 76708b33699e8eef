"""Messages and ports: M1 to M7 under random programs."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.model.kernelcore.harness import deep, quick
from tests.model.kernelcore.msg_programs import MsgCase, check_msgs, msg_cases


@quick(120)
@given(msg_cases())
def test_random_programs(case: MsgCase) -> None:
    check_msgs(case)


@quick(60)
@given(msg_cases())
def test_interrupted_anywhere(case: MsgCase) -> None:
    check_msgs(case, fine=True)


@pytest.mark.long
@deep(5_000)
@given(msg_cases(max_clients=8, max_ops=20))
def test_random_programs_long(case: MsgCase) -> None:
    check_msgs(case)


@pytest.mark.long
@deep(2_000)
@given(msg_cases(max_clients=8, max_ops=20))
def test_interrupted_anywhere_long(case: MsgCase) -> None:
    check_msgs(case, fine=True)
