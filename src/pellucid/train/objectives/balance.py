"""The balance loss of a mixture of experts: without it a router comes to prefer a few experts, and the others learn
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.base.errors import ConfigError
from pellucid.config import ModelConfig
from pellucid.model.context import Recorder
from pellucid.model.moe import MoE
from pellucid.train.data.batch import IGNORED, Batch

DEFAULT = 0.01  # its weight beside the cross-entropy, as in Fedus et al. 2021 §2.2


def default_balance(config: ModelConfig) -> float | None:
    """What a model's own description asks for (``router_aux_loss_coef``), else ``DEFAULT``; None for a model without
    experts.
    """
    if not any(layer.experts for layer in config.layers):
        return None
    own = config.extra.get("router_aux_loss_coef")
    return float(own) if isinstance(own, (int, float)) and not isinstance(own, bool) and own >= 0 else DEFAULT


class Routers:
    """A ``Context`` recorder that keeps the router logits of one forward pass; ``inner`` watches as it would without
    it.
    """

    def __init__(self, inner: Recorder | None = None) -> None:
        self.inner = inner
        self.logits: dict[nn.Module, Tensor] = {}  # by layer: an activation that is computed again overwrites itself

    def record(self, module: nn.Module, name: str, value: Tensor) -> Tensor:
        value = value if self.inner is None else self.inner.record(module, name, value)
        if name == "router_logits":
            self.logits[module] = value
        return value

    def balance(self, config: ModelConfig, batch: Batch) -> Float[Tensor, ""]:
        """The balance loss of this pass over the places of ``batch``, the padding behind each row's last target left
        out.

        Raises: ConfigError for a model without experts.
        """
        counts = {layer.experts.num_experts for layer in config.layers if layer.experts}
        if len(counts) != 1:
            raise ConfigError(
                "the model has no experts to balance" if not counts else "layers of different numbers of experts",
                where=config.model_type,
                remedy="leave out --balance",
            )
        routed = []
        for module, logits in self.logits.items():
            assert isinstance(module, MoE)
            wide = logits.float()
            scores = module.scores(wide)
            routed.append((scores / scores.sum(-1, keepdim=True), module.chosen(wide.detach())))
        counted = (batch.targets != IGNORED).flip(1).cumsum(1).flip(1) > 0
        return balance_loss(routed, counted)


def balance_loss(
    routed: Sequence[tuple[Float[Tensor, "B T E"], Int[Tensor, "B T k"]]], counted: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """E · Σ_i f_i · P_i: f_i the mean number of times that a token goes through expert i, P_i the mean probability that
    its router gives i. ``routed``: of each sparse layer, probabilities and the experts that are chosen.

    Probabilities are the router's softmax, or its sigmoids divided by their sum; whom a token goes through is what the
    router decides, its groups and correction included: it is the work that is to be even.

    Both means are over the ``counted`` tokens and all sparse layers together, as transformers takes them. Even use
    makes it ``experts_per_token``, its least value where probabilities follow choices. Gradients flow through P alone:
    f is a count.

    A product of means is no sum over tokens: **of a batch in parts it is not the parts' mean.** In training f and P are
    those of one micro-batch on one process, and the loss of a step is the mean of these, weighted by their targets; so
    the split of a batch enters into it (and into nothing else). Larger micro-batches leave experts more room to differ
    by text.

    Source: Fedus et al. 2021 (Switch) eq. 4–6; transformers ``load_balancing_loss_func``; DeepSeek-AI 2024
    (DeepSeek-V3) §2.1.2, sigmoids; Qiu et al. 2025 on what the batch means to it.
    """
    weight = counted.flatten().float()[:, None]  # (N, 1)
    load, probability = (torch.zeros(routed[0][0].shape[-1], device=weight.device) for _ in range(2))
    for shares, experts in routed:
        p = shares.flatten(0, 1)  # (N, E)
        chosen = torch.zeros_like(p).scatter(1, experts.flatten(0, 1), 1.0)
        load, probability = load + (chosen * weight).sum(0), probability + (p * weight).sum(0)
    count = (weight.sum() * len(routed)).clamp(min=1)
    return len(load) * (load / count * (probability / count)).sum()
