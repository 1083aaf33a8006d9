"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: Llama's shape with q, k and v in one matrix, gate and up in another.

A part of each head may turn, with a factor for every frequency (longrope); a window may stand in every layer.
Source: Abdin et al. 2024; transformers models/phi3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import SPLIT_GATE_UP, SPLIT_QKV, Rule, gate_up_names, qkv_names, without

HARMLESS = ("attention_bias", "full_attn_mod")  # the code has no biases, and reads no modulus, whatever the file says


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**hf, **{name: _longrope(hf.get(name)) for name in ("rope_scaling", "rope_parameters")}}, HARMLESS)
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    return llama.build(
        keys,
        eps=1e-5,
        windows=(keys.get("sliding_window"),) * keys.num_layers("num_hidden_layers"),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 4096), partial=1.0),
    )


def _longrope(settings: Any) -> Any:
    """The first files call it ``su``, some ``yarn``; Phi-3's code has this one kind of scaling."""
    if not isinstance(settings, Mapping):
        return settings
    names = {name: settings[name] for name in ("type", "rope_type") if name in settings}
    return {**settings, **{name: "longrope" if kind in ("su", "yarn") else kind for name, kind in names.items()}}


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = config.layers[0].mixer
    assert attention.rope
    scaling = attention.rope.scaling
    return llama.base_to_hf(config) | {
        "architectures": ["Phi3ForCausalLM"],
        "sliding_window": attention.window,
        "partial_rotary_factor": partial_rotary_to_hf(attention.head_dim, attention.rope.dim),
        "original_max_position_embeddings": scaling.original_context_len if scaling else config.context_len,
    }


WEIGHTS = (
    *without(llama.WEIGHTS, "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"),
    Rule("model.layers.{i}.self_attn.qkv_proj.weight", qkv_names("weight"), (SPLIT_QKV,)),
    Rule("model.layers.{i}.mlp.gate_up_proj.weight", gate_up_names("weight"), (SPLIT_GATE_UP,)),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("phi3", metadata, tensors, partial_rotary=True)
    return common | {
        "partial_rotary_factor": partial_rotary_to_hf(common["head_dim"], common.pop("rope_dimension_count")),
        "sliding_window": metadata.scalar("phi3.attention.sliding_window", 0) or None,
    }


GGUF = GGUF(
    architecture="phi3",
    for_others=False,  # llama.cpp has switched this family's windows off
    hf=gguf_hf,
    weights=(
        *without(llama_rules(), "attn_q.", "attn_k.", "attn_v.", "ffn_gate", "ffn_up"),
        Rule("blk.{i}.attn_qkv.weight", qkv_names("weight"), (SPLIT_QKV,)),
        Rule("blk.{i}.ffn_up.weight", gate_up_names("weight"), (SPLIT_GATE_UP,)),
    ),
    ignored=("rope_factors_long.weight", "rope_factors_short.weight"),
)

TINY = llama.TINY | {
    "model_type": "phi3",
    "tie_word_embeddings": False,
    "original_max_position_embeddings": 64,
    "sliding_window": 8,
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_window": {"sliding_window": None},
    "tied": {"tie_word_embeddings": True},
    "partial": {"partial_rotary_factor": 0.5},
    "longrope": {
        "original_max_position_embeddings": 32,
        "rope_scaling": {"type": "su", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 1.5, 2.5, 4.0]},
    },
}
