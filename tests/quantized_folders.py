"""Tiny models in folders quantized by hand, one number after the other, as each format's documents describe it.

A writer takes a matrix's shape and gives its tensors by leaf, and the numbers that these stand for, float32. None of it
uses what is tested: codes and scales are drawn, packed as whole numbers of Python's, and multiplied in float64.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pellucid.families import FAMILIES

Parts = dict[str, Tensor]
HF = FAMILIES["llama"].TINY | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """``config``: quantization_config. ``write(rng, N, K)`` → tensors by leaf, and (N, K) numbers. ``stored``: the
    dtype that the weights come in. ``key``: where config.json has it.
    """

    config: Mapping[str, Any]
    write: Callable[[np.random.Generator, int, int], tuple[Parts, np.ndarray]]
    stored: str = "float32"
    key: str = "quantization_config"
    hf: Mapping[str, Any] = field(default_factory=dict)
    metadata: str = ""  # the kind of torchao's tensors


def stream(codes: np.ndarray, bits: int, words: int = 0) -> Tensor:
    """(n, count) → (n, W) int32: number i of a row at bit i · bits of one long number."""
    count = codes.shape[1]
    words = words or -(-count * bits // 32)
    rows = [sum(int(code) << (i * bits) for i, code in enumerate(row)) for row in codes]
    data = b"".join(row.to_bytes(4 * words, "little") for row in rows)
    return torch.frombuffer(bytearray(data), dtype=torch.int32).reshape(len(codes), words)


def scales_of(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.from_numpy(rng.uniform(0.004, 0.03, shape).astype(np.float32)).to(dtype)


def wide(tensor: Tensor) -> np.ndarray:
    return tensor.to(torch.float64).numpy()


def gptq(bits: int, size: int, *, order: bool = False, symmetric: bool = False, adds: int = 1) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        groups = inputs // size
        q, scales = rng.integers(0, 2**bits, (inputs, outputs)), scales_of(rng, groups, outputs)
        zero = rng.integers(0, 2**bits, (groups, outputs))
        if symmetric:
            zero[:] = 2 ** (bits - 1)
        group_of = np.arange(inputs) // size
        if order:
            rng.shuffle(group_of)
        parts = {
            "qweight": stream(q.T, bits).T.contiguous(),
            "qzeros": stream((zero - adds) % 2**bits, bits),
            "scales": scales,
            "g_idx": torch.from_numpy(group_of.astype(np.int32)),
        }
        return parts, (wide(scales)[group_of] * (q - zero[group_of])).T

    return write


def awq(size: int) -> Any:
    def pack(codes: np.ndarray) -> Tensor:
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        return stream(codes.reshape(len(codes), -1, 8)[..., order].reshape(len(codes), -1), 4)

    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        q, scales = rng.integers(0, 16, (inputs, outputs)), scales_of(rng, inputs // size, outputs)
        zero = rng.integers(0, 16, (inputs // size, outputs))
        parts = {"qweight": pack(q), "qzeros": pack(zero), "scales": scales}
        return parts, ((q - zero.repeat(size, 0)) * wide(scales).repeat(size, 0)).T

    return write


def packed(bits: int, size: int | None, *, symmetric: bool = True, order: bool = False) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        side, half = size or inputs, 2 ** (bits - 1)
        groups = inputs // side
        q = rng.integers(-half, half, (outputs, inputs))
        scales = scales_of(rng, outputs, groups, dtype=torch.bfloat16)
        zero = np.zeros((outputs, groups), int) if symmetric else rng.integers(-half, half, (outputs, groups))
        group_of = np.arange(inputs) // side
        if order:
            rng.shuffle(group_of)
        parts = {
            "weight_packed": stream(q + half, bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor([outputs, inputs]),
        }
        if not symmetric:
            parts["weight_zero_point"] = stream((zero + half).T, bits).T.contiguous()
        if order:
            parts["weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
        return parts, (q - zero[:, group_of]) * wide(scales)[:, group_of]

    return write


def gapped(bits: int, size: int) -> Any:
    """pack-quantized as it was before 2026: as many whole codes in a word as it holds."""

    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        half, each = 2 ** (bits - 1), 32 // bits
        q = rng.integers(-half, half, (outputs, inputs))
        scales = scales_of(rng, outputs, inputs // size, dtype=torch.bfloat16)
        rows = np.pad(q + half, ((0, 0), (0, -inputs % each))).reshape(-1, each)
        words = torch.cat([stream(row[None], bits, 1) for row in rows]).reshape(outputs, -1)
        parts = {"weight_packed": words, "weight_scale": scales, "weight_shape": torch.tensor([outputs, inputs])}
        return parts, q * wide(scales).repeat(size, 1)

    return write


def eight_bits(*, by_row: bool, symmetric: bool = True) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        q = rng.integers(-128, 128, (outputs, inputs))
        scales = scales_of(rng, outputs, 1, dtype=torch.bfloat16) if by_row else scales_of(rng, 1, dtype=torch.bfloat16)
        parts = {"weight": torch.from_numpy(q.astype(np.int8)), "weight_scale": scales}
        if symmetric:
            return parts, q * wide(scales)
        zero = rng.integers(-100, 100, (outputs, 1))
        return parts | {"weight_zero_point": torch.from_numpy(zero.astype(np.int8))}, (q - zero) * wide(scales)

    return write


def float8(leaf: str, block: tuple[int, int] | None, *, dtype: torch.dtype = torch.float32, one: bool = False) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        values = torch.from_numpy(rng.normal(0, 50, (outputs, inputs)).astype(np.float32)).to(torch.float8_e4m3fn)
        if one:
            scale = scales_of(rng, 1, dtype=dtype)
            return {"weight": values, leaf: scale}, wide(values.float()) * wide(scale)
        sides = block or (1, inputs)
        scale = scales_of(rng, -(-outputs // sides[0]), -(-inputs // sides[1]), dtype=dtype)
        spread = wide(scale).repeat(sides[0], 0).repeat(sides[1], 1)[:outputs, :inputs]
        return {"weight": values, leaf: scale}, wide(values.float()) * spread

    return write


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def nvfp4(packed_name: str, whole_name: str, *, divides: bool) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        q = rng.integers(0, 16, (outputs, inputs))
        scale = torch.from_numpy(rng.uniform(20, 400, (outputs, inputs // 16)).astype(np.float32))
        scale, whole = scale.to(torch.float8_e4m3fn), torch.tensor([4096.0 if divides else 2.0**-12])
        parts = {
            packed_name: torch.from_numpy((q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8)),
            "weight_scale": scale,
            whole_name: whole,
        }
        return parts, E2M1[q] * wide(scale.float()).repeat(16, 1) * 2.0**-12

    return write


def mxfp4(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
    q, e = rng.integers(0, 16, (outputs, inputs)), rng.integers(115, 123, (outputs, inputs // 32))
    parts = {
        "weight_packed": torch.from_numpy((q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8)),
        "weight_scale": torch.from_numpy(e.astype(np.uint8)),
    }
    return parts, E2M1[q] * (2.0 ** (e - 127)).repeat(32, 1)


def nf4(*, nested: bool, size: int = 64) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        q, blocks = rng.integers(0, 16, outputs * inputs), outputs * inputs // size
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": size, "dtype": "float16", "shape": [outputs, inputs]}
        parts = {"weight": torch.from_numpy((q[::2] << 4 | q[1::2]).astype(np.uint8))[:, None]}
        if nested:
            byte, table = rng.integers(0, 256, blocks), rng.uniform(-1, 1, 256).astype(np.float32)
            outer = rng.uniform(0.01, 0.02, -(-blocks // 256)).astype(np.float32)
            state |= {"nested_blocksize": 256, "nested_offset": 0.0625, "nested_dtype": "float32"}
            absmax = (table[byte] * outer.repeat(256)[:blocks]).astype(np.float64) + 0.0625
            parts |= {
                "weight.absmax": torch.from_numpy(byte.astype(np.uint8)),
                "weight.nested_absmax": torch.from_numpy(outer),
                "weight.nested_quant_map": torch.from_numpy(table),
            }
        else:
            narrow = rng.uniform(0.02, 0.1, blocks).astype(np.float32)
            parts["weight.absmax"], absmax = torch.from_numpy(narrow), narrow.astype(np.float64)
        parts["weight.quant_map"] = torch.tensor(NF4)
        text = json.dumps(state).encode()
        parts["weight.quant_state.bitsandbytes__nf4"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return parts, (np.array(NF4, np.float32)[q] * absmax.repeat(size)).reshape(outputs, inputs)

    return write


def llm_int8(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
    q, scb = rng.integers(-127, 128, (outputs, inputs)), rng.uniform(1, 4, outputs).astype(np.float32)
    parts = {"weight": torch.from_numpy(q.astype(np.int8)), "SCB": torch.from_numpy(scb)}
    return parts | {"weight_format": torch.tensor(0, dtype=torch.uint8)}, q * scb[:, None].astype(np.float64) / 127


def hqq(bits: int, size: int, axis: int) -> Any:
    """Codes of W cut into groups, packed down the first axis: the first rows in the highest bits."""

    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        groups, each = outputs * inputs // size, {8: 1, 4: 2, 2: 4, 1: 8, 3: 10}[bits]
        q = rng.integers(0, 2**bits, (groups, size) if axis == 1 else (size, groups))
        by = (groups, 1) if axis == 1 else (1, groups)
        scale, zero = scales_of(rng, *by), torch.from_numpy(rng.uniform(0, 2**bits, by).astype(np.float16))
        rows = np.pad(q, ((0, -len(q) % each), (0, 0))).reshape(each, -1, q.shape[1])
        words = sum(rows[part].astype(np.int64) << bits * (each - 1 - part) for part in range(each))
        packing = {8: "8bit_u8", 4: "4bit_u8", 2: "2bit_u8", 1: "1bit_u8", 3: "3bit_32"}[bits]
        parts = {
            "W_q": torch.from_numpy(np.asarray(words).astype(np.int32 if bits == 3 else np.uint8)),
            "scale": scale,
            "zero": zero,
            "shape": torch.tensor([outputs, inputs]),
            "packing": torch.tensor(list(packing.encode()), dtype=torch.uint8),
            **{name: torch.tensor(value, dtype=torch.int32) for name, value in
               (("nbits", bits), ("group_size", size), ("axis", axis))},
            **{name: torch.tensor(0, dtype=torch.uint8) for name in ("view_as_float", "quant_scale", "quant_zero")},
        }  # fmt: skip
        return parts, ((q - wide(zero)) * wide(scale)).reshape(outputs, inputs)

    return write


def torchao(kind: str) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        size = 32 if kind == "IntxUnpackedToInt8Tensor" else inputs
        if kind == "Float8Tensor":
            parts, numbers = float8("weight_scale", None)(rng, outputs, inputs)
            return {"_weight_qdata": parts["weight"], "_weight_scale": parts["weight_scale"]}, numbers
        q, zero = rng.integers(-8, 8, (outputs, inputs)), rng.integers(-8, 8, (outputs, inputs // size))
        scale = scales_of(rng, outputs, inputs // size, dtype=torch.bfloat16)
        parts = {"qdata": torch.from_numpy(q.astype(np.int8)), "scale": scale}
        parts["zero_point"] = torch.from_numpy(zero.astype(np.int8))
        numbers = (q - zero.repeat(size, 1)) * wide(scale).repeat(size, 1)
        return {f"_weight_{name}": tensor for name, tensor in parts.items()}, numbers

    return write


def torchao_metadata(kind: str) -> dict[str, str]:
    """What torchao's ``flatten_tensor_state_dict`` says of each matrix."""
    every = {"tensor_names": "[]"}
    for name, shape in shapes(HF).items():
        if "_proj." in name:
            block = [1, 32 if kind == "IntxUnpackedToInt8Tensor" else shape[1]]
            names = ["qdata", "scale"] + ([] if kind == "Float8Tensor" else ["zero_point"])
            every[name] = json.dumps({"_type": kind, "_data": {"block_size": block}, "_tensor_data_names": names})
    return every


