"""Hunyuan (dense, 0.5B to 7B): Llama's shape with RMS norms on each head's q and k, after their rotation.

A ``dynamic`` scaling with an ``alpha`` is one larger θ for every length. Source: transformers models/hunyuan_v1_dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation.gguf import GGUF, common_keys, has_bias, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import both

HARMLESS = (  # of mixtures, of a tokenizer, of images, and what is always so
    *(
        "attention_head_dim",
        "use_rotary_pos_emb",
        "cla_share_factor",
        "moe_*",
        "num_shared_expert",
        "use_mixed_mlp_moe",
    ),
    *("org_vocab_size", "pool_type", "class_num", "*_start_id", "*_end_id", "*_token_size", "eod_token_id"),
)


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = read(hf, HARMLESS)
    keys.only("num_experts", 1)
    return build(keys)


def read(hf: Mapping[str, Any], harmless: tuple[str, ...]) -> Keys:
    """The keys, of which some can have one value alone."""
    keys = Keys(_without_alpha(hf), harmless)
    keys.only("use_cla", False)
    keys.only("use_qk_norm", True)
    keys.only("norm_type", "rms")
    return keys


def build(keys: Keys, **more: Any) -> ModelConfig:
    """Hunyuan's attention; ``more`` is for ``llama.build``."""
    bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        eps=1e-5,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=keys.switch("mlp_bias", False),
        qk_norm=True,
        attention={"qk_norm_at": "after"},
        **more,
    )


def _without_alpha(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """θ · α^(E / (E − 2)) in place of a scaling that has an α."""
    name = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
    scaling = hf.get(name)
    if not isinstance(scaling, Mapping) or not scaling.get("alpha"):
        return hf
    head_dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    theta = scaling.get("rope_theta", hf.get("rope_theta", 10000.0))
    scaled = {"rope_theta": theta * scaling["alpha"] ** (head_dim / (head_dim - 2))}
    return {**hf, name: scaled if name == "rope_parameters" else None, **scaled}


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return llama.to_hf(config) | {"architectures": ["HunYuanDenseV1ForCausalLM"]}


WEIGHTS = (
    *llama.WEIGHTS,
    *both("model.layers.{i}.self_attn.query_layernorm", "layers.{i}.attention.q_norm"),
    *both("model.layers.{i}.self_attn.key_layernorm", "layers.{i}.attention.k_norm"),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    biased = has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output")
    common = common_keys("hunyuan-dense", metadata, tensors)
    return common | {"model_type": "hunyuan_v1_dense", "attention_bias": biased}


GGUF = GGUF(architecture="hunyuan-dense", lacks=("*.bias",), hf=gguf_hf, weights=llama_rules())

TINY = llama.TINY | {"model_type": "hunyuan_v1_dense", "head_dim": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "alpha": {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "untied": {"tie_word_embeddings": False},
}
