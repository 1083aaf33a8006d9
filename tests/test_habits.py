"""docs/habits.md is what the tests prove: each row has its test, and each mark its row."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def habits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "dev"))
    return importlib.import_module("habits")


def test_the_page_is_what_the_marks_of_the_tests_say(habits: ModuleType) -> None:
    page = (ROOT / habits.PAGE).read_text(encoding="utf-8")
    assert page == habits.page(), "run: python dev/habits.py --write"


def test_a_mark_that_says_nothing_is_refused(habits: ModuleType) -> None:
    row = ("loading", "x", "works", "", "tests/test_x.py::test_x")
    habits.Habit(*row)
    for place, wrong in ((0, "elsewhere"), (2, "maybe"), (2, "pointer"), (2, "differs")):
        with pytest.raises(ValueError, match="test_x"):
            habits.Habit(*(wrong if i == place else value for i, value in enumerate(row)))


def test_marks_are_read_from_decorators_parameters_and_tables(
    habits: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(
        "NAMES = {'a': 'write b', 'c': 1}\n"
        "@pytest.mark.habit('loading', 'one', 'works')\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.habit('model', 'two', 'differs', 'so'))])\n"
        "@pytest.mark.habits('config', 'c.{}', 'pointer', 'else', table='tests/test_x.py:NAMES')\n"
        "def test_x(x): ...\n"
    )
    monkeypatch.setattr(habits, "ROOT", tmp_path)
    habits._table.cache_clear()
    rows = [(row.section, row.typed, row.verdict, row.note) for row in habits.habits()]
    habits._table.cache_clear()
    assert rows == [
        ("loading", "one", "works", ""),
        ("config", "c.a", "pointer", "write b"),
        ("config", "c.c", "pointer", "else"),
        ("model", "two", "differs", "so"),
    ]


def test_what_proves_a_row_is_a_test_that_there_is(habits: ModuleType) -> None:
    for row in habits.habits():
        file, _, name = row.proof.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), row.proof
