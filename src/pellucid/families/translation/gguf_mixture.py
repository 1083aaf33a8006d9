"""Which tensor of a GGUF file is stored in which format: llama.cpp's mixtures, ``q4_k_m`` and its like.

A mixture has a format for most tensors, and more bits for those that a model suffers most from: values, the way down
from the MLP in the first, last and every third layer, the output layer. A row that is not whole blocks gets a format of
smaller blocks.

Source: llama.cpp, src/llama-quant.cpp (tensor_allows_quantization, llama_tensor_get_type_impl, tensor_type_fallback).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.base.array import BLOCKS

# name -> (the format of most tensors, general.file_type). Source: llama.h, enum llama_ftype.
MIXTURES: dict[str, tuple[str, int]] = {
    "f32": ("float32", 0),
    "f16": ("float16", 1),
    "bf16": ("bfloat16", 32),
    "q8_0": ("q8_0", 7),
    "q6_k": ("q6_k", 18),
    "q5_k_m": ("q5_k", 17),
    "q5_k_s": ("q5_k", 16),
    "q5_1": ("q5_1", 9),
    "q5_0": ("q5_0", 8),
    "q4_k_m": ("q4_k", 15),
    "q4_k_s": ("q4_k", 14),
    "q4_1": ("q4_1", 3),
    "q4_0": ("q4_0", 2),
    "q3_k_l": ("q3_k", 13),
    "q3_k_m": ("q3_k", 12),
    "q3_k_s": ("q3_k", 11),
    "q2_k": ("q2_k", 10),
    "q2_k_s": ("q2_k", 21),
}
SMALLER = {
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
}  # of rows not in whole blocks
# Parts of names of matrices that are too small, or too sensitive, to be quantized.
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
    "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight", ".position_embd",
)  # fmt: skip
_WHOLE = ("position_embd.weight", "token_types.weight")
_EIGHT_EXPERTS = ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m")


@dataclass(frozen=True)
class Facts:
    """What of a model its mixture depends on."""

    architecture: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_experts: int
    tied: bool
    importance: bool = False

    @classmethod
    def of(cls, architecture: str, metadata: Mapping[str, Any], shapes: Mapping[str, Any], importance: bool) -> Facts:
        def first(key: str, default: int) -> int:
            value = metadata.get(f"{architecture}.{key}", default)
            return int(value[0]) if isinstance(value, list) else int(value)

        heads = first("attention.head_count", 1)
        return cls(
            architecture,
            first("block_count", 1),
            heads,
            first("attention.head_count_kv", heads),
            first("expert_count", 0),
            "output.weight" not in shapes,
            importance,
        )

    @property
    def groups(self) -> int:
        return self.num_heads // self.num_kv_heads if self.num_kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Models whose values are an eighth as wide as their queries, and gain most from more bits there."""
        if self.architecture == "llama":
            return self.num_layers == 80 and self.num_heads != self.num_kv_heads
        return (self.architecture, self.num_layers) in (("qwen2", 80), ("deci", 80), ("olmo", 80), ("jais2", 68))


def formats(mixture: str, shapes: Mapping[str, tuple[int, ...]], facts: Facts) -> dict[str, str]:
    """Each tensor's format. ``shapes``: name → (…, rows, columns)."""
    most = MIXTURES[mixture][0]
    place: dict[str, int] = {}
    values = sorted((name for name in shapes if _kind(name) == "values"), key=_layer)
    downs = sorted((name for name in shapes if _kind(name) == "down"), key=_layer)
    place |= {name: i for i, name in enumerate(values)} | {name: i for i, name in enumerate(downs)}
    if facts.num_experts > 1:
        place |= {name: _layer(name) for name in downs}
    chosen: dict[str, str] = {}
    for name, shape in shapes.items():
        if not _is_quantized(name, shape):
            chosen[name] = "float32"
        elif most in BLOCKS:
            wanted = _wanted(mixture, most, name, shape, place.get(name, 0), len(values), facts)
            chosen[name] = _fitting(wanted, shape[-1])
        else:
            chosen[name] = most
    return chosen


