"""What seeing through costs: an explained run beside a plain one, taps without a recorder, checks, one cell's operands.

    python bench/explain.py --model smollm2 --rounds 5 --record

Every measurement of time and memory is a process of its own; kinds take turns within a round, and ratios are medians of
each round's ratio. Times are the process's CPU time, on one thread unless told otherwise, so that a busy machine counts
little. ``taps`` compares decode steps of the model as it is with the same model compiled from its source without its
``ctx.tap(…)`` calls, the two taking turns in one process.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEXT = "The history of the world is the history of a few people who wrote down what they saw, and of many who did not. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a catalogue alias, folder or file")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="decode steps of either kind in taps")
    parser.add_argument("--record", action="store_true", help="write bench/records/explain-DATE.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options)))
        return
    rounds = [{kind: measure(kind, options) for kind in ("plain", "explicit", "traced")} for _ in range(options.rounds)]
    medians = {
        "cpu_milliseconds": {kind: statistics.median(turn[kind]["ms"] for turn in rounds) for kind in rounds[0]},
        "peak_mib": {kind: statistics.median(turn[kind]["peak_mib"] for turn in rounds) for kind in rounds[0]},
        "times_plain": {
            kind: statistics.median(turn[kind]["ms"] / turn["plain"]["ms"] for turn in rounds)
            for kind in ("explicit", "traced")
        },
        "record_mib": rounds[0]["traced"]["record_mib"],
        "taps": measure("taps", options),
        "looking": measure("looking", options),
    }
    report = {
        "date": date.today().isoformat(),
        "command": f"python bench/explain.py --model {Path(options.model).name} --rounds {options.rounds} "
        f"--steps {options.steps} --threads {options.threads}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f}",
        "settings": {name: value for name, value in vars(options).items() if name not in ("worker", "record", "model")},
        **medians,
    }
    print(json.dumps(report, indent=2))
    if options.record:
        file = ROOT / "bench" / "records" / f"explain-{report['date']}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(report, indent=2) + "\n")


def measure(worker: str, options: argparse.Namespace) -> dict[str, float]:
    flags = [
        "--model",
        options.model,
        "--prompt-tokens",
        str(options.prompt_tokens),
        "--threads",
        str(options.threads),
        "--steps",
        str(options.steps),
    ]
    result = subprocess.run(
        [sys.executable, __file__, "--worker", worker, *flags], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def load(options: argparse.Namespace) -> tuple[Any, list[int]]:
    import torch

    from pellucid import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32", device="cpu")
    ids = AutoTokenizer.from_pretrained(options.model).encode(TEXT * 100)[: options.prompt_tokens]
    return model, ids


def timed(run: Callable[[], Any], repeats: int = 5) -> dict[str, float]:
    """The median of several runs, and the process's peak memory after them."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(1000 * (time.process_time() - start))
    return {"ms": statistics.median(times), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def forward(options: argparse.Namespace, explicitly: bool) -> dict[str, float]:
    import torch

    from pellucid.model.attend import explicit, sdpa
    from pellucid.model.context import Context

    model, ids = load(options)
    token_ids = torch.tensor([ids])

    @torch.no_grad()
    def run() -> Any:
        ctx = Context(torch.arange(len(ids))[None], attend=explicit if explicitly else sdpa)
        return model.logits(model.hidden(token_ids, ctx), ctx)

    return timed(run)


def traced(options: argparse.Namespace) -> dict[str, float]:
    from pellucid import trace

    model, ids = load(options)
    medians = timed(lambda: trace(model, None, ids))
    return medians | {"record_mib": trace(model, None, ids).nbytes / 2**20}


def looking(options: argparse.Namespace) -> dict[str, float]:
    """Checks of a whole trace, the description of all steps, and a cell of every step."""
    from pellucid import trace
    from pellucid.explain import operands

    model, ids = load(options)
    t = trace(model, None, ids)
    start = time.process_time()
    checks = t.checks
    checked = time.process_time()
    for path in t:
        t.step(path)
    described = time.process_time()
    cells = []
    for path, value in t.items():
        begin = time.process_time()
        operands(t, path, tuple(size - 1 for size in value.shape)).to_json()
        cells.append(1000 * (time.process_time() - begin))
    return {
        "checks_ms": 1000 * (checked - start),
        "checks": len(checks),
        "worst_error": max(check.error for check in checks),
        "all_steps_ms": 1000 * (described - checked),
        "cell_median_ms": statistics.median(cells),
        "cell_worst_ms": max(cells),
    }


def taps(options: argparse.Namespace) -> dict[str, float]:
    """Decode steps with the taps and without, taking turns."""
    import torch

    from pellucid.model import attend
    from pellucid.model.attention import Attention
    from pellucid.model.cache import Cache
    from pellucid.model.context import Context
    from pellucid.model.decoder import Decoder, Layer
    from pellucid.model.mlp import MLP
    from pellucid.operations import taps_of

    model, ids = load(options)
    owners = [
        (Attention, "forward"),
        (MLP, "forward"),
        (Layer, "forward"),
        (Decoder, "hidden"),
        (Decoder, "logits"),
        (attend, "explicit"),
    ]
    whole = {owner: getattr(*owner) for owner in owners}
    bare = {owner: without_taps(function) for owner, function in whole.items()}

    @torch.no_grad()
    def step() -> float:
        cache = Cache(model.config, 1, 4, torch.float32)
        ctx = Context(torch.zeros(1, 1, dtype=torch.long), cache=cache)
        start = time.process_time()
        model.logits(model.hidden(torch.tensor([ids[:1]]), ctx), ctx)
        return 1e6 * (time.process_time() - start)

    times: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(options.steps + 10):
        pair = (("with", whole), ("without", bare))
        for name, functions in pair if turn % 2 else pair[::-1]:
            for (owner, attribute), function in functions.items():
                setattr(owner, attribute, function)
            took = step()
            if turn >= 10:
                times[name].append(took)
    ctx, count = Context(torch.zeros(1, 1)), 200_000
    start = time.process_time()
    for _ in range(count):
        ctx.tap(model, "q", None)  # type: ignore[arg-type]
    each = 1e9 * (time.process_time() - start) / count
    number = (
        len(taps_of(model.config)) - 2 * model.config.num_layers
    )  # scores and pattern are not there in the fused kernel
    return {
        "tap_ns": each,
        "taps_a_step": number,
        "share_of_a_step": number * each / 1000 / statistics.median(times["with"]),
        "decode_us_with": statistics.median(times["with"]),
        "decode_us_without": statistics.median(times["without"]),
        "ratio_of_medians": statistics.median(times["with"]) / statistics.median(times["without"]),
        "median_of_ratios": statistics.median(a / b for a, b in zip(times["with"], times["without"], strict=True)),
        "spread_of_with": statistics.quantiles(times["with"], n=4)[2] / statistics.quantiles(times["with"], n=4)[0],
    }


class _Untap(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[2] if isinstance(node.func, ast.Attribute) and node.func.attr == "tap" else node


def without_taps(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled from its source, each ``ctx.tap(module, name, value)`` replaced by ``value``."""
    tree = _Untap().visit(ast.parse(textwrap.dedent(inspect.getsource(function))))
    scope: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), "<without taps>", "exec"), function.__globals__, scope)
    return scope[function.__name__]


WORKERS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "plain": lambda options: forward(options, explicitly=False),
    "explicit": lambda options: forward(options, explicitly=True),
    "traced": traced,
    "looking": looking,
    "taps": taps,
}

if __name__ == "__main__":
    main()
