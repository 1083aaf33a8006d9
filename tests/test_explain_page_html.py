"""The page in one file: within its budget, atomic, and nothing in it can end its own script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from reference import tiny

from pellucid.base.errors import RequestError
from pellucid.explain.show.html import bundle, escape, write_page
from pellucid.explain.show.server import page_files
from pellucid.explain.trace import trace
from pellucid.families import FAMILIES

IDS = [5, 9, 2, 7]


def data_of(path: Path) -> dict:
    (block,) = re.findall(r'<script type="application/json" id="pellucid-data">(.*?)</script>', path.read_text(), re.S)
    return json.loads(block)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_written_whole(family: str, tmp_path: Path) -> None:
    its = trace(tiny(family), None, IDS)
    write_page(its, tmp_path / "page.html")
    data = data_of(tmp_path / "page.html")
    assert set(its) - {"logits"} <= set(data["tensors"])
    assert "every layer" in data["left_out"]["en"]
    assert "每一层" in data["left_out"]["zh"]


def test_the_budget_holds_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    its = trace(tiny("llama"), None, IDS * 4)
    write_page(its, tmp_path / "whole.html")
    whole = (tmp_path / "whole.html").stat().st_size
    least = len("".join(file.decode() for file in page_files().values()))
    for budget in range(least + 60_000, whole, (whole - least) // 5):
        write_page(its, tmp_path / "page.html", max_bytes=budget)
        assert (tmp_path / "page.html").stat().st_size <= budget
    data = data_of(tmp_path / "page.html")
    assert set(data["tensors"]) < set(data_of(tmp_path / "whole.html")["tensors"])


def test_too_small_a_budget_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not fit"):
        write_page(trace(tiny("llama"), None, IDS), tmp_path / "page.html", max_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_trace_of_some_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="every position"):
        write_page(trace(tiny("llama"), None, IDS, positions=[-1]), tmp_path / "page.html")


def test_chosen_layers_are_enough(tmp_path: Path) -> None:
    write_page(trace(tiny("llama"), None, IDS, layers=[0]), tmp_path / "page.html")
    assert "layers 0 of" in data_of(tmp_path / "page.html")["left_out"]["en"]


def test_nothing_escapes_its_json_block() -> None:
    hostile = "</script><!--<script>\u2028\u2029"
    written = escape(json.dumps(hostile, ensure_ascii=False))
    assert not set("<>\u2028\u2029") & set(written)
    assert json.loads(written) == hostile


def test_the_script_holds_every_module_once_and_no_import(tmp_path: Path) -> None:
    files = {name: content.decode() for name, content in page_files().items()}
    script = bundle(files)
    assert not re.search(r"^(import|export) ", script, re.M)
    for name in files:
        if name.endswith(".js"):
            assert script.count(f'modules["{name}"] = {{') == 1


def test_the_page_asks_nothing_of_the_network() -> None:
    for name, content in page_files().items():
        for address in re.findall(r"https?://[^\s\"'`)]+", content.decode()):
            assert address.startswith("http://www.w3.org/"), (name, address)  # names of MathML and SVG, never fetched


def test_the_pages_code_is_small_enough_to_read() -> None:
    assert sum(content.decode().count("\n") for content in page_files().values()) <= 3500


def test_both_languages_say_the_same_things() -> None:
    words = {name: page_files()[f"words.{name}.js"].decode() for name in ("en", "zh")}
    keys = {name: set(re.findall(r"(?:^  |, )(\w+): (?=[\"\[(`{\w])", text, re.M)) for name, text in words.items()}
    assert {key for key in keys["en"] ^ keys["zh"] if len(key) > 2} == set()
