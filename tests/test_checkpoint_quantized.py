"""Quantized folders: the numbers are those that the formats' documents say; what does not fit is named; a model of them
runs, is saved, shown and tuned like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from quantized_folders import HF, WRITTEN, Parts, Written, gptq, packed, tensors, write_folder, write_plain
from safetensors.torch import save_file

from pellucid.base.errors import PellucidError, UnsupportedError, WeightsError
from pellucid.causal_lm import AutoModelForCausalLM
from pellucid.checkpoint import open_checkpoint, open_config
from pellucid.checkpoint.open import Checkpoint
from pellucid.executor import StepInput
from pellucid.families import FAMILIES
from pellucid.families.translation.rules import matches
from pellucid.model.context import Context
from pellucid.model.load import load_decoder
from pellucid.quant import dequantize

IDS = torch.tensor([[1, 5, 9, 2, 7, 30, 4, 61, 13, 8, 90, 3, 22, 47, 5, 19, 33, 71, 80, 6]])


def compare(checkpoint: Checkpoint, numbers: Mapping[str, np.ndarray], stored: str | None = None) -> None:
    """Float32 products of numbers that float64 multiplies: within one rounding of each step."""
    for match in matches(checkpoint.config, FAMILIES["llama"].WEIGHTS):
        array = checkpoint.weights[match.ours[0]]
        assert array.shape == numbers[match.theirs].shape
        if stored is not None:
            assert array.dtype == (stored if "_proj." in match.theirs else "float32")
        np.testing.assert_allclose(dequantize(array), numbers[match.theirs], rtol=3e-7, atol=1e-9)


@pytest.mark.parametrize("name", WRITTEN)
def test_weights_are_the_numbers_that_were_written(name: str, tmp_path: Path) -> None:
    written = WRITTEN[name]
    compare(open_checkpoint(write_folder(tmp_path, written)), tensors(written)[1], written.stored)


@pytest.mark.parametrize("name", ["gptq 4", "awq", "ct 4, ordered", "fp8", "ct mxfp4", "bnb nf4, nested", "mlx 4"])
def test_logits_are_those_of_transformers_on_the_plain_model(name: str, tmp_path: Path) -> None:
    """The numbers that were written, in a folder that is not quantized, run by nobody of ours."""
    written = WRITTEN[name]
    checkpoint = open_checkpoint(write_folder(tmp_path / "quantized", written))
    plain = write_plain(tmp_path / "plain", tensors(written)[1])
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    with torch.no_grad():
        theirs = reference(IDS).logits
        ours = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ["gptq 4", "ct mxfp4", "bnb nf4"])
def test_native_runs_them(name: str, tmp_path: Path, private_cache: Path) -> None:
    """Blocks of four bits take int8 activations; floats are within float32's rounding."""
    from pellucid.native.build import compiler
    from pellucid.native.executor import NativeExecutor

    if compiler() is None:
        pytest.skip("no C compiler; install gcc or clang, or `pip install ziglang`")
    checkpoint = open_checkpoint(write_folder(tmp_path, WRITTEN[name]))
    decoder = load_decoder(checkpoint.config, checkpoint.weights, "float32", "cpu")
    with torch.no_grad():
        torchs = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))[0].numpy()
    native = NativeExecutor(checkpoint.config, checkpoint.weights, threads=1, flags=("-O1",))
    slot = native.allocate(IDS.shape[1])
    logits = native.step([StepInput(slot, IDS[0].tolist(), tuple(range(IDS.shape[1])))]).numpy()
    near = 5e-2 if WRITTEN[name].stored in ("q4_0", "mxfp4") else 1e-5
    assert np.abs(logits - torchs).max() <= near * np.abs(torchs).max()


