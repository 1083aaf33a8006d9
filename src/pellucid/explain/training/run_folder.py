"""``RunFolder``: what a training run has written so far, read as it grows, and believed only after it was checked.

Nothing here touches the run: it may be going on in another process, have ended, or have been cut off in the middle of a
line. The files are those that ``train/record.py`` describes, with ``metrics.jsonl``, ``samples.jsonl`` and ``run.yaml``
beside them.
"""

from __future__ import annotations

import json
import math
import os
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError
from pellucid.base.files import parse_json, read_text
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.train.runs.record import ABOUT, BATCH, METRICS, SAMPLES, SNAPSHOTS, WEIGHTS

MAX_FILE = 8 * 2**20  # bytes of a file that is read whole
MAX_READ = 64 * 2**20  # bytes of a growing file that are read at a time
MAX_SNAPSHOT = 16 * 2**20
MEMORY = 50  # steps that the smoothed loss reaches back; fewer at first
METRIC = ("step", "loss", "lr", "grad_norm", "tokens", "seconds")
_SNAPSHOT = re.compile(r"step-(\d{8,12})\.safetensors")


class RunFolder:
    """The record of one run. ``refresh`` reads what is new; everything else answers from what was read.

    Raises: CheckpointError naming file and line where something is not as a run writes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.metrics = {name: array("d") for name in METRIC}
        self.smooth = array("d")
        self.validation: list[tuple[int, float]] = []
        self.preferences: list[tuple[int, float, float]] = []  # step, margin, accuracy of the pairs that were held back
        self.skipped: list[tuple[int, str]] = []
        self.samples: list[tuple[int, str]] = []
        self.weight_steps: list[int] = []
        self.weights: dict[str, list[list[float]]] = {}
        self.seconds_recording = 0.0
        self._growing = [
            _Growing(self.path / METRICS, self._take_metric, self._forget_metrics),
            _Growing(self.path / SAMPLES, self._take_sample, self.samples.clear),
            _Growing(self.path / WEIGHTS, self._take_weights, self._forget_weights),
        ]
        self._forget_weights()

    @staticmethod
    def is_run(path: str | os.PathLike[str]) -> bool:
        return any((Path(path) / name).is_file() for name in (METRICS, ABOUT))

    def refresh(self) -> None:
        for file in self._growing:
            file.read()

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.metrics["step"][-1]) if self.metrics["step"] else 0

    # --- files that are written whole --------------------------------------------------------------------------------

    def about(self) -> dict[str, Any] | None:
        """Names and sizes of what is recorded; None before there is any."""
        about = self._json(ABOUT)
        if about is None:
            return None
        model, weights = _get(about, "model", dict, ABOUT), _get(about, "weights", list, ABOUT)
        heads = _numbers(_get(model, "num_heads", list, ABOUT), ABOUT)
        return {
            "num_steps": int(_number(about, "num_steps", ABOUT)),
            "weights": [
                (_get(w, "name", str, ABOUT), tuple(int(n) for n in _numbers(_get(w, "shape", list, ABOUT), ABOUT)))
                for w in map(_object, weights)
            ],
            "text": _named(about, "text"),
            "tokens": _named(about, "tokens"),
            "model": {
                **{
                    name: int(_number(model, name, ABOUT))
                    for name in ("num_parameters", "d_model", "context_len", "vocab_size")
                },
                **{name: _get(model, name, str, ABOUT)[:80] for name in ("model_type", "position")},
                "num_heads": [int(count) for count in heads[:1000]],
            },
        }

    def settings(self) -> dict[str, Any]:
        """The run's flags, as far as they are plain values; nothing where there are none."""
        import yaml

        path = self.path / "run.yaml"
        if not path.is_file():
            return {}
        try:
            flags = yaml.safe_load(read_text(path, MAX_FILE))
        except yaml.YAMLError:
            return {}
        return (
            {str(name): value for name, value in flags.items() if isinstance(value, (str, int, float, bool))}
            if isinstance(flags, dict)
            else {}
        )

    def batch(self) -> dict[str, Any] | None:
        """The rows that were looked at last; None before any."""
        batch = self._json(BATCH)
        if batch is None:
            return None
        names = ("ids", "pieces", "targets", "target_pieces", "loss", "counts")
        columns = {name: [_row(row, BATCH) for row in _get(batch, name, list, BATCH)[:8]] for name in names}
        lengths = {tuple(map(len, rows)) for rows in columns.values()}
        if len(lengths) != 1:
            raise CheckpointError("rows of the batch differ in length", where=self.path / BATCH)
        rows = [
            [
                {
                    "id": int(i),
                    "text": str(text)[:40],
                    "target": int(target),
                    "next": str(after)[:40],
                    "loss": _finite(loss),
                    "counts": bool(counts),
                }
                for i, text, target, after, loss, counts in zip(*row, strict=True)
            ]
            for row in zip(*(columns[name] for name in names), strict=True)
        ]
        return {
            "step": int(_number(batch, "step", BATCH)),
            "shape": _numbers(_get(batch, "shape", list, BATCH)[:2], BATCH),
            "rows": rows,
        }

    def snapshots(self) -> list[int]:
        """The steps of which there are snapshots."""
        folder = self.path / SNAPSHOTS
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return sorted(int(match[1]) for name in names[:1000] if (match := _SNAPSHOT.fullmatch(name)))

    def snapshot(self, step: int) -> dict[str, Array]:
        """A snapshot's arrays by name. Raises: CheckpointError where it is absent, damaged, or too large to be one."""
        path = self.path / SNAPSHOTS / f"step-{step:08d}.safetensors"
        if not path.is_file():
            raise CheckpointError("there is no snapshot of this step", where=self.path, received=step)
        if path.stat().st_size > MAX_SNAPSHOT:
            raise CheckpointError(
                "the file is too large for a snapshot", where=path, expected=f"at most {MAX_SNAPSHOT} bytes"
            )
        return dict(SafetensorsFile(path).items())

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        return _object(parse_json(read_text(path, MAX_FILE), path), path) if path.is_file() else None

    # --- files that grow ---------------------------------------------------------------------------------------------

    def _take_metric(self, metric: dict[str, Any]) -> None:
        values = [_number(metric, name, METRICS) for name in METRIC]
        for column, value in zip(self.metrics.values(), values, strict=True):
            column.append(value)
        loss = values[1]
        mean = self.smooth[-1] if self.smooth else math.nan
        if math.isfinite(loss):
            mean = loss if math.isnan(mean) else mean + max(1 / MEMORY, 5 / (len(self.smooth) + 5)) * (loss - mean)
        self.smooth.append(mean)
        if metric.get("val_loss") is not None:
            self.validation.append((int(values[0]), _number(metric, "val_loss", METRICS)))
        if metric.get("val_margin") is not None:
            self.preferences.append(
                (int(values[0]), _number(metric, "val_margin", METRICS), _number(metric, "val_accuracy", METRICS))
            )
        if metric.get("skipped"):
            self.skipped.append((int(values[0]), str(metric["skipped"])[:300]))

    def _forget_metrics(self) -> None:
        for column in self.metrics.values():
            del column[:]
        del self.smooth[:]
        self.validation.clear()
        self.preferences.clear()
        self.skipped.clear()

    def _take_sample(self, sample: dict[str, Any]) -> None:
        self.samples.append((int(_number(sample, "step", SAMPLES)), _get(sample, "text", str, SAMPLES)[:4000]))

    def _take_weights(self, norms: dict[str, Any]) -> None:
        rows = [_numbers(_get(norms, name, list, WEIGHTS), WEIGHTS) for name in self.weights]
        known = len(next(iter(self.weights.values()), [[]])[0]) if self.weight_steps else len(rows[0])
        if any(len(row) != known for row in rows):
            raise CheckpointError(
                "lines name different numbers of weights", expected=known, received=[len(row) for row in rows]
            )
        self.weight_steps.append(int(_number(norms, "step", WEIGHTS)))
        for name, row in zip(self.weights, rows, strict=True):
            self.weights[name].append(row)
        self.seconds_recording += _number(norms, "seconds", WEIGHTS)

    def _forget_weights(self) -> None:
        self.weights = {"grad": [], "update": [], "weight": []}
        self.weight_steps, self.seconds_recording = [], 0.0


