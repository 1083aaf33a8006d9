"""GGUF's metadata read as llama.cpp reads them: rotary scaling, lists of one value a layer, biases that may be absent.

The logits are held to transformers' of the same weights, with the settings that llama.cpp makes of the metadata.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from llamacpp import logits_of
from reference import tiny

from pellucid.base.array import Array
from pellucid.base.errors import ConfigError, UnsupportedError, WeightsError
from pellucid.checkpoint import open_checkpoint, open_config
from pellucid.checkpoint.files.gguf import read_metadata
from pellucid.config import PartNorms
from pellucid.families import FAMILIES, chatglm
from pellucid.families.translation.rules import Rule, as_stored, matches, to_ours, to_theirs
from pellucid.model.context import Context
from pellucid.model.load import load_decoder, to_tensor, weights_of

IDS = torch.tensor([[1, 5, 9, 2, 7, 30, 4, 61, 13, 8, 90, 3, 22, 47, 5, 19, 33, 71, 80, 6, 2]])


def reference(family: str = "llama", **changed: Any) -> transformers.PreTrainedModel:
    hf = FAMILIES[family].TINY | {"tie_word_embeddings": False, "initializer_range": 0.5} | changed
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**hf)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    corrections = [(name, buffer) for name, buffer in model.named_buffers() if name.endswith("correction_bias")]
    for name, parameter in (*model.named_parameters(), *corrections):
        if name.endswith(("bias", "sinks")):
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    return model.requires_grad_(False)


def write(
    path: Path,
    model: transformers.PreTrainedModel,
    architecture: str = "llama",
    rules: tuple[Rule, ...] | None = None,
    without: tuple[str, ...] = (),
    beside: dict[str, np.ndarray] | None = None,
    **keys: Any,
) -> Path:
    """The model's own weights as llama.cpp's converter writes them, with the gguf package, and ``keys`` of the
    architecture's metadata: ``rope__scaling__type="yarn"``.
    """
    hf = model.config.to_dict()
    family = FAMILIES[hf["model_type"]]
    config = family.config(hf)
    tensors = dict(model.state_dict())
    head = tensors.pop("lm_head.weight")
    if not config.tie_embeddings:
        tensors[next(rule.theirs for rule in family.WEIGHTS if rule.ours == "lm_head.weight")] = head
    stored = {name: Array.from_numpy(tensor.numpy()) for name, tensor in tensors.items()}
    own = as_stored(config, family.WEIGHTS, getattr(family, "ALSO", ()), stored)
    ours = {name: make()[name] for name, make in to_ours(config, own, stored, "here").items()}
    attention, mlp = next(layer.attends for layer in config.layers if layer.attends), config.layers[0].mlp
    written: dict[str, Any] = {
        "block_count": config.num_layers,
        "context_length": config.context_len,
        "embedding_length": config.d_model,
        "feed_forward_length": mlp.d_ff,
        "attention__head_count": attention.num_heads,
        "attention__head_count_kv": attention.num_kv_heads,
        "attention__key_length": attention.head_dim,
        "attention__layer_norm_rms_epsilon": config.final_norm.eps if config.final_norm else 0.0,
    } | keys
    writer = gguf.GGUFWriter(path, architecture)
    if (tokenizer := written.pop("tokenizer", None)) is not None:
        writer.add_tokenizer_model(tokenizer)
    for name, value in written.items():
        key = f"{architecture}.{name.replace('__', '.')}"
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            (writer.add_array if isinstance(value, list) else add[type(value)])(key, value)
    for name, array in to_theirs(config, rules or family.GGUF.weights, ours):
        if name not in without:
            writer.add_tensor(name, np.ascontiguousarray(array.data))
    for name, values in (beside or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_logits(path: Path, model: transformers.PreTrainedModel) -> None:
    checkpoint, theirs = open_checkpoint(path), model(IDS).logits
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    with torch.no_grad():
        ours = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


# ---- rotary scaling

LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# metadata -> what it is in transformers' words
SCALINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none of it": ({}, {}),
    "a base": ({"rope__freq_base": 500.0}, {"rope_theta": 500.0}),
    "linear": ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, LINEAR),
    "the factor's old name": ({"rope__scale_linear": 4.0}, LINEAR),
    "a factor without a type is linear": ({"rope__scaling__factor": 4.0}, LINEAR),
    "the new name counts": ({"rope__scale_linear": 2.0, "rope__scaling__factor": 4.0}, LINEAR),
    "a factor of 0 does not scale": ({"rope__scaling__type": "linear", "rope__scaling__factor": 0.0}, {}),
    "a yarn of factor 0 does not scale": ({"rope__scaling__type": "yarn", "rope__scaling__factor": 0.0}, {}),
    "type none does not scale": ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, {}),
    "yarn": (
        {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 16},
        {"rope_scaling": YARN},
    ),
    "yarn without an original length": (
        {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0},
        {"rope_scaling": YARN | {"original_max_position_embeddings": 64}},
    ),
    "yarn's attn_factor of 1 changes nothing": (
        {
            "rope__scaling__type": "yarn",
            "rope__scaling__factor": 4.0,
            "rope__scaling__original_context_length": 16,
            "rope__scaling__attn_factor": 1.0,
        },
        {"rope_scaling": YARN},
    ),
    "yarn's attn_factor multiplies": (
        {
            "rope__scaling__type": "yarn",
            "rope__scaling__factor": 4.0,
            "rope__scaling__original_context_length": 16,
            "rope__scaling__attn_factor": 0.75,
        },
        {"rope_scaling": YARN | {"attention_factor": 0.75 * (0.1 * float(np.log(4.0)) + 1.0)}},
    ),
    "yarn's betas": (
        {
            "rope__scaling__type": "yarn",
            "rope__scaling__factor": 4.0,
            "rope__scaling__original_context_length": 16,
            "rope__scaling__yarn_beta_fast": 2.0,
            "rope__scaling__yarn_beta_slow": 0.5,
            "rope__scaling__yarn_ext_factor": 1.0,
            "rope__scaling__yarn_log_multiplier": 0.0,
        },
        {"rope_scaling": YARN | {"beta_fast": 2.0, "beta_slow": 0.5}},
    ),
    "the whole of a head turns": ({"rope__dimension_count": 8}, {}),
}


@pytest.mark.parametrize("case", SCALINGS)
def test_rotary_metadata_give_the_logits_of_what_llama_cpp_makes_of_them(case: str, tmp_path: Path) -> None:
    keys, changed = SCALINGS[case]
    model = reference(**changed)
    assert_logits(write(tmp_path / "x.gguf", model, **keys), model)


REFUSED: dict[str, dict[str, Any]] = {
    "rope.dimension_count": {"rope__dimension_count": 4},
    "rope.scaling.type": {"rope__scaling__type": "longrope", "rope__scaling__factor": 4.0},
    "rope.scaling.attn_factor": {"rope__scaling__attn_factor": 1.2},
    "rope.scaling.yarn_ext_factor": {
        "rope__scaling__type": "yarn",
        "rope__scaling__factor": 4.0,
        "rope__scaling__yarn_ext_factor": 0.5,
    },
    "rope.scaling.yarn_log_multiplier": {
        "rope__scaling__type": "yarn",
        "rope__scaling__factor": 4.0,
        "rope__scaling__yarn_log_multiplier": 0.1,
    },
    "rope.scaling.yarn_attn_factor": {"rope__scaling__yarn_attn_factor": 2.0},
    "rope.scaling.alpha": {"rope__scaling__alpha": 1000.0},
    "rope.freq_base_swa": {"rope__freq_base_swa": 10000.0},
    "rope.dimension_sections": {"rope__dimension_sections": [2, 1, 1, 0]},
    "attention.scale": {"attention__scale": 0.1},
    "attention.value_length": {"attention__value_length": 16},
    "attention.sliding_window": {"attention__sliding_window": 8},
    "attention.clamp_kqv": {"attention__clamp_kqv": 8.0},
    "attention.max_alibi_bias": {"attention__max_alibi_bias": 8.0},
    "attention.causal": {"attention__causal": False},
    "attention.kv_lora_rank": {"attention__kv_lora_rank": 512},
    "final_logit_softcapping": {"final_logit_softcapping": 20.0},
    "logit_scale": {"logit_scale": 0.5},
    "residual_scale": {"residual_scale": 0.22},
    "embedding_scale": {"embedding_scale": 12.0},
    "use_parallel_residual": {"use_parallel_residual": True},
    "expert_shared_count": {"expert_shared_count": 1},
    "ssm.inner_size": {"ssm__inner_size": 64},
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_changes_the_numbers_and_is_not_followed_is_refused_by_name(key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", reference(), **REFUSED[key])
    for opens in (open_checkpoint, open_config):
        with pytest.raises(UnsupportedError, match=rf"llama\.{key}"):
            opens(path)


def test_a_key_that_nobody_knows_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = reference()
    path = write(tmp_path / "x.gguf", model, key_of_tomorrow=3, vocab_size=96, attention__sliding_window=64)
    assert_logits(path, model)
    assert capsys.readouterr().err.strip().endswith("nothing here reads llama.key_of_tomorrow; they have no effect")


def test_what_llama_cpps_own_saver_writes_of_every_model_is_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Source: llama.cpp, llama-model-saver.cpp, add_kv_from_model; its structs' defaults where a model has no value."""
    model = reference()
    saved: dict[str, Any] = {
        "vocab_size": 96,
        "leading_dense_block_count": 0,
        "expert_feed_forward_length": 0,
        "expert_shared_feed_forward_length": 0,
        "use_parallel_residual": False,
        "expert_count": 0,
        "expert_used_count": 0,
        "expert_shared_count": 0,
        "expert_weights_scale": 0.0,
        "pooling_type": 0,
        "logit_scale": 0.0,
        "decoder_start_token_id": 2**32 - 1,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "swin_norm": False,
        "rescale_every_n_layers": 0,
        "time_mix_extra_dim": 0,
        "time_decay_extra_dim": 0,
        "residual_scale": 0.0,
        "embedding_scale": 0.0,
        "attention__max_alibi_bias": 0.0,
        "attention__clamp_kqv": 0.0,
        "attention__value_length": 8,
        "attention__layer_norm_epsilon": 0.0,
        "attention__causal": True,
        "attention__q_lora_rank": 0,
        "attention__kv_lora_rank": 0,
        "attention__relative_buckets_count": 0,
        "attention__sliding_window": 0,
        "attention__scale": 0.0,
        "rope__dimension_count": 8,
        "rope__freq_base": 10000.0,
        "rope__scaling__type": "linear",
        "rope__scaling__factor": 0.0,
        "rope__scaling__attn_factor": 1.0,
        "rope__scaling__original_context_length": 64,
        "rope__scaling__finetuned": False,
        "rope__scaling__yarn_log_multiplier": 0.0,
        "ssm__inner_size": 0,
        "ssm__conv_kernel": 0,
        "ssm__state_size": 0,
        "ssm__time_step_rank": 0,
        "ssm__dt_b_c_rms": False,
        "wkv__head_size": 0,
    }
    path = write(tmp_path / "x.gguf", model, **saved)
    assert_logits(path, model)
    assert not capsys.readouterr().err


