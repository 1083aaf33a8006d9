"""Everything about a GPU in one command: is it right there, and how near to its limits does it run?

    python bench/gpu.py --record                                   # about seven minutes
    python bench/gpu.py --only families --models llama mamba
    python bench/gpu.py --device cpu --tiny                        # whether the script runs, where there is no GPU

``families``: every family in float32, bfloat16 and float16 on the GPU beside transformers there, and beside ourselves
on a CPU: whole texts, padding, cached steps of several requests, greedy tokens, gradients. ``quantized``: every block
format and every kind of quantized folder, likewise. ``speed``: prefill, decode and training steps of two Llama shapes
with random weights, beside transformers in the same run; figures are medians, shares are of what a copy and a matrix
product alone reached just before. TF32 is off. Parts that no longer fit ``--budget`` are left out, and named.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

import gpu_families  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

PARTS = ("families", "quantized", "speed")
SHAPES: dict[str, dict[str, int]] = {
    "1.24 B": {"d": 2048, "layers": 16, "heads": 32, "kv": 8, "ff": 8192, "vocab": 128256},
    "135 M": {"d": 576, "layers": 30, "heads": 9, "kv": 3, "ff": 1536, "vocab": 49152},
}
TINY = {"tiny": {"d": 64, "layers": 2, "heads": 4, "kv": 2, "ff": 128, "vocab": 256}}
PROMPT, STEPS, WARM = 128, 40, 8  # tokens before decoding is timed; steps, of which the first so many do not count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", help="of families; all by default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a shape that a CPU runs, too")
    parser.add_argument("--budget", type=float, default=420, help="seconds for all")
    parser.add_argument("--workers", type=int, default=min(10, os.cpu_count() or 1), help="processes of families")
    parser.add_argument("--out", type=Path, help="write each part here as it is done")
    parser.add_argument("--record", action="store_true", help="write bench/records/gpu-DATE.json")
    asked = parser.parse_args()
    gpu_families.prepare()
    bench = Bench(asked)
    for name in asked.only:
        {"families": families, "quantized": quantized, "speed": speed}[name](bench)
    bench.save()
    if asked.record:
        record(bench.figures)


class Bench:
    """What was asked for, what was found, and the time left."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.device = asked, torch.device(asked.device)
        self.began = time.perf_counter()
        self.figures: dict[str, Any] = {"machine": machine(self.device)}
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        return self.asked.budget - (time.perf_counter() - self.began)

    def keep(self, part: str, name: str, **figures: Any) -> None:
        figures["at_seconds"] = round(time.perf_counter() - self.began, 1)
        self.figures.setdefault(part, {}).setdefault(name, {}).update(figures)
        shown = {key: round(value, 6) if isinstance(value, float) else value for key, value in figures.items()}
        print(f"{part}, {name}: {json.dumps(shown)}", flush=True)
        self.save()

    def attempt(self, part: str, name: str, needs: float, measure: Callable[[], dict[str, Any]]) -> None:
        """Keep what ``measure`` finds, or how it fails; not where fewer than ``needs`` seconds are left."""
        if self.left < needs:
            self.left_out.append(f"{part}, {name}")
            return
        try:
            self.keep(part, name, **measure())
        except Exception as error:
            traceback.print_exc(limit=-6)
            self.keep(part, name, error=f"{type(error).__name__}: {str(error)[:600]}")
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def save(self) -> None:
        if self.asked.out:
            self.asked.out.mkdir(parents=True, exist_ok=True)
            self.figures["left_out"] = self.left_out
            (self.asked.out / "gpu.json").write_text(json.dumps(self.figures, indent=1) + "\n")


def machine(device: torch.device) -> dict[str, Any]:
    import transformers

    named = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": named,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


# --- families --------------------------------------------------------------------------------------------------------


def families(bench: Bench) -> None:
    """Each in one of several processes; a family whose kernel failed is tried again in a process of its own, since what
    comes after a failed kernel fails, too.
    """
    from reference import FAMILIES, TELLING

    wanted = bench.asked.models or list(dict.fromkeys([*FAMILIES, *TELLING]))
    found = _in_processes(bench, wanted, None)
    again = [name for name, one in found.items() if any("CUDA error" in text for text in one["errors"].values())]
    found |= _in_processes(bench, again, 1)
    bench.figures["families"] = {name: found[name] for name in wanted if name in found}
    bench.left_out += [f"families, {name}" for name in wanted if name not in found]
    for name, call in gpu_families.HABITS.items():
        bench.attempt("habits", name, 5, partial(call, bench.device))
    bench.save()
    worst: dict[str, tuple[float, str]] = {}
    for name, one in found.items():
        for key, value in one.items():
            if isinstance(value, float) and key != "seconds":
                worst[key] = max(worst.get(key, (0.0, "")), (value, name))
    for key, (value, name) in worst.items():
        print(f"families, largest {key}: {value:.3g} ({name})")
    for name, one in found.items():
        for part, text in one["errors"].items():
            print(f"families, {name}, {part}: {text}", flush=True)
        if one.get("generated_alike", gpu_families.NEW) < gpu_families.NEW:
            print(f"families, {name}: {one['generated_alike']} of {gpu_families.NEW} tokens alike")


