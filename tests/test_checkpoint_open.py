"""Opening a checkpoint: which files it is made of, and its weights under our names."""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pellucid.base.array import Array
from pellucid.base.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    PellucidError,
    UnsupportedError,
    WeightsError,
)
from pellucid.checkpoint import SafetensorsFile, open_checkpoint, open_config, save_safetensors
from pellucid.checkpoint.files.release import release
from pellucid.config import ModelConfig, weight_shapes
from pellucid.families import FAMILIES, gpt2, llama, qwen2
from pellucid.families.translation.rules import to_theirs


def random_weights(config: ModelConfig) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        name: Array.from_numpy(rng.standard_normal(shape, np.float32)) for name, shape in weight_shapes(config).items()
    }


def write(
    folder: Path,
    family: Any = llama,
    extra: Mapping[str, Array] | None = None,
    without: tuple[str, ...] = (),
    **changed: Any,
) -> ModelConfig:
    """A tiny model as Hugging Face stores it, with names added and left out."""
    folder.mkdir(parents=True, exist_ok=True)
    hf = family.TINY | changed
    config = family.config(hf)
    arrays = dict(to_theirs(config, family.WEIGHTS, random_weights(config))) | dict(extra or {})
    (folder / "config.json").write_text(json.dumps(hf))
    save_safetensors(
        folder / "model.safetensors", {name: array for name, array in arrays.items() if name not in without}
    )
    return config


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_opens_with_our_names_shapes_and_values(model_type: str, tmp_path: Path):
    config = write(tmp_path, FAMILIES[model_type])
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.kind, checkpoint.path, checkpoint.tokenizer_path) == ("safetensors", tmp_path, tmp_path)
    assert checkpoint.config == config == open_config(tmp_path)
    assert list(checkpoint.weights) == list(weight_shapes(config))
    for name, array in random_weights(config).items():
        assert np.array_equal(checkpoint.weights[name].data, array.data), name
    assert checkpoint.files == {tmp_path / "model.safetensors": (tmp_path / "model.safetensors").stat().st_size}


def test_a_plain_weight_is_a_view_and_a_fused_one_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, gpt2)
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.weights["embed.weight"].data[:] = 7
    assert (checkpoint.stored["transformer.wte.weight"].data == 7).all()
    transposed: list[int] = []
    ascontiguous = np.ascontiguousarray
    monkeypatch.setattr(np, "ascontiguousarray", lambda data: transposed.append(1) or ascontiguous(data))
    for name in "qkv":
        assert checkpoint.weights[f"layers.0.attention.{name}_proj.weight"].shape == (32, 32)
    assert len(transposed) == 1
    assert checkpoint.weights["layers.0.attention.q_proj.weight"].shape == (32, 32)  # asked for again, made again
    assert len(transposed) == 2


def test_each_weight_says_what_it_is_made_of(tmp_path: Path):
    write(tmp_path, gpt2, extra={"transformer.h.0.attn.bias": ones(1, 1, 64, 64)})
    arrays = {
        name.removeprefix("transformer."): array
        for name, array in SafetensorsFile(tmp_path / "model.safetensors").items()
    }
    save_safetensors(tmp_path / "model.safetensors", arrays)
    checkpoint = open_checkpoint(tmp_path)
    names = checkpoint.weights.stored_names
    assert names.keys() == checkpoint.weights.keys()
    assert {names[f"layers.1.attention.{name}_proj.weight"] for name in "qkv"} == {"h.1.attn.c_attn.weight"}
    assert set(names.values()) == checkpoint.stored.keys() - {"h.0.attn.bias"}


def test_asking_for_a_name_that_is_not_there_is_a_key_error(stories: Path):
    weights = open_checkpoint(stories / "hf").weights
    assert "embed.weight" in weights
    assert "lm_head.weight" not in weights
    with pytest.raises(KeyError):
        weights["lm_head.weight"]


# ---- weights and config that do not fit


