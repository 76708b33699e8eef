"""The manual pages: well formed, and no option missing in them or made up."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mkfs.options import build_parser as newfs_parser
from tools.cli import build_parser as hammer_parser
from tools.fsck.cli import build_parser as fsck_parser
from tools.fstyp import build_parser as fstyp_parser
from tools.mount_hammer import build_parser as mount_parser
from tools.mount_helper import build_mount_parser, build_umount_parser
from tools.undo import build_parser as undo_parser

MAN = Path(__file__).resolve().parents[2] / "docs" / "man"
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "fsck.hammer.8": fsck_parser,
    "fstyp_hammer.8": fstyp_parser,
    "hammer.8": hammer_parser,
    "mount.hammer.8": build_mount_parser,
    "mount_hammer.8": mount_parser,
    "newfs_hammer.8": newfs_parser,
    "umount.hammer.8": build_umount_parser,
    "undo.1": undo_parser,
}
_FLAG = re.compile(r"Fl (-?[A-Za-z0-9][A-Za-z-]*)")
pages = pytest.mark.parametrize("page", sorted(path.name for path in MAN.glob("*.[1-9]")))


def described(page: str) -> dict[str, str]:
    """Each option of the list of options, with the rest of its line."""
    found = {}
    for line in (MAN / page).read_text(encoding="utf-8").splitlines():
        if line.startswith(".It Fl"):
            flags = _FLAG.findall(line)
            found.update({f"-{flag}": line.partition(f"Fl {flags[-1]}")[2].strip() for flag in flags})
    return found


def in_synopsis(page: str) -> set[str]:
    text = (MAN / page).read_text(encoding="utf-8").split(".Sh SYNOPSIS\n")[1].split(".Sh DESCRIPTION\n")[0]
    flags = _FLAG.findall(text)
    return {f"-{letter}" for flag in flags for letter in (flag if flag[0] != "-" else [flag])}


@pages
def test_every_option_is_described(page: str) -> None:
    options = described(page)
    actions = [action for action in PARSERS[page]()._actions if action.option_strings]
    assert set(options) == {option for action in actions for option in action.option_strings}
    for action in actions:
        takes_value = action.nargs != 0
        assert all(options[option].startswith("Ar ") == takes_value for option in action.option_strings)
    assert in_synopsis(page) == {action.option_strings[0] for action in actions}


@pages
def test_required_options_are_so_in_the_synopsis(page: str) -> None:
    text = (MAN / page).read_text(encoding="utf-8").split(".Sh DESCRIPTION\n")[0]
    for action in PARSERS[page]()._actions:
        if action.option_strings:
            flag = action.option_strings[0][1:]
            assert (f"\n.Fl {flag} Ar" in text) == action.required, flag


def test_every_verb_is_described() -> None:
    text = (MAN / "hammer.8").read_text(encoding="utf-8")
    (verbs,) = [action.choices for action in hammer_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    heads = " ".join(line for line in text.splitlines() if line.startswith((".It Cm", ".Cm")))
    assert set(verbs) <= set(re.findall(r"[a-z][a-z0-9-]+", heads))


@pages
def test_mandoc_finds_nothing(page: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    # -W warning: style remarks depend on which other pages the machine has
    result = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", MAN / page], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    styles = subprocess.run(["mandoc", "-T", "lint", MAN / page], capture_output=True, text=True, check=False).stdout
    assert [line for line in styles.splitlines() if "referenced manual not found" not in line] == []
