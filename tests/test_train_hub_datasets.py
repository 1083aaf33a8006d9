"""``-d hf:NAME``: data sets of the hub as one more source, tried on folders in its layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pellucid.base.errors import ConfigError
from pellucid.train.data.sources import documents, find_sources

TRAIN, TEST = ["床前明月光", "Tyger, Tyger"], ["burning bright"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set with two splits; nothing is fetched, and nothing is kept outside."""
    import datasets
    import datasets.config

    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    for split, texts in (("train", TRAIN), ("test", TEST)):
        (tmp_path / "poems").mkdir(exist_ok=True)
        lines = (json.dumps({"text": text, "number": 1}, ensure_ascii=False) + "\n" for text in texts)
        (tmp_path / f"poems/{split}.jsonl").write_text("".join(lines), "utf-8")
    return tmp_path / "poems"


def texts(name: str) -> list[str]:
    (source,) = find_sources([name])
    return ["".join(pieces) for pieces in documents(source)]


def test_a_data_set_is_read_split_by_split(folder: Path) -> None:
    assert texts(f"hf:{folder}") == texts(f"hf:{folder}:train") == texts(f"hf:{folder}:default:train") == TRAIN
    assert texts(f"hf:{folder}:test") == TEST


def test_a_data_set_that_changed_is_read_anew(folder: Path) -> None:
    before = find_sources([f"hf:{folder}:test"])
    assert find_sources([f"hf:{folder}:test"]) == before
    (folder / "test.jsonl").write_text(json.dumps({"text": "in the forests of the night", "number": 1}) + "\n")
    assert texts(f"hf:{folder}:test") == ["in the forests of the night"]


def test_a_data_set_or_split_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"hf:.*poems:nights"):
        find_sources([f"hf:{folder}:nights"])
    with pytest.raises(ConfigError, match="cannot be had"):
        find_sources([f"hf:{folder}-absent"])
    with pytest.raises(ConfigError, match=r"hf:NAME\[:CONFIG\]\[:SPLIT\]"):
        find_sources(["hf:a:b:c:d"])


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'pellucid\[datasets\]'"):
        find_sources(["hf:somebody/poems"])