def ones(*shape: int) -> Array:
    return Array.from_numpy(np.ones(shape, np.float32))


def test_a_missing_head_is_named_with_the_remedy(tmp_path: Path):
    write(tmp_path, tie_word_embeddings=False, without=("lm_head.weight",))
    with pytest.raises(WeightsError, match=r"lm_head\.weight is missing[\s\S]*set tie_word_embeddings to true"):
        open_checkpoint(tmp_path)


def test_missing_and_unexpected_weights_are_named(tmp_path: Path):
    write(tmp_path, extra={"model.layers.0.self_attn.q_proj.lora": ones(1)}, without=("model.norm.weight",))
    with pytest.raises(
        WeightsError, match=r"1 missing: model\.norm\.weight; 1 unexpected: model\.layers\.0\.self_attn\.q_proj\.lora"
    ):
        open_checkpoint(tmp_path)


def test_a_shape_that_contradicts_the_config_is_named_with_both(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(llama.TINY | {"intermediate_size": 64}))
    with pytest.raises(WeightsError, match=r"gate_proj\.weight.*expected \[64, 32\], received \[48, 32\]"):
        open_checkpoint(tmp_path).weights["layers.0.mlp.gate_proj.weight"]


def test_a_weight_of_whole_numbers_is_refused(tmp_path: Path):
    write(tmp_path, extra={"model.norm.weight": Array.from_numpy(np.ones(32, np.int32))})
    with pytest.raises(WeightsError, match=r"final_norm\.weight is no floating-point weight"):
        open_checkpoint(tmp_path).weights["final_norm.weight"]


def test_known_buffers_are_left_unread(tmp_path: Path):
    write(tmp_path / "llama", extra={"model.layers.0.self_attn.rotary_emb.inv_freq": ones(4)})
    write(
        tmp_path / "gpt2",
        gpt2,
        extra={"transformer.h.0.attn.bias": ones(1, 1, 64, 64), "transformer.h.1.attn.masked_bias": ones(1)},
    )
    assert len(open_checkpoint(tmp_path / "llama").weights) == 2 + 2 * 9
    assert "layers.0.attention.q_proj.bias" in open_checkpoint(tmp_path / "gpt2").weights


def test_names_may_lack_their_familys_prefix(tmp_path: Path):
    config = write(tmp_path, gpt2, extra={"transformer.h.0.attn.bias": ones(1, 1, 64, 64)})
    arrays = {
        name.removeprefix("transformer."): array
        for name, array in SafetensorsFile(tmp_path / "model.safetensors").items()
    }
    assert "h.0.attn.c_attn.weight" in arrays
    save_safetensors(tmp_path / "model.safetensors", arrays)
    checkpoint = open_checkpoint(tmp_path)
    for name, array in random_weights(config).items():
        assert np.array_equal(checkpoint.weights[name].data, array.data), name


BAD_CONFIGS: dict[str, tuple[str, type[PellucidError]]] = {
    "not JSON": ("{", CheckpointError),
    "a list": ("[]", CheckpointError),
    "no model_type": ("{}", UnsupportedError),
    "an unknown model_type": ('{"model_type": "mystery"}', UnsupportedError),
    "a model_type that is no text": ('{"model_type": ["llama"]}', UnsupportedError),
    "too many layers": (json.dumps(llama.TINY | {"num_hidden_layers": 10**9}), ConfigError),
    "a width as text": (json.dumps(llama.TINY | {"hidden_size": "32"}), ConfigError),
    "heads that do not divide": (json.dumps(llama.TINY | {"num_attention_heads": 3}), ConfigError),
    "a norm_eps of text": (json.dumps(llama.TINY | {"rms_norm_eps": "small"}), ConfigError),
    "rope factors of nested lists": (
        json.dumps(
            llama.TINY
            | {"rope_scaling": {"rope_type": "longrope", "factor": 2, "short_factor": 5, "long_factor": [[]]}}
        ),
        ConfigError,
    ),
    "layer types that cannot be": (json.dumps(qwen2.TINY | {"layer_types": [{}, {}]}), ConfigError),
    "quantized": (json.dumps(llama.TINY | {"quantization_config": {"quant_method": "gptq"}}), UnsupportedError),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_that_cannot_be_is_refused(case: str, tmp_path: Path):
    text, error = BAD_CONFIGS[case]
    write(tmp_path)
    (tmp_path / "config.json").write_text(text)
    for opens in (open_checkpoint, open_config):
        with pytest.raises(error):
            opens(tmp_path)


def test_how_weights_are_quantized_is_named(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(llama.TINY | {"quantization_config": {"quant_method": "aqlm"}}))
    with pytest.raises(UnsupportedError, match="'aqlm'"):
        open_checkpoint(tmp_path)


# ---- which files


def test_generation_config_comes_along(tmp_path: Path):
    write(tmp_path)
    assert open_checkpoint(tmp_path).generation_config == {}
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5}')
    assert open_checkpoint(tmp_path).generation_config == {"temperature": 0.5}


