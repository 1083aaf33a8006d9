"""OLMo Hybrid: OLMo 3's attention in every fourth layer, gated DeltaNet that may overshoot in the others.

A layer that attends has its norms after its parts, one that does not before them. Released models do not rotate.
Source: OLMo Team 2026 (OLMo Hybrid); transformers models/olmo_hybrid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pellucid.config import DeltaNetConfig, ModelConfig, NormConfig, PartNorms, RopeConfig
from pellucid.families import llama, olmo2
from pellucid.families.translation.delta_net import delta_net, delta_net_to_hf, kinds
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule, Squeeze

HARMLESS = ("linear_a_log_*", "linear_dt_*")  # of fresh weights


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    num_layers, d_model, num_heads = (
        keys.num_layers("num_hidden_layers"),
        keys.size("hidden_size"),
        keys.size("num_attention_heads"),
    )
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6), wide=True)
    key_heads = keys.size("linear_num_key_heads", num_heads)
    width = keys.size("linear_key_head_dim", max(int(0.75 * d_model / key_heads), 1))
    mixer = delta_net(
        keys,
        norm=NormConfig(kind="rms", eps=1e-5),
        num_heads=num_heads,
        num_key_heads=num_heads,
        key_head_dim=width,
        value_head_dim=2 * width,
        beta_scale=2.0 if keys.get("linear_allow_neg_eigval", True) else 1.0,
    )
    words = kinds(keys, num_layers)
    if keys.get("layer_types") is None and "full_attention" not in words:  # of few layers the last
        words[-1] = "full_attention"
    made = olmo2.build(
        keys,
        eps=1e-6,
        ropes=(_rotary(keys, d_model // num_heads),) * num_layers,
        mixers=[mixer if word == "linear_attention" else None for word in words],
    )
    before = PartNorms(before=norm)
    layers = (
        layer if layer.attention else replace(layer, mixer_norms=before, mlp_norms=before) for layer in made.layers
    )
    return replace(made, layers=tuple(layers))


def _rotary(keys: Keys, head_dim: int) -> RopeConfig | None:
    """None where θ is said to be null."""
    rotary = rope(keys, head_dim, keys.size("max_position_embeddings", 65536))
    settings = keys.part("rope_parameters") or keys
    return None if settings.has("rope_theta") and settings.get("rope_theta") is None else replace(rotary, wide=True)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = next(layer.attention for layer in config.layers if layer.attention)
    mixer = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, DeltaNetConfig))
    hf = llama.base_to_hf(config) | delta_net_to_hf(mixer)
    hf |= {
        "architectures": ["OlmoHybridForCausalLM"],
        "attention_bias": attention.qkv_bias,
        "linear_allow_neg_eigval": mixer.beta_scale == 2,
        "layer_types": ["full_attention" if layer.attention else "linear_attention" for layer in config.layers],
    }
    if attention.rope is None:
        hf["rope_parameters"] = {"rope_theta": None, "rope_type": "default"}
    del hf["head_dim"]
    return hf


AT, OURS = "model.layers.{i}.linear_attn", "layers.{i}.delta_net"
PARTS = {"q": "q", "k": "k", "v": "v", "a": "decay", "b": "beta", "g": "gate", "o": "o"}
WEIGHTS = (
    *olmo2.WEIGHTS,
    *(Rule(f"{AT}.{theirs}_proj.weight", f"{OURS}.{ours}_proj.weight") for theirs, ours in PARTS.items()),
    *(Rule(f"{AT}.{name}_conv1d.weight", f"{OURS}.{name}_conv.weight", (Squeeze(),)) for name in "qkv"),
    Rule(f"{AT}.A_log", f"{OURS}.A_log"),
    Rule(f"{AT}.dt_bias", f"{OURS}.dt_bias"),
    Rule(f"{AT}.o_norm.weight", f"{OURS}.z_norm.weight"),
    Rule("model.layers.{i}.attention_layer_norm.weight", "layers.{i}.attention_norm.weight"),
    Rule("model.layers.{i}.feedforward_layer_norm.weight", "layers.{i}.mlp_norm.weight"),
)
# As transformers saves it: of a layer that attends, too, the norm after attention is called by the other's name.
ALSO = (Rule("model.layers.{i}.feedforward_layer_norm.weight", "layers.{i}.attention_post_norm.weight"),)
IGNORED = (*llama.IGNORED, "mtp.*")
GGUF = None

TINY = {name: value for name, value in olmo2.TINY.items() if name != "head_dim"} | {
    "model_type": "olmo_hybrid",
    "rms_norm_eps": 1e-4,
    "rope_parameters": {"rope_theta": None, "rope_type": "default"},
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "bias": {"attention_bias": True},
    "rotary": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
    "no_overshoot": {"linear_allow_neg_eigval": False},
    "sizes_by_default": {"linear_key_head_dim": None, "linear_value_head_dim": None, "linear_num_key_heads": None},
    "tied": {"tie_word_embeddings": True},
}
