"""Tiny models in every format but GGUF: config.json of each family, weights, indexes, adapters, parts of processes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import Binary, Content, Folder, Json, Known
from fuzz.use import use_model
from pellucid.base.array import Array
from pellucid.base.errors import PellucidError
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import to_theirs


@cache
def arrays(config: ModelConfig) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        name: Array.from_numpy((rng.standard_normal(shape, np.float32) * 0.2).astype(np.float32))
        for name, shape in weight_shapes(config).items()
    }


def _theirs(family: Any, config: ModelConfig) -> dict[str, Array]:
    return dict(to_theirs(config, family.WEIGHTS, arrays(config)))


def safetensors(tensors: dict[str, Array]) -> bytes:
    header, data = {}, bytearray()
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    for name, array in tensors.items():
        values = np.ascontiguousarray(array.data).tobytes()
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


ROPE: dict[str, Any] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "attention_factor": 1.1,
        "truncate": False,
    },
    "longrope": {
        "type": "longrope",
        "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
    },
}
KEYS: dict[str, Any] = {
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "head_dim": 8,
    "hidden_act": "silu",
    "dtype": "float32",
    "torch_dtype": "bfloat16",
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": 4,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "layer_types": ["full_attention"] * 2,
    "rope_ratio": 1,
    "scale_attn_by_inverse_layer_idx": True,
    "n_inner": 128,
    "partial_rotary_factor": 0.5,
    "mlp_only_layers": [0],
    "decoder_sparse_step": 1,
    "norm_order": "pre",
    "original_max_position_embeddings": 16,
    "quantization_config": {"bits": 4},
    "pad_token_id": 0,
    "architectures": ["X"],
    "auto_map": {},
    "model_type": "llama",
}


def _is_read(family: Any, hf: dict[str, Any]) -> bool:
    """Not every family has every scaling."""
    try:
        family.config(hf)
    except PellucidError:
        return hf is family.TINY
    return True


def configs(name: str) -> Callable[[], list[Folder]]:
    def seeds() -> list[Folder]:
        family = FAMILIES[name]
        config = family.config(family.TINY)
        weights = Binary(safetensors(_theirs(family, config)))
        variants = [family.TINY, family.TINY]
        if (rope := next(iter(config.ropes), None)) and "max_position_embeddings" in family.TINY:
            for scaling in map(dict, ROPE.values()):
                scaling |= {
                    key: value[:1] * (rope.dim // 2) for key, value in scaling.items() if isinstance(value, list)
                }
                variants.append({**family.TINY, "rope_theta": 1e4, "rope_scaling": scaling})
                variants.append({**family.TINY, "rope_parameters": {**scaling, "rope_theta": 1e4}})
        read = [variant for variant in variants if _is_read(family, variant)]
        return [{"config.json": Json(variant, KEYS), "model.safetensors": weights} for variant in read]

    return seeds


LLAMA = FAMILIES["llama"]
LLAMA_CONFIG: ModelConfig = LLAMA.config(LLAMA.TINY)


def llama_folder(**files: Content) -> Folder:
    return {
        "config.json": Json(LLAMA.TINY),
        "model.safetensors": Binary(safetensors(_theirs(LLAMA, LLAMA_CONFIG)), 1800),
        **{name.replace("__", "."): content for name, content in files.items()},
    }


GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.9,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "max_new_tokens": 20,
    "max_length": 40,
}


def read_generation(folder: Path) -> None:
    """What the file asks for, and a request that follows it."""
    from pellucid.auto import open_model
    from pellucid.defaults import AnswerDefaults
    from pellucid.generate.request import Request

    checkpoint = open_model(folder)
    asked = AnswerDefaults.of(checkpoint.config, checkpoint.generation_config)
    request = Request(prompt_ids=[1], sampling=asked.sampling, stop=asked.stop, stop_token_ids=asked.stop_token_ids)
    request.fit(checkpoint.config, checkpoint.config.context_len)


def sharded() -> Folder:
    theirs = list(_theirs(LLAMA, LLAMA_CONFIG).items())
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    parts = dict(theirs[:9]), dict(theirs[9:])
    weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    return {
        "config.json": Json(LLAMA.TINY),
        "model.safetensors.index.json": Json({"metadata": {"total_size": 1}, "weight_map": weight_map}),
        **{file: Binary(safetensors(part), 900) for file, part in zip(files, parts, strict=True)},
    }


class SafetensorsHeader:
    """A safetensors file whose header is damaged as JSON, its length made right again."""

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:8], "little")
        self.data, self.body, self.header = data, data[8 + size :], Json(json.loads(data[8 : 8 + size]))

    def whole(self) -> bytes:
        return self.data

    def damaged(self, rng: Any) -> bytes:
        text = self.header.damaged(rng)
        return len(text).to_bytes(8, "little") + text + self.body


def safetensors_seeds() -> list[Folder]:
    whole = llama_folder()
    data = whole["model.safetensors"].whole()
    return [
        whole,
        {**whole, "model.safetensors": SafetensorsHeader(data)},
        {**whole, "model.safetensors": SafetensorsHeader(data)},
    ]


def adapter_seeds() -> list[Folder]:
    rng = np.random.default_rng(1)
    tensors = {}
    for i in range(2):
        for part, out in (("q_proj", 32), ("v_proj", 16)):
            at = f"base_model.model.model.layers.{i}.self_attn.{part}"
            tensors[f"{at}.lora_A.weight"] = Array.from_numpy(rng.standard_normal((4, 32), np.float32))
            tensors[f"{at}.lora_B.weight"] = Array.from_numpy(rng.standard_normal((out, 4), np.float32))
    described = {
        "peft_type": "LORA",
        "base_model_name_or_path": "base",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "use_rslora": False,
        "rank_pattern": {"layers.0.self_attn.q_proj": 4},
        "alpha_pattern": {"v_proj": 16},
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    base = {f"base/{name}": content for name, content in llama_folder().items()}
    more = {
        "use_dora": True,
        "revision": "main",
        "layers_to_transform": [0],
        "layers_pattern": "layers",
        "exclude_modules": [],
    }
    weights = safetensors(tensors)
    return [
        {**base, "adapter_config.json": Json(described, more), "adapter_model.safetensors": content}
        for content in (Binary(weights, 900), SafetensorsHeader(weights), Binary(weights))
    ]


def torch_bin_seeds() -> list[Folder]:
    import torch

    theirs = {name: torch.from_numpy(np.array(array.data)) for name, array in _theirs(LLAMA, LLAMA_CONFIG).items()}
    first = next(iter(theirs))
    wide = torch.zeros(1).expand(2**16, 2**16)  # strides of 0: 17 GB in four bytes
    variants = [
        theirs,
        {name: tensor.half() for name, tensor in theirs.items()},
        {**theirs, first: wide},
        {**theirs, first: torch.zeros(1).expand(96, 32)},
        {**theirs, first: theirs[first].t().contiguous().t()},
        {**theirs, first: theirs[first].to(torch.complex64)},
        {**theirs, first: torch.zeros(96, 32).to_sparse()},
        {**theirs, "n": 3},
        {"state_dict": theirs},
        {**theirs, first: torch.nn.Parameter(theirs[first])},
    ]
    found: list[Folder] = []
    for variant in variants:
        for new in (True, False):
            file = io.BytesIO()
            torch.save(variant, file, _use_new_zipfile_serialization=new)
            found.append({"config.json": Json(LLAMA.TINY), "pytorch_model.bin": Binary(file.getvalue(), 4000)})
    return found


def read_repeated(folder: Path) -> None:
    from pellucid.checkpoint.files.torch_bin import open_torch_bin
    from pellucid.quant import dequantize

    for array in open_torch_bin(folder / "pytorch_model.bin").values():
        dequantize(array)


def repeated_seeds() -> list[Folder]:
    """A model whose tensors are one number each, repeated by strides of 0: 5 kB that claim gigabytes."""
    import torch

    wide = {**LLAMA.TINY, "vocab_size": 50_000, "hidden_size": 8192, "intermediate_size": 30_000}
    config = LLAMA.config(wide)
    shapes = {name: array.shape for name, array in _shapes(config).items()}
    file = io.BytesIO()
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, file)
    whole = torch_bin_seeds()[0]
    return [
        {
            "config.json": Json(LLAMA.TINY),
            "pytorch_model.bin": Known(whole["pytorch_model.bin"], Binary(file.getvalue(), 4000)),
        }
    ]


def _shapes(config: ModelConfig) -> dict[str, Array]:
    """Their names and shapes, without the numbers."""
    empty = {
        name: Array("float32", shape, np.broadcast_to(np.float32(0), shape))
        for name, shape in weight_shapes(config).items()
    }
    return dict(to_theirs(config, LLAMA.WEIGHTS, empty))


def llama2c_bytes() -> bytes:
    import struct

    from pellucid.checkpoint.files.llama2c import WEIGHTS

    mine = dict(to_theirs(LLAMA_CONFIG, WEIGHTS, arrays(LLAMA_CONFIG)))
    order = [rule.theirs for rule in WEIGHTS]
    at = order.index("rms_final_weight")
    parts = [
        mine[stem.replace("{i}", str(i))] for stem in order[:at] for i in (range(2) if "{i}" in stem else range(1))
    ]
    data = b"".join(np.ascontiguousarray(part.data).tobytes() for part in [*parts, mine["rms_final_weight"]])
    return struct.pack("<7i", 32, 48, 2, 4, 2, 96, 64) + data + bytes(4 * 64 * 4 * 2)


def read_llama2c(folder: Path) -> None:
    from pellucid.auto import open_model

    use_model(open_model(folder / "model.bin"))


def distributed_seeds() -> list[Folder]:
    import hashlib

    weights = {f"model.{name}": array for name, array in arrays(LLAMA_CONFIG).items()}
    parts: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    tensors: dict[str, Any] = {}
    for name, array in weights.items():
        half = max(array.shape[0] // 2, 1)
        rows = [[0, 0, half], [1, half, array.shape[0]]]
        parts[0][name], parts[1][name] = (Array.from_numpy(np.ascontiguousarray(array.data[a:b])) for _, a, b in rows)
        tensors[name] = {"dtype": "float32", "shape": list(array.shape), "rows": rows}
    names = [f"process-{rank + 1:05d}-of-00002.safetensors" for rank in range(2)]
    data = [safetensors(part) for part in parts]
    files = [
        {"name": name, "bytes": len(one), "sha256": hashlib.sha256(one).hexdigest()}
        for name, one in zip(names, data, strict=True)
    ]
    index = {"format": 1, "files": files, "tensors": tensors}
    return [
        {
            "config.json": Json(LLAMA.TINY),
            "distributed.json": Json(index),
            **{name: Binary(one, 900) for name, one in zip(names, data, strict=True)},
        }
    ]
