"""Training beside nanoGPT, transformers' Trainer and litgpt on the same machine in the same run.

    python bench/pretrain.py --record --data input.txt --nanogpt CHECKOUT          # everything: about 20 minutes on two
    quiet cores python bench/pretrain.py --only throughput --systems "pellucid" "nanoGPT" --dtypes float32 --rounds 1
    --steps-per-round 2

``shakespeare``: nanoGPT's setting for a CPU (4 layers, 4 heads, width 128, context 64, 12 rows, by characters), 2000
steps to a validation loss, one after the other as a person would start them; nanoGPT from a checkout that is prepared
(data/shakespeare_char/prepare.py). ``throughput``: 6 layers of width 384, context 256, 8 rows, GPT-2's vocabulary; all
systems stand ready in processes of their own and take turns. MFU is a step's FLOPs by the model's size over its time,
against what matrix products alone reached in the same round. litgpt runs where ``--litgpt PYTHON`` names a Python that
has it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from pellucid.train.runs import sizes

ROOT = Path(__file__).resolve().parent.parent
RECIPE, WORKER = ROOT / "recipes" / "shakespeare.yaml", ROOT / "bench" / "pretrain_worker.py"
SYSTEMS = ("pellucid", "pellucid --compile", "nanoGPT", "nanoGPT compiled", "transformers Trainer", "litgpt compiled")
FEWER = "pellucid, 3/5 steps"  # stops where it is better than the others at their end: how long does a given loss take?
SMALL = {"depth": 4, "d-model": 128, "heads": 4, "context": 64, "rows": 12}
LARGE = {"depth": 6, "d-model": 384, "heads": 6, "context": 256, "rows": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=["shakespeare", "throughput"], default=["shakespeare", "throughput"]
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/text_shakespeare/input.txt")
    parser.add_argument("--nanogpt", type=Path, help="a checkout; without it nanoGPT is left out")
    parser.add_argument("--litgpt", type=Path, help="a Python that has litgpt; without it litgpt is left out")
    parser.add_argument("--steps", type=int, default=2000, help="of shakespeare")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--vocab", type=int, default=50257, help="of throughput")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps-per-round", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", action="store_true", help="write bench/records/pretrain-DATE.json")
    its = parser.parse_args()
    wanted = [
        name for name in its.systems if (its.nanogpt or "nanoGPT" not in name) and (its.litgpt or "litgpt" not in name)
    ]
    left_out = sorted(set(its.systems) - set(wanted))
    found: dict[str, Any] = {"load_before": os.getloadavg()[0], "left_out": left_out}
    if left_out:
        print(f"left out: {', '.join(left_out)} (see --nanogpt, --litgpt)", file=sys.stderr)
    if "shakespeare" in its.only:
        runs = [name for name in wanted if name in SYSTEMS[:4]]
        found["shakespeare"] = {
            name: shakespeare(name, its) for name in (*runs, *([FEWER] if "pellucid" in runs else []))
        }
        print_shakespeare(found["shakespeare"])
    if "throughput" in its.only:
        found["throughput"] = {dtype: throughput(wanted, dtype, its) for dtype in its.dtypes}
        for dtype, systems in found["throughput"].items():
            print_throughput(dtype, systems)
    found["load_after"] = os.getloadavg()[0]
    if its.record:
        record(found)


# --- shakespeare -----------------------------------------------------------------------------------------------------


def shakespeare(name: str, its: argparse.Namespace) -> dict[str, Any]:
    """Wall seconds of the whole command, tokens/s of its steps alone (median), validation loss at the end."""
    steps = its.steps * 3 // 5 if name == FEWER else its.steps
    print(f"{name}: {steps} steps …", file=sys.stderr)
    began = time.perf_counter()
    seconds, val_loss = (_pellucid if "pellucid" in name else _nanogpt)(its, steps, compiled="compile" in name)
    wall = time.perf_counter() - began
    rate = SMALL["rows"] * SMALL["context"] / median(seconds)
    return {"steps": steps, "wall_seconds": round(wall, 1), "tokens_per_second": round(rate), "val_loss": val_loss}


def _pellucid(its: argparse.Namespace, steps: int, *, compiled: bool) -> tuple[list[float], float]:
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "pretrain",
            "--config",
            RECIPE,
            "-d",
            its.data.resolve(),
            "-o",
            folder,
            "--steps",
            steps,
            "-t",
            its.threads,
            "-q",
        ]
        words += ["--warmup-steps", min(100, steps // 4), "--eval-every", 0, "--sample-every", 0, "--save-every", 0]
        words += ["--compile"] if compiled else []
        subprocess.run([sys.executable, "-m", "pellucid", *map(str, words)], check=True)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines], lines[-1]["val_loss"]


def _nanogpt(its: argparse.Namespace, steps: int, *, compiled: bool) -> tuple[list[float], float]:
    words = [
        "train.py",
        "config/train_shakespeare_char.py",
        "--device=cpu",
        f"--compile={compiled}",
        "--eval_iters=145",
        "--log_interval=1",
    ]
    words += ["--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0"]
    words += [f"--max_iters={steps}", f"--lr_decay_iters={steps}", f"--eval_interval={steps}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(its.threads)}
    run = subprocess.run(
        [sys.executable, *words], cwd=its.nanogpt, check=True, capture_output=True, text=True, env=environment
    )
    seconds = [
        float(ms) / 1000 for ms in re.findall(r"^iter \d+: loss [\d.]+, time ([\d.]+)ms", run.stdout, re.MULTILINE)
    ]
    return seconds, float(re.findall(r"val loss ([\d.]+)", run.stdout)[-1])


# --- throughput ------------------------------------------------------------------------------------------------------


class Worker:
    """A system in a process of its own, ready to take steps."""

    def __init__(self, name: str, dtype: str, its: argparse.Namespace) -> None:
        words = [
            name,
            "--vocab",
            its.vocab,
            "--threads",
            its.threads,
            *(word for size, value in LARGE.items() for word in (f"--{size}", value)),
        ]
        words += ["--bf16"] if dtype == "bfloat16" else []
        words += ["--nanogpt", its.nanogpt.resolve()] if its.nanogpt else []
        python = its.litgpt if "litgpt" in name else sys.executable
        environment = {**os.environ, "OMP_NUM_THREADS": str(its.threads)}
        self._process = subprocess.Popen(
            [str(python), str(WORKER), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def take(self, steps: int) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._process.args[2:3])} ended with {self._process.wait()}")  # type: ignore[index]
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


def throughput(names: list[str], dtype: str, its: argparse.Namespace) -> dict[str, Any]:
    """tokens/s and MFU of each system: medians over rounds in which all take turns."""
    config = sizes.describe(
        "gpt2",
        sizes.Sizes(
            depth=LARGE["depth"], d_model=LARGE["d-model"], num_heads=LARGE["heads"], context_len=LARGE["context"]
        ),
        vocab_size=its.vocab,
    )
    tokens = LARGE["rows"] * LARGE["context"]
    flops = sizes.flops_per_token(config, LARGE["context"]) * tokens  # of a step
    workers: dict[str, Worker] = {}
    failed = {}
    for name in ["peak", *names]:
        print(f"{dtype}: {name} prepares …", file=sys.stderr)
        try:
            workers[name] = Worker(name, dtype, its)
        except RuntimeError as error:
            failed[name] = str(error)
            print(error, file=sys.stderr)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(its.rounds):
        for name, worker in workers.items():
            rounds[name].append(worker.take(its.steps_per_round))
    for worker in workers.values():
        worker.close()
    peaks = [its["value"] for its in rounds.pop("peak")]
    measured: dict[str, Any] = {
        "peak_gflops": round(median(peaks) / 1e9, 1),
        "step_gflop": round(flops / 1e9, 1),
        "failed": failed,
    }
    for name, taken in rounds.items():
        seconds = [one["seconds"] / its.steps_per_round for one in taken]
        measured[name] = {
            "tokens_per_second": round(tokens / median(seconds)),
            "mfu": round(median(flops / second / top for second, top in zip(seconds, peaks, strict=True)), 3),
            "cpu_seconds_per_step": round(median(one["cpu_seconds"] / its.steps_per_round for one in taken), 3),
            "rounds": [round(second, 4) for second in seconds],
        }
    return measured


# --- what is shown and kept ------------------------------------------------------------------------------------------


def print_shakespeare(systems: dict[str, dict[str, Any]]) -> None:
    print(f"\nShakespeare by characters\n{'':22}{'steps':>8}{'wall s':>9}{'tokens/s':>10}{'val loss':>10}")
    for name, its in systems.items():
        print(
            f"{name:22}{its['steps']:>8,}{its['wall_seconds']:>9}{its['tokens_per_second']:>10,}{its['val_loss']:>10.4f}"
        )


def print_throughput(dtype: str, systems: dict[str, Any]) -> None:
    print(f"\n6 layers of width 384, {dtype}; products alone reach {systems['peak_gflops']} GFLOP/s")
    print(f"{'':22}{'tokens/s':>10}{'MFU':>7}{'CPU s/step':>12}")
    for name in SYSTEMS:
        if name in systems:
            its = systems[name]
            print(f"{name:22}{its['tokens_per_second']:>10,}{its['mfu']:>7.1%}{its['cpu_seconds_per_step']:>12}")


def record(found: dict[str, Any]) -> None:
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    where = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    path = ROOT / "bench" / "records" / f"pretrain-{date.today().isoformat()}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps(
            {"date": date.today().isoformat(), "commit": commit, "command": sys.argv, **where, **found}, indent=1
        )
        + "\n"
    )
    print(f"\nrecorded in {path}")


if __name__ == "__main__":
    main()
