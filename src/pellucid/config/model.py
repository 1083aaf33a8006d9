"""A model, whole: its layers, what stands before and after them, and the name and shape of every weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pellucid.base.errors import ConfigError
from pellucid.base.typed import check_fields
from pellucid.config.attention import AttentionConfig
from pellucid.config.checks import MAX_EXPERTS, MAX_LAYERS, MAX_SIZE, check_choice, check_number, check_size
from pellucid.config.layer import LayerConfig
from pellucid.config.mlp import linear_shapes, mlp_shapes
from pellucid.config.norm import NormConfig, norm_shapes
from pellucid.config.rope import RopeConfig, RopeScaling


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer, whole."""

    model_type: str
    vocab_size: int
    d_model: int
    context_len: int
    layers: tuple[LayerConfig, ...]
    final_norm: NormConfig | None
    position: Literal["none", "learned", "sinusoidal"] = "none"  # what is added to embeddings; rotary is per layer
    wide_stream: bool = False  # the residual stream is summed up in float32, whatever its parts are computed in
    embedding_scale: float = 1.0
    embedding_norm: NormConfig | None = None  # over what enters the first layer
    tie_embeddings: bool = False
    head_bias: bool = False
    logit_scale: float = 1.0  # multiplies logits, before they are capped
    logit_softcap: float | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    dtype: str = "float32"
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # config.json's keys that we do not interpret

    def __post_init__(self) -> None:
        check_fields(self, "model")
        check_size(self.model_type, vocab_size=self.vocab_size, d_model=self.d_model, context_len=self.context_len)
        check_number(self.model_type, embedding_scale=self.embedding_scale, logit_scale=self.logit_scale)
        if self.head_bias and self.tie_embeddings:
            raise ConfigError("an output layer that is the embedding table has no bias", where=self.model_type)
        check_choice(self.model_type, "position", self.position, ("none", "learned", "sinusoidal"))
        if not 0 < len(self.layers) <= MAX_LAYERS:
            raise ConfigError(
                "num_layers is out of range",
                where=self.model_type,
                expected=f"1 to {MAX_LAYERS}",
                received=len(self.layers),
            )
        if (experts := sum(layer.experts.num_experts for layer in self.layers if layer.experts)) > MAX_EXPERTS:
            raise ConfigError(
                "there are too many experts",
                where=self.model_type,
                expected=f"at most {MAX_EXPERTS} in all",
                received=experts,
            )
        if any(layer.side != self.layers[0].side for layer in self.layers):
            raise ConfigError("side vectors are every layer's, of one width", where=self.model_type)
        for i, layer in enumerate(self.layers):
            if (lender := getattr(layer.mixer, "kv_from", None)) is not None:
                self._check_lent(i, lender)
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ConfigError(
                "sinusoidal positions pair dimensions",
                where=self.model_type,
                expected="an even d_model",
                received=self.d_model,
            )
        if self.position == "sinusoidal" and self.context_len * self.d_model > MAX_SIZE:
            raise ConfigError(
                "the position table would be too large", where=self.model_type, expected=f"at most {MAX_SIZE} cells"
            )

    def _check_lent(self, i: int, lender: int) -> None:
        """Layer ``i`` looks at keys that are alike those it would have, and that are there before it."""
        own = self.layers[i].mixer
        other = self.layers[lender].mixer if 0 <= lender < i else None
        alike = ("num_kv_heads", "head_dim", "v_width", "v_scale", "window", "rope")
        if (
            not isinstance(other, AttentionConfig)
            or other.kv_from is not None
            or any(getattr(own, name) != getattr(other, name) for name in alike)
        ):
            raise ConfigError(
                "keys and values can be those of an earlier layer that makes its own, alike in shape, window and rope",
                where=f"layers.{i}",
                received=f"kv_from = {lender}",
            )

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def longest_context(self) -> int:
        """Tokens that prompt and answer may have together: ``context_len``, or more where rotary scalings stretch it.

        With linear, dynamic and yarn scalings config.json names the length before the stretch, and factor · that is
        what the model is meant to reach; llama3's and longrope's files name the stretched one. Where a layer rotates
        without a scaling, or positions come from a table, ``context_len`` it is. Source: vLLM's
        ``_get_and_verify_max_len``; transformers' modeling_rope_utils ("don't update max_position_embeddings").
        """
        if self.position != "none" or not self.ropes:
            return self.context_len
        return max(self.context_len, min(_stretched(rope.scaling) or self.context_len for rope in self.ropes))

    @property
    def rotates_by_length(self) -> bool:
        """Whether rotary frequencies depend on how long a request has become (dynamic and longrope scalings)."""
        return any(rope.scaling.by_length for rope in self.ropes if rope.scaling)

    @property
    def mixers(self) -> tuple[Any, ...]:
        """Each layer's mixer, None where it has none; then those that stand beside another."""
        return *(layer.mixer for layer in self.layers), *(layer.beside for layer in self.layers if layer.beside)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The rotations there are, each once, in the order of the layers that first use them."""
        ropes = [getattr(layer.mixer, "rope", None) for layer in self.layers]  # (torch 2.11 compiles no := in here)
        return tuple(dict.fromkeys(rope for rope in ropes if rope is not None))

    def num_parameters(self) -> int:
        """Parameters, each shared one counted once."""
        return sum(math.prod(shape) for shape in weight_shapes(self).values())

    def num_active_parameters(self) -> int:
        """Parameters that take part in one token's computation: without the experts that it does not go through."""
        idle = 0
        for layer in self.layers:
            if layer.mlp and (experts := layer.experts):
                its = sum(math.prod(shape) for shape in mlp_shapes("", self.d_model, layer.mlp).values())
                idle += (experts.num_experts - experts.experts_per_token) * its
        return self.num_parameters() - idle