def mlx(bits: int, size: int = 32) -> Any:
    def write(rng: np.random.Generator, outputs: int, inputs: int) -> tuple[Parts, np.ndarray]:
        q = rng.integers(0, 2**bits, (outputs, inputs))
        scales = scales_of(rng, outputs, inputs // size)
        biases = torch.from_numpy(rng.uniform(-0.1, 0, scales.shape).astype(np.float16))
        parts = {"weight": stream(q, bits).view(torch.uint32), "scales": scales, "biases": biases}
        return parts, q * wide(scales).repeat(size, 1) + wide(biases).repeat(size, 1)

    return write


def _ct(format: str, **weights: Any) -> dict[str, Any]:
    scheme = {
        "targets": ["Linear"],
        "weights": {"type": "int", "symmetric": True, **weights},
        "input_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": scheme | {"input_activations": None, "output_activations": None}},
        "kv_cache_scheme": None,
        "version": "0.13.0",
    }


def _gptq(bits: int, size: int, **more: Any) -> dict[str, Any]:
    settings = {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": False, "sym": True}
    return settings | {"damp_percent": 0.01, "lm_head": False, **more}


AWQ_SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FP8_SETTINGS = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
AO: dict[str, dict[str, Any]] = {
    "Int8Tensor": {"metadata": "Int8Tensor"},
    "IntxUnpackedToInt8Tensor": {"metadata": "IntxUnpackedToInt8Tensor"},
    "Float8Tensor": {"metadata": "Float8Tensor"},
}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}

