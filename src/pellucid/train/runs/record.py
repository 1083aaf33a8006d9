"""``RunRecord``: what a run leaves for looking, beside its metrics: how each weight fares, the current batch, snapshots
over time.

    RUN/metrics.jsonl                 a line a step; RUN/samples.jsonl: some text now and then RUN/record/about.json
    names: of the weights, of the fixed text's tokens, of the tokens whose embeddings are followed
    RUN/record/weights.jsonl          every ``every`` steps, for each weight: ‖gradient‖, ‖Δw‖ of the update, ‖w‖
    RUN/record/batch.json             the latest batch that was looked at: its first rows, and the loss of each token
    RUN/record/snapshots/step-….safetensors    some 24 of them, spread evenly over the logarithm of the step

Everything is bounded in size and costs about a hundredth of the training; whoever watches reads these files, and slows
nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pellucid.base.files import atomic_write, write_json
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.model.decoder import Decoder
from pellucid.train.data.batch import IGNORED, Batch
from pellucid.train.runs.look import take_snapshot, token_losses

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
ABOUT, WEIGHTS, BATCH, SNAPSHOTS = "record/about.json", "record/weights.jsonl", "record/batch.json", "record/snapshots"
NUM_SNAPSHOTS = 24
MAX_CELLS = 300_000  # attention weights in a snapshot: of many heads, a shorter text
MAX_TEXT = 48  # tokens of the fixed text
MAX_TABLE = 2**17  # numbers of embedding rows in a snapshot
MAX_TOKENS = 256  # whose embeddings are followed
BATCH_ROWS, BATCH_COLUMNS = 4, 256
BATCH_SECONDS = 2.0  # between looks at the batch, at the least: more than a reader can follow would be wasted
BATCH_SHARE = 0.005  # of the time, at the most

Pieces = Callable[[Sequence[int]], list[str]]  # how tokens read


class Samples(Protocol):
    def shuffled(self, first: int, count: int) -> Batch: ...


def suggested_every(num_steps: int) -> int:
    """Ten steps; in a long run a thousandth of it."""
    return max(10, num_steps // 1000)


def snapshot_steps(num_steps: int, count: int = NUM_SNAPSHOTS) -> list[int]:
    """Step 0, then even distances on a logarithmic scale up to the last step: most changes early."""
    ratio = math.log(max(num_steps, 1)) / max(count - 2, 1)
    return sorted({0, num_steps, *(round(math.exp(ratio * i)) for i in range(count - 1))})


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """``every``: steps between looks at each weight; 0: never, None: as suits the run. ``pieces``: how tokens read."""

    every: int | None = None
    pieces: Pieces = lambda ids: [str(i) for i in ids]
    autocast: torch.dtype | None = None
    rank: int = 0


class RunRecord:
    """Keeps the record of one run. All processes call it alike; the first one writes."""

    def __init__(
        self,
        folder: Path,
        model: Decoder,
        num_steps: int,
        *,
        text: Sequence[int],
        tokens: Sequence[int],
        settings: RecordSettings = RecordSettings(),
    ) -> None:
        """``text`` is what snapshots look at; ``tokens`` are those whose embeddings are followed, commonest first."""
        self.folder, self.model, self.num_steps = folder, model, num_steps
        self.pieces, self.autocast, self.rank = settings.pieces, settings.autocast, settings.rank
        self.every = suggested_every(num_steps) if settings.every is None else settings.every
        heads = sum(layer.attends.num_heads for layer in model.config.layers if layer.attends) or 1
        self.text = list(text)[: min(max(math.isqrt(MAX_CELLS // heads), 8), MAX_TEXT, model.config.context_len)]
        self.tokens = list(tokens)[: min(MAX_TOKENS, max(MAX_TABLE // model.config.d_model, 2))]
        self.steps = frozenset(snapshot_steps(num_steps) if self.every else ())
        self.weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._spread = any(hasattr(parameter, "to_local") for parameter in self.weights.values())  # over processes
        self._next_look = -math.inf  # at the batch, on the clock
        self._spent = 0.0  # seconds that have not been told yet

    @classmethod
    def of(
        cls,
        folder: Path,
        model: Decoder,
        num_steps: int,
        samples: Samples,
        held_back: Batch | None = None,
        settings: RecordSettings = RecordSettings(),
    ) -> RunRecord:
        """A record whose text is the first held-back row (else the first of training), and whose tokens are the
        commonest of 64 samples.
        """
        first = samples.shuffled(0, 64)
        counts = torch.bincount(first.token_ids.flatten().cpu())
        tokens = [i for i in counts.argsort(descending=True, stable=True)[:MAX_TOKENS].tolist() if counts[i]]
        text = (first if held_back is None else held_back).token_ids[0].tolist()
        return cls(folder, model, num_steps, text=text, tokens=tokens, settings=settings)

    def begin(self, num_done: int) -> None:
        """Before the first step of this process: say what is recorded; of a new run, keep how it began."""
        if self.rank == 0 and self.every:
            write_json(self.folder / ABOUT, self._about())
        if num_done == 0:
            self.after(0)

    @contextmanager
    def update(self, step: int, batch: Batch, grad_norm: float) -> Iterator[None]:
        """Around the optimizers' step, every so often: what it does to each weight, and to what.

        ``grad_norm`` is that of all gradients before clipping; those of single weights are written as they were before
        it, too.
        """
        if not self.every or (step != 1 and step % self.every and step != self.num_steps):
            yield
            return
        began = time.perf_counter()
        if (
            step in self.steps if self._spread else (step == self.num_steps or began > self._next_look)
        ):  # processes have clocks of their own
            self._look_at(step, batch)
            took = time.perf_counter() - began
            self._next_look = began + max(BATCH_SECONDS, took / BATCH_SHARE)
        here = [_local(parameter) for parameter in self.weights.values()]
        gradients = [_local(torch.zeros_like(p) if p.grad is None else p.grad) for p in self.weights.values()]
        before = [weight.detach().clone() for weight in here]
        clipped, size = self._norms(gradients), self._norms(before)
        unclip = grad_norm / max(float(clipped.norm()), 1e-30)
        self._spent += time.perf_counter() - began
        yield
        began = time.perf_counter()
        for old, new in zip(before, here, strict=True):
            old.sub_(new.detach())
        change = self._norms(before)
        if self.rank == 0:
            line = {
                name: _short(norms)
                for name, norms in (("grad", clipped * unclip), ("update", change), ("weight", size))
            }
            self._spent += time.perf_counter() - began
            _append(self.folder / WEIGHTS, {"step": step, **line, "seconds": round(self._spent, 6)})
            self._spent = 0.0

    def after(self, step: int) -> None:
        """A snapshot, where one is due."""
        if step not in self.steps:
            return
        began = time.perf_counter()
        snapshot = take_snapshot(self.model, self.text, self.tokens)
        if self.rank == 0:
            save_safetensors(self.folder / SNAPSHOTS / f"step-{step:08d}.safetensors", snapshot)
        self._spent += time.perf_counter() - began

    def _look_at(self, step: int, batch: Batch) -> None:
        """The first rows of the batch, and how surprised the model is at each token before it learns from them."""
        rows, columns = slice(BATCH_ROWS), slice(BATCH_COLUMNS)
        segments = None if batch.segments is None else batch.segments[rows, columns]
        part = Batch(
            batch.token_ids[rows, columns], batch.targets[rows, columns], batch.positions[rows, columns], segments
        )
        losses = token_losses(self.model, part, self.autocast)
        if self.rank:
            return
        ids = part.token_ids.tolist()
        row = {
            "ids": ids,
            "pieces": [self.pieces(one) for one in ids],
            "targets": part.targets.tolist(),
            "target_pieces": [self.pieces([max(i, 0) for i in one]) for one in part.targets.tolist()],
            "loss": [_short(one) for one in losses],
            "counts": (part.targets != IGNORED).tolist(),
            "segments": None if segments is None else segments.tolist(),
        }
        with atomic_write(self.folder / BATCH, "w") as file:
            json.dump({"step": step, "shape": list(batch.token_ids.shape), **row}, file, ensure_ascii=False)

    def _norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """(N,) the length of each; of those that are spread over processes, of all parts together."""
        norms = torch.stack(torch._foreach_norm(list(tensors))).float()  # type: ignore[arg-type]
        if self._spread:
            squares = norms.square()
            torch.distributed.all_reduce(squares)
            norms = squares.sqrt()
        return norms.cpu()

    def _about(self) -> dict[str, object]:
        config = self.model.config
        return {
            "num_steps": self.num_steps,
            "every": self.every,
            "snapshots": sorted(self.steps),
            "weights": [{"name": name, "shape": list(parameter.shape)} for name, parameter in self.weights.items()],
            "text": {"ids": self.text, "pieces": self.pieces(self.text)},
            "tokens": {"ids": self.tokens, "pieces": self.pieces(self.tokens)},
            "model": {
                "model_type": config.model_type,
                "num_parameters": config.num_parameters(),
                "d_model": config.d_model,
                "context_len": config.context_len,
                "vocab_size": config.vocab_size,
                "position": "rotary" if config.ropes else config.position,
                "num_heads": [layer.attends.num_heads if layer.attends else 0 for layer in config.layers],
            },
        }


def forget_after(folder: Path, step: int) -> None:
    """Steps that were done after a checkpoint will be done again: let go of all that was written of them."""
    for name in (METRICS, SAMPLES, WEIGHTS):
        path = folder / name
        if path.is_file():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if step_of(line) <= step]
            with atomic_write(path, "w") as file:
                file.write("".join(line + "\n" for line in lines))
    for path in (folder / SNAPSHOTS).glob("step-*.safetensors"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    batch = folder / BATCH
    if batch.is_file() and step_of(batch.read_text(encoding="utf-8")) > step:
        batch.unlink()


def step_of(line: str) -> float:
    """The step of a line; a line that a kill cut off counts as later than any."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is spread over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def _short(values: Tensor) -> list[float]:
    """Five figures are enough to look at."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _append(path: Path, line: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
