"""Quantized mixtures of experts: each expert apart or all of a layer in one tensor; gpt-oss as OpenAI publishes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from pellucid.checkpoint import open_checkpoint
from pellucid.families import FAMILIES
from pellucid.model.context import Context
from pellucid.model.load import load_decoder

IDS = torch.tensor([[1, 5, 9, 2, 7, 30, 4, 61, 13, 8, 90, 3, 22, 47, 5, 19, 33, 71, 80, 6]])
FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic", "fmt": "e4m3"}
MIXTURES = ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "deepseek_v3", "glm4_moe", "minimax_m2")


def reference(family: str, **more: Any) -> tuple[dict[str, Any], Any]:
    hf = FAMILIES[family].TINY | {"torch_dtype": "float32"} | more
    config = transformers.AutoConfig.for_model(**hf)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return hf, model


def in_float8(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, a scale for each 16 × 16, and the numbers that both stand for, of the last two axes."""
    rows, columns = weight.shape[-2:]
    scale = torch.rand(*weight.shape[:-2], -(-rows // 16), -(-columns // 16)) * 1e-3 + 1e-3
    spread = scale.repeat_interleave(16, -2).repeat_interleave(16, -1)[..., :rows, :columns]
    codes = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, scale, codes.float() * spread


def quantized(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The layers' matrices in floats of 8 bits with their scales; and all tensors' numbers."""
    parts, numbers = {}, {}
    for name, tensor in tensors.items():
        is_matrix = ".layers." in name and tensor.ndim > 1 and ("_proj" in name or ".experts." in name)
        if not is_matrix or "gate.weight" in name or "conv" in name:
            parts[name] = numbers[name] = tensor
        else:
            parts[name], parts[f"{name}_scale_inv"], numbers[name] = in_float8(tensor)
    return parts, numbers


def compare(folder: Path, hf: dict[str, Any], settings: dict[str, Any], parts: dict[str, Tensor], model: Any) -> None:
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in parts.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf | {"quantization_config": settings}))
    checkpoint = open_checkpoint(folder)
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    with torch.no_grad():
        theirs = model(IDS).logits
        ours = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_apart_as_they_are_published(family: str, tmp_path: Path) -> None:
    """The names that ``save_pretrained`` writes; the reference has the dequantized numbers."""
    hf, model = reference(family)
    model.save_pretrained(tmp_path / "saved")
    parts, numbers = quantized(load_file(tmp_path / "saved" / "model.safetensors"))
    save_file(numbers, tmp_path / "saved" / "model.safetensors", {"format": "pt"})
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager").eval()
    assert any(name.endswith("_scale_inv") and ".experts." in name for name in parts)
    compare(tmp_path / "fp8", hf, FP8, parts, again)


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_in_one_tensor_as_they_are_in_memory(family: str, tmp_path: Path) -> None:
    hf, model = reference(family)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight" or
             not hf.get("tie_word_embeddings")}  # fmt: skip
    parts, numbers = quantized(state)
    model.load_state_dict(numbers, strict=False)
    assert any(name.endswith("gate_up_proj_scale_inv") for name in parts)
    compare(tmp_path / "fp8", hf, FP8, parts, model)


def test_gpt_oss_in_its_own_blocks(tmp_path: Path) -> None:
    """Codes and exponents at random; transformers makes the numbers of them that its model runs with."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    hf, model = reference("gpt_oss", intermediate_size=32)
    generator = torch.Generator().manual_seed(1)
    state, parts = model.state_dict(), {}
    for name, tensor in state.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = tensor.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), generator=generator).to(torch.uint8)
            scales = torch.randint(120, 125, (experts, outputs, inputs // 32), generator=generator).to(torch.uint8)
            state[name].copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            parts |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        else:
            parts[name] = tensor
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    compare(tmp_path / "mxfp4", hf, settings, parts, model)
    weights = open_checkpoint(tmp_path / "mxfp4").weights
    assert weights["layers.0.mlp.experts.0.down_proj.weight"].dtype == "mxfp4"
    assert weights["layers.0.mlp.experts.1.gate_proj.weight"].dtype == "mxfp4"
