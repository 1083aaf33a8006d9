"""AWQ as AutoAWQ's ``gemm`` version stores it.

    qweight  (K, N/8) int32   eight outputs' codes of 4 bits in a word, in the order 0, 2, 4, 6, 1, 3, 5, 7
    qzeros   (G, N/8) int32   likewise
    scales   (G, N) float16

    w[n, k] = scales[g, n] · (q[k, n] − zero[g, n]),   g = k // group_size

Source: AutoAWQ, awq/modules/linear/gemm.py (WQLinear_GEMM.from_linear), awq/utils/packing_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pellucid.base.errors import UnsupportedError
from pellucid.checkpoint.quantized.deferred import deferred_affine
from pellucid.checkpoint.quantized.gptq import HARMLESS
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import REMEDY, Settings, Tensors, fits
from pellucid.quant import dequantize
from pellucid.quant.affine import Affine

# Output j of eight lies in the word's four bits number PLACES[j].
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


def read(settings: Settings) -> Method:
    version = settings.text("version", "format", default="gemm")
    if version not in ("gemm", "exllama", "ipex"):  # the latter two are ways to run what gemm stores
        raise UnsupportedError(
            f"AWQ weights packed for {version!r}", where=settings.where, expected="gemm", remedy=REMEDY
        )
    settings.only("backend", "autoawq", *("auto", "auto_trainable", "gemm", "gemm_triton", "torch_awq", "marlin"))
    settings.only("bits", 4)
    settings.only("w_bit", 4)
    settings.only("zero_point", True)
    settings.rest(
        *HARMLESS, "q_group_size", "fuse_max_seq_len", "modules_to_fuse", "do_fuse", "checkpoint_format", "format"
    )
    return Awq()


class Awq(Method):
    name, leaves = "AWQ 4-bit", ("qweight", "qzeros", "scales")

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for module in tensors.ending(".qweight"):
            weight = tensors.need(f"{module}.qweight", ("int32",), 2)
            zeros = tensors.need(f"{module}.qzeros", ("int32",), 2)
            scales = tensors.need(f"{module}.scales", ("float16", "bfloat16", "float32"), 2)
            (inputs, words), (groups, outputs) = weight.shape, scales.shape
            fits(f"{module}.scales", scales, (groups, 8 * words))
            fits(f"{module}.qzeros", zeros, (groups, words))
            if not groups or inputs % groups:
                fits(f"{module}.scales", scales, (inputs, outputs))

            def affine(weight=weight, zeros=zeros, scales=scales) -> Affine:
                return Affine(
                    (scales.shape[1], weight.shape[0]),
                    lambda rows: _outputs(weight.data[:, rows.start // 8 : -(-rows.stop // 8)]),
                    0,
                    15,
                    np.ascontiguousarray(dequantize(scales).T),
                    _outputs(zeros.data).astype(np.float32),
                    rows_together=8,
                )

            name = f"{module}.weight"
            array = deferred_affine(name, (outputs, inputs), (weight, zeros, scales), self.name, affine, dtype)
            yield Logical(name, tuple(f"{module}.{leaf}" for leaf in self.leaves), array)


def _outputs(words: np.ndarray) -> np.ndarray:
    """Words (K, W) → codes of outputs (8W, K) uint8."""
    shifts = np.array(PLACES, np.uint32)[:, None] * np.uint32(4)
    codes = np.ascontiguousarray(words.T).view(np.uint32)[:, None, :] >> shifts & np.uint32(15)  # (W, 8, K)
    return codes.reshape(-1, words.shape[0]).astype(np.uint8)