def _in_processes(bench: Bench, names: list[str], tasks: int | None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    if not names:
        return found
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(bench.asked.workers, len(names)), spawn, gpu_families.prepare, max_tasks_per_child=tasks
    )
    jobs = {pool.submit(gpu_families.check, name, str(bench.device)): name for name in names}
    try:
        for job in as_completed(jobs, timeout=max(min(bench.left, 200), 1)):
            try:
                found[jobs[job]] = job.result()
            except Exception as error:
                found[jobs[job]] = {"errors": {"process": f"{type(error).__name__}: {error}"}}
            bench.figures["families"] = found
            bench.save()
    except TimeoutError:
        print("families: out of time", file=sys.stderr)
        for process in list((pool._processes or {}).values()):
            process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)
    return found


# --- quantized -------------------------------------------------------------------------------------------------------


def quantized(bench: Bench) -> None:
    """Logits on the device beside those on a CPU, float32: weights made dense as they are loaded; kept in blocks."""
    from quantized_folders import WRITTEN, write_folder
    from reference import FAMILIES, tiny_hf

    from pellucid.checkpoint import open_checkpoint
    from pellucid.model.decoder import Decoder
    from pellucid.model.load import load_decoder, weights_of
    from pellucid.quant import ENCODERS, quantize

    hf = tiny_hf("llama") | {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    }
    config = FAMILIES["llama"].config(hf)
    plain = dict(weights_of(Decoder(config).initialize(torch.Generator().manual_seed(0))))

    def compare(config: Any, weights: Any, quantize: str | None) -> float:
        here = load_decoder(config, weights, "float32", "cpu", quantize)
        there = load_decoder(config, weights, "float32", bench.device, quantize)
        ids = gpu_families.tokens(here)
        with torch.no_grad():
            return gpu_families.relative(gpu_families.logits(there, ids), gpu_families.logits(here, ids))

    def of(format: str, keep: str | None) -> dict[str, Any]:
        weights = {
            name: quantize(array.data, format) if name.endswith("_proj.weight") else array
            for name, array in plain.items()
        }
        return {"kept in blocks" if keep else "dense": compare(config, weights, keep)}

    for format in ENCODERS:
        for keep in (None, "q8"):
            bench.attempt("quantized", f"{format}{', kept in blocks' if keep else ''}", 5, partial(of, format, keep))
    for bits in ("q8", "q4"):
        bench.attempt(
            "quantized", f"quantize={bits}", 5, lambda bits=bits: {"kept in blocks": compare(config, plain, bits)}
        )

    def folder(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as place:
            checkpoint = open_checkpoint(write_folder(Path(place), WRITTEN[name]))
            return {"dense": compare(checkpoint.config, checkpoint.weights, None)}

    for name in WRITTEN:
        bench.attempt("quantized", f"folder, {name}", 5, partial(folder, name))


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(bench: Bench) -> None:
    if bench.device.type == "cuda":
        bench.attempt("speed", "limits", 5, lambda: limits(bench.device))
    for name, shape in (TINY if bench.asked.tiny else SHAPES).items():
        _inference(bench, name, shape)
    for name, shape in (TINY if bench.asked.tiny else SHAPES).items():
        _training(bench, name, shape)


def limits(device: torch.device) -> dict[str, float]:
    source = torch.empty(2**31, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    x, y = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    copy, product = timed(lambda: target.copy_(source), 20), timed(lambda: x @ y, 20)
    return {"copy_bytes_per_second": 2 * 2**31 / copy, "bfloat16_flops_per_second": 2 * 8192**3 / product}


def timed(run: Callable[[], Any], repeats: int = 7, warm: int = 2) -> float:
    """Median seconds; the device is waited for."""
    for _ in range(warm):
        run()
    seconds = []
    for _ in range(repeats):
        synchronize()
        began = time.perf_counter()
        run()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def keys(shape: dict[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": shape["vocab"],
        "hidden_size": shape["d"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv"],
        "head_dim": shape["d"] // shape["heads"],
        "intermediate_size": shape["ff"],
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    }


def ours(shape: dict[str, int], device: torch.device, dtype: torch.dtype) -> Any:
    from pellucid.families import FAMILIES
    from pellucid.model.decoder import Decoder

    config = FAMILIES["llama"].config(keys(shape) | {"model_type": "llama"})
    with torch.device(device):
        model = Decoder(config)
        for parameter in model.parameters():
            torch.nn.init.ones_(parameter) if parameter.dim() == 1 else torch.nn.init.normal_(parameter, 0.0, 0.02)
    return model.to(dtype).requires_grad_(False).eval()


def theirs(shape: dict[str, int], device: torch.device, dtype: torch.dtype) -> Any:
    import transformers

    with torch.device(device):
        config = transformers.LlamaConfig(**keys(shape))
        model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        model = model.to(dtype).requires_grad_(False).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def _inference(bench: Bench, name: str, shape: dict[str, int]) -> None:
    from pellucid.model.batched.executor import BatchedExecutor
    from pellucid.model.context import Context
    from pellucid.model.executor import TorchExecutor

    device, dtype = bench.device, torch.bfloat16
    tops = bench.figures.get("speed", {}).get("limits", {})
    model = ours(shape, device, dtype)
    size = sum(p.numel() for p in model.parameters())
    matrices = size  # tied: the table is the head

    def rates(seconds: float, tokens: int, decoding: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"tokens_per_second": round(tokens / seconds, 1), "milliseconds": 1000 * seconds}
        if decoding and "copy_bytes_per_second" in tops:
            found["share_of_bandwidth"] = 2 * matrices / seconds / tops["copy_bytes_per_second"]
        if not decoding and "bfloat16_flops_per_second" in tops:
            found["share_of_product"] = 2 * matrices * tokens / seconds / tops["bfloat16_flops_per_second"]
        return found

    bench.keep("speed", f"{name}, shape", parameters=size, **shape)

    @torch.inference_mode()
    def prefill(length: int) -> dict[str, Any]:
        ids = torch.randint(0, shape["vocab"], (1, length), device=device)

        def run() -> Tensor:
            ctx = Context(torch.arange(length, device=device)[None])
            return model.logits(model.hidden(ids, ctx)[:, -1], ctx)

        return rates(timed(run), length, False)

    for length in (512, 2048):
        bench.attempt("speed", f"{name}, prefill {length}, pellucid forward", 10, partial(prefill, length))
    bench.attempt(
        "speed", f"{name}, prefill 2048, pellucid engine", 10, lambda: rates(_engine_prefill(model, shape), 2048, False)
    )
    ways = {
        "": partial(BatchedExecutor, model),
        ", without graphs": partial(BatchedExecutor, model, graphs=False),
        ", slot by slot": partial(TorchExecutor, model),
    }
    for batch, (way, make) in product((1, 32), ways.items()):
        bench.attempt(
            "speed",
            f"{name}, decode {batch}, pellucid engine{way}",
            25,
            lambda batch=batch, make=make: rates(
                median(_engine_steps(make(), shape, batch, STEPS)[WARM:]), batch, True
            ),
        )
    if device.type == "cuda":
        for batch in (1, 32):
            bench.attempt(
                "speed",
                f"{name}, decode {batch}, a step of pellucid's by kernels",
                10,
                lambda batch=batch: _profile(model, shape, batch),
            )
    if name != "1.24 B":  # numbers are made into blocks on a CPU, a minute's work for so many
        for bits in ("q8", "q4"):
            bench.attempt(
                "speed", f"{name}, decode 1, pellucid engine, {bits}", 25, partial(_in_blocks, model, shape, bits)
            )
    del model
    gc.collect()
    peer = theirs(shape, device, dtype)

    @torch.inference_mode()
    def peer_prefill(length: int) -> dict[str, Any]:
        ids = torch.randint(0, shape["vocab"], (1, length), device=device)
        return rates(timed(lambda: peer(ids, logits_to_keep=1)), length, False)

    def peer_decode(batch: int) -> dict[str, Any]:
        ids = torch.randint(0, shape["vocab"], (batch, PROMPT), device=device)

        def run(new: int) -> Any:
            return peer.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)

        return rates((timed(lambda: run(40), 3, 1) - timed(lambda: run(8), 3, 0)) / 32, batch, True)

    for length in (512, 2048):
        bench.attempt("speed", f"{name}, prefill {length}, transformers", 10, partial(peer_prefill, length))
    for batch in (1, 32):
        bench.attempt("speed", f"{name}, decode {batch}, transformers", 20, partial(peer_decode, batch))
    if device.type == "cuda":
        for batch in (1, 32) if name == "1.24 B" else (1,):  # (a minute's compilation)
            bench.attempt(
                "speed",
                f"{name}, decode {batch}, transformers compiled over a static cache",
                60,
                lambda batch=batch: rates(_static(peer, shape, batch, device), batch, True),
            )
    torch._dynamo.reset()


def _engine_steps(executor: Any, shape: dict[str, int], batch: int, new: int) -> list[float]:
    """Seconds of each of the engine's steps that decode: its tokens are on the host then."""
    from pellucid import Engine, SamplingParams
    from pellucid.generate.request import Request

    engine = Engine(executor, max_batch=batch, reuse=False)
    generator = torch.Generator().manual_seed(0)
    requests = [
        Request(
            prompt_ids=torch.randint(0, shape["vocab"], (PROMPT,), generator=generator).tolist(),
            max_new_tokens=new,
            stop_token_ids=(),
            sampling=SamplingParams(do_sample=False),
        )
        for _ in range(batch)
    ]
    for request in requests:
        engine.add(request)
    seconds = []
    while engine.has_work:
        synchronize()
        began = time.perf_counter()
        engine.step()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[-(new - 1) :]


def _in_blocks(model: Any, shape: dict[str, int], bits: str) -> dict[str, Any]:
    """Weights stay in blocks on the device."""
    from pellucid.model.batched.executor import BatchedExecutor
    from pellucid.model.load import load_decoder, weights_of

    small = load_decoder(model.config, dict(weights_of(model)), model.dtype, model.device, bits)
    seconds = median(_engine_steps(BatchedExecutor(small), shape, 1, STEPS)[WARM:])
    return {"tokens_per_second": round(1 / seconds, 1), "milliseconds": 1000 * seconds}


def _engine_prefill(model: Any, shape: dict[str, int]) -> float:
    from pellucid import Engine, SamplingParams
    from pellucid.generate.request import Request
    from pellucid.model.executor import TorchExecutor

    def run() -> None:
        engine = Engine(TorchExecutor(model), reuse=False)
        ids = torch.randint(0, shape["vocab"], (2048,)).tolist()
        engine.add(
            Request(prompt_ids=ids, max_new_tokens=1, stop_token_ids=(), sampling=SamplingParams(do_sample=False))
        )
        while engine.has_work:
            engine.step()

    return timed(run, 3, 1)


def _profile(model: Any, shape: dict[str, int], batch: int) -> dict[str, Any]:
    """Of a decoding step: kernels, milliseconds that the device computes, milliseconds that it takes."""
    from torch.profiler import ProfilerActivity, profile

    from pellucid.executor import StepInput
    from pellucid.model.executor import TorchExecutor

    executor = TorchExecutor(model)
    slots = [executor.allocate(PROMPT + 16) for _ in range(batch)]
    executor.step([StepInput(slot, [1] * PROMPT, (PROMPT - 1,)) for slot in slots]).argmax()

    def step() -> None:
        executor.step([StepInput(slot, [1], (0,)) for slot in slots]).argmax()

    seconds = timed(step, 5)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        step()
        synchronize()
    events = [event for event in (seen.events() or ()) if str(event.device_type).endswith("CUDA")]
    busy = sum(event.time_range.elapsed_us() for event in events)
    kinds: dict[str, float] = {}
    for event in events:
        kinds[event.name[:60]] = kinds.get(event.name[:60], 0.0) + event.time_range.elapsed_us()
    most = dict(sorted(kinds.items(), key=lambda item: -item[1])[:6])
    host = sorted(seen.key_averages(), key=lambda one: -one.self_cpu_time_total)[:8]
    return {
        "most_host_microseconds": {one.key[:60]: round(one.self_cpu_time_total) for one in host},
        "kernels": len(events),
        "device_milliseconds": busy / 1000,
        "milliseconds": 1000 * seconds,
        "most_microseconds": most,
    }


def _static(peer: Any, shape: dict[str, int], batch: int, device: torch.device) -> float:
    """A step of transformers' over a static cache, compiled with CUDA graphs."""
    from transformers import StaticCache

    torch._dynamo.reset()
    ids = torch.randint(0, shape["vocab"], (batch, PROMPT), device=device)
    cache = StaticCache(config=peer.config, max_cache_len=256)

    def step(token: Tensor, place: Tensor) -> Tensor:
        out = peer(
            token,
            cache_position=place,
            position_ids=place[None].expand(batch, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits[:, -1].argmax(-1, keepdim=True)

    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    with torch.no_grad():
        peer(ids, cache_position=torch.arange(PROMPT, device=device), past_key_values=cache, use_cache=True)
        token = ids[:, :1].clone()
        places = [torch.tensor([PROMPT + i], device=device) for i in range(STEPS)]
        for place in places[:WARM]:
            token = compiled(token, place).clone()
        seconds = []
        for place in places[WARM:]:
            synchronize()
            began = time.perf_counter()
            token = compiled(token, place).clone()
            token.cpu()
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def _training(bench: Bench, name: str, shape: dict[str, int]) -> None:
    """Steps of 8,192 tokens in bfloat16 over float32 weights, AdamW, clipping at 1."""
    from pellucid.model.decoder import Decoder
    from pellucid.train.data.batch import Batch
    from pellucid.train.objectives.loss import language_loss
    from pellucid.train.runs import sizes
    from pellucid.train.runs.compile import compiled_forward
    from pellucid.train.runs.optim import OptimSettings, make_optimizers
    from pellucid.train.runs.run import Run, RunSettings, Training
    from pellucid.train.runs.schedule import Schedule

    device, tops = bench.device, bench.figures.get("speed", {}).get("limits", {})
    rows, context = (2, 32) if bench.asked.tiny else (8, 1024)
    data = torch.randint(0, shape["vocab"], (8, rows, context + 1))

    class Noise:
        def shuffled(self, first: int, count: int) -> Batch:
            ids = data[first // count % 8]
            return Batch.of(ids[:, :-1], ids[:, 1:])

    def pellucid(compiled: bool) -> tuple[Callable[[], Any], Any]:
        model: Decoder = ours(shape, device, torch.float32).requires_grad_(True).train()
        training = Training(
            model=model,
            samples=Noise(),
            optimizers=make_optimizers(model, OptimSettings(lr=1e-4)),
            schedule=Schedule(kind="constant", num_steps=10**9, warmup_steps=0),
            loss_function=partial(language_loss, forward=compiled_forward(model) if compiled else None),
            write_model=lambda folder, weights: None,
        )
        settings = RunSettings(num_steps=10**9, batch_size=rows, autocast=torch.bfloat16)
        return Run(Path(tempfile.mkdtemp()), training, settings).step, model

    def transformers(compiled: bool) -> tuple[Callable[[], Any], Any]:
        model = theirs(shape, device, torch.float32).requires_grad_(True).train()
        forward = torch.compile(model) if compiled else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
        count = [0]

        def step() -> None:
            ids = data[count[0] % 8].to(device)
            count[0] += 1
            with torch.autocast(device.type, torch.bfloat16):
                logits = forward(ids[:, :-1].contiguous(), use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step, model

    def measure(make: Callable[[bool], tuple[Callable[[], Any], Any]], compiled: bool) -> dict[str, Any]:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        torch._dynamo.reset()
        step, _ = make(compiled)
        synchronize()
        began = time.perf_counter()
        step()
        synchronize()
        first = time.perf_counter() - began
        seconds = timed(step, 8, 3)
        found: dict[str, Any] = {
            "tokens_per_second": round(rows * context / seconds),
            "milliseconds": 1000 * seconds,
            "first_seconds": first,
        }
        config = ours(shape | {"layers": 1}, torch.device("meta"), torch.float32).config
        flops = sizes.flops_per_token(
            replace(config, layers=config.layers * shape["layers"]), context
        ) * rows * context  # fmt: skip
        if "bfloat16_flops_per_second" in tops:
            found["mfu"] = flops / seconds / tops["bfloat16_flops_per_second"]
        if device.type == "cuda":
            found["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        return found

    for system, make, compiled, needs in (
        ("pellucid", pellucid, False, 15),
        ("transformers", transformers, False, 15),
        ("pellucid --compile", pellucid, True, 50),
        ("transformers compiled", transformers, True, 60),
    ):
        if compiled and device.type == "cpu":
            continue
        bench.attempt("speed", f"{name}, training, {system}", needs, partial(measure, make, compiled))


def record(figures: dict[str, Any]) -> None:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    path = ROOT / "bench" / "records" / f"gpu-{date.today().isoformat()}.json"
    head = {"date": date.today().isoformat(), "commit": git.stdout.strip(), "command": sys.argv}
    path.write_text(json.dumps({**head, **figures}, indent=1) + "\n")
    print(f"\nrecorded in {path}")


if __name__ == "__main__":
    main()
