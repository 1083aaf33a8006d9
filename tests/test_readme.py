"""The READMEs say what the code is: their tables of models are those that it makes, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from pellucid.families import FAMILIES
from pellucid.native.claims import supports

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh.md")
GUIDES = ("docs/add-a-family.md", "docs/add-a-family.zh.md")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


@pytest.fixture
def models_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "dev"))
    return importlib.import_module("models_table")


@pytest.mark.parametrize("readme", READMES)
def test_the_table_of_models_is_what_the_code_makes(readme: str, models_table: ModuleType) -> None:
    _, table, _ = models_table.parts(text_of(readme))
    assert table == models_table.table(readme), "run: python dev/models_table.py --write"


@pytest.mark.parametrize("readme", READMES)
def test_every_family_is_in_the_table_with_its_gguf_and_what_native_lacks(readme: str) -> None:
    lines = {line.split("|")[1].strip(): line for line in text_of(readme).splitlines() if line.startswith("| `")}
    for model_type, family in FAMILIES.items():
        *_, what, gguf, native, _ = lines[f"`{model_type}`"].split("|")
        assert what.strip()
        assert gguf.strip() == (f"`{family.GGUF.architecture}`" if family.GGUF else "–")
        refusal = supports(family.config(family.TINY))
        assert native.strip().startswith("✓" if refusal is None else "– `")
        assert refusal is None or native.strip()[3:-1] in refusal


@pytest.mark.parametrize("document", READMES + GUIDES)
def test_links_lead_to_files_and_headings_that_there_are(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        file = (ROOT / document).parent / name if name else ROOT / document
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings], target


@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide_shows_the_file_that_it_walks_through(guide: str) -> None:
    shown = re.findall(r"```python\n(\"\"\"Helium.*?)```", text_of(guide), re.DOTALL)
    assert shown == [text_of("src/pellucid/families/helium.py")]


@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide_names_files_and_tests_that_there_are(guide: str) -> None:
    text = text_of(guide)
    for name in re.findall(r"test_\w+\.py", text):
        assert (ROOT / "tests" / name).is_file(), name
    for name in re.findall(r"`((?:operations|model|native|families)/[\w./]+\w)`", text):
        assert (ROOT / "src" / "pellucid" / name).is_file(), name