def test_a_token_that_llama_cpp_has_not_is_no_end(tmp_path: Path) -> None:
    from pellucid.families.translation.gguf import special_tokens
    from pellucid.families.translation.gguf_metadata import Metadata

    ids = {"bos": 1, "eos": 2, "eot": 2**32 - 1, "eom": 7, "padding": 2**32 - 1}
    metadata = Metadata({f"tokenizer.ggml.{name}_token_id": np.uint32(id) for name, id in ids.items()})
    assert special_tokens(metadata) == {"bos_token_id": 1, "eos_token_id": [2, 7]}


# ---- one value a layer


def test_lists_of_one_value_a_layer_are_read(tmp_path: Path) -> None:
    model = reference()
    keys: dict[str, Any] = {
        "attention__head_count": [4, 4],
        "attention__head_count_kv": [2, 2],
        "feed_forward_length": [48, 48],
    }
    assert_logits(write(tmp_path / "x.gguf", model, **keys), model)


@pytest.mark.parametrize("key", ["attention__head_count", "attention__head_count_kv", "feed_forward_length"])
def test_layers_that_differ_are_named(key: str, tmp_path: Path) -> None:
    changed: dict[str, Any] = {key: [4, 2]}
    path = write(tmp_path / "x.gguf", reference(), **changed)
    with pytest.raises(UnsupportedError, match=rf"llama\.{key.replace('__', '.')} differs from layer to layer"):
        open_checkpoint(path)


