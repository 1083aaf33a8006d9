"""Adapters on disk: they open as the model they make, for every executor and command; what does not fit, or is hostile,
is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import telling
from test_checkpoint_hostile import damage, opens_or_says_why

from pellucid import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from pellucid.auto import open_executor, open_model
from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, ModelNotFoundError, UnsupportedError, WeightsError
from pellucid.checkpoint.adapters.adapted import fingerprint, is_adapter, merged
from pellucid.checkpoint.adapters.adapter import read_adapter, write_adapter
from pellucid.checkpoint.adapters.lora import LoraSettings, Update, projections
from pellucid.checkpoint.files.safetensors import SafetensorsFile
from pellucid.checkpoint.files.safetensors_write import save_safetensors
from pellucid.checkpoint.open import open_checkpoint
from pellucid.config import ModelConfig, weight_shapes
from pellucid.executor import StepInput
from pellucid.families import FAMILIES, llama
from pellucid.quant import dequantize, quantize

TINY = llama.config(llama.TINY)


def updates_for(
    config: ModelConfig, leaves: tuple[str, ...] = ("q_proj", "down_proj"), rank: int = 2
) -> dict[str, Update]:
    generator, shapes = np.random.default_rng(0), weight_shapes(config)
    made = {}
    for projection in projections(config):
        for name in projection.ours:
            if name.endswith(leaves):
                out, into = shapes[f"{name}.weight"]
                a, b = (generator.normal(0, 0.2, shape).astype(np.float32) for shape in ((rank, into), (out, rank)))
                made[name] = Update(Array.from_numpy(a), Array.from_numpy(b), 2.0)
    return made


@pytest.fixture(scope="module")
def base(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K as a Hugging Face folder, its tokenizer with it."""
    folder = tmp_path_factory.mktemp("base")
    for file in (stories / "hf").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    AutoTokenizer.from_pretrained(stories / "stories260K.bin").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """An adapter of stories260K."""
    checkpoint = open_checkpoint(base)
    its = LoraSettings(rank=2, alpha=4, targets=("q_proj", "down_proj"))
    write_adapter(
        tmp_path / "adapter",
        checkpoint.config,
        its,
        updates_for(checkpoint.config),
        base=str(base),
        base_sha256=fingerprint(checkpoint.stored),
    )
    return tmp_path / "adapter"


