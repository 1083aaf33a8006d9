"""The training section's questions, answered from a run's folder; and the page of a run that has no model to explain
yet.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, RequestError
from pellucid.explain.show.answers import NoSuchQuestionError, Params, Tile, plain
from pellucid.explain.show.mathml import mathml
from pellucid.explain.training.formulas import FORMULAS
from pellucid.explain.training.run_folder import METRICS, RunFolder

POINTS = 700  # of a curve, over the whole run, and as many over the logarithm of the step
COLUMNS = 300  # of a heat map
ROWS = 400
SHOWN_SAMPLES = 24
NEAR = 4
SETTINGS = (
    "method",
    "optimizer",
    "lr",
    "schedule",
    "warmup_steps",
    "batch_size",
    "context_len",
    "weight_decay",
    "dropout",
    "max_grad_norm",
    "seed",
)


class Training:
    """Answers about one run, from its folder, as far as it has come. Thread-safe."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._snapshot = lru_cache(64)(folder.snapshot)
        self._seen_step = -1
        self._questions: dict[str, Callable[[str, Params], Any]] = {
            "": lambda _, params: self.description(),
            "state": lambda _, params: self.state(),
            "curves": lambda _, params: self.curves(),
            "weights": lambda _, params: self.weights(each=params.get("each") == "1"),
            "batch": lambda _, params: self.folder.batch(),
            "samples": lambda _, params: self.samples(),
            "embedding": lambda _, params: self.embedding(),
            "stream": lambda _, params: self.stream(),
            "snapshot": lambda name, params: self.snapshot(_step(name)),
        }

    def answer(self, path: str, params: Params) -> Any:
        """Raises: NoSuchQuestionError; CheckpointError for a folder that is damaged."""
        kind, _, name = path.partition("/")
        if kind not in self._questions:
            raise NoSuchQuestionError(f"there is no question training/{path!r}", expected=", ".join(self._questions))
        with self._lock:
            self._refresh()
            return plain(self._questions[kind](name, params))

    def tile(self, name: str, params: Params) -> Tile:
        """``attention.500.3`` (all heads of the layer, one below the other), ``positions.500``. Raises: RequestError
        where there is none.
        """
        kind, _, rest = name.partition(".")
        step, _, layer = rest.partition(".")
        with self._lock:
            array = self._snapshot(_step(step)).get(f"{kind}.{layer}" if layer else kind)
        if array is None or kind not in ("attention", "positions") or len(array.shape) < 2:
            raise RequestError("there is no such picture", received=name)
        return Tile(array.data.astype(np.float32).reshape(-1, array.shape[-1]), 1, 1)

    def _refresh(self) -> None:
        self.folder.refresh()
        if self.folder.step < self._seen_step:  # it was resumed from a checkpoint: snapshots may be others
            self._snapshot.cache_clear()
        self._seen_step = self.folder.step

    # --- answers -----------------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        about, settings = self.folder.about(), self.folder.settings()
        return {
            "name": self.folder.path.resolve().name,
            "about": None
            if about is None
            else {**about, "text": _tokens(about["text"]), "tokens": _tokens(about["tokens"]), "weights": None},
            "settings": {name: settings[name] for name in SETTINGS if name in settings},
            "formulas": {name: mathml(latex) for name, latex in FORMULAS.items()},
        }

    def state(self) -> dict[str, Any]:
        """Where the run stands, small enough to be asked every other second."""
        folder, about = self.folder, self.folder.about()
        metrics, num_steps = folder.metrics, (about or {}).get("num_steps") or folder.settings().get("steps")
        recent = slice(-min(len(metrics["step"]), 20), None)
        seconds, tokens = sum(metrics["seconds"][recent]), sum(metrics["tokens"][recent])
        each = seconds / max(len(metrics["seconds"][recent]), 1)
        try:
            quiet = time.time() - (folder.path / METRICS).stat().st_mtime
        except OSError:
            quiet = 0.0
        finished = num_steps is not None and folder.step >= num_steps
        total = sum(metrics["seconds"])
        return {
            "step": folder.step,
            "num_steps": num_steps,
            "finished": finished,
            "running": not finished and quiet < max(30.0, 20 * each),
            "seconds": total,
            "left": None if num_steps is None else each * (num_steps - folder.step),
            "loss": metrics["loss"][-1] if folder.step else None,
            "smooth": folder.smooth[-1] if folder.step else None,
            "val_loss": folder.validation[-1][1] if folder.validation else None,
            "lr": metrics["lr"][-1] if folder.step else None,
            "tokens_per_second": tokens / seconds if seconds else None,
            "tokens": sum(metrics["tokens"]),
            "snapshots": folder.snapshots(),
            "records": len(folder.weight_steps),
            "samples": len(folder.samples),
            "recording": folder.seconds_recording / total if total else 0.0,
        }

    def curves(self) -> dict[str, Any]:
        """What the metrics say, in at most some 1,400 points: of a bucket of steps the mean, and for the loss the least
        and the most.
        """
        metrics = (
            {name: np.frombuffer(column, np.float64) for name, column in self.folder.metrics.items()}
            if self.folder.step
            else None
        )
        if metrics is None:
            return {"step": [], "validation": [], "preferences": [], "skipped": []}
        edges = _buckets(metrics["step"])
        counts = np.diff([*edges, len(metrics["step"])])
        last = [*(edges[1:] - 1), len(metrics["step"]) - 1]

        def mean(name: str) -> list[float]:
            return (np.add.reduceat(metrics[name], edges) / counts).tolist()

        seconds = np.add.reduceat(metrics["seconds"], edges)
        return {
            "step": metrics["step"][last].astype(int).tolist(),
            "loss": mean("loss"),
            "low": np.minimum.reduceat(metrics["loss"], edges).tolist(),
            "high": np.maximum.reduceat(metrics["loss"], edges).tolist(),
            "smooth": np.frombuffer(self.folder.smooth, np.float64)[last].tolist(),
            "lr": mean("lr"),
            "grad_norm": mean("grad_norm"),
            "tokens_per_second": (np.add.reduceat(metrics["tokens"], edges) / np.maximum(seconds, 1e-9)).tolist(),
            "validation": self.folder.validation,
            "preferences": self.folder.preferences,
            "skipped": self.folder.skipped[-50:],
            "uniform": math.log((self.folder.about() or {"model": {"vocab_size": 1}})["model"]["vocab_size"]) or None,
        }

    def weights(self, *, each: bool = False) -> dict[str, Any]:
        """Gradient norm, ‖Δw‖ / ‖w‖ and ‖w‖ of each part of each layer (or of each weight), over the recorded steps."""
        about = self.folder.about()
        if about is None or not self.folder.weight_steps:
            return {"steps": [], "rows": []}
        names = about["weights"]
        if len(names) != len(self.folder.weights["grad"][0]):
            raise CheckpointError(
                "the record names other weights than it holds", where=self.folder.path, expected=len(names)
            )
        groups: dict[str, list[int]] = {}
        for number, (name, shape) in enumerate(names):
            if len(shape) >= 2 or each:
                groups.setdefault(name if each else _part(name), []).append(number)
        columns = _spread(len(self.folder.weight_steps), COLUMNS)
        rows = list(groups)[:ROWS]
        squares = {
            name: np.square(np.array([self.folder.weights[name][i] for i in columns])) for name in self.folder.weights
        }
        lengths = {
            name: np.stack([np.sqrt(sums[:, groups[row]].sum(1)) for row in rows]) for name, sums in squares.items()
        }  # (rows, columns)
        ratio = lengths["update"] / np.maximum(lengths["weight"], 1e-30)
        return {
            "steps": [self.folder.weight_steps[i] for i in columns],
            "rows": rows,
            "grad": lengths["grad"].tolist(),
            "ratio": ratio.tolist(),
            "weight": lengths["weight"].tolist(),
        }

    def samples(self) -> list[dict[str, Any]]:
        samples = self.folder.samples
        return [{"step": samples[i][0], "text": samples[i][1]} for i in _spread(len(samples), SHOWN_SAMPLES)]

    def embedding(self) -> dict[str, Any]:
        """Each snapshot's embedding rows in one plane, that of the last snapshot's two principal axes: so points move
        as the rows do.
        """
        steps = self.folder.snapshots()
        rows = [self._array(step, "embedding", 2) for step in steps]
        if not rows or rows[-1].shape[0] < 3 or any(row.shape != rows[-1].shape for row in rows):
            return {"steps": [], "points": []}
        centred = [row - row.mean(0) for row in rows]
        _, sizes, axes = np.linalg.svd(centred[-1], full_matrices=False)
        plane = axes[:2].T * np.sign(
            axes[:2, :][np.arange(2), np.abs(axes[:2]).argmax(1)]
        )  # (D, 2), each axis' largest part positive
        points = [np.round(row @ plane, 5) for row in centred]
        return {
            "steps": steps,
            "points": [cloud.tolist() for cloud in points],
            "share": float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-30)),
            "reach": float(max(np.abs(cloud).max() for cloud in points)) or 1.0,
        }

    def stream(self) -> dict[str, Any]:
        """How large the residual stream was in each snapshot: before the first layer and after each."""
        steps = self.folder.snapshots()
        sizes = [self._array(step, "stream", 1) for step in steps]
        if not sizes or any(size.shape != sizes[0].shape for size in sizes):
            return {"steps": [], "rms": []}
        return {"steps": steps, "rms": np.stack(sizes, 1).tolist()}  # (L + 1, snapshots)

    def snapshot(self, step: int) -> dict[str, Any]:
        """One snapshot, less its large pictures, which are tiles."""
        arrays, about = self._snapshot(step), self.folder.about()
        layers = sorted(int(name.partition(".")[2]) for name in arrays if name.startswith("attention."))
        patterns = [self._array(step, f"attention.{layer}", 3) for layer in layers]
        rows = self._array(step, "embedding", 2)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        alike = rows @ rows.T
        ids, p = self._array(step, "next_ids", 2), self._array(step, "next_p", 2)
        text = [] if about is None else about["text"]
        return {
            "step": step,
            "nll": self._array(step, "nll", 1).tolist(),
            "next": [
                [{"id": int(i), "p": float(share)} for i, share in zip(*pair, strict=True)]
                for pair in zip(ids, p, strict=True)
            ],
            "stream": self._array(step, "stream", 1).tolist(),
            "length": len(text),
            "attention": [
                {"layer": layer, "heads": pattern.shape[0], "size": pattern.shape[1]}
                for layer, pattern in zip(layers, patterns, strict=True)
            ],
            "distance": [by_distance(pattern).tolist() for pattern in patterns],
            "positions": list(arrays["positions"].shape) if "positions" in arrays else None,
            "near": np.argsort(-alike, axis=1, kind="stable")[:, 1 : 1 + NEAR].tolist(),
        }

    def _array(self, step: int, name: str, axes: int) -> np.ndarray:
        array: Array | None = self._snapshot(step).get(name)
        if array is None or len(array.shape) != axes:
            raise CheckpointError(
                f"the snapshot of step {step} has no {name}", where=self.folder.path, expected=f"{axes} axes"
            )
        return np.nan_to_num(array.data.astype(np.float32))


