"""Names in files: behind a wrapper's prefix, without their own, saved once for two, or more than the model has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from pellucid.base.errors import CheckpointError, WeightsError
from pellucid.checkpoint import open_checkpoint, save_checkpoint
from pellucid.checkpoint.open import Checkpoint
from pellucid.families import gpt2, llama
from pellucid.model.context import Context
from pellucid.model.load import load_decoder

IDS = torch.tensor([[1, 5, 9, 2, 7, 30, 4]])
State = dict[str, torch.Tensor]


def reference(family: str = "llama", **changed: object) -> transformers.PreTrainedModel:
    hf: dict[str, Any] = {"llama": llama.TINY, "gpt2": gpt2.TINY}[family] | {"initializer_range": 0.5} | changed
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**hf)
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def write(
    folder: Path, model: transformers.PreTrainedModel, rename: Callable[[str], str], **more: torch.Tensor
) -> Path:
    """The model's own files, with every name changed and some tensors more."""
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    tied = model.config.tie_word_embeddings
    state = {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    tensors = {rename(name): value.clone() for name, value in state.items()} | more
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    with torch.no_grad():
        return decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))


def assert_equal_logits(folder: Path, model: transformers.PreTrainedModel) -> Checkpoint:
    checkpoint, theirs = open_checkpoint(folder), model(IDS).logits
    assert (logits(checkpoint) - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    return checkpoint


RENAMED: dict[str, tuple[str, Callable[[str], str]]] = {
    "data parallel": ("llama", lambda name: f"module.{name}"),
    "compiled": ("llama", lambda name: f"_orig_mod.{name}"),
    "both": ("gpt2", lambda name: f"module._orig_mod.{name}"),
    "layers compiled one by one": ("llama", lambda name: name.replace(".self_attn", "._orig_mod.self_attn")),
    "FSDP": (
        "llama",
        lambda name: f"_fsdp_wrapped_module.{name}".replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    ),
    "one model. too many": ("llama", lambda name: f"model.{name}"),
    "one transformer. too many": ("gpt2", lambda name: f"transformer.{name}"),
    "without model.": ("llama", lambda name: name.removeprefix("model.")),
    "without transformer.": ("gpt2", lambda name: name.removeprefix("transformer.")),
    "a value head's model": ("llama", lambda name: f"pretrained_model.{name}"),
    "compiled, without model.": ("llama", lambda name: f"_orig_mod.{name.removeprefix('model.')}"),
    "a wrapper of somebody's own": ("llama", lambda name: f"net.backbone.{name}"),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("case", RENAMED)
def test_a_wrappers_prefix_is_found_and_said(
    case: str, tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family, rename = RENAMED[case]
    model = reference(family, tie_word_embeddings=tied)
    checkpoint = assert_equal_logits(write(tmp_path, model, rename), model)
    assert checkpoint.config.tie_embeddings == tied
    assert capsys.readouterr().err.count("\n") == 1  # one line that says how the names were read


def test_two_models_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    model = reference()
    more = {f"teacher.{name}": value.clone() for name, value in model.state_dict().items()}
    write(tmp_path, model, lambda name: f"student.{name}", **more)
    with pytest.raises(WeightsError, match=r"two models.*(student.*teacher|teacher.*student)"):
        open_checkpoint(tmp_path)


# ---- what is no part of the model


EXTRA = {
    "a value head": "v_head.summary.weight",
    "a score head": "score.weight",
    "another model's part": "mtp.fc.weight",
    "a buffer": "model.rotary_emb.original_inv_freq",
    "a layer beyond": "model.layers.2.mlp.up_proj.weight",
    "a bias that the config has not": "model.layers.0.self_attn.q_proj.bias",
}


@pytest.mark.parametrize("case", EXTRA)
def test_what_transformers_loads_with_a_warning_we_load_with_a_notice(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = reference()
    write(tmp_path, model, str, **{EXTRA[case]: torch.ones(48, 32)})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval().requires_grad_(False)
    assert_equal_logits(tmp_path, theirs)
    assert f"left unread: {EXTRA[case]}" in capsys.readouterr().err


def test_a_model_with_fewer_layers_than_its_file_is_named_and_equals_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, reference(), str)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 1}))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval().requires_grad_(False)
    assert_equal_logits(tmp_path, theirs)
    assert "9 tensors are no part of the model" in capsys.readouterr().err


def test_what_is_missing_is_an_error_and_names_what_is_there_instead(tmp_path: Path) -> None:
    write(tmp_path, reference(), lambda name: name.replace("q_proj.weight", "q_proj.base_layer.weight"))
    with pytest.raises(
        WeightsError, match=r"2 missing: model.layers.0.self_attn.q_proj.weight.*2 unexpected: .*base_layer"
    ):
        open_checkpoint(tmp_path)


# ---- tied tables


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tied_pair_that_safetensors_saved_once_opens_under_either_name(family: str, tmp_path: Path) -> None:
    """``save_model`` drops all but one of the names of a shared tensor, by the alphabet: the head is kept."""
    model = reference(family, tie_word_embeddings=True)
    model.config.save_pretrained(tmp_path)
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    assert "lm_head.weight" in safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert assert_equal_logits(tmp_path, model).config.tie_embeddings
    again = tmp_path / "again"
    checkpoint = open_checkpoint(tmp_path)
    save_checkpoint(again, checkpoint.config, checkpoint.weights)
    assert_equal_logits(again, model)