@pytest.mark.parametrize("key", ["block_count", "context_length", "attention__layer_norm_rms_epsilon"])
def test_what_llama_cpp_needs_is_needed(key: str, tmp_path: Path) -> None:
    changed: dict[str, Any] = {key: None}
    path = write(tmp_path / "x.gguf", reference(), **changed)
    with pytest.raises(ConfigError, match=rf"llama\.{key.replace('__', '.')} is missing"):
        open_checkpoint(path)


# ---- biases


@pytest.mark.parametrize(
    "absent",
    [
        ("attn_output",),
        ("attn_k",),
        ("attn_q", "attn_v"),
        ("ffn_gate",),
        ("ffn_down", "attn_output"),
        ("attn_q", "attn_k", "attn_v", "attn_output"),
    ],
)
def test_each_bias_may_be_absent_and_is_then_zero(absent: tuple[str, ...], tmp_path: Path) -> None:
    model = reference(attention_bias=True, mlp_bias=True)
    theirs = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
    theirs |= {"ffn_gate": "gate_proj", "ffn_down": "down_proj"}
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and name.split(".")[-2] in {theirs[part] for part in absent}:
            parameter.zero_()
    without = tuple(f"blk.{i}.{part}.bias" for part in absent for i in range(2))
    assert_logits(write(tmp_path / "x.gguf", model, without=without), model)


