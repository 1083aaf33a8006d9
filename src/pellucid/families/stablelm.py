"""StableLM 2 and StableLM Zephyr: Llama's shape with LayerNorm, of which a quarter of each head turns.

Source: transformers models/stablelm. Norms of q and k with a γ for each head (StableLM 2 12B) are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig, NormConfig, PartNorms
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, partial_rotary_to_hf, rope


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    keys.only("qk_layernorm", False)
    head_dim = max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1)
    norm = NormConfig(kind="layer", eps=keys.get("layer_norm_eps", 1e-5), bias=True)
    parallel = keys.switch("use_parallel_residual", False)
    return llama.build(
        keys,
        qkv_bias=keys.switch("use_qkv_bias", False),
        norm=norm,
        norms=(PartNorms(before=norm), PartNorms() if parallel else PartNorms(before=norm)),
        rotary=rope(keys, head_dim, keys.size("max_position_embeddings", 4096), partial=0.25),
        layer={"parallel": parallel},
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, hf = config.layers[0], llama.base_to_hf(config)
    assert layer.mixer.rope
    del hf["head_dim"]
    return hf | {
        "architectures": ["StableLmForCausalLM"],
        "layer_norm_eps": hf.pop("rms_norm_eps"),
        "use_qkv_bias": layer.mixer.qkv_bias,
        "use_parallel_residual": layer.parallel,
        "partial_rotary_factor": partial_rotary_to_hf(layer.mixer.head_dim, layer.mixer.rope.dim),
    }


WEIGHTS = llama.WEIGHTS
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    common = common_keys("stablelm", metadata, tensors, partial_rotary=True, eps="layer_norm_epsilon")
    head_dim = common.pop("head_dim")
    return common | {
        "layer_norm_eps": common.pop("rms_norm_eps"),
        "partial_rotary_factor": partial_rotary_to_hf(head_dim, common.pop("rope_dimension_count")),
        "use_qkv_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v"),
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in tensors,  # as llama.cpp tells them apart
    }


GGUF = GGUF(
    architecture="stablelm",
    hf=gguf_hf,
    weights=llama_rules(),
    ignored=("rope_freqs.weight",),
    harmless=("use_parallel_residual", "attention.layer_norm_rms_epsilon"),
)

TINY = {name: value for name, value in llama.TINY.items() if name != "rms_norm_eps"} | {
    "model_type": "stablelm",
    "tie_word_embeddings": False,
    "layer_norm_eps": 1e-5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"use_qkv_bias": True},
    "parallel": {"use_parallel_residual": True},
    "partial": {"partial_rotary_factor": 0.5},
}
