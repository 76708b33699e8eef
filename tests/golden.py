"""How tests reach the golden images: HAMMER volumes written by DragonFly's own code, with manifests.

The list of images is what the folder holds, so a new archive is taken up by itself. Each archive is unpacked once for
a whole run (all xdist workers share the folder, which is removed at the end), and a test that writes takes a private
copy whose holes stay holes::

    @pytest.mark.golden
    @pytest.mark.parametrize("name", golden_names())
    def test_it(golden: GoldenStore, name: str) -> None:
        image = golden[name]            # shared: read only
        private = golden.copy(name)     # this test's own

Nothing here imports the package under test but the sparse copy.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hammerfs.device.sparse import copy_sparse
from tests.conftest import GOLDEN_DIR

_SUFFIX = ".tar.xz"
_SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11.2, Debian 12's, does not know it."""
_CACHE = pytest.StashKey[Path]()
_CACHE_KEY = "hammerfs_golden_cache"


def golden_names(prefix: str = "") -> list[str]:
    """Names of the golden images that start with `prefix`, sorted; empty when the folder is absent."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in GOLDEN_DIR.glob(f"{prefix}*{_SUFFIX}"))


@dataclass(frozen=True)
class GoldenImage:
    """One unpacked image.

    Attributes:
        name: Its name, without a suffix.
        directory: The folder that holds its files and nothing else.
        volumes: Its volume files, in the order of the manifest (or of their names).
    """

    name: str
    directory: Path
    volumes: tuple[Path, ...]

    @property
    def spec(self) -> str:
        """The volumes as one colon list, as the tools take it."""
        return ":".join(str(path) for path in self.volumes)

    @property
    def has_manifest(self) -> bool:
        return (self.directory / f"{self.name}.json").exists()

    @property
    def manifest(self) -> dict[str, Any]:
        """The recorded manifest, parsed."""
        loaded: dict[str, Any] = json.loads((self.directory / f"{self.name}.json").read_text(encoding="utf-8"))
        return loaded

    def text(self, kind: str) -> str | None:
        """Recorded output `NAME.KIND.txt` of the original tools (show, blockmap, checkmap, cmd, newfs), if there."""
        path = self.directory / f"{self.name}.{kind}.txt"
        return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else None

    def data(self, suffix: str) -> bytes:
        """Bytes of the file `NAME.SUFFIX` (mirror streams)."""
        return (self.directory / f"{self.name}.{suffix}").read_bytes()


class GoldenStore:
    """Hands out images: shared ones by `store[name]`, private ones by `store.copy(name)`.

    Args:
        cache: Folder of the whole run in which archives are unpacked.
        private: Folder of this test for its copies.
    """

    def __init__(self, cache: Path, private: Path) -> None:
        self._cache = cache
        self._private = private

    def __getitem__(self, name: str) -> GoldenImage:
        """The shared image: never write to it."""
        return _image(name, _unpack(self._cache, name))

    def copy(self, name: str) -> GoldenImage:
        """A copy that belongs to the calling test, in a folder of its own."""
        shared = self[name]
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._private))
        for path in shared.directory.iterdir():
            copy_sparse(path, directory / path.name)
        return _image(name, directory)


def _image(name: str, directory: Path) -> GoldenImage:
    manifest = directory / f"{name}.json"
    if manifest.exists():
        names = json.loads(manifest.read_text(encoding="utf-8"))["volumes"]
    else:
        names = sorted(path.name for path in directory.glob("*.img"))
    return GoldenImage(name, directory, tuple(directory / volume for volume in names))


def _unpack(cache: Path, name: str) -> Path:
    """Unpack an archive once, however many workers ask for it at the same time."""
    directory = cache / name
    if directory.exists():
        return directory
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            partial = Path(tempfile.mkdtemp(prefix=f"{name}.partial-", dir=cache))
            with tarfile.open(GOLDEN_DIR / f"{name}{_SUFFIX}") as archive:
                archive.extractall(partial, **_SAFELY)
            partial.rename(directory)
    return directory


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of this run, or take the one the controller of the xdist workers made."""
    given = getattr(config, "workerinput", {}).get(_CACHE_KEY)
    config.stash[_CACHE] = Path(given or tempfile.mkdtemp(prefix="hammerfs-golden-"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a new xdist worker where the shared folder is."""
    node.workerinput[_CACHE_KEY] = os.fspath(node.config.stash[_CACHE])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder; only the process that made it does."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[_CACHE], ignore_errors=True)


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> GoldenStore:
    """The golden images; mark the test `golden`."""
    return GoldenStore(request.config.stash[_CACHE], tmp_path)


@pytest.fixture(scope="session")
def golden_shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoldenStore]:
    """The same for fixtures of a wider scope: copies live as long as the run."""
    private = tmp_path_factory.mktemp("golden")
    yield GoldenStore(request.config.stash[_CACHE], private)
    shutil.rmtree(private, ignore_errors=True)
