"""Latent attention in GGUF files: metadata, and the maps from the latent, apart or joined.

Source: llama.cpp convert_hf_to_gguf.py (DeepseekV2Model, MiniCPM3Model), src/models/deepseek2.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.config import LatentAttentionConfig, LayerConfig, ModelConfig
from pellucid.families.translation.gguf import EXPERT_RULES, SHARED_EXPERT_RULES, common_keys, expert_width, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.latent import joined_rule, latent_rules
from pellucid.families.translation.rules import Place, Rule, without
from pellucid.quant import dequantize
from pellucid.rotary import magnitude

LITE = (26, 27)  # layers of the models without a latent of queries


def latent_keys(
    architecture: str, metadata: Metadata, tensors: Mapping[str, Array], *, scaled: bool = False
) -> dict[str, Any]:
    """The Hugging Face config of a decoder with latent attention.

    Since 2025 the converter writes widths as of one key-value head, the latent itself, and those of a head under
    ``key_length_mla``; before, those of a head under ``key_length``. ``scaled``: as ``common_keys`` has it.
    """

    def own(name: str, default: Any = None) -> Any:
        return metadata.scalar(f"{architecture}.{name}", default)

    common = common_keys(architecture, metadata, tensors, latent=True, scaled=scaled)
    num_heads, turned = common["num_attention_heads"], metadata.needed(f"{architecture}.rope.dimension_count")
    rank = metadata.needed(f"{architecture}.attention.kv_lora_rank")
    key, value = own("attention.key_length", 0), own("attention.value_length", 0)
    key = own("attention.key_length_mla", 0) or key
    value = own("attention.value_length_mla", 0) or value or common["hidden_size"] // num_heads
    if not all(isinstance(size, int) and size > 0 for size in (key, value, turned)) or turned >= key:
        raise ConfigError(
            "the widths of latent attention's heads do not fit each other",
            where="GGUF",
            expected="rope.dimension_count below attention.key_length_mla, or attention.key_length",
            received=f"{turned!r}, {key!r}"[:80],
        )
    return common | {
        "num_key_value_heads": num_heads,
        "head_dim": turned,
        "q_lora_rank": own("attention.q_lora_rank", 0) or None,
        "kv_lora_rank": rank,
        "qk_nope_head_dim": key - turned,
        "qk_rope_head_dim": turned,
        "v_head_dim": value,
    }


def deepseek_keys(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """``latent_keys`` of architecture ``deepseek2``, with its mixtures of experts."""
    at = "deepseek2"
    keys = latent_keys(at, metadata, tensors, scaled=True) | {
        "moe_intermediate_size": expert_width(at, metadata, tensors)
    }
    return keys | {
        "n_routed_experts": metadata.needed(f"{at}.expert_count"),
        "num_experts_per_tok": metadata.needed(f"{at}.expert_used_count"),
        "n_shared_experts": metadata.scalar(f"{at}.expert_shared_count", 0),
        "first_k_dense_replace": metadata.scalar(f"{at}.leading_dense_block_count", 0),
        "routed_scaling_factor": metadata.scalar(f"{at}.expert_weights_scale", 0.0) or 1.0,
        "norm_topk_prob": metadata.scalar(f"{at}.expert_weights_norm", False),
        "n_group": metadata.scalar(f"{at}.expert_group_count", 0) or 1,
        "topk_group": metadata.scalar(f"{at}.expert_group_used_count", 0) or 1,
    }


def latent_to_gguf(config: ModelConfig) -> dict[str, Any]:
    """The keys of a description, without the architecture: the opposite of ``latent_keys``, in the newer way."""
    attention = config.layers[0].mixer
    assert isinstance(attention, LatentAttentionConfig)
    turned, rank = attention.qk_rope_head_dim, attention.kv_lora_rank
    return {
        "attention.head_count": attention.num_heads,
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": attention.q_lora_rank,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + turned,
        "attention.value_length": rank,
        "attention.key_length_mla": attention.head_dim,
        "attention.value_length_mla": attention.v_head_dim,
        "rope.dimension_count": turned,
    }


def deepseek_to_gguf(config: ModelConfig) -> dict[str, Any]:
    """Likewise ``deepseek_keys``, and what llama.cpp asks of a ``deepseek2`` without experts.

    Raises: UnsupportedError for what llama.cpp would not open, or compute otherwise (0.3.x of its Python package).
    """
    sparse = next((layer for layer in config.layers if layer.experts), None)
    rotary = config.layers[0].mixer.rope
    scaling = rotary.scaling if rotary else None
    keys = latent_to_gguf(config)
    if (keys["attention.q_lora_rank"] is None) != (config.num_layers in LITE):
        raise UnsupportedError(
            "llama.cpp's deepseek2 tells by the number of layers whether queries have a latent",
            where="GGUF",
            expected=f"q_lora_rank null with {' or '.join(map(str, LITE))} layers, and with no other number",
            received=f"q_lora_rank {keys['attention.q_lora_rank']} with {config.num_layers} layers",
        )
    if scaling and scaling.kind == "yarn" and not (scaling.mscale_all_dim and math.isclose(magnitude(rotary), 1.0)):
        raise UnsupportedError(
            "llama.cpp's deepseek2 has one mscale for scores and rotation",
            where="GGUF",
            expected="mscale equal to mscale_all_dim",
            received=f"{scaling.mscale} and {scaling.mscale_all_dim}",
        )
    if sparse and sparse.experts and sparse.experts.num_groups > 1 and sparse.experts.group_score == "max":
        raise UnsupportedError("llama.cpp chooses groups by their two best experts, not by the best", where="GGUF")
    if scaling and scaling.kind == "yarn":
        keys |= {"rope.scaling.attn_factor": magnitude(rotary)}
        keys |= {"rope.scaling.yarn_log_multiplier": 0.1 * (scaling.mscale_all_dim or 0.0)}
    if sparse is None or sparse.experts is None:
        return keys | {
            "leading_dense_block_count": config.num_layers,
            "expert_feed_forward_length": config.layers[0].mlp.d_ff,
            "expert_shared_count": 0,
            "expert_weights_scale": 1.0,
        }
    experts, shared = sparse.experts, sparse.experts.shared
    return keys | {
        "feed_forward_length": next((layer.mlp.d_ff for layer in config.layers if not layer.experts), sparse.mlp.d_ff),
        "leading_dense_block_count": config.layers.index(sparse),
        "expert_shared_count": shared.d_ff // sparse.mlp.d_ff if shared else 0,
        "expert_weights_scale": experts.scale,
        "expert_gating_func": 2 if experts.scores == "sigmoid" else 1,
        "expert_group_count": experts.num_groups,
        "expert_group_used_count": experts.groups_per_token,
    }


class HeadsOfMap:
    """A map (H, a, b) of each head by itself as the rows of all heads, (H · a, b); ``turned``: stored as (H, b, a).

    A stack that is stored turned and in blocks is widened: its rows are columns of ours.
    """

    def __init__(self, turned: bool = False) -> None:
        self.turned = turned

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        (stack,) = arrays
        assert isinstance(place, LayerConfig)
        assert isinstance(place.mixer, LatentAttentionConfig)
        if len(stack.shape) != 3 or stack.shape[0] != place.mixer.num_heads:
            raise WeightsError(
                "a stack of heads has the wrong number of them",
                expected=f"{place.mixer.num_heads} matrices",
                received=list(stack.shape),
            )
        if not self.turned:
            return [stack.with_data(stack.data.reshape(-1, *stack.data.shape[2:]))]
        if stack.is_blocks:
            stack = Array.from_numpy(dequantize(stack).astype(np.float32))
        data = np.ascontiguousarray(stack.data.swapaxes(1, 2))
        return [stack.with_data(data.reshape(-1, data.shape[2]))]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        (rows,) = arrays
        assert isinstance(place, LayerConfig)
        heads = rows.data.reshape(place.mixer.num_heads, -1, *rows.data.shape[1:])
        return [rows.with_data(np.ascontiguousarray(heads.swapaxes(1, 2)) if self.turned else heads)]


_NAMES = {
    "q_proj": "attn_q",
    "q_a_proj": "attn_q_a",
    "q_a_norm": "attn_q_a_norm",
    "q_b_proj": "attn_q_b",
    "kv_a_proj": "attn_kv_a_mqa",
    "kv_a_norm": "attn_kv_a_norm",
    "o_proj": "attn_output",
}
_REST = without(llama_rules(), "attn_q", "attn_k", "attn_v", "attn_output")
APART = (
    Rule("blk.{i}.attn_k_b.weight", "layers.{i}.attention.k_b_proj.weight", (HeadsOfMap(turned=True),)),
    Rule("blk.{i}.attn_v_b.weight", "layers.{i}.attention.v_b_proj.weight", (HeadsOfMap(),)),
)
JOINED = (joined_rule("blk.{i}.attn_kv_b.weight"),)
LATENT_RULES = (*_REST, *latent_rules(_NAMES, "blk.{i}"))
DEEPSEEK_RULES = (
    *LATENT_RULES,
    *APART,
    *EXPERT_RULES,
    *without(SHARED_EXPERT_RULES, "ffn_gate_inp_shexp"),
)
