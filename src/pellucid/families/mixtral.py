"""Mixtral: Llama's shape (Mistral's, with its sliding window where one is given), every MLP a mixture of experts.

Source: Jiang et al. 2024, *Mixtral of Experts* §2.1. Files keep each expert's matrices apart, as ``experts.N.w1``
(gate), ``w3`` (up), ``w2`` (down).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import in_memory
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, common_keys, experts_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    num_layers = keys.num_layers("num_hidden_layers")
    mlp = MLPConfig(d_ff=keys.size("intermediate_size"), activation=keys.activation("hidden_act", "silu"))
    experts = ExpertsConfig(
        num_experts=keys.size("num_local_experts", 8), experts_per_token=keys.size("num_experts_per_tok", 2)
    )
    windows = (keys.get("sliding_window"),) * num_layers
    head_dim = keys.size("head_dim", max(keys.size("hidden_size") // keys.size("num_attention_heads"), 1))
    context_len = keys.size("max_position_embeddings", 131072)
    return llama.build(
        keys,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        head_dim=head_dim,
        rotary=rope(keys, head_dim, context_len, default_theta=1e6),
        windows=windows,
        mlps=((mlp, experts),) * num_layers,
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    layer = config.layers[0]
    assert layer.experts
    return llama.base_to_hf(config) | {
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": layer.experts.num_experts,
        "num_experts_per_tok": layer.experts.experts_per_token,
        "sliding_window": layer.mixer.window,
    }


_BLOCK, _EXPERT = "model.layers.{i}.block_sparse_moe", "layers.{i}.mlp.experts.{e}"
WEIGHTS = (
    *(rule for rule in llama.WEIGHTS if ".mlp." not in rule.theirs),
    Rule(f"{_BLOCK}.gate.weight", "layers.{i}.mlp.router.weight"),
    Rule(f"{_BLOCK}.experts.{{e}}.w1.weight", f"{_EXPERT}.gate_proj.weight"),
    Rule(f"{_BLOCK}.experts.{{e}}.w2.weight", f"{_EXPERT}.down_proj.weight"),
    Rule(f"{_BLOCK}.experts.{{e}}.w3.weight", f"{_EXPERT}.up_proj.weight"),
)
ALSO = in_memory(WEIGHTS, "block_sparse_moe")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    experts = experts_keys("llama", metadata, normalize=True)
    return common_keys("llama", metadata, tensors) | {
        "model_type": "mixtral",
        "num_local_experts": experts["num_experts"],
        "num_experts_per_tok": experts["num_experts_per_tok"],
    }


_RULES = tuple(rule for rule in llama_rules(q=(llama.Q_ROWS,), k=(llama.K_ROWS,)) if ".mlp." not in rule.ours)
GGUF = GGUF(
    architecture="llama", hf=gguf_hf, weights=(*_RULES, *EXPERT_RULES), ignored=("rope_freqs.weight",), experts=True
)

TINY = llama.TINY | {
    "model_type": "mixtral",
    "tie_word_embeddings": False,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "window": {"sliding_window": 8},
    "tied": {"tie_word_embeddings": True},
    "one_expert": {"num_experts_per_tok": 1},
}