def test_shards_and_pickles_hold_them_too(tmp_path: Path) -> None:
    """A module's tensors may lie in two files."""
    written = WRITTEN["gptq 4"]
    parts, numbers = tensors(written)
    halves = [{name: parts[name] for i, name in enumerate(parts) if i % 2 == half} for half in (0, 1)]
    for kind in ("safetensors", "bin"):
        folder = tmp_path / kind
        folder.mkdir()
        stem = "model" if kind == "safetensors" else "pytorch_model"
        files = [f"{stem}-0000{n}-of-00002.{kind}" for n in (1, 2)]
        for file, half in zip(files, halves, strict=True):
            save_file(half, folder / file) if kind == "safetensors" else torch.save(half, folder / file)
        index = {name: file for file, half in zip(files, halves, strict=True) for name in half}
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        (folder / "config.json").write_text(json.dumps(HF | {"quantization_config": written.config}))
        compare(open_checkpoint(folder), numbers, "q4_0")


def test_settings_may_stand_in_a_file_beside_an_older_config(tmp_path: Path) -> None:
    written = WRITTEN["gptq 4"]
    write_folder(tmp_path, Written({}, written.write, key="unused"), tensors(written)[0])
    (tmp_path / "config.json").write_text(json.dumps(HF))
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "desc_act": False}))
    compare(open_checkpoint(tmp_path), tensors(written)[1])


def test_floats_are_rounded_to_the_configs_dtype_once(tmp_path: Path) -> None:
    written = WRITTEN["gptq 4, ordered"]
    folder = write_folder(tmp_path, Written(written.config, written.write, hf={"torch_dtype": "bfloat16"}))
    array = open_checkpoint(folder).weights["layers.0.mlp.up_proj.weight"]
    numbers = torch.from_numpy(tensors(written)[1]["model.layers.0.mlp.up_proj.weight"]).to(torch.bfloat16)
    assert array.dtype == "bfloat16"
    np.testing.assert_array_equal(dequantize(array), numbers.float().numpy())


def test_modules_may_be_quantized_by_different_bits(tmp_path: Path) -> None:
    """GPTQModel's ``dynamic``: what its tensors are decides."""
    kinds = {"down_proj": gptq(8, 32), "": gptq(4, 32)}
    parts, numbers = tensors(WRITTEN["gptq 4"])
    rng = np.random.default_rng(5)
    for name in [name for name in numbers if "down_proj" in name]:
        own, numbers[name] = kinds["down_proj"](rng, *numbers[name].shape)
        parts |= {f"{name.removesuffix('weight')}{leaf}": tensor for leaf, tensor in own.items()}
    config = {**WRITTEN["gptq 4"].config, "dynamic": {"+:.*down_proj": {"bits": 8}}}
    compare(open_checkpoint(write_folder(tmp_path, Written(config, gptq(4, 32)), parts)), numbers)


def test_quantized_matrices_lie_by_outputs_even_where_a_family_stores_inputs_first(tmp_path: Path) -> None:
    """GPT-2 keeps (in, out); GPTQ packs along the inputs. A square matrix would tell no difference by its shape."""
    hf = FAMILIES["gpt2"].TINY | {"n_embd": 64, "n_head": 4, "torch_dtype": "float32", "tie_word_embeddings": True}
    config = FAMILIES["gpt2"].config(hf)
    rng, parts, numbers = np.random.default_rng(0), {}, {}
    shapes = {"attn.c_attn": (192, 64), "attn.c_proj": (64, 64), "mlp.c_fc": (256, 64), "mlp.c_proj": (64, 256)}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**hf)).eval()
    for name, tensor in model.state_dict().items():
        leaf = name.partition(".h.")[2].partition(".")[2].removesuffix(".weight")
        if leaf in shapes and name.endswith(".weight"):
            own, numbers[name] = gptq(4, 32, symmetric=True)(rng, *shapes[leaf])
            parts |= {f"{name.removesuffix('weight')}{key}": value for key, value in own.items()}
            model.state_dict()[name].copy_(torch.from_numpy(numbers[name].T))
        elif name != "lm_head.weight":
            parts[name] = tensor.contiguous()
    save_file(parts, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hf | {"quantization_config": WRITTEN["gptq 4"].config}))
    decoder = load_decoder(config, open_checkpoint(tmp_path).weights, "float32", "cpu")
    with torch.no_grad():
        theirs = model(IDS).logits
        ours = decoder(IDS, Context(positions=torch.arange(IDS.shape[1])[None]))
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


