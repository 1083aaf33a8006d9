"""MLX (Apple): weight (N, K·bits/32) uint32, scales and biases (N, G): w = scale · q + bias.

Codes lie as a stream of bits, the first lowest. transformers calls the same layout ``metal``.
Source: mlx, docs/src/python/ops (quantize); transformers integrations/metal_quantization.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.base.typed import is_whole, shown
from pellucid.checkpoint.quantized.deferred import Deferred, deferred_affine
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors, fits
from pellucid.quant import dequantize
from pellucid.quant.affine import Affine
from pellucid.quant.integers import from_stream

BITS = (2, 3, 4, 5, 6, 8)
FLOATS = ("float16", "bfloat16", "float32")


def read(settings: Settings) -> Method:
    """Settings of single modules stand under their names, beside those of all."""
    settings.only("mode", "affine")
    kinds = [(settings.get("bits", default=4), settings.get("group_size", default=64))]
    of_modules = {name: own for name, own in settings.values.items() if "." in name}
    for name, own in of_modules.items():
        if isinstance(own, dict):
            if unknown := [key for key in own if key not in ("bits", "group_size", "mode")]:
                raise UnsupportedError(f"{shown(unknown[0])} of {shown(name)}", where=settings.where, remedy=REMEDY)
            if own.get("mode", "affine") != "affine":
                raise UnsupportedError(f"MLX's mode {shown(own['mode'])}", where=settings.where, remedy=REMEDY)
            kinds.append((own.get("bits", 4), own.get("group_size", 64)))
    for bits, size in kinds:
        if not is_whole(bits) or bits not in BITS or not is_whole(size) or size < 1:
            raise UnsupportedError(
                f"MLX of {shown(bits)} bits by {shown(size)}",
                where=settings.where,
                expected=", ".join(map(str, BITS)) + " bits",
                remedy=REMEDY,
            )
    settings.rest(*of_modules)
    return Mlx(f"MLX {kinds[0][0]}-bit", set(kinds))


class Mlx(Method):
    leaves = ("scales", "biases")
    attention_only = True  # of recurrent mixers MLX keeps norms and convolutions otherwise

    def __init__(self, name: str, kinds: set[tuple[Any, Any]]) -> None:
        self.name, self.kinds = name, kinds

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for module in tensors.ending(".scales"):
            name = f"{module}.weight"
            weight = tensors.need(name, ("uint32",), (2, 3))
            scales = tensors.need(f"{module}.scales", FLOATS, (2, 3))
            biases = tensors.need(f"{module}.biases", FLOATS, (2, 3))
            if not len(weight.shape) == len(scales.shape) == len(biases.shape) == 2:
                raise UnsupportedError(f"{name} is a stack of experts in MLX's bits", remedy=REMEDY)
            yield Logical(
                name, (name, f"{module}.scales", f"{module}.biases"), self._one(name, weight, scales, biases, dtype)
            )

    def _one(self, name: str, weight: Array, scales: Array, biases: Array, dtype: str) -> Deferred:
        outputs, groups = scales.shape
        fits(f"{name}'s biases", biases, scales.shape)
        fitting = sorted({bits for bits, size in self.kinds if weight.shape == (outputs, groups * size * bits // 32)})
        sizes = {size for bits, size in self.kinds if bits in fitting}
        if len(fitting) != 1 or len(sizes) != 1:
            raise WeightsError(
                f"{name} does not fit its scales",
                expected=" or ".join(f"{bits} bits by {size}" for bits, size in sorted(self.kinds)),
                received=f"{list(weight.shape)} words, {list(scales.shape)} scales",
            )
        bits, inputs = fitting[0], groups * sizes.pop()

        def affine() -> Affine:
            return Affine(
                (outputs, inputs),
                lambda rows: from_stream(weight.data[rows], bits, inputs),
                0,
                2**bits - 1,
                dequantize(scales),
                offset=dequantize(biases),
            )

        return deferred_affine(name, (outputs, inputs), (weight, scales, biases), f"MLX {bits}-bit", affine, dtype)
