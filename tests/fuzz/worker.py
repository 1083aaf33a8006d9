"""The process in which hostile input is read: bounded in memory and time, so that a bomb is a failure and no more.

    PYTHONPATH=tests python -m fuzz.worker tokenizer-json 1234            one input, its failure as a traceback
    PYTHONPATH=tests python -m fuzz.worker tokenizer-json 1234 --keep x   … and its files in the folder x
    python -m fuzz.worker --plan plan.json --report report.jsonl          many, for test_fuzz_readers.py

An input is (target, number), the same for ever. Limits: ``SECONDS`` of the processor's time, and as much resident
memory as four times the files (``Target.times``) and ``SPARE`` more. Memory is measured by the kernel, whoever
allocates it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz.targets import TARGETS, Target
from pellucid.base.errors import PellucidError

SECONDS = 2.0
SPARE = 64 * 2**20  # bytes
ADDRESS_SPACE = 2 * 2**30  # more than this beyond what the process has is no memory, but an allocation that fails
GRACE = 6  # seconds after which a library that does not return is ended with its process


class TooSlowError(BaseException):
    """Raised into an input that takes too long; no reader can take it for an error of the file."""


class Case:
    """A target's input by number: which seed, which file, and its damaged bytes."""

    def __init__(self, name: str, target: Target, number: int) -> None:
        rng = random.Random(f"{name}:{number}")
        seeds = _seeds(name, target)
        self.seed = rng.randrange(len(seeds))
        files = seeds[self.seed]
        self.file = rng.choice(sorted(set(files) - set(target.fixed)))
        self.data = files[self.file].damaged(rng)
        self.size = len(self.data) + sum(
            len(content) for name, content in _whole(name, target, self.seed).items() if name != self.file
        )


_made: dict[str, Any] = {}


def _seeds(name: str, target: Target) -> list[Any]:
    if name not in _made:
        _made[name] = target.seeds()
    return _made[name]


_wholes: dict[tuple[str, int], dict[str, bytes]] = {}


def _whole(name: str, target: Target, seed: int) -> dict[str, bytes]:
    if (name, seed) not in _wholes:
        _wholes[name, seed] = {file: content.whole() for file, content in _seeds(name, target)[seed].items()}
    return _wholes[name, seed]


def write_seed(folder: Path, name: str, target: Target, seed: int) -> None:
    for file, data in _whole(name, target, seed).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)


class Reader:
    """Reads inputs of one target in a folder of its own for each seed."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.target, self.root = name, TARGETS[name], root

    def folder_of(self, seed: int) -> Path:
        folder = self.root / self.name / str(seed)
        if not folder.exists():
            folder.mkdir(parents=True)
            write_seed(folder, self.name, self.target, seed)
        return folder

    def check_seeds(self) -> None:
        """Every seed is readable as it is: a harness whose seeds are refused would find nothing behind the refusal.

        The first reading also fills what libraries keep, so that it is not taken for an input's.
        """
        for seed in range(len(_seeds(self.name, self.target))):
            try:
                self.target.read(self.folder_of(seed))
            except PellucidError:
                if self.name not in ("torch-bin", "records-masked"):  # some seeds of theirs are of what is refused
                    raise

    def read(self, number: int) -> str | None:
        """What is wrong with how an input was read; None where nothing is."""
        case = Case(self.name, self.target, number)
        folder = self.folder_of(case.seed)
        path, before = folder / case.file, _whole(self.name, self.target, case.seed)[case.file]
        path.write_bytes(case.data)
        gc.disable()
        allowed = self.target.times * case.size + SPARE
        resident = _reset_peak()
        start, problem = time.process_time(), None
        try:
            with _watched():
                self.target.read(folder)
        except PellucidError as error:
            if not str(error):
                problem = "an error without a word"
        except TooSlowError as error:
            problem = f"more than {SECONDS} s: {_place(error)}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            problem = f"{type(error).__name__}: {str(error)[:200]!r} {_place(error)}"
        seconds, peak = time.process_time() - start, _peak() - resident
        gc.enable()
        path.write_bytes(before)
        if problem is None and seconds > SECONDS:
            problem = f"{seconds:.1f} s"
        if problem is None and peak > allowed:
            problem = f"{peak >> 20} MB of memory for {case.size >> 10} kB of files"
        return problem


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/pellucid/" in frame.filename] or frames
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(ours[-3:]))


@contextmanager
def _watched() -> Iterator[None]:
    """Python code is ended by an exception; a library that does not come back, with the process (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + SECONDS) + GRACE
    before = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS + 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_CPU, before)


def _status(key: str) -> int:
    """A size of /proc/self/status in bytes; 0 where there is none (not Linux): memory is then not measured."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
    except (OSError, StopIteration):
        return 0


def _reset_peak() -> int:
    """Resident memory now; the kernel's high-water mark begins again."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return 2**62  # nothing is measured
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _limit_memory() -> None:
    if size := _status("VmSize"):
        resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, resource.RLIM_INFINITY))


def _too_slow(*_: object) -> None:
    raise TooSlowError


def _set_up() -> None:
    os.environ["PELLUCID_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_slow)
    sys.unraisablehook = lambda _: None  # a destructor that the time limit fell into
    import torch

    torch.set_num_threads(1)


def run_plan(plan: list[tuple[str, int, int]], report: Path, root: Path) -> None:
    """Read inputs ``first`` to ``last`` of each target; what is at hand stands in ``report``.now, failures in it."""
    now = os.open(f"{report}.now", os.O_CREAT | os.O_WRONLY)
    for name, first, last in plan:
        reader = Reader(name, root)
        os.pwrite(now, f"{name} -1".ljust(80).encode(), 0)
        reader.check_seeds()
        _limit_memory()
        for number in range(first, last):
            os.pwrite(now, f"{name} {number}".ljust(80).encode(), 0)
            if problem := reader.read(number):
                with open(report, "a") as file:
                    file.write(json.dumps([name, number, problem]) + "\n")
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", nargs="?", choices=list(TARGETS))
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    _set_up()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        if options.plan:
            run_plan(json.loads(options.plan.read_text()), options.report, Path(root))
            return
        target = TARGETS[options.target]
        case = Case(options.target, target, options.number)
        folder = options.keep or Path(root) / "one"
        folder.mkdir(parents=True, exist_ok=True)
        write_seed(folder, options.target, target, case.seed)
        (folder / case.file).write_bytes(case.data)
        print(f"seed {case.seed}, {case.file}: {case.data[:2000]!r}", file=sys.stderr)
        _limit_memory()
        before, start = _reset_peak(), time.process_time()
        try:
            target.read(folder)
        except PellucidError as error:
            print(f"{type(error).__name__}: {error}")
        finally:
            print(f"{time.process_time() - start:.2f} s, {_peak() - before >> 20} MB")


if __name__ == "__main__":
    main()
