"""The native executor beside llama.cpp: speed, start, memory and exactness, on the same files with the same threads, in
one run.

    python bench/native.py --record                 # everything: about an hour on two quiet cores
    python bench/native.py --quick --only decode kl # some minutes

Both systems stay loaded and take turns within a round; a figure is the median of its round, a ratio the median of the
rounds' ratios, so a machine that drifts drifts for both. llama.cpp runs each row with the quickest of its settings
(flash attention on or off; with several requests, one cache or many), chosen before the rounds begin. The machine's
limits are measured in every round, and each system's share of them is given: of the memory's bandwidth in decode, of
the arithmetic in prefill.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from limits import limits
from native_files import file_of
from side_by_side import ROOT, TEXT, processor

WORKER = Path(__file__).with_name("native_worker.py")
SYSTEMS = ("pellucid", "llama.cpp")
ARITHMETIC = {"f32": "float32", "bf16": "bfloat16"}  # of prefill; quantized files multiply in int8


@dataclass(frozen=True)
class Row:
    """One line of the table. ``goal``: times llama.cpp."""

    part: str
    file: str
    prompt: int = 128
    requests: int = 1
    goal: float | None = None

    @property
    def name(self) -> str:
        kind = {
            "prefill": f"prefill of {self.prompt}",
            "batch": f"{self.requests} requests",
            "context": f"decode at {self.prompt}",
        }.get(self.part, "decode")
        return f"{self.file} {kind}"

    @property
    def is_prefill(self) -> bool:
        return self.part == "prefill"


ROWS = (
    *(
        Row("decode", file, goal=goal)
        for file, goal in (("q4_1", 2.5), ("q4_0", 1.8), ("q8_0", 1.5), ("bf16", 1.1), ("f32", 1.4), ("q4_k_m", None))
    ),
    *(Row("batch", file, 128, count, goal) for file in ("q4_0", "q8_0") for count, goal in ((8, 3.0), (32, 2.5))),
    *(
        Row("prefill", file, tokens, goal=goal)
        for file in ("q4_0", "q8_0")
        for tokens, goal in ((128, 2.3), (1024, 2.5))
    ),
    *(
        Row("prefill", file, tokens, goal=goal)
        for file, goal in (("q4_1", 5.0), ("bf16", None), ("f32", None))
        for tokens in (128, 1024)
    ),
    *(Row("context", "q4_0", tokens) for tokens in (256, 2048, 8064)),
    *(Row("decode", file, goal=goal) for file, goal in (("1b-q4_0", 1.15), ("1b-q8_0", 1.25))),
    *(Row("prefill", file, goal=1.8) for file in ("1b-q4_0", "1b-q8_0")),
    *(Row("batch", file, 128, 8, 2.0) for file in ("1b-q4_0", "1b-q8_0")),
    *(Row("decode", file, goal=1.2) for file in ("moe-q4_0", "moe-q8_0")),
    *(Row("prefill", file) for file in ("moe-q4_0", "moe-q8_0")),
    *(Row("batch", file, 128, 8) for file in ("moe-q4_0", "moe-q8_0")),
)
PARTS = ("decode", "batch", "prefill", "context", "start", "kl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--files", nargs="*", help="of q4_1 q4_0 q8_0 bf16 f32 q4_k_m 1b-q4_0 1b-q8_0 moe-q4_0 moe-q8_0; all"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=32, help="tokens decoded in a round")
    parser.add_argument("--quick", action="store_true", help="3 rounds, 12 steps, KL of 512 tokens")
    parser.add_argument(
        "--llamacpp-python", default=str(ROOT / ".venv-llamacpp" / "bin" / "python"), help="`make bench-peers` makes it"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="where text_misc and text_chinese are, for KL",
    )
    parser.add_argument("--record", action="store_true", help="write bench/records/native-DATE.json and .svg")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.steps = 3, 12
    if not Path(given.llamacpp_python).exists():
        sys.exit(f"llama.cpp is not at {given.llamacpp_python}; `make bench-peers` builds it")
    found: dict[str, dict] = {}
    print(f"limits: {told(limits(given.threads))}")
    for row in ROWS:
        if row.part in given.only and (not given.files or row.file in given.files):
            found[row.name] = measure(row, given)
            print(line(row.name, found[row.name]), flush=True)
    if "start" in given.only:
        found |= starts(given)
    if "kl" in given.only:
        for name in ("q4_1", "q4_0", "q8_0", "bf16", "q4_k_m"):
            if not given.files or name in given.files:
                found[f"{name} mean KL to float32"] = divergence(name, given)
    if given.record:
        record(found, given)


class Worker:
    """One system with one file, in a process of its own."""

    def __init__(self, system: str, file: Path, context: int, requests: int, given: argparse.Namespace) -> None:
        python = given.llamacpp_python if system == "llama.cpp" else sys.executable
        command = [python, str(WORKER), system, str(file), str(given.threads), str(context), str(requests)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.variants: list[str] = self._answer()

    def ask(self, **asked: object) -> dict:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError(f"a worker ended: {self.process.args}")
        return json.loads(text)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(row: Row, given: argparse.Namespace) -> dict:
    """A row's rounds: tokens a second of both systems, in turn."""
    file, steps = file_of(row.file, given.llamacpp_python), 1 if row.is_prefill else given.steps
    workers = {system: Worker(system, file, row.prompt + steps, row.requests, given) for system in SYSTEMS}
    asked = {"do": "measure", "prompt": row.prompt, "new": steps, "again": row.is_prefill}
    settings = {}

    def seconds(worker: Worker) -> float:  # a token
        answer = worker.ask(**asked)
        return answer["prefill"] / row.prompt if row.is_prefill else statistics.median(answer["steps"]) / row.requests

    try:
        for system, worker in workers.items():  # the first round warms up, and chooses
            tried = []
            for variant in range(len(worker.variants)):
                worker.ask(do="choose", variant=variant)
                seconds(worker)
                tried.append((seconds(worker), variant))
            worker.ask(do="choose", variant=min(tried)[1])
            settings[system] = worker.variants[min(tried)[1]]
        rounds: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        machine = []
        for _ in range(given.rounds):
            machine.append(limits(given.threads))
            for system, worker in workers.items():
                rounds[system].append(1 / seconds(worker))
    finally:
        for worker in workers.values():
            worker.close()
    return judged(rounds, row.goal) | {
        "unit": "tok/s",
        "settings": settings["llama.cpp"],
        "best ratio": max(rounds["pellucid"]) / max(rounds["llama.cpp"]),
        "limits": {name: statistics.median(its[name] for its in machine) for name in machine[0]},
        "share": {system: share(row, rounds[system], machine, file) for system in SYSTEMS},
    }


