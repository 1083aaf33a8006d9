"""Saving: transformers and we read it back, and a failure leaves the folder as it was."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import MODELS, tiny_hf

from pellucid.base.array import Array
from pellucid.base.errors import CheckpointError, UnsupportedError, WeightsError
from pellucid.checkpoint import SafetensorsFile, open_checkpoint, save_checkpoint, save_safetensors
from pellucid.checkpoint.files.staging import Staging
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families import FAMILIES, gpt2, llama
from pellucid.quant import dequantize, quantize


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        name: Array.from_numpy(rng.standard_normal(shape, np.float32)) for name, shape in weight_shapes(config).items()
    }


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("shard", [10**9, 9_000])
def test_every_family_comes_back_bit_for_bit(model_type: str, shard: int, tmp_path: Path):
    config = FAMILIES[model_type].config(FAMILIES[model_type].TINY)
    weights = random_weights(config)
    save_checkpoint(tmp_path, config, weights, generation_config={"top_p": 0.9}, max_shard_bytes=shard)
    back = open_checkpoint(tmp_path)
    assert back.config.layers == config.layers
    assert (back.config.vocab_size, back.config.tie_embeddings, back.config.eos_token_ids) == (
        config.vocab_size,
        config.tie_embeddings,
        config.eos_token_ids,
    )
    assert back.generation_config == {"top_p": 0.9}
    assert (len(back.files) > 1) == (shard < 10**9)
    assert all(back.weights[name].data.tobytes() == array.data.tobytes() for name, array in weights.items())
    save_checkpoint(tmp_path, back.config, back.weights)  # over the files it reads from
    assert open_checkpoint(tmp_path).config == back.config
    assert all(
        open_checkpoint(tmp_path).weights[name].data.tobytes() == array.data.tobytes()
        for name, array in weights.items()
    )


@pytest.mark.parametrize("family", [llama, gpt2], ids=["llama", "gpt2"])
def test_transformers_reads_what_we_save(family: Any, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    config = family.config(family.TINY)
    weights = random_weights(config)
    save_checkpoint(tmp_path, config, weights, max_shard_bytes=20_000)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, dtype="auto")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    embedding = model.get_input_embeddings().weight
    assert str(embedding.dtype) == "torch.float32"
    assert np.array_equal(embedding.detach().numpy(), weights["embed.weight"].data)


def test_a_dtype_converts_every_weight_and_is_written_down(tmp_path: Path):
    config = llama.config(llama.TINY)
    weights = random_weights(config)
    weights["layers.0.attention.o_proj.weight"] = quantize(weights["layers.0.attention.o_proj.weight"].data, "q8_0")
    with pytest.raises(CheckpointError, match="is q8_0, which safetensors cannot hold"):
        save_checkpoint(tmp_path / "a", config, weights)
    save_checkpoint(tmp_path / "b", config, weights, dtype="bfloat16")
    back = open_checkpoint(tmp_path / "b")
    assert {array.dtype for array in back.weights.values()} == {"bfloat16"}
    assert json.loads((tmp_path / "b" / "config.json").read_text())["torch_dtype"] == back.config.dtype == "bfloat16"
    for name, array in weights.items():
        np.testing.assert_allclose(dequantize(back.weights[name]), dequantize(array), rtol=2**-8)


def test_weights_that_do_not_fit_the_config_are_refused_and_nothing_is_left(tmp_path: Path):
    config = llama.config(llama.TINY)
    weights = random_weights(config)
    for wrong, says in (
        ({name: array for name, array in weights.items() if name != "final_norm.weight"}, r"final_norm\.weight"),
        (weights | {"lm_head.weight": weights["embed.weight"]}, r"no place in the config, lm_head\.weight"),
        (
            weights | {"final_norm.weight": weights["embed.weight"]},
            r"final_norm\.weight has the wrong shape \(expected \[32\], received \[96, 32\]",
        ),
    ):
        with pytest.raises(WeightsError, match=says):
            save_checkpoint(tmp_path, config, wrong)
        assert not list(tmp_path.iterdir())


# ---- failures


def earlier_save(folder: Path) -> dict[str, bytes]:
    config = llama.config(llama.TINY)
    save_checkpoint(folder, config, random_weights(config), generation_config={"top_p": 0.9}, max_shard_bytes=20_000)
    return snapshot(folder)


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_disk_that_fills_up_leaves_the_earlier_save(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before, config, fsync, synced = earlier_save(tmp_path), llama.config(llama.TINY), os.fsync, []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=f"{tmp_path}: could not save: No space left on device") as raised:
        save_checkpoint(tmp_path, config, random_weights(config, seed=1), max_shard_bytes=20_000)
    assert isinstance(raised.value.__cause__, OSError)
    assert snapshot(tmp_path) == before


def test_a_write_the_system_refuses_leaves_the_earlier_save(tmp_path: Path):
    """The real thing: a limit on file sizes, in a process of its own."""
    before = earlier_save(tmp_path)
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from pellucid.base.array import Array\n"
        "from pellucid.base.errors import CheckpointError\n"
        "from pellucid.checkpoint import save_safetensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: save_safetensors(sys.argv[1], {'w': Array.from_numpy(np.ones(100_000, np.float32))})\n"
        "except CheckpointError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.safetensors"], capture_output=True, text=True, timeout=60
    )
    assert f"{tmp_path}: could not save: File too large" in result.stdout, result.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_device_is_reported_as_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = earlier_save(tmp_path)

    def open_full(self: Staging) -> Any:
        (link := self.folder / ".full.tmp").symlink_to("/dev/full")
        self._staged.append(file := open(link, "r+b"))  # noqa: SIM115
        return file

    monkeypatch.setattr(Staging, "open", open_full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_safetensors(tmp_path / "model.safetensors", {"w": Array.from_numpy(np.ones(100_000, np.float32))})
    assert snapshot(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/file: could not save"):
        save_safetensors(tmp_path / "file" / "model.safetensors", {})


def test_a_crash_between_renames_never_mixes_two_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed at any step of the commit, the folder opens as the old model, as the new one, or not at all."""
    config, replace = llama.config(llama.TINY), os.replace
    old, new = random_weights(config, seed=0), random_weights(config, seed=1)
    steps = 0
    while True:
        folder = tmp_path / f"at{steps}"
        save_checkpoint(folder, config, old, max_shard_bytes=20_000)
        done = []

        def killed(source: Any, target: Any, done: list[Any] = done, stop: int = steps) -> None:
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(target)
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        try:
            save_checkpoint(folder, config, new, max_shard_bytes=20_000)
        except KeyboardInterrupt:
            monkeypatch.setattr(os, "replace", replace)
        else:
            break
        try:
            weights = open_checkpoint(folder).weights
        except CheckpointError:
            pass
        else:
            for model in (old, new):
                if np.array_equal(weights["embed.weight"].data, model["embed.weight"].data):
                    assert all(np.array_equal(weights[name].data, model[name].data) for name in model), steps
        steps += 1
    assert steps > 4
    assert np.array_equal(open_checkpoint(folder).weights["embed.weight"].data, new["embed.weight"].data)


