"""Latent attention in Hugging Face's configs and weights (DeepSeek's names), and ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.config import LatentAttentionConfig, LayerConfig, NormConfig, RopeConfig
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Place, Rule, Split, both


def latent(
    keys: Keys, rotary: RopeConfig | None, *, bias: str = "attention_bias", **sizes: int
) -> LatentAttentionConfig:
    """From the keys that DeepSeek's configs have. ``sizes``: the family's defaults of those that a file may leave out.
    ``bias``: the key that gives the maps of the stream, and the last one, a bias.
    """
    num_heads = keys.size("num_attention_heads")
    if (shared := keys.size("num_key_value_heads", num_heads)) != num_heads:
        raise UnsupportedError(
            "keys and values are made of the latent for every head by itself",
            where=keys.where,
            expected=f"num_key_value_heads = {num_heads}",
            received=shared,
        )
    own: dict[str, Any] = {
        name: keys.size(name, sizes.get(name)) for name in ("kv_lora_rank", "qk_nope_head_dim", "v_head_dim")
    }
    turned, rank = keys.size("qk_rope_head_dim", sizes.get("qk_rope_head_dim")), keys.get("q_lora_rank")
    for name in ("qk_head_dim", "head_dim"):  # they are what those before say
        keys.get(name)
    biased = bool(keys.get(bias, False))
    return LatentAttentionConfig(
        num_heads=num_heads,
        **own,
        qk_rope_head_dim=turned,
        q_lora_rank=rank,
        latent_norm=NormConfig(kind="rms", eps=1e-6),  # whatever the other norms have
        latent_bias=biased,
        o_bias=biased,
        rope=rotary,
        scale=softmax_scale(rotary, own["qk_nope_head_dim"] + turned),
    )


def latent_rope(keys: Keys, *, interleaved: bool, default_theta: float = 10000.0) -> RopeConfig:
    """Of the part of a head that is for it."""
    context_len = keys.size("max_position_embeddings", 2048)
    layout = "interleaved" if interleaved else "half"
    return rope(keys, keys.size("qk_rope_head_dim", 64), context_len, default_theta=default_theta, layout=layout)


def softmax_scale(rotary: RopeConfig | None, head_dim: int) -> float | None:
    """With yarn's ``mscale_all_dim`` scores grow by the square of 0.1 · that · ln(factor) + 1. None: no change.

    Source: DeepSeek-V2's modeling code; transformers models/deepseek_v2 (yarn_apply_mscale).
    """
    scaling = rotary.scaling if rotary else None
    if scaling is None or not scaling.mscale_all_dim or scaling.factor <= 1:
        return None
    return head_dim**-0.5 * (0.1 * scaling.mscale_all_dim * math.log(scaling.factor) + 1.0) ** 2


def latent_to_hf(attention: LatentAttentionConfig) -> dict[str, Any]:
    """The keys of ``latent``. ``head_dim`` is what transformers sizes rotations by."""
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_heads,
        "q_lora_rank": attention.q_lora_rank,
        "kv_lora_rank": attention.kv_lora_rank,
        "qk_nope_head_dim": attention.qk_nope_head_dim,
        "qk_rope_head_dim": attention.qk_rope_head_dim,
        "v_head_dim": attention.v_head_dim,
        "head_dim": attention.qk_rope_head_dim,
        "attention_bias": attention.o_bias,
    }


def _attention(place: Place) -> LatentAttentionConfig:
    assert isinstance(place, LayerConfig)
    assert isinstance(place.mixer, LatentAttentionConfig)
    return place.mixer


def _by_head(array: Array, heads: int, rows: int) -> np.ndarray:
    """(heads, rows, …) of a projection's rows."""
    if array.shape[0] != heads * rows:
        raise WeightsError(
            "a projection's rows are not those of the heads",
            expected=f"{heads} × {rows} = {heads * rows}",
            received=array.shape[0],
            remedy="check num_attention_heads and the head widths in config.json",
        )
    return array.data.reshape(heads, rows, *array.data.shape[1:])


class TurnedFirst:
    """Rows of each head's query, (own, turned), as (turned, own): what turns with the position stands first in ours."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [self._rolled(array, _attention(place), _attention(place).qk_rope_head_dim) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [self._rolled(array, _attention(place), -_attention(place).qk_rope_head_dim) for array in arrays]

    @staticmethod
    def _rolled(array: Array, attention: LatentAttentionConfig, by: int) -> Array:
        heads = _by_head(array, attention.num_heads, attention.head_dim)
        return array.with_data(np.roll(heads, by, 1).reshape(array.data.shape))


class SplitKeysValues:
    """Rows of each head's key and value, one head after the other, as all keys and all values; back: head by head."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (whole,), attention = arrays, _attention(place)
        own = attention.qk_nope_head_dim
        heads = _by_head(whole, attention.num_heads, own + attention.v_head_dim)
        rest = whole.data.shape[1:]
        return [whole.with_data(part.reshape(-1, *rest)) for part in (heads[:, :own], heads[:, own:])]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        heads, rest = _attention(place).num_heads, arrays[0].data.shape[1:]
        parts = [array.data.reshape(heads, -1, *rest) for array in arrays]
        return [arrays[0].with_data(np.concatenate(parts, 1).reshape(-1, *rest))]


# Rows of the map that makes the latent and the part of keys that turns.
SPLIT_LATENT = Split(lambda layer: (layer.mixer.kv_lora_rank, layer.mixer.qk_rope_head_dim))


def latent_rules(theirs: Mapping[str, str], at: str) -> tuple[Rule, ...]:
    """``theirs``: our names of the maps and norms → theirs, below ``at``."""
    ours = "layers.{i}.attention"

    def down(kind: str) -> tuple[str, str]:
        return f"{ours}.kv_a_proj.{kind}", f"{ours}.k_rope_proj.{kind}"

    def name(own: str) -> str:
        return f"{at}.{theirs[own]}"

    return (
        Rule(f"{name('q_proj')}.weight", f"{ours}.q_proj.weight", (TurnedFirst(),)),
        *both(name("q_a_proj"), f"{ours}.q_a_proj"),
        Rule(f"{name('q_a_norm')}.weight", f"{ours}.q_a_norm.weight"),
        Rule(f"{name('q_b_proj')}.weight", f"{ours}.q_b_proj.weight", (TurnedFirst(),)),
        *(Rule(f"{name('kv_a_proj')}.{kind}", down(kind), (SPLIT_LATENT,)) for kind in ("weight", "bias")),
        Rule(f"{name('kv_a_norm')}.weight", f"{ours}.kv_a_norm.weight"),
        *both(name("o_proj"), f"{ours}.o_proj"),
    )


# Both latents of keys and values at once, as in a folder and in old GGUF files.
def joined_rule(theirs: str) -> Rule:
    ours = tuple(f"layers.{{i}}.attention.{name}_b_proj.weight" for name in "kv")
    return Rule(theirs, ours, (SplitKeysValues(),))


LATENT_RULES = (
    *latent_rules(
        {
            "q_proj": "q_proj",
            "q_a_proj": "q_a_proj",
            "q_a_norm": "q_a_layernorm",
            "q_b_proj": "q_b_proj",
            "kv_a_proj": "kv_a_proj_with_mqa",
            "kv_a_norm": "kv_a_layernorm",
            "o_proj": "o_proj",
        },
        "model.layers.{i}.self_attn",
    ),
    joined_rule("model.layers.{i}.self_attn.kv_b_proj.weight"),
)