# --- what does not fit is named

Q = "model.layers.1.self_attn.q_proj"


def _without(leaf: str) -> Callable[[Parts], None]:
    def damage(parts: Parts) -> None:
        del parts[f"{Q}.{leaf}"]

    return damage


def _put(leaf: str, tensor: torch.Tensor) -> Callable[[Parts], None]:
    return lambda parts: parts.update({f"{Q}.{leaf}": tensor})


def _head(parts: Parts) -> None:
    own, _ = packed(4, 32)(np.random.default_rng(0), HF["vocab_size"], 64)
    parts.pop("lm_head.weight")
    parts.update({f"lm_head.{leaf}": tensor for leaf, tensor in own.items()})


DAMAGED: dict[str, tuple[str, Callable[[Parts], None], str]] = {
    "no scales": ("gptq 4", _without("scales"), "q_proj.scales is missing"),
    "scales of another dtype": ("gptq 4", _put("scales", torch.zeros(2, 64, dtype=torch.int32)), "scales is not"),
    "scales of another shape": ("gptq 4", _put("scales", torch.zeros(3, 64)), "parts of model.layers.1.self_attn"),
    "codes of other bits": ("gptq 4", _put("qweight", torch.zeros(16, 64, dtype=torch.int32)), "codes of 4 bits"),
    "a group beyond": ("gptq 4", _put("g_idx", torch.full((64,), 2, dtype=torch.int32)), "a group that is not there"),
    "a group before": ("gptq 4", _put("g_idx", torch.full((64,), -1, dtype=torch.int32)), "a group that is not there"),
    "quantized and not": ("gptq 4", _put("weight", torch.zeros(64, 64)), "twice, quantized and not"),
    "zeros of another width": ("awq", _put("qzeros", torch.zeros(2, 7, dtype=torch.int32)), "q_proj.qzeros has the"),
    "no shape": ("ct 4", _without("weight_shape"), "q_proj.weight_shape is missing"),
    "another shape": ("ct 4", _put("weight_shape", torch.tensor([64, 999])), "does not fit its weight_shape"),
    "a shape below nothing": ("ct 4", _put("weight_shape", torch.tensor([-64, -64])), "does not fit its weight_shape"),
    "a module left alone": ("ct 4", _head, "lm_head is quantized, but"),
    "scales for other blocks": ("fp8", _put("weight_scale_inv", torch.ones(3, 3)), "scales do not fit the weight"),
    "a part of another method": ("fp8", _put("qzeros", torch.zeros(1)), "q_proj.qzeros"),
    "no state": ("bnb nf4", _without("weight.quant_state.bitsandbytes__nf4"), "q_proj.weight.absmax"),
    "a state of nothing": (
        "bnb nf4",
        _put("weight.quant_state.bitsandbytes__nf4", torch.tensor([123, 125], dtype=torch.uint8)),
        "does not say",
    ),
    "biases of another shape": ("mlx 4", _put("biases", torch.zeros(64, 3)), "biases has the wrong shape"),
    "an unknown packing": ("hqq 4", _put("packing", torch.tensor([65], dtype=torch.uint8)), "HQQ of 'A'"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_parts_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    name, damage, words = DAMAGED[case]
    parts, _ = tensors(WRITTEN[name])
    damage(parts)
    write_folder(tmp_path, WRITTEN[name], parts)
    with pytest.raises((WeightsError, UnsupportedError), match=words):
        dequantize(open_checkpoint(tmp_path).weights["layers.1.attention.q_proj.weight"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a method": ({"quant_method": "aqlm"}, "weights quantized by 'aqlm'"),
    "no method": ({"bitsy": 4}, "weights quantized by None"),
    "bits": ({"quant_method": "gptq", "bits": 5}, "GPTQ of 5 bits"),
    "a packing": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "packed for 'marlin'"),
    "a key": ({"quant_method": "gptq", "bits": 4, "hadamard": True}, "hadamard = True"),
    "gemv": ({"quant_method": "awq", "version": "gemv"}, "packed for 'gemv'"),
    "no zeros": ({"quant_method": "awq", "zero_point": False}, "zero_point = False"),
    "a format": ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format 'marlin-24'"),
    "calibration": (
        {"quant_method": "compressed-tensors", "quantization_status": "calibration"},
        "= 'calibration'",
    ),
    "rotations": (
        {"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"u": 1}}},
        "transform_config is not",
    ),
    "sparsity": (
        {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}},
        "sparsity_config is not",
    ),
    "experts of four bits": ({"quant_method": "fp8", "expert_dtype": "fp4"}, "expert_dtype = 'fp4'"),
    "ModelOpt's others": ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "ModelOpt's 'W4A8_AWQ'"),
    "AutoRound's own": ({"quant_method": "auto-round", "packing_format": "auto_round"}, "packing 'auto_round'"),
    "MLX's others": ({"quant_method": "mlx", "bits": 4, "mode": "mxfp4"}, "mode = 'mxfp4'"),
}


# As released models have them.
RELEASED: dict[str, dict[str, Any]] = {
    "GPTQ of 2023": {
        "bits": 4, "group_size": 128, "damp_percent": 0.1, "desc_act": True, "sym": True, "true_sequential": True,
        "model_name_or_path": None, "model_file_base_name": "model", "quant_method": "gptq",
    },
    "GPTQ by transformers": {
        "batch_size": 1, "bits": 4, "block_name_to_quantize": None, "cache_block_outputs": True, "damp_percent": 0.01,
        "dataset": None, "desc_act": False, "exllama_config": {"version": 1}, "group_size": 128, "sym": True,
        "max_input_length": None, "model_seqlen": None, "module_name_preceding_first_block": None, "tokenizer": None,
        "modules_in_block_to_quantize": None, "pad_token_id": None, "quant_method": "gptq", "true_sequential": True,
        "use_cuda_fp16": False, "use_exllama": True,
    },
    "GPTQModel": {
        "bits": 4, "checkpoint_format": "gptq", "desc_act": True, "dynamic": {"-:.*gate": {}}, "group_size": 32,
        "hyb_act": False, "lm_head": False, "meta": {"damp_percent": 0.1, "quantizer": ["gptqmodel:1.4.4"]},
        "pack_dtype": "int32", "quant_method": "gptq", "static_groups": False, "sym": True, "true_sequential": True,
    },
    "AutoRound": {
        "amp": True, "autoround_version": "0.4.2", "backend": "auto_round:gptq:exllamav2", "batch_size": 8, "bits": 4,
        "data_type": "int", "dataset": "NeelNanda/pile-10k", "enable_minmax_tuning": True, "group_size": 128,
        "enable_norm_bias_tuning": False, "enable_quanted_input": True, "gradient_accumulate_steps": 1, "iters": 1000,
        "low_gpu_mem_usage": False, "lr": 0.001, "minmax_lr": 0.001, "nsamples": 512, "quant_method": "auto-round",
        "packing_format": "auto_round:auto_gptq", "scale_dtype": "torch.float16", "seqlen": 2048, "sym": True,
        "to_quant_block_names": None, "extra_config": {"lm_head": {"bits": 16}},
    },
    "AWQ": {
        "backend": "autoawq", "bits": 4, "do_fuse": False, "exllama_config": None, "fuse_max_seq_len": None,
        "group_size": 128, "modules_to_fuse": None, "modules_to_not_convert": None, "quant_method": "awq",
        "version": "gemm", "zero_point": True,
    },
    "compressed-tensors of 2024": {
        "config_groups": {"group_0": {
            "input_activations": {"dynamic": False, "num_bits": 8, "type": "float", "symmetric": True},
            "output_activations": None, "targets": ["Linear"],
            "weights": {"actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "num_bits": 8,
                        "observer": "minmax", "observer_kwargs": {}, "strategy": "tensor", "symmetric": True,
                        "type": "float"},
        }},
        "format": "naive-quantized", "global_compression_ratio": 1.239, "ignore": ["lm_head"], "kv_cache_scheme": None,
        "quant_method": "compressed-tensors", "quantization_status": "frozen",
        "sparsity_config": {"format": "dense", "global_sparsity": 0.12, "ignore": [], "targets": [],
                            "registry_requires_subclass": False, "sparsity_structure": "unstructured"},
    },
    "DeepSeek-V3.1": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    },
    "Llama 3.1 405B": {
        "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"], "quant_method": "fbgemm_fp8",
    },
    "bitsandbytes": {
        "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None,
        "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
    },
    "gpt-oss": {
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"],
        "quant_method": "mxfp4",
    },
    "ModelOpt": {
        "config_groups": {"group_0": {"weights": {"num_bits": 4}}}, "ignore": ["lm_head"], "quant_algo": "NVFP4",
        "kv_cache_scheme": {"num_bits": 8}, "producer": {"name": "modelopt", "version": "0.29"},
        "quant_method": "modelopt",
    },
    "torchao": {
        "include_input_output_embeddings": False, "modules_to_not_convert": None, "quant_method": "torchao",
        "quant_type": {"default": {"_data": {"group_size": 32}, "_type": "Int8WeightOnlyConfig", "_version": 1}},
        "quant_type_kwargs": {}, "untie_embedding_weights": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", RELEASED)
def test_settings_of_released_models_are_understood(case: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HF | {"quantization_config": RELEASED[case]}))
    assert open_config(tmp_path).num_layers == HF["num_hidden_layers"]


