"""The taps of an MLP, or of a mixture of experts in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig
from pellucid.operations.activation import Activation
from pellucid.operations.experts import Experts
from pellucid.operations.route import Route
from pellucid.operations.taps.part import Part
from pellucid.operations.taps.tap import BY_EXPERT, BY_NEURON, Tap


class MLPTaps(Part):
    """The MLP's, from what it reads to what it adds."""

    def __init__(self, config: ModelConfig, i: int, mlp: MLPConfig) -> None:
        experts = config.layers[i].experts
        super().__init__(config, i, {"neuron": mlp.d_ff, "expert": experts.num_experts if experts else 0})
        self.mlp = mlp

    def taps(self) -> Iterator[Tap]:
        return self.dense() if self.layer.experts is None else self.sparse(self.layer.experts)

    def dense(self) -> Iterator[Tap]:
        mlp, wide = self.mlp, (self.mlp.d_ff, self.d_model)
        first = "gate" if mlp.gated else "up"
        act = Activation.made(mlp, f"{self.at}.mlp")
        pre = replace(self.linear(f"mlp.{first}_proj", first, wide, mlp.bias), scale=mlp.gate_scale)
        yield self.tap("mlp_pre", pre, "g", ("n'",), "mlp_in", axes=BY_NEURON)
        if mlp.gated:
            up = self.linear("mlp.up_proj", "up", wide, mlp.bias)
            yield self.tap("mlp_up", up, "u", ("n'",), "mlp_in", axes=BY_NEURON)
            yield self.tap("mlp_act", act, "f", ("g", "u"), "mlp_pre", "mlp_up", axes=BY_NEURON)
        else:
            yield self.tap("mlp_act", act, "f", ("g",), "mlp_pre", axes=BY_NEURON)
        name, symbol = self.made("mlp", "y")
        down = replace(self.linear("mlp.down_proj", "down", (self.d_model, mlp.d_ff), mlp.bias), scale=mlp.down_scale)
        yield self.tap(name, down, symbol, ("f",), "mlp_act")
        yield from self.normed("mlp", "y", "mlp_post_norm")

    def sparse(self, experts: ExpertsConfig) -> Iterator[Tap]:
        """A mixture of experts: what the router says, what each expert counts for, and their sum. Experts' own neurons
        have no tap.
        """
        router = self.linear("mlp.router", "router", (experts.num_experts, self.d_model), experts.router_bias)
        yield self.tap("router_logits", router, "r", ("n'",), "mlp_in", axes=BY_EXPERT)
        route = Route(config=experts, name=f"{self.at}.mlp")
        yield self.tap("experts", route, "w", ("r",), "router_logits", axes=BY_EXPERT)
        name, symbol = self.made("mlp", "y")
        mixed = Experts(name=f"{self.at}.mlp", d_model=self.d_model, mlp=self.mlp, config=experts)
        yield self.tap(name, mixed, symbol, ("n'", "w"), "mlp_in", "experts")
        yield from self.normed("mlp", "y", "mlp_post_norm")
