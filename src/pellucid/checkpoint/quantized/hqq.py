"""HQQ as transformers saves it: what a layer knows lies beside W_q as small tensors, texts as their characters.

    W_q     codes of W reshaped to (N·K/g, g) (axis 1) or (g, N·K/g) (axis 0), packed along the first axis:
            the first part of the rows in a byte's highest bits, the last in its lowest; 3 bits: ten in 32 bits
    scale, zero, nbits, axis, group_size, shape, packing, …

    w = (q − zero) · scale

Source: hqq, hqq/core/quantize.py (Quantizer.dequantize, HQQLinear.state_dict), hqq/core/bitpack.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.base.typed import shown
from pellucid.checkpoint.quantized.deferred import Deferred
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors, fits
from pellucid.quant import convert, dequantize

FLOATS = ("float16", "bfloat16", "float32")
PACKINGS = {"8bit_u8": (8, 1), "4bit_u8": (4, 2), "2bit_u8": (2, 4), "1bit_u8": (1, 8), "3bit_32": (3, 10)}
FACTS = (
    *("nbits", "group_size", "shape", "axis", "packing", "unpack_view_dtype", "view_as_float", "quant_scale"),
    *("quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config", "channel_wise"),
    *("optimize", "round_zero"),
)


def read(settings: Settings) -> Method:
    settings.rest("quant_config", "skip_modules", "weight_quant_params", "scale_quant_params", "zero_quant_params")
    return Hqq()


class Hqq(Method):
    name = "HQQ"
    leaves = ("W_q", *(fact for fact in FACTS if "_" in fact))

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for module in tensors.ending(".W_q"):
            name = f"{module}.weight"
            parts = tuple(f"{module}.{leaf}" for leaf in ("W_q", "scale", "zero", *FACTS))
            yield Logical(name, parts, _one(name, module, tensors, dtype))


def _one(name: str, module: str, tensors: Tensors, dtype: str) -> Deferred:
    packed = tensors.need(f"{module}.W_q", ("uint8", "int32"), 2)
    scale, zero = (tensors.need(f"{module}.{leaf}", FLOATS, 2) for leaf in ("scale", "zero"))
    shape = tuple(map(int, tensors.need(f"{module}.shape", ("int64", "int32"), 1).data))
    size, axis = (_number(module, leaf, tensors) for leaf in ("group_size", "axis"))
    letters = tensors.need(f"{module}.packing", ("uint8",), 1).data[:20]
    packing = letters.tobytes().decode("latin-1")
    for switch in ("view_as_float", "quant_scale", "quant_zero"):
        if f"{module}.{switch}" in tensors and _number(module, switch, tensors):
            raise UnsupportedError(f"{module}: HQQ with {switch}", remedy=REMEDY)
    if packing not in PACKINGS or axis not in (0, 1) or len(shape) != 2 or min(shape) < 1 or size < 1:
        raise UnsupportedError(
            f"{module}: HQQ of {shown(packing)} along axis {axis}, {size} of {list(shape)}",
            expected=", ".join(PACKINGS),
            remedy=REMEDY,
        )
    total, (bits, each) = shape[0] * shape[1], PACKINGS[packing]
    if total % size:
        raise WeightsError(f"{module}: groups of {size} do not divide {list(shape)}")
    rows, columns = (total // size, size) if axis == 1 else (size, total // size)
    fits(f"{module}.W_q", packed, (-(-rows // each), columns))
    by = (rows, 1) if axis == 1 else (1, columns)
    fits(f"{module}.scale", scale, by)
    fits(f"{module}.zero", zero, by)

    def make() -> Array:
        values = np.empty((len(packed.data) * each, columns), np.float32)
        step = len(packed.data)
        for part in range(each):
            values[part * step : (part + 1) * step] = packed.data >> bits * (each - 1 - part) & (2**bits - 1)
        values = values[:rows]
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale may be NaN: the values then say so
            values -= dequantize(zero)
            values *= dequantize(scale)
        return convert(Array.from_numpy(values.reshape(shape)), dtype)

    return Deferred(shape, (packed, scale, zero), f"HQQ {bits}-bit", lambda: (dtype, make))


def _number(module: str, leaf: str, tensors: Tensors) -> int:
    array = tensors.need(f"{module}.{leaf}", ("int32", "int64", "uint8", "bool"), (0, 1))
    fits(f"{module}.{leaf}", array, (), (1,))
    return int(array.data.reshape(()))
