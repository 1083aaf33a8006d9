"""torchao's tensors as safetensors hold them: MODULE._weight_qdata, …_scale and …_zero_point, and what kind of tensor
they make up as JSON in the file's metadata.

    Int8Tensor, IntxUnpackedToInt8Tensor   qdata (N, K) int8, scale and zero_point for groups of columns: (q − zero)·s
    Float8Tensor                           qdata (N, K) float8, scale for all, for rows, or for rectangles

Source: torchao, prototype/safetensors/safetensors_support.py; quantization/quantize_/workflows/*.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.base.files import parse_json
from pellucid.base.typed import is_whole, shown
from pellucid.checkpoint.quantized.compressed import FLOAT8, FLOATS, scaled_array
from pellucid.checkpoint.quantized.deferred import Deferred, deferred_affine
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors, fits
from pellucid.quant import dequantize
from pellucid.quant.affine import Affine

WHOLE = ("Int8Tensor", "IntxUnpackedToInt8Tensor")
PARTS = ("qdata", "scale", "zero_point")


def read(settings: Settings) -> Method:
    settings.rest("quant_type", "quant_type_kwargs", "include_input_output_embeddings", "untie_embedding_weights")
    return TorchAo()


class TorchAo(Method):
    name = "torchao"
    leaves = ("_weight_qdata", "_weight_scale", "_weight_zero_point", "_weight_act_pre_scale")

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for stored in tensors.ending("_qdata"):
            split = re.fullmatch(r"(.+)\._(\w+)", stored)
            if not split:
                continue
            name = f"{split[1]}.{split[2]}"
            facts = _facts(name, tensors)
            if unknown := [part for part in facts["_tensor_data_names"] if part not in PARTS]:
                raise UnsupportedError(f"{name} has {shown(unknown[0])}", where=tensors.where, remedy=REMEDY)
            array = (_whole if facts["_type"] in WHOLE else _floats)(name, stored, facts, tensors, dtype)
            yield Logical(name, tuple(f"{stored}_{part}" for part in PARTS), array)


def _facts(name: str, tensors: Tensors) -> dict[str, Any]:
    """What the file's metadata say of a tensor: its kind, its parts, how many elements share a scale."""
    text = tensors.metadata.get(name)
    if text is None:
        raise WeightsError(
            f"{name}: the file's metadata do not say what kind of tensor it is",
            where=tensors.where,
            remedy="save it again with a current transformers and torchao",
        )
    facts = parse_json(text, name)
    data = facts.get("_data") if isinstance(facts, dict) else None
    parts = facts.get("_tensor_data_names") if isinstance(facts, dict) else None
    if not isinstance(data, dict) or not isinstance(parts, list):
        raise WeightsError(f"{name}: the metadata do not describe a tensor", received=shown(facts))
    if facts.get("_type") not in (*WHOLE, "Float8Tensor"):
        raise UnsupportedError(
            f"{name} is a {shown(facts.get('_type'))} of torchao",
            where=tensors.where,
            expected=", ".join((*WHOLE, "Float8Tensor")),
            remedy=REMEDY,
        )
    block = data.get("block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(is_whole(side) and side > 0 for side in block):
        raise WeightsError(f"{name}: block_size must be two sizes", received=shown(block))
    return {**facts, "block": tuple(block)}


def _whole(name: str, stored: str, facts: dict[str, Any], tensors: Tensors, dtype: str) -> Deferred:
    codes = tensors.need(f"{stored}_qdata", ("int8",), 2)
    scale = tensors.need(f"{stored}_scale", FLOATS, 2)
    zero = tensors.maybe(f"{stored}_zero_point", ("int8", *FLOATS), 2)
    (outputs, inputs), (rows, size) = codes.shape, facts["block"]
    if size > inputs or inputs % size or rows not in (1, outputs):
        raise WeightsError(f"{name}: blocks of {[rows, size]} do not fit {[outputs, inputs]}")
    fits(f"{stored}_scale", scale, (outputs // rows, inputs // size))
    if zero is not None:
        fits(f"{stored}_zero_point", zero, scale.shape)

    def affine() -> Affine:
        by, zeros = (
            None if part is None else np.broadcast_to(dequantize(part), (outputs, inputs // size))
            for part in (scale, zero)
        )
        assert by is not None
        return Affine((outputs, inputs), lambda rows: codes.data[rows], -128, 127, by, zeros)

    sources = tuple(part for part in (codes, scale, zero) if part is not None)
    return deferred_affine(name, (outputs, inputs), sources, "torchao, 8-bit integers", affine, dtype)


def _floats(name: str, stored: str, facts: dict[str, Any], tensors: Tensors, dtype: str) -> Deferred:
    codes = tensors.need(f"{stored}_qdata", FLOAT8, 2)
    scale = tensors.need(f"{stored}_scale", FLOATS, (0, 1, 2))
    return scaled_array(name, codes, scale, facts["block"], dtype)
