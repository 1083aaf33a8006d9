"""The two files: run.c compiles clean with any compiler, answers as the library does, and ends clearly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from reference import tiny

from pellucid.base.array import Array
from pellucid.config import weight_shapes
from pellucid.executor import StepInput
from pellucid.families import FAMILIES, llama
from pellucid.model.load import weights_of
from pellucid.native.build import compiler
from pellucid.native.claims import supports
from pellucid.native.executor import NativeExecutor
from pellucid.native.two_files import write_two_files

pytestmark = pytest.mark.skipif(
    compiler() is None, reason="no C compiler; install gcc or clang, or `pip install ziglang`"
)
STRICT = ("-std=gnu11", "-O1", "-march=native", "-Wall", "-Wextra", "-Werror", "-pthread")
SANITIZED = (*STRICT, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build(folder: Path, name: str = "run", command: tuple[str, ...] = ("cc", *STRICT)) -> Path:
    if (folder / name).exists():
        return folder / name
    done = subprocess.run([*command, "run.c", "-o", name, "-lm"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / name


def run(program: Path, *arguments: str, parameters: str = "parameters") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, program.parent / parameters, *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


def written(family: str, folder: Path) -> Path:
    decoder = tiny(family)
    target = folder / family
    if not target.exists():
        assert "token ids" in write_two_files(decoder.config, dict(weights_of(decoder)), target, "none")
    return target


def expected_ids(family: str, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens of the library, up to an end."""
    decoder = tiny(family)
    executor = NativeExecutor(decoder.config, dict(weights_of(decoder)), threads=1, flags=("-O1",))
    slot, new, found = executor.allocate(len(prompt) + count), prompt, []
    for _ in range(count):
        new = [int(executor.step([StepInput(slot, new, (len(new) - 1,))]).argmax()[0])]
        if new[0] in decoder.config.eos_token_ids:
            break
        found += new
    return found


QUICK = ("gpt2", "llama")  # these are built for other tests, too
RUN = [name for name, its in FAMILIES.items() if supports(its.config(its.TINY)) is None]


@pytest.mark.parametrize(
    "family", [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in RUN]
)
def test_every_familys_program_compiles_without_a_warning_runs_under_the_sanitizers_and_says_what_the_library_says(
    family: str, folder: Path
) -> None:
    program = build(written(family, folder), "sanitized", ("cc", *SANITIZED))
    done = run(program, "5 6 7 8 9 10 11", "-n", "20", "-t", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(token) for token in done.stdout.split()] == expected_ids(family, [5, 6, 7, 8, 9, 10, 11], 20)


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang; apt-get install clang")
def test_clang_compiles_it_without_a_warning_too(folder: Path) -> None:
    program = build(written("qwen3", folder), "clang", ("clang", *STRICT))
    assert [int(token) for token in run(program, "5 6 7", "-n", "9").stdout.split()] == expected_ids(
        "qwen3", [5, 6, 7], 9
    )


@pytest.mark.parametrize("path", [(), ("-mno-avx512f",), ("-DPLAIN_C",)], ids=["native", "avx2", "plain"])
def test_every_instruction_set_says_the_same_tokens(path: tuple[str, ...], folder: Path) -> None:
    program = build(written("chatglm", folder), "path" + "".join(path), ("cc", *STRICT, *path))
    assert [int(token) for token in run(program, "5 6 7", "-n", "12").stdout.split()] == expected_ids(
        "chatglm", [5, 6, 7], 12
    )


ARM = "aarch64-linux-gnu-gcc"


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which(ARM) and shutil.which("qemu-aarch64")),
    reason="apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)