def test_a_tied_pair_of_which_only_the_head_is_there_is_the_table(tmp_path: Path) -> None:
    model = reference(tie_word_embeddings=True)
    write(tmp_path, model, lambda name: "lm_head.weight" if "embed_tokens" in name else name)
    assert assert_equal_logits(tmp_path, model).config.tie_embeddings


def test_other_tensors_that_were_shared_when_they_were_saved_are_found_by_the_name_they_have(tmp_path: Path) -> None:
    model = reference(tie_word_embeddings=False)
    model.model.layers[1].mlp = model.model.layers[0].mlp
    model.config.save_pretrained(tmp_path)
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    assert_equal_logits(tmp_path, model)


def test_a_tied_pair_stored_twice_alike_is_tied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = reference(tie_word_embeddings=True)
    table = model.state_dict()["model.embed_tokens.weight"].clone()
    write(tmp_path, model, str, **{"lm_head.weight": table})
    assert assert_equal_logits(tmp_path, model).config.tie_embeddings
    assert not capsys.readouterr().err


def test_another_head_than_the_tied_table_is_kept_as_transformers_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = reference(tie_word_embeddings=True)
    head = model.state_dict()["model.embed_tokens.weight"].clone()
    head[95, 31] += 1  # the last number of the table alone
    write(tmp_path, model, str, **{"lm_head.weight": head})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval().requires_grad_(False)
    assert not torch.equal(theirs(IDS).logits, model(IDS).logits)
    assert not assert_equal_logits(tmp_path, theirs).config.tie_embeddings
    assert "the stored head is kept" in capsys.readouterr().err


# ---- shards


def shards(folder: Path, model: transformers.PreTrainedModel) -> tuple[Path, list[Path]]:
    model.save_pretrained(folder, max_shard_size="12KB")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    return folder / "model.safetensors.index.json", files


def test_a_shard_that_holds_more_than_its_index_says_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = reference()
    index, files = shards(tmp_path, model)
    tensors = safetensors.torch.load_file(files[0])
    safetensors.torch.save_file(tensors | {"mtp.fc.weight": torch.ones(3)}, files[0], {"format": "pt"})
    assert_equal_logits(tmp_path, model)
    assert "mtp.fc.weight" in capsys.readouterr().err
    weight_map = json.loads(index.read_text())
    del weight_map["weight_map"]["model.norm.weight"]  # a file holds it all the same
    index.write_text(json.dumps(weight_map))
    assert_equal_logits(tmp_path, model)


def test_where_two_shards_hold_a_tensor_the_index_says_which_counts(tmp_path: Path) -> None:
    model = reference()
    index, files = shards(tmp_path, model)
    stale = next(
        file for file in files if file.name != json.loads(index.read_text())["weight_map"]["model.norm.weight"]
    )
    tensors = safetensors.torch.load_file(stale) | {"model.norm.weight": torch.zeros(32)}
    safetensors.torch.save_file(tensors, stale, {"format": "pt"})
    assert_equal_logits(tmp_path, model)


def test_an_index_may_name_what_no_file_holds_and_nobody_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = reference()
    index, files = shards(tmp_path, model)
    written = json.loads(index.read_text())
    written["weight_map"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = files[0].name
    index.write_text(json.dumps(written))
    assert_equal_logits(tmp_path, model)
    assert "lack model.layers.0.self_attn.rotary_emb.inv_freq" in capsys.readouterr().err


def test_a_folder_of_links_into_a_hub_cache_opens(tmp_path: Path) -> None:
    model = reference()
    _, files = shards(tmp_path / "real", model)
    blobs = tmp_path / "hub" / "models--org--name" / "blobs"
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    linked = tmp_path / "linked"
    linked.mkdir()
    for number, file in enumerate([*files, *(tmp_path / "real").glob("*.json")]):
        shutil.move(file, blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
        (linked / file.name).symlink_to(snapshot / file.name)
    assert_equal_logits(linked, model)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(snapshot)
    assert_equal_logits(elsewhere, model)


def test_a_folder_of_links_to_files_of_the_same_kind_opens_and_to_others_is_refused(tmp_path: Path) -> None:
    model = reference()
    _, files = shards(tmp_path / "real", model)
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in (tmp_path / "real").iterdir():
        (linked / file.name).symlink_to(file)
    assert_equal_logits(linked, model)
    (linked / files[1].name).unlink()
    (linked / files[1].name).symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        open_checkpoint(linked)


def test_names_are_found_in_linear_time(tmp_path: Path) -> None:
    """Ten thousand names behind a prefix: seconds would be too many."""
    import time

    from pellucid.checkpoint.naming import naming

    config = llama.config(llama.TINY | {"num_hidden_layers": 1000})
    known = {theirs for rule in llama.WEIGHTS for theirs, _, _ in rule.places(config)}
    start = time.perf_counter()
    named = naming(known, llama.WEIGHTS, [f"a.b.{name}" for name in sorted(known)], (), "here")
    assert set(named.names) == known
    assert time.perf_counter() - start < 5
    assert np.all([name == f"a.b.{full}" for full, name in named.names.items()])