def test_one_layer_may_have_biases_and_another_none(tmp_path: Path) -> None:
    model = reference(attention_bias=True)
    for name, parameter in model.named_parameters():
        if name.startswith("model.layers.0.") and name.endswith("bias"):
            parameter.zero_()
    without = tuple(f"blk.0.attn_{part}.bias" for part in ("q", "k", "v", "output"))
    assert_logits(write(tmp_path / "x.gguf", model, without=without), model)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_relative_reads_the_same_metadata(family: str, tmp_path: Path) -> None:
    biased = {"attention_bias": True} if family == "qwen3" else {}
    model = reference(family, use_sliding_window=False, **biased, **LINEAR)
    keys = {"rope__scaling__factor": 4.0, "attention__value_length": model.config.to_dict().get("head_dim", 8)}
    assert_logits(write(tmp_path / "x.gguf", model, family, **keys), model)


# ---- ChatGLM


@pytest.mark.parametrize("rotated", [4, 2, 8, None])
def test_chatglm_turns_as_much_of_a_head_as_the_metadata_say(rotated: int | None, tmp_path: Path) -> None:
    decoder, path = tiny("chatglm"), tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "chatglm")
    for name, value in {
        "block_count": 2,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "rope.dimension_count": rotated,
    }.items():
        if value is not None:
            writer.add_uint32(f"chatglm.{name}", value)
    writer.add_float32("chatglm.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("chatglm.rope.freq_base", 500e4)
    for name, array in to_theirs(decoder.config, chatglm.GGUF.weights, dict(weights_of(decoder))):
        writer.add_tensor(name, to_tensor(array).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rope = open_checkpoint(path).config.layers[0].mixer.rope
    assert rope is not None
    assert (rope.dim, rope.theta) == (rotated or 8, 500e4)  # absent: all of it, as llama.cpp takes it


# ---- architectures without a family


def test_a_file_of_an_unknown_architecture_still_gives_its_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", reference())
    data = path.read_bytes().replace(b"llama", b"guano")
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match="'guano'"):
        open_checkpoint(path)
    assert read_metadata(path)["guano.block_count"] == 2


def test_a_tensor_that_is_no_part_of_the_model_is_an_error_as_in_llama_cpp(tmp_path: Path) -> None:
    model = reference(attention_bias=True)
    path = write(tmp_path / "x.gguf", model)
    path.write_bytes(path.read_bytes().replace(b"blk.1.attn_q.bias", b"blk.1.attn_x.bias"))
    with pytest.raises(WeightsError, match=r"1 unexpected: blk\.1\.attn_x\.bias"):
        open_checkpoint(path)


# ---- more architectures: their metadata beside what every file has, and the config that these stand for

LAYER_NORM = {"attention__layer_norm_epsilon": 1e-5, "attention__layer_norm_rms_epsilon": None}
RELATIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma": ({}, {"tie_word_embeddings": True}),
    "gemma2": (
        {"attention__sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
        {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, "head_dim": 16},
    ),
    "phi3": ({"rope__dimension_count": 4, "attention__sliding_window": 8}, {"partial_rotary_factor": 0.5}),
    "glm4": ({"rope__dimension_count": 8}, {}),
    "smollm3": ({"rope__freq_base": 2e6}, {"no_rope_layers": [1, 1, 1, 0], "num_hidden_layers": 4, "rope_theta": 2e6}),
    "olmo2": ({}, {}),
    "seed_oss": ({}, {"attention_out_bias": True}),
    "starcoder2": (
        LAYER_NORM,
        {"tie_word_embeddings": True, "sliding_window": None},
    ),
    "stablelm": (LAYER_NORM | {"rope__dimension_count": 2}, {"use_qkv_bias": True}),
    "gpt_neox": (LAYER_NORM | {"rope__dimension_count": 2, "use_parallel_residual": True}, {}),
    "phi": (LAYER_NORM | {"rope__dimension_count": 4}, {}),
    "granite": (
        {"attention__scale": 0.25, "residual_scale": 0.5, "embedding_scale": 3.0, "logit_scale": 2.0},
        {"tie_word_embeddings": True},
    ),
    "cohere": (LAYER_NORM | {"rope__freq_base": 5e5, "logit_scale": 0.25}, {"tie_word_embeddings": True}),
    "cohere2": (
        LAYER_NORM | {"logit_scale": 0.25, "attention__sliding_window": 8},
        {"tie_word_embeddings": True, "num_hidden_layers": 4, "layer_types": None},
    ),
    "hunyuan_v1_dense": ({}, {"tie_word_embeddings": True}),
    "arcee": ({}, {"mlp_bias": True}),
    "nemotron": (LAYER_NORM | {"rope__dimension_count": 4}, {}),
    "ernie4_5": ({"rope__freq_base": 5e5}, {"tie_word_embeddings": True}),
    "gpt_bigcode": (LAYER_NORM | {"attention__key_length": None}, {"tie_word_embeddings": True}),
    "exaone4": ({"attention__sliding_window": 8}, {"num_hidden_layers": 64, "layer_types": None}),  # 32B's number
}


@pytest.mark.parametrize("family", RELATIVES)
def test_a_file_of_another_architecture_gives_the_logits_of_its_model(family: str, tmp_path: Path) -> None:
    keys, changed = RELATIVES[family]
    model = reference(family, **changed)
    path = write(tmp_path / "x.gguf", model, FAMILIES[family].GGUF.architecture, **keys)
    assert_logits(path, model)
    assert open_config(path).model_type == family


@pytest.mark.parametrize("original", [16, 32])
def test_longrope_factors_are_those_of_the_text_s_length(original: int, tmp_path: Path) -> None:
    """As transformers has it, of a text of 21 tokens; llama.cpp goes by the length that it was started with."""
    lists = {"short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 1.5, 2.5, 4.0]}
    scaling = {"rope_scaling": {"type": "longrope", **lists}, "original_max_position_embeddings": original}
    model = reference("phi3", sliding_window=None, **scaling)
    tensors = {
        f"rope_factors_{name}.weight": np.array(lists[f"{name}_factor"], np.float32) for name in ("long", "short")
    }
    keys = {
        "rope__dimension_count": 8,
        "rope__scaling__original_context_length": original,
        "rope__scaling__attn_factor": float(np.sqrt(1 + np.log(64 / original) / np.log(original))),
        "attention__sliding_window": 0,
    }
    assert_logits(write(tmp_path / "x.gguf", model, "phi3", beside=tensors, **keys), model)


EXPERTS = {"expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 24}
SIGMOIDS = EXPERTS | {"expert_gating_func": 2, "expert_weights_norm": True, "expert_weights_scale": 2.5}
MIXTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "olmoe": (EXPERTS, {}),
    "granitemoe": (
        EXPERTS
        | {"expert_used_count": 2, "attention__scale": 0.25, "residual_scale": 0.5, "embedding_scale": 3.0}
        | {"logit_scale": 2.0},
        {"tie_word_embeddings": True},
    ),
    "granitemoeshared": (
        EXPERTS
        | {"expert_used_count": 2, "attention__scale": 0.25, "residual_scale": 0.5, "embedding_scale": 3.0}
        | {"logit_scale": 2.0, "expert_shared_feed_forward_length": 40},
        {"tie_word_embeddings": True},
    ),
    "glm4_moe": (
        SIGMOIDS | {"leading_dense_block_count": 1, "expert_shared_count": 1, "rope__dimension_count": 4},
        {"attention_bias": True},
    ),
    "dots1": (SIGMOIDS | {"leading_dense_block_count": 1, "expert_shared_count": 2}, {}),
    "exaone_moe": (
        SIGMOIDS
        | {"leading_dense_block_count": 1, "expert_shared_count": 1, "attention__sliding_window": 8}
        | {"attention__sliding_window_pattern": [True, False, True], "expert_shared_feed_forward_length": 24},
        {},
    ),
    "minimax_m2": (
        EXPERTS | {"expert_gating_func": 2, "rope__dimension_count": 4, "rope__freq_base": 5e6},
        {"rotary_dim": 4},
    ),
    "ernie4_5_moe": (
        EXPERTS
        | {"leading_dense_block_count": 1, "interleave_moe_layer_step": 2, "expert_shared_count": 2}
        | {"rope__freq_base": 5e5},
        {"tie_word_embeddings": True, "moe_layer_interval": 2},
    ),
    "hunyuan_v1_moe": (EXPERTS | {"expert_shared_feed_forward_length": 24, "expert_shared_count": 1}, {}),
    "phimoe": (
        EXPERTS | {"expert_used_count": 2, "rope__freq_base": 1e6},
        {"router_jitter_noise": 0.01, "lm_head_bias": True, "attention_bias": True},
    ),
    "gpt_oss": (
        EXPERTS
        | {"attention__sliding_window": 8, "rope__freq_base": 150000.0, "rope__scaling__type": "yarn"}
        | {"rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 16},
        {"swiglu_limit": 7.0},
    ),
    "llama4_text": (
        EXPERTS
        | {"expert_count": 4, "expert_used_count": 1, "interleave_moe_layer_step": 2, "rope__freq_base": 5e5}
        | {"feed_forward_length": 40},
        {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1},
    ),
}


@pytest.mark.parametrize("family", MIXTURES)
def test_a_file_of_a_mixture_gives_the_logits_of_its_model(family: str, tmp_path: Path) -> None:
    keys, changed = MIXTURES[family]
    model = reference(family, **changed)
    its = FAMILIES["granitemoe" if family == "granitemoeshared" else family].GGUF
    path = write(tmp_path / "x.gguf", model, its.architecture, its.weights, **keys)
    assert_logits(path, model)
    assert open_config(path).model_type == family


SSM = {
    "ssm__conv_kernel": 4,
    "ssm__state_size": 8,
    "ssm__group_count": 2,
    "ssm__time_step_rank": 4,
    "ssm__inner_size": 32,
    "full_attention_interval": 2,
    "rope__dimension_count": 4,
}
WIDE = {"linear_value_head_dim": 8, "partial_rotary_factor": 0.5, "tie_word_embeddings": False}
HYBRIDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lfm2": (
        {"attention__head_count_kv": [0, 2, 0], "shortconv__l_cache": 3, "rope__freq_base": 1e6},
        {"tie_word_embeddings": True, "norm_eps": 1e-5, "rope_theta": 1e6},
    ),
    "lfm2_moe": (
        EXPERTS
        | {"attention__head_count_kv": [0, 2, 0], "shortconv__l_cache": 3, "rope__freq_base": 1e6}
        | {"expert_gating_func": 2, "leading_dense_block_count": 1, "feed_forward_length": 48},
        {"tie_word_embeddings": True, "norm_eps": 1e-5, "rope_theta": 1e6},
    ),
    "qwen3_next": (EXPERTS | SSM | {"expert_shared_feed_forward_length": 40}, WIDE),
    "qwen3_5_text": (SSM | {"rope__dimension_sections": [1, 1, 0, 0]}, WIDE),
    "qwen3_5_moe_text": (
        EXPERTS | SSM | {"expert_shared_feed_forward_length": 40, "rope__dimension_sections": [1, 1, 0, 0]},
        WIDE,
    ),
}


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_file_of_a_hybrid_gives_the_logits_of_its_model(family: str, tmp_path: Path) -> None:
    keys, changed = HYBRIDS[family]
    model = reference(family, **changed)
    its = FAMILIES[family].GGUF
    path = write(tmp_path / "x.gguf", model, its.architecture, its.weights, **keys)
    assert_logits(path, model)
    assert open_config(path).model_type == family


def test_llama_cpp_makes_the_same_logits_of_a_hybrids_file(tmp_path: Path) -> None:
    paths = []
    for family, (keys, changed) in HYBRIDS.items():
        its, keys = FAMILIES[family].GGUF, keys | {"vocab_size": 96, "tokenizer": "no_vocab"}
        paths.append(
            write(tmp_path / f"{family}.gguf", reference(family, **changed), its.architecture, its.weights, **keys)
        )
    for path, theirs in zip(paths, logits_of(paths, IDS[0].tolist()), strict=True):
        checkpoint = open_checkpoint(path)
        decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
        with torch.no_grad():
            ours = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))[0].numpy()
        error = np.abs(ours - np.array(theirs)).max() / np.abs(ours).max()
        # It divides keys by their length where transformers adds 1e-6 to its square: short ones tell.
        assert error <= (5e-5 if path.name.startswith("lfm2") else 3e-4), (path.name, error)