class TrainingOnly:
    """The view of a run that has no model to be explained yet, or is watched while it goes: the page is its training
    section.
    """

    def __init__(self, training: Training) -> None:
        self.training = training

    def answer(self, path: str, params: Params) -> Any:
        if path in ("model", "run"):
            return None
        kind, _, rest = path.partition("/")
        if kind != "training":
            raise NoSuchQuestionError("there is no model here to ask", received=path)
        return self.training.answer(rest, params)

    def tile(self, name: str, params: Params) -> Tile:
        return self.training.tile(name.removeprefix("training."), params)

    def order(self, path: str, body: Mapping[str, Any]) -> Any:
        raise NoSuchQuestionError("there is no model here to run", received=path)


@contextmanager
def watch_run(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve the page of a run while it goes on; gives the address. It reads files in a thread of its own."""
    from pellucid.explain.show.server import PageServer

    with PageServer(TrainingOnly(Training(RunFolder(folder))), port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def by_distance(pattern: np.ndarray) -> np.ndarray:
    """(H, T, T) → (H, T): how much weight a head gives, on average, to the token d before."""
    size = pattern.shape[-1]
    return np.stack([np.diagonal(pattern, -d, 1, 2).mean(-1) for d in range(size)], 1)


def _buckets(steps: np.ndarray) -> np.ndarray:
    """Where buckets of steps begin: a new one wherever the step has gone on by a share of the run, or of its log."""
    first = np.maximum(steps, 1)
    end = max(first.max(), 2.0)
    linear, log = np.floor(first / end * POINTS), np.floor(np.log(first) / math.log(end) * POINTS)
    begins = np.ones(len(steps), bool)
    begins[1:] = (np.diff(linear) != 0) | (np.diff(log) != 0)
    return np.flatnonzero(begins)


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` places of ``count``, the first and the last among them."""
    return (
        list(range(count)) if count <= most else np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
    )


def _part(name: str) -> str:
    """``layers.3.attention.q_proj.weight`` → ``layers.3.attention``; ``embed.weight`` → ``embed``."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[0] == "layers" else parts[0]


def _tokens(named: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    return [{"id": i, "text": text} for i, text in named]


def _step(text: str) -> int:
    if not text.isdigit() or len(text) > 12:
        raise RequestError("a snapshot is named by its step", received=text)
    return int(text)