WRITTEN: dict[str, Written] = {
    "gptq 4": Written(_gptq(4, 32), gptq(4, 32, symmetric=True), "q4_0"),
    "gptq 4, zeros": Written(_gptq(4, 32, sym=False), gptq(4, 32), "q8_0"),
    "gptq 4, ordered": Written(_gptq(4, 32, desc_act=True), gptq(4, 32, order=True)),
    "gptq 4, small groups": Written(_gptq(4, 16), gptq(4, 16)),
    "gptq 2": Written(_gptq(2, 64), gptq(2, 64), "q4_0"),
    "gptq 3": Written(_gptq(3, 32), gptq(3, 32), "q4_0"),
    "gptq 8": Written(_gptq(8, 32), gptq(8, 32, symmetric=True), "q8_0"),
    "gptq_v2 4": Written(_gptq(4, 32, checkpoint_format="gptq_v2"), gptq(4, 32, adds=0), "q8_0"),
    "auto-round 4": Written(
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32},
        gptq(4, 32, symmetric=True),
        "q4_0",
    ),
    "awq": Written(AWQ_SETTINGS, awq(32), "q8_0"),
    "awq, small groups": Written(AWQ_SETTINGS | {"group_size": 16}, awq(16)),
    "ct 4": Written(_ct("pack-quantized", num_bits=4, group_size=32), packed(4, 32), "q4_0"),
    "ct 4, zeros": Written(_ct("pack-quantized", num_bits=4, symmetric=False), packed(4, 32, symmetric=False), "q8_0"),
    "ct 4, rows": Written(_ct("pack-quantized", num_bits=4, strategy="channel"), packed(4, None), "q4_0"),
    "ct 4, ordered": Written(_ct("pack-quantized", num_bits=4, actorder="group"), packed(4, 32, order=True)),
    "ct 8": Written(_ct("pack-quantized", num_bits=8, group_size=32), packed(8, 32), "q8_0"),
    "ct 3": Written(_ct("pack-quantized", num_bits=3, group_size=32), packed(3, 32, symmetric=False), "q4_0"),
    "ct 5, older": Written(_ct("pack-quantized", num_bits=5, group_size=32), gapped(5, 32), "q8_0"),
    "ct int8": Written(_ct("int-quantized", num_bits=8, strategy="channel"), eight_bits(by_row=True), "q8_0"),
    "ct int8, one": Written(_ct("naive-quantized", num_bits=8), eight_bits(by_row=False), "q8_0"),
    "ct int8, zeros": Written(_ct("int-quantized", num_bits=8), eight_bits(by_row=True, symmetric=False)),
    "ct fp8": Written(
        _ct("float-quantized", num_bits=8, type="float"), float8("weight_scale", None, dtype=torch.bfloat16)
    ),
    "ct fp8, one": Written(_ct("float-quantized", num_bits=8, type="float"), float8("weight_scale", None, one=True)),
    "ct fp8, blocks": Written(
        _ct("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[48, 32]),
        float8("weight_scale", (48, 32)),
    ),
    "ct nvfp4": Written(
        _ct("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16),
        nvfp4("weight_packed", "weight_global_scale", divides=True),
    ),
    "ct mxfp4": Written(_ct("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32), mxfp4, "mxfp4"),
    "fp8": Written(FP8_SETTINGS | {"weight_block_size": [48, 32]}, float8("weight_scale_inv", (48, 32))),
    "fp8, one": Written(FP8_SETTINGS | {"activation_scheme": "static"}, float8("weight_scale", None, one=True)),
    "fbgemm": Written(
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
        float8("weight_scale", None),
    ),
    "modelopt nvfp4": Written(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "producer": {"name": "modelopt"}},
        nvfp4("weight", "weight_scale_2", divides=False),
    ),
    "bnb nf4": Written(BNB, nf4(nested=False)),
    "bnb nf4, nested": Written(BNB | {"bnb_4bit_use_double_quant": True}, nf4(nested=True)),
    "bnb int8": Written({"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0}, llm_int8),
    "hqq 4": Written({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, hqq(4, 32, 1)),
    "hqq 4, axis 0": Written({"quant_method": "hqq"}, hqq(4, 64, 0)),
    "hqq 3": Written({"quant_method": "hqq"}, hqq(3, 64, 1)),
    "hqq 2": Written({"quant_method": "hqq"}, hqq(2, 16, 1)),
    "hqq 8": Written({"quant_method": "hqq"}, hqq(8, 64, 1)),
    **{
        f"torchao {kind}": Written({"quant_method": "torchao", "quant_type": {"default": {}}}, torchao(kind), **own)
        for kind, own in AO.items()
    },
    "mlx 4": Written({"group_size": 32, "bits": 4}, mlx(4), "q4_1", key="quantization"),
    "mlx 6": Written({"group_size": 32, "bits": 6}, mlx(6), key="quantization"),
    "mlx 8": Written({"group_size": 32, "bits": 8, "mode": "affine"}, mlx(8), key="quantization"),
}


def shapes(hf: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of a Llama's tensors, by its own names."""
    d, f, vocab = hf["hidden_size"], hf["intermediate_size"], hf["vocab_size"]
    head = d // hf["num_attention_heads"]
    q, kv = hf["num_attention_heads"] * head, hf["num_key_value_heads"] * head
    every: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d), "model.norm.weight": (d,)}
    for i in range(hf["num_hidden_layers"]):
        at = f"model.layers.{i}"
        every |= {f"{at}.input_layernorm.weight": (d,), f"{at}.post_attention_layernorm.weight": (d,)}
        every |= {f"{at}.self_attn.{name}_proj.weight": (rows, d) for name, rows in (("q", q), ("k", kv), ("v", kv))}
        every[f"{at}.self_attn.o_proj.weight"] = (d, q)
        every |= {f"{at}.mlp.{name}_proj.weight": (f, d) for name in ("gate", "up")}
        every[f"{at}.mlp.down_proj.weight"] = (d, f)
    return every | {"lm_head.weight": (vocab, d)}


def tensors(written: Written, seed: int = 0) -> tuple[Parts, dict[str, np.ndarray]]:
    """A model's tensors, its layers' matrices quantized; and the numbers that all of them stand for, by plain names."""
    rng = np.random.default_rng(seed)
    parts: Parts = {}
    numbers: dict[str, np.ndarray] = {}
    for name, shape in shapes(HF | written.hf).items():
        if "_proj." in name:
            own, numbers[name] = written.write(rng, shape[0], shape[1])
            parts |= {f"{name.removesuffix('weight')}{leaf}": tensor for leaf, tensor in own.items()}
        else:
            numbers[name] = rng.normal(1.0 if "norm" in name else 0.0, 0.2, shape).astype(np.float32)
            parts[name] = torch.from_numpy(numbers[name])
    return parts, numbers


def write_folder(folder: Path, written: Written, parts: Mapping[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    metadata = torchao_metadata(written.metadata) if written.metadata else None
    save_file(dict(tensors(written)[0] if parts is None else parts), folder / "model.safetensors", metadata)
    (folder / "config.json").write_text(json.dumps(HF | written.hf | {written.key: written.config}))
    return folder


def write_plain(folder: Path, numbers: Mapping[str, np.ndarray]) -> Path:
    """The same model, not quantized, in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: torch.from_numpy(np.ascontiguousarray(values, np.float32)) for name, values in numbers.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(HF))
    return folder
