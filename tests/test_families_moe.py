"""Mixtures of experts in files: transformers opens ours and we open theirs, with equal logits and tokens; GGUF's
stacked experts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np
import pytest
import torch
from reference import tiny
from safetensors import safe_open
from test_families_keys import RELEASED

from pellucid import AutoModelForCausalLM
from pellucid.base.array import Array
from pellucid.base.errors import PellucidError, UnsupportedError, WeightsError
from pellucid.checkpoint.open import open_checkpoint
from pellucid.config import weight_shapes
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import to_theirs
from pellucid.model.load import weights_of
from pellucid.quant import dequantize

SPARSE = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
# mistral4 is no AutoModelForCausalLM; Kimi Linear's dense layer gets names that its files do not have. Elsewhere: both.
ODD = ("mistral4", "kimi_linear")
EVERY = pytest.mark.parametrize(
    "family",
    [name for name in FAMILIES if name not in ODD and any(layer.experts for layer in tiny(name).config.layers)],
)
EVERY_GGUF = pytest.mark.parametrize("family", SPARSE)
BOUND = 2e-5  # of the largest logit: how far float32 rounds, sums being taken in another order
IDS = torch.tensor([[5, 9, 2, 7, 5, 11, 40, 3], [1, 2, 3, 4, 50, 60, 70, 80]])


def theirs_of(family: str, seed: int = 0, **changed: Any) -> Any:
    """transformers' model with random weights of its own, larger than a fresh model's: routers choose clearly."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(**FAMILIES[family].TINY | changed, dtype="float32")
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    corrected = any(layer.experts.correction_bias for layer in tiny(family).config.layers if layer.experts)
    corrections = [
        (name, buffer) for name, buffer in model.named_buffers() if corrected and name.endswith("correction_bias")
    ]
    with torch.no_grad():
        for name, parameter in (*model.named_parameters(), *corrections):
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


@EVERY
@torch.no_grad()
def test_a_folder_that_transformers_wrote_gives_its_logits_and_its_tokens(family: str, tmp_path: Path) -> None:
    theirs = theirs_of(family)
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path, device="cpu")
    expected = theirs(IDS).logits
    torch.testing.assert_close(ours(IDS).logits, expected, rtol=0, atol=BOUND * expected.abs().max().item())
    wanted = theirs.generate(IDS, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert ours.generate(IDS, max_new_tokens=12, stop_token_ids=(), pad_token_id=0).tolist() == wanted.tolist()


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@EVERY
@torch.no_grad()
def test_a_folder_that_we_wrote_has_the_names_that_transformers_writes_and_opens_in_it(
    family: str, tmp_path: Path
) -> None:
    import transformers

    ours = AutoModelForCausalLM.from_config(tiny(family).config, device="cpu").eval()
    ours.load_state_dict(tiny(family).state_dict())
    ours.save_pretrained(tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)  # type: ignore[misc]
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    made_up = "e_score_correction_bias"  # transformers may have a correction where a family's files have none
    more = {name for name in names_in(tmp_path / "theirs") if made_up in name} - names_in(tmp_path)
    assert names_in(tmp_path) == names_in(tmp_path / "theirs") - more
    assert not (more and any(made_up in rule.theirs for rule in FAMILIES[family].WEIGHTS))
    expected = theirs.eval()(IDS).logits
    torch.testing.assert_close(ours(IDS).logits, expected, rtol=0, atol=BOUND * expected.abs().max().item())


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("mixtral", {"sliding_window": 3, "num_local_experts": 3, "num_experts_per_tok": 3}),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [], "norm_topk_prob": False}),
        ("qwen2_moe", {"norm_topk_prob": True, "qkv_bias": False}),
    ],
)
@torch.no_grad()
def test_the_settings_of_a_family_mean_what_they_mean_to_transformers(
    family: str, changed: dict[str, Any], tmp_path: Path
) -> None:
    theirs = theirs_of(family, **changed)
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path, device="cpu")
    expected = theirs(IDS).logits
    torch.testing.assert_close(ours(IDS).logits, expected, rtol=0, atol=BOUND * expected.abs().max().item())


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    from pellucid.checkpoint.files.safetensors_write import save_safetensors

    decoder, its = tiny("mixtral"), FAMILIES["mixtral"]
    theirs = dict(to_theirs(decoder.config, its.WEIGHTS, dict(weights_of(decoder))))
    del theirs["model.layers.1.block_sparse_moe.experts.5.w2.weight"]
    save_safetensors(tmp_path / "model.safetensors", theirs)
    (tmp_path / "config.json").write_text(json.dumps(its.TINY))
    with pytest.raises(WeightsError, match=r"1 missing: model\.layers\.1\.block_sparse_moe\.experts\.5\.w2\.weight"):
        open_checkpoint(tmp_path)


MIXTRAL_8X7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
QWEN3_30B_A3B = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "head_dim": 128,
}


@pytest.mark.parametrize(
    ("name", "every", "active"),
    [
        ("gpt-oss-20b", 20.91, None),  # its card counts what is active without the embeddings
        ("GLM-4.5-Air", 106.85, 13.4),  # "106B-A12B", rounded as it pleases
        ("OLMoE-1B-7B", 6.92, 1.28),
        ("MiniMax-M2", 228.7, 11.0),
        ("Phi-3.5-MoE", 41.87, 6.64),
        ("ERNIE-4.5-21B-A3B", 21.83, 3.35),
        ("Hunyuan-A13B", 80.39, 12.75),
        ("Granite 3.1 1B-A400M", 1.335, 0.4285),
        ("Llama 4 Scout", 107.77, 17.17),
    ],
)
def test_the_parameters_of_other_published_mixtures_are_as_many_as_their_makers_say(
    name: str, every: float, active: float | None
) -> None:
    hf = RELEASED[name]
    config = FAMILIES[hf["model_type"]].config(hf)
    assert config.num_parameters() / 1e9 == pytest.approx(every, rel=2e-3)
    if active is not None:
        assert config.num_active_parameters() / 1e9 == pytest.approx(active, rel=5e-3)


