"""bitsandbytes: four bits by a table (NF4, FP4), or eight with a scale a row (LLM.int8).

    weight (N·K/2, 1) uint8      codes, the first in the byte's high half
    weight.quant_map (16,)       what a code stands for
    weight.absmax (blocks,)      its scale, for each ``blocksize`` weights in a row; or a byte each, and then
    weight.nested_absmax, weight.nested_quant_map          absmax = map[byte] · nested_absmax[block] + nested_offset
    weight.quant_state.bitsandbytes__nf4                   JSON: shape, blocksize, dtype, nested_…

    weight (N, K) int8, SCB (N,): w = weight · SCB / 127

Source: bitsandbytes, functional.py (QuantState.from_dict, dequantize_4bit, int8_vectorwise_dequant).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from pellucid.base.array import STORAGE, Array
from pellucid.base.errors import WeightsError
from pellucid.base.files import parse_json
from pellucid.base.typed import is_real, is_whole, shown
from pellucid.checkpoint.quantized.deferred import Deferred
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import Settings, Tensors, fits
from pellucid.quant import CHUNK, convert, dequantize
from pellucid.quant.bfloat16 import to_bfloat16
from pellucid.quant.lookup import look_up
from pellucid.quant.scaled import rectangles, scaled

STATES = ("nf4", "fp4")


def read(settings: Settings) -> Method:
    four = bool(settings.get("load_in_4bit", "_load_in_4bit"))
    settings.rest(
        *("load_in_8bit", "_load_in_8bit", "llm_int8_threshold", "llm_int8_skip_modules", "bnb_4bit_quant_type"),
        *("bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "llm_int8_has_fp16_weight"),
        "llm_int8_enable_fp32_cpu_offload",
    )
    return BitsAndBytes("bitsandbytes 4-bit" if four else "bitsandbytes 8-bit")


class BitsAndBytes(Method):
    leaves = ("SCB", "weight_format", "absmax", "quant_map", "nested_absmax", "nested_quant_map",
              *(f"bitsandbytes__{kind}" for kind in STATES))  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for kind in STATES:
            for name in tensors.ending(f".quant_state.bitsandbytes__{kind}"):
                state = f"{name}.quant_state.bitsandbytes__{kind}"
                leaves = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
                parts = (name, state, *(f"{name}.{leaf}" for leaf in leaves))
                yield Logical(name, parts, _four_bits(name, kind, state, tensors, dtype))
        for module in tensors.ending(".SCB"):
            name = f"{module}.weight"
            weight, scale = tensors.need(name, ("int8",), 2), tensors.need(f"{module}.SCB", ("float32",), 1)
            layout = tensors.maybe(f"{module}.weight_format", ("uint8",), (0, 1))
            fits(f"{module}.SCB", scale, weight.shape[:1])
            if layout is not None and np.any(layout.data):
                raise WeightsError(
                    f"{module}: its bytes are laid out for a GPU", expected="weight_format 0, row by row"
                )
            parts = (name, f"{module}.SCB", f"{module}.weight_format")
            yield Logical(name, parts, _eight_bits(weight, scale, dtype))


def _eight_bits(weight: Array, scale: Array, dtype: str) -> Deferred:
    def make() -> Array:
        whole = scaled(weight, dequantize(scale), rectangles(weight.shape, scale.shape, None), "float32")
        whole.data[...] *= np.float32(1 / 127)
        return convert(whole, dtype)

    return Deferred(weight.shape, (weight, scale), "bitsandbytes 8-bit", lambda: (dtype, make), by_outputs=False)


def _four_bits(name: str, kind: str, state: str, tensors: Tensors, dtype: str) -> Deferred:
    facts = _state(state, tensors)
    shape, size = facts["shape"], facts["blocksize"]
    total = prod(shape)
    weight = tensors.need(name, ("uint8", "bfloat16", "float16", "float32"), (1, 2))  # bytes, whatever they are called
    table = tensors.need(f"{name}.quant_map", ("float32",), 1)
    nested = tensors.maybe(f"{name}.nested_absmax", ("float32",), 1)
    absmax = tensors.need(f"{name}.absmax", ("float32",) if nested is None else ("uint8",), 1)
    fits(f"{name}.quant_map", table, (16,))
    if weight.nbytes != -(-total // 2):
        raise WeightsError(f"{name} does not fit its shape", expected=f"{-(-total // 2)} bytes", received=weight.nbytes)
    fits(f"{name}.absmax", absmax, (-(-total // size),))
    sources = [weight, table, absmax]
    finer = None
    if nested is not None:
        finer = tensors.need(f"{name}.nested_quant_map", ("float32",), 1)
        fits(f"{name}.nested_quant_map", finer, (256,))
        fits(f"{name}.nested_absmax", nested, (-(-absmax.shape[0] // facts["nested_blocksize"]),))
        sources += [nested, finer]

    def make() -> Array:
        by = absmax.data
        if nested is not None and finer is not None:
            wide = nested.data.repeat(facts["nested_blocksize"])[: absmax.shape[0]]
            with np.errstate(over="ignore", invalid="ignore"):
                by = look_up(finer.data, absmax.data) * wide + np.float32(facts["nested_offset"])
        byte = np.arange(256)
        pairs = table.data[np.stack((byte >> 4, byte & 0x0F), axis=-1)]  # what a byte stands for
        out = np.empty(total, STORAGE[dtype])
        packed = weight.data.reshape(-1).view(np.uint8)
        step = CHUNK // (2 * size) * (2 * size) or 2 * size
        for start in range(0, total, step):
            stop = min(start + step, total)
            codes = packed[start // 2 : -(-stop // 2)]
            values = look_up(pairs, codes).reshape(-1)[: stop - start]
            with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale may be NaN: the values then say so
                values *= by[start // size : -(-stop // size)].repeat(size)[: stop - start]
                out[start:stop] = to_bfloat16(values) if dtype == "bfloat16" else values
        return Array(dtype, shape, out.reshape(shape))

    return Deferred(shape, tuple(sources), f"bitsandbytes {kind.upper()}", lambda: (dtype, make), by_outputs=False)


def _state(name: str, tensors: Tensors) -> dict[str, Any]:
    """The facts in the JSON text of a tensor of bytes."""
    text = tensors.need(name, ("uint8",), 1)
    facts = parse_json(text.data[:10_000].tobytes(), name)
    if not isinstance(facts, dict):
        raise WeightsError(f"{name} is not an object of JSON")
    facts = {"nested_offset": 0.0, "nested_blocksize": 256, **facts}
    shape, sizes = facts.get("shape"), (facts.get("blocksize"), facts["nested_blocksize"])
    plain = isinstance(shape, list) and len(shape) == 2 and all(is_whole(size) and 0 < size < 2**31 for size in shape)
    whole = all(isinstance(size, int) and is_whole(size) and 2 <= size <= 2**20 and size % 2 == 0 for size in sizes)
    if not plain or not whole or not is_real(facts["nested_offset"]):
        raise WeightsError(f"{name} does not say shape and blocks", received=shown(facts))
    return facts | {"shape": tuple(facts["shape"])}
