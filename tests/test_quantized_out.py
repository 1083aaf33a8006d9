"""Quantized folders, written: what the library itself reads of them, what ours does, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from option_walk import make_model
from quantized_folders import HF, shapes, write_plain
from reference import tiny
from safetensors.torch import load_file

from pellucid.base.errors import UnsupportedError, WeightsError
from pellucid.checkpoint import open_checkpoint
from pellucid.checkpoint.quantized_out import plan_of, save_quantized
from pellucid.checkpoint.save import save_checkpoint
from pellucid.cli.app import app
from pellucid.families import FAMILIES
from pellucid.model.context import Context
from pellucid.model.load import load_decoder, weights_of
from pellucid.quant import dequantize
from pellucid.quant.float8 import to_e4m3
from pellucid.quant.integers import from_stream, to_stream
from pellucid.quant.symmetric import integers

IDS = torch.tensor([[1, 5, 9, 2, 7, 30, 4, 61, 13, 8, 90, 3, 22, 47, 5, 19, 33, 71, 80, 6]])
KINDS = {"int4": "q4_0", "int8": "q8_0", "fp8": "float32"}  # and in which blocks our reader keeps them


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    drawn = {name: rng.standard_normal(shape) * 0.1 for name, shape in shapes(HF).items()}
    return write_plain(tmp_path_factory.mktemp("plain"), drawn)


@given(st.lists(st.floats(-600, 600, width=32), min_size=1, max_size=64))
@settings(max_examples=60, deadline=None)
def test_floats_of_eight_bits_round_as_torch_rounds_them(values: list[float]) -> None:
    array = np.array(values, np.float32)
    theirs = torch.from_numpy(np.clip(array, -448, 448)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(to_e4m3(array), theirs)


def test_halves_between_two_floats_of_eight_bits_go_to_the_even_one() -> None:
    every = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    middle = (every[1:] + every[:-1]) / 2
    assert np.array_equal(to_e4m3(middle), [code + code % 2 for code in range(126)])


@given(st.integers(1, 70), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_packed_stream_is_read_as_what_was_packed(count: int, bits: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (3, count)).astype(np.uint8)
    assert np.array_equal(from_stream(to_stream(codes, bits), bits, count), codes)


def test_a_searched_scale_loses_no_more_than_the_plain_one() -> None:
    """Of heavy tails much less: with the plain one a single large weight makes all others coarse."""
    x = np.random.default_rng(0).standard_t(3, (16, 128)).astype(np.float32)
    codes, scale = integers(x, 4, 4, "float32")
    lost = np.square(x.reshape(16, 4, 32) - codes.reshape(16, 4, 32) * scale[..., None]).sum(2)
    largest = np.abs(x.reshape(16, 4, 32)).max(2, keepdims=True) / 7
    whole = np.square(x.reshape(16, 4, 32) - np.rint(x.reshape(16, 4, 32) / largest) * largest).sum(2)
    assert (lost <= whole * 1.0001).all()
    assert lost.sum() < 0.9 * whole.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_the_folder_and_says_the_same(kind: str, plain: Path, tmp_path: Path) -> None:
    """Through compressed-tensors, which decompresses; each of our numbers is one that it has."""
    pytest.importorskip("compressed_tensors", reason="pip install --no-deps compressed-tensors loguru")
    written = save_quantized(tmp_path / kind, open_checkpoint(plain), kind, "float32")
    assert set(written.formats) == {kind, "float32"}
    checkpoint = open_checkpoint(tmp_path / kind)
    assert checkpoint.weights["layers.1.mlp.down_proj.weight"].dtype == KINDS[kind]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / kind, dtype=torch.float32).eval()
    ours = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    with torch.no_grad():
        logits = theirs(IDS).logits
        assert (
            ours(IDS, Context(positions=torch.arange(IDS.shape[1])[None])) - logits
        ).abs().max() <= 1e-5 * logits.abs().max()
    for name, tensor in theirs.state_dict().items():
        if name.endswith("mlp.up_proj.weight"):
            weight = checkpoint.weights[name.removeprefix("model.")]
            assert np.array_equal(dequantize(weight), tensor.numpy())


def test_the_folder_says_what_is_quantized_and_in_how_many_bits(plain: Path, tmp_path: Path) -> None:
    save_quantized(tmp_path, open_checkpoint(plain), "int4", "bfloat16")
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "compressed-tensors"
    weights = said["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["strategy"]) == (4, 32, "group")
    assert said["ignore"] == ["lm_head", "model.embed_tokens"]
    tensors = load_file(tmp_path / "model.safetensors")
    packed = tensors["model.layers.0.mlp.up_proj.weight_packed"]
    assert (packed.dtype, tuple(packed.shape)) == (torch.int32, (128, 64 * 4 // 32))
    assert tensors["model.layers.0.mlp.up_proj.weight_scale"].dtype == torch.bfloat16
    assert "model.layers.0.mlp.up_proj.weight" not in tensors


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_neox", "mamba2", "phi3"])
def test_other_shapes_of_models_come_back_to_the_bit(family: str, tmp_path: Path) -> None:
    """Fused and split matrices, experts, recurrences: what the writer compares by itself, on a model of each."""
    decoder = tiny(family)
    save_checkpoint(tmp_path / "plain", decoder.config, dict(weights_of(decoder)))
    heard: list[str] = []
    save_quantized(
        tmp_path / "int8", open_checkpoint(tmp_path / "plain"), "int8", "float32", max_shard_bytes=20_000, threads=2,
        wrote=lambda stage, *_: heard.append(stage),
    )  # fmt: skip
    assert set(heard) == {"writing", "comparing"}
    assert (tmp_path / "int8" / "model.safetensors.index.json").is_file()


def test_what_the_layout_has_no_place_for_is_refused_of_every_family() -> None:
    refused = set()
    for family, module in FAMILIES.items():
        try:
            assert plan_of(module.config(module.TINY), "int8", "float32").quantized
        except UnsupportedError as error:
            refused |= {family} if "lying or stacked" in str(error) else {f"{family}: {error}"}
    assert not [name for name in refused if ":" in name]
    assert {"gpt2", "gpt_oss", "llama4_text"} <= refused
    assert len(refused) < 12


def test_a_number_that_is_none_is_refused_and_the_old_folder_stays(plain: Path, tmp_path: Path) -> None:
    save_quantized(tmp_path, open_checkpoint(plain), "int8", "float32")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    checkpoint = open_checkpoint(plain)
    name = "layers.1.mlp.up_proj.weight"
    spoiled = np.array(checkpoint.weights[name].data)
    spoiled[3, 3] = np.nan
    weights: Any = {**checkpoint.weights, name: checkpoint.weights[name].with_data(spoiled)}
    with pytest.raises(WeightsError, match="not finite"):
        save_quantized(tmp_path, replace(checkpoint, weights=weights), "int4", "float32")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_command_writes_the_tokenizer_too_and_writes_over_nothing(tmp_path: Path) -> None:
    folder, out = make_model(tmp_path, seed=0), tmp_path / "out"
    words = ["convert", str(folder), str(out), "--quantize", "int8", "-t", "1"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.stderr
    assert "opened again and compared" in first.stderr
    assert (out / "tokenizer.json").is_file()
    again = CliRunner().invoke(app, words)
    assert again.exit_code
    assert "there already" in str(again.exception or again.stderr)
    assert CliRunner().invoke(app, [*words, "--force", "-q"]).exit_code == 0
    file = tmp_path / "x.gguf"
    file.write_bytes(b"somebody's only copy")
    refused = CliRunner().invoke(app, ["convert", str(folder), str(file)])
    assert refused.exit_code
    assert file.read_bytes() == b"somebody's only copy"
