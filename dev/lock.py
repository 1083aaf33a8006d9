"""Resolve pyproject.toml into requirements/*.lock: `make lock`. Needs uv, which it puts into .venv.

The locks name every package with its hashes, for Linux and macOS and every Python that Pellucid supports, and no index.
torch and the CUDA libraries it brings on Linux are left out: dev/setup_env.py installs the build that suits the
machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APART = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
HEADER = "# Made by `make lock` from pyproject.toml; do not edit. torch is installed apart (dev/setup_env.py).\n"


def resolve(groups: list[str], *options: str) -> str:
    """uv's resolution of the project and the given dependency groups, one for all Pythons and platforms."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "pyproject.toml",
        "--universal",
        "--python-version",
        "3.11",
    ]
    command += ["--fork-strategy", "fewest", "--no-header", "--no-annotate", "--upgrade"]
    command += [part for group in groups for part in ("--group", group)]
    return subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def lock(name: str, groups: list[str], *options: str) -> None:
    """Write one lock file."""
    apart = [match.group(1) for match in map(APART.match, resolve(groups, *options).splitlines()) if match]
    left_out = [part for package in apart for part in ("--no-emit-package", package)]
    text = resolve(groups, "--generate-hashes", *left_out, *options)
    path = ROOT / "requirements" / f"{name}.lock"
    path.write_text(HEADER + text)
    print(f"{path.relative_to(ROOT)}: {len(re.findall('^[a-z]', text, re.MULTILINE))} packages")


if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "uv"], check=True)
    lock("runtime", ["setup"])
    lock("dev", ["setup", "dev"], "--constraint", "requirements/runtime.lock")
    lock("long", ["setup", "dev", "long"], "--constraint", "requirements/dev.lock")