class _Growing:
    """A file of JSON lines that another process may be writing: what was read is not read again, unless the file was
    written anew.
    """

    def __init__(self, path: Path, take: Callable[[dict[str, Any]], None], forget: Callable[[], Any]) -> None:
        self.path, self.take, self.forget = path, take, forget
        self.offset = self.line = self.inode = 0

    def read(self) -> None:
        if not self.path.is_file():
            return
        with open(self.path, "rb") as file:
            state = os.fstat(file.fileno())
            if state.st_ino != self.inode or state.st_size < self.offset:
                self.forget()
                self.offset, self.line, self.inode = 0, 0, state.st_ino
            while self.offset < state.st_size:
                file.seek(self.offset)
                data = file.read(MAX_READ)
                whole = data.rfind(b"\n") + 1  # the last line may still be on its way
                if not whole:
                    if len(data) == MAX_READ:
                        raise CheckpointError(
                            "a line is too long to be a record", where=self.path, expected=f"at most {MAX_READ} bytes"
                        )
                    return
                for line in data[:whole].splitlines():
                    self._take(line)
                self.offset += whole

    def _take(self, line: bytes) -> None:
        self.line += 1
        try:
            self.take(_object(json.loads(line)))
        except (ValueError, RecursionError) as error:
            what = error.what if isinstance(error, CheckpointError) else "not a line that a run writes"
            raise CheckpointError(
                what,
                where=f"{self.path}, line {self.line}",
                received=line[:60].decode(errors="replace"),
                remedy="the file is damaged",
            ) from None