def _layer(name: str) -> int:
    number = re.match(r"blk\.(\d+)\.", name)
    return int(number[1]) if number else -1


def _is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    is_matrix = len(shape) > 1 and any(size > 1 for size in shape[:-1])
    return is_matrix and name.endswith("weight") and name not in _WHOLE and not any(part in name for part in _KEPT)


def _kind(name: str) -> str:
    kinds = {"attn_qkv.weight": "values", "attn_kv_b.weight": "values", "attn_v.weight": "values"}
    kinds |= {"attn_k.weight": "keys", "attn_output.weight": "attention out", "ffn_down": "down"}
    if name in ("output.weight", "token_embd.weight", "per_layer_token_embd.weight"):
        return "output" if name == "output.weight" else "table"
    return next((kind for part, kind in kinds.items() if part in name), "")


def _more(i: int, count: int) -> bool:
    """The first eighth, the last, and every third between."""
    return i < count // 8 or i >= 7 * count // 8 or (i - count // 8) % 3 == 2


def _wanted(mixture: str, most: str, name: str, shape: tuple[int, ...], i: int, values: int, facts: Facts) -> str:
    kind, falcon = _kind(name), facts.architecture == "falcon"
    if kind == "output" or (facts.tied and kind == "table"):
        if falcon or shape[-1] % BLOCKS[most][0] or most == "q8_0":
            return "q8_0"
        return "q6_k"
    if kind == "values":
        return _of_values(mixture, most, i, values, facts)
    if kind == "keys" and facts.num_experts == 8:
        return "q8_0"
    if kind == "down":
        return _of_down(mixture, most, i, facts.num_layers, falcon, facts.importance)
    if kind == "attention out":
        if falcon:
            return "q4_k" if mixture == "q3_k_l" else most
        if facts.num_experts == 8:
            return "q5_k" if mixture in _EIGHT_EXPERTS else most
        return {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(mixture, most)
    return most


def _of_values(mixture: str, most: str, i: int, count: int, facts: Facts) -> str:
    chosen = most
    if mixture == "q2_k":
        chosen = "q4_k" if facts.groups >= 4 else "q3_k"
    elif mixture == "q2_k_s" and facts.groups >= 4:
        chosen = "q4_k"
    elif mixture == "q3_k_m":
        chosen = "q5_k" if i < 2 else "q4_k"
    elif mixture == "q3_k_l":
        chosen = "q5_k"
    elif mixture in ("q4_k_m", "q5_k_m") and _more(i, count):
        chosen = "q6_k"
    elif mixture == "q4_k_s" and i < 4:
        chosen = "q5_k"
    if facts.is_70b and chosen in ("q3_k", "q4_k"):
        chosen = "q5_k"
    return "q8_0" if facts.num_experts == 8 else chosen


def _of_down(mixture: str, most: str, i: int, count: int, falcon: bool, importance: bool) -> str:
    if mixture == "q2_k":
        return "q3_k"
    if mixture == "q2_k_s":
        return "q4_k" if i < count // 8 else most
    if mixture == "q3_k_m":
        return "q5_k" if i < count // 16 else "q4_k" if not falcon or _more(i, count) else "q3_k"
    if mixture == "q3_k_l":
        return "q4_k" if falcon else "q5_k"
    if mixture == "q4_k_m" and falcon:
        return "q6_k" if i < count // 16 else "q5_k" if _more(i, count) else "q4_k"
    if mixture in ("q4_k_m", "q5_k_m"):
        return "q6_k" if _more(i, count) else most
    if mixture == "q4_k_s" and not falcon:
        return "q5_k" if i < count // 8 else most
    if (
        mixture in ("q4_0", "q5_0") and importance and i < count // 8
    ):  # scales searched by importance can go astray there
        return {"q4_0": "q4_1", "q5_0": "q5_1"}[mixture]
    return most


def _fitting(wanted: str, columns: int) -> str:
    """The format, or one of smaller blocks where a row is not whole blocks."""
    if columns % BLOCKS[wanted][0]:
        wanted = SMALLER.get(wanted, wanted)
    return "float16" if columns % BLOCKS[wanted][0] else wanted
