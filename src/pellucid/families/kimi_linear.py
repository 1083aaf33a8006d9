"""Kimi Linear: Kimi Delta Attention, which fades channel by channel, and in every fourth layer latent attention.

Nothing rotates; after the first layers mixtures of experts as DeepSeek-V3's. Source: Kimi Team 2025 (Kimi Linear);
transformers models/kimi_linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import DeltaNetConfig, LatentAttentionConfig, ModelConfig, NormConfig
from pellucid.families import llama
from pellucid.families.translation import experts
from pellucid.families.translation.delta_net import OURS
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.latent import LATENT_RULES, latent, latent_to_hf
from pellucid.families.translation.rules import Place, Rule, Squeeze, without

HARMLESS = (*experts.HARMLESS, "use_grouped_topk", "pretraining_tp", "rope_theta", "head_dim")
# Names of the released config → DeepSeek's, which transformers reads as well.
NAMES = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "moe_router_activation_func": "scoring_func",
}
DEFAULTS = {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446, "max_position_embeddings": 2**20}
SIZES: dict[str, Any] = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(DEFAULTS | {NAMES.get(name, name): value for name, value in hf.items()}, HARMLESS)
    keys.only("mla_use_nope", True)
    keys.only("moe_layer_freq", 1)
    keys.get("rope_scaling")
    eps, num_layers = keys.get("rms_norm_eps", 1e-5), keys.num_layers("num_hidden_layers")
    part = keys.part("linear_attn_config") or Keys({})
    num_heads = part.size("num_heads", keys.size("linear_num_heads", 32))
    head_dim = part.size("head_dim", keys.size("linear_head_dim", 128))
    keys.only("hidden_act", "silu")
    mixer = DeltaNetConfig(
        num_heads=num_heads,
        num_key_heads=num_heads,
        key_head_dim=head_dim,
        value_head_dim=head_dim,
        conv_width=part.size("short_conv_kernel_size", keys.size("linear_conv_kernel_dim", 4)),
        norm=NormConfig(kind="rms", eps=eps, wide=True),
        gate="sigmoid",
        decay_by="channel",
        decay_rank=head_dim,
        gate_rank=head_dim,
    )
    attention = latent(keys, None, **SIZES)
    expert = experts.deepseek_experts(keys, count="num_local_experts", num_experts=256, width=1024)
    return llama.build(
        keys,
        norm=NormConfig(kind="rms", eps=eps),
        ropes=(None,) * num_layers,
        mixers=[attention if attends else mixer for attends in _attending(keys, part, num_layers)],
        mlps=experts.mlps_of(keys, *expert, experts.sparse_after(keys, 1)),
    )


def _attending(keys: Keys, part: Keys, num_layers: int) -> list[bool]:
    """Which layers attend; the released config counts them from 1."""
    attending, others = part.get("full_attn_layers"), part.get("kda_layers")
    if keys.get("layer_types") is not None:
        return keys.choices("layer_types", num_layers, full_attention=True, linear_attention=False)
    if attending is None or others is None:
        return [i > 0 and i % 4 == 0 for i in range(num_layers)]
    if not isinstance(attending, list) or not isinstance(others, list):
        raise ConfigError("full_attn_layers and kda_layers must be lists of layers", where=part.where)
    if sorted(map(str, attending + others)) != sorted(map(str, range(1, num_layers + 1))):
        raise ConfigError("full_attn_layers and kda_layers must name each layer once, from 1", where=part.where)
    return [i + 1 in attending for i in range(num_layers)]


def to_hf(config: ModelConfig) -> dict[str, Any]:
    mixer = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, DeltaNetConfig))
    attention = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, LatentAttentionConfig))
    hf = (
        llama.base_to_hf(config)
        | latent_to_hf(attention)
        | experts.deepseek_to_hf(config, count="num_local_experts")
        | {
            "architectures": ["KimiLinearForCausalLM"],
            "linear_num_heads": mixer.num_heads,
            "linear_head_dim": mixer.key_head_dim,
            "linear_conv_kernel_dim": mixer.conv_width,
            "layer_types": ["full_attention" if layer.attends else "linear_attention" for layer in config.layers],
        }
    )
    del hf["head_dim"]
    return hf


@dataclass(frozen=True)
class PerHead:
    """A number a head, (1, 1, H, 1) in files, as a vector (H,)."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(-1)) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [array.with_data(array.data.reshape(1, 1, -1, 1)) for array in arrays]


AT = "model.layers.{i}.self_attn"
PARTS = {"q": "q", "k": "k", "v": "v", "b": "beta", "o": "o"} | {
    f"{theirs}_{half}": f"{ours}_{half}" for theirs, ours in (("f", "decay"), ("g", "gate")) for half in "ab"
}
WEIGHTS = (
    *without(llama.WEIGHTS, "self_attn"),
    *LATENT_RULES,
    *(Rule(f"{AT}.{theirs}_proj.weight", f"{OURS}.{ours}_proj.weight") for theirs, ours in PARTS.items()),
    *(Rule(f"{AT}.{name}_conv1d.weight", f"{OURS}.{name}_conv.weight", (Squeeze(),)) for name in "qkv"),
    Rule(f"{AT}.A_log", f"{OURS}.A_log", (PerHead(),)),
    Rule(f"{AT}.dt_bias", f"{OURS}.dt_bias"),
    Rule(f"{AT}.o_norm.weight", f"{OURS}.z_norm.weight"),
    *experts.expert_rules(
        "model.layers.{i}.block_sparse_moe",
        names=("w1", "w3", "w2"),
        shared="shared_experts",
        correction="gate.e_score_correction_bias",
    ),
)
IGNORED = llama.IGNORED
GGUF = None

TINY = {name: value for name, value in llama.TINY.items() if name != "max_position_embeddings"} | {
    "model_type": "kimi_linear",
    "model_max_length": 64,
    "rms_norm_eps": 1e-4,
    "tie_word_embeddings": False,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "linear_num_heads": 2,
    "linear_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "first_k_dense_replace": 1,
    "num_experts": 8,
    "num_experts_per_token": 3,
    "moe_intermediate_size": 24,
    "num_shared_experts": 1,
    "moe_renormalize": True,
    "routed_scaling_factor": 2.446,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as_released": {
        "layer_types": None,
        "linear_attn_config": {
            "full_attn_layers": [2],
            "kda_layers": [1],
            "head_dim": 8,
            "num_heads": 2,
            "short_conv_kernel_size": 4,
        },
    },
    "queries_through_a_latent": {"q_lora_rank": 24},
    "groups": {"num_expert_group": 4, "topk_group": 2},
    "unnormalized": {"moe_renormalize": False, "first_k_dense_replace": 0},
    "narrow_convolution": {"linear_conv_kernel_dim": 2},
}
