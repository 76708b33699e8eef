"""The suite finds the faults it is meant to find, and no rule of the kernel core is without one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from tests.model.kernelcore.mutations import MUTATIONS, Mutation

# Threads and scheduler, critical sections, sleep, tokens, messages, IPIs, cpusync.
RULES = {
    f"{letter}{n}"
    for letter, last in {"T": 6, "C": 3, "S": 4, "K": 7, "M": 7, "I": 8, "Y": 3}.items()
    for n in range(1, last + 1)
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Threads die by the hundred here, each with its stack in the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("fault", MUTATIONS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault_is_found(fault: Mutation) -> None:
    finding = fault.hunt()
    assert finding is not None, "the fault was not found"
    named = re.findall(r"\b[TCSKMIY]\d\b", str(finding).partition(":")[0])
    assert set(named) & set(fault.rules), f"found, but as {finding!r}"


def test_every_rule_has_a_fault_of_its_own() -> None:
    """No check is there for show: each rule is broken by some fault, and named in the finding of the campaign."""
    assert {rule for fault in MUTATIONS for rule in fault.rules} == RULES


def test_names_are_unique() -> None:
    assert len({fault.name for fault in MUTATIONS}) == len(MUTATIONS)
