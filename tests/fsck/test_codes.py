"""The codes in the program and in the documentation are the same, and the code names only those."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fsck import test_damage, test_freemap, test_golden, test_links
from tools import fsck
from tools.fsck.findings import CODES

ROOT = Path(__file__).resolve().parents[2]


def test_documented() -> None:
    text = (ROOT / "docs" / "fsck-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (error|note) \| .+ \|$", text, re.MULTILINE)
    assert dict(rows) == CODES
    assert len(rows) == len(CODES)
    assert [code for code, _ in rows] == list(CODES)


def test_every_code_is_used() -> None:
    folder = Path(fsck.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path.name != "findings.py")
    assert [code for code in CODES if f'"{code}"' not in source] == []


def test_every_code_is_tested() -> None:
    source = "".join(
        Path(str(module.__file__)).read_text(encoding="utf-8")
        for module in (test_damage, test_freemap, test_golden, test_links)
    )
    assert [code for code in CODES if f'"{code}"' not in source] == []