def test_a_config_needs_no_weights(tmp_path: Path):
    config = write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert open_config(tmp_path) == config


def test_shards_torch_files_and_single_files_open_alike(tmp_path: Path):
    import torch

    config = write(tmp_path / "one")
    arrays = dict(SafetensorsFile(tmp_path / "one" / "model.safetensors"))
    for name in ("shards", "torch", "torch_shards"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "one" / "config.json", tmp_path / name)
    save_safetensors(tmp_path / "shards" / "model.safetensors", arrays, max_shard_bytes=20_000)
    tensors = {name: torch.from_numpy(array.data) for name, array in arrays.items()}
    torch.save(tensors, tmp_path / "torch" / "pytorch_model.bin")
    weight_map = {}
    for number, part in enumerate((list(tensors)[:5], list(tensors)[5:]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, tmp_path / "torch_shards" / file)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "torch_shards" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for path, kind, files in (
        ("one/model.safetensors", "safetensors", 1),
        ("shards", "safetensors", 5),
        ("shards/model.safetensors.index.json", "safetensors", 5),
        ("torch", "torch", 1),
        ("torch/pytorch_model.bin", "torch", 1),
        ("torch_shards", "torch", 2),
    ):
        checkpoint = open_checkpoint(tmp_path / path)
        assert (checkpoint.kind, len(checkpoint.files), checkpoint.config) == (kind, files, config), path
        assert all(
            np.array_equal(checkpoint.weights[name].data, array.data) for name, array in random_weights(config).items()
        ), path


def write_gguf(path: Path, config: ModelConfig, without: tuple[str, ...] = ()) -> None:
    assert llama.GGUF is not None
    layer = config.layers[0]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_len)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(layer.mlp.d_ff)
    writer.add_head_count(layer.mixer.num_heads)
    writer.add_head_count_kv(layer.mixer.num_kv_heads)
    writer.add_layer_norm_rms_eps(layer.norms["mlp_norm"].eps)
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(config.vocab_size)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in to_theirs(config, llama.GGUF.weights, random_weights(config)):
        if name not in without:
            writer.add_tensor(name, array.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_opens_alone_or_in_a_folder(tied: bool, tmp_path: Path):
    config = llama.config(llama.TINY | {"tie_word_embeddings": tied})
    write_gguf(tmp_path / "tiny.gguf", config)
    for path in (tmp_path, tmp_path / "tiny.gguf"):
        checkpoint = open_checkpoint(path)
        assert (checkpoint.kind, checkpoint.path, checkpoint.tokenizer_path) == ("gguf", path, None)
        assert checkpoint.config == open_config(path)
        assert checkpoint.config.layers == config.layers
        assert checkpoint.config.tie_embeddings == tied
        assert len(checkpoint.metadata["tokenizer.ggml.tokens"]) == 96
        assert all(
            np.array_equal(checkpoint.weights[name].data, array.data) for name, array in random_weights(config).items()
        )


def test_a_gguf_file_that_lacks_a_weight_is_refused(tmp_path: Path):
    write_gguf(tmp_path / "tiny.gguf", llama.config(llama.TINY), without=("blk.1.ffn_up.weight",))
    with pytest.raises(WeightsError, match=r"1 missing: blk\.1\.ffn_up\.weight"):
        open_checkpoint(tmp_path / "tiny.gguf")


def test_smollm2_has_every_weight_and_no_other(smollm2: Path):
    checkpoint = open_checkpoint(smollm2)
    assert checkpoint.config.num_parameters() == 134_515_008
    assert {name: array.shape for name, array in checkpoint.weights.items()} == weight_shapes(checkpoint.config)


def test_a_vocabulary_alone_has_a_config_and_no_weights(shared: Path):
    path = shared / "gguf_vocabs" / "ggml-vocab-llama-spm.gguf"
    assert (open_config(path).vocab_size, open_config(path).num_layers) == (32000, 32)
    with pytest.raises(WeightsError, match="0 tensors cannot be a model of 32 layers"):
        open_checkpoint(path)


def touch(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in names:
            (folder / name).write_bytes(b"something")
        return folder

    return make


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda folder: folder / "nowhere", ModelNotFoundError, "no such file or folder"),
        (touch(), CheckpointError, "received an empty folder"),
        (touch("config.json", "notes.txt"), CheckpointError, r"received config\.json, notes\.txt"),
        (touch("stories.bin"), CheckpointError, r"named by its file: .*stories\.bin"),
        (touch("a.gguf", "b.gguf"), CheckpointError, r"several models \(received a\.gguf, b\.gguf\)"),
        (touch("adapter_config.json", "adapter_model.safetensors"), CheckpointError, "adapter"),
        (
            lambda folder: touch("model-00001-of-00002.safetensors")(folder) / "model-00001-of-00002.safetensors",
            CheckpointError,
            "one part",
        ),
        (lambda folder: touch("notes.txt")(folder) / "notes.txt", CheckpointError, "no checkpoint that we know"),
        (
            lambda folder: shutil.copy(touch("x")(folder) / "x", folder / "model.safetensors"),
            ModelNotFoundError,
            r"no config\.json",
        ),
    ],
)
def test_what_is_no_checkpoint_is_said_with_what_is_there(
    make: Callable[[Path], Path], error: type[PellucidError], says: str, tmp_path: Path
):
    path = Path(make(tmp_path))
    for opens in (open_checkpoint, open_config):
        if opens is open_config and (path / "config.json").is_file():
            continue
        with pytest.raises(error, match=says):
            opens(path)


