"""compressed-tensors (llm-compressor, vLLM): each module by the tensors that are there.

    pack-quantized     weight_packed (N, ⌈K·bits/32⌉) int32, codes + 2^(bits−1) as a stream of bits (older files: whole
                       codes in each word); weight_shape; weight_scale (N, G); weight_zero_point, a stream down columns
    int-, float- and   weight int8 or float8; weight_scale for all, for rows, groups or rectangles; weight_zero_point
    naive-quantized
    nvfp4-pack-…       weight_packed (N, K/2) uint8; weight_scale (N, K/16) float8; weight_global_scale
    mxfp4-pack-…       weight_packed (N, K/2) uint8; weight_scale (N, K/32) uint8
    mxfp8-quantized    weight float8; weight_scale (N, K/32) uint8

    w = scale · (q − zero),  g = weight_g_idx[k] or k // group_size;   nvfp4: scale = weight_scale / weight_global_scale

Source: compressed-tensors, compressors/*/base.py, quantization/lifecycle/forward_helpers.py (_dequantize).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.base.typed import is_whole, shown
from pellucid.checkpoint.quantized.deferred import Deferred, deferred_affine
from pellucid.checkpoint.quantized.float4 import mxfp4_rows, nvfp4_rows
from pellucid.checkpoint.quantized.gptq import out_of_order
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors, fits
from pellucid.families.translation.harmless import is_neutral
from pellucid.quant import dequantize
from pellucid.quant.affine import Affine
from pellucid.quant.integers import from_stream, from_words, stream_words
from pellucid.quant.scaled import rectangles, scaled

FORMATS = (
    *("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized"),
    *("mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision", "dense"),
)
FLOATS = ("float32", "bfloat16", "float16")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
OF_WEIGHTS = {  # what is read of a group's weights, and what says only how they came to be
    *("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "dynamic", "actorder"),
    *("scale_dtype", "zp_dtype", "observer", "observer_kwargs"),
}


def read(settings: Settings) -> Method:
    format = settings.text("format", default="dense")
    if format not in FORMATS:
        raise UnsupportedError(
            f"compressed-tensors' format {format!r}", where=settings.where, expected=", ".join(FORMATS), remedy=REMEDY
        )
    settings.only("quantization_status", "compressed", "frozen")  # some of 2024 say frozen of what is compressed
    if settings.part("sparsity_config").get("format") not in (None, "dense"):
        raise UnsupportedError("sparsity_config is not implemented", where=settings.where, remedy=REMEDY)
    for empty in ("transform_config", "moe_sparsity_config"):
        if any(not is_neutral("", value) for value in settings.part(empty).values()):
            raise UnsupportedError(f"{empty} is not implemented", where=settings.where, remedy=REMEDY)
    groups = [_group(group, settings) for group in settings.part("config_groups").values()]
    settings.rest("kv_cache_scheme", "global_compression_ratio", "ignore", "version")
    return Compressed(
        f"compressed-tensors, {format}",
        {weights.get("num_bits", 8) for weights in groups},
        {tuple(block) for weights in groups if (block := weights.get("block_structure"))},
    )


def _group(group: Any, settings: Settings) -> Mapping[str, Any]:
    """What a group says of weights. Raises: UnsupportedError for a format or key that nothing here reads."""
    if isinstance(group, list):
        raise UnsupportedError("a group named by a preset", where=settings.where, remedy=REMEDY)
    if not isinstance(group, Mapping):
        raise ConfigError("config_groups must hold objects", where=settings.where, received=shown(group))
    weights = group.get("weights") or {}
    if not isinstance(weights, Mapping):
        raise ConfigError("weights must be an object", where=settings.where, received=shown(weights))
    bits, block = weights.get("num_bits", 8), weights.get("block_structure")
    if not is_whole(bits) or not 1 <= bits <= 8:
        raise UnsupportedError(f"weights of {shown(bits)} bits", where=settings.where, expected="1 to 8", remedy=REMEDY)
    if block is not None and not (isinstance(block, list) and len(block) == 2 and all(map(is_whole, block))):
        raise ConfigError("block_structure must be two sizes", where=settings.where, received=shown(block))
    if group.get("format") not in (None, *FORMATS):
        raise UnsupportedError(f"format {shown(group['format'])}", where=settings.where, remedy=REMEDY)
    known = {"targets", "weights", "input_activations", "output_activations", "format"}
    if unknown := [name for name in group if name not in known] + [name for name in weights if name not in OF_WEIGHTS]:
        raise UnsupportedError(
            f"{shown(unknown[0])} of a group is not implemented", where=settings.where, remedy=REMEDY
        )
    return weights


class Compressed(Method):
    leaves = (
        "weight_packed",
        "weight_shape",
        "weight_scale",
        "weight_zero_point",
        "weight_g_idx",
        "weight_global_scale",
    )
    beside = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point", "k_scale",
              "v_scale", "q_scale")  # fmt: skip

    def __init__(self, name: str, bits: set[int], blocks: set[tuple[int, ...]]) -> None:
        self.name, self.bits, self.blocks = name, bits, blocks

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for module in dict.fromkeys([*tensors.ending(".weight_packed"), *tensors.ending(".weight_scale")]):
            parts = tuple(f"{module}.{leaf}" for leaf in ("weight", *self.leaves))
            packed = tensors.maybe(f"{module}.weight_packed", ("int32", "uint8"), 2)
            if packed is None:
                array = self._plain(module, tensors, dtype)
            elif packed.dtype == "int32":
                array = self._packed(module, packed, tensors, dtype)
            else:
                array = self._float4(module, packed, tensors, dtype)
            yield Logical(f"{module}.weight", parts, array)

    def _packed(self, module: str, packed: Array, tensors: Tensors, dtype: str) -> Deferred:
        scale = tensors.need(f"{module}.weight_scale", FLOATS, (1, 2))
        shape = tensors.need(f"{module}.weight_shape", ("int64", "int32"), 1)
        zeros = tensors.maybe(f"{module}.weight_zero_point", ("int32",), 2)
        order = tensors.maybe(f"{module}.weight_g_idx", ("int32", "int64"), 1)
        fits(f"{module}.weight_shape", shape, (2,))
        outputs, inputs = (int(size) for size in shape.data)
        words = packed.shape[1]
        streams = [bits for bits in self.bits if stream_words(bits, inputs) == words]
        gapped = [bits for bits in self.bits if -(-inputs // (32 // bits)) == words and bits not in streams]
        if packed.shape[0] != outputs or len(streams) + len(gapped) != 1:
            raise WeightsError(
                f"{module}.weight_packed does not fit its weight_shape",
                expected=f"{outputs} rows of {inputs} codes of {' or '.join(map(str, sorted(self.bits)))} bits",
                received=f"{list(packed.shape)} words",
            )
        bits, unpack = (streams or gapped)[0], from_stream if streams else from_words
        half = 2 ** (bits - 1)
        groups = _groups(module, scale, outputs, inputs)
        if order is not None:
            fits(f"{module}.weight_g_idx", order, (inputs,))
        if zeros is not None:
            fits(
                f"{module}.weight_zero_point", zeros,
                (stream_words(bits, outputs), groups), (-(-outputs // (32 // bits)), groups),
            )  # fmt: skip

        def affine() -> Affine:
            zero = np.full((1, 1), half, np.float32)
            if zeros is not None:  # both codes and zeros are written with 2^(bits−1) added
                down = from_stream if zeros.shape[0] == stream_words(bits, outputs) else from_words
                zero = down(zeros.data.T, bits, outputs).T.astype(np.float32)
            return Affine(
                (outputs, inputs),
                lambda rows: unpack(packed.data[rows], bits, inputs),
                0,
                2 * half - 1,
                _by_rows(scale, outputs),
                np.broadcast_to(zero, (outputs, groups)),
                group_of=None if order is None else out_of_order(order, groups, inputs),
            )

        sources = tuple(array for array in (packed, scale, zeros, order) if array is not None)
        how = f"{bits}-bit packed"
        return deferred_affine(f"{module}.weight", (outputs, inputs), sources, how, affine, dtype)

    def _plain(self, module: str, tensors: Tensors, dtype: str) -> Deferred:
        weight = tensors.need(f"{module}.weight", ("int8", *FLOAT8), (2, 3))
        scale = tensors.need(f"{module}.weight_scale", (*FLOATS, "uint8", "float8_e8m0fnu"), (0, 1, 2, 3))
        zeros = tensors.maybe(f"{module}.weight_zero_point", ("int8", *FLOATS, *FLOAT8), (0, 1, 2, 3))
        order = tensors.maybe(f"{module}.weight_g_idx", ("int32", "int64"), 1)
        if weight.dtype == "int8" and len(weight.shape) == 2 and not self.blocks:
            outputs, inputs = weight.shape
            groups = _groups(module, scale, outputs, inputs)

            def affine() -> Affine:
                return Affine(
                    (outputs, inputs),
                    lambda rows: weight.data[rows],
                    -128,
                    127,
                    _by_rows(scale, outputs),
                    None if zeros is None else _by_rows(zeros, outputs),
                    group_of=None if order is None else out_of_order(order, groups, inputs),
                )

            sources = tuple(array for array in (weight, scale, zeros, order) if array is not None)
            return deferred_affine(f"{module}.weight", weight.shape, sources, "8-bit integers", affine, dtype)
        if order is not None or (zeros is not None and np.any(dequantize(zeros))):
            raise UnsupportedError(f"{module}: zero points or an order of floats in 8 bits", remedy=REMEDY)
        if len(self.blocks) > 1:
            raise UnsupportedError(f"{module}: rectangles of several sizes in one model", remedy=REMEDY)
        return scaled_array(f"{module}.weight", weight, scale, next(iter(self.blocks), None), dtype)

    def _float4(self, module: str, packed: Array, tensors: Tensors, dtype: str) -> Deferred:
        whole = tensors.maybe(f"{module}.weight_global_scale", ("float32",), (0, 1))
        kinds = ("uint8", "float8_e8m0fnu") if whole is None else ("float8_e4m3fn",)
        scale = tensors.need(f"{module}.weight_scale", kinds, 2)
        if whole is None:
            return mxfp4_rows(f"{module}.weight", packed, scale)
        return nvfp4_rows(f"{module}.weight", packed, scale, whole, np.divide, dtype)


def _groups(module: str, scale: Array, outputs: int, inputs: int) -> int:
    """Groups of a row: scale is (N, G), (N,), or one number."""
    if scale.shape in ((outputs,), (outputs, 1), (), (1,), (1, 1)):
        return 1
    if len(scale.shape) != 2 or scale.shape[0] != outputs or not scale.shape[1] or inputs % scale.shape[1]:
        raise WeightsError(
            f"{module}.weight_scale does not fit its weight",
            expected=f"{outputs} rows of groups of {inputs} columns",
            received=list(scale.shape),
        )
    return scale.shape[1]


def _by_rows(array: Array, outputs: int) -> np.ndarray:
    """(N, G) float32."""
    values = dequantize(array)
    return np.broadcast_to(
        values.reshape(len(values) if values.ndim else 1, -1), (outputs, values.size // outputs or 1)
    )


def scaled_array(
    name: str, weight: Array, scale: Array, block: tuple[int, ...] | None, dtype: str, *more: Array
) -> Deferred:
    """A weight of small floats with its scales; bytes that are powers of two (E8M0) among those."""
    try:
        sides = rectangles(weight.shape, scale.shape, block)
    except WeightsError as error:
        error.args = (f"{name}: {error}",)
        raise

    def make() -> Array:
        powers = Array("float8_e8m0fnu", scale.shape, scale.data) if scale.dtype == "uint8" else scale
        return scaled(weight, dequantize(powers), sides, dtype)

    how = {"float8_e4m3fn": "FP8 (E4M3)", "float8_e5m2": "FP8 (E5M2)"}.get(weight.dtype, weight.dtype)
    return Deferred(weight.shape, (weight, scale, *more), how, lambda: (dtype, make), by_outputs=False)