def rewrite(folder: Path, **keys: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


# --- opening ---------------------------------------------------------------------------------------------------------


def test_it_opens_as_its_base_with_the_updates_folded_in(folder: Path, base: Path) -> None:
    assert is_adapter(folder)
    assert not is_adapter(base)
    checkpoint, plain, updates = open_model(folder), open_checkpoint(base), updates_for(open_checkpoint(base).config)
    assert checkpoint.config == plain.config == AutoConfig.from_pretrained(folder)
    assert list(checkpoint.weights) == list(plain.weights)
    for name in plain.weights:
        update = updates.get(name.removesuffix(".weight"))
        expected = dequantize(plain.weights[name])
        if update is not None:
            expected = expected + 2 * update.b.data @ update.a.data
        np.testing.assert_allclose(dequantize(checkpoint.weights[name]), expected, rtol=0, atol=1e-6)
    assert AutoTokenizer.from_pretrained(folder).encode("Once upon") == AutoTokenizer.from_pretrained(base).encode(
        "Once upon"
    )


def test_native_and_torch_run_it_alike_and_unlike_the_base(folder: Path, base: Path) -> None:
    ids = AutoTokenizer.from_pretrained(folder).encode("Once upon a time")
    found = {}
    for name, kind in ((folder, "torch"), (folder, "native"), (base, "torch")):
        executor = open_executor(open_model(name), executor=kind, device="cpu")
        found[name, kind] = executor.step([StepInput(executor.allocate(len(ids)), ids, [len(ids) - 1])]).numpy()
    scale = np.abs(found[folder, "torch"]).max()
    np.testing.assert_allclose(found[folder, "native"], found[folder, "torch"], rtol=0, atol=1e-4 * scale)
    assert np.abs(found[base, "torch"] - found[folder, "torch"]).max() > 0.01 * scale


def test_generate_takes_it_with_m_and_says_what_the_model_says(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pellucid",
        "generate",
        "-m",
        str(folder),
        "-p",
        "Once upon a time",
        "-n",
        "12",
        "--executor",
        "torch",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, device="cpu"), AutoTokenizer.from_pretrained(folder)
    ids = model.generate(torch.tensor([tokenizer.encode("Once upon a time")]), max_new_tokens=12)
    assert tokenizer.decode(
        ids[0].tolist(), skip_special_tokens=True
    ).strip() == "Once upon a time" + run.stdout.rstrip("\n")


def test_convert_writes_the_merged_model(folder: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pellucid", "convert", str(folder), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    written, expected = open_checkpoint(tmp_path / "out"), open_model(folder)
    assert written.config == expected.config
    for name in expected.weights:
        assert np.array_equal(written.weights[name].data, expected.weights[name].data), name
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("Once upon") == AutoTokenizer.from_pretrained(
        folder
    ).encode("Once upon")


def test_the_base_may_be_named_from_the_adapters_folder_or_from_here(
    folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "model").symlink_to(base)
    rewrite(folder, base_model_name_or_path="../model")
    assert open_model(folder).config == open_checkpoint(base).config
    monkeypatch.chdir(folder.parent)
    rewrite(folder, base_model_name_or_path="model")
    assert open_model(folder).config == open_checkpoint(base).config


def test_a_weight_in_blocks_becomes_float32_and_others_keep_their_dtype() -> None:
    values = np.random.default_rng(0).normal(0, 1, (4, 32)).astype(np.float32)
    update = Update(Array.from_numpy(values[:1]), Array.from_numpy(values[:, :1].copy()), 0.5)
    blocks = merged(quantize(values, "q8_0"), update)
    assert blocks.dtype == "float32"
    np.testing.assert_allclose(
        blocks.data, dequantize(quantize(values, "q8_0")) + 0.5 * values[:, :1] @ values[:1], rtol=1e-6
    )
    half = merged(Array.from_numpy(values.astype(np.float16)), update)
    assert half.dtype == "float16"
    np.testing.assert_array_equal(merged(quantize(values, "q4_0"), None).data, dequantize(quantize(values, "q4_0")))
    untouched = Array.from_numpy(values.astype(np.float16))
    assert merged(untouched, None) is untouched


def test_over_a_gguf_file_it_has_the_files_tokenizer_or_one_of_its_own(
    smollm2: Path, base: Path, tmp_path: Path
) -> None:
    plain = open_checkpoint(smollm2)
    updates = {
        name: update for name, update in updates_for(plain.config, ("q_proj",)).items() if name.startswith("layers.0.")
    }
    its = LoraSettings(rank=2, alpha=4, targets=tuple(updates))
    write_adapter(tmp_path, plain.config, its, updates, base=str(smollm2), base_sha256=fingerprint(plain.stored))
    weights = open_model(tmp_path).weights
    assert (weights["layers.0.attention.q_proj.weight"].dtype, weights["layers.0.attention.k_proj.weight"].dtype) == (
        "float32",
        "float32",
    )
    text = "Once upon a time"
    assert AutoTokenizer.from_pretrained(tmp_path).encode(text) == AutoTokenizer.from_pretrained(smollm2).encode(text)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode(text) == AutoTokenizer.from_pretrained(base).encode(text)


@pytest.mark.parametrize("family", telling(list(FAMILIES)))
def test_every_family_writes_and_reads_its_own_bit_for_bit(family: str, tmp_path: Path) -> None:
    config = FAMILIES[family].config(FAMILIES[family].TINY)
    updates = updates_for(config, ("o_proj", "down_proj"))
    write_adapter(tmp_path, config, LoraSettings(rank=2, alpha=4), updates)
    back = read_adapter(tmp_path, config)
    assert back.updates.keys() == updates.keys()
    for name, update in updates.items():
        its = back.updates[name]
        assert (its.scale, its.a.data.tobytes(), its.b.data.tobytes()) == (
            2.0,
            update.a.data.tobytes(),
            update.b.data.tobytes(),
        )


def test_a_pickled_adapter_is_read_without_running_it(folder: Path, base: Path) -> None:
    expected = open_model(folder).weights["layers.0.attention.q_proj.weight"].data
    tensors = SafetensorsFile(folder / "adapter_model.safetensors")
    state = {name: torch.from_numpy(array.data.copy()) for name, array in tensors.items()}
    (folder / "adapter_model.safetensors").unlink()
    torch.save(state, folder / "adapter_model.bin")
    assert np.array_equal(open_model(folder).weights["layers.0.attention.q_proj.weight"].data, expected)
    torch.save({"x": Path}, folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        open_model(folder)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_another_model_of_the_same_shapes_is_noticed(folder: Path, base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, device="cpu")
    model.embed.weight.data += 1
    model.save_pretrained(tmp_path / "other")
    rewrite(folder, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="not the model that was adapted"):
        open_model(folder)


def test_an_adapter_of_another_shape_names_tensor_and_shapes(folder: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"q_proj\.lora_A\.weight has the wrong shape \(expected \[2, 32\], received \[2, 64\]\)"
    ):
        read_adapter(folder, TINY)


def test_tensors_that_belong_nowhere_are_named(folder: Path, base: Path) -> None:
    config, tensors = open_checkpoint(base).config, dict(SafetensorsFile(folder / "adapter_model.safetensors"))

    def with_tensor(name: str) -> None:
        save_safetensors(folder / "adapter_model.safetensors", {**tensors, name: next(iter(tensors.values()))})

    with_tensor("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight")
    with pytest.raises(WeightsError, match=r"of 5 layers.* has no linear map for base_model\.model\.model\.layers\.7"):
        read_adapter(folder, config)
    with_tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector")
    with pytest.raises(UnsupportedError, match="lora_magnitude_vector is no part of a plain LoRA"):
        read_adapter(folder, config)
    with_tensor("base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight")
    with pytest.raises(WeightsError, match="without the other half"):
        read_adapter(folder, config)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "peft_type 'IA3'"),
        ({"use_dora": True}, WeightsError, "lora_magnitude_vector.* is absent, though use_dora"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedError, "one table, one is changed alone"),
        ({"modules_to_save": ["norm"]}, WeightsError, "norm.weight is absent, which modules_to_save names"),
        ({"modules_to_save": ["nothing"]}, WeightsError, "no module 'nothing'"),
        ({"modules_to_save": "lm_head"}, CheckpointError, "must be names"),
        ({"init_lora_weights": "pissa"}, UnsupportedError, "init_lora_weights = 'pissa'"),
        ({"bias": "all"}, UnsupportedError, "bias"),
        ({"rank_pattern": {"(a+)+b": 3}}, UnsupportedError, "regular expression"),
        ({"rank_pattern": {"q_proj": 3}}, WeightsError, "wrong shape"),
        ({"r": 10**9}, CheckpointError, "rank"),
        ({"r": "2"}, CheckpointError, "rank"),
        ({"lora_alpha": float("nan")}, CheckpointError, "alpha"),
        ({"target_modules": {"a": 1}}, CheckpointError, "target_modules"),
        ({"alpha_pattern": {"q_proj": -1}}, CheckpointError, "alpha_pattern"),
        ({"base_model_name_or_path": None}, ModelNotFoundError, "does not say which model"),
        ({"base_model_name_or_path": "nowhere/to/be/found"}, ModelNotFoundError, "not to be had"),
        ({"base_model_name_or_path": "."}, CheckpointError, "each other.s base"),
        ({"base_model_name_or_path": ["x"]}, CheckpointError, "named by a path"),
        ({"base_model_name_or_path": "x" * 5000}, CheckpointError, "named by a path"),
        ({"base_model_name_or_path": "a\0b"}, CheckpointError, "named by a path"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_configs_that_cannot_be_are_refused_by_name(
    folder: Path, keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    rewrite(folder, **keys)
    with pytest.raises(error, match=message):
        open_model(folder, offline=True)


def test_tensors_outside_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_model.safetensors").rename(tmp_path / "outside")
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        open_model(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_answer_or_an_error_that_says_why(name: str, data: st.DataObject, tmp_path: Path) -> None:
    write_adapter(tmp_path / "whole", TINY, LoraSettings(rank=2), updates_for(TINY), base="somewhere")
    for file in (tmp_path / "whole").iterdir():
        whole = file.read_bytes()
        (tmp_path / file.name).write_bytes(data.draw(damage(whole, 1000)) if file.name == name else whole)

    def read() -> dict[str, Array]:
        return {
            f"{module}.{part}": getattr(update, part)
            for module, update in read_adapter(tmp_path, TINY).updates.items()
            for part in "ab"
        }

    opener: Callable[[], Any] = read
    opens_or_says_why(opener)


# ---- keys of adapter_config.json


def test_whatever_peft_writes_of_a_plain_adapter_is_understood(
    folder: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import LoraConfig

    written = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM").to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in written.items()}
    settings = read_adapter(folder, open_checkpoint(base).config).settings
    rewrite(folder, **{key: value for key, value in plain.items() if key != "base_model_name_or_path"})
    capsys.readouterr()
    assert read_adapter(folder, open_checkpoint(base).config).settings.rank == settings.rank
    assert not capsys.readouterr().err


@pytest.mark.parametrize("key", ["use_tomorrows_dora", "b_scaling", "lora_b_bias", "tomorrow_config"])
def test_a_key_of_a_later_peft_that_changes_the_result_is_refused(key: str, folder: Path, base: Path) -> None:
    rewrite(folder, **{key: True})
    with pytest.raises(UnsupportedError, match=f"{key} = 'True' is not implemented"):
        read_adapter(folder, open_checkpoint(base).config)
    rewrite(folder, **{key: False})
    read_adapter(folder, open_checkpoint(base).config)


def test_a_key_that_nobody_knows_is_reported(folder: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder, made_on="a Tuesday")
    read_adapter(folder, open_checkpoint(base).config)
    assert "nothing here reads made_on" in capsys.readouterr().err
