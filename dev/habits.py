"""docs/habits.md, made from the tests: what hands know from elsewhere, and whether it works here.

    python dev/habits.py            # prints the page
    python dev/habits.py --write    # puts it into docs/habits.md

A test that proves a habit says so by a mark, which is read from its source, not run:

    @pytest.mark.habit("generate", "model.generate(max_length=…)", "works")
    @pytest.mark.habit("loading", "from_pretrained(max_memory=…)", "pointer", "a model is on one device")
    @pytest.mark.habits("generate", "model.generate({}=…)", "pointer", table="src/pellucid/causal_lm/x.py:NAMES")

``habits`` stands for a row for each key of a dict, or item of a tuple, of constants (``{}`` is the key; a text as
value is the note). A mark may also stand in a ``pytest.param(…, marks=…)`` of the test's own list.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/habits.md"
SECTIONS = {
    "loading": "Loading a model",
    "generate": "`model.generate`",
    "forward": "Calling a model",
    "config": "Its configuration",
    "model": "The model itself",
    "saving": "Saving and sharing",
    "tokenizer": "The tokenizer",
    "chat": "Chat templates and tools",
    "pipeline": "Pipelines, streamers, seeds",
    "tutorials": "Tutorials with only the import changed",
    "tools": "PEFT, TRL, accelerate, `transformers` itself",
    "llama-cpp": "llama-cpp-python",
    "shell": "The shell: Ollama's, llama.cpp's, mlx-lm's words",
    "conversation": "Inside a conversation",
    "server": "Servers and their clients",
    "structure": "Structured output",
    "data": "Data",
    "training": "Training",
    "evaluate": "Evaluating",
}
VERDICTS = {"works": "✓", "pointer": "→", "differs": "≠"}
HEAD = """\
# Habits

<!-- made by `python dev/habits.py --write` from the marks of the tests -->

What hands know from `transformers`, PEFT, TRL, Ollama, llama.cpp and mlx-lm, and what becomes of it here. Every row
is made from the test that proves it. ✓: it works as you know it; →: it is not here, and an error of one line says what
to write instead; ≠: it does something else, for a reason, and a line says so when it does (of names and types, this
page does).
"""


@dataclass(frozen=True)
class Habit:
    """A row: what is typed, what becomes of it, and the test that proves it."""

    section: str
    typed: str
    verdict: str
    note: str
    proof: str  # tests/test_x.py::test_name

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise ValueError(f"{self.proof}: section {self.section!r} is none of {', '.join(SECTIONS)}")
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.proof}: {self.verdict!r} is none of {', '.join(VERDICTS)}")
        if self.verdict != "works" and not self.note:
            raise ValueError(f"{self.proof}: {self.typed!r}: say in the note what to write instead, or what differs")


def habits() -> list[Habit]:
    """All rows, by section, in the order of the tests. Raises: ValueError for a mark that is none, or given twice."""
    made = [habit for path in sorted((ROOT / "tests").glob("test_*.py")) for habit in _of_file(path)]
    seen: dict[tuple[str, str], Habit] = {}
    for habit in made:
        if (other := seen.setdefault((habit.section, habit.typed), habit)) is not habit:
            raise ValueError(f"{habit.typed!r} is proven twice: {other.proof}, {habit.proof}")
    order = list(SECTIONS)
    return sorted(made, key=lambda habit: order.index(habit.section))


def _of_file(path: Path) -> Iterator[Habit]:
    text = path.read_text(encoding="utf-8")
    if "mark.habit" not in text:
        return
    for test in ast.parse(text).body:
        marks = _marks(test) if isinstance(test, ast.FunctionDef) else []
        if marks and isinstance(test, ast.FunctionDef) and not test.name.startswith("test_"):
            raise ValueError(f"{path.name}: {test.name} is no test, and proves nothing")
        for mark in marks:
            assert isinstance(test, ast.FunctionDef)
            yield from _of_mark(mark, f"tests/{path.name}::{test.name}")


def _marks(test: ast.FunctionDef) -> list[ast.Call]:
    """The marks in its decorators, wherever in them they stand."""
    return [
        call
        for decorator in test.decorator_list
        for call in ast.walk(decorator)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("pytest.mark.habit", "pytest.mark.habits")
    ]


def _of_mark(mark: ast.Call, proof: str) -> Iterator[Habit]:
    words = [ast.literal_eval(word) for word in mark.args]
    more = {str(word.arg): ast.literal_eval(word.value) for word in mark.keywords}
    if ast.unparse(mark.func).endswith(".habit"):
        section, typed, verdict, *note = words
        yield Habit(section, typed, verdict, more.get("note", note[0] if note else ""), proof)
        return
    section, typed, verdict, *note = words
    for key, value in _table(more["table"]):
        said = value if isinstance(value, str) else more.get("note", note[0] if note else "")
        yield Habit(section, typed.replace("{}", str(key)), verdict, said, proof)


@cache
def _table(place: str) -> list[tuple[object, object]]:
    """Keys and, where they are constants, values of a dict (or items of a tuple) of a file, without running it."""
    file, _, name = place.partition(":")
    for statement in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if isinstance(target, ast.Name) and target.id == name and isinstance(statement, (ast.Assign, ast.AnnAssign)):
            value = statement.value
            if isinstance(value, ast.Dict):
                return [
                    (ast.literal_eval(key), one.value if isinstance(one, ast.Constant) else None)
                    for key, one in zip(value.keys, value.values, strict=True)
                    if key is not None
                ]
            return [(key, None) for key in _items(value)]
    raise ValueError(f"{place}: there is no such table")


def _items(value: ast.expr | None) -> list[object]:
    """A tuple or list of constants, tuples unpacked into it included."""
    assert isinstance(value, (ast.Tuple, ast.List, ast.Set))
    return [
        item
        for one in value.elts
        for item in (_items(one.value) if isinstance(one, ast.Starred) else [ast.literal_eval(one)])
    ]


def page() -> str:
    """What docs/habits.md is."""
    rows = habits()
    counts = ", ".join(f"{sum(row.verdict == verdict for row in rows)} {mark}" for verdict, mark in VERDICTS.items())
    lines = [HEAD, f"{len(rows)} habits: {counts}."]
    for section, heading in SECTIONS.items():
        if not (here := [row for row in rows if row.section == section]):
            continue
        lines += ["", f"## {heading}", "", "| you type | here | | proven by |", "|---|:-:|---|---|"]
        lines += [
            f"| {_cell(row.typed, code=True)} | {VERDICTS[row.verdict]} | {_cell(row.note)} | {_proof(row.proof)} |"
            for row in here
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str, code: bool = False) -> str:
    """Text in a cell of a table; what is typed is code, unless it says itself which part is."""
    text = " ".join(text.split()).replace("|", "\\|")
    return f"`{text}`" if code and "`" not in text else text


def _proof(proof: str) -> str:
    file, _, test = proof.partition("::")
    return f"[{test.removeprefix('test_').replace('_', ' ')}](../{file})"


def main() -> None:
    if "--write" in sys.argv[1:]:
        (ROOT / PAGE).write_text(page(), encoding="utf-8")
    else:
        print(page())


if __name__ == "__main__":
    main()
