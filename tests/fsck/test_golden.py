"""Every image that DragonFly's own code wrote is sound: notes at most, and which ones is known."""

from __future__ import annotations

import pytest

from tests.golden import GoldenStore, golden_names
from tools.fsck import check

FRESH = {
    "header-crc-unset",
    "zone-crc-stale",
    "node-mirror-tid-fresh",
    "record-tid-fresh",
}
NOTES = {
    "dragonfly-v1-2009": {"fifo-unwritten", "stat-freebigblocks-old", "payload-zone"},
    "vol2-spread": {"header-crc-unset"},
}
"""Images with other notes than their kind has."""


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_names())
def test_clean(golden: GoldenStore, name: str) -> None:
    found = check(golden[name].spec, data=True)
    assert [str(finding) for finding in found if finding.is_error] == []
    allowed = NOTES.get(name, FRESH if name.startswith("fresh") else {"dirty"} if name.startswith("crash") else set())
    assert {finding.code for finding in found} <= allowed
    if name.startswith("crash"):
        assert [finding.code for finding in found] == ["dirty"]
