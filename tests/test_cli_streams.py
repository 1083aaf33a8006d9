"""Closed, full and narrow terminals: the program says what it can, where it can, and never shows a traceback."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = f"'{sys.executable}' -m pellucid"
GENERATE = "generate -m tiny -n 4 -p hi --temperature 0"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"{PROGRAM} {command}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def answer() -> str:
    return shell(f"{GENERATE} -q").stdout


def test_without_a_standard_output_the_program_says_so_and_goes_on() -> None:
    result = shell(f"{GENERATE} >&-")
    assert result.returncode == 0
    assert result.stderr.startswith("standard output is closed")
    assert "4 tokens" in result.stderr


def test_without_standard_error_the_answer_is_all_there_is(answer: str) -> None:
    assert shell(f"{GENERATE} 2>&-").stdout == answer != ""


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("tokenize -m tiny", 0, "0 tokens"),
        ("generate -m tiny --prompts -", 2, "standard input: there is no prompt"),
        ("chat -m tiny", 2, "no chat template"),
    ],
)
def test_a_closed_standard_input_is_an_empty_one(command: str, status: int, message: str) -> None:
    result = shell(f"{command} <&-")
    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_chat_without_a_standard_input_ends_at_once(tmp_path: Path, answer: str) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    result = shell(f"chat -m tiny --chat-template '{template}' -n 4 -p hi --temperature 0 -q <&-")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("command", [GENERATE, "tokenize -m tiny --ids hello", "inspect tiny --json", "list --json"])
def test_full_output_is_named(command: str) -> None:
    result = shell(f"{command} -q >/dev/full" if command == GENERATE else f"{command} >/dev/full")
    assert result.returncode == 2
    assert result.stderr == "Error: standard output: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_standard_error_stops_no_answer(answer: str) -> None:
    result = shell(f"{GENERATE} 2>/dev/full")
    assert (result.returncode, result.stdout) == (0, answer)


@pytest.mark.parametrize("command", ["tokenize -m tiny --json 'a b c d e f g h'", "list"])
def test_a_reader_that_leaves_is_no_error_for_any_command(command: str) -> None:
    result = shell(f"{command} | head -c 1")
    assert len(result.stdout) == 1
    assert result.stderr == ""


@pytest.mark.parametrize("columns", ["0", "-3", "wide", ""])
def test_a_terminal_of_no_width_is_as_if_it_had_not_said(columns: str) -> None:
    plain, narrow = (shell("inspect tiny", COLUMNS=width) for width in ("80", columns))
    assert (narrow.returncode, narrow.stdout) == (0, plain.stdout)


def test_an_answer_is_written_on_a_terminal_that_says_it_has_no_columns(answer: str) -> None:
    ours, theirs = pty.openpty()  # of size 0 × 0
    with subprocess.Popen(
        ["bash", "-c", f"{PROGRAM} {GENERATE} -q"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "0", "LINES": "0"},
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 1000):
                written += chunk
        except OSError:  # Linux's word for the end
            pass
        _, error = process.communicate(timeout=60)
    os.close(ours)
    assert (process.returncode, error) == (0, b"")
    assert written.decode().split() == answer.split()


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.base.files import write_json

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_json(tmp_path / "page.json", {})
    assert caught.value.filename == str(tmp_path / "page.json")
    assert list(tmp_path.iterdir()) == []
