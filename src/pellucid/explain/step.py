"""``Step``: everything there is to say about one step of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pellucid.explain.record import Record
from pellucid.explain.show.mathml import mathml
from pellucid.operations import Weight, Words

MOST_WEIGHTS = 6  # named in a printed step: a mixture of experts has hundreds


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: what it is, its equation, where its numbers come from, and their range."""

    name: str  # layers.3.pattern
    kind: str  # lookup, position, sum, copy, norm, linear, rotate, scores, softmax, mix, activation, route, experts
    words: Words
    latex: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    inputs: tuple[str, ...]
    weights: tuple[Weight, ...]
    code: str
    dtype: str
    min: float  # over finite numbers: masked scores are −∞
    max: float
    norm: float
    edited: bool

    @property
    def title(self) -> str:
        return self.words.title

    @property
    def title_zh(self) -> str:
        return self.words.title_zh

    @property
    def meaning(self) -> str:
        return self.words.meaning

    @property
    def meaning_zh(self) -> str:
        return self.words.meaning_zh

    @property
    def mathml(self) -> str:
        return mathml(self.latex)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return {
            "name": self.name,
            "kind": self.kind,
            "title": {"en": self.title, "zh": self.title_zh},
            "meaning": {"en": self.meaning, "zh": self.meaning_zh},
            "latex": self.latex,
            "mathml": self.mathml,
            "axes": list(self.axes),
            "shape": list(self.shape),
            "inputs": list(self.inputs),
            "weights": [{"name": weight.name, "shape": list(weight.shape)} for weight in self.weights],
            "code": self.code,
            "dtype": self.dtype,
            "min": self.min,
            "max": self.max,
            "norm": self.norm,
            "edited": self.edited,
        }

    def __str__(self) -> str:
        axes = " × ".join(f"{axis} {size}" for axis, size in zip(self.axes, self.shape, strict=True))
        lines = [
            f"{self.name}: {self.title}",
            f"  {self.latex}",
            f"  {axes}, {self.dtype}, {self.min:.4g} … {self.max:.4g}, norm {self.norm:.4g}",
        ]
        if self.inputs:
            lines.append("  from " + ", ".join(self.inputs))
        if self.weights:
            shown = [f"{weight.name} {list(weight.shape)}" for weight in self.weights[:MOST_WEIGHTS]]
            more = [f"… ({len(self.weights) - MOST_WEIGHTS} more)"] if len(self.weights) > MOST_WEIGHTS else []
            lines.append("  with " + ", ".join(shown + more))
        return "\n".join([*lines, f"  {self.code}", f"  {self.meaning}"])


def make_step(trace: Record, path: str) -> Step:
    """What one step of a run is. Raises: NotRecordedError, UnknownStepError."""
    tap, value = trace.tap(path), trace[path]
    finite = value[~torch.isneginf(value)]  # masked scores are −∞
    return Step(
        name=path,
        kind=tap.kind,
        words=tap.words,
        latex=tap.latex,
        axes=tap.axes,
        shape=tuple(value.shape),
        inputs=tap.inputs,
        weights=tap.weights,
        code=trace.line(path),
        dtype=str(value.dtype).removeprefix("torch."),
        min=float(finite.min()),
        max=float(finite.max()),
        norm=float(torch.linalg.vector_norm(finite.float())),
        edited=path in trace.edited,
    )
