"""The program as a whole: help, start-up, and how failures leave it. Real processes, as a shell would start them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pellucid.cli.app import COMMANDS, app
from pellucid.cli.app import run as run_program

PROGRAM = [sys.executable, "-m", "pellucid"]


def run(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, **settings)  # type: ignore[call-overload]


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)])
def test_help_fits_eighty_columns_and_ends_well(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert max(map(len, result.output.splitlines())) <= 80
    assert "..." not in result.output.replace("[ARGS]...", ""), "a summary was cut off"


@pytest.mark.parametrize("arguments", [("--help",), ("generate", "--help"), ("--version",)], ids=" ".join)
def test_help_takes_less_than_a_fifth_of_a_second(arguments: tuple[str, ...]) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*arguments, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        )  # of the processor: neighbours do not count

    assert min(seconds() for _ in range(5)) < 0.2


def test_options_are_listed_under_their_headings() -> None:
    output = CliRunner().invoke(app, ["generate", "--help"]).output
    places = [output.index(f"\n{heading}:\n") for heading in ("Model", "Prompt", "Sampling", "Options")]
    assert places == sorted(places)


def test_a_mistyped_command_is_suggested() -> None:
    result = run("tokenise", "x")
    assert result.returncode == 2
    assert "Did you mean tokenize or tokenizer?" in result.stderr


def test_bad_input_is_one_message_and_status_2(tmp_path: Path) -> None:
    result = run("generate", "-m", tmp_path / "absent.gguf")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["", " ", "a" * 5000, "~nobody-of-that-name/x", "\x1b[31mx", "x\udcffy", "/dev/null"])
def test_a_name_that_names_no_model_is_said_in_one_short_printable_line(name: str) -> None:
    result = run("inspect", "-m", name, "--offline")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.replace("\n", "").isprintable()
    assert max(map(len, result.stderr.splitlines())) < 2100


def test_more_threads_than_any_machine_has_are_refused(stories: Path) -> None:
    for command in ("generate", "explain", "evaluate"):
        result = run(command, "-m", stories / "stories260K.bin", "-t", 10**25)
        assert result.returncode == 2
        assert "1<=x<=1024" in result.stderr


def test_a_lack_of_memory_is_one_message_and_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def out_of_memory(**_: object) -> None:
        raise MemoryError("no memory for the model")

    monkeypatch.setattr("pellucid.cli.app.app", out_of_memory)
    with pytest.raises(SystemExit) as end:
        run_program()
    assert end.value.code == 1
    assert capsys.readouterr().err == "Error: no memory for the model\n"


def test_a_debugging_person_gets_the_traceback(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "absent.gguf", env={**os.environ, "PELLUCID_DEBUG": "1"})
    assert "Traceback" in result.stderr
    assert "ModelNotFoundError" in result.stderr


def test_a_reader_that_leaves_is_no_error(stories: Path) -> None:
    command = f"'{sys.executable}' -m pellucid generate -q -m '{stories}/stories260K.bin' | head -c 4"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    said = [
        line for line in result.stderr.splitlines() if not line.startswith("compiling the model")
    ]  # once for each processor
    assert (result.stdout, said) == ("Once", [])


def test_colour_is_for_terminals_only(tmp_path: Path) -> None:
    assert "\x1b" not in run("inspect", tmp_path / "absent.gguf").stderr
