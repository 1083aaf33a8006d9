"""What families with gated DeltaNet have in common: their keys, and the names of their tensors."""

from __future__ import annotations

from typing import Any

from pellucid.config import DeltaNetConfig, NormConfig
from pellucid.families.translation.hf import Keys
from pellucid.families.translation.rules import Rule, Split, SplitBlocks, Squeeze


def delta_net(keys: Keys, *, norm: NormConfig, **fields: Any) -> DeltaNetConfig:
    """The mixer that ``linear_*`` keys describe; their defaults are Qwen3-Next's."""
    keys.only("hidden_act", "silu")
    return DeltaNetConfig(
        num_heads=keys.size("linear_num_value_heads", fields.pop("num_heads", 32)),
        num_key_heads=keys.size("linear_num_key_heads", fields.pop("num_key_heads", 16)),
        key_head_dim=keys.size("linear_key_head_dim", fields.pop("key_head_dim", 128)),
        value_head_dim=keys.size("linear_value_head_dim", fields.pop("value_head_dim", 128)),
        conv_width=keys.size("linear_conv_kernel_dim", 4),
        norm=norm,
        **fields,
    )


def delta_net_to_hf(mixer: DeltaNetConfig) -> dict[str, Any]:
    return {
        "linear_num_value_heads": mixer.num_heads,
        "linear_num_key_heads": mixer.num_key_heads,
        "linear_key_head_dim": mixer.key_head_dim,
        "linear_value_head_dim": mixer.value_head_dim,
        "linear_conv_kernel_dim": mixer.conv_width,
    }


def kinds(keys: Keys, num_layers: int, every: int = 4) -> list[str]:
    """``full_attention`` or ``linear_attention``, a word a layer."""
    interval = keys.size("full_attention_interval", every)
    if keys.get("layer_types") is None:
        return ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(num_layers)]
    words = {word: word for word in ("full_attention", "linear_attention")}
    return keys.choices("layer_types", num_layers, **words)


AT, OURS = "model.layers.{i}.linear_attn", "layers.{i}.delta_net"
SPLIT_CONV = Split(lambda layer: (layer.mixer.q_dim, layer.mixer.q_dim, layer.mixer.v_dim))
CONV = tuple(f"{OURS}.{name}_conv.weight" for name in "qkv")
DELTA_RULES = (
    Rule(f"{AT}.conv1d.weight", CONV, (Squeeze(), SPLIT_CONV)),
    Rule(f"{AT}.A_log", f"{OURS}.A_log"),
    Rule(f"{AT}.dt_bias", f"{OURS}.dt_bias"),
    Rule(f"{AT}.norm.weight", f"{OURS}.z_norm.weight"),
    Rule(f"{AT}.out_proj.weight", f"{OURS}.o_proj.weight"),
)

# A head's query and its gate, head by head, in one matrix.
QUERY_AND_GATE = SplitBlocks(lambda layer: layer.mixer.num_heads, lambda layer: (layer.mixer.head_dim,) * 2)
GATED_QUERY = tuple(
    Rule(
        f"model.layers.{{i}}.self_attn.q_proj.{kind}",
        tuple(f"layers.{{i}}.attention.{name}_proj.{kind}" for name in ("q", "gate")),
        (QUERY_AND_GATE,),
    )
    for kind in ("weight", "bias")
)