def test_mlx_says_it_under_two_names(tmp_path: Path) -> None:
    written = WRITTEN["mlx 4"]
    twice = Written(written.config, written.write, key="quantization", hf={"quantization_config": written.config})
    compare(open_checkpoint(write_folder(tmp_path, twice)), tensors(written)[1], "q4_1")


def test_four_bits_may_be_called_bfloat16(tmp_path: Path) -> None:
    """``bnb_4bit_quant_storage``: bytes under another name, for programs that gather tensors of one dtype."""
    parts, numbers = tensors(WRITTEN["bnb nf4"])
    for name in [name for name in numbers if "_proj." in name]:
        parts[name] = parts[name].reshape(-1).view(torch.bfloat16)[:, None]
    compare(open_checkpoint(write_folder(tmp_path, WRITTEN["bnb nf4"], parts)), numbers)


@pytest.mark.parametrize("case", REFUSED)
def test_what_nobody_understands_is_refused_by_name(case: str, tmp_path: Path) -> None:
    config, words = REFUSED[case]
    write_folder(tmp_path, Written(config, gptq(4, 32)))
    for opens in (open_checkpoint, open_config):
        with pytest.raises(UnsupportedError, match=words) as caught:
            opens(tmp_path)
        assert "→" in str(caught.value), "a remedy"


