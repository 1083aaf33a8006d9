"""Load, prefill, decode, memory: Pellucid beside transformers and llama.cpp, on the same file, prompt and threads, in
one run.

    python bench/side_by_side.py --model smollm2 --rounds 5 --record

Every measurement is a process of its own; systems take turns within a round, so a machine that drifts drifts for all.
Figures are medians over rounds; ratios are medians of each round's ratio. llama.cpp needs an environment with
llama-cpp-python in it (``make bench-peers`` builds one, natively compiled, in .venv-llamacpp); a system that is not
installed is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = "The history of the world is the history of a few people who wrote down what they saw, and of many who did not. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a GGUF file, or a catalogue alias of one")
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llamacpp-python", default=str(ROOT / ".venv-llamacpp" / "bin" / "python"))
    parser.add_argument("--record", action="store_true", help="write bench/records/side_by_side-DATE.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(SYSTEMS[given.worker](given)))
        return
    from pellucid.auto import locate

    given.model = str(locate(given.model))
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in given.systems}
    for turn in range(given.rounds + 1):  # the first round warms the page cache and is not counted
        for name in list(rows):
            row = measure(name, given)
            if row is None:
                del rows[name]
            elif turn:
                rows[name].append(row)
        print(f"round {turn} of {given.rounds}{' (warm-up)' if not turn else ''}", file=sys.stderr)
    report(rows, given, starts(given))


def measure(name: str, given: argparse.Namespace) -> dict[str, float] | None:
    """One process; its own figures, and the time from its start to its first token."""
    python = given.llamacpp_python if name.startswith("llama.cpp") else sys.executable
    if not Path(python).exists():
        print(f"{name}: left out, no {python}", file=sys.stderr)
        return None
    command = [python, __file__, "--worker", name, "--model", given.model, "--threads", str(given.threads)]
    command += ["--prompt-tokens", str(given.prompt_tokens), "--new-tokens", str(given.new_tokens)]
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    started = time.time()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(f"{name}: left out\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    row = json.loads(done.stdout.splitlines()[-1])
    row["start to first token (s)"] = row.pop("first_token_at") - started
    return row


def result(
    loaded: float, prefill: float, decode: float, first_at: float, given: argparse.Namespace
) -> dict[str, float]:
    return {
        "load (s)": loaded,
        "prefill (tok/s)": given.prompt_tokens / prefill,
        "decode (tok/s)": (given.new_tokens - 1) / decode,
        "peak memory (MB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "first_token_at": first_at,
    }


def pellucid(executor: str, dtype: str, given: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    from pellucid.auto import open_executor, open_model, tokenizer_of
    from pellucid.executor import StepInput

    checkpoint = open_model(given.model)
    ids = tokenizer_of(checkpoint).encode(TEXT * given.prompt_tokens)[: given.prompt_tokens]
    run = open_executor(checkpoint, executor=executor, dtype=dtype, threads=given.threads)
    loaded = time.perf_counter() - start
    slot = run.allocate(given.prompt_tokens + given.new_tokens)
    start = time.perf_counter()
    token = int(run.step([StepInput(slot, ids, (len(ids) - 1,))]).argmax()[0])
    first, first_at = time.perf_counter(), time.time()
    for _ in range(given.new_tokens - 1):
        token = int(run.step([StepInput(slot, [token], (0,))]).argmax()[0])
    return result(loaded, first - start, time.perf_counter() - first, first_at, given)


def transformers(dtype: str, given: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(given.threads)
    folder, file = os.path.split(given.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=getattr(torch, dtype)).eval()
    ids = torch.tensor([tokenizer.encode(TEXT * given.prompt_tokens)[: given.prompt_tokens]])
    loaded = time.perf_counter() - start
    with torch.inference_mode():
        start = time.perf_counter()
        out = model(ids, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        first, first_at = time.perf_counter(), time.time()
        for _ in range(given.new_tokens - 1):
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        token.item()
    return result(loaded, first - start, time.perf_counter() - first, first_at, given)


def llama_cpp(given: argparse.Namespace) -> dict[str, float]:
    start = time.perf_counter()
    import numpy as np
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

    size = given.prompt_tokens + given.new_tokens
    model = Llama(
        given.model, n_ctx=size, n_batch=512, n_threads=given.threads, n_threads_batch=given.threads, verbose=False
    )
    ids = model.tokenize((TEXT * given.prompt_tokens).encode(), add_bos=False)[: given.prompt_tokens]
    loaded = time.perf_counter() - start

    def next_token() -> int:
        return int(np.argmax(np.ctypeslib.as_array(model._ctx.get_logits_ith(-1), (model.n_vocab(),))))

    start = time.perf_counter()
    model.eval(ids)
    token = next_token()
    first, first_at = time.perf_counter(), time.time()
    for _ in range(given.new_tokens - 1):
        model.eval([token])
        token = next_token()
    return result(loaded, first - start, time.perf_counter() - first, first_at, given)


SYSTEMS = {
    "pellucid native": lambda given: pellucid("native", "auto", given),
    "pellucid torch float32": lambda given: pellucid("torch", "float32", given),
    "pellucid torch bfloat16": lambda given: pellucid("torch", "bfloat16", given),
    "transformers float32": lambda given: transformers("float32", given),
    "transformers bfloat16": lambda given: transformers("bfloat16", given),
    "llama.cpp": llama_cpp,
}


def starts(given: argparse.Namespace) -> dict[str, float]:
    """Seconds of whole processes that do next to nothing: imports, and --help. Median of ``rounds``."""
    commands = {
        "import pellucid": [sys.executable, "-c", "import pellucid"],
        "import pellucid; pellucid.AutoModelForCausalLM": [
            sys.executable,
            "-c",
            "import pellucid; pellucid.AutoModelForCausalLM",
        ],
        "import transformers": [sys.executable, "-c", "import transformers"],
        "import transformers; AutoModelForCausalLM": [
            sys.executable,
            "-c",
            "from transformers import AutoModelForCausalLM",
        ],
        "import llama_cpp": [given.llamacpp_python, "-c", "import llama_cpp"],
        "pellucid --help": [str(Path(sys.executable).parent / "pellucid"), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name, command in commands.items() if Path(command[0]).exists()}
    for _ in range(given.rounds):
        for name in seconds:
            start = time.perf_counter()
            subprocess.run(commands[name], capture_output=True, check=True)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(rows: dict[str, list[dict[str, float]]], given: argparse.Namespace, seconds: dict[str, float]) -> None:
    figures = {
        name: {key: statistics.median(row[key] for row in taken) for key in taken[0]}
        for name, taken in rows.items()
        if taken
    }
    base = "llama.cpp" if "llama.cpp" in figures else next(iter(figures))
    ratios = {
        name: {
            key: statistics.median(mine[key] / theirs[key] for mine, theirs in zip(rows[name], rows[base], strict=True))
            for key in figures[name]
        }
        for name in figures
    }
    for name, its in figures.items():
        cells = "  ".join(f"{key} {value:.4g} ({ratios[name][key]:.2f}×)" for key, value in its.items())
        print(f"{name:24} {cells}")
    print(f"(×: beside {base})")
    for name, value in seconds.items():
        print(f"{name:50} {value:.3f} s")
    if given.record:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
        ).stdout.strip()
        record = {
            "date": date.today().isoformat(),
            "commit": commit,
            "command": " ".join(sys.argv),
            "machine": {
                "processor": processor(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "system": platform.platform(),
            },
            "model": Path(given.model).name,
            "settings": {key: getattr(given, key) for key in ("prompt_tokens", "new_tokens", "threads", "rounds")},
            "medians": figures,
            f"ratios to {base}": ratios,
            "process start (s)": seconds,
            "rounds": rows,
        }
        path = ROOT / "bench" / "records" / f"side_by_side-{record['date']}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"written: {path.relative_to(ROOT)}")


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