def judged(rounds: dict[str, list[float]], goal: float | None) -> dict:
    """Medians over rounds, and the median of the rounds' ratios."""
    return {
        **{system: statistics.median(values) for system, values in rounds.items()},
        "ratio": statistics.median(
            mine / theirs for mine, theirs in zip(rounds["pellucid"], rounds["llama.cpp"], strict=True)
        ),
        "goal": goal,
        "rounds": rounds,
    }


def share(row: Row, rates: list[float], machine: list[dict[str, float]], file: Path) -> float:
    """Of what the machine could do in the same round: bytes of weights read a second in decode, operations a second in
    prefill.
    """
    from pellucid.auto import open_model

    checkpoint = open_model(file)
    config = checkpoint.config
    if row.is_prefill:
        products = 2 * sum(
            weight.shape[0] * weight.shape[1] * chosen(config, name)
            for name, weight in matrices(checkpoint)
            if not name.startswith("lm_head")
        )
        arithmetic = ARITHMETIC.get(row.file, "int8")
        return statistics.median(
            rate * products / 1e9 / (its[arithmetic] or its["float32"])
            for rate, its in zip(rates, machine, strict=True)
        )
    read = sum(
        weight.data.nbytes * (1 - (1 - chosen(config, name)) ** row.requests)  # experts that any of the rows chose
        for name, weight in matrices(checkpoint)
        if config.tie_embeddings or name != "embed.weight"
    )
    if config.tie_embeddings:
        read += checkpoint.weights["embed.weight"].data.nbytes
    return statistics.median(
        rate / row.requests * read / 1e9 / its["read"] for rate, its in zip(rates, machine, strict=True)
    )


def chosen(config, name: str) -> float:
    """How probable it is that a token goes through a matrix: those of experts wait to be chosen."""
    if ".experts." not in name:
        return 1.0
    experts = config.layers[int(name.split(".")[1])].experts
    return experts.experts_per_token / experts.num_experts


def matrices(checkpoint):
    """The weights that a step reads as a whole: (name, array)."""
    for name in checkpoint.weights:
        array = checkpoint.weights[name]
        if len(array.shape) == 2 and name != "embed.weight":
            yield name, array


def told(its: dict[str, float]) -> str:
    return f"{its['read']:.1f} GB/s read; GFLOP/s " + ", ".join(
        f"{name} {its[name]:.0f}" for name in ("float32", "bfloat16", "int8")
    )


def line(name: str, its: dict) -> str:
    text = f"{name:28} {its['pellucid']:9.4g} and {its['llama.cpp']:9.4g} {its['unit']:6} {its['ratio']:6.2f} ×"
    if its["goal"]:
        text += f" (goal {its['goal']:g})"
    if "share" in its:
        ours, theirs = its["share"]["pellucid"], its["share"]["llama.cpp"]
        text += f"  of the machine {ours:.0%} and {theirs:.0%}, {told(its['limits'])}; {its['settings']}"
    return text


START_LLAMACPP = """
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_threads=int(sys.argv[2]), n_threads_batch=int(sys.argv[2]), verbose=False)
for part in model.create_completion(sys.argv[3], max_tokens=int(sys.argv[4]), temperature=0, stream=True):
    sys.stdout.write(part["choices"][0]["text"])
    sys.stdout.flush()
"""