def _stretched(scaling: RopeScaling | None) -> int | None:
    """The context that a scaling is for, where that is not what ``context_len`` says already."""
    if scaling is None or scaling.kind not in ("linear", "dynamic", "yarn") or scaling.original_context_len is None:
        return None
    return int(min(scaling.factor * scaling.original_context_len, MAX_SIZE))


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every weight's name and shape, in the order of computation: ``{"layers.0.attention.q_proj.weight": (576, 576),
    …}``.

    This is the contract between checkpoints and executors. A tied ``lm_head.weight`` is not listed.
    """
    d = config.d_model
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config.vocab_size, d)}
    if config.position == "learned":
        shapes["pos_embed.weight"] = (config.context_len, d)
    if config.embedding_norm:
        shapes |= norm_shapes("embed_norm", d, config.embedding_norm)
    if side := config.layers[0].side:
        shapes |= side.weight_shapes(d, config.vocab_size, len(config.layers))
    for i, layer in enumerate(config.layers):
        at, mlp, norms = f"layers.{i}", layer.mlp, layer.norms
        for name in (name for name in norms if name.startswith("attention")):
            shapes |= norm_shapes(f"{at}.{name}", d, norms[name])
        if layer.mixer is not None:
            shapes |= layer.mixer.weight_shapes(f"{at}.{layer.mixer.name}.", d)
        if layer.beside is not None:
            shapes |= layer.beside.weight_shapes(f"{at}.{layer.beside.name}.", d)
        for name in (name for name in norms if name.startswith("mlp")):
            shapes |= norm_shapes(f"{at}.{name}", d, norms[name])
        if mlp is None:
            continue
        if layer.experts is None:
            shapes |= mlp_shapes(f"{at}.mlp.", d, mlp)
        else:
            shapes |= layer.experts.weight_shapes(f"{at}.mlp.", d, mlp)
        if layer.side:
            shapes |= layer.side.layer_shapes(f"{at}.side.", d)
        if layer.out_scale:
            shapes[f"{at}.out_scale"] = (1,)
    if config.final_norm:
        shapes |= norm_shapes("final_norm", d, config.final_norm)
    if not config.tie_embeddings:
        shapes |= linear_shapes("lm_head", config.vocab_size, d, config.head_bias)
    return shapes


def wide_weights(config: ModelConfig) -> frozenset[str]:
    """Those of which a small difference decides which experts are chosen: float32 in a model of any dtype."""
    names = ("router.weight", "router.bias")
    wide = {f"layers.{i}.mlp.correction_bias" for i, layer in enumerate(config.layers) if layer.experts}
    return frozenset(wide).union(
        f"layers.{i}.mlp.{name}"
        for i, layer in enumerate(config.layers)
        if layer.experts and layer.experts.wide
        for name in names
    )
