"""Gated DeltaNet in GGUF: metadata, names, and what llama.cpp's converter did to the tensors.

Source: llama.cpp src/models/qwen3next.cpp, qwen35.cpp (what is read), conversion/qwen.py (what was written).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.config import DeltaNetConfig, LayerConfig, ModelConfig
from pellucid.families.translation.delta_net import CONV, OURS, QUERY_AND_GATE
from pellucid.families.translation.gguf import common_keys, llama_rules
from pellucid.families.translation.gguf_metadata import Metadata
from pellucid.families.translation.rules import Place, Rule, SplitParts, renamed, with_offset, without
from pellucid.quant import dequantize


class Rate:
    """−e^A, which a file holds, as A; back: −e^A. Computed anew, in float32."""

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        values = [dequantize(array).astype(np.float32) for array in arrays]
        if any((value >= 0).any() for value in values):
            raise WeightsError("a rate of fading must be negative", remedy="the file is damaged")
        return [Array.from_numpy(np.log(-value)) for value in values]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [Array.from_numpy(-np.exp(dequantize(array).astype(np.float32))) for array in arrays]


@dataclass(frozen=True)
class Tiled:
    """Heads of values in ggml's order, those that share a key apart: v₀ of each key, then v₁ of each, …; ours: all of
    the first key, then all of the second. ``width``: rows (or columns, ``axis`` 1) of a head; None: a value head's.
    """

    width: int | None = None
    axis: int = 0

    def forward(self, arrays: list[Array], place: Place) -> list[Array]:
        return [self._turned(array, place, back=False) for array in arrays]

    def inverse(self, arrays: list[Array], place: Place) -> list[Array]:
        return [self._turned(array, place, back=True) for array in arrays]

    def _turned(self, array: Array, place: Place, back: bool) -> Array:
        assert isinstance(place, LayerConfig)
        mixer = place.mixer
        keys, groups, width = mixer.num_key_heads, mixer.num_heads // mixer.num_key_heads, self.width
        if groups == 1:
            return array
        if self.axis and array.is_blocks:  # columns of a row's blocks cannot be moved
            array = Array.from_numpy(dequantize(array).astype(np.float32))
        width = mixer.value_head_dim if width is None else width
        if array.data.shape[self.axis] != keys * groups * width:  # its shape is looked at when it is ours
            return array
        before, after = array.data.shape[: self.axis], array.data.shape[self.axis + 1 :]
        heads = array.data.reshape(*before, *((keys, groups) if back else (groups, keys)), width, *after)
        turned = np.ascontiguousarray(heads.swapaxes(self.axis, self.axis + 1)).reshape(array.data.shape)
        return array.with_data(turned)


def delta_net_keys(architecture: str, metadata: Metadata, tensors: Mapping[str, Array]) -> dict[str, Any]:
    """The Hugging Face config of layers of gated DeltaNet among layers that attend."""

    def needed(name: str) -> Any:
        return metadata.needed(f"{architecture}.{name}")

    hf = common_keys(architecture, metadata, tensors, partial_rotary=True)
    metadata.get(f"{architecture}.rope.dimension_sections")  # for images alone: a token of text has one place
    heads, inner = needed("ssm.time_step_rank"), needed("ssm.inner_size")
    if not isinstance(heads, int) or not isinstance(inner, int) or heads <= 0 or inner % heads:
        raise WeightsError("ssm.inner_size must be a multiple of ssm.time_step_rank", where=metadata.where)
    num_layers, interval = hf["num_hidden_layers"], metadata.scalar(f"{architecture}.full_attention_interval", 4)
    recurrent = metadata.get(f"{architecture}.attention.recurrent_layers")
    hf["layer_types"] = (
        None
        if recurrent is None
        else ["linear_attention" if flag else "full_attention" for flag in list(recurrent)[:num_layers]]
    )
    return hf | {
        "full_attention_interval": interval,
        "norm_weight_offset": 0.0,  # the converter adds the 1
        "partial_rotary_factor": hf.pop("rope_dimension_count") / hf["head_dim"],
        "linear_conv_kernel_dim": needed("ssm.conv_kernel"),
        "linear_key_head_dim": needed("ssm.state_size"),
        "linear_num_key_heads": needed("ssm.group_count"),
        "linear_num_value_heads": heads,
        "linear_value_head_dim": inner // heads,
    }


def delta_net_to_gguf(config: ModelConfig) -> dict[str, Any]:
    """The keys of ``delta_net_keys``. Sections of rotation are for images; a token of text has one place for all."""
    mixer = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, DeltaNetConfig))
    attention = next(layer.attention for layer in config.layers if layer.attention)
    first = next(i for i, layer in enumerate(config.layers) if layer.attention)
    pairs = attention.rope.dim // 2 if attention.rope else 0
    if mixer.key_head_dim != mixer.value_head_dim:
        raise UnsupportedError(
            "llama.cpp takes keys and values of gated DeltaNet to be of one width",
            where="GGUF",
            expected=mixer.key_head_dim,
            received=mixer.value_head_dim,
        )
    return {
        "attention.head_count_kv": attention.num_kv_heads,  # of layers that attend
        "ssm.conv_kernel": mixer.conv_width,
        "ssm.state_size": mixer.key_head_dim,
        "ssm.group_count": mixer.num_key_heads,
        "ssm.time_step_rank": mixer.num_heads,
        "ssm.inner_size": mixer.v_dim,
        "full_attention_interval": first + 1,
        "rope.dimension_sections": [(pairs + 2) // 3, (pairs + 1) // 3, pairs // 3, 0],
    }


QKV = tuple(f"{OURS}.{name}_proj.weight" for name in "qkv")
NORMS = {"blk.{i}.ffn_norm": "blk.{i}.post_attention_norm"}


def delta_net_rules(*, tiled: bool) -> tuple[Rule, ...]:
    """``tiled``: whether heads of values stand in ggml's order."""
    values, single = ((Tiled(),), (Tiled(1),)) if tiled else ((), ())

    def sizes(layer: LayerConfig) -> tuple[int, ...]:
        return layer.mixer.q_dim, layer.mixer.q_dim, layer.mixer.v_dim

    split = SplitParts(sizes, ((), (), values))
    return (
        *with_offset(renamed(without(llama_rules(), "attn_q.", "attn_q_"), NORMS), 0.0),
        *with_offset([Rule("blk.{i}.attn_q_norm.weight", "layers.{i}.attention.q_norm.weight")], 0.0),
        *(
            Rule(
                f"blk.{{i}}.attn_q.{kind}",
                tuple(f"layers.{{i}}.attention.{name}_proj.{kind}" for name in ("q", "gate")),
                (QUERY_AND_GATE,),
            )
            for kind in ("weight", "bias")
        ),
        Rule("blk.{i}.attn_qkv.weight", QKV, (split,)),
        Rule("blk.{i}.attn_gate.weight", f"{OURS}.gate_proj.weight", values),
        Rule("blk.{i}.ssm_conv1d.weight", CONV, (split,)),
        Rule("blk.{i}.ssm_dt.bias", f"{OURS}.dt_bias", single),
        Rule("blk.{i}.ssm_a", f"{OURS}.A_log", (*single, Rate())),
        Rule("blk.{i}.ssm_norm.weight", f"{OURS}.z_norm.weight"),
        Rule("blk.{i}.ssm_out.weight", f"{OURS}.o_proj.weight", (Tiled(axis=1),) if tiled else ()),
    )
