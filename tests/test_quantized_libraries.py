"""Quantized folders as the libraries themselves write them, or with numbers that the libraries themselves make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_folders import HF, WRITTEN, Written, float8, shapes, tensors, write_folder
from safetensors.torch import save_file
from torch import Tensor

from pellucid.checkpoint import open_checkpoint
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import matches
from pellucid.model.load import to_tensor

INT4 = "int4"  # a dtype that torch has and its stubs have not
LIBRARY = "pip install --no-deps {}"


def opened(folder: Path, written: Written, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by their names, float32."""
    checkpoint = open_checkpoint(write_folder(folder, written, parts))
    every = matches(checkpoint.config, FAMILIES["llama"].WEIGHTS)
    return {match.theirs: to_tensor(checkpoint.weights[match.ours[0]], torch.float32) for match in every}


def modules(parts: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The quantized modules of a model's tensors, by leaf."""
    names = [name.removesuffix(".weight") for name in shapes(HF) if "_proj." in name]
    return {
        name: {key.removeprefix(f"{name}."): tensor for key, tensor in parts.items() if key.startswith(f"{name}.")}
        for name in names
    }


@pytest.mark.parametrize("name", ["fp8", "fp8, one"])
def test_fp8_is_what_transformers_dequantizes(name: str, tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    config = {**WRITTEN[name].config, **({"weight_block_size": [32, 32]} if name == "fp8" else {})}
    write = float8("weight_scale_inv", (32, 32)) if name == "fp8" else float8("weight_scale_inv", None, one=True)
    written = Written(config, write)
    parts, _ = tensors(written)
    ours = opened(tmp_path, written, parts)
    for module, own in modules(parts).items():
        scale = own["weight_scale_inv"]
        theirs = Fp8Dequantize(None)._dequantize_one(own["weight"], scale if scale.ndim == 2 else scale[None])
        assert torch.equal(ours[f"{module}.weight"], theirs)


@pytest.mark.parametrize("bits", [4, 8])
def test_mlx_is_what_transformers_dequantizes(bits: int, tmp_path: Path) -> None:
    from transformers.integrations.metal_quantization import _affine_dequantize_tensor

    written = WRITTEN[f"mlx {bits}"]
    parts, _ = tensors(written)
    ours = opened(tmp_path, written, parts)
    for module, own in modules(parts).items():
        scales, biases = own["scales"].float(), own["biases"].float()
        theirs = _affine_dequantize_tensor(own["weight"], scales, biases, 32, bits)
        assert torch.equal(ours[f"{module}.weight"], theirs)


def _scheme(**weights: Any) -> Any:
    library = pytest.importorskip("compressed_tensors.quantization", reason=LIBRARY.format("compressed-tensors loguru"))
    return library.QuantizationScheme(targets=["Linear"], weights=library.QuantizationArgs(**weights))


COMPRESSED: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"int{bits}": ("pack-quantized", {"num_bits": bits, "strategy": "group", "group_size": 32})
        for bits in (2, 3, 4, 5, 6, 7, 8)
    },
    "int4, zeros": (
        "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "int4, rows": ("pack-quantized", {"num_bits": 4, "strategy": "channel"}),
    "int8, rows": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "int8, one": ("naive-quantized", {"num_bits": 8, "strategy": "tensor"}),
    "int8, groups and zeros": (
        "naive-quantized", {"num_bits": 8, "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "fp8, rows": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8, one": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8, blocks": (
        "float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [48, 32]},
    ),
    "nvfp4": ("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
    "mxfp8": (
        "mxfp8-quantized",
        {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSED)
def test_what_compressed_tensors_compresses_is_what_it_decompresses(name: str, tmp_path: Path) -> None:
    """Bit for bit, in the dtype of the scales."""
    format, weights = COMPRESSED[name]
    scheme = _scheme(**weights)
    compressors = pytest.importorskip("compressed_tensors.compressors")
    calculate_qparams = pytest.importorskip("compressed_tensors.quantization.utils").calculate_qparams
    compressor = compressors.BaseCompressor.get_value_from_registry(format)
    torch.manual_seed(0)
    parts, expected = {}, {}
    for key, shape in shapes(HF).items():
        dense = torch.randn(shape, dtype=torch.bfloat16) * 0.05
        if "_proj." not in key:
            parts[key] = dense
            continue
        own = {"weight": dense, **_parameters(dense, scheme.weights, calculate_qparams)}
        packed = compressor.compress(own, scheme)
        module = key.removesuffix(".weight")
        parts |= {f"{module}.{leaf}": tensor.contiguous() for leaf, tensor in packed.items()}
        expected[key] = compressor.decompress(packed, scheme)["weight"]
    settings = {
        key: str(value).removeprefix("torch.") if key == "scale_dtype" else value for key, value in weights.items()
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": settings}}
    config = {**WRITTEN["ct 4"].config, "format": format, "config_groups": groups}
    ours = opened(tmp_path, Written(config, lambda *_: ({}, np.empty(0)), hf={"torch_dtype": "bfloat16"}), parts)
    for key, theirs in expected.items():
        assert torch.equal(ours[key].to(theirs.dtype), theirs), key


def _parameters(dense: Tensor, args: Any, calculate: Any) -> dict[str, Tensor]:
    """Scales and zeros by the library's own rule from each group's least and greatest."""
    strategy = str(getattr(args.strategy, "value", args.strategy))
    outputs, inputs = dense.shape
    if strategy == "tensor":
        groups = dense.reshape(1, 1, -1)
    elif strategy == "channel":
        groups = dense.reshape(outputs, 1, -1)
    elif strategy == "block":
        rows, columns = args.block_structure
        wide = torch.zeros(-(-outputs // rows) * rows, -(-inputs // columns) * columns, dtype=dense.dtype)
        wide[:outputs, :inputs] = dense
        groups = wide.reshape(-(-outputs // rows), rows, -(-inputs // columns), columns)
        groups = groups.transpose(1, 2).reshape(-(-outputs // rows), -(-inputs // columns), -1)
    else:
        groups = dense.reshape(outputs, inputs // args.group_size, args.group_size)
    whole = {}
    if strategy == "tensor_group":
        whole["weight_global_scale"] = (448 * 6 / dense.abs().max().float()).reshape(1)
    scale, zero = calculate(
        groups.amin(-1), groups.amax(-1), args, **({"global_scale": whole["weight_global_scale"]} if whole else {})
    )
    if strategy == "tensor":
        scale, zero = scale.reshape(1), zero.reshape(1)
    return {"weight_scale": scale, "weight_zero_point": zero, **whole}


@pytest.mark.parametrize("nested", [False, True])
def test_bitsandbytes_four_bits_are_what_it_dequantizes(nested: bool, tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason=LIBRARY.format("bitsandbytes"))
    torch.manual_seed(0)
    parts, expected = {}, {}
    for key, shape in shapes(HF).items():
        dense = torch.randn(shape) * 0.05
        if "_proj." not in key:
            parts[key] = dense
            continue
        packed, state = functional.quantize_4bit(dense, quant_type="nf4", blocksize=64, compress_statistics=nested)
        parts |= {key: packed} | {f"{key}.{leaf}": value for leaf, value in state.as_dict(packed=True).items()}
        expected[key] = functional.dequantize_4bit(packed, state)
    ours = opened(tmp_path, WRITTEN["bnb nf4"], parts)
    for key, theirs in expected.items():
        assert torch.allclose(ours[key], theirs, rtol=1e-6, atol=0), key


def test_bitsandbytes_eight_bits_are_what_it_dequantizes(tmp_path: Path) -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason=LIBRARY.format("bitsandbytes"))
    parts, _ = tensors(WRITTEN["bnb int8"])
    ours = opened(tmp_path, WRITTEN["bnb int8"], parts)
    for module, own in modules(parts).items():
        assert torch.equal(ours[f"{module}.weight"], functional.int8_vectorwise_dequant(own["weight"], own["SCB"]))


@pytest.mark.parametrize(("bits", "axis"), [(8, 1), (4, 1), (4, 0), (3, 1), (2, 1), (1, 1)])
def test_hqq_is_what_it_dequantizes(bits: int, axis: int, tmp_path: Path) -> None:
    quantize = pytest.importorskip("hqq.core.quantize", reason=LIBRARY.format("hqq termcolor"))
    torch.manual_seed(0)
    parts, expected = {}, {}
    for key, shape in shapes(HF).items():
        if "_proj." not in key:
            parts[key] = torch.randn(shape)
            continue
        module = key.removesuffix(".weight")
        settings = quantize.BaseQuantizeConfig(nbits=bits, group_size=64, axis=axis)
        layer = torch.nn.Linear(shape[1], shape[0], bias=False)
        layer = quantize.HQQLinear(layer, settings, compute_dtype=torch.float32, device="cpu")
        parts |= {f"{module}.{leaf}": value for leaf, value in layer.state_dict().items() if value is not None}
        expected[key] = layer.dequantize()
    ours = opened(tmp_path, WRITTEN["hqq 4"], parts)
    for key, theirs in expected.items():
        assert torch.equal(ours[key], theirs), key


@pytest.mark.parametrize("name", ["int8", "int8, dynamic", "int4 in int8", "float8"])
def test_torchao_is_what_it_dequantizes(name: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason=LIBRARY.format("torchao"))
    flatten = pytest.importorskip("torchao.prototype.safetensors.safetensors_support").flatten_tensor_state_dict
    settings = {
        "int8": lambda: quantization.Int8WeightOnlyConfig(),
        "int8, dynamic": lambda: quantization.Int8DynamicActivationInt8WeightConfig(),
        "int4 in int8": lambda: quantization.IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, INT4), granularity=quantization.granularity.PerGroup(32)
        ),
        "float8": lambda: quantization.Float8WeightOnlyConfig(),
    }[name]()
    torch.manual_seed(0)
    state, expected = {}, {}
    for key, shape in shapes(HF).items():
        if "_proj." not in key:
            state[key] = torch.randn(shape)
            continue
        layer = torch.nn.Linear(shape[1], shape[0], bias=False)
        quantization.quantize_(torch.nn.Sequential(layer), settings)
        state[key], expected[key] = layer.weight, layer.weight.dequantize()
    parts, metadata = flatten(state)
    save_file({key: value.contiguous() for key, value in parts.items()}, tmp_path / "model.safetensors", metadata)
    config = HF | {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": {"_type": name}}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(tmp_path)
    for match in matches(checkpoint.config, FAMILIES["llama"].WEIGHTS):
        if match.theirs in expected:
            ours = to_tensor(checkpoint.weights[match.ours[0]], torch.float32)
            assert torch.equal(ours, expected[match.theirs].float()), match.theirs
