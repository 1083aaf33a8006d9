"""Phi-1, Phi-1.5 and Phi-2: attention and an MLP without a gate side by side, of one LayerNorm; biases everywhere.

Source: Li et al. 2023 (*Textbooks Are All You Need II*); transformers models/phi.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope
from pellucid.families.translation.rules import both, renamed


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_eps", 1e-5), bias=True)
    return llama.build(
        keys,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        gated=False,
        activation=keys.activation("hidden_act", "gelu_new"),
        norm=norm,
        norms=(PartNorms(before=norm), PartNorms()),
        qk_norm=keys.switch("qk_layernorm", False),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 2048), partial=0.5),
        layer={"parallel": True},
        head_bias=not keys.get("tie_word_embeddings", False),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention, hf = config.layers[0].mixer, llama.base_to_hf(config)
    assert attention.rope
    return hf | {
        "architectures": ["PhiForCausalLM"],
        "layer_norm_eps": hf.pop("rms_norm_eps"),
        "qk_layernorm": attention.qk_norm is not None,
        "partial_rotary_factor": partial_rotary_to_hf(attention.head_dim, attention.rope.dim),
    }


WEIGHTS = (
    *renamed(
        llama.WEIGHTS,
        {"o_proj": "dense", "up_proj": "fc1", "down_proj": "fc2", "model.norm": "model.final_layernorm"},
    ),
    *both("model.layers.{i}.self_attn.q_layernorm", "layers.{i}.attention.q_norm"),
    *both("model.layers.{i}.self_attn.k_layernorm", "layers.{i}.attention.k_norm"),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("phi2", metadata, tensors, partial_rotary=True, eps="layer_norm_epsilon")
    return common | {
        "model_type": "phi",
        "hidden_act": "gelu_new",
        "layer_norm_eps": common.pop("rms_norm_eps"),
        "partial_rotary_factor": partial_rotary_to_hf(common["head_dim"], common.pop("rope_dimension_count")),
    }


GGUF = GGUF(architecture="phi2", hf=gguf_hf, weights=llama_rules(), harmless=("attention.layer_norm_rms_epsilon",))

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "phi",
    "tie_word_embeddings": False,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu_new",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "qk_norm": {"qk_layernorm": True},
    "partial": {"partial_rotary_factor": 1.0},
    "gelu": {"hidden_act": "gelu"},
}
