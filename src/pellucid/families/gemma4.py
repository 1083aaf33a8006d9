"""Gemma 4 (text): Gemma 3's norms, with heads of two widths, values normed, and keys and values that layers share.

Layers with a window have narrow heads; those that see all have wide ones, of which a quarter turns. The last layers
look at keys and values of earlier ones. A narrow vector a token and layer is added after each MLP, where there are
such.
Source: transformers models/gemma4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pellucid.base.errors import ConfigError
from pellucid.config import (
    AttentionConfig,
    LayerConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    PartNorms,
    RopeConfig,
    SideConfig,
)
from pellucid.families import gemma3, llama, qwen3
from pellucid.families.translation import gguf_gemma4
from pellucid.families.translation.gguf import GGUF
from pellucid.families.translation.hf import Keys, rope
from pellucid.families.translation.rules import Rule

SLIDING, FULL = "sliding_attention", "full_attention"
ROPES = {
    SLIDING: {"rope_theta": 1e4},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}
HARMLESS = ("num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size")  # of no experts


def config(hf: Mapping[str, Any]) -> ModelConfig:
    keys = Keys(hf, HARMLESS)
    keys.only("use_bidirectional_attention", None, "vision")  # that of images alone
    keys.only("enable_moe_block", False)
    d_model, context_len = keys.size("hidden_size", 2304), keys.size("max_position_embeddings", 131072)
    num_layers, vocab_size = keys.num_layers("num_hidden_layers"), keys.size("vocab_size", 262144)
    kinds = [*gemma3.layer_types(keys, every=6)[:-1], FULL]  # the last sees all, whatever the file says
    norm = NormConfig(kind="rms", eps=keys.get("rms_norm_eps", 1e-6), wide=True)
    activation, d_ff = keys.activation("hidden_activation", "gelu_pytorch_tanh"), keys.size("intermediate_size", 9216)
    width, bias = keys.get("hidden_size_per_layer_input", 256), keys.switch("attention_bias", False)
    keys.only("vocab_size_per_layer_input", *((vocab_size,) if width else (keys.get("vocab_size_per_layer_input"),)))
    side = SideConfig(width=width, activation=activation, norm=norm) if width else None
    shared, window = keys.get("num_kv_shared_layers", 0), keys.size("sliding_window", 512)
    wider = 2 if keys.get("use_double_wide_mlp", False) else 1
    equal, ropes = keys.switch("attention_k_eq_v", False), keys.get("rope_parameters", ROPES)
    shapes = _shapes(keys, kinds, equal)
    if not isinstance(shared, int) or not isinstance(ropes, Mapping) or not 0 <= shared < num_layers:
        raise ConfigError("num_kv_shared_layers or rope_parameters is not what it must be", where=keys.where)
    rotations: dict[tuple[str, int], RopeConfig] = {}
    for kind, (head_dim, _) in zip(kinds, shapes, strict=True):
        settings = Keys({"rope_parameters": ropes.get(kind) or ROPES[kind]}, where=keys.where)
        rotations[kind, head_dim] = rope(settings, head_dim, context_len)

    def layer(i: int, kind: str, head_dim: int, num_kv_heads: int) -> LayerConfig:
        lender = None if i < num_layers - shared else _lender(keys, kinds[: num_layers - shared], kind)
        attention = AttentionConfig(
            num_heads=keys.size("num_attention_heads", 8),
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm=norm,
            v_norm=NormConfig(kind="rms", eps=norm.eps, weight=False) if lender is None else None,
            keys_are_values=equal and kind == FULL and lender is None,
            kv_from=lender,
            rope=rotations[kind, head_dim],
            window=window if kind == SLIDING else None,
            scale=1.0,
        )
        norms = PartNorms(before=norm, after=norm)
        mlp = MLPConfig(d_ff=d_ff * (1 if lender is None else wider), activation=activation)
        return LayerConfig(mixer=attention, mlp=mlp, mixer_norms=norms, mlp_norms=norms, side=side, out_scale=True)

    return ModelConfig(
        model_type="gemma4_text",
        vocab_size=vocab_size,
        d_model=d_model,
        context_len=context_len,
        layers=tuple(layer(i, kind, *shape) for i, (kind, shape) in enumerate(zip(kinds, shapes, strict=True))),
        final_norm=norm,
        embedding_scale=math.sqrt(d_model),
        logit_softcap=keys.get("final_logit_softcapping"),
        **keys.common(tied=True),
    )


def _shapes(keys: Keys, kinds: list[str], equal: bool) -> list[tuple[int, int]]:
    """Each layer's (head_dim, num_kv_heads): its own in ``per_layer_config`` (transformers 5), or its kind's."""
    narrow = keys.size("head_dim", 256), keys.size("num_key_value_heads", 4)
    wide = keys.size("global_head_dim", 512), keys.get("num_global_key_value_heads")
    own = keys.get("per_layer_config")
    if own is not None and not (isinstance(own, Mapping) and all(isinstance(one, Mapping) for one in own.values())):
        raise ConfigError("per_layer_config must be an object of objects", where=keys.where, received=repr(own)[:80])
    if own is None:
        far = wide[0], wide[1] if equal and wide[1] else narrow[1]
        return [far if kind == FULL else narrow for kind in kinds]
    names, shapes = ("head_dim", "num_key_value_heads"), []
    for i in range(len(kinds)):
        layer = Keys(own.get(str(i), own.get(i, {})), where=f"{keys.where}: per_layer_config")
        shapes.append(tuple(layer.size(name, default) for name, default in zip(names, narrow, strict=True)))
    return shapes


def _lender(keys: Keys, before: list[str], kind: str) -> int:
    """The last layer of this kind that has keys of its own."""
    if kind not in before:
        raise ConfigError("no layer before those that share has keys for them", where=keys.where, received=kind)
    return len(before) - 1 - before[::-1].index(kind)


def to_hf(config: ModelConfig) -> dict[str, Any]:
    first, side = config.layers[0], config.layers[0].side
    mixers = [layer.mixer for layer in config.layers]
    near, far = (next((m for m in mixers if (m.window is None) == sees), mixers[0]) for sees in (False, True))
    hf = llama.base_to_hf(config)
    shared = sum(mixer.kv_from is not None for mixer in mixers)
    turned = {kind: _rope_to_hf(mixer.rope) for kind, mixer in ((SLIDING, near), (FULL, far))}
    del hf["rope_theta"], hf["rope_scaling"]
    return hf | {
        "architectures": ["Gemma4ForCausalLM"],
        "hidden_activation": hf.pop("hidden_act"),
        "attention_bias": first.mixer.qkv_bias,
        "head_dim": near.head_dim,
        "num_key_value_heads": near.num_kv_heads,
        "global_head_dim": far.head_dim,
        "num_global_key_value_heads": far.num_kv_heads if far.keys_are_values else None,
        "attention_k_eq_v": far.keys_are_values,
        "sliding_window": near.window or config.context_len,
        "layer_types": [SLIDING if mixer.window else FULL for mixer in mixers],
        "rope_parameters": turned,
        "final_logit_softcapping": config.logit_softcap,
        "hidden_size_per_layer_input": side.width if side else 0,
        "vocab_size_per_layer_input": config.vocab_size,
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": bool(shared) and config.layers[-1].mlp.d_ff != first.mlp.d_ff,
        "enable_moe_block": False,
    }


def _rope_to_hf(rotary: RopeConfig) -> dict[str, Any]:
    pairs = rotary.dim // 2 if rotary.pairs is None else rotary.pairs
    written: dict[str, Any] = {"rope_type": "proportional", "rope_theta": rotary.theta}
    written["partial_rotary_factor"] = 2 * pairs / rotary.dim
    return written | ({"factor": rotary.scaling.factor} if rotary.scaling else {})


WEIGHTS = (
    *(rule for rule in qwen3.WEIGHTS if "post_attention_layernorm" not in rule.theirs),
    Rule("model.layers.{i}.post_attention_layernorm.weight", "layers.{i}.attention_post_norm.weight"),
    Rule("model.layers.{i}.pre_feedforward_layernorm.weight", "layers.{i}.mlp_norm.weight"),
    Rule("model.layers.{i}.post_feedforward_layernorm.weight", "layers.{i}.mlp_post_norm.weight"),
    Rule("model.layers.{i}.per_layer_input_gate.weight", "layers.{i}.side.gate_proj.weight"),
    Rule("model.layers.{i}.per_layer_projection.weight", "layers.{i}.side.down_proj.weight"),
    Rule("model.layers.{i}.post_per_layer_input_norm.weight", "layers.{i}.side.norm.weight"),
    Rule("model.layers.{i}.layer_scalar", "layers.{i}.out_scale"),
    Rule("model.embed_tokens_per_layer.weight", "side_embed.weight"),
    Rule("model.per_layer_model_projection.weight", "side_proj.weight"),
    Rule("model.per_layer_projection_norm.weight", "side_norm.weight"),
)
# What a layer that looks at another's keys does not use; files have it all the same.
IGNORED = (*llama.IGNORED, *(f"model.layers.*.self_attn.{name}.*" for name in ("k_proj", "v_proj", "k_norm")))
GGUF = GGUF(
    architecture="gemma4",
    hf=gguf_gemma4.keys,
    weights=gguf_gemma4.RULES,
    ignored=gguf_gemma4.IGNORED,
    write=gguf_gemma4.write,
    needs=("rope_freqs.weight",),
)

TINY = {name: value for name, value in llama.TINY.items() if name != "rope_theta"} | {
    "model_type": "gemma4_text",
    "num_hidden_layers": 4,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 8,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 96,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "keys_are_values": {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_kv_shared_layers": 0},
    "no_side": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    "double_wide": {"use_double_wide_mlp": True},
    "softcap": {"final_logit_softcapping": 3.0},
    "bias": {"attention_bias": True, "tie_word_embeddings": False},
    "pattern": {"layer_types": None, "num_kv_shared_layers": 0},
    "ropes": {
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 500.0},
            FULL: {"rope_type": "proportional", "rope_theta": 9000.0, "partial_rotary_factor": 0.5, "factor": 2.0},
        }
    },
}