# What llama.cpp's own loader takes for given, beside ``MIXTURES``.
ITS_OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "olmoe": ({}, {"num_key_value_heads": 4}),
    "dots1": ({}, {"num_key_value_heads": 4}),
    "hunyuan_v1_moe": ({}, {"head_dim": 8}),
    "ernie4_5_moe": (
        {"interleave_moe_layer_step": 1, "expert_shared_feed_forward_length": 48},
        {"moe_layer_interval": 1},
    ),
    # its ramp of yarn is another: see the family
    "gpt_oss": (
        {f"rope__scaling__{name}": None for name in ("type", "factor", "original_context_length")},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}, "rope_scaling": None},
    ),
}


def test_llama_cpp_makes_the_same_logits_of_a_mixtures_file(tmp_path: Path) -> None:
    paths = []
    for family, (keys, changed) in MIXTURES.items():
        more, other = ITS_OWN.get(family, ({}, {}))
        its = FAMILIES["granitemoe" if family == "granitemoeshared" else family].GGUF
        model, path = reference(family, **changed | other), tmp_path / f"{family}.gguf"
        keys = keys | more | {"vocab_size": 96, "tokenizer": "no_vocab"}
        paths.append(write(path, model, its.architecture, its.weights, **keys))
    for path, theirs in zip(paths, logits_of(paths, IDS[0].tolist()), strict=True):
        checkpoint = open_checkpoint(path)
        config = checkpoint.config
        if config.model_type == "phimoe":  # of which it makes another model: RMS norms, and two experts' softmax
            first, experts = config.final_norm, config.layers[0].experts
            assert first is not None
            assert experts is not None
            norm = replace(first, kind="rms")
            softmax = replace(experts, scores="softmax", jitter=0.0, normalize=True)
            norms = PartNorms(before=norm)
            layers = [replace(it, experts=softmax, mixer_norms=norms, mlp_norms=norms) for it in config.layers]
            config = replace(config, final_norm=norm, layers=tuple(layers))
        decoder = load_decoder(config, checkpoint.weights, "float32", "cpu")
        with torch.no_grad():
            ours = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))[0].numpy()
        error = np.abs(ours - np.array(theirs)).max() / np.abs(ours).max()
        assert error <= 5e-5, (path.name, error)


