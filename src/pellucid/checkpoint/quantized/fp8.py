"""Floats of 8 bits with scales: DeepSeek's and transformers' ``fp8``, Llama's ``fbgemm_fp8``, NVIDIA's ModelOpt.

    NAME  (…, N, K) float8     NAME_scale_inv or NAME_scale: one number, one a row, or one for each rectangle
    w = value · scale          (the name says inverse, the number is the scale itself)

ModelOpt's NVFP4: weight (N, K/2) uint8, weight_scale (N, K/16) float8, weight_scale_2 one number: w = f[q] · s · s₂.

Source: DeepSeek-V3, inference/kernel.py (weight_dequant); transformers integrations/finegrained_fp8.py
(Fp8Dequantize), fbgemm_fp8.py; TensorRT-Model-Optimizer, modelopt/torch/export/quant_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pellucid.base.errors import ConfigError, UnsupportedError
from pellucid.base.typed import is_whole, shown
from pellucid.checkpoint.quantized.compressed import FLOAT8, FLOATS, scaled_array
from pellucid.checkpoint.quantized.float4 import nvfp4_rows
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors

BLOCK = (128, 128)


def read(settings: Settings) -> Method:
    block = settings.get("weight_block_size", default=None)
    if block is not None and not (isinstance(block, (list, tuple)) and len(block) == 2 and all(map(is_whole, block))):
        raise ConfigError("weight_block_size must be two sizes", where=settings.where, received=shown(block))
    settings.only("fmt", "e4m3", "float8_e4m3fn", "e5m2")
    settings.only("expert_dtype", "fp8")
    settings.rest("activation_scheme", "modules_to_convert", "scale_fmt", "kv_cache_scheme", "kv_cache_quant_method")
    return Fp8("FP8", tuple(block) if block else None)


def read_fbgemm(settings: Settings) -> Method:
    settings.rest("activation_scale_ub")
    return Fp8("FP8, a scale a row", None)


def read_modelopt(settings: Settings) -> Method:
    inner = settings.part("quantization")
    algorithm = settings.get("quant_algo", default=inner.get("quant_algo"))
    if algorithm not in ("FP8", "NVFP4", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO"):
        raise UnsupportedError(
            f"ModelOpt's {shown(algorithm)}", where=settings.where, expected="FP8 or NVFP4", remedy=REMEDY
        )
    settings.rest("config_groups", "ignore", "kv_cache_scheme", "kv_cache_quant_algo", "exclude_modules", "group_size",
                  "has_zero_point", "pre_quant_scale")  # fmt: skip
    return Fp8(f"ModelOpt {algorithm}", BLOCK if algorithm == "FP8_PB_WO" else None)


class Fp8(Method):
    leaves = ("weight_scale_inv", "weight_scale", "weight_scale_2")
    beside = ("input_scale", "input_scale_ub", "activation_scale", "k_scale", "v_scale", "output_scale", "kv_scale")

    def __init__(self, name: str, block: tuple[int, ...] | None) -> None:
        self.name, self.block = name, block

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for suffix in ("_scale_inv", "_scale"):
            for name in tensors.ending(suffix):
                if name not in tensors:  # a scale of activations, or something of the model's own
                    continue
                second = tensors.maybe(f"{name}_scale_2", ("float32",), (0, 1))
                scale_kinds = (*FLOATS, "uint8", "float8_e8m0fnu")
                parts = (name, name + suffix, f"{name}_scale_2")
                if second is not None:
                    packed = tensors.need(name, ("uint8",), 2)
                    scale = tensors.need(name + suffix, ("float8_e4m3fn",), 2)
                    yield Logical(name, parts, nvfp4_rows(name, packed, scale, second, np.multiply, dtype))
                    continue
                weight = tensors.need(name, FLOAT8, (2, 3))
                scale = tensors.need(name + suffix, scale_kinds, (0, 1, 2, 3))
                yield Logical(name, parts, scaled_array(name, weight, scale, self.block, dtype))
