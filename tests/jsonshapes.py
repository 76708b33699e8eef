"""The shapes of JSON that `docs/json.md` tells, read from the page itself, and values held against them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "json.md"
_BLOCK = re.compile(r"^```json\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_TID = re.compile(r"0x[0-9a-f]{16}\Z")


def shapes() -> dict[str, Any]:
    """The shape of each command."""
    found: dict[str, Any] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        heads, _, rest = section.partition("\n")
        (shape,) = _BLOCK.findall(rest)
        for head in heads.split(", "):
            assert head not in found
            found[head] = json.loads(shape)
    return found


def mismatch(value: Any, shape: Any, place: str = "") -> str | None:
    """Where a value is not as a shape says; None when it is."""
    if isinstance(shape, str):
        return None if any(_is_a(value, kind) for kind in shape.split("|")) else f"{place}: {value!r} is no {shape}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place}: {value!r} is no list"
        found = (mismatch(item, shape[0], f"{place}[{i}]") for i, item in enumerate(value))
        return next((text for text in found if text is not None), None)
    if not isinstance(value, dict):
        return f"{place}: {value!r} is no object"
    wanted = {key.removesuffix("?"): kind for key, kind in shape.items()}
    missing = {key for key in shape if not key.endswith("?") and key != "*"} - value.keys()
    if missing:
        return f"{place}: {sorted(missing)} missing"
    for key, item in value.items():
        if key not in wanted and "*" not in wanted:
            return f"{place}: there is no {key!r} on the page"
        text = mismatch(item, wanted.get(key, wanted.get("*")), f"{place}.{key}")
        if text is not None:
            return text
    return None


def _is_a(value: Any, kind: str) -> bool:
    if kind == "any":
        return True
    if kind == "tid":
        return isinstance(value, str) and _TID.match(value) is not None
    types = {
        "int": (int,),
        "number": (int, float),
        "bool": (bool,),
        "null": (type(None),),
        "list": (list,),
        "text": (str,),
        "name": (str,),
    }[kind]
    return isinstance(value, types) and (isinstance(value, bool) == (kind == "bool"))