def test_quantized_weights_without_settings_are_not_taken_for_plain_ones(tmp_path: Path) -> None:
    for name in ("gptq 4", "fp8", "bnb int8", "hqq 4"):
        folder = write_folder(tmp_path / name, WRITTEN[name])
        (folder / "config.json").write_text(json.dumps(HF))
        with pytest.raises(WeightsError, match=r"config\.json has no quantization_config"):
            open_checkpoint(folder)


# --- as any other model


def test_memory_is_that_of_one_weight(tmp_path: Path) -> None:
    """What was computed is let go with the Array that was asked for."""
    checkpoint = open_checkpoint(write_folder(tmp_path, WRITTEN["gptq 4, ordered"]))
    name = "layers.0.mlp.up_proj.weight"
    assert checkpoint.weights[name].data is not checkpoint.weights[name].data
    array = checkpoint.weights[name]
    assert array.data is array.data


def test_it_is_saved_plain_and_the_settings_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = WRITTEN["awq"]
    model = AutoModelForCausalLM.from_pretrained(write_folder(tmp_path / "quantized", written), device="cpu")
    model.save_pretrained(tmp_path / "plain")
    assert "weights that were AWQ 4-bit are written as float32, not quantized" in capsys.readouterr().err
    saved = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in saved
    assert saved["torch_dtype"] == "float32"
    compare(open_checkpoint(tmp_path / "plain"), tensors(written)[1], "float32")


