"""DeepSeek-V3 and R1, Kimi K2, Moonlight: latent attention, after dense layers mixtures of experts in groups.

Source: DeepSeek-AI 2024, *DeepSeek-V3 Technical Report* §2.1; transformers models/deepseek_v3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.base.array import Array
from pellucid.base.typed import scalar
from pellucid.config import ModelConfig
from pellucid.families import llama
from pellucid.families.translation import experts, gguf_latent
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.latent import LATENT_RULES, latent, latent_rope, latent_to_hf
from pellucid.families.translation.rules import without

HARMLESS = (*experts.HARMLESS, "seq_aux")
DEFAULTS = {
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 4096,
}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys({**DEFAULTS, **hf}, HARMLESS)
    keys.only("moe_layer_freq", 1)
    expert = experts.deepseek_experts(keys, num_experts=256, width=2048)
    return build(keys, mlps=experts.mlps_of(keys, *expert, experts.sparse_after(keys, 3)))


def build(keys: Keys, *, wide: bool = False, **changed: Any) -> ModelConfig:
    """Llama's shape with latent attention in every layer; ``wide``: as ``RopeConfig`` has it."""
    rotary = replace(latent_rope(keys, interleaved=keys.switch("rope_interleave", True)), wide=wide)
    attention = latent(keys, rotary)
    return llama.build(keys, mixers=(attention,) * keys.num_layers("num_hidden_layers"), **changed)


def base_to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = config.layers[0].mixer
    turned = {"rope_interleave": attention.rope.layout == "interleaved"}
    return llama.base_to_hf(config) | latent_to_hf(attention) | turned


def to_hf(config: ModelConfig) -> dict[str, Any]:
    return base_to_hf(config) | experts.deepseek_to_hf(config) | {"architectures": ["DeepseekV3ForCausalLM"]}


WEIGHTS = (
    *without(llama.WEIGHTS, "self_attn"),
    *LATENT_RULES,
    *experts.expert_rules(shared="shared_experts", correction="gate.e_score_correction_bias"),
)
ALSO = experts.in_memory(WEIGHTS, "mlp")
IGNORED = (*llama.IGNORED, "model.layers.61.*")  # one that guesses a further token


def gguf_hf(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    metadata.scalar("deepseek2.expert_gating_func")  # read: it says whose file it is
    return gguf_latent.deepseek_keys(metadata, tensors) | {"model_type": "deepseek_v3"}


def _by_sigmoid(metadata: Mapping[str, Any]) -> bool:
    return scalar(metadata, "deepseek2.expert_gating_func", int, where="GGUF") == 2


GGUF = GGUF(
    architecture="deepseek2",
    hf=gguf_hf,
    weights=gguf_latent.DEEPSEEK_RULES,
    also=gguf_latent.JOINED,
    write=gguf_latent.deepseek_to_gguf,
    experts=True,
    when=_by_sigmoid,
)

TINY = llama.TINY | {
    "model_type": "deepseek_v3",
    "tie_word_embeddings": False,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
_YARN = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "yarn": {"rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    "yarn_mscale": {"rope_scaling": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.5}},
    "moonlight": {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2, "rope_theta": 50000.0},
    "halves": {"rope_interleave": False, "attention_bias": True},
    "unnormalized": {"norm_topk_prob": False, "first_k_dense_replace": 0},
    "tied": {"tie_word_embeddings": True},
}
