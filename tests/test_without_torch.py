"""The native way from a prompt to its answer never touches torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import absent

from pellucid.native.build import compiler

PROGRAM = """
import sys
sys.modules["torch"] = None  # importing it now raises ImportError
from pellucid.cli.app import run
sys.argv = ["pellucid", "generate", "-m", sys.argv[1], "-n", "40", "--executor", "native"]
run()
"""


def test_generate_runs_in_a_process_where_importing_torch_raises(stories: Path) -> None:
    if compiler() is None:
        absent("no C compiler; install gcc or clang")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, stories / "stories260K.bin"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    published = (stories / "greedy_257.txt").read_text(encoding="utf-8")
    assert run.stdout.strip()
    assert published.startswith(run.stdout.strip())


def test_the_same_without_native_fails_by_its_import(stories: Path) -> None:
    """So that the test above cannot pass by torch being importable after all."""
    program = PROGRAM.replace('"native"', '"torch"')
    run = subprocess.run(
        [sys.executable, "-c", program, stories / "stories260K.bin"], capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "torch" in run.stderr


@pytest.mark.parametrize("name", ["AutoTokenizer", "Engine", "SamplingParams", "ModelConfig"])
def test_torch_free_names_of_the_front_door(name: str) -> None:
    program = f"import sys; sys.modules['torch'] = None; import pellucid; pellucid.{name}"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
