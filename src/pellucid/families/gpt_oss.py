"""gpt-oss: windows in every other layer, sinks in every head, mixtures of experts with biases and a clamped swiglu.

Source: OpenAI 2025, *gpt-oss-120b & gpt-oss-20b Model Card* §2; transformers models/gpt_oss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import gemma3, llama
from pellucid.families.granite_swa import SINKS
from pellucid.families.translation.experts import a_sparse_layer
from pellucid.families.translation.gguf import (
    EXPERT_RULES,
    GGUF,
    common_keys,
    expert_width,
    experts_keys,
    has_bias,
    llama_rules,
)
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Deal, Each, Rule, Transpose, Unstack, both, renamed, without

HARMLESS = ("initial_context_length", "experts_per_token")  # said again elsewhere
YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    said = hf.get("rope_parameters") or hf.get("rope_scaling")
    keys = Keys(hf if said else {**hf, "rope_scaling": YARN | {"original_max_position_embeddings": 4096}}, HARMLESS)
    keys.only("hidden_act", "silu")
    bias, window = keys.switch("attention_bias", True), keys.get("sliding_window", 128)
    expert = MLPConfig(
        d_ff=keys.size("intermediate_size", 2880),
        bias=True,
        alpha=keys.get("swiglu_alpha", 1.702),
        limit=keys.get("swiglu_limit", 7.0),
        up_offset=1.0,
    )
    experts = ExpertsConfig(
        num_experts=keys.size("num_local_experts", keys.size("num_experts", 128)),
        experts_per_token=keys.size("num_experts_per_tok", 4),
        router_bias=True,
    )
    head_dim, context_len = keys.size("head_dim", 64), keys.size("max_position_embeddings", 131072)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5), wide=True),
        head_dim=head_dim,
        rotary=rope(keys, head_dim, context_len, default_theta=150000.0),
        windows=[window if kind == "sliding_attention" else None for kind in gemma3.layer_types(keys, every=2)],
        attention={"sinks": True},
        mlps=((expert, experts),) * keys.num_layers("num_hidden_layers"),
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer, experts = a_sparse_layer(config)
    windows = [one.mixer.window for one in config.layers]
    return llama.base_to_hf(config) | {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": layer.mixer.qkv_bias,
        "sliding_window": next((window for window in windows if window), None),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "swiglu_alpha": layer.mlp.alpha,
        "swiglu_limit": layer.mlp.limit,
    }


_EXPERTS, _OURS = "model.layers.{i}.mlp.experts", "layers.{i}.mlp.experts.{e}"
_IN_TURN = Each(Deal(2), 2)  # a gate's row, then what it multiplies, and so on
WEIGHTS = (
    *without(llama.WEIGHTS, ".mlp."),
    SINKS,
    *both("model.layers.{i}.mlp.router", "layers.{i}.mlp.router"),
    Rule(
        f"{_EXPERTS}.gate_up_proj",
        (f"{_OURS}.gate_proj.weight", f"{_OURS}.up_proj.weight"),
        (Unstack(), Transpose(), _IN_TURN),
    ),
    Rule(
        f"{_EXPERTS}.gate_up_proj_bias",
        (f"{_OURS}.gate_proj.bias", f"{_OURS}.up_proj.bias"),
        (Unstack(), _IN_TURN),
    ),
    Rule(f"{_EXPERTS}.down_proj", f"{_OURS}.down_proj.weight", (Unstack(), Transpose())),
    Rule(f"{_EXPERTS}.down_proj_bias", f"{_OURS}.down_proj.bias", (Unstack(),)),
)
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """llama.cpp rounds the ends of yarn's ramp to whole dimensions; the model was trained without, and so it turns."""
    common, routed = common_keys("gpt-oss", metadata, tensors), experts_keys("gpt-oss", metadata, normalize=True)
    if (scaling := common.get("rope_scaling")) is not None:
        scaling["truncate"] = False
    return common | {
        "model_type": "gpt_oss",
        "num_local_experts": routed["num_experts"],
        "num_experts_per_tok": routed["num_experts_per_tok"],
        "intermediate_size": expert_width("gpt-oss", metadata, tensors),
        "sliding_window": metadata.scalar("gpt-oss.attention.sliding_window", 0) or None,
        "rope_parameters": scaling or {"rope_type": "default", "rope_theta": common["rope_theta"]},
        "attention_bias": has_bias(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
    }


GGUF = GGUF(
    architecture="gpt-oss",
    needs=("output.weight", "blk.*.attn_output.bias"),
    hf=gguf_hf,
    weights=(
        *renamed(llama_rules(), {"ffn_norm": "post_attention_norm"}),
        Rule("blk.{i}.attn_sinks.weight", "layers.{i}.attention.sinks"),
        *EXPERT_RULES,
    ),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "gpt_oss",
    "tie_word_embeddings": False,
    "head_dim": 8,
    "intermediate_size": 24,
    "sliding_window": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "swiglu_limit": 1.0,
    "rope_scaling": YARN | {"factor": 4.0, "original_max_position_embeddings": 16},
    "pad_token_id": 0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_bias": {"attention_bias": False},
    "layer_types": {"layer_types": ["full_attention", "sliding_attention"], "swiglu_alpha": 1.0},
    "silent": {"rope_scaling": None},
    "tied": {"tie_word_embeddings": True},
}