def test_neon_says_the_same_tokens_in_an_emulator(folder: Path) -> None:
    target = written("qwen3", folder)
    flags = [flag for flag in STRICT if flag != "-march=native"]
    program = build(target, "arm", (ARM, *flags, "-march=armv8.2-a+dotprod", "-static"))
    done = subprocess.run(
        ["qemu-aarch64", program, target / "parameters", "5 6 7", "-n", "9"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert [int(token) for token in done.stdout.split()] == expected_ids("qwen3", [5, 6, 7], 9)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="apt-get install valgrind")
def test_valgrind_finds_nothing_on_the_plain_path(folder: Path) -> None:
    flags = [flag for flag in STRICT if flag != "-march=native"]  # valgrind knows no AVX-512
    target = written("qwen3", folder)
    program = build(target, "checked", ("cc", *flags, "-g", "-DPLAIN_C"))
    checked = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--fair-sched=yes"]
    done = subprocess.run(
        [*checked, program, target / "parameters", "5 6 7", "-n", "9", "-t", "2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(token) for token in done.stdout.split()] == expected_ids("qwen3", [5, 6, 7], 9)


def test_what_cannot_be_done_ends_clearly(folder: Path) -> None:
    target = written("gpt2", folder)
    program = build(target, "sanitized", ("cc", *SANITIZED))
    whole = (target / "parameters").read_bytes()
    (target / "short").write_bytes(whole[:-1])
    (target / "long").write_bytes(whole + b"\0")
    (target / "other").write_bytes(b"\0" * 32 + whole[32:])
    (target / "empty").write_bytes(b"")
    for name in ("short", "long", "other", "empty"):
        assert "not the one that this program was made with" in run(program, "1", parameters=name).stderr
    cases = [
        (("1", "-n", "2"), "absent", "cannot be opened"),
        (("96",), "parameters", "out of range"),
        (("-5",), "parameters", "out of range"),
        (("1 2 x",), "parameters", "token ids"),
        ((" ",), "parameters", "empty"),
        (("1", "-n", "100"), "parameters", "a prompt of 1 tokens and -n 100 are more than the context of 64"),
        (("1", "-n", "64"), "parameters", "more than the context of 64"),
        (("1", "-n", "9999999"), "parameters", "more than the context of 64"),
        (("1", "-t", "0"), "parameters", "out of range"),
        (("1 " * 65,), "parameters", "too long: 65 tokens, where the model has room for 64"),
        (("1", "-n"), "parameters", "-n takes a number"),
        (("1", "-n", "ten"), "parameters", "-n takes a number"),
        (("1", "-T", "nan"), "parameters", "-T takes a number"),
        (("1", "--temperature", "1"), "parameters", "no option --temperature"),
        (("1", "-x"), "parameters", "no option -x"),
        (("1", "2", "3"), "parameters", "too many arguments"),
        ((), "parameters", "use: run"),
    ]
    for arguments, parameters, message in cases:
        done = run(program, *arguments, parameters=parameters)
        assert (done.returncode, message in done.stderr) == (1, True), (arguments, done.stderr)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_program_writes_up_to_the_end_of_the_context_and_no_further(name: str, folder: Path) -> None:
    """Learned positions and rotary ones alike; without -n as many as there is room for."""
    target = written(name, folder)
    program = build(target, "sanitized", ("cc", *SANITIZED))
    prompt = "1 " * 60
    asked = run(program, prompt, "-n", "4")
    assert asked.returncode == 0
    assert len(asked.stdout.split()) <= 4
    assert run(program, prompt, "-n", "5").returncode == 1
    assert run(program, prompt).stdout == asked.stdout
    assert run(program, "1 " * 64).stdout.strip() == ""
    assert "too long: 65 tokens" in run(program, "1 " * 65).stderr


def test_damaged_numbers_give_wrong_answers_and_nothing_worse(folder: Path) -> None:
    target = written("llama", folder)
    program = build(target, "sanitized", ("cc", *SANITIZED))
    whole = bytearray((target / "parameters").read_bytes())
    damage = np.random.default_rng(0)
    for _ in range(5):
        whole[4096:] = damage.integers(0, 256, len(whole) - 4096, np.uint8).tobytes()
        (target / "damaged").write_bytes(whole)
        assert run(program, "1 2 3", "-n", "8", parameters="damaged").returncode == 0


def test_nothing_but_numbers_enters_the_program(folder: Path) -> None:
    """A hostile name, in whatever key, cannot reach the text of run.c."""
    evil = "*/ int evil; /*"
    config = llama.config(llama.TINY | {"architectures": [evil], "_name_or_path": evil, "extra": evil})
    weights = {name: Array.from_numpy(np.ones(shape, np.float32)) for name, shape in weight_shapes(config).items()}
    write_two_files(config, weights, folder / "evil", "none")
    assert "evil" not in (folder / "evil" / "run.c").read_text()
