"""Whatever a file says, a reader answers or raises one of Pellucid's errors; in 2 s, within 4 × its size and 64 MB.

Every reader of a file that somebody else wrote is in ``fuzz.targets``. A failure names its input, and the one line that
reads that input again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz.targets import TARGETS, plan

TESTS = Path(__file__).resolve().parent.parent
SILENCE = 120  # seconds in which a process that does nothing is waiting for itself
CRASHES = 20  # after so many the rest of a plan is left

Failures = dict[str, list[str]]


def failures_of(wanted: list[tuple[str, int, int]], folder: Path) -> Failures:
    """Run a plan to its end, in one process after another: a crash is a failure of its input, and the next goes on."""
    report, waiting = folder / "report.jsonl", list(wanted)
    failures: Failures = {}
    for _ in range(CRASHES):
        (folder / "plan.json").write_text(json.dumps(waiting))
        code, errors = _run(folder, report)
        if code == 0:
            break
        name, at = (folder / "report.jsonl.now").read_bytes().split()[:2]
        name, at = name.decode(), int(at)
        if at < 0:
            failures.setdefault(name, []).append(f"a seed of {name} cannot be read:\n{errors[-2000:]}")
        else:
            reason = f"ended by signal {-code}" if code < 0 else errors[-500:]
            failures.setdefault(name, []).append(f"{_again(name, at)}\n    {reason}")
        place = next(place for place, (other, _, _) in enumerate(waiting) if other == name)
        _, _, last = waiting[place]
        rest = [(name, at + 1, last)] if 0 <= at < last - 1 else []
        waiting = [*rest, *waiting[place + 1 :]]
    else:
        failures.setdefault("crashes", []).append(f"{CRASHES} inputs ended their process; the rest was left")
    if report.exists():
        for line in report.read_text().splitlines():
            name, number, problem = json.loads(line)
            failures.setdefault(name, []).append(f"{_again(name, number)}\n    {problem}")
    return failures


def _run(folder: Path, report: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "fuzz.worker", "--plan", str(folder / "plan.json"), "--report", str(report)]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "RAYON")}
    env = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", **threads}
    with open(folder / "errors", "wb") as errors:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=errors)
    now, said, since = Path(f"{report}.now"), b"", time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        news = now.read_bytes() if now.exists() else b""
        if news != said:
            said, since = news, time.monotonic()
        elif time.monotonic() - since > SILENCE:
            process.kill()
            process.wait()
    return process.returncode, (folder / "errors").read_text(errors="replace")


def _again(name: str, number: int) -> str:
    return f"PYTHONPATH=tests python -m fuzz.worker {name} {number}"


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Failures:
    wanted = [(name, 0, count) for name, count in plan(int(os.environ.get("PELLUCID_FUZZ", "1500")))]
    return failures_of(wanted, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", [*TARGETS, "crashes"])
def test_hostile_files_are_read_or_refused_in_our_words(name: str, failures: Failures):
    assert not failures.get(name), "\n".join(failures[name][:20])


@pytest.mark.slow
def test_a_hundred_thousand_hostile_files(tmp_path: Path):
    wanted = [(name, 10_000_000, 10_000_000 + count) for name, count in plan(100_000)]
    found = failures_of(wanted, tmp_path)
    assert not found, "\n".join(line for lines in found.values() for line in lines[:20])


def test_a_bomb_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The harness itself: a reader that allocates, hangs in a library, or raises something of its own, fails."""
    from fuzz import worker
    from fuzz.mutations import Json
    from fuzz.targets import Target

    def read(folder: Path) -> None:
        what = json.loads((folder / "x.json").read_text())
        if what == "memory":
            bytearray(512 * 2**20)
        if what == "time":
            end = time.process_time() + 4
            while time.process_time() < end:
                pass
        if what == "error":
            raise TypeError("raw")

    class Fixed(Json):
        def damaged(self, rng: object) -> bytes:
            return self.whole()

    monkeypatch.setattr(worker, "SECONDS", 0.5)
    monkeypatch.setattr(worker, "GRACE", 60)  # this process is pytest's own, and large
    import signal

    previous = signal.signal(signal.SIGPROF, worker._too_slow)
    try:
        for what, expected in (
            ("memory", "MB of memory"),
            ("time", "more than 0.5 s"),
            ("error", "TypeError"),
            ("", None),
        ):
            monkeypatch.setitem(TARGETS, what, Target(lambda what=what: [{"x.json": Fixed(what)}], read))
            problem = worker.Reader(what, tmp_path).read(0)
            assert problem is None if expected is None else problem and expected in problem
    finally:
        signal.signal(signal.SIGPROF, previous)