@pytest.mark.parametrize(
    ("hf", "every", "active"),
    [
        ({"model_type": "mixtral", **MIXTRAL_8X7B, "num_key_value_heads": 8}, "46.7", "12.9"),
        ({"model_type": "qwen3_moe", **QWEN3_30B_A3B, "num_key_value_heads": 4}, "30.5", "3.4"),
    ],
)
def test_parameters_of_the_published_models_are_what_their_makers_say(
    hf: dict[str, Any], every: str, active: str
) -> None:
    """Mixtral 8x7B: 46.7 B, of which 12.9 B a token (Jiang et al. 2024 §1); Qwen3-30B-A3B: 30.5 B and 3.3 B (3.35)."""
    config = FAMILIES[hf["model_type"]].config(hf)
    assert (f"{config.num_parameters() / 1e9:.1f}", f"{config.num_active_parameters() / 1e9:.1f}") == (every, active)


# --- GGUF ------------------------------------------------------------------------------------------------------------


def write_gguf(path: Path, family: str, *, experts_as: str | None = None, **changed: Any) -> dict[str, Array]:
    """The tiny model (d_model 32, so that rows are whole blocks) as llama.cpp's converter lays it out; returns our
    weights.
    """
    its, arch = FAMILIES[family], SPARSE[family]
    changed_keys = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 96, "mlp_only_layers": []}
    config = its.config(its.TINY | {"intermediate_size": 64} | {k: v for k, v in changed_keys.items() if k in its.TINY})
    layer, rng = config.layers[0], np.random.default_rng(0)
    assert layer.experts
    ours = {
        name: Array.from_numpy(rng.standard_normal(shape, np.float32)) for name, shape in weight_shapes(config).items()
    }
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config.context_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(64)
    writer.add_head_count(layer.mixer.num_heads)
    writer.add_head_count_kv(layer.mixer.num_kv_heads)
    writer.add_key_length(layer.mixer.head_dim)
    writer.add_layer_norm_rms_eps(layer.norms["mlp_norm"].eps)
    writer.add_expert_count(changed.get("num_experts", layer.experts.num_experts))
    writer.add_expert_used_count(layer.experts.experts_per_token)
    if family != "mixtral":
        writer.add_expert_feed_forward_length(64)
    if layer.experts.shared:
        writer.add_expert_shared_feed_forward_length(96)
    for name, array in to_theirs(config, its.GGUF.weights, ours):
        if experts_as and "_exps" in name:
            kind = gguf.GGMLQuantizationType[experts_as]
            writer.add_tensor(name, gguf.quants.quantize(array.data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ours


@EVERY
@torch.no_grad()
def test_a_state_dict_as_transformers_has_it_in_memory_opens_too(family: str, tmp_path: Path) -> None:
    """Experts fused, and names that are not those of its files: what FSDP, accelerate or ``torch.save`` write."""
    theirs = theirs_of(family)
    theirs.config.save_pretrained(tmp_path)
    torch.save(dict(theirs.state_dict()), tmp_path / "pytorch_model.bin")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path, device="cpu")
    expected = theirs(IDS).logits
    torch.testing.assert_close(ours(IDS).logits, expected, rtol=0, atol=BOUND * expected.abs().max().item())


@EVERY_GGUF
def test_a_gguf_file_has_its_experts_in_one_tensor_and_they_are_read_without_a_copy(
    family: str, tmp_path: Path
) -> None:
    ours = write_gguf(tmp_path / "x.gguf", family)
    checkpoint = open_checkpoint(tmp_path / "x.gguf")
    assert checkpoint.config.model_type == family
    assert "blk.0.ffn_gate_exps.weight" in checkpoint.stored
    assert checkpoint.weights.keys() == ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(checkpoint.weights[name].data, array.data, err_msg=name)
    expert = checkpoint.weights["layers.1.mlp.experts.2.up_proj.weight"].data
    assert np.shares_memory(expert, checkpoint.stored["blk.1.ffn_up_exps.weight"].data)


def test_quantized_experts_of_a_gguf_file_stay_in_their_blocks_or_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, "mixtral", experts_as="Q4_0")
    stored = open_checkpoint(path).weights["layers.0.mlp.experts.3.gate_proj.weight"]
    assert (stored.dtype, stored.shape) == ("q4_0", (64, 32))
    stack = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.0.ffn_gate_exps.weight")
    np.testing.assert_array_equal(dequantize(stored), gguf.quants.dequantize(stack.data, stack.tensor_type)[3])
    whole = AutoModelForCausalLM.from_pretrained(path, dtype="float32", device="cpu")
    blocks = AutoModelForCausalLM.from_pretrained(path, dtype="float32", device="cpu", quantize="q8")
    assert type(blocks.get_submodule("layers.0.mlp.experts.3.gate_proj")).__name__ == "QuantizedLinear"
    np.testing.assert_array_equal(
        whole.get_parameter("layers.0.mlp.experts.3.gate_proj.weight").detach().numpy(), dequantize(stored)
    )


def test_a_gguf_header_that_claims_other_experts_than_the_tensors_have_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", "mixtral", num_experts=4000)
    with pytest.raises(PellucidError):
        open_checkpoint(tmp_path / "x.gguf").weights["layers.0.mlp.experts.0.gate_proj.weight"]


def test_an_architecture_whose_experts_are_not_known_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "qwen2")
    writer.add_expert_count(8)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match="'qwen2' with experts"):
        open_checkpoint(tmp_path / "x.gguf")
