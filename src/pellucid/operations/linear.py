"""Linear: every output is the product of the input with a row of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.operations.cell import Index, Look, Operands, Term, number
from pellucid.operations.numbers import Numbers, Weights, by_head, capped, capped_latex, side_by_side, wide
from pellucid.operations.operation import Line, Operation, Passed, Sentence, Weight
from pellucid.operations.places import Places

PART = 2**23  # numbers of a weight in float64 at a time
OWNERS = {
    "attention": ("model.attention", "Attention.forward"),
    "k_proj of attention": ("model.attention", "Attention._keys_and_values"),
    "v_proj of attention": ("model.attention", "Attention._values"),
    "latent": ("model.latent", "LatentAttention.forward"),
    "q_proj of latent": ("model.latent", "LatentAttention._queries"),
    "q_a_proj": ("model.latent", "LatentAttention._queries"),
    "q_b_proj": ("model.latent", "LatentAttention._queries"),
    "k_b_proj": ("model.latent", "LatentAttention.mix"),
    "v_b_proj": ("model.latent", "LatentAttention.mix"),
    "side": ("model.side", "Side.forward"),
    "mlp": ("model.mlp", "MLP.forward"),
    "router": ("model.moe", "MoE.rate"),
    "delta_net": ("model.delta_net", "DeltaNet.forward"),
    **{
        f"{name}_proj of delta_net": ("model.delta_net", "DeltaNet._fading") for name in ("decay", "decay_a", "decay_b")
    },
    **{f"{name}_proj of delta_net": ("model.delta_net", "DeltaNet._gate") for name in ("gate", "gate_a", "gate_b")},
    "ssm": ("model.mamba", "Mamba.forward"),
    "ssd": ("model.mamba", "Mamba2.forward"),
    "short_conv": ("model.short_conv", "ShortConv.forward"),
}


@dataclass(frozen=True, kw_only=True)
class Linear(Operation):
    """x Wᵀ + b. ``head_dim``: the result is cut into heads; ``joins``: the input is heads, laid side by side.

    ``cap``: cap · tanh(· / cap) of the result, a soft cap on logits. ``clip``: the result brought within −clip … clip.
    """

    kind = "linear"
    holds = Sentence("the output is x Wᵀ + b", "输出为 x Wᵀ + b")
    reads = (
        *(
            f"AttentionConfig.{name}"
            for name in ("qkv_bias", "o_bias", "num_heads", "head_dim", "clip", "v_head_dim", "v_scale")
        ),
        *(f"LatentAttentionConfig.{name}" for name in ("num_heads", "kv_lora_rank", "qk_nope_head_dim")),
        *(f"LatentAttentionConfig.{name}" for name in ("qk_rope_head_dim", "v_head_dim", "q_lora_rank")),
        *(f"LatentAttentionConfig.{name}" for name in ("latent_bias", "o_bias")),
        *(f"MLPConfig.{name}" for name in ("d_ff", "bias")),
        *("AttentionConfig.k_scale", "AttentionConfig.out_scale", "MLPConfig.gate_scale", "MLPConfig.down_scale"),
        *("MambaConfig.bias", "MambaConfig.dt_rank"),
        *(f"Mamba2Config.{name}" for name in ("bias", "o_bias", "scales", "out_scale")),
        *(f"ExpertsConfig.{name}" for name in ("router_bias", "wide")),
        *(f"ModelConfig.{name}" for name in ("tie_embeddings", "head_bias", "logit_scale", "logit_softcap")),
    )
    rows_checked = 8

    name: str
    shape: tuple[int, int]  # (out, in)
    matrix: str  # its symbol, W_{Q}
    bias: bool = False
    head_dim: int | None = None
    joins: bool = False
    scale: float = 1.0
    cap: float | None = None
    clip: float | None = None
    owner: str | None = None  # whose code computes it, where the name does not say it

    @property
    def weights(self) -> tuple[Weight, ...]:
        weight = Weight(f"{self.name}.weight", self.shape)
        return (weight, Weight(f"{self.name}.bias", self.shape[:1])) if self.bias else (weight,)

    def equation(self, result: str, *inputs: str) -> str:
        product = rf"{inputs[0]}\, {self.matrix}^\top"
        shift = f" + b{self.matrix.removeprefix('W')}" if self.bias else ""
        return f"{result} = {self._clipped(capped_latex(self._scaled(product + shift), self.cap))}"

    def _clipped(self, latex: str) -> str:
        return latex if self.clip is None else rf"\operatorname{{clip}}({latex}, \pm {self.clip:g})"

    def _bent(self, y: Numbers) -> Numbers:
        """The sum, scaled, capped and clipped."""
        y = capped(self.scale * y, self.cap)
        return y if self.clip is None else np.clip(y, -self.clip, self.clip)

    def _scaled(self, latex: str) -> str:
        return latex if self.scale == 1 else rf"{self.scale:.4g} \cdot ({latex})"

    def line(self, name: str) -> Line:
        *owner, own = self.name.split(".")
        if own == "side_proj":
            return Line("model.decoder", "Decoder._side", "self.side_proj(")
        if not owner:  # the output layer, or the table of embeddings in its place
            return Line("model.decoder", "Decoder.logits", "self.embed.weight")
        part = f'"{name}"' if own == "up_proj" else f"self.{own}("  # of the two places for one, gated and not
        whose = self.owner or owner[-1]
        place = OWNERS.get(own, OWNERS.get(f"{own} of {whose}", OWNERS[whose]))
        return Line(*place, part)

    def reference(self, inputs: Sequence[Numbers], weights: Weights, places: Places) -> Numbers:
        x = side_by_side(inputs[0]) if self.joins else inputs[0]
        y = self._bent(product(x, *(weights[weight.name] for weight in self.weights)))
        return y if self.head_dim is None else by_head(y, self.head_dim)

    def cell(self, look: Look) -> Operands:
        (source,), weight = look.inputs, self.weights[0].name
        column, place = look.column(source), self._place(look)
        row = look.at[-1] if self.head_dim is None else look.at[1] * self.head_dim + look.at[-1]
        x = look.row(source, look.text, slice(None), column) if self.joins else look.row(source, look.text, column)
        x, w = x.reshape(-1), look.run.weight_row(weight, row)
        products = x * w
        bias = [look.weight(name, (row,)) for name, _ in self.weights[1:]]
        terms = look.sum(
            products,
            lambda i: (look.step(source, place(i), x[i]), look.weight(weight, (row, i), w[i])),
            *(Term(cell.value, (cell,)) for cell in bias),
        )
        total = float(products.sum()) + sum(cell.value for cell in bias)
        if self.cap is None and self.clip is None and self.scale == 1:
            return look.operands(recomputed=total, of=terms, latex=terms.latex)
        parts = {"sum": total} | ({} if self.scale == 1 else {"scale": self.scale})
        parts |= {} if self.cap is None else {"softcap": self.cap}
        parts |= {} if self.clip is None else {"clip": self.clip}
        latex = number(total) if self.scale == 1 else self._scaled(number(total))
        latex = self._clipped(capped_latex(latex, self.cap))
        return look.operands(recomputed=float(self._bent(wide(total))), of=terms, parts=parts, latex=latex)

    def _place(self, look: Look) -> Callable[[int], Index]:
        """Number of an input → its index in the step it comes from."""
        (source,), text = look.inputs, look.text
        column = look.column(source)
        if not self.joins:
            return lambda i: (text, column, i)
        width = look.row(source, text, 0, column).shape[-1]
        return lambda i: (text, i // width, column, i % width)

    def back(self, direction: Numbers, inputs: Sequence[Numbers], weights: Weights) -> Passed:
        """Through Wᵀ; the bias is a constant. A cap is left out: what is shared out is the result before it."""
        direction = self.scale * direction
        before = transposed(weights[self.weights[0].name], direction)
        constants = {name: float(wide(weights[name]) @ direction) for name, _ in self.weights[1:]}
        return Passed((before.reshape(inputs[0].shape),), constants)

    def forth(self, part: Numbers, source: int, inputs: Sequence[Numbers], weights: Weights) -> Numbers:
        return self.scale * product(part.reshape(-1), weights[self.weights[0].name])

    def constants(self, weights: Weights, index: int) -> dict[str, float]:
        """What one output has beside its direction: the bias."""
        return {name: self.scale * float(weights[name][index]) for name, _ in self.weights[1:]}

    def row(self, weights: Weights, index: int) -> Numbers:
        """The direction of one output."""
        return self.scale * wide(weights[self.weights[0].name][index])


def product(x: Numbers, weight: Any, bias: Any = None) -> Numbers:
    """x Wᵀ + b, the weight in float64 a part at a time."""
    rows = max(PART // weight.shape[1], 1)
    parts = [x @ wide(weight[start : start + rows]).T for start in range(0, weight.shape[0], rows)]
    return np.concatenate(parts, -1) + (0.0 if bias is None else wide(bias))


def transposed(weight: Any, direction: Numbers) -> Numbers:
    """direction W, likewise."""
    rows = max(PART // weight.shape[1], 1)
    starts = range(0, weight.shape[0], rows)
    return sum((direction[i : i + rows] @ wide(weight[i : i + rows]) for i in starts), np.zeros(weight.shape[1]))
