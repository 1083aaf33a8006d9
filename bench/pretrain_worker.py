"""One system that trains, for ``bench/pretrain.py``: prepares, says ``ready``, then for each line on stdin takes so
many steps and prints their time.

    python bench/pretrain_worker.py SYSTEM --depth 6 --d-model 384 --heads 6 --context 256 --rows 8 --vocab 50257
    [--bf16] [--nanogpt CHECKOUT]

All get the same shape (GPT-2's: learned positions, GELU, tied embeddings), the same noise for data, AdamW and clipping
at 1. ``peak`` multiplies matrices, and nothing else: what the machine could do in that minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

Steps = Callable[[int], float]  # how many steps to take -> the last loss, or FLOP/s for the peak


def batch(its: argparse.Namespace, number: int) -> torch.Tensor:
    return torch.randint(its.vocab, (its.rows, its.context + 1), generator=torch.Generator().manual_seed(number))


def plain_loop(
    model: Any, optimizer: Any, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], its: argparse.Namespace
) -> Steps:
    def steps(count: int) -> float:
        value = float("nan")
        for number in range(count):
            ids = batch(its, number)
            with torch.autocast("cpu", torch.bfloat16) if its.bf16 else nullcontext():
                found = loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            found.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value = found.item()
        return value

    return steps


def pellucid(its: argparse.Namespace, *, compiled: bool) -> Steps:
    """The steps of a run, without what it does between them: no log, no checkpoint."""
    import tempfile
    from functools import partial
    from pathlib import Path

    from pellucid.model.decoder import Decoder
    from pellucid.train.data.batch import Batch
    from pellucid.train.objectives.loss import language_loss
    from pellucid.train.runs import sizes
    from pellucid.train.runs.compile import compiled_forward
    from pellucid.train.runs.optim import OptimSettings, make_optimizers
    from pellucid.train.runs.run import Run, RunSettings, Training
    from pellucid.train.runs.schedule import Schedule

    class Noise:
        def shuffled(self, first: int, count: int) -> Batch:
            ids = batch(its, first // count)
            return Batch.of(ids[:, :-1], ids[:, 1:])

    config = sizes.describe(
        its.family,
        sizes.Sizes(depth=its.depth, d_model=its.d_model, num_heads=its.heads, context_len=its.context),
        vocab_size=its.vocab,
        tie_embeddings=True,
    )
    model = Decoder(config).initialize(torch.Generator().manual_seed(0)).train()
    training = Training(
        model=model,
        samples=Noise(),
        optimizers=make_optimizers(model, OptimSettings(lr=1e-3)),
        schedule=Schedule(kind="constant", num_steps=10**9, warmup_steps=0),
        loss_function=partial(language_loss, forward=compiled_forward(model) if compiled else None),
        write_model=lambda folder, weights: None,
    )
    settings = RunSettings(num_steps=10**9, batch_size=its.rows, autocast=torch.bfloat16 if its.bf16 else None)
    run = Run(Path(tempfile.mkdtemp()), training, settings)
    return lambda count: [run.step().loss for _ in range(count)][-1]


def nanogpt(its: argparse.Namespace, *, compiled: bool) -> Steps:
    """As its train.py has it."""
    sys.path.insert(0, its.nanogpt)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    torch.manual_seed(0)
    shape = {
        "block_size": its.context,
        "n_layer": its.depth,
        "n_head": its.heads,
        "n_embd": its.d_model,
        "vocab_size": its.vocab,
    }
    model = GPT(GPTConfig(**shape, dropout=0.0, bias=True))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    forward = torch.compile(model) if compiled else model
    return plain_loop(model, optimizer, lambda ids, targets: forward(ids, targets)[1], its)


def trainer(its: argparse.Namespace) -> Steps:
    """transformers' Trainer: each call is a ``train()`` of so many steps, which is how it is meant to be used; its own
    bookkeeping counts.
    """
    import tempfile

    import transformers

    transformers.logging.set_verbosity_error()
    size = {
        "n_positions": its.context,
        "n_embd": its.d_model,
        "n_layer": its.depth,
        "n_head": its.heads,
        "vocab_size": its.vocab,
    }
    config = transformers.GPT2Config(**size, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = transformers.GPT2LMHeadModel(config)

    class Noise(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
            ids = torch.randint(its.vocab, (its.context,), generator=torch.Generator().manual_seed(row))
            return {"input_ids": ids, "labels": ids}

    def steps(count: int) -> float:
        arguments = transformers.TrainingArguments(
            tempfile.mkdtemp(),
            per_device_train_batch_size=its.rows,
            max_steps=count,
            use_cpu=True,
            bf16=its.bf16,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            max_grad_norm=1.0,
            logging_strategy="no",
        )
        return transformers.Trainer(model=model, args=arguments, train_dataset=Noise()).train().training_loss

    return steps


def litgpt(its: argparse.Namespace) -> Steps:
    """litgpt's model and loss in a plain loop, as its pretrain.py has it, compiled as there."""
    from litgpt import GPT, Config  # type: ignore[import-not-found]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]

    config = Config(
        block_size=its.context,
        n_layer=its.depth,
        n_head=its.heads,
        n_embd=its.d_model,
        vocab_size=its.vocab,
        padded_vocab_size=its.vocab,
        bias=True,
        norm_class_name="LayerNorm",
        mlp_class_name="GptNeoxMLP",
        intermediate_size=4 * its.d_model,
        rotary_percentage=1.0,
        parallel_residual=False,
    )
    model = GPT(config)
    model.transformer.wte.weight = model.lm_head.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model)
    return plain_loop(
        model, optimizer, lambda ids, targets: chunked_cross_entropy(forward(ids), targets, chunk_size=0), its
    )


def peak(its: argparse.Namespace) -> Steps:
    """The best FLOP/s of a few large products."""
    dtype = torch.bfloat16 if its.bf16 else torch.float32
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)

    def steps(_: int) -> float:
        best = 0.0
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(20):
                a @ b
            best = max(best, 20 * 2 * 1024**3 / (time.perf_counter() - began))
        return best

    return steps


SYSTEMS: dict[str, Callable[[argparse.Namespace], Steps]] = {
    "peak": peak,
    "pellucid": lambda its: pellucid(its, compiled=False),
    "pellucid --compile": lambda its: pellucid(its, compiled=True),
    "nanoGPT": lambda its: nanogpt(its, compiled=False),
    "nanoGPT compiled": lambda its: nanogpt(its, compiled=True),
    "transformers Trainer": trainer,
    "litgpt compiled": litgpt,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    for name in ("depth", "d-model", "heads", "context", "rows", "vocab", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument(
        "--family", default="gpt2", help="Pellucid's: another shape than the others' is not side by side"
    )
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--nanogpt", default="")
    its = parser.parse_args()
    torch.set_num_threads(its.threads)
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    steps = SYSTEMS[its.system](its)
    steps(2)  # compiles, and lets caches fill
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        value = steps(int(line))
        answer = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu, "value": value}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