def starts(given: argparse.Namespace) -> dict[str, dict]:
    """Seconds from the process's start to its first written byte, and its peak memory: whole programs, Q4_1."""
    file, threads = str(file_of("q4_1", given.llamacpp_python)), str(given.threads)
    pellucid = [
        str(Path(sys.executable).with_name("pellucid")),
        "generate",
        "-m",
        file,
        "-p",
        TEXT,
        "-n",
        "16",
        "-t",
        threads,
        "--quiet",
    ]
    commands = {
        "pellucid": pellucid,
        "llama.cpp": [given.llamacpp_python, "-c", START_LLAMACPP, file, threads, TEXT, "16"],
    }
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }  # installed packages are compiled
    seconds: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    memory: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    for turn in range(given.rounds + 1):  # the first fills the page cache
        for system, command in commands.items():
            start = time.perf_counter()
            first = peak = 0.0
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment
            ) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                while process.stdout.read(1):
                    first = first or time.perf_counter() - start
                    peak = peak_memory(process.pid) or peak
                said = process.stderr.read().decode()
            if process.returncode:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said[-1000:]}")
            if turn:
                seconds[system].append(first)
                memory[system].append(peak)
    found = {
        "q4_1 start to first token": judged(seconds, 1.0) | {"unit": "s"},
        "q4_1 peak memory": judged(memory, 1.2) | {"unit": "MB"},
    }
    for name, its in found.items():
        print(line(name, its), flush=True)
    return found


def peak_memory(pid: int) -> float:
    """MB that a process has held at most so far; 0 where it is gone. (Its parent's own peak would be in what wait4
    tells.)
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(row.split()[1]) / 1024 for row in text.splitlines() if row.startswith("VmHWM")), 0.0)


def divergence(name: str, given: argparse.Namespace) -> dict:
    """Mean KL(float32 ‖ system) over texts, nats a token, each system on the same file; float32 is torch on the
    dequantized weights.
    """
    import numpy as np

    file, pieces = file_of(name, given.llamacpp_python), texts(given)
    sums: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "logits.npy")
        workers = {system: Worker(system, file, len(pieces[0]), 1, given) for system in ("reference", *SYSTEMS)}
        for ids in pieces:
            found = {}
            for system, worker in workers.items():
                worker.ask(do="logits", ids=ids, path=path)
                logits = np.load(path)
                logits -= logits.max(-1, keepdims=True)
                found[system] = logits - np.log(np.exp(logits).sum(-1, keepdims=True, dtype=np.float64))
            for system in SYSTEMS:
                expected = found["reference"]
                sums[system] += (np.exp(expected) * (expected - found[system])).sum(-1).tolist()
        for worker in workers.values():
            worker.close()
    means = {system: float(np.mean(values)) for system, values in sums.items()}
    result = {
        **means,
        "ratio": means["pellucid"] / means["llama.cpp"],
        "goal": 1.0,
        "unit": "nats",
        "tokens": len(sums["pellucid"]),
    }
    # The difference's own uncertainty: of the mean over tokens.
    difference = np.array(sums["pellucid"]) - np.array(sums["llama.cpp"])
    result["ratio ±"] = float(difference.std() / np.sqrt(len(difference)) / means["llama.cpp"])
    print(
        line(f"{name} mean KL to float32", result), f" ± {result['ratio ±']:.2f}, {result['tokens']} tokens", flush=True
    )
    return result


def texts(given: argparse.Namespace) -> list[list[int]]:
    """Pieces of 256 tokens, English and Chinese by turns, from several places of each text: 2,560 in all, 512 where it
    is to be quick.
    """
    from pellucid.auto import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("smollm2")
    files = [next(iter(sorted(given.texts.glob(pattern)))) for pattern in ("text_misc/*izard*", "text_chinese/hong*")]
    pieces = []
    for place in range(1 if given.quick else 5):
        for file in files:
            text = file.read_text(encoding="utf-8")
            start = len(text) * (2 * place + 1) // 12
            pieces.append(list(tokenizer.encode(text[start : start + 3000]))[:256])
    return pieces


def record(found: dict[str, dict], given: argparse.Namespace) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.strip()
    path = ROOT / "bench" / "records" / f"native-{date.today().isoformat()}.json"
    path.parent.mkdir(exist_ok=True)
    facts = {
        "date": date.today().isoformat(),
        "commit": commit,
        "command": " ".join(["python", "bench/native.py", *sys.argv[1:]]),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "limits": limits(given.threads),
        },
        "threads": given.threads,
        "rows": found,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")
    draw(found, path.with_suffix(".svg"))
    print(f"written: {path.relative_to(ROOT)} and .svg")


def draw(found: dict[str, dict], path: Path) -> None:
    """Ratios as bars, goals as marks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(found)
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.28 * len(names)))
    axes.barh(names, [found[name]["ratio"] for name in names], color="#4878a8", height=0.6)
    for place, name in enumerate(names):
        if goal := found[name]["goal"]:
            axes.plot([goal, goal], [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.invert_yaxis()
    axes.set_xlabel("Pellucid / llama.cpp; black marks: goals (for start, memory and KL less is better)")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
