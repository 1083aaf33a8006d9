"""Tiny quantized folders, one of each layout: the settings, the header and the bytes are damaged in turn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from quantized_folders import HF, WRITTEN, Parts, tensors, torchao_metadata
from safetensors.torch import save

from fuzz.mutations import Folder, Json
from fuzz.seeds_models import SafetensorsHeader

NAMES = (
    *("gptq 4, ordered", "gptq 3", "awq", "ct 4, zeros", "ct int8", "ct fp8, blocks", "ct nvfp4", "ct mxfp4", "fp8"),
    *("modelopt nvfp4", "bnb nf4, nested", "bnb int8", "hqq 3", "torchao IntxUnpackedToInt8Tensor", "mlx 4"),
)
KEYS: dict[str, Any] = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 32,
    "checkpoint_format": "gptq_v2",
    "dynamic": {"+:.*": {"bits": 8}},
    "version": "gemm",
    "zero_point": True,
    "format": "pack-quantized",
    "config_groups": {"g": {"weights": {"num_bits": 4, "block_structure": [8, 8]}}},
    "ignore": ["lm_head"],
    "modules_to_not_convert": ["lm_head"],
    "weight_block_size": [128, 128],
    "mode": "affine",
    "model.layers.0.mlp.up_proj": {"bits": 8, "group_size": 32},
    "packing_format": "auto_round:auto_awq",
    "quant_algo": "NVFP4",
    "transform_config": {},
}


class Settings:
    """A config.json of which the settings alone are damaged."""

    def __init__(self, key: str, settings: dict[str, Any]) -> None:
        self.key, self.settings, self.json = key, settings, Json(settings, KEYS)

    def whole(self) -> bytes:
        return json.dumps(HF | {self.key: self.settings}).encode()

    def damaged(self, rng: Any) -> bytes:
        text = json.dumps(HF).encode()
        return text[:-1] + b', "' + self.key.encode() + b'": ' + self.json.damaged(rng) + b"}"


class Parted:
    """A file of which one tensor is exchanged for another of its kind: other sizes, other numbers."""

    def __init__(self, parts: Parts, metadata: dict[str, str] | None) -> None:
        self.parts, self.metadata = parts, metadata

    def whole(self) -> bytes:
        return save(self.parts, self.metadata)

    def damaged(self, rng: Any) -> bytes:
        name = rng.choice([name for name in self.parts if "layers.0.mlp.up_proj" in name])
        old = self.parts[name]
        kind = rng.randrange(5)
        if kind == 0:
            new = old.reshape(-1)[: rng.randrange(max(old.numel(), 1))]
        elif kind == 1:
            new = old.reshape(-1, 1) if old.numel() else old
        elif kind == 2:
            new = torch.zeros([rng.randrange(4) for _ in range(rng.randrange(4))], dtype=old.dtype)
        elif kind == 3:
            new = old.flatten().view(torch.uint8) if old.numel() else old
        else:
            noise = np.frombuffer(rng.randbytes(old.numel() * old.element_size()), np.uint8).copy()
            new = torch.from_numpy(noise).view(old.dtype).reshape(old.shape) if old.numel() else old
        return save({**self.parts, name: new.contiguous()}, self.metadata)


def quantized_seeds() -> list[Folder]:
    """Settings, and headers."""
    return [
        {
            "config.json": Settings(WRITTEN[name].key, dict(WRITTEN[name].config)),
            "model.safetensors": SafetensorsHeader(_parted(name).whole()),
        }
        for name in NAMES
    ]


def quantized_parts_seeds() -> list[Folder]:
    return [
        {
            "config.json": Json(HF | {WRITTEN[name].key: WRITTEN[name].config}),
            "model.safetensors": _parted(name),
        }
        for name in NAMES
    ]


def _parted(name: str) -> Parted:
    kind = WRITTEN[name].metadata
    return Parted(tensors(WRITTEN[name])[0], torchao_metadata(kind) if kind else None)
