"""The wheel without its `mount` extra: installs and runs with no C compiler, libfuse or trio."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NO_NETWORK = ("No matching distribution", "Could not find a version", "Connection", "Temporary failure")


def run(*argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env=clean | env, cwd="/", timeout=280, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "src"
    source.mkdir()
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, names):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            target = source / os.fsdecode(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    built = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, source)
    if built.returncode and any(text in built.stderr for text in NO_NETWORK):
        pytest.skip("no package registry: setuptools cannot be fetched")
    assert built.returncode == 0, built.stderr
    return next(out.glob("hammerfs-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; a compiler that always fails stands in for none."""
    env = tmp_path_factory.mktemp("venv")
    assert run(sys.executable, "-m", "venv", env).returncode == 0
    result = run(env / "bin/python", "-m", "pip", "install", "-q", wheel, CC="false", CXX="false")
    if result.returncode and any(text in result.stderr for text in NO_NETWORK):
        pytest.skip("no package registry: the dependencies cannot be fetched")
    assert result.returncode == 0, result.stderr
    return env / "bin"


def test_wheel_holds_the_packages_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"hammerfs", "kernelcore", "mkfs", "tools"}
    assert "kernelcore/py.typed" in names
    assert {f"tools/completion/program.{shell}" for shell in ("bash", "zsh", "fish")} <= set(names)


def test_the_mount_extra_is_really_absent(installed: Path) -> None:
    probe = "import importlib.util as u; print(*[m for m in ('trio', 'pyfuse3') if u.find_spec(m)])"
    assert run(installed / "python", "-c", probe).stdout.strip() == ""


def test_every_module_but_the_mount_imports(installed: Path) -> None:
    """All of the library, the tools and mkfs; only what serves a mount needs trio or pyfuse3."""
    probe = """
import importlib, pkgutil
for top in ("hammerfs", "kernelcore", "mkfs", "tools"):
    for info in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        if not info.name.startswith(("hammerfs.fuse", "kernelcore.host.trio_host", "kernelcore.lab")):
            if not info.name.endswith("__main__"):
                importlib.import_module(info.name)
"""
    result = run(installed / "python", "-W", "error", "-c", probe)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["hammer", "undo", "fstyp_hammer", "newfs_hammer", "mkfs.hammer", "fsck.hammer"])
def test_commands_run(installed: Path, command: str) -> None:
    result = run(installed / command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: {command}")
    assert result.stderr == ""


def test_the_simulator_runs(installed: Path) -> None:
    result = run(installed / "python", "-m", "kernelcore", "sim", "--list")
    assert result.returncode == 0, result.stderr
