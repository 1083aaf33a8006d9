"""Training throughput, beside nanoGPT on the same machine in the same run.

    python bench/pretrain.py --data input.txt [--nanogpt CHECKOUT] [--steps 2000] [--threads 2]

nanoGPT's setting for a CPU: 4 layers, 4 heads, width 128, context 64, 12 rows, by characters. Both learn the same text, one after the other;
nanoGPT runs as its README says (``--device=cpu --compile=False``), from a checkout that is prepared already (data/shakespeare_char/prepare.py).
Prints JSON: wall seconds, tokens/s of the steps alone, last validation loss.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "shakespeare.yaml"
TOKENS_PER_STEP = 12 * 64


def pellucid(data: Path, steps: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        words = ["pretrain", "--config", RECIPE, "-d", data, "-o", folder, "--steps", steps, "--warmup-steps", min(100, steps // 4), "-t", threads]
        words += ["--eval-every", 0, "--sample-every", 0, "--save-every", 0, "-q"]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pellucid", *map(str, words)], check=True)
        wall = time.perf_counter() - began
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(line["seconds"] for line in lines)
    return {"wall_seconds": round(wall, 1), "tokens_per_second": round(steps * TOKENS_PER_STEP / seconds), "val_loss": lines[-1]["val_loss"]}


def nanogpt(checkout: Path, steps: int, threads: int) -> dict[str, Any]:
    words = ["train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=145", f"--eval_interval={steps}"]
    words += ["--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", f"--max_iters={steps}"]
    words += [f"--lr_decay_iters={steps}", "--dropout=0.0"]
    began = time.perf_counter()
    run = subprocess.run(
        [sys.executable, *words], cwd=checkout, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    wall = time.perf_counter() - began
    milliseconds = [float(ms) for ms in re.findall(r"^iter \d+: loss [\d.]+, time ([\d.]+)ms", run.stdout, re.MULTILINE)][1:-1]  # without validation
    val = re.findall(r"val loss ([\d.]+)", run.stdout)
    rate = len(milliseconds) * TOKENS_PER_STEP / (sum(milliseconds) / 1000)
    return {"wall_seconds": round(wall, 1), "tokens_per_second": round(rate), "val_loss": float(val[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    its = parser.parse_args()
    figures: dict[str, Any] = {"steps": its.steps, "threads": its.threads, "load_before": round(os.getloadavg()[0], 1)}
    figures["pellucid"] = pellucid(its.data.resolve(), its.steps, its.threads)
    if its.nanogpt:
        figures["nanogpt"] = nanogpt(its.nanogpt, its.steps, its.threads)
    figures["load_after"] = round(os.getloadavg()[0], 1)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