# ---- memory


def resident() -> int:
    """Bytes of files that are in this process's memory."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssFile"].split()[0]) * 1024


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or not hasattr(mmap, "MADV_DONTNEED"),
    reason="Linux counts resident pages by kind",
)
def test_released_weights_give_their_memory_back(tmp_path: Path):
    big, small = Array.from_numpy(np.ones((4096, 4096), np.float32)), ones(3)
    save_safetensors(tmp_path / "x.safetensors", {"small": small, "big": big})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    before = resident()
    assert file["big"].data.sum() == 4096**2
    assert resident() - before > 0.9 * big.nbytes
    release(file["big"])
    assert resident() - before < 0.1 * big.nbytes
    assert (file["big"].data[:, 0] == 1).all()  # read again, from the file
    release(small)  # no view of a map: nothing happens
    assert small.data.tolist() == [1, 1, 1]


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system cannot release pages")
def test_releasing_leaves_what_was_written_to_a_neighbour(tmp_path: Path):
    save_safetensors(tmp_path / "x.safetensors", {"a": ones(3), "b": ones(5000), "c": ones(3)})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    file["a"].data[:] = file["c"].data[:] = 5
    release(file["b"])
    assert file["a"].data.tolist() == file["c"].data.tolist() == [5, 5, 5]
