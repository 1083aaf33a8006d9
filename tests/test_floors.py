"""The house: a room imports only from floors below it, torch stays in its rooms, families in theirs."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.families import FAMILIES

SOURCE = Path(__file__).resolve().parent.parent / "src" / "pellucid"
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}

# Ground floor first. config and auto.py have landings of their own: what runs or builds a description names it.
FLOORS = (
    {"base", "web"},
    {"config"},
    {"rotary"},
    {"operations", "claims", "executor", "text", "sampling", "quant"},
    {"families", "defaults", "grammar"},
    {"checkpoint"},
    {"model", "native"},
    {"generate", "train"},
    {"auto"},
    {"causal_lm", "explain", "harness", "llama_cpp"},
    {"serve"},
    {"cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
TORCH_ROOMS = {"model", "train", "explain", "causal_lm"}

# Where a family's name is also somebody else's word: the pre-tokenizers and vocabularies inside GGUF, the tokenizer
# classes of tokenizer_config.json, the names of models, and the family that a llama2.c file is of.
HOMONYMS = {
    "text",
    "families",
    "checkpoint/sources/catalogue.py",
    "checkpoint/sources/hub_models.py",
    "checkpoint/files/llama2c.py",
    "native/vocabulary.py",
}


def room_of(path: Path) -> str:
    """The room a file is in; ``pellucid`` for the front door (__init__.py, __main__.py)."""
    first = path.relative_to(SOURCE).parts[0]
    return "pellucid" if first.startswith("__") else first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the room"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def at_module_level(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements that run on import: those in no function and under no ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        if (
            isinstance(child, ast.stmt)
            and not guarded
            and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        ):
            yield child
            yield from at_module_level(child)


def test_a_room_imports_only_from_floors_below() -> None:
    for path, tree in TREES.items():
        room = room_of(path)
        for module, line in imports(tree):
            package, _, rest = module.partition(".")
            other = rest.partition(".")[0]
            if package != "pellucid" or room == "pellucid" or other in (room, "", "__version__"):
                continue
            assert other in FLOOR, f"{path}:{line}: {module} is in no room that FLOORS knows"
            assert FLOOR[other] < FLOOR[room], (
                f"{path}:{line}: {room} (floor {FLOOR[room]}) imports {module} (floor {FLOOR[other]})"
            )


def test_no_import_circles() -> None:
    """Imports inside functions and under ``if TYPE_CHECKING`` count: who reads one file of a circle must read all."""
    names = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in TREES}
    modules = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        named = {module for module, _ in imports(TREES[path]) if module.startswith("pellucid")}
        graph[name] = {module if module in modules else module.rpartition(".")[0] for module in named} - {name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_torch_is_imported_only_where_it_runs_models() -> None:
    for path, tree in TREES.items():
        if room_of(path) in TORCH_ROOMS:
            continue
        for statement in at_module_level(tree):
            for module, line in imports(statement) if isinstance(statement, ast.Import | ast.ImportFrom) else ():
                room = module.removeprefix("pellucid.").partition(".")[0]
                assert room not in {"torch", *TORCH_ROOMS}, (
                    f"{path}:{line}: {module} is or imports torch; import it inside the function"
                )


def test_no_family_is_named_outside_its_file() -> None:
    for path, tree in TREES.items():
        if {room_of(path), str(path.relative_to(SOURCE))} & HOMONYMS:
            continue
        for constant in (node for node in ast.walk(tree) if isinstance(node, ast.Constant)):
            named = isinstance(constant.value, str) and constant.value in FAMILIES
            assert not named, f"{path}:{constant.lineno}: {constant.value!r}: name the feature, not the family"


@pytest.mark.parametrize(
    "arguments",
    [("-c", "import pellucid"), ("-m", "pellucid", "--help"), ("-m", "pellucid", "generate", "--help")],
    ids=" ".join,
)
def test_starting_up_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    run = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in run.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "pellucid" in imported
    heavy = {
        "torch",
        "numpy",
        "transformers",
        "tokenizers",
        "sentencepiece",
        "jinja2",
        "huggingface_hub",
        "safetensors",
        "rich",
        "jaxtyping",
        "starlette",
        "uvicorn",
    }
    assert not imported & heavy