def test_an_empty_set_of_arrays_is_a_valid_file(tmp_path: Path):
    save_safetensors(tmp_path / "x.safetensors", {})
    assert len(SafetensorsFile(tmp_path / "x.safetensors")) == 0


# ---- what config.json has no words for


def with_mixer(config: ModelConfig, **changed: Any) -> ModelConfig:
    first, *others = config.layers
    return replace(config, layers=(replace(first, mixer=replace(first.mixer, **changed)), *others))


@pytest.mark.parametrize(
    ("field", "value"), [("scale", 0.5), ("softcap", 30.0), ("window", 8), ("o_bias", True), ("num_kv_heads", 4)]
)
def test_a_model_that_its_familys_config_cannot_describe_is_not_saved_as_another(
    field: str, value: Any, tmp_path: Path
) -> None:
    config = with_mixer(llama.config(llama.TINY), **{field: value})
    with pytest.raises(UnsupportedError, match=rf"cannot say this model's layers\.\d\.mixer\.{field} = "):
        save_checkpoint(tmp_path / "model", config, random_weights(config))
    assert not (tmp_path / "model").exists() or not list((tmp_path / "model").iterdir())


@pytest.mark.parametrize("model", MODELS)
def test_every_optional_part_of_a_family_can_be_saved_and_comes_back(model: str, tmp_path: Path) -> None:
    config = FAMILIES[model.partition("/")[0]].config(tiny_hf(model))
    weights = random_weights(config)
    save_checkpoint(tmp_path, config, weights)
    back = open_checkpoint(tmp_path)
    assert back.config.layers == config.layers
    assert all(np.array_equal(back.weights[name].data, array.data) for name, array in weights.items())