def test_convert_writes_a_plain_folder_and_a_gguf_file_of_the_same_blocks(tmp_path: Path) -> None:
    """GPTQ's four bits are Q4_0's: not one number is rounded again."""
    from pellucid.cli.app import app

    folder, numbers = write_folder(tmp_path / "quantized", WRITTEN["gptq 4"]), tensors(WRITTEN["gptq 4"])[1]
    run = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "plain")], catch_exceptions=False)
    assert "were GPTQ 4-bit are written as float32, not quantized" in run.stderr
    compare(open_checkpoint(tmp_path / "plain"), numbers, "float32")
    arguments = ["convert", str(folder), str(tmp_path / "x.gguf"), "--quantize", "q4_0"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    quantized, gguf = open_checkpoint(folder).weights, open_checkpoint(tmp_path / "x.gguf").weights
    for name in [name for name in quantized if "_proj" in name and "attention" not in name]:  # q and k: rows in pairs
        assert gguf[name].dtype == "q4_0"
        assert gguf[name].data.tobytes() == quantized[name].data.tobytes()


def test_inspect_says_how_weights_are_kept_and_what_they_take(tmp_path: Path) -> None:
    from pellucid.cli.app import app

    write_folder(tmp_path, WRITTEN["gptq 4"])
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path), "--json"], catch_exceptions=False)
    facts = json.loads(shown.stdout)
    dtype = facts["dtypes"]["GPTQ 4-bit"]
    assert facts["quantization"] == "GPTQ 4-bit"
    assert dtype["bits_per_weight"] == pytest.approx(4 + 16 / 32 + 4 / 32, abs=0.6)  # codes, scales, zeros, g_idx
    table = CliRunner().invoke(app, ["inspect", str(tmp_path)], catch_exceptions=False).stdout
    assert "GPTQ 4-bit" in table
    assert "bits per weight" in table


def test_an_adapter_learns_on_the_files_own_blocks(tmp_path: Path) -> None:
    """``quantize="q4"`` keeps what GPTQ made; without it, LoRA stands on float32."""
    from pellucid.model.quantized import QuantizedLinear

    folder = write_folder(tmp_path, WRITTEN["gptq 4"])
    frozen = AutoModelForCausalLM.from_pretrained(folder, device="cpu", quantize="q4")
    plain = AutoModelForCausalLM.from_pretrained(folder, device="cpu")
    modules = [module for module in frozen.modules() if isinstance(module, QuantizedLinear)]
    assert {module.format for module in modules} == {"q4_0"}
    with torch.no_grad():
        assert torch.equal(frozen(IDS).logits, plain(IDS).logits)


def test_scales_of_activations_are_named_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts, numbers = tensors(WRITTEN["fp8, one"])
    parts |= {f"{Q}.input_scale": torch.ones(1), "model.layers.0.self_attn.k_proj.k_scale": torch.ones(1)}
    checkpoint = open_checkpoint(write_folder(tmp_path, WRITTEN["fp8, one"], parts))
    said = capsys.readouterr().err
    assert "other programs round activations or cached keys" in said
    assert f"{Q}.input_scale" in said
    compare(checkpoint, numbers)


def test_any_damage_of_a_folder_is_our_error(tmp_path: Path) -> None:
    """Every tensor of a module missing, or of one number: never anything but our errors."""
    for name in ("gptq 4, ordered", "awq", "ct 4, zeros", "ct nvfp4", "fp8", "bnb nf4, nested", "hqq 3", "mlx 6"):
        parts, _ = tensors(WRITTEN[name])
        for key in [key for key in parts if key.startswith(Q)]:
            for tensor in (None, torch.zeros(1, dtype=parts[key].dtype), parts[key].reshape(-1)[:0]):
                changed = {other: value for other, value in parts.items() if other != key}
                write_folder(tmp_path, WRITTEN[name], changed if tensor is None else changed | {key: tensor})
                with suppress(PellucidError):
                    dequantize(open_checkpoint(tmp_path).weights["layers.1.attention.q_proj.weight"])