def test_layers_that_guess_further_tokens_are_left_unread_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, changed = MIXTURES["glm4_moe"]
    model = reference("glm4_moe", **changed)
    keys: dict[str, Any] = known | {"block_count": 4, "nextn_predict_layers": 1}
    further = {f"blk.3.{name}.weight": np.zeros((4, 4), np.float32) for name in ("attn_q", "nextn.eh_proj")}
    its = FAMILIES["glm4_moe"].GGUF
    path = write(tmp_path / "x.gguf", model, "glm4moe", its.weights, beside=further, **keys)
    assert_logits(path, model)
    assert "2 tensors are of layers that guess further tokens" in capsys.readouterr().err
    keys["nextn_predict_layers"] = 9
    with pytest.raises(ConfigError, match="nextn_predict_layers is out of range"):
        open_checkpoint(write(tmp_path / "y.gguf", model, "glm4moe", its.weights, **keys))


DENSE = [name for name, its in FAMILIES.items() if its.GGUF and not its.GGUF.experts and name != "chatglm"]


@pytest.mark.parametrize("family", DENSE)
def test_tensor_names_are_those_that_the_gguf_package_gives_to_the_models_names(family: str) -> None:
    """llama.cpp's converter names tensors by this table: from transformers' names, to what its programs read."""
    module, config = FAMILIES[family], tiny(family).config
    architecture = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == module.GGUF.architecture)
    table = gguf.get_tensor_name_map(architecture, config.num_layers)
    joined = {theirs for rule in module.GGUF.also for theirs, _, _ in rule.places(config)}
    rules = as_stored(config, module.GGUF.weights, module.GGUF.also, joined)
    ours = {match.ours: match.theirs for match in matches(config, rules)}
    named = {match.theirs: ours[match.ours] for match in matches(config, module.WEIGHTS) if match.ours in ours}
    assert len(named) >= len(ours) - sum(len(names) > 1 for names in ours)
    for theirs, written in named.items():
        theirs = theirs.replace(".dt_bias", ".dt_proj.bias")  # as the converter does first
        # One converter drops what the model's class puts before, another says that a bare number is a weight.
        names = (theirs, theirs.removeprefix("transformer."), f"{theirs}.weight")
        assert written in [table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names]
