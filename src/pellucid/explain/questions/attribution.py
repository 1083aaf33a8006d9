"""Direct logit attribution: what each part added to a token's logit. The parts sum to the logit.

The residual stream is a sum, and the logit is linear in it but for norms. With attention and each norm's deviation σ
held at their actual values everything is linear, so the logit is a sum over the embedding, every head, every MLP, and
the constant terms (biases and β). How a contribution passes through a step, and where it ends, is its operation's to
say: norms before, after and over sums, parts in turn or side by side, need nothing of their own here.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; nostalgebraist 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.explain.recompute import ModelWeights, wide
from pellucid.explain.record import Record
from pellucid.operations import Tap
from pellucid.operations.linear import Linear
from pellucid.operations.numbers import Numbers


@dataclass(frozen=True)
class Part:
    """What one part of the model adds to the logit."""

    name: str  # the step: embed, pos_embed, layers.3.z (a head), layers.3.mlp_out; or the weight of a constant term
    kind: str  # embed, position, head, mlp, bias
    layer: int | None
    head: int | None
    value: float

    @property
    def label(self) -> str:
        where = self.name if self.layer is None or self.kind == "bias" else f"layer {self.layer}"
        return f"{where} head {self.head}" if self.kind == "head" else f"{where} MLP" if self.kind == "mlp" else where

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "label": self.label,
            "layer": self.layer,
            "head": self.head,
            "value": self.value,
        }


@dataclass(frozen=True)
class Neuron:
    layer: int
    neuron: int
    activation: float
    value: float  # what it adds to the logit


@dataclass(frozen=True)
class Attribution:
    """``logit`` is the token's (minus that of ``against``); ``parts`` sum to it, but for rounding: ``error``."""

    position: int
    token: int
    against: int | None
    logit: float
    parts: list[Part]
    neuron_values: list[Tensor]  # a layer: (F,) what each neuron adds
    activations: list[Tensor]  # a layer: (F,)

    @property
    def error(self) -> float:
        return abs(sum(part.value for part in self.parts) - self.logit)

    def heads(self, k: int | None = None) -> list[Part]:
        """Heads by the size of what they add."""
        return self.ranked("head")[:k]

    def ranked(self, kind: str | None = None) -> list[Part]:
        return sorted(
            (part for part in self.parts if kind is None or part.kind == kind), key=lambda part: -abs(part.value)
        )

    def neurons(self, k: int = 20) -> list[Neuron]:
        """Neurons by the size of what they add."""
        flat = torch.cat(self.neuron_values)
        places = [(layer, neuron) for layer, values in enumerate(self.neuron_values) for neuron in range(len(values))]
        largest = flat.abs().topk(min(k, len(flat))).indices.tolist()
        named = [(*places[i], flat[i].item()) for i in largest]
        return [Neuron(layer, neuron, self.activations[layer][neuron].item(), value) for layer, neuron, value in named]

    def to_json(self, neurons: int = 20) -> dict[str, Any]:
        return {
            "position": self.position,
            "token": self.token,
            "against": self.against,
            "logit": self.logit,
            "error": self.error,
            "parts": [part.to_json() for part in self.parts],
            "neurons": [vars(neuron) for neuron in self.neurons(neurons)],
        }


def attribution(
    trace: Record, position: int = -1, token: int | None = None, *, against: int | None = None, row: int = 0
) -> Attribution:
    """What every part of the model adds to ``token``'s logit at ``position``.

    ``token`` is the model's own choice unless given. With ``against``, the difference of two logits: why this token and
    not that one. A soft cap on the logits is left out: the parts sum to the logit before it.

    Raises: NotRecordedError where a step that a contribution ends in or a norm on its way was left out of the trace.
    """
    return attributions(trace, [(position, token)], against=against, row=row)[0]


@torch.no_grad()
def attributions(
    trace: Record, questions: Sequence[tuple[int, int | None]], *, against: int | None = None, row: int = 0
) -> list[Attribution]:
    """``attribution`` of several (position, token), for which each weight is read once."""
    weights = ModelWeights(trace.model, {})
    asked = [_Asked(trace, row, position, token, against, weights) for position, token in questions]
    for path, tap in reversed(trace.taps.items()):
        for one in asked:
            one.pass_on(path, tap, weights)
        assert weights.kept is not None
        weights.kept.clear()
    return [one.answer() for one in asked]


class _Asked:
    """One question on its way back through the model.

    A step's direction is how the logit changes with its value: it goes back from step to step, and where several steps
    read one, their directions add up. ``branch`` is what was added to the stream on the way to a step.
    """

    def __init__(
        self, trace: Record, row: int, position: int, token: int | None, against: int | None, weights: ModelWeights
    ) -> None:
        self.trace, self.row, self.against = trace, row, against
        self.column = trace.column("logits", position)
        self.token = int(trace["logits"][row, self.column].argmax()) if token is None else token
        head = trace.tap("logits")
        assert isinstance(head.operation, Linear)
        direction, constants = head.operation.row(weights, self.token), head.operation.constants(weights, self.token)
        if against is not None:
            direction = direction - head.operation.row(weights, against)
            less = head.operation.constants(weights, against)
            constants = {name: value - less[name] for name, value in constants.items()}
        (last,) = head.inputs
        self.logit = float(self.at(last) @ direction) + sum(constants.values())
        self.directions: dict[str, Numbers] = {last: direction}
        self.branch: dict[str, str] = {}
        self.parts = [Part(name, "bias", None, None, value) for name, value in constants.items()]
        self.neurons = [torch.zeros(0) for _ in trace.config.layers]
        self.activations = [torch.zeros(0) for _ in trace.config.layers]

    def at(self, path: str) -> Numbers:
        """What a step has at this position: (D,), or (H, E) by head."""
        value = self.trace[path][self.row]
        return wide(value.select(self.trace.tap(path).axes.index("position") - 1, self.column))

    def pass_on(self, path: str, tap: Tap, weights: ModelWeights) -> None:
        if path not in self.directions:
            return
        direction, operation = self.directions[path], tap.operation
        if operation.part is not None:  # it ends here
            shares = operation.shares(self.at(path), direction)
            self.parts += _parts(tap, self.branch.get(path, path), shares)
            if tap.layer is not None and operation.part == "mlp" and np.ndim(shares):
                self.neurons[tap.layer] = torch.from_numpy(shares)
                self.activations[tap.layer] = torch.from_numpy(self.at(path))
            return
        passed = operation.back(direction, [self.at(source) for source in tap.inputs], weights)
        assert passed is not None, f"{tap.kind} neither ends a contribution nor passes it on"
        self.parts += [Part(name, "bias", tap.layer, None, value) for name, value in passed.constants.items()]
        for source, before in zip(tap.inputs, passed.directions, strict=True):
            if before is None:
                continue
            self.directions[source] = self.directions[source] + before if source in self.directions else before
            self.branch[source] = source if len(tap.inputs) > 1 else self.branch.get(path, path)

    def answer(self) -> Attribution:
        return Attribution(
            self.trace.positions[self.column],
            self.token,
            self.against,
            self.logit,
            self.parts[::-1],
            self.neurons,
            self.activations,
        )


def _parts(tap: Tap, branch: str, shares: Numbers) -> list[Part]:
    """Of a step that a contribution ends in: a part for each head, or one for all that its branch adds."""
    kind = tap.operation.part
    assert kind is not None
    if kind == "head":
        return [Part(tap.path, kind, tap.layer, h, value) for h, value in reversed(list(enumerate(shares.tolist())))]
    return [Part(branch if tap.layer is not None else tap.path, kind, tap.layer, None, float(np.sum(shares)))]
