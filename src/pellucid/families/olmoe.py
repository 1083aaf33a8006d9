"""OLMoE: Llama's shape with a norm over all queries and all keys, every MLP a mixture of many experts.

Source: Muennighoff et al. 2024, *OLMoE* §2; transformers models/olmoe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pellucid.base.array import Array
from pellucid.config import ExpertsConfig, MLPConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation.experts import ByLayer, a_sparse_layer, expert_rules, in_memory
from pellucid.families.translation.gguf import EXPERT_RULES, GGUF, common_keys, expert_width, experts_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import both


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf)
    keys.only("clip_qkv", None)
    bias = keys.switch("attention_bias", False)
    return llama.build(
        keys,
        qkv_bias=bias,
        o_bias=bias,
        norm=NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-5)),
        qk_norm=True,
        attention={"qk_norm_over": "all"},
        mlps=mlps(keys, num_experts=64, per_token=8),
    )


def mlps(keys: Keys, *, num_experts: int, per_token: int) -> ByLayer:
    expert = MLPConfig(d_ff=keys.size("intermediate_size"), activation=keys.activation("hidden_act", "silu"))
    experts = ExpertsConfig(
        num_experts=keys.size("num_experts", keys.size("num_local_experts", num_experts)),
        experts_per_token=keys.size("num_experts_per_tok", per_token),
        normalize=keys.switch("norm_topk_prob", False),
    )
    return ((expert, experts),) * keys.num_layers("num_hidden_layers")


def to_hf(config: ModelConfig) -> dict[str, Any]:
    _, experts = a_sparse_layer(config)
    return llama.base_to_hf(config) | {
        "architectures": ["OlmoeForCausalLM"],
        "attention_bias": config.layers[0].mixer.qkv_bias,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "norm_topk_prob": experts.normalize,
    }


WEIGHTS = (
    *llama.WEIGHTS,
    *both("model.layers.{i}.self_attn.q_norm", "layers.{i}.attention.q_norm"),
    *both("model.layers.{i}.self_attn.k_norm", "layers.{i}.attention.k_norm"),
    *expert_rules(),
)
ALSO = in_memory(WEIGHTS, "mlp")
IGNORED = llama.IGNORED


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    routed = experts_keys("olmoe", metadata, normalize=False)
    width = {"intermediate_size": expert_width("olmoe", metadata, tensors)}
    return common_keys("olmoe", metadata, tensors) | routed | width


GGUF = GGUF(
    architecture="olmoe",
    needs=("output.weight",),
    grouped=False,
    hf=gguf_hf,
    weights=(*llama_rules(), *EXPERT_RULES),
    experts=True,
)

TINY = llama.TINY | {
    "model_type": "olmoe",
    "tie_word_embeddings": False,
    "intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "normalized": {"norm_topk_prob": True},
    "bias": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True},
}
