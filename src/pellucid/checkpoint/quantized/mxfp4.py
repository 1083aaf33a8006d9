"""gpt-oss's experts: NAME_blocks (E, N, K/32, 16) and NAME_scales (E, N, K/32), bytes; see ``float4``.

A folder that is not quantized holds NAME as (E, K, N); what is made here has its outputs as rows, in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from pellucid.checkpoint.quantized.float4 import mxfp4_rows
from pellucid.checkpoint.quantized.method import Logical, Method
from pellucid.checkpoint.quantized.settings import Settings, Tensors


def read(settings: Settings) -> Method:
    settings.rest()
    return Mxfp4()


class Mxfp4(Method):
    name = "MXFP4"
    leaves = ("gate_up_proj_blocks", "gate_up_proj_scales", "down_proj_blocks", "down_proj_scales")

    def logical(self, tensors: Tensors, dtype: str) -> Iterator[Logical]:
        for name in tensors.ending("_blocks"):
            blocks = tensors.need(f"{name}_blocks", ("uint8",), (3, 4))
            scales = tensors.need(f"{name}_scales", ("uint8", "float8_e8m0fnu"), (2, 3))
            yield Logical(name, (f"{name}_blocks", f"{name}_scales"), mxfp4_rows(name, blocks, scales))