# --- what a value must be --------------------------------------------------------------------------------------------


def _object(value: Any, where: object = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError("expected a JSON object", where=where, received=type(value).__name__)
    return value


def _get(record: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if not isinstance(record.get(name), kind):
        raise CheckpointError(
            f"{name} is absent or no {kind.__name__}", where=where, received=str(record.get(name))[:60]
        )
    return record[name]


def _number(record: dict[str, Any], name: str, where: str) -> float:
    return _numbers([record.get(name)], f"{where}: {name}")[0]


def _numbers(values: Sequence[Any], where: str) -> list[float]:
    """Numbers; a NaN or an infinity is one, since a run can come to that."""
    try:
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            return [float(value) for value in values]
    except OverflowError:  # a whole number beyond any float
        pass
    raise CheckpointError("expected numbers", where=where, received=str(values)[:60])


def _finite(value: Any) -> float | None:
    (number,) = _numbers([value], BATCH)
    return number if math.isfinite(number) else None


def _row(row: Any, where: str) -> list[Any]:
    if not isinstance(row, list):
        raise CheckpointError("expected rows", where=where, received=type(row).__name__)
    return row[:512]


def _named(about: dict[str, Any], name: str) -> list[tuple[int, str]]:
    """(id, how it reads) of tokens."""
    tokens = _get(about, name, dict, ABOUT)
    ids, pieces = _numbers(_get(tokens, "ids", list, ABOUT), ABOUT), _get(tokens, "pieces", list, ABOUT)
    if len(ids) != len(pieces) or not all(isinstance(piece, str) for piece in pieces):
        raise CheckpointError(f"{name}: ids and pieces differ", where=ABOUT)
    return [(int(i), piece[:40]) for i, piece in zip(ids, pieces, strict=True)][:1024]
