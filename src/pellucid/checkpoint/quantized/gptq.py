"""GPTQ, and what AutoRound writes in its layout.

    qweight  (K·bits/32, N) int32   codes of an output's inputs, a stream of bits down a column
    qzeros   (G, N·bits/32) int32   the group's zero − 1 (version 2: the zero), a stream along a row
    scales   (G, N) float16
    g_idx    (K,) int32             the group of each input: out of order where activations ordered them

    w[n, k] = scales[g, n] · (q[k, n] − zero[g, n]),   g = g_idx[k]

Source: AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py; GPTQModel, gptqmodel/utils/model.py
(convert_gptq_v1_to_v2_format).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pellucid.base.array import Array
from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.base.typed import is_whole, shown
from pellucid.checkpoint.quantized.deferred import deferred_affine
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors
from pellucid.quant import dequantize
from pellucid.quant.affine import Affine
from pellucid.quant.integers import from_stream, stream_words

BITS = (2, 3, 4, 8)
LEAVES = ("qweight", "qzeros", "scales", "g_idx")

HARMLESS = (
    *("damp_percent", "damp_auto_increment", "desc_act", "static_groups", "sym", "true_sequential", "dataset"),
    *("batch_size", "tokenizer", "pad_token_id", "use_cuda_fp16", "use_exllama", "disable_exllama", "exllama_config"),
    *("max_input_length", "cache_block_outputs", "model_seqlen", "block_name_to_quantize", "lm_head", "quantizer"),
    *("module_name_preceding_first_block", "modules_in_block_to_quantize", "backend", "is_marlin_format", "mse"),
    *("act_group_aware", "group_size", "dynamic", "lm_head_quantized", "autoround_version", "iters", "lr", "minmax_lr"),
    *("nsamples", "seqlen", "low_gpu_mem_usage", "enable_minmax_tuning", "enable_quanted_input"),
    *("gradient_accumulate_steps", "scale_dtype", "act_bits", "act_group_size", "act_dynamic", "act_sym", "super_bits"),
    *("super_group_size", "train_bs", "enable_norm_bias_tuning", "to_quant_block_names", "hyb", "offload_to_disk"),
    *("act_data_type", "amp", "not_use_best_mse", "dynamic_max_gap", "supported_types", "enable_torch_compile"),
)


def read(settings: Settings) -> Method:
    """Raises: UnsupportedError for a packing that is not GPTQ's own."""
    bits = settings.get("bits")
    format = settings.text("checkpoint_format", "format", default="gptq")
    if format not in ("gptq", "gptq_v2"):
        raise UnsupportedError(
            f"GPTQ weights packed for {format!r}", where=settings.where, expected="gptq or gptq_v2", remedy=REMEDY
        )
    settings.only("pack_dtype", "int32")
    settings.only("method", "gptq", "auto-round")
    settings.only("quant_type", "int")
    if settings.get("is_marlin_format"):
        raise UnsupportedError("GPTQ weights packed for Marlin", where=settings.where, remedy=REMEDY)
    settings.only("data_type", "int")
    of_modules = [*settings.part("dynamic").values(), *settings.part("extra_config").values()]
    others = [own.get("bits", bits) for own in of_modules if isinstance(own, dict)]
    stated = [bits, *(other for other in others if other != 16)]  # 16: as they were
    if unknown := [one for one in stated if not is_whole(one) or one not in BITS]:
        raise UnsupportedError(
            f"GPTQ of {shown(unknown[0])} bits", where=settings.where, expected=", ".join(map(str, BITS)), remedy=REMEDY
        )
    settings.rest(*HARMLESS)
    return Gptq(f"GPTQ {bits}-bit", set(stated), adds_one=format == "gptq")


class Gptq(Method):
    leaves = LEAVES

    def __init__(self, name: str, stated: set[Any], adds_one: bool) -> None:
        self.name, self.stated, self.adds_one = name, stated, adds_one

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for module in tensors.ending(".qweight"):
            weight = tensors.need(f"{module}.qweight", ("int32",), 2)
            zeros = tensors.need(f"{module}.qzeros", ("int32",), 2)
            scales = tensors.need(f"{module}.scales", ("float16", "bfloat16", "float32"), 2)
            order = tensors.maybe(f"{module}.g_idx", ("int32", "int64"), 1)
            yield self.one(module, weight, zeros, scales, order, dtype)

    def one(self, module: str, weight: Array, zeros: Array, scales: Array, order: Array | None, dtype: str) -> Logical:
        name, (groups, outputs) = f"{module}.weight", scales.shape
        fitting = [
            bits
            for bits in sorted(self.stated)
            if (order is None or stream_words(bits, order.shape[0]) == weight.shape[0])
            and zeros.shape == (groups, stream_words(bits, outputs))
            and weight.shape[0] % bits == 0
        ]
        if len(fitting) != 1 or weight.shape[1] != outputs or not groups:
            raise WeightsError(
                f"the parts of {module} do not fit each other",
                expected=f"codes of {' or '.join(map(str, sorted(self.stated)))} bits",
                received=f"qweight {list(weight.shape)}, qzeros {list(zeros.shape)}, scales {list(scales.shape)}",
                remedy="check bits in quantization_config",
            )
        bits = fitting[0]
        inputs = weight.shape[0] * 32 // bits if order is None else order.shape[0]

        def affine() -> Affine:
            zero = from_stream(zeros.data, bits, outputs).astype(np.int16)
            if self.adds_one:
                zero = zero + 1 & 2**bits - 1  # a zero of 0 was written as −1, all ones
            return Affine(
                (outputs, inputs),
                lambda rows: from_stream(weight.data[:, rows].T, bits, inputs),
                0,
                2**bits - 1,
                np.ascontiguousarray(dequantize(scales).T),
                np.ascontiguousarray(zero.T).astype(np.float32),
                group_of=out_of_order(order, groups, inputs),
            )

        sources = tuple(array for array in (weight, zeros, scales, order) if array is not None)
        how = f"GPTQ {bits}-bit"
        return Logical(
            name,
            tuple(f"{module}.{leaf}" for leaf in LEAVES),
            deferred_affine(name, (outputs, inputs), sources, how, affine, dtype),
        )


def out_of_order(order: Array | None, groups: int, inputs: int) -> np.ndarray | None:
    """The group of each input; None where groups are equally long and in order. Raises: WeightsError for no group."""
    size = -(-inputs // groups)
    plain = np.arange(inputs) // size
    group_of = plain if order is None else order.data.astype(np.int64)
    if group_of.size and not (group_of.min() >= 0 and group_of.max() < groups):
        raise WeightsError(
            "g_idx names a group that is not there", expected=f"0 to {groups - 1}", received=int(group_of.max())
        )
    return None if inputs % groups == 0 and (group_of == plain).all() else group_of
