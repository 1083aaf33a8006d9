"""Where what only Unix has is missing, as on Windows: torch runs the models, and everything but native goes on.

Simulated: the modules and functions that Windows' Python lacks are hidden from a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from option_walk import make_model

HIDDEN = """
import os, sys
for name in ("readline", "fcntl", "termios", "tty", "pty", "resource", "pwd", "grp"):
    sys.modules[name] = None
for name in ("fork", "getuid", "geteuid", "getgid", "sched_getaffinity", "sysconf", "statvfs", "getloadavg", "killpg"):
    if hasattr(os, name):
        delattr(os, name)
from click.testing import CliRunner
from pellucid.cli.app import app
def pellucid(*words, typed=""):
    done = CliRunner().invoke(app, [str(word) for word in words], input=typed)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    print(done.stderr, file=sys.stderr)
    print(done.stdout)
model, folder, text = sys.argv[1:]
"""


def run(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDDEN + program, *map(str, words)]
    environment = os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.mark.habit("shell", "on Windows: generate, chat, list, inspect, tokenize", "works", "with torch; simulated")
def test_models_answer_with_torch(model: Path, tmp_path: Path) -> None:
    program = """
pellucid("generate", "-m", model, "-p", "abc", "-n", "3", "--temp", "0", "--executor", "auto")
pellucid("chat", "-m", model, "-n", "3", typed="hello\\n/save " + folder + "/said\\n/exit\\n")
pellucid("inspect", "-m", model)
pellucid("tokenize", "-m", model, "abc")
pellucid("list")
"""
    done = run(program, model, tmp_path, "")
    assert "running with torch, which is slower here: the native executor runs on Linux and macOS" in done.stderr
    assert "answer 3 tokens" in done.stderr
    assert (tmp_path / "said").is_file()


@pytest.mark.slow
@pytest.mark.habit("shell", "on Windows: pretrain, finetune, evaluate, convert", "works", "simulated")
def test_models_are_trained_and_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("one two three " * 200)
    program = """
small = ("--depth", "1", "--context-len", "16", "--batch-size", "2", "--steps", "2", "--vocab-size", "300")
pellucid("pretrain", "-d", text, "-o", folder + "/run", *small, "-q")
pellucid("evaluate", "-m", model, "-d", text)
pellucid("convert", model, folder + "/copy", "--dtype", "bfloat16")
"""
    run(program, model, tmp_path, tmp_path / "text")
    assert (tmp_path / "copy" / "config.json").is_file()
    assert (tmp_path / "run").is_dir()
