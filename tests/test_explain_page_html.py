"""The page in one file: within its budget, atomic, and nothing in it can end its own script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from reference import telling, tiny

from pellucid.base.errors import RequestError
from pellucid.explain.show.html import bundle, escape, write_page
from pellucid.explain.show.page import page_files
from pellucid.explain.trace import trace
from pellucid.families import FAMILIES

IDS = [5, 9, 2, 7]


def data_of(path: Path) -> dict:
    (block,) = re.findall(r'<script type="application/json" id="pellucid-data">(.*?)</script>', path.read_text(), re.S)
    return json.loads(block)


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
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
    """Characters of code and style; the words are the page's text."""
    written = {name: content.decode() for name, content in page_files().items() if not name.startswith("words.")}
    assert sum(map(len, written.values())) <= 300_000


def test_modules_import_in_every_form_we_write() -> None:
    page = {
        "main.js": 'import { one } from "./a.js";\n'
        'import {\n  two,\n  three as third,\n} from "./b/c.js";\none(two, third);\n',
        "a.js": "export function one() {}\n",
        "b/c.js": "import { one } from '../a.js'\nexport const two = one;\nexport async function three() {}\n",
    }
    script = bundle(page)
    assert 'const { two, three: third } = modules["b/c.js"];' in script
    assert (
        script.index('modules["a.js"] =') < script.index('modules["b/c.js"] =') < script.index('modules["main.js"] =')
    )
    for form in ('import one from "./a.js";', 'import * as a from "./a.js";', "export default one;", "export { one };"):
        with pytest.raises(AssertionError, match="a form of import or export"):
            bundle({"main.js": form, "a.js": ""})


def test_keys_of_a_worked_example() -> None:
    text = """export const en = {
      a: "b: c", // d: e
      "f-g": `h ${i ? { j: 1 } : "}"} k: ${`l`}`,
      m: { n: "o", p: (q) => ({ r: q }) },
      s: (t) => { const u = { v: 1 }; return [u.v, t ? "w" : "x"]; },
      y: ["z: 1", { aa: 2 }],
    };"""
    assert keys_of(text) == {"a", "f-g", "m", "m.n", "m.p", "s", "y"}


def test_both_languages_say_the_same_things() -> None:
    keys = {name: keys_of(page_files()[f"words.{name}.js"].decode()) for name in ("en", "zh")}
    assert len(keys["en"]) > 200
    assert keys["en"] == keys["zh"]


def keys_of(text: str) -> set[str]:
    """The keys of the object that a module of words exports: ``norm_at.mlp.before``. What is inside functions, lists
    and templates is no key.
    """
    keys: set[str] = set()
    path: list[str | None] = []  # for each open bracket its key; None where what is inside are no keys of ours
    at, key, fresh = text.index("= {") + 2, "", False
    while at < len(text):
        char = text[at]
        if text.startswith("//", at):
            at = text.index("\n", at)
        elif text.startswith("/*", at):
            at = text.index("*/", at) + 2
        elif char in "\"'`":
            end = end_of_string(text, at)
            if fresh and text[end:].lstrip().startswith(":"):
                key, fresh = text[at + 1 : end - 1], False
                keys.add(".".join([*filter(None, path), key]))
            at = end
        elif fresh and (match := re.compile(r"([\w$]+)\s*:").match(text, at)):
            key, fresh, at = match[1], False, match.end() - 1
            keys.add(".".join([*filter(None, path), key]))
        elif char in "{[(":
            ours = char == "{" and None not in path and (not path or re.search(r":\s*$", text[:at]))
            path.append((key if path else "") if ours else None)
            fresh, at = bool(ours), at + 1
        elif char in "}])":
            path.pop()
            if not path:
                return keys
            fresh, at = False, at + 1
        else:
            fresh = (fresh and char.isspace()) or (char == "," and None not in path)
            at += 1
    raise AssertionError("the object does not end")


def end_of_string(text: str, at: int) -> int:
    """The place after a string or template that begins at ``at``."""
    quote, at = text[at], at + 1
    while text[at] != quote:
        if text[at] == "\\":
            at += 1
        elif quote == "`" and text.startswith("${", at):
            at, depth = at + 2, 1
            while depth:
                if text[at] in "\"'`":
                    at = end_of_string(text, at) - 1
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
            continue
        at += 1
    return at + 1
