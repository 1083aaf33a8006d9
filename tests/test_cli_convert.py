"""``pellucid convert --two-files``: what it prints is what to type next, and that answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import absent

from pellucid.cli.convert import COMPILE


def test_the_two_files_compile_and_tell_the_published_story(stories: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        absent("no C compiler; install gcc")
    run = subprocess.run(
        [sys.executable, "-m", "pellucid", "convert", stories / "stories260K.bin", tmp_path, "--two-files"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(tmp_path / "parameters"), str(tmp_path / "run.c")]
    assert COMPILE in run.stderr
    told = subprocess.run(
        f'{COMPILE} "Once upon a time"',
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    story = (stories / "greedy_257.txt").read_text(encoding="utf-8")
    assert story[len("Once upon a time") : 120] in told.stdout


def test_without_a_form_it_says_what_there_is(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pellucid", "convert", "smollm2", tmp_path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "--two-files" in run.stderr
