"""Gemma 4 in GGUF files: widths and windows a layer, the pairs that turn, vectors beside the stream.

Source: llama.cpp convert_hf_to_gguf.py (Gemma4Model), src/models/gemma4.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError
from pellucid.config import MAX_LAYERS, ModelConfig
from pellucid.families.translation.gguf import POST_NORM_RULES, common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.rules import Rule
from pellucid.quant import dequantize

AT = "gemma4"
BY_LAYER = ("feed_forward_length", "attention.head_count_kv")
NEVER = 1e20  # frequencies that are divided by more turn nowhere


class _Uniform(Metadata):
    """The metadata, with the first layer's of what a file lists for each: the rest is read beside."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata, self.where = metadata, metadata.where

    def __getitem__(self, key: str) -> Any:
        return self.metadata[key]

    def __contains__(self, key: object) -> bool:
        return key in self.metadata

    def __iter__(self) -> Iterator[str]:
        return iter(self.metadata)

    def __len__(self) -> int:
        return len(self.metadata)

    def scalar(self, key: str, default: Any = None) -> Any:
        value = self.metadata.get(key, default)
        if key.removeprefix(f"{AT}.") in BY_LAYER and isinstance(value, (np.ndarray, list)) and len(value):
            return int(value[0])
        return self.metadata.scalar(key, default)


def keys(metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The Hugging Face config."""
    factors = tensors.get("rope_freqs.weight")
    rest = {name: array for name, array in tensors.items() if name != "rope_freqs.weight"}
    common = common_keys(AT, _Uniform(metadata), rest)
    num_layers, wide = common["num_hidden_layers"], common["head_dim"]
    if not isinstance(num_layers, int) or not 0 < num_layers <= MAX_LAYERS:  # before a list is made for each
        raise ConfigError(f"{AT}.block_count is out of range", where="GGUF", received=repr(num_layers)[:80])
    narrow = metadata.scalar(f"{AT}.attention.key_length_swa", wide)
    for name, value in (("attention.value_length_swa", narrow), ("rope.dimension_count_swa", narrow)):
        metadata.expect(f"{AT}.{name}", value, "keys, values and rotations of several widths are not implemented")
    windows, kv_heads, widths = (
        _by_layer(metadata, name, num_layers)
        for name in ("attention.sliding_window_pattern", "attention.head_count_kv", "feed_forward_length")
    )
    shared = metadata.scalar(f"{AT}.attention.shared_kv_layers", 0)
    if not isinstance(shared, int) or not 0 <= shared < num_layers:
        raise ConfigError(f"{AT}.attention.shared_kv_layers is out of range", where="GGUF", received=repr(shared)[:80])
    base, last = widths[0], widths[-1]
    if widths != [base] * (num_layers - shared) + [last] * shared or last not in (base, 2 * base):
        raise ConfigError("MLPs of layers that share keys can be twice as wide, no others", where="GGUF")
    far = next((i for i, window in enumerate(windows) if not window), 0)
    near = next((i for i, window in enumerate(windows) if window), 0)
    own = {"head_dim": wide, "num_key_value_heads": int(kv_heads[far])}
    theta, near_theta = common.pop("rope_theta"), metadata.scalar(f"{AT}.rope.freq_base_swa", 1e4)
    turned = {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": _turned(factors, wide)}
    return common | {
        "model_type": "gemma4_text",
        "head_dim": narrow,
        "num_key_value_heads": int(kv_heads[near]),
        "per_layer_config": {str(i): own for i, window in enumerate(windows) if not window},
        "attention_k_eq_v": not windows[far] and f"blk.{far}.attn_v.weight" not in tensors,
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
        "sliding_window": metadata.scalar(f"{AT}.attention.sliding_window", 512),
        "rope_parameters": {"full_attention": turned, "sliding_attention": {"rope_theta": near_theta}},
        "final_logit_softcapping": metadata.scalar(f"{AT}.final_logit_softcapping", 30.0) or None,
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": last != base,
        "hidden_size_per_layer_input": metadata.scalar(f"{AT}.embedding_length_per_layer_input", 0),
        "vocab_size_per_layer_input": common["vocab_size"],
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The opposite: the keys of a description, without the architecture, that are not every model's."""
    mixers, side = [layer.mixer for layer in config.layers], config.layers[0].side
    far = next((mixer for mixer in mixers if mixer.window is None), mixers[0])
    near = next((mixer for mixer in mixers if mixer.window), far)
    return {
        "attention.key_length": far.head_dim,
        "attention.value_length": far.head_dim,
        "attention.key_length_swa": near.head_dim,
        "attention.value_length_swa": near.head_dim,
        "attention.sliding_window": near.window or config.context_len,
        "attention.sliding_window_pattern": [mixer.window is not None for mixer in mixers],
        "attention.shared_kv_layers": sum(mixer.kv_from is not None for mixer in mixers),
        "embedding_length_per_layer_input": side.width if side else 0,
        "rope.dimension_count": far.head_dim,
        "rope.dimension_count_swa": near.head_dim,
        "final_logit_softcapping": config.logit_softcap or 0.0,
    }


def _by_layer(metadata: Metadata, name: str, num_layers: int) -> list[Any]:
    """One value a layer: the file's list, or its one value for all."""
    value = metadata.get(f"{AT}.{name}", 0)
    values = value.tolist() if isinstance(value, np.ndarray) else value
    values = values if isinstance(values, list) else [values] * num_layers
    if len(values) != num_layers:
        raise ConfigError(
            f"{AT}.{name} must name each layer's", where="GGUF", expected=num_layers, received=len(values)
        )
    return values


def _turned(factors: Array | None, head_dim: int) -> float:
    """What part of a head turns: frequencies of the first pairs are as they are, the others divided by 1e30."""
    if factors is None:
        return 1.0
    values = dequantize(factors).ravel()
    pairs = int((values == 1).sum())
    if len(values) != head_dim // 2 or not (values[:pairs] == 1).all() or not (values[pairs:] > NEVER).all():
        raise ConfigError(
            "rope_freqs.weight says which pairs of a head turn",
            where="GGUF",
            expected=f"{head_dim // 2} numbers, 1 and then {NEVER:g} or more",
            received=repr(values[:8].tolist())[:80],
        )
    return 2 * pairs / head_dim


RULES = (
    *llama_rules(),
    *POST_NORM_RULES,
    Rule("per_layer_token_embd.weight", "side_embed.weight"),
    Rule("per_layer_model_proj.weight", "side_proj.weight"),
    Rule("per_layer_proj_norm.weight", "side_norm.weight"),
    Rule("blk.{i}.inp_gate.weight", "layers.{i}.side.gate_proj.weight"),
    Rule("blk.{i}.proj.weight", "layers.{i}.side.down_proj.weight"),
    Rule("blk.{i}.post_norm.weight", "layers.{i}.side.norm.weight"),
    Rule("blk.{i}.layer_output_scale.weight", "layers.{i}.out_scale"),
)
# Settings, and what a layer that looks at another's keys does not use.
IGNORED = ("rope_freqs.weight", "blk.*.attn_k.weight", "blk.*.attn_v.weight", "blk.*.attn_k_norm.weight")
