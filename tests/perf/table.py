"""How benchmarks print: a table, or JSON with the same keys as the kernel core's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One operation, measured beside something else in the same run."""

    operation: str
    measured: float
    against: float
    ratio: float
    target: str
    ok: bool
    """Whether the target is met."""


def show(rows: Iterable[Row], *, as_json: bool) -> None:
    """Print them."""
    found = list(rows)
    if as_json:
        print(json.dumps([{**{k: v for k, v in row._asdict().items() if k != "ok"}, "pass": row.ok} for row in found]))
        return
    print(f"{'operation':60} {'measured':>10} {'against':>10} {'ratio':>7} {'target':>9}")
    for row in found:
        figures = f"{row.measured:10.2f} {row.against:10.2f} {row.ratio:7.2f} {row.target:>9}"
        print(f"{row.operation:60} {figures} {'pass' if row.ok else 'MISS'}")
