"""Vectors of a token beside the stream: a narrow one for every layer (per-layer embeddings)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from pellucid.base.typed import check_fields
from pellucid.config.checks import check_choice, check_size
from pellucid.config.mlp import Activation, linear_shapes
from pellucid.config.norm import NormConfig, norm_shapes


@dataclass(frozen=True, kw_only=True)
class SideConfig:
    """A narrow vector that each token has for each layer, and what the layer makes of it.

    Of the embedding e of a token, and rows of a table of their own, layer i has s = (√P · E_i[id] + norm(W_i e / √D)) /
    √2, of ``width`` P. After its MLP the stream x becomes x + norm(W_down (act(W_gate x) ⊙ s)). Source: Gemma Team
    2025 (Gemma 3n); transformers models/gemma4 (per-layer embeddings).
    """

    width: int
    activation: Activation = "gelu_tanh"
    norm: NormConfig = field(default_factory=NormConfig)

    def __post_init__(self) -> None:
        check_fields(self, "side")
        check_size("side", width=self.width)
        check_choice("side", "activation", self.activation, tuple(a for a in get_args(Activation) if a != "xielu"))

    def weight_shapes(self, d_model: int, vocab_size: int, num_layers: int) -> dict[str, tuple[int, ...]]:
        """Those of all layers together: a row of the table, or of the map, holds one layer's part after the other's."""
        whole = num_layers * self.width
        shapes = {"side_embed.weight": (vocab_size, whole)} | linear_shapes("side_proj", whole, d_model, False)
        return shapes | norm_shapes("side_norm", self.width, self.norm)

    def layer_shapes(self, prefix: str, d_model: int) -> dict[str, tuple[int, ...]]:
        shapes = linear_shapes(f"{prefix}gate_proj", self.width, d_model, False)
        shapes |= linear_shapes(f"{prefix}down_proj", d_model, self.width, False)
        return shapes | norm_shapes(f"{prefix}norm", d_model, self.norm)
