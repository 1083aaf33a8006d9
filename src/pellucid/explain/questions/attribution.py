"""Direct logit attribution: what each part added to a token's logit. The parts sum to the logit.

The residual stream is a sum, and the logit is linear in it but for norms. With each norm's deviation σ held at its
actual value, norms are linear too, so the logit is a sum over the embedding, every head, every MLP, and the constant
terms (biases and β). In models that normalize after each sum the same holds, with the direction carried back through
every norm on the way.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; nostalgebraist 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.config import NormConfig
from pellucid.explain.recompute import normalized, wide

if TYPE_CHECKING:
    from pellucid.explain.trace import Trace


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
        found = [(*places[i], flat[i].item()) for i in largest]
        return [Neuron(layer, neuron, self.activations[layer][neuron].item(), value) for layer, neuron, value in found]

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


@torch.no_grad()
def attribution(
    trace: Trace, position: int = -1, token: int | None = None, *, against: int | None = None, row: int = 0
) -> Attribution:
    """What every part of the model adds to ``token``'s logit at ``position``.

    ``token`` is the model's own choice unless given. With ``against``, the difference of two logits: why this token and
    not that one. A soft cap on the logits is left out: the parts sum to the logit before it.

    Raises: NotRecordedError where the stream, ``z``, ``mlp_act`` or ``final`` was left out of the trace.
    """
    column, config = trace.column("logits", position), trace.config
    token = int(trace["logits"][row, column].argmax()) if token is None else token
    head = trace.weight(trace.tap("logits").weights[0].name)
    direction = wide(head[token]) - (0.0 if against is None else wide(head[against]))  # (D,)
    parts: list[Part] = []
    neurons: list[Tensor] = []
    activations: list[Tensor] = []

    def at(path: str) -> Tensor:
        return wide(trace[path][row, column])

    def back(path: str, norm: NormConfig, x: Tensor, direction: Tensor, layer: int | None) -> Tensor:
        """The direction before a norm with σ held; its β's share becomes a part."""
        weights = [weight.name for weight in trace.tap(path).weights]
        if len(weights) > 1:
            parts.append(Part(weights[1], "bias", layer, None, float(wide(trace.weight(weights[1])) @ direction)))
        direction = direction * wide(trace.weight(weights[0])) / normalized(x, norm)[2]
        return direction - direction.mean() if norm.kind == "layer" else direction

    def bias(path: str, direction: Tensor, layer: int) -> None:
        for weight in trace.tap(path).weights[1:]:
            parts.append(Part(weight.name, "bias", layer, None, float(wide(trace.weight(weight.name)) @ direction)))

    logit = float(at("final") @ direction)
    if config.final_norm is not None:
        direction = back("final", config.final_norm, at(f"layers.{config.num_layers - 1}.resid_post"), direction, None)
    for i, layer in reversed(list(enumerate(config.layers))):
        path, post = f"layers.{i}", layer.mixer_norms.sum is not None
        if post:
            direction = back(
                f"{path}.resid_post",
                layer.norms["mlp_sum_norm"],
                at(f"{path}.resid_mid") + at(f"{path}.mlp_out"),
                direction,
                i,
            )
        if layer.experts:  # a part as a whole: its neurons are not recorded
            neurons.append(direction.new_zeros(0))
            activations.append(direction.new_zeros(0))
            parts.append(Part(f"{path}.mlp_out", "mlp", i, None, float(at(f"{path}.mlp_out") @ direction)))
        else:
            act = at(f"{path}.mlp_act")
            neurons.append(act * (wide(trace.weight(f"{path}.mlp.down_proj.weight")).T @ direction))
            activations.append(act)
            parts.append(Part(f"{path}.mlp_out", "mlp", i, None, float(neurons[-1].sum())))
            bias(f"{path}.mlp_out", direction, i)
        if post:
            direction = back(
                f"{path}.resid_mid",
                layer.norms["attention_sum_norm"],
                at(f"{path}.resid_pre") + at(f"{path}.attn_out"),
                direction,
                i,
            )
        z = wide(trace[f"{path}.z"][row, :, column])  # (H, E)
        reading = (wide(trace.weight(f"{path}.attention.o_proj.weight")).T @ direction).view_as(z)
        parts += [
            Part(f"{path}.z", "head", i, h, value)
            for h, value in reversed(list(enumerate((z * reading).sum(-1).tolist())))
        ]
        bias(f"{path}.attn_out", direction, i)
    if config.position != "none":
        parts.append(Part("pos_embed", "position", None, None, float(at("pos_embed") @ direction)))
    parts.append(Part("embed", "embed", None, None, float(at("embed") @ direction)))
    return Attribution(trace.positions[column], token, against, logit, parts[::-1], neurons[::-1], activations[::-1])
